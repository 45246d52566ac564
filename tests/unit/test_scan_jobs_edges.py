"""The batches that a cluster has not answered: how many there may be, and how each of them ends."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.scan.cluster import jobs as module
from hashclient.scan.cluster.connection import GoneError
from hashclient.scan.cluster.jobs import AHEAD, MOST_DEATHS, PATIENCE_S, Jobs


class Cluster:
    """Replaces the connection to a scheduler and its workers, and notes each call."""

    resource = "scan-x"

    def __init__(self, slots: int = 2, most: int = 2) -> None:
        self.slots, self.most = slots, most
        self.idle_since: float | None = None
        self.is_up = self.looks = True
        self.submitted: list[tuple[object, ...]] = []
        self.abandoned: list[list[str]] = []
        self.waiting: set[str] = set()
        self.answers: dict[str, bytes | None] = {}
        self.waited: list[float] = []
        self.gone = False
        self.asked = 0

    def submit(self, *call: object, key: str, resource: str) -> Any:
        if self.gone:
            raise GoneError
        self.submitted.append((*call, resource))
        return SimpleNamespace(key=key)

    def ended(self, seconds: float) -> dict[str, bytes | None]:
        self.waited.append(seconds)
        found, self.answers = self.answers, {}
        return found

    def look(self) -> bool:
        return self.looks

    def stuck(self) -> set[str]:
        self.asked += 1
        return set(self.waiting)

    def abandon(self, futures: Collection[Any]) -> None:
        if self.gone:
            raise GoneError
        self.abandoned.append(sorted(future.key for future in futures))


def function(_name: str, _payload: bytes) -> bytes:
    return b""


def jobs_of(cluster: Any, *batches: str) -> Jobs:
    made = Jobs(cluster, cluster, "x")
    for batch in batches:
        made.submit(batch, function, batch.encode())
    return made


def test_how_long_and_how_often_is_waited() -> None:
    assert (AHEAD, MOST_DEATHS, PATIENCE_S) == (2, 3, 60.0)


@pytest.mark.parametrize(
    ("slots", "sent", "has_room"),
    [(0, 0, False), (1, 1, True), (1, 2, False), (2, 3, True), (2, 4, False), (2, 5, False)],
)
def test_two_batches_are_sent_for_each_that_can_be_checked_now(
    slots: int, sent: int, has_room: bool
) -> None:
    jobs = jobs_of(Cluster(slots), *map(str, range(sent)))
    assert (jobs.has_room, jobs.slots, len(jobs)) == (has_room, slots, sent)
    assert jobs.batches == [str(n) for n in range(sent)]


def test_each_batch_has_a_key_of_its_own_and_ends_once() -> None:
    cluster = Cluster()
    jobs = jobs_of(cluster, "a", "b")
    assert cluster.submitted == [
        (function, "x", b"a", "scan-x"),
        (function, "x", b"b", "scan-x"),
    ]
    assert [future.key for future in jobs.futures] == ["scan-x-0", "scan-x-1"]
    cluster.answers = {"scan-x-1": b"answer", "unknown": b"of an earlier batch"}
    assert jobs.ended(0.5) == [("b", b"answer")]
    cluster.answers = {"scan-x-1": b"again", "scan-x-0": None}
    assert jobs.ended(0.0) == [("a", None)]
    assert (cluster.waited, len(jobs)) == ([0.5, 0.0], 0)
    jobs.submit("c", function, b"c")
    assert [future.key for future in jobs.futures] == ["scan-x-2"]


@pytest.mark.parametrize("is_up", [True, False])
def test_without_answers_a_scheduler_that_is_gone_is_noticed(is_up: bool) -> None:
    """Answers that came before the end are still taken."""
    cluster = Cluster()
    cluster.is_up = is_up
    jobs = jobs_of(cluster, "a")
    cluster.answers = {"scan-x-0": b"answer"}
    assert jobs.ended(0) == [("a", b"answer")]
    if is_up:
        assert jobs.ended(0) == []
    else:
        with pytest.raises(GoneError):
            jobs.ended(0)


def test_a_batch_that_could_not_be_sent_counts_as_sent() -> None:
    """The caller then reports it as unread, with all other batches."""
    cluster = Cluster()
    cluster.gone = True
    jobs = Jobs(cluster, cluster, "x")  # type: ignore[arg-type]
    with pytest.raises(GoneError):
        jobs.submit("a", function, b"a")
    assert (jobs.batches, jobs.take_all(), len(jobs)) == (["a"], ["a"], 0)


@pytest.mark.parametrize(
    ("since", "is_gone"), [(None, False), (100.0, False), (40.0, False), (39.9, True)]
)
def test_without_any_worker_a_scan_waits_for_a_minute(
    monkeypatch: pytest.MonkeyPatch, since: float | None, is_gone: bool
) -> None:
    cluster = Cluster()
    cluster.idle_since = since
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    jobs = jobs_of(cluster, "a")
    if is_gone:
        with pytest.raises(GoneError):
            jobs.look()
    else:
        jobs.look()
    assert jobs.batches == ["a"]


def test_batches_that_are_stuck_at_two_looks_are_sent_again() -> None:
    cluster = Cluster(most=1)
    jobs = jobs_of(cluster, "a", "b", "c")
    cluster.waiting = {"scan-x-0", "scan-x-1", "of another scan"}
    jobs.look()
    assert cluster.abandoned == []
    cluster.waiting -= {"scan-x-1"}
    cluster.waiting |= {"scan-x-2"}
    jobs.look()
    assert cluster.abandoned == [["scan-x-0"]]
    assert cluster.submitted[3:] == [(function, "x", b"a", "scan-x")]
    assert jobs.batches == ["b", "c", "a"]
    assert [future.key for future in jobs.futures] == ["scan-x-1", "scan-x-2", "scan-x-3"]
    jobs.look()
    assert cluster.abandoned[1:] == [["scan-x-2"]]
    # The answer to the call that was cancelled comes too late.
    cluster.answers = {"scan-x-0": b"late"}
    assert jobs.ended(0) == []


def test_batches_that_were_answered_meanwhile_are_not_sent_again() -> None:
    cluster = Cluster()
    jobs = jobs_of(cluster, "a")
    cluster.waiting = {"scan-x-0"}
    jobs.look()
    cluster.answers = {"scan-x-0": b""}
    jobs.ended(0)
    jobs.look()
    assert (cluster.abandoned, len(cluster.submitted)) == ([], 1)


@pytest.mark.parametrize(("looks", "slots", "asked"), [(False, 2, 0), (True, 0, 0), (True, 1, 3)])
def test_stuck_batches_are_looked_for_if_a_worker_is_there(
    looks: bool, slots: int, asked: int
) -> None:
    cluster = Cluster(slots, most=1)
    jobs = jobs_of(cluster, "a")
    cluster.looks, cluster.waiting = looks, {"scan-x-0"}
    for _ in range(3):
        jobs.look()
    assert cluster.asked == asked
    assert len(cluster.submitted) == (2 if asked else 1)


def test_where_no_worker_was_for_a_look_batches_are_stuck_anew() -> None:
    cluster = Cluster()
    jobs = jobs_of(cluster, "a")
    cluster.waiting = {"scan-x-0"}
    for slots in (2, 0, 2):
        cluster.slots = slots
        jobs.look()
    assert cluster.abandoned == []
    jobs.look()
    assert cluster.abandoned == [["scan-x-0"]]


@pytest.mark.parametrize(("most", "sent"), [(1, 3), (2, 2), (3, 2)])
def test_a_batch_is_lost_after_three_deaths(most: int, sent: int) -> None:
    cluster = Cluster(most=most)
    jobs = jobs_of(cluster, "a", "b")
    for _ in range(8):
        sent_now = zip(jobs.batches, jobs.futures, strict=True)
        cluster.waiting = {future.key for one, future in sent_now if one == "a"}
        jobs.look()
    assert sum(call[2] == b"a" for call in cluster.submitted) == sent
    assert jobs.batches == ["b"]
    assert (jobs.take_lost(), jobs.take_lost()) == (["a"], [])


@pytest.mark.parametrize("gone", [False, True])
def test_all_batches_can_be_forgotten(gone: bool) -> None:
    cluster = Cluster(most=3)
    jobs = jobs_of(cluster, "a", "b")
    cluster.gone = gone
    jobs.abandon()
    assert cluster.abandoned == ([] if gone else [["scan-x-0", "scan-x-1"]])
    assert (len(jobs), jobs.take_lost(), jobs.futures) == (0, [], [])
    jobs.abandon()  # nothing is left to be cancelled
    assert len(cluster.abandoned) == (not gone)


def test_what_is_forgotten_is_not_lost_as_well() -> None:
    cluster = Cluster()
    jobs = jobs_of(cluster, "a")
    for number in range(2):
        cluster.waiting = {f"scan-x-{number}"}
        jobs.look()
        jobs.look()
    assert len(jobs) == 0
    jobs.abandon()
    assert jobs.take_lost() == []
