"""What `-v` shows: what the program logs, on stderr."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from hashclient.system.log import NAME
from hashclient.system.text import printable


class _Handler(logging.Handler):
    """Hands each record on as a line. `of` is the process that shows them; forked ones do not."""

    def __init__(self, talk: Callable[[str], None], of: int) -> None:
        super().__init__()
        self._talk = talk
        self._of = of
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.process != self._of:
            return
        with contextlib.suppress(OSError):  # nobody reads stderr any more: no reason to end
            self._talk(printable(self.format(record)))


def show_log(talk: Callable[[str], None], *, details: bool, process: int) -> Callable[[], None]:
    """Show what is logged from now on by `talk`, a line each; return how to end that.

    Without `details`, only what was done is shown. `process` is the id of this process.
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
