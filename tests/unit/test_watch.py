"""Watching: a file that changes all the time is still checked; unwatchable trees are reported."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import client as fixture
from fixtures.simulator import Simulator
from hashclient.client import Client
from hashclient.core.model import Handled, Outcome
from hashclient.errors import HashclientError
from hashclient.scan.pipeline import Run
from hashclient.scan.sources.interface import Group, Task
from hashclient.scan.whereabouts import LISTED_FROM, LISTED_TIMES
from hashclient.watch import watch as watch_module
from hashclient.watch.changes import Changes
from hashclient.watch.watch import ChangedFiles, Watch
from tests.kit import csv_of, write_tree

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
) -> None:
    """Watch a tree until SIGTERM."""
    Watch(
        client,
        [str(tree)],
        settle_s=settle_s,
        rescan_s=1000,
        jobs=1,
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
        for _ in range(2000):  # at most for so long
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
    """Each check costs as much as that of a thousand files, so many files share one."""
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


def test_a_changed_file_of_too_long_a_path_is_not_taken_for_gone(tmp_path: Path) -> None:
    directory = f"{tmp_path}/" + "/".join(["d" * 250] * 20)
    paths = [f"{directory}/f", f"{directory}/g"]
    assert _tasks(paths) == [[Group(directory, ["f", "g"], follow=False)]]


@pytest.mark.slow
def test_files_that_have_waited_for_longest_are_checked_first(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nobody can keep a file from its check by changing others again and again."""
    monkeypatch.setattr(watch_module, "MOST_FILES", 10)
    tree = write_tree(tmp_path / "t", {})
    over = threading.Event()

    found: list[str] = []

    def end(handled: Handled) -> None:
        found.append(handled.outcome.path)
        os.kill(os.getpid(), signal.SIGTERM)

    def write() -> None:
        (tree / "z").write_bytes(LISTED)
        for number in range(4000):  # at most for so long
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


@pytest.fixture
def own_directory() -> Iterator[Path]:
    """A directory that another account gets at, too."""
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


@pytest.mark.slow
def test_a_state_directory_that_is_a_pattern_hides_nothing_else(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv_of({"e-1": LISTED}), "base")
    made = fixture.Client(tmp_path / "t/[s]*", simulator, simulator.root)
    made.fetch()
    tree = write_tree(tmp_path / "t", {"shared/a": LISTED, "[s]*/x": LISTED})
    told: list[Handled] = []
    watch(
        Client(made.session),
        tree,
        on_outcome=told.append,
        on_scan=lambda _: os.kill(os.getpid(), signal.SIGTERM),
    )
    assert {h.outcome.path for h in told} == {str(tree / "shared/a")}
