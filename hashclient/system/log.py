"""Internal log messages, sent to loggers of the standard `logging` module below `hashclient`.

Messages for users are printed by the command-line interface, and permanent records are in the audit
log. A log message may contain counts and the names of lists and providers, but never a digest, a
credential or content of a file. Only the levels `info` and `debug` are used, because a fault is
reported as an exception or as an outcome.

This module uses `logging` only if the program has already imported `logging`. The import is slow,
and if the program has not imported `logging`, no handler for messages exists.
"""

from __future__ import annotations

import sys

#: The name of the parent of all loggers of hashclient.
NAME = "hashclient"
_INFO, _DEBUG = 20, 10


class Log:
    """The logger `hashclient.NAME`."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        """Use the logger for the part `name` of the program."""
        self._name = f"{NAME}.{name}"

    def info(self, message: str, *values: object) -> None:
        """Log a finished step; `logging` formats `message` with `values` by `%`."""
        self._say(_INFO, message, values)

    def debug(self, message: str, *values: object) -> None:
        """Log a detail, as `info` does."""
        self._say(_DEBUG, message, values)

    def _say(self, level: int, message: str, values: tuple[object, ...]) -> None:
        logging = sys.modules.get("logging")
        # `getLogger` is missing while another thread is importing `logging`.
        get_logger = getattr(logging, "getLogger", None)
        if get_logger is not None:
            get_logger(self._name).log(level, message, *values)
