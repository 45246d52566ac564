"""Actions on matches without a scan: who may order one, and which are recorded or only printed."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fixtures.crash import interrupt_at, watched
from fixtures.desk import A, B, Desk
from hashclient.config.settings import Settings, parse_config
from hashclient.core.errors import ConfigError, ExitCode, StateError
from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.match import Match
from hashclient.core.model import Hit, Outer, Recorded
from hashclient.core.staleness import ListState
from hashclient.matches.store import Matches
from hashclient.quarantine import store
from hashclient.quarantine.vault import item_ids
from hashclient.scan.run import actions
from hashclient.scan.run.actions import Responder

REPORT = '[[policy]]\nactions = ["report"]\n'
TAKE = '[[policy]]\nactions = ["quarantine"]\n'


def responder(
    desk: Desk, rules: str = "", *, stale: tuple[str, ...] = (), **options: Any
) -> Responder:
    """Return a responder under `rules`; the lists are `baseline` and `other`."""
    config = parse_config(desk.config + rules, "config.toml")
    settings = Settings(desk.settings.state_dir, desk.settings.config_path, None, config)
    lists = [
        ListState(name, 3, desk.now() + timedelta(days=1), fresh=name not in stale)
        for name in ("baseline", "other")
    ]
    return Responder(desk.session_of("tester", settings), lists, **options)


def recorded(match: Match, *more: Hit, hits: tuple[Hit, ...] = ()) -> Recorded:
    """Return a match with `hits`, as a scan returns it after recording it."""
    found = match.handled().outcome
    hits = (*(hits or found.hits), *more)
    return Recorded(msgspec.structs.replace(found, hits=hits, tags=match.tags), match.ref)


def unrecorded(match: Match, *more: Hit) -> Recorded:
    return Recorded(recorded(match, *more).outcome)


def hit(list_name: str, category: str = "synthetic", *, complete: bool = True) -> Hit:
    return Hit(list_name, "e-x", category, 3, (Algorithm.MD5,), complete=complete)


def wanted(desk: Desk) -> set[str]:
    """Return the matches for which a report is wanted."""
    with desk.record() as record:
        return {m.id for found in record.wanting_report().values() for m in found}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize("leads", ["to it", "elsewhere", "nowhere"])
def test_a_file_is_taken_through_a_link_that_leads_to_it_and_through_no_other(
    desk: Desk, tmp_path: Path, leads: str
) -> None:
    """Somebody may have exchanged the link after the scan recorded the file under its real path."""
    match = desk.find("a", A)
    real = Path(match.path)
    other = tmp_path / "other"
    other.mkdir()
    (other / real.name).write_bytes(A)
    way = tmp_path / "way"
    way.symlink_to({"to it": real.parent, "elsewhere": other, "nowhere": tmp_path / "no"}[leads])
    found = recorded(match)
    outcome = msgspec.structs.replace(found.outcome, path=str(way / real.name))
    acting = responder(desk, TAKE)
    (acted,) = acting.respond(Recorded(outcome, found.record)).acted
    assert acted.done == (leads == "to it") != real.exists()
    assert (acting.failed is None) == acted.done
    assert (other / real.name).exists()


def test_reports_are_noted_of_what_the_policy_reports_and_of_nothing_else(desk: Desk) -> None:
    one, other = desk.find("a", A), desk.find("b", B)
    rule = '[[policy]]\ncategory = "apart"\nactions = []\n' + REPORT
    apart = recorded(other, hits=(hit("baseline", "apart"),))
    responder(desk, rule).want_reports([unrecorded(one), recorded(one), apart])
    assert wanted(desk) == {one.id}


def test_matches_that_were_noted_together_are_reported_without_asking_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of matches is opened once for all matches, not once for each."""
    found = [recorded(desk.find(name, A + name.encode())) for name in "abc"]
    acting = responder(desk, REPORT)
    opened: list[object] = []

    class Counted(Matches):
        def __init__(self, *args: Any, **options: Any) -> None:
            opened.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr(actions, "Matches", Counted)
    acting.want_reports(found)
    told = [acting.respond(one) for one in found]
    assert len(opened) == 1
    assert [acted.detail for one in told for acted in one.acted] == ["to be reported to police"] * 3
    assert [one.record for one in told] == [one.record for one in found]
    assert wanted(desk) == {one.record.id for one in found if one.record is not None}
    # A match that was not recorded with the batch is recorded when an action responds to it.
    (acted,) = acting.respond(found[0]).acted
    assert acted.done and len(opened) == 2


def test_a_preview_of_actions_changes_nothing(desk: Desk) -> None:
    match = desk.find("a", A)
    found = recorded(match)
    teller = responder(desk, '[[policy]]\nactions = ["quarantine", "report"]\n', only_tell=True)
    teller.want_reports([found])
    told = teller.respond(found)
    assert [(a.action, a.done) for a in told.acted] == [("quarantine", None), ("report", None)]
    assert list(teller.end()) == []
    assert wanted(desk) == set()
    assert Path(match.path).read_bytes() == A
    assert item_ids(desk.settings.layout.quarantine) == []
    assert desk.story(match) == ["found"]


@pytest.mark.parametrize("is_policy", [False, True])
def test_recipients_that_are_not_usable_are_known_before_anything_is_found(
    desk: Desk, is_policy: bool
) -> None:
    desk.config = desk.config.replace(desk.officer_public, "age1nobody")
    with pytest.raises(ConfigError, match="not an age public key"):
        responder(desk, TAKE if is_policy else "", quarantine_all=not is_policy)
    responder(desk, REPORT)


@pytest.mark.parametrize("is_policy", [False, True])
def test_an_entry_that_agrees_in_part_takes_nothing_away(desk: Desk, is_policy: bool) -> None:
    """The list with the complete entry is stale, and the entry of the other list is a conflict."""
    match = desk.find("a", A)
    acting = responder(
        desk, TAKE if is_policy else "", stale=("baseline",), quarantine_all=not is_policy
    )
    told = acting.respond(recorded(match, hit("other", complete=False)))
    assert [(a.done, a.detail) for a in told.acted] == [
        (False, "not quarantined: its list is stale")
    ]
    assert acting.failed is ExitCode.STALE
    assert Path(match.path).read_bytes() == A
    taken = acting.respond(recorded(match, hit("other")))
    assert [a.done for a in taken.acted] == [True]
    assert not Path(match.path).exists()


def test_after_the_end_reports_are_still_noted_and_nothing_is_taken(desk: Desk) -> None:
    match = desk.find("a", A)
    acting = responder(desk, '[[policy]]\nactions = ["quarantine", "report"]\n')
    told = acting.respond(recorded(match), ended=True)
    assert [(a.action, a.done) for a in told.acted] == [("quarantine", False), ("report", True)]
    assert wanted(desk) == {match.id}
    assert Path(match.path).read_bytes() == A


def test_that_a_report_is_wanted_is_noted_before_the_file_goes(desk: Desk) -> None:
    match = desk.find("a", A)
    acting = responder(desk, '[[policy]]\nactions = ["quarantine", "report"]\n')
    with watched(interrupt_at("mkdir", "quarantine")), pytest.raises(KeyboardInterrupt):
        acting.respond(recorded(match))
    assert wanted(desk) == {match.id}


def test_an_unrecorded_match_is_not_acted_on(desk: Desk) -> None:
    match = desk.find("a", A)
    acting = responder(desk, '[[policy]]\nactions = ["quarantine", "report"]\n')
    told = acting.respond(unrecorded(match))
    assert [a.done for a in told.acted] == [False, False]
    assert acting.failed is ExitCode.STATE
    assert Path(match.path).read_bytes() == A and wanted(desk) == set()


def test_the_worst_failure_counts_whatever_comes_later(desk: Desk) -> None:
    match, other = desk.find("a", A), desk.find("b", B)
    acting = responder(desk, TAKE, stale=("baseline",))
    acting.respond(unrecorded(match, hit("other")))
    acting.respond(recorded(other))
    assert acting.failed is max(ExitCode.STATE, ExitCode.STALE)


def test_one_report_that_cannot_be_prepared_keeps_no_other_back(desk: Desk) -> None:
    match, other = desk.find("a", A), desk.find("b", B)
    with desk.record() as record:
        record.want_report(match.id, "gone", desk.now())
        record.want_report(other.id, "police", desk.now())
    ending = responder(desk).end()
    made = next(ending)
    assert made.matches == (other.id,)
    with pytest.raises(ConfigError, match="not configured any more"):
        next(ending)
    assert wanted(desk) == {match.id}
    assert desk.get(other).state is MatchState.FOUND


def test_a_record_that_cannot_be_read_is_one_failure_among_the_reports(desk: Desk) -> None:
    """Reports are prepared only once the record of matches can be read."""
    session = desk.session_of("tester")
    assert list(actions.prepare_wanted(session)) == []
    match = desk.find("a", A)
    with desk.record() as record:
        record.want_report(match.id, "police", desk.now())
    damaged = desk.settings.layout.matches
    content = damaged.read_bytes()
    damaged.write_bytes(b"no database " * 999)
    (failure,) = actions.prepare_wanted(session)
    assert isinstance(failure, StateError)
    with pytest.raises(StateError):
        list(responder(desk).end())
    damaged.write_bytes(content)
    (made,) = responder(desk).end()
    assert made.matches == (match.id,)


def test_one_act_is_for_all_members_of_a_container(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = recorded(desk.find("a", A))
    outer = Outer(len(A), one.outcome.tags, 3)
    found = [
        Recorded(msgspec.structs.replace(one.outcome, members=(name,), outer=outer), one.record)
        for name in ("x", "y", "z")
    ]
    acting = responder(desk, '[[policy]]\nactions = ["report", "quarantine"]\n')
    acting.want_reports(found)
    first = acting.respond(found[0])
    # From here on a read of the record of matches would fail.
    monkeypatch.setattr(actions, "Matches", None)
    others = [acting.respond(each) for each in found[1:]]
    assert [each.acted for each in others] == [first.acted] * 2
    assert [each.record for each in others] == [first.record] * 2
    assert all(acted.done for acted in first.acted)
    assert first.record is not None and first.record.state is MatchState.QUARANTINED


@pytest.mark.parametrize(
    ("members", "is_stream", "detail"),
    [
        ((), False, "quarantined"),
        (("m",), False, "not quarantined: it is in a container, and isolate_containers is off"),
        ((), True, "not quarantined: it came as a stream, and there is no file"),
        (("m",), True, "not quarantined: it came as a stream, and there is no file"),
    ],
)
def test_what_is_not_isolated_is_reported_all_the_same(
    desk: Desk, members: tuple[str, ...], is_stream: bool, detail: str
) -> None:
    desk.config = desk.config.replace(
        "[quarantine]\n", "[quarantine]\nisolate_containers = false\n"
    )
    one = recorded(desk.find("a", A))
    changed = msgspec.structs.replace(one.outcome, members=members, is_stream=is_stream)
    acting = responder(desk, '[[policy]]\nactions = ["report", "quarantine"]\n')
    done = {a.action: a for a in acting.respond(Recorded(changed, one.record)).acted}
    assert done[Action.REPORT].done
    assert done[Action.QUARANTINE].detail == detail
    assert acting.failed == (None if detail == "quarantined" else ExitCode.INCOMPLETE)


def test_the_files_of_a_batch_are_isolated_together(desk: Desk) -> None:
    """Of three matches in one batch, the middle one has no rule that permits isolation."""
    acting = responder(desk, TAKE, stale=("other",))
    found = [
        recorded(desk.find("a", A)),
        recorded(desk.find("b", B), hits=(hit("other"),)),
        recorded(desk.find("c", B + A)),
    ]
    acting.want_reports(found)
    handled = [acting.respond(each) for each in found]
    assert [each.acted[0].detail for each in handled] == [
        "quarantined",
        "not quarantined: its list is stale",
        "quarantined",
    ]
    assert [each.record and each.record.in_place for each in handled] == [False, True, False]
    events = [event for event in desk.events() if event.startswith("quarantine")]
    assert events == ["quarantine-sealed"] * 2 + ["quarantined"] * 2


def test_what_was_isolated_ahead_is_said_though_the_run_ends(desk: Desk) -> None:
    acting = responder(desk, TAKE)
    found = [recorded(desk.find(name, content)) for name, content in (("a", A), ("b", B))]
    acting.want_reports(found)
    acting.respond(found[0])
    (acted,) = acting.respond(found[1], ended=True).acted
    assert (acted.done, acted.detail) == (True, "quarantined")


def test_a_file_that_is_back_in_the_next_batch_is_isolated_again(desk: Desk) -> None:
    acting = responder(desk, TAKE)
    details = []
    for _ in range(2):
        found = recorded(desk.find("a", A))
        acting.want_reports([found])
        details.append(acting.respond(found).acted[0].detail)
        assert not Path(found.outcome.path).exists()
    assert details == ["quarantined"] * 2


BOTH = '[[policy]]\nactions = ["quarantine", "report"]\n'


def in_container(one: Recorded, others: int) -> Recorded:
    outer = Outer(len(A), one.outcome.tags, others + 1)
    return Recorded(msgspec.structs.replace(one.outcome, members=("m",), outer=outer), one.record)


@pytest.mark.parametrize(
    ("others", "text"),
    [
        (None, ""),
        (0, ": the container, which has no other member"),
        (1, ": the container, with 1 other member"),
        (2, ": the container, with 2 other members"),
        (1_000, ": the container, with 1,000 other members"),
    ],
)
@pytest.mark.parametrize("only_tell", [False, True])
def test_what_goes_with_a_member_is_said_of_the_file_and_not_of_the_report(
    desk: Desk, others: int | None, text: str, only_tell: bool
) -> None:
    found = recorded(desk.find("a", A))
    found = found if others is None else in_container(found, others)
    told = {
        a.action: a.detail for a in responder(desk, BOTH, only_tell=only_tell).respond(found).acted
    }
    would = "would be " if only_tell else ""
    assert told == {
        Action.QUARANTINE: f"{would}quarantined{text}",
        Action.REPORT: f"{would or 'to be '}reported to police",
    }


@pytest.mark.parametrize("state", [MatchState.FOUND, MatchState.HELD, MatchState.QUARANTINED])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("only_tell", [False, True])
def test_a_match_that_is_held_waits_for_a_person(
    desk: Desk, state: MatchState, held: bool, only_tell: bool
) -> None:
    """A preview records nothing, and shows a match as held if an earlier scan has held it."""
    match = desk.find("a", A)
    one = recorded(match)
    assert one.record is not None
    ref = msgspec.structs.replace(one.record, state=state, held=held)
    acting = responder(desk, BOTH, only_tell=only_tell)
    told = acting.respond(Recorded(one.outcome, ref))
    is_held = held or (only_tell and state is MatchState.HELD)
    details = [(a.done, a.detail) for a in told.acted]
    if is_held:
        assert details == [
            (False, "not quarantined: held, it waits for a person"),
            (False, "not reported: held, it waits for a person"),
        ]
        assert told.record == ref
    else:
        assert all("held" not in detail for _, detail in details)
    assert acting.failed is None
    assert Path(match.path).exists() is (is_held or only_tell)


def test_held_matches_at_the_front_are_left_together(desk: Desk) -> None:
    found = [recorded(desk.find(name, A + name.encode())) for name in "abcd"]
    refs = [one.record for one in found]
    ready = deque(
        Recorded(one.outcome, ref and msgspec.structs.replace(ref, held=number != 2))
        for number, (one, ref) in enumerate(zip(found, refs, strict=True))
    )
    acting = responder(desk, TAKE)
    left = list(acting.leave(ready))
    assert [one.outcome.path for one in left] == [one.outcome.path for one in found[:2]]
    assert [[a.detail for a in one.acted] for one in left] == [
        ["not quarantined: held, it waits for a person"]
    ] * 2
    assert len(ready) == 2
    assert list(acting.leave(ready)) == list(acting.leave(deque())) == []
    assert list(acting.leave(deque([unrecorded(desk.find("e", B))]))) == []


def test_a_preview_says_what_would_be_held_and_what_only_recorded(desk: Desk) -> None:
    match, other = desk.find("a", A), desk.find("b", B)
    acting = responder(desk, BOTH + "[brake]\nper_entry = 1\n", only_tell=True)
    acting.decision.would_hold.add(match.id)
    told = acting.respond(recorded(match))
    assert [(a.done, a.detail) for a in told.acted] == [
        (False, "not quarantined: it would be held"),
        (False, "not reported: it would be held"),
    ]
    assert acting.respond(recorded(other)).acted[0].done is None
    for only_tell, reason in ((True, "would only be recorded"), (False, None)):
        for kind in (Kind.MATCH, Kind.CLEAN):
            one = recorded(other)
            one = Recorded(msgspec.structs.replace(one.outcome, kind=kind), one.record)
            handled = responder(desk, only_tell=only_tell).respond(one)
            assert handled.acted == ()
            assert handled.outcome.reason == (reason if kind is Kind.MATCH else None)


@pytest.mark.parametrize(
    ("state", "detail"),
    [
        (MatchState.REPORTED, "reported already"),
        (MatchState.ACKNOWLEDGED, "acknowledged already"),
        (MatchState.FOUND, "in a report already"),
        (MatchState.QUARANTINED, "in a report already"),
        (MatchState.WITHDRAWN, "in a report already"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_match_is_reported_once(
    desk: Desk, state: MatchState, detail: str, together: bool
) -> None:
    match = desk.find("a", A)
    desk.prepare(match)
    one = recorded(match)
    assert one.record is not None
    one = Recorded(one.outcome, msgspec.structs.replace(one.record, state=state))
    acting = responder(desk, REPORT)
    if together:
        acting.want_reports([one])
    told = acting.respond(one)
    assert [(a.done, a.detail) for a in told.acted] == [(True, detail)]
    assert (wanted(desk), told.record) == (set(), one.record)


def test_a_report_after_a_review_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review='after = "review"\n')
    (acted,) = responder(desk, REPORT).respond(recorded(desk.find("a", A))).acted
    assert acted.detail == "to be reported to police after a review"


def test_a_file_that_is_being_isolated_when_the_run_ends_can_be_finished(desk: Desk) -> None:
    found = recorded(desk.find("a", A))
    other = recorded(desk.find("b", B))
    acting = responder(desk, TAKE)
    with watched(interrupt_at("mkdir", "quarantine")), pytest.raises(KeyboardInterrupt):
        acting.respond(found)
    details = [acting.respond(one, ended=True).acted[0] for one in (found, other)]
    assert found.record is not None
    assert [(a.done, a.detail) for a in details] == [
        (False, f"interrupted: `hashclient quarantine add {found.record.id}` finishes it"),
        (False, "not quarantined: the scan was ended"),
    ]
    assert acting.failed is None


@pytest.mark.parametrize("all_of_them", [False, True])
def test_the_reason_of_an_isolation_is_the_policy_or_the_option(
    desk: Desk, all_of_them: bool
) -> None:
    rule = '[[policy]]\ncategory = "apart"\nactions = ["quarantine"]\n'
    by_rule = recorded(desk.find("a", A), hits=(hit("baseline", "apart"),))
    by_option = recorded(desk.find("b", B))
    acting = responder(desk, rule, quarantine_all=all_of_them)
    acting.want_reports([by_rule, by_option])
    done = [acting.respond(one).acted for one in (by_rule, by_option)]
    assert [len(acted) for acted in done] == [1, int(all_of_them)]
    reasons = [
        step.detail["reason"]
        for one in (by_rule, by_option)
        for step in steps_of(desk, one)
        if step.event == "quarantined"
    ]
    assert reasons == ["policy", "scan --quarantine"][: 1 + all_of_them]


def steps_of(desk: Desk, one: Recorded) -> list[Any]:
    assert one.record is not None
    with desk.record() as record:
        return list(record.story(one.record.id))


def test_of_many_reports_that_fail_the_worst_failure_is_raised(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [StateError("x"), ConfigError("y"), StateError("z")]
    monkeypatch.setattr(actions, "prepare_wanted", lambda _: iter(made))
    with pytest.raises(StateError, match="x"):
        list(responder(desk).end())
    assert list(responder(desk, only_tell=True).end()) == []


def test_a_file_that_stays_in_part_makes_the_scan_incomplete(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan is incomplete if a person must act, or if a file was removed without a copy."""
    assert (1_000, timedelta(minutes=10)) == (actions.REPORT_MATCHES, actions.LATE)
    one = recorded(desk.find("a", A))
    for taken, sealed, attention, failed in (
        *((True, True, False, None), (False, True, False, None)),
        *((True, False, False, ExitCode.INCOMPLETE), (False, True, True, ExitCode.INCOMPLETE)),
    ):
        acting = responder(desk, TAKE)
        result: Any = SimpleNamespace(
            taken=taken, sealed=sealed, attention=attention, detail="so it is"
        )

        def take(*_: object, acting: Responder = acting, result: Any = result) -> None:
            assert one.record is not None
            acting._taken[one.record.id] = result

        monkeypatch.setattr(acting, "_take_from", take)
        (acted,) = acting.respond(in_container(one, 2)).acted
        with_it = ": the container, with 2 other members" if taken else ""
        assert (acted.done, acted.detail) == (taken, f"so it is{with_it}")
        assert acting.failed is failed


@pytest.mark.parametrize(("minutes", "is_counted"), [(10, False), (11, True)])
def test_a_file_that_is_isolated_late_counts_for_the_brake_from_then_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, minutes: int, is_counted: bool
) -> None:
    used: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Matches, "use", lambda _self, *given: used.append(given))
    one = recorded(desk.find("a", A))
    desk.wait(minutes=minutes)
    assert responder(desk, TAKE).respond(one).acted[0].done
    assert one.record is not None
    now = desk.now()
    assert used == [((one.record.id,), now, now - actions.LATE)] * is_counted


def test_so_many_files_are_isolated_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "AT_ONCE", 2)
    found = [recorded(desk.find(name, A + name.encode())) for name in "abcde"]
    acting = responder(desk, TAKE)
    acting.want_reports(found)
    left = []
    for one in found:
        assert acting.respond(one).acted[0].detail == "quarantined"
        left.append(sum(Path(each.outcome.path).exists() for each in found))
    assert left == [3, 3, 1, 1, 0]
