"""One process of the daemon: how it serves, how it ends, and works without descriptors."""

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
from hashclient.daemon import worker
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.options import UnixAddress
from hashclient.daemon.sockets import listen
from hashclient.daemon.users import Share
from hashclient.daemon.worker import GRACE_S, SWEEP_S, Connections, Worker, raise_limit
from hashclient.session import Session
from tests.clamd import OPTIONS, instream
from tests.kit import csv_of, make_state
from tests.kit.attacker import open_ground

LISTED, CLEAN = b"a benign file that is listed", b"an ordinary one"


class Served:
    """A worker that serves one client; both run in one event loop of this process."""

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
        """Let a client talk, and then end the worker; fail if the client stays open."""
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
    """The client's side of a connection: sends bytes and returns answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop, self._sock = loop, sock
        self._got = b""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def answer(self) -> bytes:
        """Return the next answer. If the connection has ended, return the bytes that remain."""
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
                await asyncio.sleep(0)  # let the daemon read the byte
        assert await client.answer() == b"PONG\n"

    served.ask(talk)


def test_a_stream_that_comes_while_it_is_stopped_is_answered(served: Served) -> None:
    stream = instream(LISTED)

    async def talk(client: Talk) -> None:
        # The answer to PING shows that the worker has begun to read the stream.
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
    """An event loop that notes the watched descriptors and the delayed calls."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True

    def add_reader(self, listener: socket.socket, *_: Any) -> None:
        self.readers.append(listener)

    def remove_reader(self, listener: socket.socket) -> None:
        self.readers.remove(listener)

    def call_later(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        self.later.append((seconds, functools.partial(do, *args)))


class Full:
    """A socket that cannot accept because no descriptor is free."""

    def accept(self) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_without_a_descriptor_it_does_not_ask_again_before_there_may_be_one() -> None:
    """The loop would report the listening socket as ready all the time and use a processor."""
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


INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "limit", "is_set"),
    [
        *(
            (1_024, 4_096, 4_096, True),
            (4_096, 4_096, 4_096, False),
            (1_024, INFINITE, 1 << 17, True),
        ),
        *((1 << 17, INFINITE, 1 << 17, False), (1 << 18, 1 << 20, 1 << 18, False)),
        *((1_024, 1 << 20, 1 << 17, True), (INFINITE, INFINITE, 1 << 17, False)),
    ],
)
def test_the_limit_of_descriptors_is_raised_as_far_as_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, limit: int, is_set: bool
) -> None:
    calls: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(resource, "getrlimit", lambda _: (soft, hard))
        patched.setattr(resource, "setrlimit", lambda *call: calls.append(call))
        found = raise_limit()
    assert found == limit
    assert calls == ([(resource.RLIMIT_NOFILE, (limit, hard))] if is_set else [])


@pytest.mark.parametrize(
    ("limit", "asked", "files", "connections"),
    [
        *((1, 99, 1, 1), (15, 99, 1, 3), (16, 99, 2, 4), (1_024, 9_999, 128, 256)),
        *((1_024, 100, 128, 100), (4_096, 9_999, 512, 1_832), (1 << 15, 1 << 20, 4_096, 30_504)),
        *(((1 << 15) - 1, 7, 4_095, 7), (1 << 17, 1 << 20, 4_096, 128_808)),
    ],
)
def test_files_and_connections_have_parts_of_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, limit: int, asked: int, files: int, connections: int
) -> None:
    made: list[tuple[Any, ...]] = []

    def checks(*given: Any) -> Any:
        made.append(given)
        return SimpleNamespace(loop="loop")

    monkeypatch.setattr(worker, "raise_limit", lambda: limit)
    monkeypatch.setattr(worker, "Checks", checks)
    listeners: Any = [("one", "unix:/s"), ("two", "127.0.0.1:1")]
    session: Any = "session"
    options: Any = SimpleNamespace(max_connections=asked, user_share=50)
    row = Counts(1).row(0)
    found: Any = Worker(session, listeners, options, row, 7)
    assert made == [("session", options, row, ["unix:/s", "127.0.0.1:1"], 7, files)]
    share = found._connections._share
    assert (share.left, share._of_each) == (connections, max(1, connections // 2))


class Accepted:
    """An accepted connection; `told` are the options that were set on its socket."""

    family = socket.AF_INET

    def __init__(self, *, is_gone: bool = False) -> None:
        self.is_gone = is_gone
        self.is_closed = self.is_blocking = False
        self.told: list[Any] = []

    def getpeername(self) -> tuple[str, int]:
        return "192.0.2.1", 1

    def setblocking(self, blocking: bool) -> None:
        self.is_blocking = blocking

    def setsockopt(self, *option: int) -> None:
        self.told.append(option)
        if self.is_gone:
            raise OSError(errno.EINVAL, "gone")

    def close(self) -> None:
        self.is_closed = True


class Waiting:
    """A listening socket with waiting connections, and errors between them."""

    def __init__(self, *waiting: Accepted | OSError) -> None:
        self.waiting = list(waiting)

    def accept(self) -> tuple[Any, None]:
        found = self.waiting.pop(0) if self.waiting else BlockingIOError()
        if isinstance(found, OSError):
            raise found
        return found, None


class Made:
    """A connection with the attributes that a worker uses."""

    def __init__(self, sock: Any, peer: Any, on_closed: Any) -> None:
        self.sock, self.peer, self._on_closed = sock, peer, on_closed
        self.is_silent, self.waits_for_client = True, False
        self.look: Any = None

    def close(self) -> None:
        self._on_closed(self)


class Half:
    """A worker without lists and threads that keeps its connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 99) -> None:
        self.made: list[Any] = []
        self.closed: list[Any] = []
        self.counts = Counts(1)
        self.worker: Any = cast(Any, Worker.__new__(Worker))
        self.loop = self.worker._loop = Loop()
        row = self.worker._counts = self.counts.row(0)
        self.worker.checks = SimpleNamespace(is_stopping=False, closed=self.closed.append)
        self.worker._listeners = []
        self.worker._parent = os.getppid()
        self.worker._connections = Connections(Share(most, 100), row, lambda: 0.0)
        monkeypatch.setattr(worker, "Connection", self.connection)

    def connection(self, _: object, sock: Any, peer: Any, on_closed: Any) -> Any:
        made = Made(sock, peer, on_closed)
        self.made.append(made)
        return made

    def total(self, count: Count) -> int:
        return self.counts.total(count)


def test_some_connections_are_accepted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Half(monkeypatch)
    waiting = [Accepted() for _ in range(8)] + [Accepted(is_gone=True), Accepted()]
    listener: Any = Waiting(*waiting)
    half.worker._accept(listener, "127.0.0.1:1")
    assert (len(half.made), len(listener.waiting)) == (8, 2)
    half.worker._accept(listener, "127.0.0.1:1")
    assert [made.sock for made in half.made] == waiting
    assert {made.peer.user for made in half.made} == {"from=192.0.2.1"}
    assert all(one.told == [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)] for one in waiting)
    assert not any(one.is_blocking or one.is_closed for one in waiting)
    assert (half.total(Count.CONNECTIONS), half.total(Count.OPEN)) == (10, 10)
    assert len(half.worker._connections) == 10


def test_connections_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Half(monkeypatch, most=1)
    first, second = Accepted(), Accepted()
    half.worker._accept(Waiting(first, second, InterruptedError(), Accepted()), "127.0.0.1:1")
    assert (first.is_closed, second.is_closed, len(half.made)) == (False, True, 1)
    counts = (Count.CONNECTIONS, Count.OPEN, Count.REFUSED)
    assert [half.total(count) for count in counts] == [1, 1, 1]
    half.made[0].close()
    assert [half.total(count) for count in counts] == [1, 0, 1]
    assert half.closed == half.made and not half.loop.is_stopped


def test_a_worker_that_is_stopped_lets_open_requests_end(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Half(monkeypatch)
    listener: Any = Waiting(Accepted(), Accepted())
    half.loop.add_reader(listener)
    half.worker._listeners = [(listener, "s")]
    half.worker._accept(listener, "s")
    silent, busy = half.made
    busy.is_silent = False
    half.worker._stop()
    assert half.worker.checks.is_stopping and not half.loop.readers
    assert half.closed == [silent]
    ((seconds, stop_now),) = half.loop.later
    assert seconds == GRACE_S and not half.loop.is_stopped
    half.worker._stop()  # a second stop of the worker has no effect
    assert len(half.loop.later) == 1
    half.worker._accept_again(listener, "s")
    assert not half.loop.readers
    for end in (busy.close, stop_now):
        half.loop.is_stopped = False
        end()
        assert half.loop.is_stopped


@pytest.mark.parametrize("orphan", [True, False])
def test_a_worker_looks_around_each_second_and_ends_without_its_parent(
    monkeypatch: pytest.MonkeyPatch, orphan: bool
) -> None:
    half = Half(monkeypatch)
    half.worker._accept(Waiting(Accepted()), "s")
    done: list[Any] = []
    half.made[0].look = done.append
    half.made[0].is_silent = False
    half.worker._connections._searched["uid=1"] = 99.0
    half.worker.checks.refresh = lambda: done.append("lists")
    half.worker.checks.records = SimpleNamespace(prepare_reports=lambda: done.append("reports"))
    half.worker._parent += orphan
    before = time.monotonic()
    half.worker._sweep()
    assert before <= done[0] <= time.monotonic() and done[1:] == ["lists", "reports"]
    assert half.worker.checks.is_stopping is orphan
    assert half.worker._connections._searched == {}
    assert half.loop.later[-1][0] == SWEEP_S == 1.0 and GRACE_S == 5.0


def test_a_worker_serves_until_its_loop_ends_and_closes_what_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = Half(monkeypatch)
    half.worker._accept(Waiting(Accepted(), Accepted()), "s")
    calls: list[Any] = []
    half.worker.checks.refresh = lambda *, force=False: calls.append(("refresh", force))
    half.worker.checks.end = lambda: calls.append(("end", len(half.closed)))
    listener: Any = Waiting()
    half.worker._listeners = [(listener, "s")]
    signals: dict[int, Callable[[], None]] = {}
    loop: Any = half.loop
    loop.add_signal_handler = signals.__setitem__
    loop.set_exception_handler = lambda handler: calls.append(handler == half.worker._failed)

    def serve() -> None:
        calls.append("served")
        signals[signal.SIGHUP]()
        raise KeyboardInterrupt

    loop.run_forever = serve
    with pytest.raises(KeyboardInterrupt):
        half.worker.run()
    assert loop.readers == [listener] and set(signals) == {signal.SIGTERM, signal.SIGHUP}
    assert [seconds for seconds, _ in loop.later] == [1.0]
    assert calls == [True, "served", ("refresh", True), ("end", 2)]
    assert half.worker.checks.is_stopping and half.closed == half.made


def test_a_worker_that_has_failed_stops(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    half = Half(monkeypatch)
    caplog.set_level("INFO", "hashclient.daemon")
    half.worker._failed(half.loop, {"exception": ValueError("odd")})
    assert half.loop.is_stopped
    assert [record.getMessage() for record in caplog.records] == ["failed: ValueError"]
