"""What the commands of a provider say of what they did, and of what is published."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Some(msgspec.Struct, frozen=True):
    """Some of the entries that were given: how many, and the file and line of the first."""

    count: int
    first: str


class Published(msgspec.Struct, frozen=True):
    """What a change made: `changed` entries were added or withdrawn, `live` are now listed.

    Of those that were added, `listed` have no digest that was not on the list before, and
    `repeated` none that was not among what was given before them.
    """

    list_name: str
    generation: int
    changed: int
    live: int
    listed: Some | None = None
    repeated: Some | None = None
    #: Entries that were withdrawn besides, since the source lacks them.
    withdrawn: int = 0


class Consolidated(msgspec.Struct, frozen=True):
    """What a consolidation made: a list's number of segments before and after."""

    list_name: str
    generation: int
    before: int
    after: int


class RoleStatus(msgspec.Struct, frozen=True):
    """One role: the version that is published, until when it is valid, and its keys."""

    name: str
    version: int
    expires: datetime
    keys: int
    threshold: int


class ListStatus(msgspec.Struct, frozen=True):
    """One list as it is published."""

    name: str
    generation: int
    published_at: datetime
    live: int
    segments: int


class Status(msgspec.Struct, frozen=True):
    """All that is published; `root_sha256` lets a client's operator check the root they got."""

    root_sha256: str
    roles: tuple[RoleStatus, ...]
    lists: tuple[ListStatus, ...]


class Renewed(msgspec.Struct, frozen=True):
    """Roles that were signed again, and roles that are due but whose keys are not here.

    `wanting` says for each of these which keys suffice.
    """

    signed: tuple[str, ...]
    skipped: tuple[str, ...]
    wanting: tuple[str, ...] = ()
