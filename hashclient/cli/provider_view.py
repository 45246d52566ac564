"""How `provider` shows a repository and its changes: as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hashclient.cli.app import App
from hashclient.cli.items import aligned
from hashclient.system.times import for_people, for_programs

if TYPE_CHECKING:
    from hashclient.provider.results import Published, Status


def status_json(found: Status) -> str:
    """Return the published state as a JSON document."""
    roles = [
        {
            "name": r.name,
            "version": r.version,
            "expires": for_programs(r.expires),
            "keys": r.keys,
            "threshold": r.threshold,
        }
        for r in found.roles
    ]
    lists = [
        {
            "name": entry.name,
            "generation": entry.generation,
            "published_at": for_programs(entry.published_at),
            "live": entry.live,
            "segments": entry.segments,
        }
        for entry in found.lists
    ]
    document = {"root_sha256": found.root_sha256, "roles": roles, "lists": lists}
    document["ended_lists"] = found.ended
    return json.dumps(document, indent=2)


def status_text(found: Status, now: datetime) -> str:
    """Return the published state as two tables; roles expired at `now` are marked."""
    rows = [["ROLE", "VERSION", "KEYS", "EXPIRES"]]
    for role in found.roles:
        expired = "  expired" if role.expires <= now else ""
        keys = f"{role.threshold} of {role.keys}"
        rows.append([role.name, str(role.version), keys, f"{for_people(role.expires)}{expired}"])
    lists = [["LIST", "GENERATION", "LIVE", "SEGMENTS", "PUBLISHED"]]
    lists += [
        [
            entry.name,
            str(entry.generation),
            str(entry.live),
            str(entry.segments),
            for_people(entry.published_at),
        ]
        for entry in found.lists
    ]
    parts = [aligned(rows), aligned(lists) if found.lists else "no list yet"]
    if found.ended:
        parts.append(f"ended: {', '.join(found.ended)}")
    return "\n\n".join([*parts, f"root.json sha256 {found.root_sha256}"])


def show_change(
    app: App,
    done: Published,
    what: str,
    output_format: str,
    more: Mapping[str, Any] = MappingProxyType({}),
    *,
    with_withdrawn: bool = False,
) -> None:
    """Print the result of a publication or a withdrawal; `what` names what was done to entries."""
    if output_format == "json":
        document = {
            "list": done.list_name,
            "generation": done.generation,
            what.removeprefix("would be "): done.changed,
            "live": done.live,
            **more,
        }
        app.out(json.dumps(document))
    else:
        app.out(
            f"list {done.list_name}: generation {done.generation}: {done.changed} {what},"
            f"{f' {done.withdrawn} withdrawn,' if with_withdrawn else ''} {done.live} live"
        )


def warn_doubles(app: App, done: Published, *, dry_run: bool) -> None:
    """Warn of added entries whose digests were all listed before, or given twice."""
    published = "they would be published" if dry_run else "they were published"
    for some, what in ((done.listed, "on the list before"), (done.repeated, "given twice")):
        if some is not None:
            app.warn(
                f"{what}, by all their digests: {some.count:,} of {done.changed:,} entries,"
                f" the first from {some.first}",
                f"{published} all the same; `hashclient provider withdraw` takes entries"
                " off the list",
            )
