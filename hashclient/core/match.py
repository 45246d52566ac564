"""A match as a value: a file that matched, the entries that it matched, and its history.

The values are frozen and do no I/O; `matches` stores them.
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

#: The characters of ids: letters and digits that look different from each other and form no words.
#: The number of possible ids is 27^10.
_ID_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
ID_LENGTH = 10
_EVEN = 256 // len(_ID_ALPHABET) * len(_ID_ALPHABET)
_TO_LETTERS = bytes(ord(_ID_ALPHABET[byte % len(_ID_ALPHABET)]) for byte in range(256))
_LEFT_OUT = bytes(range(_EVEN, 256))
#: If at least `_MANY` ids are made at once, their first `_COMMON` characters are the same.
_MANY = 32
_COMMON = 4

#: Events in the history of a match: a report of the match is about to be made, and the report was
#: made.
REPORT_WANTED = "report-wanted"
REPORT_PREPARED = "report-prepared"
#: The event which says why a report with the match cannot be sent.
REPORT_HELD = "report-held"
#: Events in the history of a match: a report of the match is about to be retracted, and the report
#: was retracted.
REPORT_RETRACTING = "report-retracting"
REPORT_RETRACTED = "report-retracted"
#: The event of a withdrawn match whose entry is on a list again.
LISTED_AGAIN = "listed-again"
#: The event that names the member of a container which matched.
IN_MEMBER = "in-member"
#: The event which says how often a client of a daemon asked about the same content again.
SEEN_AGAIN = "seen-again"
#: The event of a held match when a person, or a hit of another entry, allows actions on its file.
RELEASED = "released"
#: The event which says that the record of the match had been lost and was made again.
RECORDED_AGAIN = "recorded-again"

#: The event of a reviewed match when other content is found at its path.
CONTENT_CHANGED = "content-changed"

#: Events about the sealed file of a match: it must be kept, it need not be kept any more, and it
#: was encrypted for other recipients.
ON_HOLD = "on-hold"
HOLD_ENDED = "hold-ended"
RESEALED = "resealed"
#: The event which says that other files that belong to the match were sealed as well.
CONTEXT_ADDED = "context-added"

#: The event about an organisation's answer to a report of the match, with the requests of the
#: organisation.
ANSWERED = "answered"

#: All events in the history of a match that are not states; `docs/operations/story.md` explains
#: them.
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
#: The verdicts of reviews, and the event that cancels them.
REVIEW_EVENTS = (*Verdict, CONTENT_CHANGED)

#: The usual states of a match, in order, while its entry is on the list. Three events lead to an
#: earlier state: the file is found again, a report is retracted, or a person releases a held match.
PROGRESS = (
    MatchState.FOUND,
    MatchState.HELD,
    MatchState.QUARANTINED,
    MatchState.REPORTED,
    MatchState.ACKNOWLEDGED,
)
#: The states from which a match can become gone, because nobody has acted on it yet. A match that
#: was reported stays reported when its file is gone.
LEAVABLE = COMES_FROM[MatchState.GONE]


#: A pattern for the name that `session` gives a person who became another user: with the login
#: name, or the name for `sudo` if the user is root.
_BECAME = r"[^(]* \((?:login: ([^,)]*)(?:, .*)?|sudo: (.*))\)"

#: The beginning of the recorded path of a stream, for each source of streams; the path of a file
#: begins with a slash. A stream of the daemon is named by its socket and its client.
STREAM_PREFIX = "stdin:"
SERVED_PREFIX = "serve:"
STREAM_PREFIXES = (STREAM_PREFIX, SERVED_PREFIX)


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a file is: its path without symbolic links, and ids of its directory and file system.

    `standing`: None if the directory and the file system are not known. If `standing` is not None,
    its first word identifies the directory in its file system, and each other word identifies the
    file system. `reached`: the path by which the scan reached the file, if this path contains a
    symbolic link.
    """

    path: str
    standing: str | None = None
    reached: str | None = None

    def is_at(self, other: str | None) -> bool:
        """Return whether `other` identifies the same directory of the same file system."""
        if self.standing is None or other is None:
            return False
        (inner, *names), (other_inner, *others) = self.standing.split(), other.split()
        return inner == other_inner and not set(names).isdisjoint(others)


class Match(msgspec.Struct, frozen=True, gc=False):
    """A recorded match of a file or a stream. All times are in UTC.

    `in_place`: whether the file is at its path; False if this program has moved or removed it.
    `tags`: the tags of the content, 16 bytes each, made with the key `key_id`. `hits`: all hits are
    complete, and hits of withdrawn entries are included. A stream has no file. `path` of a stream
    begins with a text in `STREAM_PREFIXES`, and `times_seen` is how often the stream was found
    (None for a file). `seen`: the file that was read, or None if unknown; its device numbers are
    not recorded, because they may change with a restart.
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
        """Whether the match is a stream, so that no action on a file is possible."""
        return self.path.startswith(STREAM_PREFIXES)

    @property
    def is_isolated(self) -> bool:
        """Whether the file was isolated, and was neither restored nor destroyed afterwards."""
        return not self.in_place and self.state not in SETTLED

    @property
    def standing(self) -> tuple[Hit, ...]:
        """The hits whose entries are not withdrawn now."""
        return tuple(hit for hit in self.hits if hit.stands)

    @property
    def by_entry(self) -> dict[tuple[str, str], Hit]:
        """The hits, by the names of their list and their entry."""
        return {(hit.list_name, hit.entry): hit for hit in self.hits}

    @property
    def ended(self) -> MatchState | None:
        """The state that has ended the match, or None while the match is open."""
        if self.state in SETTLED:
            return self.state
        stands = self.standing and self.state is not MatchState.WITHDRAWN
        return None if stands else MatchState.WITHDRAWN

    @property
    def ref(self) -> MatchRef:
        """The id, the state and the times of the match, as an outcome contains them."""
        return MatchRef(self.id, self.state, self.first_seen, self.last_seen, self.in_place)

    def handled(self) -> Handled:
        """Return the match as an outcome of a scan, with all entries that it ever matched."""
        return Handled(Outcome(Kind.MATCH, self.path, self.size, hits=self.hits), self.ref)


class Step(msgspec.Struct, frozen=True):
    """A step in the history of a match: a new state, or another event.

    `detail`: JSON values that say who did the step, why, and in which report; never a digest.
    """

    time: datetime
    event: str
    detail: Mapping[str, Any]


def taken_back(story: Sequence[Step]) -> frozenset[str]:
    """Return the ids of the reports that were retracted or are about to be retracted."""
    events = (REPORT_RETRACTING, REPORT_RETRACTED)
    return frozenset(str(s.detail.get("report")) for s in story if s.event in events)


def waiting_report(story: Sequence[Step]) -> str | None:
    """Return the id of a report that contains the match and was not sent or retracted yet."""
    sent = (MatchState.REPORTED, MatchState.ACKNOWLEDGED)
    done = taken_back(story) | {str(s.detail.get("report")) for s in story if s.event in sent}
    prepared = (str(s.detail.get("report")) for s in story if s.event == REPORT_PREPARED)
    return next((report for report in prepared if report not in done), None)


def destruction_ordered(story: Sequence[Step]) -> str | None:
    """Return an organisation's order to destroy the sealed file, if it is the last request."""
    step, asked = _last_request(story)
    if asked.get("request") != "destroy" or step is None:
        return None
    return f"{asked.get('text')} ({step.detail.get('by')})"


def keep_asked(story: Sequence[Step]) -> Mapping[str, Any] | None:
    """Return the requests of organisations to keep the sealed file, as one request; None if none.

    The request has `by`, `text` and `until`: the latest end counts, and `text` has all texts.
    A later request to destroy the file ends earlier requests to keep it, and so does a person who
    ends a hold.
    """
    kept: list[dict[str, Any]] = []
    for step in story:
        if step.event == HOLD_ENDED:
            kept.clear()
        for asked in step.detail.get("requests", ()) if step.event == ANSWERED else ():
            if asked.get("request") == "destroy":
                kept.clear()
            elif asked.get("request") == "keep":
                kept.append({**asked, "by": step.detail.get("by")})
    if not kept:
        return None
    texts = dict.fromkeys(str(asked.get("text")) for asked in kept)
    # A time is a text in UTC with a fixed length, so texts have the order of the times.
    return max(kept, key=lambda asked: str(asked.get("until"))) | {"text": "; ".join(texts)}


def _last_request(story: Sequence[Step]) -> tuple[Step | None, Mapping[str, Any]]:
    """Return the step with the last request to keep or destroy the sealed file, and the request."""
    for step in reversed(story):
        if step.event == ANSWERED:
            for asked in reversed(step.detail.get("requests", ())):
                if asked.get("request") in ("keep", "destroy"):
                    return step, asked
    return None, {}


def reviews_of(story: Sequence[Step]) -> list[Step]:
    """Return the reviews of the present content of the match, in order."""
    reviews: list[Step] = []
    for step in story:
        if step.event == CONTENT_CHANGED:
            reviews.clear()
        elif step.event in REVIEW_EVENTS:
            reviews.append(step)
    return reviews


def was_viewed(story: Sequence[Step]) -> bool:
    """Return whether a reviewer has stated to have viewed the content outside this program."""
    return any(step.detail.get("viewed") is True for step in reviews_of(story))


def verdict_of(story: Sequence[Step], people: int) -> Verdict | None:
    """Return the verdict if at least `people` persons have reviewed and all agree.

    The result is None if fewer persons have reviewed, or if they disagree.
    """
    said = _said_in(story)
    if len(said) < people or len({*said.values()}) != 1:
        return None
    return Verdict(next(iter(said.values())))


def is_doubted(story: Sequence[Step]) -> bool:
    """Return whether a person rejects the match, even if others confirm it."""
    return Verdict.REJECTED in _said_in(story).values()


def _said_in(story: Sequence[Step]) -> dict[str, str]:
    """Return the last verdict of each person."""
    return {person_of(str(step.detail.get("by"))): step.event for step in reviews_of(story)}


def person_of(operator: str) -> str:
    """Return the person behind a name in the audit log: who logged in, or who called `sudo`."""
    became = re.fullmatch(_BECAME, operator)
    return (became[1] or became[2]) if became else operator


def standing_steps(story: Sequence[Step]) -> list[Step]:
    """Return the steps to usual states since the file was last found.

    Steps of a report that was retracted later are left out.
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
    """Return the members of a container that matched.

    The history names at most the first hundred members.
    """
    return [tuple(s.detail.get("members", ())) for s in story if s.event == IN_MEMBER]


def progress_of(story: Sequence[Step], *, in_place: bool) -> MatchState:
    """Return the last usual state that a match has reached.

    A file that is not at its path was isolated.
    """
    states = [MatchState(step.event) for step in standing_steps(story)]
    states.append(MatchState.FOUND if in_place else MatchState.QUARANTINED)
    return max(states, key=PROGRESS.index)


def new_id() -> str:
    """Return a random id for a match, or for another thing whose id people type."""
    return _letters(ID_LENGTH)


def new_ids(count: int) -> list[str]:
    """Return `count` different ids, ascending, for matches that are recorded together.

    If `count` is large, all ids have the same random beginning, so that they are neighbours in the
    record, and writing them changes few pages of the record.
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
        # Bytes that would make some characters more likely than others are dropped.
        found += os.urandom(count + 4).translate(_TO_LETTERS, _LEFT_OUT)
    return found[:count].decode("ascii")
