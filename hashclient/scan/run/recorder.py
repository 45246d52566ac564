"""Recording a run: its entries in the audit log, and its matches in the record of matches.

A run shows its outcomes even if the log or the record cannot be written. A failure of the log or
the record is shown once and counts in the exit code, and the run continues.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hashclient.audit.log import Encoded, Event
from hashclient.core.errors import AuditError, StateError
from hashclient.core.kinds import Kind
from hashclient.core.match import Place
from hashclient.core.model import LOGGED_FIELDS, MatchRef, Outcome, Recorded, hit_fields
from hashclient.core.verdict import Summary
from hashclient.formats.fields import HELD_ENTRIES, gap_fields
from hashclient.formats.ready import HitParts, json_around_entry, quote
from hashclient.index.open_lists import OpenLists, states_after
from hashclient.session import Session
from hashclient.system.files import is_there
from hashclient.system.log import Log
from hashclient.system.text import (
    MAX_LOGGED_PATH_CHARS,
    is_unicode,
    log_path_fields,
    path_fields,
)

if TYPE_CHECKING:
    from hashclient.decisions.interface import Decision
    from hashclient.matches.permits import Hold
    from hashclient.matches.selection import Left, Selection
    from hashclient.matches.store import Matches

_log = Log("scan")

#: The most characters of the arguments of a run that are logged, because a log record must fit in
#: one line.
MAX_LOGGED_ARGUMENTS_CHARS = 1 << 16
#: If at most this many matches are recorded together, each log record gets its own signature.
SIGNED_EACH = 64
#: The number of matches that are noted as gone in one transaction.
GONE_BATCH = 512
#: The kinds of outcomes that are written to the record of matches, except outcomes of a lookup.
_REMEMBERED = (Kind.MATCH, Kind.EXCEPTED)
#: The kinds of outcomes that are logged one by one, with the names of their log events.
_LOGGED = {kind: kind.value for kind in (Kind.MATCH, Kind.CONFLICT, Kind.EXCEPTED)}


class RunRecord:
    """Writes the log and the record of matches for one scan or lookup."""

    def __init__(
        self,
        session: Session,
        command: str,
        summary: Summary,
        key_id: str,
        *,
        on_failure: Callable[[AuditError | StateError], None],
        places_of: Callable[[Sequence[Outcome]], list[Place]] | None = None,
        decision: Decision | None = None,
        lists: OpenLists | None = None,
        brief: bool = False,
    ) -> None:
        """`command` is `scan` or `lookup`; `on_failure` gets the first error of log and of record.

        - `key_id` identifies the key that seals the tags of outcomes.
        - `places_of` returns the places of files; by default the paths of outcomes are used.
        - `decision` decides which matches are held.
        - `lists`: if given, the end of the run counts lists as stale that have become stale.
        - With `brief`, only one record is logged, at the end, with the name `command`: this is for
          small runs that are frequent.
        """
        self._is_brief = brief
        self._arguments: Sequence[str] = ()
        self._session = session
        self._command = command
        self._summary = summary
        self._key_id = key_id
        self._on_failure = on_failure
        self._places_of = places_of
        self._decision = decision
        self._lists = lists
        self._started = session.now()
        self._events = MatchEvents()
        self._audit_failed = self._matches_failed = self._ended = False
        #: Failures that were not reported yet.
        self._failures: list[AuditError | StateError] = []

    def start(self, arguments: Sequence[str]) -> None:
        """Log the start of the run, its arguments (never digests), and the lists that it uses."""
        if self._is_brief:
            self._arguments = arguments
            return
        about = self._session.invocation()
        data = {
            "host": about.host,
            "by": about.user,
            "directory": about.directory and log_path_fields(about.directory)["path"],
            **_argument_fields(arguments),
            "lists": _lists(self._summary),
            "missing": _missing(self._summary),
        }
        self._log([Event(f"{self._command}-start", data)])
        self._report_failures()

    def keep(self, outcomes: Sequence[Outcome]) -> list[Recorded]:
        """Record and log the matches among `outcomes`; return all outcomes with their records.

        A match of a lookup is logged, but not recorded, because the match has no file. If the
        process is killed between the record and the log, the next scan logs the match.
        """
        kept = self._remember(outcomes)
        if events := self._events_of(kept):
            # A report contains single signed records of the log. A signature takes longer than all
            # other work to record a match. So if there are many matches, only the last record is
            # signed, and its signature covers the records before it. The preparation of a report
            # later signs each record that the report needs.
            reportable = any(k.record is not None for k in kept)
            sign_each = reportable and len(events) <= SIGNED_EACH
            self._log(events, durable=True, sign_each=sign_each)
        if self._decision is not None:
            self._summary.held += sum(
                k.outcome.kind is Kind.MATCH and k.record is not None and k.record.held
                for k in kept
            )
        self._report_failures()
        return kept

    def _remember(self, outcomes: Sequence[Outcome]) -> list[Recorded]:
        """Record the matches among outcomes; return all outcomes with their records."""
        chosen = () if self._matches_failed else [o for o in outcomes if _is_remembered(o)]
        found: Sequence[MatchRef] = ()
        if chosen:
            places = None if self._places_of is None else self._places_of(chosen)
            now = self._session.now()
            try:
                with self._open() as matches:
                    hold = self._hold(now)
                    found = matches.record(chosen, self._key_id, now, places, hold, self._started)
                _log.info("recorded %d matches", len(found))
            except StateError as error:
                self._note(error)
        if len(found) == len(outcomes):
            return list(map(Recorded, outcomes, found))
        refs = iter(found)
        return [Recorded(o, next(refs, None) if _is_remembered(o) else None) for o in outcomes]

    def _open(self, *, create: bool = True) -> Matches:
        # `Matches` is imported here, because most runs have no match, and need no record of
        # matches.
        from hashclient.matches.store import Matches

        return Matches(self._session.settings.state_dir, create=create)

    def _hold(self, now: datetime) -> Hold | None:
        decision = self._decision
        if decision is None:
            return None
        return lambda cases, permits: decision.decide(cases, permits, now)

    def keep_counts(self, counts: Sequence[tuple[Recorded, int, list[str]]]) -> None:
        """Record and log how often each outcome was found again, and the ids of its last mails."""
        if not counts:
            return
        rows = [
            (r.record.id, count, r.outcome.door, ids)
            for r, count, ids in counts
            if r.record is not None
        ]
        try:
            if rows and not self._matches_failed:
                with self._open() as matches:
                    matches.seen_again(rows, self._session.now())
        except StateError as error:
            self._note(error)
        events = [
            Event(
                recorded.outcome.kind.value,
                {**_data(recorded), "times": count, **({"message_ids": ids} if ids else {})},
            )
            for recorded, count, ids in counts
        ]
        self._log(events, durable=True)
        self._report_failures()

    def _events_of(self, kept: Sequence[Recorded]) -> list[Event | Encoded]:
        return [
            *(self._events.of(k) for k in kept if k.outcome.kind in _LOGGED),
            *(_accepted(k.outcome) for k in kept if k.outcome.kind is Kind.ACCEPTED),
        ]

    def _note(self, error: AuditError | StateError) -> None:
        """Note a failure; only the first failure of the log and of the record is reported."""
        if isinstance(error, AuditError):
            is_known, self._audit_failed = self._audit_failed, True
        else:
            is_known, self._matches_failed = self._matches_failed, True
        if not is_known:
            self._failures.append(error)

    def _report_failures(self) -> None:
        """Count and report the failures since the last call."""
        failures, self._failures = self._failures, []
        for error in failures:
            self._summary.fail(error)
            self._on_failure(error)

    def note_gone(self, find: Callable[[Selection, datetime], Iterator[Left]]) -> None:
        """Log and record that the matches that `find` yields are gone.

        `find` is called with the record of matches and the time when the run began. If the process
        is killed after the log and before the record is written, the next scan notes the match
        again.
        """
        path = self._session.settings.layout.matches
        if self._matches_failed or self._audit_failed or not is_there(path):
            return
        try:
            with self._open(create=False) as matches:
                found = find(matches, self._started)
                while batch := list(itertools.islice(found, GONE_BATCH)):
                    with matches.batch():
                        marked = matches.mark_gone(batch, self._session.now())
                        events = [
                            Event("gone", {"id": m.id, **log_path_fields(os.fsdecode(m.path))})
                            for m in marked
                        ]
                        self._session.audit.append(events, durable=True, sign_each=True)
                    self._summary.gone += len(marked)
        except (AuditError, StateError) as error:
            self._note(error)
            self._report_failures()

    def end(self) -> None:
        """Log the end of the run, and what its verdict is based on; later calls do nothing."""
        if self._ended:
            return
        self._ended = True
        summary, session = self._summary, self._session
        if self._lists is not None:
            summary.lists = states_after(self._lists, session.settings, session.now())
        if summary.held:
            self._name_held()
        data: dict[str, Any] = {
            "inputs": summary.inputs,
            **{str(kind): summary.counts[kind] for kind in Kind},
            "ruled_out_by_size": summary.ruled_out_by_size,
            "known_unchanged": summary.known_unchanged,
            "believed_unchanged": summary.believed_unchanged,
            "excepted_by": summary.excepted,
            "files_read": summary.files_read,
            "bytes_read": summary.bytes_read,
            "unread_reasons": summary.unread,
            "gone": summary.gone,
            "held": summary.held,
            "missing": _missing(summary),
            "interrupted": summary.stopped is not None,
            "failed": None if summary.failed is None else int(summary.failed),
            "exit_code": int(summary.exit_code),
        }
        if summary.opens_containers is not None:
            data |= {
                "opens_containers": summary.opens_containers,
                "members": summary.members,
                "members_read": summary.members_read,
                "ruled_out_by_claim": summary.ruled_out_by_claim,
            }
        if summary.opens_containers is not None or summary.not_opened:
            data["not_opened"] = summary.not_opened
        if summary.asks_stores:
            data |= {"objects": summary.objects, "by_store_digest": summary.by_store_digest}
        if summary.gaps:
            data |= {
                "gaps": [gap_fields(gap) for gap in summary.gaps],
                "gaps_accepted": summary.gaps_accepted,
            }
        if self._is_brief:
            data = {**_argument_fields(self._arguments), "lists": _lists(summary), **data}
            self._log([Event(self._command, data)])
        else:
            self._log([Event(f"{self._command}-end", data)])
        self._report_failures()

    def _name_held(self) -> None:
        """Note in the summary which entries have held matches, and how many each entry has."""
        try:
            with self._open(create=False) as matches:
                self._summary.held_entries = matches.held_entries(HELD_ENTRIES + 1)
        except StateError as error:
            self._note(error)

    def _log(
        self, events: Sequence[Event | Encoded], *, durable: bool = False, sign_each: bool = False
    ) -> None:
        if self._audit_failed:
            return
        try:
            self._session.audit.append(events, durable=durable, sign_each=sign_each)
        except AuditError as error:
            self._note(error)


def _is_remembered(outcome: Outcome) -> bool:
    """Return whether an outcome is written to the record of matches."""
    return outcome.kind in _REMEMBERED and outcome.origin is None


class MatchEvents:
    """Makes the log entries of matches and conflicts; most are made without a JSON encoder.

    A JSON encoder would take too long for very many matches.
    """

    def __init__(self) -> None:
        """Prepare no parts yet; the parts of a hit are made when the hit is first logged."""
        self._hits = HitParts(lambda hit: json_around_entry(hit, LOGGED_FIELDS, compact=True))

    def of(self, recorded: Recorded) -> Event | Encoded:
        """Return the log entry of one outcome."""
        outcome, record = recorded.outcome, recorded.record
        path = outcome.origin or outcome.path
        if (
            outcome.door
            or outcome.exceptions
            or outcome.members
            or len(path) > MAX_LOGGED_PATH_CHARS
            or not is_unicode(path)
        ):
            return Event(outcome.kind.value, _data(recorded))
        hits = outcome.hits
        if len(hits) == 1:
            before, after = self._hits.of(hits[0])
            of_hits = f"{{{before}{quote(hits[0].entry)}{after}}}"
        else:
            of_hits = ",".join([f"{{{quote(hit.entry).join(self._hits.of(hit))}}}" for hit in hits])
        head = "" if record is None else f'"id":{quote(record.id)},'
        if record is not None and record.held:
            head += '"held":true,'
        size = "null" if outcome.size is None else outcome.size
        return Encoded(
            _LOGGED[outcome.kind],
            f'{{{head}"path":{quote(path)},"size":{size},"hits":[{of_hits}]}}',
        )


def _data(recorded: Recorded) -> dict[str, Any]:
    outcome, record = recorded.outcome, recorded.record
    data: dict[str, Any] = {} if record is None else {"id": record.id}
    if record is not None and record.held:
        data["held"] = True
    return {
        **data,
        **log_path_fields(outcome.origin or outcome.path),
        **_member_fields(outcome),
        "size": outcome.size,
        "hits": [hit_fields(hit, LOGGED_FIELDS) for hit in outcome.hits],
        **({"exceptions": outcome.exceptions} if outcome.exceptions else {}),
        **({"door": outcome.door} if outcome.door else {}),
        **({"mail": msgspec.to_builtins(outcome.mail)} if outcome.mail else {}),
    }


def _member_fields(outcome: Outcome) -> dict[str, Any]:
    """Return the names of a member of a container, each cut to the length that the log allows."""
    if not outcome.members:
        return {}
    from hashclient.matches.recording import MAX_NAME_CHARS

    return {"members": [path_fields(n)["path"][:MAX_NAME_CHARS] for n in outcome.members]}


def _accepted(outcome: Outcome) -> Event:
    place = {**log_path_fields(outcome.path), **_member_fields(outcome)}
    return Event("accepted", {**place, "reason": outcome.reason})


def _argument_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the `arguments` that fit in a line of the log, and the number of other arguments.

    A shell turns the names in a directory into arguments, so anyone who can create files in the
    directory can cause more arguments than fit in a line of the log. Too many arguments must not
    prevent that matches are logged.
    """
    room, kept = MAX_LOGGED_ARGUMENTS_CHARS, list[str]()
    for argument in arguments:
        room -= min(len(argument), MAX_LOGGED_PATH_CHARS) + 1
        if room < 0:
            return {"arguments": kept, "arguments_omitted": len(arguments) - len(kept)}
        cut = len(argument) > MAX_LOGGED_PATH_CHARS
        kept.append(argument[:MAX_LOGGED_PATH_CHARS] + "…" if cut else argument)
    return {"arguments": kept}


def _lists(summary: Summary) -> list[dict[str, Any]]:
    return [{"list": s.name, "generation": s.generation, "fresh": s.fresh} for s in summary.lists]


def _missing(summary: Summary) -> list[dict[str, Any]]:
    return [{"list": m.name, "provider": m.provider, "problem": m.problem} for m in summary.missing]
