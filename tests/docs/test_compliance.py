"""docs/compliance.md: the commands that it names as evidence exist, and run as written."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from hashclient.cli.main import cli
from tests.docs.blocks import DOCS, marked_blocks, run_script, table_rows
from tests.kit import csv_of, make_state
from tests.kit.context import context_of

pytestmark = pytest.mark.docs

PAGE = DOCS / "compliance.md"


def test_every_command_is_there_with_its_options() -> None:
    named = set(re.findall(r"`hashclient ([a-z -]+?)((?: --[^`]*)?)`", PAGE.read_text()))
    assert ("audit verify", " --against WHERE") in named
    for words, options in named:
        command: click.Command | None = cli
        for word in words.split():
            assert isinstance(command, click.Group), words
            command = command.get_command(context_of(command), word)
        assert command is not None, words
        known = {name for option in command.params for name in option.opts}
        assert known.issuperset(re.findall(r"--[a-z-]+", options)), words


def test_what_it_does_not_do_stands_first_and_the_page_has_its_date() -> None:
    text = PAGE.read_text()
    first, *others = re.findall("^## (.*)$", text, re.MULTILINE)
    assert first == "What the program does not do"
    assert re.search(r"Collected on \d{1,2} [A-Z][a-z]+ \d{4}", text) and "no legal advice" in text
    for law in others[:5]:
        for row in table_rows(PAGE, f"## {law}"):
            *_, shows = row
            assert shows.strip(), row


def test_each_law_has_its_official_title() -> None:
    text = PAGE.read_text()
    body, _, _ = text.partition("## Official titles")
    for row in table_rows(PAGE, "## Official titles"):
        short = re.split(r"[ ,]", row[0])[0]
        assert short in body, row
    laws = ("2258A", "REPORT Act", "2021/1232", "2026/1881", "Digital Services Act", "Australia")
    titles = [row[0] for row in table_rows(PAGE, "## Official titles")]
    assert not [law for law in laws if not any(law in title for title in titles)]


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
    assert "<h2>Matches</h2>" in (tmp_path / "audit-2026.html").read_text()
    assert (tmp_path / "matches-2026.csv").read_text().count("\n") > 1
    assert (tmp_path / "checkpoint-2026.json").stat().st_size
