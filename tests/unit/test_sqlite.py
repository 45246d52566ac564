"""Messages about an unusable database: not every error means damage, and valid ones are kept."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hashclient.core.errors import StateError
from hashclient.matches import tables
from hashclient.matches.store import Matches
from hashclient.scan.cache import cache
from hashclient.scan.cache.cache import Inventory
from hashclient.system.sqlite import copy_database, explain, open_database
from tests.kit import environment

KEY = "0123456789abcdef"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = open_database(tmp_path / "a.db", "rwc")
    db.execute("CREATE TABLE t (x TEXT)")
    db.execute("INSERT INTO t VALUES (CAST(x'1bff' AS TEXT))")
    yield db
    db.close()


def locked(db: sqlite3.Connection) -> None:
    path = db.execute("PRAGMA database_list").fetchone()[2]
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("BEGIN IMMEDIATE")
    finally:
        other.close()


def full(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA max_page_count = 2")
    db.execute("INSERT INTO t VALUES (zeroblob(100000))")


def read_only(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA query_only = 1")
    db.execute("DELETE FROM t")


@pytest.mark.parametrize(
    ("fail", "says", "advice"),
    [
        (read_only, "attempt to write a readonly database", "owner and the permissions"),
        (lambda _: open_database(Path("/nowhere/a.db"), "ro"), "unable to open", "permissions"),
        (full, "database or disk is full", "free some space"),
        (locked, "database is locked", "another process"),
        (lambda db: db.execute("SELECT x FROM t").fetchall(), "\\x1b", None),
        (lambda db: db.execute("SELECT y FROM t"), "no such column: y", None),
    ],
)
def test_what_sqlite_says_has_a_hint_where_the_file_may_be_good(
    database: sqlite3.Connection,
    fail: Callable[[sqlite3.Connection], object],
    says: str,
    advice: str | None,
) -> None:
    with pytest.raises(sqlite3.Error) as caught:
        fail(database)
    why, hint = explain(caught.value)
    assert says in why and why.isprintable()
    assert hint is None if advice is None else advice in (hint or "")


def inventory(state: Path) -> None:
    Inventory(state, KEY, write=True).close()


def matches(state: Path) -> None:
    Matches(state).close()


OPENERS = (inventory, matches)


@pytest.mark.parametrize("use", OPENERS)
@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EACCES, "check the owner and the permissions"),
        (errno.EPERM, "check the owner and the permissions"),
        (errno.EROFS, "the file system is read-only"),
        (errno.ENOSPC, "free some space"),
    ],
)
def test_nobody_is_told_to_remove_a_file_that_may_not_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[Path], None],
    code: int,
    advice: str,
) -> None:
    def fail(path: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    for module in (cache, tables):
        monkeypatch.setattr(module, "open_database", fail)
    with pytest.raises(StateError) as caught:
        use(tmp_path)
    message, hint = caught.value.message, caught.value.hint or ""
    assert message.endswith(f": {os.strerror(code)}") and "Errno" not in message
    assert message.count(str(tmp_path)) == 1
    assert advice in hint and "remove" not in hint and "move it away" not in hint


@pytest.mark.parametrize("use", OPENERS)
def test_a_database_that_is_only_not_writable_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], None]
) -> None:
    def query_only(*args: object, **kwargs: object) -> sqlite3.Connection:
        db = open_database(*args, **kwargs)  # type: ignore[arg-type]
        db.execute("PRAGMA query_only = 1")
        return db

    for module in (cache, tables):
        monkeypatch.setattr(module, "open_database", query_only)
    with pytest.raises(StateError) as caught:
        use(tmp_path)
    assert "attempt to write a readonly database" in caught.value.message
    assert "permissions" in (caught.value.hint or "")


def test_a_copy_that_cannot_be_made_has_the_hint(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"cannot copy: .*unable to open database") as caught:
        copy_database(tmp_path / "none.db", tmp_path / "copy.db")
    assert "permissions" in (caught.value.hint or "")


@pytest.mark.slow
def test_what_is_recorded_of_matches_survives_a_power_failure(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from hashclient.matches.tables import MatchStore\n"
        "with MatchStore(pathlib.Path(sys.argv[1])) as store:\n"
        "    print(store._db.execute('PRAGMA synchronous').fetchone()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"3\n"  # EXTRA: a test in this process would see a database without syncs
