"""Open files that clients send: the daemon reads all bytes and notes each file's inode."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.digests import CHUNK_BYTES
from hashclient.core.kinds import Kind
from hashclient.daemon import openfiles
from hashclient.scan.check.reading import SetAside
from hashclient.scan.values.work import CHANGED, ENDLESS, SPARSE


@pytest.mark.parametrize("most", [1, 700, CHUNK_BYTES])
@pytest.mark.parametrize("is_archive", [True, False])
def test_a_container_is_known_however_few_bytes_come_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, is_archive: bool
) -> None:
    content = gzip.compress(b"benign " * 50) if is_archive else b"benign " * 50
    (tmp_path / "f").write_bytes(content)
    digest = hashlib.sha256()
    upload: Any = SimpleNamespace(
        fd=os.open(tmp_path / "f", os.O_RDONLY), began=time.monotonic(), update=digest.update
    )
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, min(count, most), at))
    try:
        for _ in openfiles._read(upload, 60.0):
            pass
    finally:
        os.close(upload.fd)
    assert upload.opens is is_archive
    assert digest.digest() == hashlib.sha256(content).digest()


def read(
    path: Path, monkeypatch: pytest.MonkeyPatch, most_s: float = 60.0, **how: Any
) -> list[str]:
    """Read an open file, and return its pieces and the reason why it is set aside."""
    now = iter(how.get("times", [0.0] * 99))
    monkeypatch.setattr(openfiles, "time", SimpleNamespace(monotonic=lambda: next(now)))
    upload: Any = SimpleNamespace(fd=os.open(path, os.O_RDONLY), began=0.0, update=how["update"])
    said: list[str] = []
    try:
        said.extend("piece" for _ in openfiles._read(upload, most_s))
    except SetAside as error:
        said.append(str(error))
    finally:
        os.close(upload.fd)
    return said


@pytest.mark.parametrize(("chunks", "pieces"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_a_file_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: int, pieces: int
) -> None:
    """Each yielded piece lets the daemon read other files. The last read only finds the end."""
    assert openfiles.PIECE_CHUNKS * CHUNK_BYTES == 32 << 20
    monkeypatch.setattr(openfiles, "PIECE_CHUNKS", 2)
    monkeypatch.setattr(openfiles, "CHUNK_BYTES", 10)
    (tmp_path / "f").write_bytes(b"x" * 10 * chunks)
    came: list[int] = []
    said = read(tmp_path / "f", monkeypatch, update=lambda chunk: came.append(len(chunk)))
    assert said == ["piece"] * pieces
    assert came == [10] * chunks


@pytest.mark.parametrize(("late", "said"), [(0.0, []), (0.1, [ENDLESS])])
def test_a_file_that_takes_too_long_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: float, said: list[str]
) -> None:
    (tmp_path / "f").write_bytes(b"x")
    times = [60.0 + late]
    assert read(tmp_path / "f", monkeypatch, times=times, update=lambda _: None) == said


@pytest.mark.parametrize("more", [b"", b"y"])
@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_file_that_changes_meanwhile_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, more: bytes
) -> None:
    path = tmp_path / "f"
    path.write_bytes(content + b"x")

    def update(_: memoryview) -> None:
        if more:
            path.write_bytes(more + content + b"x")

    said = read(path, monkeypatch, update=update)
    assert said == ([CHANGED] if more else [])


@pytest.mark.parametrize(("written", "said"), [(0, [SPARSE]), (4096, [SPARSE]), (1 << 17, [])])
def test_a_file_that_is_nearly_all_hole_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, said: list[str]
) -> None:
    """A file is set aside if one per cent of it are holes."""
    size = 100 * (1 << 16)
    monkeypatch.setattr(openfiles, "SPARSE_BYTES", size - 1)
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.write(b"x" * written)
        file.truncate(size)
    assert read(path, monkeypatch, update=lambda _: None) == said
    monkeypatch.setattr(openfiles, "SPARSE_BYTES", size)
    assert read(path, monkeypatch, update=lambda _: None) == []


@pytest.mark.parametrize("what", ["directory", "named pipe"])
def test_only_usual_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path
    if what == "named pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
        # Open the pipe for writing as well, because opening would otherwise wait for a writer.
        monkeypatch.setattr(os, "O_RDONLY", os.O_RDWR)
    assert read(path, monkeypatch, update=lambda _: None) == [what]


@pytest.mark.parametrize("size", [100, CHUNK_BYTES, CHUNK_BYTES + 100])
def test_a_file_with_an_archive_behind_other_bytes_is_opened(tmp_path: Path, size: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside", b"benign")
    for content, opens in ((b"x" * size + packed.getvalue(), True), (b"x" * (size + 100), False)):
        (tmp_path / "f").write_bytes(content)
        digest = hashlib.sha256()
        with (tmp_path / "f").open("rb") as file:
            upload: Any = SimpleNamespace(fd=file.fileno(), began=0.0, update=digest.update)
            assert [*openfiles._read(upload, 1e9)] == []
        assert upload.opens is opens
        assert digest.digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, None),
        (SetAside(Kind.UNREAD, CHANGED), CHANGED),
        (OSError(errno.EIO, "Input/output error"), "input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied"),
    ],
)
def test_an_open_file_is_passed_on_or_unread_and_let_go(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, reason: str | None
) -> None:
    said: list[Any] = []

    def reading(upload: object, most_s: float) -> Iterator[None]:
        assert (upload, most_s) == ("upload", 7.0)
        yield None
        if error is not None:
            raise error

    monkeypatch.setattr(openfiles, "_read", reading)
    checks: Any = SimpleNamespace(
        options=SimpleNamespace(stream_s=7.0),
        unread=lambda *given: said.append(("unread", *given)),
        ended=lambda *given: said.append(("ended", *given)),
        release=lambda *given: said.append(("release", *given)),
    )
    upload: Any = "upload"
    with contextlib.closing(openfiles.read_file(checks, upload)) as job:
        steps = list(job)
        assert steps[0] is None and len(steps) == 2 and steps[1] is not None
        steps[1]()
    answered = [("ended", "upload")] if reason is None else [("unread", "upload", reason)]
    # The checks let go of a file that they have got.
    released = [] if reason is None else [("release", "upload")]
    assert sorted(said, key=str) == sorted(answered + released, key=str)


def test_an_open_file_whose_turn_never_comes_is_let_go() -> None:
    released: list[object] = []
    checks: Any = SimpleNamespace(release=released.append)
    upload: Any = "upload"
    openfiles.read_file(checks, upload).close()
    assert released == ["upload"]
