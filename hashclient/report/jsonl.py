"""The format for scripts: one JSON object a line, the summary last (`docs/jsonl.schema.json`)."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

from hashclient.model import Hit, Kind, Outcome
from hashclient.summary import Summary


class JsonlFormatter:
    """Writes outcomes and summary as lines of ASCII JSON, `type` first."""

    def __init__(self, show_digests: bool) -> None:  # noqa: FBT001 - a table of formats calls it
        """`show_digests` adds the digests that were computed."""
        self._show_digests = show_digests

    def outcome(self, outcome: Outcome) -> str:
        """Return one outcome as a line."""
        document: dict[str, Any] = {"type": str(outcome.kind), **path_fields(outcome.path)}
        document["size"] = outcome.size
        if outcome.kind in (Kind.MATCH, Kind.CONFLICT):
            document.update(_hit_fields(outcome.hits[0]))
            if len(outcome.hits) > 1:
                document["more"] = [_hit_fields(hit) for hit in outcome.hits[1:]]
        if outcome.reason is not None:
            document["reason"] = outcome.reason
        if self._show_digests and outcome.digests:
            document["digests"] = {a.label: d.hex() for a, d in sorted(outcome.digests.items())}
        return json.dumps(document)

    def summary(self, summary: Summary) -> str:
        """Return the summary as a line."""
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


def path_fields(path: str) -> dict[str, str]:
    """Return the fields that give `path` without loss: its text, and its bytes if not UTF-8.

    Raises:
        Nothing: any path can be written.
    """
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode()}
    except UnicodeDecodeError:
        return {
            "path": raw.decode(errors="replace"),
            "path_b64": base64.b64encode(raw).decode(),
        }


def _hit_fields(hit: Hit) -> dict[str, Any]:
    return {
        "list": hit.list_name,
        "entry": hit.entry,
        "category": hit.category,
        "generation": hit.generation,
        "algorithms": [a.label for a in hit.algorithms],
    }
