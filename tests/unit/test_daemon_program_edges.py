"""Content from a program: each option, each failure, and what other threads and tasks may do."""

from __future__ import annotations

import array
import asyncio
import errno
import io
import os
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient import Checked, Client, ContentChecker, Kind, UsageError
from hashclient.audit import log
from hashclient.containers.unopened import NAMES
from hashclient.core.errors import StateError
from hashclient.core.objecturi import ObjectUri
from hashclient.daemon import program
from hashclient.daemon.ledger import Ledger
from hashclient.daemon.lists import Lists
from hashclient.daemon.program import _TURN_BYTES
from hashclient.daemon.uploads import Content
from hashclient.matches.store import Matches
from hashclient.objects import listing, stores
from hashclient.objects.failures import StoreError, Trouble
from hashclient.objects.interface import Seen, Sink, Store
from hashclient.objects.listing import ListingEndedError
from hashclient.scan.check import kept
from hashclient.scan.check.kept import _NO_ROOM
from tests.kit import State

LISTED = b"a file that is listed"
WORDS = b"words of four bytes!"
LARGE = bytes(range(256)) * (3 * _TURN_BYTES // 256) + b"!"


def zip_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside", content)
    return packed.getvalue()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    directory = tmp_path_factory.mktemp("program")
    return State(directory, {"base": {"e-1": LISTED, "e-2": LARGE, "e-3": WORDS}})


@pytest.fixture
def checker(state: State) -> Iterator[ContentChecker]:
    """Return a checker that opens no containers, which starts at once."""
    with Client(state.path).checker(members=False) as checker:
        yield checker


def last_data(state: State, event: str) -> dict[str, Any]:
    return list(log.read(state.path / "audit", event=event))[-1].data


@pytest.mark.parametrize("kind", list(Kind))
def test_only_clean_and_excepted_content_may_pass(kind: Kind) -> None:
    assert Checked(kind).may_pass is (kind in {Kind.CLEAN, Kind.EXCEPTED})


def test_without_members_an_archive_is_compared_as_a_whole(
    checker: ContentChecker, tmp_path: Path
) -> None:
    packed = zip_of(LISTED)
    (tmp_path / "f.zip").write_bytes(packed)
    for content in (packed, io.BytesIO(packed), tmp_path / "f.zip"):
        assert checker.check(content) == Checked(Kind.CLEAN)
    (tmp_path / "f").write_bytes(LISTED)
    for _ in range(2):  # a file is recorded each time, because it may be another file now
        (handled,) = checker.check(os.fspath(tmp_path / "f")).found
        assert handled.record is not None and handled.outcome.path == str(tmp_path / "f")


@pytest.mark.parametrize("actions", [True, False])
@pytest.mark.parametrize("exceptions", [True, False])
def test_the_policy_and_the_exceptions_are_applied_as_the_caller_says(
    state: State, monkeypatch: pytest.MonkeyPatch, actions: bool, exceptions: bool
) -> None:
    made: list[tuple[str, bool]] = []

    def noted_ledger(*given: Any, **how: Any) -> Any:
        made.append(("act", how["act"]))
        return Ledger(*given, **how)

    def noted_lists(*given: Any, **how: Any) -> Any:
        made.append(("exceptions", how["exceptions"]))
        return Lists(*given, **how)

    monkeypatch.setattr(program, "Ledger", noted_ledger)
    monkeypatch.setattr(program, "Lists", noted_lists)
    session = state.client.session
    program.ContentChecker(session, members=False).close()
    assert made == [("exceptions", True), ("act", True)]
    made.clear()
    program.ContentChecker(session, actions=actions, exceptions=exceptions, members=False).close()
    assert made == [("exceptions", exceptions), ("act", actions)]


def test_the_start_is_logged_with_the_door_and_the_end_with_what_was_found(state: State) -> None:
    with Client(state.path).checker(members=False) as checker:
        assert checker.doubt is None and checker.failures == 0
        checker.check(LISTED, name="logged")
        checker.check(b"clean")
    assert last_data(state, "serve-start")["arguments"] == ["program"]
    assert last_data(state, "serve-end")["match"] == 1
    for use in (lambda: checker.doubt, lambda: checker.check("/")):
        with pytest.raises(UsageError) as refused:
            use()
        assert refused.value.message == "this checker is closed"
        assert refused.value.hint == "open another one"


def test_a_match_that_cannot_be_recorded_is_a_match_without_a_record(
    checker: ContentChecker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(LISTED)
    errors: list[Exception] = [StateError("disk is full"), MemoryError()]

    def fail(*_: object) -> None:
        raise errors[0]

    with monkeypatch.context() as broken:
        broken.setattr(Matches, "record", fail)
        for failures in (2, 4):
            for content in (LISTED, tmp_path / "f"):
                checked = checker.check(content, name="broken")
                assert checked.kind is Kind.MATCH and not checked.may_pass
                assert [one.record for one in checked.found] == [None]
            assert checker.failures == failures
            errors.pop(0)
    (handled,) = checker.check(LISTED, name="broken").found
    assert handled.record is not None and checker.failures == 4


def test_a_match_that_comes_while_the_checker_is_closed_is_recorded(
    checker: ContentChecker,
) -> None:
    """No more reports are prepared then."""
    checker._reporter.shutdown()
    (handled,) = checker.check(LISTED, name="late").found
    assert handled.record is not None and checker.failures == 0


def test_while_a_thread_opens_new_lists_others_use_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    with Client(state.path).checker(members=False) as checker:
        state.add({"e-2": b"new"})
        checker._lists._looked = -1e9  # long ago
        before = checker._lists.now
        with checker._looking:
            assert checker.check(b"new").may_pass and checker._lists.now is before
        assert checker.check(b"new").kind is Kind.MATCH
        assert not checker._looking.locked()
    events = [r for r in log.read(state.path / "audit") if r.event.startswith("serve")]
    assert [r.event for r in events] == ["serve-start", "serve-end"] * 2
    assert events[2].data["lists"][0]["generation"] == 2


@pytest.mark.parametrize("length", [1, _TURN_BYTES, _TURN_BYTES + 1, 3 * _TURN_BYTES + 1])
def test_long_pieces_of_a_task_let_other_tasks_run(
    checker: ContentChecker, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    turns = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal turns
        turns = 0
        yield LARGE[:length]
        yield LARGE[length:]

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> Checked:
        other = asyncio.create_task(count())
        checked = await checker.acheck(pieces(), name="turns")
        other.cancel()
        return checked

    digested: list[int] = []
    update = Content.update

    def noted(content: Content, data: memoryview) -> None:
        digested.append(len(data))
        update(content, data)

    monkeypatch.setattr(Content, "update", noted)
    assert asyncio.run(both()).kind is Kind.MATCH
    assert sum(digested) == len(LARGE) and max(digested) <= _TURN_BYTES
    assert turns >= len(digested) >= 4


class Reading:
    """An asynchronous stream that has only the method `read`."""

    def __init__(self, content: bytes) -> None:
        self.left, self.asked = content, list[int]()

    async def read(self, size: int, /) -> bytes:
        self.asked.append(size)
        part, self.left = self.left[:size], self.left[size:]
        return part


def test_a_task_may_give_any_content(checker: ContentChecker, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(LISTED)
    stream = Reading(LARGE)
    contents: list[Any] = [LISTED, io.BytesIO(LISTED), [LISTED[:5], LISTED[5:]], tmp_path / "f"]
    for number, content in enumerate([*contents, Reading(LISTED), stream]):
        checked = asyncio.run(checker.acheck(content, name=f"task {number}"))
        assert checked.kind is Kind.MATCH
        (handled,) = checked.found
        door = str(tmp_path / "f") if content is contents[3] else f"program:task {number}"
        assert handled.outcome.path == door
    assert asyncio.run(checker.acheck(Reading(b"clean"))) == Checked(Kind.CLEAN)
    assert stream.asked == [65_536] * 5


def test_a_stream_with_lines_is_not_read_by_lines(checker: ContentChecker) -> None:
    async def check() -> Checked:
        stream = asyncio.StreamReader(limit=1000)
        stream.feed_data(bytes(5000) + LISTED)
        stream.feed_eof()
        return await checker.acheck(stream)

    assert asyncio.run(check()) == Checked(Kind.CLEAN)


def test_a_part_of_a_form_that_takes_no_size_is_iterated(checker: ContentChecker) -> None:
    class Part:
        """As the parts of a form that aiohttp gives: they have lines, and are read as a whole."""

        async def read(self, *, decode: bool = False) -> bytes:
            raise AssertionError(decode)

        async def readline(self) -> bytes:
            raise AssertionError

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield LISTED

    assert asyncio.run(checker.acheck(Part())).kind is Kind.MATCH


@pytest.mark.parametrize(
    "content",
    [
        memoryview(array.array("I", WORDS)),
        [memoryview(array.array("I", WORDS))],
        bytearray(WORDS),
    ],
    ids=["words", "pieces of words", "bytearray"],
)
def test_content_of_words_is_checked_byte_by_byte(checker: ContentChecker, content: Any) -> None:
    assert checker.check(content).kind is Kind.MATCH


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (
            7,
            "no content to check: int",
            "give bytes, a stream, a path, or the URI of an object",
        ),
        (["text"], "the content yields str, and not bytes", None),
        ("s3://uploads", "a bucket is no object: s3://uploads", "write s3://BUCKET/KEY"),
    ],
)
def test_a_mistake_of_usage_names_what_was_given(
    checker: ContentChecker, content: Any, message: str, hint: str | None
) -> None:
    for check in (checker.check, lambda given: asyncio.run(checker.acheck(given))):
        with pytest.raises(UsageError) as refused:
            check(content)
        assert refused.value.message.rstrip("/") == message
        assert refused.value.hint == hint


def test_an_archive_that_cannot_be_read_again_is_unread_beside_its_own_match(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Client(state.path).checker() as checker:
        monkeypatch.setattr(checker._openers, "open", fail)
        checked = checker.check(zip_of(b"clean"), name="broken")
        assert (checked.kind, checked.reason) == (Kind.UNREAD, "input/output error")
        (handled,) = checked.found
        assert handled.outcome.path == "program:broken" and handled.outcome.is_stream


def test_containers_that_are_not_opened_are_counted_at_the_end(
    state: State, tmp_path: Path
) -> None:
    image = b"QFI\xfb\0\0\0\3" + bytes(600)  # a disk image of QEMU
    (tmp_path / "f").write_bytes(image)
    with Client(state.path).checker() as checker:
        for content in (image, io.BytesIO(image), tmp_path / "f"):
            assert checker.check(content).may_pass
    ((kind, number),) = last_data(state, "serve-end")["not_opened"].items()
    assert kind in NAMES and number == 3


def test_an_archive_that_finds_no_room_is_unread(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program.SPOOL_BYTES == 1 << 30
    monkeypatch.setattr(kept, "MEMORY_BYTES", 0)
    with Client(state.path).checker(spool_bytes=10) as checker:
        checked = checker.check(io.BytesIO(zip_of(b"clean")))
    assert (checked.kind, checked.reason) == (Kind.UNREAD, _NO_ROOM)


def test_a_checker_that_is_closed_twice_ends_its_run_once(state: State) -> None:
    checker = Client(state.path).checker(members=False)
    for _ in range(2):
        checker.check(LISTED, name="closed")
    for _ in range(2):
        checker.close()
    events = [(r.event, r.data.get("times")) for r in log.read(state.path / "audit")]
    assert events[-3:] == [("match", None), ("match", 1), ("serve-end", None)]
    for pool in (checker._threads, checker._reporter):
        with pytest.raises(RuntimeError):
            pool.submit(int)


# Objects in buckets


class Bucket(Store):
    """A bucket in memory, which notes the objects that it was asked about."""

    def __init__(self, name: str = "bu", **objects: bytes) -> None:
        super().__init__("gs", name)
        self.objects = objects
        self.asked: list[tuple[str, str | None]] = []

    def _open(self) -> Any:
        raise AssertionError

    @property
    def namespace(self) -> str:
        return ""

    def head(self, key: str, version: str | None) -> Seen:
        self.asked.append((key, version))
        if key not in self.objects:
            raise StoreError(Trouble.GONE, "it is gone")
        return Seen(len(self.objects[key]), '"e"', version)

    def read(
        self,
        key: str,
        span: tuple[int, int] | None,
        sink: Sink,
        *,
        etag: str | None = None,
        version: str | None = None,
    ) -> Seen:
        data = self.objects[key]
        sink(memoryview(data[slice(*span)] if span else data))
        return Seen(len(data), '"e"', version)

    def put(self, key: str, data: bytes) -> None:
        raise AssertionError


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket(listed=LISTED, clean=b"clean", alike=LISTED[::-1])
    monkeypatch.setattr(stores, "open_store", lambda uri: made if uri.bucket == "bu" else Bucket())
    return made


def test_an_object_is_checked_by_its_uri_and_recorded_each_time(
    checker: ContentChecker, bucket: Bucket
) -> None:
    for _ in range(2):
        checked = checker.check("gs://bu/listed")
        assert checked.kind is Kind.MATCH
        (handled,) = checked.found
        assert handled.outcome.path == "gs://bu/listed" and handled.outcome.is_object
        assert handled.record is not None and handled.outcome.door is None
    for key in ("clean", "alike"):
        assert checker.check(f"gs://bu/{key}") == Checked(Kind.CLEAN)
    assert [key for key, _ in bucket.asked] == ["listed"] * 2 + ["clean", "alike"]
    checker.check("gs://bu/clean?versionId=v")
    assert bucket.asked[-1] == ("clean", "v")


def test_the_exceptions_and_the_doubt_of_the_lists_hold_for_objects(
    checker: ContentChecker, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = checker._lists.now
    rule = lambda outcome: msgspec.structs.replace(outcome, kind=Kind.EXCEPTED)  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(lists, "rule", rule)
        assert checker.check("gs://bu/listed").kind is Kind.EXCEPTED
    monkeypatch.setattr(lists, "known_doubt", "Missing")
    monkeypatch.setattr(checker._lists, "_doubt", "Missing")
    assert checker.check("gs://bu/clean") == Checked(Kind.UNREAD, "lists are missing")
    assert checker.check("gs://bu/listed").kind is Kind.MATCH


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, "there is no such object"), (ListingEndedError("no such bucket"), "no such bucket")],
)
def test_an_object_that_is_not_there_is_unread_with_the_reason_of_its_bucket(
    checker: ContentChecker,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    reason: str,
) -> None:
    asked: list[str] = []

    def pages(store: Store, uri: ObjectUri) -> Iterator[object]:
        assert store is bucket
        asked.append(uri.text)
        if error is not None:
            raise error
        yield "a page with an object of another name"

    monkeypatch.setattr(listing, "list_pages", pages)
    checked = checker.check("gs://bu/missing?versionId=v")
    assert (checked.kind, checked.reason) == (Kind.UNREAD, reason)
    (handled,) = checked.found
    assert handled.outcome.path == "gs://bu/missing?versionId=v" and handled.outcome.is_object
    assert asked == ["gs://bu/missing"]
    bucket.objects["missing"] = b"clean"
    assert checker.check("gs://bu/missing").may_pass and len(asked) == 1


def test_a_store_is_used_for_all_objects_of_its_bucket(
    checker: ContentChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, others = Bucket(a=LISTED, b=LISTED), [Bucket(a=b"clean", b=b"clean")] * 2
    made = iter([first, *others])
    monkeypatch.setattr(stores, "open_store", lambda _: next(made))
    kinds = [checker.check(f"gs://{uri}").kind for uri in ("bu/a", "bu/b", "other/b")]
    assert kinds == [Kind.MATCH, Kind.MATCH, Kind.CLEAN]


def test_an_object_that_cannot_be_read_is_unread_with_its_reason(
    checker: ContentChecker, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Seen:
        raise StoreError(Trouble.DENIED, "access denied")

    monkeypatch.setattr(bucket, "read", fail)
    checked = checker.check("gs://bu/listed")
    assert (checked.kind, checked.reason) == (Kind.UNREAD, "access denied")
    assert [one.record for one in checked.found] == [None]
