"""The format for code hosts and CI: a SARIF 2.1.0 document with one run.

A match or a conflict is a result, and a match is written when it is found, unless it is excepted.
An input that was not checked is a notification of the run, because nothing is known about its
content. Clean inputs are only counted. The rules, one for each list and category that was hit, come
after the results, which JSON allows because keys may have any order. The caps on results and
notifications bound the memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from os import fsencode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hashclient.core.kinds import Kind, MatchState
from hashclient.core.model import Handled, Hit, Outcome, hit_fields
from hashclient.core.verdict import Summary
from hashclient.core.version import __version__
from hashclient.formats.cells import words
from hashclient.formats.fields import (
    action_fields,
    agreement,
    digest_fields,
    excepted_text,
    file_fields,
    not_opened_text,
    remarks,
    run_fields,
    skipped_text,
    summary_fields,
)
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.formats.registry import Context

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)

#: The largest number of results that GitHub accepts in a run; it shows 5,000 of them, errors first:
#: "SARIF results exceed one or more limits", https://docs.github.com/en/code-security (read in
#: November 2026).
MAX_RESULTS = 25_000
#: The largest number of notifications, which bounds the size of the output; no code host shows all
#: of them.
MAX_NOTIFICATIONS = 1_000

#: The states of matches that need no further work, or whose entry is withdrawn.
_QUIET = frozenset(
    {
        *(MatchState.GONE, MatchState.WITHDRAWN, MatchState.RESTORED, MatchState.PURGED),
        *(MatchState.CLOSED, MatchState.EXCEPTED),
    }
)

#: The subjects of notifications, each with its level, its meaning, and advice.
_NOTIFICATIONS = {
    "unread": (
        "warning",
        "An input was not checked, and should have been.",
        "Nothing is known of it. Remove the reason and scan again.",
    ),
    "accepted": (
        "note",
        "Something in a container was not read, and the configuration accepts that.",
        "Nothing is known of it. See `accept` of [scan] in the configuration.",
    ),
    "exceptions": (
        "note",
        "Matches are excepted: how many, and by which rulings.",
        "`hashclient exceptions list` says who, why and until when.",
    ),
    "members": (
        "note",
        "Archives and mail were not opened.",
        "Leave out --no-members.",
    ),
    "not-opened": (
        "note",
        "Inputs hold others and are of kinds that are not opened: how many of each.",
        "Their content is not known: unpack them, and scan the files.",
    ),
    "skipped": ("note", "An input is not to be checked.", "Nothing is to be done."),
    "skips": ("note", "Inputs are not to be checked: how many, and why.", "Nothing is to be done."),
    "stale": (
        "warning",
        "A list was stale when it was used.",
        "Run `hashclient fetch`; if that does not help, check the machine's clock.",
    ),
    "missing": (
        "error",
        "A list that should be here was not used.",
        "Run `hashclient fetch`; `hashclient status` says what is wrong with each list.",
    ),
    "held": (
        "warning",
        "An entry matched more files than may be acted upon within a day; the others are held.",
        "Look at some files; then run `hashclient matches release`, or ask for a withdrawal.",
    ),
    "gap": (
        "warning",
        "A list cannot be asked for inputs that have no digest of a kind that it has.",
        "Give digests of another kind as well, or scan the files.",
    ),
    "left-out": (
        "warning",
        "The output does not hold everything that was found.",
        "The format jsonl has no such limit.",
    ),
    "stopped": ("error", "The run did not come to its end.", "Scan again."),
    "failed": (
        "error",
        "Something besides the inputs failed.",
        "`hashclient --help` has the meaning of the exit code.",
    ),
}


class SarifFormatter:
    """Writes one document with one run."""

    def __init__(self, context: Context) -> None:
        """Write the outcomes in the form that `context` requires."""
        self._context = context
        #: The number and the content of each rule so far.
        self._rules: dict[str, tuple[int, dict[str, Any]]] = {}
        self._results = 0
        #: The results that are written at the end, in this order, so that matches take the limited
        #: places first.
        self._later: dict[Kind, list[Handled]] = {Kind.CONFLICT: [], Kind.EXCEPTED: []}
        self._notifications: list[dict[str, Any]] = []
        self._left_out: Counter[Kind] = Counter()
        #: The numbers of the descriptions of containers and members, by the path and the names of
        #: members.
        self._artifacts: dict[tuple[str, ...], int] = {}
        self._described: list[dict[str, Any]] = []

    def begin(self) -> str:
        """Return the beginning of the document, up to its results."""
        return f'{{"$schema": "{SCHEMA}", "version": "2.1.0", "runs": [{{"results": ['

    def outcome(self, handled: Handled) -> str | None:
        """Return a match as a result; keep other outcomes for the end."""
        kind = handled.outcome.kind
        if kind is Kind.MATCH and self._results < MAX_RESULTS:
            return self._result(handled)
        if kind in self._later and len(self._later[kind]) < MAX_RESULTS:
            self._later[kind].append(handled)
        elif kind in (Kind.UNREAD, Kind.SKIPPED, Kind.ACCEPTED):
            self._unchecked(handled)
        elif kind is not Kind.CLEAN:
            self._left_out[kind] += 1
        return None

    def end(self, summary: Summary | None) -> str:
        """Return the conflicts and excepted matches, and then the part about the whole run."""
        parts = []
        for kind, kept in self._later.items():
            room = MAX_RESULTS - self._results
            parts += [self._result(handled) for handled in kept[:room]]
            self._left_out[kind] += len(kept[room:])
        driver = {
            "name": "hashclient",
            "version": __version__,
            "semanticVersion": __version__,
            "rules": [rule for _, rule in self._rules.values()],
            "notifications": [
                _descriptor(name, level, text, text, help_text)
                for name, (level, text, help_text) in _NOTIFICATIONS.items()
            ],
        }
        run: dict[str, Any] = {
            "tool": {"driver": driver},
            "invocations": [self._invocation(summary)],
        }
        if self._described:
            run["artifacts"] = self._described
        if summary is not None:
            run["properties"] = run_fields(self._context) | summary_fields(summary)
        members = [f'"{name}": {json.dumps(value)}' for name, value in run.items()]
        return "\n".join([*parts, f"], {', '.join(members)}}}]}}"])

    def _result(self, handled: Handled) -> str:
        outcome, record = handled.outcome, handled.record
        hit = outcome.hits[0]
        is_match = outcome.kind is not Kind.CONFLICT
        rule = f"{hit.list_name}/{hit.category}" + ("" if is_match else "/conflict")
        index, _ = self._rules.setdefault(
            rule, (len(self._rules), _rule(rule, hit, is_match=is_match))
        )
        is_excepted = outcome.kind is Kind.EXCEPTED
        quiet = is_excepted or (record is not None and record.state in _QUIET)
        properties = {
            **file_fields(handled),
            "hits": [{"complete": h.complete, **hit_fields(h)} for h in outcome.hits],
            "actions": [action_fields(acted) for acted in handled.acted],
        }
        if outcome.reason is not None:
            properties["reason"] = outcome.reason
        if self._context.show_digests and outcome.digests:
            properties["digests"] = digest_fields(outcome)
        result = {
            "ruleId": rule,
            "ruleIndex": index,
            "level": "note" if quiet else "error" if is_match else "warning",
            "message": {"text": _message(handled)},
            # Code hosts require a line number, even for a file without lines.
            "locations": [_location(outcome, region={"startLine": 1})],
            **self._inside(outcome),
            # The fingerprint of an entry is equal on every machine and in every run, and is no
            # digest.
            "partialFingerprints": {"hashclient/v1": f"{hit.list_name}/{hit.entry}"},
            "properties": properties,
        }
        if is_excepted:
            why = {"kind": "external", "status": "accepted", "justification": outcome.reason}
            result["suppressions"] = [why]
        self._results += 1
        return f"{',' if self._results > 1 else ''}{json.dumps(result)}"

    def _inside(self, outcome: Outcome) -> dict[str, Any]:
        """Return the place of a member in its container.

        Code hosts show only the file on the disk.
        """
        if not outcome.members:
            return {}
        keys = [(outcome.path, *outcome.members[:depth]) for depth in range(len(outcome.members))]
        parent: int | None = None
        for key in [*keys, (outcome.path, *outcome.members)]:
            index = self._artifacts.get(key)
            if index is None:
                index = self._artifacts[key] = len(self._described)
                uri = _uri_of(outcome) if parent is None else _inner_uri(key[-1])
                described: dict[str, Any] = {"location": {"uri": uri}}
                if parent is not None:
                    described["parentIndex"] = parent
                self._described.append(described)
            parent = index
        uri = _inner_uri(outcome.members[-1])
        place = {"physicalLocation": {"artifactLocation": {"uri": uri, "index": parent}}}
        return {"relatedLocations": [place]}

    def _unchecked(self, handled: Handled) -> None:
        outcome = handled.outcome
        if len(self._notifications) >= MAX_NOTIFICATIONS:
            self._left_out[outcome.kind] += 1
            return
        reason = outcome.reason or "no reason is known"
        notification = _notification(str(outcome.kind), _plain(reason))
        notification["locations"] = [_location(outcome)]
        notification["properties"] = {**file_fields(handled), "reason": outcome.reason}
        self._notifications.append(notification)

    def _invocation(self, summary: Summary | None) -> dict[str, Any]:
        notifications = list(self._notifications)
        for kind, count in sorted(self._left_out.items()):
            if count:
                text = f"{count} more of kind {kind} would be too many for this output"
                notifications.append(_notification("left-out", text))
        start = self._context.now
        invocation: dict[str, Any] = {"executionSuccessful": True, "startTimeUtc": _utc(start)}
        invocation |= _called(self._context)
        if summary is not None:
            code = summary.exit_code
            notifications += [_notification(name, _plain(text)) for name, text in _notices(summary)]
            invocation |= {
                "endTimeUtc": _utc(start + timedelta(seconds=summary.elapsed_s)),
                "exitCode": int(code),
                "exitCodeDescription": code.meaning,
                "executionSuccessful": not (summary.stopped or summary.failed or summary.missing),
            }
        return {**invocation, "toolExecutionNotifications": notifications}


def _called(context: Context) -> dict[str, Any]:
    """Return where and by whom a run was called, as fields of SARIF."""
    about = context.about
    if about is None:
        return {}
    fields = run_fields(context)
    called = {
        "machine": about.host,
        "account": fields["user"],
        "properties": {"paths": fields["paths"]},
    }
    if about.directory is not None:
        called["workingDirectory"] = {"uri": uri_of(about.directory)}
    return called


def _notices(summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield remarks on the whole run, each with its subject and a sentence."""
    if (text := skipped_text(summary)) is not None:
        yield "skips", text
    if (text := excepted_text(summary)) is not None:
        yield "exceptions", text
    if summary.opens_containers is False:
        yield "members", "archives and mail were not opened"
    if (text := not_opened_text(summary)) is not None:
        yield "not-opened", text
    for remark in remarks(summary, _utc):
        yield ("stopped" if remark.subject == "interrupted" else remark.subject), remark.text


def uri_of(path: str) -> str:
    """Return the URI of a path; a relative path becomes a relative URI, which code hosts require.

    Empty components and dots are removed, as in every normal URI; `..` is kept, because the
    component before it may be a symbolic link.
    """
    raw = fsencode(path)
    kept = [part for part in raw.split(b"/") if part not in (b"", b".")]
    relative = quote(b"/".join(kept), safe="/")
    return f"file:///{relative}" if raw.startswith(b"/") else relative or "./"


def _uri_of(outcome: Outcome) -> str:
    """Return the URI of the file or the object of an outcome."""
    if not outcome.is_object:
        return uri_of(outcome.path)
    # The URI of an object is escaped already, so `%` must not be escaped again.
    return quote(fsencode(outcome.path), safe="/:?=%")


def _inner_uri(name: str) -> str:
    """Return the URI of a member: a path from the root of its container."""
    return "/" + quote(fsencode(name).lstrip(b"/"), safe="/")


def _location(outcome: Outcome, **more: Any) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": _uri_of(outcome)}, **more}}


def _plain(text: str) -> str:
    """Return foreign text for a message of SARIF, where braces and brackets have a meaning."""
    return "".join("_" if char in "{}[]" else char for char in words(text))


def _message(handled: Handled) -> str:
    outcome, record = handled.outcome, handled.record
    hits = []
    for hit in outcome.hits:
        where = f"list {hit.list_name}, entry {hit.entry}, category {hit.category}"
        hits.append(f"{where}: {agreement(hit)}")
    text = f"{outcome.kind.capitalize()}: {'; '.join(hits)}."
    if outcome.members:
        text += f" It is in a container: {_plain(printable(outcome.place))}."
    if outcome.reason is not None:
        reason = _plain(outcome.reason)
        text += f" {reason[:1].upper()}{reason[1:]}."
    if record is not None:
        text += f" Recorded as {record.id}, {record.state}."
    return text


def _rule(rule: str, hit: Hit, *, is_match: bool) -> dict[str, Any]:
    where = f"list {hit.list_name} in category {hit.category}"
    if is_match:
        level, short = "error", f"File on {where}."
        full = f"The file and an entry of {where} agree in all digests that both have."
        help_text = (
            "Do not open, copy or send the file. `hashclient matches` says what is on record about"
            " it; follow your procedure for reports."
        )
    else:
        level, short = "warning", f"Conflict with {where}."
        full = f"Some digests of the file agree with an entry of {where}, others do not."
        help_text = (
            "Either the entry is wrong, or somebody has made the file similar on purpose. Do not "
            "open the file; ask the provider of the list."
        )
    descriptor = _descriptor(rule, level, short, full, help_text)
    return descriptor | {"properties": {"list": hit.list_name, "category": hit.category}}


def _descriptor(name: str, level: str, short: str, full: str, help_text: str) -> dict[str, Any]:
    return {
        "id": name,
        "shortDescription": {"text": short},
        "fullDescription": {"text": full},
        "help": {"text": help_text},
        "defaultConfiguration": {"level": level},
    }


def _notification(name: str, text: str) -> dict[str, Any]:
    descriptor = {"id": name, "index": list(_NOTIFICATIONS).index(name)}
    return {
        "descriptor": descriptor,
        "level": _NOTIFICATIONS[name][0],
        "message": {"text": text},
    }


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
