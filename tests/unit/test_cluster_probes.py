"""Probes: the facts which show that a directory is the same everywhere, and facts that do not."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hashclient.scan.cluster import probes as module
from hashclient.scan.cluster.messages import Probe, Sign
from hashclient.scan.cluster.probes import PREFIX, problem_with, without, written
from hashclient.scan.executors.wire import names_of
from hashclient.scan.values.work import Group
from tests.kit import open_files, write_tree

ELSEWHERE = "is another directory there"


def never(seconds: float) -> None:
    raise AssertionError(seconds)


def test_how_long_a_probe_is_looked_for() -> None:
    assert (module.MOST_SIGNS, module.TRIES, module.WAIT_S) == (16, 8, 0.25)
    assert PREFIX == ".hashclient-probe-"


def test_a_probe_is_a_small_file_of_its_own_that_anybody_may_read(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with written([str(tmp_path), f"{tmp_path}/"]) as (one, other):
            assert one.token != other.token and one.name != other.name
            for probe in (one, other):
                path = tmp_path / os.fsdecode(probe.name)
                assert path.read_bytes() == probe.token
                assert (len(probe.token), path.stat().st_mode & 0o777) == (16, 0o644)
                assert path.name.startswith(PREFIX) and len(path.name) == len(PREFIX) + 16
            assert probe.signs == ()
            assert [one.directory, other.directory] == [bytes(tmp_path), bytes(tmp_path) + b"/"]
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_probe_goes_also_after_an_error_and_if_somebody_was_faster(tmp_path: Path) -> None:
    files = open_files()
    with pytest.raises(ZeroDivisionError), written([str(tmp_path)]):
        raise ZeroDivisionError
    with written([str(tmp_path)]) as (probe,):
        (tmp_path / os.fsdecode(probe.name)).unlink()
    assert list(tmp_path.iterdir()) == []
    assert open_files() == files


@pytest.mark.parametrize("fails", ["write", "fsync", "fchmod"])
def test_a_probe_that_cannot_be_written_whole_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, fails, fail)
    with written([str(tmp_path)]) as (probe,):
        assert (probe.name, probe.token) == (b"", b"")
        assert len(probe.signs) == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 1, 7, 8])
def test_a_probe_that_shows_late_is_waited_for(tmp_path: Path, after: int) -> None:
    probe = Probe(bytes(tmp_path), b"probe", b"token")
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == after:
            (tmp_path / "probe").write_bytes(b"token")

    if not after:
        (tmp_path / "probe").write_bytes(b"token")
    found = problem_with(probe, "/", sleep)
    assert found == (None if after < 8 else ELSEWHERE)
    assert waited == [0.25] * min(after, 7)


@pytest.mark.parametrize("what", ["link", "directory", "pipe", "longer", "shorter"])
def test_only_a_file_with_the_token_is_a_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(module, "TRIES", 1)
    path = tmp_path / "probe"
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to("real"),
        "directory": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "longer": lambda: path.write_bytes(b"token!"),
        "shorter": lambda: path.write_bytes(b"toke"),
    }
    (tmp_path / "real").write_bytes(b"token")
    make[what]()
    files = open_files()
    assert problem_with(Probe(bytes(tmp_path), b"probe", b"token"), "/", never) == ELSEWHERE
    assert open_files() == files


@pytest.mark.parametrize(
    ("directory", "base", "problem"),
    [
        ("/TOP/d", "/nowhere", None),
        ("d", "/TOP", None),
        ("d", "/nowhere", "no such file or directory"),
        ("", "/TOP/d", None),
        ("link", "/TOP", None),  # the user has named this link
        ("f", "/TOP", "not a directory"),
        ("gone", "/TOP", "no such file or directory"),
    ],
)
def test_a_relative_directory_is_below_the_directory_of_the_scan(
    tmp_path: Path, directory: str, base: str, problem: str | None
) -> None:
    write_tree(tmp_path, {"d/probe": b"token", "f": b""})
    (tmp_path / "link").symlink_to("d")
    where = directory.replace("/TOP", str(tmp_path))
    probe = Probe(os.fsencode(where), b"probe", b"token")
    assert problem_with(probe, base.replace("/TOP", str(tmp_path)), never) == problem


def signs_of(directory: Path) -> tuple[Sign, ...]:
    fd = os.open(directory, os.O_RDONLY)
    try:
        return module._signs(fd)
    finally:
        os.close(fd)


def test_the_signs_of_a_directory_are_those_of_its_entries_and_its_own(tmp_path: Path) -> None:
    """An inner directory counts only by name, as it may be a mount point; links do not count."""
    write_tree(tmp_path, {"f": b"123", "d/x": b""})
    (tmp_path / "link").symlink_to("f")
    own, *rest = signs_of(tmp_path)
    assert own == Sign(b"", tmp_path.stat().st_ino, stat.S_IFDIR, 0, 0)
    found = {sign.name: sign for sign in rest}
    file, link = (tmp_path / "f").stat(), (tmp_path / "link").lstat()
    assert found == {
        b"f": Sign(b"f", file.st_ino, stat.S_IFREG, 3, file.st_mtime_ns),
        b"d": Sign(b"d", 0, stat.S_IFDIR, 0, 0),
        b"link": Sign(b"link", link.st_ino, stat.S_IFLNK, 1, link.st_mtime_ns),
    }


def test_the_time_of_an_empty_directory_is_a_sign(tmp_path: Path) -> None:
    (own,) = signs_of(tmp_path)
    assert own == Sign(b"", tmp_path.stat().st_ino, stat.S_IFDIR, 0, tmp_path.stat().st_mtime_ns)
    probe = Probe(bytes(tmp_path), signs=(own,))
    assert problem_with(probe, "/", never) is None
    (tmp_path / "later").touch()
    assert problem_with(probe, "/", never) == ELSEWHERE


@pytest.mark.parametrize("count", [15, 16, 17])
def test_so_many_entries_are_signs(tmp_path: Path, count: int) -> None:
    write_tree(tmp_path, {str(n): b"" for n in range(count)})
    assert len(signs_of(tmp_path)) == 1 + min(count, 16)


@pytest.mark.parametrize("field", ["inode", "mode", "size", "mtime_ns", "name", None])
def test_each_sign_counts(tmp_path: Path, field: str | None) -> None:
    write_tree(tmp_path, {"f": b"123", "g": b"1"})
    own, one, other = signs_of(tmp_path)
    if field is not None:
        value = b"h" if field == "name" else getattr(one, field) + 1
        one = msgspec.structs.replace(one, **{field: value})
    probe = Probe(bytes(tmp_path), signs=(own, one, other))
    assert problem_with(probe, "/", never) == (None if field is None else ELSEWHERE)
    # Entries that the client has not seen are ignored.
    (tmp_path / "later").touch()
    assert problem_with(probe, "/", never) == (None if field is None else ELSEWHERE)


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["a"], ["a"]),
        (["a", f"{PREFIX}1"], ["a"]),
        ([f"{PREFIX}1", f"{PREFIX}2"], None),
        ([f"{PREFIX}1", f"{PREFIX}3"], [f"{PREFIX}3"]),
        ([f"x{PREFIX}1"], [f"x{PREFIX}1"]),
    ],
)
def test_the_probes_of_the_scan_are_left_out(names: list[str], left: list[str] | None) -> None:
    probes = {f"{PREFIX}1".encode(), f"{PREFIX}2".encode()}
    found = without(names_of(Group("/d", names, follow=False)), probes)
    assert found == (None if left is None else names_of(Group("/d", left, follow=False)))
