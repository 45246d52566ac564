"""Streams that are kept: where their bytes are, how many are kept, and whose share they use."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from hashclient.containers.interface import ISO_HEAD_BYTES
from hashclient.containers.sniffing import kind_by_end, tail_bytes
from hashclient.scan.check import kept as module
from hashclient.scan.check.kept import BEHIND, Kept, Spool, may_be_container
from tests.kit import open_files
from tests.unit.test_checker import zipped

ARCHIVE = zipped(b"a", b"b" * 200)
PLAIN = b"plain text " * 40


def bytes_of(fd: int | None) -> bytes | None:
    return None if fd is None else os.pread(fd, 1 << 20, 0)


def fed(kept: Kept, data: bytes, piece: int) -> Kept:
    for at in range(0, len(data), piece):
        kept.update(memoryview(data)[at : at + piece])
    assert kept.length == len(data)
    return kept


LARGE = ARCHIVE + b"\0" * ISO_HEAD_BYTES


@pytest.mark.parametrize("piece", [7, 100, 1 << 20])
@pytest.mark.parametrize(
    ("data", "is_kept"),
    [
        (b"", False),
        (b"x", False),
        (PLAIN, False),
        (ARCHIVE, True),
        (PLAIN + ARCHIVE, True),
        (LARGE[:ISO_HEAD_BYTES], True),
        (LARGE[: ISO_HEAD_BYTES - 1], True),
        (LARGE, True),
        (b"x" * ISO_HEAD_BYTES, False),
        (b"x" * (ISO_HEAD_BYTES + 1), False),
    ],
)
def test_a_possible_container_is_kept_whole_and_nothing_else(
    data: bytes, is_kept: bool, piece: int
) -> None:
    with contextlib.closing(fed(Kept(1 << 20), data, max(piece, len(data) // 50))) as kept:
        assert bytes_of(kept.finish()) == (data if is_kept else None)
        assert (kept.failure, kept.not_opened) == (None, "")
    assert may_be_container(data) is is_kept


@pytest.mark.parametrize("piece", [5_000, 1 << 20])
def test_an_archive_that_only_its_end_shows_needs_the_content(piece: int) -> None:
    data = b"x" * (3 * ISO_HEAD_BYTES) + ARCHIVE
    assert may_be_container(data)
    with contextlib.closing(fed(Kept(1 << 20), data, piece)) as kept:
        assert (kept.finish(), kept.failure) == (None, BEHIND)
    with contextlib.closing(fed(Kept(1 << 20), data, piece)) as kept:
        assert bytes_of(kept.finish(data)) == data  # type: ignore[arg-type]
        assert kept.failure is None


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_stream_is_kept_up_to_its_limit(more: int) -> None:
    files, most = open_files(), ISO_HEAD_BYTES + 500
    data = (LARGE + b"\0" * 999)[: most + more]
    with contextlib.closing(fed(Kept(most), data, 400)) as kept:
        found = kept.finish()
        assert (found is None) == (more > 0)
        assert kept.failure == ("limit: more than 0 MiB of a stream" if more > 0 else None)
    assert open_files() == files


def test_a_limit_is_named_in_mebibytes() -> None:
    kept = Kept(3 << 20)
    kept._begin()
    kept.length = (3 << 20) + 1
    kept._write(memoryview(b"x"))
    assert kept.failure == "limit: more than 3 MiB of a stream"


class Room:
    """Replaces the share of the spool that one user may use; `left` bytes are free."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> bool:
        if count > self.left:
            return False
        self.left -= count
        return True

    def give_back(self, count: int) -> None:
        assert count > 0
        self.left += count


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """A spool with room for ten bytes in memory and thirty bytes on the disk."""
    monkeypatch.setattr(module, "MEMORY_BYTES", 10)
    return Spool(tmp_path / "spool", 30)


def rooms(spool: Spool) -> tuple[int, int]:
    return spool.memory_bytes, spool.disk_bytes


def test_a_stream_moves_from_memory_to_the_disk_and_its_room_comes_back(spool: Spool) -> None:
    files, user = open_files(), Room(100)
    stream = spool.keep(user)
    stream.keep_all()
    seen, data = [], b""
    for count in (4, 6, 1, 19):
        chunk = bytes(range(len(data), len(data) + count))
        stream.update(memoryview(chunk))
        data += chunk
        seen.append((*rooms(spool), user.left))
    assert seen == [(4, 0, 96), (10, 0, 90), (0, 11, 89), (0, 30, 70)]
    assert bytes_of(stream.finish()) == data
    stream.update(memoryview(b"x"))
    assert str(stream.failure).startswith("limit: there is no room")
    assert (*rooms(spool), user.left) == (0, 0, 100)
    stream.close()
    assert (*rooms(spool), user.left) == (0, 0, 100)
    assert open_files() == files


def test_streams_share_the_memory_and_the_disk(spool: Spool) -> None:
    one, two, three = (spool.keep() for _ in range(3))
    for stream in (one, two, three):
        stream.keep_all()
    one.update(memoryview(b"x" * 10))
    two.update(memoryview(b"y" * 20))
    assert rooms(spool) == (10, 20)
    three.update(memoryview(b"z" * 11))  # one byte more than the disk may take
    assert three.failure and three.finish() is None
    one.update(memoryview(b"x"))  # all eleven bytes do not fit on the disk
    assert one.failure
    assert rooms(spool) == (0, 20)
    two.update(memoryview(b"y" * 10))
    assert (two.failure, rooms(spool)) == (None, (0, 30))
    two.close()
    assert rooms(spool) == (0, 0)


def test_one_user_cannot_have_more_than_their_room(spool: Spool) -> None:
    user = Room(5)
    stream = spool.keep(user)
    stream.keep_all()
    stream.update(memoryview(b"12345"))
    assert (stream.failure, user.left) == (None, 0)
    stream.update(memoryview(b"6"))
    assert stream.failure
    assert (user.left, rooms(spool)) == (5, (0, 0))


@pytest.mark.parametrize("fails", ["open", "write"])
def test_a_stream_that_cannot_be_moved_is_dropped(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    files, stream = open_files(), spool.keep()
    stream.keep_all()
    stream.update(memoryview(b"x" * 10))

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, fails, fail)
    stream.update(memoryview(b"y"))
    monkeypatch.undo()
    assert stream.failure == "no space left on device"
    assert rooms(spool) == (0, 0)
    assert open_files() == files


def test_a_file_of_the_spool_has_no_name_and_no_other_reader(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a stream has no name even if the file system has no `O_TMPFILE`."""
    original = os.open

    def without_unnamed(path: Any, flags: int, *others: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return original(path, flags, *others, **more)

    for is_old in (False, True):
        if is_old:
            monkeypatch.setattr(os, "open", without_unnamed)
        fd = spool.open()
        status = os.fstat(fd)
        assert (status.st_mode & 0o777, status.st_nlink, os.get_inheritable(fd)) == (
            0o600,
            0,
            False,
        )
        os.close(fd)
    assert list((tmp_path / "spool").iterdir()) == []
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700


def test_the_directory_of_the_spool_is_made_with_those_above_it(tmp_path: Path) -> None:
    os.close(Spool(tmp_path / "state" / "spool", 30).open())
    assert (tmp_path / "state" / "spool").is_dir()


def test_a_stream_of_known_length_waits_for_its_room(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.001)
    looks: list[bool] = []

    def is_stopped() -> bool:
        looks.append(True)
        return len(looks) > 2

    # A reservation that exceeds the whole spool is granted, because waiting would never end.
    with spool.reserved(99, is_stopped):
        assert (spool._reserved, looks) == (30, [])
        with spool.reserved(1, is_stopped):
            assert (spool._reserved, len(looks)) == (31, 3)
    assert spool._reserved == 0
    looks.clear()
    with spool.reserved(10, is_stopped), spool.reserved(20, is_stopped):
        assert (spool._reserved, looks) == (30, [])
    go = threading.Event()

    def release() -> None:
        with spool.reserved(30, lambda: False):
            go.set()

    with spool.reserved(1, is_stopped):
        waiting = threading.Thread(target=release)
        waiting.start()
    assert go.wait(10)
    waiting.join()
    assert spool._reserved == 0


def test_a_stream_without_a_descriptor_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "memfd_create", fail)
    with contextlib.closing(fed(Kept(999), ARCHIVE, 99)) as kept:
        assert kept.finish() is None
    assert kept.failure == "too many open files"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ([10], [True]),
        ([11], [False]),
        ([6, 4, 1], [True, True, False]),
        ([6, 6], [True, False]),
        ([9, 2, 1], [True, False, True]),  # a refused request reserves no bytes
        ([0, 10, 0], [True, True, True]),
    ],
)
@pytest.mark.parametrize("of", ["memory", "disk"])
def test_room_is_given_up_to_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, asked: list[int], given: list[bool]
) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 10)
    spool = Spool(tmp_path, 10)
    has = spool.has_memory if of == "memory" else spool.has_disk
    assert [has(count) for count in asked] == given
    taken = sum(count for count, was in zip(asked, given, strict=True) if was)
    assert rooms(spool) == ((taken, 0) if of == "memory" else (0, taken))
    spool.give_back(*rooms(spool))
    assert rooms(spool) == (0, 0)


def test_how_much_of_streams_is_kept(tmp_path: Path) -> None:
    """All streams share the memory; one stream may use all memory and all of the disk's share."""
    assert (module.MEMORY_BYTES, module._COPY_BYTES, module._LOOK_S) == (32 << 20, 1 << 20, 0.2)
    assert Spool(tmp_path, 5).keep()._most_bytes == (32 << 20) + 5


@pytest.mark.parametrize("piece", [1, 3, 7])
def test_a_stream_is_moved_as_it_was(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """The bytes are copied in parts, and each write may write only a part."""
    monkeypatch.setattr(module, "_COPY_BYTES", 4)
    write = os.write
    stream = spool.keep()
    stream.keep_all()
    stream.update(memoryview(b"0123456789"))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:piece]))
    stream.update(memoryview(b"abcdefghij"))
    assert rooms(spool) == (0, 20)
    assert bytes_of(stream.finish()) == b"0123456789abcdefghij"
    stream.close()


ENCRYPTED = b"LUKS\xba\xbe" + b"\0" * 9


@pytest.mark.parametrize("piece", [5, 1 << 20])
@pytest.mark.parametrize("more", [0, 3 * ISO_HEAD_BYTES])
def test_the_kind_of_a_stream_that_is_not_opened_is_known(more: int, piece: int) -> None:
    """A long stream's kind is known by its first bytes; a short stream is kept and opened."""
    data = ENCRYPTED + b"x" * more
    with contextlib.closing(fed(Kept(1 << 20), data, max(piece, len(data) // 50))) as kept:
        found = kept.finish()
        if more:
            assert (found, kept.not_opened) == (None, "luks")
        else:
            assert (bytes_of(found), kept.not_opened) == (data, "")
        assert kept.failure is None
    assert may_be_container(data)


DISK_IMAGE = b"x" * (3 * ISO_HEAD_BYTES) + b"koly" + b"\0" * 508


@pytest.mark.parametrize("piece", [999, 1 << 20])
def test_the_end_of_a_long_stream_shows_a_kind_that_is_not_opened(piece: int) -> None:
    with contextlib.closing(fed(Kept(1 << 20), DISK_IMAGE, piece)) as kept:
        assert kept.finish() is None
        assert (kept.failure, kept.not_opened) == (None, kind_by_end(DISK_IMAGE[-600:]))
        assert kept.not_opened


@pytest.mark.parametrize("tail", [-1, 0, 1])
def test_as_much_of_the_end_is_kept_as_an_archive_may_need(tail: int) -> None:
    """The comment of an archive may be long, and the end record precedes the comment."""
    most = tail_bytes(10 * ISO_HEAD_BYTES, is_front=False)
    end = b"PK\x05\x06" + b"\0" * 18
    behind = most - len(end) + tail
    end = end[:20] + min(behind, 0xFFFF).to_bytes(2, "little") + b"c" * behind
    data = b"x" * (10 * ISO_HEAD_BYTES - len(end)) + end
    for piece in (ISO_HEAD_BYTES + 1, len(data)):
        with contextlib.closing(fed(Kept(1 << 30), data, piece)) as kept:
            assert kept.finish() is None
            assert (kept.failure == BEHIND) is (tail <= 0), piece


def test_a_closed_stream_keeps_nothing_more(spool: Spool) -> None:
    files, stream = open_files(), spool.keep(user := Room(100))
    stream.keep_all()
    stream.update(memoryview(b"12"))
    stream.close()
    assert (open_files(), user.left, rooms(spool)) == (files, 100, (0, 0))
    stream.close()
    assert (user.left, rooms(spool), stream.failure) == (100, (0, 0), None)
