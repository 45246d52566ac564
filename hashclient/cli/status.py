"""`status`: what is here, and whether it can be relied on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.errors import ExitCode
from hashclient.fsio import path_fields, printable

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from hashclient.status import ListStatus


@click.command("status")
@click.option(
    "--verify", is_flag=True, help="Read all of the indexes and compare them with their digests."
)
@format_option("text", "json")
@pass_app
def command(app: App, output_format: str, verify: bool) -> ExitCode:
    """Show the lists: how old, how fresh, and what is on them.

    Ends with 0 only when every list is here, usable and fresh, so that a monitor can call it; a
    provider of which nothing was ever fetched counts as a missing list.
    It needs no network: it tells of the last fetch.

    \b
      hashclient status
      hashclient status --format json

    Exit codes: 7 a list is stale, 8 a list is missing or damaged; all are in `hashclient --help`.
    """
    import os

    from hashclient.status import providers_without_lists, read_status, withdrawn_matches

    now = app.now()
    settings = app.settings
    settings.providers()
    lists = read_status(settings, os.environ, now, verify=verify)
    code = ExitCode.OK
    for status in lists:
        code = max(code, status.exit_code)
    bare = providers_without_lists(settings, lists)
    if bare or not lists:
        code = ExitCode.STATE
    if output_format == "json":
        document = {
            "state_dir": str(settings.state_dir),
            "providers": [
                {"name": name, "url": provider.url, "fetched": name not in bare}
                for name, provider in sorted(settings.config.providers.items())
            ],
            "lists": [_document(status, now) for status in lists],
            "withdrawn_matches": [
                {
                    **path_fields(match.path),
                    "list": match.list_name,
                    "entry": match.entry,
                    "last_seen": match.last_seen.isoformat(),
                    "withdrawn_generation": match.withdrawn_generation,
                }
                for match in withdrawn_matches(settings)
            ],
            "exit_code": int(code),
        }
        app.out(json.dumps(document))
        return code
    for name, provider in sorted(settings.config.providers.items()):
        app.out(f"provider {name}  {provider.url}")
        if name in bare:
            app.out("  no list has been fetched; run `hashclient fetch`")
    for status in lists:
        for line in _lines(status, now):
            app.out(line)
    affected = withdrawn_matches(settings)
    if affected:
        app.out("entries withdrawn since they matched these paths:")
    for match in affected:
        app.out(f"  {printable(match.path)}  {match.list_name} {match.entry}")
    return code


def _lines(status: ListStatus, now: datetime) -> list[str]:
    manifest = status.manifest
    if manifest is None:
        return [f"list {status.name}", f"  state       {status.problem}"]
    state = status.problem or "fresh"
    share = 100 * manifest.with_size / manifest.entries if manifest.entries else 0
    digests = ", ".join(f"{a} {n:,}" for a, n in manifest.with_digest.items() if n) or "none"
    published = f"{manifest.published_at:%Y-%m-%d %H:%M} UTC"
    rows = {
        "state": state,
        "provider": manifest.provider,
        "generation": f"{manifest.generation}, published {published}",
        "age": _age(now - manifest.published_at),
        "expires": f"{manifest.expires:%Y-%m-%d %H:%M} UTC",
        "entries": f"{manifest.entries:,} live",
        "digests": digests,
        "sizes": f"{share:.0f} % of the entries have one",
        "fetched": f"{manifest.fetched_at:%Y-%m-%d %H:%M} UTC",
        "checked": f"{manifest.checked_at:%Y-%m-%d %H:%M} UTC",
    }
    return [f"list {status.name}", *(f"  {key:<11} {value}" for key, value in rows.items())]


def _age(age: timedelta) -> str:
    """Return how long ago something was, in the largest unit that gives two or more of it."""
    for unit, seconds in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if (count := int(age.total_seconds() // seconds)) >= 2:
            return f"{count:,} {unit}"
    return "less than two minutes"


def _document(status: ListStatus, now: datetime) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": status.name,
        "usable": status.usable,
        "fresh": status.fresh,
        "problem": status.problem,
    }
    manifest = status.manifest
    if manifest is not None:
        document |= {
            "provider": manifest.provider,
            "generation": manifest.generation,
            "published_at": manifest.published_at.isoformat(),
            "age_s": int((now - manifest.published_at).total_seconds()),
            "expires": manifest.expires.isoformat(),
            "entries": manifest.entries,
            "digests": manifest.with_digest,
            "share_with_size": manifest.with_size / manifest.entries if manifest.entries else 0.0,
            "last_fetch": manifest.fetched_at.isoformat(),
            "last_check": manifest.checked_at.isoformat(),
            "index_bytes": sum(run.length for run in manifest.runs),
        }
    return document
