"""SIGHUP during a run that writes to a file: a log rotator asks to open the file again.

Log rotators send this signal after they have renamed the file. The signal also comes when the
terminal of a run closes; then it ends the run, as usual. If the signal was ignored or handled when
the run began, this does not change.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType


class Hangup:
    """Notes that the signal came; its handler does nothing else."""

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
