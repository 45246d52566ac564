"""Workers: every task returns, complete or as unread files, and workers end with their pool."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Hit, Outcome, Outer, Seen
from hashclient.scan.executors import processes
from hashclient.scan.executors.interface import MakeChecker, OnBytes
from hashclient.scan.executors.nursery import Nursery
from hashclient.scan.executors.pacing import TASKS_AHEAD
from hashclient.scan.executors.processes import MAX_AHEAD_BYTES, MAX_REPLACED, Pool
from hashclient.scan.executors.wire import decode_message, encode, pack_result
from hashclient.scan.executors.worker import PROGRESS_BYTES
from hashclient.scan.values.work import TASK_NAMES, WORKER_DIED, Advance, Group, Result, Task
from tests.kit import environment, wait_until

# The test runner may have a thread, which the forked processes here do not use.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

Check = Callable[[Task, OnBytes], Result]


def maker(check: Check) -> MakeChecker:
    """Return a function that makes a worker's checker from `check`."""

    class Fake:
        def __init__(self, on_bytes: OnBytes) -> None:
            self.on_bytes = on_bytes

        def check(self, task: Task) -> Result:
            return check(task, self.on_bytes)

    return cast("MakeChecker", Fake)


def task(*names: str, directory: str = "d") -> Task:
    return [Group(directory, list(names), follow=False)]


def paths(items: Task) -> list[str]:
    return [f"{group.directory}/{name}" for group in items for name in group.names]


def all_clean(items: Task, _: OnBytes) -> Result:
    return Result(outcomes=[Outcome(Kind.CLEAN, path) for path in paths(items)])


def run(
    jobs: int, check: Check, tasks: Iterable[Task | Outcome]
) -> list[Result | Outcome | Advance]:
    with Pool(jobs, maker(check)) as pool:
        pids = [worker.pid for worker in pool._workers]
        results = list(pool.run(iter(tasks), 0.05))
        pids += [worker.pid for worker in pool._workers]
        assert len(pool._workers) == jobs
    for pid in pids:
        assert pid is not None
        assert not Path(f"/proc/{pid}").exists()
    return results


def outcomes(results: list[Result | Outcome | Advance]) -> dict[str, tuple[Kind, str | None]]:
    found: dict[str, tuple[Kind, str | None]] = {}
    for result in results:
        for outcome in result.outcomes if isinstance(result, Result) else ():
            assert outcome.path not in found
            found[outcome.path] = (outcome.kind, outcome.reason)
    return found


@pytest.mark.sampled
@pytest.mark.parametrize("jobs", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_every_task_comes_back_once(jobs: int, count: int) -> None:
    tasks = [task(f"{n}a", f"{n}b") for n in range(count)]
    found = outcomes(run(jobs, all_clean, tasks))
    assert found == {path: (Kind.CLEAN, None) for t in tasks for path in paths(t)}


def test_outcomes_among_the_tasks_come_as_they_are() -> None:
    skipped = [Outcome(Kind.SKIPPED, str(n), reason="pipe") for n in range(5)]
    items = [item for n in range(5) for item in (skipped[n], task(str(n)))]
    results = run(2, all_clean, items)
    assert [r for r in results if isinstance(r, Outcome)] == skipped
    assert len(outcomes(results)) == 5


def test_everything_survives_the_way_there_and_back() -> None:
    odd = os.fsdecode(b"\xff\n\x00"[:2])
    hit = Hit("list", "e-1", "c", 7, (Algorithm.MD5, Algorithm.SHA256), complete=False)
    digests = {a: bytes([a]) * a.digest_bytes for a in Algorithm}
    tags = {a: bytes([a]) * 16 for a in Algorithm}
    member = Outer(9, {Algorithm.MD5: b"t" * 16}, 3)
    of_each_kind = [
        Outcome(Kind.CLEAN, "a", 0),
        Outcome(
            Kind.MATCH,
            "b",
            1,
            hits=(hit,),
            digests=digests,
            tags=tags,
            seen=Seen(1, 2, 3, 2**64 - 1),
        ),
        Outcome(Kind.UNREAD, "c", reason="no password", members=("", odd), obstacle="locked"),
        Outcome(Kind.CONFLICT, "d", None, hits=(hit, hit, hit), members=("x",), outer=member),
    ]
    sent = Result(
        clean=3,
        files_read=2,
        bytes_read=2**40,
        ruled_out_by_size=5,
        known_unchanged=7,
        believed_unchanged=6,
        outcomes=[
            Outcome(
                Kind.MATCH, odd, 2**50, hits=(hit, hit), digests={Algorithm.SHA1: b"\0\xff" * 10}
            ),
            Outcome(Kind.UNREAD, "grün", reason="gone"),
            *of_each_kind,
        ],
        learned=[(1, b"raw")],
        seen=[(2, 3)],
    )

    def check(items: Task, _: OnBytes) -> Result:
        assert items == [Group(odd, ["", odd, "c"], follow=True), Group("", ["x"], follow=False)]
        return sent

    given: Task = [Group(odd, ["", odd, "c"], follow=True), Group("", ["x"], follow=False)]
    first, *ticks, received = run(1, check, [given])
    assert isinstance(received, Result)
    assert received.taken_s > 0
    received.taken_s = sent.taken_s
    assert {first, *ticks} == {Advance()}  # a slow machine adds further `Advance` results
    assert received == sent


@pytest.mark.parametrize(
    "plan", [(), (Algorithm.SHA1,), (Algorithm.SHA256, Algorithm.MD5), tuple(Algorithm)]
)
def test_outcomes_that_are_alike_survive_as_well(plan: tuple[Algorithm, ...]) -> None:
    hits = [Hit("list", f"e-{n}", "c", 7, plan, complete=True) for n in range(3)]
    outcomes = [
        Outcome(
            Kind.MATCH,
            f"/{n}",
            n,
            hits=(hits[n],),
            digests={a: bytes([n]) * a.digest_bytes for a in plan},
            tags={a: bytes([n]) * 16 for a in plan},
        )
        for n in range(3)
    ]
    sent = Result(outcomes=outcomes)
    assert decode_message(encode(pack_result(sent))) == sent


def test_deferred_work_is_done_by_any_free_worker() -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        if len(paths(items)) == 1:
            return all_clean(items, on_bytes)
        return Result(deferred=[Group(g.directory, [n], g.follow) for g in items for n in g.names])

    tasks = [task("a", "b", "c"), task("d", "e", directory="f")]
    results = run(2, check, tasks)
    assert set(outcomes(results)) == {path for t in tasks for path in paths(t)}
    assert all(not r.deferred for r in results if isinstance(r, Result))


def test_a_large_file_never_waits_behind_another(tmp_path: Path) -> None:
    """While one worker reads a large file, other workers do the remaining tasks."""
    names = ["a", "b", "c", "d", "e", "f"]

    def check(items: Task, on_bytes: OnBytes) -> Result:
        name, *others = items[0].names
        if others:
            return Result(deferred=[items[0]._replace(names=[n]) for n in items[0].names])
        if name != "a":
            (tmp_path / name).touch()
            return all_clean(items, on_bytes)
        for _ in range(6000):
            if len(list(tmp_path.iterdir())) == len(names) - 1:
                return all_clean(items, on_bytes)
            signal.sigtimedwait([], 0.01)
        return Result(outcomes=[Outcome(Kind.UNREAD, "d/a", reason="others waited for it")])

    assert {kind for kind, _ in outcomes(run(2, check, [task(*names)])).values()} == {Kind.CLEAN}


def test_progress_in_large_files_is_reported_and_time_passes(tmp_path: Path) -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        for _ in range(4):
            on_bytes(PROGRESS_BYTES // 2)
        wait_until((tmp_path / "ticked").exists, os.getpid())
        return all_clean(items, on_bytes)

    advances: list[Advance] = []
    with Pool(1, maker(check)) as pool:
        for result in pool.run(iter([task("a")]), 0.05):
            if isinstance(result, Advance):
                advances.append(result)
                if result == Advance():
                    (tmp_path / "ticked").touch()
    assert sum(a.bytes_ahead for a in advances) == 2 * PROGRESS_BYTES
    assert {a.path for a in advances if a.bytes_ahead} == {"d/a"}
    assert Advance() in advances


def test_time_passes_while_nothing_comes_from_any_worker(tmp_path: Path) -> None:
    """While workers are silent, the pool yields `Advance`, so that the caller gets control."""
    ticked = tmp_path / "ticked"

    def check(items: Task, on_bytes: OnBytes) -> Result:
        for _ in range(1_000):
            if ticked.exists():
                return all_clean(items, on_bytes)
            signal.sigtimedwait([], 0.01)
        return Result(outcomes=[Outcome(Kind.UNREAD, path) for path in paths(items)])

    with Pool(2, maker(check)) as pool:
        results = []
        for result in pool.run(iter([task("a"), task("b")]), 0.01):
            results.append(result)
            if results == [Advance()] * 3:  # the first `Advance` shows that both workers have begun
                ticked.touch()
    assert outcomes(results) == dict.fromkeys(("d/a", "d/b"), (Kind.CLEAN, None))


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_a_worker_that_dies_takes_its_own_files_with_it_and_no_others(jobs: int) -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        if "d/5" in paths(items):
            os.kill(os.getpid(), signal.SIGKILL)
        return all_clean(items, on_bytes)

    found = outcomes(run(jobs, check, [task(str(n)) for n in range(50)]))
    assert set(found) == {f"d/{n}" for n in range(50)}
    dead = {path for path, outcome in found.items() if outcome == (Kind.UNREAD, WORKER_DIED)}
    assert "d/5" in dead
    assert len(dead) <= TASKS_AHEAD
    assert {found[path] for path in found.keys() - dead} == {(Kind.CLEAN, None)}


def test_beside_a_thread_this_process_forks_nothing_in_place_of_a_dead_worker() -> None:
    """A process with a second thread must not fork, because the child would copy held locks."""

    def check(items: Task, on_bytes: OnBytes) -> Result:
        if "d/5" in paths(items):
            os.kill(os.getpid(), signal.SIGKILL)
        return all_clean(items, on_bytes)

    over = threading.Event()
    with Pool(2, maker(check)) as pool:
        first = [worker.pid for worker in pool._workers]
        thread = threading.Thread(target=over.wait)
        thread.start()
        try:
            found = outcomes(list(pool.run(iter([task(str(n)) for n in range(50)]), 0.05)))
        finally:
            over.set()
            thread.join()
        pids = [worker.pid for worker in pool._workers]
        assert len({*first, *pids}) == 3
        assert {Path(f"/proc/{pid}/stat").read_text().split()[3] for pid in pids} == {
            str(pool._nursery._process.pid)
        }
    assert set(found) == {f"d/{n}" for n in range(50)}
    assert found["d/5"] == (Kind.UNREAD, WORKER_DIED)


RAISING = """
from hashclient.scan.executors.processes import Pool
from hashclient.scan.sources.interface import Group

class Raising:
    def __init__(self, on_bytes): pass
    def check(self, task): raise MemoryError

with Pool(1, Raising) as pool:
    _begun, result = pool.run(iter([[Group("d", ["a", "b"], False)]]), 1.0)
for outcome in result.outcomes:
    print(outcome.path, outcome.reason)
"""


@pytest.mark.slow
def test_a_worker_that_raises_is_a_worker_that_dies() -> None:
    """The traceback of the worker is only for people who search for bugs."""
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", RAISING],
            env=environment(HASHCLIENT_DEBUG=debug),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout == f"d/a {WORKER_DIED}\nd/b {WORKER_DIED}\n"
        assert ("MemoryError" in done.stderr) == bool(debug)


def test_a_worker_that_dies_in_the_middle_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        # Send the length of a message, and then fewer bytes than this length.
        for fd in range(3, 64):
            try:
                if str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("socket:"):
                    os.write(fd, b"\x00\x00\x10\x00half")
            except OSError:
                continue
        os.kill(os.getpid(), signal.SIGKILL)
        return Result()

    found = outcomes(run(1, check, [task("a")]))
    assert found == {"d/a": (Kind.UNREAD, WORKER_DIED)}


@pytest.mark.slow
def test_workers_that_keep_dying_end_the_run() -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        os._exit(9)

    with pytest.raises(StateError, match="keep dying") as caught:
        run(2, check, [task(str(n)) for n in range(4 * MAX_REPLACED)])
    assert caught.value.hint


def collect(pool: Pool, count: int, found: list[str]) -> None:
    """Run tasks of one file each, and add the path of each outcome as soon as it arrives."""
    for result in pool.run(iter([task(str(n)) for n in range(count)]), 1.0):
        found += outcomes([result])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_worker_that_cannot_read_an_index_ends_the_run(jobs: int) -> None:
    """A worker ends with exit code 8 or by SIGBUS. The results of other workers count."""
    for end in (lambda: os._exit(8), lambda: os.kill(os.getpid(), signal.SIGBUS)):

        def check(items: Task, on_bytes: OnBytes, end: Callable[[], None] = end) -> Result:
            if "d/5" in paths(items):
                signal.signal(signal.SIGBUS, signal.SIG_DFL)
                end()
            return all_clean(items, on_bytes)

        found: list[str] = []
        with Pool(jobs, maker(check)) as pool:
            with pytest.raises(StateError, match="bad block") as caught:
                collect(pool, 1000, found)
            assert pool._replaced == 0
        assert "fetch --rebuild" in (caught.value.hint or "")
        assert len(found) < 1000
        if jobs == 1:
            assert found == [f"d/{n}" for n in range(5)]


def test_an_index_that_is_damaged_ends_the_run_with_its_error() -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        if "d/5" in paths(items):
            raise StateError("index file is damaged: run-1", hint="run it")
        return all_clean(items, on_bytes)

    found: list[str] = []
    with Pool(1, maker(check)) as pool, pytest.raises(StateError) as caught:
        collect(pool, 50, found)
    assert (caught.value.message, caught.value.hint) == ("index file is damaged: run-1", "run it")
    assert found == [f"d/{n}" for n in range(5)]


@pytest.mark.parametrize("jobs", [1, 3])
def test_long_tasks_with_long_results_do_not_wait_for_each_other(jobs: int) -> None:
    """Parent and worker must not both block on writing when messages exceed socket buffers."""
    long = "x" * 4000
    tasks: list[Task] = [
        [Group(f"{long}/{n}/{m}", ["f"], follow=False) for m in range(200)] for n in range(12)
    ]
    assert sum(len(group.directory) for group in tasks[0]) > 4 * MAX_AHEAD_BYTES
    found = outcomes(run(jobs, all_clean, tasks))
    assert len(found) == 12 * 200


def test_an_early_end_ends_the_workers() -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        signal.pause()
        return Result()

    with Pool(3, maker(check)) as pool:
        pids = [worker.pid for worker in pool._workers]
        results = pool.run(iter([task("a"), task("b"), task("c")]), 0.01)
        assert next(results) == Advance()
    assert len(pids) == 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
def test_workers_are_added_while_they_wait_and_all_end_with_the_run() -> None:
    """Added workers start with the state of the run's start, whatever the parent changed later."""
    made_of = ["of the start"]

    class Waiting:
        def __init__(self, _: OnBytes) -> None:
            self.made_of = made_of[0]

        def check(self, items: Task) -> Result:
            signal.sigtimedwait([], 0.05)
            number = f"{self.made_of} {os.getpid()}"
            return Result(
                outcomes=[Outcome(Kind.UNREAD, path, reason=number) for path in paths(items)]
            )

    with Pool(1, cast("MakeChecker", Waiting), 8) as pool:
        made_of[0] = "of later"
        found = outcomes(list(pool.run(iter([task(str(n)) for n in range(60)]), 0.05)))
        pids = {worker.pid for worker in pool._workers}
    assert set(found) == {f"d/{n}" for n in range(60)}
    reasons = {reason for _, reason in found.values() if reason is not None}
    assert {reason.rpartition(" ")[0] for reason in reasons} == {"of the start"}
    assert len(reasons) > 2
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_as_many_are_added_as_there_may_be_and_no_more() -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        signal.sigtimedwait([], 0.01)
        return Result()

    with Pool(1, maker(check), 3) as pool:
        results = pool.run((task(str(n)) for n in range(1_000)), 0.05)
        next(result for result in results if len(pool._workers) >= 3)
        for _ in range(9):
            next(results)
            assert len(pool._workers) <= 3


@pytest.mark.slow
def test_none_is_added_while_results_wait_for_this_process() -> None:
    """If this process is busy with many matches, workers wait for it, and not for storage."""

    def check(items: Task, on_bytes: OnBytes) -> Result:
        until = time.process_time() + 0.01
        while time.process_time() < until:
            pass
        return Result(clean=len(paths(items)))

    names = [str(n) for n in range(TASK_NAMES)]
    with Pool(1, maker(check), 8) as pool:
        found = []
        for item in pool.run(iter([task(*names, directory=str(n)) for n in range(30)]), 0.05):
            found.append(item)
            signal.sigtimedwait([], 0.05)
        assert len(pool._workers) == 1
    assert sum(item.clean for item in found if isinstance(item, Result)) == 30 * TASK_NAMES


def test_one_that_is_replaced_is_made_of_what_was_there_at_the_start() -> None:
    made_of = ["of the start"]

    class Dying:
        def __init__(self, _: OnBytes) -> None:
            self.made_of = made_of[0]

        def check(self, items: Task) -> Result:
            if "d/3" in paths(items):
                os._exit(9)
            return Result(
                outcomes=[Outcome(Kind.CLEAN, p, reason=self.made_of) for p in paths(items)]
            )

    with Pool(1, cast("MakeChecker", Dying)) as pool:
        made_of[0] = "of later"
        found = outcomes(list(pool.run(iter([task(str(n)) for n in range(9)]), 0.05)))
    dead = {path for path, outcome in found.items() if outcome == (Kind.UNREAD, WORKER_DIED)}
    assert "d/3" in dead
    assert {found[path] for path in found.keys() - dead} == {(Kind.CLEAN, "of the start")}


@pytest.mark.slow
def test_where_no_process_can_be_added_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(items: Task, on_bytes: OnBytes) -> Result:
        signal.sigtimedwait([], 0.02)
        return all_clean(items, on_bytes)

    def refuse(_: Nursery) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with Pool(1, maker(check), 8) as pool:
        monkeypatch.setattr(Nursery, "fork_one", refuse)
        found = outcomes(list(pool.run(iter([task(str(n)) for n in range(20)]), 0.05)))
        assert len(pool._workers) == 1
    assert set(found.values()) == {(Kind.CLEAN, None)}
    assert len(found) == 20


def test_the_walk_goes_no_further_than_the_workers_need() -> None:
    """Only a few tasks wait, whatever the size of the tree."""
    taken = 0

    def endless() -> Iterator[Task | Outcome]:
        nonlocal taken
        while True:
            taken += 1
            yield task(str(taken))

    with Pool(2, maker(all_clean)) as pool:
        results = pool.run(endless(), 1.0)
        for done in range(1, 200):
            next(results)
            assert taken <= done + 2 * TASKS_AHEAD + 2


def test_a_signal_for_the_group_is_the_parents_business() -> None:
    """Workers ignore Ctrl-C, and end when the parent tells them to end."""

    def check(items: Task, on_bytes: OnBytes) -> Result:
        os.kill(os.getpid(), signal.SIGINT)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        kind = Kind.CLEAN if not blocked else Kind.CONFLICT
        return Result(outcomes=[Outcome(kind, path) for path in paths(items)])

    found = outcomes(run(1, check, [task("a")]))
    assert found == {"d/a": (Kind.CLEAN, None)}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(
    ("wanted", "busy", "left"),
    [
        (4, [], [0, 1, 2, 3]),
        (5, [], [0, 1, 2, 3]),
        (3, [], [0, 1, 2]),
        (1, [], [0]),
        (2, [3], [0, 1, 3]),
        (1, [0, 2], [0, 2]),
        (2, [2, 3], [0, 1, 2, 3]),
    ],
)
def test_workers_that_are_not_needed_any_more_end_when_they_have_no_task(
    monkeypatch: pytest.MonkeyPatch, wanted: int, busy: list[int], left: list[int]
) -> None:
    """The speed of a worker whose result is waiting is not measured."""
    closed: list[int] = []
    ended: list[int] = []
    looked: list[tuple[int, object]] = []
    workers = [
        SimpleNamespace(
            pid=number,
            times=f"times {number}",
            tasks=["task"] * (number in busy),
            connection=SimpleNamespace(close=lambda number=number: closed.append(number)),
        )
        for number in range(4)
    ]
    monkeypatch.setattr(processes, "wait", lambda given, _: [given[1]])
    pool: Any = Pool.__new__(Pool)
    pool._workers, pool._pacing = [*workers], SimpleNamespace(wanted=wanted, look=looked.extend)
    pool._nursery = SimpleNamespace(exit_code=ended.append)
    pool._look()
    assert looked == [(number, f"times {number}") for number in (0, 2, 3)]
    assert [worker.pid for worker in pool._workers] == left
    gone = sorted(set(range(4)) - set(left), reverse=True)
    assert closed == ended == gone
