"""Columns of objects: decisions by size, by ETag and by the cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hashclient.config.settings import Config, Settings
from hashclient.config.tables import ObjectsConfig
from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.objecturi import ObjectUri, parse_uri
from hashclient.index.matcher import Judge
from hashclient.objects.failures import (
    NAME,
    NO_RANGES,
    StoreError,
    Trouble,
    of_botocore,
    of_obstore,
)
from hashclient.objects.pages import page_of
from hashclient.objects.s3 import S3
from hashclient.scan.cache import inside
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.memory import InventoryPlace, Memory
from hashclient.scan.cache.records import PLAIN
from hashclient.scan.check.kept import Spool
from hashclient.scan.objects import sorting
from hashclient.scan.objects.cache import ObjectMemory, learn, number_of
from hashclient.scan.objects.objects import make_token, read_token
from hashclient.scan.objects.pending import Pending
from hashclient.scan.objects.sorting import GAP, SAMPLE, Sorter, md5_claims
from hashclient.scan.objects.threads import Page, Threads
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.run.start import objects_of
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Result
from hashclient.session import Session
from hashclient.system.layout import Layout
from tests.unit.test_matcher import judge as make_judge
from tests.unit.test_matcher import row

MD5, SHA1, SHA256 = Algorithm
SECRET = "AKIAIOSFODNN7EXAMPLE d41d8cd98f00b204e9800998ecf8427e"
TAGS = bytes(range(48))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return a judge of entries of sizes 1 to 8; the entry of size 5 has no MD5."""
    every = [row(f"e-{n}", bytes(n), *Algorithm, size=n) for n in range(1, 9)]
    some = [row("f-1", b"12345", SHA256, size=5), row("f-2", b"1" * 9, MD5, SHA1, size=9)]
    return make_judge(tmp_path_factory.mktemp("judge"), one=every, two=some)


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@given(st.lists(st.booleans(), min_size=1, max_size=300).filter(any))
@example([True, False] * 100)
def test_the_rows_that_are_chosen_are_those_of_the_flags(flags: list[bool]) -> None:
    """The rows of a page are sliced if they form few runs, and filtered otherwise."""
    page = page_of([(str(number), number) for number in range(len(flags))])
    chosen = [number for number, flag in enumerate(flags) if flag]
    assert sorting._chosen(page, np.array(flags)).column("size").to_pylist() == chosen
    found = sorting.objects_of(page, np.array(chosen))
    assert [(one.key, one.size) for one in found] == [(str(number), number) for number in chosen]


@pytest.mark.slow
def test_an_ordinary_page_needs_no_slow_module_of_arrow() -> None:
    """The module `pyarrow.compute` takes 42 ms and 9 MB."""
    code = (
        "import sys, numpy as np; from hashclient.objects import s3\n"
        "from hashclient.scan.objects import objects, sorting\n"
        "body = b'<Contents><Key>a</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>'\n"
        "end = b'<IsTruncated>false</IsTruncated>'\n"
        "page, _ = s3._page_in(end + body * 9 + b'</ListBucketResult>')\n"
        "part = sorting._chosen(page, np.arange(9) > 2)\n"
        "print(len(list(sorting.objects_of(part, np.arange(6)))))\n"
        "print([name for name in ('pyarrow.compute', 'numpy.ma') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split("\n") == ["6", "[]", ""], done.stderr


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


def test_blanks_in_etags_move_no_digest_to_another_row() -> None:
    """The characters without the blanks are those of whole digests."""
    flags, digests = md5_claims(pa.array(["ab" * 15 + "  "] * 16, pa.string()))
    assert not flags.any() and len(digests) == 0


def sorter(judge: Judge, **options: Any) -> Sorter:
    return Sorter(judge, S3("b"), None, Random(1), **options)


def test_an_etag_decides_where_every_entry_of_its_size_has_an_md5(judge: Judge) -> None:
    rows = [
        (f"{n}", size, etag(f"{n}".encode()), None, None) for n, size in enumerate([4, 4, 5, 20, 0])
    ]
    rows.append(("listed", 4, etag(bytes(4)), None, None))
    done = sorter(judge, trusts=True, keep_clean=True).sort(page_of(rows))
    assert [w.key for w in done.wanted] == ["0", "2", "listed"]
    assert [w.is_claimed for w in done.wanted] == [True, False, False]
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


def learned(*objects: Wanted, mask: int = 1, inside: bytes = b"") -> Result:
    result = Result()
    for one in objects:
        learn(result, number_of("s3 b"), one, (mask, TAGS, 0), inside)
    return result


def write(state: Path, result: Result, key_id: str = "k") -> list[StateError]:
    """Write what a scan remembers, and return the errors of writing."""
    failures: list[StateError] = []
    memory = Memory(InventoryPlace(state, key_id), on_failure=failures.append)
    memory.learn(result)
    memory.flush()
    memory.close()
    return failures


def known(
    state: Path, *objects: Wanted, key_id: str = "k", days: int = 14, bucket: str = "s3 b"
) -> tuple[list[int], list[int]]:
    """Return the masks of objects, and which objects are containers with known members."""
    place = InventoryPlace(state, key_id, days)
    found = ObjectMemory(place, days).find(bucket, objects)
    return ([0] * len(objects), []) if found is None else (found[0]["mask"].tolist(), [*found[1]])


ONE = Wanted("k", 7, '"e"', None)
VERSION = Wanted("k", 7, '"e"', "v")


def test_remembered_objects_are_known(tmp_path: Path) -> None:
    assert known(tmp_path, ONE) == ([0], [])
    nameless = [Wanted("n", 7, None, None), Wanted("n", 7, 'W/"e"', None)]
    assert write(tmp_path, learned(ONE, VERSION, *nameless, mask=5)) == []
    assert known(tmp_path, *nameless, VERSION, ONE) == ([0, 0, 5, 5], [])
    found = ObjectMemory(InventoryPlace(tmp_path, "k"), 14).find("s3 b", [ONE])
    assert found is not None
    assert found[0]["tags"].tobytes() == TAGS
    # The record of an object without a version is believed until its due day.
    assert known(tmp_path, ONE, VERSION, days=0) == ([0, 5], [])


def test_no_two_objects_are_one(tmp_path: Path) -> None:
    write(tmp_path, learned(ONE))
    others = [
        Wanted("k", 8, '"e"', None),
        Wanted("k", 7, '"f"', None),
        Wanted("k", 7, None, '"e"'),
        Wanted("k\0", 7, '"e"', None),
        Wanted("k\udcff", 7, '"e"', None),
        Wanted("", 2**63, 'k"e"', None),
    ]
    assert known(tmp_path, *others, ONE)[0] == [0] * len(others) + [1]
    assert known(tmp_path, ONE, bucket="s3 https://store.example b") == ([0], [])


def test_further_digests_are_remembered_besides(tmp_path: Path) -> None:
    write(tmp_path, learned(ONE, mask=1 | PLAIN))
    write(tmp_path, learned(ONE, mask=4))
    assert known(tmp_path, ONE) == ([5 | PLAIN], [])


def test_what_is_no_container_is_looked_at_again_where_kinds_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, container = ONE, Wanted("container", 1 << 20, '"e"', None)
    write(tmp_path, learned(plain, mask=1 | PLAIN))
    write(tmp_path, learned(container, inside=bytes(MEMBER.itemsize)))
    both = [plain, container]
    assert known(tmp_path, *both) == ([1 | PLAIN, 1], [1])
    assert known(tmp_path, *both, days=0) == ([0, 0], [])
    with monkeypatch.context() as later:
        later.setattr(inside, "READS", inside.READS ^ 1)
        # The members need other digests, so the known members do not count.
        assert known(tmp_path, *both) == ([1 | PLAIN, 1], [])
    assert known(tmp_path, *both) == ([1 | PLAIN, 1], [1])


def test_tags_of_another_key_are_forgotten(tmp_path: Path) -> None:
    write(tmp_path, learned(ONE))
    assert known(tmp_path, ONE, key_id="other") == ([0], [])
    write(tmp_path, learned(VERSION), "other")
    assert known(tmp_path, ONE) == ([0], [])


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    Layout(tmp_path).inventory.write_bytes(b"nothing that SQLite would know " * 99)
    assert known(tmp_path, ONE) == ([0], [])
    assert len(write(tmp_path, learned(ONE))) == 1
    assert known(tmp_path, ONE) == ([1], [])


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
    assert (pending.count, list(pending.take())) == (0, [])


@pytest.mark.parametrize("error", [OSError("broken disk"), pa.ArrowInvalid("other bytes")])
def test_pending_objects_that_cannot_be_read_back_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_file: object) -> None:
        raise error

    pending = Pending(Spool(tmp_path, 1 << 20))
    pending.add(Wanted("k", 7, None, None))
    monkeypatch.setattr(pa.ipc, "open_stream", fail)
    with pytest.raises(StateError, match="cannot be read back"):
        list(pending.take())
    assert pending.count == 0


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


def _reads(_is_stopped: object) -> Any:
    return _Reads()


def fail(_: object) -> Any:
    raise StoreError(Trouble.OTHER, "no")


def take_all(threads: Threads) -> None:
    while True:
        threads.next(10)


def test_threads_give_back_what_they_are_given_and_what_they_raise() -> None:
    pages = iter([page_of([("a", 1, None, None, None)])] * 3)
    with Threads(pages, _reads, 2) as threads:
        seen = 0
        while not threads.is_over:
            event = threads.next(10)
            if isinstance(event, Page) and event.batch is not None:
                threads.read(Wanted("a", 1, None, None))
            seen += isinstance(event, Checked)
        assert seen == 3
    with Threads(iter(()), _reads, 2) as threads:
        threads.read(Wanted("bad", 1, None, None))
        with pytest.raises(StateError):
            take_all(threads)

    def fails() -> Iterator[Any]:
        yield from map(fail, [""])

    with Threads(fails(), _reads, 2) as threads, pytest.raises(StoreError):
        threads.next(10)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("endpoint", "namespace", "is_amazon"),
    [
        (None, "s3  bucket", True),
        ("https://s3.eu-central-1.amazonaws.com", "s3  bucket", True),
        (
            "https://s3.cn-north-1.amazonaws.com.cn",
            "s3 https://s3.cn-north-1.amazonaws.com.cn bucket",
            True,
        ),
        (
            "https://s3-fips.us-east-1.amazonaws.com",
            "s3 https://s3-fips.us-east-1.amazonaws.com bucket",
            True,
        ),
        (
            "https://amazonaws.com.example.org",
            "s3 https://amazonaws.com.example.org bucket",
            False,
        ),
    ],
)
def test_which_endpoints_are_amazons(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, namespace: str, *, is_amazon: bool
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setattr(S3, "_for_obstore", mock.Mock())  # it asks Amazon for the bucket's region
    s3 = S3("bucket")
    assert (s3.namespace, s3.is_amazon) == (namespace, is_amazon)


def test_etags_are_trusted_of_buckets_that_the_configuration_names(tmp_path: Path) -> None:
    named = {"s3://trusted": ObjectsConfig(trust_etag=True), "s3://named": ObjectsConfig()}
    settings = Settings(tmp_path, tmp_path / "config.toml", None, Config(objects=named))
    found = objects_of(Session(settings), [parse_uri("s3://trusted/")], ScanOptions(), "key")
    assert found is not None and found.arguments == ["s3://trusted/"]
    buckets = ("s3://trusted", "s3://named", "s3://other")
    assert [found._tools.trusts(bucket) for bucket in buckets] == [True, False, False]
