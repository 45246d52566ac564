"""Members of containers in the inventory: each row belongs to one container in one place."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from hashclient.containers.unopened import NAMES
from hashclient.scan.cache import inside
from hashclient.scan.cache.inside import (
    MAX_KNOWN,
    MEMBER,
    NOT_OPENED,
    counts_of,
    not_opened_rows,
    store,
    stored,
)
from hashclient.scan.cache.records import RECORD

INODES = (0, 1, 2**63 - 1, 2**63, 2**64 - 1)


def record(inode: int) -> bytes:
    row = np.zeros(1, RECORD)
    row["ino"] = inode
    return row.tobytes()


@pytest.mark.parametrize("inode", INODES)
def test_a_container_is_found_by_any_inode_and_in_its_place_alone(inode: int) -> None:
    members = np.ones(2, MEMBER).tobytes()
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(inside.TABLE)
        store(database, 3, [(7, record(inode), members)], 100)
        for file_system, asked, found in (
            (7, [inode], 1),
            (7, [inode, 5], 1),
            (7, [], 0),
            (7, [inode ^ 2], 0),
            (8, [inode], 0),
        ):
            rows = stored(database, 3, file_system, asked)
            assert rows == [(record(inode), members)] * found
        (seen_day,) = database.execute("SELECT seen_day FROM containers").fetchone()
        assert seen_day == 100


@pytest.mark.parametrize(
    "damage",
    [
        "crc = crc + 1",
        "file_system = 8",
        "record = zeroblob(3)",
        "record = x''",
        "members = zeroblob(3)",
        "members = x''",
    ],
)
def test_a_damaged_row_is_not_there(damage: str) -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(inside.TABLE)
        store(database, 3, [(7, record(5), np.ones(2, MEMBER).tobytes())], 1)
        database.execute(f"UPDATE containers SET {damage}")
        assert stored(database, 3, 7, [5]) == stored(database, 3, 8, [5]) == []


def test_kinds_that_are_not_opened_are_counted_beside_members() -> None:
    assert (MAX_KNOWN, NOT_OPENED) == (50_000, 128)
    kinds = {NAMES[0]: 1, NAMES[-1]: 3}
    rows = np.concatenate([np.zeros(2, MEMBER), not_opened_rows(kinds)])
    rows["mask"][0], rows["exact"][1] = 4, 1
    assert counts_of(rows) == (2, 0, kinds)
    assert counts_of(not_opened_rows({})) == (0, 0, {})


def test_members_that_their_claimed_size_ruled_out_are_never_called_read() -> None:
    rows = np.zeros(6, MEMBER)
    rows["mask"], rows["exact"] = [0, 0, 1, 7, NOT_OPENED, 0], [0, 1, 0, 1, 0, 0]
    assert counts_of(rows) == (5, 2, {NAMES[0]: 1})
