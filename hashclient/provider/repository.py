"""The provider's side: makes and changes the repository of signed hash lists.

Every list has a role and keys of its own; each change of a list is one new generation in new,
immutable segments. `directory` has the lock, the log and the roles. `keys` signs, and makes a
change visible in one instant. `listfiles` has the files of lists; `lists.wire` and `docs/format.md`
describe the wire format. One publication holds its encoded segments in memory: some 70 MB a million
entries with three digests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import msgspec

from hashclient.core.errors import UsageError
from hashclient.core.model import MAX_LISTS
from hashclient.lists.importers.importfile import Reading
from hashclient.provider.changes import (
    addition,
    check_entry_ids,
    check_list_name,
    consolidation,
    require_list,
    reversion,
    withdrawal,
)
from hashclient.provider.consolidate import KEEP_NEWEST
from hashclient.provider.directory import RepositoryDirectory
from hashclient.provider.drafting import check_place, check_public, require_ready, take_draft
from hashclient.provider.drafts import Draft
from hashclient.provider.keys import Keys
from hashclient.provider.public import (
    make_folder_below,
    make_open_dir,
    make_public_root,
    own_hints,
)
from hashclient.provider.results import Consolidated, Published, Renewed
from hashclient.provider.roles import Roles
from hashclient.provider.rotate_keys import role_above, rotate_keys
from hashclient.provider.screen import read_screened
from hashclient.provider.sharing import Share, check_share, may_return
from hashclient.system.text import first_of, nearest, printable
from hashclient.trust.additions import MAX_ENDED, NOTICES
from hashclient.trust.provenance import MAX_TERMS_CHARS, is_terms

#: The hint for a key that is here but cannot be opened.
OPEN_KEY = "give the passphrase of its key"
#: Files that a killed `create` leaves. Clients come later.
_OWN_NAMES = {"public", "keys", "lock", "root.json", "log"}

_ONE_KEY = Keys()


class Repository(RepositoryDirectory):
    """The repository in one directory. Each method that writes holds the lock until it returns."""

    def create(
        self,
        *,
        root_keys: Keys = _ONE_KEY,
        passphrase: bytes | None = None,
        longest: timedelta | None = None,
    ) -> None:
        """Make the repository: keys, roles, no list. A `passphrase` encrypts all keys.

        The root allows the time `longest` for snapshot and timestamp, by default the normal limit.

        Raises:
            UsageError: the directory has a repository or other files, or is inside a repository.
            StateError: the repository cannot be written.
        """
        self.refuse_inside()
        with own_hints("cannot make repository", self.directory):
            make_open_dir(self.directory)
            # Files of a killed `create` may be there.
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
        with self.changing():
            if (self._metadata / "timestamp.json").exists():
                raise UsageError(
                    f"already a repository: {printable(self.directory)}",
                    hint="`hashclient provider publish` adds a list to it",
                )
            self.log.record(
                "repository-created", keys=root_keys.count, threshold=root_keys.threshold
            )
            self._keys.passphrase = passphrase
            Roles.create(
                *(self._metadata, self._keys, self.clock, self._validity, root_keys), longest
            )

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
        draft: Path | None = None,
        may_be_new: bool = True,
        again: bool = True,
        terms: str | None = None,
        share: Share | None = None,
    ) -> Published:
        """Add the entries of `sources`, files of digests with their names, as a new generation.

        The first publication of a list makes its role, with `list_keys`. An entry without an id
        gets `<generation>-<number>`, an entry without a category gets `category`, or the list's
        name. Doubles are published, and counted. `reading` says how files are read, and which rows
        count; `known_good` are files of digests that must not be on a list. With `replace`, listed
        entries that the sources lack are withdrawn, and unchanged entries stay; without a
        difference, no new generation is made. `dry_run` checks all and writes nothing. With
        `draft`, a new directory, the change is written there, for others to sign. Without
        `may_be_new`, a new list is made only if the repository has none yet. Without `again`,
        nothing is published if all entries are listed already. `terms` are signed with the list,
        and stay in force. With `share`, the list has the entries that another provider lists, and
        `sources` is empty.

        Raises:
            UsageError: an entry breaks a rule of the format, has a digest of the empty file, or its
                id is on the list; nothing was written.
            StateError: no repository is there, a key is missing, or a file cannot be written; the
                old state is still published.
        """
        check_list_name(list_name)
        if terms is not None and not is_terms(terms):
            raise UsageError(
                f"terms of a list have at most {MAX_TERMS_CHARS:,} characters, all printable"
            )
        with self.changing_roles() as roles:
            if list_name == NOTICES and list_name not in roles.lists:
                raise UsageError(f"a list cannot be called {NOTICES}, as a role is")
            is_new = list_name not in roles.lists
            if list_name in roles.ended:
                raise UsageError(
                    f"list {list_name} has ended",
                    hint="take another name: clients have removed this list",
                )
            if is_new and roles.lists and not may_be_new:
                meant = nearest(list_name, roles.lists)
                raise UsageError(
                    f"no such list: {printable(list_name)}",
                    hint=f"{f'did you mean {meant}? ' if meant else ''}`--new-list` makes a list;"
                    f" there are: {first_of(sorted(roles.lists))}",
                )
            if is_new and len(roles.lists) >= MAX_LISTS:
                raise UsageError(
                    f"a provider has at most {MAX_LISTS} lists",
                    hint="categories divide a list; clients refuse a provider with more lists",
                )
            before = self.files.provenance(roles, list_name)
            check_share(list_name, before, share, is_new=is_new)
            check_public(list_keys, draft, is_new=is_new)
            if dry_run:
                check_place(draft)
            else:
                require_ready(roles, draft, "targets" if is_new else list_name)
            if share is not None:
                sources, reading, replace = share.files(roles, self.files), share.reading(), True
            batches = read_screened(sources, reading or Reading(), known_good)
            done, change = addition(
                self.files,
                roles,
                list_name,
                batches,
                category=category,
                replace=replace,
                again=again,
                may_be_empty=share is not None,
            )
            if change is not None and share is not None:
                noted = share.provenance(change.index.generation)
                change.data["origin"] = msgspec.to_builtins(noted.origins[-1])
                change = msgspec.structs.replace(change, provenance=noted)
            elif change is not None and terms is not None:
                noted = msgspec.structs.replace(before, terms=terms)
                change = msgspec.structs.replace(change, provenance=noted)
            if change is not None and not dry_run:
                changed = {list_name}
                if is_new:
                    roles.add_list(list_name, list_keys)
                    changed.add("targets")
                self.put(roles, changed, draft, change.event, change.data, change)
            if share is not None:
                share.keep()
            return done

    def withdraw(
        self,
        list_name: str,
        entry_ids: Sequence[str] = (),
        *,
        generation: int | None = None,
        draft: Path | None = None,
    ) -> Published:
        """Withdraw entries of a list as one new generation; with `draft`, write a draft.

        With `generation`, all entries that this generation added are withdrawn; `entry_ids` is
        empty then.

        Raises:
            UsageError: no list has this name, or an id is not on the list or is given twice.
            StateError: as `publish`.
        """
        if generation is None:
            check_entry_ids(entry_ids)
        with self._changing_list(list_name, draft) as roles:
            done, change = withdrawal(self.files, roles, list_name, entry_ids, generation)
            self.put(roles, {list_name}, draft, change.event, change.data, change)
            return done

    def revert(self, list_name: str, generation: int, *, draft: Path | None = None) -> Published:
        """Undo a generation of a list as one new generation; with `draft`, write a draft.

        Entries that the generation added are withdrawn if they are still listed; entries that it
        withdrew come back.

        Raises:
            UsageError: the list or generation does not exist, the generation has no change left to
                undo, or another provider, whose list is republished, has withdrawn entries that
                would come back.
            StateError: as `publish`.
        """
        with self._changing_list(list_name, draft) as roles:
            ids = may_return(self.sources / list_name, roles, self.files)
            done, change = reversion(self.files, roles, list_name, generation, ids)
            self.put(roles, {list_name}, draft, change.event, change.data, change)
            return done

    def end_list(self, list_name: str, *, draft: Path | None = None) -> None:
        """End a list: clients remove it, and withdraw its matches. With `draft`, write a draft.

        The role `targets` contains the end. The list's name is not used again, its files stay, and
        its keys are removed.

        Raises:
            UsageError: no list has this name.
            StateError: as `publish`.
        """
        with self._changing_list(list_name, draft, "targets") as roles:
            if len(roles.ended) >= MAX_ENDED:
                raise UsageError(f"a provider ends at most {MAX_ENDED:,} lists")
            roles.end_list(list_name)
            self.put(roles, {"targets"}, draft, "list-ended", {"list": list_name})
            if draft is None:
                self._keys.retire(list_name, ())

    def consolidate(
        self, list_name: str, *, keep_newest: int = KEEP_NEWEST, draft: Path | None = None
    ) -> Consolidated:
        """Join small segments of a list into large segments; generation and entries stay.

        The `keep_newest` generations are left as they are. Files that no index names any more stay
        for at least a day, for clients that are fetching; a later consolidation removes them. With
        `draft`, the change is written to that directory, for others to sign.

        Raises:
            UsageError: no list has this name.
            StateError: as `publish`.
        """
        with self._changing_list(list_name, draft) as roles:
            if draft is None:
                self.files.remove_unreferenced(roles.lists[list_name], f"lists/{list_name}")
            done, change = consolidation(self.files, roles, list_name, keep_newest)
            if change is not None:
                self.put(roles, {list_name}, draft, change.event, change.data, change)
            return done

    @contextlib.contextmanager
    def _changing_list(
        self, name: str, draft: Path | None, signer: str | None = None
    ) -> Iterator[Roles]:
        """Yield the published roles for a change of a list, which its role or `signer` signs."""
        with self.changing_roles() as roles:
            require_list(roles, name)
            require_ready(roles, draft, signer or name)
            yield roles

    def publish_draft(self, directory: Path) -> Draft:
        """Publish a draft that enough people have signed.

        Return the draft without the roles that this machine has signed in its place (snapshot and
        timestamp).

        Raises:
            UsageError: the directory is not a draft.
            VerificationError: the draft was changed, follows another generation, or has signatures
                of other keys.
            StateError: too few people have signed the draft, or as `publish`.
        """
        with self.changing_roles() as roles:
            taken = take_draft(roles, self.files, directory, self.clock)
            self.announce(roles, "draft-published", **taken.record())
            if taken.changed != {"root"}:
                roles.commit(taken.changed, given=taken.signed)
            if "root" in taken.changed:
                roles.commit_root(given=taken.signed)
            for name in set(taken.draft.with_other_keys()) & set(taken.draft.before):
                self._keys.retire(name, roles.key_policy(name)[0])
            for name in taken.draft.ended():
                self._keys.retire(name, ())
            return taken.published()

    def rotate(
        self,
        role: str,
        wanted: Keys | None = None,
        *,
        draft: Path | None = None,
        longest: timedelta | None = None,
    ) -> None:
        """Replace the keys of `role`: root, targets, snapshot, timestamp, notices or a list.

        Clients learn the new keys automatically. The old keys are removed; as many new keys are
        made, with the same threshold, unless `wanted` says otherwise. Keys of people need a
        `draft`, which these people sign. A new root may set `longest`, the limit of the validity of
        snapshot and timestamp.

        Raises:
            UsageError: no role has this name, or a draft lacks keys of people.
            StateError: as `publish`.
        """
        with self.changing_roles() as roles:
            if role not in roles.names():
                raise UsageError(
                    f"no such role: {printable(role)}", hint=f"roles: {', '.join(roles.names())}"
                )
            if longest is not None:
                roles.allow(longest)
            if draft is None and not (wanted and wanted.public):
                self.announce(roles, "keys-rotated", role=role)
                rotate_keys(roles, role, wanted)
                return
            if wanted is None or not wanted.public:
                raise UsageError(
                    "a draft of new keys needs their public halves",
                    hint="`hashclient provider key new` makes a pair",
                )
            check_public(wanted, draft, is_new=True)
            assert draft is not None
            roles.replace_keys(role, wanted)
            self.put(roles, {role, role_above(role)}, draft, "keys-rotated", {"role": role})

    def draft_renewal(self, draft: Path, until: datetime | None = None) -> list[str]:
        """Write a draft of the due roles whose keys are elsewhere; return these roles.

        With `until`, roles that expire before then are due as well.

        Raises:
            UsageError: no role is due whose keys are elsewhere, or the draft cannot be written.
            StateError: as `publish`.
        """
        with self.changing_roles() as roles:
            if until is not None:
                roles.expiry.hold_until(until, roles.root.signed)
            due = roles.expiry.due(roles.ends())
            elsewhere = {role for role in due if not roles.can_sign(role)}
            if not elsewhere:
                raise UsageError(
                    "no role is due whose keys are elsewhere", hint="`renew` alone is enough"
                )
            self.put(roles, elsewhere, draft, "roles-renewed", {})
            return sorted(elsewhere)

    def renew(self, until: datetime | None = None) -> Renewed:
        """Sign the timestamp again, and each role past half of its validity, or expired.

        With `until`, roles that would expire before this time are signed, and are valid until then.

        Raises:
            UsageError: the root does not allow a validity of this length.
            StateError: as `publish`.
        """
        with self.changing_roles() as roles:
            if until is not None:
                roles.expiry.hold_until(until, roles.root.signed)
            self.announce(roles, "roles-renewed")
            signed, skipped = roles.renew()
            wanting = [roles.wanting(role) or OPEN_KEY for role in skipped]
            return Renewed(tuple(signed), tuple(skipped), tuple(wanting))
