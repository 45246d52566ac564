"""The counts of a run, and the only code that turns them into an exit code.

An unknown input must never end as `OK`. So this module contains this rule alone, separate from
pipelines and formats, and short enough to check by reading.

The counts of a check are one struct for tasks, runs and the daemon. A new count is a new field:
executors transport it, and the engine and clusters add it, without any other change.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.kinds import Kind
from hashclient.core.model import Gap, HeldEntry, MissingList, Outcome
from hashclient.core.staleness import ListState


def add_by_kind(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add the numbers in `more` to `total`, kind by kind."""
    for kind, number in more.items():
        total[kind] = total.get(kind, 0) + number


class Counts(msgspec.Struct, array_like=True):
    """Counts of inputs by kind of answer, and of the files and bytes that were read.

    `bytes_read` counts a second reading, too. Whether a matching file needs a second reading
    depends on the files before it, so two runs over the same files can differ.

    Some answers need no reading. `ruled_out_by_size` inputs have a size that no entry has.
    `ruled_out_by_claim` inputs have this size only by the claim of a container, which may be wrong.
    `known_unchanged` inputs were read by an earlier scan and are unchanged since. Some of the
    unchanged inputs, `believed_unchanged`, are not proven to be unchanged; the others are proven.
    `objects` of the inputs are in buckets; for `by_store_digest` of these objects, a digest from
    their store decides. `members` of the inputs are in containers; `members_read` of these members
    were read. `not_opened` counts containers of kinds that are not opened, by kind.
    """

    files_read: int = 0
    bytes_read: int = 0
    ruled_out_by_size: int = 0
    known_unchanged: int = 0
    believed_unchanged: int = 0
    ruled_out_by_claim: int = 0
    by_store_digest: int = 0
    members: int = 0
    members_read: int = 0
    not_opened: dict[str, int] = msgspec.field(default_factory=dict)
    objects: int = 0

    def add_counts(self, more: Counts) -> None:
        """Add the counts of a part."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        add_by_kind(self.not_opened, more.not_opened)

    def only_counts(self) -> Counts:
        """Return only the counts of a result or a summary."""
        return Counts(*[getattr(self, name) for name in Counts.__struct_fields__])


_NUMBERS = tuple(name for name in Counts.__struct_fields__ if name != "not_opened")


#: At most this many reasons are counted separately; usually a run has about twelve.
MAX_REASONS = 50
OTHER_REASONS = "other reasons"


class Summary(Counts, kw_only=True):
    """The counts of a run so far. Every input is counted under exactly one kind.

    `opens_containers` is False if containers are not opened, and None if that is not known.
    """

    lists: tuple[ListState, ...]
    counts: dict[Kind, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Kind, 0))
    #: Whether stores of objects were asked.
    asks_stores: bool = False
    opens_containers: bool | None = None
    #: Matches of earlier scans whose files this scan found to be gone.
    gone: int = 0
    #: Held matches: they wait for a person, although a policy has actions for them.
    held: int = 0
    #: Entries with held matches of all runs, the entry with the most matches first; some dozens.
    held_entries: tuple[HeldEntry, ...] = ()
    #: How many inputs were skipped, by reason; the sum is the count of skipped inputs.
    skipped: dict[str, int] = msgspec.field(default_factory=dict)
    #: How many matches were excepted, by ruling and its reason.
    excepted: dict[str, int] = msgspec.field(default_factory=dict)
    #: How many inputs were unread, by reason.
    unread: dict[str, int] = msgspec.field(default_factory=dict)
    #: Lists that should be on this machine but cannot be used.
    missing: tuple[MissingList, ...] = ()
    #: Gaps: inputs of a lookup that lack the digests that some entries have. Inputs in a gap are
    #: unread or, with `gaps_accepted`, clean as far as is known.
    gaps: tuple[Gap, ...] = ()
    gaps_accepted: bool = False
    #: Whether a run without inputs may end with `OK` instead of `INCOMPLETE`, by an option.
    allow_empty: bool = False
    elapsed_s: float = 0.0
    #: Why the run ended early: `INTERRUPTED` or `TERMINATED`; None if it ended regularly.
    stopped: ExitCode | None = None
    #: Whether a step that is not about an input failed, for example writing the audit log.
    failed: ExitCode | None = None
    #: The message of this error, if any.
    failure: str | None = None

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return sum(self.counts.values())

    @property
    def exit_code(self) -> ExitCode:
        """The verdict: a match outranks everything, and an unknown input never gives `OK`."""
        stale = any(state.stale for state in self.lists)
        undecided = self.counts[Kind.UNREAD] + self.counts[Kind.CONFLICT]
        decided = sum(self.counts[kind] for kind in (Kind.CLEAN, Kind.MATCH, Kind.EXCEPTED))
        if self.counts[Kind.MATCH]:
            attention = self.stopped or self.failed or self.missing or stale or undecided
            attention = attention or self.held
            return ExitCode.MATCH_ATTENTION if attention else ExitCode.MATCH
        if self.stopped is not None:
            return self.stopped
        if self.failed is not None:
            return self.failed
        if self.missing:
            return ExitCode.STATE
        if stale:
            return ExitCode.STALE
        # Accepted inputs exist, but were not checked.
        may_be_empty = self.allow_empty and not self.counts[Kind.ACCEPTED]
        if undecided or not (decided or may_be_empty):
            return ExitCode.INCOMPLETE
        return ExitCode.OK

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.counts[outcome.kind] += 1
        if outcome.kind is Kind.SKIPPED:
            _count(self.skipped, outcome.reason)
        elif outcome.kind is Kind.UNREAD:
            _count(self.unread, outcome.reason)
        elif outcome.kind is Kind.EXCEPTED:
            _count(self.excepted, outcome.reason)

    def fail(self, error: HashclientError) -> None:
        """Note a failure that is not about an input; of several failures, the first counts."""
        if self.failed is None:
            self.failed, self.failure = error.exit_code, error.message


def _count(reasons: dict[str, int], reason: str | None) -> None:
    reason = reason or OTHER_REASONS
    if len(reasons) >= MAX_REASONS and reason not in reasons:
        reason = OTHER_REASONS
    reasons[reason] = reasons.get(reason, 0) + 1
