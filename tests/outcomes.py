"""Outcomes in the form that formats get, for tests that neither record nor act."""

from __future__ import annotations

from typing import Any

from hashclient.core.kinds import Kind
from hashclient.core.model import Acted, Handled, Hit, MatchRef, Outcome


def handled(
    kind: Kind,
    path: str,
    size: int | None = None,
    reason: str | None = None,
    hits: tuple[Hit, ...] = (),
    *,
    record: MatchRef | None = None,
    acted: tuple[Acted, ...] = (),
    **more: Any,
) -> Handled:
    """Return an outcome with its record and its actions; `more`: further fields of the outcome."""
    return Handled(Outcome(kind, path, size, reason, hits, **more), record, acted)
