"""One client: its bytes become requests, and its answers go back in the form it speaks.

A connection never waits: it is called when there are bytes to read or there is room to write. It
holds at most one command, the kept part of one stream, and answers that the client has not read
yet. While there are such answers, or many answers are still to come, it reads nothing more.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING

from hashclient.core.model import Outcome
from hashclient.daemon.counts import Count
from hashclient.daemon.descriptors import close_all, receive
from hashclient.daemon.host import STREAM
from hashclient.daemon.pace import HandedOver, Pace
from hashclient.daemon.protocol import (
    OF_PATHS,
    BrokenError,
    Chunk,
    Command,
    Event,
    Mark,
    Parser,
    Request,
    Whole,
    encoded,
)
from hashclient.daemon.uploads import Upload

if TYPE_CHECKING:
    from hashclient.daemon.doors import Peer
    from hashclient.daemon.host import Form, Host

#: How many answers of one session may be outstanding before no more commands are read.
MAX_PENDING = 64
#: Bytes of answers that a client may leave unread before no more commands are read from it.
MAX_OUT_BYTES = 1 << 16
#: Events handled at a time, and in one turn of the loop, so that other clients get their turn.
_EVENTS = 64
_TURN_EVENTS = 512
#: An old command without a delimiter counts as complete after this many silent seconds.
BARE_S = 0.1
#: For this long, and this many bytes, a dismissed client may go on sending: closing at once could
#: destroy the answer before the client reads it.
DRAIN_S = 2.0
DRAIN_BYTES = 16 << 20


class Connection:
    """A client that is connected."""

    def __init__(self, worker: Host, sock: socket.socket, peer: Peer) -> None:
        self._worker = worker
        self.peer = peer
        self._socket = sock
        self._is_unix = peer.is_local
        self._parser = Parser(worker.options.max_stream_bytes)
        self._in_session = False
        self._number = 0  # of the last command in a session
        self._pending = 0
        self._upload: Upload | None = None
        self._upload_form = (b"", b"\n")
        #: Those that came with the bytes being read, and whether these are the last.
        self._descriptors: list[int] = []
        self._is_last_event = False
        self._is_awaiting = False  # FILDES, before its descriptor has come
        #: Bytes that were read and have to wait, since too much work is open.
        self._rest = b""
        self._goes_on = self._bare_is_due = False
        self._out = bytearray()
        self._reading = self._writing = False
        self._corked = False  # answers wait, since the bytes read may hold more
        self._ending = False  # nothing more is read; closed when all is answered
        self._is_cut = False  # the client may still be sending bytes that are not wanted
        self._drained = 0
        self._drain_until: float | None = None
        self.last = time.monotonic()
        self._pace = Pace()
        self._files = HandedOver(worker, peer)
        self.is_closed = False
        self._listen()

    @property
    def waits_for_client(self) -> bool:
        """Whether the daemon is waiting for the client."""
        return bool(self._out) or self._is_fed or not self._pending

    @property
    def is_silent(self) -> bool:
        """Whether no request is open, and no answer is left to send."""
        return not (self._pending or self._out)

    @property
    def has_room(self) -> bool:
        """Whether there is room for more answers."""
        return len(self._out) <= MAX_OUT_BYTES

    def look(self, now: float) -> bool:
        """Note how fast it sends, once a second; return whether a command takes too long."""
        most_s = self._worker.options.command_s
        return self._pace.look(now, self._parser, self._number, most_s, reads=self._reading)

    def is_slow(self, now: float) -> bool:
        """Return whether the rest of its command comes very slowly."""
        return self._pace.is_slow(now, self._worker.options.min_rate)

    def stream_took(self, now: float) -> float:
        """Return the age of the present stream in seconds; 0 without one."""
        return 0.0 if self._upload is None else now - self._upload.began

    def readable(self) -> None:
        """Read the available bytes, once."""
        buffer = self._worker.buffer
        try:
            if self._is_unix:
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
        if self._drain_until is not None:
            self._drop_descriptors()
            self._drained += count
            if not count or now > self._drain_until or self._drained > DRAIN_BYTES:
                self.close()
            return
        if not count:
            self._ended()
            return
        parser, upload = self._parser, self._upload
        if upload is not None and parser.chunk_left >= count:
            # Most of a long stream needs no parsing.
            parser.chunk_left -= count
            upload.update(buffer[:count])
            self._drop_descriptors()
            return
        data = buffer[:count]
        if (
            self._in_session
            and not (self._pending or self._out or self._rest or self._ending)
            and (whole := parser.alone(data))
        ):
            # So come the streams of a client that waits for each answer: the shortest way.
            self._drop_descriptors()
            self._whole(whole)
            if self._out:
                self.writable()
            return
        self._feed(data)

    def _feed(self, data: memoryview) -> None:
        """Handle the bytes' requests, unless too much work is open already."""
        parser, used, events, broken = self._parser, 0, 0, None
        self._corked = True
        while used < len(data) and broken is None and not self._is_busy:
            if events >= _TURN_EVENTS:
                self._go_on_soon()
                break
            try:
                some = parser.feed(data[used:], _EVENTS)
                used += parser.used
            except BrokenError as error:
                some, broken = error.events, str(error)
            events += len(some)
            is_last = used == len(data) and parser.is_between
            for event in some:
                if type(event) is Whole:  # the usual case by far
                    self._whole(event)
                else:
                    self._is_last_event = is_last and event is some[-1]
                    self._take(event)
                if not self._in_session and self._has_all_requests:
                    break
        if broken is not None and not self._has_all_requests:
            self._broken(broken)
        self._corked = False
        if self._has_all_requests or used == len(data) or broken is not None:
            self._drop_descriptors()
        else:
            self._rest = bytes(data[used:])
        if self.is_closed:
            return
        if self._out or self._ending:
            self.writable()
        else:
            self._pause_if_busy()
        if parser.holds_bare and not self._bare_is_due:
            self._bare_is_due = True
            self._worker.later(BARE_S, self._bare)

    def _go_on_soon(self) -> None:
        if not self._goes_on:
            self._goes_on = True
            self._worker.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Go on with bytes that were read and had to wait."""
        self._goes_on = False
        rest, self._rest = self._rest, b""
        if rest and not self.is_closed:
            self._feed(memoryview(rest))

    def _drop_descriptors(self) -> None:
        close_all(self._descriptors)

    def _take(self, event: Event) -> None:
        """Handle one event."""
        if isinstance(event, Chunk):
            if self._upload is not None:
                self._upload.update(event.data)
        elif isinstance(event, Request):
            self._request(event)
        elif event is Mark.STREAM_END:
            upload, self._upload = self._upload, None
            if upload is not None:
                self._worker.ended(upload, self)
        else:
            self._descriptor()

    def _whole(self, event: Whole) -> None:
        """Answer a stream that has arrived whole; at once if it is clean."""
        prefix = b""
        if self._in_session:
            self._number += 1
            prefix = b"%d: " % self._number
        clean = self._worker.clean_answer(event.data)
        if clean is not None:
            self._out += prefix + clean + event.delimiter
            self._ending = not self._in_session
            return
        self._pending += 1
        upload = self._begin((prefix, event.delimiter))
        upload.update(event.data)
        self._worker.ended(upload, self)

    def _begin(self, form: Form) -> Upload:
        """Begin a stream; its answer has the form `form`."""

        def answered(found: Outcome | None) -> None:
            said = self._worker.answers(upload, found)
            self.answer(form, [f"{upload.name}: {text}" for text in said])

        upload = self._worker.upload(STREAM, self.peer, answered)
        return upload

    def _request(self, request: Request) -> None:
        command = request.command
        if self._in_session:
            if command is Command.END:
                self._finish()
                return
            self._number += 1
        prefix = b"%d: " % self._number if self._in_session else b""
        form = (prefix, request.delimiter)
        if command is Command.IDSESSION:
            self._in_session = True
        elif command is Command.INSTREAM:
            self._pending += 1
            self._upload_form = form
            self._upload = self._begin(form)
        elif command is Command.FILDES:
            self._pending += 1
            self._is_awaiting = True
            self._upload_form = form
        elif command is not None and command in OF_PATHS:
            self._pending += 1
            path = os.fsdecode(request.argument)
            self._worker.check_path(self, command, path, form)
        else:
            said = self._worker.say(command, self.peer)
            self._pending += 1
            self.answer(form, [said])

    def _descriptor(self) -> None:
        """Receive the descriptor that FILDES has announced.

        It comes with one byte of its own, and the kernel returns only that byte with it. A
        descriptor with other bytes might be for another command.
        """
        form, self._is_awaiting = self._upload_form, False
        if len(self._descriptors) != 1 or not self._is_last_event:
            self._drop_descriptors()
            self.answer(form, ["FD[-1]: No file descriptor received. ERROR"])
            return
        self._files.begin()
        self._worker.check_descriptor(self, self._descriptors.pop(), form)

    def file_ended(self) -> None:
        """Note that an open file which it has handed over is answered."""
        self._files.end()

    def answer(self, form: Form, lines: list[str], *, last: bool = True) -> None:
        """Send lines in answer to a command; with `last`, it is answered."""
        if self.is_closed:
            return
        prefix, delimiter = form
        for line in lines:
            self._out += prefix + encoded(line) + delimiter
        if last:
            self._pending -= 1
            if not self._in_session:
                self._ending = True
        if not self._corked:
            self._worker.flush(self)

    def writable(self) -> None:
        """Send waiting answers, as far as there is room."""
        sent = 0
        if self._out:
            try:
                sent = self._socket.send(self._out)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.close()
                return
            was_full = not self.has_room
            del self._out[:sent]
            if was_full and self.has_room:
                self._worker.has_room(self)
        if self._out:
            if sent:
                self.last = time.monotonic()
            if not self._writing:
                self._writing = True
                self._worker.loop.add_writer(self._socket, self.writable)
            self._pause_if_busy()
            return
        if self._writing:
            self._writing = False
            self._worker.loop.remove_writer(self._socket)
        if self._ending and not self._pending:
            self._hang_up()
        else:
            self._pause_if_busy()

    def _pause_if_busy(self) -> None:
        if self._drain_until is not None:
            return
        if self._is_busy:
            self._stop_listening()
        elif self._rest:
            self._stop_listening()
            self._go_on_soon()
        else:
            self._listen()

    @property
    def _is_busy(self) -> bool:
        """Whether no more requests are accepted for now."""
        return (
            self._pending >= MAX_PENDING
            or len(self._out) > MAX_OUT_BYTES
            or self._files.is_beyond
            or self._has_all_requests
        )

    @property
    def _has_all_requests(self) -> bool:
        """Whether no more requests are accepted at all."""
        if self._ending or self.is_closed:
            return True
        # Outside of a session a client sends one command; its stream is still to be read.
        return bool(self._pending) and not self._in_session and not self._is_fed

    @property
    def _is_fed(self) -> bool:
        """Whether the client still has to send the rest of its command."""
        return self._upload is not None or self._is_awaiting

    def _listen(self) -> None:
        if not self._reading and not self.is_closed:
            self._reading = True
            self._worker.loop.add_reader(self._socket, self.readable)

    def _stop_listening(self) -> None:
        if self._reading:
            self._reading = False
            self._worker.loop.remove_reader(self._socket)

    def _bare(self) -> None:
        """Treat an old command as complete, if no bytes have come since."""
        self._bare_is_due = False
        parser = self._parser
        # Late bytes would make it another path; after a path that was written at once, none come.
        is_whole = self._is_unix and not self._in_session and parser.holds_path_of_one_piece
        if self._has_all_requests or not parser.holds_bare or (parser.holds_path and not is_whole):
            return
        if time.monotonic() < self.last + BARE_S:
            self._bare_is_due = True
            self._worker.later(BARE_S, self._bare)
            return
        self._take(self._parser.bare())
        self._pause_if_busy()

    def _ended(self) -> None:
        """The client sends no more."""
        if self._parser.holds_bare:
            self._take(self._parser.bare())
        if self._is_fed:
            # The stream is cut short, so it has no verdict.
            self._worker.counts.add(Count.BROKEN)
            self.close()
            return
        self._finish()

    def _finish(self) -> None:
        """Read no more, answer open requests, and close."""
        self._ending = True
        self._stop_listening()
        if self.is_silent:
            self.close()

    def _broken(self, reason: str) -> None:
        """Dismiss a client that breaks the protocol or the limits."""
        form = self._upload_form if self._upload is not None else (b"", b"\0")
        if self._upload is not None:
            self._worker.release(self._upload)
            self._upload = None
            self._worker.counts.add(Count.TOO_LONG)
            said = [f"stream: {text}" for text in self._worker.without_verdict("Length", reason)]
        else:
            self._worker.counts.add(Count.BROKEN)
            said = [f"{reason} ERROR"]
            self._pending += 1
        self._in_session = self._is_awaiting = False
        self._is_cut = True
        self.answer(form, said)

    def give_up(self, reason: str) -> None:
        """Dismiss a client whose stream takes too long."""
        if self._upload is not None:
            self._broken(reason)

    def _hang_up(self) -> None:
        """Close, after the client has had time to read the answer."""
        if self._drain_until is not None:
            return
        if self._is_unix and not self._is_cut:  # sent bytes stay readable
            self.close()
            return
        self._drain_until = time.monotonic() + DRAIN_S
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._listen()
        self._worker.later(DRAIN_S, self.close)

    def close_if_gone(self) -> None:
        """Close if the client has closed; only a read shows this."""
        if self.is_closed or self._reading:
            return
        poll = select.poll()
        poll.register(self._socket, 0)
        if poll.poll(0):
            self.close()

    def close(self) -> None:
        """Close; later answers are dropped."""
        if self.is_closed:
            return
        self._stop_listening()
        if self._writing:
            self._worker.loop.remove_writer(self._socket)
        self.is_closed = True
        if self._upload is not None:
            self._worker.release(self._upload)
            self._upload = None
        self._rest = b""
        self._drop_descriptors()
        self._files.let_go()
        self._socket.close()
        self._worker.closed(self)
