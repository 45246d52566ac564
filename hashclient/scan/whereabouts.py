"""Where the files are that matched: their paths without links, and what stands for their places.

A file has one record, whichever way a scan has come to it, and what is done about it is done where
it is. Each directory is looked at once a batch. What cannot be found out, since a directory has
vanished, say, is left as it was met: its place is unknown then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Protocol

from hashclient.core.match import Place
from hashclient.core.model import Outcome
from hashclient.matches.recording import place_of
from hashclient.scan.sources.files import open_directory

_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Grounds(Protocol):
    """Knows where directories are inside of their file systems."""

    def path_of(self, fd: int) -> str | None:
        """Return the path of an open directory without links."""
        ...

    def standing_of(self, fd: int, rest: bytes = b"") -> str | None:
        """Return what stands for `rest` in an open directory, as `core.match.Place` has it."""
        ...


class Whereabouts:
    """Says where files are, by what `grounds` know."""

    def __init__(self, grounds: Grounds) -> None:
        """Nothing is looked at yet."""
        self._grounds = grounds

    def of(self, outcomes: Sequence[Outcome]) -> list[Place]:
        """Return the places of outcomes, in their order."""
        known: dict[str, tuple[str, str | None] | None] = {}
        return [
            place_of(o) if o.is_stream or o.is_object else self._of(o.path, known) for o in outcomes
        ]

    def _of(self, path: str, known: dict[str, tuple[str, str | None] | None]) -> Place:
        met, slash, name = path.rpartition("/")
        if name in ("", ".", ".."):
            return Place(_plain(path))
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                met, slash, name = os.path.realpath(path).rpartition("/")
        except OSError:
            pass  # too long for one call, or gone again: links are refused where it is isolated
        if met not in known:
            known[met] = self._directory(met + slash)
        found = known[met]
        if found is None:
            return Place(_plain(path))
        directory, standing = found
        real = f"{directory}/{name}"
        if real == path or real == (plain := _plain(path)):
            return Place(real, standing)
        return Place(real, standing, plain)

    def _directory(self, path: str) -> tuple[str, str | None] | None:
        try:
            fd = _open(path)
        except (OSError, ValueError):
            return None
        try:
            real = self._grounds.path_of(fd)
            if real is None:
                return None
            return real.rstrip("/"), self._grounds.standing_of(fd)
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
