"""SIGHUP during a run that writes to a file: who rotates logs wants that file opened again.

Other programs say so by this signal, after they have renamed the file. It also comes when the
terminal of a run goes away; that ends the run, as ever. Where the signal was ignored or handled
when the run began, it stays so.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType


class Hangup:
    """Notes that the signal came; nothing else is done in its handler."""

    def __init__(self) -> None:
        """The signal means what it meant, until `watch`."""
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
        """Let the signal mean what it meant before."""
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
    """Tell whether this process has a terminal that controls it, and that is there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
