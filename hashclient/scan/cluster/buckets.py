"""A bucket on a cluster: workers list ranges of the bucket's keys, and read its objects.

1. A worker lists a range until it has listed `LIST_OBJECTS` objects, or until the time of a task is
   over. The worker divides the rest of the range between prefixes that end in `/`, and each part
   becomes a range.
2. Pages are yielded in the order of keys, as if one machine had listed them. So there is always a
   key after which an interrupted scan can continue. The number of ranges that are listed ahead is
   limited, so that little memory is used.
3. Objects that must be read are sent to workers in batches.

On a cluster, `ClusterBucket` replaces `objects.threads.Threads`; only one thread may use it.
Limits: the client itself lists and reads stores other than S3, versions, and inventory reports.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pyarrow as pa

from hashclient.core.errors import StateError
from hashclient.core.kinds import Kind
from hashclient.core.objecturi import ObjectUri
from hashclient.objects.listing import REPEATED, ListingEndedError
from hashclient.objects.pages import page_of_columns
from hashclient.scan.cluster import objectwork
from hashclient.scan.cluster.answers import is_about
from hashclient.scan.cluster.connection import GoneError
from hashclient.scan.cluster.jobs import Jobs
from hashclient.scan.cluster.messages import (
    PAGE_COLUMNS,
    ListedRange,
    Lost,
    ReadObjects,
    ToListRange,
    ToRead,
    answer_of,
    decode_object_answer,
    unpack_read,
)
from hashclient.scan.executors.wire import Failed, encode
from hashclient.scan.objects.threads import BACKLOG, Page, Work
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.values.work import CLUSTER_GONE, WORKER_DIED, WORKER_FAILED, Result

#: A task of listing ends after this many objects, and the rest of the range is divided.
LIST_OBJECTS = 20_000
#: A batch of objects to read has at most `READ_OBJECTS` objects, and ends after `READ_BYTES` bytes.
READ_OBJECTS, READ_BYTES = 200, 64 << 20
#: A range is divided into this many parts for each batch that the workers can do at the same time.
PARTS = 4


class _Range(msgspec.Struct):
    """The keys after `after`, up to and including `until`, which one task lists.

    `after` or `until` is None if there is no such bound.
    """

    after: bytes | None
    until: bytes | None
    pages: deque[Any] = msgspec.field(default_factory=deque)
    #: Whether a worker is listing, or has listed, the range.
    is_out: bool = False
    is_listed: bool = False
    ended: str | None = None


class ClusterBucket(Work):
    """The listing of one URI, and the reads of its objects."""

    def __init__(self, jobs: Jobs, uri: ObjectUri, after: str | None, namespace: str) -> None:
        """Keep the arguments; the listing will begin after the key `after`.

        `namespace` identifies the bucket as the client sees it. A worker that finds a bucket of
        this name in another store is not used.
        """
        super().__init__()
        self._jobs = jobs
        self._namespace = namespace
        self._uri = uri
        self._bucket = uri.bucket_text
        first = None if after is None else os.fsencode(after)
        self._ranges: deque[_Range] = deque([_Range(first, None)])
        #: The first key of the page that was returned last.
        self._begin: bytes | None = None
        #: Why the listing ended early, or None.
        self._ended: str | None = None
        self._is_gone = False
        self._waiting: deque[Wanted] = deque()
        self._checked: deque[Checked] = deque()

    def __exit__(self, *_ended: object) -> None:
        # Answers that arrive later must not be taken for answers about the next bucket.
        self._jobs.abandon()

    def end_listing(self) -> None:
        """Expect no more pages, and forget all ranges."""
        super().end_listing()
        self._ranges.clear()

    def read(self, wanted: Wanted) -> None:
        """Queue an object to be read; `next` returns its result later."""
        self.backlog += 1
        if self._is_gone:
            self._lose([wanted], CLUSTER_GONE)
        else:
            self._waiting.append(wanted)

    def next(self, seconds: float) -> Page | Checked | None:
        """Return the next result, or None if no result comes within this many seconds.

        Raises:
            ListingEndedError: the listing ended early.
            StateError: an index cannot be read.
        """
        found = self._at_hand()
        if found is None and not self.is_over:
            try:
                self._hand_out()
                self._take(self._jobs.ended(seconds))
                self._jobs.look()
                self._lose_batches(self._jobs.take_lost(), WORKER_DIED)
            except GoneError:
                self._give_up()
            found = self._at_hand()
        if isinstance(found, Checked):
            self.backlog -= 1
        return found

    def _at_hand(self) -> Page | Checked | None:
        if self._checked:
            return self._checked.popleft()
        if self._is_listed or self.backlog > BACKLOG:
            return None
        while self._ranges and not self._ended:
            first = self._ranges[0]
            if first.pages:
                return self._page(first.pages.popleft())
            if not first.is_listed:
                return None
            self._ended = first.ended
            self._ranges.popleft()
        if self._ended is not None:
            raise ListingEndedError(self._ended)
        self._is_listed = True
        return Page(None)

    def _page(self, batch: Any) -> Page:
        begin = batch.column("key")[0].as_py()
        if self._begin is not None and begin <= self._begin:
            raise ListingEndedError(REPEATED)
        self._begin = begin
        return Page(batch)

    def _hand_out(self) -> None:
        """Send objects to read and ranges to list to the workers.

        Raises:
            GoneError: the scheduler does not answer.
        """
        while self._jobs.has_room and (reads := self._next_reads()) is not None:
            self._jobs.submit(reads, objectwork.read_objects, encode(reads))
        if self.backlog > BACKLOG:
            return
        ahead = 2 * self._jobs.slots + 2
        for one in list(self._ranges)[:ahead]:
            if not self._jobs.has_room:
                return
            if one.is_out or one.is_listed:
                continue
            one.is_out = True
            key = os.fsencode(self._uri.key)
            where = (self._namespace, self._uri.bucket, key)
            payload = encode(ToListRange(*where, one.after, one.until, LIST_OBJECTS))
            self._jobs.submit(one, objectwork.list_range, payload)

    def _next_reads(self) -> ToRead | None:
        """Return the next batch of objects; a small batch only if a worker has no other work."""
        count = size = 0
        for wanted in self._waiting:
            if count >= READ_OBJECTS or size >= READ_BYTES:
                break
            count, size = count + 1, size + wanted.size
        is_full = count >= READ_OBJECTS or size >= READ_BYTES
        if not count or (not is_full and len(self._jobs) >= self._jobs.slots):
            return None
        batch = [self._waiting.popleft() for _ in range(count)]
        return ToRead(self._namespace, self._uri.bucket, batch)

    def _take(self, ended: Sequence[tuple[Any, bytes | None]]) -> None:
        """Take the answers of workers to batches that have ended."""
        failure: StateError | None = None
        for batch, answer in ended:
            message = answer_of(decode_object_answer, answer)
            if isinstance(message, Failed):
                failure = message.error
            elif isinstance(batch, ToRead):
                if isinstance(message, ReadObjects) and is_about(batch, message):
                    self._checked += unpack_read(message, batch.wanted)
                else:
                    reason = message.reason if isinstance(message, Lost) else WORKER_FAILED
                    self._lose(batch.wanted, reason)
            elif isinstance(message, ListedRange):
                self._take_listed(batch, message)
            else:
                batch.is_listed = True
                batch.ended = message.reason if isinstance(message, Lost) else WORKER_FAILED
        if failure is not None:
            raise failure

    def _take_listed(self, one: _Range, listed: ListedRange) -> None:
        if self._is_listed:
            return  # the listing has ended early, before this range
        try:
            one.pages += _pages_of(listed.pages)
        except (pa.ArrowException, OSError):
            one.ended = WORKER_FAILED
        one.is_listed = True
        one.ended = one.ended or listed.ended
        if listed.rest is not None and listed.rest <= (one.after or b""):
            one.ended = one.ended or WORKER_FAILED  # the worker would hand the range back for ever
        if listed.rest is not None and one.ended is None:
            # If a key is equal to a bound, the key belongs to the part before the bound.
            step = -(-len(listed.points) // (PARTS * max(1, self._jobs.slots))) or 1
            bounds = [listed.rest, *listed.points[::step], one.until]
            place = next(n for n, found in enumerate(self._ranges) if found is one) + 1
            for after, until in reversed(list(pairwise(bounds))):
                self._ranges.insert(place, _Range(after, until))

    def _lose_batches(self, batches: Sequence[Any], reason: str) -> None:
        for batch in batches:
            if isinstance(batch, ToRead):
                self._lose(batch.wanted, reason)
            else:
                batch.is_listed, batch.ended = True, reason

    def _lose(self, wanted: Sequence[Wanted], reason: str) -> None:
        for one in wanted:
            outcome = one.outcome(Kind.UNREAD, self._bucket, reason=reason)
            self._checked.append(Checked(Result(outcomes=[outcome]), one))

    def _give_up(self) -> None:
        """End the listing, and report all remaining objects as unread; the cluster is gone."""
        self._is_gone = True
        self._lose_batches([*self._jobs.take_lost(), *self._jobs.take_all()], CLUSTER_GONE)
        self._lose(list(self._waiting), CLUSTER_GONE)
        self._waiting.clear()
        if not self._is_listed:
            self._ended = self._ended or CLUSTER_GONE
            self._ranges.clear()


def _pages_of(raw: bytes) -> Iterator[Any]:
    """Yield the pages in the answer of a worker, without empty pages.

    Raises:
        ArrowException, OSError: the answer makes no sense.
    """
    if raw:
        with pa.ipc.open_stream(raw) as stream:
            if not set(PAGE_COLUMNS) <= set(stream.schema.names):
                raise pa.ArrowInvalid("a column is missing")
            for page in filter(len, stream):
                columns = {name: page.column(name) for name in PAGE_COLUMNS}
                if columns["key"].null_count or columns["size"].null_count:
                    raise pa.ArrowInvalid("a key or a size is missing")
                yield page_of_columns(page.num_rows, **columns)
