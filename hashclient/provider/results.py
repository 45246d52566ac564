"""Results of a provider's commands: changes, and the published state.

A field has the same name in the JSON output of the command.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from hashclient.trust.provenance import Provenance


class Some(msgspec.Struct, frozen=True):
    """Some of the given entries: their number, and the file and line of the first entry."""

    count: int
    first: str


class Published(msgspec.Struct, frozen=True):
    """The result of a change: `changed` entries were added or withdrawn, `live` are now listed.

    Of the added entries, `listed` are the entries whose digests were all on the list before, and
    `repeated` the entries whose digests all occur earlier in the sources.
    """

    list_name: str
    generation: int
    changed: int
    live: int
    listed: Some | None = None
    repeated: Some | None = None
    #: Entries that were also withdrawn, because the source lacks them.
    withdrawn: int = 0
    #: The number of added entries of each category.
    categories: dict[str, int] = {}


class Consolidated(
    msgspec.Struct,
    frozen=True,
    rename={"list_name": "list", "before": "segments_before", "after": "segments"},
):
    """The result of a consolidation: a list's number of segments before and after."""

    list_name: str
    generation: int
    before: int
    after: int


class RoleStatus(msgspec.Struct, frozen=True):
    """A role: its published version, the end of its validity, and its keys."""

    name: str
    version: int
    expires: datetime
    keys: int
    threshold: int


class ListStatus(msgspec.Struct, frozen=True):
    """A list as it is published."""

    name: str
    generation: int
    published_at: datetime
    live: int
    segments: int


class Status(msgspec.Struct, frozen=True, rename={"ended": "ended_lists"}):
    """The published state; with `root_sha256`, a client's operator checks a received root.

    `ended` are the names of lists that were published once.
    """

    root_sha256: str
    roles: tuple[RoleStatus, ...]
    lists: tuple[ListStatus, ...]
    ended: tuple[str, ...] = ()


class Renewed(msgspec.Struct, frozen=True):
    """Roles that were signed again, and roles that are due but whose keys are not here.

    `wanting` has, for each of these roles, the keys that are enough to sign it.
    """

    signed: tuple[str, ...]
    skipped: tuple[str, ...]
    wanting: tuple[str, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """How many entries the generations `first` to `last` of a list have added and withdrawn."""

    first: int
    last: int
    added: int
    withdrawn: int


class Overview(
    msgspec.Struct,
    frozen=True,
    rename={"name": "list", "sized": "with_size", "steps": "generations"},
):
    """A list in numbers: `live` entries; `sized` of these entries have a size.

    `categories` and `algorithms` count the entries of each category and algorithm, by name; `steps`
    are the generations; some of the generations may be joined.
    """

    name: str
    generation: int
    published_at: datetime
    live: int
    sized: int
    categories: dict[str, int]
    algorithms: dict[str, int]
    keys: int
    threshold: int
    steps: tuple[Step, ...]
    #: The origins of the entries, the first origin first, and the terms of use.
    provenance: Provenance = Provenance()


class Difference(msgspec.Struct, frozen=True):
    """The changes from generation `first` to `last`: ids of entries, each sorted.

    `renewed` were withdrawn and added again in between. `categories` counts the added entries by
    category.
    """

    list_name: str
    first: int
    last: int
    added: tuple[str, ...]
    withdrawn: tuple[str, ...]
    renewed: tuple[str, ...]
    categories: dict[str, int]


class Entry(msgspec.Struct, frozen=True):
    """An entry that somebody asked for: its list and properties, without its digests.

    The entry was added in a generation from `first` to `last`; it was withdrawn in a generation of
    the range `withdrawn`, or is still listed. `algorithms` are the labels of the digests that it
    has. If the question has digests, `agree` has the labels of digests that are equal on both
    sides, and `differ` the labels of unequal digests; both may contain `size`.
    """

    list_name: str
    entry_id: str
    category: str
    size: int | None
    algorithms: tuple[str, ...]
    first: int
    last: int
    withdrawn: tuple[int, int] | None = None
    agree: tuple[str, ...] = ()
    differ: tuple[str, ...] = ()

    @property
    def is_listed(self) -> bool:
        """Whether the entry is on the list now, and nothing differs."""
        return self.withdrawn is None and not self.differ


class Answer(msgspec.Struct, frozen=True):
    """The answer for an id, or for a row of a file: `asked` is the id, or `file:line`."""

    asked: str
    entries: tuple[Entry, ...]
