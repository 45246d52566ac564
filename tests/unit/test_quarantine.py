"""The acts of the quarantine, one by one: taking, giving back, keeping, destroying, checking."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fixtures.crash import watched
from fixtures.quarantine import Ward
from hashclient.audit import read
from hashclient.errors import (
    AuthorisationError,
    ConfigError,
    LockedError,
    StateError,
    UsageError,
)
from hashclient.fsio import writer_lock
from hashclient.matches import DATABASE_NAME, Match
from hashclient.model import Algorithm, MatchState
from hashclient.quarantine import Quarantine, Stage, room
from hashclient.quarantine.place import PRIVATE_NAME
from hashclient.seal import Sealer

CONTENT = b"benign " * 20_000


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "share" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def last_event(ward: Ward) -> dict[str, Any]:
    (record,) = read(ward.settings.audit_dir, limit=1)
    return {"event": record.event, **record.data}


# --- taking ------------------------------------------------------------------------------


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


def test_nothing_but_the_owner_can_read_any_of_it(ward: Ward, file: Path) -> None:
    os.umask(0)
    try:
        match = ward.match(file)
        ward.take(match)
    finally:
        os.umask(0o022)
    for path in ward.settings.quarantine_dir.rglob("*"):
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
    sealed, done = list(read(ward.settings.audit_dir))[1:]
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
    command = ["age", "-d", "-i", ward.key, ward.evidence(match)]
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


def test_what_is_found_later_at_the_same_path_is_another_item(ward: Ward, file: Path) -> None:
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
    quarantine = Quarantine(
        ward.settings, ward.audit, ward.sealer, now=lambda: ward.now, on_bytes=seen.append
    )
    with ward.record() as record:
        taken = quarantine.take(match, record, by="alice", reason="test")
    assert "changed" in taken.detail and seen == []


def test_every_digest_that_is_known_must_agree(ward: Ward, file: Path) -> None:
    match = ward.match(file, *Algorithm)
    # As if the SHA-256 were of something else: one that agrees does not suffice.
    with ward.record() as record:
        record._db.execute("UPDATE match SET sha256 = ?", (bytes(16),))
    assert not ward.take(match).taken
    assert file.exists()


def test_a_growing_file_ends(ward: Ward, file: Path) -> None:
    match = ward.match(file)

    def grow(_count: int) -> None:
        with file.open("ab") as stream:
            stream.write(b"x" * 70_000)

    quarantine = Quarantine(
        ward.settings, ward.audit, ward.sealer, now=lambda: ward.now, on_bytes=grow
    )
    with ward.record() as record:
        taken = quarantine.take(match, record, by="alice", reason="test")
    assert "changed" in taken.detail
    assert file.stat().st_size < 100 * len(CONTENT)


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
    assert last_event(ward)["remains"] == ["1 other name of it remains"]


def test_who_still_has_it_open_is_told(ward: Ward, file: Path) -> None:
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
    with ward.record() as record, pytest.raises(StateError, match="without the seal key"):
        Quarantine(ward.settings, ward.audit, None, now=lambda: ward.now).take(
            match, record, by="alice", reason="test"
        )
    assert file.exists() and ward.names() == set()


def test_what_the_disk_has_no_room_for_is_not_begun(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    real = os.statvfs(ward.state)
    few = len(CONTENT) // real.f_frsize
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((*real[:4], few, *real[5:])))
    with pytest.raises(StateError, match="No space left"):
        ward.take(match)
    assert file.exists() and ward.names() == set()


def test_acts_wait_for_each_other_and_not_for_ever(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOCK_WAIT_S", 0.01)
    match = ward.match(file)
    ward.settings.quarantine_dir.mkdir(mode=0o700)
    with writer_lock(ward.settings.quarantine_dir / "lock"), pytest.raises(LockedError):
        ward.take(match)
    assert ward.take(match).taken


def test_what_a_kill_left_is_swept(ward: Ward, file: Path) -> None:
    leftover = ward.settings.quarantine_dir / ".tmp-abc"
    leftover.mkdir(parents=True, mode=0o700)
    ward.settings.quarantine_dir.chmod(0o700)
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


# --- giving back -------------------------------------------------------------------------


def test_what_is_withdrawn_comes_back_as_it_was(ward: Ward, file: Path) -> None:
    file.chmod(0o4751)
    os.utime(file, ns=(10**18 + 1, 10**18 + 2))
    with contextlib.suppress(OSError):
        os.setxattr(file, "user.note", b"\0any bytes\xff")
    before = file.stat()
    attributes = {name: os.getxattr(file, name) for name in os.listxattr(file)}
    match = ward.match(file)
    os.utime(file, ns=(10**18 + 1, 10**18 + 2))
    ward.take(match)
    ward.withdraw()
    restored = ward.restore(match)
    assert (restored.path, restored.missing) == (str(file), ())
    after = file.stat()
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_atime_ns", "st_size"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.st_nlink == 1
    found = {name: os.getxattr(file, name) for name in os.listxattr(file)}
    assert found == attributes
    assert file.read_bytes() == CONTENT
    now = ward.get(match)
    assert (now.state, now.in_place) == (MatchState.RESTORED, True)
    assert ward.names() == set()
    event = last_event(ward)
    assert (event["event"], event["by"], event["reason"]) == ("restored", "bob", "back")
    assert ward.verify() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_comes_back(ward: Ward, file: Path) -> None:
    os.chown(file, 12_345, 23_456)
    file.chmod(0o6755)
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    ward.restore(match)
    status = file.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12_345, 23_456, 0o6755)


def test_powers_are_not_given_to_another_owner(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.chmod(0o6755)
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    item = ward.item(match)
    document = json.loads((ward.evidence(match).parent / "item.json").read_bytes())
    document["origin"]["uid"] = item.origin.uid + 1
    (ward.evidence(match).parent / "item.json").write_text(json.dumps(document))

    def refuse(_fd: int, _uid: int, _gid: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    restored = ward.restore(match)
    assert len(restored.missing) == 1 and restored.missing[0].startswith("its owner")
    assert file.stat().st_mode & 0o7777 == 0o755


def test_what_is_not_withdrawn_stays_unless_forced(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    with pytest.raises(UsageError, match="is not withdrawn: it is quarantined") as raised:
        ward.restore(match)
    assert raised.value.hint is not None and "--force" in raised.value.hint
    ward.restore(match, force=True)
    assert file.read_bytes() == CONTENT


def test_a_file_that_was_given_back_can_be_found_and_taken_again(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.restore(match, force=True)
    again = ward.match(file)
    assert (again.id, again.state) == (match.id, MatchState.FOUND)
    assert ward.take(again).detail == "quarantined"
    assert ward.opened(match) == CONTENT


def test_the_wrong_key_opens_nothing(ward: Ward, file: Path, tmp_path: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    other = Ward(tmp_path / "other") if (tmp_path / "other").mkdir() is None else ward
    with pytest.raises(AuthorisationError, match="none of the identities opens it"):
        ward.restore(match, key=other.key)
    assert list(file.parent.iterdir()) == []
    assert ward.opened(match) == CONTENT


def test_what_is_on_hold_is_not_given_back(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    ward.hold(match)
    with pytest.raises(UsageError, match="is on hold, by dave: order"):
        ward.restore(match, force=True)
    ward.release(match)
    ward.restore(match)
    assert file.read_bytes() == CONTENT


def test_nothing_is_replaced(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    for other in (b"new", bytes(len(CONTENT))):
        file.write_bytes(other)
        with pytest.raises(UsageError, match="something else is there"):
            ward.restore(match)
        assert file.read_bytes() == other
        assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert ward.opened(match) == CONTENT
    to = file.with_name("elsewhere")
    restored = ward.restore(match, to=to)
    assert restored.path == str(to) and to.read_bytes() == CONTENT
    now = ward.get(match)
    assert (now.state, now.in_place) == (MatchState.RESTORED, False)


def test_a_place_that_is_gone_or_behind_a_link_is_refused(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    file.parent.rmdir()
    with pytest.raises(UsageError, match="not there any more") as raised:
        ward.restore(match)
    assert raised.value.hint is not None and "--to" in raised.value.hint
    elsewhere = file.parent.with_name("elsewhere")
    elsewhere.mkdir()
    file.parent.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="a link leads to it"):
        ward.restore(match)
    assert list(elsewhere.iterdir()) == []
    ward.restore(match, to=file)  # who names it now may mean the link
    assert (elsewhere / file.name).read_bytes() == CONTENT


@pytest.mark.parametrize("part", ["evidence", "digest", "size"])
def test_a_damaged_copy_is_not_restored(ward: Ward, file: Path, part: str) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    evidence = ward.evidence(match)
    if part == "evidence":
        data = bytearray(evidence.read_bytes())
        data[-40] ^= 1
        evidence.write_bytes(data)
    else:
        path = evidence.parent / "item.json"
        document = json.loads(path.read_bytes())
        if part == "digest":
            document["tags"]["sha256"] = bytes(16).hex()
        else:
            document["size"] += 1
        path.write_text(json.dumps(document))
    with pytest.raises(StateError, match=r"cannot decrypt|is not what was sealed"):
        ward.restore(match)
    assert list(file.parent.iterdir()) == []
    assert evidence.exists()


def test_it_comes_back_where_the_record_and_the_seal_key_are_lost(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    (ward.state / DATABASE_NAME).unlink()
    ward.sealer = Sealer(bytes(32))
    with pytest.raises(UsageError, match="it is not in the record"):
        ward.restore(match)
    ward.restore(match, force=True)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("taken", [False, True])
def test_where_a_file_needs_a_name_it_has_one(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    if taken:
        (file.parent / f".hashclient-{match.id}.new").write_bytes(b"left by a kill")
    monkeypatch.setattr(os, "O_TMPFILE", os.O_RDONLY | os.O_DIRECTORY)  # gives EISDIR
    ward.restore(match)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == CONTENT


# --- keeping and destroying --------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, file: Path) -> tuple[Ward, Match]:
    ward = Ward(tmp_path, retention_days=30.0)
    match = ward.match(file)
    ward.take(match)
    return ward, match


def due(ward: Ward, match: Match) -> tuple[bool, str]:
    with ward.record() as record:
        found = ward.open().due(match.id, record)
    return found.is_due, found.why


def test_an_item_is_due_a_while_after_the_acknowledgement(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    assert due(ward, match) == (False, "no report of it was acknowledged: quarantined")
    ward.change(match, MatchState.REPORTED)
    assert due(ward, match) == (False, "no report of it was acknowledged: reported")
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=30, seconds=-1)
    assert due(ward, match) == (False, "due on 2026-03-31 12:00 UTC")
    assert ward.purge(match).done is False
    assert ward.opened(match) == CONTENT
    ward.now += timedelta(seconds=1)
    assert due(ward, match) == (True, "due since 2026-03-31 12:00 UTC")
    asked = ward.purge(match, dry_run=True)
    assert (asked.done, asked.detail) == (None, "would be purged: due since 2026-03-31 12:00 UTC")
    assert ward.opened(match) == CONTENT
    assert ward.purge(match).done is True
    assert ward.names() == set()
    assert ward.get(match).state is MatchState.PURGED
    assert ward.events()[-2:] == ["purging", "purged"]
    assert ward.verify() == {}


def test_a_hold_outranks_everything(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.hold(match)
    ward.now += timedelta(days=400)
    assert due(ward, match) == (False, "on hold since 2026-03-01, by dave")
    assert ward.purge(match, force=True).done is False
    assert ward.purge(match, force=True, dry_run=True).done is False
    assert ward.hold(match).hold is not None
    assert ward.release(match).hold is None
    with pytest.raises(UsageError, match="is not on hold"):
        ward.release(match)
    assert ward.purge(match).done is True
    with ward.record() as record:
        story = [step.event for step in record.story(match.id)]
    assert story[-4:] == ["held", "held", "released", "purged"]
    assert [e for e in ward.events() if "quar" not in e] == [
        *("held", "held", "released"),
        *("purging", "purged"),
    ]


def test_what_is_withdrawn_is_never_due(kept: tuple[Ward, Match]) -> None:
    ward, match = kept
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.withdraw()
    ward.now += timedelta(days=400)
    assert due(ward, match) == (False, "its entry was withdrawn: restore it")
    assert ward.purge(match).done is False
    assert ward.purge(match, force=True).done is True


def test_without_a_period_nothing_is_due(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=10_000)
    is_due, why = due(ward, match)
    assert not is_due and why.startswith("no retention_days")


def test_what_is_still_in_place_stays_found_when_its_copy_is_destroyed(
    ward: Ward, file: Path
) -> None:
    match = ward.match(file)
    with watched(lambda name, argument: _busy(name, argument, match.id)):
        assert not ward.take(match).taken
    assert due(ward, match) == (False, "the file was not removed from its place yet")
    assert ward.purge(match, force=True).done is True
    assert ward.get(match).state is MatchState.FOUND
    assert file.exists() and ward.names() == set()
    assert ward.take(match).taken


def _busy(name: str, argument: object, match_id: str) -> None:
    if name == "rename" and argument == "file.bin":
        raise OSError(16, "Device or resource busy")


def test_what_is_not_there_cannot_be_kept(ward: Ward) -> None:
    with ward.record() as record:
        quarantine = ward.open()
        marks: dict[str, Any] = {"by": "x", "reason": "y"}
        for act in (
            lambda: quarantine.hold("bbbbbbbbbb", record, **marks),
            lambda: quarantine.release("bbbbbbbbbb", record, **marks),
            lambda: quarantine.purge("bbbbbbbbbb", record, **marks),
            lambda: quarantine.purge("../../audit", record, **marks),
            lambda: quarantine.due("bbbbbbbbbb", record),
            lambda: quarantine.restore("bbbbbbbbbb", [], record, **marks),
        ):
            with pytest.raises(UsageError, match=r"nothing in quarantine|not an id"):
                act()


def test_a_reason_of_any_bytes_is_written_down(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    with ward.record() as record:
        ward.open().take(match, record, by="alice", reason=os.fsdecode(b"caf\xe9"))
    assert ward.item(match).taken.reason == "caf?"


# --- checking ----------------------------------------------------------------------------


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: damage(folder / "evidence.age"), "evidence.age was altered"),
        (lambda folder: (folder / "evidence.age").unlink(), "evidence.age is missing"),
        (lambda folder: os.truncate(folder / "evidence.age", 9), "has 9 bytes instead of"),
        (lambda folder: (folder / "evidence.age").chmod(0o644), "others can read it"),
        (lambda folder: folder.chmod(0o750), "others can read it"),
        (lambda folder: (folder / "item.json").unlink(), "item.json: it is missing"),
        (lambda folder: damage(folder / "item.json"), "damaged"),
        (lambda folder: edit(folder / "item.json", size=1), "does not hold 1 bytes"),
        (lambda folder: edit(folder / "item.json", recipients=[]), "for 1 recipients instead"),
        (lambda folder: edit(folder / "item.json", format="x/2"), "unknown format"),
        (shutil.rmtree, "its sealed copy is not here"),
    ],
    ids=[
        *("altered", "missing", "truncated", "readable", "open folder", "no document"),
        *("broken document", "wrong size", "recipients", "format", "folder gone"),
    ],
)
def test_damage_is_found(ward: Ward, file: Path, spoil: Callable[[Path], None], why: str) -> None:
    other = file.with_name("other")
    other.write_bytes(b"other")
    first, second = ward.match(file), ward.match(other, entry="e-2")
    for match in (first, second):
        ward.take(match)
    spoil(ward.evidence(first).parent)
    findings = ward.verify()
    assert not findings[first.id].ok
    assert why in findings[first.id].detail
    assert findings[second.id].ok


def test_what_does_not_belong_here_is_told(ward: Ward, file: Path) -> None:
    ward.take(ward.match(file))
    (ward.settings.quarantine_dir / "notes.txt").write_text("mine")
    assert not ward.verify()["notes.txt"].ok


def test_an_empty_quarantine_is_well(ward: Ward) -> None:
    assert ward.verify() == {}
    assert not ward.settings.quarantine_dir.exists()
