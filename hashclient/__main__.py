"""The entry point of the program, for the console script and for `python -m hashclient`.

Importing the command line takes a tenth of a second. During this time, Ctrl-C and SIGTERM must end
the program in the same way as later: with a message and an exit code. So this module first sets
handlers for these signals, and imports no other module at its top. This module cannot handle
signals that arrive while Python itself starts.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` would take too long
    from types import FrameType
    from typing import NoReturn

#: For each signal, the message; the exit code is 128 plus the number of the signal, and is computed
#: because the module `errors` is not loaded yet.
_ENDS = {signal.SIGINT: b"hashclient: interrupted\n", signal.SIGTERM: b"hashclient: terminated\n"}
#: Only Linux is supported, because kernels of other systems can neither prove that a file is
#: unchanged, nor sandbox a parser.
_ELSEWHERE = (
    "hashclient: runs on Linux only, and this is {}\n"
    "hint: check the files of this machine from a Linux that mounts them, or in a container\n"
)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    try:
        os.write(2, _ENDS[signal.Signals(number)])
    finally:
        # `sys.exit` is not called, because its exception would be raised inside the module that is
        # being imported.
        os._exit(128 + number)


def _restart_in_utf8() -> NoReturn:
    """Start the program again in Python's UTF-8 mode, whatever the encoding of the locale.

    The names of files are bytes, and records contain these bytes in the encoding of names. With the
    encoding of a locale, records of one machine would depend on who has started the program, and
    some names could not be opened.
    """
    words = [sys.orig_argv[0], "-X", "utf8", *sys.orig_argv[1:]]
    os.execv(sys.executable, words)  # noqa: S606 - the same program without a shell


def main() -> NoReturn:
    """Run the program, and exit with a code of `ExitCode`."""
    if sys.platform != "linux":
        sys.stderr.write(_ELSEWHERE.format(sys.platform))
        sys.exit(2)
    if sys.getfilesystemencoding() != "utf-8":
        _restart_in_utf8()
    for number in _ENDS:
        # A signal that is ignored, as in the background of a shell, stays ignored.
        if callable(signal.getsignal(number)) or number is signal.SIGTERM:
            signal.signal(number, _end)
    from hashclient.system.process import collect_rarely

    # A program that starts makes many objects and keeps nearly all of them, so the garbage
    # collector runs rarely.
    collect_rarely()
    from hashclient.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
