"""How `provider status` shows a repository: as text and as JSON."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashclient.provider.results import Status


def status_json(found: Status) -> str:
    """Return what is published as a JSON document."""
    roles = [
        {
            "name": r.name,
            "version": r.version,
            "expires": r.expires.isoformat(),
            "keys": r.keys,
            "threshold": r.threshold,
        }
        for r in found.roles
    ]
    lists = [
        {
            "name": entry.name,
            "generation": entry.generation,
            "published_at": entry.published_at.isoformat(),
            "live": entry.live,
            "segments": entry.segments,
        }
        for entry in found.lists
    ]
    document = {"root_sha256": found.root_sha256, "roles": roles, "lists": lists}
    return json.dumps(document, indent=2)


def status_text(found: Status, now: datetime) -> str:
    """Return what is published as two tables; what has expired at `now` is marked."""
    rows = [["ROLE", "VERSION", "KEYS", "EXPIRES"]]
    for role in found.roles:
        expired = "  expired" if role.expires <= now else ""
        keys = f"{role.threshold} of {role.keys}"
        rows.append(
            [role.name, str(role.version), keys, f"{role.expires:%Y-%m-%d %H:%M}Z{expired}"]
        )
    lists = [["LIST", "GENERATION", "LIVE", "SEGMENTS", "PUBLISHED"]]
    lists += [
        [
            entry.name,
            str(entry.generation),
            str(entry.live),
            str(entry.segments),
            f"{entry.published_at:%Y-%m-%d %H:%M}Z",
        ]
        for entry in found.lists
    ]
    parts = [_aligned(rows), _aligned(lists) if found.lists else "no list yet"]
    return "\n\n".join([*parts, f"root.json sha256 {found.root_sha256}"])


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
