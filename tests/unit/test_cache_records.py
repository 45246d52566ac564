"""Records of the inventory as columns: their due days, joining, and their containers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from hashclient.scan.cache import cache
from hashclient.scan.cache.records import (
    PLAIN,
    RECORD,
    TAGS,
    Records,
    are_due,
    merged_records,
    of_inodes,
    records_of,
)
from tests.unit.test_cache import MD5, SECOND_NS, SHA1, SHA256, status

DAYS = 14
NEVER = 10_000


def row(inode: int, mask: int = MD5, *, tag: int = 1, day: int = 0, **how: int) -> Records:
    """Return the record of a file; each tag consists of `tag` and the place of the tag."""
    begin = how.pop("begin", 0)
    records = records_of([status(inode, **how)])
    records["mask"], records["read_day"], records["begin"] = mask, day, begin
    for number in range(3):
        if mask >> number & 1:
            records["tags"][0, number] = (tag, number)
    return records


def rows(*records: Records) -> Records:
    return np.concatenate([np.zeros(0, RECORD), *records])


def test_the_form_of_a_record() -> None:
    """Inventories on disk already use the tested form of a record."""
    assert RECORD.itemsize == 85
    assert (TAGS, PLAIN) == (7, 64)
    assert RECORD.names == (
        *("ino", "size", "mtime", "ctime", "mask", "tags", "read_day", "begin", "meaning"),
    )


@pytest.mark.parametrize(
    ("read_day", "day", "is_due"),
    [
        # This inode is due on the days 504, 518 and each 14 days later.
        (504, 504, False),
        (504, 517, False),
        (504, 518, True),
        (503, 503, False),
        (503, 504, True),
        (505, 517, False),
        (505, 518, True),
        (505, 504, True),  # a day in the future shows that the clock was wrong
        (0, NEVER, False),
        (0, 1, False),
    ],
)
def test_a_believed_record_is_due_on_the_next_day_of_its_inode(
    read_day: int, day: int, is_due: bool
) -> None:
    """The day does not depend on the other records that are looked up at the same time."""
    record = row(504, day=read_day)
    assert are_due(record, day, DAYS).tolist() == [is_due]
    more = rows(row(1, day=0), record, row(2, day=day))
    assert are_due(more, day, DAYS).tolist() == [False, is_due, False]


@pytest.mark.parametrize(("days", "due_after"), [(-1, 0), (0, 0), (1, 1), (2, 1)])
def test_with_few_days_a_believed_record_is_due_at_once_or_on_the_next_day(
    days: int, due_after: int
) -> None:
    records = rows(row(2**64 - 1, day=500), row(5, day=0))
    found = [are_due(records, 500 + passed, days).tolist() for passed in range(3)]
    assert found == [[passed >= due_after, False] for passed in range(3)]


@pytest.mark.parametrize(
    ("seconds", "day"),
    [
        (0, 1),
        (86_399, 1),
        (86_400, 1),
        (2 * 86_400 - 1, 1),
        (2 * 86_400, 2),
        (-5, 1),
        (1e12, 65_535),
    ],
)
def test_a_day_is_at_least_one_and_fits_a_record(
    monkeypatch: pytest.MonkeyPatch, seconds: float, day: int
) -> None:
    """The first possible day is 1, because day 0 means that the record is proven."""
    monkeypatch.setattr(cache, "time", SimpleNamespace(time=lambda: seconds))
    assert cache.today() == day


@pytest.mark.parametrize("inode", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_any_inode_has_a_record(inode: int) -> None:
    other = row(1)
    records = records_of([status(inode, size=2**40, mtime=-1, ctime=2**63), status(1)])
    assert records["ino"].tolist() == [inode, 1]
    assert (records["size"][0], records["mtime"][0], records["ctime"][0]) == (
        *(2**40, 2**64 - 1),
        2**63,
    )
    assert records["mask"].tolist() == [0, 0]
    assert records["mtime"][1] == other["mtime"][0]


@pytest.mark.parametrize(
    ("stored", "found"),
    [([], [0, 0, 0]), ([5], [5, 5, 5]), ([4, 6], [4, 6, 4]), ([3, 5, 9], [5, 5, 9])],
)
def test_a_record_is_found_for_each_inode_maybe_another(
    stored: list[int], found: list[int]
) -> None:
    records = rows(*(row(inode) for inode in stored))
    inodes = np.array([4, 5, 9], np.uint64)
    assert of_inodes(records, inodes)["ino"].tolist() == found


def merged(*given: tuple[Records, Records], day: int = 510) -> Records:
    old, new = given[0]
    return merged_records(old, new, day, DAYS)


def facts(records: Records) -> list[tuple[int, int, list[int], int, int]]:
    """Return the inode, mask, tags, day and first byte of each record."""
    return [
        (
            int(one["ino"]),
            int(one["mask"]),
            [int(one["tags"][n][0]) for n in range(3)],
            int(one["read_day"]),
            int(one["begin"]),
        )
        for one in records
    ]


def test_records_of_other_inodes_are_side_by_side() -> None:
    old, new = rows(row(2), row(7), row(9)), rows(row(1), row(7, tag=5), row(8))
    assert merged((old, new))["ino"].tolist() == [1, 2, 7, 8, 9]
    assert merged((rows(), new))["ino"].tolist() == [1, 7, 8]
    twice = rows(row(1, tag=3), row(1, tag=4), row(2), row(2, SHA1, tag=6))
    for before in (rows(), rows(row(5))):
        found = facts(merged((before, twice)))[:2]
        assert found == [(1, MD5, [4, 0, 0], 0, 0), (2, SHA1, [0, 6, 0], 0, 0)]


@pytest.mark.parametrize("change", ["size", "mtime", "ctime"])
def test_another_content_has_its_own_tags(change: str) -> None:
    old, new = row(1, MD5 | PLAIN, begin=9), row(1, SHA1, tag=2, **{change: 77})
    assert facts(merged((old, new))) == [(1, SHA1, [0, 2, 0], 0, 0)]


@pytest.mark.parametrize("old_mask", [MD5, SHA256, MD5 | SHA1, 7, PLAIN, 7 | PLAIN, 0])
@pytest.mark.parametrize("new_mask", [SHA1, 7, SHA1 | PLAIN, PLAIN, 0])
def test_a_record_of_the_same_content_gets_what_the_earlier_one_had(
    old_mask: int, new_mask: int
) -> None:
    old, new = row(1, old_mask, tag=1, begin=11), row(1, new_mask, tag=2, begin=22)
    ((_, mask, tags, day, begin),) = facts(merged((old, new)))
    assert mask == old_mask | new_mask
    assert tags == [2 if new_mask >> n & 1 else 1 if old_mask >> n & 1 else 0 for n in range(3)]
    takes = old_mask & PLAIN and not new_mask & PLAIN
    assert (day, begin) == (0, 11 if takes else 22)


@pytest.mark.parametrize("mask", [SHA256, PLAIN])
@pytest.mark.parametrize(
    ("before", "after", "adds", "day"),
    [
        (0, 0, True, 0),
        (0, 509, True, 0),  # a proven record is joined with a believed record of the same content
        (505, 0, False, 0),
        (505, 509, True, 505),
        (490, 509, False, 509),  # the record of day 490 was due
        (511, 509, False, 509),
    ],
)
def test_the_day_of_what_is_joined_is_that_of_the_worse(
    mask: int, before: int, after: int, adds: bool, day: int
) -> None:
    old, new = row(504, mask, day=before, begin=5), row(504, MD5, tag=2, day=after, begin=6)
    ((_, found, tags, read_day, begin),) = facts(merged((old, new)))
    assert (found, read_day) == (MD5 | (mask if adds else 0), day)
    assert tags == [2, 0, 1 if adds and mask == SHA256 else 0]
    assert begin == (5 if adds and mask == PLAIN else 6)


def test_nothing_is_added_that_is_there_so_the_day_stays() -> None:
    old, new = row(504, MD5, day=505), row(504, MD5 | SHA1, tag=2, day=509)
    assert facts(merged((old, new))) == [(504, MD5 | SHA1, [2, 2, 0], 509, 0)]


@pytest.mark.parametrize(("later_ns", "is_settled"), [(0, False), (1, True)])
def test_a_proven_file_settles_sooner(later_ns: int, is_settled: bool) -> None:
    at = SECOND_NS + 1
    records = rows(row(1, mtime=0, ctime=at), row(1, mtime=0, ctime=at, day=5))
    for number, fresh in enumerate((cache.FRESH_PROVEN_NS, cache.FRESH_NS)):
        settled = cache.are_settled(records, at + fresh + later_ns)
        assert settled[number] == is_settled
