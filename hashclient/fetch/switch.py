"""The local state of a list before a fetch changes it, and the switch to a new generation.

Step 0 of a fetch has three parts: the manifest is verified (1), the index is opened (2), and the
pieces of the runs that are due are compared with their digests (3). A damaged index is not used,
and the list is built again. If part 3 finds the damage, this fetch ends with an error, so that
somebody sees it, and the next fetch builds the list.

Steps 6 to 8 of a fetch. Every fetch notes the earlier matches whose entry the new generation
withdraws or lists again: so a kill between the switch and the note loses nothing. The cost depends
on the number of matches, not on the size of the list. The log is written first: a kill between log
and record repeats a line, and loses none.
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
    """The local state of a list: `here` is its manifest, `index` the index that a build can use.

    `here` is None if the list is not here yet. If only `index` is None, a new generation is still
    compared with `here`.
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
    """Open the local state of the list in `directory`, which comes from `provider`.

    With `rebuild`, the index is not opened: reading a bad page of the map would end the process.
    Comparing pieces takes `limit_s` at most.

    Raises:
        ConfigError: the list is here from another provider.
        OtherKeyError: another key sealed the list, and it is not to be built again.
        DamagedError: the index is damaged, and the damage was not known before.
        StateError: something cannot be read or written.
    """
    # 1
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
    # 2
    if rebuild:
        return Base(here)
    try:
        index = open_index(directory, sealer)
    except DamagedError:
        return Base(here)
    assert index is not None
    # 3
    for run in index.runs:
        run.forget()  # the kernel keeps pages that are mapped, so that the disk would not be read
    index.manifest = verify_due(directory, here, sealer, now, limit_s=limit_s)
    return Base(here, index)


_LOGGED = ("before", "generation", "added", "withdrawn", "entries")


class Fetched(msgspec.Struct, frozen=True):
    """The result of a fetch for one list.

    `before` is the generation that was in use before, None for a first fetch. `added` and
    `withdrawn` count entries, and are None when the list had to be built again over an older
    generation. `is_ahead` says that `published_at` is in the future, by the clock of this machine.
    `affected` are matches with a hit of an entry that is withdrawn now. `listed_again` are matches
    whose file was isolated, and whose entry was withdrawn and is listed again. `problem` says why
    these could not be found out. `error` says why the list was left as it was. `source` is an
    address, or the path of a bundle or a directory. `is_outside` says that `lists` of the provider
    is set and does not name the list. `known_good` are the entries known to be good;
    `has_exceptions` says that some became new exceptions. `is_ended` says that the provider has
    ended the list, and that it was dropped here. `is_denied` says that the place refuses a list
    that was never on this machine.
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
        """Whether the list has a generation that it did not have before."""
        return self.error is None and self.before != self.generation


class Built(msgspec.Struct, frozen=True):
    """A generation of a list that is built, but not in use yet; `files` are not durable yet.

    `has_met_good` says that it has new entries that are known to be good.
    """

    directory: Path
    manifest: Manifest
    files: list[Path]
    fetched: Fetched
    has_met_good: bool = False


def switch(session: Session, sealer: Sealer, built: Sequence[Built]) -> dict[Path, StateError]:
    """Replace the manifests of lists, and log the changes; return the failures by directory.

    Many lists wait for the disk together: first for files, then for names, and then for the
    manifests, which name the files. Files that no manifest names are deleted afterwards.

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


#: Records that go to the audit log at a time.
AUDIT_BATCH = 512


class Reached(msgspec.Struct, frozen=True):
    """The earlier matches that a generation changes.

    `withdrawn` are matches, as they are recorded now, each with a hit of an entry that is withdrawn
    now. `listed_again` are withdrawn matches whose file was isolated and is on the list again.
    """

    withdrawn: tuple[tuple[Match, Hit], ...] = ()
    listed_again: tuple[Match, ...] = ()


def reach_back(session: Session, newest: Callable[[], Index]) -> Reached:
    """Note in log and record which matches the `newest` index withdraws or lists again.

    Raises:
        AuditError, StateError: log or record cannot be used; the next fetch notes it.
    """
    if not is_there(session.settings.layout.matches):
        return Reached()
    with Matches(session.settings.state_dir) as matches:
        index = newest()
        withdrawn = _withdraw(session, matches, index)
        listed_again = tuple(_list_again(session, matches, index))
        ids = {match.id for match, _ in withdrawn}
        # Another entry may still match the file, or the story of the match may have ended.
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
    """Note in the log and in the record of matches that a list has ended: all its entries go.

    `generation` is the last generation on this machine. Return the matches of an ended list, as
    they are recorded now.

    Raises:
        AuditError, StateError: as `reach_back`.
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
    """Look up withdrawn matches whose file was isolated: no scan reads it any more.

    The tags in the record are compared, so that a corrected entry does not keep a file that it was
    withdrawn for.
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
