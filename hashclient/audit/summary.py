"""Summarises a period of the audit log: runs, checks, matches, reports, lists and outages.

The summary depends only on the log, so anyone who has the log can make the summary again. Records
before the period are used for facts to which the period refers: when a match was first seen, and
when a generation was published. The memory grows only by about 50 bytes for each match.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from hashclient.audit.reading import Gap, Line, chained
from hashclient.audit.record import broken
from hashclient.core.errors import AuditError, ExitCode
from hashclient.core.figures import Precision, Spread, spread, wilson
from hashclient.core.kinds import Kind, Verdict
from hashclient.core.model import Time
from hashclient.core.verdict import Counts, add_by_kind

SCHEMA = "hashclient-audit-summary/1"
_OTHERS = ("files_read", "bytes_read", "gone")
_CHECKED = dict.fromkeys(
    (
        "inputs",
        *map(str, Kind),
        *_OTHERS,
        *(n for n in Counts.__struct_fields__ if n != "not_opened"),
    )
)
#: The name of the action for each event of a person or a policy on a match; an event of a report
#: names the matches of the report.
_ACTS = {
    "quarantined": "isolated",
    "restored": "restored",
    "purged": "purged",
    "report-prepared": "prepared",
    "report-submitted": "submitted",
    "report-acknowledged": "acknowledged",
    "report-retracted": "retracted",
    "report-failed": "failed",
    "gone": "gone",
    "withdrawn": "withdrawn",
    "closed": "closed",
}
#: The name of the decision for each event; decisions are counted by the name that the person has on
#: this machine.
_DECIDED = {
    "released": "held matches released",
    "exception-added": "exceptions added",
    "exception-approved": "exceptions approved by a second person",
    "exception-renewed": "exceptions renewed",
    "exceptions-exported": "exceptions exported",
    "exceptions-imported": "files of exceptions imported",
    "exception-removed": "exceptions removed",
    "exceptions-cleared": "all exceptions given up",
}


class Run(msgspec.Struct):
    """The runs of one command.

    `unfinished`: the number of runs that were killed or have not ended.
    """

    runs: int = 0
    unfinished: int = 0
    interrupted: int = 0
    exit_codes: dict[str, int] = msgspec.field(default_factory=dict)


class MatchTotals(msgspec.Struct):
    """The numbers of outcomes that were a match and of different matches, by list and category."""

    answers: int = 0
    different: int = 0
    held: int = 0
    by_list: dict[str, int] = msgspec.field(default_factory=dict)
    by_category: dict[str, int] = msgspec.field(default_factory=dict)


class ListTotals(msgspec.Struct):
    """A list: how often it was updated, and its age (since publication) at the start of runs."""

    updates: int = 0
    refused: int = 0
    runs: int = 0
    runs_not_fresh: int = 0
    runs_missing: int = 0
    age: Spread = Spread()


class Outage(msgspec.Struct):
    """A time during which a provider could not be reached.

    `until` is None if this time has not ended.
    """

    provider: str
    since: Time
    until: Time | None
    failures: int


class Summary(msgspec.Struct):
    """The summary of a period of the log. All times are in UTC.

    `logs`: the number of logs that this summary adds up, usually 1.
    """

    schema: str
    since: Time | None
    until: Time | None
    log_id: str
    logs: int = 1
    records: int = 0
    first_seq: int = 0
    last_seq: int = 0
    last_hash: str = ""
    gaps: list[Gap] = msgspec.field(default_factory=list)
    repaired: int = 0
    runs: dict[str, Run] = msgspec.field(default_factory=dict)
    checked: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(_CHECKED, 0))
    unread: dict[str, int] = msgspec.field(default_factory=dict)
    not_opened: dict[str, int] = msgspec.field(default_factory=dict)
    matches: MatchTotals = msgspec.field(default_factory=MatchTotals)
    acts: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(_ACTS.values(), 0))
    reviewed: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    precision: Precision | None = None
    to_isolation: Spread = Spread()
    to_report: Spread = Spread()
    decisions: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    lists: dict[str, ListTotals] = msgspec.field(default_factory=dict)
    outages: list[Outage] = msgspec.field(default_factory=list)

    def rows(self) -> Iterator[tuple[str, str, object]]:
        """Yield all figures as rows of a table: section, name of the figure, value."""
        for section, value in msgspec.to_builtins(self).items():
            if isinstance(value, Mapping):
                yield from _flat(section, "", value)
            elif isinstance(value, list):
                for number, one in enumerate(value, 1):
                    yield from _flat(section, str(number), one)
            else:
                yield "log", section, value


def _flat(section: str, name: str, value: object) -> Iterator[tuple[str, str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(section, f"{name}: {key}" if name else str(key), inner)
    else:
        yield section, name, value


class _Hit(msgspec.Struct):
    list: str
    category: str | None = None


class _Match(msgspec.Struct):
    id: str | None = None
    hits: list[_Hit] = []
    held: bool = False
    times: int = 1
    part: int = 1


_decode_match = msgspec.json.Decoder(_Match).decode


class _Firsts:
    """The times of one kind of event, each with the first 16 bytes of the id of the match."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._times = array("d")
        self._counted = bytearray()

    def add(self, match_id: str, time: float, *, is_counted: bool = True) -> None:
        self._ids += match_id.encode()[:16].ljust(16)
        self._times.append(time)
        self._counted.append(is_counted)

    def different(self) -> int:
        """Return the number of different ids among the counted ids."""
        import numpy as np

        ids = np.frombuffer(self._ids, "S16")
        is_counted = np.frombuffer(self._counted, bool)
        return len(np.unique(ids if is_counted.all() else ids[is_counted]))

    def firsts(self) -> tuple[Any, Any]:
        """Return the different ids, sorted, and the first time of each, as arrays."""
        import numpy as np

        # Records are in order, so the first index of an id has the earliest time.
        ids, at = np.unique(np.frombuffer(self._ids, "S16"), return_index=True)
        return ids, np.frombuffer(self._times, np.float64)[at] if len(at) else np.zeros(0)


def summarise(
    directory: Path,
    archives: Sequence[Path] = (),
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Summary:
    """Summarise the records of a log and its archived files from `since` to before `until`.

    Raises:
        AuditError: a file cannot be read or is of another log, or the chain is broken.
        StateError: no log exists yet.
    """
    count = _Count(Summary(SCHEMA, since, until, ""))
    for line in chained(directory, archives):
        if isinstance(line, Gap):
            count.out.gaps.append(line)
            continue
        try:
            count.take(line)
        # Anybody can write a record with a right hash, and signatures are not verified here, so a
        # value may have any type.
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            broken(f"record {line.seq}", "a value of the wrong type or form")
    return count.end()


class _Count:
    """The summary so far, and the facts to which later records refer."""

    def __init__(self, out: Summary) -> None:
        self.out = out
        self._found, self._isolated, self._reported = _Firsts(), _Firsts(), _Firsts()
        self._published: dict[tuple[str, int], float] = {}
        self._ages: dict[str, array[float]] = {}
        self._down: dict[str, Outage] = {}
        self._open: dict[str, int] = {}
        self._said: dict[str, str] = {}
        #: The lists and categories of the match whose record, or whose part of a record, is being
        #: read.
        self._named: tuple[set[str], set[str]] = (set(), set())

    def take(self, line: Line) -> None:
        """Count one record."""
        out, event = self.out, line.event
        is_in = (out.since is None or line.time >= out.since) and (
            out.until is None or line.time < out.until
        )
        if is_in:
            out.records += 1
            out.first_seq = out.first_seq or line.seq
            out.last_seq, out.last_hash = line.seq, line.hash
        if event == "match":
            self._match(_decode_match(line.data), line.time.timestamp(), is_in=is_in)
            return
        data: dict[str, Any] = msgspec.json.decode(line.data)
        if event == "genesis":
            self._log_id(data)
        elif event == "segment":
            self._log_id(data["genesis"]["data"])
        elif data.get("part", 1) > 1:
            # The first part has all other values; later parts of an event only add elements of
            # lists.
            if is_in:
                self._go_on(event, data, line.time.timestamp())
        elif event in ("fetch", "refused"):
            self._fetch(event, data, line.time, is_in=is_in)
        elif not is_in:
            pass
        elif event == "audit-recovered":
            out.repaired += 1
        elif event in _ACTS:
            out.acts[_ACTS[event]] += 1
            self._matches_of(event, data, line.time.timestamp())
        elif event == "reviewed":
            self._said[str(data.get("id"))] = str(data.get("verdict"))
        elif event in _DECIDED:
            by = out.decisions.setdefault(_DECIDED[event], {})
            add_by_kind(by, {str(data.get("by", "")): 1})
        elif event.endswith("-start"):
            self._open[event[:-6]] = self._open.get(event[:-6], 0) + 1
            self._lists(data, line.time.timestamp())
        elif event.endswith("-end"):
            self._end(event[:-4], data)
        elif event == "watch-look":
            self._lists(data, line.time.timestamp())
            self._end("watch", data, has_start=False)

    def _log_id(self, genesis: dict[str, Any]) -> None:
        """Store the id of the log, which the first record of each file contains."""
        log_id = genesis["log_id"]
        if self.out.log_id not in ("", log_id):
            raise AuditError(
                "the files are of different logs",
                hint="give --archive only folders with files of this log",
            )
        self.out.log_id = log_id

    def _go_on(self, event: str, data: dict[str, Any], time: float) -> None:
        """Count the elements of lists in a later part of an event."""
        if event in _ACTS:
            self._matches_of(event, data, time)
        elif event.endswith("-start") or event == "watch-look":
            self._lists(data, time)

    def _match(self, match: _Match, time: float, *, is_in: bool) -> None:
        totals = self.out.matches
        if match.part == 1:
            self._named = (set(), set())
            if match.id is not None:
                self._found.add(match.id, time, is_counted=is_in)
            totals.answers += match.times * is_in
            totals.held += match.held and is_in
        if is_in:
            tables = (totals.by_list, totals.by_category)
            names = ({hit.list for hit in match.hits}, {str(hit.category) for hit in match.hits})
            for table, found, before in zip(tables, names, self._named, strict=True):
                add_by_kind(table, dict.fromkeys(found - before, 1))
                before |= found

    def _matches_of(self, event: str, data: dict[str, Any], time: float) -> None:
        """Add the times at which matches were isolated or reported."""
        if event == "quarantined":
            self._isolated.add(str(data.get("id")), time)
        elif event == "report-submitted":
            for match_id in data.get("matches", ()):
                self._reported.add(match_id, time)

    def _fetch(self, event: str, data: dict[str, Any], time: datetime, *, is_in: bool) -> None:
        provider, name = str(data.get("provider")), data.get("list")
        is_outage = event == "refused" and data.get("exit_code") == ExitCode.UNREACHABLE
        if is_outage:
            outage = self._down.setdefault(provider, Outage(provider, time, None, 0))
            outage.failures += 1
        elif (over := self._down.pop(provider, None)) is not None:
            over.until = time
            self._note(over)
        if event == "fetch" and "published" in data:
            published = datetime.fromisoformat(data["published"]).timestamp()
            self._published[str(name), int(data["generation"])] = published
        if is_in and name is not None:
            totals = self._list(name)
            totals.updates += event == "fetch" and data.get("before") != data.get("generation")
            totals.refused += event == "refused" and not is_outage

    def _note(self, outage: Outage) -> None:
        since, until = self.out.since, self.out.until
        is_over = since is not None and outage.until is not None and outage.until < since
        if not is_over and (until is None or outage.since < until):
            self.out.outages.append(outage)

    def _list(self, name: str) -> ListTotals:
        return self.out.lists.setdefault(name, ListTotals())

    def _lists(self, data: dict[str, Any], time: float) -> None:
        """Count the lists at the beginning of a run."""
        for used in data.get("lists", ()):
            totals = self._list(used["list"])
            totals.runs += 1
            totals.runs_not_fresh += not used["fresh"]
            published = self._published.get((used["list"], used["generation"]))
            if published is not None:
                self._ages.setdefault(used["list"], array("d")).append(time - published)
        for gone in data.get("missing", ()):
            if gone["list"] is not None:
                self._list(gone["list"]).runs_missing += 1

    def _end(self, command: str, data: dict[str, Any], *, has_start: bool = True) -> None:
        """Count the end of a run."""
        run = self.out.runs.setdefault(command, Run())
        run.runs += 1
        run.interrupted += bool(data.get("interrupted"))
        add_by_kind(run.exit_codes, {str(data.get("exit_code")): 1})
        if has_start:
            # A run that began before the period is not counted as unfinished.
            self._open[command] = max(0, self._open.get(command, 0) - 1)
        for name in _CHECKED:
            self.out.checked[name] += data.get(name) or 0
        add_by_kind(self.out.unread, data.get("unread_reasons") or {})
        add_by_kind(self.out.not_opened, data.get("not_opened") or {})

    def end(self) -> Summary:
        """Return the summary, with the facts that are known only at the end of the log."""
        import numpy as np

        out = self.out
        for outage in self._down.values():
            self._note(outage)
        for command, count in self._open.items():
            if count:
                run = out.runs.setdefault(command, Run())
                run.unfinished += count
                run.runs += count
        for name, ages in self._ages.items():
            self._list(name).age = spread(ages)
        for verdict in self._said.values():
            add_by_kind(out.reviewed, {verdict: 1})
        out.precision = wilson(out.reviewed[Verdict.CONFIRMED], sum(out.reviewed.values()))
        out.matches.different = self._found.different()
        ids, since = self._found.firsts()
        for acts, name in ((self._isolated, "to_isolation"), (self._reported, "to_report")):
            done, at = acts.firsts()
            # Both arrays are sorted, so `searchsorted` finds the place of each id. An id that is
            # missing in `ids` gets the place of another id, and is left out by `is_known`.
            place = np.searchsorted(ids, done).clip(max=max(len(ids) - 1, 0))
            is_known = ids[place] == done if len(ids) else np.zeros(len(done), bool)
            took = at[is_known] - since[place[is_known]]
            # A negative duration means that an earlier record is missing or that a clock was set,
            # so it is left out.
            setattr(out, name, spread(took[took >= 0].tolist()))
        out.outages.sort(key=lambda outage: (outage.since, outage.provider))
        # The hits of a match are a set, whose order differs between processes, so the tables are
        # sorted by name.
        for of, name in (
            *((out, n) for n in ("unread", "not_opened", "lists", "runs", "decisions")),
            *((out.matches, n) for n in ("by_list", "by_category")),
        ):
            setattr(of, name, dict(sorted(getattr(of, name).items())))
        return out
