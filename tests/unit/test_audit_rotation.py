"""The audit log in several files: they form one chain, and only the first files may be archived."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fixtures.crash import FailAt, in_child, kill_at, watched
from hashclient.audit.log import AuditLog, Event, checkpoint, read, verify
from hashclient.audit.record import segment_data
from hashclient.core.errors import AuditError, UsageError

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
#: More than the number of changes of the disk that one append to a full log file makes.
MOST = 60


def event(number: int) -> Event:
    return Event("match", {"number": number})


class Logbook:
    """A log in `directory` that closes a file as soon as the file has `max_bytes`."""

    def __init__(self, directory: Path, max_bytes: int | None = None) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self._ticks = itertools.count()

    @property
    def log(self) -> AuditLog:
        return AuditLog(self.directory, clock=self._clock, max_bytes=self.max_bytes)

    def _clock(self) -> datetime:
        return START + timedelta(seconds=next(self._ticks))

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.log.append([event(number)], durable=True)

    def numbers(self, **options: Any) -> list[int]:
        return [r.data["number"] for r in read(self.directory, event="match", **options)]

    def files(self) -> list[str]:
        return sorted(p.name for p in self.directory.glob("log*"))

    def lines(self, name: str) -> list[bytes]:
        return (self.directory / name).read_bytes().splitlines(keepends=True)

    def write(self, name: str, lines: list[bytes]) -> None:
        (self.directory / name).write_bytes(b"".join(lines))


@pytest.fixture
def book(tmp_path: Path) -> Logbook:
    """A log of three files."""
    made = Logbook(tmp_path / "audit")
    for first in (0, 10, 20):
        made.add(*range(first, first + 3))
        if first < 20:
            assert made.log.rotate() is not None
    return made


FIRST, SECOND, LAST = "log-000001.jsonl", "log-000002.jsonl", "log.jsonl"
EXPECTED = [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_the_chain_goes_on_from_file_to_file(book: Logbook) -> None:
    assert book.files() == [FIRST, SECOND, LAST]
    report = verify(book.directory)
    records = list(read(book.directory))
    assert [r.seq for r in records] == list(range(1, len(records) + 1))
    assert all(b.prev == a.hash for a, b in itertools.pairwise(records))
    assert (report.records, report.seq, report.segment) == (len(records), len(records), 3)
    assert (report.first_segment, report.archived_seq, report.archived_hash) == (1, 0, None)
    assert [r.event for r in records if r.event != "match"] == [
        *("genesis", "segment-closed", "segment", "segment-closed", "segment")
    ]
    assert book.numbers() == EXPECTED
    for limit in range(1, 10):
        assert book.numbers(limit=limit) == EXPECTED[-limit:]
    assert all((book.directory / n).stat().st_mode & 0o077 == 0 for n in book.files())


def test_another_program_can_verify_it_from_the_specification(book: Logbook) -> None:
    """This test uses only the rules of docs/audit-log.md, and nothing of the package."""
    seq, prev, genesis = 0, "0" * 64, b""
    key = None
    value: dict[str, Any] = {}
    for number, name in enumerate(book.files()):
        lines = book.lines(name)
        for place, line in enumerate(lines):
            last, value = value, json.loads(line)
            assert line == json.dumps(value, separators=(",", ":")).encode() + b"\n"
            covered = line[: line.rindex(b',"hash":')]
            tag = b"signed record" if "sig" in value else b"record"
            tag = b"hashclient audit " + tag + b" v1\n"
            assert hashlib.sha256(tag + covered).hexdigest() == value["hash"]
            seq += 1
            assert (value["seq"], value["prev"]) == (seq, prev)
            if place == 0 and name == FIRST:
                assert value["event"] == "genesis"
                key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(value["data"]["public_key"]))
                genesis = line
            elif place == 0:
                data = value["data"]
                assert list(data) == ["format", "segment", "genesis", "closed"]
                assert (value["event"], data["format"]) == ("segment", "hashclient-audit-segment/1")
                assert data["segment"] == number + 1
                spelled = json.dumps(data["genesis"], separators=(",", ":")).encode() + b"\n"
                assert spelled == genesis
                assert data["closed"] == {k: last[k] for k in ("seq", "hash", "time")}
            prev = value["hash"]
            if "sig" in value:
                assert key is not None
                signed = b"hashclient audit signature v1\n" + bytes.fromhex(value["hash"])
                key.verify(bytes.fromhex(value["sig"]), signed)
        closing = ("segment-closed", {"segment": number + 1})
        closes = (value["event"], value["data"]) == closing
        assert closes == (name != LAST)


def test_a_file_that_is_full_is_closed(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "audit", max_bytes=2_000)
    book.add(*range(30))
    assert len(book.files()) > 4
    assert book.numbers() == list(range(30))
    verify(book.directory)
    sizes = [(book.directory / n).stat().st_size for n in book.files()]
    assert max(sizes) < 4_000
    # Even with the smallest `max_bytes`, each file has a further record after its first record.
    book.max_bytes = 1
    before = len(book.files())
    book.add(30, 31, 32)
    assert len(book.files()) <= before + 3 and book.numbers()[-3:] == [30, 31, 32]
    verify(book.directory)


def test_a_log_of_one_file_is_as_it_was(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "audit")
    book.add(*range(50))
    assert book.files() == [LAST]
    book.max_bytes = 10_000_000
    book.add(50)
    assert book.files() == [LAST]


def test_no_file_is_closed_twice(book: Logbook) -> None:
    assert book.log.rotate() is not None
    assert book.log.rotate() is None
    assert len(book.files()) == 4


def test_a_log_that_is_not_there_is_not_closed(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "audit")
    with pytest.raises(AuditError, match="no audit log"):
        book.log.rotate()
    assert book.files() == []


@pytest.mark.parametrize("name", ["genesis", "segment", "segment-closed", "audit-recovered"])
def test_the_logs_own_events_are_its_own(book: Logbook, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        book.log.append([Event(name, {})])


# Missing and changed files.


def failure(book: Logbook, kept: bytes | None = None) -> str:
    with pytest.raises(AuditError) as caught:
        verify(book.directory, kept)
    return caught.value.message


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_files_may_be_archived(book: Logbook, tmp_path: Path, count: int) -> None:
    whole = verify(book.directory)
    archive = tmp_path / "archive"
    archive.mkdir()
    for name in [FIRST, SECOND][:count]:
        (book.directory / name).rename(archive / name)
    report = verify(book.directory)
    assert (report.first_segment, report.segment) == (count + 1, 3)
    assert report.records == whole.records - report.archived_seq
    assert (report.seq, report.hash, report.log_id) == (whole.seq, whole.hash, whole.log_id)
    assert book.numbers() == EXPECTED[3 * count :]
    book.add(30)
    verify(book.directory)
    # The archived files alone are a valid log. It ends at the record that the first remaining file
    # names.
    name = [FIRST, SECOND][count - 1]
    (archive / name).rename(archive / LAST)
    archived = verify(archive)
    assert (archived.seq, archived.hash) == (report.archived_seq, report.archived_hash)


def test_a_file_from_in_between_is_missed(book: Logbook) -> None:
    assert book.log.rotate() is not None
    (book.directory / SECOND).unlink()
    assert SECOND in failure(book) and "missing" in failure(book)
    (book.directory / FIRST).unlink()
    (book.directory / "log-000003.jsonl").unlink()
    verify(book.directory)  # the log verifies when all closed files are archived
    book.add(40)
    assert book.log.rotate() is not None
    (book.directory / "log-000004.jsonl").rename(book.directory / "x")
    book.add(41)
    assert book.log.rotate() is not None
    verify(book.directory)


def test_the_file_before_the_last_is_missed(book: Logbook) -> None:
    (book.directory / SECOND).unlink()
    assert failure(book) == f"the audit log does not verify: {SECOND}: it is missing"


def test_the_last_file_is_missed(book: Logbook) -> None:
    (book.directory / LAST).unlink()
    assert "the audit log is gone" in failure(book)
    with pytest.raises(AuditError, match="gone"):
        book.add(1)


def exchange(book: Logbook) -> None:
    (book.directory / FIRST).rename(book.directory / "x")
    (book.directory / SECOND).rename(book.directory / FIRST)
    (book.directory / "x").rename(book.directory / SECOND)


def shorten(name: str, count: int) -> Callable[[Logbook], None]:
    return lambda book: book.write(name, book.lines(name)[:-count])


def doubled(book: Logbook) -> None:
    shutil.copy(book.directory / SECOND, book.directory / "log-000003.jsonl")


def behead(name: str) -> Callable[[Logbook], None]:
    return lambda book: book.write(name, book.lines(name)[1:])


def swap_within(book: Logbook) -> None:
    lines = book.lines(SECOND)
    lines[1], lines[2] = lines[2], lines[1]
    book.write(SECOND, lines)


def join(book: Logbook) -> None:
    book.write(FIRST, book.lines(FIRST) + book.lines(SECOND))
    (book.directory / SECOND).unlink()


def join_all(book: Logbook) -> None:
    book.write(LAST, book.lines(FIRST) + book.lines(SECOND) + book.lines(LAST))
    (book.directory / FIRST).unlink()
    (book.directory / SECOND).unlink()


def other_log(book: Logbook) -> None:
    other = Logbook(book.directory.with_name("other"))
    other.add(0, 1, 2)
    assert other.log.rotate() is not None
    shutil.copy(other.directory / FIRST, book.directory / FIRST)


def tear(book: Logbook) -> None:
    data = (book.directory / FIRST).read_bytes()
    (book.directory / FIRST).write_bytes(data[:-5])


def empty(book: Logbook) -> None:
    (book.directory / SECOND).write_bytes(b"")


def directory(book: Logbook) -> None:
    (book.directory / FIRST).unlink()
    (book.directory / FIRST).mkdir()


def fifo(book: Logbook) -> None:
    (book.directory / SECOND).unlink()
    os.mkfifo(book.directory / SECOND)


ATTACKS: dict[str, Callable[[Logbook], None]] = {
    "two files exchanged": exchange,
    "the record that closes a file cut off": shorten(FIRST, 1),
    "the end of a closed file cut off": shorten(SECOND, 2),
    "a file twice": doubled,
    "the beginning of a file cut off": behead(SECOND),
    "the genesis record cut off": behead(FIRST),
    "the beginning of the last file cut off": behead(LAST),
    "two records exchanged": swap_within,
    "two files joined": join,
    "all files joined": join_all,
    "the first file of another log": other_log,
    "a torn line": tear,
    "an empty file": empty,
    "a directory": directory,
    "a pipe": fifo,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_any_change_of_closed_files_is_found(book: Logbook, attack: str) -> None:
    ATTACKS[attack](book)
    assert failure(book)


@pytest.mark.sampled
@pytest.mark.parametrize("name", [FIRST, SECOND, LAST])
def test_any_byte_that_was_changed_is_found(book: Logbook, name: str) -> None:
    data = (book.directory / name).read_bytes()
    for place in range(0, len(data), 97):
        changed = bytearray(data)
        changed[place] ^= 1
        (book.directory / name).write_bytes(bytes(changed))
        failure(book)


WRONG: dict[str, Callable[[Any], Any]] = {
    "another number": lambda data: data | {"segment": 5},
    "the number of the first file": lambda data: data | {"segment": 1},
    "a number that is none": lambda data: data | {"segment": True},
    "another key": lambda data: data | {"more": 1},
    "another format": lambda data: data | {"format": "hashclient-audit-segment/2"},
    "another place": lambda data: (
        data | {"closed": data["closed"] | {"seq": data["closed"]["seq"] - 1}}
    ),
    "another hash": lambda data: data | {"closed": data["closed"] | {"hash": "0" * 64}},
    "no time": lambda data: data | {"closed": data["closed"] | {"time": "yesterday"}},
    "no record before": lambda data: data | {"closed": None},
    "another genesis record": lambda data: data | {"genesis": data["genesis"] | {"seq": 2}},
    "no genesis record": lambda data: data | {"genesis": None},
    "a missing key": lambda data: {k: v for k, v in data.items() if k != "genesis"},
    "another order": lambda data: dict(reversed(data.items())),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_beginning_is_what_the_format_says(
    book: Logbook, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whoever has the key can sign and chain a first record that has the wrong form."""
    monkeypatch.setattr(
        "hashclient.audit.rotation.segment_data", lambda *args: WRONG[what](segment_data(*args))
    )
    assert book.log.rotate() is not None
    with pytest.raises(AuditError) as caught:
        verify(book.directory)
    assert ("newer hashclient" in (caught.value.hint or "")) is (what == "another format")


def test_a_log_that_is_closed_in_the_middle_is_found(
    book: Logbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashclient.audit.log.OWN_EVENTS", frozenset())
    book.log.append([Event("segment-closed", {"segment": 3}), event(99)], sign_each=True)
    assert "follows the record that closes" in failure(book)


# Checkpoints.


def test_checkpoints_hold_across_files(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "audit")
    kept = []
    for number in range(8):
        book.add(number)
        kept.append(checkpoint(book.directory))
        if number % 3 == 2:
            assert book.log.rotate() is not None
            kept.append(checkpoint(book.directory))
    for document in kept:
        verify(book.directory, document)
    book.write(LAST, book.lines(LAST)[:-1])
    assert "missing" in failure(book, kept[-1])


def test_a_checkpoint_of_what_was_archived_is_not_called_right(book: Logbook) -> None:
    early = Logbook(book.directory.with_name("early"))
    early.add(0)
    first = checkpoint(early.directory)
    early.add(1)
    (early.directory / LAST).rename(early.directory / "kept")
    (early.directory / "kept").rename(early.directory / LAST)
    assert early.log.rotate() is not None
    shutil.copy(early.directory / FIRST, early.directory / "copy")
    (early.directory / FIRST).unlink()
    assert "was archived" in failure(early, first)
    (early.directory / "copy").rename(early.directory / FIRST)
    verify(early.directory, first)


def test_a_checkpoint_of_the_last_archived_record_holds(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "audit")
    book.add(0, 1)
    copy = book
    # The process is killed after the record that closes the file, and a checkpoint is made before
    # the next record.
    for number in range(1, MOST):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy = Logbook(tmp_path / "copy")
        shutil.copytree(book.directory, copy.directory)

        def act(copy: Logbook = copy, number: int = number) -> None:
            with watched(kill_at(number)):
                copy.log.rotate()

        in_child(act)
        if copy.lines(LAST)[-1].find(b'"event":"segment-closed"') > 0:
            break
    kept = checkpoint(copy.directory)
    copy.add(2)
    (copy.directory / FIRST).unlink()
    assert verify(copy.directory, kept).archived_seq == json.loads(kept)["seq"]


# Kills, failures, and several processes at the same time.


def copies(tmp_path: Path) -> list[Logbook]:
    base = Logbook(tmp_path / "base" / "audit")
    base.add(0, 1, 2)
    assert base.log.rotate() is not None
    base.add(10)
    made = []
    for number in range(1, MOST):
        directory = tmp_path / str(number) / "audit"
        shutil.copytree(base.directory, directory)
        made.append(Logbook(directory, max_bytes=100))
    return made


@pytest.mark.slow
def test_a_kill_at_any_instant_leaves_a_log_that_verifies(tmp_path: Path) -> None:
    states = set()
    for number, book in enumerate(copies(tmp_path), 1):

        def act(number: int = number, book: Logbook = book) -> None:
            with watched(kill_at(number)):
                book.add(11)

        died = in_child(act) != 0
        torn = not (book.directory / LAST).read_bytes().endswith(b"\n")
        if not torn:
            verify(book.directory)
        kept = book.numbers()
        assert kept[:4] == [0, 1, 2, 10] and kept[4:] in ([], [11])
        states.add((len(book.files()), torn, *kept[4:]))
        book.add(12)
        verify(book.directory)
        assert book.numbers() == [*kept, 12]
        assert not list(book.directory.glob(".tmp-*"))
        assert len(book.files()) in (3, 4)
        if not died:
            break
    else:
        raise AssertionError("there is no end to it")
    assert {(2, False), (3, False), (3, False, 11)} <= states


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_failure_at_any_instant_loses_nothing(tmp_path: Path, code: int) -> None:
    for number, book in enumerate(copies(tmp_path), 1):
        fail = FailAt(number, code)
        recorded = False
        with watched(fail):
            try:
                book.add(11)
                recorded = True
            except AuditError:
                pass
        verify(book.directory)
        kept = [0, 1, 2, 10, *([11] if recorded else [])]
        assert book.numbers() == kept
        book.add(12)
        verify(book.directory)
        assert book.numbers() == [*kept, 12]
        if not fail.fired:
            break
    else:
        raise AssertionError("there is no end to it")


def test_without_hard_links_it_stays_in_one_file(
    book: Logbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_args: object, **_options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    book.max_bytes = 1
    files = book.files()
    book.add(23, 24)
    assert book.files() == files
    verify(book.directory)
    assert book.numbers() == [*EXPECTED, 23, 24]
    with pytest.raises(UsageError, match="no hard links"):
        book.log.rotate()
    assert not list(book.directory.glob(".tmp-*"))
    verify(book.directory)


def test_a_foreign_file_with_the_name_of_a_closed_one_is_left_alone(book: Logbook) -> None:
    taken = book.directory / "log-000003.jsonl"
    taken.write_bytes(b"somebody's")
    with pytest.raises(AuditError, match="another file has the name"):
        book.log.rotate()
    book.max_bytes = 1
    book.add(23)
    assert taken.read_bytes() == b"somebody's"
    taken.unlink()
    verify(book.directory)
    assert book.numbers() == [*EXPECTED, 23]


def test_a_torn_end_is_repaired_and_then_closed(book: Logbook) -> None:
    with (book.directory / LAST).open("ab") as log:
        log.write(b'{"seq":')
    assert book.log.rotate() is not None
    verify(book.directory)
    events = [r.event for r in read(book.directory)]
    assert events[-3:] == ["audit-recovered", "segment-closed", "segment"]


def test_a_broken_end_is_not_closed(book: Logbook) -> None:
    lines = book.lines(LAST)
    lines[-1] = lines[-1].replace(b'"number":22', b'"number":23')
    book.write(LAST, lines)
    book.max_bytes = 1
    files = book.files()
    with pytest.raises(AuditError):
        book.log.rotate()
    with pytest.raises(AuditError):
        book.add(1)
    assert book.files() == files and book.lines(LAST) == lines


@pytest.mark.slow
def test_processes_that_append_while_files_are_closed_keep_one_chain(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "audit", max_bytes=1_500)
    book.add(0)
    children = []
    for first in (1_000, 2_000, 3_000):
        with warnings.catch_warnings():  # a test runner may cause warnings about threads
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            code = 1
            try:
                for number in range(25):
                    book.log.append([event(first + number)])
                    if number % 8 == 0:
                        verify(book.directory)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    report = verify(book.directory)
    assert report.segment > 5
    for first in (1_000, 2_000, 3_000):
        mine = [n for n in book.numbers() if first <= n < first + 1_000]
        assert mine == list(range(first, first + 25))


def test_a_reader_has_what_was_there_when_it_began(book: Logbook) -> None:
    reading = read(book.directory, event="match")
    seen = [next(reading).data["number"] for _ in range(4)]
    assert book.log.rotate() is not None
    book.add(30)
    assert [*seen, *(r.data["number"] for r in reading)] == EXPECTED


@pytest.mark.slow
def test_a_kill_between_two_names_and_a_backup_that_made_two_files_of_them(tmp_path: Path) -> None:
    base = book = Logbook(tmp_path / "audit")
    base.add(0, 1)
    for number in range(1, MOST):
        book = Logbook(tmp_path / str(number))
        shutil.copytree(base.directory, book.directory)

        def act(number: int = number, book: Logbook = book) -> None:
            with watched(kill_at(number)):
                book.log.rotate()

        in_child(act)
        if FIRST in book.files():
            break
    assert (book.directory / FIRST).samefile(book.directory / LAST)
    verify(book.directory)
    (book.directory / FIRST).unlink()
    shutil.copy(book.directory / LAST, book.directory / FIRST)
    book.add(2)
    verify(book.directory)
    assert book.numbers() == [0, 1, 2] and book.files() == [FIRST, LAST]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_next_file_belongs_to_who_has_the_log(book: Logbook) -> None:
    """If root closes a log file, the next file belongs to the owner of the closed file."""
    os.chown(book.directory / LAST, 12_345, 23_456)
    (book.directory / LAST).chmod(0o640)
    assert book.log.rotate() is not None
    status = (book.directory / LAST).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12_345, 23_456, 0o640)
