"""The metadata directory of python-tuf: cleaned before it is read, made durable afterwards.

The metadata of a role is in a file with the role's name, and earlier roots are in a separate
folder. The metadata of the role of notices, which python-tuf does not know, is in the directory as
well.
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

#: The largest metadata in bytes, whatever length is signed, because metadata is parsed in memory.
#: The limits of python-tuf are lower, but apply only if no length is signed.
MAX_METADATA_BYTES = 8 << 20


class MetadataDir:
    """The metadata files of python-tuf, which this class may remove but never changes."""

    def __init__(self, path: Path) -> None:
        """Create the directory, and remove files that python-tuf must not read.

        Raises:
            StateError: the directory cannot be written.
        """
        self.path = make_private_dir(path)
        self._folders = (path, path / "root_history")
        self._durable: dict[Path, tuple[int, int]] = {}
        self._sweep()

    def read(self, role: str) -> Signed:
        """Return the metadata of a role, which python-tuf has verified and written.

        Raises:
            OSError, RepositoryError: the metadata cannot be read.
        """
        # `Metadata.from_file` is not used, because its error on a broken disk is not an OSError.
        signed: Signed = Metadata.from_bytes(self.read_bytes(role)).signed
        return signed

    def read_root(self) -> bytes:
        """Return the bytes of the newest root.

        Raises:
            OSError: the root cannot be read.
        """
        return read_regular(self.path / "root.json", MAX_STATE_BYTES)

    def read_bytes(self, role: str) -> bytes:
        """Return the bytes of the metadata of a role from the disk, without verifying them.

        Raises:
            OSError: the metadata cannot be read.
        """
        return read_regular(self.path / f"{role}.json", MAX_METADATA_BYTES)

    def write(self, role: str, data: bytes) -> None:
        """Write the metadata of a role that python-tuf does not store.

        Raises:
            StateError: the metadata cannot be written.
        """
        write_atomic(self.path / f"{role}.json", data)

    def make_durable(self) -> None:
        """Sync the metadata to the disk (fsync), because python-tuf renames files without syncing.

        A file that was synced before, and was not replaced since, is not synced again.

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
        """Remove files that python-tuf must not read; python-tuf fetches missing metadata again.

        Temporary files of killed runs, named `tmp` and a random part, are removed, and metadata
        that would be refused if a provider sent it.
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
    """Return whether a file in the directory is metadata that `TufFetcher` would accept."""
    if not path.is_file() or path.stat().st_size > MAX_METADATA_BYTES:
        return False
    try:
        parse_json(path.read_bytes())
    except ValueError:
        return False
    return True
