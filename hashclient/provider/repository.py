"""Makes and changes a provider's repository of signed hash lists.

Every list has its own role and its own keys. Each change of a list is a new generation with new
segments, which never change later. A publication needs some 70 MB of memory for each million
entries with three digests, because all encoded segments are in memory. `hashclient.lists.wire` and
`docs/format.md` describe the wire format. Other modules of `hashclient.provider` do parts of the
work:

- `directory` locks the repository, records changes in the log and loads the roles.
- `roles` signs the roles, and makes a change visible to clients at one instant.
- `listfiles` reads and writes the files of lists.
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

#: The hint for a key that is on this machine but cannot be decrypted.
OPEN_KEY = "give the passphrase of its key"
#: The names of files that a killed `create` may leave. `clients.json` is not one of the names,
#: because clients can be added only after `create`.
_OWN_NAMES = {"public", "keys", "lock", "root.json", "log"}
#: The names of the metadata that a killed `create` may leave. Other metadata belong to a repository
#: that has lost its timestamp; a new root would replace its first root.
_FIRST_METADATA = {"1.root.json", "1.targets.json", "1.snapshot.json"}

_ONE_KEY = Keys()


class Repository(RepositoryDirectory):
    """The repository in one directory; each method that writes locks the repository."""

    def create(
        self,
        *,
        root_keys: Keys = _ONE_KEY,
        passphrase: bytes | None = None,
        longest: timedelta | None = None,
    ) -> None:
        """Make the repository with keys and roles, without a list. `passphrase` encrypts all keys.

        `longest` is the longest validity that the root allows for snapshot and timestamp; None
        means the default limit.

        Raises:
            UsageError: the directory contains a repository or other files, or is inside a
                repository.
            StateError: the repository cannot be written.
        """
        self.refuse_inside()
        with own_hints("cannot make repository", self.directory):
            make_open_dir(self.directory)
            # Files that a killed `create` left are allowed.
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
            if {path.name for path in self._metadata.iterdir()} - _FIRST_METADATA:
                raise UsageError(
                    f"a repository without its timestamp.json: {printable(self.directory)}",
                    hint="restore public/metadata/timestamp.json from a copy, or from the web"
                    " server",
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
        """Add the entries of `sources` as a new generation of a list.

        The first publication of a list creates the role of the list. An entry without an id gets
        the id `<generation>-<number>`. Doubles are published and counted.

        - `sources`: files of digests, with their names.
        - `list_keys`: the keys of a new list.
        - `reading`: how files are read, and which rows are chosen.
        - `category`: the category for entries without a category; by default the list's name.
        - `known_good`: files of digests that must not be on a list.
        - `replace`: withdraw the listed entries that the sources lack, and leave equal entries
          unchanged; if nothing differs, no new generation is made.
        - `dry_run`: make all checks, and write nothing.
        - `draft`: write the change as a draft into this new directory instead of publishing it.
        - `may_be_new`: if false, a new list is created only in a repository without lists.
        - `again`: if false, nothing is published if all entries are listed already.
        - `terms`: the terms of use, which are signed with the list and with its later generations.
        - `share`: republish the entries of another provider's list; `sources` is empty.

        Raises:
            UsageError: an entry breaks a rule of the format, has a digest of the empty file, or has
                an id that is on the list already; nothing was written.
            StateError: the repository does not exist, a key is missing, or a file cannot be
                written; the earlier state is still published.
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
            if share is not None and not is_new:
                # The new generation does not show any more which entries people have withdrawn
                # before it, so these entries are stored first: the command may be killed.
                share.keep()
            if change is not None and not dry_run:
                changed = {list_name}
                if is_new:
                    roles.add_list(list_name, list_keys)
                    changed.add("targets")
                self.put(roles, changed, draft, change.event, change.data, change)
            if share is not None and is_new:
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
        """Withdraw entries of a list in a new generation; with `draft`, only write a draft.

        If `generation` is given, all entries that this generation added are withdrawn, and
        `entry_ids` is empty.

        Raises:
            UsageError: no list has this name, or an id is not on the list or is given twice.
            StateError: see `publish`.
        """
        if generation is None:
            check_entry_ids(entry_ids)
        with self._changing_list(list_name, draft) as roles:
            done, change = withdrawal(self.files, roles, list_name, entry_ids, generation)
            self.put(roles, {list_name}, draft, change.event, change.data, change)
            return done

    def revert(self, list_name: str, generation: int, *, draft: Path | None = None) -> Published:
        """Undo a generation of a list in a new generation; with `draft`, only write a draft.

        Entries that the generation added are withdrawn if they are still listed. Entries that the
        generation withdrew are added again.

        Raises:
            UsageError: the list or generation does not exist, the generation has no change left to
                undo, or another provider, whose list is republished, has withdrawn entries that
                would be added again.
            StateError: see `publish`.
        """
        with self._changing_list(list_name, draft) as roles:
            ids = may_return(self.sources / list_name, roles, self.files)
            done, change = reversion(self.files, roles, list_name, generation, ids)
            self.put(roles, {list_name}, draft, change.event, change.data, change)
            return done

    def end_list(self, list_name: str, *, draft: Path | None = None) -> None:
        """End a list: clients remove the list, and withdraw its matches.

        If `draft` is given, the change is only written as a draft.

        The role `targets` says that the list has ended. The name of the list cannot be used again,
        the files of the list are kept, and the keys of the list are removed.

        Raises:
            UsageError: no list has this name.
            StateError: see `publish`.
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
        """Join small segments of a list into large segments, without changing the entries.

        The segments of the newest `keep_newest` generations are not joined. Files that no index
        names any more are kept for at least a day, because clients may be fetching them; a later
        consolidation removes these files. If `draft` is given, the change is written as a draft
        into this directory instead of being published.

        Raises:
            UsageError: no list has this name.
            StateError: see `publish`.
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
        """Yield the published roles for a change of a list.

        The role `signer` signs the change; by default, the role of the list signs the change.
        """
        with self.changing_roles() as roles:
            require_list(roles, name)
            require_ready(roles, draft, signer or name)
            yield roles

    def publish_draft(self, directory: Path) -> Draft:
        """Publish a draft that enough people have signed.

        Return the published draft. If this machine has signed the snapshot or the timestamp itself,
        the returned draft does not contain this role.

        Raises:
            UsageError: the directory is not a draft.
            VerificationError: the draft was changed, was made for an earlier published state, or
                has signatures of other keys.
            StateError: too few people have signed the draft; see also `publish`.
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

        Clients accept the new keys without action by users. The old keys are removed. The number of
        new keys and the threshold stay the same, unless `wanted` says otherwise. Public keys of
        people in `wanted` need a `draft`, which these people sign. `longest` sets the longest
        validity of snapshot and timestamp in a new root.

        Raises:
            UsageError: no role has this name, or `draft` is given without public keys of people.
            StateError: see `publish`.
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
        """Write a draft of the due roles whose keys are not on this machine; return these roles.

        If `until` is given, roles that expire before `until` are due as well.

        Raises:
            UsageError: this machine has the keys of all due roles, or the draft cannot be written.
            StateError: see `publish`.
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
        """Sign the timestamp again, and each role that is past half of its validity.

        If `until` is given, roles that expire before `until` are also signed, and new signatures
        are valid at least until `until`.

        Raises:
            UsageError: the root does not allow a validity until `until`.
            StateError: see `publish`.
        """
        with self.changing_roles() as roles:
            if until is not None:
                roles.expiry.hold_until(until, roles.root.signed)
            self.announce(roles, "roles-renewed")
            signed, skipped = roles.renew()
            wanting = [roles.wanting(role) or OPEN_KEY for role in skipped]
            return Renewed(tuple(signed), tuple(skipped), tuple(wanting))
