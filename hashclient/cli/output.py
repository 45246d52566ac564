"""The standard streams, JSON on them, and the handling of signals.

Stdout is for data. A failure to write to stdout is an error; a failure to write to stderr is
ignored. `formats` writes outcomes, `app` writes tables for people, `outputfile` writes the file
that `--output` names.

`raise_at_signals` is for the whole process: SIGINT and SIGTERM raise an exception. `Signals` is for
a run: it holds signals back during a step that must not be interrupted. `Hangup` is for a run that
writes to a file: SIGHUP asks to open the file again.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hashclient.core.errors import ExitCode, StateError
from hashclient.system.text import for_programs, printable


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table for people, whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield line.rstrip()


def facts(pairs: Iterable[tuple[str, object]], width: int = 11) -> Iterator[str]:
    """Yield a line for each name and value; None and empty values are left out."""
    for name, value in pairs:
        if value not in (None, ""):
            yield f"  {name:<{width}} {value}".rstrip()


def json_text(document: object, indent: int | None = None, *, compact: bool = False) -> str:
    """Return `document` as JSON in ASCII; its keys keep their order.

    A struct becomes an object of its fields by their encoded names, a time is in UTC in the form of
    RFC 3339, a path becomes a text. With `compact`, no spaces separate its parts.
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


class OutputError(StateError):
    """The output cannot be written: the disk is full, or the reader has ended."""


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
    """The raw stream below stdout; all output goes through it, also the bytes that click writes."""

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
    """Stderr that ignores errors: if nobody can read a message, the program goes on.

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

    Names of files may have any bytes; all names are written unchanged or escaped, and never cause
    an error.
    """
    # A file that is opened later must not become stdout. So a closed stream is opened in a way that
    # makes writes fail.
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


SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: Seconds in which a reader may take the rest of the output of an interrupted program.
REST_S = 0.5
#: Seconds until a lost signal comes again.
REPEAT_S = 0.01

_Handler = Callable[[int, FrameType | None], Any]

#: The signals that `raise_at_signals` has handled so far.
interrupts: list[int] = []


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt, no handler of errors may catch this exception."""


def on_sigint(number: int, _frame: FrameType | None) -> NoReturn:
    """Interrupt the program."""
    interrupts.append(number)
    raise KeyboardInterrupt


def on_sigterm(number: int, _frame: FrameType | None) -> NoReturn:
    """End the program."""
    interrupts.append(number)
    raise Terminated


def raise_at_signals() -> None:
    """Make SIGINT and SIGTERM raise; an ignored SIGINT (as in the background) stays ignored."""
    signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_sigint)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _repeat_interrupt


def _repeat_interrupt(lost: sys.UnraisableHookArgs) -> None:
    """Repeat a signal if Python has dropped its exception, as in callbacks of weak references."""
    if not isinstance(lost.exc_value, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
    # Not at once: an exception in this function would be dropped, too.
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, REPEAT_S)


def ignore_signals() -> None:
    """Ignore both signals from now on: the process ends with its present exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_soon(code: int) -> None:
    """If a signal has interrupted the program, end the process with `code` in a moment.

    The reader of the output may have stopped for good: then writing the rest never ends.
    """
    if interrupts:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
        signal.setitimer(signal.ITIMER_REAL, REST_S)


def end_now(code: int) -> NoReturn:
    """End the process with `code`, after all output is written.

    Nothing that Python still does at its end is of use. Python frees each object (a scan of one
    file then takes 5 % longer), waits for each worker, even for a worker that hangs in a server,
    and may end itself by SIGINT if an interruption came while a module was loading.
    """
    sys.stderr.flush()
    os._exit(code)


class Signals:
    """Passes signals on to the former handlers, or holds them back.

    Use it as a context manager around the whole run. Handlers are installed once per run and check
    the current step. Outside of a step the handlers call the former handlers, so a handler that
    stays does no harm. If each step installed handlers, one signal could briefly have the new
    handler while the other signal still has the old handler.
    """

    def __init__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        #: How many signals may wait for the end of a step; one signal more comes through at once.
        self._patience = 0
        self._kept: list[tuple[int, FrameType | None]] = []
        self._is_over = False

    def __enter__(self) -> Signals:
        for number in self._callable():
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._callable().items():
            signal.signal(number, signal.SIG_IGN if self._is_over else handler)

    def _callable(self) -> dict[signal.Signals, _Handler]:
        """Return the former handlers; ignored signals stay ignored."""
        return {number: handler for number, handler in self._before.items() if callable(handler)}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the first signal wait until the end.

        The second signal comes through at once, since the reader of the output may have stopped for
        good.
        """
        before = self._patience
        with self._waiting(1):
            yield
        self._release(before)

    @contextlib.contextmanager
    def barred(self) -> Iterator[None]:
        """Let all signals wait until the end; for short steps only."""
        before = self._patience
        with self._waiting(1 << 30):
            yield
        self._release(before)

    @contextlib.contextmanager
    def last(self) -> Iterator[None]:
        """Drop the first signal, and all after the end, since the run ends anyway."""
        with self._waiting(1):
            yield
            self._is_over = True

    @contextlib.contextmanager
    def _waiting(self, patience: int) -> Iterator[None]:
        before, self._patience = self._patience, patience
        try:
            yield
        finally:
            self._patience = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_over:
            self._kept.append((number, frame))
            self._release(self._patience)

    def _release(self, patience: int) -> None:
        """Handle the last waiting signal if more signals wait than may."""
        if not self._is_over and len(self._kept) > patience:
            number, frame = self._kept[-1]
            self._kept.clear()
            self._callable()[signal.Signals(number)](number, frame)


class Hangup:
    """Notes that SIGHUP came: a log rotator has renamed the output file, and asks to open it again.

    The signal also comes when the terminal of a run closes; then it ends the run, as usual. If
    SIGHUP was ignored or handled when the run began, this class changes nothing.
    """

    def __init__(self) -> None:
        """Change nothing until `watch`."""
        #: Whether SIGHUP came since this attribute was set to False.
        self.is_asked = False
        self._is_watching = self._had_terminal = False

    def watch(self) -> None:
        """Note the signal from here on."""
        if self._is_watching or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
            return
        self._had_terminal = _has_terminal()
        # Not the main thread: only the main thread gets signals.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGHUP, self._handle)
            self._is_watching = True

    def end(self) -> None:
        """Restore the former meaning of the signal."""
        if self._is_watching:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self._is_watching = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._had_terminal and not _has_terminal():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.is_asked = True


def _has_terminal() -> bool:
    """Return whether this process has a controlling terminal that is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
