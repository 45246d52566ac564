"""The standard streams: a failure to write to stdout is an error, one on stderr is ignored."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from hashclient.cli.output import output_error


class _Bytes(io.BufferedWriter):
    """The raw stream below stdout; all output, click's bytes included, goes through it."""

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
    """Stderr, without errors: a message that nobody can read is no reason to fail.

    At the end, the interpreter may flush it after this module's imports are gone.
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
    """Make the standard streams usable, even if some are closed.

    Names of files may have any bytes; they are written unchanged or escaped, without an error.
    """
    # A file opened later must not become stdout, so a closed stream is opened such that writes
    # fail.
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
