"""The places of files: links are resolved with few system calls, and no link is missed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.match import Place
from hashclient.core.model import Outcome, Seen
from hashclient.scan.run.whereabouts import places_of
from hashclient.scan.sources.mounts import Mounts

#: The number of files in the tested directory.
MANY = 16


class Grounds(Mounts):
    """Identifies all directories with one file system, called `here`."""

    def __init__(self) -> None:
        pass

    def standing_of(self, fd: int, rest: bytes = b"") -> str | None:
        return "here"


def seen_at(path: str, *, through_links: bool) -> Seen:
    """Return the file at a path as a scan sees it, with or without links in the path."""
    try:
        file, directory = Path(path).stat(), Path(path).parent.stat()
    except OSError:
        return Seen(1, 1, 1, 1)
    if through_links:
        return Seen(None, None, file.st_dev, file.st_ino)
    return Seen(directory.st_dev, directory.st_ino, file.st_dev, file.st_ino)


def found(paths: list[str], *, through_links: bool = False) -> list[Outcome]:
    return [
        Outcome(Kind.MATCH, path, seen=seen_at(path, through_links=through_links)) for path in paths
    ]


def places(paths: list[str], *, through_links: bool = False) -> list[Place]:
    return places_of(found(paths, through_links=through_links), Grounds())


def test_a_link_among_many_files_is_the_file_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    directory = tmp_path / "many"
    directory.mkdir()
    for number in range(MANY):
        (directory / f"f{number}").touch()
        (tmp_path / f"far/{number}").touch()
        if number % 3 == 0:
            (directory / f"l{number}").symlink_to(f"../far/{number}")
    names = sorted(os.listdir(directory))  # noqa: PTH208
    all_places = places([f"{directory}/{name}" for name in names], through_links=True)
    for name, place in zip(names, all_places, strict=True):
        met = f"{directory}/{name}"
        if name.startswith("l"):
            assert place == Place(f"{tmp_path}/far/{name[1:]}", "here", met)
        else:
            assert place == Place(met, "here")


def test_a_directory_that_cannot_be_looked_at_is_an_unknown_place(tmp_path: Path) -> None:
    """A FUSE process or a server may refuse any request, but the match must be recorded."""

    class Refusing(Grounds):
        def standing_of(self, fd: int, rest: bytes = b"") -> str | None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "file").touch()
    file = f"{tmp_path}/file"
    assert places_of(found([file]), Refusing()) == [Place(file)]


@pytest.mark.parametrize("count", [1, MANY])
def test_a_link_to_a_directory_that_has_vanished_says_nothing_of_its_neighbours(
    tmp_path: Path, count: int
) -> None:
    (tmp_path / "a-link").symlink_to("gone/x")
    files = [f"{tmp_path}/f{number}" for number in range(count)]
    for file in files:
        Path(file).touch()
    link = f"{tmp_path}/a-link"
    assert places([link, *files]) == [Place(link), *(Place(file, "here") for file in files)]


def test_paths_that_lead_elsewhere_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "way").symlink_to("sub")
    for number in range(MANY):
        (tmp_path / f"sub/{number}").touch()
    monkeypatch.chdir(tmp_path / "sub")
    names = [f"{number}" for number in range(MANY)]
    real = [f"{tmp_path}/sub/{name}" for name in names]
    # There are three ways to name the files: without a slash, by `./`, and by a link to the
    # directory.
    assert [place.path for place in places(names)] == real
    assert [place.path for place in places([f"./{name}" for name in names])] == real
    by_link = [f"{tmp_path}/way/{name}" for name in names]
    for through_links in (False, True):
        at = places(by_link, through_links=through_links)
        assert at == [Place(r, "here", w) for r, w in zip(real, by_link, strict=True)]
    gone = [f"{tmp_path}/gone/{name}" for name in names]
    assert places(gone) == [Place(path) for path in gone]
    assert places([f"{tmp_path}/sub/.."]) == [Place(str(tmp_path))]


@pytest.mark.parametrize("count", [1, MANY])
@pytest.mark.parametrize("put", ["link", "directory"])
def test_what_was_put_in_the_place_of_the_directory_is_no_place_of_its_files(
    tmp_path: Path, count: int, put: str
) -> None:
    for name in ("tree/d", "outside"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / name / f"{number}").touch()
    outcomes = found([f"{tmp_path}/tree/d/{number}" for number in range(count)])
    (tmp_path / "tree/d").rename(tmp_path / "tree/moved")
    if put == "link":
        (tmp_path / "tree/d").symlink_to(tmp_path / "outside")
    else:
        (tmp_path / "outside").rename(tmp_path / "tree/d")
    expected = [Place(outcome.path) for outcome in outcomes]
    assert places_of(outcomes, Grounds()) == expected


@pytest.mark.parametrize("through_links", [False, True])
def test_a_link_that_was_put_in_the_place_of_a_file_leads_to_none(
    tmp_path: Path, through_links: bool
) -> None:
    for name in ("tree/f", "outside/f"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    file = tmp_path / "tree/f"
    (outcome,) = found([str(file)], through_links=through_links)
    file.rename(tmp_path / "tree/moved")
    file.symlink_to(tmp_path / "outside/f")
    # The file was opened by its directory and not through links, so its place is known although a
    # link has its name now.
    standing = None if through_links else "here"
    assert places_of([outcome], Grounds()) == [Place(str(file), standing)]


@pytest.mark.parametrize("through_links", [False, True])
def test_a_link_that_becomes_a_file_while_it_is_looked_at_leads_to_no_other_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through_links: bool
) -> None:
    file = tmp_path / "f"
    file.touch()
    (outcome,) = found([str(file)], through_links=through_links)
    file.rename(tmp_path / "moved")
    file.symlink_to("moved")
    readlink = os.readlink

    def too_late(path: str, *args: Any, **kwargs: Any) -> str:
        if os.fspath(path).endswith("/f"):
            file.unlink(missing_ok=True)
            file.touch()
        return readlink(path, *args, **kwargs)

    monkeypatch.setattr(os, "readlink", too_late)
    standing = None if through_links else "here"
    assert places_of([outcome], Grounds()) == [Place(str(file), standing)]


def test_files_of_the_root_have_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the root ends in a slash, unlike that of any other directory."""
    root, proc = Path("/").stat(), Path("/proc").stat()
    by_directory = Seen(root.st_dev, root.st_ino, 1, 1)
    by_file = Seen(None, None, proc.st_dev, proc.st_ino)
    monkeypatch.chdir("/")
    for path, seen, name in (
        ("/f", by_directory, "f"),
        ("f", by_directory, "f"),
        ("/proc", by_file, "proc"),
        ("proc", by_file, "proc"),
    ):
        outcome = Outcome(Kind.MATCH, path, seen=seen)
        assert places_of([outcome], Grounds()) == [Place(f"/{name}", "here")]
    assert places_of([Outcome(Kind.MATCH, "/dev", seen=by_file)], Grounds()) == [Place("/dev")]


@pytest.mark.parametrize("end", ["", "/", "/.", "/..", "/x/.."])
def test_a_path_that_names_no_file_is_an_unknown_place(tmp_path: Path, end: str) -> None:
    (tmp_path / "d" / "x").mkdir(parents=True)
    (place,) = places([f"{tmp_path}/d{end}"]) if end else places([f"{tmp_path}/no/d"])
    assert place == Place(str(tmp_path) if end == "/.." else f"{tmp_path}/{'d' if end else 'no/d'}")


@pytest.mark.parametrize("name", ["a\0b/f", "x" * 300 + "/f", "x" * 300])
@pytest.mark.parametrize("through_links", [False, True])
def test_a_path_that_no_file_can_have_is_an_unknown_place(
    tmp_path: Path, name: str, through_links: bool
) -> None:
    seen = Seen(None, None, 1, 1) if through_links else Seen(1, 1, 1, 1)
    path = f"{tmp_path}/{name}"
    if through_links and "\0" in name:
        path = f"{tmp_path}/f"
    assert places_of([Outcome(Kind.MATCH, path, seen=seen)], Grounds()) == [Place(path)]


def test_a_path_that_is_too_long_for_one_call_has_a_place(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (short,) = found([f"{tmp_path}/f"])
    for path in (f"{tmp_path}{'/.' * 2_500}/f", f"{tmp_path}/{'./' * 2_500}f"):
        outcome = Outcome(Kind.MATCH, path, seen=short.seen)
        assert places_of([outcome], Grounds()) == [Place(f"{tmp_path}/f", "here")]


def test_an_input_that_is_no_file_is_its_own_place() -> None:
    outcomes = [
        Outcome(Kind.MATCH, "s3://b/k", is_object=True),
        Outcome(Kind.MATCH, "mail", is_stream=True),
    ]
    found_at = [place.path for place in places_of(outcomes, Grounds())]
    assert found_at[0] == "s3://b/k"
    assert found_at[1].endswith("mail")
