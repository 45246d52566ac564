"""Reviews: who decides about a match, what a report then does, and what a review covers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.desk import A, B, Desk, desk_and_service
from fixtures.reporting_service import Fault
from hashclient.audit.log import read
from hashclient.config.settings import parse_config
from hashclient.config.tables import ReportConfig
from hashclient.core.errors import AuditError, ConfigError, UsageError, VerificationError
from hashclient.core.kinds import REVIEW_REASONS, Verdict
from hashclient.core.match import CONTENT_CHANGED, Step, new_ids, verdict_of, was_viewed
from hashclient.decisions.review import Review, ReviewPolicy
from hashclient.packages.document import parse_document
from hashclient.reporting.report import State

YES, NO = Verdict.CONFIRMED, Verdict.REJECTED
REVIEW = 'after = "review"\n'


def story(*said: tuple[str, str]) -> list[Step]:
    """Return a history as pairs of an event and a person."""
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return [Step(time, event, {"by": by}) for event, by in said]


CHANGED = (CONTENT_CHANGED, "")


@pytest.mark.parametrize(
    ("said", "people", "decided"),
    [
        ([], 1, None),
        ([(YES, "a")], 1, YES),
        ([(NO, "a")], 1, NO),
        ([(YES, "a")], 2, None),
        ([(YES, "a"), (YES, "a")], 2, None),
        ([(YES, "a"), (YES, "b")], 2, YES),
        ([(NO, "a"), (NO, "b")], 2, NO),
        ([(YES, "a"), (NO, "b")], 1, None),
        ([(YES, "a"), (NO, "b"), (YES, "c")], 2, None),
        ([(YES, "a"), (NO, "b"), (NO, "a")], 2, NO),
        ([(YES, "a"), CHANGED], 1, None),
        ([(NO, "a"), CHANGED, (YES, "a")], 1, YES),
        ([(YES, "a"), CHANGED, (YES, "b")], 2, None),
    ],
)
def test_so_many_people_say_the_same(
    said: Sequence[tuple[str, str]], people: int, decided: Verdict | None
) -> None:
    assert verdict_of(story(*said), people) is decided


def test_the_share_is_chosen_by_the_id_and_the_same_each_time() -> None:
    ids = new_ids(2000)
    policy = ReviewPolicy(ReportConfig(after="review", share=0.1))
    chosen = [match_id for match_id in ids if policy.is_chosen(match_id)]
    assert 130 < len(chosen) < 270
    again = ReviewPolicy(ReportConfig(after="review", share=0.1))
    assert chosen == [match_id for match_id in ids if again.is_chosen(match_id)]
    # A match that is chosen for a small share is also chosen for a larger share.
    larger = ReviewPolicy(ReportConfig(after="review", share=0.5))
    assert all(map(larger.is_chosen, chosen))
    assert all(map(ReviewPolicy(ReportConfig(after="review")).is_chosen, ids))
    assert not any(map(ReviewPolicy(ReportConfig(after="review", share=0)).is_chosen, ids))
    assert not any(map(ReviewPolicy(ReportConfig()).is_chosen, ids))


@pytest.mark.parametrize("reason", ["", "harmless", "harmless: ", "as-listed: it is", "no: it is"])
def test_a_reason_is_a_word_of_the_verdict_and_a_sentence(reason: str) -> None:
    with pytest.raises(UsageError, match="not a reason for rejected"):
        Review.of(NO, reason)
    for verdict, words in REVIEW_REASONS.items():
        for word in words:
            assert Review.of(verdict, f"{word}: why: because") == Review(
                verdict, word, "why: because"
            )


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("people = 3", "'people' in [report] is not from 1 to 2"),
        ("share = 1.5", "'share' in [report] is not from 0 to 1"),
        ("share = 0.5", "no review is asked for"),
        ('after = "lunch"', "no value of 'after'"),
    ],
)
def test_a_wrong_configuration_is_refused(table: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse_config(f"[report]\n{table}\n", "config.toml")


def test_matches_wait_until_they_are_decided_and_the_others_leave(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review=REVIEW)
    first, second, third = (desk.find(name, name.encode()) for name in "abc")
    report = desk.prepare(first, second, third)
    sent = desk.send(report)
    assert sent.error is None and sent.detail == "waits: 3 matches in it wait for a review"
    # A scheduled run of `report send` leaves the match waiting and logs no submission.
    assert desk.send_due() == [] and "report-submitting" not in desk.events()
    assert desk.review(first, verdict=YES) == [YES]
    assert desk.review(second, verdict=NO) == [NO]
    (sent,) = desk.send_due()
    assert sent.report.state is State.SUBMITTED
    assert (sent.report.matches, sent.report.left_out) == ((first.id,), (second.id,))
    (apart,) = sent.report.apart
    assert sent.notes == (f"1 match waits for a review, in report {apart.report} now",)
    assert apart.matches == (third.id,) and desk.send_due() == []
    desk.review(third, verdict=YES)
    (sent,) = desk.send_due()
    assert (sent.report.id, sent.report.matches) == (apart.report, (third.id,))
    assert sent.report.state is State.SUBMITTED and sent.report.created == report.created


def test_two_people_have_to_say_the_same(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review=f"{REVIEW}people = 2\n")
    match = desk.find("a", A)
    report = desk.prepare(match)
    assert desk.review(match, verdict=YES, by="alice") == [None]
    assert desk.review(match, verdict=YES, by="alice") == [None]
    assert desk.send_due() == []
    assert desk.review(match, verdict=YES, by="bob") == [YES]
    assert desk.send(report).report.state is State.SUBMITTED


def test_without_the_policy_no_report_waits_and_a_rejected_match_is_in_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first, second = desk.find("a", A), desk.find("b", B)
    report = desk.prepare(first, second)
    desk.review(second, verdict=NO)
    assert desk.send(report).report.matches == (first.id,)
    with pytest.raises(UsageError, match="is not to be reported: it is rejected"):
        desk.prepare(second)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("table", "others"),
    [
        ("", YES),
        (f"{REVIEW}share = 0.0\n", YES),
        ("people = 2\n", None),
        (f"{REVIEW}share = 0.0\npeople = 2\n", None),
    ],
)
def test_what_one_person_rejects_waits_until_people_say_the_same(
    tmp_path: Path, table: str, others: Verdict | None
) -> None:
    desk = Desk(tmp_path, review=table)
    match, other = desk.find("a", A), desk.find("b", B)
    report = desk.prepare(match, other)
    if others is not None:
        desk.review(match, verdict=others, by="alice")
    desk.review(match, verdict=NO, by="bob")
    sent = desk.send(report)
    assert sent.report.matches == (other.id,)
    (apart,) = sent.report.apart
    waiting = desk.outbox.get(apart.report)
    assert desk.send(waiting).detail == "waits: 1 match in it waits for a review"
    assert desk.send_due() == []
    with desk.record() as record:
        assert [*desk.outbox.policy.waiting(record)] == [match.id]
    desk.review(match, verdict=NO, by="alice")
    with desk.record() as record:
        assert [*desk.outbox.policy.waiting(record)] == []
    assert desk.send(waiting).report.state is State.RETRACTED


def test_only_a_person_with_a_reason_lets_a_report_leave_early(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review=REVIEW)
    match, other = desk.find("a", A), desk.find("b", B)
    report, waiting = desk.prepare(match), desk.prepare(other)
    sent = desk.send_unreviewed(report, "a child is in danger")
    assert sent.report.state is State.SUBMITTED
    (logged,) = read(desk.settings.layout.audit, event="report-unreviewed")
    assert logged.data["reason"] == "a child is in danger"
    assert (logged.data["matches"], logged.data["by"]) == ([match.id], "tester")
    decision = desk.outbox.get(report.id).unreviewed
    assert decision is not None and decision.reason == "a child is in danger"
    assert desk.outbox.get(waiting.id).unreviewed is None
    assert desk.send_due() == []


def test_a_report_that_a_person_let_leave_goes_on_after_a_failure(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review=REVIEW)
    report = desk.prepare(desk.find("a", A))
    desk.out.rmdir()
    assert desk.send_unreviewed(report).error is not None
    desk.out.mkdir()
    desk.wait(days=1)
    (sent,) = desk.send_due()
    assert sent.report.state is State.SUBMITTED
    assert desk.events().count("report-unreviewed") == 1


def test_nothing_leaves_if_that_cannot_be_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, review=REVIEW)
    report = desk.prepare(desk.find("a", A))

    def broken(*_: object, **__: object) -> None:
        raise AuditError("broken")

    monkeypatch.setattr(desk.audit, "append", broken)
    assert isinstance(desk.send_unreviewed(report).error, AuditError)
    assert not [*desk.out.iterdir()] and desk.outbox.get(report.id).unreviewed is None


def test_other_content_at_the_path_has_no_review(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review=REVIEW)
    match = desk.find("a", A)
    desk.review(match, verdict=YES, viewed=True)
    assert desk.find("a", A).id == match.id
    assert desk.story(match) == ["found", "confirmed"]
    with desk.record() as record:
        # Two different outcomes of one container are recorded, so a new review is needed.
        outcome = match.handled().outcome
        record.record([outcome], "another key", desk.now())
        record.record([outcome], "another key", desk.now())
        assert not was_viewed(record.story(match.id))
        assert [*desk.outbox.policy.waiting(record)] == [match.id]
    assert desk.story(match).count(CONTENT_CHANGED) >= 1


def test_a_match_without_a_review_has_no_such_event(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    with desk.record() as record:
        record.record([match.handled().outcome], "another key", desk.now())
    assert desk.story(match) == ["found"]


@pytest.mark.parametrize("viewed", [False, True])
def test_a_report_says_viewed_only_after_such_a_review(tmp_path: Path, viewed: bool) -> None:
    desk = Desk(tmp_path)
    match, other = desk.find("a", A), desk.find("b", B)
    desk.review(match, verdict=YES, viewed=viewed)
    report = desk.prepare(match, other)
    assert [m.viewed for m in desk.outbox.document(report).matches] == [viewed, False]
    # A document that names more matches than the history is refused.
    text = (desk.outbox.folder(report.id) / "document.json").read_text()
    was, other_word = (f'"viewed": {word},' for word in ("true", "false")[:: 1 if viewed else -1])
    with pytest.raises(VerificationError, match="not a report document"):
        parse_document(text.replace(was, other_word, 1).encode())


@pytest.mark.parametrize("viewed", [False, True])
def test_a_service_is_told_what_was_viewed(tmp_path: Path, viewed: bool) -> None:
    with desk_and_service(tmp_path) as (desk, service):
        match = desk.find("a", A)
        desk.review(match, verdict=YES, viewed=viewed)
        desk.send(desk.prepare(match, to="hotline"))
        (report,) = service.reports.values()
        (file,) = report.files.values()
        assert f"<fileViewedByEsp>{str(viewed).lower()}</fileViewedByEsp>" in str(file.details)
        says = "1 of them were viewed by a person" if viewed else "nobody has viewed them"
        assert says.encode() in report.document


def test_a_rejected_match_is_taken_out_of_a_report_that_was_begun(tmp_path: Path) -> None:
    with desk_and_service(tmp_path) as (desk, service):
        first, second = desk.find("a", A), desk.find("b", B)
        report = desk.prepare(first, second, to="hotline")
        service.faults["upload"] = [Fault(code=1000)]
        assert desk.send(report).error is not None
        desk.review(second, verdict=NO)
        assert desk.send(report).report.matches == (first.id,)


def test_a_review_that_cannot_be_logged_is_not_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)

    def broken(*_: object, **__: object) -> None:
        raise AuditError("broken")

    monkeypatch.setattr(desk.audit, "append", broken)
    with pytest.raises(AuditError):
        desk.review(match, verdict=NO)
    assert desk.story(match) == ["found"]
