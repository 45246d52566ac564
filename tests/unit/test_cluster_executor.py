"""One run on a cluster whose workers are local functions: the sent batches and the answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from msgspec.msgpack import decode

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Hit, Outcome, Outer
from hashclient.core.verdict import Counts
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.records import RECORD
from hashclient.scan.cluster import worker
from hashclient.scan.cluster.answers import verified
from hashclient.scan.cluster.executor import _Run
from hashclient.scan.cluster.known import Remembered
from hashclient.scan.cluster.listing import ClusterTrees, Errand
from hashclient.scan.cluster.messages import (
    INODE,
    SIGN,
    Listed,
    Lost,
    ToCheck,
    ToList,
    paths_of,
)
from hashclient.scan.executors.interface import TICK_S
from hashclient.scan.executors.wire import (
    Checked,
    Failed,
    Names,
    encode,
    names_of,
    pack_outcomes,
    pack_result,
)
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import (
    CLUSTER_GONE,
    WORKER_DIED,
    WORKER_FAILED,
    Advance,
    Group,
    Result,
    Start,
    Task,
)
from tests.kit import write_tree

Answer = Callable[[ToCheck], bytes | None]


class Crew:
    """Workers on which every directory is the same as on the client."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.problems: dict[str, str] = {}

    def without_probes(self, found: Names) -> Names:
        return found

    def verify(self, directories: list[str]) -> dict[str, str | None]:
        return {path: self.problems.get(path) for path in directories}


class Jobs:
    """Simulates the jobs of a cluster: two batches fit each slot, and run when collected."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.open: list[tuple[Any, Callable[[str, bytes], bytes | None], bytes]] = []
        self.lost: list[Any] = []
        self.most = 0

    def __len__(self) -> int:
        return len(self.open)

    @property
    def slots(self) -> int:
        return self.crew.slots

    @property
    def has_room(self) -> bool:
        return len(self.open) < 2 * self.slots

    @property
    def batches(self) -> list[Any]:
        return [batch for batch, _, _ in self.open]

    def submit(self, batch: Any, function: Any, payload: bytes) -> None:
        self.open.append((batch, function, payload))
        self.most = max(self.most, len(self.open))

    def ended(self, seconds: float) -> list[tuple[Any, bytes | None]]:
        assert seconds == TICK_S
        batch, function, payload = self.open.pop(0)
        return [(batch, function("run", payload))]

    def look(self) -> None: ...

    def take_lost(self) -> list[Any]:
        lost, self.lost = self.lost, []
        return lost

    def take_all(self) -> list[Any]:
        batches, self.open = self.batches, []
        return batches


def clean(batch: ToCheck) -> bytes:
    """Answer that each file of a batch is clean, by its name."""
    outcomes = [Outcome(Kind.CLEAN, path) for path in paths_of(batch.groups)]
    return encode(pack_result(Result(clean=len(outcomes), outcomes=outcomes, taken_s=1.0)))


class House:
    """A run over a tree and over the given names."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *paths: Path, answer: Answer = clean, slots: int = 1
    ) -> None:
        self.trees = ClusterTrees([str(path) for path in paths], ScanOptions())
        self.trees.begin()
        self.crew = Crew(slots)
        self.jobs = Jobs(self.crew)
        self.checked: list[list[str]] = []

        def check(_run: str, payload: bytes) -> bytes | None:
            batch = decode(payload, type=ToCheck)
            self.checked.append([*paths_of(batch.groups)])
            return answer(batch)

        def list_them(_run: str, payload: bytes) -> bytes:
            starts = decode(payload, type=ToList).starts
            return encode(Errand("/", frozenset(self.trees.points), []).run(starts))

        monkeypatch.setattr(worker, "list_directories", list_them)
        self.run = _Run(
            *(self.trees, cast(Any, self.crew), cast(Any, self.jobs)),
            *(Remembered(None, opens=True), check),  # type: ignore[arg-type]
            lambda group: [names_of(group)],
        )

    def go(self, *work: Task | Outcome) -> tuple[dict[str, tuple[Kind, str | None]], list[Any]]:
        """Return the outcome of each file and all yielded values; no file has two outcomes."""
        items = list(self.run.go(iter(work)))
        return told(items), items


def told(items: list[Any]) -> dict[str, tuple[Kind, str | None]]:
    outcomes = [item for item in items if isinstance(item, Outcome)]
    for item in items:
        outcomes += item.outcomes if isinstance(item, Result) else []
    assert len({one.path for one in outcomes}) == len(outcomes)
    return {one.path: (one.kind, one.reason) for one in outcomes}


def task(*names: str) -> Task:
    return [Group("/d", list(names), follow=True, is_named=True)]


SKIPPED = Outcome(Kind.SKIPPED, "/s")


@pytest.mark.parametrize("slots", [1, 3])
def test_each_file_of_trees_and_names_is_checked_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slots: int
) -> None:
    tree = write_tree(tmp_path / "t", {f"{n}/{k}": b"" for n in range(3) for k in range(3)})
    house = House(monkeypatch, tree, slots=slots)
    found, items = house.go(task("a", "b"), SKIPPED, task("c"))
    files = [f"{tree}/{n}/{k}" for n in range(3) for k in range(3)] + [f"/d/{n}" for n in "abc"]
    assert found == dict.fromkeys(files, (Kind.CLEAN, None)) | {"/s": (Kind.SKIPPED, None)}
    assert sum(isinstance(item, Advance) for item in items) == 1
    assert 1 <= house.jobs.most <= 2 * slots


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 2_500])
def test_outcomes_come_as_they_are_however_many(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    outcomes = [Outcome(Kind.SKIPPED, f"/s{n}") for n in range(count)]
    found, items = House(monkeypatch).go(*outcomes)
    assert len(found) == count
    assert [item for item in items if isinstance(item, Outcome)] == outcomes


def test_so_many_outcomes_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def work() -> Iterator[Outcome]:
        for number in range(2_500):
            read.append(number)
            yield Outcome(Kind.SKIPPED, f"/s{number}")

    run = House(monkeypatch).run.go(work())
    next(run)
    assert len(read) == 1_000


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, WORKER_DIED),
        (b"no sense", WORKER_FAILED),
        (encode(Lost("it was lost")), "it was lost"),
    ],
)
def test_a_batch_without_an_answer_is_unread(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, reason: str
) -> None:
    found, _ = House(monkeypatch, answer=lambda _: answer).go(task("a", "b"))
    assert found == dict.fromkeys(("/d/a", "/d/b"), (Kind.UNREAD, reason))


def result_of(**fields: Any) -> bytes:
    """Return the answer for the two files of a batch: both clean, except for the given `fields`."""
    return encode(pack_result(msgspec.structs.replace(Result(clean=2), **fields)))


def group_of_other(**fields: Any) -> bytes:
    """Return a worker's answer that hands back a group of files whose `fields` were changed."""
    group = names_of(Group("/d", ["a"], follow=True))
    answer = pack_result(Result(clean=1))
    return encode(
        msgspec.structs.replace(answer, deferred=[msgspec.structs.replace(group, **fields)])
    )


def match(path: str = "/d/a", generation: int = 1, **fields: Any) -> list[Outcome]:
    hit = Hit("base", "e-1", "c", generation, (Algorithm.MD5,), complete=True)
    return [Outcome(**{"kind": Kind.MATCH, "path": path, "hits": (hit,), **fields})]


@pytest.mark.parametrize(
    "answer",
    [
        result_of(clean=-1),
        result_of(clean=1 << 63),
        result_of(bytes_read=1 << 63),
        result_of(not_opened={"7z": -1}),
        result_of(taken_s=float("nan")),
        result_of(learned=[(1, b"short")]),
        result_of(learned=[(1, b"")]),
        result_of(learned=[(1 << 63, bytes(RECORD.itemsize))]),
        result_of(seen=[(1 << 63, 1)]),
        result_of(containers=[(1, b"short", b"")]),
        result_of(containers=[(1, bytes(RECORD.itemsize), b"short")]),
        result_of(outcomes=match("/e/a")),
        result_of(outcomes=match("/d/a/b")),
        result_of(outcomes=match("a")),
        result_of(outcomes=match("/d/a\0b")),
        result_of(outcomes=match(size=1 << 63)),
        result_of(outcomes=match(generation=1 << 63)),
        result_of(outcomes=match(outer=Outer(1 << 63, {}, 1))),
        result_of(outcomes=match(kind=Kind.ACCEPTED, hits=())),
        result_of(outcomes=match(kind=Kind.EXCEPTED)),
        result_of(outcomes=match(kind=Kind.UNREAD, hits=(), reason="\x1b[2J")),
        group_of_other(directory=b"/e"),
        group_of_other(count=2),
        group_of_other(count=3, names=b"a\0b\0c"),
        group_of_other(names=b"a\0b"),
        group_of_other(inodes=b"short"),
        group_of_other(signs=b"short"),
        group_of_other(file_system=-1),
        encode(Listed([], [], [])),
        encode(Lost("\x1b[2J")),
    ],
)
def test_an_answer_that_makes_no_sense_or_is_about_other_files_leaves_them_unread(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    found, items = House(monkeypatch, answer=lambda _: answer).go(task("a", "b"))
    assert found == dict.fromkeys(("/d/a", "/d/b"), (Kind.UNREAD, WORKER_FAILED))
    assert not any(isinstance(item, Result) for item in items)


def test_an_answer_may_have_files_by_new_names_and_of_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records, members = bytes(2 * RECORD.itemsize), bytes(3 * MEMBER.itemsize)
    whole = result_of(
        outcomes=[*match("/d/new"), *match("/d/a", members=("in/x",), outer=Outer(9, {}, 1))],
        learned=[(2**63 - 1, records)],
        containers=[(1, records[: RECORD.itemsize], members)],
        lost=[2**64 - 1],
    )
    items = list(House(monkeypatch, answer=lambda _: whole).run.go(iter([task("a", "b")])))
    (result,) = (item for item in items if isinstance(item, Result))
    assert [one.path for one in result.outcomes] == ["/d/new", "/d/a"]


@pytest.mark.parametrize(
    "rest",
    [
        Listed([], [], [Start(b"/elsewhere", is_border=True)]),
        Listed([], [], [Start(b"/elsewhere", is_wide=True)]),
        Listed([], [], [Start(b"{}-beside")]),
        # A tree that is handed back would be handed back for ever.
        Listed([], [], [Start(b"{}", verified=True, is_root=True)]),
        Listed([], [], [Start(b"{}/", is_border=True)]),
        Listed([], [], [Start(b"{}/a\0b", is_wide=True)]),
        Listed([names_of(Group("/elsewhere", ["a"], follow=False))], [], []),
        Listed([], pack_outcomes([Outcome(Kind.SKIPPED, "/elsewhere")]), []),
        Checked(0, Counts(), [], [], [], [], [], 0.0, []),
    ],
)
def test_a_listing_of_other_directories_leaves_the_tree_unread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rest: Any
) -> None:
    tree = write_tree(tmp_path / "t", {"f": b""})
    if isinstance(rest, Listed):
        starts = [(one, one.path.replace(b"{}", os.fsencode(tree))) for one in rest.rest]
        rest.rest = [msgspec.structs.replace(one, path=path) for one, path in starts]
    house = House(monkeypatch, tree)
    monkeypatch.setattr(worker, "list_directories", lambda *_: encode(rest))
    found, _ = house.go()
    assert found == {str(tree): (Kind.UNREAD, WORKER_FAILED)}
    assert house.trees.coverage.has_failed(str(tree))


def test_the_client_lists_a_wide_directory_and_a_worker_lists_any_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"w/a": b"", "n/b": b"", "w/c/d": b""})
    house, asked = House(monkeypatch, tree), list[bytes]()
    list_them = worker.list_directories

    def list_one(run: str, payload: bytes) -> bytes:
        starts = decode(payload, type=ToList).starts
        asked.extend(start.path for start in starts)
        if os.fsencode(tree) not in asked[-1:]:
            return list_them(run, payload)
        rest = [Start(os.fsencode(tree / name), is_wide=name == "w") for name in ("w", "n")]
        return encode(Listed([], [], rest))

    monkeypatch.setattr(worker, "list_directories", list_one)
    found, _ = house.go()
    assert found == {f"{tree}/{name}": (Kind.CLEAN, None) for name in ("w/a", "n/b", "w/c/d")}
    assert os.fsencode(tree / "w") not in asked and os.fsencode(tree / "n") in asked


def test_a_damaged_index_ends_the_run_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, answer=lambda _: encode(Failed("damaged", "fetch")))
    with pytest.raises(StateError, match="damaged") as failed:
        house.go(SKIPPED, task("a"))
    assert failed.value.hint == "fetch"


def test_the_words_of_a_worker_do_nothing_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, answer=lambda _: encode(Failed("/a\\b: \x1b[2J", "\x1b]0;x")))
    with pytest.raises(StateError) as failed:
        house.go(task("a"))
    assert failed.value.message.isprintable()
    assert failed.value.hint == "\\x1b]0;x"


def test_what_is_handed_back_is_checked_again_and_large_files_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([True, False, False, False])

    def answer(batch: ToCheck) -> bytes | None:
        if not next(answers):
            return clean(batch)
        packed = pack_result(Result(clean=1, outcomes=[Outcome(Kind.CLEAN, "/d/a")], taken_s=1.0))
        packed.deferred = [names_of(*task("b"))]
        packed.large = [names_of(*task("c")), names_of(*task("e"))]
        return encode(packed)

    house, took = House(monkeypatch, answer=answer), list[tuple[int, float]]()
    monkeypatch.setattr(house.run._backlog, "took", lambda *given: took.append(given))
    found, _ = house.go(task("a", "b", "c", "e"))
    assert took == [(1, 1.0)] * 4  # each batch checked one file in one second
    assert set(found) == {f"/d/{name}" for name in "abce"}
    assert house.checked[0] == ["/d/a", "/d/b", "/d/c", "/d/e"]
    assert sorted(house.checked[1:]) == [["/d/b"], ["/d/c"], ["/d/e"]]


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("is_slow", [True, False])
def test_a_batch_that_is_handed_back_whole_is_divided_and_ends(
    monkeypatch: pytest.MonkeyPatch, is_slow: bool, is_large: bool
) -> None:
    """A slow worker checks at least a file that is alone; what is handed back then is unread."""

    def answer(batch: ToCheck) -> bytes:
        if is_slow and sum(group.count for group in batch.groups) == 1:
            return clean(batch)
        packed = pack_result(Result())
        packed.large, packed.deferred = [], [*batch.groups]
        if is_large:
            packed.large, packed.deferred = packed.deferred, packed.large
        return encode(packed)

    house = House(monkeypatch, answer=answer)
    found, _ = house.go(task("a", "b"))
    outcome = (Kind.CLEAN, None) if is_slow else (Kind.UNREAD, WORKER_FAILED)
    assert found == dict.fromkeys(("/d/a", "/d/b"), outcome)
    assert sorted(house.checked) == [["/d/a"], ["/d/a", "/d/b"], ["/d/b"]]


@pytest.mark.parametrize(
    ("rest", "is_taken"),
    [
        ([b"/t/b"], True),
        ([b"/t/b", b"/t/a/x", b"/t/new/x"], True),
        ([b"/t/b", b"/t/b"], False),
        ([b"/t/a"], False),
        ([b"/t"], False),
        ([b"/t/new"], False),
    ],
)
def test_a_worker_lists_the_first_directory_of_its_batch_at_least(
    rest: list[bytes], is_taken: bool
) -> None:
    batch = ToList((Start(b"/t/a"), Start(b"/t/b")))
    listed = Listed([], [], [Start(path) for path in rest])
    assert verified(batch, listed) == (listed if is_taken else Lost(WORKER_FAILED))


def test_lost_batches_are_unread_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch)
    house.jobs.lost = [ToCheck((names_of(*task("x")),))]
    found, _ = house.go(task("a"))
    assert found == {"/d/x": (Kind.UNREAD, WORKER_DIED), "/d/a": (Kind.CLEAN, None)}


def test_when_the_cluster_has_gone_everything_left_is_unread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When the cluster is gone, all files that have no outcome yet are unread."""
    tree = write_tree(tmp_path / "t", {"x": b""})
    house = House(monkeypatch, tree)
    house.jobs.open = [(ToCheck((names_of(*task("1")),)), cast(Any, None), b"")]
    house.jobs.lost = [ToCheck((names_of(*task("2")),))]
    house.run._backlog.add_groups([names_of(*task("3"))])
    items = list(house.run.lose_all(iter([SKIPPED, task("4")])))
    gone = (Kind.UNREAD, CLUSTER_GONE)
    assert told(items) == {
        "/d/2": (Kind.UNREAD, WORKER_DIED),
        **dict.fromkeys(("/d/1", "/d/3", str(tree), "/d/4"), gone),
        "/s": (Kind.SKIPPED, None),
    }
    assert house.trees.coverage.has_failed(str(tree))


@pytest.mark.parametrize("field", ["inodes", "signs"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_worker_gives_numbers_of_all_files_of_a_directory_or_of_none(
    field: str, count: int
) -> None:
    one = INODE.itemsize if field == "inodes" else SIGN.itemsize
    names = names_of(Group("/t", ["a", "b"], follow=False))
    names = msgspec.structs.replace(names, **{field: bytes(one * count)})
    listed = Listed([names], [], [])
    is_taken = count in (0, 2)
    batch = ToList((Start(b"/t"),))
    assert verified(batch, listed) == (listed if is_taken else Lost(WORKER_FAILED))
