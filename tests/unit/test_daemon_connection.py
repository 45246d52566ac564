"""Connections of the daemon: the requests of a client, at every edge, and the answers."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Hit, Outcome
from hashclient.daemon import connection as module
from hashclient.daemon.checks import answer
from hashclient.daemon.connection import BARE_S, DRAIN_BYTES, DRAIN_S, Connection, Pace
from hashclient.daemon.counts import Count
from hashclient.daemon.openfiles import close_all, receive
from hashclient.daemon.options import NoVerdict
from hashclient.daemon.protocol import Parser, no_verdict
from hashclient.daemon.users import Share
from tests.clamd import OPTIONS, everything, instream
from tests.kit import open_files
from tests.unit.test_daemon_shares import EVE, Checks
from tests.unit.test_daemon_worker import CLEAN, LISTED, Served, served, stop

__all__ = ["served"]

SESSION = b"zIDSESSION\0"


def talk_with(served: Served, talk: Callable[[], None]) -> None:
    """Serve while a thread talks with the daemon."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            talk()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failed.append(error)
        finally:
            stop()

    thread = threading.Thread(target=run)
    served.worker.checks.loop.call_soon(thread.start)
    served.worker.run()
    thread.join()
    for error in failed:
        raise error


def ask(path: Path, data: bytes, *descriptors: int, end: bool = False, more: bytes = b"") -> bytes:
    """Send bytes and open files, and return the answers; `end` closes the client's sending side."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        sock.sendall(data)
        if descriptors or more:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
            sock.sendmsg([more or b"\0"], [rights] if descriptors else [])
        if end:
            sock.shutdown(socket.SHUT_WR)
        return everything(sock)


def test_each_client_gets_its_answer_and_is_counted(served: Served, tmp_path: Path) -> None:
    (tmp_path / "listed").write_bytes(LISTED)
    (tmp_path / "clean").write_bytes(CLEAN)
    found = b"Hashclient.base.e-1 FOUND"
    many = b"".join(b"%d: PONG\0" % n for n in range(1, 701))
    #: The sent bytes, whether the client then closes its side, and the expected answer.
    talks = [
        (b"zPING\0", False, b"PONG\0"),
        (b"nPING\n", False, b"PONG\n"),
        (b"PING\n", False, b"PONG\n"),
        (b"PING", True, b"PONG\n"),
        (b"", True, b""),
        (b"zPING\0zPING\0", False, b"PONG\0"),
        (b"zNONSENSE\0", False, b"UNKNOWN COMMAND\0"),
        (SESSION + b"zPING\0zPING\0zEND\0", False, b"1: PONG\x002: PONG\0"),
        (SESSION + b"zPING\0", True, b"1: PONG\0"),
        (SESSION + b"zEND\0zPING\0", False, b""),
        (SESSION + b"zPING\0" * 700, True, many),
        (instream(CLEAN), False, b"stream: OK\0"),
        (instream(CLEAN, prefix=b"n"), False, b"stream: OK\n"),
        (instream(CLEAN[:3], CLEAN[3:]), False, b"stream: OK\0"),
        (instream(), False, b"stream: OK\0"),
        (instream(LISTED), False, b"stream: " + found + b"\0"),
        (instream(*(LISTED[n : n + 1] for n in range(len(LISTED)))), False, b"stream: "),
        (instream(LISTED)[:-4], True, b""),
        (b"zINSTREAM\0", True, b""),
        (b"zFILDES\0", True, b""),
        (b"zFILDES\0x", False, b"FD[-1]: No file descriptor received. ERROR\0"),
        (b"zINSTREAM\0" + (OPTIONS.max_stream_bytes + 1).to_bytes(4, "big"), False, b"stream: "),
        (b"z" + b"x" * 9_999, False, b""),
        (b"zSCAN %b\0" % bytes(tmp_path / "clean"), False, b"%b: OK\0" % bytes(tmp_path / "clean")),
        (b"zSCAN %b\0" % bytes(tmp_path / "listed"), False, bytes(tmp_path / "listed")),
        (b"zSCAN relative\0", False, b"relative: "),
        (b"zSTATS\0", False, b"POOLS: 1"),
        (SESSION + instream(LISTED) * 100 + b"zEND\0", False, b""),
    ]
    answers: list[bytes] = []

    def talk() -> None:
        answers.extend(ask(served.path, sent, end=end) for sent, end, _ in talks)

    files = open_files()
    talk_with(served, talk)
    for (sent, _, expected), said in zip(talks, answers, strict=True):
        whole = expected[-1:] in (b"\0", b"\n") or not expected
        if sent.startswith(SESSION + b"zINSTREAM"):
            assert sorted(said.split(b"\0")[:-1]) == sorted(
                b"%d: stream: %b" % (n, found) for n in range(1, 101)
            )
        elif sent[:3] == b"zxx":
            assert said.endswith(b" ERROR\0")
        else:
            assert said == expected if whole else said.startswith(expected), sent[:40]
    row = served.counts.row(0)
    assert row.of(Count.CONNECTIONS) == len(talks)
    assert row.of(Count.OPEN) == 0
    # Three requests ended too soon, and one command had no terminator.
    assert row.of(Count.BROKEN) == 4
    assert row.of(Count.TOO_LONG) == 1
    assert row.of(Count.MATCH) == 103
    assert row.of(Count.CLEAN) == 5
    assert row.of(Count.UNREAD) == 1
    streams = 3 * len(CLEAN) + 102 * len(LISTED)
    assert row.of(Count.BYTES) == streams
    assert open_files() <= files  # the threads of the worker have ended, too


@pytest.mark.parametrize("prefix", [b"z", b"n"])
def test_one_descriptor_comes_with_its_command_and_is_closed(
    served: Served, tmp_path: Path, prefix: bytes
) -> None:
    """Several descriptors, or a descriptor with other bytes, are refused."""
    end = b"\0" if prefix == b"z" else b"\n"
    (tmp_path / "listed").write_bytes(LISTED)
    (tmp_path / "clean").write_bytes(CLEAN)
    files = open_files()
    fds = [os.open(tmp_path / name, os.O_RDONLY) for name in ("clean", "listed")]
    folder = os.open(tmp_path, os.O_RDONLY)
    command, answers = prefix + b"FILDES" + end, list[bytes]()

    def talk() -> None:
        given = ([fds[0]], [fds[1]], [folder], fds, [*fds, folder])
        answers.extend(ask(served.path, command, *some) for some in given)
        answers.append(ask(served.path, command, fds[0], more=b"\0" + prefix + b"PING" + end))
        os.lseek(fds[1], 5, os.SEEK_SET)
        answers.append(ask(served.path, command, fds[1]))

    talk_with(served, talk)
    ends = [said.partition(b": ")[2] for said in answers]
    assert ends[0] == b"OK" + end
    assert ends[1] == ends[6] == b"Hashclient.base.e-1 FOUND" + end
    assert ends[2].startswith(no_verdict("Unread").encode())
    refused = b"FD[-1]: No file descriptor received. ERROR" + end
    assert [said.startswith(refused) for said in answers] == [False] * 3 + [True] * 3 + [False]
    # The position in the file is the client's, so the daemon must not change it.
    assert os.lseek(fds[1], 0, os.SEEK_CUR) == 5
    for fd in (*fds, folder):
        os.close(fd)
    assert open_files() <= files  # the threads of the worker have ended, too


@contextlib.contextmanager
def connected() -> Iterator[tuple[Connection, Checks, socket.socket, list[Any]]]:
    """Yield a connection whose loop the test calls, its checks, client and closed connections."""
    checks, closed = Checks(Share(4, 50)), list[Any]()
    later: list[Any] = []
    checks.loop.call_later = lambda *given: later.append(given)
    checks.later = later  # type: ignore[attr-defined]
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    made = Connection(cast(Any, checks), theirs, EVE, closed.append)
    yield made, checks, ours, closed
    made.close()
    ours.close()


@pytest.mark.parametrize("late", [0.0, 0.1])
@pytest.mark.parametrize("sent", [b"", b"zPI", b"zFILDES\0"])
def test_a_client_that_is_silent_is_closed_after_its_time(sent: bytes, late: float) -> None:
    with connected() as (made, checks, ours, closed):
        if sent:
            ours.sendall(sent)
            made.readable()
        made.last = 100.0
        made.look(100.0 + OPTIONS.idle_s + late)
        assert closed == ([made] if late else [])
        assert checks.counts.of(Count.IDLE) == (1 if late else 0)


def test_a_dismissed_client_may_send_so_much_and_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (DRAIN_S, DRAIN_BYTES) == (10.0, 16 << 20)
    monkeypatch.setattr(module, "DRAIN_BYTES", 100)
    now = [50.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    #: The number of bytes that arrive, the time, and whether the connection is then too slow.
    for count, at, ends in (
        (100, 50.0, 0),
        (101, 50.0, 1),
        (1, 60.0, 0),
        (1, 60.1, 1),
        (0, 50.0, 1),
    ):
        now[0] = 50.0
        with connected() as (made, checks, ours, closed):
            ours.sendall(b"z" + b"y" * 9_999)
            made.readable()
            assert ours.recv(99).endswith(b" ERROR\0")
            assert checks.counts.of(Count.BROKEN) == 1
            assert not closed
            now[0] = at
            ours.sendall(b"x" * count)
            if not count:
                ours.shutdown(socket.SHUT_WR)
            made.readable()
            assert closed == ([made] if ends else [])
            assert [given[0] for given in checks.later] == [10.0]  # type: ignore[attr-defined]


def test_an_old_command_is_whole_when_nothing_has_come_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [50.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with connected() as (made, checks, ours, closed):
        ours.setblocking(False)
        later = checks.later  # type: ignore[attr-defined]
        checks.say = lambda command, _: str(command)  # type: ignore[attr-defined]

        def said() -> bytes:
            with contextlib.suppress(BlockingIOError):
                return ours.recv(99)
            return b""

        ours.sendall(b"PI")
        made.readable()
        assert [seconds for seconds, _ in later] == [BARE_S] == [0.1]
        now[0] = 50.25
        ours.sendall(b"NG")
        made.readable()
        assert len(later) == 1  # the next search for slow connections is scheduled
        for at, answers in ((50.3, False), (50.34, False), (50.35, True)):
            now[0] = at
            later.pop(0)[1]()
            assert bool(said()) is answers
            assert len(later) == (0 if answers else 1)
        assert closed == [made]


def test_the_pace_is_that_of_one_command() -> None:
    parser, pace = Parser(1 << 20), Pace()
    parser.feed(memoryview(b"zPIN"), 9)

    def look(now: float, number: int, *, reads: bool = True) -> bool:
        return pace.look(now, parser, number, 30.0, reads=reads)

    assert not pace.is_slow(1_000.0, 10.0)
    assert [look(t, 1) for t in (0.0, 30.0, 30.1)] == [False, False, True]
    assert [look(t, 2) for t in (40.0, 70.0, 70.1)] == [False, False, True]
    assert not look(500.0, 2, reads=False)
    assert [look(t, 2) for t in (500.0, 530.0, 530.1)] == [False, False, True]
    pace.came += 59
    assert not pace.is_slow(505.0, 10.0)  # the first seconds of a command are not counted
    assert [pace.is_slow(t, 10.0) for t in (505.1, 505.9, 506.0)] == [False, False, True]
    parser.feed(memoryview(b"G\0"), 9)
    assert not look(900.0, 2)
    assert not pace.is_slow(1_000.0, 10.0)
    parser.feed(memoryview(b"zINSTREAM\0\0"), 9)
    assert [look(t, 3) for t in (900.0, 999.0)] == [False, False]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_descriptors_are_received_up_to_one_too_many(tmp_path: Path, count: int) -> None:
    files = open_files()
    one, other = socket.socketpair()
    with one, other, (tmp_path / "f").open("w") as file:
        sent = [file.fileno()] * count
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))
        one.sendmsg([b"ab"], [rights] if count else [])
        got, found = receive(other, memoryview(bytearray(9)))
        assert (got, len(found)) == (2, count if count <= 2 else 0)
        assert not any(map(os.get_inheritable, found))
        close_all(found)
        assert found == []
    assert open_files() == files


def hit(entry: str, *, complete: bool = True) -> Hit:
    return Hit("base", entry, "c", 1, (), complete)


HITS = tuple(Hit("l", name, "c", 1, (), name != "part") for name in ("part", "one", "two"))


@pytest.mark.parametrize(
    ("outcome", "doubt", "answers"),
    [
        (None, None, ["OK"] * 3),
        (Outcome(Kind.CLEAN, "a"), None, ["OK"] * 3),
        (Outcome(Kind.EXCEPTED, "a", hits=HITS), None, ["OK"] * 3),
        (None, "Stale", [no_verdict("Stale") + " FOUND", "lists are stale. ERROR", "OK"]),
        (Outcome(Kind.MATCH, "a", hits=HITS), "Stale", ["Hashclient.l.one FOUND"] * 3),
        (
            Outcome(Kind.UNREAD, "a", reason="it is broken"),
            "Stale",
            [no_verdict("Unread") + " FOUND", "it is broken. ERROR", "OK"],
        ),
        (
            Outcome(Kind.SKIPPED, "a"),
            None,
            [no_verdict("Unread") + " FOUND", "it was not read. ERROR", "OK"],
        ),
        (
            Outcome(Kind.CONFLICT, "a", hits=HITS[:1]),
            None,
            [
                no_verdict("Conflict") + " FOUND",
                "entries of a list agree in part only. ERROR",
                "OK",
            ],
        ),
    ],
)
def test_the_answer_about_an_input(
    outcome: Outcome | None, doubt: str | None, answers: list[str]
) -> None:
    """If there is no verdict, the daemon sends the answer that the operator has chosen."""
    rules = (NoVerdict.FOUND, NoVerdict.ERROR, NoVerdict.OK)
    assert [answer(outcome, doubt, rule) for rule in rules] == [[one] for one in answers]
    every = answer(outcome, doubt, NoVerdict.FOUND, every=True)
    is_match = outcome is not None and outcome.kind is Kind.MATCH
    assert every == answers[:1] + (["Hashclient.l.two FOUND"] if is_match else [])
