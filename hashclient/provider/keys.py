"""The signed side of a provider: its keys, its roles, and metadata that is published whole.

A repository is published by its `timestamp.json`: all else a change needs is written before it,
under names that nothing refers to yet. So a kill at any instant leaves the state that was
published, and what lies around is overwritten by the next change. A new root is the exception,
since clients look for it by number: whatever a new root asks for is published before it, signed
by the old and the new keys. What a list holds is left to `provider`; locking, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
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

from hashclient.errors import ConfigError, StateError, UsageError
from hashclient.provider.public import PUBLIC_MODE
from hashclient.provider.published import Kind, parse_metadata, root_versions
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_private_dir,
    read_regular,
    state_error,
    write_atomic,
)
from hashclient.system.secrets import read_secret
from hashclient.system.text import printable
from hashclient.trust.noticerole import NOTICES, delegate, delegator_of, new_delegator

Clock = Callable[[], datetime]


class Validity(msgspec.Struct, frozen=True):
    """How long signatures hold. Short ones bound how long a frozen repository goes unnoticed."""

    root: timedelta = timedelta(days=365)
    targets: timedelta = timedelta(days=365)
    lists: timedelta = timedelta(days=90)
    snapshot: timedelta = timedelta(days=30)
    timestamp: timedelta = timedelta(days=7)

    def of(self, role: str) -> timedelta:
        """Return the validity of `role`, which may be the name of a list."""
        validity: timedelta = getattr(self, role if role in TOP_LEVEL_ROLE_NAMES else "lists")
        return validity


class Keys(msgspec.Struct, frozen=True):
    """How many keys a role has, and how many of them have to sign."""

    count: int = 1
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.count <= 16:
            raise UsageError(
                f"a threshold of {self.threshold} with {self.count} keys is not possible",
                hint="1 <= threshold <= keys <= 16",
            )


class KeyStore:
    """Ed25519 keys in a private directory, one file a key: `<role>-<start of its id>.pem`.

    A file may be kept elsewhere (offline) while nothing has to be signed with it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: Names of the files that `generate` has written.
        self.made: set[str] = set()

    def _path(self, role: str, keyid: str) -> Path:
        return self.directory / f"{role}-{keyid[:16]}.pem"

    def generate(self, role: str, count: int) -> list[Key]:
        """Make and store `count` new keys for `role`; return their public halves."""
        make_private_dir(self.directory)
        signers = [CryptoSigner.generate_ed25519() for _ in range(count)]
        for signer in signers:
            path = self._path(role, signer.public_key.keyid)
            self.made.add(path.name)
            write_atomic(path, signer.private_bytes)
        return [signer.public_key for signer in signers]

    def signers(self, role: str, keyids: Sequence[str], threshold: int) -> list[Signer]:
        """Return signers for those of `keyids` whose files are here.

        Raises:
            StateError: fewer than `threshold` are here, or one is not usable.
        """
        found = self.present(role, keyids)
        if len(found) < threshold:
            paths = (self._path(role, keyid) for keyid in keyids)
            missing = [path.name for path in paths if not path.exists()]
            enough = threshold - len(found)
            choice = f"{enough} of " if enough < len(missing) else ""
            raise StateError(
                f"role {role} needs {threshold} signing key(s), {len(found)} here",
                hint=f"put {choice}{', '.join(missing)} back into {printable(self.directory)}",
            )
        return found

    def present(self, role: str, keyids: Sequence[str]) -> list[Signer]:
        """Return signers for those of `keyids` whose files are here.

        Raises:
            StateError: one is not usable.
        """
        paths = {keyid: self._path(role, keyid) for keyid in keyids}
        return [self._load(path, keyid) for keyid, path in paths.items() if path.exists()]

    @staticmethod
    def _load(path: Path, keyid: str) -> Signer:
        try:
            private = load_pem_private_key(read_secret(path, "signing key"), None)
            if not isinstance(private, Ed25519PrivateKey):
                raise TypeError
            public = SSlibKey.from_crypto(private.public_key())
        except ConfigError as error:
            raise StateError(error.message, hint=error.hint) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StateError(f"not an Ed25519 key: {printable(path)}") from error
        if public.keyid != keyid:
            raise StateError(f"not the key that its name says: {printable(path)}")
        return CryptoSigner(private, public)

    def discard(self, names: Collection[str]) -> None:
        """Remove key files, as far as that is possible."""
        for name in names:
            with contextlib.suppress(OSError):
                (self.directory / name).unlink()

    def name_of(self, role: str, keyid: str) -> str:
        """Return the name of the file of a key."""
        return self._path(role, keyid).name

    def retire(self, role: str, keep: Collection[str]) -> None:
        """Remove the keys of `role` that are not in `keep`."""
        pattern = re.compile(re.escape(role) + r"-[0-9a-f]{16}\.pem")
        kept = {self._path(role, keyid) for keyid in keep}
        for path in self.directory.iterdir():
            if pattern.fullmatch(path.name) and path not in kept:
                path.unlink()


class Roles:
    """The newest metadata of every role, and the means to change and publish it.

    Callers hold the repository's lock, change the `signed` parts in place, and `commit`.
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
        self._clock = clock
        self._validity = validity
        self.root: Metadata[Root] = roles.pop("root")
        self.timestamp: Metadata[Timestamp] = roles.pop("timestamp")
        self.snapshot: Metadata[Snapshot] = roles.pop("snapshot")
        self.targets: Metadata[Targets] = roles.pop("targets")
        #: Stands for the targets towards the role of notices, if there is one.
        self._delegator = delegator_of(self.targets.signed)
        self.notices: Metadata[Targets] | None = None
        if self._delegator is not None:
            self.notices = roles.pop(NOTICES, None)
        self.lists: dict[str, Metadata[Targets]] = roles

    @classmethod
    def create(
        cls, directory: Path, keys: KeyStore, clock: Clock, validity: Validity, root_keys: Keys
    ) -> Roles:
        """Make and publish the first metadata: no list yet."""
        signed: dict[str, Any] = {
            "root": Root(consistent_snapshot=True),
            "timestamp": Timestamp(),
            "snapshot": Snapshot(),
            "targets": Targets(delegations=Delegations({}, {})),
        }
        for part in signed.values():
            part.version = 0  # signing makes it 1
        roles = cls(
            directory, keys, clock, validity, {name: Metadata(s) for name, s in signed.items()}
        )
        for name in signed:
            wanted = root_keys if name == "root" else Keys()
            for key in keys.generate(name, wanted.count):
                roles.root.signed.add_key(key, name)
            roles.root.signed.roles[name].threshold = wanted.threshold
        roles.commit_root()
        roles.commit({"targets"})
        return roles

    @classmethod
    def load(cls, directory: Path, keys: KeyStore, clock: Clock, validity: Validity) -> Roles:
        """Read what is published.

        Raises:
            StateError: it is missing or corrupt.
        """
        try:
            timestamp = _read(directory / "timestamp.json", Timestamp)
            version = timestamp.signed.snapshot_meta.version
            snapshot = _read(directory / f"{version}.snapshot.json", Snapshot)
            roles: dict[str, Metadata[Any]] = {
                name.removesuffix(".json"): _read(directory / f"{meta.version}.{name}", Targets)
                for name, meta in snapshot.signed.meta.items()
            }
            newest = max(root_versions(directory), default=1)
            root = _read(directory / f"{newest}.root.json", Root)
        except OSError as error:
            raise state_error("cannot read published metadata", directory, error) from error
        roles |= {"root": root, "timestamp": timestamp, "snapshot": snapshot}
        try:
            return cls(directory, keys, clock, validity, roles)
        except (RepositoryError, KeyError) as error:
            raise StateError(f"corrupt metadata: {printable(directory)}") from error

    def metadata(self, role: str) -> Metadata[Any]:
        """Return the metadata of `role`, which may be the name of a list."""
        return self.lists[role] if role in self.lists else getattr(self, role)

    def names(self) -> list[str]:
        """Return the names of all roles, the lists last."""
        return ["root", "targets", "snapshot", "timestamp", *self._delegated()]

    def _delegated(self) -> list[str]:
        """Return the roles whose keys the targets name: that of notices, and the lists."""
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
        """Make the role of notices, with keys of its own; `commit` has to follow."""
        self.notices = Metadata(Targets())
        self.notices.signed.version = 0
        self._delegator = new_delegator(keys.threshold)
        for key in self.keys.generate(NOTICES, keys.count):
            self._delegator.add_key(key, NOTICES)
        return self.notices

    def delegations(self) -> dict[str, DelegatedRole]:
        """Return the delegation of each list, by its name."""
        delegations = self.targets.signed.delegations
        if delegations is None or delegations.roles is None:
            raise StateError("corrupt metadata: the targets role has no delegations")
        return delegations.roles

    def key_policy(self, role: str) -> tuple[list[str], int]:
        """Return the key ids of `role` and its threshold."""
        described = self._described(role)
        return described.keyids, described.threshold

    def require_signers(self, roles: Collection[str]) -> None:
        """Find out whether the keys of `roles` are here, before anything is written.

        Raises:
            StateError: too few are, or one is not usable.
        """
        for role in roles:
            self.keys.signers(role, *self.key_policy(role))

    def wanting(self, role: str) -> str | None:
        """Return what has to be done so that `role` can be signed; None if its keys are here."""
        try:
            self.require_signers([role])
        except StateError as error:
            return error.hint or error.message
        return None

    def key_files(self) -> set[str]:
        """Return the names of the key files that count for a role."""
        return {
            self.keys.name_of(role, keyid)
            for role in self.names()
            for keyid in self.key_policy(role)[0]
        }

    def add_list(self, name: str, keys: Keys) -> None:
        """Give list `name` a role and keys of its own; `commit` has to follow."""
        self.lists[name] = Metadata(Targets())
        self.lists[name].signed.version = 0
        self.delegations()[name] = DelegatedRole(
            name, [], keys.threshold, terminating=True, paths=[f"lists/{name}/*"]
        )
        for key in self.keys.generate(name, keys.count):
            self.targets.signed.add_key(key, name)

    def commit(
        self, changed: Collection[str], signers: Mapping[str, Sequence[Signer]] | None = None
    ) -> None:
        """Sign and write the `changed` roles and those that name them; the timestamp publishes.

        A role in `signers` is signed by these, whatever its policy says.

        Raises:
            StateError: a signing key is not here, or a file cannot be written; nothing is
                published then.
        """
        signers = signers or {}
        if self._delegator is not None:
            delegate(self.targets.signed, self._delegator)
        below = [name for name in self._delegated() if name in changed]
        below += ["targets"] if "targets" in changed else []
        for name in below:
            data = self._sign(name, signers.get(name))
            self.snapshot.signed.meta[f"{name}.json"] = _meta_file(self.metadata(name), data)
        if below or "snapshot" in changed:
            data = self._sign("snapshot", signers.get("snapshot"))
            self.timestamp.signed.snapshot_meta = _meta_file(self.snapshot, data)
        self._sign("timestamp", signers.get("timestamp"))

    def commit_root(self, signers: Sequence[Signer] | None = None) -> None:
        """Sign and write a new root, which clients see at once."""
        data = self._sign("root", signers)
        write_atomic(self.directory.parent.parent / "root.json", data, mode=PUBLIC_MODE)

    def _sign(self, role: str, signers: Sequence[Signer] | None) -> bytes:
        metadata = self.metadata(role)
        if signers is None:
            signers = self.keys.signers(role, *self.key_policy(role))
        metadata.signed.version += 1
        metadata.signed.expires = self._clock().replace(microsecond=0) + self._validity.of(role)
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        data = metadata.to_bytes()
        name = "timestamp" if role == "timestamp" else f"{metadata.signed.version}.{role}"
        write_atomic(self.directory / f"{name}.json", data, mode=PUBLIC_MODE)
        return data

    def rotate(self, role: str, wanted: Keys | None = None) -> None:
        """Replace all keys of `role` by new ones, as many unless `wanted`; remove the old ones.

        The old keys of the root have to be here, and for the others those of the role that names
        them, root or targets: a key that was lost is replaced, too.

        Raises:
            StateError: as `commit`; the old keys stay in force then.
        """
        old, threshold = list(self.key_policy(role)[0]), self.key_policy(role)[1]
        wanted = wanted or Keys(len(old), threshold)
        # What has to sign in the end is looked for before anything is published.
        above = "targets" if role in self._delegated() else "root"
        self.keys.signers(above, *self.key_policy(above))
        old_signers = self.keys.present(role, old)
        delegator = self._delegator_of(role)
        for keyid in old:
            delegator.revoke_key(keyid, role)
        for key in self.keys.generate(role, wanted.count):
            delegator.add_key(key, role)
        self._described(role).threshold = wanted.threshold
        new = self.key_policy(role)[0]
        both = [*old_signers, *self.keys.signers(role, new, wanted.threshold)]
        if above == "targets":
            # One timestamp switches delegation and role together.
            self.commit({"targets", role})
        elif role == "root":
            # 1. The new root is signed by the keys of the root before it and by its own.
            self.commit_root(both)
        else:
            # 1. What the new root asks for is there before the root is; until then the old
            #    root's keys count. (If they are lost, clients refuse it for this moment.)
            self.commit({role}, {role: both})
            # 2. The new root puts the new keys in force.
            self.commit_root()
        self.keys.retire(role, new)

    def expiring(self) -> list[tuple[str, datetime]]:
        """Return the roles with less than a quarter of their validity left, and their expiry.

        A daily `renew` with all keys at hand lets none come that far.
        """
        now = self._clock()
        found = [(role, self.metadata(role).signed.expires) for role in self.names()]
        return [(role, at) for role, at in found if at - now < self._validity.of(role) / 4]

    def renew(self) -> tuple[list[str], list[str]]:
        """Sign the timestamp again, and each role past half of its validity.

        Returns the roles that were signed, and those that were due but have a key elsewhere.

        Raises:
            StateError: as `commit`.
        """
        now = self._clock()
        due = [
            role
            for role in self.names()
            if self.metadata(role).signed.expires - now < self._validity.of(role) / 2
        ]
        elsewhere = set(due) - {"timestamp", "snapshot"}
        skipped = [role for role in elsewhere if self.wanting(role) is not None]
        due = [role for role in due if role not in skipped]
        self.commit(due)
        if "root" in due:
            self.commit_root()
        signed = {"timestamp", *due}
        if signed & {"targets", *self._delegated()}:
            signed.add("snapshot")
        return [role for role in self.names() if role in signed], sorted(skipped)


def _meta_file(metadata: Metadata[Any], data: bytes) -> MetaFile:
    digest = hashlib.sha256(data).hexdigest()
    return MetaFile(metadata.signed.version, len(data), {"sha256": digest})


def _read(path: Path, kind: type[Kind]) -> Metadata[Kind]:
    return parse_metadata(read_regular(path, MAX_STATE_BYTES), kind, path)
