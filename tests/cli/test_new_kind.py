"""A new kind of container takes one module and one row of a table; old records lapse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hashclient
from fixtures.archives import zip_of
from fixtures.others import program_of
from tests.kit import State, write_tree

LISTED = b"a listed file of some length"
BENIGN = b"A benign file of same length"
FILES = {
    "a.toy": b"TOY!1" + LISTED,
    "begins-alike": b"Text of somebody",
    "many.toy": b"TOY!3" + BENIGN + LISTED + LISTED,
    "other": b"benign text of somebody",
    "setup.exe": program_of(b"TOY!1" + LISTED),
    "too-short": b"TO",
}
#: A module for a toy container: the digit that follows the magic bytes is the number of members,
#: all of equal length.
MODULE = f"""
from hashclient.containers.forward import Forward
from hashclient.containers.interface import Member


class Toy:
    name = "toy"
    seeks = False

    def length(self, data):
        return data.size if data.read_at(4, 1).isdigit() else 0

    def members(self, data):
        source = Forward(data)
        for number in range(int(source.take(5)[4:])):
            content = source.take({len(LISTED)})
            yield [Member(b"%d" % number, None, False, lambda: iter([content]))]
"""
ROW = """OPENED = (
    Kind(
        "toy",
        (Mark(0, (b"TOY!",)),),
        "toy:Toy",
        hides_end=False,
        in_programs=b"TOY!",
        most_members=2,
    ),
"""
#: A script that scans a tree once, and prints the files that were opened although the inventory has
#: their tags.
PROGRAM = """
import json, os, sys
from pathlib import Path
import pytest
from tests.kit import call, remember_at_once
from hashclient.scan.check.reading import Reader
directory, state, tree = map(Path, sys.argv[1:])
remember_at_once(pytest.MonkeyPatch(), directory)
looked, look = [], Reader.look
def noted(reader, fd):
    looked.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
    return look(reader, fd)
Reader.look = noted
run = call("--state-dir", state, "scan", "--jobs", "1", "--format", "jsonl", tree)
lines = [json.loads(line) for line in run.out.splitlines()]
print(json.dumps([run.code, sorted(looked), lines]))
"""


def scan(state: State, *first: Path) -> tuple[int, list[str], list[dict[str, Any]]]:
    """Scan the tree with the package of a directory."""
    paths = [*first, Path(hashclient.__file__).parents[1]]
    given = [str(state.directory), str(state.path), str(state.tree)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *given],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        cwd=state.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    code, looked, lines = json.loads(done.stdout)
    return code, looked, lines


@pytest.mark.slow
def test_a_kind_is_one_module_and_one_row_and_what_it_may_touch_is_looked_at_again(
    tmp_path: Path,
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    write_tree(state.tree, FILES)
    state.let_time_pass()
    assert scan(state)[0] == 0
    code, looked, lines = scan(state)
    assert (code, looked, lines[-1]["known_unchanged"]) == (0, [], len(FILES))
    package = tmp_path / "more" / "hashclient"
    shutil.copytree(
        Path(hashclient.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "containers" / "toy.py").write_text(MODULE)
    rows = package / "containers" / "kinds.py"
    rows.write_text(rows.read_text().replace("OPENED = (\n", ROW, 1))
    code, looked, lines = scan(state, package.parent)
    assert code == 11
    found = [(Path(line["container"]).name, line["members"]) for line in of(lines, "match")]
    assert found == [("a.toy", ["0"]), ("many.toy", ["1"]), ("setup.exe", ["0"])]
    (unread,) = of(lines, "unread")
    assert Path(unread["container"]).name == "many.toy"
    assert unread["reason"] == "limit: toy: too many members"
    assert looked == ["a.toy", "begins-alike", "many.toy", "setup.exe"]
    assert lines[-1]["files_read"] == 0
    toys = ["a.toy", "many.toy", "setup.exe"]
    # If a member matches, each container is opened each time.
    assert scan(state, package.parent)[1] == toys
    # A version without the new kind may still use the records of the version with the kind.
    code, looked, _ = scan(state)
    assert code == 0 and set(looked) <= set(toys)
    # An archive that follows a toy container in the same file is opened, too.
    write_tree(state.tree, {"both": b"TOY!1" + LISTED + zip_of({"in zip": LISTED})})
    both = of(scan(state, package.parent)[2], "match", "both")
    assert [line["members"] for line in both] == [["0"], ["in zip"]]


def of(lines: list[dict[str, Any]], kind: str, name: str = "") -> list[dict[str, Any]]:
    """Return the lines of a type for the files whose paths end with a text."""
    named = ((line.get("container") or line.get("path") or "", line) for line in lines)
    return [line for path, line in named if line["type"] == kind and path.endswith(name)]
