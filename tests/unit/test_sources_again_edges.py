"""The notes of directories: their limits, and each way in which a noted directory can differ."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple, cast

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources import again as module
from hashclient.scan.sources.again import Again
from hashclient.scan.sources.finding_again import TICK_NS, open_directory, snapshot
from hashclient.scan.sources.frame import MOST_LISTED, Frame, chunk_of, mark_of
from hashclient.scan.sources.listing import Lister
from hashclient.scan.values.work import MOVED, Item
from tests.kit import open_files, write_tree

AT_REST, YOUNG = TICK_NS + 1, TICK_NS


class Seen(NamedTuple):
    """A directory that was listed again, with its new entries."""

    walker: str
    path: str
    names: list[str]
    others: list[str]
    frame: Frame


class Walker:
    """A walk that only notes which directories it gets."""

    def __init__(self, name: str, seen: list[Seen]) -> None:
        self.name, self.seen = name, seen

    def walk_late(self, frame: Frame, lister: Lister) -> Iterator[Item]:
        assert isinstance(lister, Lister)
        assert frame.fd is not None
        os.close(frame.fd)
        (chunk,) = frame.chunks
        others = [name for name, _, _ in chunk.others]
        self.seen.append(Seen(self.name, frame.path, chunk.names, others, frame))
        yield Outcome(Kind.CLEAN, frame.path)


class Notes:
    """Notes of directories, and the directories that are listed again."""

    def __init__(self) -> None:
        self.again = Again()
        self.seen: list[Seen] = []
        self.walkers = {name: Walker(name, self.seen) for name in "vw"}

    def note(
        self, path: Path | str, walker: str = "w", *, opened: int = AT_REST, **fields: Any
    ) -> Frame:
        """Note a directory as it is; its listing began `opened` ns after its last change."""
        fd = open_directory(str(path))
        status = os.fstat(fd)
        entries = snapshot(fd)
        os.close(fd)
        opened_ns = status.st_ctime_ns + opened
        count = fields.pop("count", None)
        frame = Frame(str(path), None, status, opened_ns, iter(()), is_shared=True, **fields)
        frame.note(chunk_of(entries))
        frame.count = frame.count if count is None else count
        self.again.note(self.walkers[walker], frame)
        return frame

    @property
    def size(self) -> int:
        return self.again._notes.seek(0, os.SEEK_END)

    def look(self, at: int = 0, *, is_last: bool = False) -> list[tuple[str, Kind, str | None]]:
        """Compare all notes from `at` with their directories; return the items."""
        self.seen.clear()
        items = self.again._look(at, self.size, Lister(), is_last=is_last)
        found = [item for item in items if isinstance(item, Outcome)]
        return [(item.path, item.kind, item.reason) for item in found]

    def names(self) -> list[tuple[str, list[str], list[str]]]:
        return [(Path(one.path).name, sorted(one.names), sorted(one.others)) for one in self.seen]


@pytest.fixture
def notes() -> Iterator[Notes]:
    made = Notes()
    yield made
    made.again.close()


def test_how_many_notes_and_passes_there_are() -> None:
    assert (module.MOST_BYTES, module.FEW_BYTES) == (16_777_216, 65_536)


@pytest.mark.parametrize(
    ("opened", "fields", "is_listed"),
    [
        (TICK_NS + 1, {}, False),
        (TICK_NS, {}, True),
        (0, {}, True),
        (-1, {}, True),
        (0, {"is_known": True}, False),
    ],
)
def test_a_directory_that_changed_just_before_its_listing_is_listed_again(
    tmp_path: Path, notes: Notes, opened: int, fields: dict[str, bool], is_listed: bool
) -> None:
    """A later change may have the same time, unless an earlier listing saw this time already."""
    changed_ns = tmp_path.stat().st_ctime_ns if fields else -1
    notes.note(tmp_path, opened=opened, changed_ns=changed_ns)
    notes.look()
    assert notes.names() == ([(tmp_path.name, [], [])] if is_listed else [])


def test_a_directory_is_listed_again_after_a_change_with_its_new_entries_only(
    tmp_path: Path, notes: Notes
) -> None:
    names = ("file", "renamed", "d/f", "e/f", "gone")
    tree = write_tree(tmp_path / "t", dict.fromkeys(names, b""))
    away = write_tree(tmp_path / "away", {"new": b"", "x/f": b""})
    before = notes.note(tree)
    changed_ns = tree.stat().st_ctime_ns
    (tree / "renamed").rename(tree / "renamed too")
    (tree / "e").rename(tree / "moved within")
    for name in ("new", "x"):
        (away / name).rename(tree / name)
    (tree / "link").symlink_to("file")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tree / "socket"))
    (tree / "gone").unlink()  # a new entry before this line could get its inode
    assert notes.look() == [(str(tree), Kind.CLEAN, None)]
    ((_, _, names_, others, frame),) = notes.seen
    assert (names_, sorted(others)) == (["new"], ["link", "moved within", "x"])
    assert (frame.changed_ns, frame.is_shared, frame.path) == (changed_ns, True, before.path)
    entries = list(tree.iterdir())
    assert {path.lstat().st_ino for path in entries} == set(frame.listed[0])
    directories = [path for path in entries if stat.S_ISDIR(path.lstat().st_mode)]
    marks = {mark_of((path.name, stat.S_IFDIR, path.stat().st_ino)) for path in directories}
    assert (set(frame.marks), len(frame.marks)) == (marks, 3)


def test_a_listed_file_that_was_not_found_is_new_once(tmp_path: Path, notes: Notes) -> None:
    tree = write_tree(tmp_path / "t", dict.fromkeys(("a", "b", "c/f"), b""))
    inodes = [(tree / name).stat().st_ino for name in ("a", "c")]
    other = (tree / "b").stat().st_ino + (1 << 40)
    notes.again.lost.update([*inodes, other])
    notes.note(tree, opened=YOUNG)
    notes.note(tree, opened=YOUNG)
    notes.look()
    assert notes.names() == [("t", ["a"], ["c"]), ("t", [], [])]
    assert notes.again.lost == {other}


@pytest.mark.parametrize(
    ("count", "opened", "expected"),
    [
        (MOST_LISTED, YOUNG, Kind.CLEAN),
        (MOST_LISTED + 1, YOUNG, Kind.UNREAD),
        (MOST_LISTED + 1, AT_REST, None),
    ],
)
def test_a_directory_with_too_many_names_is_unread_unless_it_is_at_rest(
    tmp_path: Path, notes: Notes, count: int, opened: int, expected: Kind | None
) -> None:
    """The notes after it are still read."""
    for name in ("many", "few"):
        write_tree(tmp_path / name, {"f": b""})
    notes.note(tmp_path / "many", count=count, opened=opened)
    notes.note(tmp_path / "few", opened=YOUNG)
    found = notes.look()
    reason = MOVED if expected is Kind.UNREAD else None
    first = [] if expected is None else [(str(tmp_path / "many"), expected, reason)]
    assert found == [*first, (str(tmp_path / "few"), Kind.CLEAN, None)]
    assert all(not names for _, names, _ in notes.names())


@pytest.mark.parametrize(("opened", "expected"), [(YOUNG, Kind.UNREAD), (AT_REST, None)])
def test_in_the_last_pass_a_changed_directory_is_unread(
    tmp_path: Path, notes: Notes, opened: int, expected: Kind | None
) -> None:
    notes.note(tmp_path, opened=opened)
    found = notes.look(is_last=True)
    assert (found, notes.seen) == ([(str(tmp_path), expected, MOVED)] if expected else [], [])
    # The outcome is reported once.
    assert (notes.look(is_last=True), notes.seen) == ([], [])


def replace(path: Path) -> None:
    path.rename(path.with_name("away"))
    path.mkdir()


def replace_by_file(path: Path) -> None:
    path.rmdir()
    path.touch()


def replace_by_loop(path: Path) -> None:
    path.rmdir()
    path.symlink_to(path)


@pytest.mark.parametrize("act", [Path.rmdir, replace, replace_by_file, replace_by_loop])
@pytest.mark.parametrize("opened", [YOUNG, AT_REST])
def test_a_directory_that_is_not_at_its_path_any_more_is_found_from_its_parent(
    tmp_path: Path, notes: Notes, act: Callable[[Path], None], opened: int
) -> None:
    tree = tmp_path / "t"
    tree.mkdir()
    notes.note(tree, opened=opened)
    files = open_files()
    act(tree)
    assert (notes.look(), notes.seen, open_files()) == ([], [], files)
    # The note was replaced, so the directory is not looked for again.
    if act is replace:
        tree.rmdir()
        (tmp_path / "away").rename(tree)
        os.utime(tree)
        assert (notes.look(), notes.seen) == ([], [])


def test_a_link_at_the_path_of_a_directory_may_lead_to_it(tmp_path: Path, notes: Notes) -> None:
    tree = tmp_path / "t"
    tree.mkdir()
    notes.note(tree, opened=YOUNG)
    tree.rename(tmp_path / "moved")
    tree.symlink_to("moved")
    assert notes.look() == [(str(tree), Kind.CLEAN, None)]


@pytest.mark.parametrize("name", ["open_directory", "snapshot", "_changed_ns"])
def test_a_directory_that_cannot_be_read_is_unread(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    other = tmp_path / "other"
    other.mkdir()
    notes.note(tmp_path, opened=AT_REST if name == "_changed_ns" else YOUNG)
    notes.note(other, opened=YOUNG)
    files = open_files()
    monkeypatch.setattr(module, name, fail)
    found = notes.look()
    unread = [(str(tmp_path), Kind.UNREAD, "input/output error")]
    assert found[:1] == unread
    assert found[1][1] is (Kind.CLEAN if name == "_changed_ns" else Kind.UNREAD)
    assert open_files() == files


def test_each_directory_continues_in_its_own_walk_under_its_own_path(
    tmp_path: Path, notes: Notes
) -> None:
    """A note that was replaced, in the middle, hides no other note."""
    names = ["a", "dir of umlauts \u00e4\u00f6", os.fsdecode(b"\xff\xfe"), "d" * 200, "last"]
    for name in names:
        write_tree(tmp_path / name, {"f": b"", "g": b""})
        notes.note(tmp_path / name, "v" if name in ("a", "last") else "w")
    gone = tmp_path / names[2]
    for path in gone.iterdir():
        path.unlink()
    gone.rmdir()
    assert (notes.look(), notes.seen) == ([], [])
    for name in names:
        if name != names[2]:
            write_tree(tmp_path / name, {"new": b""})
    notes.look()
    wanted = [name for name in names if name != names[2]]
    assert [(one.walker, Path(one.path).name) for one in notes.seen] == [
        ("v" if name in ("a", "last") else "w", name) for name in wanted
    ]
    assert [one.names for one in notes.seen] == [["new"]] * 4
    assert (notes.look(), notes.seen) == ([], [])


def test_a_note_from_the_middle_is_read_from_there(tmp_path: Path, notes: Notes) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    notes.note(tmp_path / "a", opened=YOUNG)
    at = notes.size
    notes.note(tmp_path / "b", opened=YOUNG)
    end = notes.size
    notes.note(tmp_path / "c", opened=YOUNG)
    items = list(notes.again._look(at, end, Lister(), is_last=False))
    assert [one.path for one in notes.seen] == [str(tmp_path / "b")]
    assert len(items) == 1


def test_notes_of_a_walk_that_are_made_during_the_passes_follow_the_others(
    tmp_path: Path, notes: Notes
) -> None:
    """A pass is over the notes that were there when it began; the next pass has the others."""
    inner = tmp_path / "inner"
    inner.mkdir()
    walk_late, found = Walker.walk_late, notes.walkers["w"]

    def noting(frame: Frame, lister: Lister) -> Iterator[Item]:
        yield from walk_late(found, frame, lister)
        if frame.path == str(tmp_path):
            notes.note(inner, opened=YOUNG)

    cast("Any", found).walk_late = noting
    notes.note(tmp_path, opened=YOUNG)
    items = list(notes.again.found(Lister()))
    paths = [None if item is None else cast("Outcome", item).path for item in items]
    assert paths == [str(tmp_path), None, str(inner), None, None]
    assert [one.path for one in notes.seen] == [str(tmp_path), str(inner)]


def test_a_replaced_note_has_no_inode_whatever_the_inode_was(notes: Notes) -> None:
    status = cast(
        "os.stat_result", SimpleNamespace(st_dev=2**64 - 1, st_ino=2**64 - 1, st_ctime_ns=5)
    )
    for path in ("/nowhere", "/not here"):
        notes.again.note(notes.walkers["w"], Frame(path, None, status, 1 << 62, iter(())))
    assert notes.look() == []
    notes.again._notes.seek(0)
    head = module._HEAD.unpack(notes.again._notes.read(module._HEAD.size))
    assert head == (0, 0, 5, 0, False, len("/nowhere"), 0)


@pytest.mark.parametrize(("most", "is_listed"), [(0, False), (-1, True)])
def test_a_path_that_is_too_long_for_one_call_is_always_listed_again(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch, most: int, is_listed: bool
) -> None:
    tree = tmp_path / os.fsdecode(b"\xc3\xa4\xff")
    tree.mkdir()
    monkeypatch.setattr(module, "MAX_PATH_BYTES", len(os.fsencode(tree)) + most)
    notes.note(tree)
    notes.look()
    assert [one.path for one in notes.seen] == [str(tree)] * is_listed


def sizes_of(monkeypatch: pytest.MonkeyPatch, most: int) -> list[IO[bytes]]:
    """Keep at most `most` bytes of notes in memory; return the list of files that are made."""
    files: list[IO[bytes]] = []
    make = tempfile.TemporaryFile

    def making() -> IO[bytes]:
        files.append(cast("IO[bytes]", make()))
        return files[-1]

    monkeypatch.setattr(module, "MOST_BYTES", most)
    monkeypatch.setattr(tempfile, "TemporaryFile", making)
    return files


@pytest.mark.parametrize(("less", "made"), [(0, [0, 0, 1, 1]), (1, [0, 1, 1, 1])])
def test_notes_are_in_memory_up_to_a_limit_and_then_in_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, less: int, made: list[int]
) -> None:
    paths = [tmp_path / str(n) for n in range(4)]
    for path in paths:
        path.mkdir()
    size = module._HEAD.size + len(str(paths[0]))
    files = sizes_of(monkeypatch, 2 * size - less)
    notes = Notes()
    counts = []
    for path in paths:
        notes.note(path)
        counts.append(len(files))
    assert counts == made
    assert isinstance(notes.again._notes, io.BytesIO) is False
    assert notes.size == 4 * size
    for path in paths:
        write_tree(path, {"new": b""})
    notes.look()
    assert [one.path for one in notes.seen] == list(map(str, paths))
    notes.again.close()
    assert files[0].closed


def test_without_a_directory_for_a_file_all_notes_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fail() -> IO[bytes]:
        asked.append(1)
        raise FileNotFoundError

    monkeypatch.setattr(module, "MOST_BYTES", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    notes = Notes()
    for _ in range(3):
        notes.note(tmp_path, opened=YOUNG)
    assert len(notes.look()) == 3
    assert asked == [1]
    notes.again.close()
    with pytest.raises(ValueError, match="closed"):
        notes.again._notes.tell()


@pytest.mark.parametrize(
    ("opened", "now", "slept"),
    [
        # The listing was long ago, or saw no young directory.
        (AT_REST, [100], []),
        (YOUNG, [0, TICK_NS], []),
        (YOUNG, [0, TICK_NS - 1, TICK_NS], [1]),
        (YOUNG, [0, 0, TICK_NS], [TICK_NS]),
        (YOUNG, [0, 0, TICK_NS // 2, TICK_NS], [TICK_NS, TICK_NS // 2]),
        # The clock was set back: the scan does not wait for the old time.
        (YOUNG, [5, 4], []),
    ],
)
def test_a_pass_waits_for_a_tick_of_the_clock_after_the_last_young_listing(
    tmp_path: Path,
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
    opened: int,
    now: Sequence[int],
    slept: list[int],
) -> None:
    times, waits = iter([1 << 40, *(n + (1 << 40) for n in now)][1:]), list[int]()
    monkeypatch.setattr(module, "lagging_ns", lambda: next(times))
    monkeypatch.setattr(time, "sleep", lambda s: waits.append(round(s * 1e9)))
    notes.note(tmp_path, opened=opened)
    notes.again._wait()
    assert waits == slept
    assert next(times, None) is None


def test_marks_are_noted_as_numbers_of_eight_bytes(tmp_path: Path, notes: Notes) -> None:
    write_tree(tmp_path, {"d/f": b"", "f": b""})
    frame = notes.note(tmp_path)
    notes.again._notes.seek(module._HEAD.size + len(str(tmp_path)))
    marks = array("Q", notes.again._notes.read())
    assert list(marks) == [inode for part in frame.listed for inode in part] + frame.marks


def test_a_directory_whose_path_has_many_bytes_in_few_characters_is_opened(tmp_path: Path) -> None:
    """The kernel counts bytes, and a path in Python has characters."""
    name, fds = "\U0001f4c1" * 60, [os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)]
    for _ in range(20):
        os.mkdir(name, dir_fd=fds[-1])
        fds.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fds[-1]))
    path = "/".join([str(tmp_path), *[name] * 20])
    assert len(path) < 4_096 < len(os.fsencode(path))
    fds.append(open_directory(path))
    assert os.path.samestat(os.fstat(fds[-1]), os.fstat(fds[-2]))
    for fd in fds:
        os.close(fd)
