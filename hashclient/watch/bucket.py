"""Watches buckets: checks objects when events about them arrive.

In addition, the buckets are listed from time to time, to find objects whose event was lost.

Each object is checked by a `ContentChecker`: the outcome is recorded, logged and acted upon before
the event is removed from its source. Therefore, if this process dies before the event is removed,
the source sends the event again. A match that is found again is not recorded twice. The listings
are run as separate commands (`beside`), at the same time as the checks.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import msgspec

from hashclient.core.errors import ConfigError, HashclientError, StateError, UnreachableError
from hashclient.core.kinds import Kind
from hashclient.core.model import Handled
from hashclient.core.objecturi import ObjectUri
from hashclient.daemon.program import NO_OBJECT, Checked, ContentChecker
from hashclient.system.beside import Beside
from hashclient.system.text import printable
from hashclient.system.wakeup import wait, woken_by
from hashclient.watch.events import WAIT_S, Event, Events

#: `CHECKS`: the number of objects that are checked at the same time; `_MOST_EVENTS`: the most
#: events that were received and are not finished.
CHECKS = 16
_MOST_EVENTS = 4 * CHECKS
#: If the queue has no dead-letter queue: after this number of attempts to read an object, its event
#: is removed.
ATTEMPTS = 5
#: The most events whose unread objects were shown, and that are remembered.
_MOST_SHOWN = 10_000
#: `RETRY_S`: the pause after a failure of the event source, in seconds; `STOP_S`: the time in
#: seconds within which the commands in `beside` must end when the watch ends.
RETRY_S, STOP_S = 10.0, 5.0


class BucketWatch:
    """Checks objects that events name and that are below some URIs, until a signal arrives."""

    def __init__(
        self,
        checker: ContentChecker,
        below: Sequence[ObjectUri],
        events: Events,
        *,
        on_outcome: Callable[[Handled], None],
        on_failure: Callable[[HashclientError], None],
        beside: Sequence[Beside] = (),
    ) -> None:
        """Check objects with `checker`, which the caller closes.

        An event is removed from the source without a check if its object is not below one of
        `below`.

        `on_outcome` is called with each outcome that is not clean, after the outcome is recorded
        and acted upon; `on_failure` is called with each error. The commands `beside` are run at
        regular times.
        """
        self._checker = checker
        self._below = {msgspec.structs.replace(uri, version=None) for uri in below}
        self._events = events
        self._on_outcome = on_outcome
        self._on_failure = on_failure
        self._beside = beside
        self._stopping = False
        self._doubt: str | None = None
        self._running: dict[Future[list[Checked]], Event] = {}
        #: Events that were received, and whose check has given no verdict because of the lists.
        self._waiting: list[Event] = []
        #: The objects of events that were shown as unread, and whose events stay in the source.
        self._shown: dict[tuple[ObjectUri, ...], None] = {}

    def run(self) -> None:
        """Watch until SIGTERM or SIGINT arrives, or until the source ends."""
        handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._on_stop)
        with woken_by(handlers) as woken, ThreadPoolExecutor(CHECKS, "hashclient-event") as pool:
            try:
                while not self._stopping:
                    for command in self._beside:
                        command.look()
                    if not self._take(pool, woken):
                        break
            finally:
                # After the signal, the checks that have begun are finished, and their events are
                # removed from the source.
                while self._running:
                    self._settle(None)
                for command in self._beside:
                    command.end(STOP_S)

    def _on_stop(self) -> None:
        self._stopping = True

    def _take(self, pool: ThreadPoolExecutor, woken: int) -> bool:
        """Receive events and begin their checks; remove events that were checked from the source.

        Return False if the source has ended.
        """
        self._settle(None if len(self._running) >= _MOST_EVENTS else 0.0)
        doubt, self._doubt = self._doubt, self._checker.doubt
        if self._doubt is not None:
            if self._doubt != doubt:
                why = f"lists are {self._doubt.lower()}: events wait where they are"
                self._on_failure(StateError(why, hint="run `hashclient fetch`"))
            wait(woken, [], RETRY_S)
            return True
        try:
            # While checks are running, `take` does not wait. Instead, `_settle` waits until a check
            # has finished or `WAIT_S` has passed.
            came = self._waiting or self._events.take(0.0 if self._running else WAIT_S)
        except (ConfigError, UnreachableError) as error:
            self._on_failure(error)
            wait(woken, [], RETRY_S)
            return True
        if came is None:
            self._settle(None)
            return bool(self._running or self._waiting)
        self._waiting = []
        for event in came:
            if not event.is_read:
                why = "an event has no known form: it stays in the queue"
                self._on_failure(ConfigError(why, hint="events of S3, by SNS or EventBridge too"))
                continue
            self._running[pool.submit(self._check, event)] = event
        if self._running and not came:
            self._settle(WAIT_S)
        return True

    def _check(self, event: Event) -> list[Checked]:
        wanted = [uri for uri in event.objects if self._is_below(uri)]
        return [self._checker.check(uri.text) for uri in wanted]

    def _is_below(self, uri: ObjectUri) -> bool:
        """Return whether an object is at or below one of the watched URIs."""
        latest = msgspec.structs.replace(uri, version=None)
        return latest in self._below or latest.is_below(self._below)

    def _settle(self, wait_s: float | None) -> None:
        """Report the outcomes of finished checks, and remove their events.

        `wait_s` is how long to wait for the first check to finish.
        """
        ended, _ = wait_for(self._running, wait_s, FIRST_COMPLETED)
        done = []
        for future in ended:
            event = self._running.pop(future)
            error = future.exception()
            if isinstance(error, HashclientError):
                self._on_failure(error)
            elif error is not None:
                raise error
            elif any(map(_has_no_verdict, future.result())):
                self._waiting.append(event)
            elif self._is_done(event, future.result()):
                done.append(event)
        if not done:
            return
        try:
            self._events.done(done)
        except (ConfigError, UnreachableError) as failure:  # the queue will send the events again
            self._on_failure(failure)

    def _is_done(self, event: Event, checked: Sequence[Checked]) -> bool:
        """Report the outcomes of the objects in an event.

        Return whether the event can be removed from its source.
        """
        is_done = is_recorded = True
        # The first delivery may have shown nothing, because this process was killed, or because an
        # index could not be read.
        is_first = event.times == 1 or event.objects not in self._shown
        for answer in checked:
            # An object that was deleted after its event was sent is not reported as unread.
            is_gone = any(one.outcome.reason == NO_OBJECT for one in answer.found)
            is_unread = answer.kind is Kind.UNREAD and not is_gone
            is_done = is_done and not is_unread
            if not is_gone and (not is_unread or is_first):
                if is_unread and answer.found:
                    self._shown[event.objects] = None
                for one in answer.found:
                    is_recorded = is_recorded and not one.is_unrecorded
                    self._on_outcome(one)
        if is_done:
            self._shown.pop(event.objects, None)
        while len(self._shown) > _MOST_SHOWN:
            del self._shown[next(iter(self._shown))]
        if not is_recorded:
            why = "a match could not be recorded, so its event is not removed"
            self._on_failure(StateError(why, hint="is the disk of the state directory full?"))
            return False
        if is_done or self._events.has_dead_letters or event.times < ATTEMPTS:
            return is_done
        names = ", ".join(printable(uri.text) for uri in event.objects)
        why = f"given up after {event.times} times: {names}"
        self._on_failure(ConfigError(why, hint="the next listing reads it again"))
        return True


def _has_no_verdict(checked: Checked) -> bool:
    """Return whether a list is stale or missing, so that the object is not known to be clean."""
    found = (one.outcome.kind for one in checked.found)
    return checked.kind is Kind.UNREAD and Kind.UNREAD not in found
