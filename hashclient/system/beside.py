"""Runs a command at intervals for a long-running program that does not wait for the command.

The program calls `Beside.look` often; `look` starts the command when the interval has passed. A run
of the command begins only after the previous run has ended.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence

from hashclient.system.log import Log
from hashclient.system.text import printable

_log = Log("beside")
#: The shortest time in seconds between two runs if the second run is caused by a change.
_REST_S = 30.0
#: After an incomplete run, the next run begins when this time in seconds has passed since its end:
#: after the first, the second and the third incomplete run one after the other.
AGAIN_S = (600.0, 3600.0, 6 * 3600.0)


class Beside:
    """A command that is run every `every_s` seconds, and soon after a change of `changed()`.

    The command should run again when `changed()` returns another value than before; by default, the
    value is always None.
    """

    def __init__(
        self,
        command: Sequence[str],
        every_s: float,
        *,
        changed: Callable[[], object] = lambda: None,
        at_once: bool = False,
        is_complete: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """Start the first interval; with `at_once`, the first call of `look` starts a run.

        `is_complete` is called with the exit code of each run; after an incomplete run, the next
        run comes sooner.
        """
        self._command, self._shown = command, printable(" ".join(command))
        self._every_s = every_s
        self._changed = changed
        self._before = changed()
        self._is_complete = is_complete
        self._incomplete = 0
        self._began = time.monotonic() - (every_s if at_once else 0.0)
        self._due = self._began + every_s
        self._running: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        """Log the end of a run, and start the next run if the interval has passed."""
        now = time.monotonic()
        if self._running is not None:
            code = self._running.poll()
            if code is None:
                return
            _log.info("has ended with %d: %s", code, self._shown)
            self._running = None
            self._incomplete = 0 if self._is_complete(code) else self._incomplete + 1
            if 0 < self._incomplete <= len(AGAIN_S):
                self._due = min(self._due, now + AGAIN_S[self._incomplete - 1])
        if now < self._began + min(self._every_s, _REST_S):
            return
        state = self._changed()
        if now < self._due and state == self._before:
            return
        self._before, self._began, self._due = state, now, now + self._every_s
        try:
            self._running = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        except OSError as error:
            _log.info("cannot run: %s: %s", self._shown, error.strerror)

    def end(self, wait_s: float) -> None:
        """Terminate a run of the command, and kill it after `wait_s` seconds.

        A killed run leaves no incomplete file, because hashclient replaces each file in one step.
        """
        if self._running is None:
            return
        self._running.terminate()
        try:
            self._running.wait(max(0.0, wait_s))
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
