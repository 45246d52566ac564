"""The program's entry, for the console script and for `python -m hashclient`.

Loading the command line takes a tenth of a second. During this time Ctrl-C and SIGTERM must end the
program as they do later: with a message and an exit code. So this module sets the handlers first,
and imports no other module at its top. The start of Python itself is out of reach.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take a while to load
    from types import FrameType
    from typing import NoReturn

#: The message and the exit code (128 plus the number, as usual): `errors` is not loaded yet.
_ENDS = {signal.SIGINT: b"hashclient: interrupted\n", signal.SIGTERM: b"hashclient: terminated\n"}
#: Another system's kernel can neither prove that a file stayed unchanged, nor sandbox a parser.
_ELSEWHERE = (
    "hashclient: runs on Linux only, and this is {}\n"
    "hint: check the files of this machine from a Linux that mounts them, or in a container\n"
)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    try:
        os.write(2, _ENDS[signal.Signals(number)])
    finally:
        # Not `sys.exit`: its exception would be raised inside the module that is being loaded.
        os._exit(128 + number)


def main() -> NoReturn:
    """Run the program and exit with a code of `ExitCode`."""
    if sys.platform != "linux":
        sys.stderr.write(_ELSEWHERE.format(sys.platform))
        sys.exit(2)
    for number in _ENDS:
        # An ignored signal, as in the background of a shell, stays ignored.
        if callable(signal.getsignal(number)) or number is signal.SIGTERM:
            signal.signal(number, _end)
    from hashclient.system.process import collect_rarely

    # A start makes many objects, and nearly all of them stay.
    collect_rarely()
    from hashclient.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
