"""The messages of a cluster: msgpack in bytes, inside the messages of Dask.

Groups, outcomes and results are sent in the form of `executors.wire`. Tags are sent, but digests
never: an outcome from a worker has no digests. Data of hashclient is never pickled; Dask pickles
only the names of hashclient's functions.

`Wanted`, an object in a bucket, is sent unchanged. An ETag is sent only for an object that may be
read, because each read requires that the ETag is still the same.
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

#: The number of the protocol, negated for big-endian machines: client and workers must use the same
#: protocol and the same byte order.
PROTOCOL = 8 if sys.byteorder == "little" else -8
#: The type of an inode number in a message.
INODE = np.dtype(np.uint64)
#: The identity of a named file: its inode, its size, and its time of modification in nanoseconds.
SIGN = np.dtype([("inode", "<u8"), ("size", "<i8"), ("mtime_ns", "<i8")])
#: The columns of a page of a bucket in a message.
PAGE_COLUMNS = ("key", "size", "etag", "note")


class Pin(msgspec.Struct, frozen=True, array_like=True):
    """A list that the client uses; the signature of the list's provider covers `index_hash`."""

    name: str
    provider: str
    generation: int
    index_hash: str


class Spec(msgspec.Struct, frozen=True, array_like=True):
    """The specification of a scan, which a worker gets once, before the first batch.

    - `run`: the name of the scan.
    - `base`: the directory to which relative paths are relative.
    - `points`: the directories where a file system is mounted, or was mounted; a worker enters such
      a directory only if the client names it in a batch.
    - `asks_inventory`: whether the worker reads the inventory, because it uses the client's state
      directory.
    - `gets_known`: whether the worker gets the client's records with each batch.
    - `boot`: identifies the client's machine since its last start.
    - `namespace`: identifies the mounts that the client sees; a worker with another value may see
      other files at some paths.
    - `objects`: whether buckets are read, too.
    - `also`: has the same meaning as in `Judge`.
    - `reads`: a number for the kinds of containers that the client opens, and how it reads them
      (`containers.meaning`).
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
    namespace: bytes = b""
    objects: bool = False
    also: int = 0
    reads: int = 0


def pins_of(lists: OpenLists) -> tuple[Pin, ...]:
    """Return the names, providers, generations and index hashes of lists."""
    manifests = [index.manifest for index in lists.indexes]
    return tuple(
        sorted(
            (Pin(m.list, m.provider, m.generation, m.index_hash) for m in manifests),
            key=lambda pin: pin.name,
        )
    )


def problem_with_lists(spec: Spec, lists: OpenLists) -> tuple[str, str | None] | None:
    """Return why `lists` differ from the client's lists, with a hint; None if they are the same."""
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
    """The values that identify a file or a directory if no probe file can be written."""

    name: bytes
    inode: int
    mode: int
    size: int
    mtime_ns: int


class Probe(msgspec.Struct, frozen=True, array_like=True):
    """The file, or if there is no file the signs, that every worker must find in a directory."""

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

    - `records`: the records in the client's inventory, sorted by inode.
    - `containers`: the records of containers, each with the tags of its members.
    """

    file_system: int
    records: bytes
    containers: list[tuple[bytes, bytes]]


class ToCheck(msgspec.Struct, frozen=True, array_like=True):
    """A batch of files to check, and the client's records of these files."""

    groups: tuple[Names, ...]
    known: tuple[Known, ...] = ()


class ToList(msgspec.Struct, frozen=True, array_like=True):
    """A batch of directories to list."""

    starts: tuple[Start, ...]


class Listed(msgspec.Struct, array_like=True, tag="listed"):
    """The result of a batch of directories; the directories in `rest` were not listed."""

    groups: list[Names]
    outcomes: list[WireOutcome]
    rest: list[Start]


class Lost(msgspec.Struct, array_like=True, tag="lost"):
    """A worker could not check any file of a batch."""

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
    """Return a listed group in a form that is valid on another machine.

    Without the number of a `file_system` that both machines have, inodes are omitted. The device is
    omitted always, because another machine has another number for it.
    """
    names = names_of(group)
    if not file_system:
        return msgspec.structs.replace(names, identity=None, inodes=b"")
    identity = group.identity and (None, group.identity[1])
    return msgspec.structs.replace(names, identity=identity, file_system=file_system)


def some_of(names: Names, rows: Sequence[int]) -> Names:
    """Return some names of a group, by their indexes."""
    found = names.names.split(b"\0")
    inodes, signs = names.inodes, names.signs
    return msgspec.structs.replace(
        names,
        names=b"\0".join([found[row] for row in rows]),
        count=len(rows),
        inodes=inodes and np.frombuffer(inodes, INODE).take(rows).tobytes(),
        signs=signs and np.frombuffer(signs, SIGN).take(rows).tobytes(),
    )


def singly(names: Names) -> Iterator[Names]:
    """Yield each name of a group as a group of its own."""
    for row in range(names.count):
        yield some_of(names, [row])


def paths_of(groups: Sequence[Names]) -> Iterator[str]:
    """Yield the path of each file in groups."""
    for group in map(group_of, groups):
        for name in group.names:
            yield join(group.directory, name)


class ToListRange(msgspec.Struct, frozen=True, array_like=True):
    """A range of keys of one URI: after `after`, up to and including `until`; None means no bound.

    A worker lists about `most` keys. `namespace` identifies the bucket as the client sees it.
    """

    namespace: str
    bucket: str
    key: bytes
    after: bytes | None
    until: bytes | None
    most: int


class ListedRange(msgspec.Struct, array_like=True, tag="listed"):
    """The pages of a range, as an Arrow stream of `key`, `size`, `etag` and `note`.

    If `rest` is not None, the keys after `rest` were not listed. The remaining keys can be divided
    at `points`, which are between prefixes, in the order of keys. If the listing ended early,
    `ended` is the reason.
    """

    pages: bytes
    rest: bytes | None
    points: list[bytes]
    ended: str | None


class ToRead(msgspec.Struct, frozen=True, array_like=True):
    """A batch of objects to read; `namespace` identifies the bucket as the client sees it."""

    namespace: str
    bucket: str
    wanted: list[Wanted]


class ReadObjects(msgspec.Struct, array_like=True, tag="read"):
    """The results of a batch of objects, in the order of the batch.

    Each result has two flags, `contradicted` and `by_store`, as in `objects.wanted.Checked`.
    """

    results: list[tuple[Checked, bool, bool]]


ObjectAnswer = ListedRange | ReadObjects | Failed | Lost

decode_object_answer = msgspec.msgpack.Decoder(ObjectAnswer).decode


def pack_read(checked: list[CheckedObject]) -> ReadObjects:
    """Return the results of a batch of objects in the form in which they are sent."""
    return ReadObjects(
        [
            (pack_result(one.result, digests=False), one.contradicted, one.by_store)
            for one in checked
        ]
    )


def unpack_read(read: ReadObjects, wanted: list[Wanted]) -> list[CheckedObject]:
    """Return the results for `wanted` that a message contains, without digests."""
    return [
        CheckedObject(unpack_result(wire), one, *flags)
        for (wire, *flags), one in zip(read.results, wanted, strict=True)
    ]
