"""Completion: a shell gets the ids and names in the command's state directory."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.notices import make_notice
from hashclient.notices.lifecycle import Kept
from hashclient.notices.store import Book, changing, write_book
from hashclient.system.layout import Layout
from tests.kit import call, csv_of, environment, make_state, run, write_tree

LISTED = b"listed one"


def offered(*words: object, env: dict[str, str] | None = None) -> list[str]:
    """Return the completions of bash for the last of `words`."""
    given = ["hashclient", *map(str, words)]
    variables = {
        "_HASHCLIENT_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(given),
        "COMP_CWORD": str(len(given) - 1),
    }
    result = run(env=variables | (env or {}))
    assert (result.code, result.err) == (0, "")
    return [line.partition(",")[2] for line in result.out.splitlines() if line]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    tree = write_tree(tmp_path / "t", {"a": LISTED, "b": LISTED})
    assert call("--state-dir", state, "scan", tree).code == 10
    return state


def ids(state: Path) -> list[str]:
    result = call("--state-dir", state, "matches", "--format", "jsonl")
    return [line["id"] for line in result.lines if line["type"] == "match"]


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [("matches", "show"), ("matches", "close"), ("quarantine", "add"), ("report", "prepare")],
)
def test_ids_of_matches(state: Path, words: tuple[str, ...]) -> None:
    known = ids(state)
    assert len(known) == 2
    assert sorted(offered("--state-dir", state, *words, "")) == sorted(known)
    assert known[0] in offered("--state-dir", state, *words, known[0][:3])


def test_ids_of_notices(tmp_path: Path) -> None:
    state, now = tmp_path / "state", datetime.now(UTC)
    layout = Layout(state)
    kept = tuple(Kept(make_notice(name), "d", now) for name in ("n-1", "n-2", "m-1"))
    with changing(layout):
        write_book(layout, Book("main", 1, "", now, now, kept))
    assert offered("--state-dir", state, "notices", "show", "n") == ["n-1", "n-2"]
    assert offered("--state-dir", state, "notices", "acknowledge", "n-1", "m") == ["m-1"]


@pytest.mark.slow
def test_names_of_lists(state: Path) -> None:
    assert offered("--state-dir", state, "fetch", "--list", "b") == ["base"]
    assert offered("matches", "--list", "", env={"HASHCLIENT_STATE_DIR": str(state)}) == ["base"]


def test_roles_and_lists_of_a_repository(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    assert call("provider", "init", repo).code == 0
    entries = tmp_path / "e.csv"
    entries.write_bytes(csv_of({"e-1": LISTED}))
    assert call("provider", "publish", repo, "--list", "base", entries).code == 0
    assert offered("provider", "rotate", repo, "") == [
        *("root", "targets", "snapshot", "timestamp", "base")
    ]
    assert offered("provider", "publish", repo, "--list", "b") == ["base"]


@pytest.mark.slow
def test_where_there_is_nothing_nothing_is_offered_or_made(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert offered("--state-dir", state, "matches", "show", "") == []
    assert offered("--state-dir", state, "report", "submit", "") == []
    assert not state.exists()
    state.write_bytes(b"no directory")
    assert offered("--state-dir", state, "matches", "show", "") == []
    assert "HASHCLIENT_STATE_DIR" not in environment()
