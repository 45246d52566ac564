"""The grace period: for how long an expired list is used, and how commands report that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hashclient.cli.app import App
from hashclient.config.edit import provider_table
from hashclient.config.tables import MAX_GRACE_HOURS, ProviderConfig
from hashclient.scan.run.recorder import RunRecord
from tests.kit import Run, State, edit_manifest, write_tree

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)
LISTED = {"e-1": b"listed one", "e-2": b"the second that is listed"}
EXPIRED = "list base is stale: it expired"


class Expired(State):
    """A state whose list `base` expired before `NOW`, and another list that is always fresh."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, {"base": LISTED, "fresh": {"x": b"another"}})
        for name in ("base", "fresh"):
            edit_manifest(self.path, name, checked_at="2026-05-10T00:00:00Z")
        self.clean = write_tree(directory / "clean", {"a": b"benign"})
        self.listed = write_tree(directory / "listed", {"a": b"benign", "b": LISTED["e-1"]})

    def expire(self, hours: float, grace_hours: float | None) -> None:
        """Let `base` have expired this number of hours ago."""
        expires = (NOW - timedelta(hours=hours)).isoformat()
        edit_manifest(self.path, "base", expires=expires)
        edit_manifest(self.path, "fresh", expires=(NOW + timedelta(days=1)).isoformat())
        config = ProviderConfig(root_sha256="0" * 64, grace_hours=grace_hours or 0.0)
        self.configure(provider_table("main", config))

    def status(self, *args: str) -> Run:
        return self.call("status", *args)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Expired:
    return Expired(tmp_path_factory.mktemp("site"))


@pytest.fixture
def world(made: Expired, monkeypatch: pytest.MonkeyPatch) -> Expired:
    monkeypatch.setattr(App, "now", staticmethod(lambda: NOW))
    return made


def base(result: Run) -> dict[str, object]:
    found: dict[str, dict[str, object]] = {s["name"]: s for s in result.summary["lists"]}
    assert found["fresh"]["fresh"] is True and "in_grace" not in found["fresh"]
    return found["base"]


@pytest.mark.parametrize(("tree", "code"), [("clean", 0), ("listed", 10)])
def test_within_the_grace_period_the_list_counts(world: Expired, tree: str, code: int) -> None:
    world.expire(hours=5, grace_hours=6)
    result = world.scan(getattr(world, tree))
    assert (result.code, result.summary["exit_code"]) == (code, code)
    assert f"warning: {EXPIRED} 2026-05-10 07:00 UTC and is in its grace period" in result.err
    assert "hint: run `hashclient fetch" in result.err
    assert (base(result)["fresh"], base(result)["in_grace"]) == (False, True)


@pytest.mark.parametrize(("tree", "code"), [("clean", 7), ("listed", 11)])
@pytest.mark.parametrize("grace", [None, 0, 4.99])
def test_beyond_it_or_without_one_it_is_stale(
    world: Expired, tree: str, code: int, grace: float | None
) -> None:
    world.expire(hours=5, grace_hours=grace)
    result = world.scan(getattr(world, tree))
    assert (result.code, result.summary["exit_code"]) == (code, code)
    assert EXPIRED in result.err and "grace" not in result.err
    assert base(result)["fresh"] is False and "in_grace" not in base(result)


@pytest.mark.parametrize(("hours", "code"), [(0, 0), (6 - 1 / 3600, 0), (6, 7)])
def test_it_begins_with_the_expiry_and_ends_to_the_second(
    world: Expired, hours: float, code: int
) -> None:
    world.expire(hours=hours, grace_hours=6)
    assert world.scan(world.clean).code == code
    assert world.status().code == code


def test_before_the_expiry_nothing_is_said(world: Expired) -> None:
    world.expire(hours=-1, grace_hours=6)
    result = world.scan(world.clean)
    assert (result.code, result.err) == (0, "")
    assert base(result)["fresh"] is True and "in_grace" not in base(result)


@pytest.mark.parametrize(
    ("tree", "renewed", "code"),
    [("clean", False, 7), ("listed", False, 11), ("clean", True, 0), ("listed", True, 10)],
)
def test_a_list_that_expires_during_a_scan_is_stale_unless_a_fetch_renews_it(
    world: Expired, monkeypatch: pytest.MonkeyPatch, tree: str, renewed: bool, code: int
) -> None:
    world.expire(hours=-1, grace_hours=0)
    moments, start = [NOW], RunRecord.start

    def waiting(record: RunRecord, arguments: Sequence[str]) -> None:
        start(record, arguments)
        moments.append(NOW + timedelta(hours=1))
        if renewed:
            edit_manifest(world.path, "base", expires=(NOW + timedelta(hours=2)).isoformat())

    monkeypatch.setattr(App, "now", staticmethod(lambda: moments[-1]))
    monkeypatch.setattr(RunRecord, "start", waiting)
    result = world.scan(getattr(world, tree))
    assert (result.code, result.summary["exit_code"]) == (code, code)
    assert base(result)["fresh"] is renewed


def test_status_shows_it_and_ends_well(world: Expired) -> None:
    world.expire(hours=5, grace_hours=6)
    text = world.status()
    assert text.code == 0
    assert "past its expiry, in its grace period until 2026-05-10 13:00 UTC" in text.out
    document = json.loads(world.status("--format", "json").out)
    assert document["exit_code"] == 0
    found = {entry["name"]: entry for entry in document["lists"]}
    assert found["base"]["usable"] is True and found["base"]["fresh"] is False
    assert "grace period" in found["base"]["problem"]
    assert found["fresh"]["fresh"] is True


def test_status_of_a_stale_list_is_an_error(world: Expired) -> None:
    world.expire(hours=5, grace_hours=1)
    text = world.status()
    assert text.code == 7 and "STALE: past its expiry" in text.out


def test_a_clock_that_was_set_back_has_no_grace(world: Expired) -> None:
    """If the clock was set back, nobody knows which lists have expired."""
    world.expire(hours=5, grace_hours=6)
    later = (NOW + timedelta(hours=1)).isoformat()
    edit_manifest(world.path, "base", checked_at=later)
    try:
        assert world.scan(world.clean).code == 7
        assert world.scan(world.listed).code == 11
        assert world.status().code == 7
    finally:
        edit_manifest(world.path, "base", checked_at="2026-05-10T00:00:00Z")


def test_the_longest_grace_of_a_list_that_never_expires_can_be_reckoned(world: Expired) -> None:
    world.expire(hours=5, grace_hours=MAX_GRACE_HOURS)
    assert world.scan(world.clean).code == 0
    edit_manifest(world.path, "base", expires="9999-12-31T23:59:59Z")
    assert world.scan(world.clean).code == 0
    assert world.status().code == 0


def test_a_lookup_has_the_same_grace(world: Expired) -> None:
    digest = "0" * 32
    world.expire(hours=5, grace_hours=6)
    assert world.call("lookup", digest).code == 0
    world.expire(hours=5, grace_hours=4)
    assert world.call("lookup", digest).code == 7
