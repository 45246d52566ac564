"""Decides which matches are excepted, by the rulings of people.

A match is excepted if every entry that the match hits is covered by a ruling. A ruling covers a hit
if all of conditions 1 to 6 are true:

1. the ruling is in the rulings file that was written last, and this file is authentic;
2. the ruling has not ended, and the clock was not set back, as far as this module can see: if a
   ruling ends later than any ruling that is made now, the clock was ahead when it was made;
3. the entry is still on the list, and its fingerprint is the same as when the ruling was made;
4. the file is known by its SHA-256, because anybody can make other files with the same MD5 or
   SHA-1: the SHA-256 of the entry agrees, or, if the ruling is about one file, the SHA-256 in the
   ruling agrees;
5. the file is below the path of the ruling, if the ruling has a path;
6. the ruling does not wait for the approval of a second person.

If this module cannot find out whether a condition is true, the match is not excepted. The rulings
file is checked for changes at each match, or once for each group of matches that were found
together, so a running daemon notices when a ruling is changed or ends.
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
from hashclient.decisions.rulings import AHEAD, LONGEST, WAITS, Book, Entry, Ruling, load_book
from hashclient.index.open_lists import OpenLists
from hashclient.session import Session
from hashclient.system.layout import Layout
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.index.fingerprints import Fingerprint

#: The number of entries whose fingerprints are computed one by one. After this number of entries,
#: the fingerprints of the entries of all rulings are computed in one pass over the lists.
_FEW = 4

#: The state of the rulings file when it was read: inode, size and time of the last change. None
#: means that the rulings file is missing.
_Stamp = tuple[int, int, int] | None


class Exceptions:
    """The rulings of one state directory, applied to one state of the lists in this directory."""

    def __init__(
        self,
        layout: Layout,
        lists: OpenLists,
        now: Callable[[], datetime],
        on_failure: Callable[[StateError], None],
    ) -> None:
        """Read the rulings; `now` returns the time in UTC.

        `on_failure` is called whenever the rulings cannot be used, so that no match is excepted.
        """
        self._layout, self._path = layout, layout.exceptions
        self._lists = lists
        self._now = now
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._stamp: _Stamp = (0, 0, 0)
        self._book = Book()
        #: For each entry in a ruling, by list and id of the entry: the fingerprint of the entry as
        #: it is on the list now, or None if the entry is on no list.
        self._current: dict[tuple[str, str], Fingerprint | None] = {}
        #: A time in the past: the latest time at which a list was checked. If the clock shows an
        #: earlier time, the clock was set back.
        self._passed = max(index.manifest.checked_at for index in lists.indexes)
        self._refresh()

    @classmethod
    def of(cls, session: Session, lists: OpenLists) -> Self:
        """Return the rulings of a session, so that the command fails if the rulings cannot be used.

        Raises:
            StateError: the rulings cannot be used, either now or at a later call.
        """

        def refuse(error: StateError) -> None:
            raise error

        return cls(session.settings.layout, lists, session.now, refuse)

    def rule(self, outcome: Outcome) -> Outcome:
        """Return an outcome, changed to the kind `EXCEPTED` if rulings except the match."""
        if outcome.kind is not Kind.MATCH:
            return outcome
        try:
            with self._lock:
                self._refresh()
                if self._book.is_empty:
                    return outcome
                covering = [self._covering(hit, outcome) for hit in outcome.hits]
        except StateError as error:  # the index of a list is damaged
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
        """Return outcomes as `rule` does; the rulings file is checked once if it has no rulings."""
        if Kind.MATCH not in [outcome.kind for outcome in outcomes]:
            return outcomes
        with self._lock:
            self._refresh()
            is_empty = self._book.is_empty
        return outcomes if is_empty else list(map(self.rule, outcomes))

    @property
    def lists(self) -> OpenLists:
        """The lists; if any ruling is about one file, scans also compute the SHA-256 of matches."""
        also = int(Algorithm.SHA256) if self._book.has_files else 0
        return msgspec.structs.replace(self._lists, also=also)

    def obstacle(self, ruling: Ruling) -> str | None:
        """Return why a ruling does not count now, in a few words; None if the ruling counts."""
        with self._lock:
            self._refresh()
            if self._is_early(now := self._now()):
                return "the clock was set back"
            if now >= ruling.until:
                return "it has ended"
            if _is_too_late(ruling, now):
                return "the clock was ahead when it was made"
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
        """Return an entry, for a new ruling.

        With `of_file`, the ruling is about one file that matches the entry.

        Raises:
            UsageError: the entry is on no usable list, or the entry has only an MD5 or a SHA-1 and
                the ruling is not about one file.
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
        """Return the fingerprint codes of `entries` that are on usable lists, by list and id."""
        with self._lock:
            self._look_up(entries)
            found = {key: self._current[key] for key in entries}
        return {key: one.code for key, one in found.items() if one is not None}

    def _covering(self, hit: Hit, outcome: Outcome) -> Ruling | None:
        """Return the ruling that covers a hit.

        Return None if no ruling meets the conditions of the module docstring.
        """
        key = hit.list_name, hit.entry
        rulings = self._book.about(*key)
        if not rulings or self._is_early(now := self._now()):
            return None
        for ruling in rulings:
            if (
                now < ruling.until
                and not _is_too_late(ruling, now)  # condition 2: the time
                # Condition 3 of the module docstring: the entry has not changed.
                and any((e.list, e.id) == key and self._is_same(e) for e in ruling.entries)
                and self._is_known(hit, ruling, outcome)  # condition 4: the SHA-256
                # Condition 5 of the module docstring: the file is below the path of the ruling.
                and (not ruling.below or is_below(outcome, ruling.below))
                and not ruling.waits  # condition 6: the approval
            ):
                return ruling
        return None

    def _is_early(self, now: datetime) -> bool:
        """Return whether the clock shows a time before a time that is known to have passed."""
        if now < self._passed - CLOCK_TOLERANCE:
            return True
        self._passed = max(self._passed, now)
        return False

    def _is_same(self, entry: Entry) -> bool:
        found = self._fingerprint(entry.list, entry.id)
        return found is not None and found.code == entry.fingerprint

    def _fingerprint(self, list_name: str, entry: str) -> Fingerprint | None:
        """Return the fingerprint of an entry as the entry is on the list now.

        After `_FEW` calls for different entries, the fingerprints of the entries of all rulings are
        computed.
        """
        key = list_name, entry
        if key not in self._current:
            rulings = self._book.rulings if len(self._current) >= _FEW else ()
            all_keys = {key, *((e.list, e.id) for ruling in rulings for e in ruling.entries)}
            self._look_up(all_keys - self._current.keys())
        return self._current[key]

    def _look_up(self, entries: Collection[tuple[str, str]]) -> None:
        # `fingerprints` is imported here because few runs have a ruling.
        from hashclient.index.fingerprints import fingerprints

        self._current |= dict.fromkeys(entries)
        for index in self._lists.indexes:
            name = index.manifest.list
            ids = [one for of_list, one in entries if of_list == name]
            for one, value in fingerprints(index, ids, self._lists.sealer).items():
                self._current[name, one] = value

    def _is_known(self, hit: Hit, ruling: Ruling, outcome: Outcome) -> bool:
        """Return whether the file has the SHA-256 of the entry, or the SHA-256 in the ruling.

        If the file is a member of a container, a ruling about one file may also be about the
        container.
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
        """Read the rulings again if the rulings file has changed."""
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


def _is_too_late(ruling: Ruling, now: datetime) -> bool:
    """Return whether a ruling ends later than any ruling that is made, or imported, now."""
    return ruling.until > now + LONGEST + AHEAD


def _stamp_of(path: Path) -> _Stamp:
    """Return a value that differs after the rulings file was written again.

    The function is called often, so it must be fast.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns


def is_below(outcome: Outcome, place: str) -> bool:
    """Return whether a file, or its container, is at or below a path, after symbolic links.

    The file that the scan has read must be below the path now. The check is necessary because
    somebody may have replaced the path by a symbolic link to another file after the read. An
    object, and each version of an object, may be at or below a URI. The bytes of a stream, and a
    digest that was looked up, are below no path.
    """
    if outcome.is_stream or outcome.origin is not None:
        return False
    path = outcome.path if outcome.is_object else os.path.realpath(outcome.path)
    # A `?` in a key is escaped, so a `?` in the URI begins the version.
    if outcome.is_object and "?" not in place:
        path = path.partition("?")[0]
    if not f"{path}/".startswith(f"{place.removesuffix('/')}/"):
        return False
    return outcome.is_object or _is_there(path, outcome.seen)


def _is_there(path: str, seen: Seen | None) -> bool:
    """Return whether the file that the scan has read (`seen`) is now at a path."""
    try:
        return seen is not None and seen.is_file(os.lstat(path))
    except OSError:
        return False
