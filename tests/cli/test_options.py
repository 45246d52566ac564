"""Options: `-q` and `-v` may be anywhere, and times are read in several forms."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from hashclient.cli.main import cli
from hashclient.cli.options import TIME
from hashclient.core.errors import ExitCode
from tests.kit import ROOT, call, csv_of, make_state, run, write_tree

TREE = {"clean.txt": b"clean", "listed.txt": b"listed"}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory whose list has the file `listed.txt` of `TREE`."""
    lists = {"base": csv_of({"e-1": b"listed"})}
    return make_state(tmp_path_factory.mktemp("site"), lists)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", TREE)


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_stands_anywhere(state: Path, tree: Path, flag: str) -> None:
    loud = call("--state-dir", state, "scan", tree)
    assert "next: " in loud.err
    assert call("--state-dir", state, flag, "scan", tree).err == ""
    assert call("--state-dir", state, "scan", flag, tree).err == ""
    for words in (
        ("matches", "show", flag),
        ("matches", flag, "show"),
        ("inventory", flag, "stats"),
    ):
        assert call("--state-dir", state, *words).code != ExitCode.BUG


def test_verbose_stands_anywhere_and_each_line_comes_once(state: Path, tree: Path) -> None:
    before = call("--state-dir", state, "-v", "scan", tree).err.splitlines()
    behind = call("--state-dir", state, "scan", "-v", tree).err.splitlines()
    both = call("--state-dir", state, "-v", "scan", "-v", tree).err.splitlines()
    logged = [line for line in before if line.startswith("hashclient.")]
    assert logged and len([line for line in behind if line.startswith("hashclient.")]) == len(
        logged
    )
    assert len(set(both)) == len(both) and set(before) <= {*both, *before}
    # `-q` overrides `-v`, whatever the order of the options.
    assert call("--state-dir", state, "-q", "scan", "-v", tree).err == ""
    assert call("--state-dir", state, "-v", "scan", "-q", tree).err == ""


def test_the_table_of_words_names_options_that_there_are() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    table = text.partition("## Words of the command line")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(--[a-z][a-z-]*[a-z])(?=[` ])", table))
    commands: list[click.Command] = [cli]
    known: set[str] = {"--quiet", "--verbose"}
    while commands:
        command = commands.pop()
        known |= {flag for parameter in command.params for flag in parameter.opts}
        context = cli.make_context("hashclient", [], resilient_parsing=True)
        if isinstance(command, click.Group):
            found = (command.get_command(context, name) for name in command.list_commands(context))
            commands += filter(None, found)
    assert named and named <= known


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["matches close", "matches release", "report retract", "quarantine hold", "quarantine release"],
)
def test_a_reason_that_the_log_needs_is_not_blank(state: Path, command: str) -> None:
    refused = call("--state-dir", state, *command.split(), "3kdz7wnq2m", "--reason", " ")
    assert refused.code == ExitCode.USAGE and "--reason is empty" in refused.err


@pytest.mark.slow
def test_people_see_utc_or_local_time_and_programs_utc(state: Path, tree: Path) -> None:
    env = {"TZ": "Asia/Kolkata", "HASHCLIENT_LOCAL_TIME": "1"}
    local = run("--state-dir", state, "scan", tree, env=env).out
    programs = run("--state-dir", state, "scan", "--format", "jsonl", tree, env=env).lines
    utc = call("--state-dir", state, "scan", tree).out
    assert re.search(r"fresh until \d{4}-\d\d-\d\d \d\d:\d\d UTC\n", utc)
    assert re.search(r"fresh until \d{4}-\d\d-\d\d \d\d:\d\d\+05:30\n", local)
    assert programs[0]["last_seen"].endswith("Z") and programs[-1]["started"].endswith("Z")


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-27T06:37:00Z",
        "2026-11-27T06:37:00.0Z",
        "2026-11-27T06:37",
        "2026-11-27 06:37",
        "2026-11-27 06:37 UTC",
        "2026-11-27 07:37 +01:00",
        "2026-11-27T01:07:00-05:30",
    ],
)
def test_a_time_is_read_in_each_spelling_that_is_shown(text: str) -> None:
    assert TIME.convert(text, None, None) == datetime(2026, 11, 27, 6, 37, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "0001-01-01T00:00+14:00"])
def test_another_text_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not like 2026-01-31"):
        TIME.convert(text, None, None)
