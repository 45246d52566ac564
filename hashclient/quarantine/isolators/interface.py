"""How the quarantine deals with what matched where it is: hold it, read it, remove exactly it.

`isolate` says in which order, and proves; what is asked here depends on what kind of place it is.
Errors are those of the system (`OSError`): an act on one match ends with them, put into words. What
is given back is given to the file system, whatever it came from: `restore` needs none of this.
"""

from __future__ import annotations

import contextlib
import enum
import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from hashclient.quarantine.item import Item, Origin

#: Errors of `Spot.hold` that say that nothing which could be held is there: nothing, a link, or
#: something else than a file.
_NOT_THERE = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR})


class Held(Protocol):
    """What matched, held: what is read is what was held, whatever becomes of its name."""

    @property
    def size(self) -> int:
        """Its length in bytes when it was opened."""
        ...

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes, from the beginning on; none at the end.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def rewind(self) -> None:
        """Read from the beginning again."""
        ...

    def is_unchanged(self) -> bool:
        """Tell whether nothing about it has changed since it was opened, as far as is known."""
        ...


class Removed(msgspec.Struct, frozen=True):
    """What became of the removal of what was held.

    Where it is `done`, `remains` says what is left of it elsewhere. Otherwise it is in place, or
    what is there is left alone, and `why` says so; with `is_meant`, that is how it should be.
    """

    done: bool
    why: str = ""
    remains: tuple[str, ...] = ()
    is_meant: bool = False


class Sight(enum.Enum):
    """What is at a spot where what was sealed is not: nothing, our tombstone, something else."""

    NOTHING = enum.auto()
    TOMBSTONE = enum.auto()
    OTHER = enum.auto()


class UnclearError(Exception):
    """What is at a spot cannot be found out just now; the text says why, for people."""


class Spot(Protocol):
    """The place where something was found, and a name in it."""

    def hold(self) -> AbstractContextManager[Held]:
        """Open what is there, through no link and without changing it.

        Raises:
            OSError: it cannot be opened; see `hold_if_there` for which say that it is not there.
        """
        ...

    def origin(self, held: Held) -> Origin:
        """Return what is to be known of it besides its content."""
        ...

    def remove(self, held: Held, match_id: str) -> Removed:
        """Remove the name of what is held if it is still that, unchanged, and nothing else.

        A kill in between leaves it here, or where `settle` finds it, or removed.
        """
        ...

    def settle(self, match_id: str, is_proven: Callable[[Held], bool]) -> str | None:
        """End a removal that a kill has interrupted, before it is looked at again.

        `is_proven` tells whether something is what was sealed, which may go. Return why it could
        not be ended, in words.

        Raises:
            OSError: what there is cannot be found out.
        """
        ...

    def look(self, item: Item, seen: Held | None) -> Sight:
        """Tell what is there instead of what was sealed; `seen`, held just before, is not that.

        Raises:
            UnclearError: that may be another place, or something is being exchanged.
            OSError: what there is cannot be found out.
        """
        ...

    def leave_tombstone(self, item: Item) -> str | None:
        """Leave the tombstone of an item, if it has one; return why that could not be, if so."""
        ...


class Isolator(Protocol):
    """One kind of places where something can match."""

    def open(self, locator: str) -> AbstractContextManager[Spot]:
        """Open the place of something, as the record of matches has it.

        Raises:
            OSError: it is not there, or cannot be reached safely.
        """
        ...

    def whereabouts(self, item: Item) -> list[str]:
        """Say in words what is where an item was found, for one that was not removed yet."""
        ...


@contextlib.contextmanager
def hold_if_there(spot: Spot) -> Iterator[Held | None]:
    """Open what is at a spot; give None where nothing is that could be held.

    Raises:
        OSError: it cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        held: Held | None = None
        try:
            held = stack.enter_context(spot.hold())
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
        yield held
