"""Times as people and programs see them, also the first and last times; order of names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from hashclient.system.text import for_people, for_programs, natural, show_local_time

ENDS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@pytest.fixture(params=["Asia/Kolkata", "America/New_York"])
def _local(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    show_local_time(wanted=True)
    yield
    show_local_time(wanted=False)
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_local")
@pytest.mark.parametrize("end", ENDS, ids=["first", "last"])
def test_the_ends_of_time_are_shown_whatever_the_zone(end: datetime) -> None:
    assert for_people(end)
    assert for_programs(end).endswith("Z")


def test_both_are_in_utc_unless_local_time_is_wanted() -> None:
    at = datetime(2026, 11, 26, 1, 28, 3, tzinfo=UTC)
    assert (for_people(at), for_programs(at)) == ("2026-11-26 01:28 UTC", "2026-11-26T01:28:03Z")


def test_names_stand_in_the_order_of_their_numbers() -> None:
    ordered = [
        "",
        "7",
        "10",
        "a",
        "web-2",
        "web-002b",
        "web-2c",
        "web-10",
        f"web-{'9' * 5000}",
        "x",
    ]
    assert sorted(set(ordered), key=natural) == ordered
