"""The published files as they are on the disk, and the hints where the disk fails.

No signature is verified here: it is the provider's own directory, and only damage by a disk or a
person is to be found.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from hashclient.errors import StateError
from hashclient.lists.wire import MAX_SEGMENT_BYTES
from hashclient.system.files import read_regular, state_error
from hashclient.system.text import printable

Kind = TypeVar("Kind", Root, Timestamp, Snapshot, Targets)

#: As TUF writes it, so that no two names are of one version.
_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)

RESTORE_HINT = "restore the repository from a copy"


#: Hints for errors of the operating system, for a repository. Those of `system.files` are for the
#: state directory of a client.
_HINTS = {
    errno.ENOSPC: "free some space and try again; clients still get the earlier publication",
    errno.EDQUOT: "the disk quota is used up; clients still get the earlier publication",
    errno.EROFS: "the file system is read-only; mount it for writing, or work on a copy",
    errno.EACCES: "check the owner and the permissions of the repository",
    errno.EPERM: "check the owner and the permissions of the repository",
    errno.ENOENT: "something was removed from the repository; restore it from a copy",
}


@contextlib.contextmanager
def own_hints(what: str, directory: Path) -> Iterator[None]:
    """Give errors of the operating system the hints of a repository.

    Raises:
        StateError: that of the block, with another hint; or for an `OSError`, one with `what`
        failed for `directory`.
    """
    try:
        yield
    except OSError as error:
        raise StateError(
            f"{what}: {printable(directory)}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0),
        ) from error
    except StateError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        hint = _HINTS.get(error.__cause__.errno or 0)
        raise StateError(error.message, hint=hint) from error.__cause__


def read_public(path: Path) -> bytes:
    """Return the bytes of a published file.

    Raises:
        StateError: it cannot be read.
    """
    try:
        return read_regular(path, MAX_SEGMENT_BYTES)
    except OSError as error:
        raise state_error("cannot read", path, error) from error


def parse_metadata(data: bytes, kind: type[Kind], path: Path) -> Metadata[Kind]:
    """Return the metadata in the file at `path`, whose bytes are `data`.

    Raises:
        StateError: it is none, or of another kind.
    """
    try:
        found: Metadata[Any] = Metadata.from_bytes(data)
    except (RepositoryError, ValueError, RecursionError) as error:
        raise StateError(f"corrupt metadata: {printable(path)}", hint=RESTORE_HINT) from error
    if not isinstance(found.signed, kind):
        raise StateError(
            f"corrupt metadata: {printable(path)}: it is for the role {found.signed.type}",
            hint=RESTORE_HINT,
        )
    return found


def root_versions(directory: Path) -> list[int]:
    """Return the versions of the roots in `directory`, in order; similar names do not count.

    Raises:
        OSError: it cannot be read.
    """
    names = (path.name.removesuffix(".root.json") for path in directory.glob("*.root.json"))
    return sorted(int(name) for name in names if _VERSION.fullmatch(name))
