"""Notices from several addresses and from a bundle: each may have notices that others lack."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest

from fixtures.client import Client, csv
from fixtures.simulator import URL, Simulator, status, truncated
from hashclient.client.journal import Journal
from hashclient.core.errors import ExitCode, HashclientError, StateError
from hashclient.fetch.fetcher import How
from hashclient.fetch.notices import FetchedNotices, fetch_notices
from hashclient.fetch.places import Place, copy_at
from hashclient.fetch.providers import fetch_in_turn
from hashclient.fetch.switch import Fetched
from hashclient.migrations.migrate import writing
from hashclient.notices.document import Severity
from hashclient.provider.export import export_bundle
from hashclient.provider.notices import NoticeBoard, Said


class World:
    """A provider with a list and a notice, and a client that has fetched neither."""

    def __init__(self, directory: Path) -> None:
        self.provider = Simulator(directory / "provider")
        self.provider.publish(csv(range(10)))
        self.say("n-1")
        self.client = Client(directory / "state", self.provider, self.provider.root)
        self.passed_over: list[HashclientError] = []
        self.notices: list[FetchedNotices] = []

    def say(self, notice_id: str) -> None:
        said = Said(id=notice_id, sender="a@b", event="x", severity=Severity.MINOR, headline="y")
        NoticeBoard(self.provider.repository).publish(said, self.provider.now)
        self.provider.serve_published()

    def mirror(self, **faults: Any) -> Simulator:
        """Return a mirror; `faults` maps a part of a file name to the fault of that file."""
        mirror = copy.copy(self.provider)
        mirror.requests = []
        mirror.faults = {f"*{part}*": fault for part, fault in faults.items()}
        return mirror

    def fetch(self, *mirrors: Simulator) -> list[Fetched]:
        def place(mirror: Simulator, name: str) -> Place:
            return Place(name, URL, lambda: contextlib.nullcontext(mirror))

        return self.fetch_from([place(mirror, f"m-{n}") for n, mirror in enumerate(mirrors, 1)])

    def fetch_from(self, places: list[Place]) -> list[Fetched]:
        with writing(self.client.settings.layout):
            session = self.client.session
            session.sealer(create=True)
            how = How(on_failure=self.passed_over.append, on_notices=self.notices.append)
            return list(fetch_in_turn(session, "main", places, (), how))

    @property
    def ids(self) -> list[str]:
        return [standing.notice.id for standing in Journal(self.client.session).all()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_first_address_is_enough(world: World) -> None:
    one, two = world.mirror(), world.mirror()
    assert [fetched.error for fetched in world.fetch(one, two)] == [None]
    assert world.ids == ["n-1"]
    assert two.requests == [] and len(world.notices) == 1


@pytest.mark.sampled
@pytest.mark.parametrize("fault", [truncated, status(404), status(403)], ids=["cut", "404", "403"])
def test_notices_that_one_address_lacks_come_from_the_next_and_lists_come_once(
    world: World, fault: Any
) -> None:
    one, two = world.mirror(notices=fault), world.mirror()
    (fetched,) = world.fetch(one, two)
    assert (fetched.error, fetched.source) == (None, "m-1")
    assert world.ids == ["n-1"]
    (notices,) = world.notices
    assert notices.error is None
    (passed_over,) = world.passed_over
    assert passed_over.message.startswith("m-1 is passed over: ")
    assert not [path for path in two.requests if "lists" in path]


@pytest.mark.parametrize("second", ["notices", "timestamp"])
def test_missing_notices_are_no_failure_of_the_lists(world: World, second: str) -> None:
    (fetched,) = world.fetch(
        world.mirror(notices=status(404)), world.mirror(**{second: status(404)})
    )
    assert fetched.error is None
    (notices,) = world.notices
    assert notices.error is not None and notices.error.exit_code is ExitCode.UNREACHABLE
    assert world.ids == []


def test_notices_from_several_addresses_are_reported_once(world: World) -> None:
    world.say("n-2")
    one, two = world.mirror(**{"n-2": status(404)}), world.mirror()
    assert [fetched.error for fetched in world.fetch(one, two)] == [None]
    (notices,) = world.notices
    assert [standing.notice.id for standing in notices.arrived] == ["n-1", "n-2"]
    assert (notices.error, notices.refused) == (None, ())


def test_notices_are_reported_if_the_lists_come_from_another_address(world: World) -> None:
    one, two = world.mirror(parquet=status(404)), world.mirror()
    (fetched,) = world.fetch(one, two)
    assert (fetched.error, fetched.source) == (None, "m-2")
    (notices,) = world.notices
    assert [standing.notice.id for standing in notices.arrived] == ["n-1"]


def test_a_notice_of_one_address_that_the_next_one_ends_is_reported_as_ended(world: World) -> None:
    one = world.mirror(parquet=status(404))
    one.files = dict(world.provider.files)
    NoticeBoard(world.provider.repository).cancel(["n-1"], Said(id="n-2"), world.provider.now)
    world.provider.serve_published()
    world.fetch(one, world.mirror())
    (notices,) = world.notices
    assert [(s.notice.id, str(s.state)) for s in notices.arrived] == [
        ("n-1", "cancelled"),
        ("n-2", "cancel"),
    ]
    assert notices.ended == ()


def test_of_several_failures_the_worst_is_reported(world: World) -> None:
    def reversed_(_url: str, data: bytes, _max_bytes: int) -> bytes:
        return data[::-1]

    world.fetch(world.mirror(**{"n-1": reversed_}), world.mirror(notices=status(404)))
    (notices,) = world.notices
    assert notices.error is not None and notices.error.exit_code is ExitCode.UNVERIFIED


def test_an_address_that_lags_is_no_failure_of_the_lists(world: World) -> None:
    old = world.mirror()
    old.files = dict(world.provider.files)
    world.provider.renew()
    (fetched,) = world.fetch(world.mirror(notices=status(404)), old)
    assert fetched.error is None
    assert len(world.notices) == 1


def test_addresses_whose_notices_drip_do_not_add_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    for number in range(2, 9):
        world.say(f"n-{number}")

    def slow(_url: str, data: bytes, _max_bytes: int) -> bytes:
        clock[0] += 50.0
        return data

    for function in (fetch_in_turn, fetch_notices):
        monkeypatch.setitem(function.__kwdefaults__ or {}, "monotonic", lambda: clock[0])
    drips = {"parquet": status(404), "n-": slow}
    mirrors = [world.mirror(**drips) for _ in range(5)]
    world.fetch(*mirrors)
    assert [bool(mirror.requests) for mirror in mirrors] == [True, True, True, False, False]
    assert "not asked: m-4, m-5" in world.passed_over[-1].message
    # Notices from earlier fetches are kept.
    assert len(world.ids) == 6


def test_a_disk_that_fails_at_the_second_address_is_not_passed_over(
    world: World,
) -> None:
    def full(_url: str, _data: bytes, _max_bytes: int) -> bytes:
        raise StateError("no space left")

    one, two = world.mirror(**{"n-1": status(404)}), world.mirror()
    two.faults["*timestamp*"] = full
    with pytest.raises(StateError, match="no space left"):
        world.fetch(one, two)
    (notices,) = world.notices
    assert notices.error is not None


def test_a_bundle_has_notices(world: World, tmp_path: Path) -> None:
    export_bundle(world.provider.repository.directory, tmp_path / "a.bundle", {})
    for path in (tmp_path / "a.bundle", world.provider.repository.public):
        (fetched,) = world.fetch_from([copy_at(path)])
        assert fetched.error is None
    assert world.ids == ["n-1"]
    assert [len(notices.arrived) for notices in world.notices] == [1, 0]
