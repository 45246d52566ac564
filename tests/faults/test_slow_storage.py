"""Slow storage: FUSE that answers after some milliseconds, or never."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.faulty_fs import COUNTS_BYTES, File, Pace, mounted, requests_of, why_not
from hashclient.core.kinds import Algorithm
from tests.kit import (
    Run,
    checked,
    csv_of,
    make_state,
    members,
    run,
    started,
    wait_until,
)

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

LISTED = b"listed"
DELAY_S = 0.005
#: The number of files in the tree, and the number of files in each directory.
COUNT, OF_ONE = 120, 12


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list whose entry has no size, so that every file has to be read."""
    rows = csv_of({"e-1": LISTED}, algorithms=(Algorithm.SHA1,), sized=False)
    return make_state(tmp_path_factory.mktemp("site"), {"base": rows})


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    path = tmp_path / "counts"
    path.write_bytes(bytes(COUNTS_BYTES))
    return path


def tree() -> dict[str, File]:
    content = {n: LISTED if n % 50 == 7 else b"clean %d" % n for n in range(COUNT)}
    return {f"d{n // OF_ONE}/f{n}": File(data, direct_io=False) for n, data in content.items()}


def slow(where: Path, pace: Pace) -> contextlib.AbstractContextManager[Path]:
    where.mkdir()
    return mounted(where, tree(), pace=pace)


def scan(state: Path, *args: object) -> Run:
    return run("--state-dir", state, "scan", "--format", "jsonl", "--show-all", *args)


@contextlib.contextmanager
def scanning(state: Path, where: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    words = ("--state-dir", state, "scan", "--format", "jsonl", where)
    with started(*words, **variables) as process:
        yield process


def expected(where: Path) -> dict[str, str]:
    return {
        f"{where}/{name}": "match" if file.content == LISTED else "clean"
        for name, file in tree().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("types", "valid_s"), [(True, 1), (False, 0)])
def test_much_is_asked_at_once_and_the_outcomes_are_the_same(
    state: Path, tmp_path: Path, counts: Path, types: bool, valid_s: int
) -> None:
    with slow(tmp_path / "m", Pace(DELAY_S, valid_s, types, str(counts))) as where:
        result = scan(state, where)
        at_once = requests_of(counts)["most"]
        counts.write_bytes(bytes(COUNTS_BYTES))
        few = scan(state, "--jobs", "2", "--sort", where)
    assert result.outcomes == few.outcomes == expected(where)
    assert result.code == few.code == 10
    # Without threads, two workers and the walk could have at most three requests at a time.
    assert at_once > 8


@pytest.mark.slow
def test_few_files_of_one_directory_are_not_read_one_after_the_other(
    state: Path, tmp_path: Path, counts: Path
) -> None:
    """On fast storage, a single process would read these 80 files one after the other."""
    files = {f"f{n}": File(b"clean %d" % n, direct_io=False) for n in range(80)}
    (tmp_path / "m").mkdir()
    with mounted(tmp_path / "m", files, pace=Pace(4 * DELAY_S, 1, True, str(counts))) as where:
        result = scan(state, where)
    assert (result.code, result.summary["clean"]) == (0, 80)
    assert requests_of(counts)["most"] > 3


@pytest.mark.slow
def test_a_file_needs_no_more_requests_than_it_has_to(
    state: Path, tmp_path: Path, counts: Path
) -> None:
    """A file needs one request each to find, open, read, check and close it; a batch some more."""
    with slow(tmp_path / "m", Pace(DELAY_S, 60, types=True, counts=str(counts))) as where:
        assert scan(state, where).code == 10
    asked = requests_of(counts)
    matches = sum(file.content == LISTED for file in tree().values())
    # A match is read again for the other digests of its entry, and looked up once more for its
    # place.
    extra = 4 * matches
    assert asked["open"] <= COUNT + extra
    assert asked["read"] <= COUNT + extra
    assert asked["flush"] <= COUNT + extra
    # One `stat` after the read is needed, because only it shows that the file has not changed.
    assert asked["getattr"] <= 1.2 * COUNT + extra
    assert asked["lookup"] <= 1.2 * COUNT + extra
    batches = asked["opendir"] - COUNT // OF_ONE - 1
    assert batches <= COUNT / 3
    assert asked["statfs"] <= 3 * batches + extra


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_a_short_batch_and_is_replaced(
    state: Path, tmp_path: Path
) -> None:
    with (
        slow(tmp_path / "m", Pace(DELAY_S, 1)) as where,
        scanning(state, where) as process,
    ):
        wait_until(lambda: len(members(process.pid)) > 10, process.pid)
        # The highest process number belongs to a late worker, not to the first worker and not to
        # the process that forks workers.
        os.kill(max(members(process.pid)), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    result = checked(Run(process.returncode, out, err))
    unread = result.summary["unread"]
    assert unread <= 3 * 8
    assert result.code == (11 if unread else 10)
    assert result.summary["clean"] + result.summary["match"] + unread == COUNT
    assert members(process.pid) == set()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_never_answers_does_not_keep_a_scan_from_ending(
    state: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """No signal can end a worker that waits for the server, so the scan ends without it."""
    where = tmp_path / "m"
    pace = Pace(DELAY_S, 1, types=True, stuck_at="f5")
    with slow(where, pace), scanning(state, where, HASHCLIENT_DEBUG="") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
        result = checked(Run(process.returncode, first + out, err))
        assert result.code == 11
        assert result.summary["exit_code"] == 11
    wait_until(lambda: members(process.pid) == set(), process.pid)


@pytest.mark.slow
def test_a_scan_that_is_killed_leaves_no_process_behind(state: Path, tmp_path: Path) -> None:
    with (
        slow(tmp_path / "m", Pace(4 * DELAY_S, 1)) as where,
        scanning(state, where) as process,
    ):
        wait_until(lambda: len(members(process.pid)) > 10, process.pid)
        process.kill()
        process.communicate(timeout=60)
        wait_until(lambda: members(process.pid) == set(), process.pid)
