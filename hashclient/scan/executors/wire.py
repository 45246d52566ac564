"""Messages between a scan and its workers, in processes or on other machines, in msgpack.

Paths are sent as bytes. A worker receives tasks. A worker sends results, numbers of bytes that were
read of a large file, or the error that an index cannot be read. The other messages of a cluster are
in `cluster.messages`.
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
    """A group of names in a message.

    - `names`: the names joined by NUL, which no name contains.
    - `count`: the number of names.
    - `inodes`: in the byte order of this machine.
    - `file_system`: on a cluster, the number that all workers use for the file system of listed
      files; without such a number, `inodes` and `identity` are left out.
    - `signs`: for files that were named and not listed, the inode, size and time that a worker must
      find.

    All further fields have the same meaning as in `Group`.
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
        """Whether the path of the directory depends on the current directory of the scan."""
        return not self.directory.startswith(b"/")


class WireOutcome(msgspec.Struct, array_like=True, gc=False):
    """An outcome in a message; `rest` is the outcome without its path and the names of members."""

    path: bytes
    members: tuple[bytes, ...]
    rest: Outcome


class Checked(msgspec.Struct, array_like=True, tag="checked"):
    """The result of a task in a message.

    `deferred` are the groups that are left to be checked. On a cluster, each of the `large` files
    becomes a batch.
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
    """A worker cannot read an index; the run ends, because no other worker could read it."""

    message: str
    hint: str | None

    @property
    def error(self) -> StateError:
        """The exception that ends the run."""
        return StateError(shown(self.message), hint=self.hint and shown(self.hint))


_decode_task = msgspec.msgpack.Decoder(list[Names]).decode
_decode_message = msgspec.msgpack.Decoder(int | Checked | Failed).decode
encode = msgspec.msgpack.Encoder().encode


def shown(text: str) -> str:
    """Return text of another process, which may be on another machine, safe for a terminal."""
    return text if text.isprintable() else printable(text)


def encode_task(task: Task) -> bytes:
    """Return the message that sends a task to a worker."""
    return encode(list(map(names_of, task)))


def decode_task(message: bytes) -> Task:
    """Return the task that a message contains."""
    return list(map(group_of, _decode_task(message)))


def decode_message(message: bytes) -> Result | StateError | int:
    """Return what a message contains: a result, an error, or how many more bytes were read."""
    decoded = _decode_message(message)
    if isinstance(decoded, Failed):
        return decoded.error
    return unpack_result(decoded) if isinstance(decoded, Checked) else decoded


def names_of(group: Group) -> Names:
    """Return a group as a message contains it."""
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
    """Return the group that a message contains."""
    return Group(
        os.fsdecode(names.directory),
        os.fsdecode(names.names).split("\0"),
        names.follow,
        names.identity,
        array("Q", names.inodes),
        names.is_named,
    )


def pack_outcomes(outcomes: Sequence[Outcome], *, digests: bool = True) -> list[WireOutcome]:
    """Return outcomes as a message contains them, with or without their `digests`."""
    return [
        WireOutcome(
            os.fsencode(one.path),
            tuple(map(os.fsencode, one.members)),
            replace(one, path="", members=(), digests=one.digests if digests else {}),
        )
        for one in outcomes
    ]


def unpack_outcomes(wire: Sequence[WireOutcome]) -> list[Outcome]:
    """Return the outcomes that a message contains."""
    return [
        replace(one.rest, path=os.fsdecode(one.path), members=tuple(map(os.fsdecode, one.members)))
        for one in wire
    ]


def pack_result(result: Result, *, digests: bool = True) -> Checked:
    """Return a result as a message contains it.

    Between machines, outcomes are sent with tags, and without `digests`.
    """
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
    """Return the result that a message contains."""
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
