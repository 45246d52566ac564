"""How fast a client sends its command, and which of its open files wait for an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashclient.daemon.doors import Peer
    from hashclient.daemon.host import Host
    from hashclient.daemon.protocol import Parser

#: After so many seconds of a command it is known whether it comes too slowly.
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


class HandedOver:
    """Open files that a client has handed over and that are not answered."""

    def __init__(self, worker: Host, peer: Peer) -> None:
        """There is none yet."""
        self._worker, self._peer = worker, peer
        #: How many there are, and how many of them the user's share counts.
        self._files = self._counted = 0

    @property
    def is_beyond(self) -> bool:
        """Whether one is beyond the share of its user; each connection may have one, to get on."""
        return self._files > self._counted

    def begin(self) -> None:
        """Take one more."""
        self._files += 1
        self._counted += self._worker.hold_file(self._peer)

    def end(self) -> None:
        """Note that one is answered."""
        self._files -= 1
        if self._counted > self._files:
            self._counted -= 1
            self._worker.let_go_of_files(self._peer, 1)

    def let_go(self) -> None:
        """Let go of all: the connection is closed."""
        if self._counted:
            self._worker.let_go_of_files(self._peer, self._counted)
            self._counted = 0
