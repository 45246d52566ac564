"""Files that are written whole, exclusive locks, secrets that stay secret, printable names."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from fixtures.crash import Recorder, watched
from hashclient.core.errors import ConfigError, LockedError, StateError
from hashclient.system import files as system_files
from hashclient.system.files import (
    MAX_TEXT_BYTES,
    TEMP_PREFIX,
    atomic_file,
    make_private_dir,
    make_public_dir,
    read_regular,
    state_error,
    sweep_temporary,
    write_atomic,
    writer_lock,
)
from hashclient.system.secrets import read_secret
from hashclient.system.text import MAX_EXCERPT_CHARS, excerpt, printable
from tests.kit import open_files


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    assert path.stat().st_mode & 0o777 == 0o600
    write_atomic(path, b"new", mode=0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o644)
    assert names(tmp_path) == ["f"]


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"target")
    (tmp_path / "f").symlink_to("target")
    write_atomic(tmp_path / "f", b"new")
    assert (tmp_path / "target").read_bytes() == b"target"
    assert (tmp_path / "f").read_bytes() == b"new"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_when_the_disk_fails_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def failing(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(StateError, match=os.strerror(code)):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_file_is_on_the_disk_before_its_name_is_and_then_the_name(tmp_path: Path) -> None:
    recorder = Recorder()
    with watched(recorder):
        write_atomic(tmp_path / "f", b"new")
    files = open_files()
    write_atomic(tmp_path / "f", b"newer")
    assert open_files() == files
    temporary = f"{tmp_path}/{recorder.calls[0][1]}"
    assert temporary.startswith(f"{tmp_path}/{TEMP_PREFIX}")
    calls = [(name, str(argument)) for name, argument in recorder.calls]
    assert calls[-3:] == [("fsync", temporary), ("replace", temporary), ("fsync", str(tmp_path))]
    assert {name for name, _ in calls[:-3]} == {"create", "write"}


def test_an_error_of_the_caller_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    with pytest.raises(TypeError), atomic_file(path) as stream:
        stream.write("half")  # type: ignore[call-overload]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_no_directory_no_file(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        write_atomic(tmp_path / "nope" / "f", b"")
    assert caught.value.hint


def test_private_directories(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = make_private_dir(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert make_private_dir(path) == path
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot make directory"):
        make_private_dir(tmp_path / "file")
    with pytest.raises(StateError, match="cannot make directory"):
        make_private_dir(tmp_path / "file" / "below")


def test_a_directory_that_is_made_is_synced_even_where_it_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append(Path("/")))

    def fsync_dir(path: Path) -> None:
        if path == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        synced.append(path)

    monkeypatch.setattr(system_files, "fsync_dir", fsync_dir)
    make_private_dir(tmp_path / "a" / "b")
    make_private_dir(tmp_path / "a" / "b")
    assert synced == [Path("/"), tmp_path / "a"]


def test_the_names_of_new_directories_are_synced(tmp_path: Path) -> None:
    recorder = Recorder()
    with watched(recorder):
        make_private_dir(tmp_path / "a" / "b")
        make_private_dir(tmp_path / "a" / "b")
    assert [(name, str(argument)) for name, argument in recorder.calls] == [
        ("mkdir", f"{tmp_path}/a"),
        ("fsync", f"{tmp_path}"),
        ("mkdir", f"{tmp_path}/a/b"),
        ("fsync", f"{tmp_path}/a"),
    ]


def test_leftovers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in (f"{TEMP_PREFIX}abc", "kept", f"kept{TEMP_PREFIX}"):
        (tmp_path / name).touch()
    (tmp_path / f"{TEMP_PREFIX}directory").mkdir()
    sweep_temporary(tmp_path)
    assert names(tmp_path) == [f"{TEMP_PREFIX}directory", "kept", f"kept{TEMP_PREFIX}"]


def test_the_lock_excludes_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with writer_lock(path):
        with pytest.raises(LockedError) as caught, writer_lock(path):
            pass
        assert caught.value.hint
        assert caught.value.exit_code == 8
    with writer_lock(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_lock_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot open lock"), writer_lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_fd: int, _mode: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    files = open_files()
    with pytest.raises(StateError, match="cannot lock"), writer_lock(tmp_path / "lock", wait_s=9):
        pass
    assert open_files() == files


def test_a_secret_is_read_when_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"token\n")
    path.chmod(0o600)
    assert read_secret(path, "token file") == b"token\n"
    (tmp_path / "link").symlink_to("secret")
    assert read_secret(tmp_path / "link", "token file") == b"token\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_a_secret_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"token-7f3a")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="token file can be read by others") as caught:
        read_secret(path, "token file")
    assert caught.value.hint == f"chmod 600 {path}"
    assert "7f3a" not in caught.value.message


def test_a_secret_of_any_length_is_none(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_atomic(path, b"x" * MAX_TEXT_BYTES)
    assert len(read_secret(path, "token file")) == MAX_TEXT_BYTES
    write_atomic(path, b"x" * (MAX_TEXT_BYTES + 1))
    with pytest.raises(ConfigError, match="token file is longer than 1,048,576 bytes"):
        read_secret(path, "token file")


def test_only_regular_files_of_a_bounded_length_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to("f")
    assert read_regular(path, 5) == read_regular(tmp_path / "link", 9) == b"12345"
    assert read_regular(Path("/dev/null"), 5) == b""
    os.mkfifo(tmp_path / "pipe")
    for name, most, why in (
        ("f", 4, "longer than 4 bytes"),
        ("pipe", 9, "not a regular file"),
        ("/dev/zero", 9, "not a regular file"),
        (".", 9, "Is a directory"),
        ("nope", 9, "No such file"),
    ):
        with pytest.raises(OSError, match=why) as caught:
            read_regular(tmp_path / name, most)
        assert caught.value.strerror is not None
        assert why in caught.value.strerror


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_directories_have_their_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_public_dir(tmp_path / "a/b")
        make_private_dir(tmp_path / "c/d")
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "c", "c/d")}
    assert modes == {"a": 0o755 & ~umask, "a/b": 0o755 & ~umask, "c": 0o700, "c/d": 0o700}


def test_a_secret_must_be_a_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(mode=0o700)
    for name, why in (
        ("pipe", "not a regular file"),
        ("directory", "irectory"),
        ("nope", "No such file"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_secret(tmp_path / name, "token file")


def test_errors_of_the_system_become_ours_with_a_hint(tmp_path: Path) -> None:
    error = state_error("cannot write", tmp_path / "a\nb", OSError(errno.ENOSPC, "No space left"))
    assert error.message == f"cannot write: {tmp_path}/a\\x0ab: No space left"
    assert error.hint
    assert "old state" in error.hint
    assert state_error("cannot write", tmp_path, OSError("odd")).message.endswith(": odd")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain/name.txt", "plain/name.txt"),
        ("grün 文".encode(), "grün 文"),
        (b"new\nline", "new\\x0aline"),
        (b"\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        (b"back\\slash", "back\\\\slash"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("right\u202eleft".encode(), "right\\xe2\\x80\\xaeleft"),
        ("line\u2028end".encode(), "line\\xe2\\x80\\xa8end"),
        (b"\x7f", "\\x7f"),
        (b"", ""),
    ],
)
def test_names_are_shown_safely_and_stay_apart(raw: bytes, shown: str) -> None:
    assert printable(os.fsdecode(raw)) == shown
    assert printable(os.fsdecode(raw)).isprintable()


def test_text_from_elsewhere_is_shown_safely() -> None:
    assert printable("\ud800") == "\\xed\\xa0\\x80"
    assert excerpt("x" * MAX_EXCERPT_CHARS) == "x" * MAX_EXCERPT_CHARS
    assert excerpt(ValueError("\x1b" * 500)) == "\\x1b" * MAX_EXCERPT_CHARS + "…"
