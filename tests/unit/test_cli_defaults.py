"""Options from a table or a variable: an error names the key of the table or the variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from hashclient.cli.defaults import command_defaults, unknown_variables
from hashclient.cli.main import COMMANDS, cli
from hashclient.core.errors import ConfigError
from tests.kit import run


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("jobs", "3", "wrong type of 'jobs' in [scan]: expected a whole number, not a text"),
        ("jobs", 1.5, "expected a whole number, not a number with a fraction"),
        ("jobs", True, "expected a whole number, not a boolean"),
        ("jobs", [3], "expected a whole number, not a list"),
        ("jobs", 0, "'jobs' in [scan]: 0 is not a whole number from 1 to 256"),
        ("sparse", 1, "expected true or false, not a whole number"),
        ("sparse", "true", "expected true or false, not a text"),
        ("exclude", "*.iso", "expected a list of texts in quotes, not a text"),
        ("exclude", ["a", 3], "expected a list of texts in quotes"),
        ("stdin_name", 7, "expected a text in quotes, not a whole number"),
        ("format", "jsn", "'jsn' is no value of 'format' in [scan]: it is one of \"csv\", \"ecs\""),
        ("jbos", 3, "unknown key 'jbos' in [scan]"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_fits(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        command_defaults({key: value}, "scan", command("scan"), "the/file")
    assert caught.value.message.startswith("configuration the/file is not valid: ")
    assert said in caught.value.message
    assert caught.value.hint


def test_right_values_are_as_if_they_had_been_typed() -> None:
    table = {"jobs": 3, "sparse": True, "exclude": ["a", "b"], "format": "csv"}
    assert command_defaults(table, "scan", command("scan"), "f") == {
        "jobs": "3",
        "sparse": "True",
        "exclude": ["a", "b"],
        "output_format": "csv",
    }
    # The value of a float option may also be a whole number.
    for number in (1, 1.5):
        table = {"grace_hours": number}
        assert command_defaults(table, "init", command("init"), "f") == {"grace_hours": str(number)}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HASHCLIENT_SCAN_JBOS", "HASHCLIENT_SCAN_JOBS"),
        ("HASHCLIENT_SCN_JOBS", "HASHCLIENT_SCAN_JOBS"),
        ("HASHCLIENT_STATEDIR", "HASHCLIENT_STATE_DIR"),
        ("HASHCLIENT_AUDIT_SHOW_FROMAT", "HASHCLIENT_AUDIT_SHOW_FORMAT"),
    ],
)
def test_a_misspelt_variable_is_reported_with_the_right_one(name: str, meant: str) -> None:
    assert list(unknown_variables([name], cli, COMMANDS, command)) == [(name, meant)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_group_that_lists_and_its_list_take_the_same_variables(name: str) -> None:
    group = command(name)
    if isinstance(group, click.Group) and group.invoke_without_command:
        own, listed = (
            {p.name: p.envvar for p in c.params} for c in (group, group.commands["list"])
        )
        assert own == listed
        prefix = f"HASHCLIENT_{name.upper()}"
        assert own["output_format"] == [f"{prefix}_FORMAT", f"{prefix}_LIST_FORMAT"]
    else:
        assert name not in {"matches", "notices"}


def test_variables_that_are_read_or_are_not_ours_are_not_reported() -> None:
    loaded = []

    def load(name: str) -> click.Command:
        loaded.append(name)
        return command(name)

    names = [
        *("HASHCLIENT_STATE_DIR", "HASHCLIENT_CONFIG", "HASHCLIENT_SEAL_KEY", "HASHCLIENT_DEBUG"),
        *("HASHCLIENT_QUIET", "HASHCLIENT_VERBOSE", "HASHCLIENT_SCAN_ONE_FILE_SYSTEM"),
        *("HASHCLIENT_MATCHES_FORMAT", "HASHCLIENT_MATCHES_LIST_FORMAT"),
        *("HASHCLIENT_AUDIT_SHOW_FORMAT", "HASHCLIENT_QUARANTINE_KEYGEN_WRITE_CONFIG"),
        # Variables that a cluster sets for a service, and variables of another program.
        *("HASHCLIENT_SERVICE_HOST", "HASHCLIENT_PORT_443_TCP_ADDR", "HASHCLIENTS", "PATH"),
    ]
    assert list(unknown_variables(names, cli, COMMANDS, load)) == []
    # Variables that the CI examples of the documentation use.
    others = ["HASHCLIENT_TOKEN", "HASHCLIENT_PROVIDER_URL", "HASHCLIENT_ZZZ", "HASHCLIENT_"]
    assert list(unknown_variables(others, cli, COMMANDS, command)) == []
    # The modules of commands without a variable are not imported.
    assert set(loaded) == {"scan", "matches", "audit", "quarantine"}


def test_the_command_warns_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[providers.main]\nurl = "u"\nroot_sha256 = "00"\ntoken_env = "HASHCLIENT_TOKEN"\n'
    )
    variables = {
        "HASHCLIENT_MATCHES_FROMAT": "hunter2",
        "HASHCLIENT_TOKEN": "hunter2",  # the configuration names this variable for its token
        "HASHCLIENT_VERBOSE": "0",
    }
    result = run("--state-dir", tmp_path, "-q", "matches", env=variables)
    assert result.code == 0
    assert result.err == (
        "hashclient: warning: environment variable is not known: HASHCLIENT_MATCHES_FROMAT;"
        " did you mean HASHCLIENT_MATCHES_FORMAT?\n"
    )
