"""How commands write: the standard streams, JSON for programs, tables and facts for people.

Stdout is for data. A failure to write to it is an error; one on stderr is ignored. Outcomes are
written by `formats`; a file that `--output` names is `outputfile`.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hashclient.errors import ExitCode, StateError
from hashclient.system.text import for_programs, printable

#: Of very many items this many are shown, and the number of the others.
MOST_SHOWN = 10


def json_text(document: object, indent: int | None = None, *, compact: bool = False) -> str:
    """Return `document` as JSON in ASCII, its keys in their order.

    A struct is an object of its fields by their encoded names, a time is in UTC as RFC 3339 has it,
    a path is a text. With `compact`, no spaces separate its parts.
    """
    import json

    separators = (",", ":") if compact else None
    return json.dumps(document, default=_plain, indent=indent, separators=separators)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return for_programs(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
    return {name: getattr(value, field) for name, field in names}


def shortened(lines: Sequence[str], where: str) -> Iterator[str]:
    """Yield the first lines of a list; then how many more there are, and `where` they are shown."""
    yield from lines[:MOST_SHOWN]
    if (more := len(lines) - MOST_SHOWN) > 0:
        yield f"  and {more:,} more: {where}"


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table for people, whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield line.rstrip()


def facts(pairs: Iterable[tuple[str, object]], width: int = 11) -> Iterator[str]:
    """Yield a line for each name and value; values of None and empty ones are left out."""
    for name, value in pairs:
        if value not in (None, ""):
            yield f"  {name:<{width}} {value}".rstrip()


class OutputError(StateError):
    """The output cannot be written: a full disk, or a reader that has gone."""


class ReaderGoneError(OutputError):
    """The program that reads the output has ended, as `head` does when it has enough."""

    exit_code = ExitCode.INCOMPLETE


def output_error(error: OSError, path: Path | None = None) -> OutputError:
    """Translate an error on an output stream."""
    where = "the output" if path is None else f"the output {printable(path)}"
    if error.errno == errno.EPIPE:
        return ReaderGoneError(f"nobody reads {where} any more, so the command ended early")
    return OutputError(f"cannot write {where}: {error.strerror or error}")


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
