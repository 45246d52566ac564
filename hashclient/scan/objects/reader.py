"""The check of one object: read the object in ranges, compute digests, and judge it.

1. Each request for a range has the condition that the object still has the listed ETag, and also
   the same version once a version is known.
2. If the length of the content differs from the listed length, the object is unread.
3. If a digest hits, the other digests of the entry are computed in a second read.
4. An object that may be a container is kept on the disk while it is read, as soon as space is free,
   and is opened after the read.
5. If no digest of an object is needed, only the beginning and the end of the object are read.

Only one thread may use a reader.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import msgspec
import numpy as np

from hashclient.containers.fronts import FRONT_BYTES
from hashclient.containers.interface import ISO_HEAD_BYTES
from hashclient.containers.sniffing import (
    ends_as_other,
    has_behind,
    has_end_of_zip,
    is_front,
    is_opened,
    kind_by_end,
    look,
    not_opened,
)
from hashclient.core.digests import Digester
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Outcome
from hashclient.index.matcher import Judge, Place, Plan, verdict
from hashclient.objects.failures import CHANGED, StoreError, Trouble
from hashclient.objects.interface import Sink, Store
from hashclient.scan.cache.records import PLAIN, SLOT
from hashclient.scan.check.kept import BEHIND, Kept, Spool, Spooled
from hashclient.scan.check.members import Members
from hashclient.scan.check.streaming import hits_of
from hashclient.scan.objects.cache import learn, number_of
from hashclient.scan.objects.wanted import BY_SIZE, READ, Checked, Wanted
from hashclient.scan.values.work import Result, reason_of

#: The number of bytes of one request; a broken connection loses at most this many bytes.
RANGE_BYTES = 16 << 20
#: The beginning and the end of an object of more than this many bytes are read before the whole
#: object, so that only possible containers take space on the disk.
LARGE_BYTES = 1 << 20


class StoppedError(Exception):
    """The scan has ended, so the result of the current read is not needed."""


class Opener:
    """Opens objects that may be containers, for several threads.

    A separate process opens each container, and may take much memory. So at most one container is
    open at a time for each value in `members`.
    """

    def __init__(self, members: Sequence[Members], spool: Spool) -> None:
        """Open containers with `members`, each by one thread at a time; keep them in `spool`."""
        self._spool = spool
        self._free: SimpleQueue[Members] = SimpleQueue()
        for one in members:
            self._free.put(one)

    def watch(self, stack: contextlib.ExitStack) -> Spooled:
        """Return a `Kept`, which keeps a possible container until `stack` is closed."""
        kept = self._spool.keep()
        stack.callback(kept.close)
        return kept

    def keep(self, stack: contextlib.ExitStack, size: int, is_stopped: Callable[[], bool]) -> Kept:
        """Wait until `size` bytes of space are free; return a `Kept` for an object of this size."""
        stack.enter_context(self._spool.reserved(size, is_stopped))
        kept = self.watch(stack)
        kept.keep_all()
        return kept

    def open(self, kept: Kept | str, path: str, result: Result) -> tuple[bool, bytes]:
        """Check the members of an object that was kept, or count an object that is not opened.

        `kept` is the copy of the object, or the kind of an object that is not opened. Return
        whether the object is no container, and the object's members for the cache.
        """
        members = self._free.get()
        try:
            if isinstance(kept, str):
                opened = members.left(kept, path)
            else:
                opened = members.open_kept(kept, path)
        finally:
            self._free.put(members)
        opened.outcomes = [
            msgspec.structs.replace(o, is_stream=False, is_object=True, evidence=READ)
            for o in opened.outcomes
        ]
        opened.add_to(result)
        return not opened.is_container, opened.known() or b""


class ObjectReader:
    """Checks objects of one store, one object after the other."""

    def __init__(
        self,
        store: Store,
        judge: Judge,
        *,
        opener: Opener | None = None,
        learns: bool = False,
        keep_clean: bool = False,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Judge with `judge`; open containers with `opener`.

        With `learns`, results contain records of the objects for the inventory. With `keep_clean`,
        clean objects have outcomes as well. A read is ended when `is_stopped` returns that the scan
        has ended.
        """
        self._store = store
        self._judge = judge
        self._opener = opener
        self._learns = learns
        self._keep_clean = keep_clean
        self._is_stopped = is_stopped

    def check(self, wanted: Wanted) -> Checked:
        """Read an object and judge it, or return the reason why the object is unread.

        Raises:
            StateError: an index cannot be read.
            StoppedError: the scan has ended.
        """
        try:
            return self._check(wanted)
        except StoreError as error:
            return self._unread(wanted, error.reason)
        except OSError as error:  # the local copy of the object cannot be written or read
            return self._unread(wanted, reason_of(error))

    def _check(self, wanted: Wanted) -> Checked:
        result = Result()
        read = _Read(self._store, wanted, self._is_stopped)
        opener = self._opener if wanted.looks else None
        with contextlib.ExitStack() as stack:
            kept: Kept | None = None
            kind = ""
            is_large = opener is not None and wanted.size > LARGE_BYTES
            digests: dict[Algorithm, bytes] = {}
            plan = wanted.plan
            if wanted.is_claimed and Algorithm.MD5 not in plan:
                plan = (*plan, Algorithm.MD5)
            is_one = False
            if opener is not None and (is_large or not plan):
                is_one, kind = self._look(read)
            if opener is not None and is_one:
                kept = opener.keep(stack, wanted.size, self._is_stopped)
            elif opener is not None and plan and not is_large:
                kept = opener.watch(stack)
            if plan or kept is not None:
                digests = read.whole(plan, kept)
            if (
                opener is not None
                and kept is not None
                and kept.finish() is None
                and kept.failure == BEHIND
            ):
                # Only the end of the object shows that the object is an archive. So the object is
                # read again, and kept completely.
                kept = opener.keep(stack, wanted.size, self._is_stopped)
                read.whole((), kept)
            outcome = self._judge_digests(wanted, read, digests)
            self._count(wanted, outcome, plan, result)
            is_plain, inside = opener is not None, b""
            if opener is not None and (kept is not None or kind):
                is_plain, inside = opener.open(kept or kind, outcome.path, result)
        result.bytes_read = read.bytes_read
        claim = (wanted.etag or "").strip('"').lower()
        contradicted = wanted.is_claimed and claim != digests[Algorithm.MD5].hex()
        if self._learns:
            mask = mask_of(digests) | (PLAIN if is_plain else 0)
            tags = np.zeros((len(SLOT), 2), np.uint64)
            for algorithm, words in self._judge.seal(digests).items():
                tags[SLOT[algorithm]] = words
            number = number_of(self._store.namespace)
            learn(result, number, wanted, (mask, tags.tobytes(), read.begin), inside)
        by_store = not plan and wanted.settled != BY_SIZE
        return Checked(result, wanted, contradicted, by_store)

    def _count(self, wanted: Wanted, outcome: Outcome, plan: Plan, result: Result) -> None:
        if plan:
            result.files_read = 1
        elif wanted.settled == BY_SIZE:
            result.ruled_out_by_size = 1
        else:
            return  # the run counts this object at its end, if no content contradicts the store
        if outcome.kind is Kind.CLEAN:
            result.clean = 1
        if outcome.kind is not Kind.CLEAN or self._keep_clean:
            result.outcomes.append(outcome)

    def _judge_digests(
        self, wanted: Wanted, read: _Read, digests: dict[Algorithm, bytes]
    ) -> Outcome:
        """Judge an object by its digests; if a digest hits, compute the entry's other digests."""
        places: list[Place] = []
        for algorithm, words in self._judge.seal(digests).items():
            found = self._judge.find(algorithm, words.reshape(1, 2))
            places += [place for of_query in found.values() for place in of_query]
        hits, tags = hits_of(
            *(self._judge, digests, places, wanted.size),
            lambda plan: read.whole(plan, None),
        )
        return Outcome(
            verdict(hits),
            wanted.uri(self._store.text, read.version),
            wanted.size,
            hits=hits,
            digests=digests,
            tags=tags,
            is_object=True,
            evidence=READ if digests else wanted.settled,
        )

    def _look(self, read: _Read) -> tuple[bool, str]:
        """Return whether an object may be a container, and else its kind if that is not opened.

        Only the beginning and the end of the object are read.
        """
        size = read.wanted.size
        head = read.part(0, min(size, ISO_HEAD_BYTES))
        found = look(head)
        if is_opened(found):
            return True, ""
        end = b""

        def read_at(offset: int, count: int) -> bytes:
            nonlocal end
            stop = min(offset + count, size)
            part = head[offset:stop] if stop <= len(head) else read.part(offset, stop)
            end = part if stop == size else end
            return part

        front = head[:FRONT_BYTES] if is_front(found) else b""
        may_be_one = has_behind(front, size, read_at)
        kind = not_opened(found) or kind_by_end(end)
        # A file of a kind that is not opened is only counted, unless an archive is at its end. A
        # front is a file, such as a program, that has the archive behind it or in it. The process
        # that opens the archive counts the front and the archive.
        if kind and not is_front(found):
            may_be_one = has_end_of_zip(end) or ends_as_other(end)
        return may_be_one, "" if may_be_one else kind

    def _unread(self, wanted: Wanted, reason: str) -> Checked:
        outcome = wanted.outcome(Kind.UNREAD, self._store.text, reason=reason)
        return Checked(Result(outcomes=[outcome]), wanted)


class _Read:
    """Reads of one object; `version` is the version that was read, or None if it is unknown."""

    def __init__(self, store: Store, wanted: Wanted, is_stopped: Callable[[], bool]) -> None:
        self._store = store
        self._is_stopped = is_stopped
        self._etag = wanted.etag
        self.wanted = wanted
        self.version = wanted.version
        self.bytes_read = 0
        #: The first byte of the object; 0 if it was not read yet.
        self.begin = 0

    def whole(self, plan: Plan, kept: Kept | None) -> dict[Algorithm, bytes]:
        """Read the whole object; return the digests of `plan`, and pass all bytes to `kept`."""
        digester = Digester(plan)

        def sink(chunk: memoryview) -> None:
            digester.update(chunk)
            if kept is not None:
                kept.update(chunk)

        for start in range(0, self.wanted.size, RANGE_BYTES):
            self._get(start, min(start + RANGE_BYTES, self.wanted.size), sink)
        return dict(zip(plan, digester.finish(), strict=True))

    def part(self, start: int, stop: int) -> bytes:
        """Return the bytes of the object from `start` to `stop`."""
        found = bytearray()
        self._get(start, stop, found.extend)
        return bytes(found)

    def _get(self, start: int, stop: int, sink: Sink) -> None:
        count = 0

        def counted(chunk: memoryview) -> None:
            nonlocal count
            if self._is_stopped():
                raise StoppedError
            count += len(chunk)
            if count > stop - start:
                raise StoreError(Trouble.CHANGED, CHANGED)
            if start == 0 and count == len(chunk):
                self.begin = chunk[0]
            sink(chunk)

        version = self.version
        seen = self._store.read(
            self.wanted.key,
            None if stop - start == self.wanted.size else (start, stop),
            counted,
            etag=self._etag,
            version=version,
        )
        self.bytes_read += count
        is_other = seen.size != self.wanted.size or count != stop - start
        if is_other or (version is not None and seen.version not in (None, version)):
            raise StoreError(Trouble.CHANGED, CHANGED)
        # If the listing has no ETag, the answer to the first request supplies the ETag, so that all
        # ranges are of the same content.
        self._etag = self._etag or seen.etag
        self.version = version or seen.version
