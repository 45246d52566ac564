"""The pool without processes: which worker gets a task, and what follows from each message."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashclient.core.errors import ExitCode, StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.executors import processes as module
from hashclient.scan.executors.processes import Pool
from hashclient.scan.executors.wire import Failed, decode_task, encode, encode_task, pack_result
from hashclient.scan.values.work import WORKER_DIED, Advance, Group, Result, Task
from hashclient.system.process import bad_page


class End:
    """Replaces the connection to a worker; `answers` are its messages, and None its death."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.answers: deque[bytes | BaseException | None] = deque()
        self.is_closed = False
        self.breaks: type[OSError] | None = None

    def send_bytes(self, message: bytes) -> None:
        self.tasks.append(decode_task(message))
        if self.breaks is not None:
            raise self.breaks

    def recv_bytes(self) -> bytes:
        answer = self.answers.popleft()
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise EOFError
        return answer

    def close(self) -> None:
        self.is_closed = True


class Nursery:
    """Replaces the nursery: it makes connections while there is room, and notes who is asked."""

    def __init__(self, room: int = 99) -> None:
        self.room = room
        self.ends: list[End] = []
        self.code = 9
        self.asked: list[int] = []
        self.closed: list[float] = []

    def fork_one(self) -> tuple[int, End]:
        if len(self.ends) >= self.room:
            raise OSError(11, "No room")
        self.ends.append(End())
        return len(self.ends), self.ends[-1]

    def exit_code(self, pid: int) -> int:
        self.asked.append(pid)
        return self.code

    def close(self, wait_s: float) -> None:
        self.closed.append(wait_s)


@pytest.fixture
def nursery(monkeypatch: pytest.MonkeyPatch) -> Nursery:
    made = Nursery()
    monkeypatch.setattr(module, "Nursery", lambda _: made)

    def wait(ends: list[End], _seconds: float) -> list[End]:
        return [end for end in ends if end.answers]

    monkeypatch.setattr(module, "wait", wait)
    return made


def pool_of(jobs: int, most: int | None = None) -> Pool:
    return Pool(jobs, cast("Any", None), most)


def task(*names: str) -> Task:
    return [Group("/d", list(names), follow=False)]


def result(**fields: Any) -> bytes:
    return encode(pack_result(Result(**{"clean": 1, **fields})))


def told(item: Any) -> dict[str, str | None]:
    return {one.path: one.reason for one in item.outcomes}


def test_the_limits_of_a_pool() -> None:
    assert (module.MAX_AHEAD_BYTES, module.MAX_REPLACED, module.END_S) == (32 << 10, 16, 3.0)


@pytest.mark.parametrize(
    ("more", "is_busy", "is_sent"),
    [(0, True, True), (1, True, False), (0, False, True), (1, False, True)],
)
def test_a_long_task_is_for_a_worker_without_tasks(
    nursery: Nursery, more: int, is_busy: bool, is_sent: bool
) -> None:
    short = len(encode_task(task("x" * 30_000))) - 30_000
    long = task("x" * (module.MAX_AHEAD_BYTES - short + more))
    assert len(encode_task(long)) == module.MAX_AHEAD_BYTES + more
    with pool_of(1) as pool:
        (worker,), (end,) = pool._workers, nursery.ends
        if is_busy:
            assert pool._send(worker, task("a"))
        assert pool._send(worker, long) is is_sent
    assert len(worker.tasks) == len(end.tasks) == is_busy + is_sent


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
def test_a_task_for_a_dead_worker_counts_as_sent(nursery: Nursery, error: type[OSError]) -> None:
    with pool_of(1) as pool:
        nursery.ends[0].breaks = error
        assert pool._send(pool._workers[0], task("a"))
        assert [*pool._workers[0].tasks] == [task("a")]
        nursery.ends[0].breaks = OSError
        with pytest.raises(OSError):
            pool._send(pool._workers[0], task("b"))


def test_the_worker_with_the_fewest_tasks_is_next(nursery: Nursery) -> None:
    work: Iterator[Task | Outcome] = iter([task(name) for name in "abcdefghij"])
    with pool_of(3) as pool:
        assert list(pool._hand_out(work)) == []
        assert [[paths(one) for one in end.tasks] for end in nursery.ends] == [["a"], ["b"], ["c"]]
        pool._pacing._name_s = 0.0  # three tasks may be at each worker
        pool._workers[1].tasks.clear()
        assert list(pool._hand_out(work)) == []
        sent = [[paths(one) for one in end.tasks] for end in nursery.ends]
        assert sent == [["a", "e", "h"], ["b", "d", "f", "i"], ["c", "g", "j"]]


def paths(one: Task) -> str:
    return ",".join(name for group in one for name in group.names)


def test_what_waits_is_for_workers_without_tasks_and_comes_first(nursery: Nursery) -> None:
    with pool_of(2) as pool:
        pool._pacing._name_s = 0.0
        pool._waiting += [task("large"), task("larger"), task("largest")]
        pool._rest = task("rest")
        list(pool._hand_out(iter([task("a")])))
        assert [[paths(one) for one in end.tasks] for end in nursery.ends] == [
            ["large"],
            ["larger"],
        ]
        assert [paths(one) for one in pool._waiting] == ["largest"]
        pool._workers[1].tasks.clear()
        list(pool._hand_out(iter([task("a")])))
        # When nothing waits any more, tasks are sent ahead: the rest of a task, and then new tasks.
        sent = [[paths(one) for one in end.tasks] for end in nursery.ends]
        assert sent == [["large", "rest"], ["larger", "largest", "a"]]


def test_a_task_is_divided_also_if_it_waited(nursery: Nursery) -> None:
    names = [str(n) for n in range(20)]
    with pool_of(1) as pool:
        pool._waiting.append(task(*names))
        list(pool._hand_out(iter([])))
        assert [len(one[0].names) for one in nursery.ends[0].tasks] == [8]
        assert [len(one[0].names) for one in pool._waiting] == [12]
        pool._waiting.clear()
        pool._workers[0].tasks.clear()
        list(pool._hand_out(iter([Outcome(Kind.SKIPPED, "/s"), task(*names)])))
        assert len(pool._rest[0].names) == 12


def test_outcomes_come_before_the_tasks_behind_them(nursery: Nursery) -> None:
    skipped = [Outcome(Kind.SKIPPED, f"/s{n}") for n in range(3)]
    with pool_of(2) as pool:
        found = list(pool._hand_out(iter([*skipped[:2], task("a"), skipped[2], task("b")])))
    assert found == skipped
    assert [paths(one) for end in nursery.ends for one in end.tasks] == ["a", "b"]


def test_progress_of_a_large_file_is_taken_off_its_result(nursery: Nursery) -> None:
    answers = [encode(5), encode(7), result(), encode(1), result(), result()]
    with pool_of(1) as pool:
        items = pool.run(iter([task("a"), task("b"), task("c")]), 0.1)
        assert next(items) == Advance()
        found: list[Any] = []
        for answer in answers:
            nursery.ends[0].answers.append(answer)
            found.append(next(items))
        assert next(items, None) is None
    assert [found[n] for n in (0, 1, 3)] == [
        Advance(5, "/d/a"),
        Advance(7, "/d/a"),
        Advance(1, "/d/b"),
    ]
    reported = [found[n].reported for n in (2, 4, 5)]
    assert reported == [Advance(12, "/d/a"), Advance(1, "/d/b"), Advance()]


def test_deferred_files_are_tasks_and_not_in_results(nursery: Nursery) -> None:
    deferred = [*task("large"), *task("larger")]
    with pool_of(1) as pool:
        items = pool.run(iter([task("a")]), 0.1)
        next(items)
        nursery.ends[0].answers += [result(deferred=deferred), result(), result()]
        found = list(items)
    assert [len(one.deferred) for one in found if isinstance(one, Result)] == [0, 0, 0]
    assert [paths(one) for one in nursery.ends[0].tasks] == ["a", "large", "larger"]


def test_without_a_message_time_passes(nursery: Nursery) -> None:
    with pool_of(1) as pool:
        items = pool.run(iter([task("a")]), 0.1)
        assert [next(items) for _ in range(3)] == [Advance()] * 3
        nursery.ends[0].answers.append(result())
        assert [type(one) for one in items] == [Result]
        assert list(pool.run(iter([]), 0.1)) == []


def test_an_error_ends_the_run_after_the_results_of_others(nursery: Nursery) -> None:
    with pool_of(3) as pool:
        items = pool.run(iter([task("a"), task("b"), task("c")]), 0.1)
        next(items)
        nursery.ends[0].answers.append(None)
        nursery.ends[1].answers.append(encode(Failed("damaged", "fetch")))
        nursery.ends[2].answers.append(result(clean=4))
        assert cast("Any", next(items)).clean == 4
        with pytest.raises(StateError, match="damaged") as failed:
            next(items)
    assert failed.value.hint == "fetch"


@pytest.mark.parametrize("answer", [None, OSError(), EOFError()])
def test_the_files_of_a_dead_worker_are_unread_and_another_takes_its_place(
    nursery: Nursery, answer: BaseException | None
) -> None:
    with pool_of(2) as pool:
        items = pool.run(iter([task("a", "b"), task("c")]), 0.1)
        next(items)
        first, second = nursery.ends
        first.answers += [encode(5), answer]
        assert next(items) == Advance(5, "/d/a")
        found = next(items)
        assert isinstance(found, Result)
        assert told(found) == dict.fromkeys(("/d/a", "/d/b"), WORKER_DIED)
        assert (found.reported, found.clean) == (Advance(5, "/d/a"), 0)
        assert {one.kind for one in found.outcomes} == {Kind.UNREAD}
        assert (nursery.asked, first.is_closed, second.is_closed) == ([1], True, False)
        assert [worker.pid for worker in pool._workers] == [2, 3]
        second.answers.append(result())
        assert [type(one) for one in items] == [Result]


@pytest.mark.parametrize("code", [ExitCode.STATE, -signal.SIGBUS])
def test_a_worker_that_cannot_read_an_index_ends_the_run(nursery: Nursery, code: int) -> None:
    nursery.code = code
    with pool_of(2) as pool:
        with pytest.raises(StateError) as failed:
            pool._bury(pool._workers[0])
        assert failed.value.message == bad_page().message
        assert len(nursery.ends) == 2


@pytest.mark.parametrize("code", [0, 1, ExitCode.STATE + 1, signal.SIGBUS, -signal.SIGSEGV])
def test_so_many_workers_are_replaced(nursery: Nursery, code: int) -> None:
    nursery.code = code
    with pool_of(1) as pool:
        for _ in range(16):
            assert pool._bury(pool._workers[0]).outcomes == []
        with pytest.raises(StateError) as failed:
            pool._bury(pool._workers[0])
    assert failed.value.message == f"worker processes keep dying (exit code {code})"
    assert failed.value.hint == "the machine may be out of memory; try fewer --jobs"
    assert len(nursery.ends) == 17


def test_where_no_worker_can_be_started_the_others_go_on(nursery: Nursery) -> None:
    nursery.room = 2
    with pool_of(2) as pool:
        assert pool._bury(pool._workers[0]).outcomes == []
        assert [worker.pid for worker in pool._workers] == [2]
        with pytest.raises(StateError) as failed:
            pool._bury(pool._workers[0])
    assert failed.value.message == "a worker process has died, and there is no room for another"
    assert failed.value.hint == "the machine may be out of memory; try fewer --jobs"


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_pool_without_room_for_all_workers_is_an_error(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    nursery.room = room
    with pytest.raises(StateError) as failed, pool_of(3):
        raise AssertionError
    assert failed.value.message == "cannot start a worker process: No room"
    assert failed.value.hint == "try fewer --jobs, or raise the limits of processes and open files"
    assert [end.is_closed for end in nursery.ends] == [True] * room
    assert nursery.closed == [3.0]

    def fail(_: object) -> None:
        raise OSError(12, "No memory")

    monkeypatch.setattr(module, "Nursery", fail)
    with pytest.raises(StateError, match=r"^cannot start a worker process: No memory$"):
        pool_of(1)


def test_another_error_at_the_start_is_passed_on(nursery: Nursery) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    nursery.fork_one = stop  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt), pool_of(1):
        raise AssertionError
    assert nursery.closed == [3.0]


@pytest.mark.parametrize(
    ("wanted", "waits", "grows"),
    [(2, "walking", False), (3, "walking", True), (3, "", False), (3, "rest", True)],
)
@pytest.mark.parametrize("room", [2, 99])
def test_workers_are_added_one_by_one_while_work_waits(
    nursery: Nursery, wanted: int, waits: str, grows: bool, room: int
) -> None:
    nursery.room = room
    with pool_of(2, 9) as pool:
        pool._pacing.wanted = wanted
        pool._walking = waits == "walking"
        pool._rest = task("a") if waits == "rest" else []
        assert pool._lacks_workers is grows
        pool._grow()
        assert len(nursery.ends) == 2 + (grows and room > 2)
        # Where the system has no room for more, no more are wanted.
        limited = grows and room == 2
        assert (pool._pacing.wanted, pool._pacing.most) == ((2, 2) if limited else (wanted, 9))
        pool._waiting.append(task("b"))
        assert pool._lacks_workers is (len(nursery.ends) < pool._pacing.wanted)


@pytest.mark.parametrize(
    ("wanted", "busy", "left"),
    [
        (4, "", "abcd"),
        (3, "", "abc"),
        (2, "", "ab"),
        (2, "d", "abd"),
        (2, "c", "abc"),
        (2, "cd", "abcd"),
        (1, "a", "a"),
    ],
)
def test_the_last_workers_end_first_and_none_with_a_task(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, wanted: int, busy: str, left: str
) -> None:
    looked: list[Any] = []
    with pool_of(4, 9) as pool:
        pool._pacing.wanted = wanted
        monkeypatch.setattr(pool._pacing, "look", looked.append)
        workers = dict(zip("abcd", [*pool._workers], strict=True))
        for name in busy:
            workers[name].tasks.append(task("x"))
        nursery.ends[1].answers.append(b"")  # the result of `b` waits to be read
        pool._look()
        assert pool._workers == [workers[name] for name in left]
        gone = [name for name in "dcba" if name not in left]
        assert nursery.asked == ["abcd".index(name) + 1 for name in gone]
        assert [end.is_closed for end in nursery.ends] == [name not in left for name in "abcd"]
    assert [[pid for pid, _ in one] for one in looked] == [[1, 3, 4]]


@pytest.mark.parametrize(("due_s", "is_looked", "waited"), [(-1, True, 0.0), (9, False, 0.1)])
def test_workers_are_measured_when_that_is_due(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, due_s: float, is_looked: bool, waited: float
) -> None:
    seconds: list[float] = []
    looks: list[str] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 100.0))

    def wait(ends: list[End], left_s: float) -> list[End]:
        seconds.append(left_s)
        return ends

    with pool_of(1) as pool:
        pool._pacing.due = 100 + due_s
        monkeypatch.setattr(pool, "_look", lambda: looks.append("look"))
        monkeypatch.setattr(module, "wait", wait)
        items = pool.run(iter([task("a")]), 0.1)
        next(items)
        nursery.ends[0].answers.append(result())
        assert [type(one) for one in items] == [Result]
    assert seconds == [waited]
    assert looks == ["look"] * is_looked


def test_while_workers_are_missing_nothing_is_waited_for(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []

    def wait(ends: list[End], left_s: float) -> list[End]:
        seconds.append(left_s)
        return [end for end in ends if end.answers]

    monkeypatch.setattr(module, "wait", wait)
    with pool_of(1, 3) as pool:
        pool._pacing.wanted, pool._pacing.due = 3, float("inf")
        items = pool.run(iter([task(name) for name in "abcd"]), 0.1)
        assert [next(items) for _ in range(4)] == [Advance()] * 4
        assert (len(nursery.ends), seconds) == (3, [0, 0, 0.1])
