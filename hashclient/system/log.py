"""Internal log messages, through the standard `logging` below the name `hashclient`.

Messages for users come from the command line, and permanent records go to the audit log. A log
message may hold counts and the names of lists and providers, but never a digest, a credential or
content of a file. Only `info` and `debug` are used: a fault is an error or an outcome.

Importing `logging` is slow, and a listener must have imported it. So this module uses `logging`
only if the program has imported it already.
"""

from __future__ import annotations

import sys

#: The name above the names of all loggers.
NAME = "hashclient"
_INFO, _DEBUG = 20, 10


class Log:
    """The logger `hashclient.NAME`."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        """Name the part of the program that logs."""
        self._name = f"{NAME}.{name}"

    def info(self, message: str, *values: object) -> None:
        """Log a finished step; `message` is formatted with `values` by `%` if anybody listens."""
        self._say(_INFO, message, values)

    def debug(self, message: str, *values: object) -> None:
        """Log a detail."""
        self._say(_DEBUG, message, values)

    def _say(self, level: int, message: str, values: tuple[object, ...]) -> None:
        logging = sys.modules.get("logging")
        # Another thread may be importing `logging` at this moment: then no listener exists yet.
        get_logger = getattr(logging, "getLogger", None)
        if get_logger is not None:
            get_logger(self._name).log(level, message, *values)
