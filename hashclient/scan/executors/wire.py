"""Messages between a scan and its workers, in processes and on other machines: msgpack.

Paths are bytes. Tasks go to a worker. A worker sends results, numbers of bytes that were read of a
large file, or an error: an index cannot be read. What a cluster says besides is in
`cluster.messages`.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Mapping, Sequence
from struct import Struct

import msgspec

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Hit, Outcome, Outer, Seen
from hashclient.core.verdict import Counts
from hashclient.scan.values.work import Group, Identity, Result, Task

#: Lengths of digests, and of tags.
_DIGEST_BYTES = {algorithm: algorithm.digest_bytes for algorithm in Algorithm}
_TAG_BYTES = dict.fromkeys(Algorithm, 16)


class Names(msgspec.Struct, frozen=True, array_like=True):
    """A group on its way: `names` are joined by NUL, which no name has.

    `inodes` are in the byte order of this machine. On a cluster, `file_system` is the number that
    the file system of listed files has everywhere; without it, inodes and `identity` are left out.
    Files that were named, and not listed, have `signs`: the inode, size and time that a worker has
    to find there.
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
        """Whether the directory depends on where the scan is."""
        return not self.directory.startswith(b"/")


class _WireHit(msgspec.Struct, array_like=True):
    """The common part of many hits: all but the entry."""

    list_name: str
    category: str
    generation: int
    algorithms: tuple[Algorithm, ...]
    complete: bool


class _WireValues(msgspec.Struct, array_like=True):
    """Many mappings by algorithm: their sets of `keys`, the set of each, and all values."""

    keys: list[tuple[Algorithm, ...]]
    numbers: bytes
    values: bytes

    def are_whole(self, count: int, bytes_of: Mapping[Algorithm, int]) -> bool:
        """Return whether these are so many mappings, of values of the right lengths."""
        lengths = [sum([bytes_of[a] for a in keys]) for keys in self.keys]
        return (
            len(self.numbers) == count
            and max(self.numbers) < len(lengths)
            and len(self.values) == sum([lengths[number] for number in self.numbers])
        )


class _WireRest(msgspec.Struct, array_like=True):
    """Values that few outcomes have; only objects have their path here, which may hold NUL."""

    reason: str | None
    members: list[bytes]
    outer: Outer | None
    obstacle: str | None
    evidence: str | None
    path: bytes | None


class WireOutcomes(msgspec.Struct, array_like=True):
    """Outcomes in columns, since a task may have hundreds that are much alike.

    `counts` says how many hits each has, and `hits` which of `hit_kinds` each hit is.
    """

    kinds: list[Kind]
    paths: bytes  # joined by NUL, which no path of a file has; empty ones for objects
    sizes: list[int | None]
    counts: list[int]
    hit_kinds: list[_WireHit]
    hits: list[int]
    entries: list[str]
    digests: _WireValues
    tags: _WireValues
    seen: list[Seen | None]
    rest: dict[int, _WireRest]

    def __post_init__(self) -> None:
        """Check that the columns are those of the same outcomes.

        Raises:
            ValueError: they are not; msgspec then refuses the message.
        """
        count = len(self.kinds)
        if not (
            count
            and {len(self.sizes), len(self.counts), len(self.seen)} == {count}
            and self.paths.count(b"\0") + 1 == count
            and min(self.counts) >= 0
            and sum(self.counts) == len(self.hits) == len(self.entries)
            and set(self.hits).issubset(range(len(self.hit_kinds)))
            and set(self.rest).issubset(range(count))
            and self.digests.are_whole(count, _DIGEST_BYTES)
            and self.tags.are_whole(count, _TAG_BYTES)
        ):
            raise ValueError("outcomes whose columns do not fit together")


class Checked(msgspec.Struct, array_like=True, tag="checked"):
    """The result of a task.

    `deferred` was handed back. On a cluster, each of the `large` ones is to be a batch of its own.
    """

    clean: int
    counts: Counts
    outcomes: WireOutcomes | None
    deferred: list[Names]
    learned: list[tuple[int, bytes]]
    seen: list[tuple[int, int]]
    containers: list[tuple[int, bytes, bytes]]
    taken_s: float
    lost: list[int]
    large: list[Names] = []


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """A worker cannot read an index, and no other worker could: the run ends."""

    message: str
    hint: str | None

    @property
    def error(self) -> StateError:
        """The error that ends the run."""
        return StateError(self.message, hint=self.hint)


_decode_task = msgspec.msgpack.Decoder(list[Names]).decode
_decode_message = msgspec.msgpack.Decoder(int | Checked | Failed).decode
encode = msgspec.msgpack.Encoder().encode


def encode_task(task: Task) -> bytes:
    """Return the message that asks for a task."""
    return encode(list(map(names_of, task)))


def decode_task(message: bytes) -> Task:
    """Return the task that a message asks for."""
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


def _pack_values(mappings: Sequence[Mapping[Algorithm, bytes]]) -> _WireValues:
    numbers: dict[tuple[Algorithm, ...], int] = {}
    chosen = [numbers.setdefault(tuple(m), len(numbers)) for m in mappings]
    values = b"".join([value for m in mappings for value in m.values()])
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


def pack_outcomes(outcomes: Sequence[Outcome], *, digests: bool = True) -> WireOutcomes | None:
    """Return outcomes in the form that is sent, also without their `digests`."""
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
    return WireOutcomes(
        [o.kind for o in outcomes],
        os.fsencode("\0".join(["" if o.is_object else o.path for o in outcomes])),
        [o.size for o in outcomes],
        [len(o.hits) for o in outcomes],
        hit_kinds,
        hits,
        entries,
        _pack_values([o.digests if digests else {} for o in outcomes]),
        _pack_values([o.tags for o in outcomes]),
        [o.seen for o in outcomes],
        {
            number: _WireRest(
                o.reason,
                [os.fsencode(m) for m in o.members],
                o.outer,
                o.obstacle,
                o.evidence,
                os.fsencode(o.path) if o.is_object else None,
            )
            for number, o in enumerate(outcomes)
            if o.is_object
            or o.evidence is not None
            or o.reason is not None
            or o.members
            or o.outer is not None
            or o.obstacle is not None
        },
    )


def unpack_outcomes(wire: WireOutcomes | None) -> list[Outcome]:
    """Return outcomes as they were before they were sent."""
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
            path=outcomes[number].path if rest.path is None else os.fsdecode(rest.path),
            reason=rest.reason,
            members=tuple([os.fsdecode(name) for name in rest.members]),
            outer=rest.outer,
            obstacle=rest.obstacle,
            is_object=rest.path is not None,
            evidence=rest.evidence,
        )
    return outcomes


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
