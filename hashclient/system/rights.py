"""Opens files with the rights of another user, so that the kernel decides what that user may read.

For access to files, a thread takes the user's id, group and other groups (setfsuid(2),
setgroups(2)) and drops its capabilities. Only this thread changes, and only for the block: the user
cannot kill or trace the thread. Modes, access control lists, closed parents, links and special
rules of file systems all count as they do for the user.

Limits: labels of SELinux and AppArmor stay the labels of this process. The process needs CAP_SETUID
    and CAP_SETGID, as root has them.
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

#: The number of setgroups(2) by machine. The C library's function changes all threads; the system
#: call changes only the calling thread.
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
#: The layout of capabilities with 64 bits: linux/capability.h.
_CAPABILITIES_3 = 0x20080522
#: An id that no user has: for this id, setfsuid(2) only returns the present id.
_NOBODY = ctypes.c_uint32(0xFFFFFFFF)


#: Returns a context manager in whose block a thread has the rights of this process again.
Ourselves = Callable[[], contextlib.AbstractContextManager[None]]


class Rights(msgspec.Struct, frozen=True):
    """The ids by which the kernel decides about access to files."""

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
    """Two words of each kind of set: effective, permitted, inheritable."""

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
    """Take ids for access to files, in this thread.

    Raises:
        OSError: not all rights were taken.
    """
    libc = _libc()
    groups = (ctypes.c_uint32 * len(rights.groups))(*rights.groups)
    number = _SYS_SETGROUPS[platform.machine()]
    _called(libc.syscall(number, ctypes.c_long(len(rights.groups)), groups), "setgroups")
    for function, wanted in ((libc.setfsgid, rights.gid), (libc.setfsuid, rights.uid)):
        function(ctypes.c_uint32(wanted))
        # setfsuid returns the id from before, and no error.
        if function(_NOBODY) & 0xFFFFFFFF != wanted:
            raise OSError(f"cannot take the id {wanted}")


@contextlib.contextmanager
def acting_as(rights: Rights | None) -> Iterator[Ourselves]:
    """Give this thread the rights of another user for the block; with None, change nothing.

    The block gets a function that returns a context manager: in the block of the latter, the thread
    has its own rights again.

    Raises:
        OSError: this process may not take these rights; then nothing is changed.
    """
    if rights is None:
        yield contextlib.nullcontext
        return
    own, before = Rights.own(), _capabilities()

    def enter() -> None:
        try:
            _take(rights)
            none = _Set.from_buffer_copy(before)
            # only the effective set; the permitted set brings the rights back
            none.words[0] = none.words[3] = 0
            _set_capabilities(none)
        except BaseException:
            leave()
            raise

    def leave() -> None:
        _set_capabilities(before)
        _take(own)
        _set_capabilities(before)  # with root's id the kernel gives some capabilities back

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
    """Return whether this process may take the rights of any other user."""
    if not sys.platform.startswith("linux") or platform.machine() not in _SYS_SETGROUPS:
        return False
    try:
        with acting_as(Rights(65534, 65534, ())):
            return True
    except (OSError, AttributeError):
        return False
