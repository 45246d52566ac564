"""Outcomes by path: no outcome is lost, paths may have any bytes, and memory stays constant."""

from __future__ import annotations

import os
import random
import sqlite3
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hashclient.cli.output import OutputError
from hashclient.cli.sorter import Sorter
from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import Acted, Hit, MatchRef, Outer
from tests.outcomes import handled

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HITS = (
    Hit("base", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA256), complete=True),
    Hit("base", "e-2", "synthetic", 3, (Algorithm.MD5,), complete=False),
)
DIGESTS = {Algorithm.MD5: bytes(16), Algorithm.SHA256: bytes(32)}


def test_all_come_back_whole_in_the_order_of_their_bytes() -> None:
    record = MatchRef("bcdfghjkmn", MatchState.QUARANTINED, NOW, NOW, in_place=False)
    acted = (Acted(Action.QUARANTINE, done=True, detail="quarantined"),)
    raw = [b"/b", b"/a/\xff", b"", b"/a", b"/a\n", "/\uffff".encode(), "/😀".encode(), b"/a/b"]
    given = [
        handled(
            *(Kind.MATCH, os.fsdecode(path), 5, None, HITS),
            record=record,
            acted=acted,
            digests=DIGESTS,
        )
        for path in raw
    ]
    given += [
        handled(Kind.UNREAD, "/a", reason="first"),
        handled(Kind.SKIPPED, "/a", reason="second"),
        handled(Kind.MATCH, "-", 2**62, is_stream=True),
    ]
    chosen = Sorter(keep_digests=True)
    for one in given:
        chosen.add(one)
    assert list(chosen) == sorted(given, key=lambda one: os.fsencode(one.outcome.path))


def test_members_come_by_their_names_whatever_these_are_behind_their_file() -> None:
    names = [("b",), ("\udcff\0\n",), ("a", "\udcfe"), ("a",), ("",), ()]
    given = [handled(Kind.UNREAD, "/z.zip", reason="x", members=name) for name in names]
    chosen = Sorter()
    for one in given:
        chosen.add(one)
    found = [one.outcome.members for one in chosen]
    assert found == [(), ("",), ("a",), ("a", "\udcfe"), ("b",), ("\udcff\0\n",)]


def test_digests_that_are_not_shown_are_not_kept() -> None:
    tags = {Algorithm.MD5: bytes(16)}
    outer = Outer(7, {Algorithm.MD5: bytes(16)}, 1)
    given = handled(
        *(Kind.MATCH, "/a", 5, None, HITS), digests=DIGESTS, tags=tags, members=("m",), outer=outer
    )
    for keep in (False, True):
        chosen = Sorter(keep_digests=keep)
        chosen.add(given)
        (back,) = chosen
        assert dict(back.outcome.digests) == (DIGESTS if keep else {})
        assert back.outcome.tags == {} and back.outcome.outer is None


def test_words_that_are_no_text_are_shown() -> None:
    chosen = Sorter()
    chosen.add(handled(Kind.UNREAD, "/a", reason="no \udcff"))
    (back,) = chosen
    assert back.outcome.reason == "no \\xff"


@pytest.mark.slow
def test_memory_does_not_grow_with_their_number() -> None:
    chance = random.Random(5)
    tracemalloc.start()
    chosen = Sorter()
    for _ in range(20_000):
        chosen.add(handled(Kind.CLEAN, f"/srv/{chance.random()}", 5))
    before = ""
    for one in chosen:
        assert one.outcome.path > before
        before = one.outcome.path
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_without_room_it_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.connect

    def small(_name: str, **more: object) -> sqlite3.Connection:
        db = real(str(tmp_path / "small"), isolation_level=None)
        db.execute("PRAGMA max_page_count = 8")
        return db

    found = [handled(Kind.CLEAN, f"/srv/{number}", 5) for number in range(10_000)]
    # Patched only here, because the coverage plugin also connects to a database.
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", small)
        chosen = Sorter()
        with pytest.raises(OutputError, match="cannot sort the outcomes"):
            any(map(chosen.add, found))
        chosen.close()
