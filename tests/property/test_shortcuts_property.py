"""No shortcut of a scan changes its verdicts: sizes, the inventory, few digests, workers.

The tests draw lists in several generations, trees, and edits between scans. An oracle hashes every
file with hashlib and compares it with every live entry. The oracle and scans with and without each
shortcut must agree after every step.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Outcome
from hashclient.scan.check import checker
from tests.kit import remember_at_once
from tests.kit.depth import examples

#: Contents of files: several of each size, so that sizes alone decide little.
CONTENTS = [b"", b"A", b"B", b"AAAAA", b"BBBBB", b"CCCCC"]
LISTED = CONTENTS[1:]
NAMES = ["a", "b", "d/c"]
ALL = tuple(Algorithm)

#: The compared part of an outcome: its kind, the entries that matched, and those that nearly did.
Verdict = tuple[Kind, frozenset[tuple[str, str]], frozenset[tuple[str, str]]]
Edit = tuple[str, str, object, bool]


@dataclass(frozen=True)
class Entry:
    """An entry for a content. `wrong`: an algorithm whose digest belongs to other content."""

    data: bytes
    algorithms: tuple[Algorithm, ...]
    sized: bool
    wrong: Algorithm | None = None

    def digests(self) -> dict[Algorithm, bytes]:
        return {
            a: hashlib.new(a.label, b"other" if a is self.wrong else self.data).digest()
            for a in self.algorithms
        }

    def row(self, entry_id: str) -> str:
        digests = self.digests()
        cells = [digests[a].hex() if a in digests else "" for a in Algorithm]
        size = str(len(self.data)) if self.sized else ""
        return ",".join([entry_id, *cells, size])


Live = dict[tuple[str, str], Entry]

masks = st.lists(st.sampled_from(ALL), min_size=1, unique=True).map(lambda a: tuple(sorted(a)))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    algorithms = draw(masks)
    wrong = None
    if len(algorithms) > 1 and draw(st.integers(0, 4)) == 0:
        wrong = draw(st.sampled_from(algorithms))
    return Entry(draw(st.sampled_from(LISTED)), algorithms, draw(st.booleans()), wrong)


names = st.sampled_from(NAMES)
contents = st.sampled_from(CONTENTS)
#: Changes that only the ctime shows come first in the list, so that they are drawn often.
overwritten = st.tuples(st.just("overwrite"), names, st.integers(0, 1), st.just(value=True))
edits = st.one_of(
    overwritten,
    overwritten,
    st.tuples(st.just("write"), names, contents, st.booleans()),
    st.tuples(st.just("append"), names, contents, st.booleans()),
    st.tuples(st.just("truncate"), names, st.integers(0, 5), st.booleans()),
    st.tuples(st.just("rename"), names, names, st.booleans()),
    st.tuples(st.just("delete"), names, st.none(), st.booleans()),
    st.tuples(st.just("link"), names, names, st.booleans()),
)
#: A step of the test: the list to change, the added entries, the number of withdrawn entries, and
#: edits of the tree.
steps = st.tuples(
    st.sampled_from("ab"),
    st.lists(entries(), min_size=1, max_size=4),
    st.integers(0, 3),
    st.lists(edits, min_size=1, max_size=5),
)
listed_first = st.lists(entries(), min_size=1, max_size=3)
trees = st.fixed_dictionaries(dict.fromkeys(NAMES, contents))


def edit(tree: Path, what: str, name: str, argument: object, restore: bool) -> None:
    """Change a tree; with `restore`, the changed file gets its old mtime back."""
    path = tree / name
    before = path.stat() if path.exists() else None
    if what == "write":
        assert isinstance(argument, bytes)
        path.write_bytes(argument)
    elif what == "append":
        assert isinstance(argument, bytes)
        with path.open("ab") as stream:
            stream.write(argument)
    elif before is None:
        return
    elif what == "overwrite":
        assert isinstance(argument, int)
        data = path.read_bytes()
        same_size = [c for c in CONTENTS if len(c) == len(data) and c != data]
        if not same_size:
            return
        path.write_bytes(same_size[argument % len(same_size)])
    elif what == "truncate":
        assert isinstance(argument, int)
        os.truncate(path, argument)
    elif what == "delete":
        path.unlink()
        return
    else:
        target = tree / str(argument)
        if target == path:
            return
        if what == "link":
            target.unlink(missing_ok=True)
            target.hardlink_to(path)
        else:
            path.replace(target)
            if path.exists():  # both names are links to one file, so nothing was renamed
                return
        path = target
    if restore and before is not None:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def let_time_pass(probe: Path) -> None:
    """Wait for the next tick of the file system's clock."""
    probe.write_bytes(b"")
    first = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == first or time.time_ns() <= first:
        probe.write_bytes(b"")


def oracle(tree: Path, live: Live) -> dict[str, Verdict]:
    """Judge every file by all of its digests and every entry."""
    verdicts = {}
    for name in NAMES:
        path = tree / name
        if not path.exists():
            continue
        data = path.read_bytes()
        own = {a: hashlib.new(a.label, data).digest() for a in Algorithm}
        complete, partial = set(), set()
        for key, entry in live.items():
            if entry.sized and len(entry.data) != len(data):
                continue
            agreed = [own[a] == digest for a, digest in entry.digests().items()]
            if all(agreed):
                complete.add(key)
            elif any(agreed):
                partial.add(key)
        kind = Kind.MATCH if complete else Kind.CONFLICT if partial else Kind.CLEAN
        verdicts[str(path)] = (kind, frozenset(complete), frozenset(partial))
    return verdicts


def verdict(outcome: Outcome) -> Verdict:
    hits: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for hit in outcome.hits:
        hits[hit.complete].add((hit.list_name, hit.entry))
    return outcome.kind, frozenset(hits[True]), frozenset(hits[False])


def agree(found: dict[str, Verdict], expected: dict[str, Verdict]) -> None:
    """Check that a scan has all matches of the oracle, and only real conflicts.

    An entry with contradicting digests is noticed only if the first computed digest agrees.
    """
    assert found.keys() == expected.keys()
    for path, (kind, complete, partial) in found.items():
        expected_kind, expected_complete, expected_partial = expected[path]
        assert complete == expected_complete
        assert partial <= expected_partial
        if kind is not expected_kind:
            assert (kind, expected_kind) == (Kind.CLEAN, Kind.CONFLICT)


class Shortcuts:
    """A provider with its lists, a client, and a tree."""

    def __init__(self, directory: Path) -> None:
        self.simulator = Simulator(directory / "repo")
        self.client = Client(directory / "state", self.simulator, self.simulator.root)
        self.tree = directory / "tree"
        (self.tree / "d").mkdir(parents=True)
        self.probe = directory / "probe"
        self.live: Live = {}
        self.number = 0

    def publish(self, list_name: str, new: list[Entry], withdrawn: int) -> None:
        """Publish entries, withdraw the oldest entries, and fetch the result."""
        lines = ["entry_id,md5,sha1,sha256,size"]
        for entry in new:
            self.number += 1
            entry_id = f"e-{self.number}"
            lines.append(entry.row(entry_id))
            self.live[list_name, entry_id] = entry
        self.simulator.publish("\n".join([*lines, ""]).encode(), list_name)
        gone = [key for key in self.live if key[0] == list_name][:withdrawn]
        if gone:
            self.simulator.withdraw(*(entry for _, entry in gone), list_name=list_name)
            for key in gone:
                del self.live[key]
        self.client.fetch()

    def scan(self, *, inventory: bool, use: bool = True, jobs: int = 1) -> dict[str, Verdict]:
        found, summary = self.client.scan(self.tree, inventory=inventory, use=use, jobs=jobs)
        self.summary = summary
        assert summary.inputs == len(found)
        # Each input was read, or the answer about it rests on a fact that the summary counts.
        assert summary.inputs == (
            summary.files_read
            + summary.ruled_out_by_size
            + summary.known_unchanged
            + summary.counts[Kind.SKIPPED]
            + summary.counts[Kind.UNREAD]
        )
        if not (inventory and use):
            assert summary.known_unchanged == 0
        return {path: verdict(outcome) for path, outcome in found.items()}


@pytest.fixture(scope="module", autouse=True)
def _no_margin() -> Iterator[None]:
    """Remember files at once; between scans, the tests wait for the next tick."""
    with pytest.MonkeyPatch.context() as patch:
        remember_at_once(patch, Path(tempfile.gettempdir()))
        yield


sized_entries = entries().map(lambda entry: replace(entry, sized=True))


@given(trees, st.lists(sized_entries, min_size=1, max_size=3))
@examples(12)
def test_the_evidence_of_answers_is_counted(tree: dict[str, bytes], listed: list[Entry]) -> None:
    sizes = {len(entry.data) for entry in listed}
    ruled_out = sum(len(data) not in sizes for data in tree.values())
    rest = len(tree) - ruled_out
    with tempfile.TemporaryDirectory() as name:
        world = Shortcuts(Path(name))
        for path, data in tree.items():
            (world.tree / path).write_bytes(data)
        world.publish("a", listed, 0)
        let_time_pass(world.probe)
        for remembers, expected in (
            (False, (rest, ruled_out, 0)),
            (True, (rest, ruled_out, 0)),
            # The inventory knows that a file of another size is no container, so that the record
            # decides.
            (True, (0, 0, len(tree))),
        ):
            world.scan(inventory=remembers)
            summary = world.summary
            found = summary.files_read, summary.ruled_out_by_size, summary.known_unchanged
            assert found == expected
            let_time_pass(world.probe)


@pytest.mark.slow
@given(trees, listed_first, listed_first, st.lists(steps, min_size=1, max_size=3))
@examples(30)
def test_no_shortcut_changes_a_verdict(
    tree: dict[str, bytes],
    of_a: list[Entry],
    of_b: list[Entry],
    changes: list[tuple[str, list[Entry], int, list[Edit]]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = Shortcuts(Path(name))
        for path, data in tree.items():
            (world.tree / path).write_bytes(data)
        world.publish("a", of_a, 0)
        world.publish("b", of_b, 0)
        for list_name, new, withdrawn, edited in changes:
            world.publish(list_name, new, withdrawn)
            expected = oracle(world.tree, world.live)
            plain = world.scan(inventory=False)
            agree(plain, expected)
            let_time_pass(world.probe)
            # The first of two scans uses the inventory of earlier steps, and adds the records that
            # the second scan uses. The inventory may have more digests of a matching file, and so
            # show more entries that agree in part.
            for _ in range(2):
                remembered = world.scan(inventory=True)
                agree(remembered, expected)
                assert {p: v[:2] for p, v in remembered.items()} == {
                    p: v[:2] for p, v in plain.items()
                }
            assert world.scan(inventory=True, use=False) == plain
            let_time_pass(world.probe)
            for change in edited:
                edit(world.tree, *change)
            let_time_pass(world.probe)
            agree(world.scan(inventory=True), oracle(world.tree, world.live))


@pytest.mark.slow
@given(st.lists(st.tuples(names, contents), max_size=5), st.lists(entries(), min_size=1))
@examples(6)
def test_workers_change_no_verdict(files: list[tuple[str, bytes]], listed: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        # The pool forks while the test runner has threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        world = Shortcuts(Path(name))
        for number in range(2):
            for path, data in files:
                (world.tree / str(number) / path).parent.mkdir(parents=True, exist_ok=True)
                (world.tree / str(number) / path).write_bytes(data)
        world.publish("a", listed, 0)
        let_time_pass(world.probe)
        with pytest.MonkeyPatch.context() as patch:
            # A large file is handed back and becomes a separate task.
            patch.setattr(checker, "DEFER_BYTES", 4)
            one = world.scan(inventory=True, jobs=1)
            assert world.scan(inventory=True, jobs=2) == one
            assert world.scan(inventory=False, jobs=2) == one
            assert world.scan(inventory=True, use=False, jobs=2) == one


@pytest.mark.slow
@given(st.lists(entries(), min_size=1, max_size=6), st.lists(contents, min_size=1, max_size=6))
@examples(40)
def test_a_size_rules_out_only_what_cannot_match(listed: list[Entry], files: list[bytes]) -> None:
    """The plan by itself: for each size, it includes a digest of every entry that fits."""
    with tempfile.TemporaryDirectory() as name:
        world = Shortcuts(Path(name))
        world.publish("a", listed, 0)
        judge = world.client.open().judge()
        for data in files:
            fitting = [e for e in listed if not e.sized or len(e.data) == len(data)]
            plan = judge.plan(len(data))
            assert all(set(plan) & set(entry.algorithms) for entry in fitting)
            if not fitting:
                assert plan == ()
            assert all(set(judge.plan(None)) & set(entry.algorithms) for entry in listed)
