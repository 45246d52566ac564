"""One process of the daemon: it goes on where a connection cannot be accepted."""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from hashclient.daemon.worker import SWEEP_S, Worker


class Loop:
    """A loop that notes at what it would look, and what it would do later."""

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
