"""Files in their places: opened, examined and removed; programs that use them are found."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient.core.model import Seen
from hashclient.quarantine.isolators import files
from hashclient.quarantine.isolators.files import UNSEEN, Files, FileSpot, open_elsewhere
from hashclient.quarantine.isolators.interface import Removed, Sight, UnclearError, hold_if_there
from hashclient.quarantine.item import Item, Mark, Origin, Stage
from hashclient.quarantine.safe_rename import Removal

#: A script that maps its input file, closes the file, and waits.
MAPPER = """
import mmap, os, signal
held = mmap.mmap(0, 0, prot=mmap.PROT_READ)
os.closerange(3, 100)  # Python keeps a copy of the descriptor
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
print(flush=True)
signal.pause()
"""


@contextmanager
def opened(path: Path, *, unlinked: bool) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    if unlinked:
        path.unlink()
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def held(path: Path, *command: str) -> Iterator[int]:
    """Run a program whose input is the file; yield its process number after its first output."""
    with path.open("rb") as stream:
        holder = subprocess.Popen(command, stdin=stream, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_text("f")
    return path


def has_leases(path: Path) -> bool:
    with opened(path, unlinked=False) as fd:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            return False
    return True


@pytest.mark.parametrize("unlinked", [True, False])
@pytest.mark.parametrize("leases", [True, False])
def test_a_process_that_has_a_file_open_is_found(
    file: Path, unlinked: bool, leases: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "no leases here")

    if not leases:
        monkeypatch.setattr(fcntl, "fcntl", refuse)
    script = "import signal; print(flush=True); signal.pause()"
    with held(file, sys.executable, "-c", script) as pid:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        with opened(file, unlinked=unlinked) as fd:
            assert open_elsewhere(fd) == [f"{name} ({pid})"]


@pytest.mark.parametrize("unlinked", [True, False])
def test_a_file_that_nobody_else_has_open_is_free(file: Path, unlinked: bool) -> None:
    with opened(file, unlinked=unlinked) as fd:
        assert open_elsewhere(fd) == []  # the test's own process is not counted
        assert open_elsewhere(fd) == []  # no lease of the first call is left


@pytest.mark.parametrize("holders", [[], ["b (2)", "a (1)"]])
@pytest.mark.parametrize(
    ("error", "unlinked", "is_used"),
    [
        (BlockingIOError(), True, True),
        (OSError(errno.EINVAL, "x"), True, None),
        (PermissionError(), True, None),
        (None, True, False),
        (None, False, None),  # a file with a name must not get a lease
    ],
)
def test_a_lease_shows_whether_and_proc_shows_which_processes_use_a_file(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError | None,
    unlinked: bool,
    is_used: bool | None,
    holders: list[str],
) -> None:
    asked: list[tuple[int, int]] = []

    def lease(fd: int, *request: int) -> None:
        assert not os.fstat(fd).st_nlink
        asked.append(request)  # type: ignore[arg-type]
        if error is not None:
            raise error

    monkeypatch.setattr(fcntl, "fcntl", lease)
    monkeypatch.setattr(files, "_holders", lambda _: iter(holders))
    with opened(file, unlinked=unlinked) as fd:
        found = open_elsewhere(fd)
    expected = sorted(holders) or ([UNSEEN] if is_used else [])
    assert found == ([] if is_used is False else expected)
    first = (fcntl.F_SETLEASE, fcntl.F_WRLCK)
    given_back = [(fcntl.F_SETLEASE, fcntl.F_UNLCK)] if is_used is False else []
    assert asked == ([first, *given_back] if unlinked else [])


def test_this_process_is_left_out_of_those_that_have_a_file_open(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Path("/proc/self/comm").read_text().strip()
    pid = os.getpid()
    with opened(file, unlinked=False) as fd:
        status = os.fstat(fd)
        assert list(files._holders(status)) == []
        monkeypatch.setattr(os, "getpid", lambda: 0)
        assert list(files._holders(status)) == [f"{name} ({pid})"]


def test_a_file_that_is_mapped_and_not_open_is_in_use(file: Path) -> None:
    if not has_leases(file):
        pytest.skip("this file system has no leases")
    with held(file, sys.executable, "-c", MAPPER), opened(file, unlinked=True) as fd:
        assert open_elsewhere(fd) == [UNSEEN]


@pytest.mark.parametrize(
    ("target", "links", "is_held"),
    [
        ("{file}", 1, True),
        ("{file}", 2, True),
        ("{file}", 0, False),
        ("{file} (deleted)", 0, True),
        ("{file} (deleted)", 1, True),
        ("../f", 1, False),
        ("../f (deleted)", 0, False),
        ("{file}-other", 1, False),
    ],
)
def test_only_a_descriptor_that_may_be_the_file_is_looked_at(
    tmp_path: Path, file: Path, target: str, links: int, is_held: bool
) -> None:
    """A look at another descriptor could wait for a server that hangs."""
    os.link(file, tmp_path / "f (deleted)")
    (tmp_path / "f-other").touch()
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd" / "3").symlink_to("pipe:[1]")
    (tmp_path / "fd" / "4").symlink_to(target.format(file=file))
    fields = list(file.stat())
    fields[3] = links
    status = os.stat_result(fields)
    assert files._holds(tmp_path / "fd", status) is is_held


@pytest.mark.parametrize(
    ("links", "programs", "text"),
    [
        (0, 0, []),
        (1, 0, ["1 other name of it remains"]),
        (2, 0, ["2 other names of it remain"]),
        (0, 1, ["still open in p0"]),
        (1, 5, ["1 other name of it remains", "still open in p0, p1, p2, p3, p4"]),
        (0, 6, ["still open in p0, p1, p2, p3, p4 and 1 more"]),
        (0, 9, ["still open in p0, p1, p2, p3, p4 and 4 more"]),
    ],
)
def test_what_remains_of_a_file_is_said(
    file: Path, monkeypatch: pytest.MonkeyPatch, links: int, programs: int, text: list[str]
) -> None:
    monkeypatch.setattr(files, "open_elsewhere", lambda _: [f"p{n}" for n in range(programs)])
    for number in range(links):
        os.link(file, file.with_name(f"link-{number}"))
    with opened(file, unlinked=True) as fd:
        assert list(files._remains(fd)) == text


ID = "bcdfgh2345"
PRIVATE = f".hashclient-{ID}"


def item_of(path: Path, **values: Any) -> Item:
    mark = Mark("alice", "found", datetime(2026, 3, 1, tzinfo=UTC))
    directory, status = path.parent.stat(), path.lstat() if os.path.lexists(path) else None
    inode = 0 if status is None else status.st_ino
    origin = Origin(directory.st_dev, inode, directory.st_ino, 1, 0o644, 0, 0, 0, 0, {})
    item = Item(
        id=ID,
        stage=Stage.SEALED,
        path=str(path),
        size=1,
        origin=origin,
        evidence_sha256="00",
        evidence_bytes=2,
        recipients=(),
        taken=mark,
        hits=(),
        tags={},
        key_id="k",
    )
    return msgspec.structs.replace(item, **values)


def other(device: int, inode: int) -> list[tuple[int, int]]:
    """Return three other files: with another device, another inode, and both."""
    return [(device + 1, inode), (device, inode + 1), (device + 1, inode + 1)]


@contextmanager
def spot_at(path: Path, seen: Seen | None = None) -> Iterator[FileSpot]:
    with Files().open(str(path), seen) as spot:
        assert isinstance(spot, FileSpot)
        yield spot


def test_a_held_file_is_read_from_its_beginning_and_keeps_its_size(file: Path) -> None:
    file.write_text("abcdef")
    with spot_at(file) as spot, spot.hold() as held:
        assert [held.read(4), held.read(4), held.read(4)] == [b"abcd", b"ef", b""]
        held.rewind()
        assert held.read(2) == b"ab" and held.is_unchanged() and held.size == 6
        file.write_text("longer than before")
        assert not held.is_unchanged() and held.size == 6


def test_the_file_that_was_read_is_known_by_its_inode(file: Path) -> None:
    directory, status = file.parent.stat(), file.stat()
    for seen, is_seen in (
        (None, False),
        (Seen(None, None, None, status.st_ino), True),
        (Seen(None, None, status.st_dev, status.st_ino), True),
        *((Seen(None, None, *way), False) for way in other(status.st_dev, status.st_ino)),
    ):
        with spot_at(file, seen) as spot, spot.hold() as held:
            assert held.is_seen() is is_seen
    for way in other(directory.st_dev, directory.st_ino):
        seen = Seen(*way, None, status.st_ino)
        with pytest.raises(OSError, match="directory has changed") as refused, spot_at(file, seen):
            pass
        assert (refused.value.errno, refused.value.filename) == (errno.EXDEV, str(file))
    with spot_at(file, Seen(directory.st_dev, directory.st_ino, None, 1)) as spot:
        assert spot.place.path == str(file)


def test_the_origin_of_a_held_file_names_its_directory(file: Path) -> None:
    file.chmod(0o640)
    with spot_at(file) as spot, spot.hold() as held:
        origin = spot.origin(held)
        identity = spot.names().directory
    directory, status = file.parent.stat(), file.stat()
    assert (origin.device, origin.inode, origin.links) == (status.st_dev, status.st_ino, 1)
    assert (origin.directory_inode, origin.mode) == (directory.st_ino, 0o640)
    assert identity == (directory.st_dev, directory.st_ino)


def write(path: Path) -> None:
    path.write_text("changed")


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


IN_PLACE = "the file has changed meanwhile, and is still in place"
IS_OTHER = "another file is in its place now, and was not changed"
SOMEBODY = Removed(done=True, remains=("somebody else had removed it",))


@pytest.mark.parametrize(
    ("change", "removed", "left"),
    [
        (lambda _: None, Removed(done=True), []),
        (write, Removed(done=False, why=IN_PLACE), ["f"]),
        (Path.unlink, SOMEBODY, []),
        (move, Removed(done=False, why="it was moved away meanwhile"), ["moved"]),
        (
            lambda path: os.link(path, path.with_name("link")),
            Removed(done=False, why=IN_PLACE),
            ["f", "link"],
        ),
    ],
)
def test_only_the_unchanged_file_loses_its_name(
    file: Path, change: Callable[[Path], object], removed: Removed, left: list[str]
) -> None:
    with spot_at(file) as spot, spot.hold() as held:
        change(file)
        assert spot.remove(held, ID) == removed
    assert sorted(path.name for path in file.parent.iterdir()) == left


@pytest.mark.parametrize(
    ("removal", "why"),
    [
        (Removal.OTHER, IS_OTHER),
        (Removal.CHANGED, IN_PLACE),
        (Removal.STRANDED, f"another file was in its place; this file is now {{}}/{PRIVATE}*"),
    ],
)
def test_the_reason_why_a_file_stays_is_said(
    file: Path, monkeypatch: pytest.MonkeyPatch, removal: Removal, why: str
) -> None:
    monkeypatch.setattr(files, "remove_exactly", lambda *_: removal)
    with spot_at(file) as spot, spot.hold() as held:
        removed = spot.remove(held, ID)
    assert removed == Removed(done=False, why=why.format(file.parent))


@pytest.mark.parametrize(
    ("change", "error", "removed"),
    [
        (Path.unlink, FileNotFoundError(), SOMEBODY),
        (move, FileNotFoundError(), Removed(done=False, why="it was moved away meanwhile")),
        (
            lambda _: None,
            OSError(errno.EACCES, "x"),
            Removed(done=False, why="still in place: permission denied"),
        ),
        (
            lambda _: None,
            OSError(errno.EBUSY, "x"),
            Removed(done=False, why="still in place: something is mounted on it"),
        ),
    ],
)
def test_a_failed_removal_says_where_the_file_is(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    error: OSError,
    removed: Removed,
) -> None:
    def fail(*_: object) -> Removal:
        raise error

    monkeypatch.setattr(files, "remove_exactly", fail)
    with spot_at(file) as spot, spot.hold() as held:
        change(file)
        assert spot.remove(held, ID) == removed


@pytest.mark.parametrize("is_proven", [True, False])
@pytest.mark.parametrize("is_taken", [True, False])
@pytest.mark.parametrize("kind", ["none", "file", "link"])
def test_a_file_under_the_private_name_goes_back_or_is_removed(
    file: Path, kind: str, is_taken: bool, is_proven: bool
) -> None:
    private = file.with_name(PRIVATE)
    if kind != "none":
        private.symlink_to("f") if kind == "link" else private.write_text("sealed")
    if not is_taken:
        file.unlink()
    asked = []

    def prove(held: Any) -> bool:
        asked.append(held.read(9))
        return is_proven

    with spot_at(file) as spot:
        said = spot.settle(ID, prove)
    assert asked == ([b"sealed"] if kind == "file" and is_taken else [])
    is_stuck = kind != "none" and is_taken and not (kind == "file" and is_proven)
    where = f"another file was in its place; this file is now {private}"
    assert said == (where if is_stuck else None)
    assert os.path.lexists(private) == is_stuck
    assert os.path.lexists(file) == (is_taken or kind != "none")
    if is_taken:
        assert file.read_text() == "f"


def test_a_file_under_the_private_name_is_the_seen_file_or_not(file: Path) -> None:
    private = file.with_name(PRIVATE)
    private.write_text("sealed")
    for inode, is_seen in ((private.stat().st_ino + 1, False), (private.stat().st_ino, True)):
        with spot_at(file, Seen(None, None, None, inode)) as spot:
            said = spot.settle(ID, lambda held: held.is_seen())
        assert (said is None) == is_seen == (not private.exists())


def test_a_look_tells_nothing_from_a_tombstone_and_something_else(file: Path) -> None:
    item = item_of(file, tombstone="gone")
    with spot_at(file) as spot:
        with pytest.raises(UnclearError, match="the file at its path is being exchanged just now"):
            spot.look(item, None)
        with spot.hold() as held:
            assert spot.look(item, held) is Sight.OTHER
            file.rename(file.with_name("g"))
            file.write_text("gone")
            with pytest.raises(UnclearError, match="exchanged"):
                spot.look(item, held)
        with spot.hold() as held:
            assert spot.look(item, held) is Sight.TOMBSTONE
            assert spot.look(msgspec.structs.replace(item, tombstone=None), held) is Sight.OTHER
        file.unlink()
        assert spot.look(item, None) is Sight.NOTHING
        file.mkdir()
        assert spot.look(item, None) is Sight.OTHER


def test_an_empty_place_in_another_directory_says_nothing(file: Path) -> None:
    item = item_of(file)
    file.unlink()
    directory = file.parent.stat()
    with spot_at(file) as spot:
        assert spot.look(item, None) is Sight.NOTHING
        for device, inode in other(directory.st_dev, directory.st_ino):
            origin = msgspec.structs.replace(item.origin, device=device, directory_inode=inode)
            with pytest.raises(UnclearError, match="its directory has changed: is a file system"):
                spot.look(msgspec.structs.replace(item, origin=origin), None)


def test_an_empty_place_in_a_locked_directory_says_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = item_of(file)
    file.unlink()
    monkeypatch.setattr(files, "shows_all_names", lambda _: False)
    with spot_at(file) as spot, pytest.raises(UnclearError, match="is encrypted, and locked"):
        spot.look(item, None)


def test_an_officer_is_told_what_is_at_the_place_and_under_the_private_name(file: Path) -> None:
    item, private = item_of(file), file.with_name(PRIVATE)
    assert Files().whereabouts(item) == [f"the file is at {file}"]
    file.rename(private)
    assert Files().whereabouts(item) == [f"the file is at {private}"]
    file.mkdir()
    assert Files().whereabouts(item) == [
        f"something else is at {file}",
        f"the file is at {private}",
    ]
    file.rmdir()
    private.unlink()
    assert Files().whereabouts(item) == []
    lost = msgspec.structs.replace(item, path=str(file.parent / "none" / "f"))
    said = "its place cannot be looked at: not there any more"
    assert Files().whereabouts(lost) == [said]


@pytest.mark.parametrize(
    ("kind", "is_held"),
    [("file", True), ("none", False), ("link", False), ("directory", False), ("fifo", False)],
)
def test_only_a_regular_file_is_held(tmp_path: Path, kind: str, is_held: bool) -> None:
    path = tmp_path / "x"
    makes: dict[str, Callable[[], object]] = {
        "file": path.touch,
        "link": lambda: path.symlink_to("y"),
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
    }
    makes.get(kind, lambda: None)()
    with spot_at(path) as spot, hold_if_there(spot) as held:
        assert (held is not None) == is_held


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENXIO])
def test_a_file_that_cannot_be_opened_is_not_taken_for_missing(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(files, "open_file", refuse)
    with spot_at(file) as spot, pytest.raises(OSError, match="refused"), hold_if_there(spot):
        pass


def test_a_tombstone_is_left_at_the_place(file: Path) -> None:
    item = item_of(file, tombstone="gone")
    file.unlink()
    with spot_at(file) as spot:
        assert spot.leave_tombstone(item) is None
        assert file.read_text() == "gone"
        spot.names().sync()
        assert spot.leave_tombstone(item) == "the tombstone could not be left: file exists"
