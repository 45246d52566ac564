"""Where files that matched are: their paths without links, and the identity of their places.

A file has one record, whichever way a scan has come to it, and actions happen at its real place.
Each directory is looked at once a batch. It has to be the one that the file was read in; behind a
link, the file has to be the one that was read. Otherwise the path stays as the scan had it, and the
place is unknown: somebody may have put a link or another directory there, to have other files
recorded, or acted upon.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from hashclient.core.match import Place
from hashclient.core.model import Outcome, Seen
from hashclient.matches.rows import place_of
from hashclient.scan.sources.finding_again import open_directory
from hashclient.system.beneath import Directory

#: A directory's names are read for at least so many files; at most so many times as many names are
#: read.
LISTED_FROM = 16
LISTED_TIMES = 4

_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Grounds(Protocol):
    """Knows the place of directories inside of their file systems."""

    def path_of(self, fd: int) -> str | None:
        """Return the path of an open directory without links."""

    def standing_of(self, fd: int, rest: bytes = b"") -> str | None:
        """Return the identity of `rest` in an open directory, as `core.match.Place` has it."""


class _Directory(NamedTuple):
    """The path of a directory, without links and without a slash at its end.

    `standing` is as in `core.match.Place`.
    """

    path: str
    standing: str | None
    status: os.stat_result

    def has(self, name: str, seen: Seen) -> bool:
        """Return whether the file that was read is in it: of one behind a link, by `name`."""
        if seen.directory_inode is not None:
            return seen.is_directory(self.status)
        try:
            with Directory.plain(self.path or "/") as directory:
                status = directory.status(name)
        except OSError:
            return False
        return status is not None and seen.is_file(status)


class _Links:
    """Which of many files are links.

    Asking the system about each takes longer than all the rest here. For a directory with many of
    them, its list of names is read instead, up to a limit: the list may be much longer.
    """

    def __init__(self, directories: Iterable[str]) -> None:
        """Answer for files in `directories`, one directory a file."""
        self._counts = Counter(directories)
        #: By directory, the names that were seen there, and whether each is a link.
        self._seen: dict[str, dict[str, bool]] = {}

    def seen(self, directory: str) -> Mapping[str, bool]:
        """Return the names that were seen in `directory`, and whether each is a link."""
        return self._seen.get(directory) or {}

    def has(self, directory: str, name: str, path: str) -> bool:
        """Return whether the file `name` in `directory`, which is at `path`, is a link."""
        seen = self._seen.get(directory)
        if seen is None:
            seen = self._seen[directory] = self._list(directory)
        is_link = seen.get(name)
        if is_link is not None:
            return is_link
        try:
            return stat.S_ISLNK(os.lstat(path).st_mode)
        except OSError:
            # Too long for one call, or gone again: isolation refuses links anyway.
            return False

    def _list(self, directory: str) -> dict[str, bool]:
        # No directory: the path has no slash, or the file is in the root itself.
        return names_in(directory, self._counts[directory]) if directory else {}


def names_in(directory: str, asked: int) -> dict[str, bool]:
    """Return names that are in a directory, and whether each is a link, to answer for `asked` ones.

    Empty for fewer than `LISTED_FROM` files, since one look at each is cheaper, or if the directory
    cannot be read; of a very long one, the first names.
    """
    if asked < LISTED_FROM:
        return {}
    try:
        with os.scandir(directory) as entries:
            first = itertools.islice(entries, asked * LISTED_TIMES)
            return {entry.name: entry.is_symlink() for entry in first}
    except OSError:
        return {}


class Whereabouts:
    """Finds the places of files, with the help of `grounds`."""

    def __init__(self, grounds: Grounds) -> None:
        """Nothing is looked at yet."""
        self._grounds = grounds

    def of(self, outcomes: Sequence[Outcome]) -> list[Place]:
        """Return the places of outcomes, in their order."""
        files = [outcome.path.rpartition("/") for outcome in outcomes]
        links = _Links([met for met, _, _ in files])
        known: dict[str, _Directory | None] = {}
        places = []
        last: tuple[str, int | None] = "", None
        standing: str | None = None
        near: Mapping[str, bool] = {}
        for outcome, file in zip(outcomes, files, strict=True):
            seen = outcome.seen
            if seen is None:  # a stream or an object
                places.append(place_of(outcome))
                continue
            at = file[0], seen.directory_inode
            if at == last and near.get(file[2]) is False:  # as mostly, of very many
                places.append(Place(outcome.path, standing))
                continue
            place = self._of(outcome.path, file, seen, known, links)
            places.append(place)
            names = links.seen(file[0])
            found = known.get(file[0])
            is_here = found is not None and seen.directory_inode and seen.is_directory(found.status)
            if is_here and place.path == outcome.path and names.get(file[2]) is False:
                # It is no link and stands where it was met; so do neighbours that are no links.
                last, near, standing = at, names, place.standing
        return places

    def _of(
        self,
        path: str,
        file: tuple[str, str, str],
        seen: Seen,
        known: dict[str, _Directory | None],
        links: _Links,
    ) -> Place:
        met, slash, name = file
        if name in ("", ".", ".."):
            return Place(_plain(path))
        if links.has(met, name, path):
            if seen.directory_inode is not None:  # it was no link when read
                return Place(_plain(path))
            try:
                met, slash, name = os.path.realpath(path).rpartition("/")
            except OSError:  # it is no link any more
                return Place(_plain(path))
        if met not in known:
            known[met] = self._directory(met + slash)
        found = known[met]
        if found is None or not found.has(name, seen):
            return Place(_plain(path))
        real = f"{found.path}/{name}"
        if real == path:
            return Place(real, found.standing)
        plain = _plain(path)
        return Place(real, found.standing, None if real == plain else plain)

    def _directory(self, path: str) -> _Directory | None:
        try:
            fd = _open(path)
        except (OSError, ValueError):
            return None
        try:
            real = self._grounds.path_of(fd)
            if real is None:
                return None
            return _Directory(real.rstrip("/"), self._grounds.standing_of(fd), os.fstat(fd))
        finally:
            os.close(fd)


def _plain(path: str) -> str:
    return "/" + os.path.abspath(path).lstrip("/")  # noqa: PTH100 - links stay


def _open(path: str) -> int:
    try:
        return os.open(path or ".", _PATH_FLAGS)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return open_directory(path, follow=True)
