"""Recording a run: its entries in the audit log, and its matches in the record of matches.

A run shows its outcomes even if one of them cannot be written: such a failure is shown once, counts
in the exit code, and the run goes on.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from hashclient.audit.log import Encoded, Event
from hashclient.core.kinds import Kind
from hashclient.core.match import Place
from hashclient.core.model import LOGGED_FIELDS, Outcome, Recorded, hit_fields
from hashclient.core.verdict import Summary
from hashclient.errors import AuditError, StateError
from hashclient.formats.fields import gap_fields
from hashclient.formats.ready import HitParts, json_around_entry, quote
from hashclient.matches.recording import MAX_NAME_CHARS
from hashclient.matches.selection import Left, Selection
from hashclient.matches.store import Matches
from hashclient.session import Session
from hashclient.system.files import is_there
from hashclient.system.log import Log
from hashclient.system.text import (
    MAX_LOGGED_PATH_CHARS,
    is_unicode,
    log_path_fields,
    path_fields,
)

_log = Log("scan")

#: So much of the arguments of a run is logged; with the other fields they make one line of the log.
MAX_LOGGED_ARGUMENTS_CHARS = 1 << 16
#: Up to so many matches that are recorded together each get a signature of their own.
SIGNED_EACH = 64
#: The number of matches that are noted as gone together.
GONE_BATCH = 512


class RunRecord:
    """The record of one scan or lookup."""

    def __init__(
        self,
        session: Session,
        command: str,
        summary: Summary,
        key_id: str,
        *,
        on_failure: Callable[[AuditError | StateError], None],
        places_of: Callable[[Sequence[Outcome]], list[Place]] | None = None,
        brief: bool = False,
    ) -> None:
        """`command` is `scan` or `lookup`; `on_failure` is called once for each failing place.

        The tags of outcomes are sealed under the key `key_id`. `places_of` returns the places of
        files; by default their paths are used. With `brief`, one record called `command` is logged
        at the end, in place of one at the start and one at the end: for small runs that come often.
        """
        self._is_brief = brief
        self._arguments: Sequence[str] = ()
        self._session = session
        self._command = command
        self._summary = summary
        self._key_id = key_id
        self._on_failure = on_failure
        self._places_of = places_of
        self._started = session.now()
        self._events = MatchEvents()
        self._audit_failed = self._matches_failed = self._ended = False

    def start(self, arguments: Sequence[str]) -> None:
        """Log that the run starts, with its arguments (never digests) and the lists it uses."""
        if self._is_brief:
            self._arguments = arguments
            return
        about = self._session.invocation()
        data = {
            "host": about.host,
            "by": about.user,
            "directory": None if about.directory is None else log_path(about.directory),
            **_argument_fields(arguments),
            "lists": _lists(self._summary),
            "missing": _missing(self._summary),
        }
        self._log([Event(f"{self._command}-start", data)])

    def keep(self, outcomes: Sequence[Outcome]) -> list[Recorded]:
        """Record and log the matches among `outcomes`; return all outcomes, with their records.

        A match of a lookup has no file to remember. A kill between the record and the log leaves a
        match that the next scan logs.
        """
        kept = self._remember(outcomes)
        events: list[Event | Encoded] = [
            self._events.of(k) for k in kept if k.outcome.kind in (Kind.MATCH, Kind.CONFLICT)
        ]
        events += [
            Event("accepted", {**_place_fields(o), "reason": o.reason})
            for o in outcomes
            if o.kind is Kind.ACCEPTED
        ]
        if events:
            # A report hands over single signed records. A signature takes longer than all the rest
            # of recording a match. So of many records only the last one is signed, which covers the
            # others; preparing a report signs the records in it.
            reportable = any(k.record is not None for k in kept)
            sign_each = reportable and len(events) <= SIGNED_EACH
            self._log(events, durable=True, sign_each=sign_each)
        return kept

    def note_gone(self, find: Callable[[Selection, datetime], Iterator[Left]]) -> None:
        """Note in the log and on record that the matches which `find` gives are gone.

        It is called with the record of matches and the time when the run began. After a kill
        between the log and the record, the next scan notes the match again.
        """
        path = self._session.settings.layout.matches
        if self._matches_failed or self._audit_failed or not is_there(path):
            return
        try:
            with Matches(self._session.settings.state_dir, create=False) as matches:
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
            self._failed(error)

    def end(self) -> None:
        """Log the end of the run, and all that its verdict is based on; only the first time."""
        if self._ended:
            return
        self._ended = True
        summary = self._summary
        data: dict[str, Any] = {
            "inputs": summary.inputs,
            **{str(kind): summary.counts[kind] for kind in Kind},
            "ruled_out_by_size": summary.ruled_out_by_size,
            "known_unchanged": summary.known_unchanged,
            "believed_unchanged": summary.believed_unchanged,
            "gone": summary.gone,
            "missing": _missing(summary),
            "interrupted": summary.stopped is not None,
            "failed": None if summary.failed is None else int(summary.failed),
            "exit_code": int(summary.exit_code),
        }
        if summary.opens_containers is not None:
            data |= {
                "opens_containers": summary.opens_containers,
                "members": summary.members,
                "ruled_out_by_claim": summary.ruled_out_by_claim,
            }
        if summary.by_store_digest is not None:
            data["by_store_digest"] = summary.by_store_digest
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

    def _log(
        self, events: Sequence[Event | Encoded], *, durable: bool = False, sign_each: bool = False
    ) -> None:
        if self._audit_failed:
            return
        try:
            self._session.audit.append(events, durable=durable, sign_each=sign_each)
        except AuditError as error:
            self._audit_failed = True
            self._failed(error)

    def _remember(self, outcomes: Sequence[Outcome]) -> list[Recorded]:
        kept = [Recorded(outcome) for outcome in outcomes]
        places = [n for n, o in enumerate(outcomes) if o.kind is Kind.MATCH and o.origin is None]
        if self._matches_failed or not places:
            return kept
        try:
            now = self._session.now()
            with Matches(self._session.settings.state_dir) as matches:
                chosen = [outcomes[n] for n in places]
                where = None if self._places_of is None else self._places_of(chosen)
                found = matches.record(chosen, self._key_id, now, where)
        except StateError as error:
            self._matches_failed = True
            self._failed(error)
            return kept
        _log.info("recorded %d matches", len(found))
        for n, ref in zip(places, found, strict=True):
            kept[n] = Recorded(outcomes[n], ref)
        return kept

    def _failed(self, error: AuditError | StateError) -> None:
        self._summary.fail(error)
        self._on_failure(error)


class MatchEvents:
    """Log entries of matches and conflicts. There may be very many: most need no encoder."""

    def __init__(self) -> None:
        """Nothing is prepared yet."""
        self._hits = HitParts(lambda hit: json_around_entry(hit, LOGGED_FIELDS, compact=True))

    def of(self, recorded: Recorded) -> Event | Encoded:
        """Return the log entry of one."""
        outcome, record = recorded.outcome, recorded.record
        path = outcome.origin or outcome.path
        kind = str(outcome.kind)
        if outcome.members or len(path) > MAX_LOGGED_PATH_CHARS or not is_unicode(path):
            return Event(kind, _data(recorded))
        hits = []
        for hit in outcome.hits:
            before, after = self._hits.of(hit)
            hits.append(f"{{{before}{quote(hit.entry)}{after}}}")
        head = "" if record is None else f'"id":{quote(record.id)},'
        size = "null" if outcome.size is None else outcome.size
        data = f'{{{head}"path":{quote(path)},"size":{size},"hits":[{",".join(hits)}]}}'
        return Encoded(kind, data)


def _data(recorded: Recorded) -> dict[str, Any]:
    outcome, record = recorded.outcome, recorded.record
    data: dict[str, Any] = {} if record is None else {"id": record.id}
    return {
        **data,
        **log_path_fields(outcome.origin or outcome.path),
        **_member_fields(outcome),
        "size": outcome.size,
        "hits": [hit_fields(hit, LOGGED_FIELDS) for hit in outcome.hits],
    }


def _member_fields(outcome: Outcome) -> dict[str, Any]:
    """Return the names of a member of a container, where room is limited."""
    if not outcome.members:
        return {}
    return {"members": [path_fields(n)["path"][:MAX_NAME_CHARS] for n in outcome.members]}


def _place_fields(outcome: Outcome) -> dict[str, Any]:
    return {**log_path_fields(outcome.path), **_member_fields(outcome)}


def log_path(path: str) -> str:
    """Return a path as text, or the beginning of a very long one."""
    return log_path_fields(path)["path"]


def _argument_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the fields that give `arguments` where room is limited: the first, and how many more.

    A shell makes arguments of the names in a directory, and a person who can make files there can
    make more arguments than a line of the log holds. They must not keep matches out of the log.
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
