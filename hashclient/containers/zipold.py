"""Decodes compression methods of zip that no used library supports: Deflate64, shrink, implode.

The Windows Explorer compresses members of more than 2 GiB by Deflate64; shrink and implode occur in
archives from the time of DOS (APPNOTE.TXT, 4.4.5 and 5.1 to 5.3). The methods are decoded in
Python, at a speed of some megabytes per second. The decoder needs memory for a window of 64 KiB,
for one piece of output, and for code tables.

Limit: members that are compressed by reduce (methods 2 to 5), or by methods that are not in
    `zipmember`, are reported as unread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hashclient.containers.zipdirectory import ENDS_EARLY, damaged

SHRUNK, IMPLODED, DEFLATED64 = 1, 6, 9
METHODS = frozenset((SHRUNK, IMPLODED, DEFLATED64))
#: `_PIECE_BYTES`: how many decoded bytes are returned at a time; `_WINDOW_BYTES`: how far back a
#: repetition of earlier bytes may begin, in bytes.
_PIECE_BYTES = _WINDOW_BYTES = 64 << 10

# Tables of Deflate64: the base values of lengths and distances, and the numbers of their extra
# bits.
_LENGTH_BITS = (*(0,) * 8, *(n for n in range(1, 6) for _ in range(4)), 16)
_LENGTHS = (*(3 + sum(1 << b for b in _LENGTH_BITS[:n]) for n in range(28)), 3)
_DISTANCE_BITS = (0, 0, *(n for n in range(15) for _ in range(2)))
_DISTANCES = tuple(1 + sum(1 << b for b in _DISTANCE_BITS[:n]) for n in range(32))
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_FIXED = ([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, [5] * 32)
_END = 256

# codes of shrink: `_CONTROL`, and the two commands that may follow it
_CONTROL, _WIDER, _CLEAR = 256, 1, 2
_MAX_CODE_BITS = 13

#: Flags of implode: the window has 8 KiB; literal bytes have codes.
_HAS_LARGE_WINDOW, _HAS_BYTE_CODES = 0x02, 0x04
_MOST = 63

#: A table of codes: the length of the longest code and, for each value of the next bits, a symbol
#: and the length of its code.
_Table = tuple[int, list[tuple[int, int]]]


class Old:
    """A member that is being decoded; `read` returns its compressed bytes, piece by piece."""

    def __init__(self, method: int, flags: int, size: int, read: Callable[[], bytes]) -> None:
        """Decode by `method`; shrink and implode end after `size` decoded bytes."""
        self._method = method
        self._flags = flags
        self._size = size
        self._read = read
        self._piece = b""
        self._at = 0
        self._bits = 0
        self._count = 0
        self._out = bytearray()
        self._given = 0

    @property
    def unused(self) -> int:
        """How many whole bytes were taken from the input and were not used."""
        return self._count // 8 + len(self._piece) - self._at

    def chunks(self) -> Iterator[bytes]:
        """Yield the decoded bytes.

        Raises:
            NotReadError: the bytes are damaged.
        """
        steps = {SHRUNK: self._unshrink, IMPLODED: self._explode, DEFLATED64: self._inflate}
        for _ in steps[self._method]():
            yield self._give()
        yield self._give()

    def _give(self) -> bytes:
        """Return the bytes decoded since the last call.

        Keep the last bytes, which may be repeated later.
        """
        out = self._out
        piece = bytes(out[self._given :])
        del out[: max(0, len(out) - _WINDOW_BYTES)]
        self._given = len(out)
        return piece

    def _is_full(self) -> bool:
        return len(self._out) - self._given >= _PIECE_BYTES

    def _fill(self, count: int) -> bool:
        """Read input until `count` bits are available; return False if the input ends before."""
        while self._count < count:
            if self._at >= len(self._piece):
                self._piece, self._at = self._read(), 0
            few = self._piece[self._at : self._at + 8]  # large integers are slow
            if not few:
                return False
            self._at += len(few)
            self._bits |= int.from_bytes(few, "little") << self._count
            self._count += 8 * len(few)
        return True

    def _take(self, count: int) -> int:
        if self._count < count and not self._fill(count):
            raise damaged(ENDS_EARLY)
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        self._count -= count
        return value

    def _symbol(self, table: _Table) -> int:
        longest, entries = table
        if self._count < longest:
            self._fill(longest)
        symbol, length = entries[self._bits & ((1 << longest) - 1)]
        if not length or length > self._count:
            raise damaged("a code that is none")
        self._bits >>= length
        self._count -= length
        return symbol

    def _copy(self, distance: int, length: int) -> None:
        """Append a copy of earlier bytes; bytes before the member's beginning count as zeros."""
        out = self._out
        start = len(out) - distance
        if start < 0:
            zeros = min(-start, length)
            out += bytes(zeros)
            length -= zeros
            start = len(out) - distance
        if distance >= length:
            out += out[start : start + length]
            return
        unit = bytes(out[start:])
        out += (unit * (length // distance + 1))[:length]

    def _inflate(self) -> Iterator[None]:
        is_last = False
        while not is_last:
            is_last = bool(self._take(1))
            kind = self._take(2)
            if kind == 0:
                self._take(self._count % 8)
                length, inverted = self._take(16), self._take(16)
                if length ^ inverted != 0xFFFF:
                    raise damaged("a block that is not compressed has no length")
                for _ in range(length):
                    self._out.append(self._take(8))
            elif kind < 3:
                literals, distances = map(_table, _FIXED if kind == 1 else self._dynamic())
                while (symbol := self._symbol(literals)) != _END:
                    if symbol < _END:
                        self._out.append(symbol)
                    else:
                        self._match(symbol - _END - 1, distances)
                    if self._is_full():
                        yield
            else:
                raise damaged("a block of an unknown kind")
            yield

    def _match(self, symbol: int, distances: _Table) -> None:
        if symbol >= len(_LENGTHS):
            raise damaged("a code that is none")
        length = _LENGTHS[symbol] + self._take(_LENGTH_BITS[symbol])
        symbol = self._symbol(distances)
        distance = _DISTANCES[symbol] + self._take(_DISTANCE_BITS[symbol])
        if distance > len(self._out):
            raise damaged("a match before the beginning")
        self._copy(distance, length)

    def _dynamic(self) -> tuple[list[int], list[int]]:
        count, far, short = self._take(5) + 257, self._take(5) + 1, self._take(4) + 4
        lengths = [0] * len(_ORDER)
        for place in _ORDER[:short]:
            lengths[place] = self._take(3)
        table = _table(lengths)
        found: list[int] = []
        while len(found) < count + far:
            symbol = self._symbol(table)
            if symbol < 16:
                found.append(symbol)
            elif symbol == 16:
                found += (found[-1:] or [0]) * (3 + self._take(2))
            else:
                found += [0] * (3 + self._take(3) if symbol == 17 else 11 + self._take(7))
        return found[:count], found[count : count + far]

    def _explode(self) -> Iterator[None]:
        has_codes = bool(self._flags & _HAS_BYTE_CODES)
        low_bits = 7 if self._flags & _HAS_LARGE_WINDOW else 6
        literals = self._tree(256) if has_codes else None
        lengths, distances = self._tree(64), self._tree(64)
        left = self._size
        while left > 0:
            before = len(self._out)
            if self._take(1):
                self._out.append(self._take(8) if literals is None else self._symbol(literals))
            else:
                low = self._take(low_bits)
                distance = (self._symbol(distances) << low_bits | low) + 1
                length = self._symbol(lengths)
                if length == _MOST:
                    length += self._take(8)
                self._copy(distance, min(length + (3 if has_codes else 2), left))
            left -= len(self._out) - before
            if self._is_full():
                yield

    def _tree(self, count: int) -> _Table:
        """Read the lengths of codes, which are stored run-length encoded."""
        lengths: list[int] = []
        for _ in range(self._take(8) + 1):
            run = self._take(8)
            lengths += [(run & 15) + 1] * ((run >> 4) + 1)
        if len(lengths) != count:
            raise damaged("codes that cannot be")
        return _table(lengths, inverted=True)

    def _unshrink(self) -> Iterator[None]:
        parents: dict[int, int] = {}
        values = list(range(256)) + [0] * ((1 << _MAX_CODE_BITS) - 256)
        bits, free = 9, _CONTROL
        last = first = self._take(bits)
        if last > 0xFF:
            raise damaged("a code that is none")
        self._out.append(last)
        left = self._size - 1
        while left > 0:
            code = self._take(bits)
            if code == _CONTROL:
                what = self._take(bits)
                if what == _WIDER and bits < _MAX_CODE_BITS:
                    bits += 1
                elif what == _CLEAR:
                    used = set(parents.values())
                    parents = {c: parent for c, parent in parents.items() if c in used}
                    free = _CONTROL
                else:
                    raise damaged("a code that is none")
                continue
            text = bytearray()
            at = code
            # A code that is not defined yet means: the bytes of the last code, followed by the
            # first of these bytes.
            if at > 0xFF and at not in parents:
                text.append(first)
                at = last
            while at > 0xFF:
                if at not in parents or len(text) > 1 << _MAX_CODE_BITS:
                    raise damaged("a code that is none")
                text.append(values[at])
                at = parents[at]
            text.append(at)
            first = at
            self._out += text[::-1][:left]
            left -= len(text)
            free += 1
            while free in parents:
                free += 1
            if free < 1 << _MAX_CODE_BITS:
                parents[free], values[free] = last, first
            last = code
            if self._is_full():
                yield


def _table(lengths: list[int], *, inverted: bool = False) -> _Table:
    """Return the table of the codes with the given lengths; shorter codes come first.

    Raises:
        NotReadError: the lengths are impossible.
    """
    longest = max(lengths, default=0)
    entries = [(0, 0)] * (1 << longest)
    code = 0
    for length in range(1, longest + 1):
        for symbol, one in enumerate(lengths):
            if one == length:
                if code >> length:
                    raise damaged("codes that cannot be")
                place = int(f"{code:0{length}b}"[::-1], 2)
                if inverted:
                    place ^= (1 << length) - 1
                entries[place :: 1 << length] = [(symbol, length)] * (1 << longest - length)
                code += 1
        code <<= 1
    return longest, entries
