"""Actions at their edges: which files of a batch go together, what a link says, which reports."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.desk import A, B, Desk
from hashclient.core.errors import ExitCode, HashclientError, StateError
from hashclient.core.kinds import Action, MatchState
from hashclient.core.model import Recorded
from hashclient.matches.store import Matches
from hashclient.quarantine.vault import Quarantine
from hashclient.scan.run import actions
from hashclient.scan.run.actions import prepare_wanted
from hashclient.system.strangers import Stranger
from tests.unit.test_actions import (
    BOTH,
    REPORT,
    TAKE,
    hit,
    in_container,
    recorded,
    responder,
    unrecorded,
    wanted,
)

#: A rule with more actions for the entries of one category, in front of another rule.
MORE = '[[policy]]\ncategory = "more"\nactions = ["quarantine", "report"]\n'


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the ids of the matches that each call of the quarantine isolates."""
    calls: list[list[str]] = []
    take_all = Quarantine.take_all

    def noted(self: Quarantine, seen: Sequence[Any], *args: Any, **how: Any) -> Any:
        calls.append([match_id for match_id, _ in seen])
        return take_all(self, seen, *args, **how)

    monkeypatch.setattr(Quarantine, "take_all", noted)
    return calls


def found_at(desk: Desk, *names: str, **how: Any) -> list[Recorded]:
    return [recorded(desk.find(name, A + name.encode()), **how) for name in names]


def changed(one: Recorded, **outcome: Any) -> Recorded:
    return Recorded(msgspec.structs.replace(one.outcome, **outcome), one.record)


def held(one: Recorded) -> Recorded:
    assert one.record is not None
    return Recorded(one.outcome, msgspec.structs.replace(one.record, held=True))


def linked(one: Recorded) -> Recorded:
    """Return the outcome as if a scan had reached the file by a link that leads elsewhere now."""
    path = Path(one.outcome.path)
    way = path.parent.parent / "way"
    way.mkdir()
    (way / path.name).write_bytes(b"another")
    return changed(one, path=str(way / path.name))


@pytest.mark.parametrize(
    ("other", "config"),
    [
        (held, TAKE),
        (linked, TAKE),
        (lambda one: changed(one, is_stream=True), TAKE),
        (lambda one: in_container(one, 1), "[quarantine]\nisolate_containers = false\n" + TAKE),
        (lambda one: changed(one, hits=(hit("other"),)), TAKE),
        (lambda one: Recorded(one.outcome), TAKE),
        (lambda one: changed(one, hits=(hit("baseline", "apart"),)), ""),
    ],
    ids=["held", "link", "stream", "container", "stale", "unrecorded", "no rule"],
)
def test_a_file_that_may_not_go_does_not_go_with_others(
    desk: Desk, together: list[list[str]], other: Callable[[Recorded], Recorded], config: str
) -> None:
    if not config:
        config = '[[policy]]\ncategory = "apart"\nactions = []\n' + TAKE
    if config.startswith("[quarantine]"):
        desk.config = desk.config.replace(
            "[quarantine]\n", "[quarantine]\nisolate_containers = false\n"
        )
        config = TAKE
    one, middle, last = found_at(desk, "a", "b", "c")
    middle = other(middle)
    acting = responder(desk, config, stale=("other",))
    told = [*acting.respond_all([one, middle, last])]
    assert one.record is not None and last.record is not None
    assert together == [[one.record.id, last.record.id]]
    assert [[a.done for a in one.acted] for one in told[::2]] == [[True]] * 2
    assert not any(acted.done for acted in told[1].acted)
    assert (desk.files / "b").exists()


def test_members_of_containers_go_together_once_for_each_container(
    desk: Desk, together: list[list[str]]
) -> None:
    one, other = (in_container(each, 1) for each in found_at(desk, "a", "b"))
    again = changed(one, members=("n",))
    told = [*responder(desk, TAKE).respond_all([one, again, other])]
    assert [len(call) for call in together] == [2]
    assert [a.done for each in told for a in each.acted] == [True] * 3
    assert told[0].record == told[1].record != told[2].record
    states = [each.record and each.record.state for each in told]
    assert states == [MatchState.QUARANTINED] * 3


def test_files_with_another_reason_wait_for_their_turn(
    desk: Desk, together: list[list[str]]
) -> None:
    """The record of an isolation says if the policy or the option of the scan has ordered it."""
    by_rule, by_option, by_rule_too = found_at(desk, "a", "b", "c")
    by_option = changed(by_option, hits=(hit("baseline", "apart"),))
    rules = '[[policy]]\ncategory = "apart"\nactions = ["report"]\n' + TAKE
    acting = responder(desk, rules, quarantine_all=True)
    assert len([*acting.respond_all([by_rule, by_option, by_rule_too])]) == 3
    assert [len(call) for call in together] == [2, 1]


@pytest.mark.parametrize("is_noted", [False, True])
def test_no_file_goes_before_it_is_noted_that_its_report_is_wanted(
    desk: Desk, together: list[list[str]], monkeypatch: pytest.MonkeyPatch, is_noted: bool
) -> None:
    """A file for which no report is wanted goes with the first one, and goes only once."""
    first, reported, other = found_at(desk, "a", "b", "c")
    reported = changed(reported, hits=(hit("baseline", "more"),))
    want, calls = Matches.want_report, []

    def refuse_once(self: Matches, *about: Any) -> bool:
        calls.append(about)
        if not is_noted and len(calls) == 1:
            raise StateError("no room")
        return want(self, *about)

    monkeypatch.setattr(Matches, "want_report", refuse_once)
    acting = responder(desk, MORE + TAKE)
    told = [*acting.respond_all([first, reported, other])]
    assert [len(call) for call in together] == ([3] if is_noted else [2, 1])
    assert [[(a.action, a.detail) for a in each.acted] for each in told] == [
        [(Action.QUARANTINE, "quarantined")],
        [(Action.QUARANTINE, "quarantined"), (Action.REPORT, "to be reported to police")],
        [(Action.QUARANTINE, "quarantined")],
    ]
    assert reported.record is not None and wanted(desk) == {reported.record.id}


def test_a_report_that_cannot_be_noted_is_not_done_and_its_file_goes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise StateError("no room")

    monkeypatch.setattr(Matches, "want_report", refuse)
    acting = responder(desk, BOTH)
    (told,) = acting.respond_all(found_at(desk, "a"))
    assert [(a.done, a.detail) for a in told.acted] == [
        (True, "quarantined"),
        (False, "not reported: no room"),
    ]
    assert acting.failed is ExitCode.STATE


def test_what_was_noted_for_a_batch_is_forgotten_with_it(desk: Desk) -> None:
    """The next batch has its own results, even for the match that was the last one before."""
    (one,) = found_at(desk, "a")
    acting = responder(desk, TAKE)
    (first,) = acting.respond_all([one])
    assert first.acted[0].detail == "quarantined"
    (again,) = acting.respond_all([one])
    assert again.acted[0].detail != "quarantined"
    assert [*acting.respond_all([])] == []


@pytest.mark.parametrize(
    ("way", "text"),
    [
        (
            OSError(errno.ELOOP, "too many links"),
            "the links to it cannot be looked at: too many links",
        ),
        (
            ("/real", Stranger("/srv/l\n", "user 7")),
            "a link leads to it, and user 7 may change /srv/l\\x0a: scan it by its real path",
        ),
        (
            ("/real", None),
            "a link leads to it, and links on the way have changed: scan it by its real path",
        ),
        (None, None),
    ],
)
def test_the_reason_says_who_may_change_the_way_to_a_file(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, way: Any, text: str | None
) -> None:
    (one,) = found_at(desk, "a")
    asked: list[str] = []

    def way_of(path: str) -> Any:
        asked.append(path)
        if isinstance(way, OSError):
            raise way
        return way or (one.outcome.path, None)

    monkeypatch.setattr(actions, "way_of", way_of)
    acting = responder(desk, TAKE)
    other = changed(one, path="/way/a")
    (acted,) = acting.respond(other).acted
    assert (acted.done, acted.detail) == (
        (True, "quarantined") if text is None else (False, f"not quarantined: {text}")
    )
    assert acting.failed is (None if text is None else ExitCode.INCOMPLETE)
    assert asked == ["/way/a"]


def test_the_way_to_a_file_that_was_scanned_by_its_own_path_is_not_asked_about(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "way_of", lambda _: pytest.fail("it is asked about"))
    (told,) = responder(desk, TAKE).respond_all(found_at(desk, "a"))
    assert told.acted[0].done


@pytest.mark.parametrize(
    ("rules", "only_tell", "details"),
    [
        (TAKE, False, ["not quarantined: it could not be recorded"]),
        (REPORT, False, ["not reported: it could not be recorded"]),
        (TAKE, True, ["would be quarantined"]),
        ("", True, []),
        ("", False, []),
    ],
)
def test_a_match_without_a_record_is_previewed_alone(
    desk: Desk, rules: str, only_tell: bool, details: list[str]
) -> None:
    acting = responder(desk, rules, only_tell=only_tell)
    told = acting.respond(unrecorded(desk.find("a", A)))
    assert ([a.detail for a in told.acted], told.record) == (details, None)
    assert acting.failed is (ExitCode.STATE if rules and not only_tell else None)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_preview_of_a_stale_list_fails_as_the_scan_would(desk: Desk, all_of_them: bool) -> None:
    acting = responder(
        desk,
        "" if all_of_them else TAKE,
        stale=("baseline",),
        quarantine_all=all_of_them,
        only_tell=True,
    )
    (told,) = acting.respond_all(found_at(desk, "a"))
    assert [(a.done, a.detail) for a in told.acted] == [
        (False, "not quarantined: its list is stale")
    ]
    assert acting.failed is ExitCode.STALE


def reports(desk: Desk, **how: Any) -> list[int | type[HashclientError]]:
    """Prepare the reports that are wanted; return the number of matches in each, or the error."""
    return [
        type(made) if isinstance(made, HashclientError) else len(made.matches)
        for made in prepare_wanted(desk.session_of("tester"), **how)
    ]


def want(desk: Desk, by_name: Mapping[str, Sequence[str]]) -> None:
    """Note that the matches of files are wanted in reports to destinations."""
    for destination, names in by_name.items():
        ids = [desk.find(name, B + name.encode()).id for name in names]
        with desk.record() as record:
            for match_id in ids:
                record.want_report(match_id, destination, desk.now())


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (2, [2]), (3, [2, 1])])
def test_many_matches_are_divided_among_reports(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(actions, "REPORT_MATCHES", 2)
    want(desk, {"police": "abcd"[:count]})
    assert reports(desk) == sizes
    assert reports(desk) == []
    assert wanted(desk) == set()


def test_each_destination_has_its_own_reports_and_failures(desk: Desk) -> None:
    want(desk, {"police": "b", "gone": "a", "zoo": "c"})
    kinds = reports(desk)
    assert [one if isinstance(one, int) else "error" for one in kinds] == ["error", 1, "error"]
    assert len(wanted(desk)) == 2


def test_reports_that_wait_for_a_review_are_prepared_only_if_that_is_asked_for(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, review='after = "review"\n')
    want(desk, {"police": "ab"})
    assert reports(desk) == []
    assert [*responder(desk).end()] == []
    assert len(wanted(desk)) == 2
    assert reports(desk, unreviewed=True) == [2]


def test_a_record_that_fails_between_two_reports_is_the_last_failure(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Matches) -> None:
        raise StateError("locked")

    want(desk, {"police": "a"})
    monkeypatch.setattr(Matches, "wanting_report", fail)
    assert reports(desk) == [StateError]
    with pytest.raises(StateError, match="locked"):
        list(responder(desk).end())
