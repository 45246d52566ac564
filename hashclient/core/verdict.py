"""The counts of a run and the one place where they become an exit code.

Nothing unknown may end as `OK`, whichever way a run went; so the rule stands here, apart from
pipelines and formats, and is small enough to be read.
"""

from __future__ import annotations

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Gap, ListState, MissingList, Outcome
from hashclient.errors import ExitCode, HashclientError

#: Reasons that are counted one by one; there are a dozen.
MAX_REASONS = 50
OTHER_REASONS = "other reasons"


class Summary(msgspec.Struct):
    """The counts of a run so far. Every input is counted under exactly one kind.

    An answer may rest on something else than reading: `ruled_out_by_size` inputs have a size that
    no entry has, `ruled_out_by_claim` ones claim such a size in a container that might be wrong
    about it, and `known_unchanged` ones were read by an earlier scan and are unchanged since.
    That is proven for all of these but the `believed_unchanged` ones. `by_store_digest` objects are
    decided by a digest that their store gives; it is None where no store was asked. `members` of
    the inputs are in containers; `members_read` of these were read. They are not looked for where
    `opens_containers` is False, which None says nothing about.
    """

    lists: tuple[ListState, ...]
    counts: dict[Kind, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Kind, 0))
    files_read: int = 0
    bytes_read: int = 0
    ruled_out_by_size: int = 0
    known_unchanged: int = 0
    believed_unchanged: int = 0
    ruled_out_by_claim: int = 0
    by_store_digest: int | None = None
    members: int = 0
    members_read: int = 0
    opens_containers: bool | None = None
    #: Matches of earlier scans that this one has seen to be away.
    gone: int = 0
    #: How many inputs were skipped, by reason; together they are the count of skipped inputs.
    skipped: dict[str, int] = msgspec.field(default_factory=dict)
    #: Lists that should be here and could not be asked.
    missing: tuple[MissingList, ...] = ()
    #: What a lookup could not tell, for want of the digests that lists have. Its inputs are unread,
    #: or, with `gaps_accepted`, clean as far as is known.
    gaps: tuple[Gap, ...] = ()
    gaps_accepted: bool = False
    elapsed_s: float = 0.0
    #: Why the run ended early, if it did: `INTERRUPTED` or `TERMINATED`.
    stopped: ExitCode | None = None
    #: Whether something besides the inputs failed, such as writing the audit log.
    failed: ExitCode | None = None
    #: What failed, in the words of its error, where there was one.
    failure: str | None = None

    @property
    def inputs(self) -> int:
        """How many inputs there were."""
        return sum(self.counts.values())

    @property
    def exit_code(self) -> ExitCode:
        """The verdict; a match outranks everything, and nothing unknown ends as `OK`."""
        stale = any(state.stale for state in self.lists)
        undecided = self.counts[Kind.UNREAD] + self.counts[Kind.CONFLICT]
        decided = self.counts[Kind.CLEAN] + self.counts[Kind.MATCH]
        if self.counts[Kind.MATCH]:
            attention = self.stopped or self.failed or self.missing or stale or undecided
            return ExitCode.MATCH_ATTENTION if attention else ExitCode.MATCH
        if self.stopped is not None:
            return self.stopped
        if self.failed is not None:
            return self.failed
        if self.missing:
            return ExitCode.STATE
        if stale:
            return ExitCode.STALE
        if undecided or not decided:
            return ExitCode.INCOMPLETE
        return ExitCode.OK

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.counts[outcome.kind] += 1
        if outcome.kind is Kind.SKIPPED:
            reason = outcome.reason or OTHER_REASONS
            if len(self.skipped) >= MAX_REASONS and reason not in self.skipped:
                reason = OTHER_REASONS
            self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def fail(self, error: HashclientError) -> None:
        """Take note of a failure besides the inputs; of several, the first counts."""
        if self.failed is None:
            self.failed, self.failure = error.exit_code, error.message
