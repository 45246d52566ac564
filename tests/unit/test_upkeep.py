"""Records that are deleted automatically, and records that are never deleted."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fixtures.crash import in_child
from fixtures.desk import Desk
from hashclient.audit.log import read
from hashclient.client import upkeep
from hashclient.config.settings import parse_config
from hashclient.config.tables import KeepConfig
from hashclient.core.errors import ConfigError, HashclientError, StateError
from hashclient.core.kinds import SETTLED, MatchState
from hashclient.core.match import Match
from hashclient.matches.pruning import Pruner
from hashclient.scan.cache import cache
from hashclient.scan.cache.cache import DAY_S, Inventory
from hashclient.scan.cache.records import RECORD
from hashclient.session import Session

DAYS = 30.0


class Keeper(Desk):
    """A desk that forgets its settled matches after `DAYS`."""

    def __init__(self, directory: Path, *, days: float | None = DAYS) -> None:
        super().__init__(directory)
        config = msgspec.structs.replace(self.settings.config, keep=KeepConfig(days))
        self.settings = msgspec.structs.replace(self.settings, config=config)
        self.session = self.session_of("tester")

    def settle(self, match: Match, state: MatchState = MatchState.CLOSED) -> None:
        with self.record() as record:
            record.change(match.id, state, self.now(), {}, in_place=False)

    def prune(self) -> int:
        return upkeep.prune_matches(self.session)

    def ids(self) -> set[str]:
        with self.record() as record:
            return {match.id for match in record.find()}


@pytest.fixture
def desk(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path)


@pytest.mark.parametrize("state", MatchState)
def test_only_what_is_settled_for_long_is_forgotten(desk: Keeper, state: MatchState) -> None:
    match = desk.find("a", b"one")
    with desk.record() as record:
        record.change(match.id, state, desk.now(), {})
    desk.wait(days=29)
    assert desk.prune() == 0
    desk.wait(days=2)
    gone = state in SETTLED
    assert desk.prune() == gone
    assert desk.ids() == (set() if gone else {match.id})
    with desk.record() as record:
        db = record._db
        for table in ("hit", "step"):
            (left,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert (left == 0) == gone
    logged = list(read(desk.settings.layout.audit, event="matches-pruned"))
    assert [(r.data["matches"], r.data["by"]) for r in logged] == [([match.id], "tester")] * gone


def test_it_counts_from_the_last_step(desk: Keeper) -> None:
    match = desk.find("a", b"one")
    desk.settle(match)
    desk.wait(days=20)
    with desk.record() as record:
        record.note(match.id, "on-hold", desk.now(), {})
    desk.wait(days=20)
    assert desk.prune() == 0
    desk.wait(days=20)
    assert desk.prune() == 1


def test_without_the_key_nothing_is_forgotten(tmp_path: Path) -> None:
    desk = Keeper(tmp_path, days=None)
    desk.settle(desk.find("a", b"one"))
    desk.wait(days=10_000)
    assert desk.prune() == 0 and len(desk.ids()) == 1


@pytest.mark.parametrize("end", [None, "acknowledged", "retracted"])
def test_a_match_that_a_report_waits_for_stays(desk: Keeper, end: str | None) -> None:
    match = desk.find("a", b"one")
    report = desk.prepare(match)
    desk.send(report)
    desk.settle(match)
    desk.wait(days=100)
    assert desk.prune() == 0
    if end == "acknowledged":
        desk.acknowledge(report)
    elif end == "retracted":
        desk.retract(report)
    assert desk.prune() == 0  # the state of the report was changed just now
    desk.wait(days=100)
    assert desk.prune() == (end is not None)


def test_items_in_quarantine_stay(desk: Keeper) -> None:
    match = desk.find("a", b"one")
    desk.quarantine(match)
    desk.settle(match)
    desk.wait(days=100)
    assert desk.prune() == 0


def test_where_a_report_cannot_be_read_nothing_is_forgotten(desk: Keeper) -> None:
    match, other = desk.find("a", b"one"), desk.find("b", b"two")
    report = desk.prepare(other)
    (desk.outbox.folder(report.id) / "report.json").write_text("{")
    desk.settle(match)
    desk.wait(days=100)
    failures: list[HashclientError] = []
    upkeep.tidy(desk.session, failures.append)
    assert [type(f) for f in failures] == [StateError]
    assert match.id in desk.ids()


def test_a_match_that_is_found_again_meanwhile_stays(
    desk: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = desk.find("a", b"one")
    with desk.record() as record:
        record.change(match.id, MatchState.CLOSED, desk.now(), {})
    desk.wait(days=100)
    original = Pruner.prune

    def prune(self: Pruner, ids: Any) -> int:
        assert desk.find("a", b"one").id == match.id
        return original(self, ids)

    monkeypatch.setattr(Pruner, "prune", prune)
    assert desk.prune() == 0
    assert desk.get(match).state is MatchState.FOUND and desk.get(match).hits


def test_without_the_log_nothing_is_forgotten(desk: Keeper) -> None:
    desk.settle(desk.find("a", b"one"))
    desk.wait(days=100)
    log = desk.settings.layout.audit / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20] + b"0" * 19 + b"\n")
    with pytest.raises(HashclientError):
        desk.prune()
    assert len(desk.ids()) == 1


def test_so_many_at_a_time_and_the_file_gets_shorter(
    desk: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MOST_MATCHES", 40)
    matches = [desk.find(f"f{n}", b"%d" % n) for n in range(60)]
    for match in matches:
        desk.settle(match)
    before = desk.settings.layout.matches.stat().st_size
    desk.wait(days=100)
    assert [desk.prune() for _ in range(3)] == [40, 20, 0]
    assert desk.ids() == set()
    assert desk.settings.layout.matches.stat().st_size < before


def test_killed_in_between_nothing_is_half_forgotten(
    desk: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = desk.find("a", b"one")
    desk.settle(match)
    desk.wait(days=100)

    def die() -> None:
        def to_json(*_args: object) -> None:
            os._exit(9)

        monkeypatch.setattr(Pruner, "compact", to_json)
        desk.prune()

    assert in_child(die) != 0
    assert desk.ids() == set()
    with desk.record() as record:
        assert record._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("key", ["matches_days", "inventory_days"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "1e9"])
def test_a_period_that_cannot_be_meant(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_config(f"[keep]\n{key} = {value}\n", "x")


class Shelf:
    """Writes records to an inventory, at times that the test sets."""

    def __init__(self, state: Path, key_id: str, patch: pytest.MonkeyPatch) -> None:
        self.state, self.key_id = state, key_id
        self.day = 20_000
        self.ticks = 0.0
        clock = SimpleNamespace(time=lambda: self.day * DAY_S + 60.0, monotonic=self._tick)
        patch.setattr(cache, "time", clock)

    def _tick(self) -> float:
        self.ticks += 1
        return self.ticks

    def remember(self, first: int, blocks: int) -> None:
        import numpy as np

        records = np.zeros(blocks, RECORD)
        records["ino"] = (np.arange(blocks, dtype=np.uint64) + np.uint64(first)) * np.uint64(256)
        records["mask"] = 1
        inventory = Inventory(self.state, self.key_id, write=True)
        inventory.store([(7, records.tobytes())])
        inventory.close()

    def files(self) -> int:
        inventory = Inventory(self.state, self.key_id)
        try:
            return inventory.stats().files
        finally:
            inventory.close()


@pytest.fixture
def shelf(desk: Keeper, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(desk.settings.state_dir, desk.session.sealer(create=True).key_id, monkeypatch)


def test_files_that_no_scan_comes_across_are_forgotten(desk: Keeper, shelf: Shelf) -> None:
    shelf.remember(0, 50)
    shelf.day += 60
    shelf.remember(1_000, 30)
    assert upkeep.prune_inventory(desk.session) == 0
    shelf.day += 40
    assert upkeep.prune_inventory(desk.session) == 50
    assert shelf.files() == 30
    shelf.day += 60
    shelf.remember(2_000, 10)
    assert upkeep.prune_inventory(desk.session) == 30 and shelf.files() == 10


def test_they_are_looked_for_once_a_week(desk: Keeper, shelf: Shelf) -> None:
    shelf.remember(0, 5)
    shelf.day += 90
    assert upkeep.prune_inventory(desk.session) == 0
    shelf.day += 1
    assert upkeep.prune_inventory(desk.session) == 0  # nothing is pruned before a week has passed
    shelf.day += 6
    assert upkeep.prune_inventory(desk.session) == 5
    # Records that were written with a clock ahead are removed in the end.
    shelf.day -= 50
    shelf.remember(0, 5)
    shelf.day += 45
    assert upkeep.prune_inventory(desk.session) == 0
    shelf.day += 50
    assert upkeep.prune_inventory(desk.session) == 5


def test_a_part_at_a_time(desk: Keeper, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "INVENTORY_S", 0.0)
    shelf.remember(0, 2_500)
    shelf.day += 100
    counts = [upkeep.prune_inventory(desk.session) for _ in range(4)]
    assert counts == [1000, 1000, 500, 0]


def test_an_inventory_that_is_not_ours_is_left_alone(desk: Keeper, shelf: Shelf) -> None:
    shelf.key_id = "f" * 16
    shelf.remember(0, 5)
    shelf.day += 100
    assert upkeep.prune_inventory(desk.session) == 0 and shelf.files() == 5


def test_tidying_makes_no_files_in_an_empty_state(tmp_path: Path) -> None:
    desk = Keeper(tmp_path)
    before = {p.name for p in desk.settings.state_dir.rglob("*")}
    failures: list[HashclientError] = []
    upkeep.tidy(Session(desk.settings, now=lambda: datetime.now(UTC)), failures.append)
    assert failures == []
    assert {p.name for p in desk.settings.state_dir.rglob("*")} == before


def test_while_a_scan_writes_it_is_put_off(shelf: Shelf) -> None:
    shelf.remember(0, 50)
    shelf.day += 100
    ours, scan = (Inventory(shelf.state, shelf.key_id, write=True) for _ in range(2))
    try:
        scan._db.execute("BEGIN IMMEDIATE")
        assert ours.prune_in_turn(90, 0.01) == 0
        scan._db.execute("ROLLBACK")
        assert ours.prune_in_turn(90, 0.01) == 50
    finally:
        scan.close()
        ours.close()
