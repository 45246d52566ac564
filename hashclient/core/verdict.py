"""The counts of a run, and the only code that derives an exit code from them.

A run with an input that was not checked must never end with `OK`. So this module only turns counts
into an exit code, and is short enough to verify by reading.

The counts of a check are in one struct (`Counts`), which tasks, runs and the daemon use. A new
count only needs a new field: executors transport it, and the engine and clusters add it up.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.kinds import Kind
from hashclient.core.model import Gap, HeldEntry, MissingList, Outcome
from hashclient.core.staleness import ListState


def add_by_kind(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add the numbers in `more` to `total`, for each kind."""
    for kind, number in more.items():
        total[kind] = total.get(kind, 0) + number


class Counts(msgspec.Struct, array_like=True):
    """The numbers of inputs by kind of outcome, and of the files and bytes that were read.

    `bytes_read`: the number of bytes read, including bytes that were read twice. Whether a matching
    file is read twice depends on the files before it, so the number can differ between two runs
    over the same files.

    Some fields count inputs that were decided without reading them. `ruled_out_by_size`: inputs
    with a size that no entry has. `ruled_out_by_claim`: inputs for which a container claims such a
    size; the claim may be wrong. `known_unchanged`: inputs that an earlier scan has read, and that
    are unchanged since. `believed_unchanged`: those of the `known_unchanged` inputs that are not
    proven to be unchanged. `objects`: inputs in buckets. `by_store_digest`: the number of objects
    that were decided by a digest from their store. `members`: inputs in containers. `members_read`:
    those of the members that were read. `not_opened`: the number of containers of each kind that is
    not opened.
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
        """Add the counts of a part of the run."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        add_by_kind(self.not_opened, more.not_opened)

    def only_counts(self) -> Counts:
        """Return the counts of a result or a summary without its other fields."""
        return Counts(*[getattr(self, name) for name in Counts.__struct_fields__])


_NUMBERS = tuple(name for name in Counts.__struct_fields__ if name != "not_opened")


#: The largest number of reasons that are counted separately; a run usually has about twelve.
MAX_REASONS = 50
OTHER_REASONS = "other reasons"


class Summary(Counts, kw_only=True):
    """The counts of a run so far. Every input is counted under exactly one kind.

    `opens_containers`: False if containers are not opened, and None if this is not known.
    """

    lists: tuple[ListState, ...]
    counts: dict[Kind, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Kind, 0))
    #: Whether digests of objects were requested from their stores.
    asks_stores: bool = False
    opens_containers: bool | None = None
    #: The number of matches of earlier scans whose files are gone.
    gone: int = 0
    #: The number of held matches, which wait for a person although a policy has actions for them.
    held: int = 0
    #: The entries with held matches of all runs, at most some dozens; the entry with the most
    #: matches is first.
    held_entries: tuple[HeldEntry, ...] = ()
    #: The number of skipped inputs, by reason.
    skipped: dict[str, int] = msgspec.field(default_factory=dict)
    #: The number of excepted matches, by ruling and its reason.
    excepted: dict[str, int] = msgspec.field(default_factory=dict)
    #: The number of unread inputs, by reason.
    unread: dict[str, int] = msgspec.field(default_factory=dict)
    #: Lists that should be on this machine but cannot be used.
    missing: tuple[MissingList, ...] = ()
    #: The entries of each list that cannot be ruled out because inputs of a lookup lack some
    #: digests. Such an input is unread; with `gaps_accepted`, it counts as clean.
    gaps: tuple[Gap, ...] = ()
    gaps_accepted: bool = False
    #: Whether a run without inputs may end with `OK` instead of `INCOMPLETE`, because an option
    #: allows it.
    allow_empty: bool = False
    elapsed_s: float = 0.0
    #: `INTERRUPTED` or `TERMINATED` if the run was stopped before its end, otherwise None.
    stopped: ExitCode | None = None
    #: The exit code of a failed step that has nothing to do with an input, such as writing the
    #: audit log.
    failed: ExitCode | None = None
    #: The message of the error in `failed`, if any.
    failure: str | None = None

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return sum(self.counts.values())

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a run.

        A match outranks every other result, and a run with an unread input never ends with `OK`.
        """
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
        # An input whose kind is `ACCEPTED` was not checked, but shows that the run is not empty.
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
        """Record a failure that has nothing to do with an input.

        If several failures occur, only the first is recorded.
        """
        if self.failed is None:
            self.failed, self.failure = error.exit_code, error.message


def _count(reasons: dict[str, int], reason: str | None) -> None:
    reason = reason or OTHER_REASONS
    if len(reasons) >= MAX_REASONS and reason not in reasons:
        reason = OTHER_REASONS
    reasons[reason] = reasons.get(reason, 0) + 1
