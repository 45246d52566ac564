"""The check of files at its limits: what is deferred, what is opened, what is computed at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hashclient.containers.limits import Options
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Outcome
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache import cache
from hashclient.scan.cache.interface import Cache
from hashclient.scan.cache.records import PLAIN, RECORD, records_of
from hashclient.scan.check import checker, marks, members, opening_files, reading
from hashclient.scan.check.checker import Checker
from hashclient.scan.check.judging import judge_files
from hashclient.scan.check.members import Members, Opened
from hashclient.scan.check.opening_files import Waits
from hashclient.scan.check.reading import SPARE_BYTES, Deferred, Device, Reader
from hashclient.scan.sources import interface, listing, trees
from hashclient.scan.sources.finding_again import open_listed
from hashclient.scan.values.work import Group
from hashclient.system.filesystems import FULL, NONE, NONZERO, SizeTrust
from hashclient.system.identity import Identities, Identity
from hashclient.system.leases import can_lease
from tests.kit import csv_of, open_files, remember_at_once, write_tree
from tests.unit.test_checker import lists_of, zipped

MD5, SHA1 = (Algorithm.MD5,), (Algorithm.SHA1,)
ARCHIVE = zipped(b"content")


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of({"e-1": b"listed"}))


@pytest.fixture(scope="module")
def unsized(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    """Lists whose entries have no sizes, so that every file is read."""
    rows = csv_of({"e-1": b"listed"}, sized=False)
    return lists_of(tmp_path_factory.mktemp("unsized"), base=rows)


def test_limits_of_memory_and_time_are_these() -> None:
    assert (reading.SPARSE_BYTES, reading.SPARSE_SHARE) == (1 << 30, 100)
    assert (reading.UNSIZED_BYTES, reading.CLAIMED_BYTES) == (1 << 26, 1 << 30)
    assert (reading.UNSIZED_S, reading.ATTEMPTS, SPARE_BYTES) == (60.0, 3, 1 << 16)
    assert (marks.LOOK_BYTES, members.MAX_KEPT, members.ROWS_AT_ONCE) == (4_096, 10_000, 4_096)
    assert (opening_files.FILES_AHEAD, checker.DIRECTORIES) == (32, 16)
    assert (trees.MAX_COVERED, interface.TASK_CHARS, interface.TASK_S) == (10_000, 1 << 14, 0.05)
    assert listing.NAMES_AHEAD == 512
    seconds = [
        timedelta(microseconds=ns / 1_000).total_seconds()
        for ns in (cache.FRESH_NS, cache.FRESH_PROVEN_NS, cache.COARSE_NS)
    ]
    assert seconds == [60, 1, 2]
    assert (cache.REREAD_DAYS, cache.BLOCK_INODES) == (14, 1 << cache._BLOCK_BITS)


class Openers(Members):
    """Opens no container, and starts no process; it notes the names of the files."""

    def __init__(self, lists: OpenLists, error: OSError | None = None) -> None:
        super().__init__(lists.judge(), Options())
        self.names: list[str] = []
        self.waits: list[bool] = []
        self.errors = [error] if error else []

    def open(
        self,
        fd: int,
        size: int,
        path: str,
        is_unchanged: Callable[[], bool],
        *,
        can_wait: bool = False,
    ) -> Opened:
        assert os.fstat(fd).st_size == size and is_unchanged()
        self.waits.append(can_wait)
        if self.errors:
            raise self.errors.pop()
        self.names.append(Path(path).name)
        return Opened(members=1, clean=1)


@pytest.mark.parametrize(
    ("others", "defer", "is_whole"), [(1, False, False), (0, False, True), (0, True, False)]
)
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("is_read", [False, True])
def test_a_long_container_is_a_task_of_its_own(
    lists: OpenLists,
    unsized: OpenLists,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    others: int,
    defer: bool,
    is_whole: bool,
    more: int,
    is_read: bool,
) -> None:
    """The limit is the same for a file that is read, and for one whose size no entry has."""
    monkeypatch.setattr(checker, "DEFER_BYTES", len(ARCHIVE) - more)
    write_tree(tmp_path, {"a": ARCHIVE, "b": b"text"})
    chosen = unsized if is_read else lists
    opener = Openers(chosen)
    task = [Group(str(tmp_path), ["a", "b"][: 1 + others], follow=False)]
    result = Checker(chosen.judge(), members=opener).check(task, defer=defer)
    is_late = more >= 0 and not is_whole
    assert opener.names == ([] if is_late else ["a"])
    assert [[*group.names] for group in result.deferred] == [["a"]] * is_late
    assert result.clean == others + (0 if is_late else 2)
    assert result.outcomes == []


def test_files_of_two_groups_are_not_alone(
    unsized: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "DEFER_BYTES", 6)
    write_tree(tmp_path, {"a/f": b"listed", "b/f": b"short"})
    groups = [Group(f"{tmp_path}/{name}", ["f"], follow=False) for name in "ab"]
    one = Checker(unsized.judge())
    result = one.check(groups)
    assert ([group.directory for group in result.deferred], result.clean) == ([groups[0][0]], 1)
    empty = Group(str(tmp_path), [], follow=False)
    (match,) = one.check([groups[0], empty]).outcomes
    assert match.kind is Kind.MATCH


@pytest.mark.parametrize(
    ("files", "expects"),
    [
        ({"a": b"listed"}, True),
        ({"a": b"listed", "b": b"LISTED"}, False),
        ({"a": b"listed", "b": b"listed", "c": b"LISTED"}, True),
        ({"b": b"LISTED"}, False),
        ({}, False),
    ],
)
def test_most_files_of_a_task_must_hit_before_all_digests_are_computed_at_once(
    unsized: OpenLists, tmp_path: Path, files: dict[str, bytes], expects: bool
) -> None:
    write_tree(tmp_path, files)
    one = Checker(unsized.judge())
    for _ in range(2):
        one.check([Group(str(tmp_path), list(files), follow=False)])
        assert one._expects_hits is expects
    assert set(one._reader.spare) == (set(Algorithm) if expects else set())


@pytest.mark.parametrize(
    ("size", "spare", "count"),
    [
        (SPARE_BYTES - 1, tuple(Algorithm), 3),
        (SPARE_BYTES, tuple(Algorithm), 1),
        (0, tuple(Algorithm), 3),
        (5, SHA1, 1),
        (5, MD5, 2),
        (5, (), 1),
    ],
)
def test_further_digests_are_computed_for_short_files(
    tmp_path: Path, size: int, spare: tuple[Algorithm, ...], count: int
) -> None:
    """The digests of the plan come first, and only these are named."""
    (tmp_path / "f").write_bytes(bytes(size))
    reader = Reader(lambda _: SHA1)
    reader.spare = spare
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        plan, digests, *_ = reader.read(fd)
    finally:
        os.close(fd)
        reader.end_task()
    assert (plan, len(digests), len(digests[0])) == (SHA1, count, 20)


@pytest.mark.parametrize(("more", "is_late"), [(-1, True), (0, True), (1, False)])
@pytest.mark.parametrize("is_wanted", [False, True])
def test_a_file_is_deferred_from_a_length_on_if_its_size_is_wanted(
    tmp_path: Path, more: int, is_late: bool, is_wanted: bool
) -> None:
    (tmp_path / "f").write_bytes(b"listed")
    reader = Reader(lambda _: SHA1 if is_wanted else ())
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        reader.devices[os.fstat(fd).st_dev] = Device(FULL)
        if is_late and is_wanted:
            with pytest.raises(Deferred):
                reader.read(fd, 6 + more)
        else:
            assert len(reader.read(fd, 6 + more)[1]) == int(is_wanted)
        assert reader.bytes_read == (6 if is_wanted and not is_late else 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("files", "waited", "often"), [(10, 6, False), (10, 7, True), (1, 4, False), (1, 5, True)]
)
def test_files_are_opened_ahead_after_so_many_waits(
    monkeypatch: pytest.MonkeyPatch, files: int, waited: int, often: bool
) -> None:
    now = 100
    monkeypatch.setattr(Waits, "count", staticmethod(lambda: now))
    waits = Waits()
    assert not waits.often
    for _ in range(2):
        waits.begin()
        now += waited
        waits.end(files)
        assert waits.often is often


@pytest.mark.parametrize("has_lists", [False, True])
@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("expects", [False, True])
def test_the_status_of_a_file_is_read_first_only_if_it_can_decide(
    lists: OpenLists,
    unsized: OpenLists,
    tmp_path: Path,
    has_lists: bool,
    opens: bool,
    is_listed: bool,
    expects: bool,
) -> None:
    """`has_lists`: whether entries have sizes, so that a size may rule a file out."""
    chosen = lists if has_lists else unsized
    one = Checker(chosen.judge(), members=Openers(chosen) if opens else None)
    one._expects_hits = expects
    group = Group(str(tmp_path), ["f"], follow=False)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        group = group.only(["f"], [7]) if is_listed else group
        directory = opening_files.directory_of(fd, group, os.fstat(fd))
    finally:
        os.close(fd)
    looks = has_lists and not expects and not (opens and is_listed)
    assert one._looks_first(directory) is looks


def test_a_container_that_lacks_a_descriptor_alone_in_its_directory_does_not_wait(
    lists: OpenLists, tmp_path: Path
) -> None:
    """An error other than a missing descriptor makes the file unread, and no other file."""
    write_tree(tmp_path, {"a": ARCHIVE, "b": ARCHIVE})
    opener: Any = Openers(lists, OSError(5, "broken"))
    result = Checker(lists.judge(), members=opener).check(
        [Group(str(tmp_path), ["a", "b"], follow=False)]
    )
    assert [Outcome(Kind.UNREAD, f"{tmp_path}/a", reason="broken")] == result.outcomes
    assert (opener.names, opener.waits, result.clean) == (["b"], [False, False], 2)


def group_of(directory: Path, *names: str) -> Group:
    return Group(str(directory), list(names), follow=False)


def test_a_directory_that_is_gone_beside_others_is_unread_and_not_deferred(
    lists: OpenLists, tmp_path: Path
) -> None:
    write_tree(tmp_path, {"a/f": b"LISTED", "b/f": b"LISTED"})
    task = [group_of(tmp_path / name, "f") for name in ("a", "gone", "b")]
    result = Checker(lists.judge()).check(task)
    assert (result.clean, result.deferred) == (2, [])
    assert [(one.path, one.reason) for one in result.outcomes] == [
        (f"{tmp_path}/gone/f", "no such file or directory")
    ]


@pytest.mark.parametrize("fails", ["a", "b"])
def test_a_directory_that_lacks_a_descriptor_waits_for_those_before_it(
    lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """If no other directory is open, waiting would not free a descriptor."""
    write_tree(tmp_path, {"a/f": b"LISTED", "b/f": b"LISTED"})

    def refuse(path: str, identity: Any) -> tuple[int, os.stat_result]:
        if path.endswith(fails):
            raise OSError(24, "Too many open files")
        return open_listed(path, identity)

    monkeypatch.setattr(checker, "open_listed", refuse)
    task = [group_of(tmp_path / name, "f") for name in "ab"]
    result = Checker(lists.judge()).check(task)
    assert result.clean == 1
    assert result.deferred == ([task[1]] if fails == "b" else [])
    assert [one.reason for one in result.outcomes] == ["too many open files"] * (fails == "a")


@pytest.mark.parametrize(
    ("number", "waits", "names"),
    [(24, [True, False, True], ["a", "b"]), (5, [True, True], ["b"])],
)
def test_a_container_gets_the_descriptors_of_files_that_were_opened_ahead(
    unsized: OpenLists,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    waits: list[bool],
    names: list[str],
) -> None:
    write_tree(tmp_path, {"a": ARCHIVE, "b": ARCHIVE})
    monkeypatch.setattr(Waits, "often", property(lambda _: True, lambda *_: None), raising=False)
    opener = Openers(unsized, OSError(number, "Broken"))
    before = open_files()
    result = Checker(unsized.judge(), members=opener).check([group_of(tmp_path, "a", "b")])
    assert (opener.waits, opener.names) == (waits, names)
    assert result.clean == 2 * len(names)
    assert [one.reason for one in result.outcomes] == ["broken"] * (2 - len(names))
    assert open_files() == before


@pytest.mark.parametrize("count", [1, 2])
def test_a_container_waits_for_descriptors_if_other_directories_are_open(
    lists: OpenLists, tmp_path: Path, count: int
) -> None:
    write_tree(tmp_path, {"a/z": ARCHIVE, "b/z": ARCHIVE})
    opener = Openers(lists)
    Checker(lists.judge(), members=opener).check(
        [group_of(tmp_path / n, "z") for n in "ab"[:count]]
    )
    assert opener.waits == [count > 1] * count


class Recording(Cache):
    """A cache without records; it notes the file systems that it is asked about."""

    def __init__(self) -> None:
        self.asked: list[dict[int, Identity | None]] = []

    def find(self, statuses: Any, identities: Any) -> Any:
        self.asked.append(dict(identities))
        return records_of(statuses), []

    def find_inside(self, *_: Any) -> dict[int, Any]:
        return {}


class Numbered(Identities):
    """Identities that have the number 7 for every file system."""

    def of(self, fd: int, device: int) -> Identity:
        return Identity(7)


@pytest.mark.parametrize("has_cache", [False, True])
@pytest.mark.parametrize("learns", [False, True])
def test_file_systems_are_identified_for_a_cache_and_for_new_records(
    unsized: OpenLists,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_cache: bool,
    learns: bool,
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    write_tree(tmp_path / "t", {"f": b"benign"})
    while time.time_ns() <= (tmp_path / "t/f").stat().st_ctime_ns:
        pass
    cache = Recording()
    one = Checker(
        *(unsized.judge(),),
        cache=cache if has_cache else None,
        learn=learns,
        file_systems=Numbered(),
    )
    result = one.check([group_of(tmp_path / "t", "f")])
    device = (tmp_path / "t").stat().st_dev
    assert cache.asked == [{device: Identity(7)}] * has_cache
    assert [number for number, _ in result.learned] == [7] * learns
    assert one.check([group_of(tmp_path / "t", "f")]).clean == 1


@pytest.mark.parametrize("begin", [0, 1, 255])
@pytest.mark.parametrize("is_container", [False, True])
def test_what_is_no_container_is_remembered_with_its_first_byte(
    lists: OpenLists,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begin: int,
    is_container: bool,
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    data = ARCHIVE if is_container else bytes([begin]) + b" of another size"
    write_tree(tmp_path / "t", {"f": data})
    while time.time_ns() <= (tmp_path / "t/f").stat().st_ctime_ns:
        pass
    made = Checker(*(lists.judge(),), members=Openers(lists), learn=True, file_systems=Numbered())
    result = made.check([group_of(tmp_path / "t", "f")])
    records = np.frombuffer(b"".join(raw for _, raw in result.learned), RECORD)
    found = [(int(one["mask"]), int(one["begin"])) for one in records]
    assert found == ([] if is_container else [(PLAIN, begin)])


@pytest.mark.parametrize("is_mount", [False, True])
def test_a_file_that_is_mounted_on_a_name_is_the_file_of_that_name(
    unsized: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mount: bool
) -> None:
    """The directory shows the inode of the file that the mount hides."""
    write_tree(tmp_path, {"f": b"listed"})
    monkeypatch.setattr(checker, "is_mounted_on", lambda *_: is_mount)
    other = (tmp_path / "f").stat().st_ino + 999_999
    result = Checker(unsized.judge()).check([group_of(tmp_path, "f").only(["f"], [other])])
    assert [one.kind for one in result.outcomes] == [Kind.MATCH]
    assert result.lost == ([] if is_mount else [other])


@pytest.mark.parametrize(
    ("trust", "content", "is_read"),
    [
        (FULL, b"other size", False),
        (NONZERO, b"other size", False),
        (NONE, b"other size", True),
        (FULL, b"", False),
        (NONZERO, b"", True),
        (NONE, b"", True),
    ],
)
@pytest.mark.parametrize("keep_clean", [False, True])
def test_only_a_size_that_can_be_relied_on_rules_a_file_out(
    lists: OpenLists,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trust: SizeTrust,
    content: bytes,
    is_read: bool,
    keep_clean: bool,
) -> None:
    monkeypatch.setattr(reading, "trust_of", lambda *_: trust)
    write_tree(tmp_path, {"f": content})
    result = Checker(lists.judge(), keep_clean=keep_clean).check([group_of(tmp_path, "f")])
    assert (result.clean, result.files_read, result.ruled_out_by_size) == (
        *(1, int(is_read)),
        int(not is_read),
    )
    assert [one.size for one in result.outcomes] == [len(content)] * keep_clean


def test_leases_are_asked_for_only_if_records_are_made(lists: OpenLists) -> None:
    assert can_lease()
    assert [Checker(lists.judge(), learn=learns)._reader._leases for learns in (False, True)] == [
        *(False, True),
    ]


@pytest.mark.parametrize("names", ["af", "bf", "af bf", ""])
def test_files_that_hit_and_are_gone_leave_nothing_open(
    unsized: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    """The other digests are computed from the files, directory by directory."""
    write_tree(tmp_path, dict.fromkeys(("a/af", "a/ag", "b/bf", "b/bg"), b"listed"))

    def judging(*given: Any) -> Any:
        for name in names.split():
            (tmp_path / name[0] / name).unlink()
        return judge_files(*given)

    monkeypatch.setattr(checker, "judge_files", judging)
    task = [group_of(tmp_path / name, f"{name}f", f"{name}g") for name in "ab"]
    before = open_files()
    result = Checker(unsized.judge()).check(task)
    assert open_files() == before
    kinds = {Path(one.path).name: one.kind for one in result.outcomes}
    gone = dict.fromkeys(names.split(), Kind.UNREAD)
    assert kinds == dict.fromkeys(("af", "ag", "bf", "bg"), Kind.MATCH) | gone
    assert result.files_read == 4 - len(gone)
