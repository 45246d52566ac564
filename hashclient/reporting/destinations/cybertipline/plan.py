"""What is filed with a service: which files are uploaded, in which form, and how each is opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from hashclient.config import ServiceDestination
from hashclient.errors import StateError
from hashclient.index.blinding import Sealer
from hashclient.matches.store import Matches
from hashclient.quarantine.evidence import Proven, find_item, plain_source, sealed_source
from hashclient.quarantine.item import evidence_path
from hashclient.reporting.document import Document, ReportedMatch, file_path
from hashclient.system.text import printable


class Plan(msgspec.Struct, frozen=True):
    """What is to be filed.

    `upload` are the matches whose evidence is uploaded, in order; `sealed_to` are the public keys
    for those of which the sealed form is. `open_evidence` gives the evidence of one, proven.
    """

    document: Document
    incident_type: str
    upload: tuple[str, ...]
    sealed_to: Mapping[str, Sequence[str]]
    open_evidence: Callable[[ReportedMatch], AbstractContextManager[Proven]]


def make_plan(
    document: Document,
    destination: ServiceDestination,
    quarantine_dir: Path,
    record: Matches,
    load_sealer: Callable[[], Sealer],
    identities: Sequence[Any],
) -> tuple[Plan, list[str]]:
    """Return what is to be filed, and the matches whose evidence needs an identity first.

    Files that are neither in place nor in quarantine, and those that are not wanted, are reported
    without evidence.

    Raises:
        StateError: a file is not where it was found, though nobody has said why.
    """
    upload, waiting = [], []
    sealed_to: dict[str, Sequence[str]] = {}
    for match in document.matches:
        item = find_item(quarantine_dir, match.id)
        # As it is now: it may have been taken away since the document was written.
        in_place = record.get(match.id).in_place
        if destination.evidence == "sealed" and item is not None:
            upload.append(match.id)
            sealed_to[match.id] = item.recipients
        if destination.evidence == "file" and (in_place or item is not None):
            upload.append(match.id)
            if item is None and not os.path.lexists(file_path(match)):
                raise StateError(
                    f"file is gone: {printable(file_path(match))}",
                    hint="scan it again; `hashclient matches close` settles what is gone",
                )
            if not in_place and not identities:
                waiting.append(match.id)

    @contextlib.contextmanager
    def open_evidence(match: ReportedMatch) -> Iterator[Proven]:
        if destination.evidence == "file":
            known = record.get(match.id)
            with plain_source(known, quarantine_dir, identities, load_sealer()) as proven:
                yield proven
            return
        item = find_item(quarantine_dir, match.id)
        if item is None:
            raise StateError(f"sealed copy is missing: match {match.id}")
        path = evidence_path(quarantine_dir, match.id)
        yield sealed_source(path, item.evidence_sha256, item.evidence_bytes)

    upload_order = tuple(upload)
    plan = Plan(document, destination.incident_type, upload_order, sealed_to, open_evidence)
    return plan, waiting
