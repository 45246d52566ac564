"""Hints for failures of the disk below a repository."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from hashclient.errors import StateError
from hashclient.system.text import printable

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
