"""Adds up the summaries of many audit logs into one summary for all machines.

Counts are added up. The median and the percentile of durations are the highest of all machines,
because the exact values of all runs together are not known and cannot be higher. Outages of a
provider that overlap are joined.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from hashclient.audit.summary import SCHEMA, Outage, Summary
from hashclient.core.errors import UsageError
from hashclient.core.figures import Precision, Spread, wilson
from hashclient.core.kinds import Verdict
from hashclient.system.strictjson import parse_json

#: The largest count that is accepted, which no log can have.
MOST = 1 << 63
FLEET_SCHEMA = "hashclient-fleet-summary/1"
#: The fields that describe a single log or a part of it, so they cannot be added up.
_OF_ONE_LOG = ("schema", "since", "until", "log_id", "first_seq", "last_seq", "last_hash")


def parse_summary(data: bytes) -> Summary:
    """Parse the summary of a log, as `audit summary --format json` writes it.

    Raises:
        ValueError: the data is not a summary, or a count is larger than any log can have.
    """
    value = parse_json(data)
    found = msgspec.convert(value, Summary)
    if found.schema != SCHEMA:
        raise ValueError("another schema")
    if not all(0 <= number <= MOST for number in _whole_numbers(value)):
        raise ValueError("a count that no log has")
    return found


def _whole_numbers(value: Any) -> Iterator[int]:
    """Yield all whole numbers in a JSON value."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _whole_numbers(inner)


def add_up(summaries: Sequence[Summary]) -> Summary:
    """Return the sum of the summaries of different logs for the same period.

    Raises:
        UsageError: no summaries are given, two summaries are of the same log, or their periods
            differ.
    """
    if len({one.log_id for one in summaries}) != len(summaries):
        raise UsageError("two summaries are of one log", hint="give each machine once")
    if len({(one.since, one.until) for one in summaries}) != 1:
        raise UsageError(
            "the summaries are of different periods, or there is none",
            hint="make all with the same --from and --to",
        )
    total = functools.reduce(_added, summaries)
    total.schema, total.logs = FLEET_SCHEMA, len(summaries)
    total.precision = wilson(total.reviewed.get(Verdict.CONFIRMED, 0), sum(total.reviewed.values()))
    total.outages = list(_joined(total.outages))
    for name in ("unread", "not_opened", "lists", "runs", "decisions"):
        setattr(total, name, dict(sorted(getattr(total, name).items())))
    return total


def _added(one: Any, other: Any) -> Any:
    """Return the sum of two values; structs and tables are added field by field."""
    if isinstance(one, Summary):
        parts = {
            name: _added(getattr(one, name), getattr(other, name))
            for name in one.__struct_fields__
            if name not in _OF_ONE_LOG
        }
        return Summary(FLEET_SCHEMA, one.since, one.until, "", **parts)
    if isinstance(one, Spread):
        pairs = ((one.median_s, other.median_s), (one.p95_s, other.p95_s))
        highest = (max((s for s in pair if s is not None), default=None) for pair in pairs)
        return Spread(one.count + other.count, *highest)
    if one is None or other is None or isinstance(one, Precision):
        return None
    if isinstance(one, msgspec.Struct):
        fields = one.__struct_fields__
        return type(one)(*(_added(getattr(one, n), getattr(other, n)) for n in fields))
    if isinstance(one, dict):
        both = {key: _added(one[key], other[key]) for key in one.keys() & other.keys()}
        return {key: both.get(key, value) for key, value in (one | other).items()}
    return one + other


def _joined(outages: Iterable[Outage]) -> Iterable[Outage]:
    """Yield the outages of each provider, with overlapping outages joined."""
    last: Outage | None = None
    for outage in sorted(outages, key=lambda one: (one.provider, one.since)):
        if last is not None and last.provider == outage.provider:
            if last.until is None or outage.since <= last.until:
                ends = [last.until, outage.until]
                last.until = None if None in ends else max(end for end in ends if end is not None)
                last.failures += outage.failures
                continue
        if last is not None:
            yield last
        last = outage
    if last is not None:
        yield last
