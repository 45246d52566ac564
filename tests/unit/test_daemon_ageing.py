"""A daemon warns of lists that no fetch has checked, long before files get no verdict."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from hashclient.daemon.lists import Ageing, age_of
from hashclient.index.manifest import load_manifest
from hashclient.system.text import for_people
from tests.kit import State, edit_manifest

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NONE = timedelta(0)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, {"base": {"e-1": b"listed"}, "other": {"e-2": b"other"}})


def test_a_list_is_warned_of_from_the_first_day_without_a_check_on(state: State) -> None:
    session = state.client.session
    manifest = load_manifest(state.path / "lists" / "base", session.sealer())
    assert manifest is not None
    checked, expires = manifest.checked_at, manifest.expires
    assert expires > checked + 3 * DAY
    assert age_of(manifest, NONE, checked + 23 * HOUR) is None
    late = age_of(manifest, NONE, checked + 25 * HOUR)
    assert late is not None and for_people(checked) in late and for_people(expires) in late
    grace = age_of(manifest, 2 * DAY, expires + DAY)
    assert grace is not None and for_people(expires + 2 * DAY) in grace
    stale = age_of(manifest, 2 * DAY, expires + 2 * DAY)
    assert stale == (
        f"list base is stale since {for_people(expires + 2 * DAY)}: nothing is answered as clean"
    )


def test_a_list_that_expires_at_the_end_of_time_may_have_a_grace_period(state: State) -> None:
    edit_manifest(state.path, "base", expires="9999-12-31T23:00:00Z")
    session = state.client.session
    manifest = load_manifest(state.path / "lists" / "base", session.sealer())
    assert manifest is not None
    assert age_of(manifest, 2 * DAY, manifest.checked_at) is None
    late = age_of(manifest, 2 * DAY, manifest.checked_at + 2 * DAY)
    assert late is not None and "from 9999-12-31" in late


def test_the_same_is_said_once_a_day(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_manifest(state.path, "base", checked_at="2020-01-01T00:00:00Z")
    moment = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    said: list[str] = []
    watched = Ageing(state.client.session, lambda text, _hint: said.append(text))
    (first,) = watched.look()
    assert first.startswith("list base was last checked 2020-01-01")
    assert watched.look() == []
    moment += 3601
    assert watched.look() == []
    moment += 86_400
    assert watched.look() == [first]
    assert said == [first, first]
