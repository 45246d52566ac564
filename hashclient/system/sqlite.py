"""Opening SQLite databases of the state directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hashclient.system.files import make_private_dir

if TYPE_CHECKING:
    import sqlite3

#: How long a writer of a database waits for another; their transactions take milliseconds.
BUSY_TIMEOUT_S = 10.0


def open_database(path: Path, mode: Literal["ro", "rw", "rwc"]) -> sqlite3.Connection:
    """Open an SQLite file whose transactions the caller begins and ends; `rwc` makes it, private.

    Raises:
        OSError, sqlite3.Error: it cannot be opened.
    """
    import sqlite3  # most commands need none

    if mode == "rwc":
        make_private_dir(path.parent)
        # SQLite makes files with the umask; this one is for its owner only.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
