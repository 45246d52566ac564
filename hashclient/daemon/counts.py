"""The counters of a daemon, with one row of numbers for each process, in shared memory.

Each process writes only to its own row, so no locks are needed; a reader adds up the rows. A number
is one machine word, which is written atomically.
"""

from __future__ import annotations

import bisect
import enum
import mmap
from collections.abc import Mapping
from itertools import accumulate

from hashclient.containers.unopened import NAMES

#: Answers are counted in classes by their time; the upper bound of each class, in seconds.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Count(enum.IntEnum):
    """The counters of a daemon; the value is the index in a row."""

    CLEAN = 0
    MATCH = 1
    CONFLICT = 2
    UNREAD = 3
    NO_VERDICT = 4  # inputs without a match while a list was stale or missing
    BYTES = 5
    CONNECTIONS = 6  # connections opened since the start
    OPEN = 7  # connections that are open now
    REFUSED = 8  # new connections that were closed because too many were open
    IDLE = 9  # connections closed because nothing was sent or read for too long
    BROKEN = 10  # connections closed because the client broke the protocol
    TOO_LONG = 11  # streams beyond the limit of bytes or time
    FAILURES = 12  # matches that could not be recorded, and failed actions
    RELOADS = 13
    STARTED = 14  # starts of the process that this row belongs to
    SLOW = 15  # connections closed for a new client because they sent very slowly
    CROWDED = 16  # connections closed for a new client because their user had the most connections
    EXCEPTED = 17  # matches that a person has excepted


_FIRST_CLASS = len(Count)
#: The index in a row of the total time of all answers, in microseconds.
_MICROSECONDS = _FIRST_CLASS + len(BOUNDS_S) + 1
#: The index in a row of the first counter of container files that are not opened.
_FIRST_KIND = _MICROSECONDS + 1
_ROW = _FIRST_KIND + len(NAMES)
_WORD_BYTES = 8
_BYTES = int(Count.BYTES)


class Counts:
    """The rows of all processes; this object must be made before the processes are forked."""

    def __init__(self, rows: int) -> None:
        """Allocate `rows` rows of zeros in shared memory."""
        self._words = memoryview(mmap.mmap(-1, rows * _ROW * _WORD_BYTES)).cast("Q")

    def row(self, number: int) -> Row:
        """Return the row of counters of the process with the number `number`."""
        return Row(self._words[number * _ROW : (number + 1) * _ROW])

    def total(self, place: int) -> int:
        """Return the sum of a counter, for example a `Count`, over the rows of all processes."""
        return sum(self._words[place::_ROW])

    def not_opened(self) -> dict[str, int]:
        """Return the number of container files that were not opened, by kind."""
        sums = {name: self.total(_FIRST_KIND + n) for n, name in enumerate(NAMES)}
        return {name: number for name, number in sums.items() if number}

    def times(self) -> tuple[list[int], float]:
        """Return the numbers of answers by their time, and the total seconds of all answers.

        For each time in `BOUNDS_S`, a number counts the answers that took at most this time. The
        last number counts all answers.
        """
        classes = range(_FIRST_CLASS, _MICROSECONDS)
        return [*accumulate(map(self.total, classes))], self.total(_MICROSECONDS) / 1e6


class Row:
    """The counters of one process."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def add(self, count: Count, number: int = 1) -> None:
        """Add `number`, which may be negative, to a counter."""
        self._words[count] += number

    def of(self, count: Count) -> int:
        """Return the value of a counter of this process."""
        return self._words[count]

    def add_not_opened(self, kinds: Mapping[str, int]) -> None:
        """Count container files that are not opened, by kind."""
        for kind, number in kinds.items():
            self._words[_FIRST_KIND + NAMES.index(kind)] += number

    def timed(self, seconds: float) -> None:
        """Count an answer and its time in seconds."""
        words = self._words
        words[_FIRST_CLASS + bisect.bisect_left(BOUNDS_S, seconds)] += 1
        words[_MICROSECONDS] += int(seconds * 1e6)

    def clean(self, verdict: Count, length: int) -> None:
        """Count a stream of `length` bytes that has no match and is answered now, as `verdict`."""
        words = self._words
        words[verdict] += 1
        words[_BYTES] += length
        words[_FIRST_CLASS] += 1
