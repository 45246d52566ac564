"""Which matches are excepted, by the rulings of people.

A match is excepted if every entry that it hits is covered by a ruling. A ruling covers a hit if

1. it is in the file that was written last, and this file is authentic;
2. the clock shows a time before its end, and not before a time that is known to have passed: a
   clock that was set back ends all rulings;
3. the entry is on the list, and is the same as when the ruling was made, by its fingerprint;
4. the file is known by its SHA-256, since others can make files with its MD5 or SHA-1: the SHA-256
   of the entry agrees, or the SHA-256 of the ruling, if the ruling is about one file;
5. the file is below the path of the ruling, if the ruling has a path;
6. it does not wait for the approval of a second person.

If something is not known, the match stays a match. The file of rulings is checked for each match,
or once for all matches that have come together, so a daemon follows each change and each end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Hit, Outcome, Seen
from hashclient.core.staleness import CLOCK_TOLERANCE
from hashclient.decisions.rulings import WAITS, Book, Entry, Ruling, load_book
from hashclient.index.open_lists import OpenLists
from hashclient.session import Session
from hashclient.system.layout import Layout
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.index.fingerprints import Fingerprint

#: After so many entries, the lists are read once for the entries of all rulings.
_FEW = 4

#: The state of a file when it was read: inode, size and time of the last change. None means that
#: the file is missing.
_Stamp = tuple[int, int, int] | None


class Exceptions:
    """The rulings of one state directory, for one state of its lists."""

    def __init__(
        self,
        layout: Layout,
        lists: OpenLists,
        now: Callable[[], datetime],
        on_failure: Callable[[StateError], None],
    ) -> None:
        """Read the rulings; `now` gives the time in UTC.

        `on_failure` is called whenever the rulings cannot be used: then no match is excepted.
        """
        self._layout, self._path = layout, layout.exceptions
        self._lists = lists
        self._now = now
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._stamp: _Stamp = (0, 0, 0)
        self._book = Book()
        #: The present fingerprints of the entries that rulings are about.
        self._current: dict[tuple[str, str], Fingerprint | None] = {}
        #: A time that is known to have passed.
        self._passed = max(index.manifest.checked_at for index in lists.indexes)
        self._refresh()

    @classmethod
    def of(cls, session: Session, lists: OpenLists) -> Self:
        """Return the rulings of a session for its lists, for a command that cannot do without them.

        Raises:
            StateError: the exceptions cannot be used, now or later.
        """

        def refuse(error: StateError) -> None:
            raise error

        return cls(session.settings.layout, lists, session.now, refuse)

    def rule(self, outcome: Outcome) -> Outcome:
        """Return an outcome; an excepted match gets its own kind, and names its rulings."""
        if outcome.kind is not Kind.MATCH:
            return outcome
        try:
            with self._lock:
                self._refresh()
                if self._book.is_empty:
                    return outcome
                covering = [self._covering(hit, outcome) for hit in outcome.hits]
        except StateError as error:  # the index is damaged
            self._on_failure(error)
            return outcome
        rulings = dict.fromkeys(ruling for ruling in covering if ruling is not None)
        if None in covering or not rulings:
            return outcome
        return msgspec.structs.replace(
            outcome,
            kind=Kind.EXCEPTED,
            reason="; ".join(ruling.text for ruling in rulings),
            exceptions=tuple(ruling.id for ruling in rulings),
        )

    def rule_all(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Return outcomes as `rule` does; without rulings, look at their file only once."""
        if Kind.MATCH not in [outcome.kind for outcome in outcomes]:
            return outcomes
        with self._lock:
            self._refresh()
            is_empty = self._book.is_empty
        return outcomes if is_empty else list(map(self.rule, outcomes))

    @property
    def lists(self) -> OpenLists:
        """The lists; a judge over them wants the SHA-256 of matches if a ruling is about a file."""
        also = int(Algorithm.SHA256) if self._book.has_files else 0
        return msgspec.structs.replace(self._lists, also=also)

    def obstacle(self, ruling: Ruling) -> str | None:
        """Return why a ruling does not count now, in a few words; None if it counts."""
        with self._lock:
            self._refresh()
            if self._is_early(now := self._now()):
                return "the clock was set back"
            if now >= ruling.until:
                return "it has ended"
            if ruling.waits:
                return WAITS
            for entry in ruling.entries:
                if not entry.fingerprint:
                    return f"{entry.name} was not here when it was imported"
                if self._fingerprint(entry.list, entry.id) is None:
                    return f"{entry.name} is not on the list any more"
                if not self._is_same(entry):
                    return f"{entry.name} has changed"
        return None

    def entry(self, list_name: str, entry: str, *, of_file: bool) -> Entry:
        """Return an entry, for a ruling about it or, with `of_file`, about a file that matches it.

        Raises:
            UsageError: the entry is on no usable list, or a ruling about it would rest on an MD5 or
                a SHA-1 alone.
        """
        with self._lock:
            found = self._fingerprint(list_name, entry)
        name = f"{printable(list_name)}/{printable(entry)}"
        if found is None:
            hint = "`hashclient matches show ID` names the entries of a match"
            raise UsageError(f"no such entry: {name}", hint=hint)
        if not (of_file or found.algorithms & Algorithm.SHA256):
            raise UsageError(
                f"entry {name} has no SHA-256, so anybody can make files that match it",
                hint="except the files that are meant: --file PATH, or --match ID",
            )
        return Entry(list_name, entry, found.code)

    def codes_of(self, entries: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the codes of entries, by list and id, that are on lists which can be used."""
        with self._lock:
            self._look_up(entries)
            found = {key: self._current[key] for key in entries}
        return {key: one.code for key, one in found.items() if one is not None}

    def _covering(self, hit: Hit, outcome: Outcome) -> Ruling | None:
        """Return the ruling that covers a hit, by the numbers of the module."""
        key = hit.list_name, hit.entry
        rulings = self._book.about(*key)
        if not rulings or self._is_early(now := self._now()):
            return None
        for ruling in rulings:
            if (
                now < ruling.until  # 2
                and any((e.list, e.id) == key and self._is_same(e) for e in ruling.entries)  # 3
                and self._is_known(hit, ruling, outcome)  # 4
                and (not ruling.below or is_below(outcome, ruling.below))  # 5
                and not ruling.waits  # 6
            ):
                return ruling
        return None

    def _is_early(self, now: datetime) -> bool:
        """Return whether the clock shows a time before a time that has passed."""
        if now < self._passed - CLOCK_TOLERANCE:
            return True
        self._passed = max(self._passed, now)
        return False

    def _is_same(self, entry: Entry) -> bool:
        found = self._fingerprint(entry.list, entry.id)
        return found is not None and found.code == entry.fingerprint

    def _fingerprint(self, list_name: str, entry: str) -> Fingerprint | None:
        """Return the present fingerprint of an entry; after a few, compute all at once."""
        key = list_name, entry
        if key not in self._current:
            rulings = self._book.rulings if len(self._current) >= _FEW else ()
            all_keys = {key, *((e.list, e.id) for ruling in rulings for e in ruling.entries)}
            self._look_up(all_keys - self._current.keys())
        return self._current[key]

    def _look_up(self, entries: Collection[tuple[str, str]]) -> None:
        from hashclient.index.fingerprints import fingerprints  # few runs have a ruling

        self._current |= dict.fromkeys(entries)
        for index in self._lists.indexes:
            name = index.manifest.list
            ids = [one for of_list, one in entries if of_list == name]
            for one, value in fingerprints(index, ids, self._lists.sealer).items():
                self._current[name, one] = value

    def _is_known(self, hit: Hit, ruling: Ruling, outcome: Outcome) -> bool:
        """Return whether a ruling about a file is about this file, by its SHA-256.

        A ruling about one file may be about the container of a member.
        """
        if not ruling.content:
            return Algorithm.SHA256 in hit.algorithms
        tags = [outcome.tags.get(Algorithm.SHA256)]
        if outcome.outer is not None:
            tags.append(outcome.outer.tags.get(Algorithm.SHA256))
        if (digest := outcome.digests.get(Algorithm.SHA256)) is not None:
            tags.append(self._lists.sealer.tags_of(Algorithm.SHA256, [digest]).tobytes())
        return bytes.fromhex(ruling.content) in tags

    def _refresh(self) -> None:
        """Read the rulings again if their file has changed (1)."""
        stamp = _stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._book = Book()
        try:
            self._book = load_book(self._layout, self._lists.sealer)
        except StateError as error:
            self._on_failure(error)
        self._stamp = stamp
        if self._book.at is not None:
            self._passed = max(self._passed, self._book.at)


def _stamp_of(path: Path) -> _Stamp:
    """Return a value that changes with each new file of rulings; called often."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns


def is_below(outcome: Outcome, place: str) -> bool:
    """Return whether a file, or its container, is at or below a path; links are followed.

    The file that was read has to be below the path now: if the path became a link since then, it
    leads to another file. An object is at or below a URI, and so are its versions. A stream, and a
    digest that was looked up, are below no path.
    """
    if outcome.is_stream or outcome.origin is not None:
        return False
    path = outcome.path if outcome.is_object else os.path.realpath(outcome.path)
    if outcome.is_object and "?" not in place:  # in a key, `?` is escaped: a version follows here
        path = path.partition("?")[0]
    if not f"{path}/".startswith(f"{place.removesuffix('/')}/"):
        return False
    return outcome.is_object or _is_there(path, outcome.seen)


def _is_there(path: str, seen: Seen | None) -> bool:
    """Return whether a file that was read is at a path now."""
    try:
        return seen is not None and seen.is_file(os.lstat(path))
    except OSError:
        return False
