"""Checks content for a program that imports hashclient, as a daemon does for its clients.

The lists are opened again when they have changed on the disk. Each match is recorded, and the
policy is applied, before the result is returned. Several threads may call the methods of
`ContentChecker` at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from hashclient.core.digests import CHUNK_BYTES, KEPT_BYTES, digest_of
from hashclient.core.errors import UsageError
from hashclient.core.kinds import Kind
from hashclient.core.model import Handled, Outcome
from hashclient.core.objecturi import is_object_uri, parse_uri
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.ledger import Ledger
from hashclient.daemon.lists import InUse, Lists
from hashclient.daemon.openers import Openers, opening
from hashclient.daemon.paths import Named, results_at, ruled
from hashclient.daemon.uploads import RECORDED, Content, judge, worst
from hashclient.scan.check.kept import Spool, may_be_container
from hashclient.scan.check.members import Members
from hashclient.scan.values.work import Result, reason_of
from hashclient.session import Session
from hashclient.system.log import Log

if TYPE_CHECKING:
    from hashclient.objects.interface import Store

_log = Log("check")

#: The prefix of the names of content in records of matches.
DOOR = "program"
#: The disk space in bytes that all calls together may use for content that may be a container; the
#: command `serve` has the same default.
SPOOL_BYTES = 1 << 30
#: The number of threads in which `acheck` checks content.
THREADS = 8
#: The number of streams whose bytes are kept in memory at the same time, so that not all digests
#: must be computed as the bytes arrive.
_MOST_KEPT = 16
#: The number of bytes that `acheck` digests before it lets other tasks of the event loop run.
_TURN_BYTES = 1 << 16

NO_OBJECT = "there is no such object"


class Readable(Protocol):
    """An object with a method `read`, for example a file or the body of a WSGI request."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, and no bytes at the end."""


class AsyncReadable(Protocol):
    """An object with an asynchronous method `read`."""

    async def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, and no bytes at the end."""


Given = (
    bytes
    | bytearray
    | memoryview
    | str
    | os.PathLike[str]
    | Readable
    | Iterable[bytes | memoryview]
)


class Checked(msgspec.Struct, frozen=True):
    """The result of checking one file, stream or object.

    `kind` is the worst outcome of the content and its members; without a hit, `kind` is `unread` if
    a list is stale or missing. `reason` says why the content is unread. `found` are the outcomes
    that are unread or were recorded by the call of `check`, with the results of actions; a match
    without `record` could not be recorded. Content without a path that was already recorded under
    the same name within the last hour is only counted.
    """

    kind: Kind
    reason: str | None = None
    found: tuple[Handled, ...] = ()

    @property
    def may_pass(self) -> bool:
        """Whether the content was compared with all lists and is clean or excepted."""
        return self.kind in (Kind.CLEAN, Kind.EXCEPTED)


class ContentChecker:
    """Checks content for a program; any thread may call `check` until the checker is closed."""

    def __init__(
        self,
        session: Session,
        *,
        actions: bool = True,
        exceptions: bool = True,
        members: bool = True,
        spool_bytes: int = SPOOL_BYTES,
    ) -> None:
        """Open the lists; the options have the same meanings as for the command `serve`.

        Raises:
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed, or the policy is wrong.
        """
        self._session = session
        self._lists = Lists(session, exceptions=exceptions)
        self._counts = Counts(1).row(0)
        self._ledger = Ledger(session, self._counts, [DOOR], self._lists.now, act=actions)
        self._ledger.use(self._lists.now)
        self._spool = Spool(session.settings.layout.spool, spool_bytes)
        self._openers: Openers | None = None
        if members:
            config = session.settings.config
            containers = opening(config, config.containers.time_s, _log.info)
            self._openers = Openers(containers, session)
        #: `_looking` is held while a thread checks whether lists have changed. `_screening` is held
        #: while a thread calls `may_be_listed`, which only one thread may call.
        self._looking, self._screening = threading.Lock(), threading.Lock()
        #: The opened stores, by scheme and bucket; a store is opened once for all objects of a
        #: bucket.
        self._stores: dict[tuple[str, str], Store] = {}
        self._kept = threading.BoundedSemaphore(_MOST_KEPT)
        self._threads = ThreadPoolExecutor(THREADS, "hashclient-check")
        self._reporter = ThreadPoolExecutor(1, "hashclient-report")
        self._process = os.getpid()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop opening containers, write counts of repeated matches, and log the end of the run."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._openers is not None:
            self._openers.stop()
        self._threads.shutdown(wait=True)
        self._prepare_reports(at_end=True)
        self._reporter.shutdown(wait=True)
        self._ledger.end()
        if self._openers is not None:
            self._openers.close()

    @property
    def failures(self) -> int:
        """How many matches could not be recorded or acted upon; `check` returns them as matches."""
        return self._counts.of(Count.FAILURES)

    @property
    def doubt(self) -> str | None:
        """`Stale` or `Missing` if a list is stale or missing; then no input is clean."""
        return self._in_use().doubt

    def check(self, content: Given, *, name: str = "content") -> Checked:
        """Check bytes, a stream, or the file or object that a path or URI names.

        A `str` is a path or a URI, for example `s3://BUCKET/KEY`. A stream is an object that has a
        method `read` or yields bytes; an exception of the stream is passed on. `name` names content
        without a path in records, so each upload should have its own name.

        Raises:
            UsageError: the content has another type, the URI is wrong, or the checker is closed.
        """
        lists, whole = self._in_use(), None
        if isinstance(content, bytes | bytearray | memoryview):
            whole = _bytes_of(content)
            if self._is_clean(whole, lists):
                return _checked([], lists)
            content = iter((whole,))
        elif isinstance(content, str | os.PathLike):
            path = os.fsdecode(content)
            return (
                self._check_object(path, lists)
                if is_object_uri(path)
                else self._check_path(path, lists)
            )
        with self._begun(name, lists) as stream:
            stream.whole = whole
            for chunk in _chunks_of(content):
                stream.update(_bytes_of(chunk))
            return self._finish(stream)

    async def acheck(
        self, content: Given | AsyncIterable[bytes] | AsyncReadable, *, name: str = "content"
    ) -> Checked:
        """Check as `check` does, in a thread; the content may also be an asynchronous stream.

        An asynchronous stream is digested in the thread of the event loop as its bytes arrive.

        Raises:
            UsageError: as for `check`.
        """
        run = functools.partial(asyncio.get_running_loop().run_in_executor, self._threads)
        chunks = _async_chunks_of(content)
        if chunks is None:
            return await run(functools.partial(self.check, content, name=name))  # type: ignore[arg-type]
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(self._begun(name, self._in_use()))
            async for chunk in chunks:
                data = _bytes_of(chunk)
                for at in range(0, len(data), _TURN_BYTES):
                    stream.update(data[at : at + _TURN_BYTES])
                    await asyncio.sleep(0)
            # The thread frees the stream at its end, even if the caller has stopped awaiting the
            # result.
            rest = stack.pop_all()

            def finish() -> Checked:
                with rest:
                    return self._finish(stream)

            return await run(finish)

    def _in_use(self) -> InUse:
        """Return the lists that are in use now.

        Raises:
            UsageError: the checker belongs to another process, or is closed.
        """
        if self._is_closed:
            raise UsageError("this checker is closed", hint="open another one")
        if os.getpid() != self._process:
            raise UsageError(
                "a checker is for the process that has opened it",
                hint="open one in each process, after the fork",
            )
        # While one thread opens new lists, other threads use the former lists.
        if self._looking.acquire(blocking=False):
            try:
                if self._lists.refresh():
                    self._ledger.use(self._lists.now)
                # A report that could not be prepared with its match is not left until the next
                # match.
                if self._ledger.are_reports_due():
                    self._prepare_reports()
            finally:
                self._looking.release()
        return self._lists.now

    def _prepare_reports(self, *, at_end: bool = False) -> None:
        with contextlib.suppress(RuntimeError):  # the checker is being closed
            self._reporter.submit(self._ledger.prepare_reports, at_end=at_end)

    def _is_clean(self, data: memoryview, lists: InUse) -> bool:
        """Return True if a quick test shows that bytes have no match; False means "not known"."""
        if self._openers is not None and may_be_container(data):
            return False
        digests = [(a, digest_of(a, data)) for a in lists.judge.plan(len(data))]
        with self._screening:
            return not any(lists.may_be_listed(a, digest) for a, digest in digests)

    @contextlib.contextmanager
    def _begun(self, name: str, lists: InUse) -> Iterator[Content]:
        has_room = self._kept.acquire(blocking=False)
        kept = None if self._openers is None else self._spool.keep()
        door = f"{DOOR}:{name.encode(errors='replace').decode()}"
        stream = Content(lists, door, kept_bytes=KEPT_BYTES if has_room else 0, kept=kept)
        try:
            yield stream
        finally:
            stream.let_go()
            if has_room:
                self._kept.release()

    def _finish(self, stream: Content) -> Checked:
        """Open, judge and record a stream that has ended."""
        if self._openers is not None and stream.may_be_container():
            try:
                self._openers.open(stream, self)
            except OSError as error:
                unread = Outcome(Kind.UNREAD, stream.door, reason=reason_of(error), is_stream=True)
                stream.inside.append(unread)
        judge([stream])
        self._ledger.leave(stream.not_opened, stream.lists)
        return self._answer(stream.outcomes(), stream.lists)

    def _check_path(self, path: str, lists: InUse) -> Checked:
        outcomes: list[Outcome] = []
        with contextlib.ExitStack() as stack:
            named = stack.enter_context(contextlib.closing(Named(path)))
            members = None
            if self._openers is not None:
                members = stack.enter_context(self._openers.taken(lists, self))
            results = stack.enter_context(
                contextlib.closing(results_at(lists, named, None, members))
            )
            for result in results:
                self._ledger.leave(result.not_opened, lists)
                outcomes += ruled(result.outcomes, lists, self._openers, None)
        return self._answer(outcomes, lists, each=True)

    def _check_object(self, uri: str, lists: InUse) -> Checked:
        # Imported here because the libraries are large, and few programs check objects in buckets.
        from hashclient.objects.listing import ListingEndedError, list_pages
        from hashclient.objects.stores import open_store
        from hashclient.scan.objects.objects import Objects, Request, Tools

        named = parse_uri(uri)
        if not named.key:
            raise UsageError(f"a bucket is no object: {named.text}", hint="write s3://BUCKET/KEY")
        store = self._stores.setdefault((named.scheme, named.bucket), open_store(named))
        tools = Tools(self._spool, readers=1, store=lambda _: store)
        clean, outcomes = 0, list[Outcome]()
        with contextlib.ExitStack() as stack:
            made: list[Members] = []
            if self._openers is not None:
                made.append(stack.enter_context(self._openers.taken(lists, self)))
            # Only the object itself is checked. Otherwise, the person who chooses its key could let
            # all objects below the key be read again.
            found = Objects(Request((named,), alone=True), tools).check(
                lists.judge, lambda: made.pop() if made else None, keep_clean=False
            )
            for item in stack.enter_context(contextlib.closing(found)):
                if isinstance(item, Outcome):
                    outcomes.append(item)
                elif isinstance(item, Result):
                    outcomes += item.outcomes
                    clean += item.clean
                    self._ledger.leave(item.not_opened, lists)
        if not outcomes and not clean:
            reason = NO_OBJECT
            try:
                # A store gives the same answer about an object in a bucket that it does not have.
                next(list_pages(store, msgspec.structs.replace(named, version=None)), None)
            except ListingEndedError as error:
                reason = str(error)
            outcomes = [Outcome(Kind.UNREAD, uri, reason=reason, is_object=True)]
        return self._answer(ruled(outcomes, lists, self._openers, None), lists, each=True)

    def _answer(self, outcomes: Sequence[Outcome], lists: InUse, *, each: bool = False) -> Checked:
        """Record the outcomes that must be recorded, and return the result."""
        to_record = [outcome for outcome in outcomes if outcome.kind in RECORDED]
        found: list[Handled] = []
        if to_record:
            try:
                found = self._ledger.add(to_record, lists, each=each)
            except Exception as error:  # noqa: BLE001 - the result shows the match in any case
                self._ledger.failed(error)
                found = [Handled(outcome) for outcome in to_record]
            self._prepare_reports()
        found += [Handled(outcome) for outcome in outcomes if outcome.kind not in RECORDED]
        return _checked(outcomes, lists, found)


def _checked(outcomes: Sequence[Outcome], lists: InUse, found: Sequence[Handled] = ()) -> Checked:
    decides = worst(outcomes)
    if decides is not None and decides.kind is not Kind.EXCEPTED:
        return Checked(decides.kind, decides.reason, (*found,))
    doubt = lists.doubt
    if doubt is not None:
        return Checked(Kind.UNREAD, f"lists are {doubt.lower()}", (*found,))
    return Checked(Kind.CLEAN if decides is None else decides.kind, None, (*found,))


def _bytes_of(chunk: Any) -> memoryview:
    try:
        return memoryview(chunk).cast("B")
    except TypeError as error:
        raise UsageError(f"the content yields {type(chunk).__name__}, and not bytes") from error


def _chunks_of(content: Readable | Iterable[bytes] | Any) -> Iterator[Any]:
    if hasattr(content, "read"):
        return iter(functools.partial(content.read, CHUNK_BYTES), b"")
    if isinstance(content, Iterable):
        return iter(content)
    raise UsageError(
        f"no content to check: {type(content).__name__}",
        hint="give bytes, a stream, a path, or the URI of an object",
    )


def _async_chunks_of(content: Any) -> AsyncIterator[Any] | None:
    """Return an iterator over an asynchronous stream; None for any other object."""
    read = getattr(content, "read", None)
    has_read = asyncio.iscoroutinefunction(read) and _takes_size(read)
    is_iterable = isinstance(content, AsyncIterable)
    # An iteration over a stream that has lines yields lines, and fails if a line is too long.
    if has_read and (hasattr(content, "readline") or not is_iterable):
        return _read_all(content)
    return aiter(content) if is_iterable else None


def _takes_size(read: Any) -> bool:
    """Return whether a method can be called with a size; `read` of a part of a form cannot."""
    try:
        inspect.signature(read).bind(_TURN_BYTES)
    except TypeError:
        return False
    return True


async def _read_all(content: AsyncReadable) -> AsyncIterator[bytes]:
    while chunk := await content.read(_TURN_BYTES):
        yield chunk
