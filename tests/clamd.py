"""A simple client of clamd's protocol, and a daemon for the client."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hashclient.daemon.options import NoVerdict, Options, Paths
from tests.kit import arguments, environment

TIMEOUT_S = 60
#: Options for a daemon that a test creates as an object, without starting `serve`.
OPTIONS = Options(
    NoVerdict.FOUND,
    Paths.OWN,
    max_stream_bytes=1 << 30,
    idle_s=120.0,
    command_s=30.0,
    stream_s=3600.0,
    min_rate=1024,
    max_connections=64,
    user_share=50,
    kept_bytes=1 << 20,
    act=True,
    exceptions=True,
    containers=None,
    spool_bytes=1 << 20,
)


def instream(*chunks: bytes, prefix: bytes = b"z") -> bytes:
    """Return a command with a stream of these chunks."""
    end = b"\0" if prefix == b"z" else b"\n"
    parts = [len(chunk).to_bytes(4, "big") + chunk for chunk in chunks]
    return prefix + b"INSTREAM" + end + b"".join(parts) + bytes(4)


class Daemon:
    """A running daemon, with the addresses where it listens, and its warnings."""

    def __init__(
        self, process: subprocess.Popen[bytes], addresses: list[str], warnings: list[str]
    ) -> None:
        self.process = process
        self.addresses = addresses
        self.warnings = warnings
        #: The time in seconds that an answer may take.
        self.timeout_s: float = TIMEOUT_S

    @property
    def unix(self) -> str:
        """The path of the daemon's socket."""
        return next(a for a in self.addresses if a.startswith("unix:")).removeprefix("unix:")

    @property
    def tcp(self) -> tuple[str, int]:
        """The address and port of the daemon."""
        host, _, port = next(a for a in self.addresses if a[0].isdigit()).rpartition(":")
        return host, int(port)

    @property
    def metrics(self) -> str:
        """The address of the daemon's metrics."""
        return next(a for a in self.addresses if a.startswith("http:"))

    def connect(self, *, tcp: bool = False, uid: int | None = None) -> socket.socket:
        """Connect to the daemon, as another user if `uid` is given."""
        sock = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        sock.settimeout(self.timeout_s)
        with contextlib.nullcontext() if uid is None else acting(uid):
            sock.connect(self.tcp if tcp else self.unix)
        return sock

    def ask(self, *pieces: bytes, tcp: bool = False, uid: int | None = None) -> bytes:
        """Send pieces on a new connection, and return all bytes of the answer."""
        with self.connect(tcp=tcp, uid=uid) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    sock.sendall(piece)
            return everything(sock)

    def ask_descriptor(self, fd: int, form: bytes = b"z") -> bytes:
        """Ask about an open file."""
        with self.connect() as sock:
            sock.sendall(form + b"FILDES" + (b"\0" if form == b"z" else b"\n"))
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            sock.sendmsg([b"\0"], [rights])
            return everything(sock)

    def workers(self) -> list[int]:
        """Return the processes that serve clients."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def stop(self) -> int:
        """Stop the daemon, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


@contextlib.contextmanager
def acting(uid: int) -> Iterator[None]:
    """Act as another user within the block, so that a server sees this user as its client."""
    groups, gid, before = os.getgroups(), os.getegid(), os.geteuid()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)
        os.setegid(gid)
        os.setgroups(groups)


def everything(sock: socket.socket) -> bytes:
    """Return all bytes until the daemon closes the connection in any way."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def serving(
    state: Path, directory: Path, *options: object, env: dict[str, str] | None = None, **kwargs: Any
) -> Iterator[Daemon]:
    """Yield a daemon at a socket in `directory` and at a port; it is stopped at the end."""
    directory.mkdir(exist_ok=True)
    binds = ["--bind", f"unix:{directory / 's'}", "--bind", "127.0.0.1:0"]
    words = ["--state-dir", state, "serve", "--jobs", 2, "--format", "json", *binds, *options]
    with subprocess.Popen(
        arguments(*words),
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else b""
            ready = json.loads(line)
            yield Daemon(process, ready["addresses"], ready["warnings"])
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(TIMEOUT_S)
            process.kill()


def open_for_reading(path: Path) -> int:
    """Return a descriptor of a file, directory or FIFO."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
