"""Finds files that must be examined again after the rows in `kinds` have changed.

A scan remembers files that are no containers. For each kind, it also stores a number that is
computed from the row of the kind, so a changed row is noticed by its number. The changed row also
shows the shortest length and the possible first bytes of files of this kind. Only remembered files
with such a length and first byte must be examined again.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable

import msgspec

from hashclient.containers.fronts import PROGRAMS
from hashclient.containers.kind import ANYWHERE, Kind
from hashclient.containers.kinds import KINDS


class Touched(msgspec.Struct, frozen=True):
    """A description of files.

    `least_bytes` is the smallest length of the files, and `begins` are the possible first bytes.
    """

    least_bytes: int
    begins: frozenset[int]


# The results are cached because each start of the program needs the number of each row twice.
@functools.cache
def number_of(kind: Kind) -> int:
    """Return a checksum of the row of a kind."""
    marks = [(m.at, m.literals, m.reaches, m.pattern, m.differs) for m in kind.marks]
    ends = [end.last for end in kind.ends]
    places = kind.in_tail, kind.in_programs, kind.in_programs_at
    rest = kind.sure.name, kind.hides_end, kind.is_front, kind.has_readings
    text = repr((kind.name, kind.version, kind.expander != "", marks, ends, places, rest))
    return zlib.crc32(text.encode())


#: The checksum of the row of each kind, by the name of the kind.
NUMBERS = {kind.name: number_of(kind) for kind in KINDS}
#: A checksum of all rows. If this checksum has changed since the members of containers were
#: recorded, the containers are opened again.
READS = zlib.crc32(repr(NUMBERS).encode())


def touched(before: dict[str, int], kinds: Iterable[Kind] = KINDS) -> Touched | None:
    """Return which files may be of the kinds that changed since `before`; None if no kind changed.

    Removed kinds are ignored, because the removal of a kind turns no file into a container.
    """
    changed = [kind for kind in kinds if before.get(kind.name) != number_of(kind)]
    if not changed:
        return None
    each = [_touched(kind) for kind in changed]
    begins = frozenset().union(*(one.begins for one in each))
    return Touched(min(one.least_bytes for one in each), begins)


def _touched(kind: Kind) -> Touched:
    ends = [*(end.last for end in kind.ends), kind.in_tail, kind.in_programs]
    least = [len(end) for end in ends if end]
    for mark in kind.marks:
        length = min(map(len, mark.literals), default=1)
        least.append(length + max(mark.at, 0) if mark.at >= 0 or mark.at == ANYWHERE else -mark.at)
    firsts = {literal[0] for mark in kind.marks for literal in mark.literals}
    firsts |= {program[0] for program in PROGRAMS if kind.in_programs}
    if kind.ends or kind.in_tail or any(mark.at for mark in kind.marks):
        firsts = set(range(256))
    return Touched(min(least, default=0), frozenset(firsts))
