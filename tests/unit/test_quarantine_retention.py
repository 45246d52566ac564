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
from hashclient.core.match import (
    ANSWERED,
    REPORT_PREPARED,
    REPORT_RETRACTED,
    Match,
    standing_steps,
)


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


def test_a_report_from_before_the_file_was_restored_counts_for_a_forced_purge(
    kept: tuple[Ward, Match], file: Path
) -> None:
    ward, match = kept
    ward.change(match, MatchState.REPORTED)
    ward.restore(match, force=True)
    again = ward.match(file)
    assert again.id == match.id and ward.take(again).taken
    assert ward.purge(match, force=True).done is False
    ward.now += timedelta(days=30)
    assert ward.purge(match, force=True).done is True


def test_a_forced_purge_of_what_the_record_lacks_waits_for_the_record(
    kept: tuple[Ward, Match],
) -> None:
    """Without the record of matches, nobody knows whether the match was reported."""
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
    """If there are several recipients, the item is kept until the longest time has passed."""
    ward, match = kept
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=20)
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=11)
    assert due(ward, match) == (False, "due on 2026-04-20 12:00 UTC")
    assert ward.purge(match).done is False
    assert ward.opened(match) == CONTENT


def test_an_item_in_another_report_that_was_not_sent_is_not_due(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    with ward.record() as record:
        for report in "r-1", "r-2":
            record.note(match.id, REPORT_PREPARED, ward.now, {"report": report})
        for state in MatchState.REPORTED, MatchState.ACKNOWLEDGED:
            record.change(match.id, state, ward.now, {"report": "r-1"})
    ward.now += timedelta(days=31)
    assert due(ward, match) == (False, "kept until report r-2 was sent")
    assert ward.purge(match).done is False
    with ward.record() as record:
        record.take_back(match.id, REPORT_RETRACTED, ward.now, {"report": "r-2"})
    assert due(ward, match)[0]


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
    """A hold of an item must not change the state of its match, because `held` is a state."""
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
    """The restoration was killed before its last step."""
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


LATER, SOONER = timedelta(days=9), timedelta(days=3)


@pytest.mark.parametrize(
    ("first", "second", "end"),
    [
        *((None, None, None), (None, SOONER, None), (SOONER, None, None)),
        *((SOONER, LATER, LATER), (LATER, SOONER, LATER), (SOONER, SOONER, SOONER)),
    ],
)
def test_of_two_holds_the_later_end_counts(
    kept: tuple[Ward, Match],
    first: timedelta | None,
    second: timedelta | None,
    end: timedelta | None,
) -> None:
    ward, match = kept
    began = ward.now
    with ward.record() as record:
        for by, until in (("ann", first), ("ben", second)):
            ends = None if until is None else began + until
            ward.open().hold(match.id, record, reason=f"by {by}", until=ends, by=by)
            logged = ward.last_event()
            assert (logged["event"], logged["by"], logged["reason"]) == ("on-hold", by, f"by {by}")
            assert logged.get("until") == (None if ends is None else f"{ends:%Y-%m-%dT%H:%M:%SZ}")
        step = record.story(match.id)[-1]
    assert (step.event, step.detail) == ("on-hold", {"by": "ben", "reason": "by ben"})
    hold = ward.item(match).hold
    assert hold is not None
    assert (hold.by, hold.reason) == ("ann", "by ann; by ben")
    assert hold.until == (None if end is None else began + end)
    said = "" if end is None else f", until {began + end:%Y-%m-%d %H:%M} UTC"
    assert due(ward, match) == (False, f"on hold since 2026-03-01, by ann{said}")


def test_a_hold_that_has_ended_adds_nothing_to_the_next(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    with ward.record() as record:
        ward.open().hold(match.id, record, reason="first", until=ward.now + SOONER, by="ann")
        ward.now += SOONER
        assert due(ward, match)[1].startswith("kept until")
        with pytest.raises(UsageError, match=f"{match.id} is not on hold"):
            ward.open().release(match.id, record, reason="over")
        hold = ward.open().hold(match.id, record, reason="second", by="ben").hold
        assert hold is not None
        assert (hold.by, hold.reason, hold.until, hold.time) == ("ben", "second", None, ward.now)
        assert ward.open("eve").release(match.id, record, reason="lifted").hold is None
        step = record.story(match.id)[-1]
    assert (step.event, step.detail) == ("hold-ended", {"by": "eve", "reason": "lifted"})
    assert ward.last_event()["event"] == "hold-ended"


def test_an_item_that_is_not_on_record_can_be_held(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    (ward.state / "matches.db").unlink()
    assert ward.hold(match).hold is not None
    assert due(ward, match)[1].startswith("on hold since")
    assert ward.purge(match, order="17/4").done is False
    assert ward.release(match).hold is None


def test_an_order_of_a_body_makes_an_item_due(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    asked = {"request": "destroy", "text": "17/4\n"}
    with ward.record() as record:
        record.note(match.id, ANSWERED, ward.now, {"by": "desk", "requests": [asked]})
    is_due, why = due(ward, match)
    assert is_due and why.startswith("to be destroyed as ordered: 17/4") and why.endswith("(desk)")
    assert "\n" not in why
    ward.hold(match)
    assert due(ward, match)[0] is False


def test_an_interrupted_purge_is_due(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    ward.change(match, MatchState.PURGED)
    assert due(ward, match) == (True, "its purge was interrupted")
    done = ward.purge(match)
    assert (done.done, done.detail, done.item.id) == (True, "purged", match.id)
    with ward.record() as record:
        assert [s.event for s in record.story(match.id)].count("purged") == 1


@pytest.mark.parametrize("days", [None, 0.0, 1.5])
def test_a_report_is_kept_for_the_days_of_the_configuration(
    tmp_path: Path, file: Path, days: float | None
) -> None:
    ward = Ward(tmp_path, keep_days=days)
    match = ward.match(file)
    ward.take(match)
    ward.change(match, MatchState.REPORTED)
    is_kept = days == 1.5
    done = ward.purge(match, force=True, dry_run=True)
    assert done.done is (False if is_kept else None)
    assert done.detail == (
        "not purged: it was reported, and is kept until 2026-03-03 00:00 UTC unless there is an"
        " order"
        if is_kept
        else "would be purged: kept until a report of it is acknowledged"
    )
    ward.change(match, MatchState.ACKNOWLEDGED)
    asked = ward.purge(match, dry_run=True)
    assert (
        asked.detail
        == {
            None: "not purged: no keep_days in [quarantine] of the configuration",
            0.0: "would be purged: due since 2026-03-01 12:00 UTC",
            1.5: "not purged: due on 2026-03-03 00:00 UTC",
        }[days]
    )
    assert ward.opened(match) == CONTENT and "purging" not in ward.events()


def test_a_purge_is_logged_and_takes_all_that_belongs_to_the_item(
    kept: tuple[Ward, Match], tmp_path: Path
) -> None:
    ward, match = kept
    facts = ward.settings.layout.facts_of(match.id)
    facts.parent.mkdir(parents=True)
    facts.write_text("{}")
    with ward.record() as record:
        ward.open().add_context(match.id, [ward.key], record, reason="with it")
    sha256 = ward.item(match).evidence_sha256
    assert ward.purge(match, force=True).detail == "purged"
    assert not facts.exists() and ward.names() == set()
    (before,) = read(ward.settings.layout.audit, event="purging")
    (after,) = read(ward.settings.layout.audit, event="purged")
    assert (before.data["by"], before.data["reason"]) == ("carol", "over")
    assert before.data["forced"] is True and "order" not in before.data
    assert before.data["due"] == "kept until a report of it is acknowledged"
    assert after.data["evidence_sha256"] == sha256
    with ward.record() as record:
        step = record.story(match.id)[-1]
    assert (step.event, step.detail) == ("purged", {"by": "carol", "reason": "over"})


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
    assert found.hits == match.hits and found.key_id == match.key_id
    assert found.first_seen == found.last_seen == item.taken.time == ward.now - timedelta(days=1)
    assert found.seen is not None and match.seen is not None
    assert found.seen.inode == match.seen.inode
    assert [(s.event, s.detail) for s in story] == [("recorded-again", {"by": "me"})]
    assert ward.events()[-1] == "recorded-again"


def test_items_after_one_that_is_on_record_are_recorded_again(
    kept: tuple[Ward, Match], file: Path
) -> None:
    ward, first = kept
    file.write_bytes(b"another")
    second = ward.match(file, entry="e-2")
    ward.take(second)
    (ward.state / "matches.db").unlink()
    with ward.record() as record:
        recovered = ward.open("me").recover(record)
        found = [next(recovered).id]
        assert record.look_up(found[0]) is not None  # recorded before it is yielded
        recovered.close()  # type: ignore[attr-defined]
        found += [item.id for item in ward.open("me").recover(record)]
    assert found == sorted([first.id, second.id])


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
