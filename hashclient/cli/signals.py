"""SIGINT and SIGTERM during a run: they are held back during a step that must not be interrupted.

Handlers are installed once a run and check the current step. Outside of a step they call the former
handlers, so it does no harm if one of them stays. Installing handlers for each step would leave
moments in which one signal has the new handler and the other the old one.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Handler = Callable[[int, FrameType | None], Any]


def ignore_signals() -> None:
    """Ignore both signals from here on: the process ends with its present code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Signals:
    """Passes signals on to the former handlers, or holds them back.

    Use it as a context manager around the whole run.
    """

    def __init__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        #: How many signals wait for the end of a step; the next one comes through.
        self._patience = 0
        self._kept: list[tuple[int, FrameType | None]] = []
        self._is_over = False

    def __enter__(self) -> Signals:
        for number in self._callable():
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._callable().items():
            signal.signal(number, signal.SIG_IGN if self._is_over else handler)

    def _callable(self) -> dict[signal.Signals, _Handler]:
        """Return the former handlers; ignored signals stay ignored."""
        return {number: handler for number, handler in self._before.items() if callable(handler)}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the first signal wait until the end.

        The second signal comes through at once, since the reader of the output may have stopped for
        good.
        """
        before = self._patience
        with self._waiting(1):
            yield
        self._release(before)

    @contextlib.contextmanager
    def barred(self) -> Iterator[None]:
        """Let all signals wait until the end; for short steps only."""
        before = self._patience
        with self._waiting(1 << 30):
            yield
        self._release(before)

    @contextlib.contextmanager
    def last(self) -> Iterator[None]:
        """Drop the first signal, and all after the end, since the run ends anyway."""
        with self._waiting(1):
            yield
            self._is_over = True

    @contextlib.contextmanager
    def _waiting(self, patience: int) -> Iterator[None]:
        before, self._patience = self._patience, patience
        try:
            yield
        finally:
            self._patience = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_over:
            self._kept.append((number, frame))
            self._release(self._patience)

    def _release(self, patience: int) -> None:
        """Handle the last waiting signal if too many are waiting."""
        if not self._is_over and len(self._kept) > patience:
            number, frame = self._kept[-1]
            self._kept.clear()
            self._callable()[signal.Signals(number)](number, frame)
