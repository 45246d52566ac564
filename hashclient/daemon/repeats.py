"""Which matches have come before from the same client: they are counted, and not recorded again.

A client can send the same listed content as often as it likes. The first time is recorded, logged
and acted upon as ever. From then on it is counted for an hour, and the count is written when the
content has come 10, 100, 1,000 times and so on, and at the end of the hour. So records, log and
isolated files grow with what there is to find, and not with how often it is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from hashclient.core.model import Outcome, Recorded

#: Seconds for which a match is only counted.
REPEAT_S = 3600.0
#: So many matches are remembered; of more, the first is recorded again when it comes again.
MOST = 10_000
#: The ids of so many mails are written with a count: the last ones.
MOST_MAILS = 10
#: Seconds between two searches for hours that have ended.
SEARCH_S = 60.0

#: The client, and the entries that the content agrees with.
_Key = tuple[object, ...]


class Again(msgspec.Struct):
    """A match that was recorded at `since`, and how often it has come since and in all.

    `recorded` is None until it is recorded. `count` is how often it came since the last count was
    written, and `mails` are the ids of the last mails among these.
    """

    since: float
    recorded: Recorded | None = None
    count: int = 0
    total: int = 1
    mails: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=MOST_MAILS))


class Repeats:
    """The matches of one process of a daemon that came of late."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Nothing has come yet; `clock` gives seconds."""
        self._clock = clock
        self._known: dict[_Key, Again] = {}
        self._due: list[Again] = []
        self._searched = clock()

    def first(self, found: Sequence[Outcome]) -> list[Outcome]:
        """Return those that have not come of late, and count the others."""
        now, first = self._clock(), []
        for outcome in found:
            key = _key_of(outcome)
            again = self._known.get(key)
            if again is not None and now < again.since + REPEAT_S:
                again.count += 1
                again.total += 1
                if outcome.mail is not None and outcome.mail.message_id is not None:
                    again.mails.append(outcome.mail.message_id)
                if _is_power_of_ten(again.total):
                    self._due.append(again)
                continue
            if again is not None:
                self._due.append(self._known.pop(key))  # the order is that of their times
            self._known[key] = Again(now)
            first.append(outcome)
        while len(self._known) > MOST:
            self._due.append(self._known.pop(next(iter(self._known))))
        return first

    def learn(self, kept: Sequence[Recorded]) -> None:
        """Note how the first ones were recorded."""
        for recorded in kept:
            again = self._known.get(_key_of(recorded.outcome))
            if again is not None:
                again.recorded = recorded

    def forget(self) -> None:
        """Forget all, so that what comes again is recorded."""
        self._known.clear()
        self._due.clear()

    def due(self, *, everything: bool = False) -> Iterator[tuple[Recorded, int, list[str]]]:
        """Yield matches whose count is to be written, how often each came, and in which mails."""
        now = self._clock()
        if everything or now >= self._searched + SEARCH_S:
            self._searched = now
            ended = [k for k, a in self._known.items() if everything or now >= a.since + REPEAT_S]
            self._due += [self._known.pop(key) for key in ended]
        due, self._due = self._due, []
        for again in due:
            if again.count and again.recorded is not None:
                yield again.recorded, again.count, [*again.mails]
                again.count = 0
                again.mails.clear()


def _key_of(outcome: Outcome) -> _Key:
    client = outcome.path if outcome.is_stream else outcome.door
    return (client, outcome.kind, *sorted((h.list_name, h.entry, h.complete) for h in outcome.hits))


def _is_power_of_ten(number: int) -> bool:
    while number % 10 == 0:
        number //= 10
    return number == 1
