"""Watching: a file that changes all the time is still checked; unwatchable trees are reported."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import client as fixture
from fixtures.simulator import Simulator
from hashclient.client.client import Client
from hashclient.core.errors import HashclientError
from hashclient.core.model import Handled, Outcome
from hashclient.scan.run.pipeline import Run
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Task
from hashclient.system.beneath import exchange
from hashclient.watch import changes as changes_module
from hashclient.watch import watch as watch_module
from hashclient.watch.changed import LISTED_FROM, LISTED_TIMES, ChangedFiles
from hashclient.watch.changes import Changes
from hashclient.watch.watch import Watch
from tests.kit import csv_of, make_deep_tree, write_tree

LISTED = b"listed one"


@pytest.fixture
def client(tmp_path: Path) -> Client:
    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv_of({"e-1": LISTED}), "base")
    made = fixture.Client(tmp_path / "state", simulator, simulator.root)
    made.fetch()
    return Client(made.session)


def watch(
    client: Client,
    tree: Path,
    *,
    on_outcome: Callable[[Handled], None],
    on_scan: Callable[[object], None],
    on_failure: Callable[[HashclientError], None] = lambda _: None,
    settle_s: float = 0.1,
    rescan_s: float = 1000,
) -> None:
    """Watch a tree until SIGTERM."""
    Watch(
        client,
        [str(tree)],
        settle_s=settle_s,
        rescan_s=rescan_s,
        options=ScanOptions(jobs=1),
        on_outcome=on_outcome,
        on_failure=on_failure,
        on_scan=on_scan,
    ).run(lambda _: None)


@pytest.mark.slow
def test_a_file_that_changes_all_the_time_is_looked_at_all_the_same(
    client: Client, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"benign"})
    told: list[Handled] = []
    over = threading.Event()

    def end(handled: Handled) -> None:
        told.append(handled)
        os.kill(os.getpid(), signal.SIGTERM)

    def write() -> None:
        for _ in range(6000):  # the test stops after a minute at the latest
            (tree / "busy").write_bytes(LISTED)
            if over.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    writer = threading.Thread(target=write)
    watch(client, tree, on_outcome=end, on_scan=lambda _: writer.start())
    over.set()
    writer.join()
    assert {h.outcome.path for h in told} == {str(tree / "busy")}


@pytest.mark.slow
def test_between_checks_of_changed_files_is_a_rest(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting a check is slow, so changed files are collected and checked together."""
    tree = write_tree(tmp_path / "t", {})
    checked: list[float] = []
    told: list[Handled] = []
    scan = client.scan

    def counted(*paths: str, **options: Any) -> Run:
        if not paths:
            checked.append(time.monotonic())
        return scan(*paths, **options)

    monkeypatch.setattr(client, "scan", counted)

    def end(handled: Handled) -> None:
        told.append(handled)
        if handled.outcome.path == str(tree / "last"):
            os.kill(os.getpid(), signal.SIGTERM)

    def write() -> None:
        for number in range(100):
            (tree / f"f{number}").write_bytes(LISTED)
            time.sleep(0.01)
        (tree / "last").write_bytes(LISTED)

    writer = threading.Thread(target=write)
    watch(client, tree, on_outcome=end, on_scan=lambda _: writer.start(), settle_s=0.2)
    writer.join()
    assert len(told) == 101
    assert all(after - before >= 0.2 for before, after in itertools.pairwise(checked))


def _tasks(paths: list[str]) -> list[Task]:
    return [task for task in ChangedFiles(paths).batches() if not isinstance(task, Outcome)]


@pytest.mark.parametrize("others", [0, LISTED_FROM * LISTED_TIMES * 2])
@pytest.mark.parametrize("count", [1, LISTED_FROM - 1, LISTED_FROM, 2000])
def test_changed_files_that_are_gone_again_are_left_out(
    tmp_path: Path, count: int, others: int
) -> None:
    for number in range(others):
        (tmp_path / f"other{number}").touch()
    paths = [f"{tmp_path}/f{number:04d}" for number in range(count)]
    for path in paths[::2]:
        Path(path).touch()
    (tmp_path / "link").symlink_to("nowhere")
    given = [f"{tmp_path}/d/gone", *paths, f"{tmp_path}/link"]
    groups = [group for task in _tasks(given) for group in task]
    assert {group.directory for group in groups} == {str(tmp_path)}
    found = [f"{group.directory}/{name}" for group in groups for name in group.names]
    assert found == [*paths[::2], f"{tmp_path}/link"]


@pytest.mark.parametrize("count", [2, LISTED_FROM])
def test_a_changed_file_that_gets_another_name_before_it_is_read_is_found(
    client: Client, tmp_path: Path, count: int
) -> None:
    """The owner exchanges two changed files each time that one of them is opened."""
    tree = write_tree(tmp_path, {f"t/f{number:02d}": b"other" for number in range(count)}) / "t"
    (tree / "f01").write_bytes(LISTED)

    class Exchanged(ChangedFiles):
        def batches(self) -> Iterator[Task | Outcome]:
            for task in super().batches():
                (tree / "f01").rename(tree / "aside")
                (tree / "f00").rename(tree / "f01")
                (tree / "aside").rename(tree / "f02")
                yield task

    paths = [str(tree / f"f{number:02d}") for number in range(count)]
    with client.scan(sources=[Exchanged(paths)], options=ScanOptions(jobs=0)) as run:
        assert [handled.outcome.path for handled in run] == [str(tree / "f02")]


@pytest.mark.slow
def test_a_changed_file_of_too_long_a_path_for_one_call_is_found(tmp_path: Path) -> None:
    depth = 2_000
    make_deep_tree(tmp_path, depth)
    directory = f"{tmp_path}/" + "/".join(["dd"] * depth)
    ((group,),) = _tasks([f"{directory}/f", f"{directory}/g"])
    assert (group.directory, group.names, group.follow) == (directory, ["f"], False)
    subprocess.run(["rm", "-rf", tmp_path / "dd"], check=True)


@pytest.mark.slow
def test_files_that_have_waited_for_longest_are_checked_first(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can delay the check of a file for ever by changing other files."""
    monkeypatch.setattr(watch_module, "MOST_FILES", 10)
    tree = write_tree(tmp_path / "t", {})
    over = threading.Event()

    found: list[str] = []

    def end(handled: Handled) -> None:
        found.append(handled.outcome.path)
        os.kill(os.getpid(), signal.SIGTERM)

    def write() -> None:
        (tree / "z").write_bytes(LISTED)
        for number in range(30_000):  # the test stops after a minute at the latest
            (tree / f"a{number % 300}").write_bytes(b"benign")
            if over.wait(0.002):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    writer = threading.Thread(target=write)
    watch(client, tree, on_outcome=end, on_scan=lambda _: writer.start())
    over.set()
    writer.join()
    assert found == [str(tree / "z")]


def test_a_changed_file_in_the_root_directory_has_its_name() -> None:
    (task,) = _tasks(["/proc"])
    assert [(group.directory, group.names) for group in task] == [("/", ["proc"])]


@pytest.mark.slow
def test_a_file_that_cannot_be_checked_now_is_checked_later(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "RETRY_S", 0.1)
    monkeypatch.setattr(watch_module, "LOOK_S", 0.1)
    tree = write_tree(tmp_path / "t", {"a": b"benign"})
    lists = client.session.settings.layout.lists
    told: list[Handled] = []
    failures: list[str] = []

    def begin(_: object) -> None:
        if not failures:
            lists.rename(tmp_path / "gone")
            (tree / "x").write_bytes(LISTED)

    def failed(error: HashclientError) -> None:
        failures.append(error.message)
        if len(failures) == 3:
            (tmp_path / "gone").rename(lists)

    def end(handled: Handled) -> None:
        told.append(handled)
        os.kill(os.getpid(), signal.SIGTERM)

    watch(client, tree, on_outcome=end, on_scan=begin, on_failure=failed)
    assert {h.outcome.path for h in told} == {str(tree / "x")}
    assert len(failures) >= 3


@pytest.mark.slow
def test_a_match_that_cannot_be_recorded_now_is_recorded_later(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "PARTLY_S", 0.1)
    tree = write_tree(tmp_path / "t", {})
    record = client.session.settings.layout.matches
    told: list[Handled] = []

    def begin(_: object) -> None:
        record.mkdir()  # the record cannot be opened
        (tree / "x").write_bytes(LISTED)

    def end(handled: Handled) -> None:
        told.append(handled)
        if handled.record is not None:
            os.kill(os.getpid(), signal.SIGTERM)
        elif record.is_dir():
            record.rmdir()

    watch(client, tree, on_outcome=end, on_scan=begin)
    assert [handled.record is None for handled in told] == [True, False]


@pytest.fixture
def own_directory() -> Iterator[Path]:
    """A directory that another account may change, too."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_that_may_not_be_read_is_reported_like_a_file(own_directory: Path) -> None:
    os.seteuid(65534)
    try:
        with Changes([str(own_directory)]) as changes:
            (own_directory / "closed").mkdir(mode=0)
            changes.read()
            assert changes.take() == {str(own_directory / "closed")}
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_root_that_may_not_be_read_any_more_is_missed_once(own_directory: Path) -> None:
    root = own_directory / "t"
    os.seteuid(65534)
    try:
        root.mkdir()
        with Changes([str(root)]) as changes:
            root.chmod(0)
            assert changes.look_around()
            changes.look_again()
            assert not changes.look_around()
            root.chmod(0o700)
            assert changes.look_around()
            changes.look_again()
            assert not changes.look_around()
            write_tree(root, {"a": b"benign"})
            changes.read()
            assert changes.take() == {str(root / "a")}
    finally:
        os.seteuid(0)


def test_a_root_that_is_another_directory_is_missed(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "parent/t", {"a": b"benign"})
    with Changes([str(tree)]) as changes:
        assert not changes.look_around()
        tree.parent.rename(tmp_path / "elsewhere")
        assert not changes.read()
        assert changes.look_around()
        changes.look_again()
        assert not changes.look_around()
        write_tree(tree, {"b": b"benign"})
        assert changes.look_around()
        changes.look_again()
        write_tree(tree, {"c": b"benign"})
        assert not changes.read()
        assert changes.take() == {str(tree / "c")}


def _taken(changes: Changes) -> set[str]:
    assert not changes.read()
    return changes.take()


def _exchange(parent: Path, one: str, other: str) -> None:
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not exchange(fd, one, other):
            pytest.skip("this file system exchanges no directories")
    finally:
        os.close(fd)


def test_a_directory_that_is_renamed_many_times_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of a large directory cannot keep the watch busy for ever by renaming it."""
    tree = write_tree(tmp_path / "t", {"a/x/1": b"benign", "a/y/2": b"benign", "c/3": b"benign"})
    watched: list[int] = []
    watch_one = Changes._watch

    def counted(changes: Changes, fd: int) -> int:
        watched.append(fd)
        return watch_one(changes, fd)

    with Changes([str(tree)]) as changes:
        monkeypatch.setattr(Changes, "_watch", counted)
        for _ in range(50):
            (tree / "a").rename(tree / "b")
            (tree / "b").rename(tree / "a")
        (tree / "c").rename(tmp_path / "c")
        assert _taken(changes) == {str(tree / "a/x/1"), str(tree / "a/y/2")}
        assert len(watched) == 3
        write_tree(tree, {"a/x/4": b"benign"})
        write_tree(tmp_path, {"c/5": b"benign"})
        assert _taken(changes) == {str(tree / "a/x/4")}


def test_exchanged_directories_are_both_watched(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a/x/1": b"benign", "b/y/2": b"benign"})
    with Changes([str(tree)]) as changes:
        _exchange(tree, "a", "b")
        assert _taken(changes) == {str(tree / "a/y/2"), str(tree / "b/x/1")}
        assert changes.directories == 5
        new = [tree / name / "new" for name in ("a", "a/y", "b", "b/x")]
        for path in new:
            path.touch()
        assert _taken(changes) == {str(path) for path in new}


@pytest.mark.parametrize("other", ["file", "link"])
def test_a_directory_that_is_exchanged_for_something_else_is_watched(
    tmp_path: Path, other: str
) -> None:
    tree = write_tree(tmp_path / "t", {"a/1": b"benign"})
    if other == "link":
        (tree / "b").symlink_to(tree / "a")
    else:
        (tree / "b").touch()
    with Changes([str(tree)]) as changes:
        _exchange(tree, "a", "b")
        assert _taken(changes) == {str(tree / "a"), str(tree / "b/1")}
        (tree / "b/2").touch()
        assert _taken(changes) == {str(tree / "b/2")}
        assert changes.directories == 2


def test_a_directory_that_took_the_place_of_another_is_watched(tmp_path: Path) -> None:
    """A listing finds the new directory before the events of both moves are read."""
    tree = write_tree(tmp_path / "t", {"a/1": b"benign"})
    outside = write_tree(tmp_path / "out", {})
    with Changes([str(tree)]) as changes:
        (tree / "a").rename(outside / "a")
        write_tree(tree, {"a/2": b"benign"})
        changes.look_again()
        assert changes.directories == 2  # the directory that was moved away is no longer watched
        assert _taken(changes) == {str(tree / "a/2")}
        (tree / "a/3").touch()
        (outside / "a/4").touch()
        assert _taken(changes) == {str(tree / "a/3")}


@contextlib.contextmanager
def _no_more_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.open("/", os.O_PATH)  # all smaller numbers of descriptors are in use
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        os.close(fd)


def test_a_directory_that_cannot_be_listed_now_makes_the_watch_partial(tmp_path: Path) -> None:
    """The whole tree is scanned again soon after the failure."""
    tree = write_tree(tmp_path / "t", {})
    with Changes([str(tree)]) as changes:
        write_tree(tree, {"a/b/1": b"benign"})
        with _no_more_descriptors():
            changes.read()
        was_whole = changes.is_whole
        changes.look_again()
        assert (was_whole, changes.is_whole) == (False, True)
        (tree / "a/b/2").touch()
        assert str(tree / "a/b/2") in _taken(changes)


_scandir = os.scandir


class _Entry:
    """A directory entry that raises an error when it is asked for its type."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.name = entry.name

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        raise OSError(errno.EIO, f"{self.name} {follow_symlinks}")


@contextlib.contextmanager
def _strange(directory: int, number: int) -> Iterator[Iterator[_Entry]]:
    """List entries without types; at the end, raise the error `number` unless it is 0."""

    def entries() -> Iterator[_Entry]:
        yield from listed
        if number:
            raise OSError(number, "")

    with _scandir(directory) as found:
        listed = [_Entry(entry) for entry in found]
    yield entries()


@pytest.mark.parametrize(
    ("number", "is_whole", "reported"),
    [
        (0, True, {"a/b", "a/b/1"}),
        (errno.ESTALE, False, {"a/b", "a/b/1"}),
        (errno.ENOMEM, False, {"a/b", "a/b/1"}),
        (errno.EIO, True, {"a", "a/b", "a/b/1"}),
        (errno.ENOENT, True, {"a/b", "a/b/1"}),
    ],
)
def test_what_was_listed_before_a_failure_is_watched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    is_whole: bool,
    reported: set[str],
) -> None:
    tree = write_tree(tmp_path / "t", {})
    with Changes([str(tree)]) as changes:
        write_tree(tree, {"a/b/1": b"benign"})
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", lambda fd: _strange(fd, number))
            assert _taken(changes) == {str(tree / name) for name in reported}
        assert changes.is_whole is is_whole
        (tree / "a/b/2").touch()
        assert _taken(changes) == {str(tree / "a/b/2")}


@pytest.mark.slow
def test_a_state_directory_that_is_a_pattern_hides_nothing_else(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv_of({"e-1": LISTED}), "base")
    made = fixture.Client(tmp_path / "t/[s]*", simulator, simulator.root)
    made.fetch()
    tree = write_tree(tmp_path / "t", {"shared/a": LISTED, "[s]*/x": LISTED})
    found: list[Handled] = []
    watch(
        Client(made.session),
        tree,
        on_outcome=found.append,
        on_scan=lambda _: os.kill(os.getpid(), signal.SIGTERM),
    )
    assert {h.outcome.path for h in found} == {str(tree / "shared/a")}


def test_a_file_that_is_cut_by_path_is_not_reported(tmp_path: Path) -> None:
    """The kernel reports truncation through an open file, but not truncation by path."""
    tree = write_tree(tmp_path / "t", {"a": b"benign!", "b": b"benign!"})
    with Changes([str(tree)]) as changes:
        os.truncate(tree / "a", 6)
        with (tree / "b").open("r+b") as file:
            file.truncate(6)
            assert _taken(changes) == set()
        assert _taken(changes) == {str(tree / "b")}


@pytest.mark.slow
def test_a_change_that_is_not_reported_is_found_by_the_next_scan_of_everything(
    client: Client, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"a": LISTED + b"!"})
    found: list[Handled] = []

    def end(handled: Handled) -> None:
        found.append(handled)
        os.kill(os.getpid(), signal.SIGTERM)

    watch(
        client,
        tree,
        on_outcome=end,
        on_scan=lambda _: os.truncate(tree / "a", len(LISTED)),
        rescan_s=0.1,
    )
    assert {h.outcome.path for h in found} == {str(tree / "a")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_that_may_be_read_later_is_watched_then(
    own_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "_MOST_TRIED", 1)
    write_tree(own_directory, {"a/1": b"benign", "b/c/2": b"benign", "d/3": b"benign"})
    closed = [own_directory / name for name in ("a", "b", "b/c", "d")]
    for path in closed:
        path.chmod(0o700)
    os.seteuid(65534)
    try:
        with Changes([str(own_directory)]) as changes:
            assert not changes.look_around()
            assert _taken(changes) == set()
            os.seteuid(0)
            shutil.rmtree(own_directory / "d")
            (own_directory / "b").chmod(0o755)
            os.seteuid(65534)
            for _ in range(3):
                assert not changes.look_around()
            assert _taken(changes) == {str(own_directory / "b/c")}
            os.seteuid(0)
            (own_directory / "b/c").chmod(0o755)
            os.seteuid(65534)
            for _ in range(2):
                assert not changes.look_around()
            assert _taken(changes) == {str(own_directory / "b/c/2")}
            os.seteuid(0)
            (own_directory / "b/c/4").touch()
            assert _taken(changes) == {str(own_directory / "b/c/4")}
            assert changes.directories == 3
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("is_reported", [True, False])
def test_no_link_leads_a_watch_out_of_its_tree_by_a_directory_that_could_not_be_read(
    own_directory: Path, is_reported: bool
) -> None:
    write_tree(own_directory, {"t/p/closed/x": b"benign", "outside/closed/deep/y": b"benign"})
    tree = own_directory / "t"
    (tree / "p/closed").chmod(0)
    os.seteuid(65534)
    try:
        with Changes([str(tree)]) as changes:
            os.seteuid(0)
            (tree / "p").rename(own_directory / "elsewhere")
            (tree / "p").symlink_to(own_directory / "outside")
            os.seteuid(65534)
            if is_reported:
                changes.read()
            changes.look_around()
            assert _taken(changes) == {str(tree / "p")}
            assert changes.directories == 1
    finally:
        os.seteuid(0)


@pytest.mark.slow
def test_files_that_a_look_around_has_found_are_checked(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that only a listing has found is checked, although the kernel reports no event."""
    monkeypatch.setattr(watch_module, "LOOK_S", 0.1)
    tree = write_tree(tmp_path / "t", {"a": LISTED + b"!"})
    found: list[str] = []
    changed: list[str] = []

    def look_around(changes: Changes) -> bool:
        changes._files.update(changed)
        changed.clear()
        return False

    monkeypatch.setattr(Changes, "look_around", look_around)

    def end(handled: Handled) -> None:
        found.append(handled.outcome.path)
        os.kill(os.getpid(), signal.SIGTERM)

    def change(_: object) -> None:
        os.truncate(tree / "a", len(LISTED))  # the kernel reports no event for this change
        changed.append(str(tree / "a"))

    watch(client, tree, on_outcome=end, on_scan=change)
    assert found == [str(tree / "a")]


@pytest.mark.parametrize("where", ["a/b", "a"])
def test_a_link_that_came_into_the_place_of_a_directory_leads_to_no_changed_file(
    tmp_path: Path, where: str
) -> None:
    write_tree(tmp_path, {"t/a/b/f": b"benign", "outside/f": b"other", "outside/b/f": b"other"})
    given = [str(tmp_path / "t/a/b/f"), str(tmp_path / "t/a/g")]
    (tmp_path / "t/a/g").touch()
    (tmp_path / "t" / where).rename(tmp_path / "moved")
    (tmp_path / "t" / where).symlink_to(tmp_path / "outside")
    expected = [] if where == "a" else [(str(tmp_path / "t/a"), ["g"])]
    found = [(group.directory, group.names) for task in _tasks(given) for group in task]
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("put", ["link", "nothing"])
def test_a_link_in_the_place_of_a_root_is_a_failure_and_is_not_followed(
    client: Client, tmp_path: Path, put: str
) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"benign"})
    write_tree(tmp_path / "outside", {"listed": LISTED})
    failures: list[str] = []
    found: list[Handled] = []
    scans = 0

    def scanned(_: object) -> None:
        nonlocal scans
        scans += 1
        if scans == 1:
            tree.rename(tmp_path / "moved")
            if put == "link":
                tree.symlink_to(tmp_path / "outside")
        elif put == "nothing":
            os.kill(os.getpid(), signal.SIGTERM)

    def failed(error: HashclientError) -> None:
        failures.append(error.message)
        os.kill(os.getpid(), signal.SIGTERM)

    watch(client, tree, on_outcome=found.append, on_scan=scanned, on_failure=failed, rescan_s=0.1)
    if put == "link":
        assert failures == [f"not watched: {tree}: a link was put there: {tree}"]
        assert (scans, found) == (1, [])
    else:  # a root that is gone is unread, as in every scan
        assert [handled.outcome.path for handled in found] == [str(tree)]
