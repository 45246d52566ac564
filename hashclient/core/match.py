"""A match as a value: one file that matched, what of, and its story from found to dealt with.

Frozen, and without I/O; `matches` keeps them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.core.kinds import Kind, MatchState
from hashclient.core.model import Handled, Hit, MatchRef, Outcome

#: Letters and digits that no two look alike and that spell no word; 27^10 ids are enough for ever.
_ID_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
ID_LENGTH = 10
_EVEN = 256 // len(_ID_ALPHABET) * len(_ID_ALPHABET)
_TO_LETTERS = bytes(ord(_ID_ALPHABET[byte % len(_ID_ALPHABET)]) for byte in range(256))
_LEFT_OUT = bytes(range(_EVEN, 256))
#: Of so many ids that are made at once, so many letters are the same.
_MANY = 32
_COMMON = 4

#: Events of a story that say that a report is to be made of a match, and that one was.
REPORT_WANTED = "report-wanted"
REPORT_PREPARED = "report-prepared"
#: Events that say that a report of it is about to be taken back, and that one was.
REPORT_RETRACTING = "report-retracting"
REPORT_RETRACTED = "report-retracted"
#: An event that says that what a match was withdrawn for is on a list again.
LISTED_AGAIN = "listed-again"
#: An event that says which member of a container it was that matched.
IN_MEMBER = "in-member"
#: An event that says that the record of the match had been lost.
RECORDED_AGAIN = "recorded-again"

#: The way a match takes while its entry stands, in this order; nothing leads back but to be found
#: again, and to have a report taken back.
PROGRESS = (
    MatchState.FOUND,
    MatchState.QUARANTINED,
    MatchState.REPORTED,
    MatchState.ACKNOWLEDGED,
)
#: In these a match needs nobody's attention any more, unless it is found again.
SETTLED = frozenset({MatchState.RESTORED, MatchState.PURGED, MatchState.CLOSED})
#: From these a match comes to be gone: nobody has done anything about it. What is reported stays
#: reported.
LEAVABLE = (MatchState.FOUND, MatchState.WITHDRAWN)


#: How the path begins on record of what came as a stream; that of a file begins with a slash.
STREAM_PREFIX = "stdin:"


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a file is: its path without links, and what stands for the directory and file system.

    `standing` is None where that is not known; else words of which the first stands for the
    directory inside of its file system, and each of the others for the file system. `reached` is
    the path by which it was met, where that leads through a link.
    """

    path: str
    standing: str | None = None
    reached: str | None = None

    def is_at(self, other: str | None) -> bool:
        """Tell whether `other` stands for the same directory of the same file system."""
        if self.standing is None or other is None:
            return False
        (inner, *names), (other_inner, *others) = self.standing.split(), other.split()
        return inner == other_inner and not set(names).isdisjoint(others)


class Match(msgspec.Struct, frozen=True, gc=False):
    """One file that matched. Times are in UTC.

    `in_place` tells whether it is where it was found, as far as this program has done anything
    about it. `tags` are 16 bytes each, sealed under the key `key_id`. `hits` are all complete, and
    hold what was withdrawn as well. What came as a stream has no file: its `path` is its name after
    `STREAM_PREFIX`, and `times_seen` is how often it has come; None for a file.
    """

    id: str
    path: str
    size: int | None
    state: MatchState
    in_place: bool
    key_id: str
    tags: Mapping[Algorithm, bytes]
    first_seen: datetime
    last_seen: datetime
    hits: tuple[Hit, ...]
    times_seen: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it came as a stream, so that there is no file to do anything about."""
        return self.path.startswith(STREAM_PREFIX)

    @property
    def standing(self) -> tuple[Hit, ...]:
        """The entries that have not been withdrawn since."""
        return tuple(hit for hit in self.hits if hit.stands)

    @property
    def by_entry(self) -> dict[tuple[str, str], Hit]:
        """The hits by the names of their list and entry."""
        return {(hit.list_name, hit.entry): hit for hit in self.hits}

    @property
    def ended(self) -> MatchState | None:
        """The state in which nothing is to be done about it any more; None while it is open."""
        if self.state in SETTLED:
            return self.state
        stands = self.standing and self.state is not MatchState.WITHDRAWN
        return None if stands else MatchState.WITHDRAWN

    @property
    def ref(self) -> MatchRef:
        """What is said of the record beside an outcome."""
        return MatchRef(self.id, self.state, self.first_seen, self.last_seen, self.in_place)

    def handled(self) -> Handled:
        """Return the match as a scan gives it, with every entry that it ever matched."""
        return Handled(Outcome(Kind.MATCH, self.path, self.size, hits=self.hits), self.ref)


class Step(msgspec.Struct, frozen=True):
    """One step of a match's story: a state it came to, or something else that was done.

    `detail` holds JSON values that say more: who, why, under which report; never a digest.
    """

    time: datetime
    event: str
    detail: Mapping[str, Any]


def taken_back(story: Sequence[Step]) -> frozenset[str]:
    """Return the ids of the reports that are taken back, or are about to be."""
    events = (REPORT_RETRACTING, REPORT_RETRACTED)
    return frozenset(str(s.detail.get("report")) for s in story if s.event in events)


def standing_steps(story: Sequence[Step]) -> list[Step]:
    """Return the steps on the usual way since a match was last found, as far as they count.

    What a report did does not count once that report is taken back, wherever in the story that is.
    """
    gone = taken_back(story)
    steps: list[Step] = []
    for step in story:
        if step.event == MatchState.FOUND:
            steps.clear()
        elif step.event in PROGRESS and step.detail.get("report") not in gone:
            steps.append(step)
    return steps


def progress_of(story: Sequence[Step], *, in_place: bool) -> MatchState:
    """Return how far a match has come on the usual way; what is not in its place was taken away."""
    states = [MatchState(step.event) for step in standing_steps(story)]
    states.append(MatchState.FOUND if in_place else MatchState.QUARANTINED)
    return max(states, key=PROGRESS.index)


def new_id() -> str:
    """Return a random id, of a match or of what else people have to type."""
    return _letters(ID_LENGTH)


def new_ids(count: int) -> list[str]:
    """Return `count` ids of matches that are recorded together, no two of them equal, ascending.

    Many have a beginning in common, which is random as well: so they come to lie side by side in
    the record, and writing them touches few of its pages.
    """
    beginning = _letters(_COMMON) if count >= _MANY else ""
    found: set[str] = set()
    while len(found) < count:
        letters, length = _letters((count - len(found)) * ID_LENGTH), ID_LENGTH - len(beginning)
        for start in range(0, len(letters), ID_LENGTH):
            found.add(beginning + letters[start : start + length])
    return sorted(found)


def _letters(count: int) -> str:
    found = b""
    while len(found) < count:
        # Bytes that would make some letters likelier than others are left out.
        found += secrets.token_bytes(count + 4).translate(_TO_LETTERS, _LEFT_OUT)
    return found[:count].decode("ascii")
