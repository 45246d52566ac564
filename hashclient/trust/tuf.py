"""Trust: from a pinned root to verified bytes, with the client of The Update Framework (TUF).

python-tuf decides which data is trusted. This module connects python-tuf with our transport and our
state directory, translates its errors, and adds the rules that a provider of hash lists must follow
beyond TUF (`docs/format.md`): each list has one delegated, terminating role for only the files of
the list, and all JSON parsers read the metadata in the same way. `additions` verifies the role of
notices, which python-tuf does not find by itself. Verified metadata is kept in memory, because a
list has as many targets as segments; `metadatadir` manages the directory of the metadata. The
caller must have the writers' lock, because several processes must not use python-tuf in one
directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol, cast

import msgspec
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, Root, Signed, Snapshot, TargetFile, Targets
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater

from hashclient.core.errors import (
    AuthorisationError,
    DeliveryError,
    HashclientError,
    StaleError,
    UnreachableError,
    VerificationError,
)
from hashclient.core.model import MAX_LISTS, is_name
from hashclient.system.files import state_error
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt, for_people, printable
from hashclient.trust.additions import (
    MAX_ROLE_BYTES,
    NOTICES,
    SignedNotices,
    delegator_of,
    ended_lists,
    verify_expiry,
    verify_role,
)
from hashclient.trust.metadatadir import MAX_METADATA_BYTES, MetadataDir

#: `METADATA_HINT`, `_SIGN_AGAIN_HINT`: hints about metadata that cannot be trusted.
METADATA_HINT = "nothing was changed; tell the provider if it persists"
_SIGN_AGAIN_HINT = "the provider has to sign again; if it has, check this machine's clock"
#: The largest length in bytes of a file whose length is not signed.
_MAX_UNANNOUNCED_BYTES = 64 << 20
#: The digests of a target that are accepted: a target must have at least one of them, and the first
#: that it has is put before the name in the target's address.
_STRONG_HASHES = {
    "sha256": re.compile(r"[0-9a-f]{64}", re.ASCII),
    "sha512": re.compile(r"[0-9a-f]{128}", re.ASCII),
}
#: The other digest algorithms, whose digests are verified if they are signed. SHAKE algorithms are
#: left out because the length of their digests is not fixed.
_KNOWN_HASHES = {name for name in hashlib.algorithms_guaranteed if not name.startswith("shake")}


class Source(Protocol):
    """The source of bytes: `hashclient.net.client.Transport`, or a simulator in tests."""

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        """Return the content of the file at `url`, which has at most `max_bytes`.

        Failures are raised as errors of the project.
        """


class TufFetcher(FetcherInterface):
    """Connects python-tuf with our transport.

    The content of files is kept in memory and not in a temporary folder.
    """

    def __init__(self, source: Source) -> None:
        """Fetch from `source`."""
        self._source = source
        #: The content and the name of the file that was received last. The message about expired
        #: metadata needs them.
        self.last_body = b""
        self.last_name = "root.json"

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self._body(url, _MAX_UNANNOUNCED_BYTES)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return the bytes of the metadata at `url`.

        If a key occurs twice, python-tuf's parser uses the last value, so another parser could read
        other values than those that were verified. So metadata with a repeated key is refused
        before it is trusted.

        Raises:
            DownloadHTTPError: the status is 403 or 404, which ends python-tuf's search for a newer
                root.
            RepositoryError: the metadata is not JSON with one meaning.
            HashclientError: another failure, which python-tuf does not catch.
        """
        body = self._body(url, min(max_length, MAX_METADATA_BYTES))
        try:
            parse_json(body)
        except ValueError as error:
            raise tuf_errors.RepositoryError(
                f"{self.last_name}: malformed JSON: {error}"
            ) from error
        return body

    @contextlib.contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """Yield the content of the file at `url` as a file object in memory."""
        yield io.BytesIO(self._body(url, max_length))

    def _body(self, url: str, max_length: int) -> bytes:
        self.last_name = url.rpartition("/")[2]
        try:
            self.last_body = self._source.get(url, max_length)
        except (UnreachableError, AuthorisationError) as error:
            status = getattr(error, "status", None)
            if status in (403, 404):
                raise tuf_errors.DownloadHTTPError(error.message, status) from error
            raise
        return self.last_body


class Trust:
    """The verified metadata of one provider at one time."""

    def __init__(
        self,
        directory: Path,
        url: str,
        source: Source,
        pinned_root: bytes,
        *,
        name: str,
        now: datetime,
    ) -> None:
        """Prepare to refresh the metadata in `directory`, beginning with the pinned root.

        Raises:
            VerificationError: the pinned root is not a root.
            StateError: the directory cannot be written.
        """
        self._directory = MetadataDir(directory)
        self._name = name
        self._now = now
        base = url.rstrip("/")
        self._metadata_url = f"{base}/metadata"
        self._targets_url = f"{base}/targets"
        self._source = source
        self._fetcher = TufFetcher(source)
        #: The metadata that python-tuf has verified, by the name of the role.
        self._verified: dict[str, Signed] = {}
        with self._translated():
            parse_json(pinned_root)
            self._updater = Updater(
                str(directory),
                self._metadata_url,
                fetcher=self._fetcher,
                bootstrap=pinned_root,
            )

    def refresh(self) -> None:
        """Update the metadata of the top-level roles.

        If nothing is new, a refresh takes two small requests: for the next root, which does not
        exist, and for the timestamp.

        Raises:
            StaleError: signed metadata has expired.
            VerificationError: the signatures of metadata are wrong, or the metadata is older than
                before. UnreachableError, AuthorisationError, StateError: a request has failed, or a
                file cannot be written.
        """
        self._verified.clear()
        with self._translated():
            self._updater.refresh()
        for role in TOP_LEVEL_ROLE_NAMES:
            self._keep(role)
        with self._translated():
            verify_expiry(self._root, self._verified, self._now)
        self.make_durable()
        if not self._root.consistent_snapshot:
            raise VerificationError(
                f"provider {self._name}: its root does not say consistent_snapshot: true",
                hint="the provider has to publish under names that carry version and hash",
            )

    def lists(self) -> list[str]:
        """Return the names of the lists to which the provider delegates; call this after `refresh`.

        Raises:
            VerificationError: a delegation is not for exactly the files of one list.
        """
        targets: Any = self._verified[Targets.type]
        if targets.targets:
            raise VerificationError(
                f"provider {self._name}: the top-level role signs files", hint=METADATA_HINT
            )
        if targets.delegations is None or not targets.delegations.roles:
            if targets.delegations is not None and targets.delegations.succinct_roles:
                raise VerificationError(
                    f"provider {self._name}: hash bins are not supported", hint=METADATA_HINT
                )
            return []
        if len(targets.delegations.roles) > MAX_LISTS:
            raise VerificationError(
                f"provider {self._name}: it offers {len(targets.delegations.roles):,} lists, more"
                f" than {MAX_LISTS}",
                hint=METADATA_HINT,
            )
        with self._translated():  # python-tuf does not check that a name is a text
            for role in targets.delegations.roles.values():
                if (
                    not is_name(role.name)
                    or role.paths != [f"lists/{role.name}/*"]
                    or role.terminating is not True
                ):
                    raise VerificationError(
                        f"provider {self._name}: delegation {printable(role.name)!r} is not for"
                        " the files of the list of its name alone",
                        hint=METADATA_HINT,
                    )
        return sorted(targets.delegations.roles)

    def ended(self) -> frozenset[str]:
        """Return the names of the lists that the provider has ended; call this after `refresh`.

        Raises:
            VerificationError: the member of the targets that names ended lists is malformed.
        """
        with self._translated():
            return ended_lists(cast("Targets", self._verified[Targets.type]))

    def expires(self, list_name: str) -> datetime:
        """Return the earliest expiry of the metadata for a list; call this after `target`."""
        roles = ("root", "timestamp", "snapshot", "targets", list_name)
        return min(self._verified[role].expires for role in roles)

    def epoch(self) -> str:
        """Return a name for the present snapshot keys; call this after `refresh`.

        When the provider replaces the snapshot keys, clients forget which versions they have seen
        (TUF, 5.3.11). Clients must forget these versions after a thief has used the keys to sign
        very high versions. All other numbers that may only increase are forgotten together with
        these versions.

        Raises:
            VerificationError: the root is malformed.
        """
        with self._translated():  # python-tuf does not check that the id of a key is a text
            keyids = "".join(sorted(self._root.roles["snapshot"].keyids)).encode()
        return hashlib.sha256(keyids).hexdigest()[:16]

    def target(self, list_name: str, file_name: str) -> TargetFile:
        """Return the target of a file of a list: its signed length and hashes.

        Raises:
            VerificationError: the role of the list does not sign the file. StaleError,
            UnreachableError, …: loading the role of the list has failed, as in `refresh`.
        """
        if not is_name(list_name) or not is_name(file_name):
            raise VerificationError(
                f"name is not allowed in a list: {printable(f'{list_name}/{file_name}')!r}"
            )
        path = f"lists/{list_name}/{file_name}"
        role: Any = self._verified.get(list_name)
        if role is None:
            with self._translated():
                info = self._updater.get_targetinfo(path)
        else:
            # `lists` has checked that the role of the list may sign every file of the list.
            info = role.targets.get(path)
        if info is None:
            raise VerificationError(f"list {list_name}: its keys do not vouch for {file_name}")
        _check_hashes(info, f"list {list_name}: {file_name}")
        role = role or self._keep(list_name)
        if role.delegations is not None:
            # If a role could delegate, expiry and keys would depend on the file.
            raise VerificationError(f"list {list_name}: its role delegates to others")
        return info

    def hashes(self, list_name: str) -> dict[str, str]:
        """Return the signed hashes of the files of a list, by name; call this after `target`.

        Files that are signed without a SHA-256 or SHA-512 are left out.
        """
        role: Any = self._verified[list_name]
        folder = f"lists/{list_name}/"
        return {
            path.removeprefix(folder): self.hash_of(info)
            for path, info in role.targets.items()
            if path.startswith(folder) and not _STRONG_HASHES.keys().isdisjoint(info.hashes)
        }

    def notices(self) -> SignedNotices | None:
        """Return the signed notices, after `refresh`; None if the provider has no role of notices.

        The metadata of the role of notices is stored in the directory of the other metadata, and is
        verified each time, because its keys may have been replaced. A request is made only if the
        stored metadata is not the version that the snapshot names.

        Raises:
            VerificationError: the metadata of the role is not signed as required, or contradicts
                the snapshot.
            StaleError: the metadata of the role has expired.
            UnreachableError, AuthorisationError, StateError: a request has failed, or a file cannot
                be written.
        """
        with self._translated():
            delegator = delegator_of(cast("Targets", self._verified[Targets.type]))
            if delegator is None:
                return None
            meta = cast("Snapshot", self._verified[Snapshot.type]).meta.get(f"{NOTICES}.json")
            if meta is None:
                raise tuf_errors.RepositoryError(f"the snapshot does not name {NOTICES}.json")
            try:
                found = verify_role(delegator, meta, self._directory.read_bytes(NOTICES))
            except (OSError, tuf_errors.RepositoryError, ValueError, TypeError, KeyError):
                url = f"{self._metadata_url}/{meta.version}.{NOTICES}.json"
                data = self._fetcher.download_bytes(
                    url, min(meta.length or MAX_ROLE_BYTES, MAX_ROLE_BYTES)
                )
                found = verify_role(delegator, meta, data)
                self._directory.write(NOTICES, data)
        for notice_id, info in found.targets.items():
            _check_hashes(info, f"notice {notice_id}")
        if found.expires <= self._now:
            raise StaleError(
                f"provider {self._name}: role {NOTICES} has expired, on"
                f" {for_people(found.expires)}",
                hint=_SIGN_AGAIN_HINT,
            )
        upper = min(self._verified[role].expires for role in TOP_LEVEL_ROLE_NAMES)
        return msgspec.structs.replace(found, expires=min(found.expires, upper))

    def download(self, info: TargetFile, max_bytes: int) -> bytes:
        """Return the verified bytes of a target.

        Raises:
            VerificationError: the target is longer than `max_bytes`, or differs from the signed
                hashes.
            UnreachableError, AuthorisationError: the request has failed.
        """
        if info.length > max_bytes:
            raise VerificationError(
                f"{info.path} is signed with {info.length} bytes, more than {max_bytes}"
            )
        folder, slash, base = info.path.rpartition("/")
        digest = info.hashes[_naming_hash(info)]
        data = self._source.get(
            f"{self._targets_url}/{folder}{slash}{digest}.{base}",
            info.length,
            expected_bytes=info.length,
        )
        known = {name: info.hashes[name] for name in info.hashes if name in _KNOWN_HASHES}
        with self._translated():
            TargetFile(info.length, known, info.path).verify_length_and_hashes(data)
        return data

    @staticmethod
    def hash_of(info: TargetFile) -> str:
        """Return a signed digest of a target as a text, usually its SHA-256 in hexadecimal.

        If the target has no SHA-256, the text is `sha512:` and the SHA-512.
        """
        name = _naming_hash(info)
        return info.hashes[name] if name == "sha256" else f"{name}:{info.hashes[name]}"

    def make_durable(self) -> None:
        """Make metadata that was loaded after `refresh` survive a power loss.

        Raises:
            StateError: the metadata cannot be synced.
        """
        self._directory.make_durable()

    def _keep(self, role: str) -> Signed:
        """Read metadata that python-tuf has just verified and written, and remember it."""
        with self._translated():
            signed = self._directory.read(role)
        self._verified[role] = signed
        return signed

    @property
    def _root(self) -> Root:
        root = self._verified[Root.type]
        assert isinstance(root, Root)
        return root

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate python-tuf's errors into errors of this project."""
        try:
            yield
        except HashclientError:
            raise
        except tuf_errors.DownloadHTTPError as error:
            # `TufFetcher` raises this error for 403 and 404; the search for a new root expects it,
            # but elsewhere it is a failure.
            if isinstance(error.__cause__, HashclientError):
                raise error.__cause__ from None
            raise UnreachableError(f"provider {self._name}: {excerpt(error)}") from error
        except tuf_errors.ExpiredMetadataError as error:
            raise self._stale(error) from error
        except DeserializationError as error:
            reason = excerpt(error.__cause__ or error)
            raise DeliveryError(
                f"provider {self._name}: {self._fetcher.last_name} is not metadata: {reason}",
                hint=METADATA_HINT,
            ) from error
        except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
            raise DeliveryError(
                f"provider {self._name}: {excerpt(error)}",
                hint=METADATA_HINT,
            ) from error
        except OSError as error:
            raise state_error("cannot keep metadata in", self._directory.path, error) from error
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise DeliveryError(
                f"provider {self._name}: metadata is malformed: {excerpt(error)}",
                hint=METADATA_HINT,
            ) from error

    def _stale(self, error: Exception) -> StaleError:
        since = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            body = self._fetcher.last_body
            if "root" in str(error):
                # The expiry of the root is verified after the timestamp was received, so
                # `last_body` does not contain the root.
                body = self._directory.read_root()
            signed = parse_json(body)["signed"]
            expires = datetime.fromisoformat(signed["expires"])
            if expires <= self._now:
                days = (self._now - expires).days
                since = f" since {for_people(expires)} ({days} days)"
        return StaleError(
            f"provider {self._name}: {error}{since}",
            hint=_SIGN_AGAIN_HINT,
        )


def _check_hashes(info: TargetFile, what: str) -> None:
    """Check that a file is signed by a hash of `_STRONG_HASHES`, which can be part of an address.

    Raises:
        VerificationError: the file has no hash of this kind, or a malformed one.
    """
    signed = {name: info.hashes[name] for name in _STRONG_HASHES if name in info.hashes}
    if not signed:
        raise VerificationError(f"{what} is signed without a SHA-256 or SHA-512")
    for name, digest in signed.items():
        if not _STRONG_HASHES[name].fullmatch(digest):
            raise VerificationError(f"{what} has a malformed {name}")


def _naming_hash(info: TargetFile) -> str:
    """Return the algorithm of the digest that is put before a target's name in its address."""
    return next(name for name in _STRONG_HASHES if name in info.hashes)
