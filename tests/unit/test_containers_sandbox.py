"""The sandbox, part by part: on kernels of other versions and machines, and with other limits.

`test_containers_cage` tries to leave the sandbox on the real kernel.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import struct
from pathlib import Path
from typing import Any, cast

import pytest

from hashclient.containers import sandbox
from hashclient.containers.sandbox import Locks

ALLOWED, REFUSED, KILLED = 0x7FFF0000, 0x00050001, 0x80000000
HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(program: bytes, number: int, machine: int, third: int = 0) -> int:
    """Run a filter on a system call like the kernel (see kernel/bpf and seccomp of Linux)."""
    call = struct.pack("<2L7Q", number, machine, 0, 1, 2, third, 4, 5, 6)
    at = value = 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            (value,) = struct.unpack_from("<L", call, operand)
        else:
            tests = {0x15: value == operand, 0x35: value >= operand, 0x45: value & operand != 0}
            at += if_true if tests[code] else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_only_calls_that_computing_needs_are_allowed(machine: str) -> None:
    path = Path("/usr/include", HEADERS[machine])
    if not path.exists():
        pytest.skip("no headers of the kernel")
    found = re.findall(r"(?m)^#define __NR(?:3264)?_(\w+)\s+(\d+)$", path.read_text())
    numbers = {name: int(number) for name, number in found}
    program = sandbox._filter(machine)
    assert program is not None
    assert len(program) % 8 == 0
    for number in range(600):
        is_one = number in {numbers[name] for name in sandbox._CALLS[machine]}
        if number in (numbers["mmap"], numbers["mprotect"]):
            for third in range(16):
                wanted = REFUSED if third & 4 else ALLOWED
                assert verdict(program, number, MACHINES[machine], third) == wanted
        else:
            wanted = ALLOWED if is_one else REFUSED
            assert verdict(program, number, MACHINES[machine]) == wanted, number
    for other in {*MACHINES.values(), 0} - {MACHINES[machine]}:
        assert verdict(program, numbers["read"], other) == KILLED
    for number in (0, 1, 600):  # the system calls of the x32 ABI
        assert verdict(program, 0x40000000 + number, MACHINES[machine]) == KILLED
    assert verdict(program, 0x40000000 - 1, MACHINES[machine]) == REFUSED


def test_a_machine_of_another_kind_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox._filter("riscv64") is None
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    kernel = Kernel()
    assert not sandbox._seccomp(kernel)  # type: ignore[arg-type]
    assert not kernel.calls


class Kernel:
    """Replaces a kernel with this version of Landlock, which refuses the named calls."""

    def __init__(self, version: int = 6, *refused: object) -> None:
        self.version = version
        self.refused = refused
        self.calls: list[tuple[object, ...]] = []

    def syscall(self, number: int, *given: object) -> int:
        self.calls.append((number, *given))
        if number == 444 and given[-1] == 1:
            return self.version
        if number in self.refused:
            return -1
        return os.open("/dev/null", os.O_RDONLY) if number == 444 else 0

    def prctl(self, *given: int) -> int:
        self.calls.append(("prctl", *given[:2]))
        return -1 if given[0] in self.refused else 0

    def capset(self, header: bytes, rights: bytes) -> None:
        self.calls.append(("capset", bytes(header), bytes(rights)))


@pytest.mark.parametrize(
    ("version", "size", "fields"),
    [
        (1, 8, (0x1FFF, 0, 0)),
        (2, 8, (0x3FFF, 0, 0)),
        (3, 8, (0x7FFF, 0, 0)),
        (4, 16, (0x7FFF, 3, 0)),
        (5, 16, (0xFFFF, 3, 0)),
        (6, 24, (0xFFFF, 3, 3)),
        (9, 24, (0xFFFF, 3, 3)),
    ],
)
def test_all_rights_are_denied_that_a_version_of_the_kernel_knows(
    version: int, size: int, fields: tuple[int, ...]
) -> None:
    kernel = Kernel(version)
    assert sandbox._landlock(kernel) == version  # type: ignore[arg-type]
    (_, rules, (_, ruleset, flags)) = kernel.calls
    assert rules == (444, struct.pack("<3Q", *fields), size, 0)
    assert (kernel.calls[2][0], flags) == (446, 0)
    assert isinstance(ruleset, int)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(ruleset)


@pytest.mark.parametrize(
    ("version", "refused", "count"), [(0, (), 1), (-1, (), 1), (6, (444,), 2), (6, (446,), 3)]
)
def test_without_landlock_no_version_is_in_force(
    version: int, refused: tuple[int, ...], count: int
) -> None:
    kernel = Kernel(version, *refused)
    assert sandbox._landlock(kernel) == 0  # type: ignore[arg-type]
    assert len(kernel.calls) == count


@pytest.mark.parametrize(
    ("machine", "version", "refused", "locks"),
    [
        ("x86_64", 6, (), Locks(6, seccomp=True)),
        ("aarch64", -1, (), Locks(0, seccomp=True)),
        ("aarch64", 1, (21,), Locks(1, seccomp=False)),
        ("riscv64", 1, (), Locks(1, seccomp=False)),
    ],
)
def test_the_parts_that_a_kernel_has_are_asked_for(
    machine: str,
    version: int,
    refused: tuple[int, ...],
    locks: Locks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sandbox, "_libc", lambda: Kernel(version, *refused))
    assert sandbox.kernel_locks() == locks


@pytest.mark.parametrize(
    ("locks", "missing"),
    [
        (Locks(1, seccomp=True), ""),
        (Locks(0, seccomp=True), "Landlock"),
        (Locks(1, seccomp=False), "seccomp"),
        (Locks(0, seccomp=False), "Landlock and seccomp"),
    ],
)
def test_parts_that_are_missing_are_named(locks: Locks, missing: str) -> None:
    assert (locks.missing, locks.are_whole) == (missing, not missing)


@pytest.mark.parametrize("refused", [(), (38,)])
def test_all_privileges_are_given_up(
    refused: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the process keeps privileges, the kernel refuses Landlock and the filter."""
    kernel = Kernel(3, *refused)
    monkeypatch.setattr(sandbox, "_libc", lambda: kernel)
    monkeypatch.setattr(sandbox, "_limit", lambda *_: None)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    locks = sandbox.lock(1, 1)
    assert locks == (Locks(0, seccomp=False) if refused else Locks(3, seccomp=True))
    given_up = [call for call in kernel.calls if call[0] == "prctl"]
    assert given_up[:3] == [("prctl", 4, 0), ("prctl", 47, 4), ("prctl", 38, 1)]
    assert given_up[3:] == ([] if refused else [("prctl", 22, 2)])
    (caps,) = [call for call in kernel.calls if call[0] == "capset"]
    assert caps[1:] == (struct.pack("<2L", 0x20080522, 0), bytes(24))


@pytest.mark.parametrize("machine", MACHINES)
def test_the_kernel_gets_the_whole_filter(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bytes] = []

    class Reading(Kernel):
        def prctl(self, *words: Any) -> int:
            assert words[:2] + words[3:] == (22, 2, 0, 0)
            count, pointer = struct.unpack("@HP", bytes(words[2])[:16])
            given.append(ctypes.string_at(pointer, 8 * count))
            return 0

    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert sandbox._seccomp(cast(Any, Reading()))
    assert given == [sandbox._filter(machine)]


def test_a_process_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    monkeypatch.setattr(sandbox, "_libc", lambda: kernel)
    sandbox.die_with_parent(os.getppid())
    assert kernel.calls == [("prctl", 1, 9)]
    with pytest.raises(SystemExit) as ended:
        sandbox.die_with_parent(os.getppid() + 1)
    assert ended.value.code == 0


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 1, 1 << 50])
def test_limits_are_set_but_never_raised(hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    monkeypatch.setattr(resource, "setrlimit", said.__setitem__)
    sandbox._limit(1 << 28, 60)
    memory = said.pop(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    if hard == 1:
        assert memory == (1, 1)
    else:
        assert memory[0] == memory[1]
        assert abs(memory[0] - (1 << 28) - pages * resource.getpagesize()) < 1 << 26
    wanted = {
        resource.RLIMIT_CPU: 60,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 16,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_FSIZE: 0,
    }
    most = hard if hard == 1 else 1 << 30
    assert said == {what: (min(most, count),) * 2 for what, count in wanted.items()}


def test_limits_that_a_service_manager_forbids_are_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def refused(what: int, *_: object) -> None:
        asked.append(what)
        raise PermissionError(1, "refused")

    for name in ("getrlimit", "setrlimit"):
        monkeypatch.setattr(resource, name, refused)
    sandbox._limit(1 << 28, 60)
    assert len(asked) == 6
