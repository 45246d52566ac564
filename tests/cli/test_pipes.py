"""A pipe in place of a file of the state: no command waits for a writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hashclient.index.blinding import load_sealer
from hashclient.scan.cache.cache import Inventory
from hashclient.system.layout import Layout
from tests.kit import Run, csv_of, digests_of, make_state, run, write_tree

LISTED = b"one benign dummy"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    write_tree(tmp_path / "files", {"a.bin": LISTED, "b.txt": b"not listed"})
    return Layout(make_state(tmp_path, {"baseline": csv_of({"hc-1": LISTED})}))


def on(layout: Layout, *args: object) -> Run:
    return run("--state-dir", layout.root, *args)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", "-journal", "-wal"])
def test_a_pipe_in_place_of_a_database_holds_nobody_up(layout: Layout, suffix: str) -> None:
    files = layout.root.parent / "files"
    assert on(layout, "scan", files).code == 10
    # The files are too new for the inventory, so the scan has not created an inventory.
    Inventory(layout.root, load_sealer(layout.root, None, {}).key_id, write=True).close()
    for path in (layout.matches, layout.inventory):
        if suffix:
            pipe = path.with_name(path.name + suffix)
        else:
            path.unlink()
            pipe = path
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe, 0o600)
    for args in (("matches",), ("inventory", "stats"), ("inventory", "prune")):
        result = on(layout, *args)
        assert result.code == 8, (args, result)
        assert "not a regular file" in result.out + result.err
    # A scan shows its match, and says that the match could not be recorded.
    found = on(layout, "scan", "--format", "jsonl", files)
    assert found.code == 11
    assert "not a regular file" in found.err
    assert sorted(found.outcomes.values()) == ["match"]


@pytest.mark.slow
def test_a_pipe_in_place_of_the_log_holds_nobody_up(layout: Layout) -> None:
    log = layout.audit / "log.jsonl"
    log.unlink()
    os.mkfifo(log, 0o600)
    for args in (("audit", "verify"), ("audit", "show"), ("audit", "checkpoint")):
        result = on(layout, *args)
        assert result.code == 9, (args, result)
        assert "not a regular file" in result.out + result.err
    assert on(layout, "scan", layout.root.parent / "files").code == 11
    assert on(layout, "lookup", digests_of(b"nobody lists this")[2]).code == 9
