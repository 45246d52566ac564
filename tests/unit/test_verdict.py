"""The exit code of a run: which result decides, and that no unknown input is clean."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Kind
from hashclient.core.model import MissingList, Outcome
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Counts, Summary

THEN = datetime(2026, 1, 1, tzinfo=UTC)
FRESH = ListState("fresh", 1, THEN, fresh=True)
STALE = ListState("stale", 1, THEN, fresh=False)
GRACE = ListState("grace", 1, THEN, fresh=False, in_grace=True)
MISSING = MissingList("other", "main", "never fetched")


def summary(
    *kinds: Kind,
    lists: tuple[ListState, ...] = (FRESH,),
    stopped: ExitCode | None = None,
    failed: ExitCode | None = None,
    missing: tuple[MissingList, ...] = (),
) -> Summary:
    made = Summary(lists=lists, stopped=stopped, failed=failed, missing=missing)
    for kind in kinds:
        made.add(Outcome(kind, "path"))
    return made


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (summary(), 3),
        (summary(Kind.CLEAN), 0),
        (summary(Kind.CLEAN, Kind.SKIPPED), 0),
        (summary(Kind.SKIPPED), 3),
        (summary(Kind.ACCEPTED), 3),
        (summary(Kind.CLEAN, Kind.ACCEPTED), 0),
        (summary(Kind.MATCH, Kind.ACCEPTED), 10),
        (summary(Kind.EXCEPTED), 0),
        (summary(Kind.EXCEPTED, lists=(STALE,)), 7),
        (summary(Kind.EXCEPTED, Kind.UNREAD), 3),
        (summary(Kind.EXCEPTED, Kind.MATCH), 10),
        (summary(Kind.UNREAD), 3),
        (summary(Kind.CLEAN, Kind.UNREAD), 3),
        (summary(Kind.CONFLICT), 3),
        (summary(Kind.CLEAN, Kind.CONFLICT), 3),
        (summary(Kind.MATCH), 10),
        (summary(Kind.MATCH, Kind.CLEAN, Kind.SKIPPED), 10),
        (summary(Kind.MATCH, Kind.UNREAD), 11),
        (summary(Kind.MATCH, Kind.CONFLICT), 11),
        (summary(Kind.CLEAN, lists=(FRESH, STALE)), 7),
        (summary(Kind.CLEAN, lists=(FRESH, GRACE)), 0),
        (summary(Kind.UNREAD, lists=(STALE,)), 7),
        (summary(lists=(STALE,)), 7),
        (summary(Kind.MATCH, lists=(STALE,)), 11),
        (summary(Kind.MATCH, lists=(GRACE,)), 10),
        (summary(Kind.CLEAN, missing=(MISSING,)), 8),
        (summary(Kind.UNREAD, missing=(MISSING,), lists=(STALE,)), 8),
        (summary(Kind.MATCH, missing=(MISSING,)), 11),
        (summary(Kind.CLEAN, missing=(MISSING,), failed=ExitCode.UNREACHABLE), 4),
        (summary(Kind.CLEAN, missing=(MISSING,), stopped=ExitCode.INTERRUPTED), 130),
        (summary(Kind.CLEAN, failed=ExitCode.AUDIT), 9),
        (summary(Kind.CLEAN, failed=ExitCode.UNREACHABLE, lists=(STALE,)), 4),
        (summary(Kind.MATCH, failed=ExitCode.AUDIT), 11),
        (summary(Kind.CLEAN, stopped=ExitCode.INTERRUPTED), 130),
        (summary(Kind.CLEAN, stopped=ExitCode.TERMINATED, failed=ExitCode.AUDIT), 143),
        (summary(Kind.MATCH, stopped=ExitCode.INTERRUPTED), 11),
        (summary(Kind.MATCH, stopped=ExitCode.TERMINATED), 11),
    ],
)
def test_the_verdict(made: Summary, code: int) -> None:
    assert made.exit_code == code


def test_only_a_whole_and_clean_run_with_fresh_lists_is_ok() -> None:
    presence = product((0, 1), repeat=len(Kind))
    states = (FRESH, STALE, GRACE)
    stops = (None, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
    failures = (None, ExitCode.AUDIT, ExitCode.STATE)
    absences = ((), (MISSING,))
    for present, state, stopped, failed, missing in product(
        presence, states, stops, failures, absences
    ):
        kinds = [kind for kind, there in zip(Kind, present, strict=True) if there]
        made = summary(*kinds, lists=(state,), stopped=stopped, failed=failed, missing=missing)
        decided = not {Kind.CLEAN, Kind.EXCEPTED}.isdisjoint(kinds)
        whole = decided and not {Kind.UNREAD, Kind.CONFLICT}.intersection(kinds)
        undisturbed = stopped is None and failed is None and state is not STALE and not missing
        assert (made.exit_code is ExitCode.OK) == (
            whole and undisturbed and Kind.MATCH not in kinds
        )
        assert (made.exit_code in {10, 11}) == (Kind.MATCH in kinds)


def test_every_input_is_counted_once() -> None:
    made = summary(Kind.CLEAN, Kind.CLEAN, Kind.MATCH, Kind.UNREAD)
    assert made.inputs == 4
    assert made.counts == {
        Kind.CLEAN: 2,
        Kind.ACCEPTED: 0,
        Kind.EXCEPTED: 0,
        Kind.MATCH: 1,
        Kind.CONFLICT: 0,
        Kind.SKIPPED: 0,
        Kind.UNREAD: 1,
    }


def test_counts_of_parts_add_up() -> None:
    names = [name for name in Counts.__struct_fields__ if name != "not_opened"]
    # These numbers distinguish a sum from a bitwise "or".
    one = Counts(**{name: 3 + place for place, name in enumerate(names)}, not_opened={"pdf": 3})
    total = Counts(not_opened={"chm": 1})
    for _ in range(3):
        total.add_counts(one)
    assert total.only_counts() == Counts(
        **{name: 3 * (3 + place) for place, name in enumerate(names)},
        not_opened={"chm": 1, "pdf": 9},
    )
