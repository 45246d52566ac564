"""Matches whose files are gone: the conditions under which a scan reports a match as gone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from hashclient.audit import log
from hashclient.client.client import Client
from hashclient.core.match import Place
from hashclient.scan.sources import trees
from hashclient.scan.sources.frame import Frame
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.sources.walk import Walk
from hashclient.status.prometheus import render
from hashclient.system.layout import MATCHES_NAME
from tests.kit import State, run, write_tree

LISTED = b"listed, and soon away"


FILE = "sub/deep/a"


def story(state: State) -> list[str]:
    """Return the history of the only match."""
    (line,) = state.call("matches", "--format", "jsonl").lines
    return state.story(line["id"])


def state_with_file(directory: Path) -> State:
    """Make a state and a tree with a listed file in `sub/deep`."""
    return State(directory, {"base": {"e-1": LISTED}}, {FILE: LISTED, "sub/b": b"clean"})


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state whose listed file was found by a scan."""
    state = state_with_file(tmp_path)
    assert state.scan().code == 10
    return state


def test_a_file_that_was_deleted_is_gone_and_found_again_when_it_is_back(state: State) -> None:
    (state.tree / FILE).unlink()
    result = state.scan()
    assert (result.code, result.summary["gone"]) == (0, 1)
    assert result.err == "1 match of earlier scans is gone: `hashclient matches --state gone`\n"
    assert state.states() == {"sub/deep/a": "gone"}
    (event,) = log.read(state.path / "audit", event="gone")
    assert event.data["path"] == str(state.tree / FILE) and event.sig is not None
    (end,) = log.read(state.path / "audit", event="scan-end", limit=1)
    assert end.data["gone"] == 1
    # The match is reported as gone once; a scan that finds the file again continues the same match.
    assert state.scan().summary["gone"] == 0
    (state.tree / FILE).write_bytes(LISTED)
    assert state.scan().summary["match"] == 1
    assert story(state) == ["found", "gone", "found"]
    assert state.states() == {"sub/deep/a": "found"}


def test_status_and_its_metrics_follow(state: State) -> None:
    (state.tree / FILE).unlink()
    state.scan()
    metrics = render(Client(state.path).status())
    assert 'hashclient_matches{state="found"} 0.0' in metrics
    assert 'hashclient_matches{state="gone"} 1.0' in metrics


@pytest.mark.parametrize("where", ["sub/deep", "sub", "."])
def test_it_is_gone_with_its_folder_if_the_scan_has_covered_that(state: State, where: str) -> None:
    (state.tree / "sub").rename(state.tree.parent / "moved")
    if where == "sub":
        (state.tree / "sub").mkdir()
    elif where == "sub/deep":
        (state.tree / "sub/deep").mkdir(parents=True)
    state.scan(state.tree / where)
    assert state.states() == {"sub/deep/a": "gone"}


def test_a_match_is_gone_if_its_place_has_no_file(state: State) -> None:
    (state.tree / FILE).unlink()
    (state.tree / FILE).symlink_to("/nowhere")
    state.scan()
    assert state.states() == {"sub/deep/a": "gone"}


@pytest.mark.parametrize("moved", ["sub/deep/a", "sub/deep"])
def test_a_moved_file_that_a_link_leads_to_is_not_gone(state: State, moved: str) -> None:
    (state.tree / moved).rename(state.tree.parent / "moved")
    (state.tree / moved).symlink_to(state.tree.parent / "moved")
    state.scan()
    assert state.states() == {"sub/deep/a": "found"}
    # A scan that follows the link continues the match at the real path of the file.
    state.scan("--follow-symlinks", state.tree)
    (path,) = state.states()
    assert path.startswith(str(state.tree.parent / "moved")) and story(state) == ["found"]


def other_tree(state: State) -> None:
    state.scan(write_tree(state.tree.parent / "other", {"x": b"x"}))


def beside(state: State) -> None:
    state.scan(state.tree / "sub/b")


def excluded_name(state: State) -> None:
    state.scan("--exclude", "a", state.tree)


def excluded_folder(state: State) -> None:
    state.scan("--exclude", "*/deep", state.tree)


def names(state: State) -> None:
    found = run(
        *("--state-dir", state.path, "scan", "--files-from", "-"),
        stdin=os.fsencode(state.tree / "sub/b"),
    )
    assert found.code == 0


def unreadable(state: State) -> None:
    (state.tree / "sub/deep").chmod(0)
    found = run("--state-dir", state.path, "scan", state.tree, unprivileged=True)
    (state.tree / "sub/deep").chmod(0o700)
    assert found.code == 3


@pytest.mark.sampled
@pytest.mark.parametrize(
    "scan", [other_tree, beside, excluded_name, excluded_folder, names, unreadable]
)
def test_a_scan_that_has_not_covered_it_says_nothing(
    state: State, scan: Callable[[State], None]
) -> None:
    (state.tree / FILE).unlink()
    scan(state)
    assert state.states() == {"sub/deep/a": "found"}


def test_another_file_system_or_folder_in_its_place_says_nothing(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state.tree / FILE).unlink()
    real = Mounts.standing_of

    def elsewhere(self: Mounts, fd: int, rest: bytes = b"") -> str | None:
        standing = real(self, fd, rest)
        assert standing is not None
        return " ".join([standing.split()[0], "another-one"])

    monkeypatch.setattr(Mounts, "standing_of", elsewhere)
    state.scan()
    assert state.states() == {"sub/deep/a": "found"}
    monkeypatch.setattr(Mounts, "standing_of", lambda *_: None)
    state.scan()
    assert state.states() == {"sub/deep/a": "found"}
    monkeypatch.undo()
    state.scan()
    assert state.states() == {"sub/deep/a": "gone"}


def test_files_on_an_unmounted_share_are_not_gone(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state.tree / FILE).unlink()
    monkeypatch.setattr(Mounts, "look", lambda *_, **__: "not mounted: a file system was here")
    assert state.scan().code == 3
    assert state.states() == {"sub/deep/a": "found"}


def test_places_are_the_same_if_folder_and_some_name_are() -> None:
    place = Place("/a", "inner one two")
    assert place.is_at("inner two three")
    assert not place.is_at("other one two")
    assert not place.is_at("inner three")
    assert not place.is_at("inner")
    assert not place.is_at(None)
    assert not Place("/a").is_at("inner one")


def test_too_much_trouble_says_nothing(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    (state.tree / FILE).unlink()
    monkeypatch.setattr(trees, "MAX_COVERED", 1)
    link = state.tree / "link"
    # The name is too long for any file system, so the path is unread.
    link.symlink_to(f"{'x' * 300}")
    state.scan("--follow-symlinks", state.tree)
    assert state.states() == {"sub/deep/a": "found"}
    link.unlink()
    state.scan("--follow-symlinks", state.tree)
    assert state.states() == {"sub/deep/a": "gone"}


def test_an_interrupted_scan_says_nothing(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    (state.tree / FILE).unlink()
    real = Walk._advance

    def interrupted(self: Walk, frame: Frame) -> object:
        yield from real(self, frame)
        raise KeyboardInterrupt

    monkeypatch.setattr(Walk, "_advance", interrupted)
    assert state.scan().code == 130
    monkeypatch.undo()
    assert state.states() == {"sub/deep/a": "found"}


def test_a_closed_match_stays_closed_when_its_file_is_removed(state: State) -> None:
    (line,) = state.call("matches", "--format", "jsonl").lines
    assert state.call("matches", "close", line["id"], "--reason", "x").code == 0
    (state.tree / FILE).unlink()
    state.scan()
    assert state.states() == {"sub/deep/a": "closed"}


def test_a_match_whose_place_is_unknown_waits_until_a_scan_has_found_it_again(state: State) -> None:
    with sqlite3.connect(state.path / MATCHES_NAME) as db:
        db.execute("UPDATE match SET standing = NULL")
    db.close()
    data = (state.tree / FILE).read_bytes()
    (state.tree / FILE).unlink()
    state.scan()
    assert state.states() == {"sub/deep/a": "found"}
    (state.tree / FILE).write_bytes(data)
    state.scan()
    (state.tree / FILE).unlink()
    state.scan()
    assert state.states() == {"sub/deep/a": "gone"}


def test_a_log_that_cannot_be_written_leaves_it_found(state: State) -> None:
    (state.tree / FILE).unlink()
    audit = state.path / "audit"
    audit.rename(state.path / "elsewhere")
    audit.touch()
    assert state.scan().code == 9
    audit.unlink()
    (state.path / "elsewhere").rename(audit)
    assert state.states() == {"sub/deep/a": "found"}


@pytest.mark.slow
def test_hundreds_of_a_folder_and_names_of_any_bytes(state: State) -> None:
    for number in range(1100):
        (state.tree / f"sub/{number}").write_bytes(LISTED)
    odd = os.fsencode(state.tree) + b"/sub/\xff\n"
    Path(os.fsdecode(odd)).write_bytes(LISTED)
    state.scan()
    for number in range(1, 1100):
        (state.tree / f"sub/{number}").unlink()
    Path(os.fsdecode(odd)).unlink()
    assert state.scan().summary["gone"] == 1100
    kept = {path for path, state in state.states().items() if state == "found"}
    assert kept == {"sub/0", "sub/deep/a"}


@pytest.mark.parametrize("options", [("--follow-symlinks",), ()])
def test_a_file_that_a_link_leads_to_has_one_match_where_it_is(
    state: State, options: tuple[str, ...]
) -> None:
    (state.tree / "link").symlink_to("sub/deep/a")
    (state.tree.parent / "way").symlink_to("tree/sub")
    found = state.scan(*options, state.tree, state.tree.parent / "way", state.tree / "link")
    ids = {line["id"] for line in found.lines[:-1] if line["type"] == "match"}
    assert len(ids) == 1 and found.summary["match"] >= 3
    assert state.states() == {"sub/deep/a": "found"}
    assert story(state) == ["found"]


def test_a_match_on_record_by_a_link_comes_to_be_that_of_the_file(state: State) -> None:
    way = state.tree.parent / "way"
    way.symlink_to("tree/sub")
    with sqlite3.connect(state.path / MATCHES_NAME) as db:
        db.execute("UPDATE match SET path = ?", (os.fsencode(way / "deep/a"),))
    db.close()
    state.scan(way)
    assert state.states() == {"sub/deep/a": "found"}


def test_a_new_match_says_through_which_link_it_was_reached(tmp_path: Path) -> None:
    state = state_with_file(tmp_path)
    way = tmp_path / "way"
    way.symlink_to("tree/sub")
    (line, _) = state.scan(way).lines
    assert line["path"] == f"{way}/deep/a"
    shown = state.call("matches", "show", line["id"]).out
    assert f"  path        {(state.tree / FILE)}\n" in shown
    assert f"through: {way}/deep/a" in shown
