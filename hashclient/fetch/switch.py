"""Opens the local state of a list for a fetch, and switches lists to new generations.

Step 0 of a fetch (see `fetcher`) has three parts:

1. The manifest is verified.
2. The index is opened.
3. The pieces of runs that are due are compared with their digests.

A damaged index is not used, and the list is built again. If part 3 detects the damage, the fetch
ends with an error, so that somebody notices the damage, and the next fetch builds the list again.

This module also takes steps 6 to 8 of a fetch. Every fetch records which earlier matches the new
generation withdraws or lists again, even if nothing was switched, so a kill between the switch and
the record loses nothing. The cost depends on the number of matches, not on the size of the list.
The log is written before the record of matches, so a kill between the two writes repeats a line of
the log, and loses none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from hashclient.audit.log import Event
from hashclient.core.errors import ConfigError, HashclientError, StateError
from hashclient.core.kinds import MatchState
from hashclient.core.match import LISTED_AGAIN, Match
from hashclient.core.model import Hit, hit_fields
from hashclient.fetch.build import tidy
from hashclient.fetch.known_listed import KnownListed
from hashclient.index.blinding import Sealer
from hashclient.index.checks import verify_due
from hashclient.index.manifest import Manifest, OtherKeyError, load_manifest, write_manifest
from hashclient.index.matcher import Judge
from hashclient.index.reader import Index, open_index
from hashclient.index.run import DamagedError
from hashclient.lists.wire import entry_hashes
from hashclient.matches.store import Matches
from hashclient.session import Session
from hashclient.system.background import together
from hashclient.system.files import is_there, make_durable
from hashclient.system.text import for_programs, log_path_fields


class Base(msgspec.Struct):
    """The local state of a list: its manifest `here`, and the `index` that a build can use.

    `here`: None if the list is not on this machine yet. If only `index` is None, the new generation
    is still compared with `here`.
    """

    here: Manifest | None = None
    index: Index | None = None


def open_base(
    directory: Path,
    provider: str,
    sealer: Sealer,
    now: datetime,
    *,
    rebuild: bool,
    limit_s: float,
) -> Base:
    """Open the local state of the list in `directory`, which `provider` offers.

    With `rebuild`, the index is not opened, because reading a bad page of the memory map would end
    the process. Comparing pieces takes at most `limit_s` seconds.

    Raises:
        ConfigError: the list on this machine is from another provider.
        OtherKeyError: another key sealed the list, and `rebuild` is not set.
        DamagedError: the index is damaged, and the damage was not known before.
        StateError: a file cannot be read or written.
    """
    # Part 1 of step 0 of a fetch: the manifest is verified.
    try:
        here = load_manifest(directory, sealer)
    except DamagedError:
        return Base()
    except OtherKeyError:
        if not rebuild:
            raise
        return Base()
    if here is None or here.list != directory.name:
        return Base()
    if here.provider != provider:
        raise ConfigError(
            f"list {here.list} is here already, from provider {here.provider}",
            hint="name the lists to fetch with `lists = […]` in the provider's configuration",
        )
    # Part 2 of step 0 of a fetch: the index is opened.
    if rebuild:
        return Base(here)
    try:
        index = open_index(directory, sealer)
    except DamagedError:
        return Base(here)
    assert index is not None
    # Part 3 of step 0 of a fetch: pieces of runs are compared with their digests.
    for run in index.runs:
        # the kernel keeps mapped pages in its cache, and reading them would not read the disk
        run.forget()
    index.manifest = verify_due(directory, here, sealer, now, limit_s=limit_s)
    return Base(here, index)


_LOGGED = ("before", "generation", "added", "withdrawn", "entries")


class Fetched(msgspec.Struct, frozen=True):
    """The result of a fetch for one list.

    `before`: the generation that was in use before, or None if the list is fetched for the first
    time. `added`, `withdrawn`: the number of added and withdrawn entries; None if the list was
    built again over an older generation. `is_ahead`: whether `published_at` is in the future by the
    clock of this machine. `affected`: matches with a hit of an entry that the new generation
    withdraws. `listed_again`: matches whose file was isolated, and whose entry was withdrawn and is
    on the list again. `problem`: why `affected` and `listed_again` could not be determined.
    `error`: why the list was not changed. `source`: an address, or the path of a bundle or a
    directory. `is_outside`: whether `lists` of the provider is set and does not name the list.
    `known_good`: the entries that are known to be good. `has_exceptions`: whether some of the known
    good entries became new exceptions. `is_ended`: whether the provider has ended the list, so that
    its files were removed. `is_denied`: whether the place refuses the list, which was never on this
    machine.
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
    is_denied: bool = False

    @property
    def changed(self) -> bool:
        """Whether the list has another generation than before the fetch."""
        return self.error is None and self.before != self.generation


class Built(msgspec.Struct, frozen=True):
    """A generation of a list that is built, but not in use yet; its `files` are not durable yet.

    `has_met_good`: whether new entries of the generation are known to be good.
    """

    directory: Path
    manifest: Manifest
    files: list[Path]
    fetched: Fetched
    has_met_good: bool = False


def switch(session: Session, sealer: Sealer, built: Sequence[Built]) -> dict[Path, StateError]:
    """Replace the manifests of lists, and log the changes; return the failures by directory.

    Many lists wait for the disk together: first for their files, then for the names of the files,
    and then for the manifests that name the files. Files that no manifest names are deleted at the
    end.

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
        # The name of the field contains the algorithm, so the value is only the digest.
        f"index_{algorithm or 'sha256'}": digest,
        "source": one.fetched.source,
        "published": for_programs(one.manifest.published_at),
    }
    return Event("fetch", data)


#: The number of records that are written to the audit log at a time.
AUDIT_BATCH = 512


class Reached(msgspec.Struct, frozen=True):
    """The earlier matches that a new generation changes.

    `withdrawn`: matches in their present state, each with a hit of an entry that the generation
    withdraws. `listed_again`: withdrawn matches whose file was isolated, and whose entry is on the
    list again.
    """

    withdrawn: tuple[tuple[Match, Hit], ...] = ()
    listed_again: tuple[Match, ...] = ()


def reach_back(session: Session, newest: Callable[[], Index]) -> Reached:
    """Record in the log and the record which matches the `newest` index withdraws or lists again.

    Raises:
        AuditError, StateError: the log or the record of matches cannot be used; the next fetch
            tries again.
    """
    if not is_there(session.settings.layout.matches):
        return Reached()
    with Matches(session.settings.state_dir) as matches:
        index = newest()
        withdrawn = _withdraw(session, matches, index)
        listed_again = tuple(_list_again(session, matches, index))
        ids = {match.id for match, _ in withdrawn}
        # Another entry may still match the file, or the match may have ended, so the matches are
        # read again.
        left = {match_id: matches.get(match_id) for match_id in ids}
    hits = {match_id: match.by_entry for match_id, match in left.items()}
    affected = [
        (left[match.id], hits[match.id].get((hit.list_name, hit.entry), hit))
        for match, hit in withdrawn
    ]
    return Reached(tuple(affected), listed_again)


def _withdraw(session: Session, matches: Matches, index: Index) -> list[tuple[Match, Hit]]:
    manifest = index.manifest
    standing = matches.standing(manifest.list)
    if not standing:
        return []
    ids = np.array([entry.encode() for entry in standing])
    found = index.find_ids(ids, entry_hashes(ids))
    gone = [standing[i] for i in np.setdiff1d(np.arange(len(ids)), found.queries)]
    return _note(session, matches, manifest.list, gone, manifest.generation)


def withdraw_list(session: Session, name: str, generation: int) -> tuple[tuple[Match, Hit], ...]:
    """Record that a list has ended and all its entries are withdrawn, in the log and in the record.

    `generation`: the last generation of the list on this machine. Return the matches of the ended
    list, in their present state.

    Raises:
        AuditError, StateError: the log or the record of matches cannot be used.
    """
    if not is_there(session.settings.layout.matches):
        return ()
    with Matches(session.settings.state_dir) as matches:
        affected = _note(session, matches, name, matches.standing(name), generation)
        return tuple((matches.get(match.id), hit) for match, hit in affected)


def _note(
    session: Session, matches: Matches, name: str, gone: Sequence[str], generation: int
) -> list[tuple[Match, Hit]]:
    affected = matches.of_entries(name, gone)
    of = {"list": name, "generation": generation}
    events = [
        Event(
            "withdrawn",
            {**of, "entry": hit.entry, "id": match.id, **log_path_fields(match.path)},
        )
        for match, hit in affected
    ]
    for start in range(0, len(events), AUDIT_BATCH):
        part = events[start : start + AUDIT_BATCH]
        session.audit.append(part, durable=True, sign_each=True)
    matches.withdraw(name, gone, generation, session.now())
    return affected


def _list_again(session: Session, matches: Matches, index: Index) -> Iterator[Match]:
    """Look up withdrawn matches whose file was isolated, because no scan reads the file any more.

    The recorded tags are compared, so that an entry that was corrected does not match the file for
    which it was withdrawn.
    """
    sealer = session.sealer()
    judge = Judge((index,), sealer)
    for match in list(matches.find([MatchState.WITHDRAWN])):
        if match.in_place or match.key_id != sealer.key_id:
            continue
        tags = {a: np.frombuffer(tag, np.uint64) for a, tag in match.tags.items()}
        hits = [hit for hit in judge.hits(tags, match.size) if hit.complete]
        if not hits:
            continue
        entries = [hit_fields(hit, ("list", "entry", "generation")) for hit in hits]
        data = {"id": match.id, **log_path_fields(match.path), "entries": entries}
        session.audit.append([Event(LISTED_AGAIN, data)], durable=True, sign_each=True)
        yield matches.list_again(match.id, hits, session.now())
