"""Rules for every executor: each batch has one result, and a lost file is unread, not clean."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import cloudpickle
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome, Seen
from hashclient.core.verdict import Summary
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cluster.backlog import MOST_NAMES
from hashclient.scan.cluster.executor import Dask
from hashclient.scan.cluster.probes import PREFIX
from hashclient.scan.cluster.worker import caught, checked
from hashclient.scan.executors.here import Inline
from hashclient.scan.executors.interface import Checkers, Executor, MakeChecker, OnBytes
from hashclient.scan.executors.processes import Pool
from hashclient.scan.executors.wire import names_of
from hashclient.scan.run.engine import Progress, scan
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Advance, Group, Result, Task
from tests.kit import fast_directory, write_tree
from tests.kit.cluster import LISTED, SharedCluster
from tests.kit.depth import examples

# The test runner may have a thread, which the forked processes here do not use.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


class Processes(Executor):
    """Runs batches in worker processes: `jobs`, and up to `most`."""

    def __init__(self, jobs: int, most: int | None = None) -> None:
        self._jobs, self._most = jobs, most

    def run(
        self, work: Iterator[Task | Outcome], make_checker: Checkers
    ) -> Iterator[Result | Outcome | Advance]:
        with Pool(self._jobs, make_checker, self._most) as pool:
            yield from pool.run(work, 0.05)


Make = Callable[[], Executor]
MAKERS: dict[str, Make] = {
    "inline": Inline,
    "processes-1": lambda: Processes(1),
    "processes-3": lambda: Processes(3),
    "processes-1-to-8": lambda: Processes(1, 8),
}
DASK = "dask"


@pytest.fixture(params=[*MAKERS, DASK])
def make(request: pytest.FixtureRequest) -> Make:
    """Return a function that makes the executor."""
    if request.param != DASK:
        return MAKERS[request.param]
    # Workers cannot import the tests, so functions of this module are sent to them by value.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster: SharedCluster = request.getfixturevalue("cluster")
    return functools.partial(OnCluster, cluster)


class OnCluster(Executor):
    """Runs functions of a test for each batch on the workers of a cluster."""

    def __init__(self, cluster: SharedCluster) -> None:
        self._cluster = cluster

    def run(
        self, work: Iterator[Task | Outcome], make_checker: MakeChecker
    ) -> Iterator[Result | Outcome | Advance]:
        dask = Dask(
            self._cluster.connect,
            self._cluster.spec(),
            check=functools.partial(check_as_told, make_checker),
            look_at=lambda group: [names_of(group)],  # the named files do not exist
        )
        return dask.run(work, make_checker)


def check_as_told(make_checker: MakeChecker, _: str, payload: bytes) -> bytes:
    # Imported here, because a worker cannot get it with the function.
    from hashclient.scan.executors.wire import encode

    return encode(caught(lambda: checked(lambda _known: make_checker(None), None, payload)))


def maker(check: Callable[[Task], Result]) -> Checkers:
    """Return a function that makes a checker from `check`."""

    class Fake:
        def __init__(self, _: OnBytes | None) -> None:
            pass

        def check(self, task: Task, *, defer: bool = False) -> Result:
            assert not defer
            return check(task)

    return cast("Checkers", Fake)


def task(*names: str, directory: str = "d") -> Task:
    return [Group(directory, list(names), follow=False)]


def paths(items: Task) -> list[str]:
    return [f"{group.directory}/{name}" for group in items for name in group.names]


def all_clean(items: Task) -> Result:
    return Result(outcomes=[Outcome(Kind.CLEAN, path) for path in paths(items)])


def told(results: Iterable[Result | Outcome | Advance]) -> list[Outcome]:
    """Return all outcomes of a run, from the results and from the input."""
    found: list[Outcome] = []
    for result in results:
        if isinstance(result, Outcome):
            found.append(result)
        elif isinstance(result, Result):
            assert not result.deferred
            found += result.outcomes
    return found


@pytest.mark.sampled
@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_every_batch_ends_exactly_once(make: Make, count: int) -> None:
    tasks = [task(f"{n}a", f"{n}b") for n in range(count)]
    found = told(make().run(iter(tasks), maker(all_clean)))
    assert sorted(o.path for o in found) == sorted(path for t in tasks for path in paths(t))


@pytest.mark.sampled
def test_outcomes_among_the_batches_come_as_they_are(make: Make) -> None:
    skipped = [Outcome(Kind.SKIPPED, str(n), reason="pipe") for n in range(5)]
    items = [item for n in range(5) for item in (skipped[n], task(str(n)))]
    found = told(make().run(iter(items), maker(all_clean)))
    assert [o for o in found if o.kind is Kind.SKIPPED] == skipped
    assert len(found) == 10


@pytest.mark.sampled
def test_tasks_that_are_handed_back_are_checked_one_by_one(make: Make) -> None:
    def check(items: Task) -> Result:
        if len(paths(items)) == 1:
            return all_clean(items)
        handed_back = [Group(g.directory, [n], g.follow) for g in items for n in g.names]
        return Result(clean=7, deferred=handed_back)

    tasks = [task("a", "b", "c"), task("d", "e", directory="f")]
    found = told(make().run(iter(tasks), maker(check)))
    assert sorted(o.path for o in found) == ["d/a", "d/b", "d/c", "f/d", "f/e"]


@pytest.mark.sampled
def test_an_index_that_is_damaged_ends_the_run_with_its_error(make: Make) -> None:
    def check(items: Task) -> Result:
        if "d/5" in paths(items):
            raise StateError("index file is damaged: run-1", hint="run it")
        return all_clean(items)

    found: list[Outcome] = []

    def collect() -> None:
        for result in make().run(iter([task(str(n)) for n in range(50)]), maker(check)):
            found.extend(told([result]))

    with pytest.raises(StateError) as caught:
        collect()
    assert (caught.value.message, caught.value.hint) == ("index file is damaged: run-1", "run it")
    assert "d/5" not in {o.path for o in found}


@pytest.mark.sampled
def test_of_a_batch_that_is_lost_every_file_is_unread(make: Make) -> None:
    """If this process itself is the executor, the error ends the run, and no file is clean."""

    def check(items: Task) -> Result:
        if "d/5a" in paths(items):
            raise ValueError("a bug")
        return all_clean(items)

    tasks = [task(f"{n}a", f"{n}b") for n in range(20)]
    found: dict[str, Kind] = {}
    ended = False
    try:
        for outcome in told_one_by_one(make().run(iter(tasks), maker(check))):
            assert outcome.path not in found
            found[outcome.path] = outcome.kind
    except ValueError:
        ended = True
    lost = {"d/5a", "d/5b"}
    if ended:
        assert not lost & found.keys()
    else:
        assert found.keys() == {path for t in tasks for path in paths(t)}
        assert {found[path] for path in lost} == {Kind.UNREAD}
    assert ended == (make is Inline)


def told_one_by_one(results: Iterable[Result | Outcome | Advance]) -> Iterator[Outcome]:
    for result in results:
        yield from told([result])


@pytest.mark.sampled
def test_work_is_read_no_further_than_is_needed(make: Make) -> None:
    taken = 0

    def endless() -> Iterator[Task | Outcome]:
        nonlocal taken
        while True:
            taken += 1
            yield task(str(taken))

    # A batch for another machine has more names than a batch for this machine.
    on_cluster = isinstance(make, functools.partial)
    most = MOST_NAMES if on_cluster else 1
    results = iter(make().run(endless(), maker(all_clean)))
    for done in range(1, 8 if on_cluster else 100):
        next(results)
        assert taken <= (done + 12) * most


names = st.sampled_from(["a", "b", "c", "d\ne", "\udcff", "ü"])
contents = st.one_of(
    st.sampled_from([*LISTED.values(), b"", b"content 99", b"other"]), st.binary(max_size=12)
)
trees = st.dictionaries(st.tuples(names, names, names), contents, max_size=25)


def scanned(tree: Path, lists: OpenLists, executor: Executor) -> tuple[list[Outcome], Summary]:
    summary = Summary(lists=lists.states)
    found = scan(
        executor.trees([str(tree)], ScanOptions(), None),
        lists,
        Progress(summary),
        ScanOptions(jobs=1, show_clean=True),
        executor=executor,
    )
    outcomes = sorted((o for o in found if isinstance(o, Outcome)), key=lambda o: o.path)
    summary.elapsed_s = 0.0
    summary.bytes_read = 0  # which files are read twice depends on earlier files
    return outcomes, summary


def elsewhere(seen: Seen) -> Seen:
    """Return the identity of a read file without devices, as another machine reports it."""
    return msgspec.structs.replace(seen, directory_device=None, device=None)


@pytest.mark.slow
@examples(12)
@given(files=trees)
def test_all_executors_find_the_same_on_any_tree(
    shared_cluster: SharedCluster, files: dict[tuple[str, str, str], bytes]
) -> None:
    with fast_directory() as directory:
        tree = write_tree(directory / "t", {"/".join(p): content for p, content in files.items()})
        (tree / "link").symlink_to("nowhere")
        cluster = shared_cluster
        lists = cluster.lists()
        expected = scanned(tree, lists, Inline())
        assert len(expected[0]) == expected[1].inputs == len(files) + 1
        for make in MAKERS.values():
            assert scanned(tree, lists, make()) == expected
        # A worker sends no digests, and its device numbers mean nothing on another machine.
        outcomes = [
            msgspec.structs.replace(o, digests={}, seen=o.seen and elsewhere(o.seen))
            for o in expected[0]
        ]
        executor = Dask(cluster.connect, cluster.spec(keep_clean=True))
        assert scanned(tree, lists, executor) == (outcomes, expected[1])
        assert not list(tree.glob(f"{PREFIX}*"))
