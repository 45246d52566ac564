"""The manifest of a list: which generation is here, in which runs, and what vouches for it.

It is replaced as a whole by one rename, which is the switch from one generation to the next. It
carries a message authentication code under the seal key, so that none of what it says, its expiry
included, can become something else on the disk. A manifest of version 1 has none; it is read as it
is, and the next fetch writes one of today's version (`upgrade`).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from hashclient.errors import StateError
from hashclient.index.authentic import NO_MAC, authenticate, verify_document
from hashclient.index.blinding import Sealer
from hashclient.index.pieces import damaged, digest_pieces, root_of
from hashclient.index.run import REBUILD_HINT, Count, DamagedError
from hashclient.system.files import MAX_STATE_BYTES, read_regular, state_error, write_atomic
from hashclient.system.layout import MANIFEST_NAME
from hashclient.system.text import printable
from hashclient.system.versions import format_of, is_newer, newer

MANIFEST_FORMAT = "hashclient-index/2"
#: What releases before wrote: without a code, and with a SHA-256 of each run in place of a root.
FORMAT_1 = "hashclient-index/1"

#: What the disk may have garbled must not come in as a value that nobody expects.
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
RunName = Annotated[str, msgspec.Meta(pattern=r"^run-[0-9]{8,18}\Z")]
_Checksum = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]


class OtherKeyError(StateError):
    """Another key sealed a list: nothing would be found in it, and nothing vouches for it."""


class RunRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A run as the manifest names it; `length` is the file's, in bytes.

    `root` is that of its pieces, in hexadecimal; a manifest of version 1 has the `sha256` of the
    file instead. Without either, nobody relies on the run.
    """

    name: RunName
    length: Count
    entries: Count
    root: str = ""
    sha256: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One generation of one list, as it is on disk.

    `mac` is the code of the document that it was read from. `expires` is the earliest expiry of the
    metadata that vouched for it. `index_hash` is the signed hash of the `index.json` it was made
    from. `with_digest` counts live entries by algorithm, `with_size` those with a size. `epoch`
    stands for the keys under which generations are counted, see `Trust.epoch`.

    `verified_at` is when a fetch last compared pieces of the runs with their digests, and
    `oldest_verified` when that was for the piece for which it is longest ago. `rotten` names a run
    that was found to be something else than what was written: the list is damaged.

    `offered` are the lists that the provider offered when it was last checked, this one among them.
    The provider's metadata says it, too; but no scan verifies that, and for this the key vouches.
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
    verified_at: _Time | None = None
    oldest_verified: _Time | None = None
    rotten: RunName | None = None
    offered: tuple[str, ...] = ()

    @property
    def is_old(self) -> bool:
        """Whether it was read from a document without a code."""
        return self.format == FORMAT_1

    @property
    def verified_since(self) -> datetime:
        """Since when every byte of the index has been verified, or written."""
        return self.oldest_verified or self.fetched_at


class Document(msgspec.Struct, frozen=True):
    """A manifest that nothing vouches for yet, and the bytes that it was read from."""

    manifest: Manifest
    data: bytes
    path: Path

    def verify(self, sealer: Sealer) -> Manifest:
        """Return the manifest, if the key of `sealer` vouches for it.

        One of version 1 has no code; that of the key alone is compared.

        Raises:
            OtherKeyError: another key sealed the list.
            DamagedError: it is not what was written.
        """
        # 1
        if self.manifest.key_id != sealer.key_id:
            raise OtherKeyError(
                f"list {self.manifest.list} was sealed with another key",
                hint="use the key that sealed it, or remove the list's folder and fetch again",
            )
        # 2
        if not self.manifest.is_old:
            try:
                verify_document(self.data, self.manifest.mac, MANIFEST_FORMAT, sealer)
            except ValueError as error:
                raise _damaged(self.path) from error
        return self.manifest


def read_manifest(directory: Path) -> Document | None:
    """Read the manifest in a list's folder, which nothing vouches for yet; None if there is none.

    Raises:
        StateError: it is damaged or cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        data = read_regular(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:  # what the disk has lost, a fetch builds again
            raise DamagedError(
                f"cannot read manifest: {printable(path)}: {error.strerror}", hint=REBUILD_HINT
            ) from error
        raise state_error("cannot read", path, error) from error
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (ValueError, RecursionError) as error:
        if is_newer(format_of(data), MANIFEST_FORMAT):
            raise newer(path) from error
        raise _damaged(path) from error
    if is_newer(manifest.format, MANIFEST_FORMAT):
        # One byte that has changed is no later version: nobody but us has its code.
        if manifest.mac:
            raise _damaged(path)
        raise newer(path)
    if manifest.format not in {MANIFEST_FORMAT, FORMAT_1}:
        raise DamagedError(
            f"manifest has format {manifest.format!r}: {printable(path)}", hint=REBUILD_HINT
        )
    # What has a code is of today's version, whatever it says: else one byte would make it old.
    of_today = bool(manifest.mac) and not any(run.sha256 for run in manifest.runs)
    of_before = not (manifest.mac or manifest.rotten or any(run.root for run in manifest.runs))
    if not (of_before if manifest.is_old else of_today):
        raise _damaged(path)
    return Document(manifest, data, path)


def load_manifest(directory: Path, sealer: Sealer) -> Manifest | None:
    """Read the manifest in a list's folder, and verify it; None if there is none.

    Raises:
        OtherKeyError: another key sealed the list.
        StateError: it is damaged or cannot be read.
    """
    document = read_manifest(directory)
    return None if document is None else document.verify(sealer)


def write_manifest(directory: Path, manifest: Manifest, sealer: Sealer) -> None:
    """Switch readers to the generation of `manifest`, whole or not at all.

    Raises:
        StateError: it cannot be written; the old generation stays.
    """
    unsigned = msgspec.structs.replace(manifest, format=MANIFEST_FORMAT, mac=NO_MAC)
    data = msgspec.json.format(msgspec.json.encode(unsigned), indent=1) + b"\n"
    write_atomic(directory / MANIFEST_NAME, authenticate(data, MANIFEST_FORMAT, sealer))


def verify_runs(
    directory: Path, runs: Sequence[RunRef], *, cold: bool = False
) -> Mapping[str, bytes]:
    """Read every one of `runs` and compare its digest; 2 GB a second or so.

    Finds what opening an index does not: bytes that have changed in place. Returns the digests of
    the pieces of each run, by its name. `cold` is as for `digest_pieces`.

    Raises:
        DamagedError: one is not what the writer wrote.
        StateError: one cannot be read.
    """
    found = {}
    for ref in runs:
        path = directory / ref.name
        digests = digest_pieces(path, whole=ref.sha256, cold=cold)
        if not ref.sha256 and root_of(digests) != ref.root:
            raise damaged(path)
        found[ref.name] = digests
    return found


def _damaged(path: Path) -> DamagedError:
    return DamagedError(f"manifest is damaged: {printable(path)}", hint=REBUILD_HINT)
