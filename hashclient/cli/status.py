"""`status`: shows the lists and records on this machine, and their problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import (
    MOST_SHOWN,
    App,
    existing_path,
    format_option,
    load_numpy,
    pass_app,
    shortened,
)
from hashclient.cli.notices import severity_of
from hashclient.cli.output import json_text
from hashclient.cli.outputfile import write_whole
from hashclient.cli.publishing import publish_status
from hashclient.core.errors import ExitCode
from hashclient.system.text import counted, for_people, path_fields, printable

if TYPE_CHECKING:
    from hashclient.alerts.book import Book
    from hashclient.audit.record import Record
    from hashclient.config.settings import Settings
    from hashclient.status.notices import NoticesStatus
    from hashclient.status.status import ExceptionsStatus, ListStatus, ReportsStatus, Status

#: The largest number of open notices that are shown; further notices are only counted.
MOST_NOTICES = 20


@click.command("status")
@click.option(
    "--verify",
    is_flag=True,
    help="Read all indexes completely and compare them with their digests, and check the whole "
    "record of matches.",
)
@format_option(
    "text",
    "json",
    "prometheus",
    help="text for people, json for scripts, prometheus for a textfile collector.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=existing_path(dir_okay=False),
    help="Write to FILE instead of stdout, in one step: a reader sees the old or the new.",
)
@click.option(
    "--publish",
    metavar="WHERE",
    help="Also publish a signed status document in a directory, or at s3://…, gs://… or az://….",
)
@pass_app
def command(
    app: App, output_format: str, verify: bool, output: Path | None, publish: str | None
) -> ExitCode:
    """Show the state of the lists, and the matches of scans.

    The exit code is 0 only if every list that should be here is usable and fresh, and all other
    state can be read; so a monitor can call this command. These lists should be here: the lists
    that `lists` in the configuration names, or without `lists`, the lists that the provider offered
    at the last fetch; and each list that has a folder here. The network is not used: this shows the
    state after the last fetch.

    `recognised by` shows which share of the entries has a digest of each kind, for example MD5: a
    `lookup` of an MD5 cannot decide about entries without an MD5. size+md5 also counts entries that
    have only a size, since an input with another size cannot be this entry. Scans compute all
    digests that a list needs.

    \b
      hashclient status
      hashclient status --format json
      hashclient status --format prometheus --output metrics/hashclient.prom
      hashclient status --publish s3://bucket/fleet

    Exit codes: 3 a notice of the severity `alert_from` in the configuration, or worse, is open, 7 a
    list is stale, 8 a list or other state is missing or damaged, 9 the audit log is damaged; all
    are in `hashclient --help`.
    """
    load_numpy()
    from hashclient.client.client import Client

    settings = app.settings
    settings.providers()
    now = app.now()
    status = Client(app.session).status(verify=verify)
    # The status is published first, so that the output contains the result of publishing.
    if publish is not None:
        publish_status(app, status, publish)
    write_whole(app.out, output, _RENDERERS[output_format](settings, status, now))
    return status.exit_code


def _prometheus(_settings: Settings, status: Status, _now: datetime) -> str:
    from hashclient.status.prometheus import render

    return render(status).rstrip("\n")


def _text(settings: Settings, status: Status, now: datetime) -> str:
    return "\n".join(_lines(settings, status, now))


def _lines(settings: Settings, status: Status, now: datetime) -> Iterator[str]:
    from hashclient.formats.cells import words

    for name, addresses in _providers(settings, status):
        shown = "not configured" if addresses is None else ", ".join(addresses) or "no address"
        yield f"provider {name}  {shown}"
        if (problem := status.providers.get(name)) is not None:
            yield f"  state       {problem}"
    for entry in status.lists:
        yield from _list_lines(entry, now, _source_of(entry, status))
    kept, reports = status.quarantine, status.reports
    size = kept and f"{counted(kept.files, 'file')}, {counted(kept.sealed_bytes, 'byte')}"
    rows = {
        "matches": _numbers(status.matches),
        "to review": f"{status.to_review:,}" if status.to_review else None,
        "quarantine": size,
        "reports": None if reports is None else _numbers(reports.counts),
        "overdue": _overdue(reports),
    }
    yield from (f"{name:<13} {text}" for name, text in rows.items() if text is not None)
    if status.notices is not None:
        yield from _notice_lines(status.notices)
    if status.exceptions is not None:
        yield from _exception_lines(status.exceptions)
    if status.alerts is not None:
        alerts = _alerts_document(status.alerts)
        failing = f"; {', '.join(alerts['failing'])} FAILS" if alerts["failing"] else ""
        yield f"alerts        {alerts['waiting']:,} waiting{failing}"
    if (scan := _last_scan(status)) is not None:
        end = f"{for_people(scan.time)}, exit code {scan.data.get('exit_code')}"
        if isinstance(believed := scan.data.get("believed_unchanged"), int) and believed:
            end += f", {counted(believed, 'file')} believed unchanged"
        yield f"last scan     {end}"
    if (published := status.published) is not None:
        at = "never" if published.at is None else for_people(published.at)
        failures = f", {counted(published.failures, 'failure')} since" if published.failures else ""
        yield f"published     {at}{failures}"
    for problem in status.problems:
        yield f"problem       {problem}"
    if status.held:
        yield "held, waiting for a person:"
    held = [f"  {words(entry.text)}" for entry in status.held]
    yield from shortened(held, "`hashclient matches --state held`")
    if status.withdrawn:
        count = counted(len({match.id for match, _ in status.withdrawn}), "path")
        yield f"entries withdrawn since they matched {count}:"
    withdrawn = [
        f"  {printable(match.path)}  [{match.id}]  {hit.list_name} {hit.entry}"
        + ("" if match.in_place else ", which was isolated")
        for match, hit in status.withdrawn
    ]
    yield from shortened(withdrawn, "`hashclient matches --state withdrawn`")


def _numbers(counts: Mapping[Any, int] | None) -> str | None:
    """Return the number of items in each state as text; None if the numbers are not known."""
    if counts is None:
        return None
    return ", ".join(f"{count:,} {state}" for state, count in counts.items() if count) or "none"


def _overdue(reports: ReportsStatus | None) -> str | None:
    """Return as text how many reports to each destination are past their deadline."""
    late = {} if reports is None else {to: count for to, count in reports.overdue.items() if count}
    return ", ".join(f"{counted(count, 'report')} to {to}" for to, count in late.items()) or None


def _exception_lines(exceptions: ExceptionsStatus) -> Iterator[str]:
    verb = "ends" if len(exceptions.ending) == 1 else "end"
    text = f"exceptions    {exceptions.standing:,}, {len(exceptions.ending):,} {verb} within a week"
    if waiting := exceptions.waiting:
        verb = "waits" if len(waiting) == 1 else "wait"
        text += f", {len(waiting):,} {verb} for a second person"
    yield text
    told = [
        *(f"  {r.id}  waits for a second person: {r.about}" for r in waiting),
        *(f"  {r.id}  ends {for_people(r.until)}: {r.about}" for r in exceptions.ending),
    ]
    yield from shortened(told, "`hashclient exceptions list`")


def _notice_lines(notices: NoticesStatus) -> Iterator[str]:
    counts = [f"{len(notices.open):,} open", f"{notices.acknowledged:,} acknowledged"]
    yield f"notices       {', '.join(counts)}"
    for standing in notices.open[:MOST_NOTICES]:
        notice = standing.notice
        yield f"  {standing.name}  [{severity_of(notice)}]  {printable(notice.headline)}"
    if (more := len(notices.open) - MOST_NOTICES) > 0:
        yield f"  and {more:,} more: `hashclient notices list`"


def _providers(settings: Settings, status: Status) -> list[tuple[str, list[str] | None]]:
    """Return the names of the providers, each with its addresses in the order of use.

    The addresses are None for a provider that has a problem and is not configured.
    """
    unconfigured: dict[str, list[str] | None] = dict.fromkeys(status.providers)
    configured = {
        name: [_address(url) for url, _ in provider.addresses]
        for name, provider in settings.config.providers.items()
    }
    return sorted((unconfigured | configured).items())


def _address(url: str) -> str:
    """Return an address, unless it has a user name or a query, with which a fetch refuses it."""
    return "not shown: it may have a password" if {"@", "?"} & {*url} else printable(url)


def _source_of(entry: ListStatus, status: Status) -> str | None:
    return status.audit.sources.get(entry.name) if status.audit else None


def _list_lines(status: ListStatus, now: datetime, source: str | None) -> list[str]:
    manifest = status.manifest
    if manifest is None:
        provider = [f"  provider    {status.provider}"] if status.provider else []
        return [f"list {status.name}", f"  state       {status.problem}", *provider]
    state = status.problem or "fresh"
    digests = ", ".join(f"{a} {n:,}" for a, n in manifest.with_digest.items() if n) or "none"
    published = for_people(manifest.published_at)
    rows = {
        "state": state,
        "provider": manifest.provider,
        "generation": f"{manifest.generation}, published {published}",
        "age": _age(now - manifest.published_at),
        "expires": for_people(manifest.expires),
        "entries": f"{manifest.entries:,} live",
        "digests": digests,
        "sizes": f"{percent(manifest.with_size, manifest.entries)} of the entries have one",
        # The shares of entries with each kind of digest are not known if the seal key is missing.
        **({"recognised": f"by {_shares(status, manifest.entries)}"} if status.recognised else {}),
        "fetched": for_people(manifest.fetched_at),
        "checked": for_people(manifest.checked_at)
        + (f", at {printable(source)}" if source else ""),
        "verified": f"all of it since {for_people(manifest.verified_since)}",
    }
    lines = [f"  {key:<11} {value}" for key, value in rows.items()]
    lines += [f"  {'warning':<11} {text}" for text in status.warnings]
    return [f"list {status.name}", *lines]


def _shares(status: ListStatus, entries: int) -> str:
    """Return as text the share of entries that have a digest of each kind."""
    counts = status.recognised
    shown = []
    for by, count in counts.items():
        if not by.startswith("size+") or count != counts[by.removeprefix("size+")]:
            shown.append(f"{by} {percent(count, entries)}")
    return ", ".join(shown)


def percent(part: int, whole: int) -> str:
    """Return a share in percent, rounded down, with decimals if it would look like 0 or 100."""
    if part in {0, whole}:
        return "100 %" if part else "0 %"
    digits = 0
    while 100 * min(part, whole - part) * 10**digits < whole:
        digits += 1
    number, rest = divmod(100 * part * 10**digits // whole, 10**digits)
    return f"{number}.{rest:0{digits}d} %" if digits else f"{number} %"


def _age(age: timedelta) -> str:
    """Return an age as text, in the largest unit in which the number is at least 2."""
    # `staleness` is imported inside the function, because `staleness` needs msgspec, and the build
    # of the man pages imports this module without msgspec.
    from hashclient.core.staleness import CLOCK_TOLERANCE

    if age < -CLOCK_TOLERANCE:
        return "published in the future: check this machine's clock, or tell the provider"
    for unit, seconds in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if (count := int(age.total_seconds() // seconds)) >= 2:
            return f"{count:,} {unit}"
    return "less than two minutes"


def _json(settings: Settings, status: Status, now: datetime) -> str:
    from hashclient.formats.fields import held_fields

    document: dict[str, Any] = {
        "state_dir": settings.state_dir,
        "providers": [
            {
                "name": name,
                "url": addresses[0] if addresses else None,
                "mirrors": addresses[1:] if addresses else [],
                "fetched": name not in status.providers,
                "problem": status.providers.get(name),
            }
            for name, addresses in _providers(settings, status)
        ],
        "lists": [
            {**_list_document(entry, now), "source": _source_of(entry, status)}
            for entry in status.lists
        ],
        "matches": status.matches,
        "held_entries": held_fields(status.held),
        "to_review": status.to_review,
        "withdrawn_matches_count": len(status.withdrawn),
        "withdrawn_matches": [
            {
                "id": match.id,
                **path_fields(match.path),
                "list": hit.list_name,
                "entry": hit.entry,
                "in_place": match.in_place,
                "last_seen": match.last_seen,
                "withdrawn_generation": hit.withdrawn_generation,
            }
            for match, hit in status.withdrawn[:MOST_SHOWN]
        ],
    }
    kept, reports, scan = status.quarantine, status.reports, _last_scan(status)
    document |= {
        "quarantine": kept and {"files": kept.files, "bytes": kept.sealed_bytes},
        "reports": reports and reports.counts,
        "reports_overdue": reports and reports.overdue,
        "notices": status.notices and _notices_document(status.notices),
        "exceptions": status.exceptions and _exceptions_document(status.exceptions),
        "alerts": status.alerts and _alerts_document(status.alerts),
        "last_scan": scan
        and {
            "time": scan.time,
            "exit_code": scan.data.get("exit_code"),
            "believed_unchanged": scan.data.get("believed_unchanged"),
        },
        "published": status.published,
        "problems": status.problems,
        "exit_code": status.exit_code,
    }
    return json_text(document)


def _exceptions_document(exceptions: ExceptionsStatus) -> dict[str, Any]:
    parts = {"ending": exceptions.ending, "waiting": exceptions.waiting}
    return {
        "standing": exceptions.standing,
        **{
            name: [{"id": r.id, "about": r.about, "until": r.until} for r in rulings]
            for name, rulings in parts.items()
        },
    }


def _notices_document(notices: NoticesStatus) -> dict[str, Any]:
    return {
        "open": [
            {
                "provider": standing.provider,
                "id": standing.notice.id,
                "status": str(standing.notice.status),
                "severity": str(standing.notice.severity),
                "headline": standing.notice.headline,
                "expires": standing.notice.expires,
            }
            for standing in notices.open
        ],
        "acknowledged": notices.acknowledged,
        "alarming": notices.alarming,
    }


def _alerts_document(alerts: Book) -> dict[str, Any]:
    failing = {name: r.problem for name, r in alerts.receivers.items() if r.problem is not None}
    return {"waiting": len(alerts.waiting), "failing": failing}


def _last_scan(status: Status) -> Record | None:
    return None if status.audit is None else status.audit.last_scan


def _list_document(status: ListStatus, now: datetime) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": status.name,
        "provider": status.provider,
        "usable": status.usable,
        "fresh": status.fresh,
        "problem": status.problem,
        "warnings": status.warnings,
        "refused": status.refused
        and {
            "time": status.refused.time,
            "exit_code": status.refused.exit_code,
            "reason": status.refused.reason,
        },
    }
    manifest = status.manifest
    if manifest is not None:
        document |= {
            "generation": manifest.generation,
            "published_at": manifest.published_at,
            "age_s": int((now - manifest.published_at).total_seconds()),
            "expires": manifest.expires,
            "entries": manifest.entries,
            "digests": manifest.with_digest,
            "share_with_size": manifest.with_size / manifest.entries if manifest.entries else 0.0,
            "recognised_by": {
                by: count / manifest.entries if manifest.entries else 0.0
                for by, count in status.recognised.items()
            },
            "last_fetch": manifest.fetched_at,
            "last_check": manifest.checked_at,
            "verified_since": manifest.verified_since,
            "index_bytes": sum(run.length for run in manifest.runs),
        }
    return document


_RENDERERS: dict[str, Callable[[Settings, Status, datetime], str]] = {
    "text": _text,
    "json": _json,
    "prometheus": _prometheus,
}
