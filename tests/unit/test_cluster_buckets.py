"""The listing of a bucket by a cluster, whose answers come in any order and at any time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from hashclient.core.errors import StateError
from hashclient.core.kinds import Kind
from hashclient.core.objecturi import parse_uri
from hashclient.objects.listing import REPEATED, ListingEndedError
from hashclient.objects.pages import page_of
from hashclient.scan.cluster import buckets as module
from hashclient.scan.cluster import objectwork
from hashclient.scan.cluster.buckets import ClusterBucket
from hashclient.scan.cluster.connection import GoneError
from hashclient.scan.cluster.messages import (
    ListedRange,
    Lost,
    ReadObjects,
    ToRead,
    pack_read,
)
from hashclient.scan.executors.wire import Failed, encode
from hashclient.scan.objects.threads import BACKLOG, Page
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.values.work import CLUSTER_GONE, WORKER_DIED, WORKER_FAILED, Result


class Batches:
    """Takes batches and returns the answers that a test has set for them."""

    slots, has_room = 4, True

    def __init__(self) -> None:
        self.out: list[Any] = []
        self.answers: list[tuple[Any, bytes | None]] = []

    def __len__(self) -> int:
        return 0

    def submit(self, batch: Any, _do: Callable[..., bytes], _payload: bytes) -> None:
        self.out.append(batch)

    def ended(self, _seconds: float) -> list[tuple[Any, bytes | None]]:
        answers, self.answers = self.answers, []
        return answers

    def look(self) -> None:
        """Look for lost batches; none is lost."""

    def take_lost(self) -> list[Any]:
        return []


@pytest.mark.parametrize("rest", [b"q", None])
def test_a_range_that_is_listed_after_the_listing_has_ended_is_of_no_use(
    rest: bytes | None,
) -> None:
    jobs = Batches()
    bucket = ClusterBucket(cast(Any, jobs), parse_uri("s3://bucket/"), None, "here")
    assert bucket.next(0) is None
    jobs.answers = [(jobs.out[0], encode(ListedRange(b"", b"a", [b"m"], None)))]
    assert bucket.next(0) is None and bucket.next(0) is None
    first, second = jobs.out[1:]
    bucket.read(Wanted("a", 1, None, None))
    jobs.answers = [(first, encode(Lost(WORKER_DIED)))]
    with pytest.raises(ListingEndedError, match=WORKER_DIED):
        bucket.next(0)
    bucket.end_listing()
    reads = jobs.out[-1]
    jobs.answers = [(second, encode(ListedRange(b"", rest, [], None)))]
    assert bucket.next(0) is None and bucket.backlog == 1
    jobs.answers = [(reads, None)]
    checked = bucket.next(0)
    assert isinstance(checked, Checked) and bucket.is_over
    assert [outcome.kind for outcome in checked.result.outcomes] == [Kind.UNREAD]


def listed(*keys: str, rest: bytes | None = None, **how: Any) -> bytes:
    """Return the answer of a worker that has listed these keys, all on one page."""
    pages = [page_of([(key, 1, None, None, None) for key in keys])] if keys else []
    work: Any = SimpleNamespace(spec=SimpleNamespace(containers=object()))
    raw = how.pop("raw", objectwork._stream(work, pages))
    return encode(ListedRange(raw, rest, how.pop("points", []), how.pop("ended", None)))


def stream(**columns: list[Any]) -> bytes:
    """Return pages in the form in which a worker sends them, with any columns."""
    page = pa.record_batch({name: pa.array(values) for name, values in columns.items()})
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, page.schema) as writer:
        writer.write_batch(page)
    raw: bytes = out.getvalue().to_pybytes()
    return raw


class Room(Batches):
    """The jobs of a cluster, with room for at most `room` batches."""

    def __init__(self, slots: int = 4, room: int = 999) -> None:
        super().__init__()
        self.slots, self.room = slots, room
        self.submitted = 0

    @property
    def has_room(self) -> bool:  # type: ignore[override]
        return len(self.out) < self.room

    def __len__(self) -> int:
        return len(self.out)

    def answer(self, *answers: bytes | None) -> None:
        """Answer the oldest batches."""
        self.answers = [(self.out.pop(0), answer) for answer in answers]


def bucket_of(jobs: Batches, after: str | None = None) -> ClusterBucket:
    return ClusterBucket(cast(Any, jobs), parse_uri("s3://bucket/p"), after, "here")


def keys_of(page: object) -> list[str]:
    assert isinstance(page, Page) and page.batch is not None
    return [key.as_py().decode() for key in page.batch["key"]]


def test_the_sizes_of_tasks() -> None:
    assert (module.LIST_OBJECTS, module.READ_OBJECTS, module.READ_BYTES) == (20_000, 200, 64 << 20)
    assert module.PARTS == 4


@pytest.mark.parametrize("after", [None, "p/\udcff"])
def test_a_listing_begins_behind_a_key_and_ends_with_its_last_range(after: str | None) -> None:
    jobs = Room()
    bucket = bucket_of(jobs, after)
    assert bucket.next(0) is None
    (first,) = jobs.out
    assert (first.after, first.until) == (after and b"p/\xff", None)
    jobs.answer(listed("a", "b"))
    assert keys_of(bucket.next(0)) == ["a", "b"]
    assert bucket.next(0) == Page(None)
    assert bucket.is_over and bucket.next(0) is None
    assert jobs.out == []


def test_pages_come_in_the_order_of_keys_whatever_the_order_of_answers() -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.next(0)
    jobs.answer(listed("a", rest=b"b", points=[b"d", b"f"]))
    assert keys_of(bucket.next(0)) == ["a"]
    assert bucket.next(0) is None
    bounds = [(one.after, one.until) for one in jobs.out]
    assert bounds == [(b"b", b"d"), (b"d", b"f"), (b"f", None)]
    jobs.answers = [(jobs.out[2], listed("g")), (jobs.out[0], listed("c"))]
    assert keys_of(bucket.next(0)) == ["c"]
    jobs.answers = [(jobs.out[1], listed())]
    assert keys_of(bucket.next(0)) == ["g"]
    assert bucket.next(0) == Page(None)


@pytest.mark.parametrize(
    ("points", "slots", "ranges"),
    [
        (0, 4, 1),
        (1, 4, 2),
        (16, 4, 17),
        (17, 4, 10),
        (32, 4, 17),
        (33, 4, 12),
        (5, 0, 4),
        (4, 1, 5),
    ],
)
def test_the_rest_of_a_range_is_divided_into_so_many_parts(
    points: int, slots: int, ranges: int
) -> None:
    jobs = Room(slots)
    bucket = bucket_of(jobs)
    bucket.next(0)
    jobs.answer(listed("a", rest=b"a", points=[b"k%02d" % n for n in range(points)]))
    bucket.next(0)
    found = [(one.after, one.until) for one in bucket._ranges]
    assert len(found) - (len(bucket._ranges[0].pages) > 0 or bucket._ranges[0].is_listed) == ranges
    parts = [pair for pair in found if pair != (None, None)]
    assert parts[0][0] == b"a" and parts[-1][1] is None
    assert all(one[1] == other[0] for one, other in pairwise(parts))


@pytest.mark.parametrize(("slots", "room", "out"), [(0, 99, 2), (1, 99, 4), (4, 99, 10), (4, 3, 3)])
def test_so_many_ranges_are_listed_ahead(slots: int, room: int, out: int) -> None:
    jobs = Room(slots, room)
    bucket = bucket_of(jobs)
    bucket._ranges.clear()
    bucket._ranges += [module._Range(b"%02d" % n, b"%02d" % (n + 1)) for n in range(20)]
    bucket._ranges[1].is_listed = out == 10
    bucket.next(0)
    assert len(jobs.out) == out - (out == 10)
    bucket.next(0)
    assert len(jobs.out) == out - (out == 10)  # each batch is handed out once


def test_nothing_is_listed_while_very_many_objects_wait() -> None:
    jobs = Room(room=0)
    bucket = bucket_of(jobs)
    for n in range(BACKLOG + 1):
        bucket.read(Wanted(f"k{n}", 1, None, None))
    assert bucket.backlog == BACKLOG + 1
    bucket._ranges[0].pages.append(page_of([("a", 1)]))
    assert bucket.next(0) is None
    jobs.room = 99
    assert bucket.next(0) is None
    assert {type(one) for one in jobs.out} == {ToRead}
    bucket.backlog -= 1
    assert keys_of(bucket.next(0)) == ["a"]


def read_of(batch: ToRead) -> bytes:
    return encode(pack_read([Checked(Result(clean=1), one) for one in batch.wanted]))


@pytest.mark.parametrize(
    ("sizes", "busy", "batches"),
    [
        ([], 0, []),
        ([1], 0, [1]),
        ([1], 4, []),  # a small batch is not handed out while every worker is busy
        ([1], 3, [1]),
        ([1] * 199, 4, []),
        ([1] * 200, 4, [200]),
        ([1] * 201, 4, [200]),
        ([1] * 401, 0, [200, 200, 1]),
        ([64 << 20, 1], 4, [1]),
        ([(64 << 20) - 1, 1, 1], 4, [2]),
        ([(64 << 20) - 1, 5, 64 << 20], 4, [2, 1]),
        ([0] * 3, 0, [3]),
    ],
)
def test_objects_are_read_in_batches_of_a_useful_size(
    sizes: list[int], busy: int, batches: list[int]
) -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.end_listing()
    jobs.out = [None] * busy
    for n, size in enumerate(sizes):
        bucket.read(Wanted(f"k{n}", size, None, None))
    bucket.next(0)
    reads = jobs.out[busy:]
    assert [len(one.wanted) for one in reads] == batches
    keys = [one.key for batch in reads for one in batch.wanted]
    assert keys == [f"k{n}" for n in range(sum(batches))]
    assert {(one.namespace, one.bucket) for one in reads} <= {("here", "bucket")}


def test_each_object_comes_back_once() -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.end_listing()
    for key in "abc":
        bucket.read(Wanted(key, 1, None, None))
    assert bucket.next(0) is None
    jobs.answer(read_of(jobs.out[0]))
    found = [bucket.next(0) for _ in range(3)]
    assert [one.wanted.key for one in found if isinstance(one, Checked)] == ["a", "b", "c"]
    assert bucket.is_over and bucket.backlog == 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, WORKER_DIED),
        (b"no sense", WORKER_FAILED),
        (encode(Lost("so it is")), "so it is"),
        (encode(ReadObjects([])), WORKER_FAILED),
        (listed("a"), WORKER_FAILED),
    ],
)
def test_objects_of_a_batch_without_an_answer_are_unread(answer: bytes | None, reason: str) -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.end_listing()
    bucket.read(Wanted("a", 1, None, None))
    bucket.next(0)
    jobs.answer(answer)
    one = bucket.next(0)
    assert isinstance(one, Checked)
    (outcome,) = one.result.outcomes
    assert (outcome.kind, outcome.path, outcome.reason) == (Kind.UNREAD, "s3://bucket/a", reason)
    assert outcome.is_object


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, WORKER_DIED),
        (b"no sense", WORKER_FAILED),
        (encode(Lost("so it is")), "so it is"),
        (encode(ReadObjects([])), WORKER_FAILED),
        (listed(raw=b"no stream"), WORKER_FAILED),
        (listed(raw=stream(key=[b"c"], size=[1], etag=[None])), WORKER_FAILED),
        (listed(raw=stream(key=[None], size=[1], etag=[None], note=[None])), WORKER_FAILED),
        (listed(raw=stream(key=[b"c"], size=[None], etag=[None], note=[None])), WORKER_FAILED),
        (listed(raw=stream(key=[b"c"], size=[-1], etag=[None], note=[None])), WORKER_FAILED),
        (listed(raw=stream(key=[b"c"], size=["x"], etag=[None], note=[None])), WORKER_FAILED),
        (listed(ended="denied"), "denied"),
    ],
)
def test_a_range_without_an_answer_ends_the_listing_behind_the_pages_before(
    answer: bytes | None, reason: str
) -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.next(0)
    jobs.answer(listed("a", rest=b"b", points=[b"d"]))
    assert keys_of(bucket.next(0)) == ["a"]
    assert bucket.next(0) is None
    jobs.answer(answer)
    with pytest.raises(ListingEndedError, match=reason):
        bucket.next(0)


def test_pages_of_a_listing_that_ended_come_first() -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.next(0)
    jobs.answer(listed("a", rest=b"a", points=[b"d"], ended="denied"))
    assert keys_of(bucket.next(0)) == ["a"]
    with pytest.raises(ListingEndedError, match="denied"):
        bucket.next(0)
    assert jobs.out == []  # the rest of the bucket is not listed


@pytest.mark.parametrize("rest", [b"b", b"a", b""])
def test_a_range_that_is_handed_back_for_ever_ends_the_listing(rest: bytes) -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.next(0)
    jobs.answer(listed("a", rest=b"b"))
    assert keys_of(bucket.next(0)) == ["a"]
    assert bucket.next(0) is None
    jobs.answer(listed(rest=rest))
    with pytest.raises(ListingEndedError, match=WORKER_FAILED):
        bucket.next(0)
    assert jobs.out == []


@pytest.mark.parametrize(("second", "is_refused"), [("a", True), ("0", True), ("b", False)])
def test_keys_that_go_back_end_the_listing(second: str, is_refused: bool) -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.next(0)
    jobs.answer(listed("a", rest=b"a"))
    assert keys_of(bucket.next(0)) == ["a"]
    assert bucket.next(0) is None
    jobs.answer(listed(second))
    if is_refused:
        with pytest.raises(ListingEndedError, match=REPEATED):
            bucket.next(0)
    else:
        assert keys_of(bucket.next(0)) == [second]


def test_a_damaged_index_ends_the_scan_after_the_answers_of_others() -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.end_listing()
    for n in range(201):
        bucket.read(Wanted(f"k{n}", 1, None, None))
    bucket.next(0)
    jobs.answer(encode(Failed("damaged", "fetch")), read_of(jobs.out[1]))
    with pytest.raises(StateError, match="damaged"):
        bucket.next(0)
    one = bucket.next(0)
    assert isinstance(one, Checked) and one.wanted.key == "k200"


@pytest.mark.parametrize("is_listed", [False, True])
def test_when_the_cluster_has_gone_what_was_not_read_is_unread(is_listed: bool) -> None:
    class Gone(Room):
        def ended(self, _seconds: float) -> list[tuple[Any, bytes | None]]:
            raise GoneError

        def take_lost(self) -> list[Any]:
            return [ToRead("here", "bucket", [Wanted("lost", 1, None, None)])]

        def take_all(self) -> list[Any]:
            out, self.out = self.out, []
            return out

    jobs = Gone(room=1)
    bucket = bucket_of(jobs)
    if is_listed:
        bucket.end_listing()
    for key, size in (("out", module.READ_BYTES), ("waiting", 1)):
        bucket.read(Wanted(key, size, None, None))
    bucket.backlog += 1  # the lost batch counts as waiting
    found = [bucket.next(0) for _ in range(3)]
    bucket.read(Wanted("later", 1, None, None))
    found.append(bucket.next(0))
    told = [(one.wanted.key, one.result.outcomes[0].reason) for one in found if one is not None]  # type: ignore[union-attr]
    assert told == [(key, CLUSTER_GONE) for key in ("lost", "out", "waiting", "later")]
    if is_listed:
        assert bucket.is_over
    else:
        with pytest.raises(ListingEndedError, match=CLUSTER_GONE):
            bucket.next(0)


def test_answers_that_still_come_are_of_no_use_to_the_next_bucket() -> None:
    class Left(Room):
        is_left = False

        def abandon(self) -> None:
            self.is_left = True

    jobs = Left()
    with bucket_of(jobs) as bucket:
        bucket.next(0)
        assert not jobs.is_left
    assert jobs.is_left


def test_a_page_without_a_row_is_none() -> None:
    jobs = Room()
    bucket = bucket_of(jobs)
    bucket.next(0)
    empty = page_of([]).select(["key", "size", "etag", "note"]).to_pydict()
    jobs.answer(listed(raw=stream(**empty)))
    assert bucket.next(0) == Page(None)
