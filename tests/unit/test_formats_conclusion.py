"""The result of a run as a sentence, which names each reason for the exit code."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Kind
from hashclient.core.model import MissingList
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats.conclusion import conclusion

THEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
FRESH = ListState("baseline", 1, THEN, fresh=True)
STALE = ListState("local", 1, THEN, fresh=False)
IN_GRACE = ListState("late", 1, THEN, fresh=False, in_grace=True)
MISSING = MissingList("gone\n", "main", "never fetched")
OF_NO_NAME = MissingList(None, None, "damaged")


def run(
    lists: tuple[ListState, ...] = (FRESH,), *, counts: dict[Kind, int] | None = None, **fields: Any
) -> Summary:
    summary = Summary(lists=lists, **fields)
    summary.counts.update(counts or {})
    return summary


@pytest.mark.parametrize(
    ("summary", "code", "text"),
    [
        (
            run(counts={Kind.CLEAN: 2}),
            0,
            "every input was checked, none matches, and the list is fresh",
        ),
        (
            run((FRESH, FRESH), counts={Kind.CLEAN: 2, Kind.SKIPPED: 1}),
            0,
            "every input except skipped ones was checked, none matches, and all lists are fresh",
        ),
        (
            run((FRESH, IN_GRACE), counts={Kind.CLEAN: 1, Kind.SKIPPED: 1, Kind.ACCEPTED: 1}),
            0,
            (
                "every input except skipped and accepted ones was checked, none matches,"
                " and no list is past its grace period"
            ),
        ),
        (run(counts={Kind.MATCH: 1000}), 10, "1,000 matches"),
        (
            run((FRESH, STALE), counts={Kind.MATCH: 1, Kind.CONFLICT: 1, Kind.UNREAD: 2}),
            11,
            "1 match; 1 conflict; 2 inputs were not checked; list local is stale",
        ),
        (run(counts={Kind.CLEAN: 5, Kind.UNREAD: 1}), 3, "1 input was not checked"),
        (run(counts={Kind.SKIPPED: 5}), 3, "nothing was checked"),
        (run((STALE, STALE), counts={Kind.CLEAN: 5}), 7, "lists local, local are stale"),
        (
            run(counts={Kind.CLEAN: 5}, missing=(MISSING, OF_NO_NAME)),
            8,
            "lists gone\\x0a, of an unknown name are missing",
        ),
        (
            run(counts={Kind.CLEAN: 5}, stopped=ExitCode.TERMINATED),
            143,
            "the run was ended by SIGTERM",
        ),
        (
            run(failed=ExitCode.AUDIT),
            9,
            "the run failed: audit log broken or not writable; nothing was checked",
        ),
        (
            run(counts={Kind.MATCH: 1}, failed=ExitCode.UNREACHABLE),
            11,
            "1 match; the run failed: provider unreachable (worth a retry)",
        ),
        (run(counts={Kind.ACCEPTED: 1}), 3, "nothing was checked"),
    ],
)
def test_each_run_has_its_sentence(summary: Summary, code: int, text: str) -> None:
    assert summary.exit_code == code
    assert conclusion(summary) == text


@given(
    st.builds(
        run,
        st.lists(st.sampled_from([FRESH, STALE, IN_GRACE])).map(tuple),
        counts=st.dictionaries(st.sampled_from(list(Kind)), st.integers(0, 2)),
        missing=st.lists(st.just(MISSING)).map(tuple),
        stopped=st.sampled_from([None, ExitCode.INTERRUPTED]),
        failed=st.sampled_from([None, ExitCode.STATE]),
    )
)
def test_only_a_run_that_ends_in_0_was_checked_to_its_end(summary: Summary) -> None:
    text = conclusion(summary)
    assert ("none matches" in text) is (summary.exit_code is ExitCode.OK)
    assert text != summary.exit_code.meaning
