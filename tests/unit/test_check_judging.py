"""Records that a task makes for the inventory: their files, days and tags."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache import cache
from hashclient.scan.cache.records import PLAIN, RECORD, SLOT, Records, records_of
from hashclient.scan.check import judging
from hashclient.scan.check.judging import Files, columns_of, files_of, learn
from hashclient.scan.values.work import Result
from hashclient.system.identity import Identity
from tests.kit import csv_of
from tests.unit.test_cache import SECOND_NS, status
from tests.unit.test_checker import lists_of

DEVICE, TODAY, YESTERDAY = 7, 500, 499
NOW_NS = 1_000 * SECOND_NS
PROVING, PLAIN_DISK = Identity(42, proves=True), Identity(42)
NETWORK = Identity(42, is_local=False)
MD5, SHA1, SHA256 = Algorithm


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of({"e-1": b"listed"}))


@pytest.fixture(autouse=True)
def _day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "today", lambda: TODAY)


def read(
    lists: OpenLists, inode: int = 1, *, begin: int = -1, unwritable: bool | None = None, **how: Any
) -> tuple[Any, ...]:
    """Return the row of a file that the task has read."""
    plan = how.pop("plan", (MD5,))
    digests = [bytes([a]) * a.digest_bytes for a in plan]
    reliable, before = how.pop("reliable", True), how.pop("before", None)
    of = before or status(inode, device=how.pop("device", DEVICE), mtime=1, ctime=1)
    found = plan, how.pop("digests", digests), of.st_size, of, reliable, unwritable
    assert not how
    return "/d", f"f{inode}", begin, found


def learned(
    lists: OpenLists,
    *rows: tuple[Any, ...],
    identity: Identity | None = PLAIN_DISK,
    known: dict[int, Any] | None = None,
    plain: Any = (),
    inside: Any = (),
    files: Files | None = None,
) -> tuple[Records, Result]:
    """Return the records that a task has learnt, and its result."""
    result = Result()
    found = files or files_of(lists.judge(), rows, known or {})
    learn(result, found, plain, inside, {DEVICE: identity}, NOW_NS)
    assert {number for number, _ in result.learned} <= {42}
    return np.frombuffer(b"".join(raw for _, raw in result.learned), RECORD), result


@pytest.mark.parametrize(
    ("identity", "unwritable", "read_day"),
    [
        (PROVING, True, 0),
        (PROVING, None, TODAY),
        (PROVING, False, None),
        (PLAIN_DISK, True, TODAY),
        (PLAIN_DISK, None, TODAY),
        (PLAIN_DISK, False, None),
        (NETWORK, True, TODAY),
        (NETWORK, None, TODAY),
        (NETWORK, False, TODAY),  # another machine may write to the file, so a lease proves nothing
        (None, True, None),
    ],
)
@pytest.mark.parametrize("what", ["files", "inside"])
def test_a_file_is_remembered_unless_somebody_may_write_to_it(
    lists: OpenLists,
    identity: Identity | None,
    unwritable: bool | None,
    read_day: int | None,
    what: str,
) -> None:
    """`unwritable` says whether a lease has proven that no process may write to the file."""
    of = status(9, device=DEVICE, mtime=1, ctime=1)
    if what == "files":
        records, result = learned(lists, read(lists, unwritable=unwritable), identity=identity)
        assert result.containers == []
    else:
        records, result = learned(lists, identity=identity, inside=[(of, unwritable, b"members")])
        assert len(records) == 0
        ((number, raw, members),) = result.containers or [(0, b"", b"")]
        assert (number, members) == ((0, b"") if read_day is None else (42, b"members"))
        records = np.frombuffer(raw, RECORD)
        assert (records["mask"].tolist(), records["ino"].tolist()) in (([PLAIN], [9]), ([], []))
    assert records["read_day"].tolist() == ([] if read_day is None else [read_day])


def test_several_files_have_their_own_proofs(lists: OpenLists) -> None:
    given = [True, None, False, True, None]
    rows = [read(lists, n, unwritable=one) for n, one in enumerate(given)]
    records, _ = learned(lists, *rows, identity=PROVING)
    assert records["ino"].tolist() == [0, 1, 3, 4]
    assert records["read_day"].tolist() == [0, TODAY, 0, TODAY]


@pytest.mark.parametrize(
    ("how", "is_kept"),
    [
        ({}, True),
        ({"reliable": False}, False),
        ({"digests": [], "plan": ()}, False),
        ({"device": 8}, False),
    ],
)
def test_a_file_is_remembered_if_it_was_read_and_its_times_can_be_relied_on(
    lists: OpenLists, how: dict[str, Any], is_kept: bool
) -> None:
    records, _ = learned(lists, read(lists, 1, **how), read(lists, 2))
    assert records["ino"].tolist() == ([1, 2] if is_kept else [2])


@pytest.mark.parametrize("plan", [(MD5,), (SHA256,), (MD5, SHA1), (MD5, SHA1, SHA256)])
@pytest.mark.parametrize("begin", [-1, 0, 65, 255])
def test_a_record_has_the_tags_of_its_digests_and_the_first_byte_of_no_container(
    lists: OpenLists, plan: tuple[Algorithm, ...], begin: int
) -> None:
    rows = [read(lists, 1, plan=(SHA1,)), read(lists, 2, plan=plan, begin=begin)]
    records, _ = learned(lists, *rows)
    judge = lists.judge()
    tags = judge.seal({a: bytes([a]) * a.digest_bytes for a in plan})
    one = records[records["ino"] == 2][0]
    assert one["mask"] == mask_of(plan) | (PLAIN if begin >= 0 else 0)
    assert one["begin"] == (begin if begin >= 0 else 255)
    for algorithm in Algorithm:
        expected = tags[algorithm].ravel().tolist() if algorithm in plan else [0, 0]
        assert one["tags"][SLOT[algorithm]].tolist() == expected


def test_files_that_were_only_looked_at_are_remembered_as_no_containers(lists: OpenLists) -> None:
    plain = [(status(n, mtime=1, ctime=1), 60 + n) for n in (1, 2)]
    records, _ = learned(lists, plain=plain, identity=PROVING)
    assert records["ino"].tolist() == [1, 2]
    assert records["mask"].tolist() == [PLAIN, PLAIN]
    assert records["begin"].tolist() == [61, 62]
    assert records["read_day"].tolist() == [TODAY, TODAY]


@pytest.mark.parametrize(
    ("unwritable", "before_s", "is_kept"),
    [(True, 1, False), (True, 2, True), (None, 59, False), (None, 61, True)],
)
def test_a_file_that_changed_just_now_is_not_remembered(
    lists: OpenLists, unwritable: bool | None, before_s: int, is_kept: bool
) -> None:
    assert (cache.FRESH_NS, cache.FRESH_PROVEN_NS) == (60 * SECOND_NS, SECOND_NS)
    at = NOW_NS - before_s * SECOND_NS + 1
    row = read(lists, before=status(1, mtime=at, ctime=at), unwritable=unwritable)
    records, _ = learned(lists, row, identity=PROVING)
    assert len(records) == is_kept


@pytest.mark.parametrize("identity", [PROVING, PLAIN_DISK])
def test_a_known_file_that_was_read_in_part_keeps_its_day_and_its_first_byte(
    lists: OpenLists, identity: Identity
) -> None:
    of = status(2, device=DEVICE, mtime=1, ctime=1)
    old = records_of([of])
    old["mask"], old["begin"], old["read_day"] = MD5 | PLAIN, 77, YESTERDAY
    old["tags"][0, 0] = (5, 6)
    rows = [read(lists, 1, begin=33), read(lists, before=of, plan=(), digests=[])]
    files = files_of(lists.judge(), rows, {1: old[0]})
    # The SHA-1 is computed because an entry matches the first digest of the file.
    files.digests[1] = [b"x" * SHA1.digest_bytes]
    files.plans[1] = (SHA1,)
    files.seal(lists.judge(), (SHA1,), [1])
    records, _ = learned(lists, files=files, identity=identity)
    one, other = records[records["ino"] == 1][0], records[records["ino"] == 2][0]
    assert (one["read_day"], one["begin"]) == (TODAY, 33)
    assert (other["read_day"], other["begin"]) == (YESTERDAY, 77)
    assert other["mask"] & (MD5 | SHA1) == MD5 | SHA1
    assert other["tags"][0].tolist() == [5, 6]


def test_columns_are_of_the_records_whose_mask_has_the_algorithm() -> None:
    records = np.zeros(4, RECORD)
    records["mask"] = [MD5, SHA1 | PLAIN, MD5 | SHA256, 0]
    records["tags"] = np.arange(4 * 3 * 2).reshape(4, 3, 2)
    found = {a: (tags.tolist(), rows.tolist()) for a, (tags, rows) in columns_of(records).items()}
    assert found == {
        MD5: ([[0, 1], [12, 13]], [0, 2]),
        SHA1: ([[8, 9]], [1]),
        SHA256: ([[16, 17]], [2]),
    }
    masks = np.array([SHA1, 0, 0, SHA1], np.uint8)
    chosen = {a: rows.tolist() for a, (_, rows) in columns_of(records, masks).items()}
    assert chosen == {SHA1: [0, 3]}


def test_a_match_has_all_tags_of_its_file(lists: OpenLists) -> None:
    plan, judge = (MD5, SHA1, SHA256), lists.judge()
    digests = [hashlib.new(a.label, b"listed").digest() for a in plan]
    of = status(2, size=len(b"listed"))
    directory = SimpleNamespace(path=lambda name: f"/d/{name}", seen=lambda _: None)
    others = [read(lists, n, plan=(SHA1,)) for n in (1, 3)]
    listed = (directory, *read(lists, before=of, plan=plan, digests=digests)[1:])
    files = files_of(judge, [others[0], listed, others[1], listed], {})
    found = judging.judge_files(judge, cast("Any", None), files, Result())
    assert [(n, one.kind) for n, one in found.items()] == [(1, Kind.MATCH), (3, Kind.MATCH)]
    tags = {a: tags.tobytes() for a, tags in judge.seal(files.of(1)).items()}
    assert [one.tags for one in found.values()] == [tags, tags]


@pytest.mark.parametrize(
    ("every", "computed", "wanted", "places"),
    [
        ((MD5, SHA1, SHA256), (MD5,), (SHA1,), [1]),
        ((MD5, SHA1, SHA256), (SHA1,), (MD5, SHA256), [1, 2]),
        ((MD5, SHA1, SHA256), (SHA256, MD5), (SHA1,), [2]),
        ((SHA1, SHA256), (MD5,), (SHA256,), [2]),
    ],
)
def test_spare_digests_stand_behind_those_of_the_plan(
    every: tuple[Algorithm, ...],
    computed: tuple[Algorithm, ...],
    wanted: tuple[Algorithm, ...],
    places: list[int],
) -> None:
    assert judging._places(every, computed, wanted) == places


def test_digests_that_count_are_those_of_the_plan(lists: OpenLists, tmp_path: Path) -> None:
    files = files_of(lists.judge(), [read(lists, plan=(MD5,), digests=[b"a" * 16, b"b" * 20])], {})
    assert files.of(0) == {MD5: b"a" * 16}
    empty = files_of(lists.judge(), [], {})
    assert (len(empty.records), empty.names) == (0, [])
