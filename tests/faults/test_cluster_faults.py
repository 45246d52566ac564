"""Workers or a scheduler that die, or a stopped scan: each file has one right outcome."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cloudpickle
import pytest
from msgspec.msgpack import decode

from fixtures.cluster import started as started_cluster
from fixtures.tls import Authority
from hashclient.core.errors import ExitCode, UnreachableError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.scan.cluster import backlog, connection, crew, jobs
from hashclient.scan.cluster.address import Scheduler
from hashclient.scan.cluster.connection import connected
from hashclient.scan.cluster.executor import Dask
from hashclient.scan.cluster.messages import ToCheck, paths_of
from hashclient.scan.cluster.worker import check
from hashclient.scan.executors.here import Inline
from hashclient.scan.run.engine import Progress, scan
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import CLUSTER_GONE, WORKER_DIED
from tests.kit import arguments, environment, run, wait_until, write_tree
from tests.kit.cluster import LISTED, SharedCluster


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_NAMES", "LEAST_NAMES", "MOST_NAMES"):
        monkeypatch.setattr(backlog, name, 10)
    # The client looks often, and a restarted worker gets work at the second look.
    monkeypatch.setattr(crew, "POLL_S", 0.1)


def make_tree(directory: Path) -> Path:
    files = {f"{n % 20}/{n}": f"content {n % 40}".encode() for n in range(300)}
    return write_tree(directory / "t", files)


def on_cluster(
    cluster: SharedCluster,
    tree: Path,
    function: Callable[[str, bytes], bytes] = check,
    notices: list[str] | None = None,
) -> tuple[Iterator[Outcome | Progress], Summary]:
    """Return the run of a scan of a tree on a cluster, not yet begun, and its summary."""
    lists = cluster.lists()
    summary = Summary(lists=lists.states)
    executor = Dask(
        cluster.connect,
        cluster.spec(keep_clean=True),
        check=function,
        on_notice=(notices if notices is not None else []).append,
    )
    trees, options = executor.trees([str(tree)], ScanOptions(), None), ScanOptions(show_clean=True)
    found = scan(trees, lists, Progress(summary), options, executor=executor)
    return found, summary


def expected_of(cluster: SharedCluster, tree: Path) -> dict[str, Kind]:
    lists = cluster.lists()
    progress = Progress(Summary(lists=lists.states))
    source = Trees([str(tree)], ScanOptions())
    found = scan(source, lists, progress, ScanOptions(show_clean=True), executor=Inline())
    return {item.path: item.kind for item in found if isinstance(item, Outcome)}


def once(outcomes: list[Outcome]) -> dict[str, Kind]:
    """Return the outcome of each path, and check that no path has two outcomes."""
    counted = collections.Counter(outcome.path for outcome in outcomes)
    assert set(counted.values()) == {1}
    return {outcome.path: outcome.kind for outcome in outcomes}


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(1, 30))]
)
def test_workers_that_are_killed_at_random_change_nothing(
    cluster: SharedCluster, tmp_path: Path, small_batches: None, seed: int
) -> None:
    tree, chance = make_tree(tmp_path), random.Random(seed)
    found, summary = on_cluster(cluster, tree)
    moments = set(chance.sample(range(250), 3))
    outcomes: list[Outcome] = []
    for item in found:
        if isinstance(item, Outcome):
            if len(outcomes) in moments:
                pids = cluster.cluster.pids
                if len(pids) > 1:  # while a worker restarts, only one process is listed
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(chance.choice(pids), signal.SIGKILL)
            outcomes.append(item)
    assert once(outcomes) == expected_of(cluster, tree)
    assert summary.inputs == 300
    assert summary.exit_code is ExitCode.MATCH


def deadly(name: str, run: str, payload: bytes) -> bytes:
    batch = decode(payload, type=ToCheck)
    if any(path.endswith(name) for path in paths_of(batch.groups)):
        os.kill(os.getpid(), signal.SIGKILL)
    return check(run, payload)


@pytest.mark.slow
def test_a_batch_that_kills_three_workers_is_unread(
    cluster: SharedCluster, tmp_path: Path, small_batches: None
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    tree = make_tree(tmp_path)
    (tree / "7" / "deadly").touch()
    found, summary = on_cluster(cluster, tree, functools.partial(deadly, "/deadly"))
    outcomes = [item for item in found if isinstance(item, Outcome)]
    ended, wanted = once(outcomes), expected_of(cluster, tree)
    assert ended.keys() == wanted.keys()
    unread = [outcome for outcome in outcomes if outcome.kind is Kind.UNREAD]
    assert {outcome.reason for outcome in unread} == {WORKER_DIED}
    assert str(tree / "7" / "deadly") in {outcome.path for outcome in unread}
    # Only tasks that ran in the killed worker may be lost with it.
    assert len(unread) <= 3 * 20
    assert {p: k for p, k in ended.items() if k is not Kind.UNREAD}.items() <= wanted.items()
    assert summary.exit_code is ExitCode.MATCH_ATTENTION


@pytest.mark.slow
@pytest.mark.parametrize("says", [b"", bytes(range(256)) * 8, b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_another_program_in_place_of_the_scheduler_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(connection, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    stack.push(client)
                    client.sendall(says)

        threading.Thread(target=answer, daemon=True).start()
        where = Scheduler("127.0.0.1", server.getsockname()[1])
        with pytest.raises(UnreachableError, match="cannot be reached"), connected(where, {}):
            pass
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_without_a_scheduler_what_was_found_counts_and_the_rest_is_unread(
    cluster: SharedCluster, tmp_path: Path, small_batches: None
) -> None:
    tree = write_tree(tmp_path / "t", {f"{n % 20}/{n}": b"not listed" for n in range(300)})
    with started_cluster(1, {"HASHCLIENT_STATE_DIR": str(cluster.state)}) as alone:
        own = SharedCluster(alone, cluster.state)
        found, summary = on_cluster(own, tree)
        outcomes: list[Outcome] = []
        for item in found:
            if isinstance(item, Outcome):
                outcomes.append(item)
                if len(outcomes) == 30:
                    alone.kill_scheduler()
    ended = once(outcomes)
    assert ended.keys() == expected_of(cluster, tree).keys()
    assert {o.reason for o in outcomes if o.kind is Kind.UNREAD} == {CLUSTER_GONE}
    assert 30 <= list(ended.values()).count(Kind.CLEAN) < 300
    assert summary.exit_code is ExitCode.INCOMPLETE


@pytest.mark.slow
def test_without_any_worker_the_rest_is_unread(
    cluster: SharedCluster, tmp_path: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.0)
    tree = make_tree(tmp_path)
    found, summary = on_cluster(cluster, tree)
    outcomes: list[Outcome] = []
    for item in found:
        if isinstance(item, Outcome):
            outcomes.append(item)
            if len(outcomes) == 30:
                for pid in cluster.cluster.pids:
                    os.kill(pid, signal.SIGKILL)
    assert once(outcomes).keys() == expected_of(cluster, tree).keys()
    if summary.counts[Kind.UNREAD]:
        # A match gives MATCH_ATTENTION; without a match, the unread files give INCOMPLETE.
        assert summary.exit_code in {ExitCode.INCOMPLETE, ExitCode.MATCH_ATTENTION}
    else:
        assert summary.exit_code is ExitCode.MATCH


def patient(gate: str, run: str, payload: bytes) -> bytes:
    while not Path(gate).exists():
        signal.sigtimedwait([], 0.02)
    return check(run, payload)


@pytest.mark.slow
def test_a_worker_that_comes_later_and_has_other_lists_gets_nothing(
    cluster: SharedCluster, tmp_path: Path, small_batches: None
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    tree, gate, notices = make_tree(tmp_path), tmp_path / "gate", list[str]()
    check_later = functools.partial(patient, str(gate))
    found, summary = on_cluster(cluster, tree, check_later, notices=notices)
    manifest = cluster.state / "lists" / "base" / "manifest.json"
    kept = manifest.read_bytes()
    outcomes: list[Outcome] = []
    try:
        for item in found:
            if isinstance(item, Outcome):
                outcomes.append(item)
            elif manifest.read_bytes() == kept and not gate.exists():
                manifest.write_bytes(kept.replace(b'"generation"', b'"generatiom"'))
                os.kill(cluster.cluster.pids[0], signal.SIGKILL)
            elif notices:
                gate.touch()
    finally:
        gate.touch()
        manifest.write_bytes(kept)
    assert once(outcomes) == expected_of(cluster, tree)
    assert summary.exit_code is ExitCode.MATCH
    (notice,) = notices
    assert notice.startswith("cluster: worker tcp://127.0.0.1:")
    assert notice.endswith(" is not used: list base: it is not there, or cannot be used")


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started, and all their descendants."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except OSError:
        return found
    return [*found, *(below for child in found for below in children_of(child))]


def sparse_tree(directory: Path, count: int) -> Path:
    """Return a tree of sparse files that take hours to read."""
    tree = write_tree(directory / "t", {"listed": LISTED["e-1"]})
    for number in range(count):
        with (tree / f"sparse-{number}").open("wb") as out:
            out.truncate(1 << 40)
    return tree


@contextlib.contextmanager
def scanning_at(where: str, state: Path, tree: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a scan of files that take hours until the end of the context."""
    process = subprocess.Popen(
        arguments("--state-dir", state, "scan", "--sparse", "--executor", where, tree),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def opened(pid: int) -> bool:
    """Return whether a process reads a large file."""
    try:
        return any("sparse-" in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def reads(pids: list[int]) -> bool:
    return all(map(opened, pids))


@pytest.mark.slow
def test_a_scan_that_is_interrupted_leaves_workers_that_have_time(
    cluster: SharedCluster, tmp_path: Path
) -> None:
    state, pids = cluster.client_state(tmp_path), cluster.cluster.pids
    tree = sparse_tree(tmp_path, len(pids))
    with scanning_at(cluster.url, state, tree) as scanning:
        wait_until(lambda: all(map(opened, pids)), scanning.pid)
        scanning.send_signal(signal.SIGINT)
        out, err = scanning.communicate(timeout=60)
    assert b"Traceback" not in err, err
    assert scanning.returncode == ExitCode.MATCH_ATTENTION
    assert b"interrupted" in out + err
    wait_until(lambda: not any(map(opened, pids)), scanning.pid)
    small = tmp_path / "small"
    small.write_bytes(LISTED["e-1"])
    assert run("--state-dir", state, "scan", "--executor", cluster.url, small).code == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "of_group"),
    [
        pytest.param(signal.SIGINT, True, marks=pytest.mark.deep),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.deep),
        (signal.SIGKILL, False),
    ],
)
def test_workers_of_a_local_cluster_end_with_the_scan(
    cluster: SharedCluster, tmp_path: Path, number: signal.Signals, of_group: bool
) -> None:
    state, tree = cluster.client_state(tmp_path), sparse_tree(tmp_path, 1)
    with scanning_at("local-cluster:1", state, tree) as scanning:
        wait_until(lambda: any(map(opened, children_of(scanning.pid))), scanning.pid)
        children = children_of(scanning.pid)
        if of_group:  # a terminal sends SIGINT to all processes of the group
            os.killpg(scanning.pid, number)
        else:
            scanning.send_signal(number)
        _, err = scanning.communicate(timeout=60)
    assert b"Traceback" not in err, err
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), scanning.pid)


@pytest.mark.slow
def test_a_cluster_with_certificates(cluster: SharedCluster, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other authority")
    own, mine, wrong = (a.issue(n) for a, n in ((authority, "w"), (authority, "c"), (other, "x")))
    files = {"ca": authority.ca, "cert": own.cert, "key": own.key}
    state = cluster.client_state(tmp_path)
    (tmp_path / "listed").write_bytes(LISTED["e-1"])

    def scan_with(url: str, **config: Path) -> int:
        lines = [f'{name} = "{path}"' for name, path in config.items()]
        (state / "config.toml").write_text("\n".join(["[cluster]", *lines, ""]))
        return run("--state-dir", state, "scan", "--executor", url, tmp_path / "listed").code

    with started_cluster(1, {"HASHCLIENT_STATE_DIR": str(cluster.state)}, tls=files) as secure:
        assert scan_with(secure.url, ca=authority.ca, cert=mine.cert, key=mine.key) == 10
        assert scan_with(secure.url, ca=authority.ca, cert=wrong.cert, key=wrong.key) == 4
        assert scan_with(secure.url, ca=other.ca, cert=mine.cert, key=mine.key) == 4
        assert scan_with(secure.url) == 4
        assert scan_with(secure.url, ca=authority.ca) == 2
        assert scan_with(secure.url, ca=authority.ca, cert=mine.cert, key=own.key) == 2
