"""The watch of a bucket removes an event only after its objects were checked and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hashclient import Client
from hashclient.core.errors import HashclientError, UnreachableError
from hashclient.core.kinds import Kind
from hashclient.core.model import Handled, Outcome
from hashclient.core.objecturi import parse_uri
from hashclient.daemon.lists import InUse
from hashclient.daemon.program import Checked, ContentChecker
from hashclient.watch.bucket import ATTEMPTS, BucketWatch
from hashclient.watch.events import Event
from tests.kit import State

LISTED = b"a file that is listed"
URI = parse_uri("s3://uploads/a")


class Once:
    """A source with one event."""

    has_dead_letters = False

    def __init__(self) -> None:
        self.waiting: list[Event] = [Event((URI,), times=ATTEMPTS)]
        self.removed: list[Event] = []

    def take(self, wait_s: float) -> Sequence[Event] | None:
        events, self.waiting = self.waiting, []
        return events or None

    def done(self, events: Sequence[Event]) -> None:
        self.removed += events


@pytest.mark.parametrize("is_full", [False, True])
def test_the_event_of_a_match_that_cannot_be_recorded_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_full: bool
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}}, {"a": LISTED})
    if is_full:
        (state.path / "matches.db").mkdir()

    def check(checker: ContentChecker, _: str, lists: InUse) -> Checked:
        return checker._check_path(str(state.tree / "a"), lists)

    monkeypatch.setattr(ContentChecker, "_check_object", check)
    events, shown, failures = Once(), list[Handled](), list[HashclientError]()
    with Client(state.path).checker() as checker:
        watch = BucketWatch(
            checker, [URI], events, on_outcome=shown.append, on_failure=failures.append
        )
        watch.run()
    assert [handled.outcome.kind for handled in shown] == [Kind.MATCH]
    assert (len(events.removed), len(failures)) == ((0, 1) if is_full else (1, 0))


class Undone(Once):
    """A source that delivers its event again and again, beginning with a later delivery."""

    has_dead_letters = True

    def __init__(self) -> None:
        super().__init__()
        self.waiting = [Event((URI,), times=times) for times in (2, 3, 4)]

    def take(self, wait_s: float) -> Sequence[Event] | None:
        return [self.waiting.pop(0)] if self.waiting else None


def test_an_unread_object_is_shown_once_whatever_became_of_the_first_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    failed = [UnreachableError("an index cannot be read now")]

    def check(_: ContentChecker, uri: str, _lists: InUse) -> Checked:
        if failed:
            raise failed.pop()
        return Checked(Kind.UNREAD, "denied", (Handled(Outcome(Kind.UNREAD, uri)),))

    monkeypatch.setattr(ContentChecker, "_check_object", check)
    events, shown, failures = Undone(), list[Handled](), list[HashclientError]()
    with Client(state.path).checker() as checker:
        watch = BucketWatch(
            checker, [URI], events, on_outcome=shown.append, on_failure=failures.append
        )
        watch.run()
    assert [handled.outcome.path for handled in shown] == [URI.text]
    assert (len(events.removed), len(failures)) == (0, 1)


def test_an_event_waits_if_a_list_becomes_stale_during_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    answers = [Checked(Kind.UNREAD, "lists are stale"), Checked(Kind.CLEAN)]
    monkeypatch.setattr(ContentChecker, "_check_object", lambda *_: answers.pop(0))
    events, failures = Once(), list[HashclientError]()
    with Client(state.path).checker() as checker:
        watch = BucketWatch(
            checker, [URI], events, on_outcome=lambda _: None, on_failure=failures.append
        )
        watch.run()
    assert (len(events.removed), answers, failures) == (1, [], [])
