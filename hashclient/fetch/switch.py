"""Switches to generations that are built: several lists wait for the disk together, and are logged.

Steps 6 to 8 of a fetch, but for the matches that a list withdraws.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from hashclient.audit.log import Event
from hashclient.core.match import Match
from hashclient.core.model import Hit
from hashclient.errors import HashclientError, StateError
from hashclient.fetch.build import tidy
from hashclient.fetch.known_listed import KnownListed
from hashclient.index.blinding import Sealer
from hashclient.index.manifest import Manifest, write_manifest
from hashclient.session import Session
from hashclient.system.background import together
from hashclient.system.files import make_durable
from hashclient.system.times import for_programs

_LOGGED = ("before", "generation", "added", "withdrawn", "entries")


class Fetched(msgspec.Struct, frozen=True):
    """The result of a fetch for one list.

    `before` is the generation that was here, None for a first fetch. `added` and `withdrawn`
    count entries, and are None when the list had to be built again over an older generation.
    `is_ahead` says that `published_at` is in the future, as the clock here shows it.
    `affected` are matches with a hit of an entry that is withdrawn now. `listed_again` are matches
    whose file was isolated, and whose entry was withdrawn and is listed again. `problem` says why
    these could not be found out. `error` says why the list was left as it was. `source` is an
    address, or the path of a bundle or a directory. `is_outside` says that `lists` of the provider
    is set and does not name the list. `known_good` says which entries are known to be good, and
    `has_exceptions` that there are new exceptions of some of them.
    `is_ended` says that the provider has ended the list, and that it was dropped here.
    """

    list_name: str
    provider: str
    before: int | None = None
    generation: int | None = None
    added: int | None = None
    withdrawn: int | None = None
    entries: int | None = None
    expires: datetime | None = None
    published_at: datetime | None = None
    is_ahead: bool = False
    affected: tuple[tuple[Match, Hit], ...] = ()
    listed_again: tuple[Match, ...] = ()
    problem: StateError | None = None
    error: HashclientError | None = None
    source: str | None = None
    is_outside: bool = False
    known_good: KnownListed | None = None
    has_exceptions: bool = False
    is_ended: bool = False

    @property
    def changed(self) -> bool:
        """Whether the list has a generation that it did not have before."""
        return self.error is None and self.before != self.generation


class Built(msgspec.Struct, frozen=True):
    """A generation of a list that is built, and not in use yet; `files` are not durable yet.

    `has_met_good` says that it has new entries which are known to be good.
    """

    directory: Path
    manifest: Manifest
    files: list[Path]
    fetched: Fetched
    has_met_good: bool = False


def switch(session: Session, sealer: Sealer, built: Sequence[Built]) -> dict[Path, StateError]:
    """Replace the manifests of lists, and log the changes; return the failures by directory.

    Many wait for the disk together: first their files and then their names, and then each manifest,
    which names them. Files that no manifest names are deleted afterwards.

    Raises:
        AuditError: the audit log cannot be written.
    """
    failures: dict[Path, StateError] = {}

    def write(one: Built) -> None:
        try:
            write_manifest(one.directory, one.manifest, sealer)
        except StateError as error:
            failures[one.directory] = error

    try:
        if files := [path for one in built for path in one.files]:
            make_durable(files, session.settings.layout.lists)
        together(write, built)
    except StateError as error:
        failures = dict.fromkeys((one.directory for one in built), error)
    switched = [one for one in built if one.directory not in failures]
    for one in switched:
        tidy(one.directory)
    if switched:
        session.audit.append([_event(one) for one in switched], durable=True)
    return failures


def _event(one: Built) -> Event:
    algorithm, _, digest = one.manifest.index_hash.rpartition(":")
    data = {
        "provider": one.fetched.provider,
        "list": one.manifest.list,
        **{name: getattr(one.fetched, name) for name in _LOGGED},
        # The algorithm is left out: it is SHA-256.
        f"index_{algorithm or 'sha256'}": digest,
        "source": one.fetched.source,
        "published": for_programs(one.manifest.published_at),
    }
    return Event("fetch", data)
