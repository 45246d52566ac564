"""Rules for every cache: a file is known only while it has not changed."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from msgspec.msgpack import decode

from hashclient.config.settings import Config, Settings
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.index.open_lists import open_lists
from hashclient.scan.cache import cache
from hashclient.scan.cache.inside import MEMBER, Inside
from hashclient.scan.cache.interface import Cache, CachePlace
from hashclient.scan.cache.memory import InventoryPlace, Memory
from hashclient.scan.cache.records import RECORD, Records, are_due, merged_records, records_of
from hashclient.scan.cluster.known import Received, Remembered
from hashclient.scan.cluster.messages import ToCheck, names_elsewhere
from hashclient.scan.executors.here import Inline
from hashclient.scan.executors.wire import encode
from hashclient.scan.run.engine import Progress, scan
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Block, Container, Group
from hashclient.system.identity import Identity
from tests.kit import csv_of, make_state, remember_at_once, write_tree

KEY = "0123456789abcdef"
FILE_SYSTEM = 42
#: The number of days after which a record without a proof is not used any more.
DAYS = 14


class Known(Cache):
    """A cache in the memory of one process: a record for each inode."""

    def __init__(self) -> None:
        self.records: dict[tuple[int, int], Records] = {}
        self.containers: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def find(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> tuple[Records, list[Block]]:
        found = np.zeros(len(statuses), RECORD)
        for row, (status, asked) in enumerate(zip(statuses, records_of(statuses), strict=True)):
            file_system = identities.get(status.st_dev)
            if file_system is None:
                continue
            record = self.records.get((file_system.number, status.st_ino))
            due = record is not None and are_due(np.array([record], RECORD), cache.today(), DAYS)[0]
            if record is not None and same(record, asked) and not due:
                found[row] = record
        return found, []

    def find_inside(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> dict[int, tuple[Inside, bool]]:
        found = {}
        for place, (status, asked) in enumerate(zip(statuses, records_of(statuses), strict=True)):
            file_system = identities.get(status.st_dev)
            if file_system is None:
                continue
            raw, members = self.containers.get((file_system.number, status.st_ino), (b"", b""))
            record = np.frombuffer(raw, RECORD)
            due = len(record) and are_due(record, cache.today(), DAYS)[0]
            if len(record) and same(record[0], asked) and not due:
                found[place] = np.frombuffer(members, MEMBER), bool(record["read_day"][0])
        return found

    def store(
        self,
        batches: Sequence[tuple[int, bytes]],
        seen: Sequence[Block] = (),
        containers: Sequence[Container] = (),
    ) -> None:
        assert not seen
        for file_system, raw, members in containers:
            inode = int(np.frombuffer(raw, RECORD)["ino"][0])
            self.containers[file_system, inode] = raw, members
        for file_system, raw in batches:
            for record in np.frombuffer(raw, RECORD).copy():
                key = (file_system, int(record["ino"]))
                old = [self.records[key]] if key in self.records else []
                before, new = (np.array(one, RECORD) for one in (old, [record]))
                self.records[key] = merged_records(before, new, cache.today(), DAYS)[0]

    def close(self) -> None:
        pass


def same(one: Records, other: Records) -> bool:
    return all(one[name] == other[name] for name in ("ino", "size", "mtime", "ctime"))


class KnownPlace:
    """Gives tests the cache that lives in the memory of this process."""

    def __init__(self, _: Path) -> None:
        self._cache: Known | None = None

    def reader(self) -> Cache | None:
        return self._cache

    def writer(self) -> Cache:
        self._cache = self._cache or Known()
        return self._cache

    def remove(self) -> None:
        self._cache = None


class OnTheWay(Cache):
    """A client's inventory as a worker uses it: the known records are sent with a batch."""

    def __init__(self, place: InventoryPlace) -> None:
        self._remembered = Remembered(place, opens=True)
        self._remembered.begin()
        self._sent = Received(DAYS)

    def _send(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> None:
        groups = []
        for device in {status.st_dev for status in statuses}:
            inodes = [status.st_ino for status in statuses if status.st_dev == device]
            identity = identities.get(device)
            names = list(map(str, inodes))
            group = Group("d", names, follow=False, inodes=array("Q", inodes))
            groups.append(names_elsewhere(group, 0 if identity is None else identity.number))
        batch = ToCheck(tuple(groups), self._remembered.of(groups))
        self._sent.take(decode(encode(batch), type=ToCheck).known)

    def find(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> tuple[Records, list[Block]]:
        self._send(statuses, identities)
        return self._sent.find(statuses, identities)

    def find_inside(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> dict[int, tuple[Inside, bool]]:
        self._send(statuses, identities)
        return self._sent.find_inside(statuses, identities)

    def store(
        self,
        batches: Sequence[tuple[int, bytes]],
        seen: Sequence[Block] = (),
        containers: Sequence[Container] = (),
    ) -> None:
        raise AssertionError("a worker stores nothing")

    def close(self) -> None:
        self._remembered.close()


class PlaceOfClient(InventoryPlace):
    """The place of an inventory that workers of a cluster use."""

    def reader(self) -> Cache | None:  # type: ignore[override]
        return OnTheWay(InventoryPlace(self._state_dir, KEY, DAYS))


PLACES: dict[str, Callable[[Path], CachePlace]] = {
    "inventory": lambda directory: InventoryPlace(directory, KEY, DAYS),
    "in memory": KnownPlace,
    "sent to a worker": lambda directory: PlaceOfClient(directory, KEY, DAYS),
}
each_place = pytest.mark.parametrize("make", PLACES.values(), ids=PLACES.keys())


@pytest.fixture
def status(tmp_path: Path) -> os.stat_result:
    (tmp_path / "f").write_bytes(b"content")
    return (tmp_path / "f").stat()


def record_of(status: os.stat_result, mask: int, tag: int, read_day: int = 0) -> bytes:
    records = records_of([status])
    records["mask"] = mask
    records["read_day"] = read_day
    for number in range(3):
        if mask >> number & 1:
            records["tags"][0, number] = (tag, number)
    return records.tobytes()


def changed(status: os.stat_result, **changes: int) -> os.stat_result:
    """Return a status with other numbers; times are in nanoseconds."""
    names = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")
    values = [changes.get(name, getattr(status, name)) for name in names]
    times = [changes.get(f"st_{t}_ns", getattr(status, f"st_{t}_ns")) for t in ("mtime", "ctime")]
    nanoseconds = (times[0], times[0], times[1])
    seconds = tuple(t // 10**9 for t in nanoseconds)
    return os.stat_result((*values, *seconds, *(float(s) for s in seconds), *nanoseconds))


def ask(
    place: CachePlace, status: os.stat_result, file_system: int | None = FILE_SYSTEM
) -> tuple[int, list[tuple[int, int]]]:
    """Return the mask of the known digests of a file, and its tags."""
    opened = place.reader()
    if opened is None:
        return 0, []
    identity = None if file_system is None else Identity(file_system)
    try:
        records, _ = opened.find([status], {status.st_dev: identity})
    finally:
        opened.close()
    mask = int(records[0]["mask"])
    tags = [tuple(records[0]["tags"][n].tolist()) for n in range(3) if mask >> n & 1]
    return mask, tags


def put(place: CachePlace, status: os.stat_result, mask: int, tag: int, read_day: int = 0) -> None:
    opened = place.writer()
    opened.store([(FILE_SYSTEM, record_of(status, mask, tag, read_day))])
    opened.close()


def set_day(patch: pytest.MonkeyPatch, day: int) -> None:
    patch.setattr(cache, "today", lambda: day)


@each_place
def test_a_file_that_was_not_stored_is_not_known(
    make: Callable[[Path], CachePlace], tmp_path: Path, status: os.stat_result
) -> None:
    place = make(tmp_path)
    assert ask(place, status) == (0, [])
    put(place, changed(status, st_ino=status.st_ino + 1), 1, 5)
    assert ask(place, status) == (0, [])


@each_place
def test_a_file_is_known_while_nothing_about_it_has_changed(
    make: Callable[[Path], CachePlace], tmp_path: Path, status: os.stat_result
) -> None:
    place = make(tmp_path)
    put(place, status, 5, 9)
    assert ask(place, status) == (5, [(9, 0), (9, 2)])
    for name in ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"):
        assert ask(place, changed(status, **{name: getattr(status, name) + 1})) == (0, [])
    assert ask(place, status, None) == (0, [])
    assert ask(place, status, FILE_SYSTEM + 1) == (0, [])
    assert ask(place, changed(status, st_dev=status.st_dev + 1)) == (5, [(9, 0), (9, 2)])


@each_place
def test_a_later_record_replaces_an_earlier_one_or_adds_to_it(
    make: Callable[[Path], CachePlace], tmp_path: Path, status: os.stat_result
) -> None:
    place = make(tmp_path)
    put(place, status, 1, 9)
    put(place, status, 2, 8)
    assert ask(place, status) == (3, [(9, 0), (8, 1)])
    later = changed(status, st_mtime_ns=status.st_mtime_ns + 1)
    put(place, later, 4, 7)
    assert ask(place, later) == (4, [(7, 2)])
    assert ask(place, status) == (0, [])


@each_place
def test_proven_files_do_not_age_and_believed_ones_are_due_within_days(
    make: Callable[[Path], CachePlace],
    tmp_path: Path,
    status: os.stat_result,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, due = make(tmp_path), set()
    inodes = range(1000, 1000 + DAYS)
    for inode in inodes:
        set_day(monkeypatch, 500)
        put(place, changed(status, st_ino=inode), 1, 9, read_day=500)
        known = []
        for day in range(500, 500 + DAYS + 1):
            set_day(monkeypatch, day)
            known.append(ask(place, changed(status, st_ino=inode))[0] == 1)
        assert known == sorted(known, reverse=True)
        assert known[0] and not known[-1]
        due.add(known.index(False))
    # Each day has at least one due inode.
    assert due == set(range(1, DAYS + 1))
    put(place, status, 1, 9)
    for day in (501, 60_000):
        set_day(monkeypatch, day)
        assert ask(place, status)[0] == 1
    # The record was made while the clock was wrong.
    put(place, changed(status, st_ino=3), 1, 9, read_day=60_001)
    assert ask(place, changed(status, st_ino=3))[0] == 0


@each_place
@pytest.mark.parametrize(
    ("before", "after", "mask", "day"),
    [
        (0, 0, 3, 0),
        # A record that a lease proved shows that the content is unchanged, so all tags are kept.
        (0, 510, 3, 0),
        # The older record was only believed, and its content may differ, so its tags are dropped.
        (505, 0, 2, 0),
        # The joined record keeps the day of the believed record.
        (505, 509, 3, 505),
        # The file of the older record is due to be read again, so only the new record counts.
        (495, 510, 2, 510),
    ],
)
def test_tags_that_are_joined_are_as_good_as_the_worse_of_them(
    make: Callable[[Path], CachePlace],
    tmp_path: Path,
    status: os.stat_result,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    after: int,
    mask: int,
    day: int,
) -> None:
    place = make(tmp_path)
    # This inode is due on the days 504, 518 and each 14 days later.
    status = changed(status, st_ino=504)
    set_day(monkeypatch, 510)
    put(place, status, 1, 9, read_day=before)
    put(place, status, 2, 8, read_day=after)
    opened = place.reader()
    assert opened is not None
    records, _ = opened.find([status], {status.st_dev: Identity(FILE_SYSTEM)})
    opened.close()
    assert (records[0]["mask"], records[0]["read_day"]) == (mask, day)


@each_place
def test_answers_are_in_the_order_of_the_questions(
    make: Callable[[Path], CachePlace], tmp_path: Path, status: os.stat_result
) -> None:
    place = make(tmp_path)
    inodes = [7, 3, 900, 5, 100_000]
    asked = [changed(status, st_ino=inode) for inode in inodes]
    for number, one in enumerate(asked):
        if number != 2:
            put(place, one, 1, number)
    opened = place.reader()
    assert opened is not None
    records, _ = opened.find(asked, {status.st_dev: Identity(FILE_SYSTEM)})
    opened.close()
    assert records["mask"].tolist() == [1, 1, 0, 1, 1]
    assert [int(r["tags"][0][0]) for r in records if r["mask"]] == [0, 1, 3, 4]


@each_place
def test_a_removed_cache_knows_no_file(
    make: Callable[[Path], CachePlace], tmp_path: Path, status: os.stat_result
) -> None:
    place = make(tmp_path)
    put(place, status, 1, 9)
    place.remove()
    assert ask(place, status) == (0, [])
    put(place, status, 2, 9)
    assert ask(place, status) == (2, [(9, 1)])


@each_place
def test_a_scan_does_not_read_again_what_it_knows(
    make: Callable[[Path], CachePlace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{n % 3}/{n}": b"content %02d" % n for n in range(40)}
    tree = write_tree(tmp_path / "t", files)
    state = make_state(tmp_path, {"base": csv_of({"e-7": files["1/7"]})})
    lists = open_lists(Settings(state, state / "c", None, Config()), {}, datetime.now(UTC))
    remember_at_once(monkeypatch, tmp_path)
    place = make(state)

    def scanned() -> tuple[dict[str, Kind], int, int]:
        summary = Summary(lists=lists.states)
        source = Trees([str(tree)], ScanOptions())
        found = scan(
            source,
            lists,
            Progress(summary),
            ScanOptions(jobs=1, show_clean=True),
            memory=Memory(place),
            executor=Inline(),
        )
        kinds = {o.path: o.kind for o in found if isinstance(o, Outcome)}
        return kinds, summary.files_read, summary.known_unchanged

    first, second = scanned(), scanned()
    assert first[0] == second[0]
    assert first[0][f"{tree}/1/7"] is Kind.MATCH
    assert (first[1:], second[1:]) == ((40, 0), (0, 40))
    (tree / "2" / "8").write_bytes(b"CONTENT 08")
    assert scanned()[1:] == (1, 39)


def members_of(tag: int) -> bytes:
    members = np.zeros(2, MEMBER)
    members["size"], members["mask"], members["tags"] = 7, 1, tag
    return members.tobytes()


def inside(place: CachePlace, status: os.stat_result) -> list[tuple[bytes, bool]]:
    opened = place.reader()
    if opened is None:
        return []
    try:
        found = opened.find_inside([status], {status.st_dev: Identity(FILE_SYSTEM)})
    finally:
        opened.close()
    return [(members.tobytes(), believed) for members, believed in found.values()]


@each_place
def test_the_members_of_a_file_are_known_while_it_is_unchanged(
    make: Callable[[Path], CachePlace], tmp_path: Path, status: os.stat_result
) -> None:
    place = make(tmp_path)
    assert inside(place, status) == []
    opened = place.writer()
    opened.store([], containers=[(FILE_SYSTEM, record_of(status, 8, 0), members_of(1))])
    opened.close()
    assert inside(place, status) == [(members_of(1), False)]
    for name in ("st_size", "st_ino"):
        assert inside(place, changed(status, **{name: getattr(status, name) + 1})) == []
    for name in ("st_mtime_ns", "st_ctime_ns"):
        assert inside(place, changed(status, **{name: getattr(status, name) + 1})) == []
    opened = place.writer()
    opened.store([], containers=[(FILE_SYSTEM, record_of(status, 8, 0), members_of(2))])
    opened.close()
    assert inside(place, status) == [(members_of(2), False)]


@each_place
def test_believed_members_of_containers_count_until_they_are_due(
    make: Callable[[Path], CachePlace],
    tmp_path: Path,
    status: os.stat_result,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = make(tmp_path)
    opened = place.writer()
    opened.store([], containers=[(FILE_SYSTEM, record_of(status, 8, 0, 100), members_of(1))])
    opened.close()
    set_day(monkeypatch, 100)
    assert inside(place, status) == [(members_of(1), True)]
    set_day(monkeypatch, 100 + DAYS)
    assert inside(place, status) == []
