"""A connection of a client: reads bytes, and turns them into requests by clamd's protocol.

A connection never blocks; the event loop calls it when bytes can be read or written. A connection
stores at most one command, the kept bytes of one stream, and unsent answers. While too many answers
to the client are unsent or outstanding, the connection reads no bytes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from hashclient.daemon.checks import STREAM, Checks
from hashclient.daemon.client import Client, Form
from hashclient.daemon.counts import Count
from hashclient.daemon.openfiles import close_all, read_file, receive
from hashclient.daemon.paths import check_path
from hashclient.daemon.protocol import (
    OF_PATHS,
    Broken,
    Command,
    Event,
    Parser,
    Request,
    Whole,
)
from hashclient.daemon.uploads import Upload
from hashclient.daemon.users import HandedOver, Peer

#: While `MAX_PENDING` requests of a client are unanswered, no more commands of the client are read.
MAX_PENDING = 64
#: The highest number of events that are parsed at a time, and the highest number of events of a
#: client that are handled in one turn of the event loop, so that other clients are served.
_EVENTS = 64
_TURN_EVENTS = 512
#: A command in the old form without a delimiter counts as complete if no more bytes come for
#: `BARE_S` seconds.
BARE_S = 0.1
#: After an answer that ends a connection, the daemon reads and discards further bytes of the
#: client, for at most `DRAIN_S` seconds and `DRAIN_BYTES` bytes. If the daemon closed the socket at
#: once, the answer could be lost before the client reads it.
DRAIN_S = 10.0
DRAIN_BYTES = 16 << 20
#: During the first `SLOW_S` seconds of a command, `Pace.is_slow` returns False.
SLOW_S = 5.0


class Connection(Client):
    """A client with an open connection, and the state of its protocol."""

    def __init__(
        self,
        checks: Checks,
        sock: socket.socket,
        peer: Peer,
        on_closed: Callable[[Connection], None],
    ) -> None:
        """Begin to read from `sock`; `checks` checks the content that the client sends."""
        super().__init__(checks.loop, sock, peer, HandedOver(checks.open_files, peer))
        self._checks = checks
        self._on_closed = on_closed
        self._parser = Parser(checks.options.max_stream_bytes)
        self._in_session = False
        self._number = 0  # the number of the last command in a session
        #: The stream that the client is sending, or None.
        self._upload: Upload | None = None
        #: The descriptors that were received with the bytes that are handled now.
        self._descriptors: list[int] = []
        #: Bytes that were read but not handled, because too many requests are unanswered.
        self._rest = b""
        self._goes_on = self._bare_is_due = False
        #: Whether no more requests are accepted; the connection is closed when all requests are
        #: answered.
        self._is_ending = False
        self._is_cut = False  # the client may still be sending bytes that are discarded
        self._drained = 0
        self._drain_until: float | None = None
        self._pace = Pace()
        self._listen()

    @property
    def waits_for_client(self) -> bool:
        """Whether the daemon waits for the client to send or to read."""
        return bool(self._out) or self._is_fed or not self._pending

    @property
    def _is_fed(self) -> bool:
        """Whether the client must still send the rest of a stream or a descriptor."""
        return self._upload is not None or self._parser.wants_descriptor

    @property
    def _is_busy(self) -> bool:
        """Whether the connection accepts no more requests for now."""
        return (
            self._is_ending
            or self._pending >= MAX_PENDING
            or not self.has_room
            or self.files.is_beyond
        )

    def look(self, now: float) -> None:
        """Measure once a second how fast the client sends; close a connection that is too slow."""
        options = self._checks.options
        self.close_if_gone()
        if self._upload is not None and now > self._upload.began + options.stream_s:
            self._dismiss("the stream takes too long.")
        elif self._pace.look(
            *(now, self._parser, self._number, options.command_s), reads=self._is_reading
        ) or (self.waits_for_client and now > self.last + options.idle_s):
            self._checks.counts.add(Count.IDLE)
            self.close()

    def is_slow(self, now: float) -> bool:
        """Return whether the client sends a command or stream more slowly than allowed."""
        return self._pace.is_slow(now, self._checks.options.min_rate)

    def readable(self) -> None:
        """Read the available bytes of the socket with one system call, and handle the bytes."""
        buffer = self._checks.buffer
        try:
            if self.peer.is_local:
                count, self._descriptors = receive(self._socket, buffer)
            else:
                count = self._socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        now = self.last = time.monotonic()
        self._pace.came += count
        parser, upload = self._parser, self._upload
        if self._drain_until is not None:
            self._drained += count
            if not count or now > self._drain_until or self._drained > DRAIN_BYTES:
                self.close()
        elif not count:
            self._ended()
        elif upload is not None and parser.chunk_left >= count:
            # All received bytes belong to one chunk of a stream, so the bytes need no parsing.
            parser.chunk_left -= count
            upload.update(buffer[:count])
        elif (
            self._in_session
            and not (self._pending or self._out or self._rest or self._is_ending)
            and (whole := parser.alone(buffer[:count]))
        ):
            # A client that waits for each answer usually sends exactly one whole stream at a time,
            # which is handled by this shortcut.
            self._whole(whole)
            if self._out:
                self.writable()
        else:
            self._feed(buffer[:count])
            return
        close_all(self._descriptors)

    def _feed(self, data: memoryview) -> None:
        """Handle the requests in `data`; store the rest of `data` if too many are unanswered."""
        parser, used, events = self._parser, 0, 0
        while used < len(data) and not self._is_busy:
            if events >= _TURN_EVENTS:
                break  # the event loop calls `writable`, which continues with the rest
            some = parser.feed(data[used:], _EVENTS)
            used += parser.used
            events += len(some)
            is_last = used == len(data) and parser.is_between
            for event in some:
                if type(event) is Whole:  # the most frequent event
                    self._whole(event)
                else:
                    self._take(event, is_last=is_last and event is some[-1])
                if self._is_ending:
                    break
        if self._is_ending or used == len(data):
            close_all(self._descriptors)
        else:
            self._rest = bytes(data[used:])
        self.writable()
        if parser.holds_bare and not self._bare_is_due:
            self._bare_is_due = True
            self._loop.call_later(BARE_S, self._bare)

    def _go_on_soon(self) -> None:
        if not self._goes_on:
            self._goes_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Handle the bytes that were stored in `_rest`."""
        self._goes_on = False
        rest, self._rest = self._rest, b""
        if rest and not self.is_closed:
            self._feed(memoryview(rest))

    def _take(self, event: Event, *, is_last: bool = False) -> None:
        """Handle an event of the parser; `is_last` says whether no bytes follow the event."""
        upload = self._upload
        if isinstance(event, Request):
            self._request(event, is_last=is_last)
        elif isinstance(event, Broken):
            self._dismiss(event.reason)
        elif event.data:
            if upload is not None:
                upload.update(event.data)
        elif upload is not None:
            self._upload = None
            self._is_ending = not self._in_session
            self._checks.ended(upload)

    def _prefix(self) -> bytes:
        """Return the prefix of the answer to the next request, which is its number in a session."""
        if not self._in_session:
            return b""
        self._number += 1
        return b"%d: " % self._number

    def _whole(self, event: Whole) -> None:
        """Check a stream that has arrived as a whole; answer at once if the stream is clean."""
        prefix = self._prefix()
        self._is_ending = not self._in_session
        clean = self._checks.clean_answer(event.data)
        if clean is not None:
            self._out += prefix + clean + event.delimiter
            return
        self._pending += 1
        upload = self._checks.upload(STREAM, self, (prefix, event.delimiter))
        upload.update(event.data)
        self._checks.ended(upload)

    def _request(self, request: Request, *, is_last: bool) -> None:
        command = request.command
        if self._in_session and command is Command.END:
            self._is_ending = True
            return
        form = (self._prefix(), request.delimiter)
        if command is Command.IDSESSION:
            self._in_session = True
            return
        self._pending += 1
        if command is Command.INSTREAM:
            self._upload = self._checks.upload(STREAM, self, form)
            return
        self._is_ending = not self._in_session
        if command is Command.FILDES:
            self._descriptor(form, is_last=is_last)
        elif command is not None and command in OF_PATHS:
            path = os.fsdecode(request.argument)
            self._checks.paths.add(self, check_path(self._checks, self, command, path, form))
        else:
            self.answer(form, [self._checks.say(command, self.peer)])

    def _descriptor(self, form: Form, *, is_last: bool) -> None:
        """Check the file behind the descriptor that follows the command FILDES.

        A client sends the descriptor with one byte, and the kernel returns the descriptor together
        with only this byte. A descriptor that is received with other bytes might belong to another
        command, so it is refused.
        """
        if len(self._descriptors) != 1 or not is_last:
            close_all(self._descriptors)
            self.answer(form, ["FD[-1]: No file descriptor received. ERROR"])
            return
        self.files.begin()
        fd = self._descriptors.pop()
        upload = self._checks.upload(f"fd[{fd}]", self, form, fd)
        self._checks.files.add(self, read_file(self._checks, upload))

    def writable(self) -> None:
        """Send waiting answers; then read from the client again, or close the connection."""
        was_full = not self.has_room
        super().writable()
        if self.is_closed:
            return
        if was_full and self.has_room:
            self._checks.resume(self)
        if self._drain_until is not None:
            return
        if self._is_ending and self.is_silent:
            self._hang_up()
        elif self._is_busy:
            self._stop_listening()
        elif self._rest:
            self._stop_listening()
            self._go_on_soon()
        elif not self._is_reading:
            self._listen()

    def _listen(self) -> None:
        self._is_reading = True
        self._loop.add_reader(self._socket, self.readable)

    def _stop_listening(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket)

    def _bare(self) -> None:
        """Handle a command in the old form without a delimiter if no more bytes were received."""
        self._bare_is_due = False
        parser = self._parser
        # A command with a path that was received in pieces may be incomplete, so the command is not
        # handled. A local client usually sends a command with its path by one write.
        is_whole = self.peer.is_local and not self._in_session and parser.holds_path_of_one_piece
        if (
            self.is_closed
            or self._is_ending
            or not parser.holds_bare
            or (parser.holds_path and not is_whole)
        ):
            return
        if time.monotonic() < self.last + BARE_S:
            self._bare_is_due = True
            self._loop.call_later(BARE_S, self._bare)
            return
        self._bare_ended()
        self.writable()

    def _bare_ended(self) -> None:
        """Handle a command in the old form without its delimiter."""
        for event in self._parser.bare():
            self._take(event)

    def _ended(self) -> None:
        """Handle the end of the bytes that the client sends."""
        if self._parser.holds_bare:
            self._bare_ended()
        if self._is_fed:
            # An incomplete stream gets no answer, because it has no verdict.
            self._checks.counts.add(Count.BROKEN)
            self.close()
            return
        self._is_ending = True
        self.writable()

    def _dismiss(self, reason: str) -> None:
        """Answer a client that breaks the protocol or a limit, and end the connection."""
        upload, self._upload = self._upload, None
        if upload is not None:
            self._checks.release(upload)
            self._checks.counts.add(Count.TOO_LONG)
            form = upload.form
            said = f"{upload.name}: {self._checks.without_verdict('Length', reason)}"
        else:
            self._checks.counts.add(Count.BROKEN)
            form, said = (b"", b"\0"), f"{reason} ERROR"
            self._pending += 1
        self._in_session = False
        self._is_ending = self._is_cut = True
        self.answer(form, [said])

    def _hang_up(self) -> None:
        """Close the connection after the client has had time to read the answer."""
        if self.peer.is_local and not self._is_cut:  # the client can still read the answer
            self.close()
            return
        self._drain_until = time.monotonic() + DRAIN_S
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._listen()
        self._loop.call_later(DRAIN_S, self.close)

    def close(self) -> None:
        """Close the connection; later answers are dropped."""
        if self.is_closed:
            return
        self._stop_listening()
        if self._upload is not None:
            self._checks.release(self._upload)
            self._upload = None
        self._rest = b""
        close_all(self._descriptors)
        super().close()
        self._on_closed(self)


class Pace:
    """Measures how fast a client sends; `came` is the number of received bytes."""

    def __init__(self) -> None:
        """Begin with 0 received bytes."""
        self.came = 0
        #: The time, the number of received bytes, and the number of the command when `look` first
        #: saw that the present command was incomplete; None between commands.
        self._midway: tuple[float, int, int] | None = None

    def look(self, now: float, parser: Parser, number: int, most_s: float, *, reads: bool) -> bool:
        """Measure once a second the progress of command `number`; return whether it takes too long.

        The command, without its stream, may take `most_s` seconds. `reads` says whether bytes are
        read from the client.
        """
        if parser.is_between or not reads:
            self._midway = None
        elif self._midway is None or self._midway[2] != number:
            self._midway = (now, self.came, number)
        elif not parser.in_stream:
            return now > self._midway[0] + most_s
        return False

    def is_slow(self, now: float, min_rate: float) -> bool:
        """Return whether an incomplete command arrives with less than `min_rate` bytes a second."""
        if self._midway is None:
            return False
        since, before, _ = self._midway
        return now > since + SLOW_S and self.came - before < min_rate * (now - since)
