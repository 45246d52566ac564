"""Progress bars on stderr, drawn by rich, when somebody is there to see them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hashclient.cli.app import App

if TYPE_CHECKING:
    from hashclient.build import Progress as FetchProgress
    from hashclient.scan import Progress as ScanProgress


@contextlib.contextmanager
def fetch_progress(app: App) -> Iterator[FetchProgress]:
    """Yield a function that draws the download of a list, or does nothing."""
    if not app.progress_wanted():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    # Without a thread of rich's own: a process with threads should not fork.
    bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    tasks = {}

    def show(list_name: str, done: int, total: int) -> None:
        if list_name not in tasks:
            tasks[list_name] = bar.add_task(f"list {list_name}", total=total)
        bar.update(tasks[list_name], completed=done, total=total)
        bar.refresh()

    with bar:
        yield show


@contextlib.contextmanager
def scan_progress(app: App, progress: ScanProgress) -> Iterator[Callable[[], None]]:
    """Yield a function that draws how far a scan has come, or does nothing."""
    if not app.progress_wanted():
        yield lambda: None
        return
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from hashclient.model import Kind
    from hashclient.report.text import human_bytes

    started = last = time.monotonic()
    summary = progress.summary
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

        def show() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < 0.1:
                return
            last = now
            elapsed = now - started
            read = summary.bytes_read + progress.bytes_ahead
            line = Text.assemble(
                f"{summary.inputs:,} files, {human_bytes(read)}",
                f"  ({summary.inputs / elapsed:,.0f} files/s, {human_bytes(read / elapsed)}/s)  ",
                (
                    f"{summary.counts[Kind.MATCH]:,} match",
                    "bold red" if summary.counts[Kind.MATCH] else "",
                ),
                f", {summary.counts[Kind.UNREAD]:,} unread",
            )
            live.update(line, refresh=True)

        yield show
