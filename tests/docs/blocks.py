"""Fenced blocks of the documents, and a shell in which their commands run as `hashclient`.

A block that a test runs has a comment on the line before it, `<!-- test: NAME -->`, which readers
of the rendered page do not see.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: The pages of the guide to operations: its first page, and a page for each question.
OPERATIONS = (DOCS / "operations.md", *sorted((DOCS / "operations").glob("*.md")))
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("provider/*.md"), *OPERATIONS}
)

#: The seconds that a whole document may take, far more than any document needs.
TIMEOUT_S = 60

_BLOCK = re.compile(
    r"^<!-- test: (?P<name>[a-z0-9-]+) -->\n```[a-z]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


def text_of(document: Path | Iterable[Path]) -> str:
    """Return the joined text of documents, for tests that accept a text in any of them."""
    pages = [document] if isinstance(document, Path) else document
    return "\n".join(page.read_text() for page in pages)


def marked_blocks(document: Path | Iterable[Path], name: str) -> list[str]:
    """Return the texts of the blocks in `document` that are marked with `name`, in order."""
    return [m["text"] for m in _BLOCK.finditer(text_of(document)) if m["name"] == name]


def table_rows(document: Path | Iterable[Path], heading: str) -> list[list[str]]:
    """Return the cells of the first table below `heading`, without its two head lines."""
    text = f"\n{text_of(document)}"
    assert text.count(f"\n{heading}\n") == 1, f"no heading, or several: {heading}"
    below = text.partition(f"\n{heading}\n")[2]
    rows = []
    for line in below.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


@functools.cache
def names_of_tests(folder: Path) -> set[str]:
    """Return the names of all tests in the files below `folder`."""
    names = set()
    for path in folder.rglob("test_*.py"):
        names.update(re.findall(r"^ *def (test_\w+)\(", path.read_text(), re.MULTILINE))
    return names


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_command(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the real command with additional environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "hashclient", *words],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def run_script(script: str, directory: Path) -> tuple[int, str]:
    """Run a bash script in `directory`; return its exit code and the text of both streams together.

    `hashclient` runs this checkout's code, and processes that the script leaves running end with
    it.
    """
    tools = directory / ".tools"
    tools.mkdir()
    shim = tools / "hashclient"
    python = shlex.quote(sys.executable)
    shim.write_text(f'#!/bin/sh\nexec {python} -P -m hashclient "$@"\n')
    shim.chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(directory),
    }
    log = directory / ".output"
    with log.open("wb") as output:
        done = subprocess.run(
            ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n{script}"],
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
    return done.returncode, log.read_text()
