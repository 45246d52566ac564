"""The roles of a draft in a repository: their next versions unsigned, then signed and published.

A change needs new versions of the roles that it changes, then of the snapshot, which names these,
then of the timestamp, which names the snapshot. A draft has snapshot and timestamp only where their
keys are elsewhere; otherwise they are signed here when the draft is published. The snapshot and the
timestamp of a draft name roles of the same draft by the version alone: a length and a hash would
depend on who will sign. TUF leaves it to a provider whether it gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, Metadata, MetaFile

from hashclient.provider.keys import Roles, meta_file
from hashclient.system.files import MAX_STATE_BYTES, read_regular, state_error

#: They name other roles, and are signed with every change.
NAMING = ("snapshot", "timestamp")


def below_snapshot(changed: Collection[str]) -> list[str]:
    """Return the roles among `changed` that the snapshot names, targets last."""
    lower = sorted(set(changed) - TOP_LEVEL_ROLE_NAMES)
    return [*lower, *(["targets"] if "targets" in changed else [])]


def with_naming(changed: Collection[str]) -> set[str]:
    """Return the roles of a change, with snapshot and timestamp where they have to follow."""
    found = set(changed)
    if below_snapshot(found) or "snapshot" in found:
        found |= {*NAMING}
    return found


def published_bytes(roles: Roles, role: str) -> bytes | None:
    """Return the metadata of `role` as it is published, or None if it is not yet.

    Raises:
        StateError: it cannot be read.
    """
    version = roles.metadata(role).signed.version
    name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
    path = roles.directory / name
    try:
        return read_regular(path, MAX_STATE_BYTES) if version else None
    except OSError as error:
        raise state_error("cannot read published metadata", path, error) from error


def roles_to_sign(roles: Roles, changed: Collection[str]) -> list[str]:
    """Return the roles of a draft: the changed ones, and followers whose keys are elsewhere."""
    following = with_naming(changed).difference(changed)
    return sorted({*changed, *(name for name in following if roles.wanting(name) is not None)})


def next_versions(roles: Roles, names: Collection[str]) -> dict[str, Metadata[Any]]:
    """Return the next versions of the roles `names`, unsigned; nothing is written."""
    if "targets" in names:
        roles.delegate()
    found = {name: roles.metadata(name) for name in sorted(names)}
    for name, metadata in found.items():
        metadata.signed.version += 1
        metadata.signed.expires = roles.expiry_of(name)
        metadata.signatures.clear()
    if "snapshot" in found:
        name_changed(roles.snapshot.signed.meta, found)
    if "timestamp" in found and (version := snapshot_version(roles.timestamp, found)) is not None:
        roles.timestamp.signed.snapshot_meta = MetaFile(version)
    return found


def name_changed(meta: dict[str, MetaFile], roles: Mapping[str, Metadata[Any]]) -> None:
    """Let the `meta` of a snapshot name the roles of a draft, by their versions."""
    for name in below_snapshot(roles):
        meta[f"{name}.json"] = MetaFile(roles[name].signed.version)


def snapshot_version(before: Metadata[Any], roles: Mapping[str, Metadata[Any]]) -> int | None:
    """Return the version of the snapshot that the timestamp of a draft names; None for no new one.

    `before` is the timestamp that is published, `roles` are those of the draft.
    """
    if "snapshot" not in with_naming(set(roles) - {"timestamp"}):
        return None
    version: int = before.signed.snapshot_meta.version + 1
    return version


def left_to_draft(roles: Roles, draft: Collection[str], kept: Collection[str]) -> set[str]:
    """Return which of snapshot and timestamp are published as the draft has them.

    Those that can be signed here are signed here, so that they name published files by their
    hashes, and so that another publication does not invalidate a draft; but for `kept`, roles that
    are given other keys.

    Raises:
        StateError: one is not in the draft, and its keys are not here.
    """
    found = set()
    for name in NAMING:
        if name not in with_naming(draft):
            continue
        if name in kept or (name in draft and not roles.can_sign(name)):
            found.add(name)
        else:
            roles.require_signers([name])
    return found


def publish_roles(
    roles: Roles, signed: Mapping[str, Metadata[Any]], changed: Collection[str]
) -> None:
    """Write and publish roles that others have `signed`; the root comes last.

    Snapshot and timestamp are signed here where they follow from `changed` and are not in `signed`.

    Raises:
        StateError: a key is not here, or a file cannot be written; nothing is published then, or
            all but a new root.
    """
    below = below_snapshot(signed)
    for name in reversed(below):  # targets first: they say which roles there are
        roles.replace(name, signed[name])
    for name in below:
        data = roles.write(name, signed[name])
        roles.snapshot.signed.meta[f"{name}.json"] = meta_file(signed[name], data)
    following = with_naming(changed)
    if "snapshot" in following:
        data = _put(roles, "snapshot", signed)
        roles.timestamp.signed.snapshot_meta = meta_file(roles.snapshot, data)
    if "timestamp" in following:
        _put(roles, "timestamp", signed)
    if "root" in signed:
        _put(roles, "root", signed)


def _put(roles: Roles, name: str, signed: Mapping[str, Metadata[Any]]) -> bytes:
    if name not in signed:
        return roles.sign(name)
    roles.replace(name, signed[name])
    return roles.write(name, signed[name])
