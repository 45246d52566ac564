"""Isolating a file: which files are removed, which stay, and the messages."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from fixtures.crash import Recorder, watched
from fixtures.quarantine import CONTENT, Ward
from hashclient.audit.log import Event, read
from hashclient.core.agefile import sealed_bytes
from hashclient.core.errors import (
    AuditError,
    ConfigError,
    HashclientError,
    LockedError,
    StateError,
    UsageError,
)
from hashclient.core.kinds import Algorithm, MatchState
from hashclient.core.match import Match
from hashclient.core.model import Seen
from hashclient.index.blinding import Sealer
from hashclient.matches import tables
from hashclient.matches.store import Matches
from hashclient.quarantine import age, attributes, isolate, sealing, store
from hashclient.quarantine.restore import Restored
from hashclient.quarantine.safe_rename import NEW_NAME, PRIVATE_NAME, open_place
from hashclient.quarantine.tombstone import has_tombstone, remove_tombstone
from hashclient.quarantine.vault import Quarantine, Stage
from hashclient.session import Session
from hashclient.system import background
from hashclient.system.files import writer_lock
from hashclient.system.layout import MATCHES_NAME as DATABASE_NAME
from hashclient.system.sqlite import open_database
from tests.kit import NoThread, descriptors_left


def test_a_file_is_sealed_and_removed(ward: Ward, file: Path) -> None:
    file.chmod(0o640)
    status = file.stat()
    match = ward.match(file, *Algorithm)
    taken = ward.take(match)
    assert (taken.taken, taken.sealed, taken.attention) == (True, True, False)
    assert taken.detail == "quarantined"
    assert list(file.parent.iterdir()) == []
    assert ward.opened(match) == CONTENT
    item = ward.item(match)
    assert (item.file, item.size, item.stage) == (str(file), len(CONTENT), Stage.REMOVED)
    assert (item.origin.mode, item.origin.mtime_ns) == (0o640, status.st_mtime_ns)
    assert (item.taken.by, item.taken.reason, item.taken.time) == ("alice", "test", ward.now)
    evidence = ward.evidence(match).read_bytes()
    assert item.evidence_sha256 == hashlib.sha256(evidence).hexdigest()
    now = ward.get(match)
    assert (now.state, now.in_place) == (MatchState.QUARANTINED, False)
    assert ward.events() == ["quarantine-sealed", "quarantined"]
    assert {f.detail for f in ward.verify().values()} == {"whole"}


def test_only_the_owner_can_read_its_files(ward: Ward, file: Path) -> None:
    os.umask(0)
    try:
        match = ward.match(file)
        ward.take(match)
    finally:
        os.umask(0o022)
    for path in ward.settings.layout.quarantine.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_no_digest_is_written_down(ward: Ward, file: Path) -> None:
    match = ward.match(file, *Algorithm)
    ward.take(match)
    digests = [hashlib.new(a.label, CONTENT).hexdigest() for a in Algorithm]
    for path in (p for p in ward.state.rglob("*") if p.is_file()):
        for digest in digests:
            assert digest.encode() not in path.read_bytes(), path
            assert bytes.fromhex(digest) not in path.read_bytes(), path


def test_the_log_says_who_why_and_what(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    sealed, done = list(read(ward.settings.layout.audit))[1:]
    for record in (sealed, done):
        assert record.sig is not None
        assert (record.data["by"], record.data["reason"]) == ("alice", "test")
        assert (record.data["id"], record.data["path"]) == (match.id, str(file))
    assert sealed.data["recipients"] == [ward.public]
    assert sealed.data["evidence_sha256"] == ward.item(match).evidence_sha256
    assert [hit["entry"] for hit in sealed.data["hits"]] == ["e-1"]


@pytest.mark.skipif(shutil.which("age") is None, reason="the age tool is missing")
def test_the_age_tool_opens_it_without_anything_else(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    (ward.state / DATABASE_NAME).unlink()
    command: list[str | Path] = ["age", "-d", "-i", ward.key, ward.evidence(match)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == CONTENT


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1 << 20])
def test_any_size(ward: Ward, file: Path, size: int) -> None:
    data = os.urandom(size)
    file.write_bytes(data)
    match = ward.match(file)
    assert ward.take(match).taken
    assert ward.opened(match) == data


def test_holes_are_zeros(ward: Ward, file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(3 << 20)
    match = ward.match(file)
    assert ward.take(match).taken
    assert ward.opened(match) == bytes(3 << 20)


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"new\nline", b" ", b"-rf", b"\xff\xfe", "ünïcode".encode(), b"x" * 255]
)
def test_any_name(ward: Ward, tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path / "share") + b"/" + name))
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    match = ward.match(path)
    assert ward.take(match).taken
    assert os.fsencode(ward.item(match).file) == os.fsencode(path)
    ward.withdraw()
    ward.restore(match)
    assert path.read_bytes() == CONTENT


def test_a_second_time_nothing_is_to_do(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    events = ward.events()
    again = ward.take(match)
    assert (again.taken, again.detail) == (True, "in quarantine already")
    assert ward.events() == events


def test_a_file_found_later_at_the_same_path_is_another_item(ward: Ward, file: Path) -> None:
    first = ward.match(file)
    ward.take(first)
    file.write_bytes(b"another")
    second = ward.match(file, entry="e-2")
    assert second.id != first.id
    assert ward.take(second).taken
    assert ward.names() == {first.id, second.id}


def test_a_reported_match_stays_reported(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.change(match, MatchState.REPORTED)
    assert ward.take(match).taken
    assert ward.get(match).state is MatchState.REPORTED


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_changed_file_stays(ward: Ward, file: Path, algorithm: Algorithm) -> None:
    match = ward.match(file, algorithm)
    other = bytes(len(CONTENT))
    file.write_bytes(other)
    taken = ward.take(match)
    assert not taken.taken and not taken.sealed and taken.attention
    assert taken.detail == "not quarantined: changed: it is not the file that matched any more"
    assert file.read_bytes() == other
    assert ward.names() == set()
    assert ward.get(match).in_place


def test_a_file_of_another_size_is_not_even_read(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    with file.open("ab") as stream:
        stream.write(b"more")
    seen: list[int] = []
    quarantine = ward.open(on_bytes=seen.append)
    with ward.record() as record:
        taken = quarantine.take(match, record, reason="test")
    assert "changed" in taken.detail and seen == []


def test_every_digest_that_is_known_must_agree(ward: Ward, file: Path) -> None:
    match = ward.match(file, *Algorithm)
    # One agreeing digest is not enough: the record has the SHA-256 of another file.
    with ward.record() as record:
        record._db.execute("UPDATE match SET sha256 = ?", (bytes(16),))
    assert not ward.take(match).taken
    assert file.exists()


def test_a_growing_file_ends(ward: Ward, file: Path) -> None:
    match = ward.match(file)

    def grow(_count: int) -> None:
        with file.open("ab") as stream:
            stream.write(b"x" * 70_000)

    quarantine = ward.open(on_bytes=grow)
    with ward.record() as record:
        taken = quarantine.take(match, record, reason="test")
    assert "changed" in taken.detail
    assert file.stat().st_size < 100 * len(CONTENT)


@pytest.mark.parametrize("touch", [os.utime, lambda path: path.chmod(0o600)])
def test_a_file_that_is_touched_while_it_is_read_is_not_sealed(
    ward: Ward, file: Path, touch: Callable[[Path], None]
) -> None:
    match = ward.match(file)
    file.chmod(0o640)
    quarantine = ward.open(on_bytes=lambda _: touch(file))
    with ward.record() as record:
        taken = quarantine.take(match, record, reason="test")
    assert not taken.sealed and "changed" in taken.detail
    assert file.exists() and ward.names() == set()


def gone(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def linked_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("real"))
    path.parent.symlink_to("real")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unix_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("become", "why"),
    [
        (gone, "not there any more"),
        (link, "a link leads to it"),
        (linked_directory, "a link leads to it"),
        (pipe, "not a regular file"),
        (directory, "not a regular file"),
        (unix_socket, "not a regular file"),
    ],
)
def test_only_the_file_itself_is_taken(
    ward: Ward, file: Path, become: Callable[[Path], None], why: str
) -> None:
    match = ward.match(file)
    become(file)
    before = {p: p.lstat() for p in file.parent.parent.rglob("*") if "state" not in p.parts}
    taken = ward.take(match)
    assert not taken.taken and not taken.sealed and taken.attention
    assert taken.detail.startswith(f"not quarantined: {why}")
    for path, status in before.items():
        assert path.lstat().st_ino == status.st_ino
    assert ward.names() == set()


def test_other_names_of_a_file_are_counted(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    os.link(file, file.with_name("second"))
    taken = ward.take(match)
    assert taken.taken and taken.attention
    assert taken.detail == "quarantined; 1 other name of it remains"
    assert [p.name for p in file.parent.iterdir()] == ["second"]
    assert ward.item(match).origin.links == 2
    assert ward.last_event()["remains"] == ["1 other name of it remains"]


def test_programs_that_have_it_open_are_reported(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    with file.open("rb") as stream:
        holder = subprocess.Popen(["sleep", "60"], stdin=stream)
    try:
        taken = ward.take(match)
    finally:
        holder.kill()
        holder.wait()
    assert taken.taken and taken.attention
    assert taken.detail == f"quarantined; still open in sleep ({holder.pid})"


def test_a_withdrawn_match_is_refused(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.withdraw()
    with pytest.raises(UsageError, match="is withdrawn"):
        ward.take(match)
    assert file.exists()


@pytest.mark.parametrize("state", [MatchState.CLOSED, MatchState.RESTORED, MatchState.PURGED])
def test_a_match_whose_story_has_ended_is_refused(
    ward: Ward, file: Path, state: MatchState
) -> None:
    match = ward.match(file)
    ward.change(match, state)
    with pytest.raises(UsageError, match=f"is not open: it is {state}"):
        ward.take(match)
    assert file.exists() and ward.names() == set()


def test_without_recipients_nothing_is_taken(tmp_path: Path, file: Path) -> None:
    ward = Ward(tmp_path, recipients=())
    with pytest.raises(ConfigError, match="no recipients"):
        ward.take(ward.match(file))
    assert file.exists() and ward.names() == set()


def test_a_file_that_cannot_be_proven_is_refused(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.sealer = Sealer(bytes(32))
    with pytest.raises(StateError, match="sealed with another key"):
        ward.take(match)
    (ward.state / "seal.key").unlink()
    without = Session(ward.settings, now=lambda: ward.now, environ={})
    with ward.record() as record, pytest.raises(StateError, match="without the seal key"):
        Quarantine(without).take(match, record, reason="test")
    assert file.exists() and ward.names() == set()


@pytest.mark.parametrize("more", [0, 1 << 19])
def test_a_copy_that_the_disk_has_no_room_for_is_not_begun(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """The sealed copy is larger than the file, and its document and the log need room, too."""
    match = ward.match(file)
    real = os.statvfs(ward.state)
    few = (len(CONTENT) + more) // real.f_frsize
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((*real[:4], few, *real[5:])))
    with pytest.raises(StateError, match="No space left"):
        ward.take(match)
    assert file.exists() and ward.names() == set()


@pytest.mark.parametrize("size", [0, 1, 10 << 30])
def test_a_copy_needs_room_for_its_sealed_length_and_its_document(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    room, needed = ward.open()._room, sealed_bytes(1 << 20, size)
    real = os.statvfs(ward.state)
    for free, fits in ((needed, True), (needed - 1, False)):
        status = os.statvfs_result((real.f_bsize, 1, *real[2:4], free, *real[5:]))
        monkeypatch.setattr(os, "statvfs", lambda _path, status=status: status)
        with contextlib.nullcontext() if fits else pytest.raises(StateError, match="No space left"):
            sealing.check_space(room, size)


def test_acts_wait_for_each_other_and_not_for_ever(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.01)
    match = ward.match(file)
    ward.settings.layout.quarantine.mkdir(mode=0o700)
    with writer_lock(ward.settings.layout.quarantine / "lock"), pytest.raises(LockedError):
        ward.take(match)
    assert ward.take(match).taken


def test_an_act_goes_on_when_the_other_has_ended(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.settings.layout.quarantine.mkdir(mode=0o700)
    with contextlib.ExitStack() as other:
        other.enter_context(writer_lock(ward.settings.layout.quarantine / "lock"))
        pauses: list[float] = []

        def end_the_other(seconds: float) -> None:
            pauses.append(seconds)
            other.close()

        monkeypatch.setattr(time, "sleep", end_the_other)
        assert ward.take(match).taken
    assert len(pauses) == 1


def test_a_sealed_copy_is_read_back(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk changes the written bytes: the last byte differs when it is read."""
    match = ward.match(file)
    real = sealing.sha256_synced

    def worn_out(fd: int) -> tuple[str, int]:
        size = os.fstat(fd).st_size
        os.pwrite(fd, bytes([os.pread(fd, 1, size - 1)[0] ^ 1]), size - 1)
        return real(fd)

    monkeypatch.setattr(sealing, "sha256_synced", worn_out)
    with pytest.raises(StateError, match="does not read back as it was written"):
        ward.take(match)
    assert file.read_bytes() == CONTENT
    assert ward.names() == set()


def test_a_copy_that_lacks_its_end_is_found_before_the_file_goes(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library ignores an error of the last write, so the copy reads back but is too short."""
    match = ward.match(file)

    def short(
        source: Callable[[int], bytes], sink: Callable[[bytes], object], recipients: Sequence[Any]
    ) -> None:
        chunks: list[bytes] = []
        seal(source, chunks.append, recipients)
        for chunk in chunks[:-1]:
            sink(chunk)

    seal = age.seal
    monkeypatch.setattr(age, "seal", short)
    with pytest.raises(StateError, match="lacks its end"):
        ward.take(match)
    assert file.read_bytes() == CONTENT
    assert ward.names() == set()


def test_an_attribute_whose_name_is_no_text_is_left_out(ward: Ward, file: Path) -> None:
    try:
        for name in (b"user.\xff", b"user.note"):
            os.setxattr(file, name, b"x")
    except OSError:
        pytest.skip("this file system has no attributes")
    match = ward.match(file)
    assert ward.take(match).taken
    assert [*ward.item(match).origin.xattrs] == ["user.note"]


def test_attributes_beyond_measure_are_left_out(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        for n in range(8):
            os.setxattr(file, f"user.{n}", b"x" * 50)
    except OSError:
        pytest.skip("this file system has no attributes")
    monkeypatch.setattr(attributes, "MAX_XATTR_BYTES", 4 * 56)
    match = ward.match(file)
    assert ward.take(match).taken
    assert len(ward.item(match).origin.xattrs) == 4


def test_a_path_of_any_length_is_taken_and_logged(ward: Ward, tmp_path: Path) -> None:
    depth, name = 900, "\1" * 250
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    with os.fdopen(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as stream:
        stream.write(CONTENT)
        seen = Seen(None, os.fstat(fd).st_ino, None, os.fstat(stream.fileno()).st_ino)
    os.close(fd)
    short = tmp_path / "short"
    short.write_bytes(CONTENT)
    match = ward.match(short, at=f"{tmp_path}/" + f"{name}/" * depth + "f", seen=seen)
    try:
        assert ward.take(match).taken
        assert ward.restore(match, force=True).missing == ()
        assert ward.events()[-2:] == ["restoring", "restored"]
    finally:
        subprocess.run(["rm", "-rf", tmp_path / name], check=True)


def test_leftover_files_of_a_kill_are_deleted(ward: Ward, file: Path) -> None:
    leftover = ward.settings.layout.quarantine / ".tmp-abc"
    leftover.mkdir(parents=True, mode=0o700)
    ward.settings.layout.quarantine.chmod(0o700)
    (leftover / "evidence.age").write_bytes(b"half")
    assert "the next act removes it" in ward.verify()[".tmp-abc"].detail
    match = ward.match(file)
    ward.take(match)
    assert ward.names() == {match.id}


# --- tombstones --------------------------------------------------------------------------


def test_a_tombstone_is_left_and_goes_away(tmp_path: Path, file: Path) -> None:
    ward = Ward(tmp_path, tombstone="Removed {time}. Ask for {id}. {other} {")
    match = ward.match(file)
    assert ward.take(match).detail == "quarantined"
    text = f"Removed 2026-03-01T12:00:00+00:00. Ask for {match.id}. {{other}} {{\n"
    assert file.read_text() == text
    assert file.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    ward.withdraw()
    ward.restore(match)
    assert file.read_bytes() == CONTENT
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_tombstone_that_somebody_has_changed_is_theirs(tmp_path: Path, file: Path) -> None:
    ward = Ward(tmp_path, tombstone="gone")
    match = ward.match(file)
    ward.take(match)
    with file.open("a") as stream:
        stream.write("my notes")
    ward.withdraw()
    with pytest.raises(UsageError, match="something else is there"):
        ward.restore(match)
    assert file.read_text() == "gone\nmy notes"
    assert ward.opened(match) == CONTENT


def test_another_file_in_a_tombstones_place_is_not_removed(tmp_path: Path, file: Path) -> None:
    ward = Ward(tmp_path, tombstone="gone")
    match = ward.match(file)
    ward.take(match)
    item = ward.item(match)
    with open_place(str(file)) as place:
        assert has_tombstone(place, item)
        file.write_text("saved here since")
        assert not remove_tombstone(place, item)
    assert file.read_text() == "saved here since"


def test_a_tombstone_takes_nobodys_place(tmp_path: Path, file: Path) -> None:
    ward = Ward(tmp_path, tombstone="gone")
    match = ward.match(file)
    moved = PRIVATE_NAME.format(match.id)

    def take_the_name(name: str, argument: object) -> None:
        if name == "unlink" and argument == moved:
            file.write_text("somebody's")

    with watched(take_the_name):
        taken = ward.take(match)
    assert taken.taken and taken.attention
    assert taken.detail == "quarantined; the tombstone could not be left: file exists"
    assert file.read_text() == "somebody's"
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("planted", ["link", "hard link"])
def test_a_tombstone_is_not_written_into_what_somebody_has_planted(
    tmp_path: Path, file: Path, planted: str
) -> None:
    ward = Ward(tmp_path, tombstone="gone")
    match = ward.match(file)
    victim = tmp_path / "victim"
    victim.write_bytes(b"somebody's")
    name = file.with_name(NEW_NAME.format(match.id))

    def plant(call: str, argument: object) -> None:
        if (call, argument) == ("create", name.name):
            (name.symlink_to if planted == "link" else name.hardlink_to)(victim)

    with watched(plant):
        taken = ward.take(match)
    assert taken.detail == "quarantined; the tombstone could not be left: file exists"
    assert victim.read_bytes() == b"somebody's" and name.read_bytes() == b"somebody's"
    assert not file.exists() and ward.opened(match) == CONTENT


def test_of_two_runs_at_once_the_second_settles_its_record(ward: Ward, file: Path) -> None:
    """The second run found the file before the first run isolated it, and records it afterwards."""
    first = ward.match(file)
    kept = file.with_name("kept")
    kept.write_bytes(CONTENT)
    assert ward.take(first).taken
    second = ward.match(kept, at=str(file))
    assert second.id != first.id and second.in_place
    taken = ward.take(second)
    assert (taken.taken, taken.sealed, taken.attention) == (True, True, False)
    assert taken.detail == f"in quarantine already, as match {first.id}"
    now = ward.get(second)
    assert (now.state, now.in_place) == (MatchState.CLOSED, False)
    assert ward.last_event()["event"] == "closed"
    assert ward.names() == {first.id}
    assert {f.detail for f in ward.verify().values()} == {"whole"}


@pytest.mark.parametrize("before", ["of other content", "in place", "of another key", "lost"])
def test_a_second_run_settles_its_record_whatever_was_at_the_path_before(
    ward: Ward, file: Path, before: str
) -> None:
    kept, other = file.with_name("kept"), file.with_name("other")
    kept.write_bytes(CONTENT)
    other.write_bytes(CONTENT if before in ("of another key", "lost") else b"other content")
    sealer = ward.sealer
    if before == "of another key":
        ward.sealer = Sealer(b"\1" * 32)
    decoy = ward.match(other, entry="e-0", at=str(file), seen=Seen(1, 2, 3, 4))
    ward.sealer = sealer
    with ward.record() as record:
        in_place = before == "in place"
        record.change(decoy.id, MatchState.REPORTED, ward.now, {}, in_place=in_place)
    file.write_bytes(CONTENT)
    first = ward.match(file)
    assert ward.take(first).taken
    second = ward.match(kept, at=str(file))
    assert len({decoy.id, first.id, second.id}) == 3
    assert ward.take(second).detail == f"in quarantine already, as match {first.id}"
    assert ward.get(second).state is MatchState.CLOSED


@pytest.mark.parametrize(
    ("until", "state", "is_held"),
    [(60, "keep", True), (0, "keep", False), (-60, "keep", False), (60, "destroy", False)],
)
def test_a_file_that_a_body_wants_to_be_kept_is_held_from_the_beginning(
    ward: Ward, file: Path, until: int, state: str, is_held: bool
) -> None:
    match, end = ward.match(file), ward.now + timedelta(seconds=until)
    asked = {"request": state, "text": "keep it", "until": end.isoformat()}
    with ward.record() as record:
        record.note(match.id, "answered", ward.now, {"by": "the body", "requests": [asked]})
    assert ward.take(match).taken
    hold = ward.item(match).hold
    assert (hold is not None) is is_held
    if hold is not None:
        assert (hold.by, hold.reason, hold.time) == ("the body", "keep it", ward.now)
        assert hold.until == end


@pytest.mark.parametrize(
    ("first_by", "second_by", "is_known"),
    [
        ((Algorithm.MD5, Algorithm.SHA256), (Algorithm.SHA256,), True),
        ((Algorithm.SHA1,), (Algorithm.SHA1, Algorithm.SHA256), True),
        ((Algorithm.MD5,), (Algorithm.SHA256,), False),
    ],
)
def test_a_second_run_settles_its_record_by_the_digests_that_both_runs_have(
    ward: Ward,
    file: Path,
    first_by: tuple[Algorithm, ...],
    second_by: tuple[Algorithm, ...],
    is_known: bool,
) -> None:
    kept = file.with_name("kept")
    kept.write_bytes(CONTENT)
    first = ward.match(file, *first_by)
    assert ward.take(first).taken
    second = ward.match(kept, *second_by, entry="e-2", at=str(file))
    assert second.id != first.id
    taken = ward.take(second)
    assert taken.taken is is_known
    assert ward.get(second).state is (MatchState.CLOSED if is_known else MatchState.FOUND)


def test_another_file_that_is_gone_is_not_settled_by_what_was_taken(ward: Ward, file: Path) -> None:
    first = ward.match(file)
    assert ward.take(first).taken
    other = file.with_name("other")
    other.write_bytes(b"something else")
    second = ward.match(other, at=str(file))
    taken = ward.take(second)
    assert (taken.taken, taken.sealed) == (False, False)
    assert taken.detail == "not quarantined: not there any more"
    assert ward.get(second).in_place


def test_a_directory_that_is_gone_is_not_settled_by_a_file_that_was_taken_out_of_it(
    ward: Ward, file: Path
) -> None:
    kept = file.parent.with_name("kept")
    kept.write_bytes(CONTENT)
    first = ward.match(file)
    assert ward.take(first).taken
    assert not ward.open().unfinished()
    file.parent.rmdir()
    second = ward.match(kept, entry="e-2", at=str(file.parent))
    taken = ward.take(second)
    assert (taken.taken, taken.detail) == (False, "not quarantined: not there any more")
    assert ward.get(second).in_place


def test_an_item_is_unfinished_from_its_seal_to_its_removal(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    before = set[frozenset[str]]()

    def look(name: str, argument: object) -> None:
        if name == "unlink" and argument == PRIVATE_NAME.format(match.id):
            before.add(ward.open().unfinished())

    with watched(look):
        assert ward.take(match).taken
    assert before == {frozenset({match.id})}
    assert ward.open().unfinished() == frozenset()
    ward.withdraw()
    ward.restore(match)
    assert file.read_bytes() == CONTENT and ward.open().unfinished() == frozenset()


def test_an_item_that_was_restored_settles_no_match(ward: Ward, file: Path) -> None:
    first = ward.match(file)
    ward.take(first)
    ward.withdraw()
    ward.restore(first, to=file.with_name("back"))
    second = ward.match(file.with_name("back"), entry="e-2", at=str(file))
    assert not ward.take(second).taken
    assert ward.get(second).in_place


def several(ward: Ward, directory: Path, count: int) -> list[Match]:
    found = []
    for number in range(count):
        path = directory / f"file-{number}"
        path.write_bytes(b"benign %d" % number)
        found.append(ward.match(path, entry=f"e-{number}"))
    return found


def take_all(ward: Ward, ids: Iterable[str], record: Matches | None = None) -> dict[str, object]:
    """Isolate the files of these matches; return each outcome, or the message of each failure."""
    with contextlib.ExitStack() as stack:
        record = record or stack.enter_context(ward.record())
        outcomes = ward.open().take_all([(i, None) for i in ids], record, reason="test")
        return {
            i: outcome.message if isinstance(outcome, HashclientError) else outcome.detail
            for i, outcome in outcomes
        }


@pytest.mark.slow
def test_many_files_share_what_is_written_of_all(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = several(ward, tmp_path, 7)
    recorder = Recorder()
    monkeypatch.setattr(store, "AT_ONCE", 5)
    with watched(recorder):
        done = take_all(ward, [match.id for match in matches])
    assert done == {match.id: "quarantined" for match in matches}
    assert [(name, len([*of])) for name, of in itertools.groupby(ward.events())] == [
        *(("quarantine-sealed", 5), ("quarantined", 5)),
        *(("quarantine-sealed", 2), ("quarantined", 2)),
    ]
    # The names of the folders of half a batch are synced before the first file is removed.
    room = str(ward.settings.layout.quarantine)
    calls = [(name, str(argument)) for name, argument in recorder.calls]
    assert calls.count(("fsync", room)) == 4
    gone = [calls.index(("unlink", PRIVATE_NAME.format(match.id))) for match in matches]
    named = [number for number, call in enumerate(calls) if call == ("fsync", room)]
    for first, half in zip(named, (gone[:3], gone[3:5], gone[5:6], gone[6:]), strict=True):
        assert first < min(half)
    assert sum(call == "fsync" and path.endswith("age") for call, path in calls[: min(gone)]) == 5
    for number, match in enumerate(matches):
        assert not Path(match.path).exists()
        assert ward.opened(match) == b"benign %d" % number
    assert {f.detail for f in ward.verify().values()} == {"whole"}


def test_a_withdrawal_while_a_batch_is_sealed_leaves_its_files_in_place(
    ward: Ward, tmp_path: Path
) -> None:
    """Each match is looked up again after sealing, because the batch was checked before."""
    matches = several(ward, tmp_path, 4)
    withdrawn = ["e-1", "e-3"]

    def fetch(_bytes: int) -> None:
        while withdrawn:
            ward.withdraw(withdrawn.pop())

    with ward.record() as record:
        quarantine = ward.open(on_bytes=fetch)
        done = dict(quarantine.take_all([(m.id, None) for m in matches], record, reason="test"))
    for number, match in enumerate(matches):
        outcome = done[match.id]
        if number % 2:
            assert isinstance(outcome, UsageError)
            assert "is withdrawn" in outcome.message
            assert Path(match.path).read_bytes() == b"benign %d" % number
            assert ward.get(match).state is MatchState.WITHDRAWN
        else:
            assert not isinstance(outcome, HashclientError)
            assert outcome.taken
            assert not Path(match.path).exists()
    assert ward.names() == {matches[0].id, matches[2].id}
    assert ward.events() == ["quarantine-sealed"] * 2 + ["quarantined"] * 2


def test_threads_that_seal_and_restore_leave_the_record_of_matches_alone(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python 3.12 on, two threads with the same query could get each other's rows."""

    def open_for_one_thread(
        path: Path, mode: Literal["rw", "rwc"], *, one_thread: bool
    ) -> sqlite3.Connection:
        return open_database(path, mode, one_thread=True)

    matches = several(ward, tmp_path, 9)
    ids = [match.id for match in matches]
    monkeypatch.setattr(tables, "open_database", open_for_one_thread)
    assert take_all(ward, ids) == dict.fromkeys(ids, "quarantined")
    with ward.record() as record:
        identities = age.load_identities(ward.key)
        quarantine = ward.open("bob")
        done = dict(quarantine.restore_all(ids, identities, record, reason="test", force=True))
    assert done == {match.id: Restored(match.path, ()) for match in matches}


@pytest.mark.parametrize("free", [20, 40])
def test_few_free_descriptors_are_for_fewer_files_at_once(
    ward: Ward, tmp_path: Path, free: int
) -> None:
    matches = several(ward, tmp_path, 12)
    with ward.record() as record, descriptors_left(free):
        done = take_all(ward, [match.id for match in matches], record)
    assert done == {match.id: "quarantined" for match in matches}
    assert {f.detail for f in ward.verify().values()} == {"whole"}


def test_without_room_for_threads_files_are_isolated_one_after_the_other(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = several(ward, tmp_path, 3)
    monkeypatch.setattr(background, "Thread", NoThread)
    done = take_all(ward, [match.id for match in matches])
    assert done == {match.id: "quarantined" for match in matches}


def test_a_batch_of_files_ends_at_so_many_bytes(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = several(ward, tmp_path, 2)
    monkeypatch.setattr(isolate, "AT_ONCE_BYTES", 1)
    take_all(ward, [match.id for match in matches])
    assert ward.events() == ["quarantine-sealed", "quarantined"] * 2


@pytest.mark.slow
def test_the_failure_of_one_file_leaves_the_others_alone(ward: Ward, tmp_path: Path) -> None:
    changed, gone, closed, good = several(ward, tmp_path, 4)
    Path(changed.path).write_bytes(b"another")
    Path(gone.path).unlink()
    ward.change(closed, MatchState.CLOSED)
    twin = tmp_path / "twin"
    twin.hardlink_to(good.path)
    other = ward.match(twin, entry="e-3")
    ids = [changed.id, gone.id, closed.id, good.id, other.id, good.id, "0" * 10]
    assert take_all(ward, ids) == {
        changed.id: "not quarantined: changed: it is not the file that matched any more",
        gone.id: "not quarantined: not there any more",
        closed.id: f"match {closed.id} is not open: it is closed",
        good.id: "in quarantine already",  # the id is given a second time
        other.id: "quarantined",  # the file is quarantined although its hard link was removed
        "0" * 10: "no match has the id 0000000000",
    }
    assert ward.opened(good) == ward.opened(other) == b"benign 3"
    assert not Path(good.path).exists() and not twin.exists()
    assert ward.names() == {good.id, other.id}


@pytest.mark.parametrize("fails", ["record", "log"])
def test_what_cannot_be_noted_of_one_file_or_of_all_is_noted_by_the_next_act(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    bad, good = several(ward, tmp_path, 2)
    change_all, append = Matches.change_all, ward.audit.append

    def refuse(
        self: Matches, changes: Sequence[tuple[Match, Any, bool]], *arguments: Any
    ) -> list[MatchState]:
        if bad.id in (match.id for match, *_ in changes):
            raise StateError("cannot use the record")
        return change_all(self, changes, *arguments)

    def refuse_log(events: Sequence[Event], **options: bool) -> None:
        if events[0].event == "quarantined":
            raise AuditError("cannot write the audit log")
        append(events, **options)

    with monkeypatch.context() as patched:
        if fails == "record":
            patched.setattr(Matches, "change_all", refuse)
        else:
            patched.setattr(ward.audit, "append", refuse_log)
        done = take_all(ward, [bad.id, good.id])
    assert done == (
        {bad.id: "cannot use the record", good.id: "quarantined"}
        if fails == "record"
        else dict.fromkeys([bad.id, good.id], "cannot write the audit log")
    )
    assert ward.opened(bad) == b"benign 0" and ward.item(bad).stage is Stage.SEALED
    assert ward.get(bad).in_place == (fails == "record")
    again = take_all(ward, [bad.id, good.id])
    assert again[good.id] == "in quarantine already"
    assert again[bad.id] == ("quarantined" if fails == "record" else "in quarantine already")
    for match in (bad, good):
        assert ward.item(match).stage is Stage.REMOVED
        with ward.record() as record:
            events = [step.event for step in record.story(match.id)]
        assert events.count(MatchState.QUARANTINED) == 1


class _Counting(Matches):
    """A record that counts the matches that were looked up."""

    count = 0

    def find(self, *arguments: Any, **more: Any) -> Iterator[Match]:
        for match in super().find(*arguments, **more):
            self.count += 1
            yield match


@pytest.mark.slow
def test_a_large_folder_that_is_gone_costs_its_files_and_not_their_square(
    ward: Ward, tmp_path: Path
) -> None:
    """A missing file is compared only with quarantined matches that have its path."""
    matches = several(ward, tmp_path, 12)
    here, gone = matches[:6], matches[6:]
    take_all(ward, [match.id for match in here])
    for match in gone:
        Path(match.path).unlink()
    with _Counting(ward.state) as record:
        done = take_all(ward, [match.id for match in gone], record)
        assert record.count == 0
    assert set(done.values()) == {"not quarantined: not there any more"}


def test_without_the_file_on_record_that_was_read_nothing_is_taken(ward: Ward, file: Path) -> None:
    """Records of an earlier version lack the inode until the file is scanned again."""
    match = ward.match(file)
    with ward.record() as record:
        record._db.execute("UPDATE match SET directory_inode = NULL, inode = NULL")
    with pytest.raises(UsageError, match="not on record which file was read") as raised:
        ward.take(match)
    assert raised.value.hint == "scan the file again"
    assert file.read_bytes() == CONTENT and ward.names() == set()
    assert ward.match(file).id == match.id
    assert ward.take(match).taken
