"""One process of the daemon: how the process serves, ends, and goes on without a descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashclient import __version__
from hashclient.config.settings import Config, Settings
from hashclient.daemon.counts import Counts
from hashclient.daemon.options import UnixAddress
from hashclient.daemon.sockets import listen
from hashclient.daemon.worker import GRACE_S, SWEEP_S, Worker
from hashclient.session import Session
from tests.clamd import OPTIONS, instream
from tests.kit import csv_of, make_state
from tests.kit.attacker import open_ground

LISTED, CLEAN = b"a benign file that is listed", b"an ordinary one"


class Served:
    """A worker that serves one client; both run in this process and in one loop."""

    def __init__(self, directory: Path, path: Path, stack: contextlib.ExitStack) -> None:
        state = make_state(directory, {"base": csv_of({"e-1": LISTED})})
        settings = Settings(state, state / "config.toml", None, Config())
        session = Session(settings, now=lambda: datetime.now(UTC), environ={})
        listener = listen(UnixAddress(path), 0o600, stack)
        stack.callback(listener.close)
        listener.setblocking(False)
        self.path, self.counts = path, Counts(1)
        row = self.counts.row(0)
        self.worker = Worker(session, [(listener, "unix:/s")], OPTIONS, row, os.getppid())

    def ask(self, talk: Callable[[Talk], Coroutine[Any, Any, None]]) -> None:
        """Let a client talk, and then end the worker; fail if the client does not close."""
        loop = self.worker.checks.loop

        async def client() -> None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                sock.connect(str(self.path))
                await talk(Talk(loop, sock))

        task = loop.create_task(client())
        task.add_done_callback(lambda _: None if self.worker.checks.is_stopping else stop())
        self.worker.run()
        task.result()


class Talk:
    """What a client sends and receives."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop, self._sock = loop, sock
        self._got = b""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def answer(self) -> bytes:
        """Return the next answer; what came without an end, at the end."""
        while b"\0" not in self._got and (more := await self._loop.sock_recv(self._sock, 999)):
            self._got += more
        answer, _, self._got = self._got.partition(b"\0")
        return answer


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open_ground() as ground, contextlib.ExitStack() as stack:
        yield Served(tmp_path, ground / "socket", stack)
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)


def test_streams_of_a_session_are_answered_by_their_numbers_and_timed(served: Served) -> None:
    async def talk(client: Talk) -> None:
        await client.send(b"zIDSESSION\0" + instream(CLEAN))
        assert await client.answer() == b"1: stream: OK"
        await client.send(instream(LISTED) + instream(CLEAN[:3], CLEAN[3:]))
        answers = sorted([await client.answer(), await client.answer()])
        assert answers[0].startswith(b"2: stream: ") and answers[0].endswith(b" FOUND")
        assert answers[1] == b"3: stream: OK"

    began = time.monotonic()
    served.ask(talk)
    counted, seconds = served.counts.times()
    assert counted[-1] == 3 and 0 <= seconds < time.monotonic() - began


def test_a_client_is_told_which_lists_are_compared(served: Served) -> None:
    async def talk(client: Talk) -> None:
        await client.send(b"zIDSESSION\0zVERSION\0zVERSIONCOMMANDS\0")
        for number in (1, 2):
            said = (await client.answer()).decode().split("/")
            assert said[:2] == [f"{number}: hashclient {__version__}", "base:1"]

    served.ask(talk)


def test_a_command_without_an_end_is_answered_when_no_more_comes(served: Served) -> None:
    async def talk(client: Talk) -> None:
        for byte in b"PING":
            await client.send(bytes([byte]))
            for _ in range(9):
                await asyncio.sleep(0)  # it is read
        assert await client.answer() == b"PONG\n"

    served.ask(talk)


def test_a_stream_that_comes_while_it_is_stopped_is_answered(served: Served) -> None:
    stream = instream(LISTED)

    async def talk(client: Talk) -> None:
        # The answer shows that the stream behind the command has begun.
        await client.send(b"zIDSESSION\0zPING\0" + stream[:-20])
        assert await client.answer() == b"1: PONG"
        stop()
        while not served.worker.checks.is_stopping:
            await asyncio.sleep(0)
        await client.send(stream[-20:])
        assert (await client.answer()).startswith(b"2: stream: ")

    served.ask(talk)


def test_without_a_client_it_ends_at_once(served: Served) -> None:
    served.worker.checks.loop.call_soon(stop)
    began = time.monotonic()
    served.worker.run()
    assert time.monotonic() - began < GRACE_S


class Loop:
    """A loop that notes which descriptors it would watch, and what it would do later."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def add_reader(self, listener: socket.socket, *_: Any) -> None:
        self.readers.append(listener)

    def remove_reader(self, listener: socket.socket) -> None:
        self.readers.remove(listener)

    def call_later(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        self.later.append((seconds, functools.partial(do, *args)))


class Full:
    """A socket at which no descriptor is left for a connection."""

    def accept(self) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_without_a_descriptor_it_does_not_ask_again_before_there_may_be_one() -> None:
    """The loop would find the listening socket ready all the time, and take all of a processor."""
    worker = Worker.__new__(Worker)
    loop: Any = Loop()
    listener: Any = Full()
    worker._loop, worker.checks = loop, cast(Any, SimpleNamespace(is_stopping=False))
    loop.add_reader(listener)
    worker._accept(listener, "unix:/s")
    assert not loop.readers
    ((seconds, do),) = loop.later
    assert seconds == SWEEP_S
    do()
    assert loop.readers == [listener]
