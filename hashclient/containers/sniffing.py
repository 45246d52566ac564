"""Decides by the first and last bytes of a file whether it may be a container.

The check is fast enough to be made for every file.

The tables in this module are computed once, from the rows in `kinds`. The worker, which has lists
and keys in memory, only compares marks (the magic bytes of a kind), and the first lines of a
possible mail. For some kinds, the expander decides later, in the process that opens containers.
Every container has a mark of its kind, and some other files contain the bytes of a mark, too.

A quick test rules out most files. It tests three conditions: the first two bytes begin no mark, no
mark is at another offset near the beginning, and no mark without a fixed offset is in the file. If
one of the conditions is false, each mark is compared with the file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from struct import error
from typing import NamedTuple, cast

from hashclient.containers.fronts import FRONT_BYTES, PROGRAMS, SEARCHED_BYTES, parts
from hashclient.containers.interface import HEAD_BYTES, ISO_HEAD_BYTES, TAIL_BYTES
from hashclient.containers.kind import ANYWHERE, Kind, Mark
from hashclient.containers.kinds import KINDS
from hashclient.containers.unopened import END_MARK_BYTES

#: `_NEAR_BYTES`: how many last bytes of a short file of unknown kind are searched for the end
#: record of a zip, which a comment may follow. `_SHARE`: of a long file, the last 1/`_SHARE` is
#: searched, which costs little compared with the digests of all bytes.
_NEAR_BYTES = 22 + 512
_SHARE = 64
_LONG_BYTES = _SHARE * _NEAR_BYTES
#: The number of last bytes of a file that are passed to `End.is_one`.
_LAST_BYTES = 1 << 10
#: The number of bytes of a program that are read and searched for marks at a time.
_STEP_BYTES = 1 << 20
#: A mark with a fixed offset is near if the mark, and all bytes that its `is_one` examines, are
#: within this number of first bytes of a file; all other marks are far.
_BEGIN_BYTES = 1_152
#: A byte that is not the first byte of any near mark.
_PAD = b"\xff"

ReadAt = Callable[[int, int], bytes]
Buffer = bytes | bytearray
#: The kinds that have a mark in the first bytes of a file; empty for most files.
Found = tuple[Kind, ...]


class _Row(NamedTuple):
    """A mark and its kind."""

    kind: Kind
    mark: Mark

    def stands(self, data: Buffer, length: int) -> bool:
        """Return whether one of the literals of the mark is at its offset in a file.

        Return True for a mark with a pattern or without literals, which `fits` tests.
        """
        mark = self.mark
        if mark.pattern or not mark.literals:
            return True
        return data.startswith(mark.literals, mark.at, length)

    def fits(self, data: Buffer, length: int, begin: bytes) -> bool:
        """Return whether a file that has a literal of the mark meets its further conditions.

        `begin` are the first bytes of the file.
        """
        mark = self.mark
        if mark.is_one is None:
            return True
        if mark.reaches:
            begin = bytes(memoryview(data)[: min(length, ISO_HEAD_BYTES)])
        try:
            return mark.is_one(begin)
        except (error, IndexError):  # the file is too short for the kind
            return False


def _expression(rows: Iterable[_Row]) -> bytes:
    """Return a regular expression for the beginnings of files that may fit one of the rows."""
    return b"|".join(
        row.mark.pattern
        or b".{%d}(?:%s)" % (row.mark.at, b"|".join(map(re.escape, row.mark.literals)))
        for row in rows
    )


def _differ(rows: Iterable[_Row]) -> str:
    """Return a Python expression that is true if the bytes of `data` differ from some marks.

    The expression compares the first two bytes of each mark, or only the first byte at an offset
    where some mark has one byte. The expression also includes `differs` of a mark that is the only
    mark at its offset.
    """
    marks: dict[int, list[Mark]] = {}
    for row in rows:
        marks.setdefault(row.mark.at, []).append(row.mark)
    # The buffer may contain bytes of an earlier file after the end of a short file. These bytes can
    # only cause an unnecessary comparison of all marks.
    tests = [f"len(data) > {max(marks) + 1}"]
    for at, here in sorted(marks.items()):
        begins = {one[:2] for mark in here for one in mark.literals}
        columns = [{one[place] for one in begins} for place in range(min(map(len, begins)))]
        differ = [
            f"data[{place}] " + (f"not in {column}" if len(column) > 1 else f"!= {min(column)}")
            for place, column in enumerate(columns, at)
        ]
        if len(here) == 1 and here[0].differs:
            differ.append(here[0].differs)
        tests.append(f"({' or '.join(differ)})")
    return " and ".join(tests)


def _any_of(looks: set[Callable[[Buffer, int], bool]]) -> Callable[[Buffer, int], bool]:
    """Return a function that returns True if any function in `looks` returns True.

    The set usually has a single function, because all kinds of text share one function.
    """
    if len(looks) == 1:
        return looks.pop()
    return lambda data, length: any(look(data, length) for look in looks)


def looks_of(
    kinds: Sequence[Kind],
) -> tuple[Callable[[Buffer, int, bool], Found], Callable[[Buffer, int], bool]]:
    """Return a function that returns the kinds of a file by its first bytes, and a quick test.

    The arguments of the first function are a buffer, the number of bytes in the buffer that belong
    to the file, and whether these bytes are the whole file. Callers call the quick test first: it
    rules out most files that are of no kind.
    """
    rows = [_Row(kind, mark) for kind in kinds for mark in kind.marks]
    # The table has an element for each possible first byte. Most bytes begin no mark, so their
    # elements are the same empty dictionary, which stays in the processor's cache.
    begins: list[dict[int, tuple[_Row, ...]]] = [{}] * 256
    for row in rows:
        for first, second in {one[:2] for one in row.mark.literals} if not row.mark.at else ():
            so_far = begins[first]
            begins[first] = so_far | {second: (*so_far.get(second, ()), row)}
    near = [row for row in rows if 0 < row.mark.at <= _BEGIN_BYTES]
    weak = [row for row in near if row.mark.pattern]
    strong = [row for row in near if not row.mark.pattern]
    expression = b"%b|(%b)" % (_expression(strong), _expression(weak))
    # The expression is compiled on demand, because compiling takes a millisecond, and a run with
    # few files does not need the expression.
    compiled = functools.cache(lambda: re.compile(expression, re.DOTALL))
    far = [row for row in rows if row.mark.at > _BEGIN_BYTES]
    far_from = min(row.mark.at for row in far)
    anywhere = [row for row in rows if row.mark.at == ANYWHERE]
    may_be_anywhere = _any_of({row.mark.may_be for row in anywhere if row.mark.may_be})

    def may_be_near(data: Buffer, length: int) -> bool:
        found = compiled().match(data, 0, length)
        if found is None:
            return False
        if not found.lastindex:
            return True
        begin = bytes(memoryview(data)[: min(length, _BEGIN_BYTES)])
        return any(row.fits(data, length, begin) for row in weak)

    # The quick test is compiled from one Python expression, because function calls and regular
    # expressions take twice as long while other threads read files.
    fits_none = cast(
        Callable[[Buffer, int], bool],
        eval(  # noqa: S307 - text of the rows
            "lambda data, length: length < 2 or ("
            f"({_differ(near)} or not may_be_near(data, length))"
            " and data[1] not in begins[data[0]] and not may_be_anywhere(data, length)"
            f" and (length <= {far_from} or {_differ(far)}))",
            {"may_be_near": may_be_near, "begins": begins, "may_be_anywhere": may_be_anywhere},
        ),
    )

    def look_at(data: Buffer, length: int, is_all: bool) -> Found:  # noqa: FBT001 - for speed
        maybe = [
            *begins[data[0]].get(data[1], ()),
            *(near if may_be_near(data, length) else ()),
            *(anywhere if may_be_anywhere(data, length) else ()),
            *(far if length > far_from else ()),
        ]
        fitting = [row for row in maybe if row.stands(data, length)]
        if not fitting:
            return ()
        begin = bytes(memoryview(data)[: min(length, _BEGIN_BYTES)])
        fits = dict.fromkeys([row.kind for row in fitting if row.fits(data, length, begin)])
        if is_all and fits:
            content = bytes(memoryview(data)[:length])
            return tuple([kind for kind in fits if kind.whole is None or kind.whole(content)])
        return tuple(fits)

    return look_at, fits_none


look_at, fits_none = looks_of(KINDS)


def look(head: bytes | memoryview, *, is_all: bool = False) -> Found:
    """Return the kinds that have a mark in the first bytes of a file.

    `is_all` says that `head` contains all bytes of the file.
    """
    data = head if type(head) is bytes else bytes(head if is_all else head[:ISO_HEAD_BYTES])
    return () if fits_none(padded(data), len(data)) else look_at(data, len(data), is_all)


def padded(head: bytes) -> bytes:
    """Return the first bytes of a file in a buffer that is long enough for the quick test."""
    return head.ljust(_BEGIN_BYTES, _PAD)


#: The byte sequences that are searched near the end of a file, each with its smallest byte. This
#: byte is searched first, because it is rare in text.
_IN_TAIL = [(min(kind.in_tail[::-1]), kind.in_tail) for kind in KINDS if kind.in_tail]
_ENDS = tuple(end for kind in KINDS for end in kind.ends)
_LAST = frozenset(end.last[-1] for end in _ENDS)
_IN_PROGRAMS = [kind.in_programs for kind in KINDS if kind.in_programs]
_ANY_SIZE = 1 << 62
_MOST_IN_PROGRAMS = max(map(len, _IN_PROGRAMS))
_AT_END = [(kind, mark) for kind in KINDS for mark in kind.marks if ANYWHERE < mark.at < 0]
_FIRST_AT_END = frozenset(literal[0] for _, mark in _AT_END for literal in mark.literals)
_LONG_BEGINS = tuple(
    literal
    for kind in KINDS
    for mark in kind.marks
    if mark.reaches and not mark.at
    for literal in mark.literals
)


def is_kind(found: Found) -> bool:
    """Return whether the kinds include a kind of container, opened or not."""
    return any(not kind.is_front for kind in found)


def is_opened(found: Found) -> bool:
    """Return whether the kinds include a kind that is opened."""
    return any(kind.expander for kind in found)


def not_opened(found: Found, *, is_other: bool = False) -> str:
    """Return the name of the first kind that is not opened; empty if all kinds are opened.

    If `is_other` is true, the file is opened as another kind, and kinds with `hides_end` are
    ignored.
    """
    kinds = (kind for kind in found if not kind.expander and not kind.is_front)
    return next((kind.name for kind in kinds if not (is_other and kind.hides_end)), "")


def is_front(found: Found) -> bool:
    """Return whether the kinds include a front: a kind of file that an archive may follow."""
    return any(kind.is_front for kind in found)


def wants_more_head(size: int) -> bool:
    """Return whether a file of `size` bytes is long enough for the mark of a disk image."""
    return size >= ISO_HEAD_BYTES


def wants_all_head(head: bytes | memoryview) -> bool:
    """Return whether `head` may be of a kind that needs more than `HEAD_BYTES` bytes."""
    return bytes(head[:HEAD_BYTES]).startswith(_LONG_BEGINS)


def tail_bytes(size: int, *, is_front: bool) -> int:
    """Return the number of last bytes of a file that are searched for the end of a zip."""
    return TAIL_BYTES if is_front else min(TAIL_BYTES, max(_NEAR_BYTES, size // _SHARE))


def has_end_of_zip(tail: bytes) -> bool:
    """Return whether the last bytes of a file may be the end of a zip."""
    # The search goes backwards, which takes half the time of a forward search.
    return any(tail.rfind(mark) >= 0 for _, mark in _IN_TAIL)


def ends_as_container(data: Buffer, length: int, size: int) -> bool:
    """Return whether the last bytes of a file of `size` bytes may be the end of a container.

    The first `length` bytes of the buffer are the last bytes of the file: the whole file, or as
    many bytes as `tail_bytes` returns. This function is called for every file, so it must be fast.
    """
    if not length:
        return False
    start = length - (_NEAR_BYTES if size < _LONG_BYTES else size // _SHARE)
    if start < 0:
        start = 0
    for rare, mark in _IN_TAIL:
        if data.find(rare, start, length) >= 0 and data.rfind(mark, start, length) >= 0:
            return True
    if data[length - 1] not in _LAST and (
        length < END_MARK_BYTES or data[length - END_MARK_BYTES] not in _FIRST_AT_END
    ):
        return False  # the usual case
    tail = bytes(memoryview(data)[start:length])
    return ends_as_other(tail) or kind_by_end(tail) != ""


def ends_as_other(tail: bytes) -> bool:
    """Return whether the last bytes of a file may be the end of another archive than a zip."""
    last = tail[-_LAST_BYTES:]
    return any(
        last.endswith(end.last) and (end.is_one is None or end.is_one(last)) for end in _ENDS
    )


def kind_by_end(end: Buffer | memoryview) -> str:
    """Return the unopened kind that the last bytes of a file show; empty if they show no kind."""
    if len(end) < END_MARK_BYTES or end[-END_MARK_BYTES] not in _FIRST_AT_END:
        return ""  # the usual case
    last = bytes(end[-END_MARK_BYTES:])
    for kind, mark in _AT_END:
        if last.startswith(mark.literals):
            return kind.name
    return ""


def in_program(head: bytes, size: int, read_at: ReadAt) -> bool:
    """Return whether a file is a program with a mark of an archive in it or behind it.

    `head` contains the first `FRONT_BYTES` of the file, and `read_at` reads at any offset of the
    file.
    """
    for begin, count in parts(head, size):
        end = min(begin + count, size)
        for offset in range(begin, end, _STEP_BYTES):
            part = read_at(offset, min(_STEP_BYTES + _MOST_IN_PROGRAMS, end - offset))
            if any(mark in part for mark in _IN_PROGRAMS):
                return True
    return False


class InProgram:
    """Searches a program for marks, as `in_program` does, while its bytes are read forwards."""

    def __init__(self, head: bytes) -> None:
        """`head` is the beginning of the file, of which the first `FRONT_BYTES` are used."""
        self._head = head[:FRONT_BYTES]
        self._parts = [*parts(self._head, _ANY_SIZE), (0, SEARCHED_BYTES)]
        if not self._head.startswith(PROGRAMS):
            self._parts = []
        self._found: set[int] = set()  # offsets of searched places with a mark
        self._rest = b""
        self._at = 0

    def watch(self, piece: bytes) -> None:
        """Search the next bytes of the file."""
        if not self._parts:
            return
        text, begin = self._rest + piece, self._at - len(self._rest)
        for start, count in self._parts:
            part = text[max(start - begin, 0) : max(start + count - begin, 0)]
            if any(mark in part for mark in _IN_PROGRAMS):
                self._found.add(start)
        self._at += len(piece)
        self._rest = text[1 - _MOST_IN_PROGRAMS :]

    def has_found(self) -> bool:
        """Return whether a mark was found, after all bytes of the file were passed to `watch`."""
        return any(start in self._found for start, _ in parts(self._head, self._at))


def has_behind(front: bytes, size: int, read_at: ReadAt) -> bool:
    """Return whether a container may be at the end of a file, or in or behind a program.

    `front` contains the first `FRONT_BYTES` of a front, and is empty for other files.
    """
    count = min(size, tail_bytes(size, is_front=bool(front)))
    tail = read_at(size - count, count)
    if has_end_of_zip(tail) or ends_as_other(tail) or kind_by_end(tail):
        return True
    return in_program(front, size, read_at)


def kind_alone(size: int, read_at: ReadAt) -> str:
    """Return the kind of a file that is only counted, because nothing in the file is opened.

    Return an empty text for other files.

    The kind is only returned if the file itself is of no opened kind, and no archive is behind it.
    `has_behind` searches the same places as the registry of the expanders.
    """
    head = read_at(0, ISO_HEAD_BYTES)
    found = look(head)
    kind = not_opened(found)
    if not kind or is_opened(found) or has_behind(head[:FRONT_BYTES], size, read_at):
        return ""
    return kind
