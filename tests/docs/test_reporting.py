"""The page on reports: its commands run, and its tables agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyrage import x25519

from hashclient import packages as read_by_recipients
from hashclient import quarantine, reporting
from hashclient.config.settings import parse_config
from hashclient.config.tables import PackageDestination, ServiceDestination
from hashclient.core.errors import HashclientError
from hashclient.packages.contents import (
    CHECKPOINT_NAME,
    CUSTODY_NAME,
    DOCUMENT_NAME,
    README_NAME,
)
from hashclient.quarantine.age import EXAMPLE_RECIPIENT
from hashclient.reporting.destinations.cybertipline.api import Answer, check
from hashclient.reporting.report import Call, State
from tests.docs.blocks import DOCS, marked_blocks, run_script, table_rows
from tests.kit import csv_of, make_state, write_tree

pytestmark = pytest.mark.docs

PAGE = DOCS / "reporting.md"
EXPECTED_EXIT = re.compile(r"^(?P<command>\S.*?) +# exit (?P<code>\d+)$", re.MULTILINE)


def code_of_reports() -> str:
    """Return the source text of the rooms that reports pass through."""
    rooms = (read_by_recipients, quarantine, reporting)
    folders = [Path(room.__file__ or "").parent for room in rooms]
    return "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))


def names(heading: str) -> list[str]:
    """Return the words in the first column of the table below `heading`."""
    return [key for row in table_rows(PAGE, heading) for key in re.findall(r"`([^`]+)`", row[0])]


def test_the_example_is_a_configuration() -> None:
    (text,) = marked_blocks(PAGE, "config")
    config = parse_config(text, "example").report
    assert isinstance(config.to["police"], PackageDestination)
    assert isinstance(config.to["hotline"], ServiceDestination)
    assert config.destination() == "police"


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    state = make_state(tmp_path, {"baseline": csv_of({"1": b"listed"})})
    write_tree(tmp_path / "files", {"a": b"listed"})
    (tmp_path / "handover").mkdir()
    (text,) = marked_blocks(PAGE, "config")
    text = text.replace("/srv/handover", str(tmp_path / "handover"))
    # The example's key is refused because nobody could open the package.
    recipient = str(x25519.Identity.generate().to_public())
    assert EXAMPLE_RECIPIENT in text
    text = text.replace(EXAMPLE_RECIPIENT, recipient)
    (state / "config.toml").write_text(text)
    blocks = "".join(marked_blocks(PAGE, "report"))
    script = EXPECTED_EXIT.sub(r"\g<command> || [ $? = \g<code> ]", blocks)
    (cron,) = marked_blocks(PAGE, "cron")
    script += "echo CRON\n" + cron.split(maxsplit=6)[6]
    code, output = run_script(f"set -e\nexport HASHCLIENT_STATE_DIR={state}\n{script}", tmp_path)
    assert code == 0, output
    assert "handed over: " in output and "acknowledged r-" in output
    assert output.endswith("CRON\n")
    (path,) = (tmp_path / "handover").iterdir()
    assert path.name.endswith(".tar.age")


def test_states() -> None:
    assert set(names("## States")) == {str(state) for state in State}


def test_files_of_a_package() -> None:
    files = [README_NAME, DOCUMENT_NAME, CUSTODY_NAME, CHECKPOINT_NAME, "evidence/MATCH.age"]
    more = ["evidence/MATCH.facts.age", "evidence/MATCH.1.age"]
    assert names("## The package") == files + more


def test_events_are_those_that_are_logged() -> None:
    code = code_of_reports()
    logged = set(re.findall(r'"((?:report|matches|facts)-[a-z]+)"', code))
    documented = {
        e for row in table_rows(PAGE, "## Using it") for e in re.findall(r"`(.+?)`", row[0])
    }
    assert documented == logged


def test_calls_in_doubt() -> None:
    assert set(names("## After an interruption")) == {str(call) for call in Call}


def test_codes_lead_to_the_exit_codes_that_are_said() -> None:
    for row in table_rows(PAGE, "## Codes"):
        for code in map(int, re.findall(r"\d+", row[0])):
            ends = 0
            try:
                check(Answer(code, None), "x")
            except HashclientError as error:
                ends = error.exit_code
            assert ends == int(row[2]), code


def test_messages_are_those_that_are_said() -> None:
    code = code_of_reports()
    for row in table_rows(PAGE, "## When something fails"):
        for message in row[0].split(", "):
            first, _, last = message.partition(" … ")
            assert first in code and last in code, message
