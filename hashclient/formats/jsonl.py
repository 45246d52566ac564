"""The format for scripts: one JSON object a line, the summary last (`docs/jsonl.schema.json`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hashclient.core.kinds import Kind
from hashclient.core.model import Acted, Handled, MatchRef
from hashclient.core.verdict import Summary
from hashclient.formats.fields import (
    action_fields,
    digest_fields,
    entry_fields,
    entry_names,
    file_fields,
    record_fields,
    run_fields,
    summary_fields,
)
from hashclient.formats.ready import ActedParts, HitParts, RecordParts, json_around_entry, quote
from hashclient.system.text import is_unicode

if TYPE_CHECKING:
    from hashclient.formats.registry import Context


#: The version of the schema, which every line contains; it changes when a field is removed or
#: changes its meaning.
SCHEMA = 1


class JsonlFormatter:
    """Writes outcomes and the summary as lines of ASCII JSON, with `type` and `schema` first."""

    def __init__(self, context: Context) -> None:
        """Write the outcomes in the form that `context` requires."""
        self._context = context
        self._show_digests = context.show_digests
        self._hits = HitParts(lambda hit: json_around_entry(hit, entry_names(hit)))
        self._records = RecordParts(_record_text)
        self._acted = ActedParts(_acted_text)
        self._host = {} if context.host is None else {"host": context.host}
        host = "".join(f'"host": {quote(name)}, ' for name in self._host.values())
        self._heads = {
            kind: f'{{"type": "{kind}", "schema": {SCHEMA}, {host}"path": ' for kind in Kind
        }

    def begin(self) -> None:
        """Return nothing, because the output begins with the first outcome."""

    def outcome(self, handled: Handled) -> str:
        """Return an outcome as one line."""
        outcome, record = handled.outcome, handled.record
        if (
            record is None
            or len(outcome.hits) != 1
            or outcome.members
            or outcome.reason is not None
            or outcome.evidence is not None
            or self._show_digests
            or not is_unicode(outcome.path)
        ):
            return json.dumps(self._document(handled))
        # There may be very many outcomes of this usual form, so they are written without the slower
        # module `json`.
        hit = outcome.hits[0]
        size = "null" if outcome.size is None else outcome.size
        before, after = self._hits.of(hit)
        return (
            f'{self._heads[outcome.kind]}{quote(outcome.path)}, "size": {size},'
            f' "id": {quote(record.id)}, {self._records.of(record)},'
            f" {before}{quote(hit.entry)}{after}{self._acted.of(handled.acted)}}}"
        )

    def _document(self, handled: Handled) -> dict[str, Any]:
        outcome = handled.outcome
        document: dict[str, Any] = {
            "type": str(outcome.kind),
            "schema": SCHEMA,
            **self._host,
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
        if outcome.exceptions:
            document["exceptions"] = outcome.exceptions
        if self._show_digests and outcome.digests:
            document["digests"] = digest_fields(outcome)
        return document

    def end(self, summary: Summary | None) -> str | None:
        """Return the summary as one line."""
        if summary is None:
            return None
        about = {**run_fields(self._context), **summary_fields(summary)}
        return json.dumps({"type": "summary", "schema": SCHEMA, **about})


def _acted_text(acted: tuple[Acted, ...]) -> str:
    """Return the actions as JSON for the end of an object, without its closing brace."""
    return f', "actions": {json.dumps([*map(action_fields, acted)])}' if acted else ""


def _record_text(record: MatchRef) -> str:
    """Return the fields of a recorded match except its id, as JSON without the braces."""
    fields = record_fields(record)
    del fields["id"]
    return json.dumps(fields).removeprefix("{").removesuffix("}")
