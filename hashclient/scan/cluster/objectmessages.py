"""Messages about objects in buckets, between a scan and the workers of its cluster.

ETags cross the wire, as between a store and its clients: each read rests on them. Digests that a
worker computes do not: as with files, outcomes have tags and no digests.
"""

from __future__ import annotations

import os

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.scan.cluster.messages import (
    Checked,
    Failed,
    Lost,
    pack_result,
    unpack_result,
)
from hashclient.scan.objects.wanted import Checked as CheckedObject
from hashclient.scan.objects.wanted import Record, Wanted


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
    """Pages of a range, as an Arrow stream.

    The range goes on after `rest`, if that is not None. A listing that `ended` early says why.
    """

    pages: bytes
    rest: bytes | None = None
    ended: str | None = None


class DividedRange(msgspec.Struct, array_like=True, tag="divided"):
    """Bounds between the prefixes of a range, in the order of keys; it may be divided there."""

    points: list[bytes]


class WireWanted(msgspec.Struct, frozen=True, array_like=True):
    """One object to be read; with `is_claimed`, its ETag is taken for its MD5, and checked."""

    key: bytes
    size: int
    etag: str | None
    version: str | None
    plan: tuple[Algorithm, ...]
    looks: bool
    is_claimed: bool
    settled: str


class ToRead(msgspec.Struct, frozen=True, array_like=True):
    """A batch of objects of one bucket; `namespace` is the bucket's at the client."""

    namespace: str
    bucket: str
    wanted: tuple[WireWanted, ...]


class WireRead(msgspec.Struct, array_like=True):
    """The result for one object; `key` is the one that was read in the end."""

    result: Checked
    key: bytes
    record: Record | None
    contradicted: bool
    by_store: bool


class ReadObjects(msgspec.Struct, array_like=True, tag="read"):
    """The results of a batch, in its order."""

    results: list[WireRead]


ObjectAnswer = ListedRange | DividedRange | ReadObjects | Failed | Lost

decode_object_answer = msgspec.msgpack.Decoder(ObjectAnswer).decode
decode_range = msgspec.msgpack.Decoder(ToListRange).decode
decode_wanted = msgspec.msgpack.Decoder(ToRead).decode


def pack_wanted(wanted: Wanted) -> WireWanted:
    """Return an object in the form that is sent."""
    return WireWanted(
        os.fsencode(wanted.key),
        wanted.size,
        wanted.etag,
        wanted.version,
        tuple(wanted.plan),
        wanted.looks,
        wanted.claimed is not None,
        wanted.settled,
    )


def unpack_wanted(wire: WireWanted) -> Wanted:
    """Return an object as it was before it was sent."""
    claimed = None
    if wire.is_claimed and wire.etag is not None:
        claimed = bytes.fromhex(wire.etag.strip('"'))
    return Wanted(
        os.fsdecode(wire.key),
        wire.size,
        wire.etag,
        wire.version,
        wire.plan,
        wire.looks,
        claimed,
        wire.settled,
    )


def pack_read(checked: CheckedObject) -> WireRead:
    """Return the result for an object in the form that is sent."""
    return WireRead(
        pack_result(checked.result, 0.0),
        os.fsencode(checked.wanted.key),
        checked.record,
        checked.contradicted,
        checked.by_store,
    )


def unpack_read(wire: WireRead, wanted: Wanted) -> CheckedObject:
    """Return the result for `wanted` as it was before it was sent, without digests."""
    key = os.fsdecode(wire.key)
    if key != wanted.key:
        wanted = msgspec.structs.replace(wanted, key=key)
    return CheckedObject(
        unpack_result(wire.result), wanted, wire.record, wire.contradicted, wire.by_store
    )
