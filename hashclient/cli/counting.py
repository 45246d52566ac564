"""Counts the files of a scan ahead of it, for the share that a terminal shows.

The scan walks only as far as its workers need, so that its memory stays flat; it knows the total
only near its end. So another process walks the same trees and counts. This takes a small part of
the time of a scan, and brings the directories into the kernel's cache. The count is for display
only; it never changes a verdict.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from hashclient.cli.signals import SIGNALS
from hashclient.scan.values.options import ScanOptions

#: The format of the number that the process sends in the end.
_NUMBER_BYTES = 8


@contextlib.contextmanager
def files_counted(paths: Sequence[str], options: ScanOptions) -> Iterator[Callable[[], int | None]]:
    """Count the inputs at `paths` in another process; yield a function that returns the number.

    It returns None until all are counted; always None if counting fails, or without paths.
    """
    if not paths:
        yield lambda: None
        return
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    # A signal before the process has its own handlers would run ours in it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()  # before any worker or thread
        if pid == 0:
            _count(theirs, paths, options)
    except OSError:  # too many processes: then there is no share
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
            with contextlib.suppress(OSError):  # nothing has come yet
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
            # A process that hangs in a dead file system is not waited for.
            os.waitpid(pid, os.WNOHANG)


def _count(to: int, paths: Sequence[str], options: ScanOptions) -> NoReturn:
    """Count, and end this process; no other code of ours may run in it."""
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
