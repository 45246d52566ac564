"""The messages between a worker and the process that opens containers for the worker.

Messages are sent over a socket pair as frames of msgpack; the length of each frame precedes the
frame. Each side limits the length of messages and refuses invalid messages, because a hostile
container may have taken over the process that opens containers. The descriptor of a file is sent
with the frame of its `Job`. Digests are sent from the process that opens containers to the worker,
and are never stored.
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

#: The longest frame that either side accepts, in bytes.
MAX_FRAME_BYTES = 8 << 20
#: The most bytes of a name in a container; longer names are cut, and names in file systems are
#: shorter.
MAX_NAME_BYTES = 4_096
#: `ROWS_AT_ONCE`: the most rows in one frame; `NAMES_AT_ONCE_BYTES`: the most bytes of their names.
ROWS_AT_ONCE = 512
NAMES_AT_ONCE_BYTES = 1 << 20
_LENGTH_BYTES = 4
#: The value of a size if the container claims no size.
NO_CLAIM = -1


class Setup(msgspec.Struct, frozen=True, array_like=True, tag="setup"):
    """The first message to the process that opens containers; it contains the settings."""

    limits: Limits
    parent: int
    verify_sizes: bool = False
    passwords: tuple[bytes, ...] = ()


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The answer to `Setup`: the parts of the sandbox that took effect."""

    locks: Locks


class Job(msgspec.Struct, frozen=True, array_like=True, tag="job"):
    """A file that is to be opened; its descriptor is sent with this message.

    `any_mask`: the digest algorithms (as a bit mask) for a member of unknown size. `one_mask`: the
    algorithms for a member of known size, or None if they depend on the size. `forced`: whether the
    digests of every member are computed, whatever its size is.
    """

    size: int
    any_mask: int
    one_mask: int | None
    forced: bool


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """The claimed sizes of the members of one directory.

    The size is `NO_CLAIM` for a member without a claimed size.
    """

    sizes: list[int]


class Masks(msgspec.Struct, frozen=True, array_like=True, tag="masks"):
    """The answer to `Ask`: for each member, a bit mask of the digest algorithms to compute.

    The mask is 0 if no entry has the size of the member, so that no digest is needed.
    """

    masks: bytes


class Row(msgspec.Struct, frozen=True, array_like=True):
    """The result for one member, whose unchanged name is `name`, in the container `container`.

    A row has one of three results. If the member was read, `digests` are the concatenated digests
    of the algorithms in `mask`. If no entry has the claimed size of the member, `ruled_out` is
    true, and `exact` says whether the size is certain. If the member was not read, `why` is the
    reason.

    A row without a name is about the rest of the container. If `not_opened` is a kind, the
    container itself is of this kind and was not opened.
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
    """Rows of members, and the new containers: (number, number of the outer container, name, mail).

    The number 0 is the file itself. `mail` describes the container if the container is a mail.
    """

    containers: list[tuple[int, int, bytes, Mail | None]]
    rows: list[Row]


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The message that ends a job; `bytes_out` is how many bytes were decoded.

    If `is_tired` is true, the worker replaces the process, because it has used much processor time.
    """

    bytes_out: int
    is_tired: bool


ToChild = Setup | Job | Masks
ToWorker = Ready | Ask | Rows | Done
encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode


class BrokenError(Exception):
    """The other side has closed the socket, or has sent an invalid message."""


class Channel:
    """One end of the socket pair; it sends and receives frames and file descriptors."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._fds: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def set_timeout(self, seconds: float | None) -> None:
        """Set how long each later call may wait; a call that waits longer raises `TimeoutError`."""
        self._socket.settimeout(seconds)

    def send(self, message: ToChild | ToWorker, fds: Sequence[int] = ()) -> None:
        """Send a message, together with the descriptors `fds`.

        Raises:
            BrokenError: the other side has closed the socket.
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
        """Return the bytes of the next message; `take_fd` then returns a descriptor sent with it.

        Raises:
            BrokenError: the other side has closed the socket, or the message is too long.
            TimeoutError: no message has arrived in time.
        """
        length = int.from_bytes(self._read(_LENGTH_BYTES), "little")
        if length > MAX_FRAME_BYTES:
            raise BrokenError("a message is too long")
        return self._read(length)

    def take_fd(self) -> int:
        """Return the descriptor that was sent with the last message.

        Raises:
            BrokenError: no descriptor was sent.
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
        """Close the socket, and the received descriptors that were not taken."""
        self._socket.close()
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()
