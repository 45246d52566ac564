"""Decisions about objects of a bucket: each rule at each of its edges, and the counts."""

from __future__ import annotations

import hashlib
import math
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hashclient.core.kinds import Algorithm, Kind
from hashclient.index.matcher import Judge
from hashclient.objects.pages import page_of
from hashclient.scan.cache.inside import MEMBER, Inside
from hashclient.scan.cache.records import PLAIN, SLOT, Records, records_of
from hashclient.scan.objects import sorting
from hashclient.scan.objects.sorting import (
    CANDIDATE,
    GAP,
    NO_DIGEST,
    SAMPLE,
    UNREAD,
    UNTRUSTED,
    Sorted,
    Sorter,
    md5_claims,
)
from hashclient.scan.objects.wanted import BY_SIZE, KNOWN, Wanted
from tests.unit.test_matcher import judge as make_judge
from tests.unit.test_matcher import row

MD5, SHA1, SHA256 = Algorithm


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return a judge of entries of sizes 4 and 5; an entry of size 5 has no MD5."""
    every = [row("e-4", b"4444", *Algorithm, size=4), row("e-5", b"55555", *Algorithm, size=5)]
    some = [row("f-5", b"12345", SHA256, size=5)]
    return make_judge(tmp_path_factory.mktemp("judge"), one=every, two=some)


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class Chance(Random):
    """Returns the random number that makes the sample skip `gap` objects each time."""

    def __init__(self, gap: int) -> None:
        super().__init__(1)
        self.gap = gap

    def random(self) -> float:
        return 1 - math.exp((self.gap + 0.5) * math.log(1 - 1 / SAMPLE))


def store(scheme: str = "s3") -> Any:
    """Replaces a bucket whose objects were listed already."""
    return SimpleNamespace(scheme=scheme, text="s3://b", namespace="of a bucket")


class Memory:
    """Remembers objects by their keys."""

    def __init__(self, records: dict[str, int], insides: dict[str, Inside] | None = None) -> None:
        self.records, self.insides = records, insides or {}

    def find(self, namespace: str, objects: list[Wanted]) -> Any:
        assert namespace == "of a bucket"
        records: Records = np.zeros(len(objects), records_of([]).dtype)
        records["mask"] = [self.records.get(one.key, 0) for one in objects]
        insides = {
            n: self.insides[one.key] for n, one in enumerate(objects) if one.key in self.insides
        }
        return records, insides, [(1, 2)]


def sort(judge: Judge, *rows: tuple[Any, ...], chance: Random | None = None, **how: Any) -> Sorted:
    sorter = Sorter(
        *(judge, store(how.pop("scheme", "s3")), how.pop("memory", None), chance or Chance(0)),
        how.pop("are_clean", None),
        **how,
    )
    return sorter.sort(page_of([(*one, *[None] * (5 - len(one))) for one in rows]))


def by_store(done: Sorted) -> list[str]:
    return [] if done.by_store is None else [k.decode() for k in done.by_store["key"].to_pylist()]


def told(done: Sorted) -> dict[str, tuple[Kind, str | None]]:
    return {one.path[7:]: (one.kind, one.reason or one.evidence) for one in done.result.outcomes}


@pytest.mark.parametrize("keep_clean", [False, True])
def test_a_size_that_no_entry_has_is_clean_and_so_is_an_empty_object(
    judge: Judge, keep_clean: bool
) -> None:
    rows = [("a", 0), ("b", 3), ("c", 4), ("d", 5), ("e", 6), ("f", 4, None, None, "locked")]
    done = sort(judge, *rows, keep_clean=keep_clean)
    result = done.result
    assert (result.objects, result.clean, result.ruled_out_by_size) == (6, 3, 3)
    clean = dict.fromkeys("abe", (Kind.CLEAN, BY_SIZE)) if keep_clean else {}
    assert told(done) == {"f": (Kind.UNREAD, "locked"), **clean}
    assert [(one.key, one.plan, one.looks, one.settled) for one in done.wanted] == [
        ("c", judge.plan(4), False, BY_SIZE),
        ("d", judge.plan(5), False, BY_SIZE),
    ]
    assert by_store(done) == []


@pytest.mark.parametrize("looks", [False, True])
def test_an_empty_object_is_clean_also_beside_entries_of_any_size(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    def of_sizes(sizes: Any) -> tuple[Any, Any]:
        return np.ones(len(sizes), np.bool_), np.ones(len(sizes), np.uint8)

    monkeypatch.setattr(judge, "of_sizes", of_sizes)
    done = sort(judge, ("a", 0, etag(b"x")), ("b", 1, etag(b"x")), looks=looks, trusts=True)
    assert [one.key for one in done.wanted] == ["b"]
    assert (done.result.clean, done.result.ruled_out_by_size) == (1, 1)


@pytest.mark.parametrize("reads", [False, True])
def test_where_containers_are_opened_each_object_with_content_is_looked_at(
    judge: Judge, reads: bool
) -> None:
    rows = [("a", 0), ("b", 3), ("c", 4), ("x", 3, None, None, "locked")]
    done = sort(judge, *rows, looks=True, reads=reads)
    assert (done.result.clean, done.result.ruled_out_by_size) == (1, 1)
    wanted = [(one.key, one.plan, one.looks) for one in done.wanted]
    assert wanted == ([("b", (), True), ("c", judge.plan(4), True)] if reads else [])
    unread = {} if reads else dict.fromkeys("bc", (Kind.UNREAD, NO_DIGEST))
    assert told(done) == {"x": (Kind.UNREAD, "locked"), **unread}


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
@pytest.mark.parametrize("trusts", [False, True])
def test_an_object_that_is_not_read_has_the_reason_that_is_known(
    judge: Judge, trusts: bool, scheme: str
) -> None:
    rows = [
        *(("none", 4), ("parts", 4, '"abc-2"'), ("listed", 4, etag(b"4444"))),
        *(("gap", 5, etag(b"x")), ("other", 4, etag(b"x")), ("size", 3, etag(b"4444"))),
        ("listed-gap", 5, etag(b"55555")),
    ]
    done = sort(judge, *rows, trusts=trusts, reads=False, scheme=scheme)
    name = {"s3": "etag", "gs": "md5Hash"}.get(scheme)
    expected = dict.fromkeys(("none", "parts"), NO_DIGEST)
    if name is None:
        expected |= dict.fromkeys(("listed", "gap", "other", "listed-gap"), NO_DIGEST)
    else:
        expected |= dict.fromkeys(("listed", "listed-gap"), CANDIDATE.format(name))
        expected |= {"gap": GAP} | ({} if trusts else {"other": UNTRUSTED})
    found = {path.rpartition("/")[2]: reason for path, (_, reason) in told(done).items()}
    assert found == expected
    assert by_store(done) == (["other"] if trusts and name else [])
    assert (done.wanted, done.result.clean) == ([], 1)


def test_a_trusted_object_that_may_be_a_container_is_unread_without_reading(judge: Judge) -> None:
    done = sort(judge, ("a", 4, etag(b"x")), trusts=True, reads=False, looks=True)
    assert told(done) == {"a": (Kind.UNREAD, UNREAD)}
    assert by_store(done) == []


@pytest.mark.parametrize(("gap", "sampled"), [(0, [0, 1, 2, 3, 4, 5]), (1, [0, 2, 4]), (3, [0, 4])])
def test_some_objects_are_read_to_check_their_store_also_over_pages(
    judge: Judge, gap: int, sampled: list[int]
) -> None:
    """The first object is always read, and a gap continues on the next page."""
    sorter = Sorter(judge, store(), None, Chance(gap), trusts=True)
    read, passed = [], []
    for numbers in ([0], [], [1, 2, 3], [4, 5]):
        rows = [(str(n), 4, etag(b"%d" % n), None, None) for n in numbers]
        done = sorter.sort(page_of([("none", 4, None, None, None), *rows]))
        claimed = [one for one in done.wanted if one.is_claimed]
        assert all((one.plan, one.settled) == ((), "etag") for one in claimed)
        assert [one.key for one in done.wanted if not one.is_claimed] == ["none"]
        read += [int(one.key) for one in claimed]
        passed += [int(key) for key in by_store(done)]
        assert done.result.clean == 0
    assert read == sampled
    assert sorted(read + passed) == list(range(6))


def test_each_object_is_chosen_with_the_same_chance() -> None:
    assert SAMPLE == 1_000
    sorter = Sorter(None, None, None, Chance(0))  # type: ignore[arg-type]
    for gap in (0, 1, 999, 5_000):
        sorter._chance = Chance(gap)
        assert sorter._next_gap() == gap


@pytest.mark.parametrize("looks", [False, True])
def test_objects_that_were_read_before_are_known_if_all_that_is_wanted_is(
    judge: Judge, looks: bool
) -> None:
    plan = int(judge.plan(4)[0])
    full = {"all": 7 | PLAIN, "other": plan | PLAIN, "less": (7 & ~plan) | PLAIN, "no": 0}
    rows = [*((key, 4, '"e"') for key in full), ("fixed", 4, '"e"', "v"), ("bare", 4, '"e"')]
    rows.append(("unversioned", 4, '"e"', "null"))
    memory = Memory({**full, "fixed": 7 | PLAIN, "bare": 7, "unversioned": 7 | PLAIN})
    done = sort(judge, *rows, memory=memory, looks=looks)
    result, bare = done.result, not looks
    assert [one.key for one in done.wanted] == ["less", "no", *([] if bare else ["bare"])]
    count = 4 + bare
    assert (result.clean, result.known_unchanged, result.seen) == (count, count, [(1, 2)])
    # The records of objects without a version are only believed.
    assert result.believed_unchanged == count - 1
    assert sort(judge, *rows, looks=looks).result.known_unchanged == 0


def rows_of(*masks: int) -> Inside:
    found = np.zeros(len(masks), MEMBER)
    found["mask"] = masks
    return found


@pytest.mark.parametrize("looks", [False, True])
def test_a_known_container_counts_with_its_members(judge: Judge, looks: bool) -> None:
    # A member with the mask 0 was not read, because of the size that the container claims.
    insides = {"a": rows_of(7, 0, 7, 128), "b": rows_of(7), "c": rows_of(128)}
    memory = Memory(dict.fromkeys("abc", 7), insides)
    objects = [(key, 4, '"e"') for key in "abc"]
    how: dict[str, Any] = {"memory": memory, "are_clean": lambda _: [True, False, True]}
    done = sort(judge, *objects, looks=looks, **how)
    result = done.result
    if not looks:
        assert (result.clean, result.members, result.known_unchanged) == (3, 0, 3)
        assert (result.ruled_out_by_claim, result.not_opened) == (0, {})
        return
    assert [one.key for one in done.wanted] == ["b"]
    assert (result.clean, result.members, result.known_unchanged) == (5, 3, 4)
    assert (result.ruled_out_by_claim, result.believed_unchanged) == (1, 4)
    assert sum(result.not_opened.values()) == 2
    # If members are named, each container is opened.
    again = sort(judge, *objects, looks=True, keep_clean=True, **how | {"are_clean": lambda _: []})
    assert [one.key for one in again.wanted] == ["a", "b", "c"]


def test_an_object_whose_tags_are_listed_is_read_again(judge: Judge) -> None:
    memory = Memory({"a": 7, "b": 7})
    find = memory.find

    def listed(namespace: str, objects: list[Wanted]) -> Any:
        records, insides, blocks = find(namespace, objects)
        for algorithm in Algorithm:
            digest = hashlib.new(algorithm.label, b"4444").digest()
            records["tags"][1, SLOT[algorithm]] = judge.sealer.tags_of(algorithm, [digest])[0]
        return records, insides, blocks

    memory.find = listed  # type: ignore[method-assign]
    done = sort(judge, ("a", 4, '"e"'), ("b", 4, '"e"'), memory=memory, keep_clean=True)
    assert [one.key for one in done.wanted] == ["b"]
    assert told(done) == {"a": (Kind.CLEAN, KNOWN)}


def test_a_trusted_container_that_is_known_waits_with_its_members_counted(judge: Judge) -> None:
    """The object itself is counted at the end, when the store's ETags have been checked."""
    memory = Memory({"a": 1}, {"a": rows_of(7, 7)})
    rows = [("first", 4, etag(b"y")), ("a", 4, etag(b"x"))]
    how: dict[str, Any] = {
        "memory": memory,
        "looks": True,
        "trusts": True,
        "are_clean": lambda _: [True],
    }
    done = sort(judge, *rows, chance=Chance(9), **how)
    assert [(one.key, one.is_claimed) for one in done.wanted] == [("first", True)]
    assert by_store(done) == ["a"]
    assert (done.result.clean, done.result.members, done.result.known_unchanged) == (2, 2, 2)


HEX = "0123456789abcdefABCDEF0123456789"


@pytest.mark.parametrize(
    ("etags", "flags"),
    [
        ([], []),
        ([None], [0]),
        ([HEX, HEX], [1, 1]),
        ([f'"{HEX}"', f'"{HEX}"'], [1, 1]),
        ([f'"{HEX}"', HEX], [1, 1]),
        ([f'"{HEX}"', None], [1, 0]),
        ([HEX, "g" * 32], [1, 0]),
        ([HEX, f"{HEX[:30]}  "], [1, 0]),
        ([HEX[:31], HEX[:31]], [0, 0]),
        ([HEX + "0", HEX + "0"], [0, 0]),
        ([f"'{HEX}'", f"'{HEX}'"], [0, 0]),
        ([f'"{HEX}"', f'"{HEX}x'], [1, 0]),
        ([f'x{HEX}"', f'"{HEX}"'], [0, 1]),
        ([f'"{HEX}-1"', ""], [0, 0]),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_an_etag_is_an_md5_if_it_is_one_wholly(
    etags: list[str | None], flags: list[int], first: int
) -> None:
    """The column may be a slice of a longer column."""
    column = pa.array([HEX] * first + etags, pa.string()).slice(first)
    found, digests = md5_claims(column)
    assert found.tolist() == [bool(flag) for flag in flags]
    assert [bytes(one).hex() for one in digests] == [HEX.lower()] * sum(flags)


@pytest.mark.parametrize("runs", [1, 31, 32, 33, 60])
def test_few_runs_of_rows_are_cut_out_and_many_filtered(
    monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    assert sorting.MOST_EDGES == 64
    cut, concat = [], pa.concat_batches

    def noted(parts: list[Any]) -> Any:
        cut.append(len(parts))
        return concat(parts)

    monkeypatch.setattr(pa, "concat_batches", noted)
    page = page_of([(str(n), n) for n in range(2 * runs)])
    flags = np.array([True, False] * runs)
    assert sorting._chosen(page, flags)["size"].to_pylist() == list(range(0, 2 * runs, 2))
    assert cut == ([runs] if runs <= 32 else [])
