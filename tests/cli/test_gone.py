"""Matches whose files are away: what a scan has to have seen before it says so."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from hashclient.audit import log
from hashclient.client import Client
from hashclient.core.match import Place
from hashclient.scan.sources import files
from hashclient.scan.sources.mounts import Mounts
from hashclient.status.prometheus import render
from hashclient.system.layout import MATCHES_NAME
from tests.support import Result, call, csv_of, make_state, run, write_tree

LISTED = b"listed, and soon away"


class World:
    """A state directory, and a tree with a listed file in `sub/deep`."""

    def __init__(self, directory: Path) -> None:
        self.state = make_state(directory, {"base": csv_of({"e-1": LISTED})})
        self.tree = write_tree(directory / "tree", {"sub/deep/a": LISTED, "sub/b": b"clean"})
        self.file = self.tree / "sub/deep/a"

    def call(self, *args: object) -> Result:
        return call("--state-dir", self.state, *args)

    def scan(self, *args: object) -> Result:
        return self.call("scan", "--format", "jsonl", *(args or (self.tree,)))

    def states(self) -> dict[str, str]:
        lines = self.call("matches", "--format", "jsonl").lines
        return {line["path"].removeprefix(f"{self.tree}/"): line["state"] for line in lines}

    def story(self) -> list[str]:
        (line,) = self.call("matches", "--format", "jsonl").lines
        shown = self.call("matches", "show", line["id"], "--format", "json").out
        return [step["event"] for step in json.loads(shown)["story"]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    assert world.scan().code == 10
    return world


def test_a_file_that_was_deleted_is_gone_and_found_again_when_it_is_back(world: World) -> None:
    world.file.unlink()
    result = world.scan()
    assert (result.code, result.summary["gone"]) == (0, 1)
    assert result.err == "1 match of earlier scans is gone: `hashclient matches --state gone`\n"
    assert world.states() == {"sub/deep/a": "gone"}
    (event,) = log.read(world.state / "audit", event="gone")
    assert event.data["path"] == str(world.file) and event.sig is not None
    (end,) = log.read(world.state / "audit", event="scan-end", limit=1)
    assert end.data["gone"] == 1
    # Said once; and a scan that finds it again goes on with the same match.
    assert world.scan().summary["gone"] == 0
    world.file.write_bytes(LISTED)
    assert world.scan().summary["match"] == 1
    assert world.story() == ["found", "gone", "found"]
    assert world.states() == {"sub/deep/a": "found"}


def test_status_and_its_metrics_follow(world: World) -> None:
    world.file.unlink()
    world.scan()
    metrics = render(Client(world.state).status())
    assert 'hashclient_matches{state="found"} 0.0' in metrics
    assert 'hashclient_matches{state="gone"} 1.0' in metrics


@pytest.mark.parametrize("where", ["sub/deep", "sub", "."])
def test_it_is_gone_with_its_folder_if_the_scan_has_covered_that(world: World, where: str) -> None:
    (world.tree / "sub").rename(world.tree.parent / "moved")
    if where == "sub":
        (world.tree / "sub").mkdir()
    elif where == "sub/deep":
        (world.tree / "sub/deep").mkdir(parents=True)
    world.scan(world.tree / where)
    assert world.states() == {"sub/deep/a": "gone"}


def test_what_took_its_place_is_no_file(world: World) -> None:
    world.file.unlink()
    world.file.symlink_to("/nowhere")
    world.scan()
    assert world.states() == {"sub/deep/a": "gone"}


@pytest.mark.parametrize("moved", ["sub/deep/a", "sub/deep"])
def test_what_was_moved_and_is_reached_by_a_link_is_not_gone(world: World, moved: str) -> None:
    (world.tree / moved).rename(world.tree.parent / "moved")
    (world.tree / moved).symlink_to(world.tree.parent / "moved")
    world.scan()
    assert world.states() == {"sub/deep/a": "found"}
    # A scan that follows the link goes on with the same match, where the file is.
    world.scan("--follow-symlinks", world.tree)
    (path,) = world.states()
    assert path.startswith(str(world.tree.parent / "moved")) and world.story() == ["found"]


def other_tree(world: World) -> None:
    world.scan(write_tree(world.tree.parent / "other", {"x": b"x"}))


def beside(world: World) -> None:
    world.scan(world.tree / "sub/b")


def excluded_name(world: World) -> None:
    world.scan("--exclude", "a", world.tree)


def excluded_folder(world: World) -> None:
    world.scan("--exclude", "*/deep", world.tree)


def names(world: World) -> None:
    found = run(
        *("--state-dir", world.state, "scan", "--files-from", "-"),
        stdin=os.fsencode(world.tree / "sub/b"),
    )
    assert found.code == 0


def unreadable(world: World) -> None:
    (world.tree / "sub/deep").chmod(0)
    found = run("--state-dir", world.state, "scan", world.tree, unprivileged=True)
    (world.tree / "sub/deep").chmod(0o700)
    assert found.code == 3


@pytest.mark.parametrize(
    "scan", [other_tree, beside, excluded_name, excluded_folder, names, unreadable]
)
def test_a_scan_that_has_not_covered_it_says_nothing(
    world: World, scan: Callable[[World], None]
) -> None:
    world.file.unlink()
    scan(world)
    assert world.states() == {"sub/deep/a": "found"}


def test_another_file_system_or_folder_in_its_place_says_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.file.unlink()
    real = Mounts.standing_of

    def elsewhere(self: Mounts, fd: int, rest: bytes = b"") -> str | None:
        standing = real(self, fd, rest)
        assert standing is not None
        return " ".join([standing.split()[0], "another-one"])

    monkeypatch.setattr(Mounts, "standing_of", elsewhere)
    world.scan()
    assert world.states() == {"sub/deep/a": "found"}
    monkeypatch.setattr(Mounts, "standing_of", lambda *_: None)
    world.scan()
    assert world.states() == {"sub/deep/a": "found"}
    monkeypatch.undo()
    world.scan()
    assert world.states() == {"sub/deep/a": "gone"}


def test_what_is_not_mounted_has_lost_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.file.unlink()
    monkeypatch.setattr(Mounts, "look", lambda *_, **__: "not mounted: a file system was here")
    assert world.scan().code == 3
    assert world.states() == {"sub/deep/a": "found"}


def test_places_are_the_same_if_folder_and_some_name_are() -> None:
    place = Place("/a", "inner one two")
    assert place.is_at("inner two three")
    assert not place.is_at("other one two")
    assert not place.is_at("inner three")
    assert not place.is_at("inner")
    assert not place.is_at(None)
    assert not Place("/a").is_at("inner one")


def test_too_much_trouble_says_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.file.unlink()
    monkeypatch.setattr(files, "MAX_COVERED", 1)
    link = world.tree / "link"
    link.symlink_to(f"{'x' * 300}")  # a name that no file system takes: unread
    world.scan("--follow-symlinks", world.tree)
    assert world.states() == {"sub/deep/a": "found"}
    link.unlink()
    world.scan("--follow-symlinks", world.tree)
    assert world.states() == {"sub/deep/a": "gone"}


def test_an_interrupted_scan_says_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.file.unlink()
    real = files._Tree._advance

    def interrupted(self: files._Tree, frame: files._Frame) -> object:
        yield from real(self, frame)
        raise KeyboardInterrupt

    monkeypatch.setattr(files._Tree, "_advance", interrupted)
    assert world.scan().code == 130
    monkeypatch.undo()
    assert world.states() == {"sub/deep/a": "found"}


def test_what_is_dealt_with_stays_as_it_is(world: World) -> None:
    (line,) = world.call("matches", "--format", "jsonl").lines
    assert world.call("matches", "close", line["id"], "--reason", "x").code == 0
    world.file.unlink()
    world.scan()
    assert world.states() == {"sub/deep/a": "closed"}


def test_a_match_of_an_earlier_version_waits_until_its_place_is_known(world: World) -> None:
    with sqlite3.connect(world.state / MATCHES_NAME) as db:
        db.execute("UPDATE match SET standing = NULL")
    db.close()
    data = world.file.read_bytes()
    world.file.unlink()
    world.scan()
    assert world.states() == {"sub/deep/a": "found"}
    world.file.write_bytes(data)
    world.scan()
    world.file.unlink()
    world.scan()
    assert world.states() == {"sub/deep/a": "gone"}


def test_a_log_that_cannot_be_written_leaves_it_found(world: World) -> None:
    world.file.unlink()
    audit = world.state / "audit"
    audit.rename(world.state / "elsewhere")
    audit.touch()
    assert world.scan().code == 9
    audit.unlink()
    (world.state / "elsewhere").rename(audit)
    assert world.states() == {"sub/deep/a": "found"}


def test_hundreds_of_a_folder_and_names_of_any_bytes(world: World) -> None:
    for number in range(1100):
        (world.tree / f"sub/{number}").write_bytes(LISTED)
    odd = os.fsencode(world.tree) + b"/sub/\xff\n"
    Path(os.fsdecode(odd)).write_bytes(LISTED)
    world.scan()
    for number in range(1, 1100):
        (world.tree / f"sub/{number}").unlink()
    Path(os.fsdecode(odd)).unlink()
    assert world.scan().summary["gone"] == 1100
    kept = {path for path, state in world.states().items() if state == "found"}
    assert kept == {"sub/0", "sub/deep/a"}


@pytest.mark.parametrize("options", [("--follow-symlinks",), ()])
def test_a_file_that_a_link_leads_to_has_one_match_where_it_is(
    world: World, options: tuple[str, ...]
) -> None:
    (world.tree / "link").symlink_to("sub/deep/a")
    (world.tree.parent / "way").symlink_to("tree/sub")
    found = world.scan(*options, world.tree, world.tree.parent / "way", world.tree / "link")
    ids = {line["id"] for line in found.lines[:-1] if line["type"] == "match"}
    assert len(ids) == 1 and found.summary["match"] >= 3
    assert world.states() == {"sub/deep/a": "found"}
    assert world.story() == ["found"]


def test_a_match_on_record_by_a_link_comes_to_be_that_of_the_file(world: World) -> None:
    way = world.tree.parent / "way"
    way.symlink_to("tree/sub")
    with sqlite3.connect(world.state / MATCHES_NAME) as db:
        db.execute("UPDATE match SET path = ?", (os.fsencode(way / "deep/a"),))
    db.close()
    world.scan(way)
    assert world.states() == {"sub/deep/a": "found"}


def test_a_new_match_says_through_which_link_it_was_reached(tmp_path: Path) -> None:
    world = World(tmp_path)
    way = tmp_path / "way"
    way.symlink_to("tree/sub")
    (line, _) = world.scan(way).lines
    assert line["path"] == f"{way}/deep/a"
    shown = world.call("matches", "show", line["id"]).out
    assert f"  path        {world.file}\n" in shown
    assert f"through: {way}/deep/a" in shown
