"""Tells by first and last bytes whether a file may be a container: for every file, so it is cheap.

The tables here are made once, from the rows in `kinds`. The worker, which holds lists and keys,
looks at marks only, and at the first lines of a possible mail; the expander makes sure of some
kinds, in the process that opens containers. A mark may fit a file that is no container, but every
container has one.

A file is ruled out in a few steps: its first two bytes begin no mark; no mark stands at another
place, by one expression; and what may stand anywhere is not there. Only where one of these fits,
the marks are compared one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from struct import error
from typing import NamedTuple, Protocol

from hashclient.containers.fronts import parts
from hashclient.containers.interface import HEAD_BYTES, ISO_HEAD_BYTES, TAIL_BYTES
from hashclient.containers.kind import ANYWHERE, Kind, Mark
from hashclient.containers.kinds import KINDS
from hashclient.containers.unopened import END_MARK_BYTES

#: Bytes at the end of a short file of no known kind in which a mark of an end is searched for: the
#: end of a zip, and room for a comment. One in `_SHARE` of a long file: to read these costs little
#: where all bytes are digested.
_NEAR_BYTES = 22 + 512
_SHARE = 64
#: How much of the end `End.is_one` looks at.
_LAST_BYTES = 1 << 10
#: Marks that may stand anywhere are searched for in so many of the first bytes, those at an offset
#: begin in them; the others are far ones.
_BEGIN_BYTES = 1 << 10
#: So many bytes hold all but far marks, and what `is_one` looks at where it does not reach further.
_NEAR_HEAD_BYTES = _BEGIN_BYTES + 128
#: Fewer bytes are copied as a whole: each look takes less than of a buffer.
_SHORT_BYTES = 2 << 10

ReadAt = Callable[[int, int], bytes]
Bytes = bytes | bytearray | memoryview
#: The kinds that the beginning of a file fits; mostly none.
Found = tuple[Kind, ...]


class Look(Protocol):
    """Looks at the beginning of a file."""

    def __call__(self, head: bytes | memoryview, *, is_all: bool = False) -> Found:
        """Return the kinds that fit, where the head is all of the file, if `is_all`."""
        ...


class _Row(NamedTuple):
    """One mark of one kind, ready to be compared."""

    kind: Kind
    mark: Mark
    match: Callable[[bytes, int], object]

    def fits(self, head: bytes | memoryview, begin: bytes) -> bool:
        """Return whether a file with this `head` fits; `begin` are the first bytes of it."""
        _, mark, match = self
        if mark.at > _BEGIN_BYTES or mark.reaches:
            begin = bytes(head[:ISO_HEAD_BYTES])
        if mark.at != ANYWHERE and not match(begin, mark.at):
            return False
        try:
            return mark.is_one is None or mark.is_one(begin)
        except (error, IndexError):  # it is too short to be one
            return False


def _row(kind: Kind, mark: Mark) -> _Row:
    if mark.regex:
        return _Row(kind, mark, re.compile(mark.regex, re.DOTALL).match)
    literals = mark.literals
    return _Row(kind, mark, lambda head, at: head.startswith(literals, at))


def _gate(rows: Sequence[_Row]) -> Callable[[Bytes], object]:
    """Return a function that is true where any of the marks at an offset may be."""
    marks = [row.mark for row in rows]
    each = [
        rb".{%d}(?:%b)" % (mark.at, mark.regex or b"|".join(map(re.escape, mark.literals)))
        for mark in marks
    ]
    return re.compile(b"|".join(dict.fromkeys(each)), re.DOTALL).match


def look_of(kinds: Sequence[Kind]) -> Look:
    """Return a function that returns which of `kinds` a file fits by its beginning."""
    rows = [_row(kind, mark) for kind in kinds for mark in kind.marks]
    by_two: dict[bytes, tuple[_Row, ...]] = {}
    for row in rows:
        for begin in row.mark.literals if not row.mark.at else ():
            by_two[begin[:2]] = tuple(dict.fromkeys((*by_two.get(begin[:2], ()), row)))
    near = [row for row in rows if 0 < row.mark.at <= _BEGIN_BYTES]
    far = [row for row in rows if row.mark.at > _BEGIN_BYTES]
    anywhere = [row for row in rows if row.mark.at == ANYWHERE]
    searched = [(literal, row) for row in anywhere for literal in row.mark.literals]
    begins, is_near, is_far = by_two.get, _gate(near), _gate(far)
    far_from = min(row.mark.at for row in far)

    def look(head: bytes | memoryview, *, is_all: bool = False) -> Found:
        length = len(head)
        is_short = length <= _SHORT_BYTES and type(head) is bytes
        begin: bytes = head if is_short else bytes(head[:_NEAR_HEAD_BYTES])  # type: ignore[assignment]
        fitting = begins(begin[:2], ())
        if is_near(begin):
            fitting = (*fitting, *near)
        if length > far_from and is_far(head):
            fitting = (*fitting, *far)
        for literal, row in searched:
            if begin.find(literal, 0, _BEGIN_BYTES) >= 0:
                fitting = (*fitting, row)
        if not fitting:
            return ()
        found = dict.fromkeys([row.kind for row in fitting if row.fits(head, begin)])
        if is_all:
            return tuple([kind for kind in found if kind.whole is None or kind.whole(bytes(head))])
        return tuple(found)

    return look


look = look_of(KINDS)
#: Of each kind whose archives may lie in programs: how one begins.
IN_PROGRAMS = {kind.name: kind.in_programs for kind in KINDS if kind.in_programs}
_IN_TAIL = tuple(kind.in_tail for kind in KINDS if kind.in_tail)
#: Of each of these, a byte that no text has.
_RARE = bytes(next(byte for byte in reversed(mark) if byte < 9) for mark in _IN_TAIL)
_ENDS = tuple(end for kind in KINDS for end in kind.ends)
_LAST = frozenset(end.last[-1] for end in _ENDS)
_AT_END = [(kind, mark) for kind in KINDS for mark in kind.marks if ANYWHERE < mark.at < 0]
_FIRST_AT_END = frozenset(literal[0] for _, mark in _AT_END for literal in mark.literals)
_REACHING = tuple(m.literals for kind in KINDS for m in kind.marks if m.reaches and not m.at)
_LONG_BEGINS = tuple(literal for literals in _REACHING for literal in literals)


def is_kind(found: Found) -> bool:
    """Return whether a beginning is that of a container, opened or not."""
    return any(not kind.is_front for kind in found)


def is_opened(found: Found) -> bool:
    """Return whether a beginning is that of a container that is opened."""
    return any(kind.expander for kind in found)


def not_opened(found: Found) -> str:
    """Return the name of the first kind that is not opened; empty if there is none."""
    return next((kind.name for kind in found if not kind.expander and not kind.is_front), "")


def is_front(found: Found) -> bool:
    """Return whether an archive may stand behind a file with this beginning."""
    return any(kind.is_front for kind in found)


def wants_more_head(size: int) -> bool:
    """Return whether the mark of an image of a disk may lie beyond the first bytes."""
    return size >= ISO_HEAD_BYTES


def wants_all_head(head: bytes | memoryview) -> bool:
    """Return whether these first bytes are of a kind of which more have to be read."""
    return bytes(head[:HEAD_BYTES]).startswith(_LONG_BEGINS)


def tail_bytes(size: int, *, is_front: bool) -> int:
    """Return how many bytes at the end of a file are searched for the end of a zip."""
    return TAIL_BYTES if is_front else min(TAIL_BYTES, max(_NEAR_BYTES, size // _SHARE))


def has_end_of_zip(tail: bytes) -> bool:
    """Return whether a file that ends like this may be a zip archive."""
    for mark in _IN_TAIL:  # noqa: SIM110 - faster
        if tail.rfind(mark) >= 0:  # from the end, which takes half as long
            return True
    return False


def ends_as_container(data: Bytes) -> bool:
    """Return whether a file that ends like this may be a container, whatever it begins with.

    Of many bytes, only the last are looked at. This is asked about every file.
    """
    count = len(data) // _SHARE
    tail = data[-count if count > _NEAR_BYTES else -_NEAR_BYTES :]
    if type(tail) is not bytes:
        tail = bytes(tail)
    for rare in _RARE:
        if tail.find(rare) >= 0 and has_end_of_zip(tail):
            return True
    return bool(tail) and ((tail[-1] in _LAST and ends_as_other(tail)) or bool(kind_by_end(tail)))


def ends_as_other(tail: bytes) -> bool:
    """Return whether a file that ends like this may be an archive, other than a zip."""
    last = tail[-_LAST_BYTES:]
    return any(
        last.endswith(end.last) and (end.is_one is None or end.is_one(last)) for end in _ENDS
    )


def kind_by_end(end: Bytes) -> str:
    """Return the kind of a file that ends like this, which is not opened; empty for others."""
    if len(end) < END_MARK_BYTES or end[-END_MARK_BYTES] not in _FIRST_AT_END:
        return ""  # as nearly all files
    last = bytes(end[-END_MARK_BYTES:])
    for kind, mark in _AT_END:
        if last.startswith(mark.literals):
            return kind.name
    return ""


def has_other_behind(head: bytes, tail: bytes, size: int, read_at: ReadAt) -> bool:
    """Return whether an archive other than a zip may lie behind other bytes, or in a program.

    `head` are `FRONT_BYTES` at its beginning, `tail` the last bytes, `read_at` returns any others.
    """
    if ends_as_other(tail):
        return True
    for offset, count in parts(head, size):
        part = read_at(offset, count)
        if any(mark in part for mark in IN_PROGRAMS.values()):
            return True
    return False


def has_behind(front: bytes, size: int, read_at: ReadAt) -> bool:
    """Return whether the end shows a container, of bytes whose beginning has no mark.

    `front` are the first `FRONT_BYTES` if these are a front, or else none.
    """
    count = min(size, tail_bytes(size, is_front=bool(front)))
    tail = read_at(size - count, count)
    if has_end_of_zip(tail) or has_other_behind(front, tail, size, read_at):
        return True
    return bool(kind_by_end(tail))  # it is counted where it is opened
