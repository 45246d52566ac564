"""The roles of a draft: whose keys have to sign each role, and which fields may change.

A change needs new versions of the changed roles, of the snapshot, which names the changed roles,
and of the timestamp, which names the snapshot. The snapshot and the timestamp of a draft name roles
of the same draft only by version, without length and hash, because length and hash depend on the
signatures, which are added later. TUF allows metadata without length and hash. The functions raise
the errors that `hashclient.provider.drafts.load_draft` describes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.exceptions import VerificationError as BadSignatureError
from securesystemslib.signer import Key, Signature, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from hashclient.core.model import is_name
from hashclient.provider.draftfiles import refuse
from hashclient.system.text import printable
from hashclient.trust.additions import (
    ENDED,
    FIELD,
    LONGEST,
    NOTICES,
    delegator_of,
    ended_lists,
    longest_of,
)

#: The roles that name other roles by version and are signed with every change.
NAMING = ("snapshot", "timestamp")
#: The only fields of metadata that are true or false.
_FLAGS = ("consistent_snapshot", "terminating")
_KINDS: Mapping[str, type[Any]] = {"root": Root, "snapshot": Snapshot, "timestamp": Timestamp}


class Policy(msgspec.Struct, frozen=True):
    """A group of keys; at least `threshold` of these keys have to sign a role.

    If `may` is true, the keys are allowed to sign, but need not sign. Keys with `may` are about to
    be replaced, and a client that does not have the new root yet verifies the role with the old
    keys.
    """

    keys: dict[str, Key]
    threshold: int
    may: bool = False

    def wanting(self, keyids: set[str]) -> int:
        """Return how many more keys have to sign, if the keys `keyids` have signed."""
        if self.may:
            return 0
        return max(0, self.threshold - len(keyids & set(self.keys)))


def policies_of(
    role: str, before: Mapping[str, Metadata[Any]], roles: Mapping[str, Metadata[Any]]
) -> list[Policy]:
    """Return the groups of keys that have to sign, or may sign, `role` of a draft.

    Two groups of keys have to sign a root: the keys of the previous root, and the keys of the new
    root. If a new root gives a role other keys, only the new keys have to sign the role, because
    the old keys may be lost. The old keys may sign, too. `before` has the published roles, `roles`
    has the roles of the draft.
    """
    if role not in TOP_LEVEL_ROLE_NAMES:
        described, keys = delegated(newest("targets", before, roles))[role]
        return [Policy(keys, described.threshold)]
    old, new = (
        policy_of(root.signed, root.signed.roles[role])
        for root in (before["root"], newest("root", before, roles))
    )
    if role == "root":
        return [old, new]
    return [new] if old == new else [new, Policy(old.keys, old.threshold, may=True)]


def newest(
    name: str, before: Mapping[str, Metadata[Any]], roles: Mapping[str, Metadata[Any]]
) -> Metadata[Any]:
    """Return the role `name` of the draft, or the published role if the draft lacks it."""
    return roles[name] if name in roles else before[name]


def policy_of(delegator: Any, role: Any) -> Policy:
    """Return the keys and the threshold that `delegator` names for the role `role`."""
    keys = {keyid: delegator.keys[keyid] for keyid in role.keyids if keyid in delegator.keys}
    return Policy(keys, role.threshold)


def with_other_root_keys(old: Metadata[Any], new: Metadata[Any]) -> list[str]:
    """Return the roles to which the root `new` gives other keys than the root `old`."""
    return [
        name
        for name in ("root", "targets", "snapshot", "timestamp")
        if policy_of(old.signed, old.signed.roles[name])
        != policy_of(new.signed, new.signed.roles[name])
    ]


def notices_of(targets: Metadata[Any]) -> Targets | None:
    """Return the delegation in targets to the role of notices; None if it does not exist."""
    try:
        return delegator_of(targets.signed)
    except (RepositoryError, ValueError, TypeError, RecursionError):
        refuse("the role of notices in targets is not valid")


def delegated(targets: Metadata[Any]) -> dict[str, tuple[DelegatedRole, dict[str, Key]]]:
    """Return the roles that targets name (lists, and the role of notices), with their keys."""
    found = {}
    delegator = notices_of(targets)
    for one in (targets.signed, *([] if delegator is None else [delegator])):
        delegations = one.delegations
        if delegations is None or delegations.roles is None:
            refuse("targets name no lists")
        for name, role in delegations.roles.items():
            if not isinstance(name, str) or not is_name(name):
                refuse("targets name a list by something else than a name")
            found[name] = role, policy_of(delegations, role).keys
    return found


def known_keys(before: Mapping[str, Metadata[Any]]) -> set[str]:
    """Return the ids of all keys that the published root and targets give to a role."""
    listed = (key for _, keys in delegated(before["targets"]).values() for key in keys)
    roles = before["root"].signed.roles.values()
    return {*listed, *(key for role in roles for key in role.keyids)}


def lists_of(targets: Metadata[Any]) -> set[str]:
    """Return the names of the lists that targets name."""
    others = {NOTICES} if FIELD in targets.signed.unrecognized_fields else set()
    return set(delegated(targets)) - others


def signers_of(role: Metadata[Any], policy: Policy) -> set[str]:
    """Return the ids of the keys of a policy that have signed a role."""
    return {
        keyid
        for keyid, key in policy.keys.items()
        if keyid in role.signatures and is_valid(key, role.signatures[keyid], role)
    }


def is_signed(
    name: str,
    role: Metadata[Any],
    root: Metadata[Any],
    named: Mapping[str, tuple[DelegatedRole, dict[str, Key]]],
) -> bool:
    """Return whether enough keys have signed a role; `root` or `named` has the keys of the role."""
    if name in TOP_LEVEL_ROLE_NAMES:
        policy = policy_of(root.signed, root.signed.roles[name])
    else:
        described, keys = named[name]
        policy = Policy(keys, described.threshold)
    return not policy.wanting(signers_of(role, policy))


def is_valid(key: Key, signature: Signature, role: Metadata[Any]) -> bool:
    """Return whether `key` has made the `signature` over the bytes of `role`."""
    try:
        key.verify_signature(signature, role.signed_bytes)
    except (UnverifiedSignatureError, BadSignatureError, ValueError):
        return False
    return True


def _below_snapshot(changed: Collection[str]) -> list[str]:
    """Return the roles among `changed` that the snapshot names, targets last."""
    lower = sorted(set(changed) - TOP_LEVEL_ROLE_NAMES)
    return [*lower, *(["targets"] if "targets" in changed else [])]


def with_naming(changed: Collection[str]) -> set[str]:
    """Return `changed` with snapshot and timestamp, if new versions of these are needed."""
    found = set(changed)
    if _below_snapshot(found) or "snapshot" in found:
        found |= {*NAMING}
    return found


def name_changed(meta: dict[str, MetaFile], roles: Mapping[str, Metadata[Any]]) -> None:
    """Write the versions of a draft's roles into the `meta` of a snapshot."""
    for name in _below_snapshot(roles):
        meta[f"{name}.json"] = MetaFile(roles[name].signed.version)


def snapshot_version(before: Metadata[Any], roles: Mapping[str, Metadata[Any]]) -> int | None:
    """Return the version of the snapshot for the timestamp of a draft; None if unchanged.

    `before` is the published timestamp, `roles` are the roles of the draft.
    """
    if "snapshot" not in with_naming(set(roles) - {"timestamp"}):
        return None
    version: int = before.signed.snapshot_meta.version + 1
    return version


def is_of_its_kind(name: str, role: Metadata[Any]) -> bool:
    """Return whether `role` is metadata of the type that a role with this name needs."""
    return isinstance(role.signed, _KINDS.get(name, Targets))


def verify_before(before: Mapping[str, Metadata[Any]]) -> None:
    """Verify that the metadata in `before/` is signed by keys that its root and targets name."""
    for name, role in before.items():
        if not is_of_its_kind(name, role):
            refuse("earlier metadata is of another kind")
    named = delegated(before["targets"])
    for name, role in before.items():
        if name not in TOP_LEVEL_ROLE_NAMES and name not in named:
            refuse(f"earlier metadata names no list {printable(name)}")
        if not is_signed(name, role, before["root"], named):
            refuse(f"earlier metadata is not signed as it has to be: role {printable(name)}")


def has_other_flags(value: object) -> bool:
    """Return whether `value` has True for a number, or a number for True; Python takes True for 1.

    Other programs that read the metadata would refuse the value.
    """
    if isinstance(value, dict):
        return any(
            isinstance(inner, bool) != (key in _FLAGS) or has_other_flags(inner)
            for key, inner in value.items()
        )
    return isinstance(value, list) and any(map(has_other_flags, value))


def verify_keys(before: Mapping[str, Metadata[Any]], roles: Mapping[str, Metadata[Any]]) -> None:
    """Verify that each key in root and targets is an Ed25519 key with its own id.

    TUF allows any text as the id of a key. Without this check, a person who makes a draft could
    give a key of their own the id of another person's key.
    """
    targets = newest("targets", before, roles)
    delegators = [newest("root", before, roles).signed, targets.signed.delegations]
    if (notices := notices_of(targets)) is not None:
        delegators.append(notices.delegations)
    for delegator in filter(None, delegators):
        named = {keyid for role in (delegator.roles or {}).values() for keyid in role.keyids}
        if not all(map(_has_own_id, delegator.keys.values())) or not named <= set(delegator.keys):
            refuse("a key does not have its own id")


def _has_own_id(key: Key) -> bool:
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
    except (LookupError, TypeError, ValueError):
        return False
    own = SSlibKey.from_crypto(public)
    own.unrecognized_fields = key.unrecognized_fields  # the name of the person
    return own == key


def verify_delegations(
    before: Mapping[str, Metadata[Any]], roles: Mapping[str, Metadata[Any]]
) -> None:
    """Verify that root and targets change the keys only of roles that are in the draft."""
    old = delegated(before["targets"])
    new = delegated(newest("targets", before, roles))
    if "targets" in roles:
        if roles["targets"].signed.targets:
            refuse("targets name files of their own")
        ended, before_ended = ended_by(roles["targets"]), ended_by(before["targets"])
        if not before_ended <= ended or not ended - before_ended <= lists_of(before["targets"]):
            refuse("targets say of other lists that they have ended")
        for name in sorted((set(old) | set(new)) - ended):
            known = old.get(name) == new.get(name)
            if not known and (name not in new or name not in roles):
                refuse(f"targets change list {printable(name)}, which is not in the draft")
            # `delegator_of` checks the paths of notices.
            own = [f"lists/{name}/*"] if name in lists_of(roles["targets"]) else new[name][0].paths
            if not known and (new[name][0].paths != own or not new[name][0].terminating):
                refuse(f"targets give list {printable(name)} files that are not its own")
    for name in sorted(set(roles) - TOP_LEVEL_ROLE_NAMES):
        if name not in new:
            refuse(f"targets name no list {printable(name)}")
        if name not in before and name in old:
            refuse(f"earlier metadata of list {printable(name)} is missing")
    if "root" in roles:
        for name in with_other_root_keys(before["root"], roles["root"]):
            if name not in roles:
                refuse(f"the root has other keys for role {name}")


def verify_naming(before: Mapping[str, Metadata[Any]], roles: Mapping[str, Metadata[Any]]) -> None:
    """Verify that snapshot and timestamp name the roles of the draft, and change nothing else."""
    for name in {"snapshot", "timestamp"}.intersection(roles):
        if name not in before:
            refuse(f"earlier metadata of role {name} is missing")
    if "snapshot" in roles:
        meta = dict(before["snapshot"].signed.meta)
        name_changed(meta, roles)
        if roles["snapshot"].signed.meta != meta:
            refuse("the snapshot names other changes than the draft")
    if "timestamp" in roles:
        version = snapshot_version(before["timestamp"], roles)
        kept = before["timestamp"].signed.snapshot_meta
        named = kept if version is None else MetaFile(version)
        if roles["timestamp"].signed.snapshot_meta != named:
            refuse("the timestamp names another snapshot than the one that follows")


def unknown_fields(name: str, role: Metadata[Any]) -> dict[str, Any]:
    """Return the fields of a role that neither TUF nor this program defines."""
    fields: dict[str, Any] = dict(role.signed.unrecognized_fields)
    if name == "root":
        longest(role)
        fields.pop(LONGEST, None)
    if name == "targets":
        ended_by(role)
        fields.pop(ENDED, None)
    if name == "targets" and (delegator := notices_of(role)) is not None:
        known = delegator.delegations
        assert known is not None
        if not known.unrecognized_fields and fields[FIELD] == known.to_dict():
            del fields[FIELD]
    return fields


def longest(root: Metadata[Any]) -> timedelta | None:
    """Return the longest validity of snapshot and timestamp, if a root sets it.

    Raises:
        VerificationError: the number in the root is not a number of days.
    """
    try:
        return longest_of(root.signed)
    except RepositoryError as error:
        refuse(str(error))


def ended_by(targets: Metadata[Any]) -> frozenset[str]:
    """Return the names of the lists that have ended, as the role `targets` says."""
    try:
        return ended_lists(targets.signed)
    except RepositoryError as error:
        refuse(str(error))
