"""Exceptions on disk: rulings of people that entries, or files, are not acted upon.

One file holds them all and is replaced as a whole. Its first line has a message authentication
code under the local key over every byte, as the manifest of a list has. So an edited file is
refused. It also has the number of times that the file was written, and `state.json` has the same
number: a lost file, and an earlier one that was put back, are not taken for what was written last.
The rulings themselves are decoded when they are asked for, since most runs match nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from hashclient.errors import StateError
from hashclient.index.blinding import NO_MAC, Sealer, authenticate, verify_document
from hashclient.migrations.version import read_version, write_version
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_private_dir,
    read_regular,
    state_error,
    write_atomic,
)
from hashclient.system.layout import Layout
from hashclient.system.text import for_people, printable
from hashclient.system.versions import format_of, is_newer, newer

RULINGS_FORMAT = "hashclient-exceptions/1"
#: How long a ruling counts if nobody says so, and at most.
USUAL, LONGEST = timedelta(days=30), timedelta(days=90)
#: `status` warns of rulings that end within this time.
SOON = timedelta(days=7)
#: The most rulings that are kept, and the longest reason, in characters.
MOST, MAX_REASON_CHARS = 10_000, 500
#: The origin of rulings about entries that are known to be good.
KNOWN_GOOD = "known_good"
#: Why a ruling does not count yet.
WAITS = "it waits for a second person"
_LOST_HINT = (
    "restore it from a backup, or give all exceptions up: `hashclient exceptions remove --all"
    " --reason …`"
)

_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An entry that a ruling is about, as it was then."""

    list: str
    id: str
    fingerprint: str

    @property
    def name(self) -> str:
        """The entry as people write it."""
        return f"{self.list}/{self.id}"


class Ruling(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a person has ruled: these entries are not acted upon, for a while.

    `content` is the SHA-256 tag of the only file that it is about, in hexadecimal; `below` is the
    path, or the URI, at or below which it counts. Both are empty where there is no such limit.
    `origin` says what made it, if no person did. While it `waits`, it does not count: another
    person than the one who made it has to approve it.
    """

    id: str
    entries: tuple[Entry, ...]
    reason: str
    by: str
    made_at: _Time
    until: _Time
    content: str = ""
    below: str = ""
    origin: str = ""
    waits: bool = False
    approved_by: str = ""

    @property
    def about(self) -> str:
        """What it is about, in words."""
        names = ", ".join(entry.name for entry in self.entries)
        text = f"one file that matches {names}" if self.content else names
        return f"{text}, below {printable(self.below)}" if self.below else text

    @property
    def text(self) -> str:
        """Why a match is excepted, in words."""
        return f"exception {self.id} until {for_people(self.until)}: {self.reason}"


class Imports(msgspec.Struct, frozen=True):
    """The last version of exported exceptions that was imported, by the key that signed it.

    If they were lost, `since` is when: only later ones are taken from then on.
    """

    versions: dict[str, int] = {}
    since: _Time | None = None


class _Head(msgspec.Struct, frozen=True):
    """The first line: `number` is how often the file was written, `at` when it was.

    `has_files` says whether any ruling is about one file.
    """

    format: str
    key_id: str = ""
    number: int = 0
    at: _Time | None = None
    has_files: bool = False
    mac: str = ""
    imports: Imports = Imports()


class Book:
    """All rulings, as they are kept."""

    def __init__(self, head: _Head | None = None, body: bytes = b"[]") -> None:
        """Take the parts of the file; by default there is none."""
        self._head = head or _Head(RULINGS_FORMAT)
        self._body = body

    @property
    def at(self) -> datetime | None:
        """When it was written; None if it never was."""
        return self._head.at

    @property
    def number(self) -> int:
        """How often the file was written."""
        return self._head.number

    @property
    def imports(self) -> Imports:
        """The versions that were imported."""
        return self._head.imports

    @property
    def has_files(self) -> bool:
        """Whether any ruling is about one file."""
        return self._head.has_files

    @functools.cached_property
    def rulings(self) -> tuple[Ruling, ...]:
        """The rulings in the order in which they were made, also those that have ended."""
        return msgspec.json.decode(self._body, type=tuple[Ruling, ...])


def load_book(layout: Layout, sealer: Sealer) -> Book:
    """Return the exceptions of a state directory.

    Raises:
        StateError: the file cannot be read, or is not the one that was written last.
    """
    path = layout.exceptions
    written = read_version(layout).exceptions
    shown = printable(path)
    try:
        data = read_regular(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        if not written:
            return Book()
        raise StateError(f"the exceptions are lost: {shown}", hint=_LOST_HINT) from None
    except OSError as error:
        raise state_error("cannot read exceptions", path, error) from error
    line, _, body = data.partition(b"\n")
    changed = StateError(f"the exceptions are not as they were written: {shown}", hint=_LOST_HINT)
    if is_newer(format_of(line), RULINGS_FORMAT):
        raise newer(path)
    try:
        head = msgspec.json.decode(line, type=_Head)
        if head.key_id and head.key_id != sealer.key_id:
            raise StateError(f"exceptions of another seal key: {shown}", hint=_LOST_HINT)
        verify_document(data, head.mac, RULINGS_FORMAT, sealer)
    except (ValueError, RecursionError) as error:
        raise changed from error
    if head.number < written:
        raise StateError(f"earlier exceptions were put back: {shown}", hint=_LOST_HINT)
    return Book(head, body)


def write_book(
    layout: Layout,
    rulings: Sequence[Ruling],
    sealer: Sealer,
    now: datetime,
    imports: Imports | None = None,
) -> None:
    """Replace the exceptions of a state directory. The caller holds the writers' lock.

    A kill between its two files leaves a book with a higher number than the state has, which
    counts as well.

    Raises:
        StateError: they cannot be written.
    """
    path = layout.exceptions
    state = read_version(layout)
    number = max(_number_in(layout), state.exceptions) + 1
    has_files = any(ruling.content for ruling in rulings)
    head = _Head(
        RULINGS_FORMAT, sealer.key_id, number, now, has_files, NO_MAC, imports or Imports()
    )
    data = msgspec.json.encode(head) + b"\n" + msgspec.json.encode(rulings) + b"\n"
    make_private_dir(path.parent)
    write_atomic(path, authenticate(data, RULINGS_FORMAT, sealer))
    write_version(layout, msgspec.structs.replace(state, exceptions=number))


def _number_in(layout: Layout) -> int:
    """Return the number in the file, whether or not it is authentic; 0 without one."""
    try:
        line = read_regular(layout.exceptions, MAX_STATE_BYTES).partition(b"\n")[0]
        return msgspec.json.decode(line, type=_Head).number
    except (OSError, ValueError, RecursionError):
        return 0
