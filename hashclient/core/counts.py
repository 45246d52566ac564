"""The counts of a check, in one struct for tasks, runs and the daemon.

A new count is one more field. Executors carry it, and the engine and clusters add it, without any
other change.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


def add_by_kind(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add the numbers in `more` to `total`, kind by kind."""
    for kind, number in more.items():
        total[kind] = total.get(kind, 0) + number


class Counts(msgspec.Struct, array_like=True):
    """How inputs were answered, and what was read for it.

    `bytes_read` counts a second reading, too. Whether a file that matches needs one depends on the
    files before it, so that number can differ between two runs over the same files.

    Some answers do not rest on reading: `ruled_out_by_size` inputs have a size that no entry has;
    `ruled_out_by_claim` inputs have such a size only by the claim of a container, which may be
    wrong; `known_unchanged` inputs were read by an earlier scan and are unchanged since. Of the
    last, `believed_unchanged` inputs are unproven, all others are proven. `by_store_digest` objects
    are decided by a digest from their store. `members` of the inputs are in containers;
    `members_read` of these were read. `not_opened` are inputs that hold others and are of a kind
    that is not opened, by kind.
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

    def add_counts(self, more: Counts) -> None:
        """Add the counts of a part."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        add_by_kind(self.not_opened, more.not_opened)

    def only_counts(self) -> Counts:
        """Return only the counts of a result or a summary."""
        return Counts(*[getattr(self, name) for name in Counts.__struct_fields__])


_NUMBERS = tuple(name for name in Counts.__struct_fields__ if name != "not_opened")
