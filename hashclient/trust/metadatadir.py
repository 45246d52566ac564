"""The metadata directory of python-tuf: cleaned before python-tuf reads, synced after it writes.

A role's metadata has the role's name there, and earlier roots have a folder of their own. The role
of notices, which python-tuf does not know, lies beside it.
"""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

from tuf.api.metadata import Metadata, Signed

from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_durable,
    make_private_dir,
    read_regular,
    state_errors,
    sweep_temporary,
    write_atomic,
)
from hashclient.system.strictjson import parse_json

#: The longest metadata, for any signed length: metadata is parsed in memory. python-tuf's own caps
#: are lower, but only apply if no length is signed.
MAX_METADATA_BYTES = 8 << 20


class MetadataDir:
    """The files of python-tuf; this module may remove these files, but never changes them."""

    def __init__(self, path: Path) -> None:
        """Make the directory, and remove files that python-tuf must not find there.

        Raises:
            StateError: the directory is not writable.
        """
        self.path = make_private_dir(path)
        self._folders = (path, path / "root_history")
        self._durable: dict[Path, tuple[int, int]] = {}
        self._sweep()

    def read(self, role: str) -> Signed:
        """Return the metadata of a role, as python-tuf has verified and written it.

        Raises:
            OSError, RepositoryError: the metadata cannot be read.
        """
        # Not `from_file`, whose error on a broken disk is no OSError.
        signed: Signed = Metadata.from_bytes(self.read_bytes(role)).signed
        return signed

    def read_root(self) -> bytes:
        """Return the bytes of the newest root.

        Raises:
            OSError: the root cannot be read.
        """
        return read_regular(self.path / "root.json", MAX_STATE_BYTES)

    def read_bytes(self, role: str) -> bytes:
        """Return the metadata of a role from the disk, not verified.

        Raises:
            OSError: the metadata cannot be read.
        """
        return read_regular(self.path / f"{role}.json", MAX_METADATA_BYTES)

    def write(self, role: str, data: bytes) -> None:
        """Keep the metadata of a role that python-tuf does not keep.

        Raises:
            StateError: the metadata cannot be written.
        """
        write_atomic(self.path / f"{role}.json", data)

    def make_durable(self) -> None:
        """Make the metadata survive a power loss; python-tuf renames but does not sync.

        Files that were synced before and not replaced since are left out.

        Raises:
            StateError: the metadata cannot be synced.
        """
        found: dict[Path, tuple[int, int]] = {}
        with state_errors("cannot sync", self.path):
            for path in (path for folder in self._folders for path in folder.iterdir()):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    found[path] = status.st_ino, status.st_mtime_ns
        make_durable((p for p in found if self._durable.get(p) != found[p]), *self._folders)
        self._durable = found

    def _sweep(self) -> None:
        """Remove files that python-tuf must not find; it fetches missing files again.

        Removed are temporary files of killed runs, named `tmp` and a random part, and metadata that
        would be refused from the provider.
        """
        sweep_temporary(self.path)
        for path in self.path.glob("tmp*"):
            if path.suffix != ".json":
                with contextlib.suppress(OSError):
                    path.unlink()
        for folder in self._folders:
            for path in folder.glob("*.json"):
                with contextlib.suppress(OSError):
                    if not _is_strict(path):
                        path.unlink()


def _is_strict(path: Path) -> bool:
    """Return whether a file of the cache is metadata that the fetcher would accept."""
    if not path.is_file() or path.stat().st_size > MAX_METADATA_BYTES:
        return False
    try:
        parse_json(path.read_bytes())
    except ValueError:
        return False
    return True
