"""The exit code of a run: which result decides, and that no unknown input is clean."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from hashclient.core.errors import AuditError, ExitCode, StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import MissingList, Outcome
from hashclient.core.staleness import ListState
from hashclient.core.verdict import MAX_REASONS, OTHER_REASONS, Counts, Summary, add_by_kind

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


@pytest.mark.parametrize(
    ("kinds", "fields", "code"),
    [
        ([Kind.MATCH], {"held": 1}, 11),
        ([Kind.MATCH], {"held": 0}, 10),
        ([Kind.CLEAN], {"held": 1}, 0),
        ([], {"allow_empty": True}, 0),
        ([], {"allow_empty": False}, 3),
        ([Kind.SKIPPED], {"allow_empty": True}, 0),
        ([Kind.ACCEPTED], {"allow_empty": True}, 3),
        ([Kind.ACCEPTED, Kind.CLEAN], {"allow_empty": True}, 0),
        ([Kind.UNREAD], {"allow_empty": True}, 3),
        ([Kind.CONFLICT], {"allow_empty": True}, 3),
        ([], {"allow_empty": True, "gone": 1, "gaps_accepted": True, "asks_stores": True}, 0),
    ],
)
def test_held_matches_and_an_empty_run_have_codes_as_well(
    kinds: list[Kind], fields: dict[str, int], code: int
) -> None:
    made = summary(*kinds)
    for name, value in fields.items():
        setattr(made, name, value)
    assert made.exit_code == code


REASONED = {Kind.SKIPPED: "skipped", Kind.UNREAD: "unread", Kind.EXCEPTED: "excepted"}


@pytest.mark.parametrize("kind", list(Kind))
def test_reasons_are_counted_up_to_a_number(kind: Kind) -> None:
    made = summary()
    wanted: dict[str, int] = {}
    for number in range(MAX_REASONS):
        made.add(Outcome(kind, "path", reason=f"reason {number}"))
        wanted[f"reason {number}"] = 1
    for reason in ("one more", "reason 3", "another", None, ""):
        made.add(Outcome(kind, "path", reason=reason))
    wanted |= {"reason 3": 2, OTHER_REASONS: 4}
    for each, name in REASONED.items():
        assert getattr(made, name) == (wanted if each is kind else {})
    assert made.counts[kind] == made.inputs == MAX_REASONS + 5
    few = summary()
    few.add(Outcome(kind, "path"))
    assert [getattr(few, name) for name in REASONED.values()] == [
        {OTHER_REASONS: 1} if each is kind else {} for each in REASONED
    ]


def test_fifty_reasons_are_counted_separately() -> None:
    assert (MAX_REASONS, OTHER_REASONS) == (50, "other reasons")


def test_of_several_failures_the_first_is_kept() -> None:
    made = summary(Kind.CLEAN)
    assert (made.failed, made.failure) == (None, None)
    made.fail(AuditError("the log is broken", hint="look"))
    made.fail(StateError("a file is missing"))
    assert (made.failed, made.failure) == (ExitCode.AUDIT, "the log is broken")
    assert made.exit_code == ExitCode.AUDIT


def test_numbers_by_kind_are_added() -> None:
    total = {"a": 1, "b": 2}
    add_by_kind(total, {"b": 3, "c": 4})
    add_by_kind(total, {})
    assert total == {"a": 1, "b": 5, "c": 4}


def test_a_new_summary_says_nothing() -> None:
    made = summary()
    assert made.opens_containers is None and not made.asks_stores and not made.gaps_accepted
    assert (made.gone, made.held, made.held_entries, made.gaps, made.elapsed_s) == (0, 0, (), (), 0)
    assert set(made.counts.values()) == {0} and made.only_counts() == Counts()
