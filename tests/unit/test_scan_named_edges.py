"""Named files on a cluster: what the client finds out about each, and which a worker has."""

from __future__ import annotations

from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.cluster.messages import SIGN
from hashclient.scan.cluster.named import OTHER, NamedFiles, only_same
from hashclient.scan.executors.wire import Names, group_of
from hashclient.scan.values.work import Group
from tests.kit import open_files, write_tree


def signs(names: Names) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = np.frombuffer(names.signs, SIGN).tolist()
    return found


def sign(path: Path, *, follow: bool = False) -> tuple[int, int, int]:
    status = path.stat(follow_symlinks=follow)
    return status.st_ino, status.st_size, status.st_mtime_ns


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> NamedFiles:
    """Named files of file systems whose number is their device plus one; device 0 has none."""
    found = NamedFiles()
    asked: list[tuple[str, int, bool]] = []

    def at(name: str, _fd: int, device: int, *, follow: bool) -> SimpleNamespace | None:
        asked.append((name, device, follow))
        return SimpleNamespace(number=device + 1) if device else None

    monkeypatch.setattr(found, "_identities", SimpleNamespace(at=at, asked=asked))
    return found


@pytest.mark.parametrize("follow", [False, True])
def test_each_named_file_has_its_inode_size_and_time(
    tmp_path: Path, files: NamedFiles, follow: bool
) -> None:
    tree = write_tree(tmp_path, {"a": b"1", "b": b"22"})
    (tree / "link").symlink_to("b")
    (tree / "dangling").symlink_to("nowhere")
    names = ["a", "b", "link"]
    before = open_files()
    group = Group(str(tree), names, follow, (1, 2), array("Q", [7, 8, 9]), is_named=True)
    (found,) = files.look_at(group)
    assert open_files() == before
    number = (tree / "a").stat().st_dev + 1
    assert found.file_system == number
    wanted = [sign(tree / name, follow=follow) for name in names]
    assert signs(found) == wanted
    inodes = array("Q", [inode for inode, _, _ in wanted])
    # The device of a file system has another number on another machine.
    assert group_of(found) == group._replace(identity=(None, 2), inodes=inodes)
    assert cast("Any", files._identities).asked == [("a", number - 1, follow)]


def test_a_directory_that_cannot_be_opened_has_no_sign_of_any_file(
    tmp_path: Path, files: NamedFiles
) -> None:
    group = Group(f"{tmp_path}/gone", ["a", "b"], follow=True, is_named=True)
    (found,) = files.look_at(group)
    assert (signs(found), group_of(found), found.file_system) == ([(0, 0, 0)] * 2, group, 0)


def test_relative_paths_are_below_the_directory_of_the_client_and_reported_as_given(
    tmp_path: Path, files: NamedFiles
) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"1", "b": b"2", "c": b"3"})
    (names,) = files.look_at(Group(str(tree), ["a", "b", "c"], follow=False))
    names = msgspec.structs.replace(names, directory=b"t")
    assert only_same(names, str(tmp_path)) == (names, [])
    (tree / "b").unlink()
    kept, others = only_same(names, str(tmp_path))
    assert others == [Outcome(Kind.UNREAD, "t/b", reason=OTHER)]
    assert kept is not None
    assert (group_of(kept).names, kept.count, len(signs(kept))) == (["a", "c"], 2, 2)
    assert list(group_of(kept).inodes) == [(tree / name).stat().st_ino for name in "ac"]


def test_a_relative_directory_without_a_base_is_in_the_present_directory(
    tmp_path: Path, files: NamedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "t", {"a": b"1"})
    (names,) = files.look_at(Group(f"{tmp_path}/t", ["a"], follow=False))
    names = msgspec.structs.replace(names, directory=b"t")
    assert only_same(names, None)[0] is None
    monkeypatch.chdir(tmp_path)
    assert only_same(names, None) == (names, [])


@pytest.mark.parametrize("follow", [False, True])
def test_a_link_is_compared_as_the_client_has_looked_at_it(
    tmp_path: Path, files: NamedFiles, follow: bool
) -> None:
    tree = write_tree(tmp_path, {"a": b"1"})
    (tree / "link").symlink_to("a")
    (names,) = files.look_at(Group(str(tree), ["link"], follow))
    assert only_same(names, None) == (names, [])
    (tree / "a").write_bytes(b"22")
    kept, _ = only_same(names, None)
    assert kept == (None if follow else names)
