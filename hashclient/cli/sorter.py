"""Outcomes by the bytes of paths, and of members' names, in memory that stays flat.

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

_TABLE = (
    "CREATE TABLE outcome (path BLOB NOT NULL, member BLOB NOT NULL, number INTEGER PRIMARY KEY,"
    " names BLOB NOT NULL, data BLOB NOT NULL)"
)
_ADD = "INSERT INTO outcome (path, member, names, data) VALUES (?, ?, ?, ?)"
_SORTED = "SELECT path, names, data FROM outcome ORDER BY path, member, number"
_CACHE_KB = 8192


class Sorter:
    """Takes outcomes as they come, and gives them back by path and member; else as they came."""

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
        # Names may be any bytes, which msgpack refuses in a text; words for people lose nothing.
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
        """Forget all that is left."""
        self._db.close()

    def __iter__(self) -> Iterator[Handled]:
        """Yield them all, and forget them.

        Raises:
            OutputError: they cannot be read back.
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
            hint="make room where temporary files are, or leave out --sort;"
            " `hashclient matches` has the matches",
        ) from error
