"""`-v`: shows the internal log on stderr."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from hashclient.system.log import NAME
from hashclient.system.text import printable


class _Handler(logging.Handler):
    """Passes each log record of the process with the id `of`, not of its children, to `talk`."""

    def __init__(self, talk: Callable[[str], None], of: int) -> None:
        super().__init__()
        self._talk = talk
        self._of = of
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.process != self._of:
            return
        with contextlib.suppress(OSError):  # the process that reads stderr has ended
            self._talk(printable(self.format(record)))


def show_log(talk: Callable[[str], None], *, details: bool, process: int) -> Callable[[], None]:
    """Pass each new log record to `talk` as a line; return a function that stops the passing.

    If `details` is false, only finished steps are shown. `process` is the id of this process.
    """
    logger = logging.getLogger(NAME)
    handler = _Handler(talk, process)
    before = logger.level
    logger.setLevel(logging.DEBUG if details else logging.INFO)
    logger.addHandler(handler)

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    return end
