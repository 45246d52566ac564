"""Whether the record of matches is whole: the faults that `status --verify` finds in it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from hashclient.core.errors import StateError
from hashclient.matches.verify import verify_matches
from tests.kit import call, csv_of, make_state, write_tree


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a state directory with many matches, some of them closed."""
    directory = tmp_path_factory.mktemp("site")
    contents = {f"e-{n}": b"listed %d" % n for n in range(200)}
    state = make_state(directory, {"base": csv_of(contents)})
    tree = write_tree(directory / "t", {f"{n:03d}": b"listed %d" % n for n in range(200)})
    found = call("--state-dir", state, "scan", "--format", "jsonl", tree)
    ids = [line["id"] for line in found.lines if line["type"] == "match"]
    closed = call("--state-dir", state, "matches", "close", *ids[:10], "--reason", "a test")
    assert (found.code, closed.code) == (10, 0)
    (state / "config.toml").write_text(
        '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'
    )
    return state


@pytest.fixture
def state(scanned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scanned, tmp_path / "state"))


def test_a_record_that_is_whole(state: Path) -> None:
    verify_matches(state)
    assert call("--state-dir", state, "status", "--verify").code == 0


@pytest.mark.sampled
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE hit SET match = 'x' WHERE entry = 'e-1'",
        "DELETE FROM step WHERE match = (SELECT match FROM step LIMIT 1)",
        "UPDATE match SET path = CAST('relative' AS BLOB) WHERE rowid = 3",
        "UPDATE match SET sha1 = CAST('short' AS BLOB) WHERE rowid = 3",
        "UPDATE match SET state = 'unheard of' WHERE rowid = 3",
        "UPDATE match SET first_seen = 'yesterday' WHERE rowid = 3",
        "UPDATE match SET size = -1 WHERE rowid = 3",
        "UPDATE hit SET algorithms = 0 WHERE entry = 'e-1'",
        "UPDATE hit SET algorithms = 99 WHERE entry = 'e-1'",
        "UPDATE step SET detail = '[]' WHERE id = 5",
        "UPDATE step SET detail = '{' WHERE id = 5",
        "UPDATE step SET time = '' WHERE id = 5",
    ],
)
def test_rows_that_nobody_wrote(state: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(state / "matches.db", isolation_level=None)) as db:
        assert db.execute(statement).rowcount > 0
    with pytest.raises(StateError, match="record of matches") as caught:
        verify_matches(state)
    assert "move it away" in (caught.value.hint or "")
    result = call("--state-dir", state, "status", "--verify")
    assert result.code == 8
    assert "record of matches" in result.out and "list base" in result.out


def test_pages_that_do_not_fit_each_other(state: Path) -> None:
    """The index of the database contradicts a row of its table."""
    path = state / "matches.db"
    data = bytearray(path.read_bytes())
    at = data.find(b"/050")  # a path, in the table or in the index
    assert at > 0
    data[at + 1] ^= 1
    path.write_bytes(data)
    assert call("--state-dir", state, "status").code == 0
    with pytest.raises(StateError, match=r"damaged: .*matches\.db"):
        verify_matches(state)
    found = call("--state-dir", state, "status", "--verify")
    assert found.code == 8
    # Records that can be read are shown although others are damaged.
    assert "matches       190 found, 10 closed" in found.out
