"""The inventory as a database of sealed tags: which records it finds, merges and keeps."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hashclient.core.errors import StateError
from hashclient.scan.cache import cache
from hashclient.scan.cache.cache import (
    BLOCK_INODES,
    COARSE_NS,
    DAY_S,
    FRESH_NS,
    FRESH_PROVEN_NS,
    DamagedInventoryError,
    Inventory,
    are_settled,
)
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.memory import remove_inventory
from hashclient.scan.cache.records import RECORD, Records, records_of
from hashclient.system.identity import Identity
from hashclient.system.layout import INVENTORY_NAME

KEY = "0123456789abcdef"
SECOND_NS = 1_000_000_000
MD5, SHA1, SHA256 = 1, 2, 4


def status(
    inode: int, *, device: int = 7, size: int = 10, mtime: int = 5, ctime: int = 6
) -> os.stat_result:
    """Return the status of a file, with times in nanoseconds."""
    seconds = (mtime // SECOND_NS, mtime // SECOND_NS, ctime // SECOND_NS)
    floats = tuple(float(s) for s in seconds)
    nanoseconds = (mtime, mtime, ctime)
    head = (0o100644, inode, device, 1, 0, 0, size)
    return os.stat_result((*head, *seconds, *floats, *nanoseconds))


def known(*statuses: os.stat_result, mask: int = MD5, tag: int = 1) -> bytes:
    """Return records of files that have the tags in `mask`, all with the value `tag`."""
    records = records_of(statuses)
    records["mask"] = mask
    for number in range(3):
        if mask >> number & 1:
            records["tags"][:, number] = (tag, number)
    return records.tobytes()


def masks(found: Records) -> list[int]:
    masks: list[int] = found["mask"].tolist()
    return masks


def find(
    opened: Inventory, statuses: Sequence[os.stat_result]
) -> tuple[Records, list[tuple[int, int]]]:
    """Look files up, with the number of each device as the number of its file system."""
    return opened.find(statuses, {s.st_dev: Identity(s.st_dev) for s in statuses})


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Inventory]:
    opened = Inventory(tmp_path, KEY, write=True)
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a closed inventory with records of 2,000 files."""
    opened = Inventory(tmp_path, KEY, write=True)
    for inode in range(0, 2000, 100):
        files = [status(n) for n in range(inode, inode + 100)]
        opened.store([(7, known(*files, tag=inode + 1))])
    opened.close()
    return tmp_path / INVENTORY_NAME


def set_day(monkeypatch: pytest.MonkeyPatch, day: int) -> None:
    clock = SimpleNamespace(time=lambda: day * DAY_S + 3600.0)
    monkeypatch.setattr(cache, "time", clock)


def test_stored_files_are_found_by_another_connection(tmp_path: Path, writer: Inventory) -> None:
    files = [status(n) for n in (1, 2, BLOCK_INODES, 3 * BLOCK_INODES + 5, 2**50)]
    writer.store([(7, known(*files, mask=MD5 | SHA256, tag=99))])
    reader = Inventory(tmp_path, KEY)
    found, old = find(reader, [status(3), *reversed(files), status(2**51)])
    reader.close()
    assert masks(found) == [0, *[MD5 | SHA256] * 5, 0]
    assert found["tags"][1].tolist() == [[99, 0], [0, 0], [99, 2]]
    assert old == []
    assert (tmp_path / INVENTORY_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change", [{"size": 11}, {"mtime": 50}, {"ctime": 60}, {"device": 8}], ids=str
)
def test_a_file_is_known_only_while_nothing_of_it_changes(
    writer: Inventory, change: dict[str, int]
) -> None:
    writer.store([(7, known(status(1), status(2)))])
    assert masks(find(writer, [status(1, **change), status(2)])[0]) == [0, MD5]


def test_files_of_several_devices_may_share_inodes(writer: Inventory) -> None:
    batches = [(d, known(status(1, device=d), tag=d)) for d in (7, 8, 2**40)]
    writer.store(batches)
    found, _ = find(writer, [status(1, device=d) for d in (2**40, 9, 7, 8)])
    assert masks(found) == [MD5, 0, MD5, MD5]
    assert found["tags"][:, 0, 0].tolist() == [2**40, 0, 7, 8]


def test_storing_and_finding_no_files_has_no_effect(writer: Inventory) -> None:
    writer.store([])
    found, old = find(writer, [])
    assert (len(found), old, writer.stats().files) == (0, [], 0)


def test_tags_of_the_same_content_are_joined_and_of_another_are_not(writer: Inventory) -> None:
    writer.store([(7, known(status(1), status(2), mask=MD5, tag=1))])
    changed = status(2, mtime=7)
    writer.store([(7, known(status(1), changed, mask=SHA256, tag=2))])
    found, _ = find(writer, [status(1), changed, status(2)])
    assert masks(found) == [MD5 | SHA256, SHA256, 0]
    assert found["tags"][0].tolist() == [[1, 0], [0, 0], [2, 2]]
    assert writer.stats().files == 2


def test_of_two_records_of_an_inode_the_last_counts(writer: Inventory) -> None:
    writer.store([(7, known(status(1), tag=1)), (7, known(status(1, size=3), tag=2))])
    assert masks(find(writer, [status(1), status(1, size=3)])[0]) == [0, MD5]


def test_records_stay_sorted_whatever_the_order_of_storing(writer: Inventory) -> None:
    inodes = list(range(1, 3 * BLOCK_INODES, 7))
    random.Random(0).shuffle(inodes)
    for start in range(0, len(inodes), 10):
        writer.store([(7, known(*(status(n) for n in inodes[start : start + 10])))])
    assert masks(find(writer, [status(n) for n in inodes])[0]) == [MD5] * len(inodes)


def test_a_file_system_without_a_number_has_no_cache(writer: Inventory) -> None:
    """A device number does not identify a file system, because another file system may reuse it."""
    files = [status(1, device=7), status(1, device=8)]
    writer.store([(7, known(files[0])), (8, known(files[1])), (9, known(files[1], tag=3))])
    assert masks(writer.find(files, {7: None, 8: Identity(9)})[0]) == [0, MD5]
    assert writer.find(files, {8: Identity(9)})[0]["tags"][1, 0].tolist() == [3, 0]
    assert masks(writer.find(files, {})[0]) == [0, 0]


@pytest.mark.parametrize("ns", [-1, -(2**63), 2**63, 13_569_465_600 * SECOND_NS, 2**64 - 1])
def test_any_time_that_a_file_can_have_can_be_noted(writer: Inventory, ns: int) -> None:
    """Any user can set a file's time to the year 2400, which exceeds 63 bits of nanoseconds."""
    moved = status(1, mtime=ns)
    writer.store([(7, known(moved))])
    assert masks(find(writer, [moved, status(1, mtime=ns + 1)])[0]) == [MD5, 0]


@pytest.mark.parametrize(("read_day", "fresh"), [(0, FRESH_PROVEN_NS), (7, FRESH_NS)])
@pytest.mark.parametrize(
    ("mtime", "ctime", "later", "settled"),
    [
        (0, SECOND_NS + 1, 1, False),
        (0, SECOND_NS + 1, 2, True),
        # On a file system that stores whole seconds, a later change may have the same time as this
        # change.
        (0, SECOND_NS, COARSE_NS, False),
        (0, SECOND_NS, COARSE_NS + 1, True),
        (SECOND_NS, 1, 0, False),
        (SECOND_NS, 1, 1, True),
    ],
)
def test_a_file_is_settled_only_when_its_last_change_is_past(
    mtime: int, ctime: int, later: int, settled: bool, read_day: int, fresh: int
) -> None:
    records = records_of([status(1, mtime=mtime, ctime=ctime), status(2, mtime=0, ctime=1)])
    records["read_day"] = read_day
    assert are_settled(records, SECOND_NS + fresh + later).tolist() == [settled, True]


def test_blocks_not_seen_for_a_day_are_named_and_noted(
    writer: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_day(monkeypatch, 100)
    writer.store([(7, known(status(1), status(BLOCK_INODES)))])
    assert find(writer, [status(1)])[1] == []
    set_day(monkeypatch, 101)
    assert find(writer, [status(1)])[1] == [(7, 0)]
    writer.store([], [(7, 0)])
    assert find(writer, [status(1)])[1] == []
    assert writer.stats().oldest_seen_day == 100


def test_pruning_forgets_what_no_scan_has_seen(
    writer: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_day(monkeypatch, 100)
    writer.store([(7, known(status(1), status(2), status(BLOCK_INODES)))])
    set_day(monkeypatch, 130)
    writer.store([], [(7, 1)])
    assert writer.prune(30) == 0
    assert writer.prune(29) == 2
    assert masks(find(writer, [status(1), status(BLOCK_INODES)])[0]) == [0, MD5]
    assert writer.prune(0) == 0
    set_day(monkeypatch, 131)
    assert writer.prune(0) == 1
    assert writer.stats().oldest_seen_day is None


def test_many_rows_are_merged_some_at_a_time(writer: Inventory) -> None:
    files = [status(n) for n in range(0, 40 * BLOCK_INODES, 100)]
    writer.store([(7, known(*files[::2])), (8, known(status(1, device=8)))])
    writer.store([(7, known(*files[1::2], mask=SHA1)), (7, known(*files[::3], mask=SHA256))])
    found = masks(find(writer, [*files, status(1, device=8)])[0])
    expected = [
        (MD5 if n % 2 == 0 else SHA1) | (SHA256 if n % 3 == 0 else 0) for n in range(len(files))
    ]
    # If one call has two records of an inode, only the later record counts.
    expected = [SHA256 if n % 2 and n % 3 == 0 else mask for n, mask in enumerate(expected)]
    assert found == [*expected, MD5]


def test_another_key_cannot_read_it_and_empties_it(path: Path) -> None:
    with pytest.raises(StateError, match="another key"):
        Inventory(path.parent, "f" * 16)
    other = Inventory(path.parent, "f" * 16, write=True)
    assert other.stats().files == 0
    other.close()


def test_tags_under_a_former_key_are_never_used(tmp_path: Path) -> None:
    """The key is replaced while a scan runs: it reads and writes the inventory until its end."""
    (tmp_path / "f").write_bytes(b"x")
    there = (tmp_path / "f").stat()
    with (
        closing(Inventory(tmp_path, KEY, write=True)) as writes_before,
        closing(Inventory(tmp_path, KEY)) as reads_before,
        closing(Inventory(tmp_path, "f" * 16, write=True)) as now,
    ):
        for writer, other in ((now, reads_before), (writes_before, now)):
            device = there.st_dev
            members = [(device, records_of([there]).tobytes(), bytes(MEMBER.itemsize))]
            writer.store([(device, known(there))], containers=members)
            assert masks(find(writer, [there])[0]) == [MD5]
            assert masks(find(other, [there])[0]) == [0]
            identities = {device: Identity(device)}
            assert [*writer.find_inside([there], identities)] == [0]
            assert not other.find_inside([there], identities)


def test_there_is_nothing_to_read_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot use the inventory"):
        Inventory(tmp_path, KEY)
    assert list(tmp_path.iterdir()) == []


def garbled(data: bytes) -> dict[str, bytes]:
    """Return damaged contents of the database file, by a description of the damage."""
    other = data.replace(b"CREATE TABLE files", b"CREATE TABLE tiles")
    assert other != data
    return {
        "garbage": random.Random(1).randbytes(len(data)),
        "text": b"this is no database\n" * 100,
        "a byte": b"x",
        "its first bytes": data[:50],
        "its first page": data[:4096],
        "its half": data[: len(data) // 2],
        "other tables": other,
    }


@pytest.mark.parametrize("what", garbled(b"CREATE TABLE files"))
def test_damage_is_reported_and_the_file_can_be_made_again(path: Path, what: str) -> None:
    path.write_bytes(garbled(path.read_bytes())[what])
    with pytest.raises(DamagedInventoryError, match="is damaged"):
        _use(path.parent)
    remove_inventory(path.parent)
    assert list(path.parent.iterdir()) == []
    Inventory(path.parent, KEY, write=True).close()


def _use(directory: Path) -> None:
    """Look up all files in an inventory and store them again, as a scan does."""
    files = [status(n) for n in range(2000)]
    for write in (False, True):
        opened = Inventory(directory, KEY, write=write)
        try:
            find(opened, files)
            if write:
                opened.store([(7, known(*files))])
        finally:
            opened.close()


@pytest.mark.parametrize("version", [1, 3])
def test_a_file_of_another_version_is_emptied_by_a_writer(path: Path, version: int) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    with pytest.raises(StateError, match="of an earlier version"):
        Inventory(path.parent, KEY)
    opened = Inventory(path.parent, KEY, write=True)
    assert opened.stats().files == 0
    opened.close()


def test_a_row_counts_only_where_it_belongs(path: Path) -> None:
    """A row that was moved to another device in the database would look valid there."""
    with sqlite3.connect(path) as db:
        assert db.execute("UPDATE files SET file_system = 8 WHERE block = 0").rowcount == 1
    db.close()
    opened = Inventory(path.parent, KEY)
    assert masks(find(opened, [status(1, device=8), status(BLOCK_INODES)])[0]) == [0, MD5]
    opened.close()


@pytest.mark.parametrize(
    "change", ["seen_day = 'x'", "seen_day = NULL", "crc = 'x'", "records = 'x'", "records = 5"]
)
def test_a_row_with_other_types_counts_as_missing(path: Path, change: str) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(
            "CREATE TABLE other AS SELECT * FROM files; DROP TABLE files;"
            f"ALTER TABLE other RENAME TO files; UPDATE files SET {change} WHERE block = 0"
        )
    db.close()
    opened = Inventory(path.parent, KEY)
    assert masks(find(opened, [status(1), status(BLOCK_INODES)])[0]) == [0, MD5]
    opened.close()


@pytest.mark.slow
def test_bytes_that_the_disk_has_changed_are_never_used_as_a_tag(path: Path) -> None:
    """Bits flip anywhere in the file.

    The inventory then returns the former tags of a file, or none.
    """
    whole = path.read_bytes()
    chance = random.Random(2)
    files = [status(n) for n in range(2000)]
    expected = np.frombuffer(
        b"".join(known(s, tag=s.st_ino // 100 * 100 + 1) for s in files), RECORD
    )
    answers = forgotten = damaged = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(20):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            opened = Inventory(path.parent, KEY)
        except StateError:
            damaged += 1
            continue
        try:
            found, _ = find(opened, files)
        except StateError:
            damaged += 1
            continue
        finally:
            opened.close()
        same = found["mask"] != 0
        assert (found[same] == expected[same]).all()
        answers += int(same.sum())
        forgotten += int((~same).sum())
    assert answers and forgotten and damaged


def test_a_write_that_fails_leaves_what_was_there(writer: Inventory, tmp_path: Path) -> None:
    writer.store([(7, known(status(1)))])
    other = sqlite3.connect(tmp_path / INVENTORY_NAME, isolation_level=None)
    writer._db.execute("PRAGMA busy_timeout = 10")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match="locked"):
        writer.store([(7, known(status(2)))])
    other.execute("ROLLBACK")
    other.close()
    writer.store([(7, known(status(3)))])
    assert masks(find(writer, [status(n) for n in (1, 2, 3)])[0]) == [MD5, 0, MD5]


@pytest.mark.parametrize("write", [False, True])
def test_a_later_version_is_left_alone(path: Path, write: bool) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 5")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StateError, match="newer hashclient") as caught:
        Inventory(path.parent, KEY, write=write)
    assert not isinstance(caught.value, DamagedInventoryError)
    assert path.read_bytes() == before


def test_a_container_record_garbled_on_disk_counts_as_lost(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    status = (tmp_path / "f").stat()
    identities = {status.st_dev: Identity(7)}
    inventory = Inventory(tmp_path, "key", write=True)
    members = np.zeros(1, MEMBER).tobytes()
    inventory.store([], containers=[(7, records_of([status]).tobytes(), members)])
    assert list(inventory.find_inside([status], identities)) == [0]
    for change in (
        "record = zeroblob(length(record))",
        "members = CAST(members || members AS BLOB)",
        "members = X'00'",
        "file_system = 8",
        "crc = 0",
    ):
        inventory._db.execute("SAVEPOINT before")
        inventory._db.execute(f"UPDATE containers SET {change}")
        asked = {status.st_dev: Identity(8 if "8" in change else 7)}
        assert inventory.find_inside([status], asked) == {}
        inventory._db.execute("ROLLBACK TO before")
        inventory._db.execute("RELEASE before")
    inventory.close()
