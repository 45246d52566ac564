"""The counts of a run and the one place where they become an exit code.

Nothing unknown may end as `OK`, whichever way a run went; so the rule stands here, apart from
pipelines and formats, and is small enough to be read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hashclient.errors import ExitCode
from hashclient.model import Kind, ListState, Outcome


@dataclass(slots=True)
class Summary:
    """The counts of a run so far. Every input is counted under exactly one kind."""

    lists: tuple[ListState, ...]
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    files_read: int = 0
    bytes_read: int = 0
    elapsed_s: float = 0.0
    #: Why the run ended early, if it did: `INTERRUPTED` or `TERMINATED`.
    stopped: ExitCode | None = None
    #: Whether something besides the inputs failed, such as writing the audit log.
    failed: ExitCode | None = None

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
            attention = self.stopped or self.failed or stale or undecided
            return ExitCode.MATCH_ATTENTION if attention else ExitCode.MATCH
        if self.stopped is not None:
            return self.stopped
        if self.failed is not None:
            return self.failed
        if stale:
            return ExitCode.STALE
        if undecided or not decided:
            return ExitCode.INCOMPLETE
        return ExitCode.OK

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.counts[outcome.kind] += 1
