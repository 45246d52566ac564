"""Looking up digests of another program: which rows are shown, counted, or undecided."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.index.open_lists import OpenLists
from hashclient.lists.importers.importfile import Reading
from hashclient.lists.importers.rows import Rows
from hashclient.lists.wire import NO_SIZE
from hashclient.scan.run import lookup as module
from hashclient.scan.run.lookup import batches_of, lookup
from tests.kit import csv_of
from tests.unit.test_checker import lists_of

LISTED, BENIGN = b"listed", b"benign"
MD5, SHA1, SHA256 = Algorithm
#: The digests of a row, its name and its size.
Row = tuple[dict[Algorithm, bytes], str | None, int | None]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of({"e-1": LISTED}))


@pytest.fixture(scope="module")
def gapped(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    """A list whose entry has only a SHA-1, so that other digests do not decide."""
    content = csv_of({"e-1": LISTED}, algorithms=[SHA1])
    return lists_of(tmp_path_factory.mktemp("gapped"), base=content)


def row(
    data: bytes, *algorithms: Algorithm, name: str | None = None, size: int | None = None
) -> Row:
    chosen = algorithms or tuple(Algorithm)
    return {a: hashlib.new(a.label, data).digest() for a in chosen}, name, size


def batch_of(*rows: Row) -> Any:
    made = Rows()
    for number, (digests, name, size) in enumerate(rows, 1):
        raw = None if name is None else os.fsencode(name)
        made.add(10 * number, raw, int(NO_SIZE) if size is None else size)
        for algorithm, digest in digests.items():
            made.add_hex(algorithm, digest.hex().encode())
    return made.batch()


def look_up(lists: OpenLists, *batches: Sequence[Row], **how: Any) -> tuple[list[Outcome], Summary]:
    summary = Summary(lists=lists.states)
    summary.gaps_accepted = how.pop("accepts", False)
    sources = [(f"file-{n}", batch_of(*rows)) for n, rows in enumerate(batches, 1)]
    return list(lookup(sources, lists, summary, **how)), summary


def counts(summary: Summary) -> tuple[int, int, int, int]:
    numbers = summary.counts
    return numbers[Kind.MATCH], numbers[Kind.CLEAN], numbers[Kind.UNREAD], numbers[Kind.CONFLICT]


def test_so_many_batches_are_read_ahead() -> None:
    assert module.AHEAD == 2


@pytest.mark.parametrize("keep_clean", [False, True])
def test_each_row_has_one_outcome_and_clean_ones_are_only_counted(
    lists: OpenLists, keep_clean: bool
) -> None:
    rows = [row(BENIGN, name="a"), row(LISTED, name="b"), row(BENIGN, MD5, name="c")]
    found, summary = look_up(lists, rows, [row(LISTED, SHA256, name="d")], keep_clean=keep_clean)
    told = {(one.path, one.kind, one.origin) for one in found}
    clean = {("a", Kind.CLEAN, "file-1:10"), ("c", Kind.CLEAN, "file-1:30")}
    matches = {("b", Kind.MATCH, "file-1:20"), ("d", Kind.MATCH, "file-2:10")}
    assert told == matches | (clean if keep_clean else set())
    assert len(found) == len(told)
    assert (counts(summary), summary.inputs, summary.gaps) == ((2, 2, 0, 0), 4, ())


@pytest.mark.parametrize("name", [None, "a/b", "\udcff"])
def test_a_row_without_a_name_is_called_by_its_first_digest(
    lists: OpenLists, name: str | None
) -> None:
    given = row(LISTED, SHA1, SHA256, name=name)
    (one,), _ = look_up(lists, [given])
    assert one.path == (given[0][SHA1].hex() if name is None else name)
    assert (one.digests, one.size, one.tags) == (given[0], None, {})


@pytest.mark.parametrize(
    ("size", "kind"), [(None, Kind.MATCH), (6, Kind.MATCH), (7, Kind.CLEAN), (0, Kind.CLEAN)]
)
def test_a_size_of_a_row_rules_out_entries_of_other_sizes(
    lists: OpenLists, size: int | None, kind: Kind
) -> None:
    (one,), _ = look_up(lists, [row(LISTED, MD5, name="a", size=size)], keep_clean=True)
    assert (one.kind, one.size) == (kind, size)


def test_digests_of_a_row_that_do_not_agree_are_a_conflict(lists: OpenLists) -> None:
    mixed = row(LISTED, MD5)[0] | row(BENIGN, SHA256)[0]
    (one,), summary = look_up(lists, [(mixed, "a", None)])
    assert (one.kind, counts(summary)) == (Kind.CONFLICT, (0, 0, 0, 1))


def test_each_row_has_its_own_digests_where_some_rows_have_fewer(lists: OpenLists) -> None:
    rows = [
        row(LISTED, MD5, name="0"),
        row(LISTED, SHA256, name="1"),
        row(LISTED, MD5, SHA256, name="2"),
        row(LISTED, SHA1, name="3"),
    ]
    found, _ = look_up(lists, rows)
    assert [(one.path, one.digests) for one in found] == [
        (str(n), r[0]) for n, r in enumerate(rows)
    ]


@pytest.mark.parametrize("keep_clean", [False, True])
@pytest.mark.parametrize("accepts", [False, True])
def test_a_row_that_an_entry_may_match_without_its_digest_is_unread(
    gapped: OpenLists, keep_clean: bool, accepts: bool
) -> None:
    """A row with an MD5 is unread if an entry of its size, or without a size, has only a SHA-1."""
    rows = [
        row(BENIGN, MD5, name="a"),
        row(BENIGN, MD5, SHA1, name="b"),
        row(BENIGN, MD5, name="c", size=99),
        row(LISTED, SHA1, name="d"),
    ]
    found, summary = look_up(gapped, rows, keep_clean=keep_clean, accepts=accepts)
    kinds = {one.path: one.kind for one in found}
    undecided = Kind.CLEAN if accepts else Kind.UNREAD
    every = {"a": undecided, "b": Kind.CLEAN, "c": Kind.CLEAN, "d": Kind.MATCH}
    assert kinds == (every if keep_clean else {"d": Kind.MATCH})
    assert counts(summary) == (1, 2 + accepts, 1 - accepts, 0)
    assert summary.inputs == 4
    (gap,) = summary.gaps
    assert (gap.list_name, gap.algorithms, gap.rows) == ("base", (MD5,), 1)
    reasons = [one.reason for one in found if one.kind is Kind.UNREAD]
    assert len(reasons) == (keep_clean and not accepts)
    assert all(reasons)


def test_an_outcome_counts_as_people_have_ruled_it(lists: OpenLists) -> None:
    def rule(outcome: Outcome) -> Outcome:
        return msgspec.structs.replace(outcome, kind=Kind.EXCEPTED)

    (one,), summary = look_up(lists, [row(LISTED, name="a"), row(BENIGN)], rule=rule)
    assert one.kind is Kind.EXCEPTED
    assert (counts(summary), summary.counts[Kind.EXCEPTED]) == ((0, 1, 0, 0), 1)


def test_a_lookup_that_ends_early_has_counted_what_it_has_shown(lists: OpenLists) -> None:
    summary = Summary(lists=lists.states)
    outcomes = lookup([("f", batch_of(row(LISTED), row(LISTED)))], lists, summary)
    next(outcomes)
    outcomes.close()
    assert (counts(summary), summary.gaps) == ((1, 0, 0, 0), ())
    assert 0 < summary.elapsed_s < 60


def test_every_row_of_a_file_is_looked_up_without_a_choice(tmp_path: Path) -> None:
    """For a list, somebody must choose rows of a file with a column Baseline."""
    table = tmp_path / "table.csv"
    table.write_text(f"sha256,baseline\n{hex_of(LISTED)},true\n{hex_of(BENIGN)},false\n")
    assert named([], [str(table)], None, fail) == [(str(table), 2)]
    with pytest.raises(UsageError, match="Baseline"):
        named([], [str(table)], None, fail, reading=Reading())


def hex_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def named(*given: Any, **how: Any) -> list[tuple[str, int]]:
    return [(name, batch.count) for name, batch in batches_of(*given, **how)]


def fail(error: UsageError) -> None:
    raise AssertionError(error)


def test_digests_come_from_arguments_files_and_the_standard_input(tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    sums.write_text(f"{hex_of(LISTED)}  a\n{hex_of(BENIGN)}  b\n")
    stdin = io.BytesIO(f"{hex_of(LISTED)}\n".encode())
    given = [hex_of(LISTED), hashlib.md5(LISTED).hexdigest(), hex_of(BENIGN)]
    assert named([], [], None, fail) == []
    assert named(given, [str(sums), "-"], stdin, fail) == [
        *(("argument", 3), (str(sums), 2)),
        ("stdin", 1),
    ]


def test_without_a_standard_input_a_dash_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text(f"{hex_of(LISTED)}\n")
    assert named([], ["-"], None, fail) == [("-", 1)]


def test_a_source_that_cannot_be_read_ends_the_lookup_after_all_others(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(f"{hex_of(LISTED)}\n")
    bad.write_text("no digest\n")
    gone, later = str(tmp_path / "gone\n"), list[UsageError]()
    batches = batches_of(["x" * 32], [gone, str(good), str(bad)], None, later.append)
    name, batch = next(batches)
    assert (name, batch.count) == (str(good), 1)
    with pytest.raises(UsageError, match="not a digest in hexadecimal") as failed:
        next(batches)
    assert failed.value.message.startswith("argument:1: ")
    first, second = later
    shown = str(tmp_path / "gone") + "\\x0a"
    assert first.message == f"cannot read {shown}: No such file or directory"
    assert first.hint == "check the path"
    assert second.message.startswith(str(bad))
