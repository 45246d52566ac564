"""Reads members of archives: as a scan reads them, and as the standard library reads them.

As a program with the name of a reader and an archive, this module reads all members once and prints
the CPU seconds. If no member has a listed size, a scan must at least list the archive and
decompress the first bytes of each member, because these bytes say whether the member is a
container. The reader `heads` does only this least work.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from hashclient.containers.child import FileData
from hashclient.containers.driver import Driver
from hashclient.containers.interface import HEAD_BYTES, ISO_HEAD_BYTES
from hashclient.containers.limits import Limits
from hashclient.containers.protocol import Job, Row
from hashclient.containers.registry import Registry
from hashclient.containers.sniffing import wants_more_head
from hashclient.containers.zipmember import LOCAL_BYTES
from hashclient.core.kinds import Algorithm

_SIZES = (2_000, 8_000, 20_000, 50_000)


class _Nothing:
    """Receives the members that an expander finds, and says that no claimed size is listed."""

    _last = 0

    def ask(self, sizes: Sequence[int]) -> bytes:
        return bytes(len(sizes))

    def container(self, _parent: int, _name: bytes, _mail: object = None) -> int:
        self._last += 1
        return self._last

    def row(self, row: Row) -> None:
        assert row.why is None


def make(directory: Path, members: int) -> None:
    """Make one archive of each kind, with the same members: texts of a few thousand words."""
    directory.mkdir()
    chance = random.Random(1)
    letters = b"abcdefghijklmnopqrstuvwxyz"
    words = [bytes(chance.choices(letters, k=chance.randint(3, 9))) for _ in range(2_000)]
    for number in range(members):
        size = chance.choice(_SIZES)
        text = b" ".join(chance.choices(words, k=size // 7))
        (directory / f"f{number}").write_bytes(text)
    files = sorted(directory.iterdir())
    with zipfile.ZipFile(directory / "o.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.name)
    for kind, mode in (("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")):
        with tarfile.open(directory / f"o.{kind}", mode) as packed:  # type: ignore[call-overload]
            for path in files:
                packed.add(path, path.name)
    for path in files:
        path.unlink()
    if shutil.which("zstd") is not None:
        subprocess.run(["zstd", "-q", "-3", directory / "o.tar"], check=True)  # noqa: S607


def make_small(directory: Path, count: int) -> None:
    """Make `count` zips of three members each, and `count` files that are no archives."""
    chance = random.Random(2)
    for number in range(count):
        folder = f"d{number // 500:04d}"
        for kind in ("zips", "files"):
            (directory / kind / folder).mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(directory / "zips" / folder / f"f{number}", "w") as archive:
            for member in range(3):
                archive.writestr(f"m{member}", chance.randbytes(200))
        (directory / "files" / folder / f"f{number}").write_bytes(chance.randbytes(900))


def ours(path: Path, *, is_sized: bool = False) -> None:
    """Read all members with our expanders; with `is_sized`, no member has a listed size."""
    size = path.stat().st_size
    one_mask = None if is_sized else int(Algorithm.SHA256)
    job = Job(size, int(Algorithm.SHA256), one_mask, forced=False)
    fd = os.open(path, os.O_RDONLY)
    driver = Driver(Registry(), Limits(), job, _Nothing(), verify_sizes=False)
    driver.run(lambda: FileData(fd, size))
    os.close(fd)


def with_zipfile(path: Path) -> None:
    """Read all members of a zip with zipfile, and digest them with hashlib."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            hashlib.sha256(archive.read(member)).digest()


def with_tarfile(path: Path) -> None:
    """Read all members of a tar with tarfile, and digest them with hashlib."""
    with tarfile.open(path) as archive:
        for member in archive:
            data = archive.extractfile(member)
            assert data is not None
            hashlib.sha256(data.read()).digest()


def with_infolist(path: Path) -> None:
    """List a zip with zipfile; read no member."""
    with zipfile.ZipFile(path) as archive:
        archive.infolist()


def with_heads(path: Path) -> None:
    """List a zip, and decompress the first bytes of each member, which show its kind."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    fd = os.open(path, os.O_RDONLY)
    for member in members:
        count = ISO_HEAD_BYTES if wants_more_head(member.file_size) else HEAD_BYTES
        start = member.header_offset + LOCAL_BYTES + len(member.filename)
        packed = os.pread(fd, min(count, member.compress_size), start)
        zlib.decompressobj(-15).decompress(packed, count)
    os.close(fd)


def with_zstd(path: Path) -> None:
    """Decompress a file with zstd, and digest all of it with sha256sum."""
    subprocess.run(f"zstd -dc {path} | sha256sum >/dev/null", shell=True, check=True)  # noqa: S602


def _cpu_seconds() -> float:
    """Return the processor time of this process so far, including its ended children."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


WAYS: dict[str, Callable[[Path], None]] = {
    "ours": ours,
    "ours-no-size-fits": lambda path: ours(path, is_sized=True),
    "zipfile": with_zipfile,
    "tarfile": with_tarfile,
    "infolist": with_infolist,
    "heads": with_heads,
    "zstd": with_zstd,
}

if __name__ == "__main__":
    way, name = WAYS[sys.argv[1]], Path(sys.argv[2])
    started = _cpu_seconds()
    way(name)
    print(_cpu_seconds() - started)
