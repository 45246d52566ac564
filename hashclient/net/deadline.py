"""Sockets whose operations all end before a deadline.

httpx and httpcore limit each socket operation, but not the sum of all operations, so a server that
sends one byte a second could keep a client busy for ever. This module limits the sum of all
operations. `BoundedBackend` is a network backend of httpcore. Each operation of the backend (name
lookup, connect, TLS handshake, read, write) may take at most the time that is left until the
`Deadline` of the calling thread. The backend knows nothing about HTTP. A name lookup cannot be
interrupted, so it runs in a daemon thread, which is abandoned if the lookup takes too long.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import httpcore
import msgspec

from hashclient.core.patience import ATTEMPTS, MIN_RATE_KIB_S, TIMEOUT_S
from hashclient.system.background import Task

# The tuples that `socket.getaddrinfo` returns: family, kind, protocol, canonical name and address.
Resolved = Sequence[tuple[int, int, int, str, Any]]
Resolve = Callable[[str, int, int, int], Resolved]


class Limits(msgspec.Struct, frozen=True):
    """The time limits and the number of attempts of the transport.

    An attempt may take `base_s` seconds until its headers are complete, and one more second for
    each `min_rate` bytes of the body. A single read of the body may take at most `stall_s` seconds.
    There are at most `attempts` attempts; the waits between them double from `backoff_s` to
    `backoff_max_s` (with full jitter), and all waits together are shorter than `retry_total_s`.
    """

    base_s: float = TIMEOUT_S
    stall_s: float = 20.0
    min_rate: float = MIN_RATE_KIB_S * 1024
    attempts: int = ATTEMPTS
    backoff_s: float = 0.5
    backoff_max_s: float = 20.0
    retry_total_s: float = 120.0


class DeadlineExceededError(httpcore.TimeoutException):
    """The time for the whole attempt is over."""


class Deadline:
    """The end of one attempt, and the longest time of one operation."""

    def __init__(self, monotonic: Callable[[], float], seconds: float) -> None:
        """Start measuring the time now."""
        self._monotonic = monotonic
        self._ends = monotonic() + seconds
        self.stall_s = math.inf

    def begin_body(self, seconds: float, stall_s: float) -> None:
        """Allow `seconds` more for the body, and at most `stall_s` for one operation."""
        self._ends += seconds
        self.stall_s = stall_s

    def left(self) -> float:
        """Return the time that is left, in seconds.

        Raises:
            DeadlineExceededError: no time is left.
        """
        left = self._ends - self._monotonic()
        if left <= 0:
            raise DeadlineExceededError
        return left

    def operation(self) -> float:
        """Return the time that the next operation may take, in seconds.

        Raises:
            DeadlineExceededError: no time is left.
        """
        return min(self.left(), self.stall_s)


class _Current(threading.local):
    """The deadline of the calling thread; httpcore does all work of a request in this thread."""

    deadline: Deadline


class BoundedBackend(httpcore.NetworkBackend):
    """Opens connections that obey the calling thread's deadline; timeout arguments are ignored."""

    def __init__(self, resolve: Resolve = socket.getaddrinfo) -> None:
        """Use `resolve` (host, port, family, kind) to look up hosts.

        `resolve` may block for ever.
        """
        self._resolve = resolve
        self._current = _Current()

    @contextlib.contextmanager
    def within(self, deadline: Deadline) -> Iterator[None]:
        """Make `deadline` the deadline of this thread during the block."""
        outer = getattr(self._current, "deadline", None)
        self._current.deadline = deadline
        try:
            yield
        finally:
            if outer is None:
                del self._current.deadline
            else:
                self._current.deadline = outer

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host` that answers."""
        deadline = self._current.deadline
        addresses = self._lookup(host, port, deadline)
        failure: OSError | None = None
        for position, (family, kind, protocol, _, address) in enumerate(addresses):
            # Each address gets an equal share of the remaining time, so that a silent address
            # leaves time for the next addresses.
            share = deadline.left() / (len(addresses) - position)
            try:
                sock = _connect(family, kind, protocol, address, share)
            except OSError as error:
                failure = error
                continue
            return BoundedStream(sock, self._current)
        if isinstance(failure, TimeoutError):
            # The last address was given all the remaining time, so the deadline has passed.
            raise DeadlineExceededError from failure
        raise httpcore.ConnectError(failure) from failure

    def _lookup(self, host: str, port: int, deadline: Deadline) -> Resolved:
        task = Task(lambda: self._resolve(host, port, 0, socket.SOCK_STREAM), "lookup")
        if not task.wait(deadline.left()):
            raise DeadlineExceededError
        try:
            return task.result()
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(error) from error


def _connect(family: int, kind: int, protocol: int, address: Any, timeout: float) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        sock.close()
        raise
    return sock


class BoundedStream(httpcore.NetworkStream):
    """A connection whose operations obey the deadline of the thread that uses it."""

    def __init__(self, sock: socket.socket, current: _Current) -> None:
        """Use the connected socket `sock`, and close it at the end."""
        self._sock = sock
        self._current = current

    @contextlib.contextmanager
    def _operation(self, failure: type[Exception], timed_out: type[Exception]) -> Iterator[None]:
        deadline = self._current.deadline
        granted = deadline.operation()
        try:
            self._sock.settimeout(granted)
            yield
        except TimeoutError as error:
            if granted < deadline.stall_s:
                raise DeadlineExceededError from error
            raise timed_out(error) from error
        except OSError as error:
            raise failure(error) from error

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at most `max_bytes`.

        No bytes mean that the server has closed the connection properly.
        """
        with self._operation(httpcore.ReadError, httpcore.ReadTimeout):
            return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of `buffer`."""
        view = memoryview(buffer)
        while view:
            with self._operation(httpcore.WriteError, httpcore.WriteTimeout):
                view = view[self._sock.send(view) :]

    def close(self) -> None:
        """Close the connection; errors are ignored."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Return this connection under TLS; close it if the handshake fails."""
        try:
            with self._operation(httpcore.ConnectError, httpcore.ConnectTimeout):
                # A connection that is closed without TLS's closing message is an error, because an
                # attacker on the network could otherwise shorten a body that has no length.
                secured = ssl_context.wrap_socket(
                    self._sock,
                    server_hostname=server_hostname,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,
                )
                self._sock = secured
                secured.do_handshake()
        except BaseException:
            self.close()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        """Return the TLS socket, or whether an idle connection has data, as httpcore requests."""
        if info == "ssl_object":
            return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
        if info == "is_readable":
            return self._is_readable()
        return None

    def _is_readable(self) -> bool:
        if self._sock.fileno() < 0:
            return True
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))
