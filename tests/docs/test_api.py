"""The document of the Python API: its example runs as written; all public names are in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hashclient
from tests.docs.blocks import DOCS, TIMEOUT_S, marked_blocks
from tests.kit import Site, csv_of, environment, write_tree

pytestmark = pytest.mark.docs

API = DOCS / "api.md"


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    listed = b"a file that is listed"
    tree = write_tree(tmp_path / "tree", {"a": listed, "b": b"another"})
    (tmp_path / "sums.txt").write_text(f"{'0' * 32}  some file\n")
    (tmp_path / "upload").write_bytes(listed)
    (tmp_path / "names").write_text(f"{tree}/b\n")
    script = "".join(marked_blocks(API, "api"))
    with Site(tmp_path) as site:
        site.publish(csv_of({"e-1": listed}))
        assert site.call(*site.init_arguments()).code == 0
        script = script.replace("/var/lib/hashclient", str(site.state))
        done = subprocess.run(
            [sys.executable, "-c", script.replace("/srv/files", str(tree))],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        again = site.call("matches", "--format", "jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "baseline is at generation 1",
        f"match: {tree}/a is entry e-1 of list baseline",
        "on record: True",
        "verdict: match",
        "read: 1 of 2",
        "reports nothing, isolates nothing: True",
        "match: upload 4711",
        "clean: b",
        *("may pass: True", "may pass: False", "may pass: True"),
        "kind: clean None 0",
        "looked up: d41d8cd98f00b204e9800998ecf8427e clean",
        "looked up: some file clean",
        "list baseline can be used: True",
    ]
    assert [line["path"] for line in again.lines] == [
        *(f"{tree}/a", "stdin:upload 4711", "program:upload 4712")
    ]


def test_the_table_names_all_that_is_public() -> None:
    table = API.read_text().partition("## Values")[2]
    assert set(re.findall(r"`(\w+)`", table)) >= {*hashclient.__all__} - {"__version__"}
