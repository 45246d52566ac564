"""The program's entry, for the console script and for `python -m hashclient`.

Loading the command line takes a tenth of a second, in which Ctrl-C and SIGTERM must end the program
as they do later: with a word and an exit code. So this module sees to that first, and imports
nothing else at its top. What Python itself does before is out of reach.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take a while to load
    from types import FrameType
    from typing import NoReturn

#: What to say, and the exit code (128 and the number, as everywhere): `errors` is not loaded yet.
_ENDS = {signal.SIGINT: b"hashclient: interrupted\n", signal.SIGTERM: b"hashclient: terminated\n"}


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    try:
        os.write(2, _ENDS[signal.Signals(number)])
    finally:
        # Not by an exception, which the modules that are being loaded would get.
        os._exit(128 + number)


def main() -> NoReturn:
    """Run the program and exit with a code of `ExitCode`."""
    for number in _ENDS:
        # What is ignored, as in the background of a shell, stays so.
        if callable(signal.getsignal(number)) or number is signal.SIGTERM:
            signal.signal(number, _end)
    from hashclient.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
