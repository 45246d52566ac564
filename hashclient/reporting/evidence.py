"""The sealed files in a document: those in quarantine, and copies made for the report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from hashclient.core.agefile import Chunks
from hashclient.core.match import Match
from hashclient.errors import StateError
from hashclient.index.blinding import Sealer
from hashclient.packages.document import Context, Evidence, context_name, evidence_name
from hashclient.quarantine.age import parse_recipients
from hashclient.quarantine.evidence import find_item, source_in_place
from hashclient.quarantine.item import Belonging, Item
from hashclient.quarantine.sealing import seal_stream
from hashclient.reporting.describing import Sealed
from hashclient.system.files import atomic_file


def sealed_items(
    quarantine_dir: Path, ids: Iterable[str], *, with_context: bool
) -> dict[str, Sealed]:
    """Return what is in quarantine of the matches `ids`, by match.

    Raises:
        StateError: an item cannot be read, or is damaged.
    """
    items = {match_id: find_item(quarantine_dir, match_id) for match_id in ids}
    return {
        i: _sealed(item, item.context if with_context else ())
        for i, item in items.items()
        if item is not None
    }


def _sealed(item: Item, context: Sequence[Belonging]) -> Sealed:
    name = evidence_name(item.id)
    evidence = Evidence(name, item.evidence_sha256, item.evidence_bytes, item.recipients)
    return Sealed(
        evidence,
        context=tuple(
            Context(
                context_name(item.id, number),
                one.evidence_sha256,
                one.evidence_bytes,
                one.recipients,
                one.path,
                one.path_b64,
            )
            for number, one in enumerate(context, 1)
        ),
    )


def seal_in_place(
    match: Match, path: Path, recipients: Sequence[str], sealer: Sealer
) -> Evidence | str:
    """Seal the file of a match into `path`; the file itself stays in its place.

    Return why this is not possible, if the file is gone or cannot be proven; else None.

    Raises:
        StateError: the copy cannot be written.
        ConfigError: one of `recipients` is not a public key.
    """
    keys = parse_recipients(recipients)
    with contextlib.ExitStack() as stack:
        try:
            proven = stack.enter_context(source_in_place(match, sealer))
        except StateError as error:
            return error.message
        stream = stack.enter_context(atomic_file(path))
        written = seal_stream(Chunks(proven.chunks()).read, stream.write, keys)
    name = evidence_name(match.id)
    return Evidence(name, written.sha256, written.length, tuple(recipients))
