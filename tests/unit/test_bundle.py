"""Bundles: a bundle is read back as it was written, and refused when any part of it is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import VerificationError
from hashclient.lists import bundle
from hashclient.lists.bundle import MARK_NAME, Bundle, Mark, write_bundle

FILES = [("metadata/1.root.json", b"{}"), ("targets/lists/a/00.x", b"x" * 700), ("empty", b"")]
MARK = b'{"format":"hashclient-bundle/1"}'


def written(files: list[tuple[str, bytes]] = FILES, mark: Mark = Mark()) -> bytes:  # noqa: B008
    out = io.BytesIO()
    write_bundle(out, mark, files)
    return out.getvalue()


Read = Callable[[bytes], Bundle]


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Read bytes as a bundle."""
    with contextlib.ExitStack() as stack:
        path = tmp_path / "a.bundle"

        def reading(data: bytes) -> Bundle:
            path.write_bytes(data)
            return Bundle(stack.enter_context(path.open("rb")))

        yield reading


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo, mark: bytes = MARK) -> bytes:
    """Return a tar archive of any members, written with the library `tarfile`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member in ((MARK_NAME, mark), *members) if mark else members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def with_size(data: bytes, number: int, size: bytes) -> bytes:
    """Return a tar whose header `number` claims another size under a matching checksum."""
    header = bytearray(data[number * 512 : (number + 1) * 512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[: number * 512] + bytes(header) + data[(number + 1) * 512 :]


def test_a_written_bundle_is_read_back(read: Read) -> None:
    found = read(written(mark=Mark(since={"baseline": 7})))
    assert found.mark == Mark(since={"baseline": 7})
    assert [found.read(name, 1000) for name, _ in FILES] == [data for _, data in FILES]
    assert found.read("metadata/2.root.json", 1000) is None
    with pytest.raises(VerificationError, match="700 bytes"):
        found.read("targets/lists/a/00.x", 699)


def test_tar_reads_it_and_writes_it(tmp_path: Path, read: Read) -> None:
    (tmp_path / "b").write_bytes(written())
    listed = subprocess.run(["tar", "-tf", tmp_path / "b"], capture_output=True, check=True)
    assert listed.stdout.decode().split() == [MARK_NAME, *(name for name, _ in FILES)]
    subprocess.run(["tar", "-xf", "b"], cwd=tmp_path, check=True)
    names = [MARK_NAME, *(name for name, _ in FILES)]
    packed = subprocess.run(
        ["tar", "--format=ustar", "-cf", "-", *names], cwd=tmp_path, capture_output=True, check=True
    )
    found = read(packed.stdout)
    assert [found.read(name, 1000) for name, _ in FILES] == [data for _, data in FILES]


def test_a_later_version_is_named(read: Read) -> None:
    with pytest.raises(VerificationError, match="hashclient-bundle/2") as caught:
        read(tar_of(mark=b'{"format":"hashclient-bundle/2","more":1}'))
    assert caught.value.hint == "a newer hashclient may be needed"
    # Unknown fields are ignored if the version is known.
    assert read(tar_of(mark=MARK[:-1] + b',"more":1}')).mark == Mark()


def since(text: str) -> bytes:
    return MARK[:-1] + f',"since":{text}}}'.encode()


HOSTILE = {
    "nothing": b"",
    "zeros": bytes(1024),
    "text": b"hello" * 400,
    "no mark": tar_of(("metadata/1.root.json", b"{}"), mark=b""),
    "mark is not first": tar_of(("a", b""), (MARK_NAME, MARK), mark=b""),
    "mark is not JSON": tar_of(mark=b"{"),
    "mark says it twice": tar_of(mark=MARK[:-1] + b',"format":"x"}'),
    "mark of another type": tar_of(mark=b'{"format":1}'),
    "mark is huge": tar_of(mark=b" " * (bundle.MAX_MARK_BYTES + 1)),
    "absolute": tar_of(("/etc/passwd", b"")),
    "above": tar_of(("../x", b"")),
    "above within": tar_of(("metadata/../x", b"")),
    "dot": tar_of(("./metadata/x", b"")),
    "hidden": tar_of((".x", b"")),
    "two slashes": tar_of(("metadata//x", b"")),
    "control": tar_of(("a\x1b[31m", b"")),
    "backslash": tar_of(("a\\b", b"")),
    "not ASCII": tar_of(("é", b"")),
    "no name": tar_of(("", b"")),
    "doubled": tar_of(("a", b"1"), ("a", b"2")),
    "doubled mark": tar_of((MARK_NAME, MARK)),
    "symbolic link": tar_of(special("a", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": tar_of(special("a", tarfile.LNKTYPE, MARK_NAME)),
    "file with a link's name": tar_of(special("a", tarfile.REGTYPE, "b")),
    "directory": tar_of(special("metadata", tarfile.DIRTYPE)),
    "pipe": tar_of(special("a", tarfile.FIFOTYPE)),
    "device": tar_of(special("a", tarfile.CHRTYPE)),
    "sparse": tar_of(special("a", tarfile.GNUTYPE_SPARSE)),
    "long name": tar_of(special("a", tarfile.GNUTYPE_LONGNAME)),
    "extended header": tar_of(special("a", tarfile.XHDTYPE)),
    "global header": tar_of(special("a", tarfile.XGLTYPE)),
    "size beyond the end": with_size(written(), 2, b"00000777777\0"),
    "size of terabytes": with_size(written(), 2, b"\x80\0\0\0\0\0\x7f\xff\xff\xff\xff\xff"),
    "size below zero": with_size(written(), 2, b"\xff" * 12),
    "size just below zero": with_size(written(), 2, b"\xff" * 10 + b"\xfe\0"),
    "no size": with_size(written(), 2, b"not a number"),
    "size one short": with_size(written(), 4, b"00000000777\0"),
    "goes on": written()[:-512] + written(),
    "goes on a block later": written() + bytes(512) + b"x" * 512,
    "goes on with one byte": written() + b"x",
    "zeros without an end": written() + bytes(bundle.MAX_REST_BYTES),
    "since a generation of any length": tar_of(mark=since('{"a":' + "9" * 4000 + "}")),
    "since before all": tar_of(mark=since('{"a":-1}')),
    "since of what is no list": tar_of(mark=since('{"a b":1}')),
    "since of nothing": tar_of(mark=since("[]")),
    "no end": written()[:-1024],
    "half an end": written()[:-512],
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_any_fault_is_refused(read: Read, data: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        read(data)
    assert caught.value.message.isprintable() and len(caught.value.message) < 400
    assert caught.value.hint


def test_it_may_not_have_any_number_of_files(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_MEMBERS", 3)
    with pytest.raises(VerificationError, match="more than 3 files"):
        read(written())


def test_a_cut_anywhere_is_found(read: Read) -> None:
    data = written()
    for length in range(0, len(data), 97):
        with pytest.raises(VerificationError):
            read(data[:length])


def test_a_file_that_shrinks_while_it_is_open_is_found(read: Read, tmp_path: Path) -> None:
    found = read(written())
    os.truncate(tmp_path / "a.bundle", 2048)
    with pytest.raises(VerificationError, match="cut short"):
        found.read("targets/lists/a/00.x", 1000)


def test_a_name_that_does_not_fit_is_not_cut() -> None:
    with pytest.raises(ValueError, match="name"):
        written([("a/" + "b" * 101, b"")])


@pytest.mark.slow
@given(st.data())
def test_no_change_gives_anything_but_bytes_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    changed = bytearray(written())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.bundle"
    path.write_bytes(changed)
    with path.open("rb") as stream:
        try:
            found = Bundle(stream)
        except VerificationError:
            return
        for name, _ in FILES:
            found.read(name, 10_000)
