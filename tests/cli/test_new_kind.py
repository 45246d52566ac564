"""A kind of container is one module and one row; earlier records are looked at again then."""

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
from tests.kit import State, write_tree

LISTED = b"a listed file of some length"
FILES = {
    "a.toy": b"TOY!" + LISTED,
    "begins-alike": b"Text of somebody",
    "too-short": b"TO",
    "other": b"benign text of somebody",
}
MODULE = """
from hashclient.containers.forward import Forward
from hashclient.containers.interface import Member


class Toy:
    name = "toy"
    seeks = False

    def members(self, data):
        source = Forward(data)
        source.skip(4)
        yield [Member(b"inside", None, False, lambda: iter(lambda: source.some(1 << 16), b""))]
"""
ROW = 'OPENED = (\n    Kind("toy", (Mark(0, (b"TOY!",)),), "toy:Toy"),\n'
#: Scans a tree once, and says which files were looked at again although their tags are known.
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
    """Scan the tree with the package that stands in a directory."""
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
    assert code == 10
    assert [(Path(line["container"]).name, line["members"]) for line in lines[:-1]] == [
        ("a.toy", ["inside"])
    ]
    assert looked == ["a.toy", "begins-alike"]
    assert lines[-1]["files_read"] == 0
    assert scan(state, package.parent)[1] == ["a.toy"]  # it has a match, and is opened each time
    assert scan(state)[:2] == (0, ["a.toy"])  # where the kind is unknown, nothing is said of it
