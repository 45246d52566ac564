"""A scan finds the same as brute force, for any entries and any plan."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.config.settings import Config, Settings
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.index.open_lists import OpenLists, open_lists
from hashclient.lists.importers.registry import read_digests
from hashclient.scan.run.engine import Progress, scan
from hashclient.scan.run.lookup import lookup
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from tests.kit import fast_directory, make_state, run, write_tree
from tests.kit.depth import examples

#: Few contents of few sizes, so that files match entries. No entry may describe an empty file.
CONTENTS = [b"a", b"b", b"aa", b"ab", b"bb", b"aaa", b"abc"]
FILES = [b"", *CONTENTS, b"nothing", b"like", b"it"]

#: The content of an entry, the digests that it has, and whether it has a size.
Entry = tuple[bytes, int, bool]

entries = st.lists(
    st.tuples(st.sampled_from(CONTENTS), st.integers(1, 7), st.booleans()), min_size=1, max_size=8
)
files = st.lists(st.sampled_from(FILES), max_size=10)


def digest(algorithm: Algorithm, content: bytes) -> str:
    return hashlib.new(algorithm.label, content).hexdigest()


def rows_of(listed: list[Entry]) -> bytes:
    rows = ["entry_id,md5,sha1,sha256,size"]
    for number, (content, mask, sized) in enumerate(listed):
        digests = [digest(a, content) if mask & a else "" for a in Algorithm]
        rows.append(",".join([f"e-{number}", *digests, str(len(content)) if sized else ""]))
    return "\n".join([*rows, ""]).encode()


def brute_force(listed: list[Entry], contents: dict[str, bytes]) -> set[tuple[str, str]]:
    """Return (path, entry) for every file whose digests all agree with the entry's digests."""
    found = set()
    for path, content in contents.items():
        for number, (other, mask, sized) in enumerate(listed):
            same = all(digest(a, content) == digest(a, other) for a in Algorithm.in_mask(mask))
            if same and (not sized or len(content) == len(other)):
                found.add((path, f"e-{number}"))
    return found


def opened(state: Path) -> OpenLists:
    return open_lists(Settings(state, state / "c", None, Config()), {}, datetime.now(UTC))


@pytest.mark.slow
@examples(40)
@given(st.lists(entries, min_size=1, max_size=2), files)
def test_a_scan_finds_what_brute_force_finds(
    lists_listed: list[list[Entry]], found_files: list[bytes]
) -> None:
    with fast_directory() as directory:
        contents = {f"{n}/{n % 3}": content for n, content in enumerate(found_files)}
        tree = write_tree(directory / "tree", contents)
        paths = {f"{tree}/{name}": content for name, content in contents.items()}
        lists = {f"l{n}": rows_of(listed) for n, listed in enumerate(lists_listed)}
        with_lists = opened(make_state(directory, lists))
        summary = Summary(lists=with_lists.states)
        outcomes = [
            outcome
            for outcome in scan(
                Trees([str(tree)], ScanOptions()),
                with_lists,
                Progress(summary),
                ScanOptions(jobs=1, show_clean=True),
            )
            if isinstance(outcome, Outcome)
        ]
        assert sorted(o.path for o in outcomes) == sorted(paths)
        assert summary.inputs == len(paths)
        expected = {
            (f"l{n}", *pair)
            for n, listed in enumerate(lists_listed)
            for pair in brute_force(listed, paths)
        }
        hits = {(h.list_name, o.path, h.entry) for o in outcomes for h in o.hits if h.complete}
        assert hits == expected
        assert {o.path for o in outcomes if o.kind is Kind.MATCH} == {path for _, path, _ in hits}


asked = st.lists(
    st.tuples(st.sampled_from(FILES), st.integers(1, 7), st.booleans()), min_size=1, max_size=12
)


@pytest.mark.slow
@examples(40)
@given(st.lists(entries, min_size=1, max_size=2), asked, st.booleans())
def test_a_lookup_finds_what_brute_force_finds(
    lists_listed: list[list[Entry]], rows: list[tuple[bytes, int, bool]], accept_gaps: bool
) -> None:
    """All facts that both the row and an entry have must agree, and one must be a digest.

    If an entry and the row share no fact that could disagree, the row is not clean.
    """
    with fast_directory() as directory:
        lists = {f"l{n}": rows_of(listed) for n, listed in enumerate(lists_listed)}
        with_lists = opened(make_state(directory, lists))
        path = directory / "rows.csv"
        lines = ["md5,sha1,sha256,size"]
        for content, mask, with_size in rows:
            digests = [digest(a, content) if mask & a else "" for a in Algorithm]
            lines.append(",".join([*digests, str(len(content)) if with_size else ""]))
        path.write_text("\n".join([*lines, ""]))

        def look_up(*, keep_clean: bool) -> tuple[list[Outcome], Summary]:
            summary = Summary(lists=with_lists.states, gaps_accepted=accept_gaps)
            with path.open("rb") as stream:
                batches = (("rows", batch) for batch in read_digests(stream, "rows"))
                return list(lookup(batches, with_lists, summary, keep_clean=keep_clean)), summary

        outcomes, one = look_up(keep_clean=True)
        shown, other = look_up(keep_clean=False)
        assert (one.counts, one.gaps, one.inputs) == (other.counts, other.gaps, len(rows))
        assert shown == [o for o in outcomes if o.hits]
        counted: dict[tuple[str, int], int] = {}
        for (content, given_mask, with_size), outcome in zip(rows, outcomes, strict=True):
            expected, blind = set(), set()
            for number, listed in enumerate(lists_listed):
                for entry, (other_content, mask, sized) in enumerate(listed):
                    if with_size and sized and len(content) != len(other_content):
                        continue
                    if not mask & given_mask:
                        blind.add(number)
                    elif content == other_content:
                        expected.add((f"l{number}", f"e-{entry}"))
            hits = {(hit.list_name, hit.entry) for hit in outcome.hits if hit.complete}
            assert hits == expected
            unread = bool(blind) and not expected and not accept_gaps
            kind = Kind.MATCH if expected else Kind.UNREAD if unread else Kind.CLEAN
            assert outcome.kind is kind
            assert (outcome.reason is not None) == unread
            for number in blind if not expected else ():
                name = f"l{number}"
                counted[name, given_mask] = counted.get((name, given_mask), 0) + 1
                assert outcome.reason is None or f"{name}: " in outcome.reason
        assert {(g.list_name, mask_of(g.algorithms)): g.rows for g in one.gaps} == counted
        for gap in one.gaps:
            listed = lists_listed[int(gap.list_name[1:])]
            lacking = [mask for _, mask, _ in listed if not mask & mask_of(gap.algorithms)]
            assert (gap.entries, gap.live) == (len(lacking), len(listed))


@pytest.mark.slow
@pytest.mark.parametrize("masks", [range(1, 8), (1,), (2, 5), (6,)])
def test_processes_make_no_difference(tmp_path: Path, masks: tuple[int, ...]) -> None:
    """The files exceed one task, and are checked by one, two or four workers."""
    listed = [
        (f"content {n % 90:02}".encode() * (n % 3 + 1), mask, n % 2 == 0)
        for n, mask in enumerate(list(masks) * 12)
    ]
    contents = {f"{n % 5}/{n}": f"content {n % 97:02}".encode() * (n % 4) for n in range(600)}
    with fast_directory() as directory:
        tree = write_tree(directory / "tree", contents)
        expected = brute_force(listed, {f"{tree}/{name}": c for name, c in contents.items()})
        state = make_state(directory, {"l": rows_of(listed)})
        for jobs in ("1", "2", "4"):
            shutil.rmtree(state / "audit", ignore_errors=True)
            command = [
                "--state-dir",
                state,
                "scan",
                "--no-inventory",
                "--format",
                "jsonl",
                "--jobs",
            ]
            result = run(*command, jobs, tree)
            found = {
                (line["path"], hit["entry"])
                for line in result.lines[:-1]
                if line["type"] == "match"
                for hit in (line, *line.get("more", ()))
            }
            assert found == expected
            assert result.summary["inputs"] == 600
            assert result.code == 10
