"""Keeping and destroying: holds, when an item is due, and items that are never destroyed."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fixtures.crash import watched
from fixtures.quarantine import CONTENT, LIST, Ward
from hashclient.audit.log import read
from hashclient.core.errors import AuditError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match, standing_steps


@pytest.fixture
def kept(tmp_path: Path, file: Path) -> tuple[Ward, Match]:
    ward = Ward(tmp_path, keep_days=30.0)
    match = ward.match(file)
    ward.take(match)
    return ward, match


def due(ward: Ward, match: Match) -> tuple[bool, str]:
    with ward.record() as record:
        found = ward.open().due(match.id, record)
    return found.is_due, found.why


def test_an_item_is_due_a_while_after_the_hand_over(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    assert due(ward, match) == (False, "kept until a report of it is acknowledged")
    ward.change(match, MatchState.REPORTED)
    assert due(ward, match) == (False, "kept until a report of it is acknowledged")
    ward.now += timedelta(days=10)
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=20, seconds=-1)
    assert due(ward, match) == (False, "due on 2026-03-31 12:00 UTC")
    assert ward.purge(match).done is False
    assert ward.opened(match) == CONTENT
    ward.now += timedelta(seconds=1)
    assert due(ward, match) == (True, "due since 2026-03-31 12:00 UTC")
    asked = ward.purge(match, dry_run=True)
    assert (asked.done, asked.detail) == (None, "would be purged: due since 2026-03-31 12:00 UTC")
    assert ward.opened(match) == CONTENT
    assert ward.purge(match).done is True
    assert ward.names() == set()
    assert ward.get(match).state is MatchState.PURGED
    assert ward.events()[-2:] == ["purging", "purged"]
    assert ward.verify() == {}


def test_what_was_reported_is_kept_for_keep_days_also_from_a_forced_purge(
    kept: tuple[Ward, Match],
) -> None:
    ward, match = kept
    ward.change(match, MatchState.REPORTED)
    ward.now += timedelta(days=29)
    refused = ward.purge(match, force=True)
    said = "not purged: it was reported, and is kept until 2026-03-31 12:00 UTC unless there is an"
    assert (refused.done, refused.detail) == (False, f"{said} order")
    assert ward.purge(match, force=True, dry_run=True).done is False
    assert ward.opened(match) == CONTENT and "purging" not in ward.events()
    ward.now += timedelta(days=1)
    assert ward.purge(match, force=True).done is True


def test_a_forced_purge_of_what_the_record_lacks_waits_for_the_record(
    kept: tuple[Ward, Match],
) -> None:
    """Without the record nobody knows whether the match was reported."""
    ward, match = kept
    ward.change(match, MatchState.REPORTED)
    (ward.state / "matches.db").unlink()
    refused = ward.purge(match, force=True)
    assert refused.done is False and "not in the record of matches" in refused.detail
    assert ward.purge(match, order="17/4").done is True


def test_an_order_outranks_keep_days_but_no_hold(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    ward.change(match, MatchState.REPORTED)
    ward.hold(match)
    assert ward.purge(match, order="17/4").done is False
    ward.release(match)
    assert ward.purge(match, order="17/4").done is True
    (logged,) = read(ward.settings.layout.audit, event="purging")
    assert (logged.data["order"], logged.data["forced"]) == ("17/4", False)


def test_the_last_of_several_acknowledgements_counts(kept: tuple[Ward, Match]) -> None:
    """If there are several recipients, the item is kept for as long as any of them asks."""
    ward, match = kept
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=20)
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=11)
    assert due(ward, match) == (False, "due on 2026-04-20 12:00 UTC")
    assert ward.purge(match).done is False
    assert ward.opened(match) == CONTENT


def test_a_second_hold_adds_its_reason(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    first = ward.hold(match).hold
    ward.now += timedelta(days=1)
    second = ward.hold(match).hold
    assert first is not None and second is not None
    assert (second.by, second.time) == (first.by, first.time)
    assert second.reason == "order; order"


def test_a_hold_outranks_everything(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.hold(match)
    ward.now += timedelta(days=400)
    assert due(ward, match) == (False, "on hold since 2026-03-01, by dave")
    assert ward.purge(match, force=True).done is False
    assert ward.purge(match, force=True, dry_run=True).done is False
    assert ward.hold(match).hold is not None
    assert ward.release(match).hold is None
    with pytest.raises(UsageError, match="is not on hold"):
        ward.release(match)
    assert ward.purge(match).done is True
    with ward.record() as record:
        story = [step.event for step in record.story(match.id)]
    assert story[-4:] == ["on-hold", "on-hold", "hold-ended", "purged"]
    assert [e for e in ward.events() if "quar" not in e] == [
        *("on-hold", "on-hold", "hold-ended"),
        *("purging", "purged"),
    ]


def test_a_hold_on_an_item_is_no_state_of_its_match(kept: tuple[Ward, Match]) -> None:
    """If a hold made the match `held`, the match would be `held` after a retraction."""
    ward, match = kept
    ward.hold(match)
    with ward.record() as record:
        assert [s.event for s in standing_steps(record.story(match.id))] == ["quarantined"]


def test_the_item_of_a_withdrawn_match_is_never_due(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.withdraw()
    ward.now += timedelta(days=400)
    assert due(ward, match) == (False, "its entry was withdrawn: restore the file")
    assert ward.purge(match).done is False
    assert ward.purge(match, force=True).done is True


def test_without_a_period_nothing_is_due(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=10_000)
    is_due, why = due(ward, match)
    assert not is_due and why.startswith("no keep_days")


def test_a_match_in_place_stays_found_when_its_copy_is_purged(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    with watched(lambda name, argument: _busy(name, argument, match.id)):
        assert not ward.take(match).taken
    assert due(ward, match) == (False, "the file was not removed from its place yet")
    assert ward.purge(match, force=True).done is True
    assert ward.get(match).state is MatchState.FOUND
    assert file.exists() and ward.names() == set()
    assert ward.take(match).taken


def _busy(name: str, argument: object, match_id: str) -> None:
    if name == "rename" and argument == "file.bin":
        raise OSError(16, "Device or resource busy")


def test_an_unknown_or_malformed_id_is_refused(ward: Ward) -> None:
    with ward.record() as record:
        quarantine = ward.open()
        marks: dict[str, Any] = {"reason": "y"}
        for act in (
            lambda: quarantine.hold("bbbbbbbbbb", record, **marks),
            lambda: quarantine.release("bbbbbbbbbb", record, **marks),
            lambda: quarantine.purge("bbbbbbbbbb", record, **marks),
            lambda: quarantine.purge("../../audit", record, **marks),
            lambda: quarantine.due("bbbbbbbbbb", record),
            lambda: quarantine.restore("bbbbbbbbbb", [], record, **marks),
        ):
            with pytest.raises(UsageError, match=r"nothing in quarantine|not an id"):
                act()


def test_a_reason_of_any_bytes_is_written_down(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    with ward.record() as record:
        ward.open().take(match, record, reason=os.fsdecode(b"caf\xe9"))
    assert ward.item(match).taken.reason == "caf?"


def test_a_restored_item_that_was_not_dropped_is_dropped(kept: tuple[Ward, Match]) -> None:
    """The restoration was killed in its last moment."""
    ward, match = kept
    path = ward.evidence(match).parent / "item.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "restored": {**document["taken"], "in_place": True}}))
    finding = ward.verify()[match.id]
    assert finding.attention and "restored, but its copy is still here" in finding.detail
    assert ward.purge(match, dry_run=True).done is None
    assert ward.purge(match).done is True
    assert ward.names() == set()
    now = ward.get(match)
    assert (now.state, now.in_place) == (MatchState.RESTORED, True)
    assert "purging" not in ward.events()


def test_a_restored_match_that_was_found_again_keeps_its_state(
    kept: tuple[Ward, Match], file: Path
) -> None:
    ward, match = kept
    ward.restore(match, force=True, to=file.with_name("for a moment"))
    file.with_name("for a moment").rename(file)
    again = ward.match(file, entry="e-2")
    ward.take(again)
    path = ward.evidence(again).parent / "item.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "restored": {**document["taken"], "in_place": True}}))
    with ward.record() as record:
        record.change(again.id, MatchState.FOUND, ward.now, {}, in_place=True)
        record.change(again.id, MatchState.CLOSED, ward.now, {})
    assert ward.purge(again).done is True
    assert ward.get(again).state is MatchState.CLOSED


# A record of matches that was lost


def test_an_item_missing_from_the_record_is_recorded_again(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    with ward.record() as record:
        assert list(ward.open("me").recover(record)) == []
    (ward.state / "matches.db").unlink()
    assert due(ward, match)[1].startswith("not in the record of matches: `quarantine recover`")
    ward.now += timedelta(days=1)
    with ward.record() as record:
        (item,) = ward.open("me").recover(record)
        assert list(ward.open("me").recover(record)) == []
        found = record.get(match.id)
        story = record.story(match.id)
    assert item.id == match.id
    assert (found.path, found.size, found.tags) == (match.path, match.size, match.tags)
    assert (found.state, found.in_place) == (MatchState.QUARANTINED, False)
    assert found.hits == match.hits
    assert [(s.event, s.detail) for s in story] == [("recorded-again", {"by": "me"})]
    assert ward.events()[-1] == "recorded-again"


def test_a_withdrawal_reaches_what_was_recorded_again(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    (ward.state / "matches.db").unlink()
    with ward.record() as record:
        list(ward.open("me").recover(record))
        assert record.standing(LIST) == ["e-1"]
        record.withdraw(LIST, ["e-1"], 2, ward.now)
    ward.restore(match)
    assert Path(match.path).read_bytes() == CONTENT


def test_a_match_that_cannot_be_logged_is_not_recorded(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    (ward.state / "matches.db").unlink()
    for path in ward.settings.layout.audit.iterdir():
        path.unlink()
    ward.settings.layout.audit.rmdir()
    ward.settings.layout.audit.touch()
    with ward.record() as record, pytest.raises(AuditError):
        list(ward.open("me").recover(record))
    with ward.record() as record, pytest.raises(UsageError):
        record.get(match.id)


def test_a_file_that_was_sealed_and_not_removed_is_in_place_still(
    tmp_path: Path, file: Path
) -> None:
    ward = Ward(tmp_path)
    match = ward.match(file)
    folder = ward.settings.layout.quarantine / match.id
    ward.take(match)
    document = json.loads((folder / "item.json").read_bytes())
    (folder / "item.json").write_text(json.dumps(document | {"stage": "sealed"}))
    (ward.state / "matches.db").unlink()
    with ward.record() as record:
        list(ward.open("me").recover(record))
        found = record.get(match.id)
    assert (found.state, found.in_place) == (MatchState.FOUND, True)
