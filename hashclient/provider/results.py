"""The results of the commands of a provider: changes, and the published state.

A field has the same name in the JSON output of the command, unless the class renames the field.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from hashclient.trust.provenance import Provenance


class Some(msgspec.Struct, frozen=True):
    """A group of entries of the sources: its size, and `file:line` of the first entry."""

    count: int
    first: str


class Published(msgspec.Struct, frozen=True):
    """The result of a change of a list.

    `changed` is the number of added or withdrawn entries. `live` is the number of entries that are
    now listed. `listed` describes the added entries whose digests were all on the list before.
    `repeated` describes the added entries whose digests all occur earlier in the sources.
    """

    list_name: str
    generation: int
    changed: int
    live: int
    listed: Some | None = None
    repeated: Some | None = None
    #: The number of entries that a replacement has withdrawn, because the source lacks them.
    withdrawn: int = 0
    #: The number of added entries of each category.
    categories: dict[str, int] = {}


class Consolidated(
    msgspec.Struct,
    frozen=True,
    rename={"list_name": "list", "before": "segments_before", "after": "segments"},
):
    """The result of a consolidation: the number of segments of a list `before` and `after`."""

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
    """The published state of a list."""

    name: str
    generation: int
    published_at: datetime
    live: int
    segments: int


class Status(msgspec.Struct, frozen=True, rename={"ended": "ended_lists"}):
    """The published state of a repository.

    An operator of a client compares a received root with `root_sha256`. `ended` has the names of
    the ended lists.
    """

    root_sha256: str
    roles: tuple[RoleStatus, ...]
    lists: tuple[ListStatus, ...]
    ended: tuple[str, ...] = ()


class Renewed(msgspec.Struct, frozen=True):
    """The roles that were `signed` again, and the due roles that were `skipped`.

    A role is skipped if its keys are not on this machine. `wanting` has, for each skipped role, the
    keys that are needed to sign the role.
    """

    signed: tuple[str, ...]
    skipped: tuple[str, ...]
    wanting: tuple[str, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """The numbers of entries that the generations `first` to `last` added and withdrew."""

    first: int
    last: int
    added: int
    withdrawn: int


class Overview(
    msgspec.Struct,
    frozen=True,
    rename={"name": "list", "sized": "with_size", "steps": "generations"},
):
    """The counts of a list.

    `live` is the number of listed entries, and `sized` is the number of listed entries that have a
    size. `categories` and `algorithms` have the number of entries of each category and algorithm,
    by name. `steps` has the changes of each generation, or of each range of joined generations.
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
    #: The terms of use, and the origins of the entries, beginning with the original provider.
    provenance: Provenance = Provenance()


class Difference(msgspec.Struct, frozen=True):
    """The sorted ids of the entries that changed from generation `first` to `last`.

    `renewed` has the ids of entries that were withdrawn and added again between the two
    generations. `categories` has the number of added entries of each category.
    """

    list_name: str
    first: int
    last: int
    added: tuple[str, ...]
    withdrawn: tuple[str, ...]
    renewed: tuple[str, ...]
    categories: dict[str, int]


class Entry(msgspec.Struct, frozen=True):
    """An entry that answers a question: its list and properties, without its digests.

    The entry was added in a generation from `first` to `last`. `withdrawn` is the range of
    generations in which the entry was withdrawn; it is None if the entry is still listed.
    `algorithms` has the labels of the digests of the entry. If the question has digests, `agree`
    has the labels of the digests that are equal in the question and in the entry, and `differ` has
    the labels of the unequal digests; `agree` or `differ` may also contain `size`.
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
        """Whether the entry is listed now, and nothing in the question differs from the entry."""
        return self.withdrawn is None and not self.differ


class Answer(msgspec.Struct, frozen=True):
    """The answer to a question; `asked` is an id, or `file:line` of a row with digests."""

    asked: str
    entries: tuple[Entry, ...]
