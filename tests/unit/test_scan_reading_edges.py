"""Reading files at the edges: trust in file systems, changes of one time, and containers."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.kinds import Algorithm, Kind
from hashclient.scan.check import reading
from hashclient.scan.check.opening_files import Waits
from hashclient.scan.check.reading import DIRECTORY, Device, Reader, SetAside
from hashclient.scan.values.work import SPARSE
from hashclient.system.filesystems import FULL, NONE, NONZERO, SizeTrust
from hashclient.system.identity import Identities, Identity
from tests.kit import open_files, write_tree
from tests.unit.test_checker import zipped
from tests.unit.test_reading import during_reads, plan_of

MD5, SHA1 = (Algorithm.MD5,), (Algorithm.SHA1,)
ARCHIVE = zipped(b"content")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


class Numbered(Identities):
    """Identities that have the number 7 for every file system."""

    def of(self, fd: int, device: int) -> Identity:
        assert os.fstat(fd).st_dev == device
        return Identity(7)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("leases", [False, True])
@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("trust", SizeTrust)
def test_what_is_known_of_a_file_system(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trust: SizeTrust,
    is_known: bool,
    leases: bool,
    keeps: bool,
) -> None:
    """A path on the file system stays open for the task, so that it cannot be unmounted."""
    monkeypatch.setattr(reading, "trust_of", lambda *_: trust)
    monkeypatch.setattr(reading, "keeps_out", lambda _: keeps)
    identity = Identity(7) if is_known and trust is not NONE else None
    may_lease = leases and trust is FULL
    expected = Device(trust, may_lease, may_lease and keeps, identity)
    reader = Reader(plan_of, leases=leases, file_systems=Numbered() if is_known else None)
    number, before = tmp_path.stat().st_dev, open_files()
    with opened(tmp_path) as fd:
        device = reader.device_at("any", fd, number, follow=False)
        assert device == expected
        assert reader.device_at("any", -1, number, follow=False) is device
    assert open_files() == before + 1
    assert (reader.devices, reader.identities()) == ({number: device}, {number: identity})
    reader.end_task()
    assert (reader.devices, open_files()) == ({}, before)


def test_a_file_system_that_cannot_stay_open_is_not_known_for_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = os.open

    def refuse(path: Any, *args: Any, **how: Any) -> int:
        if str(path).startswith("/proc/self/fd/"):
            raise OSError(24, "Too many open files")
        return opens(path, *args, **how)

    reader = Reader(plan_of)
    with opened(tmp_path) as fd:
        monkeypatch.setattr(os, "open", refuse)
        device = reader.device_at("any", fd, tmp_path.stat().st_dev, follow=False)
    assert (device.trust, reader.devices) == (FULL, {})


@pytest.mark.parametrize("is_link", [False, True])
@pytest.mark.parametrize("follow", [False, True])
def test_a_file_that_left_its_file_system_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool, follow: bool
) -> None:
    """The status was of a file on proc; a link leads there only if it is followed."""
    monkeypatch.setattr(reading, "trust_of", lambda *_: FULL)
    (tmp_path / "f").symlink_to("/proc/version") if is_link else (tmp_path / "f").touch()
    reader = Reader(plan_of)
    with opened(tmp_path) as fd:
        device = reader.device_at("f", fd, Path("/proc/version").stat().st_dev, follow=follow)
    reader.end_task()
    assert device.trust is (FULL if is_link and follow else NONE)


@pytest.mark.parametrize("trust", SizeTrust)
@pytest.mark.parametrize("changes", [False, True])
def test_a_size_that_cannot_be_relied_on_makes_no_file_sparse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: SizeTrust, changes: bool
) -> None:
    """The file is refused before it is read, also if it changed while it was read."""
    monkeypatch.setattr(reading, "SPARSE_BYTES", 1_000)
    path = tmp_path / "f"
    with path.open("wb") as stream:
        stream.truncate(0 if changes else 100_000)

    def grow(number: int) -> None:
        if changes and number == 1:
            os.truncate(path, 100_000)

    during_reads(monkeypatch, grow)
    reader = Reader(plan_of)
    with opened(path) as fd:
        reader.devices[os.fstat(fd).st_dev] = Device(trust)
        if trust is NONE:
            assert reader.read(fd)[2] == 100_000
            return
        with pytest.raises(SetAside) as refused:
            reader.read(fd)
    assert (refused.value.kind, str(refused.value)) == (Kind.UNREAD, SPARSE)


@pytest.mark.parametrize("act", ["", "times alone"])
@pytest.mark.parametrize("trust", [FULL, NONZERO])
def test_a_change_of_the_ctime_alone_is_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: SizeTrust, act: str
) -> None:
    """A program has written to the file and has set its mtime back."""
    path = tmp_path / "f"
    path.write_bytes(b"benign")
    fstat = os.fstat
    calls: list[int] = []

    def later(fd: int) -> Any:
        status = fstat(fd)
        calls.append(fd)
        names = [name for name in dir(status) if name.startswith("st_")]
        found = {name: getattr(status, name) for name in names}
        if act and len(calls) > 1:
            found["st_ctime_ns"] += 1
        return SimpleNamespace(**found)

    reader = Reader(plan_of)
    with opened(path) as fd:
        reader.devices[fstat(fd).st_dev] = Device(trust)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", later)
            plan, *_ = reader.read(fd)
    assert plan == (MD5 if act else SHA1)


@pytest.mark.parametrize(
    ("content", "may_be"),
    [
        (b"benign text", False),
        (ARCHIVE, True),
        (b"x" * 60_000 + ARCHIVE, True),
        (b"x" * (1 << 19) + ARCHIVE, True),
        (b"x" * (1 << 19), False),
    ],
    ids=["text", "zip", "zip behind", "zip far behind", "long text"],
)
@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("trust", SizeTrust)
def test_a_container_is_seen_also_in_a_file_that_was_read_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    may_be: bool,
    changes: bool,
    trust: SizeTrust,
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before" if changes else content)
    during_reads(monkeypatch, lambda number: changes and number == 1 and path.write_bytes(content))
    reader = Reader(plan_of, sniffs=True)
    with opened(path) as fd:
        reader.devices[os.fstat(fd).st_dev] = Device(trust)
        *_, reliable, _ = reader.read(fd)
    assert (reader.marks.may_be, reader.marks.begin) == (may_be, content[0])
    assert reliable is (trust is not NONE)


def test_only_files_are_looked_at(tmp_path: Path) -> None:
    write_tree(tmp_path, {"f": b"text", "zip": ARCHIVE})
    reader = Reader(plan_of, sniffs=True)
    for name, may_be in (("f", False), ("zip", True)):
        with opened(tmp_path / name) as fd:
            assert reader.look(fd).st_ino == (tmp_path / name).stat().st_ino
        assert reader.marks.may_be is may_be
    with opened(tmp_path) as fd, pytest.raises(SetAside, match=DIRECTORY) as refused:
        reader.look(fd)
    assert refused.value.kind is Kind.UNREAD


@pytest.mark.parametrize("trust", SizeTrust)
def test_more_digests_count_for_the_bytes_of_a_task(tmp_path: Path, trust: SizeTrust) -> None:
    (tmp_path / "f").write_bytes(b"benign")
    reader = Reader(plan_of)
    with opened(tmp_path / "f") as fd:
        status = os.fstat(fd)
        reader.devices[status.st_dev] = Device(trust)
        reader.read(fd)
    with opened(tmp_path / "f") as fd:
        assert len(reader.read_more(fd, MD5 + SHA1, status, 6)) == 2
    assert reader.bytes_read == 12
    reader.begin_task()
    assert reader.bytes_read == 0


@pytest.mark.parametrize(
    ("waits", "blocks", "count"), [(0, 0, 0), (5, 0, 5), (5, 7, 5), (5, 8, 6), (0, 17, 2)]
)
def test_a_read_of_eight_blocks_counts_as_a_wait(
    monkeypatch: pytest.MonkeyPatch, waits: int, blocks: int, count: int
) -> None:
    used = SimpleNamespace(ru_nvcsw=waits, ru_inblock=blocks)
    asked: list[int] = []

    def getrusage(who: int) -> Any:
        asked.append(who)
        return used

    monkeypatch.setattr(resource, "getrusage", getrusage)
    assert Waits.count() == count
    assert asked == [resource.RUSAGE_THREAD]


def test_a_file_of_a_size_that_no_entry_has_is_looked_at_alone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"text")
    reader = Reader(lambda _: (), sniffs=True)
    with opened(path) as fd:
        plan, digests, length, status, reliable, unwritable = reader.read(fd)
        assert (plan, digests, length, reliable, unwritable) == ((), [], 4, True, None)
        assert status.st_size == 4
    assert (reader.bytes_read, reader.marks.begin) == (0, ord("t"))
    reader.end_task()
