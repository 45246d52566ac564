"""Finds the events since the last look, in the audit log and in the record of matches.

Every run writes to the audit log and to the record of matches, so reading them finds the events of
scans, watches, daemons and fetches; none of these imports `alerts`. Reading begins with the newest
record, and ends with the record that was the newest at the last look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain, takewhile

from hashclient.alerts.alert import MOST_NAMED, Kind, Noticed
from hashclient.alerts.book import Place
from hashclient.audit.reading import read_backward
from hashclient.audit.record import Record
from hashclient.core.errors import AuditError, ExitCode, StateError
from hashclient.core.kinds import MatchState
from hashclient.matches.recent import FoundMatch, Recent
from hashclient.session import Session
from hashclient.system.files import is_there
from hashclient.system.text import path_fields

#: The age of the oldest events that the first look reads.
FIRST_LOOK = timedelta(days=1)
#: The exit codes of a fetch that has received nothing; a fetch with another exit code has refused
#: received data.
_NOT_GOT = frozenset({ExitCode.UNREACHABLE, ExitCode.UNAUTHORISED})
#: The names of damaged parts in alerts.
LOG, MATCHES, STATE = "audit log", "matches", "state"


class News:
    """The events since the last look, and the problems that have ended."""

    def __init__(self, session: Session, place: Place | None) -> None:
        """Read all events after `place`; if `place` is None, read the events of the last day."""
        self._session = session
        self._layout = session.settings.layout
        is_first = place is None
        before = place or Place(0, 0, 0, session.now() - FIRST_LOOK)
        self._counts: dict[Kind, Counter[str]] = {}
        self._matches: list[Noticed] = []
        #: The subjects that were fetched successfully; earlier failures of these subjects are not
        #: counted.
        self.fetched: set[str] = set()
        #: The names of the parts of the state that cannot be read, or are no longer there.
        self.damaged: list[str] = []
        seq, last = before.seq, (before.row, before.step)
        try:
            seq = self._read_log(before, is_first=is_first)
        except AuditError:
            self.damaged.append(LOG)
        try:
            last = self._read_matches(before, is_first=is_first)
        except StateError:
            self.damaged.append(MATCHES)
        # The time of the look is taken after the matches were read, so that no match is counted
        # again at the next look.
        self.place = Place(seq, *last, session.now())

    def happened(self) -> Iterator[Noticed]:
        """Yield the events for alerts."""
        yield from self._matches
        for kind, counts in self._counts.items():
            yield Noticed(kind=kind, count=counts.total(), subjects=dict(counts))

    def _read_log(self, before: Place, *, is_first: bool) -> int:
        """Read the records of the log after a place, and return the number of the last record."""

        def is_new(record: Record) -> bool:
            return record.time >= before.time if is_first else record.seq > before.seq

        records = read_backward(self._layout.audit)
        try:
            last = next(records, None)
        except StateError:  # no log exists
            if before.seq:  # a log existed at the last look
                self.damaged.append(LOG)
            return 0
        if last is None or not is_new(last):
            if last is not None and last.seq < before.seq:
                self.damaged.append(LOG)  # the end of the log is missing
            return before.seq if last is None else last.seq
        # A scan may have recorded a million matches, so only one record is in memory at a time.
        for record in chain((last,), takewhile(is_new, records)):
            self._take(record)
        return last.seq

    def _take(self, record: Record) -> None:
        """Count the event in a record. Records are counted from the newest to the oldest."""
        data = record.data
        provider, name = str(data.get("provider")), data.get("list")
        subject = provider if name is None else f"{provider}/{name}"
        if record.event == "fetch":
            self.fetched |= {subject, provider}
        elif record.event == "refused" and subject not in self.fetched:
            not_got = data.get("exit_code") in _NOT_GOT
            self._count(Kind.FETCH_FAILED if not_got else Kind.REFUSED, subject)
        # the match is not in the record of matches
        elif record.event == "match" and "id" not in data:
            for hit in data.get("hits", ()):
                self._count(Kind.MATCH, str(hit.get("list")))

    def _count(self, kind: Kind, subject: str) -> None:
        self._counts.setdefault(kind, Counter())[subject] += 1

    def _read_matches(self, before: Place, *, is_first: bool) -> tuple[int, int]:
        """Read the matches that were found after a place; return the position of the last match."""
        if not is_there(self._layout.matches):
            if before.row:  # a record of matches existed at the last look
                self.damaged.append(MATCHES)
            return 0, 0
        with Recent(self._session.settings.state_dir, create=False) as record:
            last = record.last()
            after, now = (
                (last, None) if is_first else ((before.row, before.step), self._session.now())
            )
            found: dict[Kind, tuple[list[FoundMatch], Counter[str]]] = {}
            counts = Counter[Kind]()
            for match in record.found(after, last, before.time, now):
                kind = Kind.HELD if match.state is MatchState.HELD else Kind.MATCH
                named, lists = found.setdefault(kind, ([], Counter()))
                counts[kind] += 1
                lists.update(match.lists)
                if len(named) < MOST_NAMED:
                    named.append(match)
        with_paths = self._session.settings.config.alerts.paths
        for kind, (named, lists) in found.items():
            self._matches.append(
                Noticed(
                    kind=kind,
                    count=counts[kind],
                    subjects=dict(lists),
                    matches=tuple(match.id for match in named),
                    paths=tuple(path_fields(m.path) for m in named) if with_paths else (),
                )
            )
        return last
