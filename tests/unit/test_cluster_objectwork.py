"""The work of a cluster's worker on buckets: where a listing stops, and how its rest is divided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from hashclient.core.errors import StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.objects.failures import StoreError, Trouble
from hashclient.objects.listing import ListingEndedError
from hashclient.objects.pages import page_of
from hashclient.scan.cluster import objectwork, worker
from hashclient.scan.cluster.messages import (
    ListedRange,
    Lost,
    ReadObjects,
    ToListRange,
    ToRead,
    decode_object_answer,
    unpack_read,
)
from hashclient.scan.cluster.objectwork import levels_of
from hashclient.scan.executors.wire import Failed, encode
from hashclient.scan.objects.reader import StoppedError
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.values.work import WORKER_FAILED, Result

HERE = "s3 here"


class Store:
    """A bucket with nested `prefixes` and `pages` of keys."""

    def __init__(self, *pages: str, prefixes: dict[str, Sequence[str]] | None = None) -> None:
        self.pages = pages
        self.prefixes = prefixes or {}
        self.ends: str | None = None
        self.fails = False
        self.asked: list[dict[str, str]] = []
        self.listed: list[tuple[str, str | None]] = []

    @property
    def namespace(self) -> str:
        if self.fails:
            raise StoreError(Trouble.OTHER, "no credentials")
        return HERE

    def call(self, operation: str, **asked: str) -> dict[str, Any]:
        assert operation == "list_objects_v2"
        self.asked.append(asked)
        if asked["Prefix"] not in self.prefixes:
            raise StoreError(Trouble.DENIED, "denied")
        found = self.prefixes[asked["Prefix"]]
        return {"CommonPrefixes": [{"Prefix": one} for one in found]} if found else {}


class Working:
    """A worker that has prepared one scan."""

    def __init__(self, store: Store, containers: object = object()) -> None:
        self.spec = SimpleNamespace(containers=containers)
        self.is_over = False
        self.used = 0.0
        self.bucket: Any = SimpleNamespace(store=store, reader=lambda: Reader(self))
        self.names: list[object] = []

    def opened(self, name: object, _make: Callable[[], object]) -> object:
        self.names.append(name)
        return self.bucket


class Reader:
    """Reads only objects whose sizes are even."""

    def __init__(self, work: Working) -> None:
        self.work = work

    def check(self, wanted: Wanted) -> Checked:
        kind = Kind.UNREAD if wanted.size % 2 else Kind.CLEAN
        outcome = Outcome(kind, wanted.key, wanted.size, is_object=True)
        return Checked(Result(outcomes=[outcome]), wanted, wanted.size == 4, wanted.size == 6)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ListedRange]:
    """Return a function that lists a range of keys of a store."""

    def pages_of(store: Store, uri: Any, *, after: str | None) -> Iterator[Any]:
        store.listed.append((uri.key, after))
        for page in store.pages:
            yield page_of([(key, 1, f'"{key}"', None, None) for key in page.split()])
        if store.ends is not None:
            raise ListingEndedError(store.ends)

    monkeypatch.setattr(objectwork, "list_pages", pages_of)

    def run(store: Store, *, key: bytes = b"", most: int = 99, **bounds: bytes) -> ListedRange:
        monkeypatch.setitem(worker._runs, "run", cast(Any, Working(store)))
        after, until = bounds.get("after"), bounds.get("until")
        asked = ToListRange(HERE, "bucket", key, after, until, most)
        answer = decode_object_answer(objectwork.list_range("run", encode(asked)))
        assert isinstance(answer, ListedRange)
        return answer

    return run


def keys_of(answer: ListedRange) -> str:
    if not answer.pages:
        return ""
    table = pa.ipc.open_stream(answer.pages).read_all()
    assert table.schema.names == ["key", "size", "etag", "note"]
    return " ".join(key.as_py().decode() for key in table["key"])


@pytest.mark.parametrize("opens", [True, False])
def test_a_worker_opens_containers_of_a_bucket_if_the_scan_does(
    tmp_path: Path, *, opens: bool
) -> None:
    work = SimpleNamespace(
        members=lambda: object() if opens else None,
        state_dir=tmp_path,
        judge=lambda: None,
        spec=SimpleNamespace(learn=False, keep_clean=False),
    )
    reader = objectwork.Bucket(cast(Any, work), "a-bucket").reader()
    assert (reader._opener is not None) is opens


def test_how_long_a_worker_lists_and_how_much_it_reads_at_a_time() -> None:
    assert (objectwork.LIST_S, objectwork.TICK_S) == (2.0, 0.2)
    assert (objectwork.READERS, objectwork.SPOOL_BYTES) == (16, 4 << 30)


@pytest.mark.parametrize(
    ("pages", "most", "keys", "rest"),
    [
        ([], 5, "", None),
        (["a b"], 5, "a b", None),
        (["a b", "c d"], 5, "a b c d", None),
        (["a b", "c d"], 4, "a b c d", b"d"),
        (["a b", "c d"], 3, "a b c", b"c"),
        (["a b", "c d"], 2, "a b", b"b"),
        (["a b", "c d"], 1, "a", b"a"),
        (["a b", "c d", "e f"], 3, "a b c", b"c"),
    ],
)
def test_a_task_lists_so_many_keys_and_says_where_it_stopped(
    listed: Callable[..., ListedRange], pages: list[str], most: int, keys: str, rest: bytes | None
) -> None:
    answer = listed(Store(*pages), most=most)
    assert (keys_of(answer), answer.rest, answer.ended) == (keys, rest, None)


@pytest.mark.parametrize(
    ("until", "keys"),
    [(b"0", ""), (b"a", "a"), (b"b", "a b"), (b"bb", "a b"), (b"c", "a b c"), (b"z", "a b c d")],
)
def test_the_bound_of_a_range_is_in_it(
    listed: Callable[..., ListedRange], until: bytes, keys: str
) -> None:
    answer = listed(Store("a b", "c d"), until=until)
    assert (keys_of(answer), answer.rest, answer.points) == (keys, None, [])


@pytest.mark.parametrize("bounds", [{}, {"until": b"b"}])
def test_a_store_that_sorts_keys_in_another_way_has_no_ranges(
    listed: Callable[..., ListedRange], bounds: dict[str, bytes]
) -> None:
    answer = listed(Store("a a", "b d c"), **bounds)
    assert (keys_of(answer), answer.rest, answer.ended) == ("a a", None, objectwork.UNSORTED)


def test_a_range_begins_behind_its_key(listed: Callable[..., ListedRange]) -> None:
    store = Store("b")
    listed(store, key=b"p/\xff", after=b"p/\xff\xfe")
    assert store.listed == [("p/\udcff", "p/\udcff\udcfe")]
    listed(store)
    assert store.listed[1:] == [("", None)]


def test_a_listing_that_ends_early_says_why_after_its_pages(
    listed: Callable[..., ListedRange],
) -> None:
    store = Store("a b")
    store.ends = "access denied"
    answer = listed(store)
    assert (keys_of(answer), answer.rest, answer.points, answer.ended) == (
        *("a b", None, []),
        "access denied",
    )


@pytest.mark.parametrize("is_spent", [False, True])
def test_a_task_ends_with_its_time(
    listed: Callable[..., ListedRange], monkeypatch: pytest.MonkeyPatch, is_spent: bool
) -> None:
    seconds: list[float] = []

    def allow(most_s: float) -> object:
        seconds.append(most_s)
        return SimpleNamespace(is_spent=is_spent)

    monkeypatch.setattr(objectwork, "Allowance", allow)
    answer = listed(Store("a b", "c d"))
    assert (keys_of(answer), answer.rest) == (("a b", b"b") if is_spent else ("a b c d", None))
    assert seconds == [2.0]


@pytest.mark.parametrize(
    ("prefixes", "until", "points", "asked"),
    [
        # A range is divided at the first level with a prefix behind the last key and before the end
        # of the range.
        ({"": ["c/", "b/", "a/"]}, None, [b"b.", b"c."], [""]),
        ({"": ["c/", "b/", "a/"]}, b"c.", [b"b."], [""]),
        ({"": ["a/"], "a/": ["a/c/", "a/b/"]}, None, [b"a/c."], ["", "a/"]),
        ({"": [], "a/": [], "a/b/": ["a/b/d/"]}, None, [b"a/b/d."], ["", "a/", "a/b/"]),
        ({"": [], "a/": [], "a/b/": []}, None, [], ["", "a/", "a/b/"]),
        # If a level cannot be listed, the range is not divided, and listing the range shows the
        # error.
        ({"": []}, None, [], ["", "a/"]),
        ({}, None, [], [""]),
        ({"a/b/": ["a/b/d/", "a/b/e/"]}, b"a/b/z", [b"a/b/d.", b"a/b/e."], ["a/b/"]),
    ],
)
def test_the_rest_of_a_range_is_divided_between_prefixes(
    listed: Callable[..., ListedRange],
    prefixes: dict[str, Sequence[str]],
    until: bytes | None,
    points: list[bytes],
    asked: list[str],
) -> None:
    store = Store("a/b/c", "a/b/x", prefixes=prefixes)
    bounds = {} if until is None else {"until": until}
    answer = listed(store, most=1, **bounds)
    assert (answer.rest, answer.points) == (b"a/b/c", points)
    assert store.asked == [
        {"Prefix": prefix, "Delimiter": "/", "StartAfter": "a/b/c"} for prefix in asked
    ]


@pytest.mark.parametrize(
    ("key", "after", "until", "levels"),
    [
        (b"", b"a", None, [b""]),
        (b"p", b"o/x", None, [b"p/"]),
        (b"p", b"p/x/y", None, [b"p/", b"p/x/"]),
        (b"p/", b"p/x/y", None, [b"p/", b"p/x/"]),
        (b"p", b"p//y", None, [b"p/", b"p//"]),
        (b"", b"/x/", None, [b"", b"/", b"/x/"]),
        (b"", b"a/b/c", b"a/b/d", [b"a/b/"]),
        (b"", b"a/b/c", b"b", [b"", b"a/", b"a/b/"]),
        (b"a/b/c", b"a/b/c/d/e", b"a/b/c/d/f", [b"a/b/c/d/"]),
    ],
)
def test_shorter_prefixes_that_all_keys_have_divide_nothing(
    key: bytes, after: bytes, until: bytes | None, levels: list[bytes]
) -> None:
    assert list(levels_of(key, after, until)) == levels


@pytest.mark.parametrize("opens", [False, True])
def test_an_etag_is_sent_only_of_an_object_that_may_be_read(opens: bool) -> None:
    """If containers are opened, each object may be read."""
    judge = SimpleNamespace(of_sizes=lambda sizes: (sizes == 4, None))
    containers = object() if opens else None
    work = SimpleNamespace(spec=SimpleNamespace(containers=containers), judge=lambda: judge)
    rows: list[list[tuple[Any, ...]]] = [
        [("a", 4, '"a"', None, None), ("b", 3, '"b"', None, None)],
        [],
        [("c", 4, None)],
    ]
    raw = objectwork._stream(cast(Any, work), [page_of(one) for one in rows])
    with pa.ipc.open_stream(raw) as stream:
        table = stream.read_all()
    assert table["key"].to_pylist() == [b"a", b"b", b"c"]
    assert table["etag"].to_pylist() == ['"a"', '"b"' if opens else None, None]
    assert objectwork._stream(cast(Any, work), [page_of([])]) == b""


@pytest.mark.parametrize("fails", [False, True])
def test_a_bucket_of_another_store_is_neither_listed_nor_read(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """If the store cannot be found, the error of the listing or the reading says why."""
    store = Store()
    store.fails = fails
    work: Any = Working(store)
    monkeypatch.setitem(worker._runs, "run", work)
    monkeypatch.setattr(objectwork, "list_pages", lambda *_, **__: iter(()))
    for ask, function in (
        (ToListRange("s3 there", "bucket", b"", None, None, 9), objectwork.list_range),
        (ToRead("s3 there", "bucket", []), objectwork.read_objects),
    ):
        raw = encode(ask)
        answer = decode_object_answer(function("run", raw))
        if fails:
            assert isinstance(answer, ListedRange | ReadObjects)
        else:
            assert isinstance(answer, Failed)
            assert answer.message == "a worker of the cluster reaches s3://bucket in another store"
            assert "AWS_ENDPOINT_URL" in str(answer.hint)
        assert decode_object_answer(function("no such run", raw)) == Lost(WORKER_FAILED)
    assert work.names == [("bucket", "bucket")] * 2


@pytest.mark.parametrize("count", [0, 1, 40])
def test_objects_are_read_by_several_readers_and_come_back_in_their_order(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    work: Any = Working(Store())
    monkeypatch.setitem(worker._runs, "run", work)
    wanted = [Wanted(f"k{n}", n, None, None) for n in range(count)]
    raw = objectwork.read_objects("run", encode(ToRead(HERE, "bucket", wanted)))
    answer = decode_object_answer(raw)
    assert isinstance(answer, ReadObjects)
    found = unpack_read(answer, wanted)
    assert [one.result.outcomes[0].path for one in found] == [one.key for one in wanted]
    assert [n for n, one in enumerate(found) if one.contradicted] == [4] * (count > 4)
    assert [n for n, one in enumerate(found) if one.by_store] == [6] * (count > 6)


def test_a_batch_of_a_scan_that_is_over_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(Reader):
        def check(self, wanted: Wanted) -> Checked:
            self.work.is_over = True
            raise StoppedError

    work: Any = Working(Store())
    work.bucket.reader = lambda: Waiting(work)
    monkeypatch.setattr(objectwork, "TICK_S", 0.001)
    monkeypatch.setitem(worker._runs, "run", work)
    raw = objectwork.read_objects(
        "run", encode(ToRead(HERE, "bucket", [Wanted("a", 1, None, None)]))
    )
    assert decode_object_answer(raw) == Lost(WORKER_FAILED)


@pytest.mark.parametrize("error", [StateError("damaged", hint="fetch"), ValueError("x")])
def test_an_error_of_a_reader_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Failing(Reader):
        def check(self, wanted: Wanted) -> Checked:
            raise error

    work: Any = Working(Store())
    work.bucket.reader = lambda: Failing(work)
    monkeypatch.setitem(worker._runs, "run", work)
    wanted = [Wanted("a", 1, None, None)]
    answer = decode_object_answer(
        objectwork.read_objects("run", encode(ToRead(HERE, "bucket", wanted)))
    )
    damaged = isinstance(error, StateError)
    assert answer == (Failed("damaged", "fetch") if damaged else Lost(WORKER_FAILED))
