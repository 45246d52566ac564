"""Which matches are gone: the search follows the path of a match, and an error keeps the match."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.desk import A, Desk
from hashclient.core.match import Place
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
