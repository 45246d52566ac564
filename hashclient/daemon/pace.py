"""How fast a client sends its command."""

from __future__ import annotations

from hashclient.daemon.protocol import Parser

#: A command that has begun to come has this many seconds before its speed counts.
SLOW_S = 5.0


class Pace:
    """How fast a client sends; `came` counts the bytes."""

    def __init__(self) -> None:
        """Nothing has come."""
        self.came = 0
        #: The time, the bytes and the number of the command at the first look at a command that is
        #: not complete.
        self._midway: tuple[float, int, int] | None = None

    def look(self, now: float, parser: Parser, number: int, most_s: float, *, reads: bool) -> bool:
        """Note how far the command `number` is, once a second; return whether it takes too long.

        It may take `most_s` seconds, its stream not counted, while somebody `reads`.
        """
        if parser.is_between or not reads:
            self._midway = None
        elif self._midway is None or self._midway[2] != number:
            self._midway = (now, self.came, number)
        elif not parser.in_stream:
            return now > self._midway[0] + most_s
        return False

    def is_slow(self, now: float, min_rate: float) -> bool:
        """Return whether the rest of a command comes with less than `min_rate` bytes a second."""
        if self._midway is None:
            return False
        since, before, _ = self._midway
        return now > since + SLOW_S and self.came - before < min_rate * (now - since)
