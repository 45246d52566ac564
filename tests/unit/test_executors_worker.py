"""The loop of a worker process: the messages that it sends for each task, and when it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.errors import StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.cluster import quiet
from hashclient.scan.executors import worker as module
from hashclient.scan.executors.wire import decode_message, encode_task
from hashclient.scan.executors.worker import PROGRESS_BYTES, serve
from hashclient.scan.values.work import Group, Result, Task

MIB = 1 << 20


class Parent:
    """Replaces the connection to the parent: it hands out tasks, and collects the messages."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = [encode_task(task) for task in tasks]
        self.messages: list[Any] = []
        self.gone_after = 99
        self.gone: type[BaseException] = EOFError

    def recv_bytes(self) -> bytes:
        if not self.tasks:
            raise self.gone
        return self.tasks.pop(0)

    def send_bytes(self, message: bytes) -> None:
        if len(self.messages) >= self.gone_after:
            raise BrokenPipeError
        self.messages.append(decode_message(message))


def task(*names: str) -> Task:
    return [Group("/d", list(names), follow=False)]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Return a function that serves tasks with a checker, and returns all messages."""
    children: list[Sequence[object]] = []
    monkeypatch.setattr(module, "become_child", children.append)

    def serve_all(
        parent: Parent, check: Callable[[Task, Callable[[int], None]], Result]
    ) -> list[Any]:
        class Checker:
            def __init__(self, on_bytes: Any) -> None:
                # The worker closes the parent's descriptors before it makes a checker.
                assert children.pop() == ["not ours"]
                self.on_bytes = on_bytes

            def check(self, given: Task, *, defer: bool = False) -> Result:
                assert not defer
                return check(given, self.on_bytes)

        connection: Any = parent
        others: Any = ["not ours"]
        serve(connection, others, Checker)
        return parent.messages

    return serve_all


def clean(given: Task, _on_bytes: object) -> Result:
    names = [name for group in given for name in group.names]
    return Result(clean=len(names), outcomes=[Outcome(Kind.CLEAN, name) for name in names])


def test_each_task_has_its_result_with_the_time_that_it_took(
    served: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    first, second = served(Parent(task("a", "b"), task("c")), clean)
    assert [(one.clean, one.taken_s) for one in (first, second)] == [(2, 2.5), (1, 0.25)]
    assert [one.path for one in first.outcomes] == ["a", "b"]


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([], []),
        ([31], []),
        ([32], [32]),
        ([31, 1], [32]),
        ([31, 2, 31, 1], [33, 32]),
        ([40, 31], [40]),
    ],
)
def test_progress_in_a_large_file_is_told_after_so_many_bytes(
    served: Callable[..., list[Any]], chunks: list[int], told: list[int]
) -> None:
    """Each result resets the count of reported bytes to zero."""
    assert PROGRESS_BYTES == 32 * MIB

    def read(given: Task, on_bytes: Callable[[int], None]) -> Result:
        for chunk in chunks:
            on_bytes(chunk * MIB)
        return clean(given, on_bytes)

    messages = served(Parent(task("a"), task("b")), read)
    once = [count * MIB for count in told]
    assert [one if isinstance(one, int) else "result" for one in messages] == [
        *(*once, "result"),
        *(*once, "result"),
    ]


def test_an_index_that_cannot_be_read_ends_the_worker(served: Callable[..., list[Any]]) -> None:
    def fail(*_: object) -> Result:
        raise StateError("damaged", hint="fetch")

    parent = Parent(task("a"), task("b"))
    (error,) = served(parent, fail)
    assert isinstance(error, StateError)
    assert (error.message, error.hint) == ("damaged", "fetch")
    assert len(parent.tasks) == 1


@pytest.mark.parametrize("gone", [EOFError, BrokenPipeError, ConnectionResetError])
def test_a_worker_ends_with_its_parent(
    served: Callable[..., list[Any]], gone: type[BaseException]
) -> None:
    parent = Parent(task("a"))
    parent.gone = gone
    assert len(served(parent, clean)) == 1
    parent = Parent(task("a"), task("b"))
    parent.gone_after = 1
    assert len(served(parent, clean)) == 1
    assert parent.tasks == []


def test_another_error_is_seen_by_whoever_waits_for_the_worker(
    served: Callable[..., list[Any]],
) -> None:
    def fail(*_: object) -> Result:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        served(Parent(task("a")), fail)


class System:
    """Notes the calls by which a process changes its signals, streams and descriptors."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def noting(self, name: str, answer: object = None) -> Callable[..., Any]:
        def note(*args: Any) -> object:
            self.calls.append((name, *args))
            return answer

        return note


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    for module_ in (module, quiet):
        signals = {name: getattr(signal, name) for name in ("SIGINT", "SIGTERM")}
        signals |= {name: getattr(signal, name) for name in ("SIG_IGN", "SIG_DFL", "SIG_UNBLOCK")}
        signals |= {name: made.noting(name) for name in ("signal", "pthread_sigmask")}
        monkeypatch.setattr(module_, "signal", SimpleNamespace(**signals))
        calls = {"open": made.noting("open", 77)}
        calls |= {name: made.noting(name) for name in ("dup2", "close")}
        flags = {name: getattr(os, name) for name in ("devnull", "O_RDWR", "O_WRONLY")}
        monkeypatch.setattr(module_, "os", SimpleNamespace(**calls, **flags))
    monkeypatch.setattr(module, "gc", SimpleNamespace(freeze=made.noting("freeze")))
    for name in ("forget_exit_codes", "end_at_bad_pages"):
        monkeypatch.setattr(module, name, made.noting(name))
    return made


@pytest.mark.parametrize("is_debugged", [False, True])
def test_a_worker_leaves_signals_and_streams_to_its_parent(
    system: System, monkeypatch: pytest.MonkeyPatch, is_debugged: bool
) -> None:
    monkeypatch.setattr(module, "is_debugged", lambda: is_debugged)
    end: Any = SimpleNamespace(close=system.noting("an end"))
    module.become_child([end, end])
    signals = signal.SIGINT, signal.SIGTERM
    assert system.calls == [
        ("signal", signal.SIGINT, signal.SIG_IGN),
        ("signal", signal.SIGTERM, signal.SIG_DFL),
        ("pthread_sigmask", signal.SIG_UNBLOCK, signals),
        ("forget_exit_codes",),
        ("end_at_bad_pages",),
        ("open", "/dev/null", os.O_RDWR),
        *(("dup2", 77, fd) for fd in ((0, 1) if is_debugged else (0, 1, 2))),
        *(("close", 77), ("an end",), ("an end",), ("freeze",)),
    ]


@pytest.mark.parametrize("is_debugged", [False, True])
def test_a_worker_of_a_local_cluster_is_silent_unless_somebody_debugs(
    system: System, monkeypatch: pytest.MonkeyPatch, is_debugged: bool
) -> None:
    monkeypatch.setattr(quiet, "is_debugged", lambda: is_debugged)
    quiet.dask_setup(object())
    silent = [("open", "/dev/null", os.O_WRONLY), ("dup2", 77, 2), ("close", 77)]
    assert system.calls == [
        ("signal", signal.SIGINT, signal.SIG_IGN),
        *([] if is_debugged else silent),
    ]
