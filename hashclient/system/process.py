"""Protects the memory of a process, and ends it with a message when a mapped page is unreadable.

A process that checks files has the seal key, credentials and digests in its memory. This module
prevents core dumps of the process, and debuggers that attach to it, unless `HASHCLIENT_DEBUG` is
set.

An index is read through memory maps. If the disk has a bad block, or another program has truncated
the file, the kernel cannot read a page of the map. The kernel then sends SIGBUS to the thread that
reads the page, in the code of numpy, OpenSSL or `mmap`, with or without Python's global lock. A
signal handler in C code cannot raise an exception, so the handler writes one sentence and ends the
process with an `ExitCode`. The handler is Python code and needs Python's global lock. If the
interrupted thread does not have the lock, the handler first waits for the lock.

A scanning process allocates many objects and few reference cycles, so the garbage collector should
run rarely.

`memory_cap` is for decoding untrusted bytes. A few kilobytes of Parquet can decode to terabytes,
for example a long dictionary value to which a million rows refer, or a compressed page of zeros.
The library that decodes Parquet has no memory limit, so `memory_cap` sets a limit of the kernel.
The limit of `memory_cap` applies to all threads of the process during the block.

Only the programs of hashclient call the functions of this module. An import of this module changes
nothing, because a library must not change the process that imports it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from hashclient.core.errors import ExitCode, StateError

#: The message and the hint for a page of an index that cannot be read.
BAD_PAGE = "index file cannot be read: the disk has a bad block, or the file was cut short in use"
BAD_PAGE_HINT = (
    "run `hashclient fetch --rebuild`; `hashclient status --verify` shows which list it is"
)

#: The prctl(2) option for core dumps and debuggers, from linux/prctl.h.
_PR_SET_DUMPABLE = 4

#: How many objects are allocated before the garbage collector looks for cycles. The number is
#: higher than the number of objects that the start of a command allocates, because almost all of
#: these objects stay in use. The CPU times were measured and compared with the default of Python,
#: 700:
#:
#: - a scan of one file took 336 ms instead of 353 ms;
#: - a scan of 40,000 files took 554 ms instead of 634 ms;
#: - a scan of 400,000 files on a cluster took 1.08 times as long as on one machine, instead of 1.18
#:   times.
GC_THRESHOLD = 200_000

#: Functions that return the exit code for the SIGBUS handler; the last function is called. A scan
#: registers a function here so that the exit code shows a match that was found before the failure.
_exit_codes: list[Callable[[], ExitCode]] = []
#: The list keeps the signal handler, which C code calls, alive as long as the process.
_handlers: list[object] = []


def is_debugged() -> bool:
    """Return whether the user has requested debugging by `HASHCLIENT_DEBUG`."""
    return bool(os.environ.get("HASHCLIENT_DEBUG"))


def keep_memory_private() -> None:
    """Forbid core dumps of this process, and access to its memory by other processes of its user.

    The limit on core files does not suffice, because the kernel ignores the limit if core dumps are
    piped to a program. A child process inherits the limit, but not the prctl(2) option after an
    exec.
    """
    if is_debugged():
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ImportError, AttributeError):  # a Python without ctypes
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def collect_rarely() -> None:
    """Let the garbage collector run rarely; never make it run more often than before."""
    young, *older = gc.get_threshold()
    if 0 < young < GC_THRESHOLD:
        gc.set_threshold(GC_THRESHOLD, *older)


def keep_others_from_writing() -> None:
    """Change the umask so that only the owner may write to files that this process makes."""
    os.umask(os.umask(0o077) | 0o022)


def end_at_bad_pages() -> None:
    """Install the SIGBUS handler, which ends this process when a mapped file cannot be read.

    The handler writes one sentence. The exit code is `ExitCode.STATE`, or the code that
    `exit_code_at_bad_pages` sets. A second call of this function changes nothing.
    """
    if _handlers:
        return
    try:
        import ctypes
    except ImportError:  # without ctypes, SIGBUS ends the process without a message
        return

    said = f"hashclient: error: {BAD_PAGE}\nhint: {BAD_PAGE_HINT}\n".encode()

    def end(_signal: int) -> None:
        code: int = ExitCode.STATE
        try:
            if _exit_codes:
                code = _exit_codes[-1]()
            os.write(2, said)
        finally:
            # The process is ended in the handler, because after a return the same instruction would
            # fail again.
            os._exit(code)

    # `signal.signal` is not used, because a Python signal handler runs only after the interrupted
    # instruction is completed, which never happens after SIGBUS.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGBUS, handler)


@contextlib.contextmanager
def exit_code_at_bad_pages(code: Callable[[], ExitCode]) -> Iterator[None]:
    """During the block, let `code` return the exit code if an unreadable page ends this process.

    `code` is called in a signal handler, so `code` may only read values.
    """
    _exit_codes.append(code)
    try:
        yield
    finally:
        _exit_codes.remove(code)


def forget_exit_codes() -> None:
    """Reset, in a forked process, the exit code that its parent has set for unreadable pages."""
    _exit_codes.clear()


def bad_page() -> StateError:
    """Return the error for a process that was ended by an unreadable page."""
    return StateError(BAD_PAGE, hint=BAD_PAGE_HINT)


_STATM = Path("/proc/self/statm")
_DATA_FIELD = 5
#: Held during each `memory_cap`: if the caps of two threads overlapped, the cap of one thread would
#: stay in force for the rest of the process.
_ONE_CAP = threading.RLock()


@contextlib.contextmanager
def memory_cap(more_bytes: int) -> Iterator[None]:
    """Limit the private memory of the process, without mapped files, to `more_bytes` more than now.

    An allocation beyond the limit raises MemoryError in Python, numpy and Arrow. Only one thread at
    a time has a limit; other threads wait for it.
    """
    with _ONE_CAP:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        pages = int(_STATM.read_text(encoding="ascii").split()[_DATA_FIELD])
        cap = pages * resource.getpagesize() + more_bytes
        for limit in (soft, hard):
            # A limit that is already lower is not raised.
            if limit != resource.RLIM_INFINITY:
                cap = min(cap, limit)
        resource.setrlimit(resource.RLIMIT_DATA, (cap, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
