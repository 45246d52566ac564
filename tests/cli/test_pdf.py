"""PDF with its extra and without: opened, or counted, and opened again once it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hashclient
from fixtures import archives, mails, pdfs
from tests.kit import State, write_tree

HAS_PIKEPDF = importlib.util.find_spec("pikepdf") is not None
LISTED = b"a listed file of some length"
ONE = pdfs.pdf_of({"in pdf": LISTED})
BOTH = ONE + archives.zip_of({"in zip": LISTED})
NOTHING = pdfs.pdf_of({"other": b"a benign file of another length"})
FILES = {
    "a.eml": mails.mail_of({"one.pdf": ONE}).as_bytes(),
    "a.zip": archives.zip_of({"one.pdf": ONE, "both.pdf": BOTH}),
    "both.pdf": BOTH,
    "no.pdf": b"%PDF-1.4\nwithout any stream",
    "nothing.pdf": NOTHING,
    "one.pdf": ONE,
}
PROGRAM = """
import json, sys
from pathlib import Path
import pytest
sys.path[:0] = sys.argv[1].split(":")
from tests.kit import call, remember_at_once
directory, state, tree = map(Path, sys.argv[2:])
remember_at_once(pytest.MonkeyPatch(), directory)
run = call("--state-dir", state, "scan", "--jobs", "1", "--format", "jsonl", tree)
print(json.dumps([run.code, [json.loads(line) for line in run.out.splitlines()]]))
"""


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with all installed packages except pikepdf."""
    directory = tmp_path_factory.mktemp("packages")
    for home in dict.fromkeys(path for path in sys.path if path.endswith("-packages")):
        for path in Path(home).iterdir():
            if not path.name.startswith("pikepdf") and not (directory / path.name).exists():
                (directory / path.name).symlink_to(path)
    return directory


def scan(state: State, *packages: Path) -> tuple[int, dict[str, list[list[str]]], dict[str, Any]]:
    """Scan with these packages; return the exit code, the matching members by file, the summary."""
    paths = ":".join(map(str, (Path(hashclient.__file__).parents[1], *packages)))
    given = [paths, str(state.directory), str(state.path), str(state.tree)]
    boot = f"import sys; sys.path[:0] = sys.argv[1].split(':')\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", boot, *given],
        cwd=state.directory,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    code, lines = json.loads(done.stdout)
    found: dict[str, list[list[str]]] = {}
    for line in lines[:-1]:
        assert line["type"] == "match", line
        found.setdefault(Path(line["container"]).name, []).append(line["members"])
    return code, found, lines[-1]


@pytest.mark.slow
def test_without_its_extra_each_is_counted_and_a_zip_behind_it_is_opened(
    tmp_path: Path, without: Path
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    write_tree(state.tree, FILES)
    code, found, summary = scan(state, without)
    assert code == 10
    assert found == {"a.zip": [["both.pdf", "in zip"]], "both.pdf": [["in zip"]]}
    assert summary["not_opened"] == {"pdf": 7}


@pytest.mark.skipif(not HAS_PIKEPDF, reason="the extra `documents` is not installed")
@pytest.mark.slow
def test_once_the_extra_is_there_each_is_opened_also_where_nothing_has_changed(
    tmp_path: Path, without: Path
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    write_tree(state.tree, {"one.pdf": ONE, "nothing.pdf": NOTHING})
    state.let_time_pass()
    for _ in range(2):
        code, found, summary = scan(state, without)
        assert (code, found, summary["not_opened"]) == (0, {}, {"pdf": 2})
        state.let_time_pass()
    packages = [Path(path) for path in sys.path if path.endswith("-packages")]
    code, found, summary = scan(state, *packages)
    assert (code, found, summary["not_opened"]) == (10, {"one.pdf": [["in pdf"]]}, {})
    write_tree(state.tree, FILES)
    code, found, summary = scan(state, *packages)
    assert code == 10 and summary["not_opened"] == {}
    assert found == {
        "a.eml": [["one.pdf", "in pdf"]],
        "a.zip": [["one.pdf", "in pdf"], ["both.pdf", "in pdf"], ["both.pdf", "in zip"]],
        "both.pdf": [["in pdf"], ["in zip"]],
        "one.pdf": [["in pdf"]],
    }


@pytest.mark.skipif(not HAS_PIKEPDF, reason="the extra `documents` is not installed")
@pytest.mark.slow
def test_what_takes_more_memory_than_there_may_be_is_unread_and_what_is_beside_it_is_found(
    tmp_path: Path,
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    state.configure("[scan.containers]\nmemory_mib = 64\n")
    write_tree(state.tree, {"a.pdf": pdfs.pdf_of({"large": bytes(200 << 20), "in pdf": LISTED})})
    lines = state.scan("--jobs", "1").lines[:-1]
    found = {line["type"]: (line["members"], line.get("reason")) for line in lines}
    assert found["match"][0] == ["in pdf"]
    assert found["unread"] == (["large"], "limit: more than 64 MiB of memory")
