"""Messages between parent and workers: msgpack, with paths as bytes.

Tasks go to a worker. A worker sends results, numbers of bytes that were read of a large file, or an
error in two lines: an index cannot be read, and no other worker could read it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.core.kinds import Kind
from hashclient.core.model import Hit, Outcome, Outer
from hashclient.errors import StateError
from hashclient.scan.executors.interface import Result
from hashclient.scan.sources.interface import Group, Task


class _WireGroup(msgspec.Struct, array_like=True):
    directory: bytes
    names: bytes  # joined by NUL, which no name has
    follow: bool


class _WireOutcome(msgspec.Struct, array_like=True):
    kind: Kind
    path: bytes
    size: int | None
    reason: str | None
    hits: tuple[Hit, ...]
    digests: Mapping[Algorithm, bytes]
    tags: Mapping[Algorithm, bytes]
    members: list[bytes]
    outer: Outer | None
    obstacle: str | None


class _WireResult(msgspec.Struct, array_like=True):
    clean: int
    files_read: int
    bytes_read: int
    ruled_out_by_size: int
    known_unchanged: int
    believed_unchanged: int
    ruled_out_by_claim: int
    members: int
    members_read: int
    outcomes: list[_WireOutcome]
    deferred: list[_WireGroup]
    learned: list[tuple[int, bytes]]
    seen: list[tuple[int, int]]
    containers: list[tuple[int, bytes, bytes]]
    taken_s: float


_decode_task = msgspec.msgpack.Decoder(list[_WireGroup]).decode
_decode_message = msgspec.msgpack.Decoder(int | str | _WireResult).decode
_encode = msgspec.msgpack.Encoder().encode


def encode_task(task: Task) -> bytes:
    """Return the message that asks for a task."""
    return _encode(_pack_task(task))


def decode_task(message: bytes) -> Task:
    """Return the task that a message asks for."""
    return _unpack_task(_decode_task(message))


def encode_result(result: Result) -> bytes:
    """Return the message with the result of a task."""
    return _encode(_pack_result(result))


def encode_count(count: int) -> bytes:
    """Return the message that so many more bytes of a large file were read."""
    return _encode(count)


def encode_error(error: StateError) -> bytes:
    """Return the message that an index cannot be read."""
    return _encode(f"{error.message}\n{error.hint or ''}")


def decode_message(message: bytes) -> Result | StateError | int:
    """Return the content of a message: a result, an error, or how many more bytes were read."""
    decoded = _decode_message(message)
    if isinstance(decoded, int):
        return decoded
    if isinstance(decoded, str):
        text, _, hint = decoded.partition("\n")
        return StateError(text, hint=hint or None)
    return _unpack_result(decoded)


def _pack_task(task: Task) -> list[_WireGroup]:
    return [
        _WireGroup(os.fsencode(g.directory), os.fsencode("\0".join(g.names)), g.follow)
        for g in task
    ]


def _unpack_task(groups: list[_WireGroup]) -> Task:
    return [
        Group(os.fsdecode(g.directory), os.fsdecode(g.names).split("\0"), g.follow) for g in groups
    ]


def _pack_result(result: Result) -> _WireResult:
    outcomes = [
        _WireOutcome(
            o.kind,
            os.fsencode(o.path),
            o.size,
            o.reason,
            o.hits,
            o.digests,
            o.tags,
            [os.fsencode(name) for name in o.members],
            o.outer,
            o.obstacle,
        )
        for o in result.outcomes
    ]
    return _WireResult(
        result.clean,
        result.files_read,
        result.bytes_read,
        result.ruled_out_by_size,
        result.known_unchanged,
        result.believed_unchanged,
        result.ruled_out_by_claim,
        result.members,
        result.members_read,
        outcomes,
        _pack_task(result.deferred),
        result.learned,
        result.seen,
        result.containers,
        result.taken_s,
    )


def _unpack_result(wire: _WireResult) -> Result:
    outcomes = [
        Outcome(
            o.kind,
            os.fsdecode(o.path),
            o.size,
            o.reason,
            o.hits,
            o.digests,
            tags=o.tags,
            members=tuple([os.fsdecode(name) for name in o.members]),
            outer=o.outer,
            obstacle=o.obstacle,
        )
        for o in wire.outcomes
    ]
    return Result(
        wire.clean,
        wire.files_read,
        wire.bytes_read,
        wire.ruled_out_by_size,
        wire.known_unchanged,
        wire.believed_unchanged,
        wire.ruled_out_by_claim,
        wire.members,
        wire.members_read,
        outcomes,
        _unpack_task(wire.deferred),
        wire.learned,
        wire.seen,
        wire.containers,
        taken_s=wire.taken_s,
    )
