"""A match as a value: a file that matched, the entries that it matched, and its history.

Frozen, and without I/O; `matches` stores matches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from hashclient.core.kinds import COMES_FROM, SETTLED, Algorithm, Kind, MatchState, Verdict
from hashclient.core.model import Handled, Hit, MatchRef, Outcome, Seen

#: Letters and digits that look different from each other and spell no word. The number of possible
#: ids is 27^10.
_ID_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
ID_LENGTH = 10
_EVEN = 256 // len(_ID_ALPHABET) * len(_ID_ALPHABET)
_TO_LETTERS = bytes(ord(_ID_ALPHABET[byte % len(_ID_ALPHABET)]) for byte in range(256))
_LEFT_OUT = bytes(range(_EVEN, 256))
#: If at least `_MANY` ids are made at once, their first `_COMMON` letters are the same.
_MANY = 32
_COMMON = 4

#: Events of a match's history: a report of the match is about to be made; the report was made.
REPORT_WANTED = "report-wanted"
REPORT_PREPARED = "report-prepared"
#: The event that says why a report cannot be sent with the match in it.
REPORT_HELD = "report-held"
#: Events of a match's history: a report of the match is about to be retracted; the report was
#: retracted.
REPORT_RETRACTING = "report-retracting"
REPORT_RETRACTED = "report-retracted"
#: The event of a match that was withdrawn: its entry is on a list again.
LISTED_AGAIN = "listed-again"
#: The event that names the member of a container that matched.
IN_MEMBER = "in-member"
#: The event that says how often a client of a daemon asked about the same content again.
SEEN_AGAIN = "seen-again"
#: The event of a match that was held: a person, or another entry, lets the file be acted upon.
RELEASED = "released"
#: The event that says that the record of the match had been lost.
RECORDED_AGAIN = "recorded-again"

#: The event of a reviewed match: after the review, other content was found at its path.
CONTENT_CHANGED = "content-changed"

#: Events of a match's history about the sealed file: it must be kept; it need not be kept any more;
#: it has other recipients.
ON_HOLD = "on-hold"
HOLD_ENDED = "hold-ended"
RESEALED = "resealed"
#: The event that says that files which belong to the match were sealed, too.
CONTEXT_ADDED = "context-added"

#: The event about the answer of a body to a report of the match, with the requests of the body.
ANSWERED = "answered"

#: All events of a match's history that are no states; `docs/operations/story.md` explains them.
BESIDE_STATE = (
    *Verdict,
    CONTENT_CHANGED,
    RELEASED,
    REPORT_WANTED,
    REPORT_PREPARED,
    REPORT_HELD,
    REPORT_RETRACTING,
    REPORT_RETRACTED,
    ANSWERED,
    ON_HOLD,
    HOLD_ENDED,
    RESEALED,
    CONTEXT_ADDED,
    LISTED_AGAIN,
    SEEN_AGAIN,
    IN_MEMBER,
    RECORDED_AGAIN,
)
#: The verdicts of reviews, and the event that cancels the verdicts.
REVIEW_EVENTS = (*Verdict, CONTENT_CHANGED)

#: The usual states of a match, in order, while its entry is on the list. Three events lead back:
#: the file is found again, a report is retracted, or a person releases a held match.
PROGRESS = (
    MatchState.FOUND,
    MatchState.HELD,
    MatchState.QUARANTINED,
    MatchState.REPORTED,
    MatchState.ACKNOWLEDGED,
)
#: A match can become gone only from these states, in which nobody has acted on it. A reported match
#: stays reported.
LEAVABLE = COMES_FROM[MatchState.GONE]


#: The form in which `session` names a person who became another user: by login, or by `sudo` as
#: root.
_BECAME = r"[^(]* \((?:login: ([^,)]*)(?:, .*)?|sudo: (.*))\)"

#: The beginnings of the recorded paths of streams, for each source; the path of a file begins with
#: a slash. A stream of the daemon is named by the socket and the client that it came from.
STREAM_PREFIX = "stdin:"
SERVED_PREFIX = "serve:"
STREAM_PREFIXES = (STREAM_PREFIX, SERVED_PREFIX)


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a file is: its path without links, and words that identify directory and file system.

    `standing` is None if directory and file system are not known. Otherwise the first word of
    `standing` identifies the directory in its file system, and each other word identifies the file
    system. `reached` is the path by which the scan reached the file, if this path leads through a
    link.
    """

    path: str
    standing: str | None = None
    reached: str | None = None

    def is_at(self, other: str | None) -> bool:
        """Return whether `other` is the same directory of the same file system."""
        if self.standing is None or other is None:
            return False
        (inner, *names), (other_inner, *others) = self.standing.split(), other.split()
        return inner == other_inner and not set(names).isdisjoint(others)


class Match(msgspec.Struct, frozen=True, gc=False):
    """A file that matched. Times are in UTC.

    `in_place` is False once this program has moved or removed the file. `tags` are 16 bytes each,
    made with the key `key_id`. All `hits` are complete; hits of withdrawn entries are included. A
    stream has no file: its `path` is its name after one of `STREAM_PREFIXES`, and `times_seen` is
    how often the stream has come (None for a file). `seen` is the file that was read, None if
    unknown; its devices are left out, since their numbers may be different after a restart.
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
    seen: Seen | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the match was a stream: then no file can be acted upon."""
        return self.path.startswith(STREAM_PREFIXES)

    @property
    def standing(self) -> tuple[Hit, ...]:
        """The hits whose entries are not withdrawn now."""
        return tuple(hit for hit in self.hits if hit.stands)

    @property
    def by_entry(self) -> dict[tuple[str, str], Hit]:
        """The hits by the names of list and entry."""
        return {(hit.list_name, hit.entry): hit for hit in self.hits}

    @property
    def ended(self) -> MatchState | None:
        """The state that ended the match; None while the match is open."""
        if self.state in SETTLED:
            return self.state
        stands = self.standing and self.state is not MatchState.WITHDRAWN
        return None if stands else MatchState.WITHDRAWN

    @property
    def ref(self) -> MatchRef:
        """The part of the record that goes into an outcome."""
        return MatchRef(self.id, self.state, self.first_seen, self.last_seen, self.in_place)

    def handled(self) -> Handled:
        """Return the match as an outcome of a scan, with every entry that it ever matched."""
        return Handled(Outcome(Kind.MATCH, self.path, self.size, hits=self.hits), self.ref)


class Step(msgspec.Struct, frozen=True):
    """A step of a match's history: a new state, or another event.

    `detail` holds JSON values with details: who, why, in which report; never a digest.
    """

    time: datetime
    event: str
    detail: Mapping[str, Any]


def taken_back(story: Sequence[Step]) -> frozenset[str]:
    """Return the ids of the reports that are retracted, or are about to be retracted."""
    events = (REPORT_RETRACTING, REPORT_RETRACTED)
    return frozenset(str(s.detail.get("report")) for s in story if s.event in events)


def destruction_ordered(story: Sequence[Step]) -> str | None:
    """Return the order of a body to destroy the sealed file, from the body's last answer."""
    step, asked = _last_request(story)
    if asked.get("request") != "destroy" or step is None:
        return None
    return f"{asked.get('text')} ({step.detail.get('by')})"


def keep_asked(story: Sequence[Step]) -> Mapping[str, Any] | None:
    """Return the last request of a body (`by`, `text`, `until`) if it asks to keep the sealed file.

    Return None, too, if a person has ended a hold after the request.
    """
    step, asked = _last_request(story)
    if asked.get("request") != "keep" or step is None:
        return None
    has_ended = HOLD_ENDED in {later.event for later in story[story.index(step) :]}
    return None if has_ended else {**asked, "by": step.detail.get("by")}


def _last_request(story: Sequence[Step]) -> tuple[Step | None, Mapping[str, Any]]:
    """Return the last request of a body to keep or destroy the sealed file, and its step."""
    for step in reversed(story):
        if step.event == ANSWERED:
            for asked in reversed(step.detail.get("requests", ())):
                if asked.get("request") in ("keep", "destroy"):
                    return step, asked
    return None, {}


def reviews_of(story: Sequence[Step]) -> list[Step]:
    """Return the reviews of the content that the match has now, in order."""
    reviews: list[Step] = []
    for step in story:
        if step.event == CONTENT_CHANGED:
            reviews.clear()
        elif step.event in REVIEW_EVENTS:
            reviews.append(step)
    return reviews


def was_viewed(story: Sequence[Step]) -> bool:
    """Return whether a person has noted in a review to have viewed the content elsewhere."""
    return any(step.detail.get("viewed") is True for step in reviews_of(story))


def verdict_of(story: Sequence[Step], people: int) -> Verdict | None:
    """Return the verdict if at least `people` reviewers exist and all agree; else None."""
    said = _said_in(story)
    if len(said) < people or len({*said.values()}) != 1:
        return None
    return Verdict(next(iter(said.values())))


def is_doubted(story: Sequence[Step]) -> bool:
    """Return whether any person rejects a match, also if others confirm it."""
    return Verdict.REJECTED in _said_in(story).values()


def _said_in(story: Sequence[Step]) -> dict[str, str]:
    """Return the last review of each person."""
    return {person_of(str(step.detail.get("by"))): step.event for step in reviews_of(story)}


def person_of(operator: str) -> str:
    """Return the person behind a name of the audit log: who logged in, or who called `sudo`."""
    became = re.fullmatch(_BECAME, operator)
    return (became[1] or became[2]) if became else operator


def standing_steps(story: Sequence[Step]) -> list[Step]:
    """Return the usual steps since the file was last found.

    Steps of a report that was retracted at any time are left out.
    """
    gone = taken_back(story)
    steps: list[Step] = []
    for step in story:
        if step.event == MatchState.FOUND:
            steps.clear()
        elif step.event == RELEASED:
            steps = [s for s in steps if s.event != MatchState.HELD]
        elif step.event in PROGRESS and step.detail.get("report") not in gone:
            steps.append(step)
    return steps


def members_of(story: Sequence[Step]) -> list[tuple[str, ...]]:
    """Return the members of a container that matched; the history names the first hundred only."""
    return [tuple(s.detail.get("members", ())) for s in story if s.event == IN_MEMBER]


def progress_of(story: Sequence[Step], *, in_place: bool) -> MatchState:
    """Return the last of the usual states that a match has reached.

    A file that is not in place was isolated.
    """
    states = [MatchState(step.event) for step in standing_steps(story)]
    states.append(MatchState.FOUND if in_place else MatchState.QUARANTINED)
    return max(states, key=PROGRESS.index)


def new_id() -> str:
    """Return a random id, for a match or any other thing whose id people type."""
    return _letters(ID_LENGTH)


def new_ids(count: int) -> list[str]:
    """Return `count` distinct ids, ascending, for matches that are recorded together.

    Many ids have the same random beginning, so that they are neighbours in the record, and writing
    them changes few of its pages.
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
        # Bytes that would make some letters more likely than others are dropped.
        found += os.urandom(count + 4).translate(_TO_LETTERS, _LEFT_OUT)
    return found[:count].decode("ascii")
