"""Columns of objects: decisions by size, by ETag and by the cache."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.containers import meaning
from hashclient.containers.kinds import KINDS
from hashclient.core.algorithms import Algorithm
from hashclient.core.kinds import Kind
from hashclient.core.objecturi import ObjectUri
from hashclient.errors import StateError, UsageError
from hashclient.index.matcher import Judge
from hashclient.objects.failures import (
    NAME,
    NO_RANGES,
    StoreError,
    Trouble,
    of_botocore,
    of_obstore,
)
from hashclient.objects.listing import page_of
from hashclient.objects.s3 import S3
from hashclient.scan.executors.interface import Result
from hashclient.scan.inside import MEMBER
from hashclient.scan.objects.cache import VERSION, WAITING, ObjectCache, row_id
from hashclient.scan.objects.claims import md5_claims
from hashclient.scan.objects.pending import Pending
from hashclient.scan.objects.sorting import GAP, SAMPLE, Options, Sorter
from hashclient.scan.objects.threads import Page, Threads
from hashclient.scan.objects.token import make_token, read_token
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.records import PLAIN
from hashclient.scan.spool import Spool
from tests.unit.test_matcher import judge as make_judge
from tests.unit.test_matcher import row

MD5, SHA1, SHA256 = Algorithm
SECRET = "AKIAIOSFODNN7EXAMPLE d41d8cd98f00b204e9800998ecf8427e"
TAGS = bytes(range(48))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return a judge of entries of sizes 1 to 8; one of size 5 has no MD5."""
    every = [row(f"e-{n}", bytes(n), *Algorithm, size=n) for n in range(1, 9)]
    some = [row("f-1", b"12345", SHA256, size=5), row("f-2", b"1" * 9, MD5, SHA1, size=9)]
    return make_judge(tmp_path_factory.mktemp("judge"), one=every, two=some)


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@given(sizes=st.lists(st.sampled_from([0, 1, 5, 8, 9, 10, 2**40, 2**63]), max_size=20))
def test_sizes_by_column_are_sizes_one_by_one(judge: Judge, sizes: list[int]) -> None:
    possible, common = judge.of_sizes(np.array(sizes, np.uint64))
    for size, is_possible, mask in zip(sizes, possible.tolist(), common.tolist(), strict=True):
        masks = judge._masks(size)
        assert is_possible == bool(masks)
        if is_possible:
            every = [m for m in range(1, 8) if masks >> (m - 1) & 1]
            assert mask == int(np.bitwise_and.reduce(every))


def test_an_entry_without_a_size_is_possible_of_every_size(tmp_path: Path) -> None:
    judge = make_judge(tmp_path, one=[row("e", b"x", MD5), row("f", b"y", SHA1, MD5, size=3)])
    possible, common = judge.of_sizes(np.array([3, 4], np.uint64))
    assert (possible.tolist(), common.tolist()) == ([True, True], [1, 1])


def test_only_a_plain_etag_may_be_an_md5() -> None:
    digest = hashlib.md5(b"a").hexdigest()
    etags = [f'"{digest}"', digest.upper(), f'"{digest}-2"', None, f'W/"{digest}"', "x" * 32, ""]
    for cut in (0, 1):
        flags, digests = md5_claims(pa.array(etags, pa.string()).slice(cut))
        assert flags.tolist() == [True, True, False, False, False, False, False][cut:]
        assert {bytes(d) for d in digests} == {hashlib.md5(b"a").digest()}
    assert len(md5_claims(pa.array([], pa.string()))[1]) == 0


@pytest.mark.parametrize("form", ["{}", '"{}"'])
def test_md5s_of_one_form_are_the_same_as_mixed_ones(form: str) -> None:
    etags = [form.format(hashlib.md5(b"%d" % n).hexdigest()) for n in range(9)]
    for last in (
        [],
        [form.format("x" * 32)],
        [form.format("a" * 30 + " a")],
        ["'" + "a" * 32 + "'"],
    ):
        column = pa.array([*etags, *last], pa.string()).slice(2)
        flags, digests = md5_claims(column)
        assert flags.tolist() == [True] * 7 + [False] * len(last)
        assert [bytes(d) for d in digests] == [hashlib.md5(b"%d" % n).digest() for n in range(2, 9)]


def sorter(judge: Judge, **options: Any) -> Sorter:
    known = Options("s3://b", "s3", lambda: "s3 b", **options)
    return Sorter(judge, known, None, Random(1))


def test_an_etag_decides_where_every_entry_of_its_size_has_an_md5(judge: Judge) -> None:
    rows = [
        (f"{n}", size, etag(f"{n}".encode()), None, None) for n, size in enumerate([4, 4, 5, 20, 0])
    ]
    rows.append(("listed", 4, etag(bytes(4)), None, None))
    done = sorter(judge, trusts=True, keep_clean=True).sort(page_of(rows))
    assert [w.key for w in done.wanted] == ["0", "2", "listed"]
    assert [w.claimed is not None for w in done.wanted] == [True, False, False]
    assert done.by_store is not None
    assert done.by_store.column("key").to_pylist() == [b"1"]
    assert [o.path for o in done.result.outcomes] == ["s3://b/3", "s3://b/4"]
    (outcome,) = sorter(judge, trusts=True, reads=False).sort(page_of(rows[2:3])).result.outcomes
    assert (outcome.kind, outcome.reason) == (Kind.UNREAD, GAP)


@pytest.mark.slow
def test_one_in_a_thousand_is_read(judge: Judge) -> None:
    rows = [(f"{n}", 4, etag(b"%d" % n), None, None) for n in range(20 * SAMPLE)]
    done = sorter(judge, trusts=True).sort(page_of(rows))
    assert 8 < len(done.wanted) < 40
    assert done.by_store is not None
    assert done.by_store.num_rows == len(rows) - len(done.wanted)


def test_no_word_of_a_client_or_a_store_is_passed_on() -> None:
    class ClientError(Exception):
        def __init__(self, code: str, status: int) -> None:
            super().__init__(SECRET)
            metadata = {"HTTPStatusCode": status}
            self.response = {"Error": {"Code": code}, "ResponseMetadata": metadata}

    code = f"<Code>{SECRET.split(maxsplit=1)[0]}</Code>"
    text = f"status code: 403 Forbidden: <Error>{code}{SECRET}</Error>"
    errors = [
        of_obstore(ValueError(SECRET)),
        of_obstore(OSError(SECRET)),
        of_obstore(RuntimeError(text)),
        of_obstore(RuntimeError(f"status code: 418: {SECRET}")),
        of_botocore(ClientError(SECRET, 400)),
        of_botocore(ClientError(SECRET, 500)),
        of_botocore(RuntimeError(SECRET)),
    ]
    assert all(not set(SECRET.split()) & set(str(error).split()) for error in errors)
    assert all(SECRET not in str(error) for error in errors)
    assert (errors[0].trouble, errors[0].reason) == (Trouble.NAME, NAME)
    part = "Generic S3 error: Received non-partial response when range requested"
    assert of_obstore(RuntimeError(part)).reason == NO_RANGES


@pytest.fixture
def failures() -> list[StateError]:
    return []


#: The caches that a test has opened.
_opened: list[ObjectCache] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def cache(
    state: Path, failures: list[StateError], key_id: str = "k", **options: Any
) -> ObjectCache:
    known = {"reread_days": 14, "keep_days": 90.0, **options}
    _opened.append(ObjectCache(state, key_id, on_failure=failures.append, **known))
    return _opened[-1]


def masks(store: ObjectCache, *names: str, are_versions: bool = False) -> list[int] | None:
    found = store.find(names, are_versions=[are_versions] * len(names))
    return None if found is None else found.records["mask"].tolist()


def test_remembered_objects_are_known(tmp_path: Path, failures: list[StateError]) -> None:
    store = cache(tmp_path, failures)
    assert masks(store, "a") is None
    store.learn("a", 5, TAGS)
    store.close()
    again = cache(tmp_path, failures)
    assert masks(again, "a", "b") == [5, 0]
    found = again.find(["a"], are_versions=[False])
    assert found is not None
    assert found.records["tags"].tobytes() == TAGS
    assert masks(cache(tmp_path, failures, use=False), "a") is None
    # Without a version it is only believed, until it is due.
    assert masks(cache(tmp_path, failures, reread_days=0), "a") == [0]
    assert masks(cache(tmp_path, failures, reread_days=0), "a", are_versions=True) == [5]
    assert failures == []


def test_what_is_no_container_is_looked_at_again_where_kinds_have_changed(
    tmp_path: Path, failures: list[StateError], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cache(tmp_path, failures)
    store.learn("plain", 1 | PLAIN, TAGS)
    store.learn("container", 1, TAGS, bytes(MEMBER.itemsize))
    store.close()

    def known() -> tuple[list[int] | None, list[int]]:
        found = cache(tmp_path, failures).find(["plain", "container"], are_versions=[False] * 2)
        assert found is not None
        return found.records["mask"].tolist(), list(found.insides)

    assert known() == ([1 | PLAIN, 1], [1])
    with monkeypatch.context() as later:
        later.setattr(meaning, "READS", meaning.READS ^ 1)
        assert known() == ([1 | PLAIN, 1], [])  # members are read in another way
    with monkeypatch.context() as later:
        later.setattr(meaning, "NUMBERS", {**meaning.NUMBERS, "zip": 1})
        kinds = [msgspec.structs.replace(k, version=k.version + (k.name == "zip")) for k in KINDS]
        later.setattr(meaning.touched, "__defaults__", (kinds,))
        assert known() == ([1, 1], [])
    assert known() == ([1 | PLAIN, 1], [1])


def test_tags_of_another_key_are_forgotten(tmp_path: Path, failures: list[StateError]) -> None:
    store = cache(tmp_path, failures)
    store.learn("a", 1, TAGS)
    store.close()
    assert masks(cache(tmp_path, failures, "other"), "a") is None
    assert masks(cache(tmp_path, failures), "a") is None
    assert failures == []


def test_a_damaged_cache_is_made_again(tmp_path: Path, failures: list[StateError]) -> None:
    path = tmp_path / "objects.db"
    path.write_bytes(b"nothing that SQLite would know " * 99)
    store = cache(tmp_path, failures)
    assert masks(store, "a") is None
    store.learn("a", 1, TAGS)
    store.close()
    assert len(failures) == 1
    store = cache(tmp_path, failures)
    store.learn("a", 1, TAGS)
    store.close()
    assert (masks(cache(tmp_path, failures), "a"), len(failures)) == ([1], 1)


def test_a_cache_with_text_that_is_none_is_made_again(
    tmp_path: Path, failures: list[StateError]
) -> None:
    store = cache(tmp_path, failures)
    store.learn("a", 1, TAGS)
    store.close()
    with sqlite3.connect(tmp_path / "objects.db") as db:
        db.execute("UPDATE meta SET key_id = CAST(x'ff' AS TEXT)")
    db.close()
    assert masks(cache(tmp_path, failures), "a") is None
    assert len(failures) == 1 and not (tmp_path / "objects.db").exists()


def test_a_row_that_was_garbled_is_not_known(tmp_path: Path, failures: list[StateError]) -> None:
    store = cache(tmp_path, failures)
    for number in range(WAITING):  # as many as are written at once
        store.learn(f"{number}", 1, TAGS)
    with sqlite3.connect(tmp_path / "objects.db") as db:
        db.execute("UPDATE object SET mask = 7 WHERE id = '5'")
    db.close()
    assert masks(store, "5", "6") == [0, 1]
    store.close()


def test_a_cache_of_a_later_version_is_left_alone(
    tmp_path: Path, failures: list[StateError]
) -> None:
    with sqlite3.connect(tmp_path / "objects.db") as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    store = cache(tmp_path, failures)
    assert masks(store, "a") is None
    store.learn("a", 1, TAGS)
    store.close()
    assert ["newer" in str(error) for error in failures] == [True]


def test_no_two_objects_have_one_row() -> None:
    parts = ["s3 b", "k", None, '"e"', 1]
    others: list[list[Any]] = [
        [f"{parts[0]}k", "", *parts[2:]],
        [*parts[:2], '"e"', None, 1],
        ["s3 b", "k\0", *parts[2:]],
        ["s3 b", "k\udcff", *parts[2:]],
        [*parts[:4], 11],
    ]
    names = {row_id(*some) for some in [parts, *others]}
    assert len(names) == 6


def test_pending_objects_are_returned_once(tmp_path: Path) -> None:
    pending = Pending(Spool(tmp_path, 1 << 20))
    pending.add_page(page_of([(f"{n}", n, None, None, None) for n in range(3)]))
    pending.add(Wanted("k\udcff", 7, '"e"', "v"))
    assert [(w.key, w.size, w.version) for w in pending.take()] == [
        ("0", 0, None),
        ("1", 1, None),
        ("2", 2, None),
        ("k\udcff", 7, "v"),
    ]
    assert (pending.settle(), list(pending.take())) == (0, [])


def test_a_token_is_of_one_uri() -> None:
    uri = ObjectUri("s3", "bucket", "a/")
    token = make_token(uri, "a/k\udcff\n")
    assert read_token(token, uri) == "a/k\udcff\n"
    for wrong in ("", "e30", token[:-1], token + "A", "x" * 20_000, "WzJd"):
        with pytest.raises(UsageError):
            read_token(wrong, uri)
    with pytest.raises(UsageError):
        read_token(token, ObjectUri("s3", "bucket", "b/"))


class _Reads:
    def check(self, wanted: Wanted) -> Checked:
        if wanted.key == "bad":
            raise StateError("an index is damaged")
        return Checked(Result(clean=1), wanted)


def fail(_: object) -> Any:
    raise StoreError(Trouble.OTHER, "no")


def take_all(threads: Threads) -> None:
    while True:
        threads.next(10)


def test_threads_give_back_what_they_are_given_and_what_they_raise() -> None:
    pages = iter([page_of([("a", 1, None, None, None)])] * 3)
    with Threads(pages, lambda _stopped: _Reads(), 2) as threads:
        seen = 0
        while not threads.is_over:
            event = threads.next(10)
            if isinstance(event, Page) and event.batch is not None:
                threads.read(Wanted("a", 1, None, None))
            seen += isinstance(event, Checked)
        assert seen == 3
    with Threads(iter(()), lambda _stopped: _Reads(), 2) as threads:
        threads.read(Wanted("bad", 1, None, None))
        with pytest.raises(StateError):
            take_all(threads)

    def fails() -> Iterator[Any]:
        yield from map(fail, [""])

    with Threads(fails(), lambda _stopped: _Reads(), 2) as threads, pytest.raises(StoreError):
        threads.next(10)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("endpoint", "given", "is_amazon"),
    [
        (None, None, True),
        ("https://s3.eu-central-1.amazonaws.com", None, True),
        ("https://s3.cn-north-1.amazonaws.com.cn", "https://s3.cn-north-1.amazonaws.com.cn", True),
        (
            "https://s3-fips.us-east-1.amazonaws.com",
            "https://s3-fips.us-east-1.amazonaws.com",
            True,
        ),
        ("https://amazonaws.com.example.org", "https://amazonaws.com.example.org", False),
    ],
)
def test_which_endpoints_are_amazons(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, given: str | None, *, is_amazon: bool
) -> None:
    """No server is asked: a server that is not there cannot say where a bucket is."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", refuse)
    monkeypatch.setattr("hashclient.objects.s3.RETRIES", 0)
    s3 = S3("bucket")
    assert (s3.endpoint, s3.is_amazon) == (given, is_amazon)
