"""Metadata of a repository as it is on the disk: read, and of the kind that its name says.

No signature is verified here: it is the provider's own directory, and only damage by a disk or a
person is to be found.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from hashclient.errors import StateError
from hashclient.system.text import printable

Kind = TypeVar("Kind", Root, Timestamp, Snapshot, Targets)

#: As TUF writes it, so that no two names are of one version.
_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)

RESTORE_HINT = "restore the repository from a copy"


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
