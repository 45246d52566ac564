"""Reviews: people decide whether a match is right before a report of the match is sent.

1. A review has a verdict, a reason out of a fixed set for this verdict, and a sentence that
   explains the reason. The review may note that the person has viewed the content by other means,
   because `hashclient` shows no content.
2. A match is confirmed or rejected when at least `people` persons say so and nobody says the
   opposite. Only the last review of each person counts; persons are distinguished by the operator's
   name in the audit log.
3. A review is about the content that the file had when the review was made: if a scan finds other
   content at the path, this content has no review yet.
4. With `after = "review"`, a report of a match waits until the match is confirmed; `share` is the
   fraction of all matches that must be confirmed. The match id, which is random, decides whether a
   match belongs to the fraction that must be confirmed.
5. A rejected match is put in no report. A match that one person rejects waits, whatever `after` and
   `share` are, until `people` persons give the same verdict.

A review is written to the audit log before it is written to the record of matches, so a killed
process cannot leave a review that is not logged.
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

#: The name of the event in the audit log.
REVIEWED = "reviewed"
#: How many matches are reviewed in one transaction of the record of matches.
_AT_ONCE = 512
_ALL = 1 << 64
#: States of a match in which a review would change nothing.
_ENDED = frozenset({*SETTLED, MatchState.WITHDRAWN})


class Review(msgspec.Struct, frozen=True):
    """A person's review: a verdict, a reason out of `REVIEW_REASONS`, and a sentence."""

    verdict: Verdict
    reason: str
    text: str
    viewed: bool = False

    @classmethod
    def of(cls, verdict: Verdict, reason: str, *, viewed: bool = False) -> Review:
        """Return the review that a text describes, for example `harmless: it is a licence text`.

        Raises:
            UsageError: the text before the colon is no reason for `verdict`, or no sentence follows
                the colon.
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
    """Which matches have to be reviewed before a report of them is sent, and by how many people."""

    def __init__(self, config: ReportConfig) -> None:
        """Read the rules from the table [report] of the configuration."""
        self._is_asked = config.after == "review"
        self._share = round(config.share * _ALL)
        self.people = config.people

    def is_chosen(self, match_id: str) -> bool:
        """Return whether a match is in the fraction of matches that has to be reviewed."""
        # The choice depends on a hash of the id, because ids that were made at about the same time
        # begin with the same characters.
        number = int.from_bytes(hashlib.sha256(match_id.encode()).digest()[:8])
        return self._is_asked and number < self._share

    def verdict(self, story: Sequence[Step]) -> Verdict | None:
        """Return the verdict that enough reviewers of a match agree on; None if they disagree."""
        return verdict_of(story, self.people)

    def ended(self, match: Match, reviews: Sequence[Step]) -> str | None:
        """Return why no report may include a match: the match has ended or was rejected.

        Return None if a report may include the match.
        """
        if match.ended is not None:
            return match.ended
        return Verdict.REJECTED if self.verdict(reviews) is Verdict.REJECTED else None

    def waits(self, match: Match, reviews: Sequence[Step]) -> bool:
        """Return whether a report of a match waits for a review."""
        return match.ended is None and self._is_undecided(match.id, reviews)

    def waiting(self, record: Matches) -> Iterator[str]:
        """Yield the ids of the matches that have not ended and wait for a review.

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
    """Record a review of matches; yield each match, and its verdict after this review.

    Raises:
        UsageError: no match has one of the ids; no review is recorded.
        AuditError, StateError: the audit log or the record of matches cannot be written.
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
