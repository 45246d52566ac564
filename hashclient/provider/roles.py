"""Changes, signs and publishes the metadata of a provider's roles.

A new `timestamp.json` publishes a change: all other files of the change are written before the
timestamp, under new names. So if the command is killed at any instant, the earlier state is still
published, and the next change overwrites leftover files. A new root is visible without a new
timestamp, because clients look for the next root by its number. So the metadata that a new root
requires are published before the root, signed by the old and the new keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from hashclient.core.errors import StateError
from hashclient.provider.keys import Clock, Expiry, Keys, Validity
from hashclient.provider.keystore import KeyStore
from hashclient.provider.public import PUBLIC_MODE, metadata_file, read_published
from hashclient.system.files import write_atomic
from hashclient.system.text import printable
from hashclient.trust.additions import (
    LONGEST,
    NOTICES,
    delegate,
    delegator_of,
    end,
    ended_lists,
    new_delegator,
)


class Roles:
    """The newest metadata of every role, with methods that change and publish the metadata.

    A caller locks the repository, changes the `signed` parts of roles in place, and calls `commit`.
    """

    def __init__(
        self,
        directory: Path,
        keys: KeyStore,
        clock: Clock,
        validity: Validity,
        roles: dict[str, Metadata[Any]],
    ) -> None:
        self.directory = directory
        self.keys = keys
        self.expiry = Expiry(clock, validity)
        self.root: Metadata[Root] = roles.pop("root")
        self.timestamp: Metadata[Timestamp] = roles.pop("timestamp")
        self.snapshot: Metadata[Snapshot] = roles.pop("snapshot")
        self.targets: Metadata[Targets] = roles.pop("targets")
        #: The delegation from targets to the role of notices; None if the role does not exist.
        self._delegator = delegator_of(self.targets.signed)
        self.notices: Metadata[Targets] | None = None
        if self._delegator is not None:
            self.notices = roles.pop(NOTICES, None)
        #: The names of ended lists; the snapshot still names the roles of ended lists.
        self.ended = ended_lists(self.targets.signed)
        self.lists: dict[str, Metadata[Targets]] = {
            name: metadata for name, metadata in roles.items() if name not in self.ended
        }
        #: This function is called just before a timestamp or a root is written, because clients see
        #: these files at once.
        self.announce: Callable[[], None] = lambda: None

    @classmethod
    def create(
        cls,
        directory: Path,
        keys: KeyStore,
        clock: Clock,
        validity: Validity,
        root_keys: Keys,
        longest: timedelta | None = None,
    ) -> Roles:
        """Make and publish the first metadata, without a list."""
        signed: dict[str, Any] = {
            "root": Root(consistent_snapshot=True),
            "timestamp": Timestamp(),
            "snapshot": Snapshot(),
            "targets": Targets(delegations=Delegations({}, {})),
        }
        for part in signed.values():
            part.version = 0  # signing raises the version to 1
        roles = cls(
            directory, keys, clock, validity, {name: Metadata(s) for name, s in signed.items()}
        )
        for name in signed:
            wanted = root_keys if name == "root" else Keys()
            for key in keys.generate(name, wanted.count):
                roles.root.signed.add_key(key, name)
            roles.root.signed.roles[name].threshold = wanted.threshold
        roles.allow(max(longest or validity.longest, validity.snapshot, validity.timestamp))
        roles.commit_root()
        roles.commit({"targets"})
        return roles

    @classmethod
    def load(cls, directory: Path, keys: KeyStore, clock: Clock, validity: Validity) -> Roles:
        """Read the published metadata.

        Raises:
            StateError: the metadata are missing or corrupt.
        """
        try:
            return cls(directory, keys, clock, validity, read_published(directory))
        except (RepositoryError, KeyError) as error:
            raise StateError(f"corrupt metadata: {printable(directory)}") from error

    def metadata(self, role: str) -> Metadata[Any]:
        """Return the metadata of `role`, which may be the name of a list."""
        return self.lists[role] if role in self.lists else getattr(self, role)

    def names(self) -> list[str]:
        """Return the names of all roles, the lists last."""
        return ["root", "targets", "snapshot", "timestamp", *self._delegated()]

    def ends(self) -> dict[str, datetime]:
        """Return the time at which each role expires, in the order of `names`."""
        return {role: self.metadata(role).signed.expires for role in self.names()}

    def _delegated(self) -> list[str]:
        """Return the roles whose keys the role targets names: the lists, and notices if present."""
        return [*([] if self.notices is None else [NOTICES]), *sorted(self.lists)]

    def _described(self, role: str) -> Role:
        if role == NOTICES and self._delegator is not None:
            return self._delegator.get_delegated_role(role)
        return self.delegations().get(role) or self.root.signed.roles[role]

    def _delegator_of(self, role: str) -> Root | Targets:
        if role == NOTICES and self._delegator is not None:
            return self._delegator
        return self.targets.signed if role in self.lists else self.root.signed

    def add_notices(self, keys: Keys) -> Metadata[Targets]:
        """Make the role of notices with its own keys; the caller then calls `commit`."""
        self.notices = Metadata(Targets())
        self.notices.signed.version = 0
        self._delegator = new_delegator(keys.threshold)
        self._add_keys(NOTICES, keys)
        return self.notices

    def delegations(self) -> dict[str, DelegatedRole]:
        """Return the delegation of each list, by its name."""
        delegations = self.targets.signed.delegations
        if delegations is None or delegations.roles is None:
            raise StateError("corrupt metadata: the targets role has no delegations")
        return delegations.roles

    def key_policy(self, role: str) -> tuple[list[str], int]:
        """Return the key ids of `role`, and the number of keys that have to sign `role`."""
        described = self._described(role)
        return described.keyids, described.threshold

    def require_signers(self, roles: Collection[str]) -> None:
        """Check, before a file is written, that the keys of `roles` are on this machine.

        Raises:
            StateError: too few keys are on this machine, or a key is not usable.
        """
        for role in roles:
            try:
                self.keys.signers(role, *self.key_policy(role))
            except StateError as error:
                if self.wanting(role) is not None:
                    error.hint = f"{error.hint}; people who hold keys sign apart, with --draft DIR"
                raise

    def wanting(self, role: str) -> str | None:
        """Return advice for signing `role`; None if enough of its keys are on this machine."""
        try:
            self.keys.check(role, *self.key_policy(role))
        except StateError as error:
            return error.hint or error.message
        return None

    def can_sign(self, role: str) -> bool:
        """Return whether `role` can be signed now; this may ask for a passphrase."""
        try:
            self.require_signers([role])
        except StateError:
            return False
        return True

    def key_files(self) -> set[str]:
        """Return the names of the key files of all roles."""
        return {
            self.keys.name_of(role, keyid)
            for role in self.names()
            for keyid in self.key_policy(role)[0]
        }

    def add_list(self, name: str, keys: Keys) -> None:
        """Make a role with its own keys for the list `name`; the caller then calls `commit`."""
        self.lists[name] = Metadata(Targets())
        self.lists[name].signed.version = 0
        self.delegations()[name] = DelegatedRole(
            name, [], keys.threshold, terminating=True, paths=[f"lists/{name}/*"]
        )
        self._add_keys(name, keys)

    def _add_keys(self, role: str, keys: Keys) -> None:
        """Add the public keys of people to a new role, or make keys for the new role.

        The passphrase that encrypts the keys of targets also encrypts the made keys.
        """
        if not keys.public:
            self.keys.protect_as("targets", self.key_policy("targets")[0])
        for key in keys.public or self.keys.generate(role, keys.count):
            self._delegator_of(role).add_key(key, role)

    def end_list(self, name: str) -> None:
        """Mark the list `name` as ended; the caller then calls `commit`, or writes a draft."""
        for keyid in list(self.key_policy(name)[0]):
            self.targets.signed.revoke_key(keyid, name)
        del self.delegations()[name], self.lists[name]
        self.ended |= {name}
        end(self.targets.signed, self.ended)

    def replace_keys(self, role: str, keys: Keys) -> None:
        """Replace the keys of `role`; the caller then calls `commit`, or writes a draft."""
        delegator = self._delegator_of(role)
        for keyid in list(self.key_policy(role)[0]):
            delegator.revoke_key(keyid, role)
        for key in keys.public or self.keys.generate(role, keys.count):
            delegator.add_key(key, role)
        self._described(role).threshold = keys.threshold

    def delegate(self) -> None:
        """Write the role of notices and its keys into targets, if the role of notices exists."""
        if self._delegator is not None:
            delegate(self.targets.signed, self._delegator)

    def _replace(self, role: str, metadata: Metadata[Any]) -> None:
        """Replace the metadata of a role by metadata that were signed on another machine."""
        if role in TOP_LEVEL_ROLE_NAMES or (role == NOTICES and self._delegator is not None):
            setattr(self, role, metadata)
        else:
            self.lists[role] = metadata
        if role == "targets":
            self._delegator = delegator_of(self.targets.signed)

    def commit(
        self,
        changed: Collection[str],
        signers: Mapping[str, Sequence[Signer]] | None = None,
        given: Mapping[str, Metadata[Any]] | None = None,
    ) -> None:
        """Sign and write the `changed` roles, the snapshot and the timestamp, in this order.

        `signers` maps a role to signers that sign the role instead of the role's keys on this
        machine. A role in `given` was signed on another machine and is written unchanged.

        Raises:
            StateError: a signing key is not on this machine, or a file cannot be written; nothing
                is published.
        """
        signers, given = signers or {}, given or {}
        if "targets" in given:  # targets come first, because they define which lists exist
            self._replace("targets", given["targets"])
        else:
            self.delegate()
        for name in given.keys() - TOP_LEVEL_ROLE_NAMES:
            self._replace(name, given[name])
        below = [name for name in self._delegated() if name in changed]
        below += ["targets"] if "targets" in changed else []
        for name in below:
            data = self._sign(name, signers.get(name), given)
            self.snapshot.signed.meta[f"{name}.json"] = meta_file(self.metadata(name), data)
        if below or "snapshot" in changed:
            data = self._sign("snapshot", signers.get("snapshot"), given)
            self.timestamp.signed.snapshot_meta = meta_file(self.snapshot, data)
        self._sign("timestamp", signers.get("timestamp"), given)

    def commit_root(
        self,
        signers: Sequence[Signer] | None = None,
        given: Mapping[str, Metadata[Any]] | None = None,
    ) -> None:
        """Sign and write a new root, or write the root in `given`; clients see the root at once."""
        self._sign("root", signers, given or {})

    def _sign(
        self, role: str, signers: Sequence[Signer] | None, given: Mapping[str, Metadata[Any]]
    ) -> bytes:
        """Sign the next version of a role, unless `given` has it; write it and return its bytes.

        Raises:
            StateError: see `commit`.
        """
        if role in given:
            self._replace(role, given[role])
            return self._write(role, given[role])
        metadata = self.metadata(role)
        if signers is None:
            signers = self.keys.signers(role, *self.key_policy(role))
        metadata.signed.version += 1
        metadata.signed.expires = self.expiry.of(role)
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        return self._write(role, metadata)

    def _write(self, role: str, metadata: Metadata[Any]) -> bytes:
        """Write signed metadata of a role; return the bytes of the file.

        Raises:
            StateError: the metadata cannot be written.
        """
        data = metadata.to_bytes()
        if role in ("timestamp", "root"):
            self.announce()
        name = metadata_file(role, metadata.signed.version)
        write_atomic(self.directory / name, data, mode=PUBLIC_MODE)
        if role == "root":
            write_atomic(self.directory.parent.parent / "root.json", data, mode=PUBLIC_MODE)
        return data

    def allow(self, longest: timedelta) -> None:
        """Set the longest validity of snapshot and timestamp in the next root."""
        self.root.signed.unrecognized_fields[LONGEST] = longest.days

    def renew(self) -> tuple[list[str], list[str]]:
        """Sign the timestamp again, and each role past half of its validity.

        Return the signed roles, and the due roles that lack a key on this machine.

        Raises:
            StateError: see `commit`.
        """
        due = self.expiry.due(self.ends())
        elsewhere = set(due) - {"timestamp", "snapshot"}
        skipped = [role for role in elsewhere if not self.can_sign(role)]
        due = [role for role in due if role not in skipped]
        self.commit(due)
        if "root" in due:
            self.commit_root()
        signed = {"timestamp", *due}
        if signed & {"targets", *self._delegated()}:
            signed.add("snapshot")
        return [role for role in self.names() if role in signed], sorted(skipped)


def meta_file(metadata: Metadata[Any], data: bytes) -> MetaFile:
    """Return the item that snapshot or timestamp contain for `metadata`, whose bytes are `data`."""
    digest = hashlib.sha256(data).hexdigest()
    return MetaFile(metadata.signed.version, len(data), {"sha256": digest})
