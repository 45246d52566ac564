"""Which directories of a tree a scan enters: borders, links, patterns and kinds of files."""

from __future__ import annotations

import stat
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources.frontier import (
    OTHER_FILE_SYSTEM,
    Frontier,
    compile_excludes,
    kind_of,
)
from hashclient.scan.values.options import ScanOptions


class Mounts:
    """Replaces the record of mounts: it objects to some descriptors, and watches one path."""

    def __init__(self, **reasons: str) -> None:
        self.reasons = {int(fd[1:]): reason for fd, reason in reasons.items()}
        self.looked: list[tuple[int, bool]] = []

    def watched(self, path: str, fd: int) -> frozenset[str]:
        return frozenset({f"{path}/{fd}"})

    def look(self, fd: int, *, given: bool) -> str | None:
        self.looked.append((fd, given))
        return self.reasons.get(fd)


def status(device: int, inode: int = 1) -> Any:
    return SimpleNamespace(st_dev=device, st_ino=inode)


def unread(path: str, reason: str) -> Outcome:
    return Outcome(Kind.UNREAD, path, reason=reason)


@pytest.mark.parametrize("one", [False, True])
def test_a_tree_begins_whatever_its_record_says(one: bool) -> None:
    mounts: Any = Mounts(_3="was another file system")
    frontier = Frontier(ScanOptions(one_file_system=one), mounts)
    assert frontier.points == frozenset()
    assert frontier.begin("/t", 2, status(7)) is None
    assert frontier.begin("/t", 3, status(7)) == unread("/t", "was another file system")
    assert mounts.looked == [(2, True), (3, True)]
    # If the scan stays on one file system, mount points are not searched.
    assert frontier.points == (frozenset() if one else {"/t/3"})
    assert Frontier(ScanOptions()).begin("/t", 3, status(7)) is None


def test_a_border_is_another_device_or_a_point_that_is_watched() -> None:
    mounts: Any = Mounts()
    frontier = Frontier(ScanOptions(), mounts)
    frontier.begin("/t", 5, status(7))
    assert not frontier.is_border("/t/a", 9, status(7), status(7))
    assert frontier.is_border("/t/a", 9, status(8), status(7))
    assert frontier.is_border("/t/5", 9, status(7), status(7))
    assert not frontier.is_border("/t/5/a", 9, status(8), status(8))


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("has_record", [False, True])
def test_beyond_a_border_a_tree_goes_on_unless_it_stays_on_one_file_system(
    one: bool, has_record: bool
) -> None:
    mounts: Any = Mounts(_4="is not mounted") if has_record else None
    frontier = Frontier(ScanOptions(one_file_system=one), mounts)
    frontier.begin("/t", 2, status(7))
    for device, fd in ((7, 3), (7, 4), (8, 3), (8, 4)):
        is_beyond = one and device == 8
        assert frontier.is_beyond(status(device)) is is_beyond
        enters, outcome = frontier.cross("/t/m", fd, status(device))
        assert enters is not is_beyond
        if is_beyond:
            assert outcome == Outcome(Kind.SKIPPED, "/t/m", reason=OTHER_FILE_SYSTEM)
        elif has_record and fd == 4:
            assert outcome == unread("/t/m", "is not mounted")
        else:
            assert outcome is None
    if has_record:
        assert {given for fd, given in mounts.looked if fd != 2} == {False}


def test_before_a_tree_has_begun_every_device_is_beyond() -> None:
    assert Frontier(ScanOptions(one_file_system=True)).is_beyond(status(0))
    assert not Frontier(ScanOptions()).is_beyond(status(0))


def test_a_link_is_followed_once_and_never_to_where_the_walk_is() -> None:
    frontier = Frontier(ScanOptions())
    here: list[Any] = [SimpleNamespace(identity=(7, inode)) for inode in (1, 2)]
    assert [frontier.follows((7, inode), here) for inode in (1, 2, 3, 3)] == [
        *(False, False, True),
        False,
    ]
    assert frontier.follows((8, 3), here)
    assert frontier.follows((7, 1), [])  # the walk has left the directory `here`
    assert not frontier.follows((7, 1), [])


def test_a_frontier_here_leaves_nothing_to_others() -> None:
    frontier, above = Frontier(ScanOptions()), SimpleNamespace()
    chunks: Any = iter(())
    assert frontier.takes("/t/a", 5, above) is None  # type: ignore[arg-type]
    assert frontier.bounded("/t/a", 5, None, chunks) is chunks


@pytest.mark.parametrize(
    ("patterns", "directory", "name", "is_out"),
    [
        ((), "/t", "a", False),
        (("*.iso",), "/t", "a.iso", True),
        (("*.iso",), "/t", "a.iso.txt", False),
        (("*.iso",), "/t.iso", "a", False),
        (("a", "b"), "/t", "b", True),
        (("[ab]?",), "/t", "bx", True),
        (("A",), "/t", "a", False),
        (("/t/a",), "/t", "a", True),
        (("/t/a/",), "/t", "a", True),
        (("/t/a",), "/x/t", "a", False),
        (("/t/a",), "/t", "ab", False),
        (("/t/*",), "/t/x/y", "a", True),  # a star also matches slashes
        (("*/a",), "/t", "a", True),
        (("*/a",), "", "a", False),
        (("t/a", "x/b"), "x", "b", True),
        (("n", "t/a"), "t", "a", True),
        (("n", "t/a"), "t", "n", True),
        (("n", "t/a"), "t", "b", False),
        (("a",), "/t", "x\na", False),
        (("*a",), "/t", "x\na", True),
    ],
)
def test_a_pattern_is_for_names_or_with_a_slash_for_paths(
    patterns: tuple[str, ...], directory: str, name: str, is_out: bool
) -> None:
    assert compile_excludes(patterns)(directory, name) is is_out


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (stat.S_IFIFO, "named pipe"),
        (stat.S_IFSOCK, "socket"),
        (stat.S_IFBLK, "block device"),
        (stat.S_IFCHR, "character device"),
        (stat.S_IFLNK, "symbolic link"),
        (stat.S_IFDIR, "directory"),
        (stat.S_IFREG, "not a regular file"),
        (0, "not a regular file"),
    ],
)
def test_each_kind_of_file_has_a_name(mode: int, name: str) -> None:
    assert kind_of(mode | 0o644) == name
