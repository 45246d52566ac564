"""Writes times: one spelling for people, one for programs."""

from __future__ import annotations

from datetime import UTC, datetime


class _Zone:
    """The zone that people see: UTC, or the local one of this process."""

    is_local = False


def show_local_time(*, wanted: bool) -> None:
    """Show people local times from now on, or UTC, in this process and those that it forks."""
    _Zone.is_local = wanted


def for_people(time: datetime) -> str:
    """Return `2026-11-26 01:28 UTC`, or, where local time is wanted, `2026-11-26 02:28 +01:00`."""
    if not _Zone.is_local:
        return f"{_in_utc(time):%Y-%m-%d %H:%M} UTC"
    try:
        return time.astimezone().isoformat(sep=" ", timespec="minutes")
    except (OverflowError, ValueError, OSError):  # at the ends of time
        return f"{_in_utc(time):%Y-%m-%d %H:%M} UTC"


def for_programs(time: datetime) -> str:
    """Return a time as RFC 3339 has it, in UTC: `2026-11-26T01:28:03Z`, and no finer than it is."""
    return _in_utc(time).isoformat().replace("+00:00", "Z")


def _in_utc(time: datetime) -> datetime:
    """Return a time in UTC; times beyond Python's first and last year stay as they are."""
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return time
