"""Waiting for a signal or for file descriptors, even for descriptors with large numbers."""

from __future__ import annotations

import os
import resource
import signal

from hashclient.system.wakeup import wait, woken_by


def test_descriptors_above_those_of_select_are_waited_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    reader, writer = os.pipe()
    high = os.dup2(reader, 1500, inheritable=False)
    came: list[int] = []
    try:
        with woken_by({signal.SIGUSR1: lambda: came.append(1)}) as woken:
            assert wait(woken, [high], 0) == wait(woken, [high], 0.001) == []
            os.write(writer, b"x")
            assert wait(woken, [high], None) == [high]
            os.read(high, 1)
            signal.raise_signal(signal.SIGUSR1)
            assert wait(woken, [high], None) == [] and came == [1]
            assert wait(woken, [high], -1) == []
    finally:
        for fd in (reader, writer, high):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
