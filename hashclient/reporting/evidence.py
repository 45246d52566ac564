"""The evidence in a document: sealed copies in quarantine, and copies made for the report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hashclient.core.agefile import Chunks
from hashclient.core.match import Match
from hashclient.errors import StateError
from hashclient.index.blinding import Sealer
from hashclient.packages.document import Evidence, evidence_name
from hashclient.quarantine.age import parse_recipients
from hashclient.quarantine.evidence import find_item, source_in_place
from hashclient.quarantine.item import Item
from hashclient.quarantine.sealing import seal_stream
from hashclient.system.files import atomic_file


def sealed_evidence(quarantine_dir: Path, ids: Sequence[str]) -> dict[str, Evidence]:
    """Return the items in quarantine of the matches `ids`, by match.

    Raises:
        StateError: an item cannot be read, or is damaged.
    """
    found = {}
    for match_id in ids:
        item = find_item(quarantine_dir, match_id)
        if item is not None:
            found[match_id] = evidence_of(item)
    return found


def evidence_of(item: Item) -> Evidence:
    """Return the description of an item's sealed copy for a document."""
    return Evidence(
        evidence_name(item.id), item.evidence_sha256, item.evidence_bytes, item.recipients
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
