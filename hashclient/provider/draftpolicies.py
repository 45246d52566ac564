"""The roles of a draft: whose keys have to sign each, and how they name each other.

A change needs new versions of the roles that it changes, then of the snapshot, which names these,
then of the timestamp, which names the snapshot. The snapshot and the timestamp of a draft name
roles of the same draft by the version alone: a length and a hash would depend on who will sign. TUF
leaves it to a provider whether it gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.exceptions import VerificationError as BadSignatureError
from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, DelegatedRole, Metadata, MetaFile, Targets

from hashclient.provider.draftfiles import refuse
from hashclient.trust.additions import FIELD, NOTICES, delegator_of

#: They name other roles, and are signed with every change.
NAMING = ("snapshot", "timestamp")


class Policy(msgspec.Struct, frozen=True):
    """Keys of which `threshold` have to sign.

    With `may`, they need not: these are keys that others take the place of, by which clients that
    fetch just before that verify the role.
    """

    keys: dict[str, Key]
    threshold: int
    may: bool = False

    def wanting(self, keyids: set[str]) -> int:
        """Return how many signatures are missing when `keyids` have signed."""
        if self.may:
            return 0
        return max(0, self.threshold - len(keyids & set(self.keys)))


def policies_of(
    role: str, before: Mapping[str, Metadata[Any]], roles: Mapping[str, Metadata[Any]]
) -> list[Policy]:
    """Return whose keys have to sign `role` of a draft, or may.

    A root has two such groups, the keys before and its own. So has another role that a root gives
    other keys; but there the new ones are enough, since the old ones may be lost. `before` has the
    published roles, `roles` those of the draft.
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
    """Return a role as it is in the draft, or else as it is before."""
    return roles[name] if name in roles else before[name]


def policy_of(delegator: Any, role: Any) -> Policy:
    """Return whose keys sign a role, as the one that names it says."""
    keys = {keyid: delegator.keys[keyid] for keyid in role.keyids if keyid in delegator.keys}
    return Policy(keys, role.threshold)


def with_other_root_keys(old: Metadata[Any], new: Metadata[Any]) -> list[str]:
    """Return the roles that a root gives other keys than the one before."""
    return [
        name
        for name in ("root", "targets", "snapshot", "timestamp")
        if policy_of(old.signed, old.signed.roles[name])
        != policy_of(new.signed, new.signed.roles[name])
    ]


def notices_of(targets: Metadata[Any]) -> Targets | None:
    """Return what targets say of the role of notices, or None if they name none."""
    try:
        return delegator_of(targets.signed)
    except (RepositoryError, ValueError, TypeError, RecursionError):
        refuse("the role of notices in targets is not valid")


def delegated(targets: Metadata[Any]) -> dict[str, tuple[DelegatedRole, dict[str, Key]]]:
    """Return the roles that targets name, lists and that of notices, with their keys."""
    found = {}
    delegator = notices_of(targets)
    for one in (targets.signed, *([] if delegator is None else [delegator])):
        delegations = one.delegations
        if delegations is None or delegations.roles is None:
            refuse("targets name no lists")
        for name, role in delegations.roles.items():
            found[name] = role, policy_of(delegations, role).keys
    return found


def known_keys(before: Mapping[str, Metadata[Any]]) -> set[str]:
    """Return the ids of all keys that root and targets name before the draft."""
    listed = (key for _, keys in delegated(before["targets"]).values() for key in keys)
    return {*before["root"].signed.keys, *listed}


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


def is_valid(key: Key, signature: Signature, role: Metadata[Any]) -> bool:
    """Return whether a signature is of this key and of this role."""
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
    """Return the roles of a change, with snapshot and timestamp where they have to follow."""
    found = set(changed)
    if _below_snapshot(found) or "snapshot" in found:
        found |= {*NAMING}
    return found


def name_changed(meta: dict[str, MetaFile], roles: Mapping[str, Metadata[Any]]) -> None:
    """Let the `meta` of a snapshot name the roles of a draft, by their versions."""
    for name in _below_snapshot(roles):
        meta[f"{name}.json"] = MetaFile(roles[name].signed.version)


def snapshot_version(before: Metadata[Any], roles: Mapping[str, Metadata[Any]]) -> int | None:
    """Return the version of the snapshot that the timestamp of a draft names; None for no new one.

    `before` is the timestamp that is published, `roles` are those of the draft.
    """
    if "snapshot" not in with_naming(set(roles) - {"timestamp"}):
        return None
    version: int = before.signed.snapshot_meta.version + 1
    return version
