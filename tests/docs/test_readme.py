"""The README: its session is real output, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hashclient.cli.main import COMMANDS
from hashclient.core.errors import ExitCode
from tests.docs.blocks import (
    DOCS,
    ROOT,
    free_port,
    marked_blocks,
    run_script,
    table_rows,
)

pytestmark = pytest.mark.docs

README = ROOT / "README.md"

#: Commands of the provider that run before the session begins.
PROVIDER = """
mkdir -p files/notes
echo 'A dummy file about a holiday.' > files/holiday.txt
echo 'A dummy file that nobody listed.' > files/notes/b.txt
echo 'A dummy file that is on the list.' > files/notes/a.txt
md5=$(md5sum < files/notes/a.txt | cut -c-32) sha256=$(sha256sum < files/notes/a.txt | cut -c-64)
echo "entry_id,md5,sha256,size,category
d-1,$md5,$sha256,34,dummy
d-2,,1111111111111111111111111111111111111111111111111111111111111111,7,dummy" > entries.csv
{
  hashclient provider init repo
  hashclient provider publish repo --list baseline entries.csv
} > provider.log 2>&1
hashclient provider serve repo --bind 127.0.0.1:PORT > serve.log 2>&1 &
until grep -qs serving serve.log; do sleep 0.02; done
cp repo/root.json repo/keys/serve/ca.pem repo/keys/serve/token .
"""

VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(Z|\+00:00)| UTC)"), "TIME"),
    (re.compile(r"(?<=\[)[a-z0-9]{10}(?=[],])|(?<=\"id\": \")[a-z0-9]{10}"), "ID"),
    (re.compile(r"(?<=, )in \d+\.\d s"), "in SECONDS"),
    (re.compile(r'"elapsed_s": [0-9.]+'), '"elapsed_s": SECONDS'),
    (re.compile(r"(?<= by ).+ on .+(?=, in /)"), "USER on HOST"),
    (re.compile(r"(?<=agree\)  on )\S+$", re.MULTILINE), "HOST"),
    (re.compile(r'"host": "[^"]+", "user": "[^"]+"'), '"host": "HOST", "user": "USER"'),
    # A file that changed within the last tick of the clock is read again, so these numbers vary.
    (re.compile(r'"files_read": \d+, "bytes_read": \d+'), '"files_read": N, "bytes_read": N'),
    (re.compile(r"read \d+ files?, \d+ B"), "read N"),
    (re.compile(r'"known_unchanged": \d+'), '"known_unchanged": N'),
    (re.compile(r"(?<=by size)(, \d+ known unchanged)?$", re.MULTILINE), " and N known unchanged"),
    (re.compile(r"\b[0-9a-f]{32,128}\b"), "HEX"),
    (re.compile(r"\bage1[a-z0-9]{58}\b"), "PUBLIC-KEY"),
)


def steady(text: str) -> str:
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text


@pytest.mark.slow
def test_the_session_is_what_the_commands_print(tmp_path: Path) -> None:
    expected = "".join(marked_blocks(README, "session"))
    port = str(free_port())
    for shown, real in (
        ("https://lists.example.org", f"https://127.0.0.1:{port}"),
        ("/srv/trial", str(tmp_path)),
    ):
        expected = expected.replace(shown, real)
    script = PROVIDER.replace("PORT", port)
    for line in expected.splitlines():
        if line.startswith("$ "):
            # The code that shows a command must not change `$?`.
            script += f"(c=$?; cat <<'END'\n{line}\nEND\nexit $c)\n{line[2:]}\n"
    _, output = run_script(script, tmp_path)
    assert steady(output) == steady(expected)


def test_every_command_is_in_the_table() -> None:
    named = [row[0].strip("`") for row in table_rows(README, "## Commands")]
    assert named == [f"hashclient {name}" for name in COMMANDS]


def test_every_exit_code_is_in_the_table() -> None:
    rows = table_rows(README, "## Exit codes")
    assert rows == [[str(code.value), code.meaning] for code in ExitCode]


def test_every_document_is_in_the_table() -> None:
    text = README.read_text()
    for document in sorted(DOCS.glob("*.md")):
        assert f"(docs/{document.name})" in text
