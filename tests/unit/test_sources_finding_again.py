"""Listed files are found again, although the test exchanges names between steps of a scan."""

from __future__ import annotations

import errno
import gc
import os
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.index.open_lists import OpenLists
from hashclient.scan.check import checker as checking
from hashclient.scan.check.checker import Checker
from hashclient.scan.check.opening_files import Waits
from hashclient.scan.executors.wire import decode_task, encode_task
from hashclient.scan.sources import finding_again, frame, listing, walk
from hashclient.scan.sources.finding_again import (
    GONE,
    MovedError,
    inode_of,
    open_directory,
    open_listed,
    snapshot,
    where_now,
)
from hashclient.scan.sources.frame import AT_ONCE
from hashclient.scan.sources.names import Names
from hashclient.scan.sources.trees import Trees
from hashclient.scan.sources.walk import OPEN_DEPTH
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import MOVED, Result, Task
from hashclient.system.filesystems import FUSE
from hashclient.system.identity import born_ns
from tests.kit import csv_of, open_files, write_tree
from tests.kit.state import State
from tests.unit.test_checker import lists_of

LISTED, OTHER = b"listed", b"other."


@pytest.fixture
def lists(tmp_path: Path) -> OpenLists:
    return lists_of(tmp_path, base=csv_of({"e-1": LISTED}, sized=False))


def born(path: Path) -> int | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return born_ns(fd)
    finally:
        os.close(fd)


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside-for-a-moment")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def listed(*paths: Path, **options: Any) -> tuple[list[Task], list[Outcome]]:
    items = list(Trees([str(path) for path in paths], ScanOptions(**options)).batches())
    tasks = [item for item in items if not isinstance(item, Outcome)]
    return tasks, [item for item in items if isinstance(item, Outcome)]


def task_of(tree: Path) -> Task:
    (task,), outcomes = listed(tree)
    assert outcomes == []
    return task


def told(result: Result) -> dict[str, tuple[Kind, str | None]]:
    assert len({outcome.path for outcome in result.outcomes}) == len(result.outcomes)
    return {Path(o.path).name: (o.kind, o.reason) for o in result.outcomes}


def before_each_open(patch: pytest.MonkeyPatch, act: Callable[[str], object]) -> None:
    """Call `act` with the name of each file before it is opened, and again when it is open."""
    opens = os.open

    def opened(name: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        is_file = isinstance(name, str) and not flags & os.O_DIRECTORY and "dir_fd" in kwargs
        if is_file:
            act(name)
        try:
            return opens(name, flags, *args, **kwargs)
        finally:
            if is_file:
                act(name)

    patch.setattr(os, "open", opened)


@pytest.mark.parametrize("others", [0, 40])
@pytest.mark.parametrize("moment", ["before", "while the first is opened"])
def test_files_that_change_names_between_listing_and_check_are_read_once_each(
    tmp_path: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch, others: int, moment: str
) -> None:
    tree = write_tree(
        tmp_path / "t", {"a": LISTED, "b": OTHER} | {f"o{n}": b"%d" % n for n in range(others)}
    )
    task = task_of(tree)
    if moment == "before":
        exchange(tree / "a", tree / "b")
    else:
        acts: list[str] = []

        def act(name: str) -> None:
            acts.append(name)
            # Exchange once before `a` is opened, and once after.
            if name == "a" and acts.count("a") <= 2:
                exchange(tree / "a", tree / "b")

        before_each_open(monkeypatch, act)
    result = Checker(lists.judge()).check(task)
    assert [outcome.kind for outcome in result.outcomes] == [Kind.MATCH]
    assert result.clean == result.files_read - 1 == others + 1


@pytest.mark.parametrize("kind", ["link", "directory", "nothing"])
def test_a_file_is_found_under_another_name_whatever_has_its_old_one(
    tmp_path: Path, lists: OpenLists, kind: str
) -> None:
    tree = write_tree(tmp_path / "t", {"a": LISTED, "b": OTHER})
    task = task_of(tree)
    (tree / "a").rename(tree / "c")
    if kind == "link":
        (tree / "a").symlink_to("b")
    elif kind == "directory":
        (tree / "a").mkdir()
    result = Checker(lists.judge()).check(task)
    assert told(result) == {"c": (Kind.MATCH, None)}
    assert result.clean == 1


def test_a_file_that_is_replaced_is_read_as_it_is_now(tmp_path: Path, lists: OpenLists) -> None:
    tree = write_tree(tmp_path / "t", {"a": OTHER, "b": OTHER})
    task = task_of(tree)
    write_tree(tree, {"new": LISTED})
    (tree / "new").rename(tree / "a")
    result = Checker(lists.judge()).check(task)
    assert told(result) == {"a": (Kind.MATCH, None)}
    assert result.clean == 1
    # A file that has replaced another listed file is counted once.
    task = task_of(tree)
    (tree / "b").rename(tree / "a")
    result = Checker(lists.judge()).check(task)
    assert (result.clean, result.outcomes) == (1, [])


@pytest.mark.parametrize("is_new", [True, False])
def test_a_file_whose_name_an_older_one_has_taken_from_elsewhere_is_unread(
    tmp_path: Path, lists: OpenLists, is_new: bool
) -> None:
    """If the file at the name is newer than the scan, the listed file counts as replaced."""
    tree = write_tree(tmp_path / "t", {"a/f": LISTED, "b/f": OTHER})
    if born(tree / "a" / "f") is None:
        pytest.skip("this file system does not say when a file was made")
    (group,) = (group for group in task_of(tree) if group.directory == f"{tree}/a")
    since_ns = time.time_ns() + (-1_000_000_000 if is_new else 1_000_000_000)
    aside = tmp_path / "aside"
    (tree / "a" / "f").rename(aside)
    (tree / "b" / "f").rename(tree / "a" / "f")
    aside.rename(tree / "b" / "f")
    result = Checker(lists.judge(), since_ns=since_ns).check([group])
    assert told(result) == ({} if is_new else {"f": (Kind.UNREAD, MOVED)})
    assert result.clean == 1


@pytest.mark.parametrize("first", [LISTED, OTHER])
def test_of_two_files_listed_under_one_name_the_one_that_is_elsewhere_now_is_unread(
    tmp_path: Path, lists: OpenLists, first: bytes
) -> None:
    """The listing has one name with two inodes, because files were exchanged meanwhile."""
    tree = write_tree(tmp_path / "t", {"a/f": LISTED, "b/f": OTHER})
    if born(tree / "a" / "f") is None:
        pytest.skip("this file system does not say when a file was made")
    (group,) = (group for group in task_of(tree) if group.directory == f"{tree}/a")
    inodes = [(tree / place / "f").stat().st_ino for place in ("a", "b")]
    twice = group.only(["f", "f"], inodes if first == LISTED else inodes[::-1])
    checker = Checker(lists.judge(), since_ns=time.time_ns() + 10**9)
    there = {(o.kind, o.reason) for o in checker.check([twice]).outcomes}
    assert there == {(Kind.MATCH, None), (Kind.UNREAD, MOVED)}
    (tree / "a" / "f").rename(tmp_path / "aside")
    (tree / "b" / "f").rename(tree / "a" / "f")
    elsewhere = {(o.kind, o.reason) for o in checker.check([twice]).outcomes}
    assert elsewhere == {(Kind.UNREAD, MOVED)}


def test_a_directory_whose_name_an_older_one_has_taken_is_unread_and_that_one_is_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "t", {"a/d/f": b"", "z/d/g": b""})
    if born(tree) is None:
        pytest.skip("this file system does not say when a directory was made")
    opens = listing.Lister.open

    def moving(lister: listing.Lister, fd: int, name: str, *, follow: bool) -> listing.Open:
        if name == "d" and (tree / "z" / "d").exists():
            (tree / "a" / "d").rename(tmp_path / "away")
            (tree / "z" / "d").rename(tree / "a" / "d")
        return opens(lister, fd, name, follow=follow)

    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)
    monkeypatch.setattr(listing.Lister, "open", moving)
    tasks, outcomes = listed(tree / "a")
    assert outcomes == [Outcome(Kind.UNREAD, f"{tree}/a/d", reason=MOVED)]
    assert [group.names for task in tasks for group in task] == [["g"]]


def test_a_directory_that_left_before_the_second_listing_was_not_renamed_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name `d` belongs to another directory only while the second listing reads it."""
    tree = write_tree(tmp_path / "t", {"d/f": b"", **{f"{n}": b"" for n in range(AT_ONCE)}})
    if born(tree) is None:
        pytest.skip("this file system does not say when a directory was made")
    outside = write_tree(tmp_path / "other", {"d/g": b""}) / "d"
    read, inode = listing.Lister.read, tree.stat().st_ino

    def exchange_both() -> None:
        (tree / "d").rename(tmp_path / "aside")
        outside.rename(tree / "d")
        (tmp_path / "aside").rename(outside)

    def exchanging(lister: listing.Lister, fd: int) -> Iterator[listing.Chunk]:
        yield from read(lister, fd)
        if os.fstat(fd).st_ino == inode:
            exchange_both()

    def exchanging_back(fd: int) -> list[finding_again.Entry]:
        now = snapshot(fd)
        exchange_both()
        return now

    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)
    monkeypatch.setattr(listing.Lister, "read", exchanging)
    monkeypatch.setattr(frame, "snapshot", exchanging_back)
    _, outcomes = listed(tree)
    assert outcomes == [Outcome(Kind.UNREAD, f"{tree}/d", reason=MOVED)]


def test_a_file_that_is_gone_is_unread(tmp_path: Path, lists: OpenLists) -> None:
    tree = write_tree(tmp_path / "t", {"a": LISTED, "b": OTHER})
    task = task_of(tree)
    (tree / "a").unlink()
    result = Checker(lists.judge()).check(task)
    assert told(result) == {"a": (Kind.UNREAD, "no such file or directory")}


@pytest.mark.parametrize("gone", ["a", "."])
@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_gone_keeps_no_checker_and_so_no_lists_open(
    tmp_path: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch, gone: str, ahead: bool
) -> None:
    """Mapped lists use descriptors, so a process that scans often would run out of them."""
    tree = write_tree(tmp_path / "t", {"a": LISTED, "b": OTHER})
    task = task_of(tree)
    if gone == ".":
        (tmp_path / "elsewhere").mkdir()
        tree.rename(tmp_path / "elsewhere" / "t")
    else:
        (tree / gone).unlink()
    monkeypatch.setattr(Waits, "often", property(lambda _: ahead, lambda *_: None), raising=False)
    checker = Checker(lists.judge())
    kept = weakref.ref(checker)
    gc.disable()
    try:
        result = checker.check(task)
        del checker
        assert kept() is None
    finally:
        gc.enable()
    no_such = (Kind.UNREAD, "no such file or directory")
    assert told(result) == dict.fromkeys("ab" if gone == "." else "a", no_such)


def test_a_file_that_is_exchanged_each_time_is_unread_in_the_end(
    tmp_path: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "t", {"a": LISTED, "b": OTHER})
    task = task_of(tree)
    inode = (tree / "a").stat().st_ino

    def keep_away(name: str) -> None:
        if (tree / name).stat().st_ino == inode:
            exchange(tree / "a", tree / "b")

    before_each_open(monkeypatch, keep_away)
    result = Checker(lists.judge()).check(task)
    assert [(o.kind, o.reason) for o in result.outcomes] == [(Kind.UNREAD, MOVED)]
    assert result.clean == 1


def test_a_busy_directory_comes_to_an_end(
    tmp_path: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are replaced and added while the directory is listed again: all files are read."""
    tree = write_tree(tmp_path / "t", {f"f{n}": OTHER for n in range(20)})
    task = task_of(tree)
    looks: list[int] = []

    def busy(fd: int) -> list[finding_again.Entry]:
        looks.append(fd)
        write_tree(tree, {f"new{len(looks)}": OTHER, "temporary": OTHER})
        (tree / "temporary").rename(tree / "f1")
        return snapshot(fd)

    write_tree(tree, {"temporary": OTHER})
    (tree / "temporary").rename(tree / "f0")
    monkeypatch.setattr(checking, "snapshot", busy)
    result = Checker(lists.judge()).check(task)
    assert (result.clean, result.outcomes) == (20, [])
    assert len(looks) == 1


@pytest.mark.parametrize("depth", [1, 2])
def test_a_directory_that_has_another_name_is_found_beside_it(
    tmp_path: Path, lists: OpenLists, depth: int
) -> None:
    """A directory is found even if another took its name, or if a parent was replaced."""
    place = "d" if depth == 1 else "d/x"
    tree = write_tree(tmp_path / "t", {f"{place}/f": LISTED, "e/f": OTHER, "e/x/f": OTHER})
    task = [group for group in task_of(tree) if group.directory == f"{tree}/{place}"]
    for path in tree.iterdir():
        path.chmod(0o777)  # other users may have exchanged the files
    checker = Checker(lists.judge(), since_ns=time.time_ns() + 10**9)
    exchange(tree / "d", tree / "e")
    if depth == 1:
        assert told(checker.check(task)) == {"f": (Kind.MATCH, None)}
        (tree / "d").rename(tree / "away")
        (tree / "d").symlink_to("away")
        assert told(checker.check(task)) == {"f": (Kind.MATCH, None)}
        (tree / "d").unlink()
        assert told(checker.check(task)) == {"f": (Kind.MATCH, None)}
    else:
        # The moved directory has another parent now, and is searched only in its old parent.
        assert told(checker.check(task)) == {"f": (Kind.UNREAD, MOVED)}
        exchange(tree / "d", tree / "e")
        assert told(checker.check(task)) == {"f": (Kind.MATCH, None)}
        # A link in the path that leads to the same directory changes nothing.
        (tree / "d").rename(tree / "away")
        (tree / "d").symlink_to("away")
        assert told(checker.check(task)) == {"f": (Kind.MATCH, None)}


@pytest.mark.parametrize("put", ["nothing", "from elsewhere"])
def test_a_directory_that_is_nowhere_is_unread(tmp_path: Path, lists: OpenLists, put: str) -> None:
    """If an old directory took its place, the listed one may be in the place of the old one."""
    tree = write_tree(tmp_path / "t", {"d/f": LISTED, "d/g": OTHER})
    other = write_tree(tmp_path / "other", {"f": OTHER, "g": OTHER})
    tree.chmod(0o777)
    task = task_of(tree)
    since_ns = time.time_ns() + 10**9
    (tree / "d").rename(tmp_path / "away")
    if put != "nothing":
        other.rename(tree / "d")
    result = Checker(lists.judge(), since_ns=since_ns).check(task)
    reason = MOVED if put != "nothing" else "no such file or directory"
    assert told(result) == dict.fromkeys("fg", (Kind.UNREAD, reason))
    assert result.clean == 0


@pytest.mark.parametrize("put", ["a new one", "an older one, where nobody else may"])
def test_a_directory_that_is_replaced_is_listed_again(
    tmp_path: Path, lists: OpenLists, put: str
) -> None:
    """Example: a deployment replaces a directory by another one with other names."""
    tree = write_tree(tmp_path / "t", {"d/f": OTHER, "d/gone": OTHER})
    task = task_of(tree)
    (tree / "d").rename(tmp_path / "away")
    write_tree(tree, {"d/f": OTHER, "d/new": LISTED, "d/x/below": OTHER})
    is_older = put != "a new one"
    tree.chmod(0o755 if is_older else 0o777)
    since_ns = time.time_ns() + 10**9 if is_older else 0
    result = Checker(lists.judge(), since_ns=since_ns).check(task)
    assert told(result) == {"new": (Kind.MATCH, None)}
    assert result.clean == 1


def test_a_directory_that_another_machine_has_listed_is_not_listed_again(
    tmp_path: Path, lists: OpenLists
) -> None:
    """On another machine, a directory with another inode may be a mount: its files are unread."""
    tree = write_tree(tmp_path / "t", {"d/f": LISTED, "d/gone": LISTED})
    task = task_of(tree)
    (tree / "d").rename(tmp_path / "away")
    write_tree(tree, {"d/f": OTHER, "d/new": OTHER})
    result = Checker(lists.judge(), is_elsewhere=True).check(task)
    assert told(result) == dict.fromkeys(("f", "gone"), (Kind.UNREAD, MOVED))
    assert (result.clean, result.lost) == (0, [])


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_each_named_file_has_an_outcome_also_if_its_directory_is_replaced(
    tmp_path: Path, lists: OpenLists, mode: int
) -> None:
    """Only named files get an outcome. Nobody has named the listed file `new`."""
    tree = write_tree(tmp_path / "t", {"d/f": OTHER, "d/gone": OTHER, "d/saved": OTHER})
    (tree / "d").chmod(mode)
    names = tmp_path / "names"
    names.write_text("".join(f"{tree}/d/{name}\n" for name in ("f", "gone", "saved")))
    with names.open("rb") as file:
        (task,) = Names(file.fileno(), "names").batches()
    assert not isinstance(task, Outcome)
    (tree / "d").rename(tmp_path / "away")
    write_tree(tree, {"d/f": OTHER, "d/new": LISTED, "d/saved": LISTED})
    for sent in (task, decode_task(encode_task(task))):
        result = Checker(lists.judge()).check(sent)
        assert told(result) == {
            "gone": (Kind.UNREAD, "no such file or directory"),
            "saved": (Kind.MATCH, None),
        }
        assert result.clean == 1


def test_directories_that_change_names_during_the_walk_are_entered_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "t", {"d/f": LISTED, "e/g": OTHER})
    inodes = {(tree / name).stat().st_ino for name in "de"}
    opens = listing.Lister.open
    calls: list[str] = []

    def exchanging(lister: listing.Lister, fd: int, name: str, *, follow: bool) -> listing.Open:
        calls.append(name)
        if len(calls) in (
            1,
            2,
        ):  # the names are exchanged before the first open and exchanged back after it
            exchange(tree / "d", tree / "e")
        return opens(lister, fd, name, follow=follow)

    monkeypatch.setattr(listing.Lister, "open", exchanging)
    (task,), outcomes = listed(tree)
    assert outcomes == []
    assert {group.identity[1] for group in task if group.identity} == inodes
    names = {(Path(group.directory).name, *group.names) for group in task}
    assert names == {("d", "f"), ("e", "g")}


@pytest.mark.parametrize(("is_large", "depth"), [(False, 1), (True, 1), (True, OPEN_DEPTH + 2)])
def test_names_that_a_listing_has_missed_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool, depth: int
) -> None:
    """A long directory needs several calls, and a rename between them hides a name from each.

    If the tree below it is deep, the scan closes the directory between the two listings.
    """
    names = {f"f{number}" for number in range(2 * AT_ONCE if is_large else 3)}
    tree = write_tree(tmp_path / "t", dict.fromkeys(names | {"d/" * depth + "inner"}, b""))
    read = listing.Lister.read
    inode = tree.stat().st_ino

    def missing(lister: listing.Lister, fd: int) -> Iterator[listing.Chunk]:
        for chunk in read(lister, fd):
            if os.fstat(fd).st_ino == inode:
                for hidden in {"f0", "f1"}.intersection(chunk.names):
                    at = chunk.names.index(hidden)
                    del chunk.names[at], chunk.inodes[at]
                if depth == 1:
                    chunk.others.clear()
            yield chunk

    monkeypatch.setattr(listing.Lister, "read", missing)
    tasks, outcomes = listed(tree)
    found = {name for task in tasks for group in task for name in group.names}
    assert outcomes == []
    # A listing in one system call cannot miss a name, and is not repeated.
    assert found == (names | {"inner"} if is_large else names - {"f0", "f1"})


def test_a_long_directory_at_rest_is_not_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path)
    tree = write_tree(tmp_path / "t", {f"{n}": b"" for n in range(AT_ONCE + 1)})
    taken: list[int] = []

    def take(fd: int) -> list[finding_again.Entry]:
        taken.append(fd)
        return snapshot(fd)

    monkeypatch.setattr(frame, "snapshot", take)
    listed(tree)
    assert len(taken) == 1  # the directory changed within one tick of the clock
    monkeypatch.setattr(finding_again, "TICK_S", 0)
    state.let_time_pass()
    listed(tree)
    assert len(taken) == 1


def test_a_directory_with_too_many_names_that_changes_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "MOST_LISTED", 5)
    monkeypatch.setattr(frame, "AT_ONCE", 0)
    tree = write_tree(tmp_path / "t", {f"{n}": b"" for n in range(8)})
    tasks, outcomes = listed(tree)
    assert outcomes == [Outcome(Kind.UNREAD, str(tree), reason=MOVED)]
    assert sum(len(group.names) for task in tasks for group in task) == 8


@pytest.mark.parametrize("of", ["files", "directories"])
def test_a_file_system_with_other_inodes_in_its_directories_is_read(
    tmp_path: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    tree = write_tree(tmp_path / "t", {"a": LISTED, "d/b": OTHER, "e/c": OTHER})
    real_typed = listing.typed

    def other(inode: int, mode: int) -> int:
        return inode + 1_000_000 if (mode == stat.S_IFDIR) == (of == "directories") else inode

    def typed(entries: Any) -> listing.Chunk:
        chunk = real_typed(entries)
        if of == "files":
            chunk.inodes[:] = type(chunk.inodes)("Q", [n + 1_000_000 for n in chunk.inodes])
        others = [(name, mode, other(inode, mode)) for name, mode, inode in chunk.others]
        return replace(chunk, others=others)

    def shown(fd: int) -> list[finding_again.Entry]:
        return [(name, mode, other(inode, mode)) for name, mode, inode in snapshot(fd)]

    monkeypatch.setattr(listing, "typed", typed)
    for module in (checking, finding_again, walk):
        monkeypatch.setattr(module, "snapshot", shown)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    task = task_of(tree)
    checker = Checker(lists.judge())
    for _ in range(2):
        result = checker.check(task)
        assert told(result) == {"a": (Kind.MATCH, None)}
        assert result.clean == 2
    assert len(slept) == 1  # the program waits for the first file only, then knows the file system


def test_a_snapshot_is_all_that_is_in_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsdecode(b"\xff\n")
    names = {f"{'long' * 50}{n}" for n in range(600)} | {odd}
    write_tree(tmp_path, dict.fromkeys(names, b""))
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "d").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY)
    expected = {
        (entry.name, finding_again.type_of(entry), entry.inode()) for entry in os.scandir(tmp_path)
    }
    assert len(expected) == 603
    for size in (1 << 10, 1 << 16, 1 << 20):
        monkeypatch.setattr(finding_again, "_FIRST_BYTES", size)
        entries = snapshot(fd)
        assert len(entries) == len(expected)
        assert set(entries) == expected
    monkeypatch.setattr(finding_again, "_getdents", lambda: None)
    assert set(snapshot(fd)) == expected
    os.close(fd)


def test_where_a_listed_inode_is_now() -> None:
    now = [("a", 0, 1), ("b", 0, 2), ("c", 0, 1)]
    assert where_now(now, "a", 1) == ("a", 1)
    assert where_now(now, "c", 1) == ("c", 1)
    assert where_now(now, "b", 1) in (("a", 1), ("c", 1))
    assert where_now(now, "b", 3) == ("b", 2)
    assert where_now(now, "d", 3) is None


def test_a_directory_that_is_exchanged_each_time_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "de":
        (tmp_path / name).mkdir()
    status = (tmp_path / "d").stat()
    opens, is_there = os.open, [True]

    def moving(path: Any, flags: int, **kwargs: Any) -> int:
        if os.fsdecode(path).endswith(("d", "e")):
            exchange(tmp_path / "d", tmp_path / "e")
            is_there[0] = not is_there[0]
            if is_there[0] == os.fsdecode(path).endswith("d"):
                exchange(tmp_path / "d", tmp_path / "e")
                is_there[0] = not is_there[0]
        return opens(path, flags, **kwargs)

    monkeypatch.setattr(os, "open", moving)
    with pytest.raises(MovedError):
        open_listed(str(tmp_path / "d"), (status.st_dev, status.st_ino))
    assert MovedError().errno not in GONE


@pytest.mark.parametrize("put", [None, "link", "directory"])
def test_a_directory_is_found_beside_its_name_but_not_behind_a_link_that_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: str | None
) -> None:
    """The directory has left, even if somebody put a link to it in its place after the listing."""
    write_tree(tmp_path, {"t/renamed/f": b"", "elsewhere/f": b""})
    found = tmp_path / "t" / "renamed"
    status, opens = found.stat(), os.open
    away, before = tmp_path / "elsewhere" / "away", open_files()

    def moving(path: Any, flags: int, **kwargs: Any) -> int:
        if path == "renamed" and put is not None and not away.exists():
            found.rename(away)
            if put == "link":
                found.symlink_to(away)
            else:
                found.mkdir()
        return opens(path, flags, **kwargs)

    monkeypatch.setattr(os, "open", moving)
    listed_as = str(tmp_path / "t" / "d"), (status.st_dev, status.st_ino)
    if put is None:
        fd, opened = open_listed(*listed_as)
        os.close(fd)
        assert (opened.st_dev, opened.st_ino) == (status.st_dev, status.st_ino)
    else:
        with pytest.raises(FileNotFoundError if put == "link" else MovedError):
            open_listed(*listed_as)
        assert away.exists()
    assert open_files() == before


def test_an_inode_that_directory_and_file_agree_on_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    assert inode_of(fd, "f") is None
    assert inode_of(fd, "missing") is None
    os.close(fd)


def test_a_directory_without_a_status_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may answer the first `stat` and refuse the second."""
    status, before = tmp_path.stat(), open_files()

    def refuse(_: int) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as refusing:
        refusing.setattr(os, "fstat", refuse)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            open_listed(str(tmp_path), (status.st_dev, status.st_ino))
    assert open_files() == before


def entry(name: bytes, kind: int, inode: int, *, padding: int = 1) -> bytes:
    """Return a directory entry in the kernel's form, whose name ends with NUL and padding."""
    head = finding_again._HEAD
    length = head.size + len(name) + padding
    return head.pack(inode, 99, length, kind) + name + bytes(1) + b"x" * (padding - 1)


def test_entries_of_the_kernel_are_taken_as_they_are(tmp_path: Path) -> None:
    """An unknown type is looked up; an entry that is gone counts as a file."""
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "d").mkdir()
    raw = b"".join(
        [
            entry(b".", 4, 1),
            entry(b"..", 4, 2),
            entry(b"f", 8, 2**64 - 1, padding=7),
            entry(b"\xff", 4, 5),
            entry(b"link", 0, 6),
            entry(b"d", 0, 7, padding=3),
            entry(b"gone", 0, 8),
            entry(b"...", 10, 9),
        ]
    )
    fd = open_directory(str(tmp_path))
    try:
        found = list(finding_again._parsed(raw, fd))
    finally:
        os.close(fd)
    assert found == [
        ("f", stat.S_IFREG, 2**64 - 1),
        ("\udcff", stat.S_IFDIR, 5),
        ("link", stat.S_IFLNK, 6),
        ("d", stat.S_IFDIR, 7),
        ("gone", stat.S_IFREG, 8),
        ("...", stat.S_IFLNK, 9),
    ]
    assert list(finding_again._parsed(b"", -1)) == []


class Kernel:
    """Simulates a directory of `size` bytes, with at most `most` bytes for each call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int, most: int = 1 << 40) -> None:
        self.size, self.most = size, most
        self.asked: list[int] = []
        self.at = 0
        monkeypatch.setattr(finding_again, "_getdents", lambda: self.read)
        monkeypatch.setattr(os, "lseek", self.seek)
        monkeypatch.setattr(
            finding_again, "_parsed", lambda piece, _: [len(piece)] if piece else []
        )

    def read(self, _fd: int, most: int) -> bytes:
        self.asked.append(most)
        count = min(self.size - self.at, most, self.most)
        self.at += count
        return bytes(count)

    def seek(self, _fd: int, where: int, how: int) -> int:
        assert (where, how) == (0, os.SEEK_SET)
        self.at = 0
        return 0


FIRST, MOST = finding_again._FIRST_BYTES, finding_again._MOST_BYTES


@pytest.mark.parametrize(
    ("size", "most", "asked", "pieces"),
    [
        (0, 1 << 40, [FIRST], []),
        (FIRST, 1 << 40, [FIRST] * 2, [FIRST]),
        (FIRST + 1, 1 << 40, [FIRST] * 2 + [8 * FIRST] * 2, [FIRST + 1]),
        # The kernel returns the names in several calls, and the names of all calls count.
        (3 * 4_096, 4_096, [FIRST] * 4, [4_096] * 3),
        (FIRST, FIRST // 2, [FIRST] * 3, [FIRST // 2] * 2),
        # Half of the buffer was used, so a larger buffer may receive the rest.
        (FIRST, FIRST // 2 + 1, [FIRST] * 2 + [8 * FIRST] * 3, [FIRST // 2 + 1, FIRST // 2 - 1]),
    ],
)
def test_a_directory_is_listed_in_one_call_if_it_fits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    most: int,
    asked: list[int],
    pieces: list[int],
) -> None:
    assert (FIRST, MOST) == (131_072, 67_108_864)
    fd, files = open_directory(str(tmp_path)), open_files()
    kernel = Kernel(monkeypatch, size, most)
    try:
        found: list[Any] = [*snapshot(fd)]
    finally:
        os.close(fd)
    assert (found, kernel.asked) == (pieces, asked)
    assert open_files() == files - 1


def test_a_directory_that_fits_into_no_call_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding_again, "_FIRST_BYTES", 8)
    monkeypatch.setattr(finding_again, "_MOST_BYTES", 64)
    kernel = Kernel(monkeypatch, 100)
    fd = open_directory(str(tmp_path))
    try:
        found: list[Any] = [*snapshot(fd)]
    finally:
        os.close(fd)
    assert (found, kernel.asked) == ([64, 36], [8, 8, 64, 64, 64])


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ([], None),
        ([("a", 5)], ("a", 5)),
        ([("b", 5)], ("b", 5)),
        ([("a", 6)], ("a", 6)),
        ([("b", 6)], None),
        ([("a", 6), ("b", 5)], ("b", 5)),
        ([("b", 5), ("a", 6)], ("b", 5)),
        ([("b", 5), ("a", 5)], ("a", 5)),
        ([("b", 5), ("c", 5)], ("c", 5)),
    ],
)
def test_a_listed_file_is_where_its_inode_is_and_else_where_its_name_is(
    now: list[tuple[str, int]], found: tuple[str, int] | None
) -> None:
    entries = [(name, stat.S_IFREG, inode) for name, inode in now]
    assert where_now(entries, "a", 5) == found


@pytest.mark.parametrize(
    ("born_s", "older", "newer"),
    [
        (None, False, False),
        (-0.03, True, False),
        (-0.02, False, False),
        (-0.01, False, False),
        (0.0, False, False),
        (0.01, False, True),
        (9e9, False, False),
    ],
)
def test_the_age_of_a_file_is_told_beyond_a_tick_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, born_s: float | None, older: bool, newer: bool
) -> None:
    since = 1_000_000_000_000
    born = None if born_s is None else since + round(born_s * 1e9)
    monkeypatch.setattr(finding_again, "born_ns", lambda _: born)
    (tmp_path / "f").touch()
    fd = open_directory(str(tmp_path))
    try:
        assert finding_again.is_older(fd, "f", since) is older
        assert finding_again.is_newer(fd, "f", since) is newer
        assert not finding_again.is_older(fd, "gone", since)
        assert not finding_again.is_newer(fd, "gone", since)
        # Otherwise somebody could let a file seem new that they move while a share is scanned.
        for kind in (FUSE, 0xFF534D42):
            monkeypatch.setattr(finding_again, "kind_of", lambda _, kind=kind: kind)
            assert not finding_again.is_newer(fd, "f", since)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        (["it"], 1),
        ([errno.ENOENT, "it"], 2),
        ([errno.ENOTDIR, errno.ELOOP, errno.ENOENT, "it"], 4),
        (["other", "it"], 2),
        ([None, None, "it"], 3),
        ([None, None, None], 0),  # the moved directory is not visible
        ([errno.EACCES], 0),
        (["other"] * 6, 0),  # another directory is found each time
    ],
)
def test_a_directory_that_was_moved_is_looked_for_beside_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[Any], found: int
) -> None:
    """Every second attempt uses the directory's old name, which no directory has now."""
    assert (finding_again.ROUNDS, finding_again._ROUNDS_WITHOUT) == (12, 3)
    (tmp_path / "it").mkdir()
    (tmp_path / "other").mkdir()
    status, rest = (tmp_path / "it").stat(), iter(answers)
    asked: list[object] = []

    def beside(_path: str, _identity: object) -> int | None:
        asked.append(answer := next(rest))
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return None if answer is None else open_directory(str(tmp_path / str(answer)))

    monkeypatch.setattr(finding_again, "_open_beside", beside)
    files, identity = open_files(), (status.st_dev, status.st_ino)
    if found:
        fd, opened = open_listed(str(tmp_path / "gone"), identity)
        os.close(fd)
        assert opened.st_ino == status.st_ino
    else:
        with pytest.raises(OSError) as failed:
            open_listed(str(tmp_path / "gone"), identity)
        kind = {"other": errno.EAGAIN, None: errno.ENOENT}.get(answers[-1], answers[-1])
        assert failed.value.errno == kind
    assert asked == answers
    assert open_files() == files
