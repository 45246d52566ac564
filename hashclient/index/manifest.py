"""The manifest of a list: its generation, its runs, and a code over both.

A rename replaces the manifest, and so switches to the next generation. A message authentication
code under the seal key covers the whole manifest, its expiry included, so that changed bytes on the
disk are noticed.
"""

import errno
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from hashclient.core.errors import StateError
from hashclient.core.staleness import ListState, state_of
from hashclient.index.blinding import NO_MAC, Sealer, authenticate, verify_document
from hashclient.index.run import REBUILD_HINT, Count, DamagedError, damaged, digest_pieces, root_of
from hashclient.system.files import MAX_STATE_BYTES, read_regular, state_error, write_atomic
from hashclient.system.layout import MANIFEST_NAME
from hashclient.system.text import excerpt, printable
from hashclient.system.versions import format_of, is_newer, newer

MANIFEST_FORMAT = "hashclient-index/2"

#: Strict, since the disk may have garbled the file.
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
RunName = Annotated[str, msgspec.Meta(pattern=r"^run-[0-9]{8,18}\Z")]
_Checksum = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]


class OtherKeyError(StateError):
    """Another key sealed a list, so no lookup can find an entry of the list."""


class RunRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A run as the manifest names it; `length` is the file's, in bytes.

    `root` is the root over the digests of the run's pieces, in hexadecimal. A run without a root is
    not relied on. `id` is in the header of the run.
    """

    name: RunName
    length: Count
    entries: Count
    root: str = ""
    id: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A generation of a list, as it is on disk.

    `mac` is the code in the document that the manifest was read from. `expires` is the earliest
    expiry of the metadata that signed the generation. `index_hash` is the signed hash of its
    `index.json`. `with_digest` counts live entries by algorithm, `with_size` counts live entries
    with a size. `epoch` names the keys for which generations count, see `Trust.epoch`.

    `verified_at` is when a fetch last compared pieces of the runs with their digests;
    `oldest_verified` is when the piece was compared that was compared longest ago. `rotten` names a
    run that differs from the written bytes: the list is damaged.

    `segments` are the signed hashes of the segments of the generation, by name.

    `offered` are the lists that the provider offered at the last check, this list included. The
    provider's metadata names these lists, too, but scans do not verify metadata; the code covers
    `offered`.
    """

    format: str
    key_id: str
    mac: str = ""
    list: str
    provider: str
    generation: Count
    published_at: _Time
    fetched_at: _Time
    checked_at: _Time
    expires: _Time
    entries: Count
    checksum: _Checksum
    with_digest: dict[str, Count]
    with_size: Count
    index_hash: str
    runs: tuple[RunRef, ...]
    epoch: str = ""
    segments: dict[str, str] = {}
    verified_at: _Time | None = None
    oldest_verified: _Time | None = None
    rotten: RunName | None = None
    offered: tuple[str, ...] = ()

    @property
    def verified_since(self) -> datetime:
        """Since when every byte of the index has been verified, or written."""
        return self.oldest_verified or self.fetched_at

    def state(self, now: datetime, grace: timedelta) -> ListState:
        """Return whether the list counts at `now`; see `state_of`."""
        dates = self.checked_at, self.expires
        return state_of(self.list, self.generation, *dates, now=now, grace=grace)


class Document(msgspec.Struct, frozen=True):
    """A manifest that is not verified yet, and the bytes that it was read from."""

    manifest: Manifest
    data: bytes
    path: Path

    def verify(self, sealer: Sealer) -> Manifest:
        """Return the manifest, verified with the key of `sealer`.

        Raises:
            OtherKeyError: another key sealed the list.
            DamagedError: the manifest differs from the written bytes.
        """
        # 1
        if self.manifest.key_id != sealer.key_id:
            raise OtherKeyError(
                f"list {self.manifest.list} was sealed with another key",
                hint="use the key that sealed the list, or build the list again: `hashclient "
                "fetch --rebuild`, or `scan --fetch`",
            )
        # 2
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
        if error.errno == errno.EIO:  # a fetch builds again an index that the disk has lost
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
    # A changed byte must not look like another version: only this program can make the code.
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
        StateError: the manifest cannot be written; the old generation stays.
    """
    unsigned = msgspec.structs.replace(manifest, format=MANIFEST_FORMAT, mac=NO_MAC)
    data = msgspec.json.format(msgspec.json.encode(unsigned), indent=1) + b"\n"
    write_atomic(directory / MANIFEST_NAME, authenticate(data, MANIFEST_FORMAT, sealer))


def verify_runs(directory: Path, runs: Sequence[RunRef]) -> Mapping[str, bytes]:
    """Read each of `runs` from the disk and compare its digests; about 2 GB a second.

    This finds bytes that have changed in place; opening an index does not find them. Returns the
    digests of the pieces of each run, by its name.

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
