"""Protects the memory of a process, and ends it with a message when a mapped page is unreadable.

A process that checks files has the seal key, credentials and digests in its memory. So the process
leaves no core dump, and no debugger can attach, unless `HASHCLIENT_DEBUG` is set.

An index is read through memory maps. If the disk has a bad block, or somebody has truncated the
file, the kernel cannot read the page. It sends SIGBUS to the code that touches the page: numpy,
OpenSSL or `mmap`, in any thread, with or without Python's lock. An exception is not possible there,
so the handler writes one sentence and ends the process with an exit code of the table. The handler
is Python code and needs Python's lock; a thread that has released the lock waits for it, as after
any call into C.

A scanning process makes many objects and few cycles, so its garbage collector should search rarely.

`memory_cap` is for decoding untrusted bytes. A few kilobytes of Parquet can decode to terabytes: a
long value in a dictionary that a million rows refer to, or a compressed page of zeros. The library
that decodes Parquet has no limit of its own, so the kernel's limit is used. The limit applies to
the whole process, with all threads, during the block.

Front ends and workers call these functions. An import of this module changes nothing: a library
must not change the process of its user.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from hashclient.core.errors import ExitCode, StateError

#: The message when a page of an index cannot be read, and its hint.
BAD_PAGE = "index file cannot be read: the disk has a bad block, or the file was cut short in use"
BAD_PAGE_HINT = (
    "run `hashclient fetch --rebuild`; `hashclient status --verify` shows which list it is"
)

#: <linux/prctl.h>
_PR_SET_DUMPABLE = 4

#: How many objects are made before the garbage collector looks for cycles: more than the start of a
#: command makes, since almost all of these objects stay. Measured in CPU time against Python's 700.
#: A scan of one file: 336 ms instead of 353. A scan of 40,000 files: 554 ms instead of 634. A scan
#: of 400,000 files on a cluster: 1.08 times the time of processes of one machine, instead of 1.18.
GC_THRESHOLD = 200_000

#: Returns the exit code for the handler if the process has more to report than the failure, for
#: example a match.
_exit_codes: list[Callable[[], ExitCode]] = []
#: Objects that C code uses: they must live as long as the process.
_handlers: list[object] = []


def is_debugged() -> bool:
    """Return whether the user is debugging, and wants more output."""
    return bool(os.environ.get("HASHCLIENT_DEBUG"))


def keep_memory_private() -> None:
    """Forbid core dumps of this process, and other processes of its user to read its memory.

    The limit on core files alone is not enough: the kernel ignores the limit if a program receives
    the core. A child process inherits the limit, but must set the rest again after an exec.
    """
    if is_debugged():
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ImportError, AttributeError):  # a Python without foreign functions
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def collect_rarely() -> None:
    """Let the garbage collector search for cycles rarely, and not more often than now."""
    young, *older = gc.get_threshold()
    if 0 < young < GC_THRESHOLD:
        gc.set_threshold(GC_THRESHOLD, *older)


def keep_others_from_writing() -> None:
    """Let only the owner write to files that this process makes, with any umask."""
    os.umask(os.umask(0o077) | 0o022)


def end_at_bad_pages() -> None:
    """From now on, end this process with a sentence when a mapped file cannot be read.

    The exit code is `ExitCode.STATE`, or the code that `exit_code_at_bad_pages` gives. A second
    call changes nothing.
    """
    if _handlers:
        return
    try:
        import ctypes
    except ImportError:  # a Python without ctypes: the signal alone ends the process
        return

    said = f"hashclient: error: {BAD_PAGE}\nhint: {BAD_PAGE_HINT}\n".encode()

    def end(_signal: int) -> None:
        code: int = ExitCode.STATE
        try:
            if _exit_codes:
                code = _exit_codes[-1]()
            os.write(2, said)
        finally:
            # An exception does not help: execution would return to the instruction that cannot be
            # completed.
            os._exit(code)

    # Python's own handlers run when the interpreter continues, and here it never does.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGBUS, handler)


@contextlib.contextmanager
def exit_code_at_bad_pages(code: Callable[[], ExitCode]) -> Iterator[None]:
    """Within the block, a bad page ends this process with the exit code that `code` returns.

    `code` is called in the signal handler: it may only read values.
    """
    _exit_codes.append(code)
    try:
        yield
    finally:
        _exit_codes.remove(code)


def forget_exit_codes() -> None:
    """Reset, in a forked process, the exit code that its parent had set for bad pages."""
    _exit_codes.clear()


def bad_page() -> StateError:
    """Return the error for a process that a bad page ended."""
    return StateError(BAD_PAGE, hint=BAD_PAGE_HINT)


_STATM = Path("/proc/self/statm")
_DATA_FIELD = 5


@contextlib.contextmanager
def memory_cap(more_bytes: int) -> Iterator[None]:
    """Limit the process to `more_bytes` more private memory than now; mapped files do not count.

    A larger allocation fails: Python, numpy and Arrow raise MemoryError.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(_STATM.read_text(encoding="ascii").split()[_DATA_FIELD])
    cap = pages * resource.getpagesize() + more_bytes
    for limit in (soft, hard):
        # If a lower limit was set from outside, it stays.
        if limit != resource.RLIM_INFINITY:
            cap = min(cap, limit)
    resource.setrlimit(resource.RLIMIT_DATA, (cap, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
