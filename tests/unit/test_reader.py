"""Reading one object: its ranges, its version, wrong answers of its store, and counts."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hashclient.containers.limits import Options
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.index.matcher import Judge
from hashclient.objects.failures import CHANGED, StoreError, Trouble
from hashclient.scan.cache.records import PLAIN, RECORD
from hashclient.scan.check.checker import Checker
from hashclient.scan.check.kept import Spool
from hashclient.scan.check.members import Members
from hashclient.scan.check.streaming import Stream
from hashclient.scan.objects import reader as module
from hashclient.scan.objects.cache import number_of
from hashclient.scan.objects.reader import ObjectReader, Opener, StoppedError
from hashclient.scan.objects.wanted import BY_SIZE, Checked, Wanted
from hashclient.scan.values.work import Group, Result
from tests.kit import csv_of, open_files
from tests.unit.test_checker import lists_of, zipped

LISTED = b"listed"
#: The end of a disk image, which is not opened.
IMAGE = b"koly" + bytes(508)
MD5, SHA1, SHA256 = Algorithm


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of({"e-1": LISTED})).judge()


class Store:
    """A store with one object that is sent in pieces; `spoil` changes its answers."""

    text, namespace, scheme = "s3://b", "of a bucket", "s3"

    def __init__(self, data: bytes, piece: int = 4) -> None:
        self.data = data
        self.piece = piece
        self.asked: list[tuple[tuple[int, int] | None, str | None, str | None]] = []
        self.answers: dict[str, Any] = {"size": len(data), "etag": '"e"', "version": "v"}
        self.more = b""

    def read(
        self,
        _key: str,
        part: tuple[int, int] | None,
        sink: Callable[[memoryview], None],
        **how: Any,
    ) -> Any:
        self.asked.append((part, how["etag"], how["version"]))
        start, stop = part or (0, len(self.data))
        data = memoryview(self.data[start:stop] + self.more)
        for at in range(0, len(data), self.piece):
            sink(data[at : at + self.piece])
        return SimpleNamespace(**self.answers)


def check(judge: Judge, store: Store, wanted: Wanted, **how: Any) -> Checked:
    return ObjectReader(store, judge, **how).check(wanted)  # type: ignore[arg-type]


def wanted(store: Store, *plan: Algorithm, version: str | None = None, **how: Any) -> Wanted:
    return Wanted(
        "k", how.pop("size", len(store.data)), how.pop("etag", None), version, plan, **how
    )


def told(checked: Checked) -> list[tuple[Kind, str | None]]:
    return [(one.kind, one.reason) for one in checked.result.outcomes]


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (1, [None]),
        (9, [None]),
        (10, [None]),
        (11, [(0, 10), (10, 11)]),
        (20, [(0, 10), (10, 20)]),
        (21, [(0, 10), (10, 20), (20, 21)]),
    ],
)
def test_an_object_is_read_in_ranges_of_one_version(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, size: int, parts: list[Any]
) -> None:
    """The answer to the first range names the version, and the other ranges ask for it."""
    assert (module.RANGE_BYTES, module.LARGE_BYTES) == (16 << 20, 1 << 20)
    monkeypatch.setattr(module, "RANGE_BYTES", 10)
    store = Store(bytes(range(size)))
    checked = check(judge, store, wanted(store, SHA256), keep_clean=True)
    assert [part for part, _, _ in store.asked] == parts
    assert [one[1:] for one in store.asked] == [(None, None), *[('"e"', "v")] * (len(parts) - 1)]
    (outcome,) = checked.result.outcomes
    assert outcome.digests == {SHA256: hashlib.sha256(store.data).digest()}
    assert outcome.path == "s3://b/k?versionId=v"
    result = checked.result
    assert (result.bytes_read, result.files_read, result.clean) == (size, 1, 1)


@pytest.mark.parametrize(
    ("answers", "more", "version", "is_read"),
    [
        ({}, b"", None, True),
        ({}, b"", "v", True),
        ({"version": None}, b"", "v", True),
        ({"version": None}, b"", None, True),
        ({"version": "w"}, b"", "v", False),
        ({"size": 5}, b"", None, False),
        ({"size": 7}, b"", None, False),
        ({}, b"x", None, False),
    ],
)
def test_another_object_than_the_listed_one_is_unread(
    judge: Judge, answers: dict[str, Any], more: bytes, version: str | None, is_read: bool
) -> None:
    store = Store(LISTED)
    store.answers |= answers
    store.more = more
    checked = check(judge, store, wanted(store, SHA1, version=version))
    if is_read:
        assert told(checked) == [(Kind.MATCH, None)]
        assert [hit.entry for hit in checked.result.outcomes[0].hits] == ["e-1"]
    else:
        assert told(checked) == [(Kind.UNREAD, CHANGED)]
        assert checked.result.files_read == 0
    store = Store(LISTED[:3])
    store.answers["size"] = 6
    assert told(check(judge, store, wanted(store, SHA1, size=6)))[0][0] is Kind.UNREAD


def test_an_answer_that_is_too_long_is_left_at_its_first_byte_too_many(judge: Judge) -> None:
    store, looks = Store(b"x" * 8), iter([False, False])
    store.more = b"x" * 99
    read = module._Read(store, wanted(store), lambda: next(looks))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=CHANGED):
        read.part(4, 8)


@pytest.mark.parametrize("error", [StoreError(Trouble.OTHER, "denied"), OSError(5, "Broken")])
def test_an_object_that_cannot_be_read_is_unread(judge: Judge, error: Exception) -> None:
    store = Store(LISTED)

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    store.read = fail  # type: ignore[method-assign]
    reason = "denied" if isinstance(error, StoreError) else "broken"
    assert told(check(judge, store, wanted(store, SHA1))) == [(Kind.UNREAD, reason)]


def test_a_read_ends_with_the_scan(judge: Judge) -> None:
    store, looks = Store(b"x" * 40), iter([False, False, True])
    with pytest.raises(StoppedError):
        check(judge, store, wanted(store, SHA1), is_stopped=lambda: next(looks))


@pytest.mark.parametrize("keep_clean", [False, True])
@pytest.mark.parametrize(
    ("plan", "settled", "counts"),
    [
        ((SHA1,), "etag", (1, 0, 1, False)),
        ((SHA1,), BY_SIZE, (1, 0, 1, False)),
        ((), BY_SIZE, (0, 1, 1, False)),
        ((), "etag", (0, 0, 0, True)),
    ],
)
def test_an_object_is_counted_by_what_its_answer_rests_on(
    judge: Judge, plan: tuple[Algorithm, ...], settled: str, counts: Any, keep_clean: bool
) -> None:
    store = Store(b"benign")
    asked = wanted(store, *plan, settled=settled)
    checked = check(judge, store, asked, keep_clean=keep_clean)
    result = checked.result
    assert (result.files_read, result.ruled_out_by_size, result.clean, checked.by_store) == counts
    evidence = [one.evidence for one in result.outcomes]
    assert evidence == (["read" if plan else settled] if keep_clean and counts[2] else [])
    assert len(store.asked) == len(plan)


@pytest.mark.parametrize(
    ("etag", "is_claimed", "contradicted"),
    [
        (f'"{hashlib.md5(b"benign").hexdigest()}"', True, False),
        (hashlib.md5(b"benign").hexdigest().upper(), True, False),
        (f'"{hashlib.md5(b"other").hexdigest()}"', True, True),
        (f'"{hashlib.md5(b"other").hexdigest()}"', False, False),
        (None, True, True),
    ],
)
@pytest.mark.parametrize("plan", [(), (MD5,), (SHA256,)])
def test_a_store_that_lies_is_contradicted(
    judge: Judge,
    plan: tuple[Algorithm, ...],
    etag: str | None,
    is_claimed: bool,
    contradicted: bool,
) -> None:
    store = Store(b"benign")
    checked = check(judge, store, wanted(store, *plan, etag=etag, is_claimed=is_claimed))
    assert checked.contradicted is contradicted
    assert len(store.asked) == bool(plan or is_claimed)


def test_the_other_digests_of_an_entry_are_read_of_an_object_that_hits(judge: Judge) -> None:
    store = Store(LISTED)
    checked = check(judge, store, wanted(store, SHA1))
    (match,) = checked.result.outcomes
    assert set(match.digests) == set(match.tags) == set(Algorithm)
    assert len(store.asked) == 2
    assert checked.result.bytes_read == 12


@pytest.fixture(scope="module")
def opens(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    """One opener of containers for all tests, because its process takes long to start."""
    with contextlib.closing(Members(judge, Options())) as members:
        yield Opener([members], Spool(tmp_path_factory.mktemp("spool"), 1 << 20))


def learnt(result: Result) -> tuple[list[int], int]:
    """Return the remembered masks, and the number of containers."""
    records = [record for _, record in result.learned]
    assert all(len(record) == RECORD.itemsize for record in records)
    return [record[RECORD.fields["mask"][1]] for record in records], len(result.containers)  # type: ignore[index]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("plan", [(), (SHA1,)])
@pytest.mark.parametrize("kind", ["plain", "zip", "zip behind"])
def test_a_container_is_opened_and_a_plain_object_known_as_plain(
    judge: Judge,
    opens: Opener,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    plan: tuple[Algorithm, ...],
    large: bool,
) -> None:
    """A large object, or one that needs no digest, is examined before it is read completely."""
    archive = zipped(LISTED)
    data = {"plain": b"benign " * 99, "zip": archive, "zip behind": b"x" * 60_000 + archive}[kind]
    monkeypatch.setattr(module, "LARGE_BYTES", len(data) - large)
    store = Store(data, 1 << 16)
    asked = wanted(store, *plan, looks=True, settled=BY_SIZE, etag='"e"')
    checked = check(judge, store, asked, opener=opens, learns=True)
    result, is_plain = checked.result, kind == "plain"
    assert [(one.kind, one.members) for one in result.outcomes] == (
        [] if is_plain else [(Kind.MATCH, ("0",))]
    )
    for one in result.outcomes:
        assert (one.is_object, one.is_stream, one.evidence) == (True, False, "read")
        assert one.path == "s3://b/k?versionId=v"
    assert result.clean == 1
    assert result.members == (0 if is_plain else 1)
    mask = mask_of(plan) | (PLAIN if is_plain else 0)
    assert learnt(result) == ([mask] if mask else [], 0 if is_plain else 1)
    if is_plain:  # a plain object that needs no digest is not read completely
        assert len(store.asked) == 1 + (large and bool(plan))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("plan", [(), (SHA1,)])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("luks", b"LUKS\xba\xbe" + b"x" * 999),
        ("dmg", b"x" * 999 + IMAGE),
        ("dmg", b"x" * 60_000 + IMAGE),
        ("luks", b"LUKS\xba\xbe" + b"x" * 60_000 + IMAGE),
        ("dmg", b"#!/bin/sh\n" + b"x" * 60_000 + IMAGE),
    ],
    ids=["begin", "end", "far end", "both", "program"],
)
def test_a_kind_that_is_not_opened_is_counted_and_no_plain_object(
    judge: Judge,
    opens: Opener,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    data: bytes,
    plan: tuple[Algorithm, ...],
    large: bool,
) -> None:
    monkeypatch.setattr(module, "LARGE_BYTES", len(data) - large)
    store = Store(data, 1 << 16)
    asked = wanted(store, *plan, looks=True, settled=BY_SIZE, etag='"e"')
    result = check(judge, store, asked, opener=opens, learns=True).result
    assert (result.not_opened, result.outcomes, result.clean) == ({kind: 1}, [], 1)
    assert learnt(result) == ([mask_of(plan)] * len(plan), 1)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("plan", [(), (SHA1,)])
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (b"LUKS\xba\xbe", b""),
        (b"x", IMAGE),
        (b"LUKS\xba\xbe", IMAGE),
        (b"#!/bin/sh\n", b""),
        (b"#!/bin/sh\n", IMAGE),
    ],
    ids=["encrypted", "image", "both", "program", "program and image"],
)
def test_an_archive_in_an_object_of_a_kind_that_is_not_opened_is_opened(
    judge: Judge,
    opens: Opener,
    monkeypatch: pytest.MonkeyPatch,
    begin: bytes,
    end: bytes,
    plan: tuple[Algorithm, ...],
    large: bool,
) -> None:
    """As in a file, few bytes around an archive do not hide it."""
    data = begin + b"x" * 60_000 + zipped(LISTED) + end
    monkeypatch.setattr(module, "LARGE_BYTES", len(data) - large)
    store = Store(data, 1 << 16)
    asked = wanted(store, *plan, looks=True, settled=BY_SIZE)
    result = check(judge, store, asked, opener=opens).result
    assert [(one.kind, one.members) for one in result.outcomes] == [(Kind.MATCH, ("0",))]
    assert (result.not_opened, result.members, result.clean) == ({}, 1, 1)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("plan", [(), (SHA1,)])
def test_what_was_kept_of_an_object_is_given_back(
    judge: Judge,
    opens: Opener,
    monkeypatch: pytest.MonkeyPatch,
    plan: tuple[Algorithm, ...],
    large: bool,
) -> None:
    spool = opens._spool
    for data in (b"benign " * 99, zipped(LISTED), b"x" * 60_000 + zipped(LISTED)):
        monkeypatch.setattr(module, "LARGE_BYTES", len(data) - large)
        store, files = Store(data, 1 << 16), list[int]()
        for _ in range(2):
            check(judge, store, wanted(store, *plan, looks=True, settled=BY_SIZE), opener=opens)
            files.append(open_files())
        assert files[0] == files[1]
        assert (spool.memory_bytes, spool.disk_bytes, spool._reserved) == (0, 0, 0)


def test_a_record_has_the_tags_and_the_first_byte_of_its_object(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RANGE_BYTES", 10)
    store = Store(bytes(range(7, 32)), 4)
    asked = wanted(store, SHA1, etag='"e"')
    ((number, raw),) = check(judge, store, asked, learns=True).result.learned
    (record,) = np.frombuffer(raw, RECORD)
    (words,) = judge.sealer.tags_of(SHA1, [hashlib.sha1(store.data).digest()])
    assert (number, record["begin"]) == (number_of("of a bucket"), 7)
    assert record["tags"].tolist() == [[0, 0], words.tolist(), [0, 0]]


def test_without_an_opener_nothing_is_known_of_members(judge: Judge) -> None:
    store = Store(b"benign")
    checked = check(judge, store, wanted(store, SHA1, etag='"e"'), learns=True)
    assert learnt(checked.result) == ([2], 0)
    assert checked.result.learned[0][1][RECORD.fields["mask"][1]] == SHA1  # type: ignore[index]
    checked = check(judge, Store(b"benign"), wanted(store, SHA1, etag='"e"'))
    assert checked.result.learned == []


TEXT = b"x" * 60_000
CONTENTS = {
    "nothing": b"",
    "text": TEXT,
    "listed": LISTED,
    "zip": zipped(LISTED, b"benign"),
    "zip behind text": TEXT + zipped(LISTED),
    "zip behind a program": b"#!/bin/sh\n" + TEXT + zipped(LISTED),
    "encrypted": b"LUKS\xba\xbe" + TEXT,
    "image": TEXT + IMAGE,
    "program with the end of an image": b"#!/bin/sh\n" + TEXT + IMAGE,
    "zip behind an encrypted disk": b"LUKS\xba\xbe" + TEXT + zipped(LISTED),
    "zip in an image": TEXT + zipped(LISTED) + IMAGE,
    "zip with the end of an image": zipped(LISTED) + IMAGE,
    "compressed": gzip.compress(LISTED, mtime=0),
    "disk": bytes(510) + b"\x55\xaa" + TEXT,
    "file system": b"hsqs" + TEXT,
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_a_stream_and_an_object_of_one_content_are_opened_alike(
    judge: Judge, opens: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, members = CONTENTS[name], opens._free.get()
    (tmp_path / "f").write_bytes(data)
    task = [Group(str(tmp_path), ["f"], follow=False)]
    results = [Checker(judge, members=members).check(task)]
    with (tmp_path / "f").open("rb") as stream:
        *_, found = Stream(stream.fileno(), "f").check(judge, members, keep_clean=False)
    assert isinstance(found, Result)
    results.append(found)
    opens._free.put(members)
    for large, plan in ((False, (SHA1,)), (False, ()), (True, (SHA1,)), (True, ())):
        monkeypatch.setattr(module, "LARGE_BYTES", len(data) - large)
        if data:  # an empty object is never read
            store = Store(data, 1 << 16)
            asked = wanted(store, *plan, looks=True, settled=BY_SIZE)
            results.append(check(judge, store, asked, opener=opens).result)
    told_ = [
        (
            sorted((one.kind, len(one.members)) for one in result.outcomes if one.members),
            *(result.not_opened, result.members),
        )
        for result in results
    ]
    assert told_ == [told_[0]] * len(told_)
