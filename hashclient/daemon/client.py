"""A client of the daemon: its user, and the answers that were not sent yet.

If the client reads slowly, its answers wait in memory. Answers that are ready in the same turn of
the event loop are sent together.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time

from hashclient.daemon.protocol import encoded
from hashclient.daemon.users import HandedOver, Peer

#: The prefix and the delimiter of each line of an answer.
Form = tuple[bytes, bytes]
#: While more than `MAX_OUT_BYTES` bytes of answers wait for a client, no commands of the client are
#: read.
MAX_OUT_BYTES = 1 << 16


class Client:
    """A client and its answers; the subclass `Connection` reads the bytes that the client sends."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, peer: Peer, files: HandedOver
    ) -> None:
        self.peer = peer
        self.is_closed = False
        #: The time of the last read or write, as `time.monotonic` returns it.
        self.last = time.monotonic()
        self.files = files
        self._loop = loop
        self._socket = sock
        self._out = bytearray()
        #: The number of requests that are not answered yet.
        self._pending = 0
        self._is_writing = self._is_due = False
        #: Whether the event loop reads from the client, so that a read shows when the client has
        #: closed the connection.
        self._is_reading = False

    @property
    def is_silent(self) -> bool:
        """Whether all requests are answered and all answers are sent."""
        return not (self._pending or self._out)

    @property
    def has_room(self) -> bool:
        """Whether at most `MAX_OUT_BYTES` of answers wait to be sent."""
        return len(self._out) <= MAX_OUT_BYTES

    def answer(self, form: Form, lines: list[str], *, last: bool = True) -> None:
        """Queue lines of the answer to a request; `last` says whether the answer is complete."""
        if self.is_closed:
            return
        prefix, delimiter = form
        for line in lines:
            self._out += prefix + encoded(line) + delimiter
        self._pending -= last
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.writable)

    def writable(self) -> None:
        """Send waiting answers until the socket accepts no more bytes."""
        self._is_due = False
        if self.is_closed:
            return
        if self._out:
            try:
                sent = self._socket.send(self._out)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.close()
                return
            if sent:
                del self._out[:sent]
                self.last = time.monotonic()
        if self._out and not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self._socket, self.writable)
        elif self._is_writing and not self._out:
            self._stop_writing()

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._socket)

    def close_if_gone(self) -> None:
        """Close the connection if the client has closed it while no bytes are read from it."""
        if self.is_closed or self._is_reading:
            return
        poll = select.poll()
        poll.register(self._socket, 0)
        if poll.poll(0):
            self.close()

    def close(self) -> None:
        """Close the connection; later answers are dropped."""
        self._stop_writing()
        self.is_closed = True
        self.files.let_go()
        self._socket.close()
