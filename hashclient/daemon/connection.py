"""One client: its bytes become requests, and its answers go back in the form it speaks.

A connection never waits: it is told when there is something to read or room to write. It holds no
more than one command, what a stream keeps of itself, and answers that the client has not read yet;
while there are such, or many that are still to come, nothing more is read.
"""

from __future__ import annotations

import array
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hashclient.core.model import Outcome
from hashclient.daemon.counts import Count
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
)
from hashclient.daemon.uploads import Upload

if TYPE_CHECKING:
    import asyncio

    from hashclient.daemon.counts import Row
    from hashclient.daemon.options import Options

#: What a reply begins and ends with.
Form = tuple[bytes, bytes]

#: Answers of one session that may be missing before no more commands are read from it.
MAX_PENDING = 64
#: Bytes of answers that a client may leave unread before no more commands are read from it.
MAX_OUT_BYTES = 1 << 20
#: Descriptors that may come at once: FILDES has one, and is answered before the next is read.
_MAX_DESCRIPTORS = 4
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
#: An old command without a delimiter counts as complete when nothing has come for so long.
BARE_S = 0.1
#: For so long, and so many bytes, a client that is sent away may go on sending: closing at once
#: would take the answer from it.
DRAIN_S = 2.0
DRAIN_BYTES = 16 << 20


class Host(Protocol):
    """Who has the connections: `Worker` is the one there is."""

    options: Options
    counts: Row
    #: What every connection reads into; it is used up before the next one reads.
    buffer: memoryview
    loop: asyncio.AbstractEventLoop

    @property
    def clean_answer(self) -> bytes:
        """What is said of a stream that matches nothing."""
        ...

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` after so many seconds."""
        ...

    def upload(self, name: str, answered: Callable[[Outcome | None], None]) -> Upload:
        """Begin a stream."""
        ...

    def ended(self, upload: Upload) -> None:
        """Take a stream that has come to its end."""
        ...

    def is_surely_clean(self, data: memoryview) -> bool:
        """Tell of most streams that are there as a whole and match nothing; count those."""
        ...

    def answers(self, outcome: Outcome | None) -> list[str]:
        """Return what is said of an input; None is a clean one."""
        ...

    def without_verdict(self, word: str, reason: str) -> list[str]:
        """Return what is said of an input that was not read for a reason of the daemon's."""
        ...

    def say(self, command: Command | None, *, is_unix: bool) -> str:
        """Return the answer to a command that is about the daemon itself."""
        ...

    def check_path(self, connection: Connection, command: Command, path: str, form: Form) -> None:
        """Check what is at a path, and answer."""
        ...

    def check_descriptor(self, connection: Connection, fd: int, form: Form) -> None:
        """Check the file that a descriptor is, and answer."""
        ...

    def flush(self, connection: Connection) -> None:
        """Let a connection write what it has to say, soon."""
        ...

    def closed(self, connection: Connection) -> None:
        """Take note that a connection is closed."""
        ...


class Connection:
    """A client that is connected."""

    def __init__(self, worker: Host, sock: socket.socket, *, is_unix: bool) -> None:
        self._worker = worker
        self._socket = sock
        self._is_unix = is_unix
        self._parser = Parser(worker.options.max_stream_bytes)
        self._in_session = False
        self._number = 0  # of the last command in a session
        self._pending = 0
        self._upload: Upload | None = None
        self._upload_form = (b"", b"\n")
        self._descriptors: deque[int] = deque()
        self._awaiting: Request | None = None  # FILDES, before its descriptor has come
        self._out = bytearray()
        self._reading = self._writing = False
        self._corked = False  # answers wait, since more may come of what was read
        self._ending = False  # nothing more is read; closed when all is answered
        self._drained = 0
        self._drain_until: float | None = None
        self.last = time.monotonic()
        self.is_closed = False
        self._listen()

    @property
    def is_idle(self) -> bool:
        """Whether it is the client that keeps us waiting."""
        return not self._pending

    def stream_took(self, now: float) -> float:
        """Return for how many seconds a stream has been coming; 0 without one."""
        return 0.0 if self._upload is None else now - self._upload.began

    def readable(self) -> None:
        """Read what there is, once."""
        buffer = self._worker.buffer
        try:
            if self._is_unix:
                count = self._receive(buffer)
            else:
                count = self._socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        now = self.last = time.monotonic()
        if self._drain_until is not None:
            self._drained += count
            if not count or now > self._drain_until or self._drained > DRAIN_BYTES:
                self.close()
            return
        if not count:
            self._ended()
            return
        parser, upload = self._parser, self._upload
        if upload is not None and parser.chunk_left >= count:
            # Most of a long stream: nothing to be looked at.
            parser.chunk_left -= count
            upload.digester.update(buffer[:count])
            return
        self._corked = True
        broken = None
        try:
            events = parser.feed(buffer[:count])
        except BrokenError as error:
            events, broken = error.events, str(error)
        for event in events:
            self._take(event)
            if self.is_closed or self._ending:
                break
        else:
            if broken is not None:
                self._broken(broken)
        self._corked = False
        if self.is_closed:
            return
        if self._out or self._ending:
            self.writable()
        if parser.holds_bare:
            self._worker.later(BARE_S, self._bare)

    def _receive(self, buffer: memoryview) -> int:
        """Read bytes, and the descriptors that come with them."""
        count, ancillary, _, _ = self._socket.recvmsg_into(
            [buffer], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                self._descriptors.extend(numbers)
        while len(self._descriptors) > _MAX_DESCRIPTORS:
            os.close(self._descriptors.pop())
        return count

    def _take(self, event: Event) -> None:
        """Do what one event asks for."""
        if isinstance(event, Whole):
            self._whole(event)
        elif isinstance(event, Chunk):
            if self._upload is not None:
                self._upload.digester.update(event.data)
        elif isinstance(event, Request):
            self._request(event)
        elif event is Mark.STREAM_END:
            upload, self._upload = self._upload, None
            if upload is not None:
                self._worker.ended(upload)
        else:
            self._descriptor()

    def _whole(self, event: Whole) -> None:
        """Answer a stream that is there as a whole, at once if it is clean."""
        prefix = b""
        if self._in_session:
            self._number += 1
            prefix = b"%d: " % self._number
        if self._worker.is_surely_clean(event.data):
            self._out += prefix + self._worker.clean_answer + event.delimiter
            self._ending = not self._in_session
            return
        form = (prefix, event.delimiter)
        self._pending += 1
        upload = self._worker.upload("stream", lambda found: self._told(form, found))
        upload.digester.update(event.data)
        self._worker.ended(upload)

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
            self._upload = self._worker.upload("stream", lambda found: self._told(form, found))
        elif command is Command.FILDES:
            self._pending += 1
            self._awaiting = request
            self._upload_form = form
        elif command is not None and command in OF_PATHS:
            self._pending += 1
            path = os.fsdecode(request.argument)
            self._worker.check_path(self, command, path, form)
        else:
            said = self._worker.say(command, is_unix=self._is_unix)
            self._pending += 1
            self.answer(form, [said])
        self._pause_if_busy()

    def _told(self, form: Form, found: Outcome | None) -> None:
        self.answer(form, [f"stream: {text}" for text in self._worker.answers(found)])

    def _descriptor(self) -> None:
        """Take up the descriptor that FILDES has announced."""
        form, self._awaiting = self._upload_form, None
        if not self._descriptors:
            self.answer(form, ["FD[-1]: No file descriptor received. ERROR"])
            return
        self._worker.check_descriptor(self, self._descriptors.popleft(), form)

    def answer(self, form: Form, lines: list[str], *, last: bool = True) -> None:
        """Send lines in answer to a command; with `last`, it is answered."""
        if self.is_closed:
            return
        prefix, delimiter = form
        for line in lines:
            self._out += prefix + line.encode("utf-8", "surrogateescape") + delimiter
        if last:
            self._pending -= 1
            if not self._in_session or (self._ending and not self._pending):
                self._ending = True
        if not self._corked:
            self._worker.flush(self)

    def writable(self) -> None:
        """Write what there is to say, as far as there is room."""
        if self._out:
            try:
                sent = self._socket.send(self._out)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.close()
                return
            del self._out[:sent]
        if self._out:
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
        elif not self._ending:
            self._pause_if_busy()

    def _pause_if_busy(self) -> None:
        busy = self._pending >= MAX_PENDING or len(self._out) > MAX_OUT_BYTES or self._ending
        # Outside of a session one command is all there is; its stream is still to be read.
        if not self._in_session and self._pending and not self._is_fed:
            busy = True
        if busy:
            self._stop_listening()
        else:
            self._listen()

    @property
    def _is_fed(self) -> bool:
        """Whether the client still has to send what its command announced."""
        return self._upload is not None or self._awaiting is not None

    def _listen(self) -> None:
        if not self._reading and not self.is_closed:
            self._reading = True
            self._worker.loop.add_reader(self._socket, self.readable)

    def _stop_listening(self) -> None:
        if self._reading:
            self._reading = False
            self._worker.loop.remove_reader(self._socket)

    def _bare(self) -> None:
        """Take an old command for complete, if nothing has come since."""
        if self.is_closed or self._ending or not self._parser.holds_bare:
            return
        if time.monotonic() < self.last + BARE_S:
            self._worker.later(BARE_S, self._bare)
            return
        self._take(self._parser.bare())

    def _ended(self) -> None:
        """The client sends no more."""
        if self._parser.holds_bare:
            self._take(self._parser.bare())
        elif self._is_fed:
            # Cut short: nothing is known of it.
            self._worker.counts.add(Count.BROKEN)
            self.close()
            return
        self._finish()

    def _finish(self) -> None:
        """Read no more, answer what is open, and close."""
        self._ending = True
        self._stop_listening()
        if not self._pending and not self._out:
            self.close()

    def _broken(self, reason: str) -> None:
        """Send a client away that does not keep to the protocol, or to the limits."""
        form = self._upload_form if self._upload is not None else (b"", b"\0")
        if self._upload is not None:
            self._upload = None
            self._worker.counts.add(Count.TOO_LONG)
            said = [f"stream: {text}" for text in self._worker.without_verdict("Length", reason)]
        else:
            self._worker.counts.add(Count.BROKEN)
            said = [f"{reason} ERROR"]
            self._pending += 1
        self._in_session = False
        self.answer(form, said)

    def give_up(self, reason: str) -> None:
        """Send a client away whose stream takes too long."""
        if self._upload is not None:
            self._broken(reason)

    def _hang_up(self) -> None:
        """Close, once the client has had the time to read what was said."""
        if self._drain_until is not None:
            return
        if self._is_unix:  # what was sent stays readable there
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

    def close(self) -> None:
        """Close; answers that come later go nowhere."""
        if self.is_closed:
            return
        self._stop_listening()
        if self._writing:
            self._worker.loop.remove_writer(self._socket)
        self.is_closed = True
        self._upload = None
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._socket.close()
        self._worker.closed(self)
