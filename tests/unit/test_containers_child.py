"""The function that the container process runs for each file, here in a thread of this process."""

from __future__ import annotations

import contextlib
import locale
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from fixtures.archives import Zip, zip_of
from hashclient.containers import child, libarchive, protocol
from hashclient.containers.child import FileData, Out, Stall, serve
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.limits import LimitError, Limits
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
    decode_to_child,
    decode_to_worker,
    encode,
)
from hashclient.containers.registry import Registry
from hashclient.containers.sandbox import Locks
from tests.unit.test_containers_passwords import add


class Sent:
    """A channel that keeps all sent messages and returns one fixed answer."""

    def __init__(self, answer: object = None) -> None:
        self.sent: list[object] = []
        self._answer = answer

    def send(self, message: object) -> None:
        self.sent.append(message)

    def receive(self) -> bytes:
        return encode(self._answer)


def out(answer: object = None) -> tuple[Sent, Out]:
    channel = Sent(answer)
    return channel, Out(cast(Channel, channel))


@pytest.mark.parametrize("containers", [0, 1, 512])
def test_results_are_sent_512_at_once(containers: int) -> None:
    channel, results = out()
    for number in range(511):
        if number < containers:
            assert results.container(0, b"c") == number + 1
        else:
            results.row(Row(0, b"r", 1))
    assert channel.sent == []
    results.row(Row(0, b"last", 1))
    (sent,) = channel.sent
    assert isinstance(sent, Rows)
    first = min(containers, 511)
    assert (len(sent.containers), len(sent.rows)) == (first, 512 - first)
    results.flush()
    assert len(channel.sent) == 1
    assert results.container(0, b"next") == first + 1
    results.flush()
    assert channel.sent[1] == Rows([(first + 1, 0, b"next", None)], [])


def test_results_are_sent_when_their_names_are_long() -> None:
    channel, results = out()
    for _ in range(2):
        results.row(Row(0, b"n" * (1 << 19), 1))
        results.container(0, b"n" * ((1 << 19) - 1))
        assert channel.sent == []
        results.row(Row(0, b"n", 1))
        assert len(channel.sent) == 1
        channel.sent.clear()


def test_an_answer_has_a_mask_for_each_size() -> None:
    channel, results = out(Masks(b"\1\2"))
    results.row(Row(0, b"before", 1))
    assert results.ask([5, -1]) == b"\1\2"
    assert channel.sent == [Rows([], [Row(0, b"before", 1)]), Ask([5, -1])]
    for answer in (Masks(b"\1"), Masks(b"\1\2\3"), Job(1, 1, 1, forced=False)):
        with pytest.raises(BrokenError):
            out(answer)[1].ask([5, -1])


def test_a_file_is_read_at_any_place_up_to_the_size_that_was_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        data = FileData(file.fileno(), 8)
        for offset, count, found in (
            (0, 3, b"012"), (5, 3, b"567"), (5, 9, b"567"), (7, 1, b"7"), (8, 1, b""), (9, 5, b""),
            (0, 0, b""),
        ):  # fmt: skip
            assert data.read_at(offset, count) == found
        assert data.bytes_read == 10
        assert FileData(file.fileno(), 99).read_at(8, 9) == b"89"


def test_a_reader_that_makes_no_progress_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(signal, "signal", lambda *given: asked.append(given))
    monkeypatch.setattr(signal, "setitimer", lambda *given: asked.append(given))
    stall = Stall(5)
    assert [given[0] for given in asked] == [signal.SIGPROF, signal.ITIMER_PROF]
    assert asked[1][1:] == (5, 5)
    stall._look()  # no file is open, so nothing has stalled
    steps = iter([0, 1, 1])
    with stall.watching(lambda: next(steps)):
        stall._look()
        stall._look()
        with pytest.raises(LimitError, match="60 s"):
            stall._look()
    stall._look()
    with stall.watching(lambda: 1):
        stall._look()  # the count of looks without progress starts anew for each file


class NoStall:
    """A watch that never reports a stall."""

    @contextlib.contextmanager
    def watching(self, steps: Callable[[], int]) -> Iterator[None]:
        """Ask for the progress once, at the end of the block."""
        yield
        assert steps() > 0


@pytest.mark.parametrize(("time_s", "is_tired"), [(1 << 20, False), (0, True)])
def test_one_file_after_the_other_is_opened(tmp_path: Path, time_s: int, *, is_tired: bool) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zip_of({"a": b"benign", "b": b"other"}))
    here, there = socket.socketpair()
    channel = Channel(here)
    setup, ended = Setup(Limits(time_s=time_s), os.getpid()), []

    def work() -> None:
        try:
            serve(Channel(there), setup, Registry(), cast(Stall, NoStall()))
        except BrokenError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        channel.set_timeout(20)
        for _ in range(2):
            with path.open("rb") as file:
                channel.send(Job(path.stat().st_size, 4, None, forced=False), [file.fileno()])
            question = decode_to_worker(channel.receive())
            assert question == Ask([6, 5])
            channel.send(Masks(b"\4\0"))
            rows = decode_to_worker(channel.receive())
            assert isinstance(rows, Rows)
            assert [(row.name, row.mask, row.ruled_out) for row in rows.rows] == [
                (b"a", 4, False), (b"b", 0, True),
            ]  # fmt: skip
            done = decode_to_worker(channel.receive())
            assert isinstance(done, Done)
            assert (done.bytes_out, done.is_tired) == (11, is_tired)
    finally:
        channel.close()
        thread.join(20)
        there.close()
    assert ended


def test_a_message_is_as_long_as_a_frame_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    length = len(encode(Masks(b"x" * 50)))
    for most, is_taken in ((length, True), (length - 1, False)):
        monkeypatch.setattr(protocol, "MAX_FRAME_BYTES", most)
        one, other = socket.socketpair()
        with one, other:
            Channel(one).send(Masks(b"x" * 50))
            if is_taken:
                assert len(Channel(other).receive()) == length
            else:
                with pytest.raises(BrokenError, match="too long"):
                    Channel(other).receive()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_message_comes_with_one_file(count: int) -> None:
    one, other = socket.socketpair()
    sender, receiver = Channel(one), Channel(other)
    for _ in range(count):
        with Path("/dev/null").open("rb") as file:
            sender.send(Masks(b""), [file.fileno()])
        receiver.receive()
    if count == 1:
        os.close(receiver.take_fd())
    else:
        with pytest.raises(BrokenError, match="without its file"):
            receiver.take_fd()
    for channel in (sender, receiver):
        channel.close()


def test_a_frame_of_8_mib_is_waited_for_and_no_longer_one() -> None:
    for length, text in ((8 << 20, "it has ended"), ((8 << 20) + 1, "too long")):
        one, other = socket.socketpair()
        with one, other:
            one.sendall(length.to_bytes(4, "little") + b"x")
            one.shutdown(socket.SHUT_WR)
            with pytest.raises(BrokenError, match=text):
                Channel(other).receive()


def test_a_file_that_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(NotReadError, match=r"^is a directory$") as caught:
            FileData(fd, 9).read_at(0, 9)
    finally:
        os.close(fd)
    assert caught.value.why is Why.DAMAGED


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[object, ...]]]:
    """Replace all functions that change this process for ever; return their calls."""
    calls: list[tuple[object, ...]] = []
    channels: list[Channel] = []

    def channel_of(end: socket.socket) -> Channel:
        channels.append(Channel(end))
        return channels[-1]

    monkeypatch.setattr(child, "Channel", channel_of)

    def lock(*given: int) -> Locks:
        calls.append(("lock", *given))
        return Locks(6, seccomp=True)

    monkeypatch.setattr(child, "lock", lock)
    for name in ("die_with_parent", "load_charsets"):
        monkeypatch.setattr(child, name, lambda *given, name=name: calls.append((name, *given)))
    monkeypatch.setattr(signal, "signal", lambda *given: calls.append(("signal", *given)))
    monkeypatch.setattr(signal, "setitimer", lambda *given: calls.append(("setitimer", *given)))
    monkeypatch.setattr(locale, "setlocale", lambda *given: calls.append(("setlocale", *given)))
    monkeypatch.setattr(sys, "tracebacklimit", 1_000, raising=False)
    yield calls
    for channel in channels:
        channel.close()


def test_the_process_is_locked_up_before_it_opens_a_file(
    locked: list[tuple[object, ...]],
) -> None:
    """Its limits are the memory of one file and twice the time of one file."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    channel.send(Setup(Limits(time_s=7, memory_mib=3), 4711, passwords=(b"p",)))
    ours.shutdown(socket.SHUT_WR)
    child.main(theirs.detach())
    assert decode_to_worker(channel.receive()) == Ready(Locks(6, seccomp=True))
    channel.close()
    assert locked[0] == ("signal", signal.SIGINT, signal.SIG_IGN)
    assert locked[1:4] == [
        ("die_with_parent", 4711), ("setlocale", locale.LC_CTYPE, "C.UTF-8"), ("load_charsets",),
    ]  # fmt: skip
    assert locked[-2:] == [("setitimer", signal.ITIMER_PROF, 60, 60), ("lock", 3 << 20, 14)]
    assert sys.tracebacklimit == 0


def test_a_process_without_settings_ends(locked: list[tuple[object, ...]]) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    channel.send(Masks(b""))
    child.main(theirs.detach())
    assert locked == [("signal", signal.SIGINT, signal.SIG_IGN)]
    channel.close()


def test_a_message_that_is_no_file_ends_the_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(ours).send(Masks(b""))
        with pytest.raises(BrokenError, match="no job"):
            serve(Channel(theirs), Setup(Limits(), 1), Registry(), cast(Stall, NoStall()))


def test_files_that_came_with_messages_are_closed_with_their_channel() -> None:
    one, other = socket.socketpair()
    sender, receiver = Channel(one), Channel(other)
    with Path("/dev/null").open("rb") as file:
        for _ in range(2):
            sender.send(Masks(b""), [file.fileno()])
            receiver.receive()
    fds = list(receiver._fds)
    for channel in (sender, receiver):
        channel.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
    assert len(fds) == 2 and receiver._fds == []


def test_a_message_that_comes_with_a_file_may_be_long() -> None:
    """The kernel takes a long message in parts, and the file with the first part."""
    one, other = socket.socketpair()
    sender, receiver = Channel(one), Channel(other)
    sender.set_timeout(20)
    message = Masks(bytes(range(256)) * 4_096)
    with Path("/dev/null").open("rb") as file:
        thread = threading.Thread(target=sender.send, args=(message, [file.fileno()]))
        thread.start()
        try:
            assert decode_to_child(receiver.receive()) == message
        finally:
            thread.join(20)
    os.close(receiver.take_fd())
    for channel in (sender, receiver):
        channel.close()


@pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")
def test_the_process_gets_the_passwords(locked: list[tuple[object, ...]], tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(add(Zip(), b"a", b"benign", b"p").end())
    for passwords, mask in (((b"p",), 4), ((), 0)):
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        channel.send(Setup(Limits(), 4711, passwords=passwords))
        with path.open("rb") as file:
            channel.send(Job(path.stat().st_size, 4, 4, forced=False), [file.fileno()])
        ours.shutdown(socket.SHUT_WR)
        child.main(theirs.detach())
        answers = [decode_to_worker(channel.receive()) for _ in range(3)]
        channel.close()
        assert isinstance(answers[1], Rows) and isinstance(answers[2], Done)
        (row,) = answers[1].rows
        assert (row.name, row.mask, row.why) == (b"a", mask, None if mask else "encrypted")
    assert locked


def test_a_file_may_give_its_bytes_in_small_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pread = tmp_path / "x", os.pread
    path.write_bytes(bytes(range(40)))
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, min(count, 3), at))
    with path.open("rb") as file:
        data = FileData(file.fileno(), 40)
        for offset, count in ((0, 9), (1, 8), (2, 11), (5, 99), (38, 9)):
            assert data.read_at(offset, count) == bytes(range(40))[offset : offset + count]
        assert data.bytes_read == 9 + 8 + 11 + 35 + 2
