"""The record of matches: what is remembered, what is withdrawn, and who else is at it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from fixtures.crash import in_child
from hashclient import fsio
from hashclient.errors import ExitCode, StateError
from hashclient.matches import DATABASE_NAME, Matches
from hashclient.model import Algorithm, Hit, Kind, Outcome

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


def hit(entry: str, list_name: str = "base", *, complete: bool = True, generation: int = 1) -> Hit:
    return Hit(list_name, entry, "synthetic", generation, (Algorithm.MD5,), complete)


def match(path: str, *hits: Hit) -> Outcome:
    return Outcome(Kind.MATCH, path, 4, hits=hits)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Matches]:
    with Matches(tmp_path) as opened:
        yield opened


def paths(record: Matches, *entries: str, list_name: str = "base") -> list[str]:
    return [found.path for found in record.of_entries(list_name, entries)]


def test_only_complete_hits_are_remembered_by_list_and_entry(record: Matches) -> None:
    partial = hit("e-9", complete=False)
    record.record([match("/a", hit("e-1"), hit("e-1", "other"), partial)], NOW)
    record.record([match("/b", hit("e-1"), hit("e-2"))], NOW)
    assert sorted(record.standing("base")) == ["e-1", "e-2"]
    assert record.standing("other") == ["e-1"]
    assert record.standing("nobody") == []
    assert paths(record, "e-1", "e-2", "e-9") == ["/a", "/b", "/b"]
    assert paths(record, "e-1", list_name="other") == ["/a"]
    assert paths(record) == []


def test_finding_it_again_renews_it(record: Matches) -> None:
    zone = timezone(timedelta(hours=9))
    record.record([match("/a", hit("e-1"))], NOW)
    record.record([match("/a", hit("e-1", generation=5))], LATER.astimezone(zone))
    (found,) = record.of_entries("base", ["e-1"])
    assert (found.first_seen, found.last_seen) == (NOW, LATER)
    assert (found.withdrawn_at, found.withdrawn_generation) == (None, None)


def test_a_withdrawal_stands_until_the_entry_matches_again(record: Matches) -> None:
    record.record([match("/a", hit("e-1"), hit("e-2")), match("/b", hit("e-1"))], NOW)
    record.withdraw("base", ["e-1"], 7, LATER)
    assert record.standing("base") == ["e-2"]
    found = record.withdrawn()
    assert [(f.path, f.entry) for f in found] == [("/a", "e-1"), ("/b", "e-1")]
    assert {(f.withdrawn_generation, f.withdrawn_at) for f in found} == {(7, LATER)}
    assert paths(record, "e-1") == []
    # A later withdrawal does not change when it was.
    record.withdraw("base", ["e-1"], 8, LATER + timedelta(days=1))
    assert {f.withdrawn_generation for f in record.withdrawn()} == {7}
    record.record([match("/a", hit("e-1", generation=9))], LATER)
    assert [f.path for f in record.withdrawn()] == ["/b"]
    assert paths(record, "e-1") == ["/a"]


def test_a_path_is_kept_by_its_bytes_and_made_absolute(
    record: Matches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = os.fsdecode(b"/srv/\xff\xfe\n\x1b[31m")
    record.record([match(raw, hit("e-1")), match("sub/../x", hit("e-1"))], NOW)
    assert set(paths(record, "e-1")) == {raw, str(tmp_path / "x")}


def test_thousands_are_no_burden(record: Matches) -> None:
    record.record([match(f"/{n:05d}", hit(f"e-{n}")) for n in range(5000)], NOW)
    gone = record.standing("base")
    assert len(gone) == 5000
    assert len(record.of_entries("base", gone)) == 5000
    record.withdraw("base", gone, 2, NOW)
    assert [f.path for f in record.withdrawn()] == [f"/{n:05d}" for n in range(5000)]


def test_no_digest_and_nothing_for_others_is_in_the_file(tmp_path: Path) -> None:
    digest = bytes(range(16))
    outcome = Outcome(Kind.MATCH, "/a", 1, hits=(hit("e-1"),), digests={Algorithm.MD5: digest})
    with Matches(tmp_path) as record:
        record.record([outcome], NOW)
    path = tmp_path / DATABASE_NAME
    data = path.read_bytes()
    assert digest not in data and digest.hex().encode() not in data
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_batch_is_recorded_whole_or_not_at_all(record: Matches) -> None:
    good, bad = match("/a", hit("e-1")), match("/b", hit("e-2", generation=2**70))
    with pytest.raises(OverflowError):
        record.record([good, bad], NOW)
    assert record.standing("base") == []
    record.record([good], NOW)
    assert record.standing("base") == ["e-1"]


def test_several_scans_may_record_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def scan(number: int) -> None:
        try:
            for batch in range(10):
                with Matches(tmp_path) as record:
                    found = [match(f"/{number}/{batch}/{n}", hit("e-1")) for n in range(20)]
                    record.record(found, NOW)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=scan, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Matches(tmp_path) as record:
        assert len(record.of_entries("base", ["e-1"])) == 1200


@pytest.mark.parametrize("create", [True, False])
def test_what_a_killed_scan_had_begun_is_taken_back(tmp_path: Path, create: bool) -> None:
    with Matches(tmp_path) as record:
        record.record([match(f"/{n}", hit("e-1")) for n in range(2000)], NOW)

    def killed() -> None:
        with Matches(tmp_path) as record:
            # So small a cache makes it write before the end of the transaction.
            record._db.execute("PRAGMA cache_size = 1")
            record._db.execute("BEGIN IMMEDIATE")
            record._db.execute("UPDATE match SET withdrawn_generation = 1")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert (tmp_path / f"{DATABASE_NAME}-journal").exists()
    with Matches(tmp_path, create=create) as record:
        assert record.withdrawn() == []
        assert len(record.of_entries("base", ["e-1"])) == 2000


def test_a_reader_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        Matches(tmp_path, create=False)
    assert caught.value.exit_code is ExitCode.STATE and caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_another_version_is_refused(tmp_path: Path) -> None:
    Matches(tmp_path).__exit__()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(StateError, match="has version 2"):
        Matches(tmp_path)


def test_one_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Matches(tmp_path).__exit__()
    other = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(fsio, "BUSY_TIMEOUT_S", 0.01)
    with pytest.raises(StateError, match="locked"):
        Matches(tmp_path)
    other.close()


def test_damage_of_any_kind_is_an_error_of_ours(tmp_path: Path) -> None:
    with Matches(tmp_path) as record:
        record.record([match(f"/{n}", hit(f"e-{n % 9}")) for n in range(200)], NOW)
        record.withdraw("base", ["e-1"], 2, NOW)
    path = tmp_path / DATABASE_NAME
    whole = path.read_bytes()
    chance = random.Random(3)
    refused = read = 0
    for number in range(150):
        data = bytearray(whole)
        for _ in range(number % 40):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        if number % 5 == 0:
            data = data[: chance.randrange(len(data))]
        path.write_bytes(data)
        for journal in tmp_path.glob("*-journal"):
            journal.unlink()
        try:
            with Matches(tmp_path) as record:
                record.withdrawn()
                record.of_entries("base", record.standing("base"))
                record.record([match("/x", hit("e-3"))], NOW)
            read += 1
        except StateError:
            refused += 1
    assert refused and read
