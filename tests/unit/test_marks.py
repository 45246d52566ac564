"""Whether a file may be a container: decided by some of its first and last bytes."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from hashclient.containers.interface import ISO_HEAD_BYTES
from hashclient.scan.check.marks import LOOK_BYTES, Marks
from tests.unit.test_checker import zipped


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("member"))
    return out.getvalue()


TEXT = b"benign text\n"
LONG = TEXT * 9_000
#: Contents of files, and whether each file may be a container.
FILES = {
    "nothing": (b"", False),
    "one byte": (b"P", False),
    "a short text": (TEXT, False),
    "a text of just what is read": (LONG[:LOOK_BYTES], False),
    "a text that ends before the mark of a disk": (LONG[: ISO_HEAD_BYTES - 1], False),
    "a text that ends behind it": (LONG[:ISO_HEAD_BYTES], False),
    "a long text": (LONG, False),
    "a program": (b"#!/bin/sh\n" + LONG, False),
    "a zip": (zipped(TEXT), True),
    "a long zip": (zipped(LONG), True),
    "a gzip": (gzip.compress(TEXT), True),
    "a tar, by a mark within": (tarred(), True),
    "a disk, by a far mark": (bytes(32_768) + b"\1CD001\1" + bytes(60_000), True),
    "a short disk": ((bytes(32_768) + b"\1CD001\1").ljust(ISO_HEAD_BYTES, b"\0"), True),
    "an archive behind a short program": (b"#!/bin/sh\n" + TEXT + zipped(TEXT), True),
    "an archive behind a long program": (b"#!/bin/sh\n" + LONG + zipped(TEXT), True),
    "an archive behind a text": (TEXT + zipped(TEXT), True),
    "an archive behind a long text": (LONG + zipped(TEXT), True),
}


@pytest.mark.parametrize("most", [40, 300, LOOK_BYTES - 1, 1 << 20])
def test_a_container_is_recognised_however_few_bytes_come_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A slow file system returns few bytes, so a reader must collect enough first bytes."""
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, min(count, most), at))
    looked, read = Marks(), Marks()
    for name, (content, may_be) in FILES.items():
        path = tmp_path / name
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        looked.look(fd, len(content))
        begin = content[0] if content else 0
        assert (looked.may_be, looked.begin) == (may_be, begin), name
        first = min(most, len(content))
        for size in (len(content), None):  # None: the size of the file is not trusted
            read.size = size
            read.first(bytearray(content[:first]), first)
            if not read.is_sure:
                read.look_again(fd, len(content))
            assert (read.may_be, read.begin) == (may_be, begin), (name, size)
        os.close(fd)


@pytest.mark.parametrize("name", ["a long text", "a long zip"])
def test_little_of_a_file_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content, _ = FILES[name]
    (tmp_path / "f").write_bytes(content)
    pread, counts = os.pread, list[int]()

    def counted(fd: int, count: int, at: int) -> bytes:
        data = pread(fd, count, at)
        counts.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    Marks().look(fd, len(content))
    os.close(fd)
    assert sum(counts) < 2 * ISO_HEAD_BYTES < len(content)
