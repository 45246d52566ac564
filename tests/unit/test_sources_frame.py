"""A directory in a walk: the notes about it, its remaining entries, and missed names."""

from __future__ import annotations

import os
import stat
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.scan.sources import frame as module
from hashclient.scan.sources.finding_again import Entry, MovedError, open_directory
from hashclient.scan.sources.frame import Frame, chunk_of, mark_of
from hashclient.scan.sources.listing import OF_ONE, Chunk
from hashclient.scan.values.work import NO_INODES
from tests.kit import write_tree

FILE, DIRECTORY, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


def chunk(*files: tuple[str, int], others: Sequence[Entry] = ()) -> Chunk:
    return Chunk(
        [name for name, _ in files], array("Q", [inode for _, inode in files]), list(others)
    )


def frame(path: Path, *chunks: Chunk, fd: int | None = None, **how: Any) -> Frame:
    return Frame(str(path), fd, path.stat(), how.pop("opened_ns", 0), iter(chunks), **how)


@pytest.fixture
def open_fd(tmp_path: Path) -> Iterator[int]:
    fd = open_directory(str(tmp_path))
    yield fd
    os.close(fd)


def test_how_many_names_are_kept() -> None:
    assert module.MOST_LISTED == 4_194_304
    assert module.AT_ONCE in (100, 0)


def test_a_mark_is_of_the_inode_and_for_a_directory_of_its_name_too() -> None:
    assert mark_of(("a", FILE, 7)) == mark_of(("b", LINK, 7)) == 7
    marks = {mark_of((name, DIRECTORY, inode)) for name in "ab" for inode in (7, 8)}
    assert len(marks) == 4
    array("Q", marks)  # each result of `mark_of` fits into 64 bits


def test_entries_are_divided_by_their_types() -> None:
    entries = [("a", FILE, 1), ("d", DIRECTORY, 2), ("b", FILE, 3), ("l", LINK, 4), ("x", 0, 5)]
    assert chunk_of(entries) == chunk(("a", 1), ("b", 3), others=[entries[1], *entries[3:]])
    assert chunk_of([]) == chunk()


@pytest.mark.parametrize("is_shared", [False, True])
def test_all_entries_are_noted_and_in_a_shared_directory_their_marks(
    tmp_path: Path, is_shared: bool
) -> None:
    made = frame(tmp_path, is_shared=is_shared)
    others: list[Entry] = [("d", DIRECTORY, 3), ("l", LINK, 4)]
    made.note(chunk(("a", 1), ("b", 2), others=others))
    made.note(chunk(("c", 5)))
    assert made.count == 5
    assert [inode for inode in range(7) if made.lists(inode)] == [1, 2, 3, 4, 5]
    assert made.marks == ([mark_of(one) for one in others] if is_shared else [])


@pytest.mark.parametrize(("most", "is_kept"), [(3, True), (2, False)])
def test_of_a_directory_with_too_many_names_no_inode_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, is_kept: bool
) -> None:
    monkeypatch.setattr(module, "MOST_LISTED", most)
    made = frame(tmp_path)
    made.note(chunk(("a", 1)))
    made.note(chunk(("b", 2), others=[("d", DIRECTORY, 3)]))
    assert made.count == 3
    assert [made.lists(inode) for inode in (1, 2, 3)] == [is_kept] * 3


@pytest.mark.parametrize("sizes", [[0], [1], [2], [3], [4], [5], [9], [2, 2], [1, 9], [3, 0, 3]])
def test_names_are_taken_in_their_order_with_their_inodes(tmp_path: Path, sizes: list[int]) -> None:
    made, number = frame(tmp_path), 0
    for size in sizes:
        numbers = range(number, number + size)
        made.take_in(chunk(*((f"n{n}", n) for n in numbers)))
        number += size
    found, counts = [], []
    while made.names:
        names, inodes = made.take(4)
        assert [f"n{inode}" for inode in inodes] == names
        found += names
        counts.append(len(names))
    assert found == [f"n{n}" for n in range(number)]
    assert counts == [4] * (number // 4) + [number % 4] * (number % 4 > 0)
    assert (made.names, len(made.inodes), made.take(4)) == ([], 0, ([], NO_INODES))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """Return the entries of the second listing; only a directory of more than two names has one."""
    entries: list[Entry] = []
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "snapshot", lambda _: entries)
    return entries


FILES = [("a", 1), ("b", 2), ("c", 3)]


def test_what_was_missed_is_listed_once_more_and_gone_inodes_are_forgotten(
    tmp_path: Path, open_fd: int, now: list[Entry]
) -> None:
    now += [("a", FILE, 1), ("z", FILE, 2), ("new", FILE, 4), ("d", DIRECTORY, 5)]
    now += [("link", LINK, 6), ("fifo", stat.S_IFIFO, 7)]
    made = frame(tmp_path, chunk(*FILES), fd=open_fd)
    rest = list(made.whole())
    assert rest == [chunk(*FILES), chunk(("new", 4), others=[("d", DIRECTORY, 5)])]
    assert made.count == 5
    assert [inode for inode in range(9) if made.lists(inode)] == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("changes", "is_listed_again"),
    [
        ({}, True),
        ({"fd": None}, False),
        ({"is_listed": True}, False),
        ({"count": 2}, False),
        ({"count": 3}, True),
        ({"opened_ns": 1 << 62}, False),
    ],
)
def test_a_directory_is_listed_again_if_names_may_have_been_missed(
    tmp_path: Path,
    open_fd: int,
    now: list[Entry],
    changes: dict[str, Any],
    is_listed_again: bool,
) -> None:
    """Only a changed directory that is open, long and not yet complete is listed again."""
    now.append(("new", FILE, 4))
    made = frame(tmp_path, **{"fd": open_fd, **changes})
    made.listed, made.count = [array("Q", [1, 2, 3])], changes.get("count", 3)
    assert made.missed() == (chunk(("new", 4)) if is_listed_again else None)


@pytest.mark.parametrize("what", ["mtime", "ctime"])
def test_a_directory_whose_times_are_others_was_changed(
    tmp_path: Path, open_fd: int, now: list[Entry], what: str
) -> None:
    status = tmp_path.stat()
    times = {"st_mtime_ns": status.st_mtime_ns, "st_ctime_ns": status.st_ctime_ns}
    made = Frame("/d", open_fd, SimpleNamespace(**times), 1 << 62, iter(()), count=3)  # type: ignore[arg-type]
    assert made.missed() is None
    times[f"st_{what}_ns"] -= 1
    made.status = SimpleNamespace(**times)  # type: ignore[assignment]
    assert made.missed() == chunk()


@pytest.mark.parametrize(("most", "is_refused"), [(3, False), (2, True)])
def test_a_changed_directory_of_too_many_names_is_unread(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_fd: int,
    now: list[Entry],
    most: int,
    is_refused: bool,
) -> None:
    monkeypatch.setattr(module, "MOST_LISTED", most)
    made = frame(tmp_path, fd=open_fd, count=3)
    if is_refused:
        with pytest.raises(MovedError):
            made.missed()
    else:
        assert made.missed() == chunk()


def test_the_real_listing_finds_what_was_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_fd: int
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 0)
    tree = write_tree(tmp_path, {"a": b"", "d/f": b""})
    made = frame(tmp_path, chunk(("a", (tree / "a").stat().st_ino)), fd=open_fd)
    _, missed = made.whole()
    assert missed == chunk(others=[("d", DIRECTORY, (tree / "d").stat().st_ino)])
    assert made.identity == (tree.stat().st_dev, tree.stat().st_ino)


class Lister:
    """Reads `room` directories ahead, and notes the names of these directories."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.begun: list[str] = []

    def ahead(self, fd: int, name: str) -> Any:
        assert fd == 5
        if len(self.begun) >= self.room:
            return None
        self.begun.append(name)
        return f"listing of {name}"


@pytest.mark.parametrize(
    ("count", "room", "begun"), [(0, 9, 0), (3, 9, 3), (3, 2, 2), (OF_ONE + 3, 99, OF_ONE)]
)
def test_so_many_directories_are_begun_ahead(
    tmp_path: Path, count: int, room: int, begun: int
) -> None:
    lister: Any = Lister(room)
    names = [f"d{n}" for n in range(count)]
    made = frame(tmp_path, fd=5)
    made.later = deque(names)
    made.look_ahead(lister)
    assert (lister.begun, [*made.ahead], [*made.later]) == (
        *(names[:begun], names[:begun]),
        names[begun:],
    )


def test_of_a_closed_directory_none_is_begun(tmp_path: Path) -> None:
    lister: Any = Lister(9)
    made = frame(tmp_path)
    made.later = deque("ab")
    made.look_ahead(lister)
    assert (lister.begun, [*made.later]) == ([], ["a", "b"])


def test_a_directory_that_was_begun_is_taken_and_the_next_is_begun(tmp_path: Path) -> None:
    lister: Any = Lister(1)
    made = frame(tmp_path, fd=5)
    made.later = deque("abcd")
    made.look_ahead(lister)
    lister.room = 2
    found: list[Any] = [made.listing_of("a", lister)]
    assert (lister.begun, [*made.later]) == (["a", "b"], ["c", "d"])
    # The walk itself reads a directory that no thread has begun to read.
    lister.room = 3
    made.ahead.clear()
    assert made.listing_of("c", lister) is None
    assert (lister.begun, [*made.later]) == (["a", "b", "d"], [])
    found += [made.listing_of("d", lister) for _ in range(2)]
    assert found == ["listing of a", "listing of d", None]
