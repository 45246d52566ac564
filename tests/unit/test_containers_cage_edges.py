"""The worker's side of the process that opens containers, with a process that the test plays."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from hashclient.containers import cage as cage_module
from hashclient.containers.cage import MAX_VAIN_STARTS, Cage, Found
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.limits import Limits, Options
from hashclient.containers.protocol import (
    Ask,
    BrokenError,
    Channel,
    Done,
    Job,
    Masks,
    Ready,
    Row,
    Rows,
    Setup,
    ToWorker,
    decode_to_child,
)
from hashclient.containers.sandbox import Locks
from hashclient.core.model import Mail

DIGEST = bytes(32)
WHOLE = Locks(7, seccomp=True)
DONE = Done(9, is_tired=False)


class Process:
    """Plays the process that opens containers: its end of the socket, and how it ended."""

    pid = 4711

    def __init__(self, end: socket.socket, code: int | None) -> None:
        self.channel = Channel(end)
        self._code = code
        self.is_killed = False

    def kill(self) -> None:
        self.is_killed = True

    def wait(self, timeout_s: float | None = None) -> int:
        if timeout_s is not None and self._code is None:
            raise subprocess.TimeoutExpired("x", timeout_s)
        return self._code or 0


class World:
    """A cage whose processes send the given messages as soon as they are started."""

    def __init__(
        self,
        *messages: ToWorker,
        options: Options | None = None,
        code: int | None = None,
        is_closed: bool = True,
    ) -> None:
        self.asked: list[list[int | None]] = []
        self.started: list[Process] = []
        self._messages, self._code, self._is_closed = messages, code, is_closed
        self.cage = Cage(options or Options(), self._masks_of, cast(Any, self._start))

    def _masks_of(self, sizes: Sequence[int | None]) -> bytes:
        self.asked.append(list(sizes))
        return bytes(range(len(sizes)))

    def _start(self, start: Any) -> Process:
        (end,) = start.args
        process = Process(end.dup(), self._code)
        self.started.append(process)
        for message in self._messages:
            process.channel.send(message)
        if self._is_closed:
            process.channel._socket.shutdown(socket.SHUT_WR)
        return process

    def open(self) -> tuple[list[Found], int]:
        found: list[Found] = []
        fd = os.open("/dev/null", os.O_RDONLY)
        try:
            return found, self.cage.open(fd, 0, Job(0, 4, 4, forced=False), found.extend)
        finally:
            os.close(fd)

    def fails(self) -> str:
        with pytest.raises(NotReadError) as caught:
            self.open()
        assert caught.value.why is Why.FAILED
        return caught.value.detail

    def close(self) -> None:
        self.cage.close()
        for process in self.started:
            process.channel.close()


@pytest.fixture
def world() -> Any:
    """Return a function that makes a world, which is closed after the test."""
    made: list[World] = []

    def make(*messages: ToWorker, **given: Any) -> World:
        made.append(World(*messages, **given))
        return made[-1]

    yield make
    for one in made:
        one.close()


Make = Callable[..., World]


def test_a_process_gets_the_limits_and_then_files(world: Make) -> None:
    options = Options(Limits(members=5), verify_sizes=True, passwords=(b"p",))
    one = world(Ready(WHOLE), DONE, Done(4, is_tired=False), options=options)
    assert (one.cage.locks, one.cage.has_failed) == (None, False)
    assert one.open() == ([], 9) and one.open() == ([], 4)
    assert (one.cage.locks, one.cage.has_failed) == (WHOLE, False)
    (process,) = one.started
    setup = decode_to_child(process.channel.receive())
    assert setup == Setup(options.limits, os.getpid(), verify_sizes=True, passwords=(b"p",))
    for _ in range(2):
        assert decode_to_child(process.channel.receive()) == Job(0, 4, 4, forced=False)
        os.close(process.channel.take_fd())
    before = process.is_killed
    one.cage.close()
    assert (before, process.is_killed) == (False, True)
    one.open()
    assert len(one.started) == 2


def test_a_tired_process_is_replaced_before_the_next_file(world: Make) -> None:
    one = world(Ready(WHOLE), Done(1, is_tired=True), DONE)
    for count in (1, 2):
        assert one.open()[1] == 1
        assert len(one.started) == count and one.started[-1].is_killed


def test_members_have_the_names_of_their_containers_and_the_outermost_mail(world: Make) -> None:
    outer, inner = Mail("outer"), Mail("inner")
    names: list[tuple[int, int, bytes, Mail | None]]
    names = [(5, 0, b"a", None), (6, 5, b"b", outer), (7, 6, b"c", inner), (8, 7, b"d", None)]
    more: list[tuple[int, int, bytes, Mail | None]] = [(9, 5, b"e", inner)]
    rows = [Row(number, b"x", 1, ruled_out=True) for number in (0, 5, 6, 7, 8)]
    last = [Row(9, b"y", 1, ruled_out=True), Row(8, b"z", 1, ruled_out=True)]
    one = world(Ready(WHOLE), Rows(names, rows), Rows(more, last), DONE)
    found, _ = one.open()
    assert [member.chain for member in found] == [
        (b"x",), (b"a", b"x"), (b"a", b"b", b"x"), (b"a", b"b", b"c", b"x"),
        (b"a", b"b", b"c", b"d", b"x"), (b"a", b"e", b"y"), (b"a", b"b", b"c", b"d", b"z"),
    ]  # fmt: skip
    assert [member.mail for member in found] == [None, None, *[outer] * 3, inner, outer]
    assert [member.row for member in found] == rows + last


def test_the_numbers_of_containers_begin_again_with_each_file(world: Make) -> None:
    rows = Rows([(1, 0, b"a", None)], [Row(1, b"x", 1, ruled_out=True)])
    one = world(Ready(WHOLE), rows, DONE, rows, DONE)
    assert one.open() == one.open()
    one = world(Ready(WHOLE), rows, DONE, Rows([], rows.rows), code=0)
    one.open()
    assert one.fails() == "the process that opened it has died"


def test_a_process_asks_for_algorithms_by_size(world: Make) -> None:
    one = world(Ready(WHOLE), Ask([0, -1, 7, -9]), Ask([]), DONE)
    one.open()
    assert one.asked == [[0, None, 7, None], []]
    (process,) = one.started
    for _ in range(2):
        process.channel.receive()
    os.close(process.channel.take_fd())
    assert decode_to_child(process.channel.receive()) == Masks(b"\0\1\2\3")
    assert decode_to_child(process.channel.receive()) == Masks(b"")


@pytest.mark.parametrize(("count", "is_read"), [(3, True), (4, False)])
def test_containers_are_named_up_to_a_limit(
    count: int, world: Make, monkeypatch: pytest.MonkeyPatch, *, is_read: bool
) -> None:
    monkeypatch.setattr(cage_module, "MAX_CONTAINERS", 2)
    names = [(number, 0, b"a", None) for number in range(1, count + 1)]
    one = world(Ready(WHOLE), Rows(cast(Any, names), []), DONE)
    if is_read:
        one.open()
    else:
        one.fails()
        assert one.started[-1].is_killed


@pytest.mark.parametrize(
    "row",
    [
        Row(0, b"x", 1, 8, DIGEST),
        Row(0, b"x", 1, -1, DIGEST),
        Row(0, b"x", 1, 1, bytes(15)),
        Row(0, b"x", 1, 2, bytes(21)),
        Row(0, b"x", 1, 0, b"\0", ruled_out=True),
        Row(0, b"x", -1, ruled_out=True),
        Row(1, b"x", 1, ruled_out=True),
        Row(-1, b"x", 1, ruled_out=True),
        Row(0, b"x", 1, why=""),
        Row(0, b"x", 1, ruled_out=True, why="limit"),
        Row(0, b"", None, ruled_out=True, not_opened="luks"),
        Row(0, b"", None, why="limit", not_opened="luks"),
        Row(0, b"", None, not_opened="tar"),
    ],
)
def test_a_row_that_makes_no_sense_is_no_result(row: Row, world: Make) -> None:
    one = world(Ready(WHOLE), Rows([], [row]), DONE)
    assert one.fails() == "the process that opened it sent an impossible message"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "the process that opened it sent an impossible message"),
        (0, "the process that opened it has died"),
        (1, "the process that opened it has died"),
        (-9, "the process that opened it has died: SIGKILL"),
        (-signal.SIGSYS, "the process that opened it has died: SIGSYS"),
        (-1, "the process that opened it has died: SIGHUP"),
        (-999, "the process that opened it has died"),
    ],
)
def test_the_reason_says_how_the_process_ended(code: int | None, text: str, world: Make) -> None:
    one = world(Ready(WHOLE), code=code)
    assert one.fails() == text
    assert one.cage.has_failed and one.started[-1].is_killed


def test_a_file_that_takes_too_long_is_not_read(world: Make) -> None:
    one = world(Ready(WHOLE), options=Options(Limits(time_s=0)), is_closed=False)
    with pytest.raises(NotReadError, match="it takes more than 0 seconds") as caught:
        one.open()
    assert caught.value.why is Why.LIMIT and one.started[-1].is_killed


def test_an_error_of_the_worker_ends_the_process(world: Make) -> None:
    one = world(Ready(WHOLE), Rows([], [Row(0, b"x", 1, ruled_out=True)]), DONE)

    def refuse(_: object) -> None:
        raise KeyError("benign")

    with pytest.raises(KeyError):
        one.cage.open(0, 0, Job(0, 4, 4, forced=False), refuse)
    assert one.started[-1].is_killed and one.cage._process is None


def test_after_some_vain_starts_no_process_is_started(world: Make) -> None:
    one = world(Ready(WHOLE), code=1)
    for _ in range(MAX_VAIN_STARTS):
        assert one.fails() == "the process that opened it has died"
    assert one.fails() == "the process that opens containers keeps dying"
    assert len(one.started) == MAX_VAIN_STARTS == 4


def test_a_file_that_is_opened_forgives_vain_starts(world: Make) -> None:
    one = world(Ready(WHOLE), DONE, code=1)
    for _ in range(3 * MAX_VAIN_STARTS):
        one.open()
        assert not one.cage.has_failed
        one.fails()
    assert len(one.started) == 3 * MAX_VAIN_STARTS


@pytest.mark.parametrize("message", [DONE, Rows([], []), Ask([1])])
def test_a_process_that_is_not_ready_is_not_used(message: ToWorker, world: Make) -> None:
    one = world(message)
    text = "the process that opens containers cannot be started: it makes no sense"
    assert one.fails() == text
    assert one.started[-1].is_killed and one.cage.has_failed and one.cage.locks is None


def test_after_a_stop_no_process_is_started(world: Make) -> None:
    one = world(Ready(WHOLE), DONE)
    one.open()
    one.cage.stop()
    assert one.started[-1].is_killed
    one.cage.close()
    text = "the process that opens containers cannot be started: it was stopped"
    assert one.fails() == text
    assert one.started[-1].is_killed


@pytest.mark.parametrize(
    ("locks", "missing"),
    [
        (Locks(1, seccomp=True), ""),
        (Locks(1, seccomp=False), "seccomp"),
        (Locks(0, seccomp=False), "Landlock and seccomp"),
    ],
)
def test_a_sandbox_may_be_required(locks: Locks, missing: str, world: Make) -> None:
    assert world(Ready(locks), DONE).open() == ([], 9)
    one = world(Ready(locks), DONE, options=Options(requires_sandbox=True))
    if missing:
        assert one.fails() == f"the sandbox is required, and the kernel has no {missing}"
        assert one.started[-1].is_killed
    else:
        one.open()
    assert one.cage.locks == locks


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_lack_of_room_is_no_vain_start(number: int) -> None:
    def start(_: object) -> Any:
        raise OSError(number, "No Room")

    cage = Cage(Options(), lambda _: b"", start)
    for _ in range(MAX_VAIN_STARTS + 1):
        with pytest.raises(OSError, match="No Room"):
            cage.open(0, 0, Job(0, 4, 4, forced=False), lambda _: None)
    assert not cage.has_failed and cage._channel is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EACCES, "Permission Denied"), "permission denied"),
        (OSError("No Number"), "no number"),
        (BrokenError("It Has Ended"), "it has ended"),
    ],
)
def test_another_error_is_the_reason_why_no_process_starts(error: Exception, text: str) -> None:
    def start(_: object) -> Any:
        raise error

    cage = Cage(Options(), lambda _: b"", start)
    with pytest.raises(NotReadError) as caught:
        cage.open(0, 0, Job(0, 4, 4, forced=False), lambda _: None)
    assert caught.value.detail == f"the process that opens containers cannot be started: {text}"
    assert caught.value.why is Why.FAILED and cage.has_failed and cage._channel is None


@pytest.mark.parametrize("libraries", [None, "", "/benign/lib"])
@pytest.mark.parametrize("is_debugged", [False, True])
def test_a_process_inherits_only_its_socket(
    libraries: str | None, monkeypatch: pytest.MonkeyPatch, *, is_debugged: bool
) -> None:
    given: list[tuple[Sequence[str], dict[str, Any]]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **how: given.append((words, how)))
    monkeypatch.setattr(cage_module, "is_debugged", lambda: is_debugged)
    monkeypatch.setattr(sys, "path", ["", "relative", "/absolute"])
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setenv("HASHCLIENT_SEAL_KEY", "00")
    if libraries is not None:
        monkeypatch.setenv("LD_LIBRARY_PATH", libraries)
    one, other = socket.socketpair()
    with one, other:
        cage_module._spawn(one)
        ((words, how),) = given
        assert words[:4] == [sys.executable, "-I", "-S", "-c"]
        paths = [str(Path.cwd() / "relative"), "/absolute"]
        home = str(Path(cage_module.__file__).parents[2])
        assert words[5] == str(one.fileno()) and words[6:8] == paths
        assert home in words[8:] and all(
            Path(path, "msgspec").exists() or path == home for path in words[8:]
        )
        assert (how["pass_fds"], how["cwd"]) == ((one.fileno(),), "/")
        more = {} if libraries is None else {"LD_LIBRARY_PATH": libraries}
        assert how["env"] == {"LC_ALL": "C.UTF-8", **more}
        assert how["stdin"] == how["stdout"] == subprocess.DEVNULL
        assert how["stderr"] is (None if is_debugged else subprocess.DEVNULL)
        monkeypatch.setattr(sys, "executable", "")
        with pytest.raises(FileNotFoundError, match="no python to run"):
            cage_module._spawn(one)


def test_a_process_has_a_minute_to_start_and_the_time_of_one_file(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []
    set_timeout = Channel.set_timeout

    def noted(channel: Channel, seconds: float | None) -> None:
        waits.append(seconds)
        set_timeout(channel, seconds)

    monkeypatch.setattr(Channel, "set_timeout", noted)
    world(Ready(WHOLE), Rows([], []), DONE, options=Options(Limits(time_s=100))).open()
    assert waits[0] == 60 and len(waits) == 4
    assert all(wait is not None and 90 < wait <= 100 for wait in waits[1:])
    waits.clear()
    late = world(Ready(WHOLE), options=Options(Limits(time_s=0)), is_closed=False)
    with pytest.raises(NotReadError):
        late.open()
    assert waits == [60, 0.1, 0.001]
