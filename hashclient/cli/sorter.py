"""Sorts outcomes by the bytes of their paths and of the names of members, with little memory.

Outcomes are stored in a temporary SQLite database. A small database is in memory; a large database
is in an unnamed file in the directory for temporary files. A clean file of a large tree needs some
hundred bytes in the database. Digests are stored only if the output shows digests; tags are never
stored.
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

_TABLE = (
    "CREATE TABLE outcome (path BLOB NOT NULL, member BLOB NOT NULL, number INTEGER PRIMARY KEY,"
    " names BLOB NOT NULL, data BLOB NOT NULL)"
)
_ADD = "INSERT INTO outcome (path, member, names, data) VALUES (?, ?, ?, ?)"
_SORTED = "SELECT path, names, data FROM outcome ORDER BY path, member, number"
_CACHE_KB = 8192


class Sorter:
    """Stores outcomes, and returns the outcomes in the order of path and member."""

    def __init__(self, *, keep_digests: bool = False) -> None:
        """Make an empty database; `keep_digests` says whether the digests are stored."""
        self._keep_digests = keep_digests
        with _errors():
            self._db = sqlite3.connect("", isolation_level=None)
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute(_TABLE)
            self._db.execute("BEGIN")

    def add(self, handled: Handled) -> None:
        """Store an outcome.

        Raises:
            OutputError: no space is left for the outcome.
        """
        outcome = handled.outcome
        digests = outcome.digests if self._keep_digests else {}
        # Names of members may contain any bytes, which msgpack refuses in a text, so names are
        # stored as bytes. All other texts of an outcome are valid Unicode.
        names = [os.fsencode(name) for name in outcome.members]
        plain = msgspec.structs.replace(
            handled,
            outcome=msgspec.structs.replace(
                outcome,
                path="",
                reason=_text(outcome.reason),
                digests=digests,
                tags={},
                members=(),
                outer=None,
            ),
            acted=tuple(
                msgspec.structs.replace(a, detail=_text(a.detail) or "") for a in handled.acted
            ),
        )
        encode = msgspec.msgpack.encode
        member = b"".join(name + b"\0" for name in names)
        row = (os.fsencode(outcome.path), member, encode(names), encode(plain))
        with _errors():
            self._db.execute(_ADD, row)

    def close(self) -> None:
        """Remove all outcomes."""
        self._db.close()

    def __iter__(self) -> Iterator[Handled]:
        """Yield all outcomes, and remove them.

        Raises:
            OutputError: the outcomes cannot be read.
        """
        with contextlib.closing(self._db), _errors():
            for path, names, data in self._db.execute(_SORTED):
                handled = msgspec.msgpack.decode(data, type=Handled)
                members = tuple(map(os.fsdecode, msgspec.msgpack.decode(names, type=list[bytes])))
                outcome = msgspec.structs.replace(
                    handled.outcome, path=os.fsdecode(path), members=members
                )
                yield msgspec.structs.replace(handled, outcome=outcome)


def _text(text: str | None) -> str | None:
    return text if text is None or text.isprintable() else printable(text)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, MemoryError) as error:
        raise OutputError(
            f"cannot sort the outcomes: {error}",
            hint="free space for temporary files, or leave out --sort; `hashclient matches` lists "
            "the matches",
        ) from error
