"""Compares a repository with a copy, which may be equal, older, newer, or forked.

A copy is forked if two hosts have published the same repository and have signed different metadata
under the same version. Metadata of a published version never change, so only the newest version
that both the repository and the copy have is compared. If the metadata in the copy differ, but no
key of this repository has signed the metadata in the copy, the copy is called foreign, not forked.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Snapshot, Timestamp

from hashclient.core.errors import AuthorisationError, UnreachableError, VerificationError
from hashclient.provider.draftroles import delegated, is_signed
from hashclient.provider.public import metadata_file, parse_metadata, read_public
from hashclient.provider.repository import Repository
from hashclient.provider.roles import Roles
from hashclient.trust.metadatadir import MAX_METADATA_BYTES

#: How many newer roots a copy may have; a hostile server could answer with a root for ever.
_MOST_ROOTS = 256

State = Literal["same", "behind", "ahead", "forked", "foreign"]


class Elsewhere(Protocol):
    """Fetches files of the copy, by addresses that begin with the base address of the copy."""

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        """Return the bytes of a file; an error has `status` 404 if the file does not exist."""


class RoleElsewhere(msgspec.Struct, frozen=True):
    """The versions of a role in this repository (`here`) and in the copy (`elsewhere`).

    A version is None if the role is missing. `state` says how the copy differs from this
    repository. The state `forked` means that keys of this repository have signed other metadata
    under the same version. The state `foreign` means that no keys of this repository have signed
    the metadata.
    """

    role: str
    here: int | None
    elsewhere: int | None
    state: State


def compare(repository: Repository, place: Elsewhere, base: str) -> tuple[RoleElsewhere, ...]:
    """Return the roles of a repository, compared with the files below the address `base`.

    Raises:
        StateError: the repository does not exist or is corrupt.
        UnreachableError, AuthorisationError: the copy cannot be fetched.
        VerificationError: a fetched file is not metadata.
    """
    return _Comparison(repository, place, base.rstrip("/")).roles()


class _Comparison:
    def __init__(self, repository: Repository, place: Elsewhere, base: str) -> None:
        self._roles: Roles = repository.load()
        self._place, self._base = place, base

    def roles(self) -> tuple[RoleElsewhere, ...]:
        timestamp = self._required("timestamp", Timestamp)
        snapshot = self._required("snapshot", Snapshot, timestamp.snapshot_meta.version)
        theirs = {name.removesuffix(".json"): m.version for name, m in snapshot.meta.items()}
        theirs["snapshot"], theirs["timestamp"] = snapshot.version, timestamp.version
        version = self._roles.root.signed.version
        while version > 1 and self._get("root", version) is None:
            version -= 1
        while self._get("root", version + 1) is not None:
            version += 1
            if version > self._roles.root.signed.version + _MOST_ROOTS:
                raise VerificationError(f"the address has more than {_MOST_ROOTS} newer roots")
        theirs["root"] = version
        ours = {name: self._roles.metadata(name).signed.version for name in self._roles.names()}
        ended = theirs.keys() & self._roles.ended
        names = [*ours, *sorted(theirs.keys() - ours.keys() - ended)]
        return tuple(self._compared(name, ours.get(name), theirs.get(name)) for name in names)

    def _compared(self, name: str, here: int | None, elsewhere: int | None) -> RoleElsewhere:
        state: State = "same"
        if here != elsewhere:
            state = "behind" if (here or 0) > (elsewhere or 0) else "ahead"
        if here is not None and elsewhere is not None:
            both = min(here, elsewhere)
            # All versions of the timestamp have the same file name, so only the newest can be
            # fetched.
            found = None if name == "timestamp" and here != elsewhere else self._get(name, both)
            known = self._roles.directory / metadata_file(name, both)
            if found is not None and known.exists():
                ours: Any = parse_metadata(read_public(known), type(found.signed), known)
                if found.signed != ours.signed:
                    named = delegated(self._roles.targets)
                    by_us = is_signed(name, found, self._roles.root, named)
                    state = "forked" if by_us else "foreign"
        return RoleElsewhere(name, here, elsewhere, state)

    def _get(self, role: str, version: int = 0) -> Metadata[Any] | None:
        """Return metadata of the copy; None if the copy does not have this version."""
        name = metadata_file(role, version)
        try:
            data = self._place.get(f"{self._base}/metadata/{name}", MAX_METADATA_BYTES)
        except (UnreachableError, AuthorisationError) as error:
            # The status 403 means that the token is not valid for this list. Some servers also
            # answer 403 if a file is missing.
            if getattr(error, "status", None) in (403, 404):
                return None
            raise
        try:
            found: Metadata[Any] = Metadata.from_bytes(data)
            _ = found.signed_bytes  # fails for a value that cannot be signed, such as 0.5
        except (RepositoryError, ValueError, RecursionError) as error:
            raise VerificationError(f"not metadata: {name}") from error
        return found

    def _required(self, role: str, kind: type[Any], version: int = 0) -> Any:
        found = self._get(role, version)
        if found is None or not isinstance(found.signed, kind):
            name = metadata_file(role, version)
            raise VerificationError(f"not a repository of hash lists: it has no {name}")
        return found.signed
