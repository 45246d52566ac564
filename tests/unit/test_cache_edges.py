"""The inventory at its edges: its limits, its size, its errors, and its last numbers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from hashclient.core.errors import StateError
from hashclient.scan.cache import cache
from hashclient.scan.cache.cache import DamagedInventoryError, Inventory, Stats
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.meanings import Meanings, _checksum
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.cache.records import RECORD, records_of
from hashclient.system.layout import INVENTORY_NAME
from tests.unit.test_cache import KEY, find, known, set_day, status


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Inventory]:
    with closing(Inventory(tmp_path, KEY, write=True)) as opened:
        yield opened


def test_the_limits_of_an_inventory() -> None:
    assert (cache.BLOCK_INODES, 1 << cache._BLOCK_BITS) == (256, 256)
    assert (cache.DAY_S, cache._LAST_DAY, cache._VERSION) == (86_400, 65_535, 4)
    assert InventoryPlace(Path("/"), KEY)._reread_days == 14


def test_the_form_of_a_member() -> None:
    """Inventories on disk already use the tested form of a member."""
    assert MEMBER.names == ("size", "mask", "exact", "tags")
    assert (MEMBER.itemsize, MEMBER["tags"].shape) == (58, (3, 2))


def test_a_writer_does_not_wait_for_the_disk_or_for_readers(
    tmp_path: Path, writer: Inventory
) -> None:
    assert writer._db.execute("PRAGMA synchronous").fetchone() == (0,)
    with closing(sqlite3.connect(tmp_path / INVENTORY_NAME)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert other.execute("PRAGMA user_version").fetchone() == (4,)


def test_the_size_of_an_inventory_is_told(
    tmp_path: Path, writer: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert writer.stats() == Stats(0, 0, 0, (tmp_path / INVENTORY_NAME).stat().st_size, None)
    records = records_of([status(n) for n in (1, 2, 3, 256)])
    records["mask"], records["read_day"] = 1, [0, 90, 90, 90]
    set_day(monkeypatch, 100)
    writer.store([(7, records.tobytes())])
    set_day(monkeypatch, 101)
    writer.store([(8, known(status(1)))])
    size = (tmp_path / INVENTORY_NAME).stat().st_size
    assert writer.stats() == Stats(5, 3, 3, size, 100)


def test_containers_that_no_scan_has_seen_are_forgotten(
    writer: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = np.zeros(1, MEMBER).tobytes()
    for day, inode in ((100, 1), (101, 2)):
        set_day(monkeypatch, day)
        writer.store([], containers=[(7, records_of([status(inode)]).tobytes(), members)])
    set_day(monkeypatch, 130)
    assert writer.prune(29) == 0  # only files are counted
    found = writer.containers_at(7, [1, 2])
    assert [np.frombuffer(raw, RECORD)["ino"][0] for raw, _ in found] == [2]


@pytest.mark.parametrize(
    ("error", "is_damaged", "hint"),
    [
        (ValueError("odd"), True, "a scan reads every file then, and makes it again"),
        (MemoryError(), True, "a scan reads every file then, and makes it again"),
        (sqlite3.DatabaseError("no"), True, "a scan reads every file then, and makes it again"),
        (sqlite3.SQLITE_CORRUPT, True, "a scan reads every file then, and makes it again"),
        (267, True, "a scan reads every file then, and makes it again"),  # corrupt, extended
        (sqlite3.SQLITE_NOTADB, True, "a scan reads every file then, and makes it again"),
        (sqlite3.SQLITE_BUSY, False, "another process is writing to it; try again later"),
        (sqlite3.SQLITE_IOERR, False, cache._HINT),
        (OSError(5, "Input/output error"), False, cache._HINT),
    ],
    ids=repr,
)
def test_only_other_content_is_damage(
    tmp_path: Path, writer: Inventory, error: Exception | int, is_damaged: bool, hint: str
) -> None:
    """An inventory that cannot be read now may be intact."""
    if isinstance(error, int):
        code, error = error, sqlite3.OperationalError("failed")
        error.sqlite_errorcode = code
    with pytest.raises(StateError) as failed, writer._errors():
        raise error
    assert isinstance(failed.value, DamagedInventoryError) is is_damaged
    begin = "the inventory is damaged" if is_damaged else "cannot use the inventory"
    assert failed.value.message.startswith(f"{begin}: {tmp_path / INVENTORY_NAME}: ")
    assert failed.value.hint == hint


def test_pruning_in_turn_does_not_wait_for_another_writer(
    tmp_path: Path, writer: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_day(monkeypatch, 100)
    writer.store([(7, known(status(1), status(2)))])
    set_day(monkeypatch, 200)
    other = sqlite3.connect(tmp_path / INVENTORY_NAME, isolation_level=None)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        assert writer.prune_in_turn(30, 0.0) == 0
        other.execute("ROLLBACK")
        assert writer.prune_in_turn(30, 9.0) == 2
        other.execute("DROP TABLE files")
    set_day(monkeypatch, 300)
    with pytest.raises(DamagedInventoryError):
        writer.prune_in_turn(30, 9.0)


@pytest.mark.parametrize(
    ("number", "next_number", "count"),
    [(0, 1, 1), (1, 2, 1), (253, 254, 1), (254, 255, 1), (255, 1, 0), (256, 1, 1)],
)
def test_a_number_of_a_meaning_fits_into_a_byte(number: int, next_number: int, count: int) -> None:
    """When no number is left, the records are forgotten, and all files are read again."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE files (records BLOB)")
        database.execute("INSERT INTO files VALUES (x'00')")
        first = Meanings(database, records="files").number
        database.execute("DELETE FROM meanings")
        row = number, "{}", _checksum(number, "{}")
        database.execute("INSERT INTO meanings VALUES (?, ?, ?)", row)
        made = Meanings(database, records="files")
        assert (first, made.number) == (1, next_number)
        assert database.execute("SELECT count(*) FROM files").fetchone() == (count,)
        assert Meanings(database).number == next_number


@pytest.mark.parametrize("calls", [1, 3])
def test_of_many_records_of_an_inode_the_last_counts(writer: Inventory, calls: int) -> None:
    """A file that changes while it is scanned again and again has many records."""
    files = [status(n % 7 + 1, size=n) for n in range(700)]
    batches = [(7, known(*files[at : at + 100], tag=at + 1)) for at in range(0, 700, 100)]
    for call in range(calls):
        writer.store(batches[call * 7 // calls : (call + 1) * 7 // calls])
    found, _ = find(writer, files[-7:])
    assert found["mask"].tolist() == [1] * 7
    assert found["tags"][:, 0, 0].tolist() == [601] * 7
    assert not any(find(writer, files[-14:-7])[0]["mask"])
    assert writer.stats().files == 7
