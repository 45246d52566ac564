"""What happens inside, for whoever listens: the standard `logging` below the name `hashclient`.

Nothing here is for the user of a command, which the command line serves, or for the record, which
is the audit log. Never a digest, a credential or what a file holds is said; counts, names of lists
and providers are. Only `info` and `debug` are used: what is wrong is an error or an outcome.

To import `logging` takes longer than some starts may, and nobody can listen who has not done so. So
it is not imported here.
"""

from __future__ import annotations

import sys

#: What all loggers are below.
NAME = "hashclient"
_INFO, _DEBUG = 20, 10


class Log:
    """The logger `hashclient.NAME`."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        """Name the part of the program that speaks."""
        self._name = f"{NAME}.{name}"

    def info(self, message: str, *values: object) -> None:
        """Say what was done; `message` is formatted with `values` by `%` if anybody listens."""
        self._say(_INFO, message, values)

    def debug(self, message: str, *values: object) -> None:
        """Say a detail."""
        self._say(_DEBUG, message, values)

    def _say(self, level: int, message: str, values: tuple[object, ...]) -> None:
        logging = sys.modules.get("logging")
        # Another thread may just be importing it: then nobody listens yet.
        get_logger = getattr(logging, "getLogger", None)
        if get_logger is not None:
            get_logger(self._name).log(level, message, *values)
