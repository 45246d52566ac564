"""The standard streams, JSON and tables for output, and the handling of signals.

A failure to write to stdout is an error, because stdout has the data. A failure to write to stderr
is ignored, because stderr has only messages.

`raise_at_signals` makes SIGINT and SIGTERM raise an exception. `Signals` delays signals during a
step of a run that must not be interrupted. `Hangup` records a SIGHUP, which asks a run to open its
output file again.
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
    """Return `document` as JSON in ASCII; the keys of objects keep their order.

    A struct becomes an object whose keys are the encoded names of the fields. A time becomes a text
    in UTC in the form of RFC 3339. A path becomes a text. If `compact` is true, the JSON has no
    spaces between its tokens.
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
    """The output cannot be written, for example because the disk is full."""


class ReaderGoneError(OutputError):
    """The program that reads the output has ended, as `head` does after some lines."""

    exit_code = ExitCode.INCOMPLETE


def output_error(error: OSError, path: Path | None = None) -> OutputError:
    """Return the OutputError for an error of the operating system on an output stream."""
    where = "the output" if path is None else f"the output {printable(path)}"
    if error.errno == errno.EPIPE:
        return ReaderGoneError(f"nobody reads {where} any more, so the command ended early")
    return OutputError(f"cannot write {where}: {error.strerror or error}")


class _Bytes(io.BufferedWriter):
    """The stream of bytes below stdout, which turns errors of writing into OutputError."""

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
    """Stderr that ignores errors, so that the program continues if a message cannot be written.

    The methods use no imported names, because the interpreter may flush stderr at its end, after it
    has removed the names of this module.
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

    A file name may contain any bytes. Writing a file name never raises an error: its bytes are
    written unchanged or escaped.
    """
    # A closed descriptor 0, 1 or 2 is opened on a device with a mode that makes reads or writes
    # fail. If a descriptor stayed closed, the next opened file would get this descriptor, and would
    # become stdout, for example.
    for fd, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the descriptor is never closed
    for name, fd, kind, below in (
        ("stdout", 1, io.TextIOWrapper, _Bytes),
        ("stderr", 2, _Talk, io.BufferedWriter),
    ):
        encoding = getattr(getattr(sys, name), "encoding", "utf-8")
        raw = below(io.FileIO(fd, "wb", closefd=False))
        stream = kind(raw, encoding, errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)


SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: An interrupted program waits at most this number of seconds until its output is read.
REST_S = 0.5
#: If Python has dropped the exception of a signal, the signal is raised again after this number of
#: seconds.
REPEAT_S = 0.01

_Handler = Callable[[int, FrameType | None], Any]

#: The numbers of the signals that arrived so far, after `raise_at_signals` was called.
interrupts: list[int] = []


class Terminated(BaseException):
    """SIGTERM arrived; it is a BaseException so that `except Exception` does not catch it."""


def on_sigint(number: int, _frame: FrameType | None) -> NoReturn:
    """Handle SIGINT by raising KeyboardInterrupt."""
    interrupts.append(number)
    raise KeyboardInterrupt


def on_sigterm(number: int, _frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM by raising Terminated."""
    interrupts.append(number)
    raise Terminated


def raise_at_signals() -> None:
    """Make SIGINT and SIGTERM raise exceptions, unless SIGINT is ignored (a background job)."""
    signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_sigint)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _repeat_interrupt


def _repeat_interrupt(lost: sys.UnraisableHookArgs) -> None:
    """Raise a signal again if Python has dropped its exception, as in weak reference callbacks."""
    if not isinstance(lost.exc_value, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
    # The signal is raised by a timer after this function has returned, because Python would also
    # drop an exception in this function.
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, REPEAT_S)


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM from now on, so that they cannot change the exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_soon(code: int) -> None:
    """If a signal has interrupted the program, end the process with `code` after `REST_S` seconds.

    Without this limit, writing the rest of the output would never end if the process that reads the
    output has stopped.
    """
    if interrupts:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
        signal.setitimer(signal.ITIMER_REAL, REST_S)


def end_now(code: int) -> NoReturn:
    """End the process with `code` at once; the caller has written all output.

    The process ends without Python's usual clean-up, because the clean-up takes time and has no
    use. Python would free each object (a scan of one file would take 5 % longer) and would wait for
    each worker, even for a worker that waits for a hanging server. Python may also end itself by
    SIGINT if an interruption came while a module was being imported.
    """
    sys.stderr.flush()
    os._exit(code)


class Signals:
    """Passes SIGINT and SIGTERM to the former handlers, or delays these signals during a step.

    An object of this class is a context manager for a whole run. The handlers are installed once
    per run, because between two installations for each step, SIGINT could have the new handler
    while SIGTERM still has the old handler. Outside of a step, the installed handlers call the
    former handlers.
    """

    def __init__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        #: The number of signals that may wait for the end of a step; the next signal is handled at
        #: once.
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
        """Return the former handlers of signals, without handlers that are not functions."""
        return {number: handler for number, handler in self._before.items() if callable(handler)}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Delay the first signal until the end of the `with` block.

        The second signal is handled at once, because the block may never end: the process that
        reads the output may have stopped.
        """
        before = self._patience
        with self._waiting(1):
            yield
        self._release(before)

    @contextlib.contextmanager
    def barred(self) -> Iterator[None]:
        """Delay all signals until the end of the `with` block, which has to be short."""
        before = self._patience
        with self._waiting(1 << 30):
            yield
        self._release(before)

    @contextlib.contextmanager
    def last(self) -> Iterator[None]:
        """Drop the first signal in the `with` block, and all signals after the block.

        The signals are dropped because the run ends after the block in any case.
        """
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
        """Handle the last delayed signal if more than `patience` signals are delayed."""
        if not self._is_over and len(self._kept) > patience:
            number, frame = self._kept[-1]
            self._kept.clear()
            self._callable()[signal.Signals(number)](number, frame)


class Hangup:
    """Records a SIGHUP, by which a log rotator asks a run to open a renamed output file again.

    SIGHUP also arrives when the terminal of a run closes; in this case SIGHUP ends the run, as
    usual. If SIGHUP was ignored or handled when the run began, this class changes nothing.
    """

    def __init__(self) -> None:
        """Create the object; the handling of SIGHUP changes only in `watch`."""
        #: Whether SIGHUP has arrived since this attribute was set to False.
        self.is_asked = False
        self._is_watching = self._had_terminal = False

    def watch(self) -> None:
        """Record each SIGHUP from now on."""
        if self._is_watching or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
            return
        self._had_terminal = _has_terminal()
        # A ValueError means that this is not the main thread; only the main thread can handle
        # signals.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGHUP, self._handle)
            self._is_watching = True

    def end(self) -> None:
        """Restore the former handling of SIGHUP."""
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
