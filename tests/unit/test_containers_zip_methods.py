"""Zips of rare methods: a member has the bytes that other programs extract, or is unread."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from fixtures import archives, zipmethods
from hashclient.containers import libarchive
from hashclient.containers.interface import Why
from hashclient.containers.zip import Zip
from tests.opened import opened

CHANCE = random.Random(5)
TEXT = bytes(CHANCE.choices(b"abcdef", k=4000)) + CHANCE.randbytes(700) + b"a" * 900
NOISE = CHANCE.randbytes(60_000)
FAR = 50_000
#: The method, its flags, the content and the compressed bytes, by the name of the case.
OLD = {
    "shrink": (zipmethods.SHRUNK, 0, TEXT, zipmethods.shrunk(TEXT)),
    "shrink without clearing": (zipmethods.SHRUNK, 0, TEXT, zipmethods.shrunk(TEXT, 9999)),
    "implode": (
        zipmethods.IMPLODED,
        zipmethods.IMPLODED_FLAGS,
        TEXT,
        zipmethods.imploded(TEXT),
    ),
    "Deflate64": (
        zipmethods.DEFLATED64,
        0,
        NOISE + NOISE[-FAR:][:1000],
        zipmethods.deflated64(NOISE, FAR),
    ),
}
each_old = pytest.mark.parametrize("name", OLD)


def zipped(name: str, data: bytes | None = None, *, listed: bool = True) -> bytes:
    method, flags, content, packed = OLD[name]
    made = archives.Zip().add(
        b"a", content, method, data=data or packed, flags=flags, listed=listed
    )
    return made.add(b"b", b"benign").end()


@each_old
@pytest.mark.parametrize("listed", [True, False])
def test_members_by_methods_of_old_are_read(name: str, *, listed: bool) -> None:
    out = opened(Zip(), zipped(name, listed=listed))
    assert sorted(out.contents) == sorted([OLD[name][2], b"benign"])
    assert not out.unread


@each_old
def test_cut_or_changed_anywhere_they_are_as_they_were_or_unread(name: str) -> None:
    content, packed = OLD[name][2:]
    chance = random.Random(1)
    for _ in range(12):
        at = chance.randrange(len(packed))
        for data in (packed[:at] or b"\0", packed[:at] + b"\xff" + packed[at + 1 :]):
            out = opened(Zip(), zipped(name, data))
            assert out.unread == [(b"a", Why.DAMAGED)] or content in out.contents


@each_old
@pytest.mark.parametrize("program", ["7z", "unzip"])
def test_other_programs_read_the_same(tmp_path: Path, name: str, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    if (name, program) == ("shrink", "unzip"):
        pytest.skip("unzip calls a member damaged whose codes were cleared; 7z does not")
    path = tmp_path / "x.zip"
    path.write_bytes(zipped(name))
    words = {"7z": ["7z", "e", "-so", "-bd", "x.zip"], "unzip": ["unzip", "-p", "x.zip"]}[program]
    given = subprocess.run(words, check=True, capture_output=True, cwd=tmp_path)
    assert given.stdout == OLD[name][2] + b"benign"


@pytest.mark.parametrize("method", ["Deflate64", "BZip2", "LZMA", "PPMd", "xz"])
def test_what_7z_compresses_is_read(tmp_path: Path, method: str) -> None:
    if shutil.which("7z") is None or not libarchive.is_here():
        pytest.skip("no 7z, or no libarchive")
    contents = {"a": TEXT * 9, "b": NOISE + bytes(100_000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    command = ["7z", "a", "-bd", "-tzip", f"-mm={method}", "x.zip", *contents]
    if subprocess.run(command, check=False, capture_output=True, cwd=tmp_path).returncode:
        pytest.skip(f"this 7z does not write {method}")
    data = (tmp_path / "x.zip").read_bytes()
    out = opened(Zip(), data)
    assert out.contents == list(contents.values()) and not out.unread
    at = len(data) // 3
    broken = opened(Zip(), data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
    assert broken.reasons <= {Why.DAMAGED, Why.LIMIT} and broken.unread
