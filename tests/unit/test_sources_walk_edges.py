"""The walk of a tree at its edges: closed directories, links, moved directories, and its base."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources import walk as module
from hashclient.scan.sources.frame import Frame
from hashclient.scan.sources.frontier import Frontier
from hashclient.scan.sources.listing import Chunk, Lister, Listing, Open, typed
from hashclient.scan.sources.walk import Walk
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import MOVED, Group, Item, Start, join
from tests.kit import open_files, wait_until, write_tree


class Ordered(Lister):
    """Reads the entries of a directory in the order of their names, `size` entries at a time."""

    def __init__(self, size: int = 99) -> None:
        super().__init__()
        self.size = size

    def read(self, fd: int) -> Iterator[Chunk]:
        with os.scandir(fd) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for at in range(0, len(entries), self.size):
            yield typed(entries[at : at + self.size])


class Waiting(Ordered):
    """A lister that treats each step as slow."""

    is_slow = property(lambda _: True, lambda _, __: None)


def walk_of(lister: Lister | None = None, *, frontier: Any = None, **how: Any) -> Walk:
    base = how.pop("base", "")
    options = ScanOptions(**how)
    return Walk(frontier or Frontier(options), options, lister or Ordered(), base=base)


def walked(items: Iterator[Item]) -> tuple[list[str], list[tuple[str, Kind, str | None]]]:
    """Return the listed files and all outcomes, in their order."""
    files: list[str] = []
    outcomes: list[tuple[str, Kind, str | None]] = []
    for item in items:
        if isinstance(item, Group):
            files += [join(item.directory, name) for name in item.names]
        else:
            assert isinstance(item, Outcome)
            outcomes.append((item.path, item.kind, item.reason))
    return files, outcomes


def chain(tree: Path, depth: int, files: dict[str, bytes]) -> list[Path]:
    """Make directories called `m`, one in the other, each with these files."""
    made = []
    for _ in range(depth):
        tree = tree / "m"
        made.append(write_tree(tree, files))
    return made


def test_at_most_32_directories_are_open_between_two_steps(tmp_path: Path) -> None:
    counts: list[int] = []

    class Counting(Frontier):
        def takes(self, path: str, inode: int, above: Frame) -> None:
            counts.append(sum(frame.fd is not None for frame in walk._stack))

    chain(tmp_path, 36, {})
    walk = walk_of(frontier=Counting(ScanOptions()))
    assert walked(walk.walk(str(tmp_path))) == ([], [])
    assert counts == [*range(1, 33), 32, 32, 32, 32]


def test_a_deep_walk_that_is_given_up_leaves_nothing_open(tmp_path: Path) -> None:
    (chain(tmp_path, 40, {})[-1] / "link").symlink_to("nowhere")
    gc.collect()
    before = open_files()
    items = walk_of().walk(str(tmp_path))
    assert isinstance(next(items), Outcome)
    items.close()  # type: ignore[attr-defined]
    assert open_files() == before


@pytest.mark.parametrize("size", [1, 2, 99])
def test_what_is_left_of_a_closed_directory_is_excluded_once_and_listed_once(
    tmp_path: Path, size: int
) -> None:
    names = ("y", "z.tmp", "n/x", "n/z.tmp", "zz/x")
    directories = chain(tmp_path, 36, dict.fromkeys(names, b""))
    files, outcomes = walked(walk_of(Ordered(size), exclude=("*.tmp",)).walk(str(tmp_path)))
    expected = [f"{one}/{name}" for one in directories for name in ("y", "n/x", "zz/x")]
    assert sorted(files) == sorted(expected)
    left = [f"{one}/{name}" for one in directories for name in ("z.tmp", "n/z.tmp")]
    assert sorted(outcomes) == sorted((path, Kind.SKIPPED, "excluded") for path in left)


def test_files_come_before_the_end_of_a_slow_directory(tmp_path: Path) -> None:
    write_tree(tmp_path, dict.fromkeys("abcde", b""))
    items = walk_of(Waiting(2)).walk(str(tmp_path))
    assert [item.names for item in items if isinstance(item, Group)] == [
        *(["a", "b"], ["c", "d"]),
        ["e"],
    ]


def test_each_directory_that_was_read_ahead_is_taken(tmp_path: Path) -> None:
    taken: list[object] = []

    class Taking(Waiting):
        def take(self, listing: Listing) -> tuple[Open, Iterator[Chunk]] | None:
            taken.append(listing)
            return super().take(listing)

    write_tree(tmp_path, dict.fromkeys(("a/f", "b/f", "c/f"), b""))
    lister, before = Taking(), open_files()
    lister.may_thread = True
    try:
        files, _ = walked(walk_of(lister).walk(str(tmp_path)))
    finally:
        lister.close()
    assert (files, len(taken)) == ([f"{tmp_path}/{name}/f" for name in "abc"], 3)
    wait_until(lambda: open_files() == before, os.getpid())


def test_the_inode_of_a_followed_file_is_unknown(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": b"", "t/b": b""})
    (tmp_path / "t/link").symlink_to("../a")
    status, inode = (tmp_path / "t").stat(), (tmp_path / "t/b").stat().st_ino
    identity, inodes = (status.st_dev, status.st_ino), array("Q", [inode, 0])
    items = list(walk_of(follow_symlinks=True).walk(f"{tmp_path}/t"))
    assert items == [Group(f"{tmp_path}/t", ["b", "link"], True, identity, inodes)]


def test_a_link_that_cannot_be_followed_is_unread(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x" * 300)
    files, outcomes = walked(walk_of(follow_symlinks=True).walk(str(tmp_path)))
    assert (files, outcomes) == ([], [(f"{tmp_path}/link", Kind.UNREAD, "file name too long")])


def test_a_link_that_leads_elsewhere_than_a_moment_ago_is_not_followed(tmp_path: Path) -> None:
    write_tree(tmp_path, {"one/f": b"", "other/f": b"", "t/g": b""})
    link = tmp_path / "t" / "link"
    link.symlink_to("../one")

    class Exchanging(Frontier):
        def follows(self, *given: Any) -> bool:
            link.unlink()
            link.symlink_to("../other")
            return super().follows(*given)

    options = ScanOptions(follow_symlinks=True)
    before = open_files()
    walk = walk_of(frontier=Exchanging(options), follow_symlinks=True)
    assert walked(walk.walk(f"{tmp_path}/t")) == (
        [f"{tmp_path}/t/g"],
        [(str(link), Kind.UNREAD, MOVED)],
    )
    assert open_files() == before


@pytest.mark.parametrize("how", ["refused", "left", "entered with an outcome"])
def test_a_directory_that_is_not_entered_is_closed(tmp_path: Path, how: str) -> None:
    write_tree(tmp_path, {"a/f": b"", "g": b""})
    place = f"{tmp_path}/a"
    item: Any = Start(os.fsencode(place)) if how == "left" else Outcome(Kind.SKIPPED, place)

    class Deciding(Frontier):
        def is_border(self, *_: object) -> bool:
            return how != "left"

        def cross(self, *_: object) -> tuple[bool, Any]:
            return how != "refused", item

        def bounded(self, path: str, inode: int, above: Any, chunks: Any) -> Any:
            return item if how == "left" and path == place else chunks

    before = open_files()
    items = list(walk_of(frontier=Deciding(ScanOptions())).walk(str(tmp_path)))
    groups = [one for one in items if isinstance(one, Group)]
    directories = ["a", ""] if how.startswith("entered") else [""]
    assert [group.directory for group in groups] == [
        f"{tmp_path}/{name}".rstrip("/") for name in directories
    ]
    assert [one for one in items if not isinstance(one, Group)] == [item]
    assert open_files() == before


@pytest.mark.parametrize(
    ("changes", "is_listed"),
    [
        ({}, False),
        ({"inode": 5}, True),
        ({"device": 8}, True),
        ({"differing": {8}}, False),
        ({"differing": {7}}, True),
        ({"is_mount": True}, True),
    ],
)
def test_an_opened_directory_may_be_the_listed_one(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], is_listed: bool
) -> None:
    """Another inode is right at a mount, or where directories show other inodes."""
    monkeypatch.setattr(module, "is_mount_root", lambda _: changes.get("is_mount", False))
    walk = walk_of()
    walk._differing = changes.get("differing", set())
    status: Any = SimpleNamespace(st_ino=changes.get("inode", 6), st_dev=changes.get("device", 7))
    frame: Any = SimpleNamespace(status=SimpleNamespace(st_dev=7))
    assert walk._is_listed(3, status, frame, 5) is is_listed


@pytest.mark.parametrize(
    ("device", "inode", "is_mount", "reason"),
    [
        (0, 0, False, None),
        (None, 0, False, None),
        (1, 0, False, MOVED),
        (0, 1, False, MOVED),
        (None, 1, False, MOVED),
        (0, 1, True, None),
    ],
)
def test_a_tree_that_was_exchanged_is_unread_and_the_other_is_walked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: int | None,
    inode: int,
    is_mount: bool,
    reason: str | None,
) -> None:
    """Opening a directory may mount a file system, so that its identity differs."""
    monkeypatch.setattr(module, "is_mount_root", lambda _: is_mount)
    status = write_tree(tmp_path, {"f": b""}).stat()
    identity = None if device is None else status.st_dev + device, status.st_ino + inode
    files, outcomes = walked(walk_of().walk(str(tmp_path), identity))
    assert files == [f"{tmp_path}/f"]
    assert outcomes == ([(str(tmp_path), Kind.UNREAD, reason)] if reason else [])


def test_an_objection_to_a_tree_is_its_only_outcome(tmp_path: Path) -> None:
    class Objecting(Frontier):
        def begin(self, path: str, fd: int, status: os.stat_result) -> Outcome:
            return Outcome(Kind.UNREAD, path, reason="not mounted")

    write_tree(tmp_path, {"f": b""})
    walk = walk_of(frontier=Objecting(ScanOptions()))
    assert walked(walk.walk(str(tmp_path), (1, 1))) == (
        [f"{tmp_path}/f"],
        [(str(tmp_path), Kind.UNREAD, "not mounted")],
    )


@pytest.mark.parametrize("follow", [True, False])
def test_a_tree_may_be_a_link_if_the_caller_says_so(tmp_path: Path, follow: bool) -> None:
    write_tree(tmp_path, {"t/f": b""})
    link = tmp_path / "link"
    link.symlink_to("t")
    expected = (
        ([f"{link}/f"], []) if follow else ([], [(str(link), Kind.UNREAD, "not a directory")])
    )
    assert walked(walk_of().walk(str(link), follow=follow)) == expected


def moving(monkeypatch: pytest.MonkeyPatch, act: Any) -> list[str]:
    """Call `act` with each name before the directory is opened; return the names."""
    opens, names = Lister.open, list[str]()

    def opened(lister: Lister, fd: int, name: str, *, follow: bool) -> Open:
        names.append(name)
        act(name)
        return opens(lister, fd, name, follow=follow)

    monkeypatch.setattr(Lister, "open", opened)
    return names


def test_a_directory_whose_name_another_of_its_parent_has_now_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"d/f": b"", "e/g": b""})

    def act(name: str) -> None:
        if name == "d" and (tmp_path / "e").exists():
            shutil.rmtree(tmp_path / "d")
            (tmp_path / "e").rename(tmp_path / "d")

    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)  # each file is older than the scan
    moving(monkeypatch, act)
    files, outcomes = walked(walk_of().walk(str(tmp_path)))
    assert (set(files), outcomes) == ({f"{tmp_path}/d/g"}, [])


def test_a_directory_that_changes_its_name_each_time_is_looked_for_twelve_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"d/f": b"", "e/g": b""})
    inode, aside = (tmp_path / "d").stat().st_ino, tmp_path / "aside"

    def act(name: str) -> None:
        if len(names) <= 13 and (tmp_path / name).stat().st_ino == inode:
            (tmp_path / "d").rename(aside)
            (tmp_path / "e").rename(tmp_path / "d")
            aside.rename(tmp_path / "e")

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    names = moving(monkeypatch, act)
    before = open_files()
    walk = walk_of()
    files, outcomes = walked(walk.walk(str(tmp_path)))
    assert outcomes == [(f"{tmp_path}/d", Kind.UNREAD, MOVED)]
    assert [os.path.basename(path) for path in files] == ["g"]  # noqa: PTH119
    assert (len(names[:13]), slept, walk._differing) == (13, [0.02], set())
    assert open_files() == before


@pytest.mark.parametrize(
    ("number", "opens", "reason"),
    [(errno.EACCES, 2, "permission denied"), (errno.ENOENT, 13, "no such file or directory")],
)
def test_a_moved_directory_that_cannot_be_opened_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, opens: int, reason: str
) -> None:
    write_tree(tmp_path, {"d/f": b"", "g": b""})

    def act(name: str) -> None:
        if name == "d":
            (tmp_path / "d").rename(tmp_path / "x")
        else:
            raise OSError(number, os.strerror(number))

    names = moving(monkeypatch, act)
    assert walked(walk_of().walk(str(tmp_path))) == (
        [f"{tmp_path}/g"],
        [(f"{tmp_path}/d", Kind.UNREAD, reason)],
    )
    assert names == ["d", *["x"] * (opens - 1)]


@pytest.mark.parametrize("size", [1, 99])
def test_paths_may_be_relative_to_a_base(tmp_path: Path, size: int) -> None:
    """The paths of the items have no base, and closed directories are found below the base."""
    directories = chain(tmp_path / "t", 36, {"s/x": b"", "y": b""})
    (directories[0] / "z").symlink_to("y")
    names = [str(one.relative_to(tmp_path)) for one in directories]
    walk = walk_of(Ordered(size), base=str(tmp_path), follow_symlinks=True)
    files, outcomes = walked(walk.walk("t"))
    expected = [f"{one}/{name}" for one in names for name in ("y", "s/x")] + [f"{names[0]}/z"]
    assert (sorted(files), outcomes) == (sorted(expected), [])
    files, _ = walked(walk_of(base="/nowhere").walk(f"{directories[-1]}"))
    assert files == [f"{directories[-1]}/s/x", f"{directories[-1]}/y"]


class Begun(Frontier):
    """Notes the directories from which it begins."""

    def __init__(self) -> None:
        super().__init__(ScanOptions())
        self.begun: list[tuple[str, int]] = []

    def begin(self, path: str, fd: int, status: os.stat_result) -> None:
        assert os.fstat(fd).st_ino == status.st_ino
        self.begun.append((path, status.st_ino))


@pytest.mark.parametrize("knows", ["both", "neither", "the directory", "its parent"])
@pytest.mark.parametrize("base", [True, False])
def test_a_listed_directory_is_walked_without_its_neighbours(
    tmp_path: Path, knows: str, base: bool
) -> None:
    tree = write_tree(tmp_path, {"t/d/f": b"", "t/d/in/g": b"", "t/e/h": b"", "t/i": b""})
    inode, above = (tree / "t/d").stat().st_ino, (tree / "t").stat().st_ino
    given = inode * (knows in ("both", "the directory")), above * (knows in ("both", "its parent"))
    top = "t" if base else f"{tree}/t"
    frontier, before = Begun(), open_files()
    walk = walk_of(frontier=frontier, base=str(tree) if base else "")
    assert walked(walk.walk_listed(f"{top}/d", *given)) == ([f"{top}/d/in/g", f"{top}/d/f"], [])
    assert frontier.begun == [(top, above)]
    assert open_files() == before


@pytest.mark.parametrize(
    ("act", "files", "reason"),
    [
        ("rename", ["t/x/f"], None),
        ("rename the parent", ["t/d/f"], None),
        ("remove", [], "no such file or directory"),
        ("remove the parent", [], "no such file or directory"),
        ("replace the parent", [], MOVED),
        ("replace by a link", [], "not a directory"),
    ],
)
def test_a_listed_directory_is_found_again(
    tmp_path: Path, act: str, files: list[str], reason: str | None
) -> None:
    tree = write_tree(tmp_path / "all", {"t/d/f": b"", "e/h": b""})
    inode, above = (tree / "t/d").stat().st_ino, (tree / "t").stat().st_ino
    if act == "rename":
        (tree / "t/d").rename(tree / "t/x")
        write_tree(tree, {"t/d/new": b""})
    elif act == "rename the parent":
        (tree / "t").rename(tree / "u")
        (tree / "t").mkdir()
    elif act == "remove":
        shutil.rmtree(tree / "t/d")
    elif act == "replace by a link":
        (tree / "t/d").rename(tree / "x")
        (tree / "t/d").symlink_to("../e")
    else:
        (tree / "t").rename(tmp_path / "away")
        if act.startswith("replace"):
            write_tree(tree, {"t/d/f": b""})
    before = open_files()
    found = walked(walk_of().walk_listed(f"{tree}/t/d", inode, above))
    unread = [(f"{tree}/t/d", Kind.UNREAD, reason)] if reason else []
    assert found == ([f"{tree}/{name}" for name in files], unread)
    assert open_files() == before


def test_a_directory_that_vanished_before_its_end_is_unread_once(tmp_path: Path) -> None:
    class Failing(Ordered):
        def read(self, fd: int) -> Iterator[Chunk]:
            yield from super().read(fd)
            raise OSError(errno.EIO, "Broken")

    write_tree(tmp_path, {"f": b""})
    assert walked(walk_of(Failing()).walk(str(tmp_path))) == (
        [f"{tmp_path}/f"],
        [(str(tmp_path), Kind.UNREAD, "broken")],
    )
