"""The format for scripts: one JSON object a line, the summary last (`docs/jsonl.schema.json`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hashclient.core.model import Handled
from hashclient.core.verdict import Summary
from hashclient.formats.fields import (
    action_fields,
    digest_fields,
    entry_fields,
    file_fields,
    run_fields,
    summary_fields,
)

if TYPE_CHECKING:
    from hashclient.formats.interface import Context


#: The version of the schema, in every line: another one where a field goes or means another thing.
SCHEMA = 1


class JsonlFormatter:
    """Writes outcomes and summary as lines of ASCII JSON, `type` and `schema` first."""

    def __init__(self, context: Context) -> None:
        """Write what `context` asks for."""
        self._context = context
        self._show_digests = context.show_digests

    def begin(self) -> None:
        """Begin with the first outcome."""

    def outcome(self, handled: Handled) -> str:
        """Return one outcome as a line."""
        outcome = handled.outcome
        document: dict[str, Any] = {
            "type": str(outcome.kind),
            "schema": SCHEMA,
            **file_fields(handled),
        }
        if outcome.hits:
            document.update(entry_fields(outcome.hits[0]))
        if len(outcome.hits) > 1:
            document["more"] = [entry_fields(hit) for hit in outcome.hits[1:]]
        if handled.acted:
            document["actions"] = [action_fields(acted) for acted in handled.acted]
        if outcome.reason is not None:
            document["reason"] = outcome.reason
        if self._show_digests and outcome.digests:
            document["digests"] = digest_fields(outcome)
        return json.dumps(document)

    def end(self, summary: Summary | None) -> str | None:
        """Return the summary as a line."""
        if summary is None:
            return None
        about = {**run_fields(self._context), **summary_fields(summary)}
        return json.dumps({"type": "summary", "schema": SCHEMA, **about})
