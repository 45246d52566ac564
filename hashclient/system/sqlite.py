"""Opens and copies the SQLite databases of the state directory."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hashclient.core.errors import StateError
from hashclient.system.files import hint_of, make_private_dir, refuse_irregular, state_error
from hashclient.system.text import excerpt, printable

if TYPE_CHECKING:
    import sqlite3

#: Seconds that a writer of a database waits for another writer; transactions take milliseconds.
BUSY_TIMEOUT_S = 10.0


def open_database(
    path: Path, mode: Literal["ro", "rw", "rwc"], *, one_thread: bool = True
) -> sqlite3.Connection:
    """Open an SQLite file without automatic transactions; the mode `rwc` makes a missing file.

    A new file has the mode 0600. Without `one_thread`, several threads may use the connection, but
    not at the same time.

    Raises:
        OSError, sqlite3.Error: the file cannot be opened.
    """
    import sqlite3  # imported here because most commands need no database

    # SQLite would block on a pipe before it checks the type of the file.
    for suffix in ("", "-journal", "-wal", "-shm"):
        refuse_irregular(path.with_name(path.name + suffix))
    if mode == "rwc":
        make_private_dir(path.parent)
        # The file is made here with mode 0600, because SQLite would use the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=one_thread
    )


def explain(error: Exception) -> tuple[str, str | None]:
    """Return the text of an error of the system or SQLite, and a hint if the file may be intact.

    A database that cannot be opened or written, or that is in use, may be intact, so the user
    should not delete the file.
    """
    import sqlite3

    if isinstance(error, OSError):
        return error.strerror or excerpt(error), hint_of(error.errno)
    # An error without a code is raised by the Python module, which could not decode a value.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        return excerpt(error), "another process is writing to it; try again later"
    numbers = {
        sqlite3.SQLITE_READONLY: errno.EACCES,
        sqlite3.SQLITE_CANTOPEN: errno.EACCES,
        sqlite3.SQLITE_PERM: errno.EACCES,
        sqlite3.SQLITE_FULL: errno.ENOSPC,
    }
    return excerpt(error), hint_of(numbers.get(code))


def copy_database(source: Path, target: Path) -> None:
    """Copy `source` into `target` in one transaction; other processes may have both files open.

    Raises:
        StateError: `source` or `target` cannot be opened, read or written.
    """
    import sqlite3

    try:
        with (
            contextlib.closing(open_database(source, "rw")) as old,
            contextlib.closing(open_database(target, "rwc")) as new,
        ):
            old.backup(new)
    except OSError as error:
        raise state_error("cannot copy", source, error) from error
    except sqlite3.Error as error:
        why, hint = explain(error)
        raise StateError(f"cannot copy: {printable(source)}: {why}", hint=hint) from error
