"""Content from a program is checked as `serve` checks it: from each door, in any thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures import archives, buckets
from hashclient import Checked, Client, ContentChecker, Kind, UsageError
from hashclient.audit import log
from hashclient.core.digests import KEPT_BYTES
from hashclient.core.model import Outcome
from hashclient.daemon import program
from hashclient.scan.check.kept import MEMORY_BYTES
from hashclient.session import Session
from tests.kit import State, environment, wait_until

LISTED = b"a file that is listed"
#: Content that is too long to be kept, so that no digest of it is computed twice.
LARGE = b"another file that is listed" * 100_000


def zip_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", content)
    return packed.getvalue()


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, {"base": {"e-1": LISTED, "e-2": LARGE}})


@pytest.fixture
def checker(state: State) -> Iterator[ContentChecker]:
    with Client(state.path).checker() as checker:
        yield checker


class Asynchronous:
    """Content whose pieces are read by an asynchronous iterator."""

    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)

    async def read(self, size: int, /) -> bytes:
        return self._stream.read(size)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := self._stream.read(1000):
            yield chunk


class AsynchronousRead:
    """Content that has only an asynchronous `read`."""

    def __init__(self, content: bytes) -> None:
        self.read = Asynchronous(content).read


def in_file(checker: ContentChecker, content: bytes) -> Checked:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return checker.check(Path(file.name))


DOORS: dict[str, Callable[[ContentChecker, bytes], Checked]] = {
    "bytes": lambda checker, content: checker.check(content),
    "memoryview": lambda checker, content: checker.check(memoryview(bytearray(content))),
    "stream": lambda checker, content: checker.check(io.BytesIO(content)),
    "chunks": lambda checker, content: checker.check([content[:7], content[7:]]),
    "path": in_file,
    "bytes, awaited": lambda checker, content: asyncio.run(checker.acheck(content)),
    "asynchronous chunks": lambda checker, content: asyncio.run(
        checker.acheck(Asynchronous(content))
    ),
    "asynchronous read": lambda checker, content: asyncio.run(
        checker.acheck(AsynchronousRead(content))
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize("door", DOORS)
def test_the_same_content_gets_the_same_answer_by_each_door(
    checker: ContentChecker, door: str
) -> None:
    check = DOORS[door]
    assert check(checker, b"clean") == check(checker, b"") == Checked(Kind.CLEAN)
    assert check(checker, zip_of(b"clean")).may_pass
    for content in (LISTED, LARGE, zip_of(LISTED)):
        found = check(checker, content)
        assert found.kind is Kind.MATCH and not found.may_pass
    assert checker.failures == 0


def test_a_match_is_on_record_and_in_the_log_when_the_answer_is_there(
    state: State, checker: ContentChecker
) -> None:
    (handled,) = checker.check(LISTED, name="upload 4711").found
    assert handled.record is not None
    (match,) = state.call("matches", "--format", "jsonl").lines
    assert (match["id"], match["path"]) == (handled.record.id, "program:upload 4711")
    assert [record.event for record in log.read(state.path / "audit")][-1] == "match"


@pytest.mark.slow
def test_a_thread_that_ends_takes_no_process_with_it(checker: ContentChecker) -> None:
    """The kernel ends the container process together with the thread that started it."""
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:
            thread = pool.submit(threading.get_native_id).result()
            assert pool.submit(checker.check, zip_of(b"clean")).result().may_pass
        wait_until(lambda thread=thread: not Path(f"/proc/self/task/{thread}").exists(), thread)  # type: ignore[misc]
    assert checker.check(zip_of(LISTED)).kind is Kind.MATCH


def test_the_same_content_under_the_same_name_is_counted_and_recorded_once(
    state: State, checker: ContentChecker
) -> None:
    assert checker.check(LISTED, name="a").found
    assert checker.check(LISTED, name="a") == Checked(Kind.MATCH)
    assert checker.check(LISTED, name="b").found
    assert len(state.call("matches", "--format", "jsonl").lines) == 2


def test_new_lists_are_used_beneath_an_open_checker(state: State, checker: ContentChecker) -> None:
    assert checker.check(b"new").may_pass
    state.add({"e-3": b"new"})
    checker._lists.refresh(force=True)  # the daemon refreshes its lists once a second
    assert checker.check(b"new").kind is Kind.MATCH


def test_without_a_fresh_list_nothing_is_clean_and_a_match_is_a_match(state: State) -> None:
    now = [datetime.now().astimezone()]
    session = Session(Client(state.path).session.settings, now=lambda: now[0], environ={})
    with Client(session).checker() as checker:
        assert checker.check(b"clean").may_pass
        now[0] += timedelta(days=400)
        assert checker.check(b"clean") == Checked(Kind.UNREAD, "lists are stale")
        assert checker.check(io.BytesIO(b"clean")).kind is Kind.UNREAD
        assert checker.check(LISTED).kind is Kind.MATCH


def test_an_exception_counts_here_as_everywhere(state: State) -> None:
    added = state.call("exceptions", "add", "base/e-1", "--reason", "harmless: a licence")
    assert added.code == 0, added.err
    with Client(state.path).checker() as checker:
        assert checker.check(LISTED).kind is Kind.EXCEPTED and checker.check(LISTED).may_pass
    with Client(state.path).checker(exceptions=False) as checker:
        assert checker.check(LISTED).kind is Kind.MATCH


def test_a_policy_is_applied_to_a_path_before_the_answer(state: State, tmp_path: Path) -> None:
    key = tmp_path / "officer.key"
    made = state.call("quarantine", "keygen", "--output", key, "--format", "json")
    recipient = json.loads(made.out)["public_key"]
    policy = '[[policy]]\nactions = ["quarantine"]\n'
    state.configure(f'{policy}[quarantine]\nrecipients = ["{recipient}"]\n')
    path = state.tree / "f"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(LISTED)
    with Client(state.path).checker(actions=False) as checker:
        assert checker.check(path).kind is Kind.MATCH and path.exists()
    with Client(state.path).checker() as checker:
        (handled,) = checker.check(str(path)).found
    assert [acted.done for acted in handled.acted] == [True] and not path.exists()


def test_what_cannot_be_read_is_unread_with_a_reason(
    checker: ContentChecker, tmp_path: Path
) -> None:
    missing = checker.check(tmp_path / "missing")
    assert missing.kind is Kind.UNREAD and missing.reason == "no such file or directory"
    assert [handled.outcome.kind for handled in missing.found] == [Kind.UNREAD]
    os.mkfifo(tmp_path / "pipe")
    assert checker.check(tmp_path / "pipe").kind is Kind.UNREAD
    for name in ("a\0b", "\ud800"):
        assert checker.check(name).reason == "no file can have this name"
    damaged = zip_of(b"clean")[:-30]
    assert checker.check(damaged).kind is Kind.UNREAD
    assert checker.check(io.BytesIO(damaged)).kind is Kind.UNREAD


@pytest.mark.sampled
@pytest.mark.parametrize("door", DOORS)
def test_each_reason_for_which_content_is_unread_is_told_beside_a_match(
    checker: ContentChecker, door: str
) -> None:
    packed = archives.zip_of({"a": b"harmed", "listed": LISTED, "b": b"harmed"}, 0)
    checked = DOORS[door](checker, packed.replace(b"harmed", b"HARMED"))
    told = [(one.outcome.kind, one.outcome.members) for one in checked.found]
    assert sorted(told) == [(Kind.MATCH, ("listed",)), (Kind.UNREAD, ("a",)), (Kind.UNREAD, ("b",))]
    assert all(one.outcome.reason for one in checked.found if one.outcome.kind is Kind.UNREAD)


@pytest.mark.sampled
@pytest.mark.parametrize("door", DOORS)
def test_a_container_that_is_excepted_is_on_record_beside_a_member_that_is_not(
    state: State, door: str
) -> None:
    packed = zip_of(LISTED)
    state.add({"e-3": packed})
    added = state.call("exceptions", "add", "base/e-3", "--reason", "harmless: a licence")
    assert added.code == 0, added.err
    with Client(state.path).checker() as checker:
        checked = DOORS[door](checker, packed)
    assert checked.kind is Kind.MATCH
    assert sorted(one.outcome.kind for one in checked.found) == [Kind.EXCEPTED, Kind.MATCH]
    assert None not in [one.record for one in checked.found]


def test_a_stream_that_breaks_off_raises_and_leaves_nothing(
    state: State, checker: ContentChecker
) -> None:
    def chunks() -> Iterator[bytes]:
        yield LISTED
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        checker.check(chunks())
    assert state.call("matches", "--format", "jsonl").lines == []


@pytest.mark.slow
def test_bytes_of_which_only_the_end_shows_an_archive_are_opened(checker: ContentChecker) -> None:
    """`check` searches all bytes of a `bytes` object, but only a kept part of a long stream."""
    data = bytes(3 << 20) + zip_of(LISTED)
    assert checker.check(data, name="bytes").kind is Kind.MATCH
    assert checker.check(io.BytesIO(data), name="stream").kind is Kind.UNREAD
    data = bytes(1_000_000) + zip_of(LISTED)
    assert checker.check(io.BytesIO(data), name="short").kind is Kind.MATCH


@pytest.mark.slow
def test_an_archive_in_a_stream_that_is_too_large_for_memory_is_opened(
    checker: ContentChecker,
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("large", bytes(MEMORY_BYTES))
        archive.writestr("inside", LISTED)
    whole = packed.getbuffer()
    step = 1 << 20
    pieces = (whole[at : at + step] for at in range(0, len(whole), step))
    assert checker.check(pieces).kind is Kind.MATCH


def test_a_task_that_is_cancelled_while_an_archive_is_opened_closes_nothing_beneath_it(
    checker: ContentChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that opens the archive also closes it, because its descriptor could be reused."""
    opening, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    finish = checker._finish
    states: list[bool] = []

    def slowly(stream: object) -> Checked:
        opening.set()
        assert go_on.wait(60)
        states.append(stream.kept is not None)  # type: ignore[attr-defined]
        try:
            return finish(stream)  # type: ignore[arg-type]
        finally:
            ended.set()

    monkeypatch.setattr(checker, "_finish", slowly)

    async def check() -> None:
        task = asyncio.create_task(checker.acheck(Asynchronous(zip_of(LISTED))))
        while not opening.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(check())
    assert ended.wait(60) and states == [True]


@pytest.mark.parametrize(
    "content",
    [None, 7, ["text"], io.StringIO("text"), "s3://", "s3://uploads/", memoryview(b"abc")[::2]],
    ids=["none", "int", "list", "text", "uri", "bucket", "gaps"],
)
def test_what_is_no_content_is_refused(checker: ContentChecker, content: object) -> None:
    with pytest.raises(UsageError):
        checker.check(content)  # type: ignore[arg-type]


def test_a_closed_checker_says_so_and_closing_twice_is_nothing(state: State) -> None:
    checker = Client(state.path).checker()
    checker.close()
    checker.close()
    with pytest.raises(UsageError, match="closed"):
        checker.check(b"")
    assert [record.event for record in log.read(state.path / "audit")][-1] == "serve-end"


def test_a_forked_process_has_to_open_its_own(
    checker: ContentChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(UsageError, match="process") as refused:
        checker.check(b"clean")
    assert refused.value.hint == "open one in each process, after the fork"


@pytest.mark.slow
def test_many_threads_get_the_answers_of_one(checker: ContentChecker) -> None:
    contents = [LISTED, b"clean", LARGE, zip_of(LISTED), zip_of(b"clean")] * 8
    with ThreadPoolExecutor(8) as pool:
        kinds = [answer.kind for answer in pool.map(checker.check, contents)]
    assert kinds == [Kind.MATCH, Kind.CLEAN, Kind.MATCH, Kind.MATCH, Kind.CLEAN] * 8
    assert checker.failures == 0


@pytest.mark.slow
def test_checks_leave_no_descriptor_and_no_object(checker: ContentChecker) -> None:
    def check() -> None:
        for _ in range(20):
            checker.check(b"clean")
            checker.check(io.BytesIO(LISTED))
            checker.check(zip_of(LISTED))

    def held() -> tuple[int, int]:
        gc.collect()
        return len([*Path("/proc/self/fd").iterdir()]), len(gc.get_objects())

    check()
    before = held()
    check()
    after = held()
    assert after[0] == before[0] and after[1] < before[1] + 50


OBJECTS = """
import sys
from hashclient import Client
client = Client(sys.argv[1])
with client.checker() as checker:
    for uri in sys.argv[2:]:
        checked = checker.check(uri)
        print(checked.kind, checked.reason, [handled.outcome.path for handled in checked.found])
with client.scan(*sys.argv[2:]) as run:
    print(sorted(handled.outcome.path for handled in run), int(run.exit_code))
"""


@pytest.mark.slow
def test_an_object_is_named_by_its_uri_for_a_check_and_for_a_scan(state: State) -> None:
    """A check reads one object, and a scan also reads the objects below it.

    The test runs in a new process, because the threads of the library outlive it.
    """
    site = buckets.Site()
    try:
        bucket = site.bucket(listed=LISTED, packed=zip_of(LISTED), clean=b"clean")
        bucket.put("clean/below", LISTED)
        uris = [f"{bucket.uri}/{key}" for key in ("listed", "packed", "clean", "missing")]
        uris.append("s3://no-bucket/listed")
        done = subprocess.run(
            [sys.executable, "-c", OBJECTS, state.path, *uris],
            env=environment(**site.environment),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        site.close()
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"match None ['{uris[0]}']",
        f"match None ['{uris[1]}']",
        "clean None []",
        f"unread there is no such object ['{uris[3]}']",
        f"unread no such bucket ['{uris[4]}']",
        f"{[f'{uris[2]}/below', *uris[:2], uris[4]]} 11",
    ]


def test_so_many_streams_keep_bytes_and_others_are_checked_without(
    checker: ContentChecker,
) -> None:
    """A stream above the limit is checked at once, without kept bytes."""
    with contextlib.ExitStack() as stack:
        lists = checker._in_use()
        begun = [stack.enter_context(checker._begun(f"s{n}", lists)) for n in range(18)]
        assert [stream.kept_bytes for stream in begun] == [KEPT_BYTES] * 16 + [0] * 2
        assert begun[3].door == "program:s3"
        assert checker.check([LARGE[:9], LARGE[9:]]).kind is Kind.MATCH
    with checker._begun("\udcff", lists) as stream:
        assert (stream.kept_bytes, stream.door) == (KEPT_BYTES, "program:?")


@pytest.mark.parametrize("content", [5, None, [1], ["text"], io.StringIO("text")])
def test_content_of_another_type_is_a_mistake_of_usage(
    checker: ContentChecker, content: object
) -> None:
    with pytest.raises(UsageError):
        checker.check(content)  # type: ignore[arg-type]


def test_the_worst_outcome_is_the_answer_and_doubt_comes_after_it() -> None:
    fresh, stale = (SimpleNamespace(doubt=doubt) for doubt in (None, "Stale"))

    def answer(lists: object, *kinds: Kind) -> tuple[Kind, str | None]:
        outcomes = [Outcome(kind, "a", reason=f"is {kind}") for kind in kinds]
        checked = program._checked(outcomes, cast(Any, lists))
        return checked.kind, checked.reason

    assert answer(fresh) == (Kind.CLEAN, None)
    assert answer(stale) == (Kind.UNREAD, "lists are stale")
    assert answer(stale, Kind.EXCEPTED) == (Kind.UNREAD, "lists are stale")
    assert answer(fresh, Kind.EXCEPTED) == (Kind.EXCEPTED, None)
    assert answer(stale, Kind.EXCEPTED, Kind.UNREAD) == (Kind.UNREAD, "is unread")
    order = [Kind.MATCH, Kind.CONFLICT, Kind.UNREAD]
    for place, kind in enumerate(order):
        assert answer(stale, *reversed(order[place:])) == (kind, f"is {kind}")
