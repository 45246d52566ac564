"""docs/compliance.md: the commands that it names as evidence are there, and run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from hashclient.cli.main import cli
from tests.docs.blocks import DOCS, marked_blocks, run_script
from tests.kit import csv_of, make_state
from tests.kit.context import context_of

pytestmark = pytest.mark.docs

PAGE = DOCS / "compliance.md"


def test_every_command_is_there() -> None:
    named = set(re.findall(r"`hashclient ([a-z -]+?)(?: --[^`]*)?`", PAGE.read_text()))
    assert "audit summary" in named
    for words in named:
        command: click.Command | None = cli
        for word in words.split():
            assert isinstance(command, click.Group), words
            command = command.get_command(context_of(command), word)
        assert command is not None, words


@pytest.mark.slow
def test_the_evidence_of_a_year_is_made_as_it_stands(tmp_path: Path) -> None:
    make_state(tmp_path, {"baseline": csv_of({"e-1": b"listed"})})
    (block,) = marked_blocks(PAGE, "year")
    (tmp_path / "a").write_bytes(b"listed")
    script = f"""
set -e
export HASHCLIENT_STATE_DIR=$PWD/state
hashclient scan a || test $? = 10
{block}
"""
    code, output = run_script(script, tmp_path)
    assert code == 0, output
    assert "matches" in (tmp_path / "audit-2026.html").read_text()
    assert (tmp_path / "matches-2026.csv").read_text().count("\n") > 1
    assert (tmp_path / "checkpoint-2026.json").stat().st_size
