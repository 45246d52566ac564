"""Messages between a scan and its workers, in processes and on other machines: msgpack.

Paths are bytes. A worker receives tasks. A worker sends results, numbers of bytes that were read of
a large file, or an error: an index cannot be read. The other messages of a cluster are in
`cluster.messages`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from hashclient.core.errors import StateError
from hashclient.core.model import Outcome
from hashclient.core.verdict import Counts
from hashclient.scan.values.work import Group, Identity, Result, Task
from hashclient.system.text import printable


class Names(msgspec.Struct, frozen=True, array_like=True):
    """A group in a message: `names` are joined by NUL, which no name contains.

    `inodes` are in the byte order of this machine. On a cluster, `file_system` is the number that
    the file system of listed files has everywhere; without it, inodes and `identity` are left out.
    Files that were named, and not listed, have `signs`: the inode, size and time that a worker must
    find.
    """

    directory: bytes
    names: bytes
    count: int
    follow: bool
    identity: Identity | None = None
    inodes: bytes = b""
    file_system: int = 0
    signs: bytes = b""
    is_named: bool = False

    @property
    def is_relative(self) -> bool:
        """Whether the path of the directory depends on where the scan is."""
        return not self.directory.startswith(b"/")


class WireOutcome(msgspec.Struct, array_like=True, gc=False):
    """An outcome in a message: `rest` has everything except the path and the names of members."""

    path: bytes
    members: tuple[bytes, ...]
    rest: Outcome


class Checked(msgspec.Struct, array_like=True, tag="checked"):
    """The result of a task.

    `deferred` has the work that is left. On a cluster, each of the `large` files becomes a batch of
    its own.
    """

    clean: int
    counts: Counts
    outcomes: list[WireOutcome]
    deferred: list[Names]
    learned: list[tuple[int, bytes]]
    seen: list[tuple[int, int]]
    containers: list[tuple[int, bytes, bytes]]
    taken_s: float
    lost: list[int]
    large: list[Names] = []


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """A worker cannot read an index, and no other worker could read it: the run ends."""

    message: str
    hint: str | None

    @property
    def error(self) -> StateError:
        """The error that ends the run."""
        return StateError(shown(self.message), hint=self.hint and shown(self.hint))


_decode_task = msgspec.msgpack.Decoder(list[Names]).decode
_decode_message = msgspec.msgpack.Decoder(int | Checked | Failed).decode
encode = msgspec.msgpack.Encoder().encode


def shown(text: str) -> str:
    """Return a message of another process, which may be on another machine, safe on a terminal."""
    return text if text.isprintable() else printable(text)


def encode_task(task: Task) -> bytes:
    """Return the message that sends a task."""
    return encode(list(map(names_of, task)))


def decode_task(message: bytes) -> Task:
    """Return the task in a message."""
    return list(map(group_of, _decode_task(message)))


def decode_message(message: bytes) -> Result | StateError | int:
    """Return the content of a message: a result, an error, or how many more bytes were read."""
    decoded = _decode_message(message)
    if isinstance(decoded, Failed):
        return decoded.error
    return unpack_result(decoded) if isinstance(decoded, Checked) else decoded


def names_of(group: Group) -> Names:
    """Return a group in the form that is sent."""
    return Names(
        os.fsencode(group.directory),
        os.fsencode("\0".join(group.names)),
        len(group.names),
        group.follow,
        group.identity,
        group.inodes.tobytes(),
        is_named=group.is_named,
    )


def group_of(names: Names) -> Group:
    """Return a group as it was before it was sent."""
    return Group(
        os.fsdecode(names.directory),
        os.fsdecode(names.names).split("\0"),
        names.follow,
        names.identity,
        array("Q", names.inodes),
        names.is_named,
    )


def pack_outcomes(outcomes: Sequence[Outcome], *, digests: bool = True) -> list[WireOutcome]:
    """Return outcomes in the form that is sent, also without their `digests`."""
    return [
        WireOutcome(
            os.fsencode(one.path),
            tuple(map(os.fsencode, one.members)),
            replace(one, path="", members=(), digests=one.digests if digests else {}),
        )
        for one in outcomes
    ]


def unpack_outcomes(wire: Sequence[WireOutcome]) -> list[Outcome]:
    """Return outcomes as they were before they were sent."""
    return [
        replace(one.rest, path=os.fsdecode(one.path), members=tuple(map(os.fsdecode, one.members)))
        for one in wire
    ]


def pack_result(result: Result, *, digests: bool = True) -> Checked:
    """Return a result in the form that is sent; between machines it has tags and no `digests`."""
    return Checked(
        result.clean,
        result.only_counts(),
        pack_outcomes(result.outcomes, digests=digests),
        list(map(names_of, result.deferred)),
        result.learned,
        result.seen,
        result.containers,
        result.taken_s,
        result.lost,
    )


def unpack_result(wire: Checked) -> Result:
    """Return a result as it was before it was sent."""
    result = Result(
        clean=wire.clean,
        outcomes=unpack_outcomes(wire.outcomes),
        deferred=list(map(group_of, wire.deferred)),
        learned=wire.learned,
        seen=wire.seen,
        containers=wire.containers,
        taken_s=wire.taken_s,
        lost=wire.lost,
    )
    result.add_counts(wire.counts)
    return result
