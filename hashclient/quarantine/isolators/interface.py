"""The interface of isolators, which open a matched file or object, read it, and remove it.

The module `isolate` decides the order of the steps and proves the content; an isolator does the
steps that depend on the kind of place. The methods raise `OSError`, which ends the operation on one
match with a message. The module `restore` does not use isolators, because it always writes a file,
even if the content was an object.
"""

from __future__ import annotations

import contextlib
import enum
import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from hashclient.core.model import Seen
from hashclient.quarantine.item import Item, Origin
from hashclient.system.beneath import Identity

#: The errors of `Spot.hold` that mean that no regular file exists: a missing name, a symbolic link,
#: or another type of file.
_NOT_THERE = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR})


class Held(Protocol):
    """An open file or object; reads return its content even if its name is moved or removed."""

    @property
    def size(self) -> int:
        """The length of the file in bytes when it was opened."""
        ...

    def read(self, count: int) -> bytes:
        """Return up to `count` next bytes of the file, and no bytes at its end.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    def rewind(self) -> None:
        """Let the next `read` begin at the start of the file."""
        ...

    def is_unchanged(self) -> bool:
        """Return whether the status of the file is unchanged since it was opened."""
        ...

    def is_seen(self) -> bool:
        """Return whether the open file is the file that the scan has read."""
        ...


class Removed(msgspec.Struct, frozen=True):
    """The result of removing a held file.

    `done` says whether the file was removed. `remains` are remarks about a removed file, for
    example about other names of the file. `why` says why a file was not removed. `is_meant` says
    whether the file was not removed because the configuration requests a legal hold.
    """

    done: bool
    why: str = ""
    remains: tuple[str, ...] = ()
    is_meant: bool = False


class Names(msgspec.Struct, frozen=True):
    """A directory with changed file names; `sync` makes the names durable, or raises StateError."""

    directory: Identity
    sync: Callable[[], None]


class Sight(enum.Enum):
    """The present content of a sealed file's path: no file, our tombstone, or another file."""

    NOTHING = enum.auto()
    TOMBSTONE = enum.auto()
    OTHER = enum.auto()


class UnclearError(Exception):
    """The isolator cannot find out which file is at a spot; the text of the exception says why."""


class Spot(Protocol):
    """The place where a scan has found a file or object, such as a name in an open directory."""

    def hold(self) -> AbstractContextManager[Held]:
        """Open the file at the spot through no symbolic link, and do not change the file.

        Raises:
            OSError: the file cannot be opened; an error in `_NOT_THERE` means that the file is
                missing.
        """
        ...

    def origin(self, held: Held) -> Origin:
        """Return the attributes of the open file or object; see the module `attributes`."""
        ...

    def remove(self, held: Held, match_id: str) -> Removed:
        """Remove the name if it still belongs to the open file, and the file is unchanged.

        If the process is killed during the removal, the file is still at its path, has a private
        name that `settle` finds, or is removed.
        """
        ...

    def settle(self, match_id: str, is_proven: Callable[[Held], bool]) -> str | None:
        """Finish a removal that a killed process has begun; called before `hold`.

        `is_proven` returns whether an open file is the sealed file, which may be removed. Return a
        message if the removal could not be finished, else None.

        Raises:
            OSError: the state of the file cannot be found out.
        """
        ...

    def look(self, item: Item, seen: Held | None) -> Sight:
        """Return what is now at the spot; `seen` is another file that was opened at the spot.

        Raises:
            UnclearError: the path may lead to another place now, or another program is exchanging
                files.
            OSError: the status cannot be read.
        """
        ...

    def leave_tombstone(self, item: Item) -> str | None:
        """Write the tombstone of an item, if it has a tombstone; return a message on failure."""
        ...

    def names(self) -> Names | None:
        """Return the `Names` that the caller of `remove` must make durable, or None."""
        ...


class Isolator(Protocol):
    """An isolator for one kind of place, for example files or objects in buckets."""

    def open(self, locator: str, seen: Seen | None) -> AbstractContextManager[Spot]:
        """Open the place of a match, whose `locator` is the path or URI in the record of matches.

        `seen` is the file that the scan has read; None for objects, whose locator names a version.

        Raises:
            OSError: the place is missing, contains a symbolic link, or is not the place in which
                the scan has read the file.
        """
        ...

    def whereabouts(self, item: Item) -> list[str]:
        """Return messages about the present content of the path or URI of an unremoved file."""
        ...


@contextlib.contextmanager
def hold_if_there(spot: Spot) -> Iterator[Held | None]:
    """Open the file at a spot; yield None if no regular file is at the spot.

    Raises:
        OSError: the file cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        held: Held | None = None
        try:
            held = stack.enter_context(spot.hold())
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
        yield held
