"""Messages about objects in buckets, between a scan and the workers of its cluster.

`Wanted` crosses the wire as it is. An ETag does so only where something rests on it: each read is
on the condition that it is still the same. Digests that a worker computes do not: as with files,
outcomes have tags and no digests.
"""

from __future__ import annotations

import msgspec

from hashclient.scan.cluster.messages import Failed, Lost
from hashclient.scan.executors.wire import Checked, pack_result, unpack_result
from hashclient.scan.objects.wanted import Checked as CheckedObject
from hashclient.scan.objects.wanted import Wanted


class ToListRange(msgspec.Struct, frozen=True, array_like=True):
    """The keys of one URI that come after `after`, up to and with `until`; None is no bound.

    About `most` of them are listed at a time. `namespace` is that of the bucket at the client.
    """

    namespace: str
    bucket: str
    key: bytes
    after: bytes | None
    until: bytes | None
    most: int


class ListedRange(msgspec.Struct, array_like=True, tag="listed"):
    """Pages of a range, as an Arrow stream of `key`, `size`, `etag` and `note`.

    The range goes on after `rest`, if that is not None. That rest may be divided at `points`, which
    are in the order of keys, between prefixes. A listing that `ended` early says why.
    """

    pages: bytes
    rest: bytes | None
    points: list[bytes]
    ended: str | None


class ToRead(msgspec.Struct, frozen=True, array_like=True):
    """A batch of objects of one bucket; `namespace` is the bucket's at the client."""

    namespace: str
    bucket: str
    wanted: list[Wanted]


class ReadObjects(msgspec.Struct, array_like=True, tag="read"):
    """The results of a batch, in its order.

    With each are two flags: whether its store is contradicted, and whether its store has decided.
    """

    results: list[tuple[Checked, bool, bool]]


ObjectAnswer = ListedRange | ReadObjects | Failed | Lost

decode_object_answer = msgspec.msgpack.Decoder(ObjectAnswer).decode
decode_range = msgspec.msgpack.Decoder(ToListRange).decode
decode_wanted = msgspec.msgpack.Decoder(ToRead).decode


def pack_read(checked: list[CheckedObject]) -> ReadObjects:
    """Return the results of a batch in the form that is sent."""
    return ReadObjects(
        [
            (pack_result(one.result, digests=False), one.contradicted, one.by_store)
            for one in checked
        ]
    )


def unpack_read(read: ReadObjects, wanted: list[Wanted]) -> list[CheckedObject]:
    """Return the results for `wanted` as they were before they were sent, without digests."""
    return [
        CheckedObject(unpack_result(wire), one, *flags)
        for (wire, *flags), one in zip(read.results, wanted, strict=True)
    ]
