"""The sandbox: a process in it cannot open files, use the network, or start other processes.

Code that parses hostile bytes runs in the sandbox. The sandbox has up to three parts, because the
kernel may not support all of them. Landlock forbids access to the file system and to the network.
seccomp allows only the few system calls that computing needs. Resource limits restrict the memory,
the processor time and the number of open files. Descriptors that are open when the sandbox takes
effect stay open. Neither the process nor its children can leave the sandbox.

Limits: Landlock needs Linux 5.13; seccomp is only used on x86-64 and aarch64, because only their
    system call numbers are in this module.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Mapping

import msgspec

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_GET_SECCOMP = 21
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

#: The three system calls of Landlock have the same numbers on every architecture (Linux,
#: include/uapi/asm-generic/unistd.h).
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_VERSION = 1  # a flag: return the version of Landlock's interface

#: Bit masks of Landlock's access rights for files, by the interface version that introduced them
#: (Linux, include/uapi/linux/landlock.h).
_FS_RIGHTS = ((5, (1 << 16) - 1), (3, (1 << 15) - 1), (2, (1 << 14) - 1), (1, (1 << 13) - 1))
_NET_RIGHTS = 0b11  # access rights for `bind` and `connect` of TCP; since version 4
_SCOPES = 0b11  # scopes: abstract Unix sockets and signals; since version 6

#: The numbers of the permitted system calls: for memory, for open descriptors, for time, and for
#: random numbers. The process cannot change files: their descriptors are open only for reading, and
#: no permitted system call changes the mode or the owner of a file.
_X86_64: Mapping[str, int] = {
    "read": 0,
    "write": 1,
    "close": 3,
    "fstat": 5,
    "poll": 7,
    "lseek": 8,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "pread64": 17,
    "readv": 19,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "getpid": 39,
    "sendto": 44,
    "recvfrom": 45,
    "sendmsg": 46,
    "recvmsg": 47,
    "exit": 60,
    "gettimeofday": 96,
    "getrusage": 98,
    "sigaltstack": 131,
    "gettid": 186,
    "time": 201,
    "futex": 202,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "preadv": 295,
    "getrandom": 318,
}
_AARCH64: Mapping[str, int] = {
    "close": 57,
    "lseek": 62,
    "read": 63,
    "write": 64,
    "readv": 65,
    "pread64": 67,
    "preadv": 69,
    "ppoll": 73,
    "fstat": 80,
    "exit": 93,
    "exit_group": 94,
    "futex": 98,
    "clock_gettime": 113,
    "clock_nanosleep": 115,
    "sched_yield": 124,
    "restart_syscall": 128,
    "sigaltstack": 132,
    "rt_sigaction": 134,
    "rt_sigprocmask": 135,
    "rt_sigreturn": 139,
    "getrusage": 165,
    "gettimeofday": 169,
    "getpid": 172,
    "gettid": 178,
    "sendto": 206,
    "recvfrom": 207,
    "sendmsg": 211,
    "recvmsg": 212,
    "brk": 214,
    "munmap": 215,
    "mremap": 216,
    "madvise": 233,
    "getrandom": 278,
}
#: The numbers of `mmap` and `mprotect`, whose protection argument is checked, so that no new memory
#: becomes executable.
_MAPPING = {"x86_64": (9, 10), "aarch64": (222, 226)}
_CALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_PROT_EXEC = 4

_LD_WORD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_NUMBER_AT, _ARCH_AT, _THIRD_ARGUMENT_AT = 0, 4, 32


class Locks(msgspec.Struct, frozen=True, array_like=True):
    """The parts of the sandbox that took effect; `landlock` is the interface version, or 0."""

    landlock: int
    seccomp: bool

    @property
    def are_whole(self) -> bool:
        """Whether both Landlock and seccomp took effect."""
        return self.landlock > 0 and self.seccomp

    @property
    def missing(self) -> str:
        """The names of the parts that the kernel lacks; empty if it lacks no part."""
        parts = [] if self.landlock else ["Landlock"]
        parts += [] if self.seccomp else ["seccomp"]
        return " and ".join(parts)


def kernel_locks() -> Locks:
    """Return which parts of the sandbox this kernel seems to support; start no part."""
    libc = _libc()
    version = int(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))
    seccomp = platform.machine() in _CALLS and libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0
    return Locks(max(0, version), bool(seccomp))


def die_with_parent(parent: int) -> None:
    """Request that the kernel ends this process when the parent process ends.

    This process exits at once if the parent has already ended.
    """
    _libc().prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def lock(memory_bytes: int, cpu_s: int) -> Locks:
    """Put this process into the sandbox, and return the parts of the sandbox that took effect.

    After a call of `lock`, the process may map `memory_bytes` more bytes; its processor time is
    limited to `cpu_s` seconds in all. All modules and libraries must be loaded before `lock` is
    called.
    """
    libc = _libc()
    _limit(memory_bytes, cpu_s)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    has_privileges_left = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
    landlock = 0 if has_privileges_left else _landlock(libc)
    _drop_capabilities(libc)
    seccomp = not has_privileges_left and _seccomp(libc)
    return Locks(landlock, seccomp)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _limit(memory_bytes: int, cpu_s: int) -> None:
    # The first number in `statm` is the size of the address space, in pages.
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - no other module is needed
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, mapped + memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        try:
            _, hard = resource.getrlimit(what)
            bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (bound, bound))
        except (OSError, ValueError):
            # The error is ignored: if the service manager forbids changes of resource limits, the
            # limits of the service apply.
            continue


def _landlock(libc: ctypes.CDLL) -> int:
    """Forbid the file system and the network.

    Return Landlock's version, or 0 if Landlock is missing.
    """
    version = int(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))
    if version < 1:
        return 0
    fs = next(rights for since, rights in _FS_RIGHTS if version >= since)
    attribute = struct.pack(
        "=QQQ", fs, _NET_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = int(libc.syscall(_LANDLOCK_CREATE_RULESET, attribute, size, 0))
    if ruleset < 0:
        return 0
    try:
        # A ruleset without rules denies all access rights that it handles.
        return version if libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Drop all Linux capabilities of the process, which it may have from root or a service."""
    header = ctypes.create_string_buffer(struct.pack("=II", _CAPABILITY_VERSION_3, 0), 8)
    libc.capset(header, ctypes.create_string_buffer(24))


def _seccomp(libc: ctypes.CDLL) -> bool:
    """Allow only the system calls that computing needs; all other calls fail with EPERM."""
    program = _filter(platform.machine())
    if program is None:
        return False
    instructions = ctypes.create_string_buffer(program, len(program))
    pointer = ctypes.addressof(instructions)
    # `struct sock_fprog`: the number of instructions, padding, and a pointer
    description = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, pointer))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, description, 0, 0) == 0)


def _filter(machine: str) -> bytes | None:
    """Return the filter as instructions of classic BPF.

    Return None if the architecture is not supported.
    """
    if machine not in _CALLS:
        return None
    code: list[tuple[int, int, int, int]] = [
        (_LD_WORD, 0, 0, _ARCH_AT),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LD_WORD, 0, 0, _NUMBER_AT),
        (_JUMP_ABOVE, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL),
    ]
    for number in _CALLS[machine].values():
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number in _MAPPING[machine]:
        code += [
            (_JUMP_EQUAL, 0, 4, number),
            (_LD_WORD, 0, 0, _THIRD_ARGUMENT_AT),
            (_JUMP_SET, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    code.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
