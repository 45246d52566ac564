"""The executor of a cluster at its edges: the messages to workers, and which batch is next."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec.msgpack import decode

from hashclient.containers.limits import Options
from hashclient.core.errors import UnreachableError, UsageError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.objecturi import parse_uri
from hashclient.core.version import __version__
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.cluster import executor as module
from hashclient.scan.cluster import worker
from hashclient.scan.cluster.buckets import _Range
from hashclient.scan.cluster.connection import GoneError
from hashclient.scan.cluster.executor import Dask
from hashclient.scan.cluster.messages import (
    PROTOCOL,
    Listed,
    Setup,
    Spec,
    ToCheck,
    ToList,
    paths_of,
)
from hashclient.scan.executors.wire import encode, names_of, pack_outcomes, pack_result
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import CLUSTER_GONE, Advance, Group, Result, Start, Task
from tests.kit import write_tree
from tests.unit.test_cluster_executor import SKIPPED, House, task, told

SPEC = Spec(PROTOCOL, __version__, "run", "key", (), b"/")
ONE = "tcp://127.0.0.1:1"


class Connection:
    """A cluster whose only worker does each batch at once, in this process."""

    is_up = True

    def __init__(self, *, shares_state: bool = True) -> None:
        self.shares_state = shares_state
        self.there = {ONE: 2}
        self.setups: list[Setup] = []
        self.answers: dict[str, bytes | None] = {}
        self.left: list[tuple[Any, ...]] = []
        self.batches: list[tuple[Any, str, bytes]] = []
        self.is_gone = False
        self.opened = self.closed = 0

    @contextlib.contextmanager
    def connect(self) -> Iterator[Any]:
        self.opened += 1
        yield self
        self.closed += 1

    def workers(self) -> dict[str, int]:
        return self.there

    def call(self, function: object, *given: Any, workers: Sequence[str]) -> dict[str, Any]:
        assert function is worker.prepare and given[1] == "hashclient-run"
        self.setups.append(decode(given[0], type=Setup))
        return dict.fromkeys(workers, b"")

    def submit(
        self, function: Callable[..., bytes], name: str, payload: bytes, *, key: str, resource: str
    ) -> str:
        assert resource == "hashclient-run"
        if self.is_gone:
            raise GoneError
        self.batches.append((function, name, payload))
        self.answers[key] = function(name, payload)
        return key

    def ended(self, _seconds: float) -> dict[str, bytes | None]:
        answers, self.answers = self.answers, {}
        return answers

    def stuck(self) -> set[str]:
        return set()

    def goodbye(self, *given: Any) -> None:
        self.left.append(given)


def check(_run: str, payload: bytes) -> bytes:
    """Answer that each file of a batch is clean."""
    batch = decode(payload, type=ToCheck)
    outcomes = [Outcome(Kind.CLEAN, path) for path in paths_of(batch.groups)]
    return encode(pack_result(Result(clean=len(outcomes), outcomes=outcomes)))


def dask(connection: Connection, **how: Any) -> Dask:
    spec = msgspec.structs.replace(SPEC, **how.pop("spec", {}))
    look_at = how.pop("look_at", lambda group: [names_of(group)])
    return Dask(cast("Any", connection.connect), spec, check=check, look_at=look_at, **how)


def run(made: Dask, *work: Task | Outcome) -> list[Any]:
    return list(made.run(iter(work), cast("Any", None)))


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("has_inventory", [False, True])
def test_a_worker_is_told_whose_inventory_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool, has_inventory: bool
) -> None:
    """Workers read the inventory themselves if they share the state; else the client sends records.

    Containers are known only if they are opened.
    """
    place = InventoryPlace(tmp_path, "key")
    made: list[tuple[Any, bool]] = []
    closed: list[str] = []

    def remember(place: Any, *, opens: bool) -> Any:
        made.append((place, opens))
        return SimpleNamespace(
            begin=lambda: place is not None,
            of=lambda _: (),
            seen=lambda: [(1, 2)],
            close=lambda: closed.append("closed"),
        )

    monkeypatch.setattr(module, "Remembered", remember)
    for containers in (None, Options()):
        connection = Connection(shares_state=shares)
        how: dict[str, Any] = {"inventory": place if has_inventory else None}
        items = run(dask(connection, spec={"containers": containers}, **how), task("a"))
        (setup,) = connection.setups
        spec = setup.spec
        assert spec.asks_inventory is (shares and has_inventory)
        assert spec.gets_known is (has_inventory and not shares)
        assert spec.containers == containers
        sent = place if has_inventory and not shares else None
        assert made.pop() == (sent, containers is not None)
        assert [item.seen for item in items if isinstance(item, Result)] == [[(1, 2)]]
    assert closed == ["closed"] * 2


def test_a_worker_is_told_where_file_systems_are_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "t", {})
    connection = Connection()
    made = dask(connection)
    points = {f"{tree}/b", f"{tree}/\udcff", f"{tree}/a"}
    mounts = cast("Mounts", SimpleNamespace(watched=lambda *_: points, look=lambda *_, **__: None))
    assert made.trees([str(tree)], ScanOptions(), mounts) is made._trees
    listed: list[Start] = []

    def list_them(_run: str, payload: bytes) -> bytes:
        listed.extend(decode(payload, type=ToList).starts)
        return encode(Listed([], [], []))

    monkeypatch.setattr(worker, "list_directories", list_them)
    assert told(run(made)) == {}
    assert connection.setups[0].spec.points == tuple(sorted(map(os.fsencode, points)))
    assert [probe.directory for probe in connection.setups[0].probes] == [os.fsencode(tree)]
    assert listed == [Start(os.fsencode(tree), verified=True, is_root=True)]


def test_links_are_followed_by_no_cluster() -> None:
    with pytest.raises(UsageError, match=r"^a cluster follows no links: ") as refused:
        dask(Connection()).trees([], ScanOptions(follow_symlinks=True), None)
    assert refused.value.hint == (
        "give the targets as PATH, or let processes of this machine check the files"
    )


@pytest.mark.parametrize("objects", [False, True])
def test_a_connection_is_kept_for_objects(objects: bool) -> None:
    connection = Connection()
    made = dask(connection, spec={"objects": objects})
    assert told(run(made, task("a"), SKIPPED)) == {
        "/d/a": (Kind.CLEAN, None),
        "/s": (Kind.SKIPPED, None),
    }
    goodbye: tuple[Any, ...] = ([], worker.forget, "run", "hashclient-run")
    assert (connection.opened, connection.closed) == (1, not objects)
    assert connection.left == [goodbye] * (not objects)
    if objects:
        bucket = made.bucket(parse_uri("s3://bkt/p"), "after", "namespace")
        assert bucket._jobs is made._jobs and bucket._namespace == "namespace"
        assert [*bucket._ranges] == [_Range(b"after", None)]
    for _ in range(2):
        made.close()
    assert (connection.closed, connection.left) == (1, [goodbye])


@pytest.mark.parametrize("objects", [False, True])
def test_a_run_that_is_left_disconnects(objects: bool) -> None:
    connection = Connection()
    items = dask(connection, spec={"objects": objects}).run(
        iter([SKIPPED, task("a")]), cast("Any", None)
    )
    assert next(items) == SKIPPED
    cast("Any", items).close()
    assert connection.closed == 1


def test_without_a_worker_nothing_is_lost_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler without workers is an error; one that is gone leaves all files unread."""
    monkeypatch.setattr("hashclient.scan.cluster.crew.FIRST_S", -1.0)
    connection = Connection()
    connection.there = {}
    with pytest.raises(UnreachableError):
        run(dask(connection), task("a"))
    assert (connection.closed, len(connection.left)) == (1, 1)
    connection = Connection()
    connection.is_gone = True
    found = told(run(dask(connection), task("a"), SKIPPED, task("b")))
    gone = dict.fromkeys(("/d/a", "/d/b"), (Kind.UNREAD, CLUSTER_GONE))
    assert found == {"/s": (Kind.SKIPPED, None), **gone}
    assert connection.closed == 1


def test_named_files_are_looked_at_by_the_client_before_they_are_sent(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"a": b"1"})
    connection = Connection()
    made = Dask(cast("Any", connection.connect), SPEC, check=check)
    run(made, [Group(str(tree), ["a"], follow=True)])
    ((_, name, payload),) = connection.batches
    (sent,) = decode(payload, type=ToCheck).groups
    assert (name, len(sent.signs)) == ("run", 24)
    notices: list[str] = []
    assert Dask(cast("Any", None), SPEC)._check is worker.check
    Dask(cast("Any", None), SPEC, on_notice=notices.append)._on_notice("n")
    assert notices == ["n"]
    Dask(cast("Any", None), SPEC)._on_notice("nobody hears it")


LISTING, FILES = ToList((Start(b"/t"),)), ToCheck(())


@pytest.mark.parametrize(
    ("slots", "out", "is_sent"),
    [
        (1, [], True),
        (1, [LISTING], False),
        (1, [FILES], True),
        (2, [LISTING], True),
        (2, [LISTING, FILES], False),
        (2, [FILES, FILES], True),
        (3, [LISTING, LISTING], True),
    ],
)
def test_few_files_wait_for_more_if_every_worker_is_busy_and_one_lists(
    monkeypatch: pytest.MonkeyPatch, slots: int, out: list[Any], is_sent: bool
) -> None:
    house = House(monkeypatch, slots=slots)
    house.jobs.open = [(one, cast("Any", None), b"") for one in out]
    batch = house.run._next_batch(iter([task("a")]))
    if is_sent:
        assert isinstance(batch, ToCheck) and [*paths_of(batch.groups)] == ["/d/a"]
    else:
        assert batch is None and house.run._backlog.names == 1
    assert house.run._is_read


def test_directories_are_listed_before_more_names_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {})
    house, read = House(monkeypatch, tree), list[str]()

    def work() -> Iterator[Task | Outcome]:
        read.append("names")
        yield task("a")

    names = work()
    batch = house.run._next_batch(names)
    assert isinstance(batch, ToList) and read == []
    backlog = house.run._backlog
    backlog.wide.append(("/w", iter([SKIPPED, names_of(Group("/w", ["x"], follow=False))])))
    batch = house.run._next_batch(names)
    assert isinstance(batch, ToCheck)
    assert [*paths_of(batch.groups)] == ["/w/x", "/d/a"]
    assert (house.run._outcomes, read, backlog.wide) == ([SKIPPED], ["names"], [])


def test_a_busy_cluster_reads_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, slots=1)
    house.jobs.open = [(FILES, cast("Any", None), b"")] * 2
    house.run._hand_out(iter([task("a")]))
    assert len(house.jobs.open) == 2 and not house.run._is_read
    house.jobs.open.pop()
    house.run._hand_out(iter([task("a")]))
    assert len(house.jobs.open) == 2


def test_progress_is_shown_once_work_was_sent_and_while_nothing_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(monkeypatch)
    ended, waits = house.jobs.ended, iter([True, True, False])
    monkeypatch.setattr(house.jobs, "ended", lambda s: [] if next(waits) else ended(s))
    looks: list[str] = []
    monkeypatch.setattr(house.jobs, "look", lambda: looks.append("look"))
    items = list(house.run.go(iter([SKIPPED, task("a")])))
    assert [type(item) for item in items] == [Outcome, Advance, Advance, Advance, Result]
    assert looks == ["look"] * 3
    assert list(House(monkeypatch).run.go(iter([SKIPPED]))) == [SKIPPED]


def test_where_the_scheduler_goes_while_directories_are_compared_they_are_unread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"a/x": b"", "b/x": b""})
    house = House(monkeypatch, tree)

    def gone(_: object) -> dict[str, str | None]:
        raise GoneError

    monkeypatch.setattr(house.crew, "verify", gone)
    paths = [f"{tree}/a", f"{tree}/gone", f"{tree}/b"]
    with pytest.raises(GoneError):
        house.run._cross(paths)
    reasons = {one.path: one.reason for one in house.run._outcomes}
    missing = "no such file or directory"
    assert reasons == dict(zip(paths, (CLUSTER_GONE, missing, CLUSTER_GONE), strict=True))
    assert all(map(house.trees.coverage.has_failed, paths))


@pytest.mark.parametrize("back", [1, 2, 3])
def test_files_that_come_back_stay_together_unless_all_come_back(
    monkeypatch: pytest.MonkeyPatch, back: int
) -> None:
    def answer(batch: ToCheck) -> bytes:
        paths = [*paths_of(batch.groups)]
        left = [path.rpartition("/")[2] for path in paths[3 - back :]] if len(paths) == 3 else []
        done = paths[: len(paths) - len(left)]
        outcomes = [Outcome(Kind.CLEAN, path) for path in done]
        packed = pack_result(Result(clean=len(done), outcomes=outcomes, taken_s=1.0))
        packed.deferred = [names_of(*task(*left))] if left else []
        return encode(packed)

    house = House(monkeypatch, answer=answer)
    found, _ = house.go(task("a", "b", "c"))
    assert found == dict.fromkeys(("/d/a", "/d/b", "/d/c"), (Kind.CLEAN, None))
    assert [len(one) for one in house.checked] == [3, *([1] * 3 if back == 3 else [back])]


def test_a_directory_that_is_the_same_everywhere_is_listed_from_its_top(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another file system begins at two directories; at one of them, workers find another one."""
    tree = write_tree(tmp_path / "t", {"a/x": b"", "b/y": b"", "z": b""})
    house = House(monkeypatch, tree)
    house.trees.points |= {f"{tree}/a", f"{tree}/b"}
    house.crew.problems = {f"{tree}/b": "is another directory there"}
    found, _ = house.go()
    assert found == {
        f"{tree}/a/x": (Kind.CLEAN, None),
        f"{tree}/z": (Kind.CLEAN, None),
        f"{tree}/b": (Kind.UNREAD, "not the same everywhere: is another directory there"),
    }


def test_failures_of_a_listing_are_known_to_the_trees(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"a": b""})
    house = House(monkeypatch, tree)
    unread = Outcome(Kind.UNREAD, f"{tree}/d", reason="permission denied")
    answer = Listed([], pack_outcomes([unread]), [])
    monkeypatch.setattr(worker, "list_directories", lambda *_: encode(answer))
    found, _ = house.go()
    assert found == {f"{tree}/d": (Kind.UNREAD, "permission denied")}
    assert house.trees.coverage.has_failed(f"{tree}/d")
    assert not house.trees.coverage.has_failed(f"{tree}/a")
