"""What a document says of the evidence: the sealed copies in quarantine, and those made for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hashclient.core.match import Match
from hashclient.errors import StateError
from hashclient.index.blinding import Sealer
from hashclient.quarantine.age import Chunks, parse_recipients
from hashclient.quarantine.evidence import find_item, source_in_place
from hashclient.quarantine.item import Item
from hashclient.quarantine.sealing import seal_stream
from hashclient.reporting.document import Evidence
from hashclient.system.files import atomic_file


def sealed_evidence(quarantine_dir: Path, ids: Sequence[str]) -> dict[str, Evidence]:
    """Return what is in quarantine of the matches `ids`, by match.

    Raises:
        StateError: what is there cannot be read, or is damaged.
    """
    found = {}
    for match_id in ids:
        item = find_item(quarantine_dir, match_id)
        if item is not None:
            found[match_id] = evidence_of(item)
    return found


def evidence_of(item: Item) -> Evidence:
    """Return what a document says of the sealed copy of an item."""
    return Evidence(
        evidence_name(item.id), item.evidence_sha256, item.evidence_bytes, item.recipients
    )


def evidence_name(match_id: str) -> str:
    """Return the name of the evidence of a match within a package."""
    return f"evidence/{match_id}.age"


def seal_in_place(
    match: Match, path: Path, recipients: Sequence[str], sealer: Sealer
) -> Evidence | str:
    """Seal the file of a match from where it was found into `path`; it stays where it is.

    Return why that cannot be, if it is not there any more or cannot be proven.

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
