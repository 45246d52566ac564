"""A provider: makes and changes the repository of signed hash lists that clients fetch.

One repository is one directory: `public/` goes behind a web server, `keys/` stays private and
`root.json` is handed to clients out of band. Every list has a role and keys of its own; each
change of a list is one new generation in new, immutable segments. Signing, and how a change
becomes visible in one instant, is in `keys`, the files of lists in `listfiles`; the wire format
in `lists.wire` and `docs/format.md`. One publication holds its encoded segments in memory: some
70 MB a million entries with three digests.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES

from hashclient.core.model import is_name
from hashclient.errors import StateError, UsageError
from hashclient.lists.importers.reading import Reading
from hashclient.lists.wire import (
    Segment,
    Strings,
    checksum_of,
    entry_hashes,
    is_category,
    is_entry_id,
    target_name,
    withdraw_schema,
)
from hashclient.provider.consolidate import KEEP_NEWEST, join_ranges, ranges_to_join
from hashclient.provider.doubles import Doubles, Int64
from hashclient.provider.entries import (
    DEFAULT_CATEGORY,
    SEGMENT_ENTRIES,
    Entries,
    NewSegment,
    new_segment,
)
from hashclient.provider.hints import own_hints
from hashclient.provider.keys import Clock, Keys, KeyStore, Roles, Validity
from hashclient.provider.listfiles import ListFiles, read_public
from hashclient.provider.public import (
    closed_folders,
    make_folder_below,
    make_open_dir,
    make_public_root,
)
from hashclient.provider.replace import Listed
from hashclient.provider.results import (
    Consolidated,
    ListStatus,
    Published,
    Renewed,
    RoleStatus,
    Some,
    Status,
)
from hashclient.provider.screen import read_screened
from hashclient.system.files import sweep_temporary
from hashclient.system.locks import writer_lock
from hashclient.system.text import printable
from hashclient.trust.noticerole import NOTICES

#: What a repository's directory holds.
_OWN_NAMES = {"public", "keys", "lock", "root.json"}

_ONE_KEY = Keys()
_DEFAULT_VALIDITY = Validity()


class Repository:
    """The repository in one directory. Each method that writes holds the lock for its time."""

    def __init__(
        self, directory: Path, *, clock: Clock, validity: Validity = _DEFAULT_VALIDITY
    ) -> None:
        """Name a repository; `create` makes it, the other methods find out whether it is there."""
        self.directory = directory
        self.public = directory / "public"
        self.root_file = directory / "root.json"
        self._clock = clock
        self._validity = validity
        self._metadata = self.public / "metadata"
        self._files = ListFiles(self.public / "targets", clock)
        self._keys = KeyStore(directory / "keys")

    def create(self, *, root_keys: Keys = _ONE_KEY) -> None:
        """Make the repository: keys, roles, no list.

        Raises:
            UsageError: the directory holds a repository, or something else.
            StateError: it cannot be written.
        """
        with own_hints("cannot make repository", self.directory):
            make_open_dir(self.directory)
            # What a killed `create` left may be there.
            present = {path.name for path in self.directory.iterdir()} - _OWN_NAMES
            if not present:
                make_public_root(self.public)
                make_folder_below(self.public, self._metadata)
        if present:
            raise UsageError(
                f"directory is not empty: {printable(self.directory)}"
                f" (there is {printable(min(present))})",
                hint="a repository has a directory of its own",
            )
        with self._locked():
            if (self._metadata / "timestamp.json").exists():
                raise UsageError(
                    f"already a repository: {printable(self.directory)}",
                    hint="`hashclient provider publish` adds a list to it",
                )
            Roles.create(self._metadata, self._keys, self._clock, self._validity, root_keys)

    def publish(
        self,
        list_name: str,
        sources: Iterable[tuple[str, BinaryIO]],
        *,
        list_keys: Keys = _ONE_KEY,
        reading: Reading | None = None,
        category: str | None = None,
        known_good: Iterable[tuple[str, BinaryIO]] | None = None,
        replace: bool = False,
        dry_run: bool = False,
    ) -> Published:
        """Add the entries of `sources`, files of digests with their names, as a new generation.

        The first publication of a list makes its role, with `list_keys`. An entry without an id
        gets `<generation>-<number>`, one without a category `category`, or the list's name. Doubles
        are published, and counted. `reading` says how files are read, and which rows are meant;
        `known_good` are files of digests that must not be on a list. With `replace`, entries that
        the sources lack are withdrawn, and those that are listed as they are stay; without a
        difference there is no new generation. With `dry_run` all is checked, and nothing is
        written.

        Raises:
            UsageError: an entry breaks a rule of the format, has a digest of the empty file, or its
                id is on the list; nothing was written.
            StateError: there is no repository, a key is missing, or a file cannot be written;
                the old state is still published.
        """
        _check_list_name(list_name)
        self.require()
        with self._locked():
            roles = self._load()
            current = self._files.current(roles, list_name)
            if list_name == NOTICES and list_name not in roles.lists:
                raise UsageError(f"a list cannot be called {NOTICES}, as a role is")
            entries = Entries(current.generation + 1, category or _category_of(list_name))
            is_new = list_name not in roles.lists
            if not dry_run:
                signers = ["targets" if is_new else list_name, "snapshot", "timestamp"]
                roles.require_signers(signers)
            batches = read_screened(sources, reading or Reading(), known_good)
            withdrawn: Strings = np.zeros(0, "S1")
            if replace:
                listed = Listed()
                self._files.live_hashes(roles, current, listed)
                batches, withdrawn = listed.difference(list(batches), entries.category)
            for name, batch in batches:
                entries.add(batch, name)
            entries.finish()
            if replace and not entries.segments and not len(withdrawn):
                return Published(list_name, current.generation, 0, current.entries)
            if not entries.segments and not len(withdrawn):
                raise UsageError(
                    "no entries to publish", hint="give files that hold at least one digest"
                )
            doubles = Doubles(entries.digests, entries.rows)
            live = self._files.live_hashes(roles, current, doubles)
            doubles.withdraw(withdrawn)
            gone = entry_hashes(withdrawn)
            hashes = entries.hashes()
            entries.check_unique(hashes, np.setdiff1d(live, gone, assume_unique=True))
            entries.check_categories(doubles.categories, list_name)
            # What goes comes before what is added: an id may be in both.
            segments = [*_withdrawals(current.generation + 1, withdrawn), *entries.segments]
            change = entries.rows - len(withdrawn)
            checksum = checksum_of(hashes) - checksum_of(gone)
            index = self._files.next_index(current, segments, change, checksum)
            if not dry_run:
                changed = {list_name}
                if is_new:
                    roles.add_list(list_name, list_keys)
                    changed.add("targets")
                self._files.write(roles, index, segments)
                roles.commit(changed)
            return Published(
                list_name,
                index.generation,
                entries.rows,
                index.entries,
                withdrawn=len(withdrawn),
                listed=_some(entries, doubles.listed()),
                repeated=_some(entries, doubles.repeated()),
            )

    def withdraw(self, list_name: str, entry_ids: Sequence[str]) -> Published:
        """Take entries off a list, as a new generation.

        Raises:
            UsageError: there is no such list, an id is not on it or is given twice.
            StateError: as `publish`.
        """
        self.require()
        with self._locked():
            roles = self._load()
            if list_name not in roles.lists:
                raise _no_such_list(roles, list_name)
            current = self._files.current(roles, list_name)
            if not entry_ids:
                raise UsageError("no entries to withdraw")
            if wrong := [i for i in entry_ids if not is_entry_id(i)]:
                position = list(entry_ids).index(wrong[0]) + 1
                raise UsageError(f"not an entry id: number {position} of those given")
            entry_id, times = Counter(entry_ids).most_common(1)[0]
            if times > 1:
                raise UsageError(f"entry id is given twice: {entry_id}")
            roles.require_signers([list_name, "snapshot", "timestamp"])
            ids = np.array([i.encode() for i in entry_ids])
            hashes = entry_hashes(ids)
            unknown = ~np.isin(hashes, self._files.live_hashes(roles, current))
            if unknown.any():
                raise UsageError(
                    f"entry is not on list {list_name}: {entry_ids[int(np.argmax(unknown))]}",
                    hint="it may be withdrawn already; nothing was changed",
                )
            generation = current.generation + 1
            segments = _withdrawals(generation, ids)
            index = self._files.next_index(current, segments, -len(entry_ids), -checksum_of(hashes))
            self._files.write(roles, index, segments)
            roles.commit({list_name})
            return Published(list_name, generation, len(entry_ids), index.entries)

    def consolidate(self, list_name: str, *, keep_newest: int = KEEP_NEWEST) -> Consolidated:
        """Join small segments of a list into larger ones; generation and entries stay.

        The `keep_newest` generations are left as they are. Files that no segment is in any more
        stay for clients in the middle of a fetch, until the next consolidation a day later.

        Raises:
            UsageError: there is no such list.
            StateError: as `publish`.
        """
        self.require()
        with self._locked():
            roles = self._load()
            if list_name not in roles.lists:
                raise _no_such_list(roles, list_name)
            current = self._files.current(roles, list_name)
            targets = roles.lists[list_name].signed.targets

            def read(segment: Segment) -> bytes:
                return self._files.read_segment(roles, list_name, segment)

            roles.require_signers([list_name, "snapshot", "timestamp"])
            self._files.remove_unreferenced(roles, list_name)
            joined = ranges_to_join(current.segments, current.generation, keep_newest)
            replaced = [segment for segments in joined for segment in segments]
            if not replaced:
                count = len(current.segments)
                return Consolidated(list_name, current.generation, count, count)
            new = join_ranges(joined, read)
            start = current.segments.index(replaced[0])
            segments = (
                *current.segments[:start],
                *(n.segment for n in new),
                *current.segments[start + len(replaced) :],
            )
            for segment in replaced:
                del targets[target_name(list_name, segment.name)]
            index = msgspec.structs.replace(current, segments=segments)
            self._files.write(roles, index, new)
            roles.commit({list_name})
            return Consolidated(list_name, current.generation, len(current.segments), len(segments))

    def rotate(self, role: str, wanted: Keys | None = None) -> None:
        """Replace the keys of `role`: root, targets, snapshot, timestamp or a list.

        Clients follow by themselves. The old keys are removed; as many new ones are made, with
        the same threshold, unless others are `wanted`.

        Raises:
            UsageError: there is no such role.
            StateError: as `publish`.
        """
        self.require()
        with self._locked():
            roles = self._load()
            if role not in roles.names():
                raise UsageError(
                    f"no such role: {printable(role)}", hint=f"roles: {', '.join(roles.names())}"
                )
            roles.rotate(role, wanted)

    def renew(self) -> Renewed:
        """Sign the timestamp again, and whatever is past half of its validity, or expired.

        Raises:
            StateError: as `publish`.
        """
        self.require()
        with self._locked():
            roles = self._load()
            signed, skipped = roles.renew()
            wanting = [roles.wanting(role) or "" for role in skipped]
            return Renewed(tuple(signed), tuple(skipped), tuple(wanting))

    def expiring(self) -> list[tuple[str, datetime, str | None]]:
        """Return the roles that expire soon or have expired, the time, and what has to be done.

        That is None if the keys are here: then `renew` is enough.

        Raises:
            StateError: as `status`.
        """
        roles = self._load()
        return [(role, at, roles.wanting(role)) for role, at in roles.expiring()]

    def status(self) -> Status:
        """Return what is published.

        Raises:
            StateError: there is no repository, or it is corrupt.
        """
        roles = self._load()
        role_states = []
        for name in roles.names():
            signed, (keyids, threshold) = roles.metadata(name).signed, roles.key_policy(name)
            role_states.append(
                RoleStatus(name, signed.version, signed.expires, len(keyids), threshold)
            )
        indexes = [self._files.current(roles, name) for name in sorted(roles.lists)]
        return Status(
            hashlib.sha256(read_public(self.root_file)).hexdigest(),
            tuple(role_states),
            tuple(
                ListStatus(i.list, i.generation, i.published_at, i.entries, len(i.segments))
                for i in indexes
            ),
        )

    def closed(self) -> list[Path]:
        """Return the folders that keep a web server of another account from what is published.

        Raises:
            StateError: one cannot be looked at.
        """
        return list(closed_folders(self.directory, self.public))

    def load(self) -> Roles:
        """Return what is published, and the means to change it.

        Raises:
            StateError: there is no repository, or it is corrupt.
        """
        return self._load()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock for a change, and clear away what an earlier one has left.

        Raises:
            LockedError: another process holds it.
            StateError: the disk fails.
        """
        with self._locked():
            yield

    def require(self) -> None:
        """Check that there is a repository.

        Raises:
            StateError: there is none.
        """
        if not (self._metadata / "timestamp.json").exists():
            raise StateError(
                f"not a provider's repository: {printable(self.directory)}",
                hint="`hashclient provider init` makes one",
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        busy = f"another process is changing {printable(self.directory)}"
        lock = writer_lock(self.directory / "lock", busy=busy, hint="wait until it has finished")
        with own_hints("cannot change", self.directory), lock:
            written = (self.directory, self._metadata, self._keys.directory)
            for folder in (*written, *self._files.directory.glob("lists/*")):
                sweep_temporary(folder)
            self._keys.made.clear()
            try:
                yield
            except BaseException:
                self._discard_keys()
                raise

    def _discard_keys(self) -> None:
        """Remove the keys that a failed command has made, but for those that are published.

        A disk may fail when a rename is done already; what clients see decides.
        """
        if not self._keys.made:
            return
        published: set[str] = set()
        if (self._metadata / "timestamp.json").exists():
            try:
                published = self._load().key_files()
            except StateError:
                return  # what is published is not known: a key too many does no harm
        self._keys.discard(self._keys.made - published)

    def _load(self) -> Roles:
        self.require()
        with own_hints("cannot read", self.directory):
            return Roles.load(self._metadata, self._keys, self._clock, self._validity)


def _withdrawals(generation: int, ids: Strings) -> list[NewSegment]:
    """Return the segments that withdraw entries."""
    import pyarrow as pa

    texts = [text.decode() for text in ids.tolist()]
    table = pa.table([pa.array(texts, pa.string())], schema=withdraw_schema())
    return [
        new_segment(generation, "withdraw", number, table.slice(start, SEGMENT_ENTRIES))
        for number, start in enumerate(range(0, len(texts), SEGMENT_ENTRIES))
    ]


def _some(entries: Entries, rows: Int64) -> Some | None:
    return Some(len(rows), entries.where(int(rows[0]))) if len(rows) else None


def _no_such_list(roles: Roles, name: str) -> UsageError:
    return UsageError(
        f"no such list: {printable(name)}", hint=f"lists: {', '.join(roles.lists) or 'none yet'}"
    )


def _check_list_name(name: str) -> None:
    if not is_name(name) or name in TOP_LEVEL_ROLE_NAMES:
        raise UsageError(
            f"not a name for a list: {printable(name)}",
            hint="lower-case letters, digits, `.`, `_` and `-`, at most 64; not the name of a"
            " role such as `targets`",
        )


def _category_of(list_name: str) -> str:
    """Return the category of entries that have none: the list's name, if it may be one."""
    return list_name if is_category(list_name) else DEFAULT_CATEGORY
