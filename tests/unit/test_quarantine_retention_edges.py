"""Holds, due dates and purges at their edges: what is read, in which order, and what stays."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.quarantine import CONTENT, Ward
from hashclient.audit.log import read
from hashclient.core.errors import AuditError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import ANSWERED, Match
from hashclient.quarantine import retention
from hashclient.quarantine.retention import Due
from hashclient.quarantine.store import Room


@pytest.fixture
def kept(tmp_path: Path, file: Path) -> tuple[Ward, Match]:
    ward = Ward(tmp_path, keep_days=30.0)
    match = ward.match(file)
    ward.take(match)
    return ward, match


def due(ward: Ward, match: Match) -> Due:
    with ward.record() as record:
        return ward.open().due(match.id, record)


def test_only_an_acknowledged_match_has_a_date(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    assert due(ward, match).at is None
    ward.change(match, MatchState.REPORTED)
    ward.now += timedelta(days=2)
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=27)
    at = ward.now + timedelta(days=1)
    assert due(ward, match) == Due(is_due=False, at=at, why="due on 2026-03-31 12:00 UTC")
    ward.change(match, MatchState.REPORTED)  # to another recipient
    at = ward.now + timedelta(days=30)
    assert due(ward, match) == Due(is_due=False, at=at, why="due on 2026-04-29 12:00 UTC")
    assert ward.purge(match, force=True).detail.startswith(
        "not purged: it was reported, and is kept until 2026-04-29 12:00 UTC"
    )


def test_an_order_and_force_are_no_reason_to_purge_what_is_held(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    ward.hold(match)
    said = "not purged: on hold since 2026-03-01, by dave"
    for how in ({"force": True}, {"order": "17/4"}, {"force": True, "order": "17/4"}, {}):
        for dry_run in (True, False):
            done = ward.purge(match, dry_run=dry_run, **how)
            assert (done.done, done.detail) == (False, said)
    assert ward.opened(match) == CONTENT and "purging" not in ward.events()


def test_a_dry_run_needs_no_lock_and_changes_nothing(
    kept: tuple[Ward, Match], monkeypatch: pytest.MonkeyPatch
) -> None:
    ward, match = kept

    def refuse(_: Room) -> None:
        raise AssertionError("a dry run took the lock")

    monkeypatch.setattr(Room, "locked", refuse)
    done = ward.purge(match, order="17/4", dry_run=True)
    assert (done.done, done.item) == (None, ward.item(match))
    assert done.detail == "would be purged: kept until a report of it is acknowledged"


@pytest.mark.parametrize("how", [{}, {"force": True}, {"order": "17/4"}])
def test_a_report_that_is_retracted_meanwhile_stops_only_a_plain_purge(
    kept: tuple[Ward, Match], monkeypatch: pytest.MonkeyPatch, how: dict[str, object]
) -> None:
    ward, match = kept
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=31)
    known = retention.due
    answers = iter([True, False])

    def changing(*given: object) -> Due:
        found = known(*given)  # type: ignore[arg-type]
        return found if next(answers) else Due(is_due=False, at=None, why="retracted")

    monkeypatch.setattr(retention, "due", changing)
    done = ward.purge(match, **how)
    if how:
        assert done.done is True and ward.names() == set()
        return
    assert (done.done, done.detail) == (False, "not purged: retracted")
    assert ward.opened(match) == CONTENT
    assert ward.get(match).state is MatchState.ACKNOWLEDGED
    assert ward.events()[-1] == "purging"


@pytest.mark.parametrize("event", ["purging", "purged", "on-hold", "hold-ended"])
def test_what_cannot_be_logged_is_not_done_or_is_done_again(
    kept: tuple[Ward, Match], monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    ward, match = kept
    if event == "hold-ended":
        ward.hold(match)
    log = Room.log

    def refuse(room: Room, name: str, *given: object, **data: object) -> None:
        if name == event:
            raise AuditError("the disk is full")
        log(room, name, *given, **data)  # type: ignore[arg-type]

    act = {"on-hold": ward.hold, "hold-ended": ward.release}.get(event)
    with monkeypatch.context() as patched:
        patched.setattr(Room, "log", refuse)
        with pytest.raises(AuditError):
            act(match) if act else ward.purge(match, force=True)
    held = ward.item(match).hold
    assert (held is not None) is (event == "hold-ended")
    if event == "purged":
        assert not ward.evidence(match).exists()
        assert due(ward, match).why == "its purge was interrupted"
        assert ward.purge(match).done is True and ward.names() == set()
        assert [e for e in ward.events() if e.startswith("purg")] == ["purging"] * 2 + ["purged"]
    else:
        assert ward.opened(match) == CONTENT
        assert ward.get(match).state is MatchState.QUARANTINED


def test_a_copy_that_cannot_be_removed_is_purged_next_time(
    kept: tuple[Ward, Match], monkeypatch: pytest.MonkeyPatch
) -> None:
    ward, match = kept

    def refuse(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(retention, "fsync_dir", refuse)
        with pytest.raises(StateError) as failed:
            ward.purge(match, force=True)
    assert failed.value.message.startswith(
        f"cannot remove from the quarantine: {ward.evidence(match)}: "
    )
    assert "purged" not in ward.events() and ward.get(match).state is MatchState.PURGED
    assert ward.purge(match, dry_run=True).detail == "would be purged: its purge was interrupted"
    assert ward.purge(match).done is True


def test_a_purge_by_order_is_logged_with_all_that_was_decided(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    asked = {"request": "destroy", "text": "18/5"}
    with ward.record() as record:
        record.note(match.id, ANSWERED, ward.now, {"by": "desk", "requests": [asked]})
    why = due(ward, match).why
    assert ward.purge(match).done is True
    (logged,) = read(ward.settings.layout.audit, event="purging")
    assert logged.data["due"] == why and "order" not in logged.data
    assert logged.data["forced"] is False


def test_a_hold_until_the_past_is_none(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    with ward.record() as record:
        item = ward.open().hold(match.id, record, reason="r", until=ward.now)
        assert item.hold is not None and item.held(ward.now) is None
        with pytest.raises(UsageError, match="is not on hold"):
            ward.open().release(match.id, record, reason="r")
    assert ward.purge(match, force=True).done is True
