"""The standard streams: a failure to write to stdout is our error, one of stderr is none."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from hashclient.cli.output import output_error


class _Bytes(io.BufferedWriter):
    """What is below stdout: click writes some of what it prints as bytes, and all ends here."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise output_error(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise output_error(error) from error


class _Talk(io.TextIOWrapper):
    """Stderr: a message that nobody can read is no reason to fail.

    It may be flushed when the interpreter has taken down all that this module had imported.
    """

    def write(self, text: str) -> int:
        try:
            super().write(text)
        except OSError:
            pass
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            pass


def open_streams() -> None:
    """Make the standard streams usable, whatever we were started with.

    Names of files may be any bytes; they are written as they came or escaped, never a crash.
    """
    # A file that we open must not become stdout: what is closed is opened so that its use fails.
    for fd, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - a descriptor, for good
    for name, fd, kind, below in (
        ("stdout", 1, io.TextIOWrapper, _Bytes),
        ("stderr", 2, _Talk, io.BufferedWriter),
    ):
        encoding = getattr(getattr(sys, name), "encoding", "utf-8")
        raw = below(io.FileIO(fd, "wb", closefd=False))
        stream = kind(raw, encoding, errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
