"""The work of a cluster's worker on buckets: Dask calls these functions by name.

A worker uses its own credentials, which the library of the store finds; the client sends no
credentials. The worker lists ranges of keys, and reads several objects at the same time, because
each request takes long.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.msgpack import decode

from hashclient.core.errors import StateError
from hashclient.core.objecturi import ObjectUri
from hashclient.objects.failures import StoreError
from hashclient.objects.listing import ListingEndedError, list_pages
from hashclient.objects.s3 import S3
from hashclient.scan.check.kept import Spool
from hashclient.scan.cluster.messages import (
    PAGE_COLUMNS,
    ListedRange,
    ReadObjects,
    ToListRange,
    ToRead,
    pack_read,
)
from hashclient.scan.cluster.worker import Work, with_work
from hashclient.scan.objects.reader import ObjectReader, Opener, StoppedError
from hashclient.scan.objects.threads import Threads
from hashclient.scan.objects.wanted import Checked
from hashclient.system.layout import Layout
from hashclient.system.processors import Allowance

#: The seconds after which a task of listing ends.
LIST_S = 2.0
#: The seconds between two checks whether the scan has ended.
TICK_S = 0.2
#: `READERS`: the number of objects that a worker reads at the same time. `SPOOL_BYTES`: the bytes
#: of disk space for objects that may be containers.
READERS, SPOOL_BYTES = 16, 4 << 30
#: Keys at the bounds of ranges would be in no range if a store sorted its keys in another way.
UNSORTED = "the store does not sort its keys by their bytes: scan it without a cluster"


class Bucket:
    """A bucket that one process has open for one scan."""

    def __init__(self, work: Work, name: str) -> None:
        """Open the bucket without a request to its store."""
        self._work = work
        self.store = S3(name)
        members = work.members()
        spool = Spool(Layout(work.state_dir).spool, SPOOL_BYTES)
        self._opener = None if members is None else Opener([members], spool)

    def reader(self) -> ObjectReader:
        """Return a reader for one thread."""
        work = self._work
        return ObjectReader(
            self.store,
            work.judge(),
            opener=self._opener,
            learns=work.spec.learn,
            keep_clean=work.spec.keep_clean,
            is_stopped=lambda: work.is_over,
        )


def list_range(run: str, payload: bytes) -> bytes:
    """List a range of keys, until enough keys are listed or the time is over."""
    return with_work(run, lambda work: _list(work, decode(payload, type=ToListRange)))


def read_objects(run: str, payload: bytes) -> bytes:
    """Read and judge a batch of objects."""
    return with_work(run, lambda work: _read(work, decode(payload, type=ToRead)))


def _bucket(work: Work, asked: ToListRange | ToRead) -> Bucket:
    """Return the bucket of a request, if the client has the same bucket.

    Raises:
        StateError: on this worker, a bucket of another store has this name.
    """
    found: Bucket = work.opened(("bucket", asked.bucket), lambda: Bucket(work, asked.bucket))
    # if this call fails, the listing or the read of the bucket reports the error
    with contextlib.suppress(StoreError):
        if found.store.namespace != asked.namespace:
            raise StateError(
                f"a worker of the cluster reaches s3://{asked.bucket} in another store",
                hint="give all workers the endpoint that the client has (AWS_ENDPOINT_URL)",
            )
    return found


def _list(work: Work, asked: ToListRange) -> ListedRange:
    store = _bucket(work, asked).store
    uri = ObjectUri("s3", asked.bucket, os.fsdecode(asked.key))
    after = None if asked.after is None else os.fsdecode(asked.after)
    pages: list[Any] = []
    left, rest, ended = asked.most, None, None
    allowance = Allowance(LIST_S)
    try:
        for page in list_pages(store, uri, after=after):
            keys = page.column("key")
            if pc.any(pc.less(keys[1:], keys[:-1])).as_py():
                raise ListingEndedError(UNSORTED)
            if asked.until is not None:
                beyond = pc.greater(keys, pa.scalar(asked.until, pa.binary()))
                first = pc.index(beyond, value=True).as_py()
                if first >= 0:
                    pages.append(page.slice(0, first))
                    break
            pages.append(page.slice(0, left))
            left -= page.num_rows
            if left <= 0 or allowance.is_spent:
                rest = pages[-1].column("key")[-1].as_py()
                break
    except ListingEndedError as error:
        ended = str(error)
    points = [] if rest is None else _points(store, asked.key, rest, asked.until)
    return ListedRange(_stream(work, pages), rest, points, ended)


def _stream(work: Work, pages: list[Any]) -> bytes:
    """Return the pages with rows as one Arrow stream; empty bytes if all pages are empty.

    If no container is opened, an object is clean if no entry has its size. The ETags of such
    objects are omitted.
    """
    pages = [page.select(PAGE_COLUMNS) for page in pages if page.num_rows]
    if not pages:
        return b""
    if work.spec.containers is None:
        judge = work.judge()
        for number, page in enumerate(pages):
            possible, _ = judge.of_sizes(page.column("size").to_numpy())
            etags = pc.if_else(
                pa.array(possible), page.column("etag"), pa.scalar(None, pa.string())
            )
            pages[number] = page.set_column(2, page.schema[2], etags)
    out = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(out, pages[0].schema, options=options) as writer:
        for page in pages:
            writer.write_batch(page)
    raw: bytes = out.getvalue().to_pybytes()
    return raw


def _points(store: S3, key: bytes, after: bytes, until: bytes | None) -> list[bytes]:
    """Return bounds between the prefixes of a range."""
    for level in levels_of(key, after, until):
        try:
            got = store.call(
                "list_objects_v2",
                Prefix=level.decode(),
                Delimiter="/",
                StartAfter=after.decode(),
            )
        except StoreError:
            break  # the error is reported when the range is listed
        found = sorted(prefix["Prefix"].encode() for prefix in got.get("CommonPrefixes", ()))
        # `.` is the character before `/`, so all keys with the prefix come after this bound.
        points = [prefix[:-1] + b"." for prefix in found]
        points = [p for p in points if p > after and (until is None or p < until)]
        if points:
            return points
    return []


def levels_of(key: bytes, after: bytes, until: bytes | None) -> Iterator[bytes]:
    """Yield the prefixes that may contain the keys of a range, the shortest prefix first.

    All keys between two keys with the same beginning have this beginning, so shorter prefixes do
    not divide the range.
    """
    base = key if not key or key.endswith(b"/") else key + b"/"
    if not after.startswith(base):
        yield base
        return
    ends = [len(base), *(n + 1 for n, c in enumerate(after) if c == 0x2F and n >= len(base))]
    levels = [after[:end] for end in dict.fromkeys(ends)]
    common = [level for level in levels if until is not None and until.startswith(level)]
    yield from levels[max(0, len(common) - 1) :]


def _read(work: Work, batch: ToRead) -> ReadObjects:
    bucket = _bucket(work, batch)
    done: dict[int, Checked] = {}
    with Threads(iter(()), lambda _: bucket.reader(), READERS) as threads:
        for number, wanted in enumerate(batch.wanted):
            wanted.page = number
            threads.read(wanted)
        while not threads.is_over:
            event = threads.next(TICK_S)
            if isinstance(event, Checked):
                done[event.wanted.page] = event
            elif work.is_over:
                raise StoppedError
    return pack_read([done[number] for number in range(len(batch.wanted))])
