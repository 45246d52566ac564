"""Replaces the keys of a role by new keys, which clients accept without action by users."""

from __future__ import annotations

from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES

from hashclient.provider.keys import Keys
from hashclient.provider.roles import Roles


def role_above(role: str) -> str:
    """Return the role whose metadata names the keys of `role`, which may be a list."""
    return "root" if role in TOP_LEVEL_ROLE_NAMES else "targets"


def rotate_keys(roles: Roles, role: str, wanted: Keys | None = None) -> None:
    """Replace all keys of `role` by new keys; `wanted` may change their number and threshold.

    The old keys are removed. A rotation of the keys of the root needs the old keys of the root. A
    rotation of the keys of another role needs only the keys of the role that names these keys, so
    that lost keys can be replaced.

    Raises:
        StateError: see `Roles.commit`; the old keys stay valid.
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
        # One new timestamp publishes the new keys in targets and the role that the new keys signed.
        roles.commit({"targets", role})
    elif role == "root":
        # The keys of the earlier root and the keys of the new root sign the new root.
        roles.commit_root(both)
    else:
        # 1. The metadata that the new root requires are written first. Until the root is written,
        #    clients verify these metadata with the old keys. If the old keys are lost, clients
        #    refuse these metadata until the root is written.
        roles.commit({role}, {role: both})
        # 2. From the new root on, clients verify the role with the new keys.
        roles.commit_root()
    roles.keys.retire(role, new)
