"""Decisions about recorded matches: exceptions and releases; each is logged once, beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.quarantine import Ward
from hashclient.audit.log import read
from hashclient.core.errors import AuditError
from hashclient.core.kinds import Kind, MatchState
from hashclient.core.match import Match
from hashclient.core.model import Handled, Outcome, Recorded
from hashclient.decisions.interface import as_it_is
from hashclient.scan.run import release as module
from hashclient.scan.run.release import except_open, release


class Responder:
    """Notes the actions that were asked for, and does none."""

    def __init__(self) -> None:
        self.asked: list[list[Recorded]] = []

    def respond_all(self, found: list[Recorded]) -> Iterator[Handled]:
        self.asked.append(found)
        yield from (Handled(one.outcome, one.record) for one in found)


@pytest.fixture
def matches(ward: Ward, tmp_path: Path) -> list[Match]:
    """Return five matches: the files 0 to 4."""
    found = []
    for number in range(5):
        path = tmp_path / "share" / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
        found.append(ward.match(path, entry=f"e-{number}"))
    return found


def excepts(*names: str) -> Any:
    def rule(outcome: Outcome) -> Outcome:
        assert (outcome.kind, len(outcome.hits), bool(outcome.tags)) == (Kind.MATCH, 1, True)
        is_named = Path(outcome.path).name in names
        return msgspec.structs.replace(outcome, exceptions=("r-1",) if is_named else ())

    return rule


def hold(ward: Ward, matches: Iterable[Match]) -> None:
    with ward.record() as record:
        for match in matches:
            record.change(match.id, MatchState.HELD, ward.now, {})


def logged_as(ward: Ward, name: str) -> list[dict[str, Any]]:
    return [dict(one.data) for one in read(ward.settings.layout.audit) if one.event == name]


def states(ward: Ward, matches: Iterable[Match]) -> list[str]:
    return [ward.get(match).state for match in matches]


@pytest.mark.parametrize("at_once", [2, 512])
def test_open_matches_without_an_action_are_excepted(
    ward: Ward, matches: list[Match], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    hold(ward, matches[1:2])
    with ward.record() as record:
        record.change(matches[2].id, MatchState.QUARANTINED, ward.now, {}, in_place=False)
        record.change(matches[3].id, MatchState.REPORTED, ward.now, {})
    assert except_open(ward.session(), excepts("0", "1", "2", "3")) == 2
    assert states(ward, matches) == ["excepted", "excepted", "quarantined", "reported", "found"]
    logged = logged_as(ward, "excepted")
    assert {event["path"] for event in logged} == {match.path for match in matches[:2]}
    assert [event["exceptions"] for event in logged] == [["r-1"]] * 2
    assert except_open(ward.session(), excepts("0", "1", "2", "3")) == 0
    assert {event["id"] for event in logged} == {match.id for match in matches[:2]}
    with ward.record() as record:
        assert record.story(matches[0].id)[-1].detail == {"exceptions": ["r-1"]}


@pytest.mark.parametrize("state", [MatchState.FOUND, MatchState.HELD])
def test_a_match_whose_file_was_moved_is_not_excepted(
    ward: Ward, matches: list[Match], state: MatchState
) -> None:
    with ward.record() as record:
        record.change(matches[0].id, state, ward.now, {}, in_place=False)
    assert except_open(ward.session(), excepts("0", "1")) == 1
    assert states(ward, matches[:2]) == [state, "excepted"]


def test_each_decision_is_on_the_disk_and_signed_before_it_is_recorded(
    ward: Ward, matches: list[Match], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, calls = ward.session(), list[tuple[int, dict[str, Any]]]()
    append = session.audit.append

    def noting(events: list[Any], **how: Any) -> Any:
        calls.append((len(events), how))
        return append(events, **how)

    monkeypatch.setattr(session.audit, "append", noting)
    hold(ward, matches[:3])
    responder: Any = Responder()
    assert len(list(release(session, responder, matches, "a reason", excepts("0")))) == 2
    safe = {"durable": True, "sign_each": True}
    assert calls == [(1, safe), (2, safe)]


def test_without_a_record_or_an_exception_nothing_is_written(tmp_path: Path, ward: Ward) -> None:
    assert except_open(ward.session(), excepts("0")) == 0
    assert not ward.settings.layout.matches.exists()
    (tmp_path / "0").write_bytes(b"0")
    match = ward.match(tmp_path / "0")
    assert except_open(ward.session(), as_it_is) == 0
    assert states(ward, [match]) == ["found"]
    assert not ward.settings.layout.audit.exists()


@pytest.mark.parametrize("at_once", [2, 512])
def test_held_matches_are_released_and_acted_upon_once(
    ward: Ward, matches: list[Match], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """A match that is meanwhile excepted, not held, or unknown is skipped."""
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    held = [ward.get(match) for match in matches]
    hold(ward, matches[:4])
    unknown = msgspec.structs.replace(held[0], id="bbbbbbbbbb")
    responder: Any = Responder()
    handled = list(
        release(ward.session("eve"), responder, [*held, unknown], "a reason", excepts("1"))
    )
    assert [Path(one.outcome.path).name for one in handled] == ["0", "2", "3"]
    assert states(ward, matches) == ["found", "excepted", "found", "found", "found"]
    assert [one.record.id for one in handled if one.record] == [matches[n].id for n in (0, 2, 3)]
    assert len(responder.asked) == -(-6 // at_once)
    logged = logged_as(ward, "released")
    assert [(event["by"], event["reason"]) for event in logged] == [("eve", "a reason")] * 3
    assert {event["path"] for event in logged} == {matches[n].path for n in (0, 2, 3)}
    assert {event["id"] for event in logged} == {matches[n].id for n in (0, 2, 3)}
    with ward.record() as record:
        (step,) = [step for step in record.story(matches[0].id) if step.event == "released"]
        assert step.detail == {"by": "eve", "reason": "a reason"}
    assert list(release(ward.session(), responder, [], "none", as_it_is)) == []


def test_without_the_log_nothing_is_released_or_excepted(
    ward: Ward, matches: list[Match], monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(ward, matches[:2])

    def fail(*_: object, **__: object) -> None:
        raise AuditError("no room")

    session, responder = ward.session(), Responder()
    monkeypatch.setattr(session.audit, "append", fail)
    for rule in (as_it_is, excepts("0")):
        with pytest.raises(AuditError):
            list(release(session, responder, matches, "a reason", rule))  # type: ignore[arg-type]
    with pytest.raises(AuditError):
        except_open(session, excepts("0"))
    assert states(ward, matches) == ["held", "held", "found", "found", "found"]
    assert responder.asked == []


def test_an_outcome_of_the_record_is_that_of_the_scan(ward: Ward, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a")
    match = ward.match(path)
    with ward.record() as record:
        outcome = module._outcome(match, record)
        assert (outcome.path, outcome.size, outcome.seen) == (str(path), 1, match.seen)
        assert (outcome.is_stream, outcome.is_object, outcome.members) == (False, False, ())
        stream = msgspec.structs.replace(match, path="stdin:mail")
        outcome = module._outcome(stream, record)
        assert (outcome.path, outcome.is_stream, outcome.is_object) == ("mail", True, False)
        outcome = module._outcome(msgspec.structs.replace(match, path="s3://bu/k"), record)
        assert (outcome.path, outcome.is_object) == ("s3://bu/k", True)
        record.note(match.id, "in-member", ward.now, {"members": ["m", "n"]})
        record.note(match.id, "in-member", ward.now, {"members": ["o"]})
        assert module._outcome(match, record).members == ("m", "n")


def test_five_hundred_and_twelve_are_released_at_once() -> None:
    assert module.AT_ONCE == 512
