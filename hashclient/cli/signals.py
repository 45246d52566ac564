"""All that the program does about signals.

`raise_at_signals` is for the whole process: SIGINT and SIGTERM raise an exception. `Signals` is for
a run: it holds them back during a step that must not be interrupted. `Hangup` is for a run that
writes to a file: SIGHUP asks to open it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Handler = Callable[[int, FrameType | None], Any]

#: The signals that `raise_at_signals` has handled so far.
interrupts: list[int] = []


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt, it must pass all handlers of errors."""


def on_sigint(number: int, _frame: FrameType | None) -> NoReturn:
    """Interrupt the program."""
    interrupts.append(number)
    raise KeyboardInterrupt


def on_sigterm(number: int, _frame: FrameType | None) -> NoReturn:
    """End the program."""
    interrupts.append(number)
    raise Terminated


def raise_at_signals() -> None:
    """Make SIGINT and SIGTERM raise; an ignored SIGINT (as in the background) stays ignored."""
    signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_sigint)


def ignore_signals() -> None:
    """Ignore both signals from here on: the process ends with its present code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Signals:
    """Passes signals on to the former handlers, or holds them back.

    Use it as a context manager around the whole run. Handlers are installed once a run and check
    the current step. Outside of a step they call the former handlers, so it does no harm if one of
    them stays. Installing handlers for each step would leave moments in which one signal has the
    new handler and the other the old one.
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


class Hangup:
    """Notes that SIGHUP came: a log rotator asks to open the file again that it has renamed.

    The signal also comes when the terminal of a run closes; then it ends the run, as usual. If the
    signal was ignored or handled when the run began, this does not change.
    """

    def __init__(self) -> None:
        """Change nothing until `watch`."""
        #: Whether it came since this was set to False.
        self.is_asked = False
        self._is_watching = self._had_terminal = False

    def watch(self) -> None:
        """Note the signal from here on."""
        if self._is_watching or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
            return
        self._had_terminal = _has_terminal()
        with contextlib.suppress(ValueError):  # not the main thread, which alone gets signals
            signal.signal(signal.SIGHUP, self._handle)
            self._is_watching = True

    def end(self) -> None:
        """Restore the former meaning of the signal."""
        if self._is_watching:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self._is_watching = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._had_terminal and not _has_terminal():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.is_asked = True


def _has_terminal() -> bool:
    """Return whether this process has a controlling terminal that is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
