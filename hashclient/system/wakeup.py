"""Lets signals end a wait, by a descriptor that becomes readable when a signal arrives."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType


@contextlib.contextmanager
def woken_by(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[int]:
    """Call functions for signals during the block; yield a descriptor for the function `wait`."""

    def handle(number: int, _: FrameType | None) -> None:
        handlers[signal.Signals(number)]()

    before = {number: signal.signal(number, handle) for number in handlers}
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    woken_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(woken_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(woken)
        os.close(wake)


def wait(woken: int, others: Sequence[int], seconds: float | None) -> list[int]:
    """Wait for a signal or a readable descriptor; return the readable descriptors of `others`."""
    # `poll` is used because `select` refuses descriptors above 1,023.
    waiting = select.poll()
    for fd in (woken, *others):
        waiting.register(fd, select.POLLIN)
    most_ms = None if seconds is None else max(0.0, 1000 * seconds)
    ready = [fd for fd, _ in waiting.poll(most_ms)]
    if woken in ready:
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
    return [fd for fd in ready if fd != woken]
