"""Reading one file: digests only of the whole file, and only if the file did not change."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.faulty_fs import File, mounted, why_not
from hashclient.config.settings import Config, Settings
from hashclient.core.digests import LONGER, SHORTER
from hashclient.core.kinds import Algorithm, Kind
from hashclient.index.open_lists import open_lists
from hashclient.scan.check import reading
from hashclient.scan.check.checker import Checker
from hashclient.scan.check.reading import (
    ATTEMPTS,
    CLAIMED_BYTES,
    HELD_BYTES,
    SPARSE_BYTES,
    UNSIZED_BYTES,
    UNSIZED_S,
    Deferred,
    Device,
    EndlessError,
    Reader,
    SetAside,
    bound_of,
    relied_size,
    same_content,
)
from hashclient.scan.values.work import CHANGED, ENDLESS, SPARSE, Group, reason_of
from hashclient.system.filesystems import FULL, NONE, NONZERO, SizeTrust, ask_at, trust_of
from hashclient.system.leases import can_lease, hold, keeps_out
from tests.disks import disk, needs_mounts
from tests.kit import csv_of, make_state, write_tree

SHA1 = (Algorithm.SHA1,)
MD5 = (Algorithm.MD5,)
STRANGER = 4321

needs_fuse = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def sha1(data: bytes) -> list[bytes]:
    return [hashlib.sha1(data).digest()]


def plan_of(size: int | None) -> tuple[Algorithm, ...]:
    return MD5 if size is None else SHA1


def read(
    path: Path, trust: SizeTrust, defer_bytes: int | None = None, **options: Any
) -> tuple[tuple[Algorithm, ...], list[bytes], int]:
    """Read a file as if its file system had this `trust`."""
    reader = Reader(options.pop("plan_of", lambda _: SHA1), **options)
    with opened(path) as fd:
        reader.devices[os.fstat(fd).st_dev] = Device(trust)
        plan, digests, length, status, reliable, unwritable = reader.read(fd, defer_bytes)
    assert unwritable is None
    assert reliable == (relied_size(status, trust) is not None)
    return plan, digests, length


def during_reads(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> list[int]:
    """Call `act` with the number of each read before the read, and return these numbers."""
    numbers: list[int] = []
    original = os.readv

    def readv(fd: int, buffers: list[memoryview]) -> int:
        numbers.append(len(numbers) + 1)
        act(len(numbers))
        return original(fd, buffers)

    monkeypatch.setattr(os, "readv", readv)
    return numbers


@pytest.mark.parametrize(
    ("trust", "size", "relied"),
    [
        (FULL, 5, 5),
        (FULL, 0, 0),
        (NONZERO, 5, 5),
        (NONZERO, 0, None),
        (NONE, 5, None),
        (NONE, 0, None),
    ],
)
def test_which_sizes_are_relied_on(trust: SizeTrust, size: int, relied: int | None) -> None:
    status = os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0))
    assert relied_size(status, trust) == relied


@pytest.mark.parametrize("trust", SizeTrust)
@pytest.mark.parametrize("data", [b"", b"benign", bytes(1 << 19)])
def test_a_file_is_read_to_its_end(tmp_path: Path, trust: SizeTrust, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    assert read(path, trust) == (SHA1, sha1(data), len(data))


def test_a_file_that_grows_is_read_again_whatever_its_size_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"benign")
    during_reads(monkeypatch, lambda number: number == 1 and path.write_bytes(b"listed now"))
    # The second attempt uses the plan for any size, because the size has changed.
    digests = [hashlib.md5(b"listed now").digest()]
    assert read(path, FULL, plan_of=plan_of) == (MD5, digests, 10)


@pytest.mark.parametrize("trust", [FULL, NONZERO])
def test_a_file_whose_time_changes_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: SizeTrust
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"benign")
    during_reads(monkeypatch, lambda number: os.utime(path, (7, 7)) if number == 1 else None)
    assert read(path, trust, plan_of=plan_of)[0] == MD5


@pytest.mark.parametrize("trust", SizeTrust)
def test_a_file_that_changes_all_the_time_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: SizeTrust
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"benign")
    numbers = during_reads(monkeypatch, lambda number: os.utime(path, (number, number)))
    with pytest.raises(SetAside, match=CHANGED) as caught:
        read(path, trust)
    assert caught.value.kind is Kind.UNREAD
    assert len(numbers) == ATTEMPTS * (1 if trust is FULL else 2)


@pytest.mark.parametrize(
    ("length", "reason"), [(3, SHORTER), (0, SHORTER), (9, LONGER), (1 << 19, LONGER)]
)
def test_a_file_that_is_never_as_long_as_its_size_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, reason: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(length))
    original = os.fstat

    def fstat(fd: int) -> Any:
        status = original(fd)
        names = [name for name in dir(status) if name.startswith("st_")]
        return SimpleNamespace(**{n: getattr(status, n) for n in names} | {"st_size": 6})

    monkeypatch.setattr(os, "fstat", fstat)
    for trust in (FULL, NONZERO):
        with pytest.raises(SetAside, match=reason):
            read(path, trust)
    assert read(path, NONE) == (SHA1, sha1(bytes(length)), length)


# Files that would waste time: files without an end.


@pytest.mark.parametrize(
    ("size", "blocks", "refused"),
    [
        (SPARSE_BYTES, 0, False),
        (SPARSE_BYTES + 1, 0, True),
        (SPARSE_BYTES + 512, (SPARSE_BYTES + 512) // 512, False),
        (100 * 512 * 30_000, 30_000, False),
        (100 * 512 * 30_000 + 1, 30_000, True),
        (1 << 40, 10, True),
        (1 << 40, 1 << 31, False),
        (0, 0, False),
    ],
)
def test_files_that_are_nearly_all_hole(size: int, blocks: int, refused: bool) -> None:
    status = SimpleNamespace(st_size=size, st_blocks=blocks)
    Reader(plan_of, sparse=True).refuse_sparse(status)  # type: ignore[arg-type]  # has all it needs
    if refused:
        with pytest.raises(SetAside, match=SPARSE) as caught:
            Reader(plan_of).refuse_sparse(status)  # type: ignore[arg-type]  # has all it needs
        assert caught.value.kind is Kind.UNREAD
    else:
        Reader(plan_of).refuse_sparse(status)  # type: ignore[arg-type]  # has all it needs


@pytest.mark.parametrize("trust", [NONE, NONZERO])
@needs_fuse
def test_an_endless_file_is_read_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: SizeTrust
) -> None:
    heard: list[int] = []
    most = 3 << 20
    monkeypatch.setattr(reading, "UNSIZED_BYTES", most)
    files = {"f": File(b"x", endless=True, claims=0), "g": File(bytes(most), claims=0)}
    files["h"] = File(bytes(most + 1), claims=0)
    with mounted(tmp_path, files, user_id=STRANGER):
        for name in ("f", "h"):
            with pytest.raises(EndlessError) as caught:
                read(tmp_path / name, trust, on_bytes=heard.append)
            assert reason_of(caught.value) == ENDLESS
            # If other files wait, a file without an end is deferred before the limit.
            with pytest.raises(Deferred):
                read(tmp_path / name, trust, 1 << 20)
        assert most < sum(heard) <= 2 * most
        assert read(tmp_path / "g", trust) == (SHA1, sha1(bytes(most)), most)


@pytest.mark.parametrize(
    ("size", "bound"),
    [
        (0, UNSIZED_BYTES),
        (UNSIZED_BYTES, UNSIZED_BYTES),
        (UNSIZED_BYTES + 1, UNSIZED_BYTES + 1),
        (CLAIMED_BYTES + 1, CLAIMED_BYTES),
        (1 << 62, CLAIMED_BYTES),
    ],
)
def test_a_file_that_claims_to_be_longer_is_read_further(size: int, bound: int) -> None:
    assert bound_of(os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0))) == bound


@needs_fuse
def test_the_bound_holds_for_every_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of bytes applies to each reading: first, repeated, or for further digests."""
    monkeypatch.setattr(reading, "UNSIZED_BYTES", 1 << 20)
    with mounted(tmp_path, {"f": File(b"x", endless=True)}, user_id=STRANGER):
        path = tmp_path / "f"
        with opened(path) as fd:
            status = os.fstat(fd)
            with pytest.raises(EndlessError):
                Reader(plan_of).read(fd)
            with pytest.raises(EndlessError):
                Reader(plan_of)._read_unsteady(fd, NONE)
        with pytest.raises(EndlessError):
            read_more(path, status, 6)


def test_a_file_with_slow_reads_is_read_up_to_a_time_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(1 << 19))
    now = 1000.0

    def clock() -> float:
        nonlocal now
        now += pace_s
        return now

    pace_s = UNSIZED_S / 2
    assert read(path, NONE, clock=clock)[2] == 1 << 19
    pace_s = UNSIZED_S / 2 + 1
    with pytest.raises(EndlessError):
        read(path, NONE, clock=clock)
    # A file with a trusted size is read however long it takes.
    assert read(path, FULL, clock=clock)[2] == 1 << 19


# Further digests of the same file.


def read_more(path: Path, status: os.stat_result, length: int) -> list[bytes]:
    with opened(path) as fd:
        return Reader(plan_of).read_more(fd, SHA1, status, length)


def test_more_digests_are_of_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"benign")
    status = path.stat()
    assert read_more(path, status, 6) == sha1(b"benign")
    for length in (5, 7):
        with pytest.raises(SetAside, match=CHANGED):
            read_more(path, status, length)
    during_reads(monkeypatch, lambda number: os.utime(path, (1, 1)) if number == 1 else None)
    with pytest.raises(SetAside, match=CHANGED):
        read_more(path, status, 6)
    # If the file has changed before this reading, it is not read at all.
    with monkeypatch.context() as patch:
        patch.setattr(reading, "digest_fd", lambda *_, **__: pytest.fail("it is read"))
        with pytest.raises(SetAside, match=CHANGED):
            read_more(path, status, 6)
    assert read_more(path, path.stat(), 6) == sha1(b"benign")


@needs_fuse
def test_more_digests_need_the_whole_file_too(tmp_path: Path) -> None:
    files = {"f": File(b"benign", fails_at=4, error=0), "g": File(b"benign", gives=2)}
    with mounted(tmp_path, files):
        with pytest.raises(OSError, match=SHORTER):
            read_more(tmp_path / "f", (tmp_path / "f").stat(), 6)
        assert read_more(tmp_path / "g", (tmp_path / "g").stat(), 6) == sha1(b"benign")


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", ["st_mtime_ns", "st_ctime_ns", "st_size", "st_ino", "st_dev"])
def test_the_same_content_has_the_same_status(tmp_path: Path, name: str, change: int) -> None:
    status = tmp_path.stat()
    names = [n for n in dir(status) if n.startswith("st_")]
    other: Any = SimpleNamespace(**{n: getattr(status, n) for n in names})
    assert same_content(status, other)
    setattr(other, name, getattr(other, name) + change)
    assert not same_content(status, other)


# The trust in file systems.


@pytest.fixture
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """A checker with a list of files of six bytes."""
    state = make_state(tmp_path_factory.mktemp("site"), {"base": csv_of({"e-1": b"listed"})})
    settings = Settings(state, state / "config.toml", None, Config())
    return Checker(open_lists(settings, {}, datetime.now(UTC)).judge())


def check(checker: Checker, directory: Path, *names: str) -> dict[str, str]:
    result = checker.check([Group(str(directory), list(names), follow=False)])
    return {Path(o.path).name: o.reason or str(o.kind) for o in result.outcomes}


@needs_fuse
def test_a_device_s_number_is_not_trusted_beyond_its_task(checker: Checker, tmp_path: Path) -> None:
    """After a file system is unmounted, another one may get its device number."""
    devices = set()
    for user_id, expected in ((0, {}), (STRANGER, {"f": "match"})):
        with mounted(tmp_path, {"f": File(b"listed", claims=4096)}, user_id=user_id):
            devices.add(tmp_path.stat().st_dev)
            assert check(checker, tmp_path, "f") == expected
    if len(devices) > 1:
        pytest.skip("another process mounted something meanwhile")


@needs_fuse
def test_a_file_system_that_cannot_be_examined_has_no_trust(
    checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path, {"a": b"benign file", "f": b"", "g": b""})
    asked: list[str] = []

    def vanished(
        ask: Callable[[int, int], SizeTrust],
        name: str,
        directory_fd: int,
        device: int,
        follow: bool,
        otherwise: SizeTrust,
    ) -> SizeTrust:
        asked.append(name)
        if name == "f":
            raise FileNotFoundError(2, "vanished")
        return ask_at(ask, name, directory_fd, device, follow, otherwise)

    monkeypatch.setattr(reading, "ask_at", vanished)
    with mounted(tree / "f", {"": File(b"listed", claims=4096)}, user_id=STRANGER):
        subprocess.run(["mount", "--bind", tree / "f", tree / "g"], check=True)
        try:
            found = check(checker, tree, "a", "f", "g")
        finally:
            subprocess.run(["umount", "--lazy", tree / "g"], check=True)
    assert found == {"f": "no such file or directory", "g": "match"}
    assert asked == ["a", "f", "g"]


def test_a_file_system_is_asked_once_a_task(
    checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is asked once for each file system, because a question takes system calls."""
    asked: list[int] = []

    def counted(fd: int, device: int) -> SizeTrust:
        asked.append(device)
        return trust_of(fd, device)

    monkeypatch.setattr(reading, "trust_of", counted)
    tree = write_tree(tmp_path / "t", {f"{n % 3}/{n}": b"benign" for n in range(30)})
    groups = [Group(f"{tree}/{k}", [str(n) for n in range(k, 30, 3)], False) for k in range(3)]
    for task in range(1, 3):
        assert checker.check(groups).files_read == 30
        assert asked == [tree.stat().st_dev] * task


@needs_mounts
def test_a_file_system_stays_until_the_task_ends(
    checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that is mounted during the task is not trusted like the one before it."""
    devices: list[int] = []

    def exchange(_number: int) -> None:
        if len(devices) == 1:
            one.close()
            devices.append(others.enter_context(disk(two, "tmpfs")).stat().st_dev)

    during_reads(monkeypatch, exchange)
    two = tmp_path / "two"
    two.mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with contextlib.ExitStack() as others, contextlib.ExitStack() as one:
        memory = one.enter_context(disk(tmp_path, "tmpfs"))
        devices.append(memory.stat().st_dev)
        tree = write_tree(tmp_path / "t", {"f": b"benign"})
        # The file is examined but not read, as no entry has its size.
        write_tree(memory, {"f": b"listed "})
        groups = [Group(str(place), ["f"], False) for place in (memory, tree)]
        assert checker.check(groups).clean == 2
        assert len(set(devices)) == 2
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_lease_is_asked_for_before_each_attempt_and_the_last_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt to read takes a new lease, because a program may have written before."""
    path, told = tmp_path / "f", []
    path.write_bytes(b"benign")

    def is_unwritable(fd: int) -> bool:
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        told.append(len(numbers))
        return len(told) > 1

    def change(number: int) -> None:
        if number == 1:
            path.write_bytes(b"longer than it was")

    numbers = during_reads(monkeypatch, change)
    monkeypatch.setattr(reading, "is_unwritable", is_unwritable)
    monkeypatch.setattr(reading, "keeps_out", lambda _: False)
    for trust in (FULL, NONZERO, NONE):
        told.clear()
        numbers.clear()
        path.write_bytes(b"benign")
        reader = Reader(plan_of, leases=True)
        with opened(path) as fd:
            monkeypatch.setattr(reading, "trust_of", lambda *_, told=trust: told)
            *_, unwritable = reader.read(fd)
        reader.end_task()
        # If the times of the file are unreliable, a lease proves nothing either.
        assert unwritable is (True if trust is FULL else None)
        assert told == ([0, told[-1]] if trust is FULL else [])
        assert trust is not FULL or told[-1] >= 1


@pytest.mark.parametrize(
    ("elapsed_s", "lost", "expected"), [(0.4, False, True), (0.6, False, True), (0.6, True, False)]
)
def test_a_short_file_is_read_under_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elapsed_s: float, lost: bool, expected: bool
) -> None:
    """The kernel makes a writer wait; a lease may be lost only if it was kept too long."""
    assert can_lease()
    path = tmp_path / "f"
    path.write_bytes(b"benign")
    with opened(path) as fd:
        if not hold(fd) or not keeps_out(fd):
            pytest.skip("no such lease here")
    now = [0.0]

    def write(_: int) -> None:
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        now[0] += elapsed_s
        if lost:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    reader = Reader(plan_of, leases=True, clock=lambda: now[0])
    with opened(path) as fd:
        reader.devices[os.fstat(fd).st_dev] = Device(FULL, leases=True, holds=keeps_out(fd))
        assert reader.read(fd)[-1] is True
    during_reads(monkeypatch, write)
    with opened(path) as fd:
        _, digests, length, status, reliable, unwritable = reader.read(fd)
        assert (digests, length, reliable, unwritable) == (sha1(b"benign"), 6, True, expected)
        assert same_content(status, os.fstat(fd))


def test_a_long_file_is_not_kept_from_others_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_lease()
    path = tmp_path / "f"
    path.write_bytes(bytes(HELD_BYTES))
    writers: list[int] = []
    during_reads(monkeypatch, lambda _: writers.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))
    reader = Reader(plan_of, leases=True)
    with opened(path) as fd:
        reader.devices[os.fstat(fd).st_dev] = Device(FULL, leases=True, holds=keeps_out(fd))
        reader.read(fd)
    assert writers
    for writer in writers:
        os.close(writer)


class Leases:
    """Replaces the kernel's leases: answers as the test says, and notes the questions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.held: bool | None = True
        for name, answer in (
            ("hold", lambda: self.held),
            ("let_go", lambda: None),
            ("is_unwritable", lambda: False),
        ):
            monkeypatch.setattr(reading, name, self.noted(name, answer))
        monkeypatch.setattr(reading, "trust_of", lambda *_: FULL)
        monkeypatch.setattr(reading, "keeps_out", lambda _: True)

    def noted(self, name: str, answer: Callable[[], bool | None]) -> Callable[[int], bool | None]:
        def ask(_: int) -> bool | None:
            self.asked.append(name)
            return answer()

        return ask


@pytest.mark.parametrize(
    ("elapsed_s", "asked", "unwritable"),
    [(0.0, ["hold"], True), (0.49, ["hold"], True), (0.5, ["hold", "let_go"], None)],
)
def test_a_lease_that_was_held_for_half_a_second_is_asked_about(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    elapsed_s: float,
    asked: list[str],
    unwritable: bool | None,
) -> None:
    """The lease of a task's first file is always checked: its start was not measured."""
    assert (HELD_BYTES, reading.HELD_S) == (1 << 16, 0.5)
    (tmp_path / "f").write_bytes(b"benign")
    leases, now = Leases(monkeypatch), [0.0]
    reader = Reader(plan_of, leases=True, clock=lambda: now[0])
    for _ in range(2):
        reader.begin_task()
        leases.asked.clear()
        with opened(tmp_path / "f") as fd:
            assert reader.read(fd)[-1] is None
        assert leases.asked == ["hold", "let_go"]
    leases.asked.clear()
    now[0] += elapsed_s
    with opened(tmp_path / "f") as fd:
        assert reader.read(fd)[-1] is unwritable
    assert leases.asked == asked
    reader.end_task()


@pytest.mark.parametrize(
    ("size", "held", "asked", "unwritable"),
    [
        (HELD_BYTES - 1, True, ["hold"], True),
        (HELD_BYTES, True, ["is_unwritable"], False),
        (5, False, ["hold"], False),
        (5, None, ["hold"], None),
        (0, True, ["hold"], True),
    ],
)
def test_short_files_alone_are_read_under_a_lease(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    held: bool | None,
    asked: list[str],
    unwritable: bool | None,
) -> None:
    (tmp_path / "first").write_bytes(b"")
    (tmp_path / "f").write_bytes(bytes(size))
    leases = Leases(monkeypatch)
    reader = Reader(plan_of, leases=True, clock=lambda: 0.0)
    with opened(tmp_path / "first") as fd:
        reader.read(fd)
    leases.asked.clear()
    leases.held = held
    with opened(tmp_path / "f") as fd:
        assert reader.read(fd)[-1] is unwritable
    assert leases.asked == asked
    reader.end_task()


def test_no_lease_is_held_while_a_container_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"f": b"benign", "zip": b"PK\x03\x04" + bytes(40)})
    leases = Leases(monkeypatch)
    reader = Reader(plan_of, leases=True, clock=lambda: 0.0, sniffs=True)
    asked = []
    for name in ("f", "f", "zip", "f"):
        leases.asked.clear()
        with opened(tmp_path / name) as fd:
            reader.read(fd)
        asked.append([*leases.asked])
    assert asked == [["hold", "let_go"], ["hold"], ["hold", "let_go"], ["hold"]]
    reader.end_task()
