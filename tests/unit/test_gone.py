"""Which matches are gone: the search follows the path of a match, and an error keeps the match."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.desk import A, Desk
from hashclient.core.match import Place
from hashclient.matches.selection import Left
from hashclient.scan.run import gone as module
from hashclient.scan.run.gone import find_gone
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.sources.trees import Coverage
from hashclient.scan.values.options import ScanOptions
from tests.kit import open_files

NAME = "d/e/f"


class Grounds(Mounts):
    """Identifies all directories with one file system, as if one were mounted several times.

    A directory whose name ends in `unmounted` belongs to another file system.
    """

    def __init__(self) -> None:
        pass

    def standing_of(self, fd: int, rest: bytes = b"") -> str | None:
        there = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        return "inner elsewhere" if there.endswith("unmounted") else "inner system"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk with a match at `NAME` that later scans do not find."""
    desk = Desk(tmp_path)
    outcome = desk.find("elsewhere", A).handled().outcome
    path = desk.files / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(A)
    with desk.record() as record:
        place = Place(str(path), "inner system")
        record.record([outcome], desk.sealer().key_id, desk.now(), [place])
    desk.wait(hours=1)
    return desk


def gone(
    desk: Desk, *failed: str, named: Path | None = None, exclude: tuple[str, ...] = ()
) -> list[str]:
    """Return the paths (below the tree) of the matches that are gone after a scan."""
    coverage = Coverage(ScanOptions(exclude=tuple(filter(None, exclude))))
    coverage.begin(str(named or desk.files))
    for directory in failed:
        coverage.fail(f"{named or desk.files}/{directory}".rstrip("/"))
    before = open_files()
    with desk.record() as record:
        of_record = open_files()
        found = [*find_gone(record, coverage, Grounds(), desk.now() - timedelta(minutes=1))]
        assert open_files() == of_record
    assert open_files() == before
    return [os.path.relpath(os.fsdecode(one.path), desk.files) for one in found]


def remove(path: Path) -> None:
    path.unlink()


def remove_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def remove_two(path: Path) -> None:
    remove_directory(path)
    path.parent.parent.rmdir()


def put_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_file(path: Path) -> None:
    remove_directory(path)
    path.parent.write_bytes(A)


def put_dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def put_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def put_link_for_directory(path: Path) -> None:
    """The link leads to a directory that lacks the file, although its place would be the same."""
    path.parent.rename(path.parent.with_name("moved"))
    (path.parent.with_name("moved") / path.name).unlink()
    path.parent.symlink_to("moved")


def put_link_that_is_dead(path: Path) -> None:
    remove_directory(path)
    path.parent.symlink_to("nowhere")


def put_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_pipe_for_directory(path: Path) -> None:
    remove_directory(path)
    os.mkfifo(path.parent)


def put_loop(path: Path) -> None:
    """Nobody can say where a loop of links leads."""
    path.unlink()
    path.symlink_to(path)


def put_loop_for_directory(path: Path) -> None:
    remove_directory(path)
    path.parent.symlink_to(path.parent)


@pytest.mark.parametrize(
    ("act", "is_gone"),
    [
        (lambda _: None, False),
        (remove, True),
        (remove_directory, True),
        (remove_two, True),
        (put_directory, True),
        (put_file, True),
        (put_dead_link, True),
        (put_link, False),
        (put_link_for_directory, False),
        (put_link_that_is_dead, True),
        (put_pipe, True),
        (put_pipe_for_directory, True),
        (put_loop, False),
        (put_loop_for_directory, False),
    ],
)
def test_a_match_is_gone_if_the_way_to_it_ends_without_its_name(
    desk: Desk, act: Callable[[Path], None], is_gone: bool
) -> None:
    act(desk.files / NAME)
    assert gone(desk) == [NAME] * is_gone


@pytest.mark.parametrize(
    ("failed", "exclude", "kept_by"),
    [
        ("", "", [remove, remove_directory, remove_two]),
        ("d", "", [remove, remove_directory]),
        ("d/e", "", [remove]),
        (None, "d", [remove, remove_directory, remove_two]),
        (None, "e", [remove, remove_directory]),
        (None, "f", [remove]),
    ],
)
def test_what_a_scan_has_left_out_on_the_way_keeps_a_match(
    desk: Desk, failed: str | None, exclude: str, kept_by: list[Callable[[Path], None]]
) -> None:
    """The match stays if the scan skipped the directory or name at which the path breaks off."""
    for act in (remove, remove_directory, remove_two):
        (desk.files / NAME).parent.mkdir(parents=True, exist_ok=True)
        (desk.files / NAME).touch()
        act(desk.files / NAME)
        assert gone(desk) == [NAME]
        left = gone(desk, *([] if failed is None else [failed]), exclude=(exclude,))
        assert left == [NAME] * (act not in kept_by), act


def test_a_match_is_not_gone_with_its_file_system(desk: Desk) -> None:
    (desk.files / NAME).unlink()
    (desk.files / "d/e").rename(desk.files / "d/unmounted")
    assert gone(desk) == [NAME]
    desk.files.rename(desk.files.with_name("unmounted"))
    desk.files.symlink_to("unmounted")
    assert gone(desk) == []


def test_a_tree_is_followed_by_its_path_without_links(desk: Desk, tmp_path: Path) -> None:
    """The scan was given a symbolic link; the match is found under the path without links."""
    (desk.files / NAME).unlink()
    link = tmp_path / "link"
    link.symlink_to(desk.files)
    assert gone(desk, named=link) == [NAME]
    assert gone(desk, "d", named=link) == []


def test_each_directory_on_the_ways_is_opened_once_and_has_its_own_place(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matches come in the order of their paths, so a directory is not visited again."""
    places = ["d/e/f", "d/e/g", "d/unmounted/a", "d/unmounted/b", "z/f", "z/unmounted"]
    outcome = desk.find("another", A).handled().outcome
    with desk.record() as record:
        for name in places[1:]:
            place = Place(str(desk.files / name), "inner system")
            record.record([outcome], desk.sealer().key_id, desk.now(), [place])
    desk.wait(hours=1)
    (desk.files / NAME).unlink()
    (desk.files / "d/unmounted").mkdir()
    (desk.files / "z").mkdir()
    opened, opens = list[str](), os.open

    def opening(path: str | bytes, *args: int, **how: int) -> int:
        opened.append(os.path.basename(os.fsdecode(path)))  # noqa: PTH119
        return opens(path, *args, **how)

    monkeypatch.setattr(os, "open", opening)
    assert gone(desk) == ["d/e/f", "d/e/g", "z/f", "z/unmounted"]
    top = desk.files.name
    assert [name for name in opened if name != "matches.db"] == [
        *(top, "d", "e"),
        *(top, "d", "unmounted"),
        *(top, "z"),
    ]


def test_names_that_an_encrypted_directory_hides_are_not_gone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk.files / NAME).unlink()
    shown: list[int] = []

    def shows(fd: int) -> bool:
        shown.append(os.fstat(fd).st_ino)
        return False

    monkeypatch.setattr(module, "shows_all_names", shows)
    assert gone(desk) == []
    assert shown == [(desk.files / NAME).parent.stat().st_ino]


@pytest.mark.parametrize("one_file_system", [False, True])
@pytest.mark.parametrize("tree", ["/", "/dev"])
def test_on_another_file_system_nothing_is_gone_if_the_scan_stays_on_one(
    tree: str, one_file_system: bool
) -> None:
    if Path("/dev").stat().st_dev == Path("/dev/shm").stat().st_dev:
        pytest.skip("nothing is mounted below /dev")
    coverage = Coverage(ScanOptions(one_file_system=one_file_system))
    way = module._Way(tree, tree, coverage)
    left = Left("bbbbbbbbbb", b"/dev/shm/no such directory/f", "inner system", "")
    try:
        assert way.lacks(left, Grounds()) is not one_file_system
    finally:
        way.close()


def test_in_the_whole_system_what_was_not_listed_is_not_gone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    left = Left("bbbbbbbbbb", os.fsencode(tmp_path / "d/f"), "inner system", "")
    for failed in (None, tmp_path, tmp_path / "d", tmp_path.parent):
        coverage = Coverage(ScanOptions())
        if failed is not None:
            coverage.fail(str(failed))
        way = module._Way("/", "/", coverage)
        assert way.lacks(left, Grounds()) is (failed is None)
        way.close()
