"""Outcomes in the order of their paths' bytes, in memory that does not grow with their number.

They are kept in a temporary database of SQLite, which lies in memory while it is small, and then in
a file without a name in the directory for temporary files. Clean files of a large tree take some
hundred bytes each there. Digests do not go there unless they are to be shown; tags never do.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator

import msgspec

from hashclient.cli.output import OutputError
from hashclient.core.model import Handled
from hashclient.system.text import printable

_TABLE = "CREATE TABLE outcome (path BLOB NOT NULL, number INTEGER PRIMARY KEY, data BLOB NOT NULL)"
_SORTED = "SELECT path, data FROM outcome ORDER BY path, number"
_CACHE_KB = 8192


class Sorter:
    """Takes outcomes as they come, and gives them back by path; those of one path as they came."""

    def __init__(self, *, keep_digests: bool = False) -> None:
        """Begin with none."""
        self._keep_digests = keep_digests
        with _errors():
            self._db = sqlite3.connect("", isolation_level=None)
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute(_TABLE)
            self._db.execute("BEGIN")

    def add(self, handled: Handled) -> None:
        """Take one.

        Raises:
            OutputError: there is no room for it.
        """
        outcome = handled.outcome
        digests = outcome.digests if self._keep_digests else {}
        # A path may be any bytes, and msgpack takes text only; words for people lose nothing.
        plain = msgspec.structs.replace(
            handled,
            outcome=msgspec.structs.replace(
                outcome, path="", reason=_text(outcome.reason), digests=digests, tags={}
            ),
            acted=tuple(
                msgspec.structs.replace(a, detail=_text(a.detail) or "") for a in handled.acted
            ),
        )
        row = (os.fsencode(outcome.path), msgspec.msgpack.encode(plain))
        with _errors():
            self._db.execute("INSERT INTO outcome (path, data) VALUES (?, ?)", row)

    def __iter__(self) -> Iterator[Handled]:
        """Yield them all, and forget them.

        Raises:
            OutputError: they cannot be read back.
        """
        with contextlib.closing(self._db), _errors():
            for path, data in self._db.execute(_SORTED):
                handled = msgspec.msgpack.decode(data, type=Handled)
                outcome = msgspec.structs.replace(handled.outcome, path=os.fsdecode(path))
                yield msgspec.structs.replace(handled, outcome=outcome)


def _text(text: str | None) -> str | None:
    return text if text is None or text.isprintable() else printable(text)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, MemoryError) as error:
        raise OutputError(
            f"cannot sort what was found: {error}",
            hint="make room where temporary files are, or leave out --sort",
        ) from error
