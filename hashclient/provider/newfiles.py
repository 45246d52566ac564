"""Files to be handed over: a token, a key, a draft. They never replace a file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hashclient.errors import UsageError
from hashclient.system.files import fsync_dir, write_all
from hashclient.system.text import printable


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file that must not exist; after a failure, remove it.

    Raises:
        UsageError: it exists, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, mode)
    except FileExistsError as error:
        raise UsageError(
            f"file exists: {printable(path)}", hint="nothing is overwritten; choose another name"
        ) from error
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        os.fchmod(fd, mode)  # whatever the umask
        write_all(fd, data)
        os.fsync(fd)
        fsync_dir(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(path, error) from error
        raise
    finally:
        os.close(fd)


def _cannot_write(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write {printable(path)}: {error.strerror or error}",
        hint="choose another place; nothing was changed",
    )
