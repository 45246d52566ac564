"""Locks on files, between processes: the kernel frees them when a process ends, however it does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hashclient.errors import LockedError
from hashclient.system.files import state_error
from hashclient.system.text import printable

#: Seconds between two tries to get a lock that is held: at first, and later.
FIRST_PAUSE_S = 0.001
LAST_PAUSE_S = 0.02


def acquire(
    fd: int,
    *,
    shared: bool = False,
    wait_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
) -> bool:
    """Lock an open file for this process alone or, with `shared`, for all readers.

    Return False if others keep it locked for `wait_s` seconds. Closing the file unlocks it.
    `on_wait` is called once when the wait begins.

    Raises:
        OSError: it cannot be locked; not every file system has locks.
    """
    deadline = time.monotonic() + wait_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            on_wait()
            on_wait = _nothing
        else:
            return True
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)


def _nothing() -> None:
    pass


def release(fd: int) -> None:
    """Unlock an open file that stays open.

    Raises:
        OSError: it cannot be unlocked.
    """
    fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def writer_lock(
    path: Path,
    *,
    wait_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
    busy: str | None = None,
    hint: str | None = None,
    directory: int | None = None,
) -> Iterator[None]:
    """Hold the lock file `path` alone; a missing file is made, and a link refused.

    With `directory`, the name is looked up in this open directory.

    `on_wait` is as for `acquire`. `busy` and `hint` are the message and hint when another process
    holds the lock; the defaults are for a state directory.

    Raises:
        LockedError: another process holds it for longer than `wait_s` seconds.
        StateError: it cannot be opened or locked.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path if directory is None else path.name, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise state_error("cannot open lock", path, error) from error
    try:
        try:
            held = acquire(fd, wait_s=wait_s, on_wait=on_wait)
        except OSError as error:
            raise state_error("cannot lock", path, error) from error
        if not held:
            where = printable(path.parent)
            raise LockedError(
                busy or f"another hashclient is writing to this state: {where}",
                hint=hint
                or "wait until it has finished, as `fetch --wait` does, or use another --state-dir",
            )
        yield
    finally:
        os.close(fd)
