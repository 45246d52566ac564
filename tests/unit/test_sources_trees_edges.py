"""The trees of a scan at their edges: what counts as covered, and how given paths are named."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources import interface
from hashclient.scan.sources import trees as module
from hashclient.scan.sources.listing import Lister
from hashclient.scan.sources.trees import Coverage, Tree, Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Group
from tests.kit import write_tree


@pytest.mark.parametrize("count", [1, 2, 3])
def test_so_many_trees_are_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(module, "MAX_COVERED", 2)
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real")
    coverage = Coverage(ScanOptions())
    given = [str(tmp_path / name) for name in ("way", "real", "way")][:count]
    for tree in given:
        coverage.begin(tree)
    assert coverage.roots == [(tree, str(tmp_path / "real")) for tree in given[:2]]


def test_a_tree_without_a_path_is_not_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current directory was removed, so that nobody knows where the tree is."""
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")
    (tmp_path / "d").rmdir()
    coverage = Coverage(ScanOptions())
    coverage.begin("x")
    coverage.begin("/")
    assert coverage.roots == [("/", "/")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_after_too_many_directories_that_were_not_listed_none_counts_as_listed(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(module, "MAX_COVERED", 2)
    coverage = Coverage(ScanOptions())
    assert not coverage.has_failed("/0")
    for number in range(count):
        coverage.fail(f"/{number}")
        coverage.fail(f"/{number}")
    assert coverage.has_failed("/0")
    assert coverage.has_failed("/other") is (count >= 2)


def test_only_what_is_unread_was_not_listed() -> None:
    coverage = Coverage(ScanOptions())
    for kind in Kind:
        coverage.note(Outcome(kind, f"/{kind}"))
    coverage.note(Group("/group", ["f"], follow=False))
    assert [kind for kind in Kind if coverage.has_failed(f"/{kind}")] == [Kind.UNREAD]
    assert not coverage.has_failed("/group")


@pytest.mark.parametrize("one", [False, True])
def test_coverage_knows_the_options(one: bool) -> None:
    plain = Coverage(ScanOptions(one_file_system=one))
    assert plain.one_file_system is one
    assert not plain.excludes("/srv", "a.tmp")
    some = Coverage(ScanOptions(exclude=("*.tmp", "/srv/b")))
    assert [some.excludes("/srv", name) for name in ("a.tmp", "b", "c")] == [True, True, False]


def test_each_given_path_is_a_tree_a_file_or_an_outcome(tmp_path: Path) -> None:
    write_tree(tmp_path, {"d/f": b"x", "f": b"y"})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "way").symlink_to("d")
    (tmp_path / "to").symlink_to("f")
    paths = [f"{tmp_path}/{name}" for name in ("d///", "way", "f", "to", "pipe", "no")]
    directory, inode = (tmp_path / "d").stat(), (tmp_path / "f").stat().st_ino
    identity, top = (directory.st_dev, directory.st_ino), Path("/").stat()
    given = Trees([*paths, "//"], ScanOptions())
    assert given.arguments == [*paths, "//"]
    assert list(given.given()) == [
        Tree(f"{tmp_path}/d", identity),
        Tree(f"{tmp_path}/way", identity),
        Group(str(tmp_path), ["f"], follow=True, inodes=array("Q", [inode])),
        Group(str(tmp_path), ["to"], follow=True, inodes=array("Q", [inode])),
        Outcome(Kind.SKIPPED, f"{tmp_path}/pipe", reason="named pipe"),
        Outcome(Kind.UNREAD, f"{tmp_path}/no", reason="no such file or directory"),
        Tree("/", (top.st_dev, top.st_ino)),
    ]


def test_a_file_is_no_tree_and_a_directory_that_is_unread_is_none_that_was_listed(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"d/f": b"x", "f": b"y"})
    given = Trees([f"{tmp_path}/d", f"{tmp_path}/f", f"{tmp_path}/no"], ScanOptions())
    (task, unread) = sorted(given.batches(), key=lambda item: isinstance(item, Outcome))
    assert [group.directory for group in task] == [f"{tmp_path}/d", str(tmp_path)]  # type: ignore[union-attr]
    assert isinstance(unread, Outcome) and unread.kind is Kind.UNREAD
    assert given.coverage.roots == [(f"{tmp_path}/d", f"{tmp_path}/d")]
    assert not given.coverage.has_failed(f"{tmp_path}/no")


class Noted:
    """Replaces the notes for the second look at directories."""

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.lost: set[int] = set()
        self.is_closed = False

    def found(self, _: object) -> Iterator[Any]:
        for item in self.items:
            if isinstance(item, OSError):
                raise item
            yield item

    def close(self) -> None:
        self.is_closed = True


def again(*items: Any) -> tuple[Trees, Noted, list[Any]]:
    given, noted = Trees(["/a", "/b"], ScanOptions()), Noted(*items)
    given._again = noted  # type: ignore[assignment]
    return given, noted, list(given.again())


def test_what_is_found_at_the_second_look_is_checked_before_the_next_look() -> None:
    one, two, three = (Group(f"/a/{n}", ["f"], follow=False) for n in range(3))
    unread = Outcome(Kind.UNREAD, "/a/x", reason="no")
    given, _, items = again(one, unread, two, None, None, three, None)
    assert items == [unread, [one, two], [three]]
    assert given.coverage.has_failed("/a/x") and not given.coverage.has_failed("/a")


def test_notes_that_cannot_be_read_make_all_trees_unread() -> None:
    given, _, items = again(OSError(5, "broken"))
    assert items == [Outcome(Kind.UNREAD, path, reason="broken") for path in ("/a", "/b")]
    assert [given.coverage.has_failed(path) for path in ("/a", "/b", "/c")] == [True, True, False]


@pytest.mark.parametrize("has_mounts", [False, True])
def test_closing_saves_the_file_systems_and_deletes_the_notes(has_mounts: bool) -> None:
    saved: list[str] = []
    mounts: Any = SimpleNamespace(save=lambda: saved.append("saved")) if has_mounts else None
    given, noted = Trees([], ScanOptions(), mounts), Noted()
    given._again = noted  # type: ignore[assignment]
    given.lose([3, 4])
    given.lose([4])
    given.close()
    assert (noted.lost, noted.is_closed, saved) == ({3, 4}, True, ["saved"] * has_mounts)


def test_threads_may_list_when_the_workers_are_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that asks for the task after the second has forked its workers."""
    allowed: list[bool] = []

    class Noting(Lister):
        may_thread = property(lambda _: False, lambda _, value: allowed.append(value))

    monkeypatch.setattr(module, "Lister", Noting)
    monkeypatch.setattr(interface, "TASK_S", 0.0)
    write_tree(tmp_path, {f"{n}/f": b"" for n in range(4)})
    tasks = list(Trees([str(tmp_path)], ScanOptions()).batches())
    assert (len(tasks), allowed) == (4, [False, False, True, True, True])


def test_sources_come_one_after_the_other_and_are_closed_together() -> None:
    closed: list[str] = []

    def source(name: str) -> Any:
        return SimpleNamespace(
            arguments=[name, "x"],
            batches=lambda: iter([Outcome(Kind.SKIPPED, f"/{name}")]),
            close=lambda: closed.append(name),
        )

    several = interface.Several([source("a"), source("b")])
    assert several.arguments == ["a", "x", "b", "x"]
    assert list(several.batches()) == [Outcome(Kind.SKIPPED, "/a"), Outcome(Kind.SKIPPED, "/b")]
    assert closed == []
    several.close()
    assert closed == ["a", "b"]
