"""The page on the quarantine: its commands run, and its tables agree with the code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import pytest

from hashclient.config.settings import parse_config
from hashclient.config.tables import QuarantineConfig
from hashclient.quarantine import age, isolate, item, safe_rename
from hashclient.quarantine.isolators import files
from tests.docs.blocks import DOCS, marked_blocks, run_script, table_rows
from tests.kit import csv_of, make_state

pytestmark = pytest.mark.docs

PAGE = DOCS / "quarantine.md"
EXPECTED_EXIT = re.compile(r"^(?P<command>\S.*?) +# exit (?P<code>\d+)$", re.MULTILINE)


def keys(heading: str) -> list[str]:
    """Return the words in the first column of the table below `heading`."""
    return [key for row in table_rows(PAGE, heading) for key in re.findall(r"`([^`]+)`", row[0])]


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("## Setting up", QuarantineConfig),
        ("### `item.json`", item.Item),
        ("### `origin`", item.Origin),
    ],
)
def test_every_key_is_described(heading: str, struct: type[msgspec.Struct]) -> None:
    assert keys(heading) == list(struct.__struct_fields__)


def test_the_example_is_a_configuration() -> None:
    (text,) = marked_blocks(PAGE, "config")
    config = parse_config(text, "example").quarantine
    assert config.recipients == (age.EXAMPLE_RECIPIENT,)
    assert config.keep_days == 365


def test_events_are_those_that_are_logged() -> None:
    package = Path(isolate.__file__).parent
    code = "".join(path.read_text() for path in package.rglob("*.py"))
    logged = set(re.findall(r'\.(?:log|event)\(\s*"([a-z-]+)"', code))
    assert set(keys("### Events in the audit log")) == logged


def test_every_outcome_is_in_the_table() -> None:
    said = " ".join(keys("## Outcomes"))
    for words in files.REMOVALS.values():
        assert words.partition(" {}")[0] in said
    for words in ("not there any more", "read-only file system", "permission denied"):
        assert words in safe_rename._WORDS.values() and words in said
    assert isolate._CHANGED in said


def checked(match: re.Match[str]) -> str:
    """Return a command that ends with 0 if the given command ends with the expected exit code."""
    command, code = match["command"], match["code"]
    return f"c=0; {command} || c=$?; [ $c = {code} ] || {{ echo 'not exit {code}:' $c; exit 1; }}"


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    content = b"A dummy file that is on the list.\n"
    make_state(tmp_path, {"baseline": csv_of({"e-1": content})})
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "listed.txt").write_bytes(content)
    keygen, add, use, restore, reseal = marked_blocks(PAGE, "quarantine")
    (by_hand,) = marked_blocks(PAGE, "by-hand")
    (keep,) = marked_blocks(PAGE, "keep")
    script = f"""
set -e
export HASHCLIENT_STATE_DIR=$PWD/state
cp files/listed.txt .listed
{keygen}
{add}
{EXPECTED_EXIT.sub(checked, use)}
test ! -e files/listed.txt
{by_hand if shutil.which("age") else "cp .listed recovered"}
cmp .listed recovered
{reseal}
{restore}
cmp .listed files/listed.txt
hashclient scan --quarantine files || test $? = 10
test ! -e files/listed.txt
{keep}
test ! -e "state/quarantine/$id"
hashclient audit verify
"""
    code, output = run_script(script, tmp_path)
    assert code == 0, output
