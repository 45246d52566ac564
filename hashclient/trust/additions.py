"""Our additions to TUF's metadata: the role of notices, ended lists, and a longest validity.

A client refuses a provider that delegates to a role which is not a list. So the delegation to the
role of notices is a separate member of the top-level `targets`. Programs that do not know the
separate member ignore it, as TUF requires (its specification, 4.3). The member for notices is an
object like `delegations`, and is signed with the other members. `tuf` loads the metadata of the
role of notices; this module finds the delegation, and verifies the delegation and the metadata.

If a list has ended, clients remove it. The delegation of an ended list is removed, but the snapshot
still names its role, as TUF requires of every role (its specification, 5.5.5). If the delegation of
a list is missing and the list is not named as ended, this may be a mistake, and clients keep the
list. So the top-level `targets` name ended lists in a separate member.

The root limits how long signatures of snapshot and timestamp may be valid. The keys of snapshot and
timestamp are on a machine that publishes every day. Without the limit, a thief of the keys of
snapshot and timestamp could sign a repository that clients accept as fresh for years. The thief
cannot change the limit, because the keys of the root are kept in another place.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

import msgspec
from tuf.api.exceptions import (
    BadVersionNumberError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    TargetFile,
    Targets,
)

from hashclient.core.model import is_name
from hashclient.system.text import printable

#: The name of the role of notices, the member of the top-level targets that delegates to it, and
#: the paths that it may sign.
NOTICES = "notices"
FIELD = "hashclient-notices"
PATHS = ["notices/*"]
#: The largest number of notices that a provider may have published at a time.
MAX_NOTICES = 1_000
#: The largest metadata of the role of notices in bytes; the metadata of a thousand notices needs a
#: quarter of this size.
MAX_ROLE_BYTES = 1 << 20


class SignedNotices(msgspec.Struct, frozen=True):
    """The verified content of the role of notices: targets by the ids of notices, and expiry."""

    version: int
    expires: datetime
    targets: dict[str, TargetFile]


def notice_id_of(path: str) -> str | None:
    """Return the id of the notice at a target path, or None if no notice can have this path."""
    folder, _, name = path.partition("/")
    notice_id = name.removesuffix(".json")
    is_notice = folder == NOTICES and name != notice_id and is_name(notice_id)
    return notice_id if is_notice else None


def delegator_of(targets: Targets) -> Targets | None:
    """Return the delegation to the role of notices, or None if it does not exist.

    Raises:
        RepositoryError: the member `FIELD` is not a delegation, or delegates to other roles.
    """
    if FIELD not in targets.unrecognized_fields:
        return None
    # The delegation is put into a TUF document, so that python-tuf parses it as strictly as other
    # delegations.
    signed = {
        "_type": Targets.type,
        "spec_version": targets.spec_version,
        "version": 1,
        "expires": "9999-12-31T00:00:00Z",
        "targets": {},
        "delegations": targets.unrecognized_fields[FIELD],
    }
    document = json.dumps({"signed": signed, "signatures": []}).encode()
    delegator = Metadata[Targets].from_bytes(document).signed
    delegations = delegator.delegations
    roles = (delegations.roles if delegations else None) or {}
    role = roles.get(NOTICES)
    if role is None or len(roles) != 1 or role.paths != PATHS or not role.terminating:
        raise RepositoryError(f"{FIELD} is not for the role {NOTICES} and its files alone")
    if targets.delegations is not None and NOTICES in (targets.delegations.roles or {}):
        # A list must not have the name of the role, because the metadata of both would have the
        # same file name.
        raise RepositoryError(f"there is a list called {NOTICES} and a role of notices as well")
    return delegator


def new_delegator(threshold: int) -> Targets:
    """Return a delegation to a role of notices without keys."""
    role = DelegatedRole(NOTICES, [], threshold, terminating=True, paths=list(PATHS))
    return Targets(delegations=Delegations({}, {NOTICES: role}))


def delegate(targets: Targets, delegator: Targets) -> None:
    """Add the delegation of `delegator` to the top-level `targets`."""
    assert delegator.delegations is not None
    targets.unrecognized_fields[FIELD] = delegator.delegations.to_dict()


def verify_role(delegator: Targets, meta: MetaFile, data: bytes) -> SignedNotices:
    """Verify the metadata `data` of the role of notices, except its expiry; return its content.

    The rules are those of step 5.6 of TUF's specification, for a role that python-tuf's client does
    not find by itself:

    1. The length and the hashes of the metadata are those in the snapshot, if the snapshot has any.
    2. Enough keys have signed the metadata.
    3. The version of the metadata is the version in the snapshot.
    4. The role signs only notices.

    Raises:
        RepositoryError: a rule is broken.
        ValueError: a hash or a key is invalid.
    """
    try:
        meta.verify_length_and_hashes(data)  # rule 1 of `verify_role`
    except LengthOrHashMismatchError as error:
        raise RepositoryError(f"{NOTICES}.json is not the file that the snapshot names") from error
    metadata: Metadata[Targets] = Metadata.from_bytes(data)
    signed = metadata.signed
    if not isinstance(signed, Targets):
        raise RepositoryError(f"{NOTICES}.json is no targets metadata")
    # Rule 2 of `verify_role`.
    delegator.verify_delegate(NOTICES, metadata.signed_bytes, metadata.signatures)
    # Rule 3 of `verify_role`. (Python treats True like 1, but True is no version.)
    if signed.version is True or signed.version != meta.version:
        raise BadVersionNumberError(
            f"expected {NOTICES} version {meta.version}, got version {signed.version}"
        )
    if signed.delegations is not None:  # rule 4 of `verify_role`
        raise RepositoryError(f"role {NOTICES} delegates to others")
    if len(signed.targets) > MAX_NOTICES:
        raise RepositoryError(
            f"role {NOTICES} has {len(signed.targets):,} notices, more than {MAX_NOTICES:,}"
        )
    targets = {}
    for path, target in signed.targets.items():
        if (notice_id := notice_id_of(path)) is None:
            raise RepositoryError(f"role {NOTICES} signs {printable(path[:100])!r}, no notice")
        targets[notice_id] = target
    return SignedNotices(signed.version, signed.expires, targets)


#: The member of the top-level targets that names ended lists, as an array of names.
ENDED = "hashclient-ended"
#: The largest number of ended lists; it is larger than the number of lists, because names of lists
#: are never used again.
MAX_ENDED = 1_024


def ended_lists(targets: Targets) -> frozenset[str]:
    """Return the names of the lists that have ended.

    Raises:
        RepositoryError: the member `ENDED` is not an array of names, or names a list that is
            delegated.
    """
    found = targets.unrecognized_fields.get(ENDED, [])
    if not isinstance(found, list) or not all(isinstance(n, str) and is_name(n) for n in found):
        raise RepositoryError(f"{ENDED} is no array of names of lists")
    names = frozenset(found)
    if len(names) < len(found) or len(names) > MAX_ENDED:
        raise RepositoryError(f"{ENDED} has a name twice, or more than {MAX_ENDED:,}")
    delegations = targets.delegations
    if delegations is not None and names.intersection(delegations.roles or {}):
        raise RepositoryError(f"{ENDED} names a list that is delegated")
    return names


def end(targets: Targets, names: Collection[str]) -> None:
    """Mark the lists `names` as ended in `targets`.

    The delegations of these lists must have been removed.
    """
    targets.unrecognized_fields[ENDED] = sorted(names)


#: The member of the root that limits the validity of snapshot and timestamp, as a number of days.
LONGEST = "hashclient-longest-days"
MAX_DAYS = 3660
#: The tolerated difference between the clocks of a provider and a client.
TOLERANCE = timedelta(days=1)


def longest_of(root: Root) -> timedelta | None:
    """Return the longest validity of snapshot and timestamp, or None if the root sets no limit.

    Raises:
        RepositoryError: the member `LONGEST` is not a number of days.
    """
    days = root.unrecognized_fields.get(LONGEST)
    if days is None:
        return None
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= MAX_DAYS:
        raise RepositoryError(f"{LONGEST} is no number of days from 1 to {MAX_DAYS:,}")
    return timedelta(days=days)


def verify_expiry(root: Root, roles: Mapping[str, Signed], now: datetime) -> None:
    """Verify that snapshot and timestamp in `roles` expire within the limit of the root.

    Raises:
        RepositoryError: a role expires later, counted from `now`, or the limit is malformed.
    """
    longest = longest_of(root)
    if longest is None:
        return
    for name in ("snapshot", "timestamp"):
        if roles[name].expires > now + longest + TOLERANCE:
            raise RepositoryError(
                f"{name} is signed for more than the {longest.days:,} days that the root allows"
            )
