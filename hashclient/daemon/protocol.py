"""Parses clamd's protocol: turns the bytes of a client into requests and chunks, without I/O.

The protocol of clamd(8) has these rules:

- A command begins with `z` and ends with a null byte, or begins with `n` and ends with a newline.
- A command in the old form begins with neither letter. A command in the old form ends with a
  newline or, as in clamd, at the end of the bytes that were sent together.
- A reply ends with the same delimiter as its command.
- The command INSTREAM is followed by chunks. A chunk is a length of four bytes in network order,
  followed by the content of this length; a length of 0 ends the stream.
- The command FILDES is followed by a descriptor with one byte.
- The command IDSESSION keeps the connection open for many commands. Each reply begins with the
  number of its command, and replies may be sent in any order.

The parser accepts bytes in pieces of any size.
"""

from __future__ import annotations

import enum
import re
import sys

import msgspec

#: The length of the longest command in bytes: the name of the command, and a path of PATH_MAX
#: bytes.
MAX_COMMAND_BYTES = 4096 + 32
_LENGTH_BYTES = 4
_DELIMITERS = {ord("z"): b"\0", ord("n"): b"\n"}


class Command(enum.Enum):
    """The commands of clamd's protocol; the value is the word that clients send."""

    PING = b"PING"
    VERSION = b"VERSION"
    VERSIONCOMMANDS = b"VERSIONCOMMANDS"
    SCAN = b"SCAN"
    CONTSCAN = b"CONTSCAN"
    MULTISCAN = b"MULTISCAN"
    ALLMATCHSCAN = b"ALLMATCHSCAN"
    INSTREAM = b"INSTREAM"
    FILDES = b"FILDES"
    IDSESSION = b"IDSESSION"
    END = b"END"
    STATS = b"STATS"
    RELOAD = b"RELOAD"
    SHUTDOWN = b"SHUTDOWN"


#: Commands that have a path as their argument.
OF_PATHS = frozenset({Command.SCAN, Command.CONTSCAN, Command.MULTISCAN, Command.ALLMATCHSCAN})
_BY_WORD = {command.value: command for command in Command}


class Request(msgspec.Struct, frozen=True):
    """A command of a client; `command` is None for an unknown command."""

    command: Command | None
    argument: bytes
    delimiter: bytes


class Chunk(msgspec.Struct, frozen=True):
    """Bytes of a stream, which are valid until the next read; empty at the end of the stream."""

    data: memoryview


class Whole(msgspec.Struct, frozen=True):
    """A whole stream of one chunk, sent by INSTREAM; its bytes are valid until the next read."""

    data: memoryview
    delimiter: bytes


class Broken(msgspec.Struct, frozen=True):
    """The client broke the protocol, so no more bytes can be parsed; `reason` is for the reply."""

    reason: str


Event = Request | Chunk | Whole | Broken

#: The bytes with which nearly every client begins a stream, by the first byte.
_BEGINNINGS = {ord("z"): b"zINSTREAM\0", ord("n"): b"nINSTREAM\n"}
_BEGINNING_BYTES = 10
_DATA_AT = _BEGINNING_BYTES + _LENGTH_BYTES
_BARE_END = re.compile(rb"[\n\0]")
_NO_MORE = b"\0\0\0\0"


class Parser:
    """Turns the bytes of one connection into events.

    `chunk_left` is the number of missing bytes of the present chunk, which the caller may handle
    without the parser. `used` is the number of bytes that the last call of `feed` has parsed.
    """

    def __init__(self, max_stream_bytes: int | None = None) -> None:
        """Accept streams of at most `max_stream_bytes` bytes; None means no limit."""
        self._max = max_stream_bytes
        self._held = b""  # the bytes of an incomplete command or length of a chunk
        self._is_one_piece = False  # whether `_held` was received in one piece
        #: Whether a stream has begun and has not ended.
        self.in_stream = False
        self._stream_bytes = 0
        #: The command FILDES while the byte of its descriptor is missing; otherwise None.
        self._fildes: Request | None = None
        self.chunk_left = 0
        self.used = 0

    @property
    def wants_descriptor(self) -> bool:
        """Whether the next byte belongs to the descriptor of a command FILDES."""
        return self._fildes is not None

    @property
    def is_between(self) -> bool:
        """Whether the next byte is the beginning of a command."""
        return not (self._held or self.in_stream or self._fildes)

    @property
    def holds_bare(self) -> bool:
        """Whether a command in the old form is incomplete; its delimiter may never come."""
        return bool(self._held) and not self.in_stream and self._held[0] not in _DELIMITERS

    @property
    def holds_path(self) -> bool:
        """Whether the incomplete command has an argument; a cut path would name another file."""
        return b" " in self._held

    @property
    def holds_path_of_one_piece(self) -> bool:
        """Whether the incomplete command has an absolute path, and was received in one piece."""
        return b" /" in self._held and self._is_one_piece

    def feed(self, data: memoryview, most: int = sys.maxsize) -> list[Event]:
        """Parse the next bytes, and return the events that they complete, at most `most` events.

        Chunks are views of `data`. After an event `Broken`, no more events are returned.
        """
        events: list[Event] = []
        at, end = 0, len(data)
        while at < end and len(events) < most:
            if self.chunk_left:
                take = min(self.chunk_left, end - at)
                events.append(Chunk(data[at : at + take]))
                self.chunk_left -= take
                at += take
            elif self.in_stream:
                at = self._length(data, at, events)
            elif self._fildes is not None:
                events.append(self._fildes)
                self._fildes = None
                at += 1
            elif not self._held and (whole := self._whole(data, at, end)) is not None:
                events.append(whole)
                at += _DATA_AT + len(whole.data) + _LENGTH_BYTES
            else:
                at = self._command(data, at, events)
        self.used = at
        return events

    def alone(self, data: memoryview) -> Whole | None:
        """Return a stream if `data` is exactly one whole stream of one chunk; otherwise None."""
        if not self.is_between:
            return None
        whole = self._whole(data, 0, len(data))
        if whole is None or len(whole.data) != len(data) - _DATA_AT - _LENGTH_BYTES:
            return None
        return whole

    def _whole(self, data: memoryview, at: int, end: int) -> Whole | None:
        """Return the stream of one chunk that is complete at the offset `at` of `data`, or None."""
        if end - at < _DATA_AT + _LENGTH_BYTES:
            return None
        first = data[at]
        if bytes(data[at : at + _BEGINNING_BYTES]) != _BEGINNINGS.get(first):
            return None
        after = at + _DATA_AT + int.from_bytes(data[at + _BEGINNING_BYTES : at + _DATA_AT], "big")
        if data[after : after + _LENGTH_BYTES] != _NO_MORE:
            return None  # the stream has several chunks, is incomplete, or is empty
        chunk = data[at + _DATA_AT : after]
        if not chunk or (self._max is not None and len(chunk) > self._max):
            return None
        return Whole(chunk, _DELIMITERS[first])

    def bare(self) -> list[Event]:
        """Return the event of a command in the old form that has no delimiter."""
        events: list[Event] = []
        line, self._held = self._held, b""
        self._request(line, b"\n", events)
        return events

    def _length(self, data: memoryview, at: int, events: list[Event]) -> int:
        """Parse the length of a chunk, or the rest of an incomplete length."""
        need = _LENGTH_BYTES - len(self._held)
        head = self._held + bytes(data[at : at + need])
        if len(head) < _LENGTH_BYTES:
            self._held = head
            return len(data)
        self._held = b""
        length = int.from_bytes(head, "big")
        if length:
            self._stream_bytes += length
            if self._max is not None and self._stream_bytes > self._max:
                events.append(Broken("INSTREAM size limit exceeded."))
                return len(data)
            self.chunk_left = length
        else:
            self.in_stream = False
            events.append(Chunk(data[:0]))
        return at + need

    def _command(self, data: memoryview, at: int, events: list[Event]) -> int:
        """Parse a command, or the rest of an incomplete command."""
        # Only the bytes of the longest possible command are copied, because a command is short, but
        # many bytes may follow it.
        piece = bytes(data[at : at + MAX_COMMAND_BYTES])
        line = self._held + piece
        delimiter = _DELIMITERS.get(line[0], b"\n")
        if line[0] in _DELIMITERS:
            place = line.find(delimiter, len(self._held))
        else:  # a newline or a null byte ends the command
            found = _BARE_END.search(line, len(self._held))
            place = -1 if found is None else found.start()
        if place < 0:
            if len(line) >= MAX_COMMAND_BYTES:
                events.append(Broken("COMMAND TOO LONG."))
                return len(data)
            self._is_one_piece = not self._held
            self._held = line
            return at + len(piece)
        used = place + 1 - len(self._held)
        self._held = b""
        if place:
            self._request(line[:place], delimiter, events)
        return at + used

    def _request(self, line: bytes, delimiter: bytes, events: list[Event]) -> None:
        if line[:1] in (b"z", b"n"):
            line = line[1:]
        word, _, argument = line.partition(b" ")
        if delimiter == b"\n" and word not in _BY_WORD:
            word = word.rstrip(b"\r")
        # A path is not stripped, because the name of a file may end with any character.
        request = Request(_BY_WORD.get(word), argument, delimiter)
        if request.command is Command.FILDES:
            self._fildes = request
            return
        if request.command is Command.INSTREAM:
            self.in_stream, self._stream_bytes = True, 0
        events.append(request)


_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")
PREFIX = "Hashclient"
#: The beginning of the names by which clamd reports content that it could not check; some clients
#: do not treat such a name as a virus.
NO_VERDICT = f"Heuristics.Limits.Exceeded.{PREFIX}"


def signature(*words: str) -> str:
    """Return the name of a match: words joined by dots, with safe characters only."""
    return ".".join([PREFIX, *(_NOT_IN_NAMES.sub("_", word) for word in words)])


def no_verdict(reason: str) -> str:
    """Return the name for an input without a verdict; `reason` is a single word."""
    return f"{NO_VERDICT}.{reason}"


def encoded(line: str) -> bytes:
    """Return a line of an answer as bytes; file names get the bytes that they have on the disk."""
    try:
        return line.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate, which a name in an archive may have
        return line.encode("utf-8", "backslashreplace")
