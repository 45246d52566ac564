"""Comparing pieces of an index with their digests: which pieces are due, and found faults."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator, status
from hashclient.core.errors import UnreachableError
from hashclient.index import checks, run
from hashclient.index.blinding import Sealer
from hashclient.index.checks import LEAST, OVERDUE, ROUND, note_pieces, verify_due
from hashclient.index.manifest import (
    Manifest,
    RunRef,
    load_manifest,
    write_manifest,
)
from hashclient.index.run import DamagedError, digest_pieces, pieces_of, root_of
from hashclient.status.status import read_status
from tests.kit.manifests import SEALER, manifest_at

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PIECE = 64


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PIECE_BYTES", PIECE)


class Clock:
    """A clock that shows `now`; each call of `monotonic` advances it by `step_s`."""

    def __init__(self) -> None:
        self.now = NOW
        self.step_s = 0.0
        self._monotonic = 0.0

    def monotonic(self) -> float:
        self._monotonic += self.step_s
        return self._monotonic


class List:
    """The folder of a list with runs of random bytes, which are never looked up."""

    def __init__(self, directory: Path, clock: Clock, *lengths: int) -> None:
        self.directory = directory
        self.clock = clock
        self.refs: list[RunRef] = []
        known = {}
        for number, length in enumerate(lengths, 1):
            name = f"run-{number:08d}"
            (directory / name).write_bytes(random.Random(number).randbytes(length))
            known[name] = digest_pieces(directory / name)
            self.refs.append(RunRef(name, length, 0, root_of(known[name])))
        manifest = note_pieces(directory, self.named(), None, known, SEALER, clock.now)
        self.write(manifest)

    def named(self) -> Manifest:
        return manifest_at(NOW, self.refs)

    def write(self, manifest: Manifest) -> None:
        write_manifest(self.directory, manifest, SEALER)

    @property
    def manifest(self) -> Manifest:
        manifest = load_manifest(self.directory, SEALER)
        assert manifest is not None
        return manifest

    def fetch(self, limit_s: float = checks.LIMIT_S) -> Manifest:
        """Compare the due pieces, like a fetch that finds no new generation."""
        manifest = verify_due(
            self.directory,
            self.manifest,
            SEALER,
            self.clock.now,
            limit_s=limit_s,
            monotonic=self.clock.monotonic,
        )
        self.write(manifest)
        return manifest

    def flip(self, run: int, position: int) -> None:
        path = self.directory / self.refs[run].name
        data = bytearray(path.read_bytes())
        data[position] ^= 1 << position % 8
        path.write_bytes(data)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the compared pieces, each as its run and its number in the run."""
    seen: list[tuple[str, int]] = []
    verify = run.verify_piece

    def heard(fd: int, path: Path, number: int, length: int, digest: bytes) -> None:
        seen.append((path.name, number))
        verify(fd, path, number, length, digest)

    monkeypatch.setattr(checks, "verify_piece", heard)
    return seen


# Digests of pieces


@pytest.mark.parametrize("length", [1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE])
def test_the_root_is_over_the_digests_of_pieces(tmp_path: Path, length: int) -> None:
    data = random.Random(length).randbytes(length)
    (tmp_path / "run-1").write_bytes(data)
    parts = [data[start : start + PIECE] for start in range(0, length, PIECE)]
    expected = b"".join(hashlib.sha256(part).digest() for part in parts)
    for cold in (False, True):
        assert digest_pieces(tmp_path / "run-1", cold=cold) == expected
    assert len(parts) == pieces_of(length)
    assert root_of(expected) == hashlib.sha256(expected).hexdigest()


# Pieces that are due


@pytest.mark.slow
def test_each_hour_its_share_and_in_a_week_all_of_it(
    tmp_path: Path, clock: Clock, read: list[tuple[str, int]]
) -> None:
    made = List(tmp_path, clock, 168 * PIECE, 336 * PIECE - 1)
    manifest = made.manifest
    for hour in range(1, 169):
        clock.now = NOW + hour * HOUR
        manifest = made.fetch()
        assert len(read) == 3 * hour
        assert manifest.verified_at == clock.now
    assert len(set(read)) == len(read) == 168 + 336
    assert manifest.oldest_verified == NOW + HOUR
    clock.now += 3 * HOUR
    made.fetch()
    assert read[504:] == read[:9]  # the pieces that were compared longest ago are due first


@pytest.mark.parametrize(
    ("passed", "count"),
    [
        (timedelta(0), 0),
        (LEAST - timedelta(seconds=1), 0),
        (LEAST, 1),
        (timedelta(days=1), 24),
        (ROUND, 168),
        (timedelta(days=4000), 168),
        (timedelta(seconds=-1), 168),
        (-timedelta(days=4000), 168),
    ],
)
def test_the_number_of_due_pieces_depends_on_the_time_that_has_passed(
    tmp_path: Path, clock: Clock, read: list[tuple[str, int]], passed: timedelta, count: int
) -> None:
    """If the time of the last comparison is in the future, all pieces are due."""
    made = List(tmp_path, clock, 168 * PIECE)
    clock.now = NOW + passed
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("checks.json")}
    made.fetch()
    assert len(read) == count
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("checks.json")}
    # If no piece is due, the note of comparisons stays unchanged.
    assert (before == after) is (count == 0)


def test_a_clock_that_was_ahead_keeps_nothing_from_being_compared(
    tmp_path: Path, clock: Clock, read: list[tuple[str, int]]
) -> None:
    made = List(tmp_path, clock, 168 * PIECE)
    clock.now = NOW + timedelta(days=5000)
    made.fetch()
    read.clear()
    clock.now = NOW + HOUR
    clock.step_s = 0.1
    for _ in range(3):  # no fetch has enough time for all pieces
        made.fetch(limit_s=8.0)
        clock.now += HOUR
    assert len(set(read)) == 168
    assert made.manifest.verified_since <= clock.now


def test_it_takes_no_longer_than_it_may(
    tmp_path: Path, clock: Clock, read: list[tuple[str, int]]
) -> None:
    made = List(tmp_path, clock, 168 * PIECE)
    manifest = made.manifest
    clock.step_s = 0.1
    for limit, count in ((2.0, 20), (0.0, 1), (-1.0, 1), (0.55, 6)):
        read.clear()
        clock.now += ROUND
        manifest = made.fetch(limit_s=limit)
        assert len(read) == pytest.approx(count, abs=1)
    # The status shows that comparisons are late.
    assert manifest.verified_since == NOW
    assert clock.now - manifest.verified_since > OVERDUE


def test_of_a_small_index_all_is_compared(
    tmp_path: Path, clock: Clock, read: list[tuple[str, int]]
) -> None:
    made = List(tmp_path, clock, 5)
    clock.now += HOUR
    assert made.fetch().oldest_verified == clock.now
    assert read == [("run-00000001", 0)]


def test_an_index_without_any_run(tmp_path: Path, clock: Clock) -> None:
    made = List(tmp_path, clock)
    clock.now += HOUR
    assert made.fetch().verified_at == clock.now


def test_pages_in_memory_are_dropped_first(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages in memory would hide that the disk has changed a piece."""
    made = List(tmp_path, clock, 3 * PIECE)
    dropped: list[tuple[int, int]] = []

    def advise(_: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        dropped.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    clock.now += ROUND
    made.fetch()
    assert dropped == [(0, PIECE), (PIECE, PIECE), (2 * PIECE, PIECE)]


# Findings


@pytest.mark.parametrize("how", ["flip", "cut", "gone", "pipe"])
def test_a_changed_run_is_named_in_the_manifest(tmp_path: Path, clock: Clock, how: str) -> None:
    made = List(tmp_path, clock, 10 * PIECE, 10 * PIECE)
    path = tmp_path / made.refs[1].name
    if how == "flip":
        made.flip(1, 5 * PIECE + 3)
    elif how == "cut":
        os.truncate(path, 9 * PIECE)
    else:
        path.unlink()
        if how == "pipe":
            os.mkfifo(path)
    clock.now += ROUND
    with pytest.raises(DamagedError) as caught:
        made.fetch()
    assert "hashclient fetch" in (caught.value.hint or "")
    assert made.manifest.rotten == "run-00000002"


@pytest.mark.parametrize("how", ["gone", "cut", "flip", "other key", "nothing"])
def test_without_its_digests_a_run_is_read_as_a_whole(
    tmp_path: Path, clock: Clock, read: list[tuple[str, int]], how: str
) -> None:
    """The whole run is compared with the root of its digests, which the manifest has."""
    made = List(tmp_path, clock, 168 * PIECE)
    path = tmp_path / "checks.json"
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, len(data) // 2)
    elif how == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "other key":
        note_pieces(tmp_path, made.manifest, None, {}, Sealer(b"x" * 32), NOW)
    else:
        path.write_text("{}")
    clock.now += HOUR
    assert made.fetch().oldest_verified == clock.now
    read.clear()
    clock.now += HOUR
    made.fetch()
    assert len(read) == 1
    path.unlink()
    made.flip(0, 700)
    clock.now += HOUR
    with pytest.raises(DamagedError):
        made.fetch()
    assert made.manifest.rotten == "run-00000001"


def test_digests_of_another_run_of_that_name_do_not_count(tmp_path: Path, clock: Clock) -> None:
    made = List(tmp_path, clock, 4 * PIECE)
    path = tmp_path / made.refs[0].name
    path.write_bytes(b"y" * 4 * PIECE)
    ref = msgspec.structs.replace(made.refs[0], root=root_of(digest_pieces(path)))
    made.write(msgspec.structs.replace(made.manifest, runs=(ref,)))
    clock.now += HOUR
    made.fetch()
    made.flip(0, 99)
    clock.now += ROUND
    with pytest.raises(DamagedError):
        made.fetch()


# In a fetch


@pytest.fixture
def client(tmp_path: Path) -> Client:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(40)))
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    return client


def simulator_of(client: Client) -> Simulator:
    assert isinstance(client.source, Simulator)
    return client.source


def rot(client: Client, position: int) -> None:
    run = min((client.settings.layout.lists / "baseline").glob("run-*"))
    data = bytearray(run.read_bytes())
    data[position] ^= 1
    run.write_bytes(data)


def until_found(client: Client) -> int:
    """Fetch every three hours until the rot is found, and return the number of fetches."""
    simulator = simulator_of(client)
    for count in itertools.count(1):
        client.now += timedelta(hours=3)
        simulator.now = client.now
        simulator.renew()
        with contextlib.suppress(DamagedError):
            client.fetch()
            continue
        return count
    raise AssertionError


@pytest.mark.slow
def test_a_fetch_with_nothing_new_finds_rot_and_the_next_builds_again(client: Client) -> None:
    rot(client, -70)
    assert until_found(client) <= 57
    with pytest.raises(DamagedError, match="index file is damaged") as caught:
        client.open()
    assert "fetch --rebuild" in (caught.value.hint or "")
    (entry,) = read_status(client.settings, {}, client.now).lists
    assert not entry.usable and "fetch --rebuild" in (entry.problem or "")
    simulator = simulator_of(client)
    simulator.faults["targets/*.parquet"] = status(500)
    with pytest.raises(UnreachableError):
        client.fetch()
    # The list stays damaged until a fetch replaces the damaged run.
    with pytest.raises(DamagedError):
        client.open()
    simulator.faults.clear()
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.added) == (1, 1, None)
    assert client.numbers(range(50)) == set(range(40))
    assert client.leftovers() == set()


def test_rot_is_found_before_anything_is_built_on_it(client: Client) -> None:
    """The damage is found before matches of damaged entries count as withdrawn."""
    rot(client, -70)
    simulator = simulator_of(client)
    client.now += timedelta(days=7)
    simulator.now = client.now
    simulator.publish(csv(range(40, 43)))
    before = client.manifest()
    with pytest.raises(DamagedError):
        client.fetch()
    after = client.manifest()
    assert before is not None and after is not None
    assert (after.generation, after.rotten) == (before.generation, before.runs[0].name)
    client.fetch()
    assert client.numbers(range(50)) == set(range(43))


def test_runs_that_stay_keep_their_times(
    client: Client, read: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = simulator_of(client)
    first = client.manifest()
    assert first is not None
    client.now += timedelta(days=3)
    simulator.now = client.now
    simulator.publish(csv([40]))
    client.fetch()
    second = client.manifest()
    assert second is not None and len(second.runs) == 2
    count = sum(pieces_of(run.length) for run in first.runs)
    assert len(read) == -(-count * 3 // 7)
    assert first.oldest_verified is not None and second.oldest_verified is not None
    assert abs(second.oldest_verified - first.oldest_verified) < timedelta(seconds=1)
    # No fetch may compare a whole run: that call would now fail.
    monkeypatch.setattr(checks, "verify_runs", None)
    for _ in range(4):
        client.now += timedelta(days=1)
        simulator.now = client.now
        simulator.renew()
        client.fetch()
    assert len(set(read)) >= count


def test_a_fetch_soon_after_another_compares_nothing(
    client: Client, read: list[tuple[str, int]]
) -> None:
    before = (client.settings.layout.lists / "baseline" / "checks.json").stat()
    client.now += LEAST / 2
    client.fetch()
    assert read == []
    assert (client.settings.layout.lists / "baseline" / "checks.json").stat() == before


def test_an_overdue_check_is_a_warning(client: Client) -> None:
    manifest = client.manifest()
    assert manifest is not None
    for passed, warned in ((OVERDUE, False), (OVERDUE + HOUR, True)):
        now = manifest.verified_since + passed
        (entry,) = read_status(client.settings, {}, now).lists
        assert any("not compared" in text for text in entry.warnings) is warned
