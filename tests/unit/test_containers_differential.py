"""Members that other programs extract are found as well; a missing program is skipped."""

from __future__ import annotations

import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures import archives, mails
from hashclient.containers.compressed import Bzip2, Gzip, Xz
from hashclient.containers.interface import Expander
from hashclient.containers.mail import Eml
from hashclient.containers.tar import Tar
from hashclient.containers.zip import Zip
from tests.opened import opened

Contents = dict[str, bytes]
#: Programs that write all members to standard output, one behind the other.
PROGRAMS = {
    "bsdtar": ["bsdtar", "-xOf"],
    "7z": ["7z", "e", "-so", "-bd"],
    "unzip": ["unzip", "-p"],
    "tar": ["tar", "-xOf"],
    "gzip": ["gzip", "-dc"],
    "bzip2": ["bzip2", "-dc"],
    "xz": ["xz", "-dc"],
}


def random_contents(seed: str) -> Contents:
    chance = random.Random(seed)
    return {
        f"d{n % 3}/{n}.bin": chance.randbytes(chance.choice((0, 1, 700, 40_000))) + bytes(n * 99)
        for n in range(chance.randrange(1, 9))
    }


def one(pack: Callable[[bytes], bytes]) -> Callable[[Contents], bytes]:
    """Pack each content separately, and join the packed streams to one file."""
    return lambda contents: b"".join(pack(content) for content in contents.values())


ROWS: dict[str, tuple[Expander, Callable[[Contents], bytes], str]] = {
    "zip": (Zip(), archives.zip_of, "bsdtar 7z unzip"),
    "zip-streamed": (Zip(), lambda c: archives.zip_of(c, streamed=True), "bsdtar 7z unzip"),
    "zip-stored": (Zip(), lambda c: archives.zip_of(c, archives.STORED), "bsdtar 7z unzip"),
    "zip-lzma": (Zip(), lambda c: archives.zip_of(c, archives.LZMA), "7z"),
    "tar": (Tar(), archives.tar_of, "bsdtar 7z tar"),
    "tar-gnu": (Tar(), lambda c: archives.tar_of(c, tarfile.GNU_FORMAT), "bsdtar 7z tar"),
    "gz": (Gzip(), one(archives.gzip_of), "gzip"),
    "bz2": (Bzip2(), one(archives.bzip2_of), "bzip2"),
    "xz": (Xz(), one(archives.xz_of), "xz"),
}


@pytest.mark.parametrize(
    ("kind", "program"),
    [(kind, program) for kind, row in ROWS.items() for program in row[2].split()],
)
def test_other_programs_agree(tmp_path: Path, kind: str, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    expander, make, _ = ROWS[kind]
    for number in range(2):
        data = make(random_contents(f"{kind}{number}"))
        path = tmp_path / f"x.{kind.partition('-')[0]}"
        path.write_bytes(data)
        command = [*PROGRAMS[program], str(path)]
        given = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        out = opened(expander, data)
        assert b"".join(out.contents) == given.stdout and not out.unread


@pytest.mark.skipif(shutil.which("munpack") is None, reason="no munpack")
def test_munpack_agrees(tmp_path: Path) -> None:
    contents = {name.replace("/", "-"): data for name, data in random_contents("mail").items()}
    data = mails.mail_of(contents).as_bytes()
    (tmp_path / "mail").write_bytes(data)
    subprocess.run(["munpack", "-q", "mail"], check=True, cwd=tmp_path, capture_output=True)
    unpacked = [path.read_bytes() for path in tmp_path.glob("*.bin")]
    assert sorted(unpacked) == sorted(opened(Eml(), data).contents[2:])
