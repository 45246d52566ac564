"""Opens files with the user id and groups of another user, so that the kernel checks access.

For access to files, a thread takes the user's id, group and other groups (setfsuid(2),
setgroups(2)) and drops its capabilities. Only the calling thread is changed, and only for the
duration of a block; the other user cannot kill or trace the thread. The kernel applies modes,
access control lists, directories that may not be entered, symbolic links, and special rules of file
systems as for a process of the user.

Limits: SELinux and AppArmor still apply the labels of this process. The process needs CAP_SETUID
    and CAP_SETGID, which root has.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable, Iterator

import msgspec

#: The number of the system call setgroups(2) by machine. The system call is used because it changes
#: only the calling thread, and the function of the C library changes all threads.
_SYS_SETGROUPS = {
    "x86_64": 116,
    "aarch64": 159,
    "riscv64": 159,
    "loongarch64": 159,
    "ppc64le": 81,
    "s390x": 206,
    "armv7l": 206,
    "i686": 206,
}
#: The version number of capability sets with 64 bits, from linux/capability.h.
_CAPABILITIES_3 = 0x20080522
#: An id that no user has; with this id, setfsuid(2) only returns the present id.
_NOBODY = ctypes.c_uint32(0xFFFFFFFF)


#: A function that returns a context manager; in its block, the thread has the ids of this process
#: again.
Ourselves = Callable[[], contextlib.AbstractContextManager[None]]


class Rights(msgspec.Struct, frozen=True):
    """The user id and group ids by which the kernel checks access to files."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def own(cls) -> Rights:
        """Return the ids of this process."""
        return cls(os.geteuid(), os.getegid(), tuple(os.getgroups()))


class _Head(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    """The capability sets: two times the words of the effective, permitted and inheritable set."""

    _fields_ = (("words", ctypes.c_uint32 * 6),)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _called(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _capabilities() -> _Set:
    found = _Set()
    _called(_libc().capget(ctypes.byref(_Head(_CAPABILITIES_3, 0)), ctypes.byref(found)), "capget")
    return found


def _set_capabilities(wanted: _Set) -> None:
    head = _Head(_CAPABILITIES_3, 0)
    _called(_libc().capset(ctypes.byref(head), ctypes.byref(wanted)), "capset")


def _take(rights: Rights) -> None:
    """Set the ids for access to files, in this thread.

    Raises:
        OSError: not all ids were set.
    """
    libc = _libc()
    groups = (ctypes.c_uint32 * len(rights.groups))(*rights.groups)
    number = _SYS_SETGROUPS[platform.machine()]
    _called(libc.syscall(number, ctypes.c_long(len(rights.groups)), groups), "setgroups")
    for function, wanted in ((libc.setfsgid, rights.gid), (libc.setfsuid, rights.uid)):
        function(ctypes.c_uint32(wanted))
        # setfsuid(2) reports no error, so a second call reads the id that is set.
        if function(_NOBODY) & 0xFFFFFFFF != wanted:
            raise OSError(f"cannot take the id {wanted}")


@contextlib.contextmanager
def acting_as(rights: Rights | None) -> Iterator[Ourselves]:
    """Give this thread the ids of another user for the block; with None, change nothing.

    The function that is yielded returns a context manager; in its block, the thread has the ids of
    this process again.

    Raises:
        OSError: this process may not set the ids; the thread keeps the ids of this process.
    """
    if rights is None:
        yield contextlib.nullcontext
        return
    own, before = Rights.own(), _capabilities()

    def enter() -> None:
        try:
            _take(rights)
            none = _Set.from_buffer_copy(before)
            # only the effective set is emptied; `leave` needs the permitted set
            none.words[0] = none.words[3] = 0
            _set_capabilities(none)
        except BaseException:
            leave()
            raise

    def leave() -> None:
        _set_capabilities(before)
        _take(own)
        _set_capabilities(before)  # setting the ids changes some capabilities

    @contextlib.contextmanager
    def ourselves() -> Iterator[None]:
        leave()
        try:
            yield
        finally:
            enter()

    enter()
    try:
        yield ourselves
    finally:
        leave()


@functools.cache
def can_act_as_others() -> bool:
    """Return whether this process may set the ids of any other user."""
    if not sys.platform.startswith("linux") or platform.machine() not in _SYS_SETGROUPS:
        return False
    try:
        with acting_as(Rights(65534, 65534, ())):
            return True
    except (OSError, AttributeError):
        return False
