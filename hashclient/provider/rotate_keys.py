"""Replaces the keys of a role by new keys, so that clients follow by themselves."""

from __future__ import annotations

from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES

from hashclient.provider.keys import Keys
from hashclient.provider.roles import Roles


def role_above(role: str) -> str:
    """Return the role whose metadata names the keys of `role`, which may be a list."""
    return "root" if role in TOP_LEVEL_ROLE_NAMES else "targets"


def rotate_keys(roles: Roles, role: str, wanted: Keys | None = None) -> None:
    """Replace all keys of `role` by new keys, as many as before unless `wanted` says more.

    The old keys are removed. A rotation of the root needs the root's old keys. A rotation of
    another role needs the keys of the role above it, so that a lost key can be replaced.

    Raises:
        StateError: as `Roles.commit`; then the old keys stay in force.
    """
    old, threshold = list(roles.key_policy(role)[0]), roles.key_policy(role)[1]
    wanted = wanted or Keys(len(old), threshold)
    # All keys that the rotation needs are looked for before any file is published.
    above = role_above(role)
    roles.require_signers([above])
    for protecting in (role, above):
        roles.keys.protect_as(protecting, roles.key_policy(protecting)[0])
    old_signers = roles.keys.present(role, old)
    roles.replace_keys(role, wanted)
    new = roles.key_policy(role)[0]
    both = [*old_signers, *roles.keys.signers(role, new, wanted.threshold)]
    if above == "targets":
        # One timestamp switches delegation and role together.
        roles.commit({"targets", role})
    elif role == "root":
        # The keys of the earlier root and the keys of the new root sign the new root.
        roles.commit_root(both)
    else:
        # 1. The metadata that the new root requires is written first; until the root is written,
        # the keys of the old root count. (If the old keys are lost, clients refuse this metadata
        # until the root is written.)
        roles.commit({role}, {role: both})
        # 2. The new root puts the new keys in force.
        roles.commit_root()
    roles.keys.retire(role, new)
