"""The record of file systems at its edges: what is reported and remembered, and by which name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hashclient.core.errors import StateError
from hashclient.scan.sources import mounts as module
from hashclient.scan.sources.mounts import UNIDENTIFIED, Mounts
from hashclient.scan.sources.remembered import Record, load
from hashclient.system.filesystems import Mount, parse_mountinfo
from hashclient.system.layout import MOUNTS_NAME
from tests.kit import write_tree
from tests.unit.test_sources_mounts import ONE, TWO, record, write


def hashed(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind}\0{value}".encode()).hexdigest()[:32]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Yield a directory with a file, and its descriptor."""
    tree = write_tree(tmp_path / "\u00fc", {"f": b""})
    fd = os.open(tree, os.O_RDONLY)
    yield tree, fd
    os.close(fd)


def mount_at(
    monkeypatch: pytest.MonkeyPatch, point: str, source: bytes = b"host:/x", kind: str = "nfs4"
) -> None:
    """Let everything be on a file system that is mounted at `point`."""
    mount = Mount(point=point, root=b"/", source=source, kind=kind)
    monkeypatch.setattr(module, "mount_number", lambda _: 5)
    monkeypatch.setattr(module, "parse_mountinfo", lambda _: {5: mount})


def test_a_directory_is_remembered_by_its_place_in_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: tuple[Path, int]
) -> None:
    """A later version must know the records again, so the form of the names is fixed."""
    tree, fd = here
    mount_at(monkeypatch, str(tmp_path))
    seen = Mounts(tmp_path / "state", now=lambda: 3 * 86_400.0 + 86_399)
    for given, count in ((False, 0), (True, 1)):
        assert seen.look(fd, given=given) is None
        seen.save()
        assert len(load(tmp_path / "state")) == count
    inner = hashed("inner", "\u00fc")
    names = (hashed("nfs4", "source host:/x"),)
    length = len(os.fsencode(tmp_path))
    assert load(tmp_path / "state") == [Record(str(tree), length, "nfs4", names, inner, 3)]
    assert seen.standing_of(fd) == f"{inner} {names[0]}"
    assert seen.standing_of(fd, b"a/b") == f"{hashed('inner', chr(0xFC) + '/a/b')} {names[0]}"


def test_a_mount_point_is_remembered_whoever_met_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: tuple[Path, int]
) -> None:
    tree, fd = here
    mount_at(monkeypatch, str(tree))
    seen = Mounts(tmp_path / "state")
    assert seen.look(fd, given=False) is None
    seen.save()
    (known,) = load(tmp_path / "state")
    assert (known.real_path, known.point_bytes) == (str(tree), len(os.fsencode(tree)))
    assert known.point_bytes == len(str(tree)) + 1  # a letter of two bytes


@pytest.mark.parametrize(
    ("change", "point", "is_reported", "objection"),
    [
        ("", "tree", False, False),
        ("names", "tree", True, False),
        ("inner", "tree", True, False),
        ("names", "/", False, False),
        ("names", "above", False, True),
    ],
)
def test_another_file_system_is_told_and_remembered_unless_one_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: tuple[Path, int],
    change: str,
    point: str,
    is_reported: bool,
    objection: bool,
) -> None:
    tree, fd = here
    reported: list[str] = []
    before_point = "/" if point == "/" else str(tree)
    now_point = {"tree": str(tree), "/": "/", "above": str(tmp_path)}[point]
    inner = {"tree": "", "/": str(tree)[1:], "above": tree.name}[point]
    same = record(
        str(tree),
        before_point,
        names=(hashed("nfs4", "source host:/x"),),
        inner=hashed("inner", inner),
    )
    length = len(os.fsencode(before_point))
    names, other = (TWO,) if change == "names" else same.names, ONE if change == "inner" else ""
    before = Record(same.path, length, "nfs4", names, other or same.inner, 1)
    write(tmp_path / "state", [before])
    mount_at(monkeypatch, now_point)
    seen = Mounts(tmp_path / "state", now=lambda: 86_400.0, on_change=reported.append)
    found = seen.look(fd, given=True)
    assert (found is not None, seen.is_missing) == (objection, objection)
    if objection:
        assert found == "not mounted: a file system was here (nfs4)"
    assert reported == ([str(tree)] if is_reported else [])
    seen.save()
    (after,) = load(tmp_path / "state")
    assert (after == before) is (objection or not change)


def test_another_empty_file_system_is_told_by_the_kind_of_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: tuple[Path, int]
) -> None:
    tree, fd = here
    (tree / "f").unlink()
    write(tmp_path / "state", [Record(str(tree), len(os.fsencode(tree)), "xfs", (TWO,), TWO, 1)])
    mount_at(monkeypatch, str(tree))
    seen = Mounts(tmp_path / "state")
    assert seen.look(fd, given=True) == "not mounted: another file system was here (xfs)"


@pytest.mark.parametrize("has_records", [True, False])
@pytest.mark.parametrize("missing", ["mountinfo", "a directory", "nothing"])
def test_where_nothing_can_be_compared_only_what_is_remembered_is_unread(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: tuple[Path, int],
    has_records: bool,
    missing: str,
) -> None:
    tree, fd = here
    write(tmp_path / "state", [record()] if has_records else [])
    seen, read = Mounts(tmp_path / "state"), Path.read_bytes

    def reading(path: Path) -> bytes:
        if path.name == missing:
            raise FileNotFoundError
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    if missing == "a directory":
        (tree / "f").unlink()
        tree.rmdir()
    is_unread = has_records and missing == "mountinfo"
    assert seen.look(fd, given=True) == (UNIDENTIFIED if is_unread else None)


def test_mounts_that_change_during_a_scan_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: tuple[Path, int]
) -> None:
    tree, fd = here
    write(tmp_path / "state", [record(f"{tree}/was", "/")])
    text, read = b"", Path.read_bytes
    line = "%d 1 0:5 / %s rw - nfs4 host:/x rw\n"
    parsed: list[bytes] = []

    def parsing(raw: bytes) -> dict[int, Mount]:
        parsed.append(raw)
        return parse_mountinfo(raw)

    def reading(path: Path) -> bytes:
        return text if path.name == "mountinfo" else read(path)

    seen = Mounts(tmp_path / "state")
    monkeypatch.setattr(Path, "read_bytes", reading)
    monkeypatch.setattr(module, "parse_mountinfo", parsing)
    for points in ([], ["a"], ["a", "b"], ["a", "b"], ["b"]):
        text = "".join(line % (9 + n, tree / name) for n, name in enumerate(points)).encode()
        assert seen.watched("t", fd) == {f"t/{name}" for name in [*points, "was"]}
    assert len(parsed) == 4


def test_a_damaged_record_is_told_even_if_nobody_asks(tmp_path: Path) -> None:
    assert Mounts(tmp_path).unknown is None
    (tmp_path / MOUNTS_NAME).write_text("{")
    reported: list[StateError] = []
    assert isinstance(Mounts(tmp_path).unknown, StateError)
    seen = Mounts(tmp_path, on_failure=reported.append)
    assert reported == [seen.unknown]
    assert not seen.is_missing


@pytest.mark.parametrize(("kind", "number", "count"), [("ext4", 26, 1), ("vfat", 26, 0)])
def test_a_disk_without_a_uuid_is_known_only_by_a_number_that_it_keeps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: tuple[Path, int],
    kind: str,
    number: int,
    count: int,
) -> None:
    mount_at(monkeypatch, "/", b"/dev/no such disk", kind)
    monkeypatch.setattr(module, "told_uuids", lambda _: [])
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_fsid=number))
    found = Mounts(tmp_path / "state").standing_of(here[1])
    assert (found is not None) is bool(count)
    if found is not None:
        assert found.split()[1:] == [hashed("ext4", "number 1a")]


def test_the_number_of_these_file_systems_is_made_from_their_uuid() -> None:
    assert module._NUMBERED_BY_UUID == {"ext2", "ext3", "ext4", "btrfs"}  # noqa: SIM300
    assert (module.DAY_S, module._BY_UUID) == (86_400, "/dev/disk/by-uuid")


def test_a_directory_without_a_mount_stands_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: tuple[Path, int]
) -> None:
    mount_at(monkeypatch, "/elsewhere")
    seen = Mounts(tmp_path / "state")
    assert seen.standing_of(here[1]) is None
    monkeypatch.setattr(module, "mount_number", lambda _: None)
    assert (seen.standing_of(here[1]), seen.look(here[1], given=True)) == (None, None)
