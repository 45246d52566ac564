"""Restoring a file: with its content and attributes, in its place, and only with the key."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fixtures.crash import watched
from fixtures.quarantine import CONTENT, Ward
from hashclient.audit.log import Event
from hashclient.core.errors import (
    AuditError,
    AuthorisationError,
    StateError,
    UsageError,
)
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.index.blinding import Sealer
from hashclient.matches.store import Matches
from hashclient.quarantine import item, restore, sealing, store
from hashclient.quarantine.age import load_identities, parse_recipients, seal
from hashclient.quarantine.item import Note
from hashclient.quarantine.safe_rename import PRIVATE_NAME
from hashclient.quarantine.store import Room
from hashclient.system.layout import MATCHES_NAME as DATABASE_NAME
from hashclient.system.layout import RESTORED_NAME
from tests.kit import descriptors_left, open_files


def test_a_file_with_a_withdrawn_entry_is_restored_as_it_was(ward: Ward, file: Path) -> None:
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
    event = ward.last_event()
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives capabilities")
def test_capabilities_are_not_given_to_another_owner(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = "security.capability", bytes.fromhex("0100000200040000" + "00" * 12)
    try:
        os.setxattr(file, name, value)
    except OSError:
        pytest.skip("this file system has no such attribute")
    match = ward.match(file)
    ward.take(match)
    edit(ward, match, {"uid": 1})

    def refuse(_fd: int, _uid: int, _gid: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "fchown", refuse)
        restored = ward.restore(match, force=True)
    assert restored.missing == ("its owner (1:0)", f"its attribute {name}")
    assert name not in os.listxattr(file)
    match = ward.match(file)
    os.setxattr(file, name, value)
    ward.take(match)
    assert ward.restore(match, force=True).missing == ()
    assert os.getxattr(file, name) == value


def edit(ward: Ward, match: Match, origin: dict[str, object]) -> None:
    """Change the recorded origin of a file."""
    path = ward.evidence(match).parent / "item.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "origin": document["origin"] | origin}))


def test_powers_are_not_given_to_another_owner(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.chmod(0o6755)
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    edit(ward, match, {"uid": ward.item(match).origin.uid + 1})

    def refuse(_fd: int, _uid: int, _gid: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    restored = ward.restore(match)
    assert len(restored.missing) == 1 and restored.missing[0].startswith("its owner")
    assert file.stat().st_mode & 0o7777 == 0o755


def test_an_item_that_is_not_withdrawn_stays_unless_forced(ward: Ward, file: Path) -> None:
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
    (tmp_path / "other").mkdir()
    other = Ward(tmp_path / "other")
    with pytest.raises(AuthorisationError, match="none of the identities opens the sealed file"):
        ward.restore(match, key=other.key)
    assert list(file.parent.iterdir()) == []
    assert ward.opened(match) == CONTENT
    assert ward.last_event()["event"] == "restoring"  # the audit log has the attempt


def test_an_item_on_hold_is_not_restored(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    ward.hold(match)
    with pytest.raises(UsageError, match="is on hold, by dave: order"):
        ward.restore(match, force=True)
    ward.release(match)
    ward.restore(match)
    assert file.read_bytes() == CONTENT


def test_a_time_that_no_file_has_is_refused(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    edit(ward, match, {"mtime_ns": 10**40})
    with pytest.raises(StateError, match="cannot write"):
        ward.restore(match, force=True)
    assert ward.opened(match) == CONTENT


def test_without_the_log_nothing_is_opened(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.take(match)

    def append(*_arguments: object, **_more: object) -> None:
        raise AuditError("cannot write the audit log")

    monkeypatch.setattr(ward.audit, "append", append)
    with pytest.raises(AuditError):
        ward.restore(match, force=True)
    assert list(file.parent.iterdir()) == []
    assert ward.opened(match) == CONTENT


def test_the_copy_stays_until_the_file_is_on_the_disk(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.take(match)
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == file.parent:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(StateError, match="Input/output error"):
            ward.restore(match, force=True)
    assert ward.opened(match) == CONTENT
    ward.restore(match, force=True)
    assert file.read_bytes() == CONTENT and ward.names() == set()


def test_a_refusal_writes_nothing_into_the_quarantine(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    directory = ward.settings.layout.quarantine
    os.utime(directory, (0, 0))
    with pytest.raises(UsageError, match="not withdrawn"):
        ward.restore(match)
    assert directory.stat().st_mtime == 0


def test_anothers_file_of_the_same_content_is_not_the_one(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    file.write_bytes(CONTENT)
    with pytest.raises(UsageError, match="something else is there"):
        ward.restore(match, force=True)
    assert ward.opened(match) == CONTENT


def test_the_place_named_with_to_may_be_its_own(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.restore(match, force=True, to=file)
    assert ward.get(match).in_place


def test_a_restoration_replaces_no_file(ward: Ward, file: Path) -> None:
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
    assert raised.value.hint is not None and "--output" in raised.value.hint
    elsewhere = file.parent.with_name("elsewhere")
    elsewhere.mkdir()
    file.parent.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="a link leads to it"):
        ward.restore(match)
    assert list(elsewhere.iterdir()) == []
    ward.restore(match, to=file)  # a path that the user names may be a symbolic link
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
    with pytest.raises(StateError, match=r"cannot decrypt|is not the file that was sealed"):
        ward.restore(match)
    assert list(file.parent.iterdir()) == []
    assert evidence.exists()


def test_a_copy_of_something_else_is_not_restored(ward: Ward, file: Path) -> None:
    """Anybody can seal to a public key, so the document says which copy is meant."""
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()
    other = io.BytesIO()
    seal(io.BytesIO(bytes(len(CONTENT))).read, other.write, parse_recipients([ward.public]))
    assert len(other.getvalue()) > len(CONTENT)
    ward.evidence(match).write_bytes(other.getvalue())
    ward.sealer = Sealer(bytes(32))  # with another seal key, no tag can be compared
    with pytest.raises(StateError, match="is not the file that was sealed"):
        ward.restore(match)
    assert list(file.parent.iterdir()) == []


def test_a_restored_file_is_read_back(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.take(match)
    ward.withdraw()

    def worn_out(fd: int) -> tuple[str, int]:
        os.pwrite(fd, b"\0", 5)
        return sealing.sha256_synced(fd)

    monkeypatch.setattr(restore, "sha256_synced", worn_out)
    with pytest.raises(StateError, match="does not read back"):
        ward.restore(match)
    assert list(file.parent.iterdir()) == []
    assert ward.opened(match) == CONTENT


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
    # `os.open` fails with EISDIR.
    monkeypatch.setattr(os, "O_TMPFILE", os.O_RDONLY | os.O_DIRECTORY)
    ward.restore(match)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT])
def test_a_file_system_says_in_several_ways_that_files_need_names(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    match = ward.match(file)
    ward.take(match)
    refuse_unnamed(monkeypatch, code)
    ward.restore(match, force=True)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == CONTENT


def test_a_place_that_cannot_be_written_to_gets_no_named_file(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.take(match)
    refuse_unnamed(monkeypatch, errno.EROFS)
    with pytest.raises(UsageError, match="read-only file system"):
        ward.restore(match, force=True)
    assert list(file.parent.iterdir()) == []


def refuse_unnamed(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Let the file system refuse files without a name with the error `code`."""
    real = os.open

    def open_(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_)


@pytest.mark.parametrize("why", ["wrong key", "damaged", "not the file", "does not read back"])
def test_no_named_plain_text_is_left_behind(
    ward: Ward, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    match = ward.match(file)
    ward.take(match)
    refuse_unnamed(monkeypatch, errno.EOPNOTSUPP)
    key = ward.key
    if why == "wrong key":
        (tmp_path / "other").mkdir()
        key = Ward(tmp_path / "other").key
    # The last chunk is damaged, and the chunks before it are written already.
    elif why == "damaged":
        data = bytearray(ward.evidence(match).read_bytes())
        data[-1] ^= 1
        ward.evidence(match).write_bytes(data)
    elif why == "not the file":
        path = ward.evidence(match).parent / "item.json"
        path.write_text(path.read_text().replace(f'"size": {len(CONTENT)}', '"size": 1'))
    else:
        monkeypatch.setattr(restore, "sha256_synced", lambda _fd: ("", 0))
    with pytest.raises((StateError, AuthorisationError)):
        ward.restore(match, force=True, key=key)
    assert list(file.parent.iterdir()) == []
    assert ward.evidence(match).exists()


@pytest.mark.parametrize("planted", ["file", "link", "hard link"])
def test_plain_text_is_never_written_into_what_somebody_has_planted(
    ward: Ward, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    """The temporary name is predictable, so another user may create the file before the program."""
    match = ward.match(file)
    ward.take(match)
    refuse_unnamed(monkeypatch, errno.EOPNOTSUPP)
    name = file.with_name(f".hashclient-{match.id}.new")
    victim = tmp_path / "victim"
    victim.write_bytes(b"somebody's")

    def plant(call: str, argument: object) -> None:
        if (call, argument) == ("create", name.name):
            if planted == "file":
                name.write_bytes(b"somebody's")
            elif planted == "link":
                name.symlink_to(victim)
            else:
                name.hardlink_to(victim)

    with watched(plant), pytest.raises(UsageError, match="file exists"):
        ward.restore(match, force=True)
    assert victim.read_bytes() == b"somebody's"
    # The program must not remove the file of another user.
    assert name.read_bytes() == b"somebody's"
    assert not file.exists()
    assert ward.opened(match) == CONTENT
    name.unlink()
    ward.restore(match, force=True)
    assert file.read_bytes() == CONTENT


def test_a_named_file_is_private_and_follows_no_link(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    file.chmod(0o644)
    ward.take(match)
    refuse_unnamed(monkeypatch, errno.EOPNOTSUPP)
    refusing = os.open
    made: list[tuple[int, int]] = []
    modes: list[int] = []

    def open_(path: str, flags: int, *args: int, **kwargs: int) -> int:
        fd = refusing(path, flags, *args, **kwargs)
        if str(path).endswith(".new"):
            made.append((flags, args[0]))
            modes.append(os.fstat(fd).st_mode & 0o777)
        return fd

    monkeypatch.setattr(os, "open", open_)
    ward.restore(match, force=True)
    ((flags, mode),) = made
    needed = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    assert flags & needed == needed
    assert (mode, modes) == (0o600, [0o600])


@pytest.mark.parametrize("what", ["content", "mode", "time", "owner", "group"])
def test_a_file_that_differs_from_the_restored_one_is_somebody_elses(
    ward: Ward, file: Path, what: str
) -> None:
    """The restoration was interrupted after the file got its name and before the document."""
    match = ward.match(file)
    status = file.stat()
    ward.take(match)
    there = CONTENT if what != "content" else bytes(len(CONTENT))
    file.write_bytes(there)
    file.chmod(status.st_mode & 0o7777)
    if what in {"owner", "group"}:
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(file, 1 if what == "owner" else -1, 1 if what == "group" else -1)
    times = (status.st_atime_ns, status.st_mtime_ns + (what == "time"))
    if what == "mode":
        file.chmod(0o604)
    os.utime(file, ns=times)
    with pytest.raises(UsageError, match="something else is there"):
        ward.restore(match, force=True)
    assert ward.opened(match) == CONTENT and file.read_bytes() == there


def test_a_file_of_somebody_elses_under_the_private_name_stays(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    private = file.with_name(PRIVATE_NAME.format(match.id))
    private.write_bytes(b"somebody's")
    ward.restore(match, force=True)
    assert private.read_bytes() == b"somebody's"


def test_a_file_that_was_given_back_elsewhere_is_noted_once(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.take(match)

    def killed(_room: Room, _match_id: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Room, "drop", killed)
        with pytest.raises(KeyboardInterrupt):
            ward.restore(match, force=True, to=file.with_name("elsewhere"))
    done = ward.restore(match, force=True)
    assert done.path == str(file.with_name("elsewhere"))
    with ward.record() as record:
        assert [s.event for s in record.story(match.id)].count("restored") == 1
    assert ward.names() == set() and not file.exists()


def test_the_same_file_that_is_there_already_is_what_was_given_back(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    status = file.stat()
    ward.take(match)
    file.write_bytes(CONTENT)
    file.chmod(status.st_mode & 0o7777)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    ward.restore(match, force=True)
    assert file.read_bytes() == CONTENT and ward.names() == set()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_no_descriptor_stays_open(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, named: bool, fails: bool
) -> None:
    match = ward.match(file)
    if named:
        refuse_unnamed(monkeypatch, errno.EOPNOTSUPP)
    before = open_files()
    assert ward.take(match).taken
    assert open_files() == before
    if fails:
        file.write_bytes(bytes(len(CONTENT)))
        with pytest.raises(UsageError):
            ward.restore(match, force=True)
    else:
        ward.restore(match, force=True)
    assert open_files() == before


def several(ward: Ward, directory: Path, count: int) -> list[Match]:
    """Return matches whose files are in quarantine and withdrawn."""
    found = []
    for number in range(count):
        path = directory / f"file-{number}"
        path.write_bytes(b"benign %d" % number)
        found.append(ward.match(path, entry=f"e-{number}"))
        ward.take(found[-1])
        ward.withdraw(f"e-{number}")
    return found


def restore_all(ward: Ward, ids: list[str]) -> list[tuple[str, object]]:
    with ward.record() as record:
        identities = load_identities(ward.key)
        return [*ward.open("bob").restore_all(ids, identities, record, reason="back")]


@pytest.mark.slow
def test_few_free_descriptors_are_for_fewer_items_at_once(ward: Ward, tmp_path: Path) -> None:
    matches = several(ward, tmp_path, 12)
    with ward.record() as record, descriptors_left(24):
        restored = ward.open("bob").restore_all(
            [match.id for match in matches], load_identities(ward.key), record, reason="back"
        )
        assert [*restored] == [(m.id, restore.Restored(m.path, ())) for m in matches]
    assert ward.names() == set()


@pytest.mark.slow
def test_many_items_share_what_is_written_of_all(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = several(ward, tmp_path, 7)
    appended: list[int] = []
    append = ward.audit.append

    def counted(events: Sequence[Event], **options: bool) -> None:
        appended.append(len(events))
        append(events, **options)

    noted: list[int] = []
    save_notes = item.save_notes

    def counted_notes(directory: Path, notes: dict[str, Note]) -> None:
        noted.append(len(notes))
        save_notes(directory, notes)

    monkeypatch.setattr(ward.audit, "append", counted)
    monkeypatch.setattr(store, "save_notes", counted_notes)
    monkeypatch.setattr(store, "AT_ONCE", 5)
    ids = [match.id for match in matches]
    done = restore_all(ward, ids)
    # The record is written before the items of a batch are dropped, and after it.
    assert noted == [5, 0, 2, 0]
    assert done == [(m.id, restore.Restored(m.path, ())) for m in matches]
    # The log has the intents of half a batch, then its results, and then the other half.
    assert appended == [3, 2, 3, 2, 1, 1, 1, 1]
    assert ward.events()[-4:] == ["restoring"] * 2 + ["restored"] * 2
    assert ward.names() == set()
    for number, match in enumerate(matches):
        assert Path(match.path).read_bytes() == b"benign %d" % number
        now = ward.get(match)
        assert (now.state, now.in_place) == (MatchState.RESTORED, True)


def test_each_file_is_synced_once_while_another_is_opened(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = several(ward, tmp_path, 2)
    opened = {content: threading.Event() for content in (b"benign 0", b"benign 1")}
    synced: list[bytes] = []
    decrypt, fsync = restore._decrypt, os.fsync

    def opening(room: Room, one: item.Item, *arguments: Any) -> str:
        opened[b"benign 0" if one.id == matches[0].id else b"benign 1"].set()
        return decrypt(room, one, *arguments)

    def syncing(fd: int) -> None:
        with contextlib.suppress(OSError):  # the audit log is open only for writing
            content = os.pread(fd, 9, 0)
            if content in opened:
                synced.append(content)
                assert all(event.wait(60) for event in opened.values())
        fsync(fd)

    with monkeypatch.context() as patched:
        patched.setattr(restore, "_decrypt", opening)
        patched.setattr(os, "fsync", syncing)
        done = restore_all(ward, [match.id for match in matches])
    assert done == [(m.id, restore.Restored(m.path, ())) for m in matches]
    assert synced == [b"benign 0", b"benign 1"]


def test_a_batch_ends_at_so_many_bytes(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = several(ward, tmp_path, 2)
    monkeypatch.setattr(restore, "AT_ONCE_BYTES", 1)
    restore_all(ward, [match.id for match in matches])
    assert ward.events()[-4:] == ["restoring", "restored"] * 2


@pytest.mark.slow
def test_the_failure_of_one_item_leaves_the_others_alone(ward: Ward, tmp_path: Path) -> None:
    matches = several(ward, tmp_path, 4)
    taken, held, damaged, good = matches
    Path(taken.path).write_bytes(b"another file of ours")
    ward.hold(held)
    ward.evidence(damaged).write_bytes(b"damaged")
    done = restore_all(ward, [m.id for m in matches] + [good.id, "0" * 10])
    words = [str(getattr(outcome, "message", "restored")) for _, outcome in done]
    for expected, word in zip(
        ("something else is there", "on hold", "cannot decrypt", "restored", "", ""),
        words,
        strict=True,
    ):
        assert expected in word
    # One id was given twice, and one is unknown.
    assert [type(outcome) for _, outcome in done[4:]] == [UsageError, UsageError]
    assert Path(good.path).read_bytes() == b"benign 3"
    assert not Path(held.path).exists() and not Path(damaged.path).exists()
    assert ward.names() == {taken.id, held.id, damaged.id}


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_match_that_cannot_be_noted_keeps_no_other_item(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """The other item is removed, whether both matches are noted together or one by one."""
    monkeypatch.setattr(store, "AT_ONCE", at_once)
    bad, good = several(ward, tmp_path, 2)
    change_all = Matches.change_all

    def refuse(
        self: Matches, changes: Sequence[tuple[Match, Any, bool]], *arguments: Any
    ) -> list[MatchState]:
        if bad.id in (match.id for match, *_ in changes):
            raise StateError("cannot use the record")
        return change_all(self, changes, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Matches, "change_all", refuse)
        (_, failed), (_, done) = restore_all(ward, [bad.id, good.id])
    assert isinstance(failed, StateError) and done == restore.Restored(good.path, ())
    assert ward.names() == {bad.id} and ward.item(bad).restored is not None
    ((_, again),) = restore_all(ward, [bad.id])
    assert again == restore.Restored(bad.path, ()) and ward.names() == set()


def test_a_kill_while_items_are_dropped_beside_others_loses_nothing(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "AT_ONCE", 1)
    matches = several(ward, tmp_path, restore._IN_A_ROW + 2)
    ids = [match.id for match in matches]

    def killed(_room: Room, *_ids: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Room, "drop", killed)
        with pytest.raises(KeyboardInterrupt):
            restore_all(ward, ids)
    assert [Path(match.path).exists() for match in matches[:3]] == [True, True, False]
    assert ward.names() == set(ids)
    again = restore_all(ward, [*ids, ids[0]])
    assert again[:-1] == [(match.id, restore.Restored(match.path, ())) for match in matches]
    assert isinstance(again[-1][1], UsageError) and ward.names() == set()
    assert all(Path(match.path).read_bytes() for match in matches)


def test_a_note_that_outlives_its_item_says_nothing_about_another_copy(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.take(match)

    def killed(_folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "remove_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            ward.restore(match, force=True)
    notes = ward.settings.layout.quarantine / RESTORED_NAME
    assert match.id in notes.read_text() and not ward.evidence(match).exists()
    assert ward.match(file).id == match.id
    ward.take(match)
    assert ward.item(match).restored is None and ward.get(match).state is MatchState.QUARANTINED
    ward.restore(match, force=True)
    assert file.read_bytes() == CONTENT and not notes.exists()


BAD_PATH = (
    '{"format":"hashclient-quarantine-restored/1","items":{"%s":{"evidence_sha256":"","restored":'
    '{"by":"a","reason":"b","time":"2026-01-01T00:00:00Z","path":"/f","path_b64":"%s"}}}}'
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "damaged"),
        ('{"format":"x/2","items":{}}', "unknown format"),
        (BAD_PATH % ("3kdz7wnq2m", "!"), "damaged"),
        (BAD_PATH % ("../3kdz7wn", "Lw=="), "damaged"),
    ],
    ids=["no JSON", "format", "no base64", "no id"],
)
def test_notes_that_cannot_be_read_stop_acts_and_harm_no_copy(
    ward: Ward, file: Path, text: str, why: str
) -> None:
    match = ward.match(file)
    ward.take(match)
    notes = ward.settings.layout.quarantine / RESTORED_NAME
    notes.write_text(text)
    with pytest.raises(StateError, match=why):
        ward.restore(match, force=True)
    found = ward.verify()
    assert why in found[RESTORED_NAME].detail and not found[RESTORED_NAME].ok
    assert found[match.id].ok  # the item of the match is still checked
    notes.unlink()
    ward.restore(match, force=True)
    assert file.read_bytes() == CONTENT


def test_an_item_whose_note_is_lost_is_dropped_by_another_restore(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.take(match)

    def killed(_room: Room, *_ids: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Room, "drop", killed)
        with pytest.raises(KeyboardInterrupt):
            ward.restore(match, force=True)
    (ward.settings.layout.quarantine / RESTORED_NAME).unlink()
    inode = file.stat().st_ino
    ward.restore(match, force=True)
    assert file.stat().st_ino == inode and ward.names() == set()


def test_a_log_that_fails_keeps_all_sealed_copies(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = several(ward, tmp_path, 3)
    append = ward.audit.append

    def refuse(events: Sequence[Event], **options: bool) -> None:
        if any(event.event == "restored" for event in events):
            raise AuditError("cannot write the audit log")
        append(events, **options)

    with monkeypatch.context() as patched:
        patched.setattr(ward.audit, "append", refuse)
        done = restore_all(ward, [m.id for m in matches])
    assert [type(outcome) for _, outcome in done] == [AuditError] * 3
    assert ward.names() == {m.id for m in matches}
    before = [Path(m.path).stat().st_ino for m in matches]
    restore_all(ward, [m.id for m in matches])
    assert ward.names() == set()
    assert [Path(m.path).stat().st_ino for m in matches] == before
