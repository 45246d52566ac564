"""Messages between a worker and the process that opens containers for it.

Frames of msgpack over a pair of sockets, each after its length. Messages of the other side are
parsed strictly and within bounds: a hostile container may have taken over the process that opens
it. A descriptor comes with the frame that names its file. Digests go from this process to the
worker, and are never stored.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

import msgspec

from hashclient.containers.limits import Limits
from hashclient.containers.sandbox import Locks
from hashclient.core.model import Mail

#: Longest frame either side takes.
MAX_FRAME_BYTES = 8 << 20
#: A name in a container is cut after this many bytes; names in file systems are shorter.
MAX_NAME_BYTES = 4_096
#: The most rows in one frame, and the most bytes of their names.
ROWS_AT_ONCE = 512
NAMES_AT_ONCE_BYTES = 1 << 20
_LENGTH_BYTES = 4
#: In place of a size that is not claimed.
NO_CLAIM = -1


class Setup(msgspec.Struct, frozen=True, array_like=True, tag="setup"):
    """The first message to the process: its settings."""

    limits: Limits
    parent: int
    verify_sizes: bool = False
    passwords: tuple[bytes, ...] = ()


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The answer: which parts of the sandbox are in force."""

    locks: Locks


class Job(msgspec.Struct, frozen=True, array_like=True, tag="job"):
    """A file to be opened, whose descriptor comes with it.

    `any_mask` has the algorithms for members of an unknown size, and `one_mask` the algorithms for
    members of any size, if they are the same for all. With `forced`, no size rules out a member.
    """

    size: int
    any_mask: int
    one_mask: int | None
    forced: bool


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """The claimed sizes of a directory of members; `NO_CLAIM` if a member has none."""

    sizes: list[int]


class Masks(msgspec.Struct, frozen=True, array_like=True, tag="masks"):
    """The algorithms to compute for each member, 0 if no digest is needed."""

    masks: bytes


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One member of the container `number`; `name` is unchanged.

    The member was read, and `digests` are the digests of `mask`, joined; or it is `ruled_out`,
    because no entry has its claimed size (`exact` if the size is certain); or it was not read for
    the reason in `why`. A row without a name is about the other contents of the container. A row
    with a kind in `not_opened` says that its container is of that kind, and is not listed.
    """

    container: int
    name: bytes
    size: int | None
    mask: int = 0
    digests: bytes = b""
    ruled_out: bool = False
    exact: bool = False
    why: str | None = None
    detail: str = ""
    not_opened: str = ""


class Rows(msgspec.Struct, frozen=True, array_like=True, tag="rows"):
    """Members, and the containers among them: (number, number of the outer container, name, mail).

    The file itself is number 0. `mail` describes the container if it is a mail.
    """

    containers: list[tuple[int, int, bytes, Mail | None]]
    rows: list[Row]


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The end of a job.

    `is_tired` asks for a new process, because this process has used much processor time.
    """

    bytes_out: int
    is_tired: bool


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The process cannot work at all."""

    detail: str


ToChild = Setup | Job | Masks
ToWorker = Ready | Ask | Rows | Done | Failed
encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode


class BrokenError(Exception):
    """The other side is gone, or has sent an invalid message."""


class Channel:
    """One end of the pair of sockets, with frames and descriptors."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._fds: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def set_timeout(self, seconds: float | None) -> None:
        """Let each call below wait no longer; it raises TimeoutError then."""
        self._socket.settimeout(seconds)

    def send(self, message: ToChild | ToWorker, fds: Sequence[int] = ()) -> None:
        """Send a message, with descriptors.

        Raises:
            BrokenError: the other side is gone.
            TimeoutError: the other side does not read.
        """
        body = encode(message)
        frame = len(body).to_bytes(_LENGTH_BYTES, "little") + body
        try:
            if fds:
                sent = socket.send_fds(self._socket, [frame], list(fds))
                frame = frame[sent:]
            self._socket.sendall(frame)
        except TimeoutError:
            raise
        except OSError as error:
            raise BrokenError(str(error)) from error

    def receive(self) -> bytes:
        """Return the body of the next message; `take_fd` has the descriptor that came with it.

        Raises:
            BrokenError: the other side is gone, or the message is too long.
            TimeoutError: no message has come in time.
        """
        length = int.from_bytes(self._read(_LENGTH_BYTES), "little")
        if length > MAX_FRAME_BYTES:
            raise BrokenError("a message is too long")
        return self._read(length)

    def take_fd(self) -> int:
        """Return the descriptor that came with the last message.

        Raises:
            BrokenError: no descriptor came.
        """
        if len(self._fds) != 1:
            raise BrokenError("a message came without its file")
        return self._fds.pop()

    def _read(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, min(count, 1 << 20), 1)
            except TimeoutError:
                raise
            except OSError as error:
                raise BrokenError(str(error)) from error
            self._fds += fds
            if not data:
                raise BrokenError("it has ended")
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Close the socket, and descriptors that came over it and were not taken."""
        self._socket.close()
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()
