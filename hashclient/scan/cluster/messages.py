"""Messages between a scan and its workers: msgpack in bytes, inside of the messages of Dask.

Paths are bytes. Tags cross the wire and digests never do: an outcome that comes from a worker has
none. Our own data is never pickled; Dask itself pickles only the names of our functions.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from hashclient.containers.limits import Options
from hashclient.core.algorithms import Algorithm
from hashclient.core.counts import Counts
from hashclient.core.kinds import Kind
from hashclient.core.model import Hit, Outcome, Outer, Seen
from hashclient.scan.executors.interface import Result
from hashclient.scan.sources.files import join
from hashclient.scan.sources.interface import Group, Task

#: Both sides have to speak the same.
PROTOCOL = 3
#: The number of an inode in a message.
INODE = np.dtype("<u8")
#: The identity of a named file: its inode, its size, its time of modification in nanoseconds.
SIGN = np.dtype([("inode", "<u8"), ("size", "<i8"), ("mtime_ns", "<i8")])


class Pin(msgspec.Struct, frozen=True, array_like=True):
    """One list as the client has it; `index_hash` is signed by its provider."""

    name: str
    provider: str
    generation: int
    index_hash: str


class Spec(msgspec.Struct, frozen=True, array_like=True):
    """The specification of a scan, which a worker gets once before the first batch.

    `run` names the scan. `base` is the directory that relative paths are relative to. `points` are
    directories where a file system is mounted, or was: these are not entered unasked. A worker
    `asks_inventory` where its state directory is that of the client; otherwise it `gets_known`
    files with each batch, if the client has an inventory. `boot` is the client's machine. With
    `objects`, buckets are read, too.
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


class Sign(msgspec.Struct, frozen=True, array_like=True):
    """Signs that identify a file or a directory, where no probe can be written."""

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


class Names(msgspec.Struct, frozen=True, array_like=True):
    """A group of names on its way: `names` are joined by NUL, which no name has.

    `inodes` has the inode of each file, and `listed` is that of the directory, if they were listed;
    all are on `file_system`, by the number that stands for it everywhere, 0 if there is none. Files
    that were named, and not listed, have `signs`: the inode, size and time that a worker has to
    find there.
    """

    directory: bytes
    names: bytes
    count: int
    follow: bool
    file_system: int = 0
    inodes: bytes = b""
    signs: bytes = b""
    listed: int = 0

    @property
    def is_relative(self) -> bool:
        """Whether the directory depends on where the client is."""
        return not self.directory.startswith(b"/")


class Start(msgspec.Struct, frozen=True, array_like=True):
    """A directory to be listed, with all directories below it.

    One that is `verified` was compared on all workers: it is a PATH, which may be a link, or the
    place where another file system begins. `inode` is what was listed for it, 0 if that is not
    known or not the same everywhere.
    """

    path: bytes
    verified: bool = False
    is_root: bool = False
    inode: int = 0

    @property
    def is_relative(self) -> bool:
        """Whether the path depends on where the client is."""
        return not self.path.startswith(b"/")


class Known(msgspec.Struct, frozen=True, array_like=True):
    """The client's records of files of one file system.

    `records` are those of its inventory, by inode; `containers` are records of containers, each
    with the tags of its members.
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


class _WireOutcome(msgspec.Struct, array_like=True):
    kind: Kind
    path: bytes
    size: int | None
    reason: str | None
    hits: tuple[Hit, ...]
    tags: Mapping[Algorithm, bytes]
    members: list[bytes]
    outer: Outer | None
    obstacle: str | None
    is_object: bool
    evidence: str | None
    seen: Seen | None


class Checked(msgspec.Struct, array_like=True, tag="checked"):
    """The result of a batch of files, and how long it took.

    `deferred` was not checked for lack of time; each of the `large` ones is to be a batch of its
    own.
    """

    elapsed_s: float
    clean: int
    counts: Counts
    outcomes: list[_WireOutcome]
    deferred: list[Names]
    learned: list[tuple[int, bytes]]
    seen: list[tuple[int, int]]
    containers: list[tuple[int, bytes, bytes]]
    large: list[Names] = []


class Listed(msgspec.Struct, array_like=True, tag="listed"):
    """The result of a batch of directories.

    `rest` was not listed for lack of time. At `borders` another file system begins. `wide`
    directories have too many names for one message, and none of them is in `groups`.
    """

    groups: list[Names] = []
    outcomes: list[_WireOutcome] = []
    rest: list[Start] = []
    borders: list[bytes] = []
    wide: list[Start] = []


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """A worker cannot read an index: the run ends."""

    message: str
    hint: str | None


class Lost(msgspec.Struct, array_like=True, tag="lost"):
    """A worker could not check a batch at all."""

    reason: str


Answer = Checked | Listed | Failed | Lost

encode = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_setup = msgspec.msgpack.Decoder(Setup).decode
decode_probes = msgspec.msgpack.Decoder(list[Probe]).decode
decode_problems = msgspec.msgpack.Decoder(list[str | None] | None).decode
decode_files = msgspec.msgpack.Decoder(ToCheck).decode
decode_directories = msgspec.msgpack.Decoder(ToList).decode


def names_of(group: Group, file_system: int = 0) -> Names:
    """Return a group in the form that is sent; its inodes only with the number of a file system.

    Otherwise they may be others on another machine.
    """
    directory, names = os.fsencode(group.directory), os.fsencode("\0".join(group.names))
    found = Names(directory, names, len(group.names), group.follow)
    if not file_system:
        return found
    inodes = np.array(group.inodes, INODE).tobytes()
    listed = 0 if group.identity is None else group.identity[1]
    return msgspec.structs.replace(found, file_system=file_system, inodes=inodes, listed=listed)


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


def group_of(names: Names) -> Group:
    """Return a group as it was before it was sent."""
    found = os.fsdecode(names.names).split("\0")
    inodes = array("Q", np.frombuffer(names.inodes, INODE).tolist())
    # On another machine the device has another number.
    identity = (None, names.listed) if names.listed else None
    return Group(os.fsdecode(names.directory), found, names.follow, identity, inodes)


def paths_of(groups: Sequence[Names]) -> Iterator[str]:
    """Yield the path of each file."""
    for group in map(group_of, groups):
        for name in group.names:
            yield join(group.directory, name)


def pack_outcome(outcome: Outcome) -> _WireOutcome:
    """Return an outcome in the form that is sent: without its digests."""
    return _WireOutcome(
        outcome.kind,
        os.fsencode(outcome.path),
        outcome.size,
        outcome.reason,
        outcome.hits,
        outcome.tags,
        [os.fsencode(name) for name in outcome.members],
        outcome.outer,
        outcome.obstacle,
        outcome.is_object,
        outcome.evidence,
        outcome.seen,
    )


def unpack_outcome(wire: _WireOutcome) -> Outcome:
    """Return an outcome as it was before it was sent, without its digests."""
    return Outcome(
        wire.kind,
        os.fsdecode(wire.path),
        wire.size,
        wire.reason,
        wire.hits,
        tags=wire.tags,
        members=tuple([os.fsdecode(name) for name in wire.members]),
        outer=wire.outer,
        obstacle=wire.obstacle,
        is_object=wire.is_object,
        evidence=wire.evidence,
        seen=wire.seen,
    )


def pack_result(result: Result, elapsed_s: float) -> Checked:
    """Return a result in the form that is sent."""
    return Checked(
        elapsed_s,
        result.clean,
        result.only_counts(),
        [pack_outcome(outcome) for outcome in result.outcomes],
        [names_of(group) for group in result.deferred],
        result.learned,
        result.seen,
        result.containers,
    )


def unpack_result(wire: Checked) -> Result:
    """Return a result as it was before it was sent, without the work that was handed back."""
    result = Result(
        clean=wire.clean,
        outcomes=[unpack_outcome(outcome) for outcome in wire.outcomes],
        learned=wire.learned,
        seen=wire.seen,
        containers=wire.containers,
    )
    result.add_counts(wire.counts)
    return result


def add_result(total: Result, result: Result) -> None:
    """Add a result to those before it in the same batch."""
    total.clean += result.clean
    total.add_counts(result)
    total.outcomes += result.outcomes
    total.learned += result.learned
    total.seen += result.seen
    total.containers += result.containers


def parts_of(task: Task, most_names: int) -> Iterator[Task]:
    """Yield the groups of a long task as tasks of some `most_names` names."""
    part: Task = []
    count = 0
    for group in task:
        part.append(group)
        count += len(group.names)
        if count >= most_names:
            yield part
            part, count = [], 0
    if part:
        yield part
