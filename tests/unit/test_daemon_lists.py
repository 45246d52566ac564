"""The lists of a daemon: when they become stale, and which stay in use if opening fails."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.daemon.lists import LOOK_S, MISSING, REOPEN_S, STALE, InUse, Lists
from hashclient.daemon.options import TcpAddress
from hashclient.session import Session
from tests.kit import csv_of


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def session(tmp_path: Path) -> tuple[Session, Clock]:
    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv_of({"e-1": b"listed one"}), "base")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    clock = Clock()
    return Session(client.settings, now=clock, environ={}), clock


def test_a_list_is_stale_from_the_moment_on_and_not_a_minute_later(
    session: tuple[Session, Clock],
) -> None:
    lists, clock = InUse(session[0].open_lists(), session[0]), session[1]
    (expires,) = (state.expires for state in lists.states)
    assert lists.doubt is None
    clock.now = expires - timedelta(microseconds=1)
    assert lists.doubt is None
    clock.now = expires
    assert lists.doubt == STALE


def test_a_clock_that_is_set_back_calls_nothing_fresh(session: tuple[Session, Clock]) -> None:
    lists, clock = InUse(session[0].open_lists(), session[0]), session[1]
    clock.now -= timedelta(hours=1)
    assert lists.doubt == STALE
    clock.now += timedelta(hours=1)
    assert lists.doubt is None


def test_a_list_that_never_expires_has_an_end_all_the_same(
    session: tuple[Session, Clock],
) -> None:
    opened = session[0].open_lists()
    (index,) = opened.indexes
    for_ever = datetime.max.replace(tzinfo=UTC)
    index.manifest = msgspec.structs.replace(index.manifest, expires=for_ever)
    assert InUse(opened, session[0]).doubt is None


def test_lists_that_cannot_be_opened_are_doubted_until_they_can(
    session: tuple[Session, Clock], tmp_path: Path
) -> None:
    lists = Lists(session[0])
    folder = session[0].settings.layout.lists
    folder.rename(tmp_path / "gone")
    assert not lists.refresh(force=True)
    before = lists.now
    assert before.doubt == MISSING
    (tmp_path / "gone").rename(folder)
    assert lists.refresh(force=True)
    assert lists.now.doubt is None
    assert lists.now.same_lists(before)


def test_lists_that_have_not_changed_are_opened_again_after_a_time(
    session: tuple[Session, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, start = Lists(session[0]), time.monotonic()
    for after_s, is_opened in (
        (0.0, False),
        (REOPEN_S - LOOK_S - 1, False),
        (REOPEN_S + 1, True),
        (REOPEN_S + LOOK_S + 2, False),
        (2 * REOPEN_S, False),
        (2 * REOPEN_S + LOOK_S + 2, True),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(time, "monotonic", lambda now=start + after_s: now)
            assert lists.refresh() is is_opened, after_s


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("127.example.org", False),
        ("0.0.0.0", False),
        ("example.org", False),
        ("::", False),
    ],
)
def test_an_address_is_of_this_machine_or_it_is_not(host: str, is_loopback: bool) -> None:
    assert TcpAddress(host, 1).is_loopback is is_loopback
