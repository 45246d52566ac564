"""The daemon's start and end: its sockets, its processes, its signals, and what systemd gets."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.errors import ConfigError, StateError
from hashclient.daemon import daemon as module
from hashclient.daemon.checks import STOP
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.daemon import Daemon
from hashclient.daemon.options import Address, TcpAddress, UnixAddress
from tests.kit import open_files, restored_signals
from tests.kit.attacker import open_ground

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, STOP, signal.SIGCHLD)
SESSION: Any = SimpleNamespace(name="session")
OPTIONS: Any = SimpleNamespace(name="options")


def daemon_of(*addresses: Address, **how: Any) -> Daemon:
    about: dict[str, Any] = {"jobs": 2, "metrics": None, "beside": (), "mode": 0o640}
    return Daemon(SESSION, addresses, OPTIONS, warn=lambda _, __: None, **about | how)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with restored_signals():
        yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Worker:
    """Replaces what serves clients in a process of the daemon."""

    made: tuple[Any, ...] = ()
    error: Exception | None = None
    seen: dict[str, object]

    def __init__(self, *given: Any) -> None:
        type(self).made = given
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        *_, counts, _parent = self.made
        type(self).seen = {
            "started": counts.of(Count.STARTED),
            "open": counts.of(Count.OPEN),
            "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
            "handlers": {number: signal.getsignal(number) for number in HANDLED},
        }


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Counts], None]:
    """Return a function that does the work of a process, as after a fork of the daemon."""
    monkeypatch.setattr(module, "Worker", Worker)
    monkeypatch.setattr(Worker, "error", None)

    def work(counts: Counts) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        counts.row(1).add(Count.OPEN, 5)  # a killed process has left its number
        module._work(SESSION, [], OPTIONS, counts.row(1), 7)

    return work


def test_a_process_serves_with_its_own_signals_and_counters(
    serve: Callable[[Counts], None],
) -> None:
    counts = Counts(2)
    counts.row(0).add(Count.OPEN, 3)
    serve(counts)
    assert Worker.made[:3] == (SESSION, [], OPTIONS)
    assert Worker.made[4] == 7
    default = dict.fromkeys(HANDLED, signal.SIG_DFL)
    assert Worker.seen == {
        "started": 1,
        "open": 0,
        "blocked": {signal.SIGCHLD},
        "handlers": default | {signal.SIGINT: signal.SIG_IGN},
    }
    assert (counts.total(Count.STARTED), counts.total(Count.OPEN)) == (1, 3)


@pytest.mark.parametrize(
    ("error", "code"), [(StateError("no list"), 8), (ConfigError("no key"), 2)]
)
def test_a_process_that_cannot_serve_ends_with_the_code_of_its_error(
    serve: Callable[[Counts], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: StateError | ConfigError,
    code: int,
) -> None:
    monkeypatch.setattr(Worker, "error", error)
    caplog.set_level("INFO", "hashclient.daemon")
    counts = Counts(2)
    with pytest.raises(SystemExit) as ended:
        serve(counts)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"a process cannot serve: {error.message}"]
    assert ended.value.code == code == error.exit_code
    assert counts.total(Count.STARTED) == 0


def test_an_error_that_is_a_bug_is_no_exit(
    serve: Callable[[Counts], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "error", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        serve(Counts(2))


def test_a_daemon_listens_at_each_address() -> None:
    files = open_files()
    with open_ground() as ground:
        path = ground / "socket"
        daemon = daemon_of(UnixAddress(path), TcpAddress("127.0.0.1", 0))
        with contextlib.ExitStack() as stack:
            daemon._listen(stack)
            (unix, unix_name), (tcp, tcp_name) = daemon._listeners
            assert unix_name == f"unix:{path}"
            assert tcp_name == f"127.0.0.1:{tcp.getsockname()[1]}"
            assert path.stat().st_mode & 0o777 == 0o640
            for listener in (unix, tcp):
                assert not listener.getblocking()
                with pytest.raises(BlockingIOError):
                    listener.accept()
        assert not path.exists()
        assert open_files() == files


def test_sockets_of_systemd_are_used_instead_of_the_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    monkeypatch.setattr(module, "passed_sockets", lambda _: passed)
    daemon = daemon_of(UnixAddress(Path("/nowhere/at/all")))
    with contextlib.ExitStack() as stack:
        daemon._listen(stack)
        ports = [listener.getsockname()[1] for listener in passed]
        assert daemon._listeners == [
            (listener, f"127.0.0.1:{port}") for listener, port in zip(passed, ports, strict=True)
        ]
        assert not any(listener.getblocking() for listener in passed)
    assert [listener.fileno() for listener in passed] == [-1, -1]


class Process:
    """Replaces a process of the daemon."""

    fails = False
    blocked: set[int]
    made: dict[str, Any]

    def __init__(self, **how: Any) -> None:
        type(self).made = how

    def start(self) -> None:
        type(self).blocked = set(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        if self.fails:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.mark.parametrize("fails", [False, True])
def test_a_process_is_forked_with_blocked_signals(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(type(multiprocessing.get_context("fork")), "Process", Process)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 5.0))
    monkeypatch.setattr(Process, "fails", fails)
    daemon = daemon_of()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    if fails:
        with pytest.raises(StateError) as refused:
            daemon._start(1)
        assert refused.value.message == "cannot start a process: Resource temporarily unavailable"
        assert refused.value.hint == "try fewer --jobs, or raise the limits of processes and memory"
        assert daemon._processes == {}
    else:
        daemon._start(1)
        process, started = daemon._processes[1]
        assert isinstance(process, Process)
        assert started == 5.0
    session, listeners, options, counts, parent = Process.made["args"]
    assert (session, listeners, options, parent) == (SESSION, [], OPTIONS, os.getpid())
    assert (Process.made["target"], Process.made["daemon"]) == (module._work, True)
    counts.add(Count.STARTED)
    assert [daemon._counts.row(n).of(Count.STARTED) for n in range(2)] == [0, 1]
    handled = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, STOP}
    assert Process.blocked == before | handled | {signal.SIGUSR2}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before | {signal.SIGUSR2}


class Started:
    """A daemon whose processes are not started; `steps` are the steps of its run, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **how: Any) -> None:
        self.daemon = daemon_of(TcpAddress("127.0.0.1", 0), **how)
        self.steps: list[Any] = []
        self.daemon._ageing = SimpleNamespace(  # type: ignore[assignment]
            look=lambda: ["a list is old"]
        )
        monkeypatch.setattr(module, "Lists", self.open)
        monkeypatch.setattr(module, "notify", lambda _, state: self.steps.append(state))
        for name in ("_start", "_wait_until_ready", "_watch", "_end"):
            monkeypatch.setattr(self.daemon, name, self.step(name))
        self.error: BaseException | None = None
        self.seen: list[tuple[bool, bool]] = []

    def open(self, session: object) -> None:
        assert session is SESSION and not self.daemon._listeners
        self.steps.append("lists")

    def step(self, name: str) -> Callable[..., None]:
        def act(*given: object) -> None:
            self.steps.append((name, *given) if name == "_start" else name)
            if name == "_wait_until_ready" and self.error is not None:
                raise self.error
            if name == "_watch":
                for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM):
                    os.kill(os.getpid(), number)
                    self.seen.append((self.daemon._reloading, self.daemon._stopping))

        return act

    def run(self) -> None:
        self.daemon.run(lambda *words: self.steps.append(words))


def test_a_daemon_is_ready_after_its_lists_sockets_and_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    started = Started(monkeypatch)
    started.run()
    name = started.steps[4][0][0]
    assert name.startswith("127.0.0.1:")
    assert started.steps == [
        "lists",
        ("_start", 0),
        ("_start", 1),
        "_wait_until_ready",
        ([name], ["a list is old"]),
        "READY=1",
        "_watch",
        "STOPPING=1",
        "_end",
    ]
    assert started.seen == [(False, False), (True, False), (True, True)]
    assert [signal.getsignal(number) for number in HANDLED] == before
    assert started.daemon._listeners[0][0].fileno() == -1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, STOP])
def test_three_signals_stop_a_daemon(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    started = Started(monkeypatch)
    monkeypatch.setattr(started.daemon, "_watch", lambda _: os.kill(os.getpid(), number))
    started.run()
    assert (started.daemon._stopping, started.daemon._reloading) == (True, False)


def test_metrics_are_served_beside_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_files()
    started = Started(monkeypatch, metrics=TcpAddress("127.0.0.1", 0))
    started.run()
    names, _ = started.steps[4]
    exposition = started.daemon._exposition
    assert exposition is not None
    assert names[1:] == [f"http://{exposition.address}/metrics"]
    assert exposition.fileno() == -1
    assert open_files() == files


def test_a_daemon_that_does_not_get_ready_ends_its_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = Started(monkeypatch)
    started.error = StateError("the daemon could not start")
    with pytest.raises(StateError):
        started.run()
    assert started.steps[3:] == ["_wait_until_ready", "STOPPING=1", "_end"]


def test_without_a_list_a_daemon_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(monkeypatch)

    def fail(_: object) -> None:
        raise StateError("no list can be used")

    monkeypatch.setattr(module, "Lists", fail)
    with pytest.raises(StateError, match="no list"):
        started.run()
    assert (started.steps, started.daemon._listeners) == ([], [])
