"""Answers to a client: sent when the socket can take bytes, dropped if the client closes."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashclient.daemon import client as module
from hashclient.daemon.client import MAX_OUT_BYTES, Client
from hashclient.daemon.users import HandedOver, Share
from tests.unit.test_daemon_shares import EVE


class Loop:
    """An event loop that notes its calls in lists and runs nothing."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.writers: list[Any] = []

    def call_soon(self, do: Callable[[], None]) -> None:
        self.soon.append(do)

    def add_writer(self, sock: Any, _: Callable[[], None]) -> None:
        assert sock not in self.writers
        self.writers.append(sock)

    def remove_writer(self, sock: Any) -> None:
        self.writers.remove(sock)


class Socket:
    """A socket that takes `room` bytes at a time; an error in the list is raised."""

    def __init__(self, *takes: int | OSError) -> None:
        self.takes = [*takes]
        self.sent = b""
        self.is_closed = False

    def send(self, data: bytearray) -> int:
        take = self.takes.pop(0)
        if isinstance(take, OSError):
            raise take
        self.sent += data[:take]
        return min(take, len(data))

    def close(self) -> None:
        self.is_closed = True


def made(*takes: int | OSError) -> tuple[Client, Loop, Socket]:
    loop, sock = Loop(), Socket(*takes)
    files = HandedOver(Share(4, 50), EVE)
    return Client(cast(Any, loop), cast(Any, sock), EVE, files), loop, sock


FORM = (b"1: ", b"\0")


def test_answers_are_sent_together_and_once() -> None:
    client, loop, sock = made(99)
    client._pending = 2
    assert (client.is_silent, client.has_room) == (False, True)
    client.answer(FORM, ["a", "b"], last=False)
    assert client._pending == 2
    client.answer((b"", b"\n"), ["c"])
    client.answer((b"", b"\n"), [])
    assert (client._pending, client.is_silent, len(loop.soon)) == (0, False, 1)
    loop.soon.pop()()
    assert sock.sent == b"1: a\x001: b\0c\n"
    assert (client.is_silent, loop.writers) == (True, [])
    client.answer(FORM, ["d"])
    assert len(loop.soon) == 1


@pytest.mark.parametrize("full", [0, BlockingIOError(), InterruptedError()])
def test_what_does_not_fit_waits_for_room(
    monkeypatch: pytest.MonkeyPatch, full: int | OSError
) -> None:
    now = [5.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client, loop, sock = made(3, full, 1, 9)
    client.answer(FORM, ["ab"])
    seen = []
    for now[0] in (6.0, 7.0, 8.0, 9.0):
        client.writable()
        seen.append((sock.sent, bool(loop.writers), client.last))
    whole = b"1: ab\0"
    sent = [(3, True, 6.0), (3, True, 6.0), (4, True, 8.0), (6, False, 9.0)]
    assert seen == [(whole[:count], waits, last) for count, waits, last in sent]
    client.writable()
    assert client.last == 9.0


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_client_may_leave_so_much_unread(more: int) -> None:
    assert MAX_OUT_BYTES == 1 << 16
    client, _, _ = made()
    client.answer((b"", b""), ["x" * (MAX_OUT_BYTES + more)])
    assert client.has_room is (more <= 0)


def test_a_client_that_has_gone_gets_nothing_more() -> None:
    client, loop, sock = made(1, OSError(errno.EPIPE, "broken pipe"))
    client.answer(FORM, ["ab"])
    client.writable()
    assert len(loop.writers) == 1
    client.writable()
    assert (client.is_closed, sock.is_closed, loop.writers) == (True, True, [])
    client.answer(FORM, ["c"])
    client.writable()
    assert len(loop.soon) == 1
    assert not client._pending + 1  # only the first of the queued answers counts


@contextlib.contextmanager
def pair() -> Iterator[tuple[Client, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        files = HandedOver(Share(4, 50), EVE)
        yield Client(cast(Any, Loop()), one, EVE, files), other


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_a_client_that_closes_while_nobody_reads_is_noticed(reads: bool, gone: bool) -> None:
    """Where the daemon reads, the read shows that the client closed; waiting bytes do not."""
    with pair() as (client, other):
        client._is_reading = reads
        other.sendall(b"x")
        if gone:
            other.close()
        client.close_if_gone()
        assert client.is_closed is (gone and not reads)
        client.close_if_gone()
