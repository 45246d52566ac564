"""Walking trees: everything in a tree is listed, skipped or unread, exactly once."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import socket
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources import interface
from hashclient.scan.sources.finding_again import open_directory
from hashclient.scan.sources.frontier import Frontier, compile_excludes, kind_of
from hashclient.scan.sources.interface import TASK_CHARS
from hashclient.scan.sources.listing import Chunk, Lister
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.sources.trees import Trees
from hashclient.scan.sources.walk import OPEN_DEPTH, Walk
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import TASK_NAMES, Task, join, reason_of
from tests.kit import fast_directory, make_deep_tree, open_files, write_tree

DEPTH = 5_000
Others = dict[str, tuple[Kind, str | None]]


def items_of(*paths: Path | str, **options: Any) -> list[Task | Outcome]:
    return list(Trees([str(path) for path in paths], ScanOptions(**options)).batches())


def found(*paths: Path | str, **options: Any) -> tuple[set[str], Others]:
    """Return the listed files and all other outcomes, each exactly once."""
    files: list[str] = []
    outcomes: list[Outcome] = []
    for item in items_of(*paths, **options):
        if isinstance(item, Outcome):
            outcomes.append(item)
        else:
            files += [join(group.directory, name) for group in item for name in group.names]
    by_path = {outcome.path: (outcome.kind, outcome.reason) for outcome in outcomes}
    assert len(set(files)) == len(files)
    assert len(by_path) == len(outcomes)
    return set(files), by_path


def below(directory: Path, *names: str) -> set[str]:
    return {f"{directory}/{name}" for name in names}


@pytest.fixture
def fast() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


def test_a_tree_is_listed_whole(tmp_path: Path) -> None:
    names = ("a", "b/c", "b/d/e", "b/d/f", ".hidden", "g h")
    write_tree(tmp_path, dict.fromkeys(names, b""))
    (tmp_path / "empty").mkdir()
    assert found(tmp_path) == (below(tmp_path, *names), {})


def test_paths_are_reported_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"d/f": b"", "d/e/g": b""})
    monkeypatch.chdir(tmp_path)
    assert found("d")[0] == {"d/f", "d/e/g"}
    assert found("d//")[0] == {"d/f", "d/e/g"}
    assert found(".")[0] == {"./d/f", "./d/e/g"}
    assert found("d/f")[0] == {"d/f"}
    assert found("d/../d/e")[0] == {"d/../d/e/g"}


def test_a_path_that_is_not_there_is_unread_and_the_others_are_not(tmp_path: Path) -> None:
    write_tree(tmp_path, {"f": b"", "g": b""})
    gone = "no such file or directory"
    files, others = found(tmp_path / "f", tmp_path / "nope", tmp_path / "g", tmp_path / "f" / "x")
    assert files == below(tmp_path, "f", "g")
    assert others == {
        f"{tmp_path}/nope": (Kind.UNREAD, gone),
        f"{tmp_path}/f/x": (Kind.UNREAD, "not a directory"),
    }
    assert found("")[1] == {"": (Kind.UNREAD, gone)}
    assert found("x" * 300)[1] == {"x" * 300: (Kind.UNREAD, "file name too long")}


def test_special_files_are_skipped_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        expected = {
            f"{tmp_path}/pipe": (Kind.SKIPPED, "named pipe"),
            f"{tmp_path}/socket": (Kind.SKIPPED, "socket"),
        }
        assert found(tmp_path) == (set(), expected)
        assert found(tmp_path / "pipe", tmp_path / "socket") == (set(), expected)
    assert found("/dev/null")[1] == {"/dev/null": (Kind.SKIPPED, "character device")}


def test_kinds_have_names() -> None:
    assert kind_of(stat.S_IFBLK) == "block device"
    assert kind_of(stat.S_IFDIR) == "directory"
    assert kind_of(0) == "not a regular file"


def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", b"\x1b[31m", b"tab\t", "grün".encode(), b"-rf", b"a\\b"]
    raw = os.fsencode(tmp_path)
    for name in names:
        directory = Path(os.fsdecode(raw + b"/d" + name))
        directory.mkdir()
        (directory / os.fsdecode(name)).touch()
    files, others = found(tmp_path)
    assert {os.fsencode(path) for path in files} == {
        raw + b"/d" + name + b"/" + name for name in names
    }
    assert not others


def test_links_are_skipped_but_for_those_that_were_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {"t/f": b"", "elsewhere/g": b""})
    (tmp_path / "t/file").symlink_to("f")
    (tmp_path / "t/dir").symlink_to("../elsewhere")
    (tmp_path / "t/dangling").symlink_to("nope")
    (tmp_path / "t2").symlink_to("t")
    link = (Kind.SKIPPED, "symbolic link")
    for tree in (tmp_path / "t", tmp_path / "t2"):
        assert found(tree) == (
            below(tree, "f"),
            {f"{tree}/{name}": link for name in ("file", "dir", "dangling")},
        )
    assert found(tmp_path / "t/file")[0] == below(tmp_path / "t", "file")


def test_links_are_followed_when_asked(tmp_path: Path) -> None:
    write_tree(tmp_path, {"t/f": b"", "elsewhere/g": b""})
    (tmp_path / "t/file").symlink_to("f")
    (tmp_path / "t/dir").symlink_to("../elsewhere")
    (tmp_path / "t/dangling").symlink_to("nope")
    (tmp_path / "t/through").symlink_to("f/nope")
    (tmp_path / "t/loop").symlink_to("loop")
    (tmp_path / "t/null").symlink_to("/dev/null")
    tree = tmp_path / "t"
    files, others = found(tree, follow_symlinks=True)
    assert files == below(tree, "f", "file", "dir/g")
    assert others == {
        f"{tree}/dangling": (Kind.SKIPPED, "dangling symbolic link"),
        f"{tree}/through": (Kind.SKIPPED, "dangling symbolic link"),
        f"{tree}/loop": (Kind.SKIPPED, "loop of symbolic links"),
        f"{tree}/null": (Kind.SKIPPED, "character device"),
    }


def test_loops_of_followed_links_end(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a/f": b"", "b/g": b"", "c/d/h": b""})
    (tmp_path / "a/to_b").symlink_to("../b")
    (tmp_path / "b/to_a").symlink_to("../a")
    (tmp_path / "c/d/up").symlink_to("..")
    (tmp_path / "c/d/root").symlink_to(tmp_path)
    files, others = found(tmp_path, follow_symlinks=True)
    assert below(tmp_path, "a/f", "b/g", "c/d/h") <= files
    assert others
    assert set(others.values()) == {(Kind.SKIPPED, "directory is scanned by another path")}


def test_many_links_to_files_make_tasks_of_the_usual_size(tmp_path: Path) -> None:
    count = 2 * TASK_NAMES + 1
    (tmp_path / "t").mkdir()
    (tmp_path / "f").touch()
    for number in range(count):
        (tmp_path / "t" / f"{number}").symlink_to("../f")
    tasks = [
        i for i in items_of(tmp_path / "t", follow_symlinks=True) if not isinstance(i, Outcome)
    ]
    assert sum(len(group.names) for task in tasks for group in task) == count
    assert max(len(group.names) for task in tasks for group in task) <= TASK_NAMES


def test_a_directory_of_20000_names(fast: Path) -> None:
    for number in range(20_000):
        os.close(os.open(f"{fast}/{number}", os.O_CREAT))
    tasks = [item for item in items_of(fast) if not isinstance(item, Outcome)]
    sizes = [sum(len(group.names) for group in task) for task in tasks]
    assert sum(sizes) == 20_000
    # If listing is slow, a full group may follow a part of another group.
    assert max(sizes) < 2 * TASK_NAMES


def test_small_directories_share_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The walk takes less time even on a busy machine.
    monkeypatch.setattr(interface, "TASK_S", 600.0)
    write_tree(tmp_path, {f"{n}/f": b"" for n in range(100)})
    assert len(items_of(tmp_path)) == 1


def test_long_directories_do_not(tmp_path: Path) -> None:
    long = "/".join(["x" * 200] * 10)
    write_tree(tmp_path, {f"{n}/{long}/f": b"" for n in range(40)})
    tasks = [item for item in items_of(tmp_path) if not isinstance(item, Outcome)]
    assert len(tasks) > 1
    for task in tasks:
        assert sum(len(group.directory) for group in task[:-1]) < TASK_CHARS


@pytest.mark.slow
def test_5000_directories_deep_with_few_of_them_open(fast: Path) -> None:
    make_deep_tree(fast, DEPTH)
    gc.collect()  # files that earlier tests left open must not be closed during this test
    before = open_files()
    files = 0
    for item in Trees([str(fast)], ScanOptions()).batches():
        assert not isinstance(item, Outcome)
        files += sum(len(group.names) for group in item)
        assert open_files() <= before + 2 * OPEN_DEPTH + 8
    assert files == DEPTH
    assert open_files() == before


@pytest.mark.slow
def test_a_walk_that_is_given_up_leaves_nothing_open(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/".join("d" * n) + "/f": b"" for n in range(1, OPEN_DEPTH + 10)})
    gc.collect()
    before = open_files()
    items = Trees([str(tmp_path)], ScanOptions(exclude=("f",))).batches()
    for _ in range(OPEN_DEPTH):
        next(items)
    del items
    assert open_files() == before


def test_the_rest_of_directories_far_up_is_not_lost(tmp_path: Path) -> None:
    """Entries below the maximum depth of open directories are found, too."""
    tree = tmp_path / "t"
    expected: set[str] = set()
    directory = tree
    for level in range(2 * OPEN_DEPTH):
        write_tree(directory, {"a": b"", "z": b"", "side/s": b"", "side/deeper/t": b""})
        (directory / "link").symlink_to("a")
        (directory / "outside").symlink_to(tmp_path / "out" / str(level))
        write_tree(tmp_path / "out" / str(level), {"o": b""})
        os.mkfifo(directory / "pipe")
        expected |= below(directory, "a", "z", "side/s", "side/deeper/t", "link", "outside/o")
        directory /= "m"
    directory.mkdir()
    files, others = found(tree, follow_symlinks=True)
    assert files == expected
    assert set(others.values()) == {(Kind.SKIPPED, "named pipe")}
    assert len(others) == 2 * OPEN_DEPTH


def test_a_directory_that_vanishes_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"gone/f": b"", "here/g": b"", "h": b""})
    enter = Walk._enter

    def vanishing(tree: Any, path: str, **kwargs: Any) -> object:
        if path.endswith("/gone"):
            shutil.rmtree(path)
        return enter(tree, path, **kwargs)

    monkeypatch.setattr(Walk, "_enter", vanishing)
    files, others = found(tmp_path)
    assert files == below(tmp_path, "here/g", "h")
    assert others == {f"{tmp_path}/gone": (Kind.UNREAD, "no such file or directory")}


def test_a_link_that_takes_the_place_of_a_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"t/swapped/f": b"", "t/g": b"", "secret/s": b""})
    enter = Walk._enter

    def swapping(tree: Any, path: str, **kwargs: Any) -> object:
        if path.endswith("/swapped"):
            shutil.rmtree(path)
            Path(path).symlink_to("../secret")
        return enter(tree, path, **kwargs)

    monkeypatch.setattr(Walk, "_enter", swapping)
    files, others = found(tmp_path / "t")
    assert files == below(tmp_path / "t", "g")
    assert others == {f"{tmp_path}/t/swapped": (Kind.UNREAD, "not a directory")}


@pytest.mark.parametrize("depth", [0, OPEN_DEPTH + 2])
def test_a_directory_whose_reading_fails_is_unread_and_keeps_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    bad = tmp_path / "bad"
    inner = "/".join(["i"] * (depth + 1))
    write_tree(tmp_path, {f"bad/{inner}/f": b"", "other/g": b""})
    inode = bad.stat().st_ino
    read = Lister.read

    def failing(lister: Lister, fd: int) -> Iterator[Chunk]:
        yield from read(lister, fd)
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Lister, "read", failing)
    files, others = found(tmp_path)
    assert files == below(tmp_path, f"bad/{inner}/f", "other/g")
    assert others == {str(bad): (Kind.UNREAD, "input/output error")}


def test_a_vanished_file_does_not_end_the_listing_of_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Vanished:
        name = "vanished"

        def is_file(self, *, follow_symlinks: bool) -> bool:
            return False

        is_dir = is_file

        def is_symlink(self) -> bool:
            return False

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise FileNotFoundError(errno.ENOENT, "gone")

        def inode(self) -> int:
            return 1

    write_tree(tmp_path, {"f": b"", "g": b""})
    scandir = os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda fd: contextlib.nullcontext([Vanished(), *scandir(fd)])
    )
    # The file is listed, and whoever opens it later sees that it is gone.
    assert found(tmp_path) == (below(tmp_path, "vanished", "f", "g"), {})


def test_one_file_system(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    write_tree(tmp_path, {"f": b""})
    (tmp_path / "dir").symlink_to(other)
    (tmp_path / "file").symlink_to("/proc/self/status")
    files, others = found(tmp_path, follow_symlinks=True, one_file_system=True)
    assert files == below(tmp_path, "f")
    assert set(others.values()) == {(Kind.SKIPPED, "other file system")}
    # Each given path may be on a different file system.
    assert f"{tmp_path}/dir" not in found(tmp_path / "dir", one_file_system=True)[1]


def test_mounted_directories_are_another_file_system() -> None:
    if not os.path.ismount("/dev/shm"):
        pytest.skip("nothing is mounted at /dev/shm")
    assert found("/dev", one_file_system=True)[1]["/dev/shm"] == (
        Kind.SKIPPED,
        "other file system",
    )


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.iso", {"b", "d/c", "d/e/f"}),
        ("d", {"a.iso", "b"}),
        ("e", {"a.iso", "b", "d/c", "d/x.iso"}),
        ("*/d/*", {"a.iso", "b"}),
        ("*/d/", {"a.iso", "b"}),
        ("*/e", {"a.iso", "b", "d/c", "d/x.iso"}),
        ("[ab]*", {"d/c", "d/x.iso", "d/e/f"}),
        ("?", {"a.iso"}),
        ("D", {"a.iso", "b", "d/c", "d/x.iso", "d/e/f"}),
    ],
)
def test_excluded_names_and_paths(tmp_path: Path, pattern: str, left: set[str]) -> None:
    tree = tmp_path / "tree"
    names = ("a.iso", "b", "d/c", "d/x.iso", "d/e/f")
    write_tree(tree, dict.fromkeys(names, b""))
    files, others = found(tree, exclude=(pattern,))
    assert files == below(tree, *left)
    assert set(others.values()) <= {(Kind.SKIPPED, "excluded")}
    assert bool(others) == (len(left) < len(names))


def test_several_patterns_exclude_what_any_of_them_does(tmp_path: Path) -> None:
    write_tree(tmp_path, dict.fromkeys(["a", "b", "c", "d/e"], b""))
    files, _ = found(tmp_path, exclude=("a", "[b]", f"{tmp_path}/d/*"))
    assert files == below(tmp_path, "c")


def test_a_path_that_was_named_is_never_excluded(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": b""})
    assert found(tmp_path / "a", tmp_path, exclude=("a", tmp_path.name))[0] == below(tmp_path, "a")


def test_patterns_see_odd_names() -> None:
    excluded = compile_excludes(["*.bak", "/x/*.tmp"])
    assert excluded("", "a\nb.bak")
    assert excluded("", os.fsdecode(b"\xff.bak"))
    assert excluded("/x/y", "z.tmp")
    assert not excluded("/y", "z.tmp")
    assert not excluded("/x", "bak")


def test_open_directory_knows_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    monkeypatch.chdir(tmp_path)
    fd = open_directory("")
    assert os.fstat(fd).st_ino == tmp_path.stat().st_ino
    os.close(fd)
    os.close(open_directory("link", follow=True))
    os.close(open_directory("d" + "/" * 9000))
    with pytest.raises(NotADirectoryError):
        open_directory("link")
    with pytest.raises(OSError) as caught:
        open_directory("x" * 9000)
    assert reason_of(caught.value) == "file name too long"
    with pytest.raises(FileNotFoundError):
        open_directory("d/" * 3000 + "x")


def test_reasons_are_the_systems_words() -> None:
    assert reason_of(FileNotFoundError(errno.ENOENT, "gone")) == "no such file or directory"
    # Every file of an NFS mount is stale if its export has changed, and no file has to be missing.
    assert reason_of(OSError(errno.ESTALE, "Stale file handle")) == "stale file handle"
    assert reason_of(PermissionError(errno.EACCES, "Permission denied")) == "permission denied"
    assert reason_of(OSError("odd")) == "odd"


class FakePlaces(Mounts):
    """Notes the directories that it is shown; watches `watched`, and objects to `objected`."""

    def __init__(self, *watched: str, objected: str = "") -> None:
        self._below_here = frozenset(watched)
        self._wrong = objected
        self.shown: list[tuple[str, bool]] = []
        self.below: list[str] = []

    def watched(self, path: str, fd: int) -> frozenset[str]:
        assert os.fstat(fd).st_ino == Path(path).stat().st_ino
        self.below.append(path)
        return self._below_here

    def look(self, fd: int, *, given: bool) -> str | None:
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        self.shown.append((path, given))
        return "not mounted" if path == self._wrong else None

    def save(self) -> None:
        raise AssertionError("a walk saves nothing")


def test_only_trees_and_what_is_watched_are_looked_at(tmp_path: Path) -> None:
    """A directory with an objection is unread, but its files are listed anyway."""
    tree = write_tree(tmp_path / "t", {"a/f": b"", "b/c/g": b"", "b/d/h": b""})
    places = FakePlaces(f"{tree}/b/c", f"{tree}/gone", objected=f"{tree}/b/c")
    items = list(Trees([f"{tree}/", f"{tree}/a"], ScanOptions(), places).batches())
    assert places.shown == [(str(tree), True), (f"{tree}/b/c", False), (f"{tree}/a", True)]
    assert places.below == [str(tree), f"{tree}/a"]
    outcomes = [item for item in items if isinstance(item, Outcome)]
    assert outcomes == [Outcome(Kind.UNREAD, f"{tree}/b/c", reason="not mounted")]
    names = [n for item in items if isinstance(item, list) for g in item for n in g.names]
    assert sorted(names) == ["f", "f", "g", "h"]


def test_on_one_file_system_only_the_tree_itself_is_looked_at(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a/f": b""})
    places = FakePlaces(f"{tree}/a", objected=str(tree))
    options = ScanOptions(one_file_system=True)
    (outcome, *_) = Trees([str(tree)], options, places).batches()
    assert outcome == Outcome(Kind.UNREAD, str(tree), reason="not mounted")
    assert (places.shown, places.below) == ([(str(tree), True)], [])


def test_where_the_device_changes_is_looked_at(tmp_path: Path) -> None:
    """A directory on another device than its parent is shown to the record of mounts."""
    if Path("/dev").stat().st_dev == Path("/dev/shm").stat().st_dev:
        pytest.skip("nothing is mounted below /dev")
    places = FakePlaces()
    list(Trees(["/dev"], ScanOptions(), places).batches())
    assert ("/dev/shm", False) in places.shown


def test_a_shared_directory_is_listed_where_nobody_looks_again(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"", "d/b": b""})
    for directory in (tree, tree / "d"):
        directory.chmod(0o777)
    source = Trees([str(tree)], ScanOptions(), looks_again=False)
    tasks = [item for item in source.batches() if not isinstance(item, Outcome)]
    assert sorted(name for task in tasks for group in task for name in group.names) == ["a", "b"]
    source.close()


@pytest.mark.parametrize(("size", "read"), [(400, 2), (512, 1), (100, 6), (1_000, 1)])
def test_groups_come_while_a_directory_is_listed(tmp_path: Path, size: int, read: int) -> None:
    """Without groups, workers would wait, and all names of a directory would be in memory."""
    chunks: list[int] = []

    class Counting(Lister):
        def read(self, fd: int) -> Iterator[Chunk]:
            for number in range(8):
                chunks.append(number)
                names = [f"{number}-{n}" for n in range(size)]
                yield Chunk(names, array("Q", range(1, size + 1)), [])

    options = ScanOptions()
    items = Walk(Frontier(options), options, Counting()).walk(str(tmp_path))
    first: Any = next(items)
    assert (len(first.names), len(chunks)) == (TASK_NAMES, read)
    rest: list[Any] = [*items]
    assert sum(len(group.names) for group in rest) == 8 * size - TASK_NAMES
    assert max(len(group.names) for group in rest) <= TASK_NAMES
