"""The format for a SIEM: each line is one event of the Elastic Common Schema.

The events are, in this order:

- one for each entry that an input hit, or one for an input without a hit;
- one for each list that was used or is missing;
- one for each list with entries that a lookup could not rule out;
- one for the run.

The fields are those of ECS (https://www.elastic.co/docs/reference/ecs) with their types; other
texts are under `labels`, and other numbers under `hashclient`. `host.hostname` is the machine of
the run, even if another machine sends the events to the SIEM.
"""

from __future__ import annotations

import json
import posixpath
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from hashclient.core.kinds import Kind
from hashclient.core.model import Gap, Handled, Hit, MissingList, Outcome
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats.cells import words
from hashclient.formats.fields import (
    EARLY,
    digest_fields,
    done_word,
    excepted_text,
    failure_text,
    gap_text,
    held_texts,
    missing_text,
    not_opened_text,
    signal_name,
    skipped_text,
    summary_fields,
)
from hashclient.system.text import for_programs, path_fields, printable

if TYPE_CHECKING:
    from hashclient.formats.registry import Context

ECS_VERSION = "9.4.0"

#: The severity of each kind, on the scale of Elastic's own rules: critical, medium, low.
_SEVERITY = {Kind.MATCH: 99, Kind.CONFLICT: 47, Kind.UNREAD: 21}
#: The value of `event.outcome` for each kind; an input that was neither checked nor failed, for
#: example a named pipe, has no value.
_OUTCOME = {
    Kind.CLEAN: "success",
    Kind.MATCH: "success",
    Kind.EXCEPTED: "success",
    Kind.CONFLICT: "unknown",
    Kind.UNREAD: "failure",
}


class EcsFormatter:
    """Writes events as lines of ASCII JSON, with `@timestamp` first."""

    def __init__(self, context: Context) -> None:
        """Write the outcomes in the form that `context` requires."""
        self._context = context

    def begin(self) -> None:
        """Return nothing, because the output begins with the first event."""

    def outcome(self, handled: Handled) -> str:
        """Return the events of one outcome."""
        hits = handled.outcome.hits or [None]
        return "\n".join(json.dumps(self._file(handled, hit)) for hit in hits)

    def end(self, summary: Summary | None) -> str | None:
        """Return the events of the lists, of entries that were not ruled out, and of the run."""
        if summary is None:
            return None
        events = [
            *(self._list(state) for state in summary.lists),
            *(self._missing(missing) for missing in summary.missing),
            *(self._gap(gap, accepted=summary.gaps_accepted) for gap in summary.gaps),
            self._run(summary),
        ]
        return "\n".join(json.dumps(event) for event in events)

    def _event(self, time: datetime, message: str, **event: Any) -> dict[str, Any]:
        dataset = f"hashclient.{self._context.command}"
        about = self._context.about
        host = {} if about is None else {"host": {"hostname": about.host}}
        return {
            "@timestamp": for_programs(time),
            "ecs": {"version": ECS_VERSION},
            "message": message,
            "event": {"module": "hashclient", "dataset": dataset, **event},
            **host,
        }

    def _file(self, handled: Handled, hit: Hit | None) -> dict[str, Any]:
        outcome, record = handled.outcome, handled.record
        kind = outcome.kind
        what = "alert" if kind in (Kind.MATCH, Kind.CONFLICT) else "event"
        # A match from the record of matches is not new, so its event is not an alert.
        about = {
            "kind": "state" if self._context.command == "matches" else what,
            "category": ["file"],
            "type": ["error" if kind is Kind.UNREAD else "info"],
            "action": str(kind),
            "outcome": _OUTCOME.get(kind),
            "severity": _SEVERITY.get(kind),
            "reason": outcome.reason,
            "start": record and for_programs(record.first_seen),
            "end": record and for_programs(record.last_seen),
        }
        message = f"{kind}: {printable(outcome.place)}"
        if hit is not None:
            message += f": list {hit.list_name}, entry {hit.entry}, category {hit.category}"
        if outcome.reason is not None:
            message += f": {outcome.reason}"
        time = self._context.now if record is None else record.last_seen
        document = self._event(time, message, **_known(about))
        document["file"] = _file_fields(outcome, show_digests=self._context.show_digests)
        if hit is not None:
            document["rule"] = {
                "id": hit.entry,
                "name": f"{hit.list_name}/{hit.category}",
                "category": hit.category,
                "ruleset": hit.list_name,
                "version": str(hit.generation),
            }
        labels = _labels(handled, hit)
        return document | ({"labels": labels} if labels else {})

    def _list(self, state: ListState) -> dict[str, Any]:
        word = "fresh" if state.fresh else "in its grace period" if state.in_grace else "stale"
        reason = f"{'expires' if state.fresh else 'expired'} {for_programs(state.expires)}"
        if state.is_early:
            reason = EARLY
        message = f"list {state.name}, generation {state.generation}, is {word}: {reason}"
        event = self._event(
            self._context.now,
            message,
            kind="event",
            category=["configuration"],
            type=["info"],
            action="list",
            outcome="failure" if state.stale else "success",
            reason=f"{word}: {reason}",
            **({"severity": _SEVERITY[Kind.UNREAD]} if state.stale else {}),
        )
        return event | {"rule": {"ruleset": state.name, "version": str(state.generation)}}

    def _missing(self, missing: MissingList) -> dict[str, Any]:
        event = self._event(
            self._context.now,
            words(missing_text(missing)),
            kind="event",
            category=["configuration"],
            type=["error"],
            action="missing",
            outcome="failure",
            reason=f"missing: {words(missing.problem)}",
            severity=_SEVERITY[Kind.UNREAD],
        )
        if missing.provider is not None:
            event["labels"] = {"provider": missing.provider}
        return event | ({} if missing.name is None else {"rule": {"ruleset": missing.name}})

    def _gap(self, gap: Gap, *, accepted: bool) -> dict[str, Any]:
        text = gap_text(gap, accepted=accepted)
        event = self._event(
            self._context.now,
            text,
            kind="event",
            category=["configuration"],
            type=["info"],
            action="gap",
            outcome="unknown",
            reason=text,
            **({} if accepted else {"severity": _SEVERITY[Kind.UNREAD]}),
        )
        labels = {"algorithms": " ".join(a.label for a in gap.algorithms)}
        return event | {"rule": {"ruleset": gap.list_name}, "labels": labels}

    def _run(self, summary: Summary) -> dict[str, Any]:
        start, code = self._context.now, summary.exit_code
        duration = timedelta(seconds=summary.elapsed_s)
        # The exit code is left out because ECS has its own field for the exit code.
        numbers = {
            name: number
            for name, number in summary_fields(summary).items()
            if type(number) is int and name != "exit_code"
        }
        is_whole = not (summary.stopped or summary.failed or summary.missing)
        failure = failure_text(summary)
        labels = {
            "interrupted": _yes_or_no(summary.stopped is not None),
            "interrupted_by": summary.stopped and signal_name(summary.stopped),
            "failure": failure and words(failure),
            "held": words("; ".join(held_texts(summary))) or None,
            "gaps_accepted": _yes_or_no(summary.gaps_accepted) if summary.gaps else None,
            "skipped": skipped_text(summary),
            "excepted": excepted_text(summary),
            "not_opened": not_opened_text(summary),
        }
        event = self._event(
            start + duration,
            f"{self._context.command} ended with exit code {int(code)}: {code.meaning}",
            kind="event",
            category=["process"],
            type=["end"],
            action="summary",
            outcome="success" if is_whole else "failure",
            reason=code.meaning,
            start=for_programs(start),
            end=for_programs(start + duration),
            duration=round(summary.elapsed_s * 1_000_000_000),
        )
        process: dict[str, Any] = {"name": "hashclient", "exit_code": int(code)}
        if (about := self._context.about) is not None:
            if about.directory is not None:
                process["working_directory"] = printable(about.directory)
            process["args"] = [printable(path) for path in about.paths]
            event["user"] = {"name": words(about.user)}
        return event | {"process": process, "labels": _known(labels), "hashclient": numbers}


def _labels(handled: Handled, hit: Hit | None) -> dict[str, str]:
    """Return the facts about an outcome for which ECS has no field."""
    outcome, record, is_member = handled.outcome, handled.record, bool(handled.outcome.members)
    names = (path_fields(name)["path"] for name in outcome.members)
    labels = {
        "path_b64": path_fields(outcome.place).get("path_b64"),
        "match_id": record and record.id,
        "match_state": record and str(record.state),
        "match_in_place": record and _yes_or_no(record.in_place),
        # A label must be a text, so the names of nested members are joined as in the path.
        "container": path_fields(outcome.path)["path"] if is_member else None,
        "members": "!/".join(names) if is_member else None,
        "evidence": outcome.evidence,
        **{str(acted.action): done_word(acted) for acted in handled.acted},
        "actions": "; ".join(acted.detail for acted in handled.acted) if handled.acted else None,
        "algorithms": hit and " ".join(a.label for a in hit.algorithms),
        "complete": hit and _yes_or_no(hit.complete),
    }
    return _known(labels)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def _yes_or_no(value: object) -> str:
    return "yes" if value else "no"


def _file_fields(outcome: Outcome, *, show_digests: bool) -> dict[str, Any]:
    path = path_fields(outcome.place)["path"]
    directory, name = posixpath.split(path)
    fields = {
        "path": path,
        "name": name,
        "directory": directory or None,
        "extension": posixpath.splitext(name)[1].removeprefix(".") or None,
        "size": outcome.size,
        "hash": digest_fields(outcome) if show_digests and outcome.digests else None,
    }
    return _known(fields)
