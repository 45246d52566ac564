"""The audit log under kills, full disks and broken disks: failures are reported."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.crash import Recorder, watched
from hashclient.audit.log import AuditLog, Event, checkpoint, read, verify
from hashclient.core.errors import AuditError, StateError
from hashclient.system import files

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def match(number: int) -> Event:
    return Event("match", {"path": f"/srv/{number}"})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def log(directory: Path) -> AuditLog:
    log = AuditLog(directory, clock=lambda: START)
    log.append([match(0)])
    return log


def content(directory: Path) -> bytes:
    return (directory / "log.jsonl").read_bytes()


def run(script: str, *arguments: Path | int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )


# Kills

#: A script that appends four batches of three records. At the write number `at`, it writes `length`
#: bytes and is killed.
KILLED_WRITER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from hashclient.audit.log import AuditLog, Event

directory, at, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
write, calls = os.write, 0

def dying_write(fd, data):
    global calls
    calls += 1
    if calls == at:
        write(fd, data[:length])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(fd, data)

os.write = dying_write
log = AuditLog(Path(directory), clock=lambda: datetime(2026, 1, 31, tzinfo=UTC))
for _ in range(4):
    log.append([Event("match", {"path": "/srv"})] * 3)
"""


@pytest.mark.slow
def test_kill_after_kill_leaves_one_chain_and_each_is_recorded(directory: Path) -> None:
    """A kill leaves nothing of the batch, a part of a record, unsigned records, or all of it."""
    lengths = [0, 300, 800, 10_000, 10, 500, 700, 0, 1]
    for number, length in enumerate(lengths):
        done = run(KILLED_WRITER, directory, 1 + number % 4, length)
        assert done.returncode == -signal.SIGKILL, done.stderr
        before = content(directory)
        AuditLog(directory, clock=lambda: START).append([match(1)])
        verify(directory)
        whole = before[: before.rfind(b"\n") + 1]
        assert content(directory).startswith(whole)
        lines = whole.splitlines()
        signed = [index for index, line in enumerate(lines, 1) if b',"sig":' in line]
        repair = {
            "dropped_bytes": len(before) - len(whole),
            "adopted_records": len(lines) - max(signed, default=0),
        }
        newest = list(read(directory, limit=2))
        if any(repair.values()):
            assert (newest[0].event, newest[0].data) == ("audit-recovered", repair)
        else:
            assert newest[0].event != "audit-recovered"
    recovered = list(read(directory, event="audit-recovered"))
    assert len(recovered) == sum(0 < length < 10_000 for length in lengths)


@pytest.mark.slow
def test_a_batch_cut_at_any_byte_is_repaired(log: AuditLog, directory: Path) -> None:
    start = len(content(directory))
    log.append([match(1), match(2), match(3)])
    whole = content(directory)
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 0x0A]
    cuts = {start, *range(start, len(whole), 11), *ends, *(end - 1 for end in ends)}
    for cut in sorted(cut for cut in cuts if start <= cut < len(whole)):
        (directory / "log.jsonl").write_bytes(whole[:cut])
        if cut > start:
            with pytest.raises(AuditError):
                verify(directory)
        log.append([match(4)])
        kept = [end for end in ends if start <= end <= cut]
        assert content(directory).startswith(whole[: kept[-1]])
        repair = {"dropped_bytes": cut - kept[-1], "adopted_records": len(kept) - 1}
        recovered = [record.data for record in read(directory, event="audit-recovered")]
        assert recovered == ([repair] if cut > start else [])
        assert verify(directory).records == 2 + len(kept) - 1 + len(recovered) + 1


def test_a_torn_first_line_starts_the_log_again(log: AuditLog, directory: Path) -> None:
    genesis = content(directory).splitlines()[0]
    (directory / "log.jsonl").write_bytes(genesis[:100])
    (directory / "key.pub").unlink()  # key.pub is written after the genesis record is complete
    log.append([match(1)])
    assert [record.event for record in read(directory)] == ["genesis", "audit-recovered", "match"]
    assert verify(directory).records == 3


@pytest.mark.parametrize("left", ["nothing", "empty log", "key", "empty log and key", "temporary"])
def test_a_kill_before_the_first_record_does_no_harm(
    log: AuditLog, directory: Path, left: str
) -> None:
    (directory / "key.pub").unlink()
    if "log" in left:
        (directory / "log.jsonl").write_bytes(b"")
    else:
        (directory / "log.jsonl").unlink()
    if "key" not in left:
        (directory / "key.pem").unlink()
    if left == "temporary":
        (directory / f"{files.TEMP_PREFIX}x").write_bytes(b"half a key")
    log.append([match(1)])
    assert verify(directory).records == 2
    assert {path.name for path in directory.iterdir()} == {"log.jsonl", "key.pem", "key.pub"}


def test_a_kill_before_the_public_key_is_written_does_no_harm(
    log: AuditLog, directory: Path
) -> None:
    public = (directory / "key.pub").read_bytes()
    (directory / "key.pub").unlink()
    log.append([match(1)])
    assert (directory / "key.pub").read_bytes() == public


# Full disks and broken disks


def failing_write(error: int, after: int) -> Callable[[int, memoryview], int]:
    """Return an `os.write` that writes `after` bytes and then fails with `error`."""
    write, left = os.write, after

    def fail(fd: int, data: memoryview) -> int:
        nonlocal left
        if not left:
            raise OSError(error, os.strerror(error))
        count = write(fd, data[:left])
        left -= count
        return count

    return fail


@pytest.mark.parametrize("after", [0, 1, 300, 500])
@pytest.mark.parametrize(
    ("error", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EIO, None)],
    ids=["full", "broken"],
)
def test_a_failed_append_leaves_the_log_as_it_was(
    log: AuditLog,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    error: int,
    hint: str | None,
) -> None:
    before = content(directory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing_write(error, after))
        with pytest.raises(AuditError, match="cannot write the audit log") as caught:
            log.append([match(1), match(2)])
    assert os.strerror(error) in caught.value.message
    assert hint is None or hint in str(caught.value.hint)
    assert content(directory) == before
    log.append([match(3)])
    assert [record.event for record in read(directory)] == ["genesis", "match", "match"]
    verify(directory)


def test_a_write_that_takes_less_than_all_goes_on(
    log: AuditLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:100]))
        log.append([match(1), match(2)])
    assert verify(directory).records == 4


def test_a_new_log_is_on_the_disk_before_its_public_key_is(directory: Path) -> None:
    """key.pub says that a log exists, so the log must be synced before key.pub is."""
    recorder = Recorder()
    with watched(recorder):
        AuditLog(directory, clock=lambda: START).append([match(1)])
    calls = [(name, Path(str(argument)).name) for name, argument in recorder.calls]
    written = max(n for n, call in enumerate(calls) if call == ("write", "log.jsonl"))
    (_, published) = (n for n, (name, _) in enumerate(calls) if name == "replace")
    assert (directory / "key.pub").exists()
    between = calls[written + 1 : published]
    assert between[:2] == [("fsync", "log.jsonl"), ("fsync", directory.name)]


def test_only_what_is_to_be_durable_waits_for_the_disk(log: AuditLog, directory: Path) -> None:
    for durable in (False, True):
        recorder = Recorder()
        with watched(recorder):
            log.append([match(1)], durable=durable)
        names = [name for name, _ in recorder.calls if name in {"write", "fsync"}]
        assert names == ["write", "fsync"][: 1 + durable]


def test_a_durable_record_that_cannot_be_synced_is_not_kept(
    log: AuditLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = content(directory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        log.append([match(1)])
        after = content(directory)
        with pytest.raises(AuditError):
            log.append([match(2)], durable=True)
        with pytest.raises(AuditError):
            checkpoint(directory)
    assert content(directory) == after != before
    log.append([match(2)], durable=True)
    assert verify(directory).records == 4


def test_an_interrupted_append_is_taken_back(
    log: AuditLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def interrupted(fd: int, data: memoryview) -> int:
        write(fd, data[:50])
        raise KeyboardInterrupt

    before = content(directory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append([match(1)])
    assert content(directory) == before


#: A script that appends records under a limit on the size of files, which acts like a full disk.
LIMITED_WRITER = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from hashclient.audit.log import AuditLog, Event
from hashclient.core.errors import AuditError

limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), limits[1]))
log = AuditLog(Path(sys.argv[1]), clock=lambda: datetime(2026, 1, 31, tzinfo=UTC))
try:
    log.append([Event("match", {"path": "/srv"})] * 3)
except AuditError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    print(error.message)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1, 300, 800])
def test_a_real_limit_is_survived(log: AuditLog, directory: Path, room: int) -> None:
    before = content(directory)
    done = run(LIMITED_WRITER, directory, len(before) + room)
    assert (done.returncode, done.stderr) == (9, b"")
    assert b"cannot write the audit log" in done.stdout
    assert content(directory) == before


@pytest.mark.sampled
@pytest.mark.parametrize("limit", [0, 50, 200])
def test_no_room_for_a_new_log_is_survived(directory: Path, limit: int) -> None:
    """At 0 and 50 bytes the key does not fit, and at 200 bytes the first record does not fit."""
    done = run(LIMITED_WRITER, directory, limit)
    assert (done.returncode, done.stderr) == (9, b"")
    with pytest.raises(StateError, match="no audit log yet"):
        verify(directory)
    AuditLog(directory, clock=lambda: START).append([match(1)])
    assert verify(directory).records == 2


def test_too_many_open_files_is_an_error(log: AuditLog, directory: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(AuditError):
            log.append([match(1)])
        with pytest.raises(AuditError):
            verify(directory)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("what", ["directory", "log", "link"])
def test_things_in_the_place_of_others_are_errors(directory: Path, what: str) -> None:
    if what == "directory":
        directory.write_bytes(b"")
    else:
        directory.mkdir()
        if what == "log":
            (directory / "log.jsonl").mkdir()
        else:
            (directory / "log.jsonl").symlink_to(directory.parent / "elsewhere")
    with pytest.raises(AuditError):
        AuditLog(directory, clock=lambda: START).append([match(1)])
    assert not (directory.parent / "elsewhere").exists()
    if what != "link":
        with pytest.raises(AuditError):
            verify(directory)
        with pytest.raises(AuditError):
            list(read(directory))
