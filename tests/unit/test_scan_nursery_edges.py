"""The questions that a nursery answers, and what its processes have of their parent.

`test_nursery` forks real workers. Here the nursery is mostly asked in the process of the test.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, cast

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.executors import nursery as module
from hashclient.scan.executors.interface import MakeChecker, OnBytes
from hashclient.scan.executors.nursery import Nursery
from hashclient.scan.executors.wire import decode_message, encode_task
from hashclient.scan.executors.worker import SIGNALS, serve
from hashclient.scan.values.work import Group, Result, Task
from tests.kit import open_files

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

Answer = tuple[int, int]


class Worker:
    """Replaces a worker process."""

    def __init__(self, pid: int | None, exitcode: int | None) -> None:
        self.pid, self._code = pid, exitcode
        self.steps: list[str] = []

    def join(self) -> None:
        self.steps.append("join")

    @property
    def exitcode(self) -> int | None:
        assert self.steps == ["join"]
        return self._code

    def close(self) -> None:
        self.steps.append("close")


class Asked:
    """A nursery in this process: it answers all questions, and ends when no more can come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, self.its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.closed: list[object] = []
        self.forks: list[tuple[Any, ...]] = []
        self.born: list[Worker | OSError] = []
        monkeypatch.setattr(module, "become_child", self.closed.extend)
        monkeypatch.setattr(module, "forked", self.fork)

    def fork(self, work: object, connection: Connection, *args: object) -> Worker:
        # A worker gets the descriptor that came with the question.
        connection.send_bytes(b"hello")
        self.forks.append((work, *args))
        born = self.born.pop(0)
        if isinstance(born, OSError):
            raise born
        return born

    def ask(self, pid: int) -> None:
        if pid:
            self.ours.send(module._QUESTION.pack(pid))
            return
        ours, its = Pipe()
        socket.send_fds(self.ours, [module._QUESTION.pack(0)], [its.fileno()])
        its.close()
        self.connections = [*getattr(self, "connections", []), ours]

    def answers(self) -> list[Answer]:
        self.ours.shutdown(socket.SHUT_WR)
        module._tend(self.its, self.ours, cast("MakeChecker", "make"))
        self.its.close()
        found = []
        while answer := self.ours.recv(99):
            found.append(module._ANSWER.unpack(answer))
        return found

    def close(self) -> None:
        for end in (self.ours, self.its, *getattr(self, "connections", [])):
            end.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    files = open_files()
    made = Asked(monkeypatch)
    yield made
    made.close()
    # The nursery closes each descriptor that it was sent, and whatever is left of a worker.
    assert open_files() == files


def test_without_a_question_a_nursery_ends(asked: Asked) -> None:
    assert (asked.answers(), asked.closed, asked.forks) == ([], [asked.ours], [])


def test_each_question_has_its_answer_in_order(asked: Asked) -> None:
    workers = [Worker(11, 0), Worker(12, 7), Worker(13, -15)]
    asked.born = [*workers]
    for pid in (0, 0, 12, 0, 11, 13):
        asked.ask(pid)
    assert asked.answers() == [(11, 0), (12, 0), (7, 0), (13, 0), (0, 0), (-15, 0)]
    assert [worker.steps for worker in workers] == [["join", "close"]] * 3
    assert asked.forks == [(serve, [asked.its], "make")] * 3
    for connection in asked.connections:
        assert connection.recv_bytes() == b"hello"
        with pytest.raises(EOFError):  # the nursery has closed its descriptor
            connection.recv_bytes()


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (OSError(errno.EAGAIN, "no"), (0, errno.EAGAIN)),
        (OSError("without a number"), (0, errno.EIO)),
    ],
)
def test_where_no_process_can_be_started_the_answer_says_why(
    asked: Asked, error: OSError, answer: Answer
) -> None:
    """The nursery goes on: later there may be room for a process."""
    asked.born = [error, Worker(12, 3)]
    for pid in (0, 0, 12):
        asked.ask(pid)
    assert asked.answers() == [answer, (12, 0), (3, 0)]


def test_a_parent_that_ends_before_its_answer_is_no_error(asked: Asked) -> None:
    asked.born = [Worker(12, None), Worker(13, None)]
    for pid in (0, 0, 12):
        asked.ask(pid)
    asked.ours.close()
    module._tend(asked.its, asked.ours, cast("MakeChecker", "make"))
    assert len(asked.forks) == 2


class Telling:
    """Tells what a worker has of its parent: signals, standard streams, and its parent."""

    def __init__(self, _: OnBytes | None) -> None:
        pass

    def check(self, task: Task) -> Result:
        nowhere = Path(os.devnull).stat().st_rdev
        told = {
            "ignores Ctrl-C": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            "ends at SIGTERM": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
            "blocks": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "streams": [os.fstat(fd).st_rdev == nowhere for fd in (0, 1, 2)],
            "parent": os.getppid(),
        }
        return Result(outcomes=[Outcome(Kind.UNREAD, str(told))])


def test_a_worker_has_its_own_signals_and_no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HASHCLIENT_DEBUG", raising=False)
    before = [signal.getsignal(number) for number in SIGNALS]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    nursery = Nursery(cast("MakeChecker", Telling))
    pid, connection = nursery.fork_one()
    connection.send_bytes(encode_task([Group("d", ["f"], follow=False)]))
    result = decode_message(connection.recv_bytes())
    connection.close()
    code = nursery.exit_code(pid)
    parent = nursery._process.pid
    nursery.close()
    assert isinstance(result, Result)
    told = {
        "ignores Ctrl-C": True,
        "ends at SIGTERM": True,
        "blocks": [],
        "streams": [True] * 3,
        "parent": parent,
    }
    assert (result.outcomes[0].path, code) == (str(told), 0)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


class Process:
    """Replaces a process that was not started yet."""

    fails = False

    def __init__(self, *, target: object, args: tuple[object, ...], daemon: bool) -> None:
        self.made = (target, args, daemon)

    def start(self) -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert blocked >= set(SIGNALS)
        if self.fails:
            raise OSError(errno.EAGAIN, "no")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("blocked", [set(), {signal.SIGTERM, signal.SIGUSR1}])
def test_signals_are_blocked_only_while_a_process_is_forked(
    monkeypatch: pytest.MonkeyPatch, fails: bool, blocked: set[signal.Signals]
) -> None:
    monkeypatch.setattr(type(multiprocessing.get_context("fork")), "Process", Process)
    monkeypatch.setattr(Process, "fails", fails)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        if fails:
            with pytest.raises(OSError, match="no"):
                module.forked(print, 1)
        else:
            assert cast("Any", module.forked(print, 1, 2)).made == (print, (1, 2), True)
            assert cast("Any", module.forked(print, daemon=False)).made == (print, (), False)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before | blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Parent:
    """The parent's side, with a nursery that answers what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self.ends: list[socket.socket] = []
        self.joined: list[float | None] = []
        self.exitcode: int | None = 0
        self.closed = 0
        self.answers = answers
        monkeypatch.setattr(module, "forked", self.fork)

    def fork(
        self, work: object, its: socket.socket, ours: socket.socket, *args: Any, **how: Any
    ) -> Any:
        assert (work, args, how) == (module._tend, ("make",), {"daemon": False})
        self.ends = [its.dup(), ours]
        for answer in self.answers:
            its.send(answer)
        return self

    def join(self, wait_s: float | None) -> None:
        # The nursery ends when its socket is closed.
        assert self.ends[1].fileno() == -1
        self.joined.append(wait_s)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(("exitcode", "closed"), [(None, 0), (0, 1), (-9, 1), (1, 1)])
@pytest.mark.parametrize("wait_s", [None, 3.0])
def test_a_nursery_that_does_not_end_in_time_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, exitcode: int | None, closed: int, wait_s: float | None
) -> None:
    parent = Parent(monkeypatch)
    parent.exitcode = exitcode
    Nursery(cast("MakeChecker", "make")).close(wait_s)
    assert (parent.joined, parent.closed) == ([wait_s], closed)
    parent.ends[0].close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [((7, 0), 7), ((0, 0), 0), ((-15, 0), -15), ((0, errno.EPERM), None)],
)
def test_the_parent_takes_an_answer_as_it_is(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, code: int | None
) -> None:
    files = open_files()
    parent = Parent(monkeypatch, *[module._ANSWER.pack(*answer)] * 2)
    nursery = Nursery(cast("MakeChecker", "make"))
    assert nursery.exit_code(5) == code
    if code is None:
        with pytest.raises(PermissionError, match=os.strerror(errno.EPERM)):
            nursery.fork_one()
    else:
        pid, connection = nursery.fork_one()
        assert pid == code
        question, fds, _, _ = socket.recv_fds(parent.ends[0], 99, 9)
        assert module._QUESTION.unpack(question) == (5,)
        question, fds, _, _ = socket.recv_fds(parent.ends[0], 99, 9)
        assert (module._QUESTION.unpack(question), len(fds)) == ((0,), 1)
        with Connection(fds[0]) as its:
            its.send_bytes(b"hello")
        assert connection.recv_bytes() == b"hello"
        connection.close()
    parent.ends[0].close()
    nursery.close()
    assert open_files() == files


def test_a_nursery_that_has_ended_is_a_missing_child(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Parent(monkeypatch)
    nursery = Nursery(cast("MakeChecker", "make"))
    parent.ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(ChildProcessError, match=os.strerror(errno.ECHILD)):
        nursery.fork_one()
    assert nursery.exit_code(5) is None
    parent.ends[0].close()
    with pytest.raises(ConnectionError):
        nursery.fork_one()
    assert nursery.exit_code(5) is None
    nursery.close()


def test_where_no_nursery_can_be_forked_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "no room")

    files = open_files()
    monkeypatch.setattr(module, "forked", fail)
    with pytest.raises(OSError, match="no room"):
        Nursery(cast("MakeChecker", "make"))
    assert open_files() == files
