"""The interface of isolators: hold a matched object in its place, read it, and remove it.

`isolate` decides the order of the steps and proves the content; an isolator does the steps that
depend on the kind of place. Errors are errors of the system (`OSError`); each ends the act on one
match, with a message. A file is always restored to the file system, wherever it came from, so
`restore` does not use isolators.
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

#: Errors of `Spot.hold` that mean that no file can be held: no file, a link, or another type of
#: file.
_NOT_THERE = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR})


class Held(Protocol):
    """An open, held file: reads give this file, even if its name is moved or removed."""

    @property
    def size(self) -> int:
        """The length of the file in bytes when it was opened."""
        ...

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes, from the beginning on; none at the end.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    def rewind(self) -> None:
        """Read from the beginning again."""
        ...

    def is_unchanged(self) -> bool:
        """Return whether the file is unchanged since it was opened, as far as is known."""
        ...

    def is_seen(self) -> bool:
        """Return whether this is the file that was read, and not another file under its name."""
        ...


class Removed(msgspec.Struct, frozen=True):
    """The result of removing a held file.

    If `done`, `remains` has remarks, for example other names of the file. Otherwise, `why` says why
    no file was removed; with `is_meant`, the configuration wants this.
    """

    done: bool
    why: str = ""
    remains: tuple[str, ...] = ()
    is_meant: bool = False


class Names(msgspec.Struct, frozen=True):
    """Names that have changed in a directory; `sync` makes them durable, or raises StateError."""

    directory: Identity
    sync: Callable[[], None]


class Sight(enum.Enum):
    """The content of a place without the sealed file: nothing, our tombstone, or other content."""

    NOTHING = enum.auto()
    TOMBSTONE = enum.auto()
    OTHER = enum.auto()


class UnclearError(Exception):
    """The content of a spot is not known at this moment; the text says why, for people."""


class Spot(Protocol):
    """The place where a file was found, and a name in it."""

    def hold(self) -> AbstractContextManager[Held]:
        """Open the file at the spot, through no link and without changing it.

        Raises:
            OSError: the file cannot be opened; `hold_if_there` knows which errors mean that the
                file is missing.
        """
        ...

    def origin(self, held: Held) -> Origin:
        """Return the attributes of the held file or object, see `attributes`."""
        ...

    def remove(self, held: Held, match_id: str) -> Removed:
        """Remove the name if it still belongs to the held file, and the file is unchanged.

        A kill in between leaves the file in place, or where `settle` finds it, or removed.
        """
        ...

    def settle(self, match_id: str, is_proven: Callable[[Held], bool]) -> str | None:
        """Finish a removal that a kill has interrupted; call this before `hold`.

        `is_proven` returns whether a held file is the sealed file, which may be removed. Return in
        words why the removal could not be finished; None if it is finished.

        Raises:
            OSError: the state of the file cannot be found out.
        """
        ...

    def look(self, item: Item, seen: Held | None) -> Sight:
        """Return the object there instead of the sealed file; `seen`, just held, is another file.

        Raises:
            UnclearError: the path may lead to another place now, or somebody is exchanging files.
            OSError: the status cannot be read.
        """
        ...

    def leave_tombstone(self, item: Item) -> str | None:
        """Leave the tombstone of an item, if it has one; return the reason if this fails."""
        ...

    def names(self) -> Names | None:
        """Return the names of the place, to be synced by the caller of `remove`, or None."""
        ...


class Isolator(Protocol):
    """A kind of place where something can match."""

    def open(self, locator: str, seen: Seen | None) -> AbstractContextManager[Spot]:
        """Open the place of a match, given as in the record of matches.

        `seen` is the file that was read, for places whose locator does not name the file.

        Raises:
            OSError: the place is missing, cannot be reached safely, or is not the place that
                was read.
        """
        ...

    def whereabouts(self, item: Item) -> list[str]:
        """Return in words what is at the place of an item that was not removed yet."""
        ...


@contextlib.contextmanager
def hold_if_there(spot: Spot) -> Iterator[Held | None]:
    """Open the file at a spot; return None if no file is there to hold.

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
