"""Directories of other users at the end of a scan: files that were moved to a listed directory."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.scan.check.checker import Checker
from hashclient.scan.executors.here import Inline
from hashclient.scan.run.engine import Progress, scan
from hashclient.scan.sources import again, interface, listing
from hashclient.scan.sources.again import Again
from hashclient.scan.sources.finding_again import Entry, snapshot
from hashclient.scan.sources.listing import Lister
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import MOVED, Item, Result, Task, join
from tests.kit import csv_of
from tests.kit.tree import write_tree
from tests.unit.test_checker import lists_of

#: The number of CLOCK_REALTIME_COARSE, from which the kernel takes the times of files.
COARSE_CLOCK = 5
Outcomes = dict[str, tuple[Kind, str | None]]


class Walk:
    """A walk of `a` and then of `b`, which everybody may write to, with a stop between them."""

    def __init__(self, tree: Path, *files: str, mode: int = 0o777, exclude: str = "none") -> None:
        """Make the files, and list the files in `a`."""
        self.tree = write_tree(tree, dict.fromkeys(["a/o", "b/o", *files], b""))
        for path in tree.rglob("*"):
            path.chmod(mode)
        self.trees = Trees([f"{tree}/a", f"{tree}/b"], ScanOptions(exclude=(exclude,)))
        self.outcomes: Outcomes = {}
        self.items = self.trees.batches()
        assert "a/o" in self.take(self.items, "a/o")
        now_ns = time.time_ns()
        while time.clock_gettime_ns(COARSE_CLOCK) <= now_ns:
            pass  # wait, so that later files have a later time

    def take(self, items: Iterator[Task | Outcome], last: str = "") -> list[str]:
        """Return the listed files up to `last`, and keep the outcomes."""
        found: list[str] = []
        for item in items:
            if isinstance(item, Outcome):
                self.outcomes[self.name(item.path)] = item.kind, item.reason
                continue
            found += [self.name(join(group.directory, n)) for group in item for n in group.names]
            if last in found:
                break
        return found

    def name(self, path: str) -> str:
        return path.removeprefix(f"{self.tree}/")

    def move(self, source: str, target: str) -> None:
        (self.tree / source).rename(self.tree / target)

    def again(self) -> list[str]:
        """List the rest, and return the paths that the second look at the directories finds."""
        self.take(self.items)
        try:
            return self.take(self.trees.again())
        finally:
            self.trees.close()


@pytest.fixture(autouse=True)
def _a_task_for_each_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "TASK_S", 0.0)


@pytest.mark.parametrize("notes", ["in memory", "in a file", "without a directory for a file"])
def test_a_file_that_was_moved_to_a_listed_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: str
) -> None:
    if notes != "in memory":
        monkeypatch.setattr(again, "MOST_BYTES", 0)
    if notes == "without a directory for a file":
        monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}/missing")
    walk = Walk(tmp_path / "t", "b/f")
    walk.move("b/f", "a/f")
    assert (walk.again(), walk.outcomes) == (["a/f"], {})


def test_a_directory_that_was_moved_or_got_another_name_is_walked_once(tmp_path: Path) -> None:
    """All files below are listed; after a second move they are unread, so the scan ends."""
    walk = Walk(tmp_path / "t", "b/x/y/f")
    walk.move("b/x", "a/x")
    walk.take(walk.items)
    late = walk.trees.again()
    assert walk.take(late, "a/x/y/f") == ["a/x/y/f"]
    walk.move("a/x", "a/z")
    assert (walk.take(late), walk.outcomes) == ([], {"a/z": (Kind.UNREAD, MOVED)})
    walk.trees.close()


def test_a_file_in_a_directory_that_was_made_meanwhile_is_found(tmp_path: Path) -> None:
    walk = Walk(tmp_path / "t", "b/f")
    (walk.tree / "a/new").mkdir(mode=0o777)
    walk.move("b/f", "a/new/f")
    assert (walk.again(), walk.outcomes) == (["a/new/f"], {})


def test_what_is_made_renamed_or_removed_in_its_directory_is_not_looked_for(tmp_path: Path) -> None:
    """Example: a log is rotated while programs write to it."""
    walk = Walk(tmp_path / "t", "a/log", "a/gone")
    walk.move("a/log", "a/log.1")
    write_tree(walk.tree / "a", {"log": b"", "new/file": b""})
    (walk.tree / "a/gone").unlink()
    (walk.tree / "a/pipe").symlink_to("nowhere")
    assert (walk.again(), walk.outcomes) == ([], {})


def test_what_is_excluded_stays_so(tmp_path: Path) -> None:
    walk = Walk(tmp_path / "t", "b/f", "b/x/g", exclude="[fx]")
    walk.outcomes.clear()
    walk.move("b/f", "a/f")
    walk.move("b/x", "a/x")
    skipped = Kind.SKIPPED, "excluded"
    assert (walk.again(), walk.outcomes) == ([], {"a/f": skipped, "a/x": skipped})


def test_directories_that_nobody_else_may_write_to_are_not_looked_at_again(tmp_path: Path) -> None:
    walk = Walk(tmp_path / "t", "b/f", mode=0o755)
    walk.move("b/f", "a/f")
    assert (walk.again(), walk.outcomes) == ([], {})


def test_a_directory_that_never_comes_to_rest_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan still ends; a directory that stops changing is listed."""
    looks = 0

    def restless(fd: int) -> list[Entry]:
        nonlocal looks
        looks += 1
        entries = snapshot(fd)
        if looks <= most and os.fstat(fd).st_ino == (walk.tree / "a").stat().st_ino:
            Path(f"/proc/self/fd/{fd}/new{looks}").touch()
        return entries

    monkeypatch.setattr(again, "snapshot", restless)
    for most, outcomes in ((5, {}), (1000, {"a": (Kind.UNREAD, MOVED)})):
        looks = 0
        walk = Walk(tmp_path / str(most))
        (walk.tree / "a/new").touch()
        assert (walk.again(), walk.outcomes) == ([], outcomes)
        assert looks < 2 * again.ROUNDS
        assert walk.trees.coverage.has_failed(f"{walk.tree}/a") == bool(outcomes)


@pytest.mark.parametrize("is_much", [False, True])
def test_a_few_directories_are_looked_at_more_often_than_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_much: bool
) -> None:
    """Each look at the directories sees a change; the moved file is back before the last look."""
    walk = Walk(tmp_path / "t", "b/f")
    walk.move("b/f", "away")
    look, looks = again.Again._look, 0

    def changing(
        notes: again.Again, at: int, end: int, lister: listing.Lister, *, is_last: bool
    ) -> Iterator[Item]:
        nonlocal looks
        looks += not at
        if not at and looks <= again.LOOKS:
            (walk.tree / "b" / f"new{looks}").touch()
        elif looks == again.LOOKS and (walk.tree / "away").exists():
            walk.move("away", "a/f")
        yield from look(notes, at, end, lister, is_last=is_last)

    monkeypatch.setattr(again.Again, "_look", changing)
    if is_much:
        monkeypatch.setattr(again, "FEW_BYTES", 0)
    assert (walk.again(), walk.outcomes) == ([] if is_much else ["a/f"], {})


def test_a_directory_with_more_names_than_are_noted_is_unread_if_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "MOST_LISTED", 1)
    walk = Walk(tmp_path / "t", "a/x")
    walk.move("b/o", "a/f")
    os.utime(walk.tree / "b")
    assert walk.again() == []
    assert walk.outcomes == {"a": (Kind.UNREAD, MOVED)}


def test_without_room_for_notes_nothing_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> IO[bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(again, "MOST_BYTES", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    walk = Walk(tmp_path / "t")
    walk.again()
    unread = Kind.UNREAD, "no space left on device"
    assert walk.outcomes == {"a": unread, "b": unread}


@pytest.mark.parametrize("given", ["a", "."])
def test_a_move_is_found_also_where_the_clock_of_directories_is_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """The coarse clock of directories is behind the listing, although other clocks are not."""
    now_ns = [0]
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: now_ns[0])
    monkeypatch.setattr(time, "time_ns", lambda: now_ns[0] + 10**9)
    monkeypatch.setattr(time, "sleep", lambda s: now_ns.append(now_ns.pop() + round(s * 1e9)))
    tree = write_tree(tmp_path / "t", {"a/o": b""})
    other = write_tree(tmp_path / "other", {"f": b""})
    (tree / "a").chmod(0o777)
    changed_ns = now_ns[0] = (tree / "a").stat().st_ctime_ns
    trees = Trees([f"{tree}/{given}"], ScanOptions())
    assert len(list(trees.batches())) == 1
    (other / "f").rename(tree / "a/f")
    monkeypatch.setattr(again, "_changed_ns", lambda *_: changed_ns)
    task = next(trees.again())
    assert isinstance(task, list)
    assert [group.names for group in task] == [["f"]]
    assert now_ns[0] > changed_ns  # the second listing waited for the coarse clock
    trees.close()


@pytest.mark.parametrize("moved", ["f", "x", "x, as the walk came to it"])
def test_what_was_away_when_it_was_to_be_read_is_found_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    """A new file had the name meanwhile, so the scan took the listed file for replaced."""
    tree = write_tree(tmp_path / "t", {"a/f": b"", "a/x/g": b""})
    (tree / "a").chmod(0o777)
    (tree / "a/x").chmod(0o777)
    place, away = tree / "a" / moved[:1], tmp_path / "away"
    opens, replaced = listing.Lister.open, []

    def replace() -> None:
        replaced.append(moved)
        place.rename(away)
        write_tree(tree / "a", {"f" if moved == "f" else "x/g": b""})

    def replacing(lister: listing.Lister, fd: int, name: str, *, follow: bool) -> listing.Open:
        if moved not in ("f", "x") and not replaced:
            replace()
        return opens(lister, fd, name, follow=follow)

    monkeypatch.setattr(listing.Lister, "open", replacing)
    trees = Trees([f"{tree}/a"], ScanOptions())
    checker = Checker(lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False)).judge())
    tasks = list(trees.batches())
    if not replaced:
        replace()
    for task in tasks:
        assert isinstance(task, list)
        result = checker.check(task)
        assert result.outcomes == []
        trees.lose(result.lost)
    place.rename(tmp_path / "of no use")
    away.rename(place)
    found = [g for task in trees.again() if isinstance(task, list) for g in task]
    trees.close()
    expected = (f"{tree}/a", ["f"]) if moved == "f" else (f"{tree}/a/x", ["g"])
    assert [(g.directory, g.names) for g in found] == [expected]


def test_a_moved_directory_that_was_away_when_it_was_to_be_entered_is_entered_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "t", {"a/f": b"", "b/f": b""})
    for name in ("a", "b"):
        (tree / name).chmod(0o777)
    place, away = tree / "a/x", tmp_path / "x"
    write_tree(away, {"g": b""})
    opens, moves = listing.Lister.open, list[str]()

    def moving(lister: listing.Lister, fd: int, name: str, *, follow: bool) -> listing.Open:
        if name != "x" or moves:
            return opens(lister, fd, name, follow=follow)
        moves.append(name)
        place.rename(away)
        try:
            return opens(lister, fd, name, follow=follow)
        finally:
            away.rename(place)

    trees = Trees([str(tree)], ScanOptions())
    assert len([task for task in trees.batches() if isinstance(task, list)]) >= 1
    away.rename(place)
    monkeypatch.setattr(listing.Lister, "open", moving)
    found = [group for task in trees.again() if isinstance(task, list) for group in task]
    trees.close()
    assert moves == ["x"]
    assert [(group.directory, group.names) for group in found] == [(f"{tree}/a/x", ["g"])]


def test_a_scan_reads_a_listed_file_that_was_away_when_its_directory_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"f": b"listed"})
    tree.chmod(0o777)
    check, calls = Checker.check, []

    def moving(checker: Checker, task: Task, **options: bool) -> Result:
        calls.append(task)
        if len(calls) == 1:
            (tree / "f").rename(tmp_path / "away")
            write_tree(tree, {"f": b"new"})
        result = check(checker, task, **options)
        if len(calls) == 1:
            (tmp_path / "away").rename(tree / "f")
        return result

    monkeypatch.setattr(Checker, "check", moving)
    trees = Trees([str(tree)], ScanOptions())
    progress = Progress(Summary(lists=lists.states))
    outcomes = [
        outcome
        for outcome in scan(trees, lists, progress, ScanOptions(), executor=Inline(), again=trees)
        if isinstance(outcome, Outcome)
    ]
    assert [(o.kind, o.path) for o in outcomes] == [(Kind.MATCH, f"{tree}/f")]
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("grows", "looks"),
    [
        ([], [(0, 4, False)]),
        ([1], [(0, 4, False), (4, 5, False), (0, 5, False)]),
        ([1, 1], [(0, 4, False), (4, 5, False), (5, 6, False), (0, 6, False)]),
        ([1, 0, 1], [(0, 4, False), (4, 5, False), (0, 5, False), (5, 6, False), (0, 6, False)]),
        ([1] * 99, [(0, 4, False), *((n, n + 1, n == 15) for n in range(4, 16))]),
    ],
)
def test_all_directories_are_looked_at_until_a_pass_finds_no_other(
    monkeypatch: pytest.MonkeyPatch, grows: list[int], looks: list[tuple[int, int, bool]]
) -> None:
    """Only a pass over all directories proves that nothing moved; the last one reports changes."""
    source, asked, more = Again(), list[tuple[int, int, bool]](), iter(grows)
    assert (again.LOOKS, again.ROUNDS) == (3, 12)
    source._notes = io.BytesIO(b"note")

    def look(begin: int, end: int, _: object, *, is_last: bool) -> Iterator[Item]:
        asked.append((begin, end, is_last))
        source._notes.seek(0, os.SEEK_END)
        source._notes.write(b"x" * (0 if is_last else next(more, 0)))
        yield from ()

    monkeypatch.setattr(source, "_wait", lambda: None)
    monkeypatch.setattr(source, "_look", look)
    items = list(source.found(Lister()))
    assert asked == looks
    assert items == [None] * len(looks)
    source.close()


@pytest.mark.parametrize(("size", "passes"), [(1 << 16, 12), ((1 << 16) + 1, 3), (0, 0)])
def test_many_directories_have_fewer_passes(
    monkeypatch: pytest.MonkeyPatch, size: int, passes: int
) -> None:
    """Each pass finds one more directory, so that the number of directories stays high."""
    source, begins = Again(), list[int]()
    source._notes = io.BytesIO(b"x" * size)

    def look(begin: int, _end: int, _: object, *, is_last: bool) -> Iterator[Item]:
        assert not is_last
        begins.append(begin)
        if not begin:
            source._notes.seek(0, os.SEEK_END)
            source._notes.write(b"x")
        else:
            source._notes.truncate(size)
        yield from ()

    monkeypatch.setattr(source, "_wait", lambda: None)
    monkeypatch.setattr(source, "_look", look)
    assert all(item is None for item in source.found(Lister()))
    assert begins.count(0) == passes
