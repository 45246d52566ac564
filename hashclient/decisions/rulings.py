"""Exceptions on disk: rulings of people that entries, or files, are not acted upon.

All rulings are in a single file, which is replaced as a whole. The first line of the file contains
a message authentication code under the local key over every byte of the file, like the manifest of
a list. Therefore a rulings file that somebody has edited is refused. The first line also contains
how often the file was written, and `state.json` contains the same number. If the two numbers
differ, the rulings file was lost, or an old copy of the file was put back. The second line contains
the positions of all entries in the rest of the file, eight hexadecimal digits each, ordered by list
and id of the entry. The rest of the file is a JSON array with each ruling in a line of its own.
With the positions, a run decodes only the rulings about the entries that the run matches.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from hashclient.core.errors import StateError
from hashclient.core.model import Time
from hashclient.index.blinding import NO_MAC, Sealer, authenticate, verify_document
from hashclient.migrations.version import read_version, write_version
from hashclient.system.files import (
    MAX_STATE_BYTES,
    is_there,
    make_private_dir,
    read_regular,
    state_error,
    write_atomic,
)
from hashclient.system.layout import Layout
from hashclient.system.text import for_people, printable
from hashclient.system.versions import format_of, is_newer, newer, older

RULINGS_FORMAT = "hashclient-exceptions/2"
_FIRST_FORMAT = "hashclient-exceptions/1"
#: `USUAL`: how long a ruling counts by default; `LONGEST`: how long a ruling may count at most.
USUAL, LONGEST = timedelta(days=30), timedelta(days=90)
#: How far the clock of the machine that made a ruling may be ahead of the clock of this machine.
AHEAD = timedelta(hours=1)
#: `status` warns of rulings that end within this time.
SOON = timedelta(days=7)
#: `MOST`: the most rulings that are stored; `MAX_REASON_CHARS`: the longest reason, in characters.
MOST, MAX_REASON_CHARS = 10_000, 500
#: The value of `Ruling.origin` if the ruling is about an entry that is known to be good.
KNOWN_GOOD = "known_good"
#: The reason that is shown for a ruling that does not count yet, because no second person has
#: approved the ruling.
WAITS = "it waits for a second person"
_LOST_HINT = (
    "restore it from a backup, or remove all exceptions: `hashclient exceptions remove --all"
    " --reason …`"
)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An entry that a ruling is about, as it was when the ruling was made."""

    list: str
    id: str
    fingerprint: str

    @property
    def name(self) -> str:
        """The list and the id of the entry, as people write them."""
        return f"{self.list}/{self.id}"


class Ruling(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, array_like=True):
    """What a person has ruled: files that match `entries` are not acted upon until `until`.

    `content` is the SHA-256 tag, in hexadecimal, of the only file that the ruling is about; `below`
    is the path or URI at or below which the ruling counts. An empty `content` or `below` means that
    the ruling is not limited to a file or to a place. `origin` says which import or setting made
    the ruling, and is empty if a person made it. While `waits` is true, the ruling does not count,
    because a second person has to approve it.
    """

    id: str
    entries: tuple[Entry, ...]
    reason: str
    by: str
    made_at: Time
    until: Time
    content: str = ""
    below: str = ""
    origin: str = ""
    waits: bool = False
    approved_by: str = ""

    @property
    def about(self) -> str:
        """The entries, the file and the path that the ruling is about, as text."""
        names = ", ".join(entry.name for entry in self.entries)
        text = f"one file that matches {names}" if self.content else names
        return f"{text}, below {printable(self.below)}" if self.below else text

    @property
    def text(self) -> str:
        """The reason that is shown for a match that the ruling excepts."""
        return f"exception {self.id} until {for_people(self.until)}: {self.reason}"


class Imports(msgspec.Struct, frozen=True):
    """The version of the last imported file of exceptions, by the public key that signed the file.

    If the rulings were lost, `since` is the time when they were removed: only exports that were
    made after `since` are imported.
    """

    versions: dict[str, int] = {}
    since: Time | None = None


class _Head(msgspec.Struct, frozen=True):
    """The first line of the rulings file.

    `number` is how often the file was written, `at` is the time of the last write, and `has_files`
    says whether any ruling is about one file.
    """

    format: str
    key_id: str = ""
    number: int = 0
    at: Time | None = None
    has_files: bool = False
    mac: str = ""
    imports: Imports = Imports()


#: How many hexadecimal digits the position of an entry has.
_DIGITS = 8
#: The number of entries whose rulings are decoded one by one. After this number of entries, all
#: rulings are decoded together, which is faster than further single look-ups.
_MANY = 4_000


class Book:
    """All recorded rulings."""

    def __init__(self, head: _Head | None = None, data: bytes = b"\n\n[]\n") -> None:
        """Take the first line and all bytes of the file; without arguments, the book is empty."""
        self._head = head or _Head(RULINGS_FORMAT)
        # `_data` is the whole file and not a copy of the needed part, because copying megabytes
        # would take longer than all other steps.
        self._data = data
        self._places = data.index(b"\n") + 1
        self._rest = data.index(b"\n", self._places) + 1
        #: The rulings by the list and id of their entries: only for entries that were looked up, or
        #: for all entries after `_MANY` look-ups.
        self._known: dict[tuple[str, str], list[Ruling]] = {}
        self._is_whole = False

    @property
    def at(self) -> datetime | None:
        """When the rulings file was written; None if it never was."""
        return self._head.at

    @property
    def number(self) -> int:
        """How often the rulings file was written."""
        return self._head.number

    @property
    def imports(self) -> Imports:
        """The versions of exported exceptions that were imported."""
        return self._head.imports

    @property
    def has_files(self) -> bool:
        """Whether any ruling is about one file."""
        return self._head.has_files

    @functools.cached_property
    def rulings(self) -> tuple[Ruling, ...]:
        """All rulings, including ended rulings, in the order in which they were made."""
        return msgspec.json.decode(memoryview(self._data)[self._rest :], type=tuple[Ruling, ...])

    @property
    def is_empty(self) -> bool:
        """Whether no ruling is recorded."""
        return self._rest == self._places + 1

    def about(self, list_name: str, entry: str) -> Sequence[Ruling]:
        """Return the rulings about an entry; after `_MANY` look-ups, all rulings are decoded."""
        key = list_name, entry
        if key not in self._known and not self._is_whole:
            if len(self._known) < _MANY:
                self._known[key] = self._searched(_name(list_name, entry))
            else:
                self._is_whole, self._known = True, {}
                for ruling in self.rulings:
                    for one in dict.fromkeys((e.list, e.id) for e in ruling.entries):
                        self._known.setdefault(one, []).append(ruling)
        return self._known.get(key, ())

    def _searched(self, name: bytes) -> list[Ruling]:
        """Return the rulings about an entry.

        `name`: the text at the beginning of the entry in the file, as `_name` returns it.
        """

        def name_at(number: int) -> bytes:
            place = self._place(number)
            return self._data[place : place + len(name)]

        number = (self._rest - self._places) // _DIGITS
        first = bisect.bisect_left(range(number), name, key=name_at)
        last = bisect.bisect_right(range(number), name, first, key=name_at)
        lines = (self._line(self._place(one)) for one in range(first, last))
        return [msgspec.json.decode(line, type=Ruling) for line in lines]

    def _place(self, number: int) -> int:
        start = self._places + number * _DIGITS
        return self._rest + int(self._data[start : start + _DIGITS], 16)

    def _line(self, place: int) -> bytes:
        """Return the JSON of the ruling whose line in the file includes the offset `place`."""
        start, end = self._data.rfind(b"\n", 0, place) + 1, self._data.index(b"\n", place)
        # The slice leaves out the `[` before the first ruling, and the `,` or `]` after the ruling.
        return self._data[max(start, self._rest + 1) : end - 1]


def has_book(layout: Layout) -> bool:
    """Return whether a rulings file exists, or should exist because it was written before."""
    return is_there(layout.exceptions) or bool(read_version(layout).exceptions)


def load_book(layout: Layout, sealer: Sealer) -> Book:
    """Return the exceptions of a state directory.

    Raises:
        StateError: the file cannot be read, or is not the file that was written last.
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
    line = data[: data.find(b"\n") + 1]
    changed = StateError(f"the exceptions are not as they were written: {shown}", hint=_LOST_HINT)
    if is_newer(version := format_of(line), RULINGS_FORMAT):
        raise newer(path)
    if version == _FIRST_FORMAT:
        raise older(path, version, ", with `hashclient exceptions remove --all --reason …`")
    try:
        head = msgspec.json.decode(line, type=_Head)
        if head.key_id and head.key_id != sealer.key_id:
            raise StateError(f"exceptions of another seal key: {shown}", hint=_LOST_HINT)
        verify_document(data, head.mac, RULINGS_FORMAT, sealer)
        book = Book(head, data)
    except (ValueError, RecursionError) as error:
        raise changed from error
    if head.number < written:
        raise StateError(f"earlier exceptions were put back: {shown}", hint=_LOST_HINT)
    return book


def write_book(
    layout: Layout,
    rulings: Sequence[Ruling],
    sealer: Sealer,
    now: datetime,
    imports: Imports | None = None,
) -> None:
    """Replace the exceptions of a state directory.

    The caller has locked the state directory for writing.

    If the process is killed after the rulings file was written and before `state.json` was written,
    the number in the rulings file is higher than the number in `state.json`; such a rulings file is
    accepted, too.

    Raises:
        StateError: the exceptions cannot be written.
    """
    path = layout.exceptions
    state = read_version(layout)
    number = max(_number_in(layout), state.exceptions) + 1
    has_files = any(ruling.content for ruling in rulings)
    head = _Head(
        RULINGS_FORMAT, sealer.key_id, number, now, has_files, NO_MAC, imports or Imports()
    )
    lines = [msgspec.json.encode(ruling) for ruling in rulings]
    names: list[tuple[bytes, int]] = []
    start = 1  # the offset after `[`
    for ruling, line in zip(rulings, lines, strict=True):
        own = {_name(entry.list, entry.id) for entry in ruling.entries}
        names += [(name, start + line.index(name)) for name in own]
        start += len(line) + 2  # 2: the `,` and the end of the line
    places = b"".join(b"%08x" % place for _, place in sorted(names))
    data = b"%b\n%b\n[%b]\n" % (msgspec.json.encode(head), places, b",\n".join(lines))
    make_private_dir(path.parent)
    write_atomic(path, authenticate(data, RULINGS_FORMAT, sealer))
    write_version(layout, msgspec.structs.replace(state, exceptions=number))


def _name(list_name: str, entry: str) -> bytes:
    """Return the text at the beginning of an entry in the rulings file, unique for each entry."""
    return msgspec.json.encode((list_name, entry))[:-1] + b","


def _number_in(layout: Layout) -> int:
    """Return the number in the rulings file without verifying it; 0 if the file is unreadable."""
    try:
        line = read_regular(layout.exceptions, MAX_STATE_BYTES).partition(b"\n")[0]
        return msgspec.json.decode(line, type=_Head).number
    except (OSError, ValueError, RecursionError):
        return 0
