"""Reviews: people decide whether a match is right, before a report of it is sent.

1. A review has a verdict, one of the reasons for this verdict, and a sentence. The review may note
   that the person has viewed the content elsewhere: this program shows no content.
2. A match is confirmed or rejected when `people` persons say so and nobody says the opposite. The
   last review of each person counts; the log's name of the operator distinguishes them.
3. A review is about the content at that time: other content at the path has no review yet.
4. With `after = "review"`, a report of a match waits until the match is confirmed; `share` is the
   share of all matches that must be confirmed. The id of a match, which is random, decides whether
   the match is in this share.
5. A rejected match is in no report. A match that a person rejects waits, whatever `after` and
   `share` are, until `people` persons say the same.

The log is written first, so a kill cannot leave a review that is not logged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from hashclient.audit.log import Event
from hashclient.config.tables import ReportConfig
from hashclient.core.errors import UsageError
from hashclient.core.kinds import REVIEW_REASONS, SETTLED, MatchState, Verdict
from hashclient.core.match import Match, Step, is_doubted, verdict_of
from hashclient.matches.store import Matches
from hashclient.session import Session
from hashclient.system.text import as_unicode, path_fields, printable

#: The event in the audit log.
REVIEWED = "reviewed"
#: How many matches are reviewed by one change of the record.
_AT_ONCE = 512
_ALL = 1 << 64
#: States in which nothing is left to be decided.
_ENDED = frozenset({*SETTLED, MatchState.WITHDRAWN})


class Review(msgspec.Struct, frozen=True):
    """A person's review: the verdict, a word of `REVIEW_REASONS`, and a sentence."""

    verdict: Verdict
    reason: str
    text: str
    viewed: bool = False

    @classmethod
    def of(cls, verdict: Verdict, reason: str, *, viewed: bool = False) -> Review:
        """Return the review with a reason, for example `harmless: it is a licence text`.

        Raises:
            UsageError: the first word is no reason for this verdict, or no sentence follows.
        """
        word, _, text = reason.partition(":")
        words = REVIEW_REASONS[verdict]
        if word.strip() not in words or not text.strip():
            raise UsageError(
                f"not a reason for {verdict}: {printable(reason)}",
                hint=f"one of {', '.join(words)}, then a colon and a sentence:"
                f" '{words[0]}: ticket 4711'",
            )
        return cls(verdict, word.strip(), as_unicode(text.strip()), viewed)


class ReviewPolicy:
    """Which matches have to be reviewed before a report of them leaves, and by how many people."""

    def __init__(self, config: ReportConfig) -> None:
        """Keep the rules of the table [report]."""
        self._is_asked = config.after == "review"
        self._share = round(config.share * _ALL)
        self.people = config.people

    def is_chosen(self, match_id: str) -> bool:
        """Return whether a match is in the share that has to be reviewed."""
        # Ids that were made together begin alike, so the share is taken of a hash.
        number = int.from_bytes(hashlib.sha256(match_id.encode()).digest()[:8])
        return self._is_asked and number < self._share

    def verdict(self, story: Sequence[Step]) -> Verdict | None:
        """Return what the reviews have decided about a match, None if they have not."""
        return verdict_of(story, self.people)

    def ended(self, match: Match, reviews: Sequence[Step]) -> str | None:
        """Return why no report may have a match: the match has ended, or was rejected."""
        if match.ended is not None:
            return match.ended
        return Verdict.REJECTED if self.verdict(reviews) is Verdict.REJECTED else None

    def waits(self, match: Match, reviews: Sequence[Step]) -> bool:
        """Return whether a report of a match waits for a review."""
        return match.ended is None and self._is_undecided(match.id, reviews)

    def waiting(self, record: Matches) -> Iterator[str]:
        """Yield the matches that have not ended and wait for a review.

        Raises:
            StateError: the record of matches cannot be read.
        """
        reviews = record.all_reviews()
        if self._is_asked or any(map(is_doubted, reviews.values())):
            states = [state for state in MatchState if state not in _ENDED]
            for match_id in record.ids(states):
                if self._is_undecided(match_id, reviews.get(match_id, ())):
                    yield match_id

    def _is_undecided(self, match_id: str, reviews: Sequence[Step]) -> bool:
        is_wanted = self.is_chosen(match_id) or is_doubted(reviews)
        return is_wanted and self.verdict(reviews) is None


def review(
    session: Session, record: Matches, match_ids: Sequence[str], made: Review
) -> Iterator[tuple[Match, Verdict | None]]:
    """Note a review of matches; yield each match with the verdict that counts now.

    Raises:
        UsageError: no match has this id; nothing is noted.
        AuditError, StateError: log or record cannot be written.
    """
    policy = ReviewPolicy(session.settings.config.report)
    chosen = [record.get(match_id) for match_id in dict.fromkeys(match_ids)]
    detail = {"reason": made.reason, "text": made.text, "viewed": made.viewed}
    detail["by"] = session.operator
    logged = {"verdict": str(made.verdict), **detail}
    for start in range(0, len(chosen), _AT_ONCE):
        batch = chosen[start : start + _AT_ONCE]
        with record.batch():
            events = [Event(REVIEWED, {"id": m.id, **path_fields(m.path), **logged}) for m in batch]
            session.audit.append(events, durable=True, sign_each=True)
            for match in batch:
                record.note(match.id, made.verdict, session.now(), detail)
        for match in batch:
            yield match, policy.verdict(record.reviews(match.id))
