"""The fields that the JSON formats share: one outcome, one entry, one summary, as plain values.

What `jsonl` writes is specified in `docs/jsonl.schema.json`; other formats take the same names, so
that a field is called the same wherever it stands.
"""

from __future__ import annotations

from typing import Any

from hashclient.fsio import path_fields, printable
from hashclient.model import Acted, Hit, Kind, Outcome, Recorded
from hashclient.summary import Summary


def file_fields(outcome: Outcome) -> dict[str, Any]:
    """Return which file an outcome is of, and what the record of matches says of it."""
    fields: dict[str, Any] = {**path_fields(outcome.path), "size": outcome.size}
    if outcome.recorded is not None:
        fields.update(record_fields(outcome.recorded))
    return fields


def record_fields(recorded: Recorded) -> dict[str, Any]:
    """Return the id of a match, and its story so far."""
    return {
        "id": recorded.id,
        "state": str(recorded.state),
        "in_place": recorded.in_place,
        "first_seen": recorded.first_seen.isoformat(),
        "last_seen": recorded.last_seen.isoformat(),
    }


def hit_fields(hit: Hit) -> dict[str, Any]:
    """Return which entry was hit; `complete` is there only where some of its digests disagree."""
    fields: dict[str, Any] = {
        "list": hit.list_name,
        "entry": hit.entry,
        "category": hit.category,
        "generation": hit.generation,
        "algorithms": [a.label for a in hit.algorithms],
    }
    return fields if hit.complete else {**fields, "complete": False}


def digest_fields(outcome: Outcome) -> dict[str, str]:
    """Return the digests of an outcome by algorithm; only for who has asked for them."""
    return {a.label: digest.hex() for a, digest in sorted(outcome.digests.items())}


def action_fields(acted: Acted) -> dict[str, Any]:
    """Return what became of one action; `done` is null where only the policy was asked."""
    return {"action": str(acted.action), "done": acted.done, "detail": acted.detail}


def done_word(acted: Acted) -> str:
    """Return whether an action was done, in one word."""
    return {True: "yes", False: "no", None: "planned"}[acted.done]


def words(text: str) -> str:
    """Return a text for people as it is, unless it holds what a terminal must not get.

    For a path there is `printable`, which no two paths are the same in.
    """
    return text if text.isprintable() else printable(text)


def summary_fields(summary: Summary) -> dict[str, Any]:
    """Return the counts of a run, the work, the lists used, and the exit code."""
    return {
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
