"""The pages below docs/provider are short, and the commands of their stories run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.client import csv
from tests.docs.blocks import DOCS, marked_blocks
from tests.kit import call

pytestmark = pytest.mark.docs

PAGES = sorted((DOCS / "provider").glob("*.md"))
WORDS = 700
BEFORE = """
hashclient provider init repo
hashclient provider publish repo --list baseline entries.csv
cp repo/root.json theirs.json
hashclient provider export repo --to theirs.bundle
cp -a repo theirs
hashclient provider withdraw theirs --list baseline e-1
hashclient provider publish theirs --list baseline newer.csv
hashclient provider export theirs --to newer.bundle
hashclient --state-dir client init --root theirs.json --from repo/public
hashclient --state-dir client fetch --from repo/public
"""
#: For each page: the repository that a client follows at the end, and the messages about its list.
ENDS = {
    "backup": ("repo", ["3 added"]),
    "moving": ("new/repo", []),
    "lost-keys": ("repo", []),
    "holiday": ("repo", []),
    "mistake": ("repo", ["generation 1 to 3: 0 added, 0 withdrawn"]),
    "sharing-on": ("repo", ["list shared: generation 2: 2 added, 1 withdrawn, 11 live\n"]),
}


def test_there_is_a_page_for_each_question() -> None:
    assert {page.stem for page in PAGES} == set(ENDS)
    text = (DOCS / "provider.md").read_text()
    for page in PAGES:
        assert f"](provider/{page.name})" in text
        assert re.fullmatch(r"# .+\?", page.read_text().partition("\n")[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(text.replace("|", " ").split()) < WORDS


def run(script: str) -> str:
    """Run the lines of a story; each must end as the page says; return their output.

    DIGEST is the digest of the last shown draft. A shell runs the lines of other programs.
    """
    said = ""
    for line in script.replace("\\\n", "").splitlines():
        typed, _, code = line.partition("# exit ")
        digest = said.rpartition("draft digest ")[2].partition("\n")[0]
        program, *words = shlex.split(typed.replace("DIGEST", digest)) or [""]
        if program == "hashclient":
            done = call(*words)
            assert done.code == int(code or 0), (line, done.out, done.err)
            said += done.out + done.err
        elif program:
            subprocess.run(["bash", "-c", typed], check=True)
    return said


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_story_runs_as_it_stands_and_a_client_follows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, numbers in {
        "entries.csv": range(10),
        "more.txt": range(10, 12),
        "another.txt": range(12, 15),
        "short.csv": range(2),
        "newer.csv": range(20, 22),
    }.items():
        Path(name).write_bytes(csv(numbers))
    run(BEFORE)
    until = datetime.now(UTC) + timedelta(days=40)
    output = run("".join(marked_blocks(page, "story")).replace("TIME", f"{until:%Y-%m-%d}"))
    repository, said = ENDS[page.stem]
    output += run(f"hashclient --state-dir client fetch --from {repository}/public\n")
    for text in said:
        assert text in output, output
