"""A scan of buckets: list objects, decide which objects must be read, and yield outcomes.

Threads list a bucket and read its objects. The thread that iterates over the results decides which
objects are read, uses the cache, and yields all outcomes. The outcomes of a bucket have no fixed
order. If a listing ends early, its URI is unread, with a token to continue; all objects that were
listed before still have outcomes. A token contains the URI, and the key after which the listing
continues. A token contains no secret and proves nothing: a forged token only omits earlier keys, as
another URI would.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from hashclient.core.errors import UsageError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.objecturi import ObjectUri, outermost
from hashclient.index.matcher import Judge
from hashclient.objects.failures import StoreError
from hashclient.objects.interface import Store
from hashclient.objects.listing import ListingEndedError, list_pages
from hashclient.objects.stores import open_store
from hashclient.scan.check.kept import Spool
from hashclient.scan.check.members import Members
from hashclient.scan.objects.cache import ObjectMemory
from hashclient.scan.objects.pending import Pending
from hashclient.scan.objects.reader import ObjectReader, Opener
from hashclient.scan.objects.sorting import EVIDENCE, Sorter, objects_of
from hashclient.scan.objects.threads import Page, Threads, Work
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.values.work import Advance, Result
from hashclient.system.cgroups import usable_processors

if TYPE_CHECKING:
    from hashclient.objects.report import Report

#: The number of objects that are read at the same time: a store takes long to answer one request,
#: but answers many requests at once.
READERS = 16
#: The seconds between two values of type `Advance`.
TICK_S = 0.2
#: The number of outcomes of waiting objects that are yielded in one result.
_TOGETHER = 1_000

#: `_VERSION` is the version of tokens. `_MAX_CHARS` is the greatest length of a token: a key has at
#: most 1,024 bytes, and a URI needs three characters for each byte.
_VERSION = 1
_MAX_CHARS = 16_384

ENDED = "the listing ended early: {}"
CONTRADICTED = "its {} was taken for its md5, and the etag of another object is no md5"


class Request(msgspec.Struct, frozen=True):
    """A request to check the objects at some URIs.

    - `reads`: whether objects may be read.
    - `all_versions`: whether all versions of an object are checked, or only the current version.
    - `after`: the key after which the listing of a single URI continues.
    - `report`: an inventory report that replaces the listing of a single URI.
    - `alone`: whether the objects below the named objects are left out.
    """

    uris: tuple[ObjectUri, ...]
    reads: bool = True
    all_versions: bool = False
    after: str | None = None
    report: Report | None = None
    alone: bool = False


class Elsewhere(Protocol):
    """Other machines that list and read buckets."""

    def bucket(self, uri: ObjectUri, after: str | None, namespace: str) -> Work:
        """Return a `Work` that lists a URI after the key `after`, and reads the listed objects.

        `namespace` distinguishes the bucket from buckets of the same name in other stores.
        """

    def close(self) -> None:
        """Disconnect from the other machines."""


class Tools(msgspec.Struct, frozen=True):
    """What a scan of buckets uses.

    - `spool`: keeps containers on the disk while they are opened.
    - `memory`: has the records of known objects.
    - `learns`: whether results contain new records.
    - `trusts`: returns for the URI of a bucket whether the ETags of the bucket are trusted.
    - `readers`: the number of objects that are read at the same time.
    - `chance`: returns the seed for the choice of objects that are read as a sample.
    - `elsewhere`: other machines that list and read buckets of S3; None if this process does.
    - `store`: returns the store of a bucket that this process lists and reads.
    """

    spool: Spool
    memory: ObjectMemory | None = None
    learns: bool = False
    trusts: Callable[[str], bool] = lambda _bucket: False
    readers: int = READERS
    chance: Callable[[], int] = lambda: secrets.randbits(64)
    elsewhere: Elsewhere | None = None
    store: Callable[[ObjectUri], Store] = open_store


class Objects:
    """The objects that one scan checks."""

    def __init__(self, request: Request, tools: Tools) -> None:
        """Keep the arguments, and send no request to a store before `check` is called."""
        self._request = request
        self._tools = tools
        #: The token to continue a scan that was interrupted; None if no token is known.
        self.token: str | None = None

    def check_at(self, elsewhere: Elsewhere) -> None:
        """Let the machines of `elsewhere` list and read each bucket that they support."""
        self._tools = msgspec.structs.replace(self._tools, elsewhere=elsewhere)

    @property
    def arguments(self) -> list[str]:
        """The URIs that the caller asked for."""
        return [uri.text for uri in self._request.uris]

    def check(
        self, judge: Judge, make_members: Callable[[], Members | None], *, keep_clean: bool
    ) -> Generator[Result | Outcome | Advance]:
        """Check all objects; `make_members` makes an opener of containers for each thread.

        Raises:
            StateError: an index cannot be read, or no space is left to keep objects.
            UsageError: a library is missing, or a store cannot do the requested work.
        """
        # For many small pages, Arrow's own allocator uses some 30 MB more than the system's
        # allocator.
        pool = pa.default_memory_pool()
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            for uri in outermost(self._request.uris):
                yield from self._check_uri(uri, judge, make_members, keep_clean=keep_clean)
        finally:
            pa.set_memory_pool(pool)
            if self._tools.elsewhere is not None:
                self._tools.elsewhere.close()

    def _check_uri(
        self,
        uri: ObjectUri,
        judge: Judge,
        make_members: Callable[[], Members | None],
        *,
        keep_clean: bool,
    ) -> Iterator[Result | Outcome | Advance]:
        yield Advance()  # show progress before the first wait
        store = self._tools.store(uri)
        members = make_members if self._request.reads else lambda: None
        run = _Bucket(uri, store, judge, self._request, self._tools, members, keep_clean=keep_clean)
        try:
            yield from run.check()
        except StoreError as error:
            yield _ended(uri, error.reason, None)
        except BaseException:
            self.token = run.token
            raise


class _Bucket:
    """One bucket of a scan: the listing of the bucket, and the reads of its objects."""

    def __init__(
        self,
        uri: ObjectUri,
        store: Store,
        judge: Judge,
        request: Request,
        tools: Tools,
        make_members: Callable[[], Members | None],
        *,
        keep_clean: bool,
    ) -> None:
        self._uri = uri
        self._store = store
        self._judge = judge
        self._request = request
        self._tools = tools
        self._keep_clean = keep_clean
        self._after = request.after
        first = make_members()
        processors = usable_processors(len(os.sched_getaffinity(0)))
        # The number of processes that open containers is the number of processors, however many
        # objects are read at the same time.
        more = [] if first is None else [make_members() for _ in range(1, processors)]
        members = [one for one in (first, *more) if one is not None]
        self._opener = Opener(members, tools.spool) if members else None
        chance = Random(tools.chance())  # noqa: S311 - the seed is from a secure generator
        are_clean = None if first is None else first.are_clean
        self._sorter = Sorter(
            *(judge, store, tools.memory, chance, are_clean),
            reads=request.reads,
            trusts=store.scheme in EVIDENCE and tools.trusts(store.text),
            looks=self._opener is not None,
            keep_clean=keep_clean,
        )
        self._pending = Pending(tools.spool)
        #: Whether objects wait for outcomes that were not yielded yet.
        self._has_waiting = False
        self._is_contradicted = False
        self._open: deque[_OpenPage] = deque()
        self._numbers = 0

    @property
    def token(self) -> str | None:
        """The token to continue; None if no page is finished, or objects wait for outcomes."""
        if self._after is None or self._has_waiting:
            return None
        return make_token(self._uri, self._after)

    def check(self) -> Iterator[Result | Outcome | Advance]:
        """List the bucket, read objects, and yield results and outcomes."""
        ended = None
        try:
            with self._work() as threads:
                while not threads.is_over:
                    try:
                        event = threads.next(TICK_S)
                    except ListingEndedError as error:
                        ended = str(error)
                        threads.end_listing()
                        continue
                    if event is None:
                        yield Advance()
                    elif isinstance(event, Page):
                        if event.batch is not None:
                            yield from self._sort(event, threads)
                    else:
                        yield from self._take(event)
            yield from self._settle()
            self._has_waiting = False
            if ended is not None:
                yield _ended(self._uri, ended, self._after)
        finally:
            self._pending.close()

    def _work(self) -> Work:
        request, elsewhere = self._request, self._tools.elsewhere
        every = request.all_versions
        is_plain = request.report is None and not every and self._uri.version is None
        if elsewhere is not None and self._store.scheme == "s3" and is_plain:
            # this process lists the bucket then, and reports the same error
            with contextlib.suppress(StoreError):
                return elsewhere.bucket(self._uri, self._after, self._store.namespace)
        if request.report is None:
            pages = list_pages(
                *(self._store, self._uri),
                after=self._after,
                all_versions=every,
                alone=request.alone,
            )
        else:
            pages = request.report.pages(all_versions=every)
        return Threads(pages, self._reader, self._tools.readers)

    def _reader(self, is_stopped: Callable[[], bool]) -> ObjectReader:
        return ObjectReader(
            self._store,
            self._judge,
            opener=self._opener,
            learns=self._tools.learns,
            keep_clean=self._keep_clean,
            is_stopped=is_stopped,
        )

    def _sort(self, page: Page, threads: Work) -> Iterator[Result | Outcome]:
        done = self._sorter.sort(page.batch)
        yield done.result
        if done.by_store is not None:
            if self._request.reads:
                self._has_waiting = True
                self._pending.add_page(done.by_store)
            else:  # no content can contradict the store, because nothing is read
                yield self._clean_by_store(done.by_store)
        self._numbers += 1
        self._open.append(_OpenPage(self._numbers, len(done.wanted), self._last_key(page)))
        for wanted in done.wanted:
            wanted.page = self._numbers
            threads.read(wanted)
        self._move_on()

    def _last_key(self, page: Page) -> str | None:
        """Return the last key of a page whose versions are all on the page; None if unknown."""
        assert page.batch is not None
        keys = page.batch.column("key")
        last = keys[-1].as_py()
        if self._request.all_versions:  # the other versions of the last key may be on the next page
            last = next((key for key in reversed(keys.to_pylist()) if key != last), None)
        return None if last is None else os.fsdecode(last)

    def _take(self, checked: Checked) -> Iterator[Result | Outcome]:
        wanted = checked.wanted
        yield checked.result
        if checked.by_store:
            self._has_waiting = True
            self._pending.add(wanted)
        if checked.contradicted:
            self._sorter.trusts, self._is_contradicted = False, True
        next(part for part in self._open if part.number == wanted.page).left -= 1
        self._move_on()

    def _move_on(self) -> None:
        """Note the last key up to which all objects have outcomes.

        No key is noted for a report, or if the store does not sort keys by their bytes: keys that
        were not listed yet may sort before the last key, so a listing that continues after this key
        would omit them.
        """
        has_order = self._request.report is None and self._store.sorts_by_bytes
        while self._open and not self._open[0].left:
            key = self._open.popleft().last_key
            if has_order and key is not None:
                self._after = key

    def _clean_by_store(self, page: Any) -> Result:
        """Return the result that all objects of a page are clean by the digests of their store."""
        result = Result(clean=page.num_rows, by_store_digest=page.num_rows)
        if self._keep_clean:
            every = objects_of(page, np.arange(page.num_rows))
            result.outcomes = [self._outcome(wanted) for wanted in every]
        return result

    def _outcome(self, wanted: Wanted) -> Outcome:
        """Return the outcome of an object that is, or seemed, clean by the digest of its store.

        The object is unread if the content of another object has contradicted the digest of the
        store.
        """
        bucket, evidence = self._store.text, EVIDENCE[self._store.scheme]
        if self._is_contradicted:
            reason = CONTRADICTED.format(evidence)
            return wanted.outcome(Kind.UNREAD, bucket, reason=reason)
        return wanted.outcome(Kind.CLEAN, bucket, evidence=evidence)

    def _settle(self) -> Iterator[Result]:
        """Yield the outcomes of the objects that wait for the end of the run."""
        if not self._is_contradicted and not self._keep_clean:
            count = self._pending.count
            self._pending.close()
            yield Result(clean=count, by_store_digest=count)
            return
        waiting = self._pending.take()
        while outcomes := [self._outcome(wanted) for wanted in islice(waiting, _TOGETHER)]:
            clean = 0 if self._is_contradicted else len(outcomes)
            yield Result(clean=clean, by_store_digest=clean, outcomes=outcomes)


class _OpenPage(msgspec.Struct):
    """A page with unfinished objects: how many objects are being read, and the page's last key."""

    number: int
    left: int
    last_key: str | None


def _ended(uri: ObjectUri, why: str, after: str | None) -> Outcome:
    """Return the outcome of a listing that ended early; the reason contains the token."""
    reason = ENDED.format(why)
    if after is not None and uri.version is None:
        reason += f"; --resume {make_token(uri, after)} goes on"
    return Outcome(Kind.UNREAD, uri.text, reason=reason, is_object=True)


def make_token(uri: ObjectUri, after: str) -> str:
    """Return the token of a listing of `uri` that continues after the key `after`."""
    document = msgspec.json.encode((_VERSION, uri.text, os.fsencode(after)))
    return base64.urlsafe_b64encode(document).decode().rstrip("=")


def read_token(token: str, uri: ObjectUri) -> str:
    """Return the key in the token of an earlier listing of `uri`.

    Raises:
        UsageError: the text is no token, or the token is of a listing of another URI.
    """
    try:
        padded = token[:_MAX_CHARS] + "=" * (-len(token) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        version, text, key = msgspec.json.decode(raw, type=tuple[int, str, bytes])
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "the value of --resume is no token", hint="give it exactly as the scan has shown it"
        ) from error
    if version != _VERSION:
        raise UsageError(
            "the token of --resume is of another version", hint="scan from the beginning"
        )
    if text != uri.text:
        raise UsageError(
            f"the token of --resume is not of {uri.text}",
            hint="give the URI of the scan that has shown it",
        )
    return os.fsdecode(key)
