"""Files that a user names: written to the right place, or refused with an error."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.core.errors import StateError, UsageError
from hashclient.system.beneath import Directory
from hashclient.system.outputs import (
    make_folder,
    new_directory,
    place_of,
    placed_directory,
    remove_new,
    replaced_file,
    write_new,
)
from tests.kit import attacker
from tests.kit.attacker import ATTACKER, Victim, give_tree, needs_root


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


def put(path: Path | str, text: bytes = b"new") -> None:
    """Write to a named file as the option `--output` does."""
    with place_of(path) as place, os.fdopen(place.open(), "wb") as stream:
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.truncate(0)
        stream.write(text)


def test_a_file_in_a_directory_of_ours_is_made_and_written_again(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        put(tmp_path / "out", text)
        assert (tmp_path / "out").read_bytes() == text


def test_links_that_only_we_can_change_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "log").mkdir(parents=True)
    (tmp_path / "log").symlink_to("disk/log")
    (tmp_path / "out").symlink_to(tmp_path / "log" / "../log/./target")
    put(tmp_path / "out")
    assert (tmp_path / "disk" / "log" / "target").read_bytes() == b"new"
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="Too many levels"):
        put(tmp_path / "circle")


def test_a_relative_path_begins_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    put("../out")
    put("in")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "in", "out"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "a/."])
def test_what_is_no_name_of_a_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        put(f"{tmp_path}/{name}")
    (tmp_path / "f").touch()
    with pytest.raises(NotADirectoryError):
        put(tmp_path / "f" / "x")


def test_open_streams_have_names_that_lead_to_them(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    put(f"/dev/fd/{writes}", b"through a pipe")
    assert os.read(reads, 100) == b"through a pipe"
    os.close(reads)
    os.close(writes)
    put("/dev/null")
    with (tmp_path / "open").open("wb") as stream:
        put(f"/proc/self/fd/{stream.fileno()}", b"a file")
    assert (tmp_path / "open").read_bytes() == b"a file"


def test_a_pipe_of_ours_is_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=put, args=(pipe, b"to its reader"))
    writer.start()
    assert pipe.read_bytes() == b"to its reader"
    writer.join()


def test_a_file_is_replaced_as_a_whole_and_so_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "out").symlink_to("other")
    with replaced_file(tmp_path / "out", mode=0o640) as stream:
        stream.write(b"new")
    assert (tmp_path / "other").read_bytes() == b"other"
    assert (tmp_path / "out").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "out").lstat().st_mode) == 0o640
    with contextlib.suppress(ZeroDivisionError), replaced_file(tmp_path / "out") as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "out").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]  # noqa: PTH208
    with pytest.raises(StateError, match="No such file"), replaced_file(tmp_path / "no" / "out"):
        pass


def test_an_empty_directory_of_the_name_of_a_new_one_stays(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(FileExistsError), placed_directory(tmp_path / "new") as made:
        put(made / "f")
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]


def test_a_new_file_replaces_nothing_and_only_itself_is_removed(tmp_path: Path) -> None:
    made = write_new(tmp_path / "key", b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="file exists"):
        write_new(tmp_path / "key", b"another")
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(UsageError, match="file exists"):
        write_new(tmp_path / "link", b"another")
    (tmp_path / "key").rename(tmp_path / "moved")
    (tmp_path / "key").write_bytes(b"of somebody else")
    remove_new(tmp_path / "key", made)
    assert (tmp_path / "key").read_bytes() == b"of somebody else"
    remove_new(tmp_path / "moved", made)
    assert not (tmp_path / "moved").exists()


# Other users


@needs_root
def test_a_link_of_another_user_is_refused_by_name(ground: Path) -> None:
    victim = Victim(ground / "closed" / "file", b"root's")
    theirs = give_tree(ground / "theirs", {"x": b""})
    attacker.attack_once(attacker.link(theirs / "out", victim.path))
    attacker.attack_once(attacker.link(theirs / "dir", victim.path.parent))
    for path in (theirs / "out", theirs / "dir" / "file", theirs / "dir" / "new"):
        with pytest.raises(UsageError, match=r"a link that user nobody may have made: .*theirs/"):
            put(path)
    for path in (theirs / "dir" / "file", theirs / "dir" / "new"):
        with pytest.raises(UsageError, match="a link that"), replaced_file(path):
            pass
        with pytest.raises(UsageError, match="a link that"):
            write_new(path, b"")
    with replaced_file(theirs / "out") as stream:
        stream.write(b"new")  # the new file takes the place of the link
    assert victim.is_untouched()
    assert not (theirs / "out").is_symlink()


@needs_root
def test_no_link_is_followed_in_a_directory_for_everybody(ground: Path) -> None:
    shared = ground / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "out").symlink_to(ground / "target")
    with pytest.raises(UsageError, match="a link that everybody may have made"):
        put(shared / "out")
    put(shared / "file")
    put(shared / "file")
    os.chown(shared, 0, ATTACKER)
    shared.chmod(0o1770)
    with pytest.raises(UsageError, match="a link that its group may have made"):
        put(shared / "out")
    assert not (ground / "target").exists()


@needs_root
@pytest.mark.parametrize("kind", ["file", "pipe", "hard link"])
def test_what_another_user_has_put_there_is_not_written_to(ground: Path, kind: str) -> None:
    theirs = give_tree(ground / "theirs", {"x": b""})
    out = theirs / "out"
    if kind == "file":
        attacker.attack_once(attacker.write(out, "theirs"))
    elif kind == "pipe":
        attacker.attack_once(attacker.make_fifo(out))
    else:  # without fs.protected_hardlinks, users can make such a link
        victim = ground / "root's"
        victim.write_bytes(b"theirs")
        out.hardlink_to(victim)
    with pytest.raises(UsageError, match=f"{out} (belongs to another user|has other names), in a"):
        put(out)
    if kind != "pipe":
        assert out.read_bytes() == b"theirs"


@needs_root
@pytest.mark.parametrize(("mode", "group"), [(0o2775, 102), (0o2775, 1002), (0o777, 102)])
def test_a_report_is_written_again_below_a_directory_of_a_group_of_the_system(
    ground: Path, mode: int, group: int
) -> None:
    """For example, /var/log of Ubuntu belongs to the group syslog."""
    log = ground / "log"
    (log / "reports").mkdir(parents=True)
    os.chown(log, 0, group)
    log.chmod(mode)
    report = log / "reports" / "report"
    put(report)
    (log / "reports" / "link").symlink_to("report")
    if (mode, group) == (0o2775, 102):
        put(report)
        with replaced_file(report) as stream:
            stream.write(b"again")
        assert report.read_bytes() == b"again"
    else:
        with pytest.raises(UsageError, match="is there already, on a way that"):
            put(report)
    with pytest.raises(UsageError, match="a link that"):
        put(log / "reports" / "link")


@needs_root
def test_a_closed_directory_on_a_way_of_others_gets_new_files_only(ground: Path) -> None:
    """Root replaces no file below another user's directory, even in a subdirectory of root."""
    theirs = give_tree(ground / "theirs", {"x": b""})
    victim = Victim(theirs / "closed" / "file", b"root's")
    with pytest.raises(UsageError, match=r"is there already, on a way that user nobody may change"):
        put(theirs / "closed" / "file")
    with (
        pytest.raises(UsageError, match=r"is there already, on a way that user nobody may change"),
        replaced_file(theirs / "closed" / "file"),
    ):
        pass
    assert victim.is_untouched()
    put(theirs / "closed" / "new")
    with replaced_file(theirs / "closed" / "new too") as stream:
        stream.write(b"new")
    sticky = theirs / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    put(sticky / "new")
    with pytest.raises(UsageError, match=r"is there already, on a way that user nobody may change"):
        put(sticky / "new")
    (theirs / "closed" / "link").symlink_to("file")
    with pytest.raises(UsageError, match="a link that user nobody may have made"):
        put(theirs / "closed" / "link")


@needs_root
def test_an_output_in_a_checkout_of_another_user_is_made_and_written_again(ground: Path) -> None:
    """In a CI container, root works on files of another user of the machine."""
    checkout = give_tree(ground / "checkout", {"src/x": b""}, uid=1000)
    for text in (b"first", b"second"):
        put(checkout / "report.json", text)
        assert (checkout / "report.json").read_bytes() == text


@needs_root
def test_a_link_to_a_directory_of_another_user_is_followed_where_root_has_made_it(
    ground: Path,
) -> None:
    theirs = give_tree(ground / "theirs", {"x": b""})
    (ground / "log").symlink_to(theirs)
    put(ground / "log" / "out")
    assert (theirs / "out").stat().st_uid == 0
    assert ATTACKER != 0


def test_an_open_directory_of_ours_is_not_taken_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user has renamed an empty, world-writable directory to the new name."""

    make, change = os.mkdir, os.chmod

    def mkdir(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        change(name, 0o777, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with (
        Directory.given(tmp_path) as directory,
        pytest.raises(OSError, match="somebody has exchanged it"),
        new_directory(directory, "new"),
    ):
        pass


@needs_root
def test_a_folder_is_made_through_no_link_of_another_user(ground: Path) -> None:
    victim = Victim(ground / "closed" / "file", b"root's")
    theirs = give_tree(ground / "theirs", {"x": b""})
    attacker.attack_once(attacker.link(theirs / "way", victim.path.parent))
    with pytest.raises(UsageError, match="a link that user nobody may have made"):
        make_folder(theirs / "way" / "signatures")
    make_folder(theirs / "way")  # a directory with this name exists already
    assert victim.is_untouched()
    make_folder(theirs / "signatures")
    assert (theirs / "signatures").stat().st_mode & 0o777 == 0o700
    with pytest.raises(UsageError, match="cannot make directory"):
        make_folder(theirs / "missing" / "signatures")
