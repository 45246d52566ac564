"""The manifest of a list: the generation of the list, its runs, and a code over both.

A new manifest replaces the old one by a rename, which switches readers to the next generation. A
message authentication code under the seal key covers the whole manifest, including its expiry, so
that bytes changed on the disk are noticed.
"""

import errno
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from hashclient.core.errors import StateError
from hashclient.core.model import Time
from hashclient.core.staleness import ListState, state_of
from hashclient.index.blinding import NO_MAC, Sealer, authenticate, verify_document
from hashclient.index.run import REBUILD_HINT, Count, DamagedError, damaged, digest_pieces, root_of
from hashclient.system.files import MAX_STATE_BYTES, read_regular, state_error, write_atomic
from hashclient.system.layout import MANIFEST_NAME
from hashclient.system.text import excerpt, printable
from hashclient.system.versions import format_of, is_newer, newer

MANIFEST_FORMAT = "hashclient-index/2"

#: The types of times and names are strict, because the disk may have garbled the manifest.
RunName = Annotated[str, msgspec.Meta(pattern=r"^run-[0-9]{8,18}\Z")]
_Checksum = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]


class OtherKeyError(StateError):
    """A list was sealed with another key, so a lookup with the present key finds no entry."""


class RunRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A run, as the manifest names it; `length` is the length of the file in bytes.

    `root`: the root over the digests of the run's pieces, in hexadecimal. A run whose `root` is
    empty fails every verification. `id`: the random id that is in the header of the run.
    """

    name: RunName
    length: Count
    entries: Count
    root: str = ""
    id: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A generation of a list, as it is stored on the disk.

    `mac`: the code in the document from which the manifest was read. `expires`: the earliest expiry
    of the metadata that signed the generation. `index_hash`: the signed hash of the generation's
    `index.json`. `with_digest`: the number of live entries with a digest of each algorithm.
    `with_size`: the number of live entries with a size. `epoch`: a name for the provider's snapshot
    keys; when it changes, generations may begin again with lower numbers (see `Trust.epoch`).

    `verified_at`: when a fetch last compared pieces of the runs with their digests.
    `oldest_verified`: when the piece that was compared longest ago was compared. `rotten`: the name
    of a run that differs from the written bytes; the list is then damaged.

    `segments`: the signed hashes of the segments of the generation, by name. `mark`: the mark of
    the generation in the history of the list, or empty if the provider signs none.

    `offered`: the lists that the provider offered at the last check, including this list. The
    metadata of the provider also names the offered lists, but scans do not verify metadata, while
    the code of the manifest covers `offered`.
    """

    format: str
    key_id: str
    mac: str = ""
    list: str
    provider: str
    generation: Count
    published_at: Time
    fetched_at: Time
    checked_at: Time
    expires: Time
    entries: Count
    checksum: _Checksum
    with_digest: dict[str, Count]
    with_size: Count
    index_hash: str
    runs: tuple[RunRef, ...]
    epoch: str = ""
    segments: dict[str, str] = {}
    mark: str = ""
    verified_at: Time | None = None
    oldest_verified: Time | None = None
    rotten: RunName | None = None
    offered: tuple[str, ...] = ()

    @property
    def verified_since(self) -> datetime:
        """The time since which every byte of the index has been compared or written."""
        return self.oldest_verified or self.fetched_at

    def state(self, now: datetime, grace: timedelta) -> ListState:
        """Return whether the list is fresh, in grace or stale at `now`; see `state_of`."""
        dates = self.checked_at, self.expires
        return state_of(self.list, self.generation, *dates, now=now, grace=grace)


class Document(msgspec.Struct, frozen=True):
    """A manifest that is not verified yet, and the bytes from which it was read."""

    manifest: Manifest
    data: bytes
    path: Path

    def verify(self, sealer: Sealer) -> Manifest:
        """Verify the manifest with the key of `sealer`, and return it.

        Raises:
            OtherKeyError: another key sealed the list.
            DamagedError: the manifest differs from the written bytes.
        """
        # Step 1 of `verify`: check the id of the key.
        if self.manifest.key_id != sealer.key_id:
            raise OtherKeyError(
                f"list {self.manifest.list} was sealed with another key",
                hint="use the key that sealed the list, or build the list again: `hashclient "
                "fetch --rebuild`, or `scan --fetch`",
            )
        # Step 2 of `verify`: check the code.
        try:
            verify_document(self.data, self.manifest.mac, MANIFEST_FORMAT, sealer)
        except ValueError as error:
            raise _damaged(self.path) from error
        return self.manifest


def read_manifest(directory: Path) -> Document | None:
    """Read the manifest in a list's folder without verifying it; None if it does not exist.

    Raises:
        StateError: the manifest is damaged or cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        data = read_regular(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:  # a `DamagedError` lets a fetch build the index again
            raise DamagedError(
                f"cannot read manifest: {printable(path)}: {error.strerror}", hint=REBUILD_HINT
            ) from error
        raise state_error("cannot read", path, error) from error
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (ValueError, RecursionError) as error:
        raise _of_other_version(path, format_of(data)) from error
    if not manifest.mac:
        raise _of_other_version(path, manifest.format)
    # If a manifest has a code and an unknown format, its bytes were changed on the disk: only this
    # program can make the code, so no other version wrote the manifest.
    if manifest.format != MANIFEST_FORMAT:
        raise _damaged(path)
    return Document(manifest, data, path)


def load_manifest(directory: Path, sealer: Sealer) -> Manifest | None:
    """Read the manifest in a list's folder, and verify it; None if it does not exist.

    Raises:
        OtherKeyError: another key sealed the list.
        StateError: the manifest is damaged or cannot be read.
    """
    document = read_manifest(directory)
    return None if document is None else document.verify(sealer)


def write_manifest(directory: Path, manifest: Manifest, sealer: Sealer) -> None:
    """Switch readers to the generation of `manifest` with one rename.

    Raises:
        StateError: the manifest cannot be written; the old generation stays in use.
    """
    unsigned = msgspec.structs.replace(manifest, format=MANIFEST_FORMAT, mac=NO_MAC)
    data = msgspec.json.format(msgspec.json.encode(unsigned), indent=1) + b"\n"
    write_atomic(directory / MANIFEST_NAME, authenticate(data, MANIFEST_FORMAT, sealer))


def verify_runs(directory: Path, runs: Sequence[RunRef]) -> Mapping[str, bytes]:
    """Read each of `runs` from the disk and compare it with its root; this takes a second for 2 GB.

    Reading all bytes finds bytes that have changed on the disk; opening an index does not find
    them. The result has the digests of the pieces of each run, by the name of the run.

    Raises:
        DamagedError: a run differs from what the writer wrote.
        StateError: a run cannot be read.
    """
    found = {}
    for ref in runs:
        path = directory / ref.name
        digests = digest_pieces(path, cold=True)
        if root_of(digests) != ref.root:
            raise damaged(path)
        found[ref.name] = digests
    return found


def _of_other_version(path: Path, format_: str) -> StateError:
    """Return the error for a manifest that cannot be read, whose `format` is `format_`."""
    if is_newer(format_, MANIFEST_FORMAT):
        return newer(path)
    if format_ in {"", MANIFEST_FORMAT}:
        return _damaged(path)
    return DamagedError(
        f"manifest has format {excerpt(format_)}: {printable(path)}", hint=REBUILD_HINT
    )


def _damaged(path: Path) -> DamagedError:
    return DamagedError(f"manifest is damaged: {printable(path)}", hint=REBUILD_HINT)
