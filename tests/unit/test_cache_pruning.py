"""Forgetting old records a little at a time: which rows are deleted, how often, how long."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from hashclient.scan.cache import pruning
from hashclient.scan.cache.cache import _FILES
from hashclient.scan.cache.pruning import prune_in_turn
from hashclient.scan.cache.records import RECORD

TODAY = 1_000


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        opened.execute(_FILES)
        yield opened


def keep(
    database: sqlite3.Connection, *days: int, file_system: int = 7, files: int = 1, first: int = 0
) -> None:
    """Store one row of files for each of the days on which they were last seen."""
    database.executemany(
        "INSERT INTO files VALUES (?, ?, ?, 0, 0, zeroblob(?))",
        [(file_system, n, day, files * RECORD.itemsize) for n, day in enumerate(days, first)],
    )


def days_of(database: sqlite3.Connection, table: str = "files") -> list[int]:
    rows = database.execute(f"SELECT seen_day FROM {table} ORDER BY seen_day").fetchall()
    return [day for (day,) in rows]


def prune(
    database: sqlite3.Connection, days: float = 30, *, day: int = TODAY, seconds: float = 9.0
) -> int:
    return prune_in_turn(database, days, day, seconds)


def test_how_often_and_how_much_is_forgotten() -> None:
    assert (pruning.PRUNED_EVERY_DAYS, pruning.COMPACTED_BYTES) == (7, 1 << 28)


@pytest.mark.parametrize("file_system", [-(2**63), -1, 0, 7, 2**63 - 1])
def test_rows_that_were_not_seen_for_so_many_days_go(
    database: sqlite3.Connection, file_system: int
) -> None:
    keep(database, 0, 969, 970, 971, TODAY, TODAY + 1, file_system=file_system, files=3, first=-2)
    assert prune(database) == 6
    assert days_of(database) == [970, 971, TODAY, TODAY + 1]


@pytest.mark.parametrize(("days", "left"), [(0, [1_000]), (0.5, [999, 1_000]), (1, [999, 1_000])])
def test_a_part_of_a_day_is_a_day(
    database: sqlite3.Connection, days: float, left: list[int]
) -> None:
    keep(database, 998, 999, TODAY)
    prune(database, days)
    assert days_of(database) == left


def test_containers_go_with_the_files_and_are_not_counted(database: sqlite3.Connection) -> None:
    """Pruning works even if the table of containers does not exist yet."""
    assert prune(database) == 0
    assert days_of(database, "containers") == []
    for inode, day in enumerate((969, 970)):
        row = (7, inode, day, 0, b"", b"")
        database.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?)", row)
    assert prune(database, day=TODAY + 7) == 0
    assert days_of(database, "containers") == []


@pytest.mark.parametrize(
    ("later", "is_done"), [(-1, True), (0, False), (1, False), (6, False), (7, True), (99, True)]
)
def test_it_is_done_once_a_week_and_after_the_clock_was_put_back(
    database: sqlite3.Connection, later: int, is_done: bool
) -> None:
    assert prune(database) == 0
    keep(database, 0)
    assert prune(database, day=TODAY + later) == is_done
    (last,) = database.execute("SELECT day FROM pruned").fetchall()
    assert last == (TODAY + later if is_done else TODAY,)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("is_spent", [False, True])
def test_rows_go_some_at_a_time_and_the_next_call_goes_on(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, rows: int, is_spent: bool
) -> None:
    monkeypatch.setattr(pruning, "_OLD_ROWS_AT_ONCE", 4)
    times = iter([10.0] + [19.5 if is_spent else 19.0] * 9)
    monkeypatch.setattr(pruning, "time", SimpleNamespace(monotonic=lambda: next(times)))
    keep(database, *[TODAY, 0] * rows, files=2)
    first = min(rows, 4) if is_spent else rows
    assert prune(database) == 2 * first
    assert days_of(database) == [0] * (rows - first) + [TODAY] * rows
    is_done = first == rows and not (is_spent and rows == 4)
    assert database.execute("SELECT day FROM pruned").fetchall() == [(TODAY,)] * is_done
    times = iter([10.0] + [19.0] * 9)
    assert prune(database) == 2 * (rows - first)


def test_a_row_that_a_scan_sees_meanwhile_stays(database: sqlite3.Connection) -> None:
    keep(database, 0, 0)
    other = SimpleNamespace(execute=database.execute)

    def executemany(statement: str, rows: list[tuple[int, ...]]) -> None:
        database.execute("UPDATE files SET seen_day = ? WHERE block = 1", (TODAY,))
        database.executemany(statement, rows)

    other.executemany = executemany
    prune(other)  # type: ignore[arg-type]
    assert days_of(database) == [TODAY]


@pytest.mark.parametrize(
    ("old", "most", "seconds", "is_shorter"),
    [
        (90, 1 << 28, 9.0, True),
        (20, 1 << 28, 9.0, False),
        (90, 1, 9.0, False),
        (90, 1 << 28, 0.0, False),
    ],
)
def test_a_file_with_much_free_space_is_made_shorter_unless_it_is_long_or_no_time_is_left(
    database: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    old: int,
    most: int,
    seconds: float,
    is_shorter: bool,
) -> None:
    monkeypatch.setattr(pruning, "COMPACTED_BYTES", most)
    keep(database, *[0] * old, *[TODAY] * (100 - old), files=60)
    (before,) = database.execute("PRAGMA page_count").fetchone()
    assert prune(database, seconds=seconds) == 60 * old
    (after,), (free,) = (database.execute(f"PRAGMA {n}").fetchone() for n in PAGES)
    assert (after < before, free == 0) == (is_shorter, is_shorter)


PAGES = ("page_count", "freelist_count")


@pytest.mark.parametrize(("seconds", "timeout"), [(0.0, 0), (0.0015, 2), (2.5, 2_500)])
def test_another_writer_is_waited_for_no_longer_than_that(
    database: sqlite3.Connection, seconds: float, timeout: int
) -> None:
    prune(database, seconds=seconds)
    assert database.execute("PRAGMA busy_timeout").fetchone() == (timeout,)
