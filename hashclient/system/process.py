"""What may happen to a process of ours: nobody reads its memory, and a bad page ends it in words.

A process that checks files has the seal key, credentials and digests in its memory. So it leaves no
core dump and no debugger gets at it, unless `HASHCLIENT_DEBUG` asks for that.

An index is read through memory maps. Where the disk has a bad block, or somebody has cut the file
short, the kernel cannot give the page and sends SIGBUS to whoever touches it: numpy, OpenSSL or
`mmap`, in any thread, with Python's lock or without. Nothing can be raised from there, so the
handler writes one sentence and ends the process with an exit code of the table. It is Python code
and needs the lock; a thread that had given it up waits for it, as after any other call into C.

Front ends and workers ask for both. Importing this does nothing: a library does not change the
process of its user.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator

from hashclient.errors import ExitCode, StateError

#: What is wrong when a page of an index cannot be had, and what helps.
BAD_PAGE = "index file cannot be read: the disk has a bad block, or the file was cut short in use"
BAD_PAGE_HINT = (
    "run `hashclient fetch --rebuild`; `hashclient status --verify` tells which list it is"
)

#: <linux/prctl.h>
_PR_SET_DUMPABLE = 4

#: What the handler ends the process with, while somebody has found out more than the failure.
_exit_codes: list[Callable[[], ExitCode]] = []
#: What C calls must live as long as the process does.
_handlers: list[object] = []


def is_debugged() -> bool:
    """Tell whether the user looks for a bug, and wants to see more than others."""
    return bool(os.environ.get("HASHCLIENT_DEBUG"))


def keep_memory_private() -> None:
    """Leave no core dump of this process, and let no other process of its user read its memory.

    The limit alone is not enough: the kernel does not regard it where cores go to a program. What
    is started from here is limited as well, but has to ask again for the rest.
    """
    if is_debugged():
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ImportError, AttributeError):  # a Python without foreign functions
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def keep_others_from_writing() -> None:
    """Let nobody but its owner write to what this process makes, however lax the umask is."""
    os.umask(os.umask(0o077) | 0o022)


def end_at_bad_pages() -> None:
    """End this process with a sentence, from now on, when a mapped file cannot be read.

    It ends with `ExitCode.STATE`, or as `exit_code_at_bad_pages` says. Doing it again does nothing.
    """
    if _handlers:
        return
    try:
        import ctypes
    except ImportError:  # a Python without foreign functions: the signal alone ends the process
        return

    said = f"hashclient: error: {BAD_PAGE}\nhint: {BAD_PAGE_HINT}\n".encode()

    def end(_signal: int) -> None:
        code: int = ExitCode.STATE
        try:
            if _exit_codes:
                code = _exit_codes[-1]()
            os.write(2, said)
        finally:
            # Not by an exception: it would go back to the instruction that cannot be done.
            os._exit(code)

    # Python's own handlers run when the interpreter goes on, which it never does here.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGBUS, handler)


@contextlib.contextmanager
def exit_code_at_bad_pages(code: Callable[[], ExitCode]) -> Iterator[None]:
    """Within the block, let a bad page end this process with what `code` returns then.

    It is called in the handler: it may look at values, and do nothing else.
    """
    _exit_codes.append(code)
    try:
        yield
    finally:
        _exit_codes.remove(code)


def forget_exit_codes() -> None:
    """Forget what the parent of this process had found, in a process that was forked from it."""
    _exit_codes.clear()


def bad_page() -> StateError:
    """Return the error that says what a process has died of that ended so."""
    return StateError(BAD_PAGE, hint=BAD_PAGE_HINT)
