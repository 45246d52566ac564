"""Messages between parent and workers: msgpack, with paths as bytes.

Tasks go to a worker. A worker sends results, numbers of bytes that were read of a large file, or an
error in two lines: an index cannot be read, and no other worker could read it.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Mapping, Sequence
from struct import Struct

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.core.counts import Counts
from hashclient.core.kinds import Kind
from hashclient.core.model import Hit, Outcome, Outer, Seen
from hashclient.errors import StateError
from hashclient.scan.executors.interface import Result
from hashclient.scan.sources.directories import Identity
from hashclient.scan.sources.interface import Group, Task

#: Lengths of digests, and of tags.
_DIGEST_BYTES = {algorithm: algorithm.digest_bytes for algorithm in Algorithm}
_TAG_BYTES = dict.fromkeys(Algorithm, 16)


class _WireGroup(msgspec.Struct, array_like=True):
    directory: bytes
    names: bytes  # joined by NUL, which no name has
    follow: bool
    identity: Identity | None
    inodes: bytes  # of this machine's own order


class _WireHit(msgspec.Struct, array_like=True):
    """The common part of many hits: all but the entry."""

    list_name: str
    category: str
    generation: int
    algorithms: tuple[Algorithm, ...]
    complete: bool


class _WireValues(msgspec.Struct, array_like=True):
    """Many small mappings by algorithm: which `keys` there are, those of each, and all values."""

    keys: list[tuple[Algorithm, ...]]
    numbers: bytes
    values: bytes


class _WireRest(msgspec.Struct, array_like=True):
    """Values that few outcomes have."""

    reason: str | None
    members: list[bytes]
    outer: Outer | None
    obstacle: str | None


class _WireOutcomes(msgspec.Struct, array_like=True):
    """Outcomes in columns, since a task may have hundreds that are much alike.

    `counts` says how many hits each has, and `hits` which of `hit_kinds` each hit is.
    """

    kinds: list[Kind]
    paths: bytes  # joined by NUL, which no path has
    sizes: list[int | None]
    counts: list[int]
    hit_kinds: list[_WireHit]
    hits: list[int]
    entries: list[str]
    digests: _WireValues
    tags: _WireValues
    seen: list[Seen | None]
    rest: dict[int, _WireRest]


class _WireResult(msgspec.Struct, array_like=True):
    clean: int
    counts: Counts
    outcomes: _WireOutcomes | None
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
        _WireGroup(
            os.fsencode(g.directory),
            os.fsencode("\0".join(g.names)),
            g.follow,
            g.identity,
            g.inodes.tobytes(),
        )
        for g in task
    ]


def _unpack_task(groups: list[_WireGroup]) -> Task:
    return [
        Group(
            os.fsdecode(g.directory),
            os.fsdecode(g.names).split("\0"),
            g.follow,
            g.identity,
            array("Q", g.inodes),
        )
        for g in groups
    ]


def _pack_values(
    mappings: Sequence[Mapping[Algorithm, bytes]], bytes_of: Mapping[Algorithm, int]
) -> _WireValues:
    numbers: dict[tuple[Algorithm, ...], int] = {}
    chosen = [numbers.setdefault(tuple(m), len(numbers)) for m in mappings]
    values = b"".join([value for m in mappings for value in m.values()])
    lengths = [sum([bytes_of[a] for a in keys]) for keys in numbers]
    if len(values) != sum([lengths[number] for number in chosen]):
        raise ValueError("a digest or a tag of a wrong length")
    return _WireValues(list(numbers), bytes(chosen), values)


def _unpack_values(
    packed: _WireValues, bytes_of: Mapping[Algorithm, int]
) -> list[Mapping[Algorithm, bytes]]:
    parts = [Struct("".join(f"{bytes_of[a]}s" for a in keys)) for keys in packed.keys]
    if len(parts) == 1 and parts[0].size:  # as mostly
        keys = packed.keys[0]
        if len(keys) == len(Algorithm):
            one, two, three = keys
            return [{one: x, two: y, three: z} for x, y, z in parts[0].iter_unpack(packed.values)]
        return [dict(zip(keys, of, strict=True)) for of in parts[0].iter_unpack(packed.values)]
    found: list[Mapping[Algorithm, bytes]] = []
    start = 0
    for number in packed.numbers:
        values = parts[number].unpack_from(packed.values, start)
        found.append(dict(zip(packed.keys[number], values, strict=True)))
        start += parts[number].size
    return found


def _pack_outcomes(outcomes: Sequence[Outcome]) -> _WireOutcomes | None:
    if not outcomes:
        return None
    kinds: dict[tuple[object, ...], int] = {}
    hit_kinds: list[_WireHit] = []
    hits: list[int] = []
    entries: list[str] = []
    for outcome in outcomes:
        for hit in outcome.hits:
            key = hit.list_name, hit.category, hit.generation, hit.algorithms, hit.complete
            number = kinds.setdefault(key, len(kinds))
            if number == len(hit_kinds):
                hit_kinds.append(_WireHit(*key))
            hits.append(number)
            entries.append(hit.entry)
    return _WireOutcomes(
        [o.kind for o in outcomes],
        os.fsencode("\0".join([o.path for o in outcomes])),
        [o.size for o in outcomes],
        [len(o.hits) for o in outcomes],
        hit_kinds,
        hits,
        entries,
        _pack_values([o.digests for o in outcomes], _DIGEST_BYTES),
        _pack_values([o.tags for o in outcomes], _TAG_BYTES),
        [o.seen for o in outcomes],
        {
            number: _WireRest(o.reason, [os.fsencode(m) for m in o.members], o.outer, o.obstacle)
            for number, o in enumerate(outcomes)
            if o.reason is not None or o.members or o.outer is not None or o.obstacle is not None
        },
    )


def _unpack_outcomes(wire: _WireOutcomes | None) -> list[Outcome]:
    if wire is None:
        return []
    kinds = [
        (k.list_name, k.category, k.generation, k.algorithms, k.complete) for k in wire.hit_kinds
    ]
    hits = []
    for number, entry in zip(wire.hits, wire.entries, strict=True):
        list_name, category, generation, algorithms, complete = kinds[number]
        hits.append(Hit(list_name, entry, category, generation, algorithms, complete))
    if wire.counts.count(1) == len(hits) == len(wire.counts):  # as mostly
        of_each: list[tuple[Hit, ...]] = [(hit,) for hit in hits]
    else:
        left = iter(hits)
        of_each = [tuple(itertools.islice(left, count)) for count in wire.counts]
    outcomes = [
        Outcome(kind, path, size, None, found, digests, None, tags, seen=seen)
        for kind, path, size, found, digests, tags, seen in zip(
            wire.kinds,
            os.fsdecode(wire.paths).split("\0"),
            wire.sizes,
            of_each,
            _unpack_values(wire.digests, _DIGEST_BYTES),
            _unpack_values(wire.tags, _TAG_BYTES),
            wire.seen,
            strict=True,
        )
    ]
    for number, rest in wire.rest.items():
        outcomes[number] = msgspec.structs.replace(
            outcomes[number],
            reason=rest.reason,
            members=tuple([os.fsdecode(name) for name in rest.members]),
            outer=rest.outer,
            obstacle=rest.obstacle,
        )
    return outcomes


def _pack_result(result: Result) -> _WireResult:
    return _WireResult(
        result.clean,
        result.only_counts(),
        _pack_outcomes(result.outcomes),
        _pack_task(result.deferred),
        result.learned,
        result.seen,
        result.containers,
        result.taken_s,
    )


def _unpack_result(wire: _WireResult) -> Result:
    result = Result(
        clean=wire.clean,
        outcomes=_unpack_outcomes(wire.outcomes),
        deferred=_unpack_task(wire.deferred),
        learned=wire.learned,
        seen=wire.seen,
        containers=wire.containers,
        taken_s=wire.taken_s,
    )
    result.add_counts(wire.counts)
    return result
