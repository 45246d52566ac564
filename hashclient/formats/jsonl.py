"""The format for scripts: one JSON object a line, the summary last (`docs/jsonl.schema.json`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hashclient.fsio import path_fields
from hashclient.model import Hit, Kind, Outcome
from hashclient.summary import Summary

if TYPE_CHECKING:
    from hashclient.formats import Context


class JsonlFormatter:
    """Writes outcomes and summary as lines of ASCII JSON, `type` first."""

    def __init__(self, context: Context) -> None:
        """Write what `context` asks for."""
        self._show_digests = context.show_digests

    def begin(self) -> None:
        """Begin with the first outcome."""

    def outcome(self, outcome: Outcome) -> str:
        """Return one outcome as a line."""
        document: dict[str, Any] = {"type": str(outcome.kind), **path_fields(outcome.path)}
        document["size"] = outcome.size
        if (recorded := outcome.recorded) is not None:
            document["id"] = recorded.id
            document["state"] = str(recorded.state)
            document["first_seen"] = recorded.first_seen.isoformat()
            document["last_seen"] = recorded.last_seen.isoformat()
        if outcome.kind in (Kind.MATCH, Kind.CONFLICT):
            document.update(_hit_fields(outcome.hits[0]))
            if len(outcome.hits) > 1:
                document["more"] = [_hit_fields(hit) for hit in outcome.hits[1:]]
        if outcome.acted:
            document["actions"] = [
                {"action": str(a.action), "done": a.done, "detail": a.detail} for a in outcome.acted
            ]
        if outcome.reason is not None:
            document["reason"] = outcome.reason
        if self._show_digests and outcome.digests:
            document["digests"] = {a.label: d.hex() for a, d in sorted(outcome.digests.items())}
        return json.dumps(document)

    def end(self, summary: Summary | None) -> str | None:
        """Return the summary as a line."""
        if summary is None:
            return None
        return json.dumps(
            {
                "type": "summary",
                "inputs": summary.inputs,
                **{str(kind): summary.counts[kind] for kind in Kind},
                "files_read": summary.files_read,
                "bytes_read": summary.bytes_read,
                "elapsed_s": round(summary.elapsed_s, 3),
                "lists": [
                    {"name": s.name, "generation": s.generation, "fresh": s.fresh}
                    | ({"in_grace": True} if s.in_grace else {})
                    for s in summary.lists
                ],
                "exit_code": int(summary.exit_code),
            }
        )


def _hit_fields(hit: Hit) -> dict[str, Any]:
    return {
        "list": hit.list_name,
        "entry": hit.entry,
        "category": hit.category,
        "generation": hit.generation,
        "algorithms": [a.label for a in hit.algorithms],
    }
