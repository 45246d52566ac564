"""Attributes of files: which are recorded, which are restored, and which are named as missing."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient.quarantine import attributes
from hashclient.quarantine.attributes import give_back, give_times_back, read_origin
from hashclient.quarantine.item import Origin

CAPABILITIES = "security.capability"
CAPABLE = bytes.fromhex("0100000200040000" + "00" * 12)
#: An access list: permissions of the owner, a user, the group, the mask and all other users.
ACCESS_LIST = "system.posix_acl_access"
ACCESS = bytes.fromhex(
    "02000000 01000600ffffffff 0200040001000000 04000400ffffffff 10000400ffffffff 20000400ffffffff"
)


def origin_of(fd: int, **changes: Any) -> Origin:
    return msgspec.structs.replace(read_origin(fd, os.fstat(fd), 5), **changes)


def has_attributes(file: Path) -> bool:
    try:
        os.setxattr(file, "user.try", b"")
        os.removexattr(file, "user.try")
    except OSError:
        return False
    return True


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    """A descriptor of the file `file`."""
    if not has_attributes(file):
        pytest.skip("this file system has no attributes")
    fd = os.open(file, os.O_RDWR)
    yield fd
    os.close(fd)


def coded(**values: bytes) -> dict[str, str]:
    return {f"user.{name}": base64.b64encode(value).decode() for name, value in values.items()}


@pytest.mark.parametrize(
    ("most", "kept"),
    [(20, ["user.a", "user.b"]), (19, ["user.a"]), (10, ["user.a"]), (9, []), (0, [])],
)
def test_attributes_are_recorded_up_to_a_limit_for_names_and_values(
    fd: int, monkeypatch: pytest.MonkeyPatch, most: int, kept: list[str]
) -> None:
    monkeypatch.setattr(attributes, "MAX_XATTR_BYTES", most)
    monkeypatch.setattr(os, "listxattr", lambda _: ["user.a", "user.b"])
    monkeypatch.setattr(os, "getxattr", lambda _fd, name: f"{name[-1]}123".encode())
    assert [*origin_of(fd).xattrs] == kept


def test_one_attribute_that_cannot_be_read_leaves_the_others(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attributes that only privileged programs can set are recorded first."""

    def read(_fd: int, name: str) -> bytes:
        if name == "user.gone":
            raise OSError(errno.ENODATA, "gone")
        return b"v"

    names = ["user.a", "user.gone", "user.\udcff", "user.b", "security.c", "trusted.d"]
    monkeypatch.setattr(os, "listxattr", lambda _: names)
    monkeypatch.setattr(os, "getxattr", read)
    assert [*origin_of(fd).xattrs] == ["security.c", "trusted.d", "user.a", "user.b"]


def test_the_largest_attributes_that_are_recorded_fit_into_the_document() -> None:
    """The document stores attributes as base64, which takes four thirds of the bytes."""
    assert attributes.MAX_XATTR_BYTES == 8 << 20


def test_an_origin_has_each_number_in_its_place(file: Path, fd: int) -> None:
    file.chmod(0o7640)
    os.link(file, file.with_name("other"))
    os.utime(file, ns=(10**18 + 1, 10**18 + 2))
    status = file.stat()
    origin = origin_of(fd)
    assert (origin.device, origin.inode, origin.directory_inode) == (
        status.st_dev,
        status.st_ino,
        5,
    )
    assert (origin.links, origin.mode) == (2, 0o7640)
    assert (origin.uid, origin.gid) == (status.st_uid, status.st_gid)
    assert (origin.atime_ns, origin.mtime_ns) == (10**18 + 1, 10**18 + 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives capabilities and files away")
@pytest.mark.parametrize("mode", [0o640, 0o1777, 0o4755, 0o2755, 0o6755])
@pytest.mark.parametrize("capable", [False, True])
@pytest.mark.parametrize("with_powers", [False, True])
@pytest.mark.parametrize("owner", ["same", "other", "other group", "lower", "refused"])
def test_powers_are_given_to_the_first_owner_alone(
    fd: int,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    capable: bool,
    with_powers: bool,
    owner: str,
) -> None:
    uid, gid = {"same": (0, 0), "other group": (0, 7)}.get(owner, (3, 7))
    if owner == "lower":
        os.fchown(fd, 9, 9)
    has_bits, xattrs = bool(mode & 0o6000), coded(note=b"x")
    if capable:
        xattrs[CAPABILITIES] = base64.b64encode(CAPABLE).decode()
    origin = origin_of(fd, mode=mode, uid=uid, gid=gid, xattrs=xattrs)
    if owner == "refused":
        monkeypatch.setattr(os, "fchown", _refuse)
    missing = give_back(fd, origin, with_powers=with_powers)

    named = []
    if has_bits and not with_powers:
        named.append("its set-id bits")
    if capable and not with_powers:
        named.append(f"its attribute {CAPABILITIES}")
    if owner == "refused":
        named.append("its owner (3:7)")
        if capable and with_powers:
            named.append(f"its attribute {CAPABILITIES}")
    assert missing == named
    keeps, status = with_powers and owner != "refused", os.fstat(fd)
    assert status.st_mode & 0o7777 == (mode if keeps else mode & ~0o6000)
    assert (status.st_uid, status.st_gid) == ((0, 0) if owner == "refused" else (uid, gid))
    assert set(os.listxattr(fd)) == {"user.note"} | ({CAPABILITIES} if capable and keeps else set())


def _refuse(*_: object) -> None:
    raise PermissionError


def test_only_an_inherited_access_list_is_taken_off(fd: int) -> None:
    """The new file keeps its other attributes, and any access list that the old file had."""
    os.setxattr(fd, "user.new", b"n")
    try:
        os.setxattr(fd, ACCESS_LIST, ACCESS)
    except OSError:
        pytest.skip("this file system has no access lists")
    with_list = origin_of(fd)
    assert give_back(fd, with_list, with_powers=True) == []
    assert set(os.listxattr(fd)) == {"user.new", ACCESS_LIST}
    assert give_back(fd, origin_of(fd, xattrs={}), with_powers=True) == []
    assert os.listxattr(fd) == ["user.new"]
    assert give_back(fd, with_list, with_powers=True) == []
    assert os.getxattr(fd, ACCESS_LIST) == ACCESS


def test_an_attribute_is_written_only_if_it_differs_and_each_failure_is_named(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.setxattr(fd, "user.same", b"1")
    os.setxattr(fd, "user.other", b"1")
    written, write_it = [], os.setxattr

    def write(fd: int, name: str, value: bytes) -> None:
        written.append((name, value))
        if name != "user.other":
            raise PermissionError
        write_it(fd, name, value)

    monkeypatch.setattr(os, "setxattr", write)
    xattrs = coded(bad=b"3", same=b"1", worse=b"", other=b"2")
    missing = give_back(fd, origin_of(fd, xattrs=xattrs), with_powers=False)
    assert missing == ["its attribute user.bad", "its attribute user.worse"]
    assert written == [("user.bad", b"3"), ("user.worse", b""), ("user.other", b"2")]


@pytest.mark.parametrize("answer", [_refuse, lambda *_: None])
def test_a_file_system_without_owners_attributes_and_modes_is_named(
    fd: int, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., None]
) -> None:
    """Some file systems refuse `chown` or attributes; others report success without an effect."""
    monkeypatch.setattr(os, "listxattr", _refuse)
    for name in ("fchown", "setxattr", "fchmod"):
        monkeypatch.setattr(os, name, answer)
    origin = origin_of(fd, uid=1, gid=2, mode=0o604, xattrs=coded(a=b"1"))
    assert origin_of(fd).xattrs == {}
    missing = give_back(fd, origin, with_powers=True)
    assert missing == ["its owner (1:2)", "its attribute user.a", "its mode"]


@pytest.mark.parametrize(("atime_ns", "mtime_ns"), [(1, 2), (0, 0), (-(10**9), 10**18 + 3)])
def test_times_are_set_to_the_nanosecond(fd: int, atime_ns: int, mtime_ns: int) -> None:
    give_times_back(fd, origin_of(fd, atime_ns=atime_ns, mtime_ns=mtime_ns))
    status = os.fstat(fd)
    assert (status.st_atime_ns, status.st_mtime_ns) == (atime_ns, mtime_ns)


def test_times_that_no_file_can_have_are_an_error(fd: int) -> None:
    with pytest.raises(OSError, match="too large") as failed:
        give_times_back(fd, origin_of(fd, atime_ns=10**40))
    assert failed.value.errno == errno.EOVERFLOW
