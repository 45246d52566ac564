"""The record of file systems: its rules, tested without mounting, and its file."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from hashclient.core.errors import StateError
from hashclient.scan.sources import mounts as module
from hashclient.scan.sources.mounts import Mounts, _objection
from hashclient.scan.sources.remembered import (
    FORMAT,
    MAX_RECORDS,
    Record,
    below,
    forget_all,
    load,
)
from hashclient.system.filesystems import Mount, parse_mountinfo
from hashclient.system.layout import MOUNTS_NAME as FILE_NAME

ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)
DAY = 86_400.0


def record(
    path: str = "/srv/share",
    point: str = "/srv/share",
    kind: str = "nfs4",
    names: tuple[str, ...] = (ONE,),
    inner: str = ONE,
    day: int = 1,
) -> Record:
    return Record(path, len(point), kind, names, inner, day)


HERE = record()


def on_the_root(names: tuple[str, ...] = (TWO,), inner: str = TWO) -> Record:
    return record(point="/", kind="ext4", names=names, inner=inner)


@pytest.mark.parametrize(
    ("now", "empty", "full"),
    [
        # The file system is the same although its names or its mount point have changed.
        (record(), False, False),
        (record(names=(TWO, ONE)), False, False),
        (record(point="/", kind="ext4"), False, False),
        # Nothing is mounted at this point any more.
        (on_the_root(), True, True),
        (on_the_root(inner=ONE), True, True),
        (record(names=(TWO,), inner=TWO, point="/srv", kind="xfs"), True, True),
        # The remembered file system now surrounds the mount point, as if a bind mount were missing.
        # This counts only if the directory is empty.
        (on_the_root(names=(ONE,)), True, False),
        # Another file system is mounted at this point.
        (record(names=(TWO,)), True, False),
        (record(inner=TWO), True, False),
        # Autofs mounts a file system only when a program uses the point.
        (record(names=(TWO,), kind="autofs"), False, False),
        (record(names=(TWO,), point="/srv", kind="autofs"), False, False),
    ],
)
def test_the_rules(now: Record, empty: bool, full: bool) -> None:
    assert bool(_objection(HERE, now, lambda: True)) == empty
    assert bool(_objection(HERE, now, lambda: False)) == full


def test_an_empty_file_system_mounted_over_a_directory_hides_it() -> None:
    before = record(point="/", kind="ext4")
    now = record(names=(TWO,), inner=TWO)
    assert _objection(before, now, lambda: True)
    assert not _objection(before, now, lambda: False)


def test_the_root_is_always_mounted() -> None:
    """After a restart, the machine may know its disk by another name."""
    before, now = record(point="/", names=(ONE,)), record(point="/", names=(TWO,))
    assert _objection(before, now, lambda: True) is None


def test_mountinfo_of_the_kernel_is_read() -> None:
    text = (
        rb"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
        b"\n"
        rb"40 22 0:35 /a\040b /srv/\134\011\377 rw master:2 propagate_from:3 - nfs4 host:/a\040b rw"
        b"\n"
        rb"41 22 0:36 / /odd rw - tmpfs"
        b"\n\n"
    )
    assert parse_mountinfo(text) == {
        22: Mount("/", b"/", "ext4", b"/dev/vda"),
        40: Mount("/srv/\\\t\udcff", b"/a b", "nfs4", b"host:/a b"),
    }


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[list[int]]:
    """Yield descriptors of two directories, one within the other."""
    (tmp_path / "d/in").mkdir(parents=True)
    opened = [os.open(tmp_path / name, os.O_RDONLY) for name in ("d", "d/in")]
    yield opened
    for fd in opened:
        os.close(fd)


def mounts(state: Path, day: float = 1.0) -> Mounts:
    def fail(error: StateError) -> None:
        raise error

    return Mounts(state, now=lambda: day * DAY, on_failure=fail)


def test_given_paths_are_remembered_and_others_only_as_mount_points(
    tmp_path: Path, fds: list[int]
) -> None:
    state = tmp_path / "state"
    seen = mounts(state)
    assert seen.look(fds[0], given=True) is None
    assert seen.look(fds[1], given=False) is None
    assert not (state / FILE_NAME).exists()
    seen.save()
    (known,) = load(state)
    assert known.real_path == str(tmp_path / "d")
    assert known.seen_day == 1
    assert (state / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_it_is_written_once_a_day_and_when_something_is_new(tmp_path: Path, fds: list[int]) -> None:
    state = tmp_path / "state"
    inodes = []
    for day, fd in ((1.0, fds[0]), (1.5, fds[0]), (1.6, fds[1]), (2.0, fds[0])):
        seen = mounts(state, day)
        seen.look(fd, given=True)
        seen.save()
        seen.save()
        inodes.append((state / FILE_NAME).stat().st_mtime_ns)
    assert inodes[0] == inodes[1] < inodes[2] < inodes[3]
    assert [r.seen_day for r in load(state)] == [2, 1]


def test_scans_at_once_lose_nothing_of_each_other(tmp_path: Path, fds: list[int]) -> None:
    state = tmp_path / "state"
    one, two = mounts(state), mounts(state)
    one.look(fds[0], given=True)
    two.look(fds[1], given=True)
    one.save()
    two.save()
    assert [r.real_path for r in load(state)] == [f"{tmp_path}/d", f"{tmp_path}/d/in"]


def test_no_name_of_what_is_mounted_is_kept(
    tmp_path: Path, fds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a file system may be an address with a password."""
    source = b"https://user:s3cret@host/"

    def parse(_text: bytes) -> dict[int, Mount]:
        return dict.fromkeys(range(10_000), Mount("/", b"/", "fuse.davfs", source))

    monkeypatch.setattr(module, "parse_mountinfo", parse)
    seen = mounts(tmp_path / "state")
    seen.look(fds[0], given=True)
    seen.save()
    text = (tmp_path / "state" / FILE_NAME).read_text()
    assert "fuse.davfs" in text
    assert "s3cret" not in text


def test_kernels_own_file_systems_are_not_remembered(tmp_path: Path) -> None:
    seen = mounts(tmp_path)
    for path in ("/proc", "/proc/self", "/sys"):
        fd = os.open(path, os.O_RDONLY)
        assert seen.look(fd, given=True) is None
        os.close(fd)
    seen.save()
    assert load(tmp_path) == []


def test_a_directory_that_was_removed_is_nowhere(tmp_path: Path, fds: list[int]) -> None:
    (tmp_path / "d/in").rmdir()
    seen = mounts(tmp_path)
    assert seen.watched("x", fds[1]) == frozenset()
    assert seen.look(fds[1], given=True) is None


def test_without_proc_nothing_is_known(
    tmp_path: Path, fds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_path: Path) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_bytes", missing)
    seen = mounts(tmp_path)
    assert seen.look(fds[0], given=True) is None
    assert seen.watched("x", fds[0]) == frozenset()


def write(state: Path, records: list[Record]) -> None:
    document = {"format": FORMAT, "mounts": [msgspec.to_builtins(r) for r in records]}
    state.mkdir(exist_ok=True)
    (state / FILE_NAME).write_text(json.dumps(document))


def test_watched_directories_are_named_as_the_walk_names_them(
    tmp_path: Path, fds: list[int]
) -> None:
    here = f"{tmp_path}/d"
    write(tmp_path / "state", [record(f"{here}{end}", "/") for end in ("", "/a", "/in/b", "x")])
    seen = mounts(tmp_path / "state")
    assert seen.watched("../t", fds[0]) == {"../t/a", "../t/in/b"}
    assert seen.watched("/", fds[0]) == {"/a", "/in/b"}
    root = os.open("/", os.O_RDONLY)
    assert f"{here}/a" in seen.watched("/", root)
    os.close(root)


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path, fds: list[int]) -> None:
    """Mount points are kept longer than given directories, and new records longer than old ones."""
    paths = (f"/m/{n}" for n in itertools.count())
    points = [record(path, path, day=5) for path in itertools.islice(paths, MAX_RECORDS - 10)]
    old = [record(path, "/", day=1) for path in itertools.islice(paths, 100)]
    new = [record(path, "/", day=9) for path in itertools.islice(paths, 9)]
    write(tmp_path / "state", [*old, *points, *new])
    seen = mounts(tmp_path / "state", 10.0)
    seen.look(fds[0], given=True)
    seen.save()
    kept = {r.real_path for r in load(tmp_path / "state")}
    assert kept == {r.real_path for r in [*points, *new]} | {f"{tmp_path}/d"}


GOOD = msgspec.to_builtins(record())


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        [],
        {"format": FORMAT, "mounts": [{}]},
        {"format": FORMAT, "mounts": [GOOD], "more": 1},
        *(
            {"format": FORMAT, "mounts": [GOOD | wrong]}
            for wrong in (
                {"path": "relative"},
                {"point_bytes": 0},
                {"inner": "x"},
                {"seen_day": -1},
                {"seen_day": 10**9},
                {"path_b64": "!"},
                {"more": 1},
            )
        ),
    ],
)
def test_a_damaged_file_is_reported_and_replaced(
    tmp_path: Path, fds: list[int], document: object
) -> None:
    (tmp_path / FILE_NAME).write_text("" if document is None else json.dumps(document))
    errors: list[StateError] = []
    seen = Mounts(tmp_path, on_failure=errors.append)
    seen.look(fds[0], given=True)
    seen.save()
    assert len(errors) == 1
    assert "is damaged" in errors[0].message
    assert len(load(tmp_path)) == 1


def test_a_newer_file_is_left_as_it_is(tmp_path: Path, fds: list[int]) -> None:
    text = '{"format": "hashclient-mounts/2", "mounts": {}, "more": 1}'
    (tmp_path / FILE_NAME).write_text(text)
    errors: list[StateError] = []
    seen = Mounts(tmp_path, on_failure=errors.append)
    seen.look(fds[0], given=True)
    seen.save()
    assert {"newer" in error.message for error in errors} == {True}
    assert (tmp_path / FILE_NAME).read_text() == text


def test_a_share_that_is_given_up_is_forgotten_with_all_below_it(tmp_path: Path) -> None:
    paths = ["/a", "/a/b", "/ab", "/c"]
    write(tmp_path, [record(path, "/") for path in paths])
    assert below(paths, ["/a"]) == ["/a", "/a/b"]
    assert below(paths, ["/a/"]) == ["/a", "/a/b"]
    assert below(paths, ["/"]) == paths
    forget_all(tmp_path, ["/a", "/a/b"])
    assert [r.real_path for r in load(tmp_path)] == ["/ab", "/c"]


def test_a_directory_that_is_empty_where_a_file_system_was_is_not_mounted(
    tmp_path: Path, fds: list[int]
) -> None:
    """A directory with names belongs to the surrounding file system, wherever a walk found it."""
    first = mounts(tmp_path / "state")
    first.look(fds[1], given=True)
    first.save()
    (known,) = load(tmp_path / "state")
    path = known.real_path
    write(
        tmp_path / "state",
        [msgspec.structs.replace(known, point_bytes=len(os.fsencode(path)), inner=TWO)],
    )
    seen = mounts(tmp_path / "state")
    objection = seen.look(fds[1], given=True)
    assert objection is not None and objection.startswith("not mounted: a file system was here")
    assert seen.is_missing
    names = {f"{n}" for n in range(9)}
    for name in names:
        (Path(path) / name).touch()
    seen = mounts(tmp_path / "state")
    with os.scandir(fds[1]) as walk:
        first_name = next(walk).name
        assert seen.look(fds[1], given=True) is None
        assert sorted([first_name, *(entry.name for entry in walk)]) == sorted(names)
        assert seen.look(fds[1], given=True) is None
    assert not seen.is_missing


@pytest.mark.parametrize(
    ("path", "point", "root", "rest", "inner"),
    [
        ("/", "/", b"/", b"", b""),
        ("/a/b", "/", b"/", b"", b"a/b"),
        ("/a/b", "/a", b"/", b"", b"b"),
        ("/a", "/a", b"/", b"", b""),
        ("/a", "/a", b"/sub", b"", b"sub"),
        ("/a/b", "/a", b"/sub/", b"c/d", b"sub/b/c/d"),
        ("/ab", "/a", b"/", b"", None),
        ("/", "/a", b"/", b"", None),
        ("/b/a", "/a", b"/", b"", None),
        ("/\udcff/b", "/\udcff", b"/", b"", b"b"),
    ],
)
def test_a_path_inside_of_its_file_system(
    path: str, point: str, root: bytes, rest: bytes, inner: bytes | None
) -> None:
    mount = Mount(point=point, root=root, source=b"", kind="ext4")
    assert module._inner(path, mount, rest) == inner


def test_an_open_directory_has_a_path_while_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    fd = os.open(tmp_path / "link", os.O_RDONLY)
    try:
        assert module.real_path(fd) == str(tmp_path.resolve() / "d")
        assert module._can_identify(fd)
        assert module._is_empty(fd)
        (tmp_path / "d" / "f").touch()
        assert not module._is_empty(fd)
        assert [one.name for one in os.scandir(fd)] == ["f"]
        (tmp_path / "d" / "f").unlink()
        (tmp_path / "d").rmdir()
        assert module.real_path(fd) is None
    finally:
        os.close(fd)
    assert module.real_path(fd) is None
    assert not module._can_identify(fd)
    assert not module._is_empty(fd)
    one, other = os.pipe()
    assert module.real_path(one) is None
    os.close(one)
    os.close(other)


def test_a_disk_is_known_by_each_of_its_uuids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_uuid = tmp_path / "by-uuid"
    for name in ("disk", "other"):
        (tmp_path / name).touch()
    monkeypatch.setattr(module, "_BY_UUID", str(by_uuid))
    assert list(module._uuids_of(os.fsencode(tmp_path / "disk"))) == []
    by_uuid.mkdir()
    for uuid, name in (("1", "disk"), ("2", "other"), ("3", "disk")):
        (by_uuid / uuid).symlink_to(f"../{name}")
    (tmp_path / "mapper").symlink_to("disk")
    for name in ("disk", "mapper"):
        assert sorted(module._uuids_of(os.fsencode(tmp_path / name))) == [b"1", b"3"]


def names_of(
    mounts: Mounts, source: bytes, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[bytes], list[bytes]]:
    """Return all names of a file system, and those that no other file system can get."""
    status = SimpleNamespace(f_fsid=number)
    monkeypatch.setattr(os, "fstatvfs", lambda _: status)
    monkeypatch.setattr(module, "_uuids_of", lambda _: iter([b"u"]))
    monkeypatch.setattr(module, "told_uuids", lambda _: [b"told"])
    mount = Mount(point="/", root=b"/", source=source, kind=kind)
    fd = os.open("/", os.O_RDONLY)
    found = list(mounts._names(mount, fd)), list(mounts._own_names(mount, fd))
    os.close(fd)
    return found


def test_the_names_of_a_file_system_are_those_that_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a disk identifies it only for kinds that derive the number from the UUID."""
    root = Path("/").stat().st_dev
    numbered = min(module._NUMBERED_BY_UUID)
    for source, kind, number, every, own in (
        (b"/dev/x", "vfat", 26, [b"number 1a", b"uuid u"], [b"uuid u"]),
        (b"/dev/x", numbered, 26, [b"number 1a", b"uuid u"], [b"uuid u", b"number 1a"]),
        (b"/dev/x", numbered, 0, [b"uuid u"], [b"uuid u"]),
        (b"host:/x", "nfs4", 26, [], [b"source host:/x"]),
        (b"//host/x", "cifs", 26, [], [b"source //host/x"]),
        (b"host:", "nfs4", 0, [], [b"source host:"]),
        (b"pool", "zfs", 26, [], [b"device %d 1a" % root]),
        (b"pool", "zfs", 0, [], []),
    ):
        mounts = Mounts(tmp_path)
        expected = ([b"source " + source, *every], own)
        assert names_of(mounts, source, kind, number, monkeypatch) == expected
        monkeypatch.undo()


@pytest.mark.parametrize(("length", "is_kept"), [(4_095, True), (4_096, True), (4_097, False)])
def test_a_directory_with_a_very_long_path_is_not_remembered(
    tmp_path: Path, fds: list[int], monkeypatch: pytest.MonkeyPatch, length: int, is_kept: bool
) -> None:
    """The length is measured in bytes, and a letter may have two."""
    path = "/ü" + "x" * (length - 3)
    monkeypatch.setattr(module, "real_path", lambda _: path)
    mount = Mount(point="/ü" if length > 4_095 else "/", root=b"/", source=b"x", kind="ext4")
    monkeypatch.setattr(module, "mount_number", lambda _: 5)
    monkeypatch.setattr(module, "parse_mountinfo", lambda _: {5: mount})
    monkeypatch.setattr(module, "_inner", lambda *_: b"inner")
    seen = mounts(tmp_path)
    assert seen.look(fds[0], given=True) is None
    seen.save()
    assert [one.real_path for one in load(tmp_path)] == [path] * is_kept


def test_the_file_systems_of_the_kernel_are_these() -> None:
    assert {
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs"),
        *("securityfs", "selinuxfs", "sysfs", "tracefs"),
    } == module._PSEUDO


def test_a_file_system_that_cannot_be_asked_has_no_permanent_name(
    tmp_path: Path, fds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = Mount(point="/", root=b"/", source=b"pool", kind="zfs")
    monkeypatch.setattr(module, "mount_number", lambda _: 5)
    monkeypatch.setattr(module, "parse_mountinfo", lambda _: {5: mount})
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_fsid=26))
    seen = mounts(tmp_path)
    assert len({seen.standing_of(fds[0], rest) for rest in (b"", b"x")} - {None}) == 2

    def fail(_: int) -> None:
        raise OSError

    monkeypatch.setattr(os, "fstatvfs", fail)
    assert seen.standing_of(fds[0]) is None
