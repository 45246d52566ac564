"""The operations guide: every key of the configuration, every variable, every exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from hashclient.cli.main import COMMANDS, WITHOUT_DEFAULTS, cli
from hashclient.config import Config, OAuthConfig, ProviderConfig, resolve_settings
from hashclient.errors import ExitCode
from hashclient.seal import KEY_CREDENTIAL, KEY_ENV
from tests.docs.blocks import DOCS, marked_blocks, run_script, table_rows

pytestmark = pytest.mark.docs

OPERATIONS = DOCS / "operations.md"


def options(command: click.Command, context: click.Context) -> Iterator[click.Option]:
    yield from (p for p in command.params if isinstance(p, click.Option))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from options(child, context)


def variables() -> set[str]:
    """Return the names of all variables that the program reads."""
    context = click.Context(cli, auto_envvar_prefix="HASHCLIENT")
    named = {o.envvar or f"HASHCLIENT_{(o.name or '').upper()}" for o in options(cli, context)}
    return {str(name) for name in named} | {KEY_ENV, "HASHCLIENT_DEBUG"}


@pytest.mark.parametrize(
    ("heading", "struct", "others"),
    [
        ("### At the top", Config, {"providers", "commands"}),
        ("### `[providers.NAME]`", ProviderConfig, set()),
        ("### `[providers.NAME.oauth]`", OAuthConfig, set()),
    ],
)
def test_every_key_is_described(
    heading: str, struct: type[msgspec.Struct], others: set[str]
) -> None:
    described = [row[0].strip("`") for row in table_rows(OPERATIONS, heading)]
    assert sorted(described) == sorted(set(struct.__struct_fields__) - others)


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    (text,) = marked_blocks(OPERATIONS, "config")
    path = tmp_path / "config.toml"
    path.write_text(text)
    settings = resolve_settings(
        state_dir=None,
        config_path=path,
        seal_key_file=None,
        command_names=frozenset(COMMANDS) - WITHOUT_DEFAULTS,
        environ={},
    )
    assert settings.state_dir == Path("/var/lib/hashclient")
    assert set(settings.config.commands) == {"scan", "fetch"}
    # The commands check their own tables; help about a list that is not here is far enough.
    done = subprocess.run(
        [sys.executable, "-m", "hashclient", "--config", path, "--state-dir", tmp_path, "scan", "x"],
        env={**os.environ, "HASHCLIENT_SEAL_KEY": "00" * 32},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.STATE, done.stderr


def test_the_commands_with_defaults_are_named() -> None:
    names = ", ".join(f"`[{name}]`" for name in COMMANDS if name not in WITHOUT_DEFAULTS)
    assert f"### {names}\n" in OPERATIONS.read_text()


def test_variables_are_those_that_are_read() -> None:
    described = set(re.findall(r"\bHASHCLIENT_[A-Z_]+[A-Z]\b", OPERATIONS.read_text()))
    known = variables()
    described -= {"HASHCLIENT_COMPLETE"}
    assert described <= known
    of_the_program = {name for name in known if not re.match(_COMMAND_VARIABLE, name)}
    assert of_the_program - {"HASHCLIENT_VERSION"} <= described


_COMMAND_VARIABLE = f"HASHCLIENT_({'|'.join(COMMANDS)})_".upper()


def test_where_the_seal_key_is_looked_for() -> None:
    assert KEY_CREDENTIAL in OPERATIONS.read_text()


def test_every_exit_code_has_advice() -> None:
    rows = table_rows(OPERATIONS, "## What to do when")
    codes = [int(code) for row in rows for code in row[0].split(", ")]
    assert codes == [code.value for code in ExitCode if code is not ExitCode.OK]


@pytest.mark.parametrize(("code", "says"), [(0, "OK"), (7, "WARNING"), (8, "CRITICAL")])
def test_the_monitor_runs(tmp_path: Path, code: int, says: str) -> None:
    (block,) = marked_blocks(OPERATIONS, "monitor")
    _, output = run_script(f"hashclient() {{ return {code}; }}\n{block}", tmp_path)
    assert output.startswith(says)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there(shell: str) -> None:
    line = f"_HASHCLIENT_COMPLETE={shell}_source hashclient > "
    assert line in OPERATIONS.read_text()
    done = subprocess.run(
        [sys.executable, "-m", "hashclient"],
        env={**os.environ, "_HASHCLIENT_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "hashclient" in done.stdout


def test_completion_knows_commands_and_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hashclient"],
        env={
            **os.environ,
            "_HASHCLIENT_COMPLETE": "bash_complete",
            "COMP_WORDS": "hashclient audit show --for",
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "plain,--format\n"
