"""Held directories: no path leads through a link, ends at a link, or leaves the held directory."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hashclient.system import beneath
from hashclient.system.beneath import (
    HELD_FLAGS,
    Directory,
    held_parent,
    identity_of,
    open_beneath,
    open_plain,
)
from tests.kit import fast_directory, make_deep_tree


@pytest.fixture(params=["openat2", "no openat2", "forbidden"], autouse=True)
def _kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test on a kernel with `openat2`, without it, and behind a filter that forbids it."""
    code = {"no openat2": errno.ENOSYS, "forbidden": errno.EPERM}.get(request.param)

    def refuse(*_: object) -> int:
        assert code is not None
        raise OSError(code, os.strerror(code))

    if code is not None:
        monkeypatch.setattr(beneath, "openat2", refuse)


def path_of(fd: int) -> Path:
    try:
        return Path(f"/proc/self/fd/{fd}").readlink()
    finally:
        os.close(fd)


def refused(act: Callable[[], object]) -> OSError:
    with pytest.raises(OSError) as raised:
        act()
    return raised.value


def test_a_plain_path_leads_to_what_it_names(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    assert path_of(open_plain(str(inner), HELD_FLAGS)) == inner
    assert path_of(open_plain(f"{inner}//../b/file", os.O_RDONLY)) == inner / "file"


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_plain_path_has_no_link(tmp_path: Path, where: str) -> None:
    (tmp_path / "real" / "a" / "b").mkdir(parents=True)
    link, rest = {
        "first": (tmp_path / "link", "a/b"),
        "middle": (tmp_path / "real" / "link", "b"),
        "last": (tmp_path / "real" / "a" / "link", ""),
    }[where]
    link.symlink_to(tmp_path / "real" if where == "first" else tmp_path / "real" / "a")
    error = refused(lambda: open_plain(str(link / rest), HELD_FLAGS))
    assert (error.errno, error.filename) == (errno.ELOOP, str(link))


def test_a_link_to_a_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    for flags in (os.O_RDONLY, os.O_PATH):
        error = refused(functools.partial(open_plain, str(tmp_path / "link"), flags))
        assert error.errno == errno.ELOOP


@pytest.mark.parametrize("rest", ["..", "a/../..", "/", "/etc", "a/../../x"])
def test_nothing_above_a_directory_is_beneath_it(tmp_path: Path, rest: str) -> None:
    (tmp_path / "a").mkdir()
    with Directory.given(tmp_path) as directory:
        error = refused(lambda: open_beneath(directory.fd, rest, HELD_FLAGS))
    assert error.errno == errno.EXDEV


def test_a_link_is_not_beneath_even_if_its_target_is(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    with Directory.given(tmp_path) as directory:
        assert path_of(open_beneath(directory.fd, "", HELD_FLAGS)) == tmp_path
        with directory.beneath("a/b") as inner:
            assert inner.path == str(tmp_path / "a" / "b")
            assert inner.identity() == identity_of((tmp_path / "a" / "b").stat())
        error = refused(lambda: directory.beneath("link/b"))
    assert error.errno == errno.ELOOP


def test_the_path_that_was_given_may_lead_through_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Directory.given(tmp_path / "link") as directory:
        assert directory.identity() == identity_of((tmp_path / "real").stat())
    assert refused(lambda: Directory.plain(tmp_path / "link")).errno == errno.ELOOP


def test_a_missing_component_is_missing_and_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert refused(lambda: Directory.plain(tmp_path / "none" / "x")).errno == errno.ENOENT
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        assert refused(functools.partial(Directory.plain, path)).errno == errno.ENOTDIR


def test_a_path_longer_than_the_kernel_takes_at_once_is_opened() -> None:
    rest = "/".join(["dd"] * 2000)
    with fast_directory() as top:
        make_deep_tree(top, 2000)
        fd = open_plain(f"{top}/{rest}", HELD_FLAGS)
        with Directory.given(top) as directory, directory.beneath(rest) as inner:
            assert inner.identity() == identity_of(os.fstat(fd))
        os.close(fd)


def test_a_held_directory_stays_the_same_when_its_path_leads_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "victim").mkdir()
    with Directory.plain(tmp_path / "mine") as directory:
        (tmp_path / "mine").rename(tmp_path / "moved")
        (tmp_path / "mine").symlink_to("victim")
        os.close(directory.create("made"))
    assert [p.name for p in (tmp_path / "moved").iterdir()] == ["made"]
    assert not any((tmp_path / "victim").iterdir())


def test_a_file_is_created_new_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("x")
    (tmp_path / "link").symlink_to("victim")
    before = os.umask(0o077)
    try:
        with Directory.plain(tmp_path) as directory:
            os.close(directory.create("new", 0o664))
            for name in ("new", "link", "victim"):
                error = refused(functools.partial(directory.create, name))
                assert error.errno == errno.EEXIST
            assert refused(lambda: directory.open("link", os.O_RDONLY)).errno == errno.ELOOP
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o664


def test_only_the_file_that_is_meant_is_removed(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("a")
    ours = identity_of((tmp_path / "ours").stat())
    (tmp_path / "other").write_text("b")
    with Directory.plain(tmp_path) as directory:
        assert directory.status("none") is None
        assert not directory.unlink_if("none", ours)
        assert not directory.unlink_if("other", ours)
        assert directory.unlink_if("ours", ours)
        directory.sync()
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_a_file_that_is_exchanged_after_the_look_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours").write_text("a")
    ours = identity_of((tmp_path / "ours").stat())
    real = beneath.move_aside

    def exchanged(directory: int, name: str, private: str) -> None:
        (tmp_path / "ours").rename(tmp_path / "moved")
        (tmp_path / "ours").write_text("another's")
        real(directory, name, private)

    monkeypatch.setattr(beneath, "move_aside", exchanged)
    with Directory.plain(tmp_path) as directory:
        assert not directory.unlink_if("ours", ours)
    assert (tmp_path / "moved").read_text() == "a"
    assert (tmp_path / "ours").read_text() == "another's"
    assert len([*tmp_path.iterdir()]) == 2


def test_the_parent_of_a_path_is_held_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with held_parent(str(tmp_path / "real" / "name") + "/") as (directory, name):
        assert (directory.path, name) == (str(tmp_path / "real"), "name")
    with held_parent("/name") as (directory, name):
        assert (directory.path, name) == ("/", "name")

    def through_a_link() -> None:
        with held_parent(str(tmp_path / "link" / "name")):
            pass

    assert refused(through_a_link).errno == errno.ELOOP
