"""What "no container" means in the records of a scan: which kinds were looked for, by which rule.

The number of a kind changes with its row (its marks, its expander, its version): so no table of
another module has to be kept in step with the rows.
"""

from __future__ import annotations

import zlib

from hashclient.containers.kind import Kind
from hashclient.containers.kinds import KINDS


def number_of(kind: Kind) -> int:
    """Return a number that a kind with another row does not have."""
    marks = [(mark.at, mark.literals, mark.regex, mark.reaches) for mark in kind.marks]
    ends = [end.last for end in kind.ends]
    rest = (kind.expander, kind.version, kind.sure.name, kind.hides_end, kind.is_front)
    text = repr((kind.name, marks, ends, kind.in_tail, kind.in_programs, rest))
    return zlib.crc32(text.encode())


#: By name, the number of each kind.
NUMBERS = {kind.name: number_of(kind) for kind in KINDS}
#: One number for all of them.
ALL = zlib.crc32(repr(NUMBERS).encode())
