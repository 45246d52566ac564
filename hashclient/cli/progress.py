"""Draws progress bars with rich if stderr is a terminal.

A scan lists files only as fast as its workers read files, so that it needs little memory. So a scan
knows the total number of files only near its end. For the percentage in the bar, another process
lists the same trees and counts the files. Counting takes a small part of the time of a scan, and
loads the directories into the kernel's cache. The count never changes a verdict.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from hashclient.cli.app import App
from hashclient.cli.output import SIGNALS
from hashclient.system.text import counted, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hashclient.core.verdict import Summary
    from hashclient.fetch.build import Progress as FetchProgress
    from hashclient.scan.run.engine import Progress as ScanProgress
    from hashclient.scan.values.options import ScanOptions

#: The number of seconds between two updates of a bar.
INTERVAL_S = 0.1
#: The share of a scan and the number of seconds that have to pass before the remaining time is
#: estimated, because an estimate from a few files is too inexact.
MIN_SHARE = 0.01
MIN_ELAPSED_S = 2.0


@contextlib.contextmanager
def fetch_progress(app: App) -> Iterator[FetchProgress]:
    """Yield a function that draws the progress of a download, or does nothing."""
    if not app.progress_wanted():
        yield lambda *_: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    bar = Progress(*columns, auto_refresh=False)
    tasks = {}

    def show(list_name: str, done: int, total: int) -> None:
        if list_name not in tasks:
            tasks[list_name] = bar.add_task(f"list {list_name}", total=total)
        bar.update(tasks[list_name], completed=done, total=total)
        draw(bar.get_renderable)

    with _screen(app) as draw:
        yield show


@contextlib.contextmanager
def scan_progress(
    app: App, progress: ScanProgress, total: Callable[[], int | None] = lambda: None
) -> Iterator[Callable[[], None]]:
    """Yield a function that draws the progress of a scan, or does nothing without a terminal.

    `total` returns the number of all inputs; None while the number is not known.
    """
    if not app.progress_wanted():
        yield lambda: None
        return
    started = time.monotonic()
    most = 0
    large = _LargeFiles(progress.reading)

    def line() -> RenderableType:
        nonlocal most
        # The number of bytes could decrease, because a file that changed while it was read is read
        # again and counted again. So the bar shows the largest number so far.
        most = max(most, progress.summary.bytes_read + progress.bytes_ahead)
        now = time.monotonic()
        large.look(now)
        return _scan_line(progress.summary, most, now - started, total(), large)

    with _screen(app) as draw:
        yield lambda: draw(line)


class _LargeFiles:
    """The progress of the large files that are being read; only the slowest file is shown."""

    def __init__(self, reading: Mapping[str, int]) -> None:
        """Store `reading`, which always maps each open file to the number of bytes read so far."""
        self._reading = reading
        #: For each file: the time when it was first seen, the bytes that were read by then, and the
        #: size of the file, or 0 if it is not known.
        self._seen: dict[str, tuple[float, int, int]] = {}
        #: The text that shows the slowest file, and the share that was read if the size is known.
        self.shown = ""
        #: The estimated number of seconds until all large files are read.
        self.left_s = 0.0

    def look(self, now: float) -> None:
        """Update `shown` and `left_s` at the time `now`."""
        self._seen = {path: seen for path, seen in self._seen.items() if path in self._reading}
        self.shown, self.left_s = "", 0.0
        for path, done in self._reading.items():
            if path not in self._seen:
                self._seen[path] = (now, done, _size_of(path))
            since, before, size = self._seen[path]
            left_s, share = 0.0, ""
            if size:
                share = f" {math.floor(100 * min(1.0, done / size))} %"
                if done > before:
                    left_s = max(0, size - done) * (now - since) / (done - before)
            if not self.shown or left_s > self.left_s:
                self.shown, self.left_s = f"{printable(path)}{share}", left_s


def _size_of(path: str) -> int:
    """Return the size of a file in bytes; 0 if the size is not known."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a path may be any bytes
    except (OSError, ValueError):  # a stream has a name that is not a path
        return 0


def _scan_line(
    summary: Summary, read: int, elapsed_s: float, total: int | None, large: _LargeFiles
) -> RenderableType:
    """Return the line that shows the progress of a scan that has `read` this number of bytes."""
    from rich.text import Text

    from hashclient.core.kinds import Kind
    from hashclient.formats.text import human_bytes

    matches = summary.counts[Kind.MATCH]
    shown = Text(no_wrap=True, overflow="ellipsis")
    if total:
        # The share is limited to 100 %, because files may be created after they were counted.
        share = min(1.0, summary.inputs / total)
        shown.append(f"{math.floor(100 * share)} %, ")
        if MIN_SHARE <= share < 1 and elapsed_s >= MIN_ELAPSED_S:
            # The time is estimated from the number of files, and is at least the time for the large
            # files that are being read.
            left_s = max(elapsed_s / share - elapsed_s, large.left_s)
            shown.append(f"{human_time(left_s)} left, ")
    shown.append(f"{counted(summary.inputs, 'file')}, ")
    shown.append(f"{matches:,} match", "bold red" if matches else "")
    speed = human_bytes(read / elapsed_s)
    shown.append(f", {summary.counts[Kind.UNREAD]:,} unread, {human_bytes(read)} ({speed}/s)")
    if large.shown:
        shown.append(f"  {large.shown}")
    return shown


def human_time(seconds: float) -> str:
    """Return a time as text, in the largest unit in which the number is at least 2."""
    for unit, length_s in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:,.0f} {unit}"
    return f"{seconds:.0f} s"


@contextlib.contextmanager
def bytes_progress(app: App, what: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that adds a number of bytes to a sum, and draws the sum with `what`."""
    if not app.progress_wanted():
        yield lambda _count: None
        return
    from rich.text import Text

    from hashclient.formats.text import human_bytes

    started = time.monotonic()
    done = 0

    def line() -> RenderableType:
        speed = human_bytes(done / (time.monotonic() - started))
        return Text(f"{human_bytes(done)} {what}  ({speed}/s)", no_wrap=True)

    with _screen(app) as draw:

        def show(count: int) -> None:
            nonlocal done
            done += count
            draw(line)

        yield show


@contextlib.contextmanager
def _screen(app: App) -> Iterator[Callable[[Callable[[], RenderableType]], None]]:
    """Yield a function that draws a new bar if `INTERVAL_S` has passed since the last bar.

    `app` erases the bar before it prints a text.
    """
    from rich.console import Console
    from rich.live import Live

    # The thread of rich is not used, because a process with threads should not fork. Rich must not
    # redirect stdout, because data would be printed on stderr and folded to the width of the
    # terminal.
    live = Live(
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    drawn, last = False, time.monotonic()

    def draw(make: Callable[[], RenderableType]) -> None:
        nonlocal drawn, last
        if (now := time.monotonic()) - last >= INTERVAL_S:
            last, drawn = now, True
            live.update(make(), refresh=True)

    def erase() -> None:
        nonlocal drawn
        if drawn:
            drawn = False
            live.update("", refresh=True)

    with live:
        app.before_output = erase
        try:
            yield draw
        finally:
            app.before_output = lambda: None


#: The length in bytes of the number that the counting process sends at its end.
_NUMBER_BYTES = 8


@contextlib.contextmanager
def files_counted(paths: Sequence[str], options: ScanOptions) -> Iterator[Callable[[], int | None]]:
    """Count the inputs at `paths` in another process; yield a function that returns their number.

    The function returns None until all inputs are counted. The function always returns None if
    counting fails or `paths` is empty.
    """
    if not paths:
        yield lambda: None
        return
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    # Signals are blocked during the fork, because a signal in the child would run the handlers of
    # the parent process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # The fork is safe, because no worker or thread exists yet.
        pid = os.fork()
        if pid == 0:
            _count(theirs, paths, options)
    except OSError:
        # If no process can be started for counting, the bar shows no percentage.
        pid = 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(theirs)
    if not pid:
        os.close(ours)
        yield lambda: None
        return
    total: int | None = None

    def ask() -> int | None:
        nonlocal total
        if total is None:
            # An OSError means that the counting process has not sent the number yet.
            with contextlib.suppress(OSError):
                data = os.read(ours, _NUMBER_BYTES)
                if len(data) == _NUMBER_BYTES:
                    total = int.from_bytes(data)
        return total

    try:
        yield ask
    finally:
        os.close(ours)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            # WNOHANG prevents waiting for a counting process that hangs in a file system that does
            # not answer.
            os.waitpid(pid, os.WNOHANG)


def _count(to: int, paths: Sequence[str], options: ScanOptions) -> NoReturn:
    """Count the inputs, send the number to the descriptor `to`, and end this process."""
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        from hashclient.core.model import Outcome
        from hashclient.scan.sources.trees import Trees

        with contextlib.suppress(OSError):
            os.nice(5)
        total = 0
        for item in Trees(paths, options, looks_again=False).batches():
            total += 1 if isinstance(item, Outcome) else sum(len(group.names) for group in item)
        os.write(to, total.to_bytes(_NUMBER_BYTES))
    finally:
        os._exit(0)
