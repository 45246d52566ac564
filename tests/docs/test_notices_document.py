"""The document of notices: its commands run as written, and its states are the real states."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hashclient.notices.lifecycle import KEEP, State
from hashclient.provider.notices import DEFAULT_LIFE, REMOVED_AFTER
from hashclient.trust.additions import MAX_NOTICES
from tests.docs.blocks import DOCS, marked_blocks, table_rows
from tests.kit import Site, call, csv_of

pytestmark = pytest.mark.docs

DOCUMENT = DOCS / "notices.md"


def commands(name: str) -> list[list[str]]:
    (block,) = marked_blocks(DOCUMENT, name)
    lines = [line.removeprefix("$ hashclient ") for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Site(tmp_path) as site:
        monkeypatch.chdir(tmp_path)
        site.publish(csv_of({"e-1": b"listed"}))
        publish, *later = commands("provider")
        assert call(*publish).code == 0
        assert site.call(*site.init_arguments()).code == 0
        assert site.call("fetch").code == 0
        for words in commands("client"):
            done = site.call(*words)
            assert (done.code, done.err) == (0, ""), done.err
        for words in later:
            assert call(*words).code == 0
        assert site.call("fetch").code == 0
        # An acknowledged notice with a new text is open again, and is then withdrawn.
        listed = site.call("notices", "list", "--show-all").out
        assert re.findall(r"^main/(\S+)  \[Minor\]  (\w+)", listed, re.MULTILINE)[1:] == [
            ("n-2", "cancelled"),
            ("n-1", "updated"),
        ]


def test_every_state_is_described() -> None:
    rows = table_rows(DOCUMENT, "## At a client")
    assert [row[0].strip("`") for row in rows] == list(State)


def test_the_numbers_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text()
    for number in (
        f"for {KEEP.days} days after they have expired",
        f"a notice ends after {DEFAULT_LIFE.days} days",
        f"out of the repository {REMOVED_AFTER.days} days",
        f"There may be {MAX_NOTICES:,} notices at a time",
    ):
        assert number in text
