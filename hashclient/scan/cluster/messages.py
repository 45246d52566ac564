"""Messages of a cluster: msgpack in bytes, inside of the messages of Dask.

Groups, outcomes and results have the form of `executors.wire`. Tags are sent and digests never are:
an outcome from a worker has no digests. Our own data is never pickled; Dask itself pickles only the
names of our functions.

`Wanted`, an object in a bucket, is sent as it is. An ETag is sent only if a read needs it: each
read requires that the ETag is still the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from hashclient.containers.limits import Options
from hashclient.index.open_lists import OpenLists
from hashclient.scan.executors.wire import (
    Checked,
    Failed,
    Names,
    WireOutcome,
    group_of,
    names_of,
    pack_result,
    unpack_result,
)
from hashclient.scan.objects.wanted import Checked as CheckedObject
from hashclient.scan.objects.wanted import Wanted
from hashclient.scan.values.work import WORKER_DIED, WORKER_FAILED, Group, Start, join

T = TypeVar("T")

#: Both sides must use the same protocol, in the same byte order.
PROTOCOL = 7 if sys.byteorder == "little" else -7
#: The number of an inode in a message.
INODE = np.dtype(np.uint64)
#: The identity of a named file: its inode, its size, its time of modification in nanoseconds.
SIGN = np.dtype([("inode", "<u8"), ("size", "<i8"), ("mtime_ns", "<i8")])
#: The columns of a page of a bucket in a message.
PAGE_COLUMNS = ("key", "size", "etag", "note")


class Pin(msgspec.Struct, frozen=True, array_like=True):
    """A list that the client has; its provider has signed `index_hash`."""

    name: str
    provider: str
    generation: int
    index_hash: str


class Spec(msgspec.Struct, frozen=True, array_like=True):
    """The specification of a scan, which a worker gets once before the first batch.

    `run` names the scan. Relative paths are relative to `base`. `points` are directories where a
    file system is mounted, or was: a worker enters them only if the client names them. A worker
    `asks_inventory` if it has the state directory of the client; otherwise it `gets_known` files
    with each batch, if the client has an inventory. `boot` identifies the client's machine. With
    `objects`, buckets are read, too. `also` has the meaning that it has in `Judge`. `reads` stands
    for the kinds of containers that the client opens, and how it reads them (`containers.meaning`).
    """

    protocol: int
    version: str
    run: str
    key_id: str
    lists: tuple[Pin, ...]
    base: bytes
    points: tuple[bytes, ...] = ()
    exclude: tuple[bytes, ...] = ()
    keep_clean: bool = False
    sparse: bool = False
    all_digests: bool = False
    learn: bool = False
    asks_inventory: bool = False
    reread_days: int = 0
    containers: Options | None = None
    gets_known: bool = False
    boot: bytes = b""
    objects: bool = False
    also: int = 0
    reads: int = 0


def pins_of(lists: OpenLists) -> tuple[Pin, ...]:
    """Return the names and generations of lists."""
    manifests = [index.manifest for index in lists.indexes]
    return tuple(
        sorted(
            (Pin(m.list, m.provider, m.generation, m.index_hash) for m in manifests),
            key=lambda pin: pin.name,
        )
    )


def problem_with_lists(spec: Spec, lists: OpenLists) -> tuple[str, str | None] | None:
    """Return why these lists differ from the client's lists; None if they are the same."""
    if lists.sealer.key_id != spec.key_id:
        return (
            f"it has another seal key: key id {lists.sealer.key_id}, not {spec.key_id}",
            "give every worker the seal key of the client, as a credential or a file",
        )
    here, there = {pin.name: pin for pin in pins_of(lists)}, {pin.name: pin for pin in spec.lists}
    for name in sorted(here.keys() | there.keys()):
        mine, wanted = here.get(name), there.get(name)
        hint = "run `hashclient fetch` on every worker and on the client"
        if mine is None:
            return f"list {name}: it is not there, or cannot be used", hint
        if wanted is None:
            return f"list {name}: the client does not use it", hint
        if mine.generation != wanted.generation:
            return f"list {name}: generation {mine.generation}, not {wanted.generation}", hint
        if mine != wanted:
            return f"list {name}: it is another list of the same name and generation", hint
    return None


class Sign(msgspec.Struct, frozen=True, array_like=True):
    """Signs that identify a file or a directory, if no probe can be written."""

    name: bytes
    inode: int
    mode: int
    size: int
    mtime_ns: int


class Probe(msgspec.Struct, frozen=True, array_like=True):
    """Marks that every worker has to find in a directory: a file with a token, or else signs."""

    directory: bytes
    name: bytes = b""
    token: bytes = b""
    signs: tuple[Sign, ...] = ()


class Setup(msgspec.Struct, frozen=True, array_like=True):
    """The first message to a worker: the specification of the scan, and the probes to find."""

    spec: Spec
    probes: tuple[Probe, ...] = ()


class Known(msgspec.Struct, frozen=True, array_like=True):
    """The client's records of files of one file system.

    `records` are the records in the client's inventory, by inode; `containers` are records of
    containers, each with the tags of its members.
    """

    file_system: int
    records: bytes
    containers: list[tuple[bytes, bytes]]


class ToCheck(msgspec.Struct, frozen=True, array_like=True):
    """A batch of files, and the records of them."""

    groups: tuple[Names, ...]
    known: tuple[Known, ...] = ()


class ToList(msgspec.Struct, frozen=True, array_like=True):
    """A batch of directories."""

    starts: tuple[Start, ...]


class Listed(msgspec.Struct, array_like=True, tag="listed"):
    """The result of a batch of directories; the directories in `rest` were not listed."""

    groups: list[Names]
    outcomes: list[WireOutcome]
    rest: list[Start]


class Lost(msgspec.Struct, array_like=True, tag="lost"):
    """A worker could not check a batch at all."""

    reason: str


Answer = Checked | Listed | Failed | Lost

decode_answer = msgspec.msgpack.Decoder(Answer).decode


def answer_of(decode: Callable[[bytes], T], raw: bytes | None) -> T | Lost:
    """Return the answer of a worker; if the answer cannot be decoded, the batch is lost."""
    if raw is None:
        return Lost(WORKER_DIED)
    try:
        return decode(raw)
    except (msgspec.MsgspecError, TypeError):
        return Lost(WORKER_FAILED)


def names_elsewhere(group: Group, file_system: int = 0) -> Names:
    """Return a listed group as another machine may have it.

    Without a `file_system` that is the same there, inodes are left out. The device has another
    number.
    """
    names = names_of(group)
    if not file_system:
        return msgspec.structs.replace(names, identity=None, inodes=b"")
    identity = group.identity and (None, group.identity[1])
    return msgspec.structs.replace(names, identity=identity, file_system=file_system)


def some_of(names: Names, rows: Sequence[int]) -> Names:
    """Return some names of a group, by their places."""
    found = names.names.split(b"\0")
    inodes, signs = names.inodes, names.signs
    return msgspec.structs.replace(
        names,
        names=b"\0".join([found[row] for row in rows]),
        count=len(rows),
        inodes=inodes and np.frombuffer(inodes, INODE).take(rows).tobytes(),
        signs=signs and np.frombuffer(signs, SIGN).take(rows).tobytes(),
    )


def paths_of(groups: Sequence[Names]) -> Iterator[str]:
    """Yield the path of each file."""
    for group in map(group_of, groups):
        for name in group.names:
            yield join(group.directory, name)


class ToListRange(msgspec.Struct, frozen=True, array_like=True):
    """The keys of one URI that come after `after`, up to and with `until`; None means no bound.

    About `most` keys are listed at a time. `namespace` names the bucket as the client sees it.
    """

    namespace: str
    bucket: str
    key: bytes
    after: bytes | None
    until: bytes | None
    most: int


class ListedRange(msgspec.Struct, array_like=True, tag="listed"):
    """Pages of a range, as an Arrow stream of `key`, `size`, `etag` and `note`.

    The range goes on after `rest`, if that is not None. The rest may be divided at `points`, which
    are in the order of keys, between prefixes. A listing that `ended` early says why.
    """

    pages: bytes
    rest: bytes | None
    points: list[bytes]
    ended: str | None


class ToRead(msgspec.Struct, frozen=True, array_like=True):
    """A batch of objects of one bucket; `namespace` names the bucket as the client sees it."""

    namespace: str
    bucket: str
    wanted: list[Wanted]


class ReadObjects(msgspec.Struct, array_like=True, tag="read"):
    """The results of a batch, in its order.

    Each result has two flags: whether its store is contradicted, and whether its store has decided.
    """

    results: list[tuple[Checked, bool, bool]]


ObjectAnswer = ListedRange | ReadObjects | Failed | Lost

decode_object_answer = msgspec.msgpack.Decoder(ObjectAnswer).decode


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
