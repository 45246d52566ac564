"""Reads the published files, and sets the modes of their folders for the web server's account.

All accounts may read a new `public/`, whatever the umask is. New folders below `public/` get the
mode of `public/`, so a provider who changes the mode of `public/` can let only one group read the
files. The functions that read files verify no signature, because the provider owns the directory.
They only detect files that a disk or a person has damaged.
"""

from __future__ import annotations

import contextlib
import errno
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from hashclient.core.errors import StateError
from hashclient.lists.wire import MAX_SEGMENT_BYTES
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_public_dir,
    read_regular,
    state_errors,
)
from hashclient.system.text import excerpt, printable

#: The modes of published files and folders: all accounts may read them, because the web server may
#: run under another account.
PUBLIC_MODE = 0o644
PUBLIC_DIR_MODE = 0o755


def make_open_dir(path: Path) -> None:
    """Create `path` and missing parents, readable for all accounts, whatever the umask is.

    Raises:
        StateError: the directory cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    make_public_dir(path)
    for folder in missing:
        _set_mode(folder, PUBLIC_DIR_MODE)


def make_public_root(public: Path) -> None:
    """Create `public/` of a new repository, if a killed command has not created it before.

    Raises:
        StateError: the directory cannot be made.
    """
    make_public_dir(public)
    _set_mode(public, PUBLIC_DIR_MODE)


def make_folder_below(public: Path, path: Path) -> None:
    """Create the folder `path` below `public`; new folders get the mode of `public`.

    The mode of existing folders is also set, because a killed command, or another version of
    hashclient, may have left folders that the web server cannot read.

    Raises:
        StateError: the folder cannot be made, or its mode cannot be set.
    """
    make_public_dir(path)
    with state_errors("cannot open to the web server", path):
        mode = stat.S_IMODE(public.stat().st_mode)
        for folder in (path, *path.parents):
            if folder == public or public not in folder.parents:
                break
            if stat.S_IMODE(folder.stat().st_mode) != mode:
                # Only the owner of a folder can change the mode of the folder, so `chmod` fails for
                # another account that may write to the folder.
                with contextlib.suppress(PermissionError):
                    folder.chmod(mode)


def closed_folders(directory: Path, public: Path) -> Iterator[Path]:
    """Yield the folders that other accounts cannot enter, the folders above `public` first.

    Raises:
        StateError: the status of a folder cannot be read.
    """
    with state_errors("cannot look at", public):
        whole = directory.resolve()
        for folder in (*reversed(whole.parents), whole):
            if not folder.stat().st_mode & 0o011:
                yield folder
        for folder in (public, *sorted(path for path in public.rglob("*") if path.is_dir())):
            mode = folder.stat().st_mode
            if not (mode & 0o050 == 0o050 or mode & 0o005 == 0o005):
                yield folder


def _set_mode(folder: Path, mode: int) -> None:
    with state_errors("cannot open to the web server", folder):
        folder.chmod(mode)


Kind = TypeVar("Kind", Root, Timestamp, Snapshot, Targets)

#: A version number without leading zeros, as in TUF, so that each version has only one name.
_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)

RESTORE_HINT = "restore the repository from a copy"


#: Hints for errors of the operating system in a repository. The hints of `hashclient.system.files`
#: are about the state directory of a client.
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
    """Replace the hints of errors of the operating system by hints for a repository.

    Raises:
        StateError: an error in the `with` block, with another hint; the message for an `OSError`
            contains `what` and `directory`.
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
        StateError: the file cannot be read.
    """
    with state_errors("cannot read", path):
        return read_regular(path, MAX_SEGMENT_BYTES)


def parse_metadata(data: bytes, kind: type[Kind], path: Path) -> Metadata[Kind]:
    """Return the metadata in the file at `path`, whose bytes are `data`.

    Raises:
        StateError: the bytes are not metadata, or are metadata of another kind than `kind`.
    """
    try:
        found: Metadata[Any] = Metadata.from_bytes(data)
    except (RepositoryError, ValueError, RecursionError) as error:
        why = excerpt(error.__cause__ or error)
        raise StateError(
            f"corrupt metadata: {printable(path)}: {why}", hint=RESTORE_HINT
        ) from error
    if not isinstance(found.signed, kind):
        raise StateError(
            f"corrupt metadata: {printable(path)}: it is for the role {found.signed.type}",
            hint=RESTORE_HINT,
        )
    return found


def metadata_file(role: str, version: int) -> str:
    """Return the name of the published file with this version of a role."""
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


def read_published(directory: Path) -> dict[str, Metadata[Any]]:
    """Return the newest metadata of every role in `directory`, by the names of the roles.

    Raises:
        StateError: the metadata are missing or corrupt.
    """

    def read(role: str, kind: type[Kind], version: int = 0) -> Metadata[Kind]:
        path = directory / metadata_file(role, version)
        return parse_metadata(read_regular(path, MAX_STATE_BYTES), kind, path)

    with state_errors("cannot read published metadata", directory):
        timestamp = read("timestamp", Timestamp)
        snapshot = read("snapshot", Snapshot, timestamp.signed.snapshot_meta.version)
        found: dict[str, Metadata[Any]] = {"timestamp": timestamp, "snapshot": snapshot}
        for name, meta in snapshot.signed.meta.items():
            role = name.removesuffix(".json")
            found[role] = read(role, Targets, meta.version)
        found["root"] = read("root", Root, max(root_versions(directory), default=1))
    return found


def root_versions(directory: Path) -> list[int]:
    """Return the versions of the root files in `directory`, in ascending order.

    Raises:
        OSError: the directory cannot be read.
    """
    names = (path.name.removesuffix(".root.json") for path in directory.glob("*.root.json"))
    return sorted(int(name) for name in names if _VERSION.fullmatch(name))
