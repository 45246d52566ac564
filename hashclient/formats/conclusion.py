"""Describes the result of a run in one sentence, which explains its exit code."""

from __future__ import annotations

from collections.abc import Iterator

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Kind
from hashclient.core.verdict import Summary
from hashclient.formats.cells import words
from hashclient.formats.fields import signal_name
from hashclient.system.text import counted

#: The kinds of inputs that a run has tried to check.
_CHECKED = (Kind.CLEAN, Kind.MATCH, Kind.CONFLICT, Kind.UNREAD, Kind.EXCEPTED)


def conclusion(summary: Summary) -> str:
    """Return the findings, and why the run is not complete, beginning with the most important.

    The exit code is the verdict, and the text explains it. So only for `OK` the text says that
    everything was checked.
    """
    code = summary.exit_code
    if code is ExitCode.OK:
        if not any(summary.counts[kind] for kind in _CHECKED):
            return f"there was nothing to check, which was allowed, and {_freshness(summary)}"
        number = summary.counts[Kind.EXCEPTED]
        besides = f" besides {counted(number, 'excepted match')}" if number else ""
        return f"{_checked(summary)}, none matches{besides}, and {_freshness(summary)}"
    return "; ".join([*_found(summary), *_obstacles(summary)]) or code.meaning


def _checked(summary: Summary) -> str:
    besides = []
    if summary.counts[Kind.SKIPPED]:
        besides.append("skipped")
    if summary.counts[Kind.ACCEPTED]:
        besides.append("accepted")
    text = f"every input except {' and '.join(besides)} ones" if besides else "every input"
    text += " was checked"
    return f"{text} as far as its digests show" if summary.gaps else text


def _found(summary: Summary) -> Iterator[str]:
    if number := summary.counts[Kind.MATCH]:
        yield counted(number, "match")
    if number := summary.counts[Kind.CONFLICT]:
        yield counted(number, "conflict")
    if number := summary.counts[Kind.UNREAD]:
        yield f"{counted(number, 'input')} {'was' if number == 1 else 'were'} not checked"


def _obstacles(summary: Summary) -> Iterator[str]:
    if summary.held:
        yield f"held, waiting for a person: {counted(summary.held, 'match')}"
    if summary.missing:
        names = [words(m.name or m.provider or "of an unknown name") for m in summary.missing]
        yield f"{_named(names)} missing"
    if stale := [words(state.name) for state in summary.lists if state.stale]:
        yield f"{_named(stale)} stale"
    if summary.stopped is not None:
        yield f"the run was ended by {signal_name(summary.stopped)}"
    if summary.failed is not None:
        yield f"the run failed: {summary.failed.meaning}"
    if not any(summary.counts[kind] for kind in _CHECKED):
        yield "nothing was checked"


def _freshness(summary: Summary) -> str:
    if any(not state.fresh for state in summary.lists):
        return "no list is past its grace period"
    return "the list is fresh" if len(summary.lists) == 1 else "all lists are fresh"


def _named(names: list[str]) -> str:
    few = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
    return f"list {few} is" if len(names) == 1 else f"lists {few} are"
