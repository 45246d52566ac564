"""The outbox of alerts: joins alerts, limits how often they are sent, and sends each at least once.

1. A new event is added to the waiting alert of its kind, or to a new alert if no alert of the kind
   waits.
2. An alert is due if it has a subject that no alert has named during the time that its kind sets.
3. Before an alert is first sent, its receivers are stored in the alert. After its receivers are
   stored, an alert is not changed, so that its id stands for one content whether attempts succeed
   or fail.
4. When a receiver has accepted an alert, the receiver is removed from the alert; an alert without
   receivers is removed. While a receiver does not accept an alert, the receiver's later alerts
   wait. Waiting alerts of one kind are joined to one alert with a new id.

5. If a mail server refuses some addresses for now, the alert is sent to them again, for a day at
   most; other alerts do not wait for this.

A receiver that fails is not tried again for a while, like a destination of reports
(`core/patience`), and does not delay other receivers. `reporting/outbox` needs folders and records
in the log; an alert only refers to what the log contains already, so one small file is enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from hashclient.alerts.alert import MEANINGS, Alert, Kind, Noticed, document_of, noticed
from hashclient.alerts.book import Book, Late, Receiver, book_lock, load_book, save_book
from hashclient.alerts.noticing import News
from hashclient.alerts.receivers import Message, PartlyTakenError, receiver_of
from hashclient.core.errors import HashclientError, UnreachableError
from hashclient.core.patience import is_due, pause
from hashclient.session import Session
from hashclient.system.background import Task
from hashclient.system.text import printable

#: The seconds in which a receiver must accept an alert: at the end of a run, for which other
#: programs may wait, and in a command that only sends alerts.
RUN_S, PATIENT_S = 5.0, 20.0
#: The longest pause before a failed receiver is tried again.
LONGEST_PAUSE = timedelta(hours=1)
#: How long an alert is sent again to addresses that were refused for now, and the most alerts that
#: wait for this; a mail server that delays unknown senders accepts them within the hour.
LATE, MOST_LATE = timedelta(days=1), 20
#: The shortest time between two examinations of the whole state, which take longer than reading the
#: log.
LOOK = timedelta(hours=1)
#: A function that returns the problems of the whole state directory.
Look = Callable[[], Iterable[Noticed]]
#: The largest length of a machine's name, because the names come from other machines.
_NAME_CHARS = 100
_OF_FETCHES = (Kind.FETCH_FAILED, Kind.REFUSED)


class Attempt(msgspec.Struct, frozen=True):
    """An attempt to send alerts to a receiver: how many it has accepted, and the error, if any."""

    receiver: str
    taken: int
    error: HashclientError | None = None


class Outbox:
    """The alerts of one state directory.

    If no receiver is configured, no file is read or written.
    """

    def __init__(self, session: Session) -> None:
        """Store the session; no file is read yet."""
        self._session = session
        self._layout = session.settings.layout
        self._config = session.settings.config.alerts

    def book(self) -> Book:
        """Return the outbox as it is on the disk.

        Raises:
            StateError: the outbox cannot be read.
        """
        return load_book(self._layout, self._session.now())

    def raise_silent(self, machines: Iterable[str]) -> None:
        """Store an alert about silent machines, which is sent at the end of the run.

        Machines that a recent alert has named are left out.

        Raises:
            StateError: the outbox cannot be written.
        """
        names = [printable(name)[:_NAME_CHARS] for name in machines]
        if names and self._config.receivers:
            with book_lock(self._layout, RUN_S):
                silent = noticed(Kind.MACHINE_SILENT, *names)
                self._save(self._with_standing(self.book(), [silent]))

    def send(
        self,
        look: Look = tuple,
        *,
        also: Iterable[Noticed] = (),
        look_now: bool = False,
        at_once: bool = False,
        patient: bool = False,
    ) -> list[Attempt]:
        """Collect events, and send the alerts that are due; return one attempt for each receiver.

        `look` is called if `look_now` is set, or if the state was not examined for an hour; `also`
        are events that the caller has found. With `at_once`, all waiting alerts are sent, even if
        they are not due. No more alerts are sent to a receiver after its first failure and, unless
        `patient` is set, after half of the time for one alert.

        Raises:
            StateError: the outbox cannot be read or written, or another command has locked it.
        """
        if not self._config.receivers:
            return []
        with book_lock(self._layout, PATIENT_S if patient else RUN_S):
            book = self._with_news(self.book())
            now = self._session.now()
            if look_now or book.looked is None or not book.looked <= now < book.looked + LOOK:
                also = (*also, *look())
                book = msgspec.structs.replace(book, looked=now)
            book = self._save(self._begun(self._with_standing(book, also), at_once=at_once))
            return [*self._send_all(book, at_once=at_once, patient=patient)]

    def test(self) -> list[Attempt]:
        """Send an alert of the kind `test` to each receiver now, without storing the alert.

        Raises:
            StateError: another command keeps the lock for too long, or no thread can be started.
        """
        now = self._session.now()
        alert = Alert.new(Kind.TEST, now).replace(count=1)
        with book_lock(self._layout, PATIENT_S):
            return [
                Attempt(name, int(_is_taken(error)), error)
                for name in self._config.receivers
                for error in (self._give(name, alert, PATIENT_S),)
            ]

    def _save(self, book: Book) -> Book:
        return save_book(self._layout, book)

    def _with_news(self, book: Book) -> Book:
        """Return the outbox with the events in the log and in the matches since the last look."""
        news, now = News(self._session, book.place), self._session.now()
        waiting = (
            a.without(news.fetched) if a.kind in _OF_FETCHES and a.to is None else a
            for a in book.waiting
        )
        book = msgspec.structs.replace(
            book, place=news.place, waiting=tuple(a for a in waiting if a.subjects)
        )
        for happened in news.happened():
            book = _joined(book, happened, now)
        return self._with_standing(book, [noticed(Kind.DAMAGED, *news.damaged)])

    def _with_standing(self, book: Book, found: Iterable[Noticed]) -> Book:
        """Return the outbox with alerts about present problems.

        A subject is not named again before the time that the kind of alert sets is over.
        """
        now = self._session.now()
        for kind, subjects in ((one.kind, one.subjects) for one in found):
            waits = {n for a in book.waiting if a.kind is kind for n in a.subjects}
            new = [n for n in subjects if n not in waits and self._may_say(book, kind, n, now)]
            if new:
                book = _joined(book, noticed(kind, *new), now)
        return book

    def _may_say(self, book: Book, kind: Kind, subject: str, now: datetime) -> bool:
        said = book.said.get(kind, {}).get(subject)
        # A time in the future was set by a wrong clock, and is ignored.
        return said is None or not said <= now < said + self._every(kind)

    def _every(self, kind: Kind) -> timedelta:
        hours = self._config.every_hours
        return MEANINGS[kind].every if hours is None else timedelta(hours=hours)

    def _begun(self, book: Book, *, at_once: bool) -> Book:
        """Store the receivers of each due alert, and when its subjects were named."""
        now, receivers = self._session.now(), self._config.receivers
        said = {
            kind: {n: at for n, at in of.items() if not self._may_say(book, kind, n, now)}
            for kind, of in book.said.items()
        }
        waiting = []
        for alert in book.waiting:
            # Receivers that are not configured any more are removed from the alert.
            to = None if alert.to is None else tuple(n for n in alert.to if n in receivers)
            if to is None and (
                at_once or any(self._may_say(book, alert.kind, n, now) for n in alert.subjects)
            ):
                to = receivers
                said.setdefault(alert.kind, {}).update(dict.fromkeys(alert.subjects, now))
            if to != ():
                waiting.append(alert.replace(to=to))
        waiting = _behind_joined(waiting, receivers)
        known = {name: book.receiver(name) for name in receivers}
        return msgspec.structs.replace(book, waiting=tuple(waiting), said=said, receivers=known)

    def _send_all(self, book: Book, *, at_once: bool, patient: bool) -> Iterator[Attempt]:
        """Send to each receiver the alerts that it lacks, until its first failure."""
        limit_s = PATIENT_S if patient else RUN_S
        for name in self._config.receivers:
            lacking = [alert for alert in book.waiting if name in (alert.to or ())]
            state, now = book.receiver(name), self._session.now()
            is_tried = at_once or is_due(state.next_attempt, now, longest=LONGEST_PAUSE)
            if not lacking or not is_tried:
                continue
            taken, error, began = 0, None, time.monotonic()
            for alert in lacking:
                if taken and not patient and time.monotonic() - began > limit_s / 2:
                    break
                if not _is_taken(error := self._give(name, alert, limit_s)):
                    break
                taken += 1
                book = self._save(self._with_late(_taken(book, alert, name), alert, error))
            book = self._save(_noted(book, name, self._session.now(), error))
            yield Attempt(name, taken, error)
        self._send_late(book, limit_s, at_once=at_once)

    def _with_late(
        self, book: Book, alert: Alert, error: HashclientError | None, before: Late | None = None
    ) -> Book:
        """Return the outbox with an alert for the addresses that were refused for now, if any."""
        now, attempts = self._session.now(), before.attempts + 1 if before else 0
        addresses = error.later if isinstance(error, PartlyTakenError) else ()
        if before is not None and not _is_taken(error):
            addresses = before.addresses
        since = before.since if before else now
        if not addresses or not since <= now < since + LATE:
            return book
        due = now + pause(attempts, longest=LONGEST_PAUSE)
        late = (*book.late, Late(alert, addresses, since, attempts, due))
        return msgspec.structs.replace(book, late=late[-MOST_LATE:])

    def _send_late(self, book: Book, limit_s: float, *, at_once: bool) -> None:
        """Send alerts again to the addresses that were refused for now, until the first failure."""
        began = time.monotonic()
        for one in book.late if "mail" in self._config.receivers else ():
            now = self._session.now()
            if not (at_once or is_due(one.next_attempt, now, longest=LONGEST_PAUSE)):
                continue
            addresses = tuple(to for to in one.addresses if to in self._config.mail)
            error = self._give("mail", one.alert, limit_s, addresses) if addresses else None
            left = tuple(late for late in book.late if late != one)
            book = msgspec.structs.replace(book, late=left)
            book = self._save(self._with_late(book, one.alert, error, one))
            if not _is_taken(error) or time.monotonic() - began > limit_s / 2:
                return

    def _give(
        self, name: str, alert: Alert, limit_s: float, addresses: tuple[str, ...] = ()
    ) -> HashclientError | None:
        """Send an alert to a receiver, in a thread that is abandoned if it takes too long.

        A mail is sent to `addresses`, if they are given.
        """
        config = self._config
        if addresses:
            config = msgspec.structs.replace(config, mail=addresses)
        message = Message.of(alert.id, alert.headline, document_of(alert, self._session.machine))

        def give() -> HashclientError | None:
            try:
                # The receiver gets a little less time than the thread, so that a program is ended
                # before the thread is abandoned.
                receiver_of(name, config, self._session.environ)(message, limit_s * 0.9)
            except HashclientError as error:
                return error
            return None

        task = Task(give, "alert")
        if not task.wait(limit_s):
            return UnreachableError(f"{name}: no answer within {limit_s:.0f} s")
        return task.result()


def _joined(book: Book, more: Noticed, now: datetime) -> Book:
    """Return the outbox with `more` added to the alert of its kind that was not sent yet."""
    of_kind = {a.kind: a for a in book.waiting if a.to is None}
    alert = of_kind.get(more.kind) or Alert.new(more.kind, now)
    others = tuple(a for a in book.waiting if a.id != alert.id)
    return msgspec.structs.replace(book, waiting=(*others, alert.joined(more, now)))


def _behind_joined(waiting: Iterable[Alert], receivers: Iterable[str]) -> list[Alert]:
    """Join alerts of one kind that were sent to no receiver; return all alerts in order.

    Each receiver is sent its alerts in order, so only the first alert that it lacks may have been
    tried.
    """
    left = list(waiting)
    tried = {next((a.id for a in left if name in (a.to or ())), "") for name in receivers}
    found: dict[tuple[Kind, tuple[str, ...]] | str, Alert] = {}
    for alert in left:
        key = alert.id if alert.id in tried or alert.to is None else (alert.kind, alert.to)
        first = found.get(key)
        found[key] = alert if first is None else first.with_later(alert)
    return list(found.values())


def _is_taken(error: HashclientError | None) -> bool:
    return error is None or isinstance(error, PartlyTakenError)


def _taken(book: Book, alert: Alert, name: str) -> Book:
    """Return the outbox after a receiver has accepted an alert."""
    left = (
        a if a.id != alert.id else a.replace(to=tuple(n for n in a.to or () if n != name))
        for a in book.waiting
    )
    return msgspec.structs.replace(book, waiting=tuple(a for a in left if a.to != ()))


def _noted(book: Book, name: str, now: datetime, error: HashclientError | None) -> Book:
    """Return the outbox with the result of an attempt at a receiver."""
    before, problem = book.receiver(name), None if error is None else error.message
    state = Receiver(problem=problem, reached=now)
    if not _is_taken(error):
        state = Receiver(
            attempts=before.attempts + 1,
            next_attempt=now + pause(before.attempts, longest=LONGEST_PAUSE),
            problem=problem,
            reached=before.reached,
        )
    receivers: Mapping[str, Receiver] = {**book.receivers, name: state}
    return msgspec.structs.replace(book, receivers=dict(receivers))
