"""Plans the filing of a report: which files are uploaded, and whether they are uploaded sealed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import msgspec

from hashclient.config.tables import ServiceDestination
from hashclient.core.errors import HashclientError, StateError
from hashclient.core.objecturi import is_object_uri
from hashclient.packages.document import Document, ReportedMatch, file_path
from hashclient.quarantine.evidence import Proven, find_item, plain_source, sealed_source
from hashclient.quarantine.item import evidence_path, require_quarantine
from hashclient.reporting.destinations.interface import Work
from hashclient.reporting.facts import plain_facts
from hashclient.system.text import printable


class Plan(msgspec.Struct, frozen=True):
    """The plan of the filing of a report.

    `upload` are the ids of matches whose evidence is uploaded, in the order of the uploads.
    `sealed_to` are the public keys of evidence that is uploaded sealed, by match id. `facts` are
    the known facts about sources, by match id and name. `open_evidence` returns the file of a match
    after proving that it is the file that matched.
    """

    document: Document
    incident_type: str
    upload: tuple[str, ...]
    sealed_to: Mapping[str, Sequence[str]]
    facts: Mapping[str, Mapping[str, str]]
    open_evidence: Callable[[ReportedMatch], AbstractContextManager[Proven]]


def make_plan(
    document: Document, table: ServiceDestination, work: Work
) -> tuple[Plan, list[str], dict[str, HashclientError]]:
    """Return the plan, the matches that need a secret key, and matches that cannot be sent.

    These files are reported without evidence:

    - files that are neither at their paths nor in quarantine;
    - files whose upload the configuration forbids;
    - streams, whose content was not kept.

    A match cannot be sent if its file is missing without a known reason, or if the facts about its
    source are not available; the exception says why.

    Raises:
        StateError: the file of a match was isolated, and the whole quarantine is missing.
    """
    record, quarantine_dir = work.record, work.session.settings.layout.quarantine
    upload, waiting = [], []
    facts: dict[str, dict[str, str]] = {}
    stuck: dict[str, HashclientError] = {}
    sealed_to: dict[str, Sequence[str]] = {}
    for match in document.matches:
        item = find_item(quarantine_dir, match.id)
        # The record of matches is read, because the file may have been isolated after the document
        # was written.
        known = record.get(match.id)
        if item is None and known.is_isolated:
            require_quarantine(quarantine_dir)
        in_place = known.in_place and not known.is_stream
        if table.evidence == "sealed" and item is not None:
            upload.append(match.id)
            sealed_to[match.id] = item.recipients
        if table.evidence == "file" and (in_place or item is not None):
            upload.append(match.id)
            path = file_path(match)
            if item is None and not is_object_uri(path) and not os.path.lexists(path):
                stuck[match.id] = StateError(
                    f"file is gone: {printable(path)}",
                    hint="scan the file again; if it is gone, `hashclient matches close` closes "
                    "the match",
                )
            if not in_place and not work.identities:
                waiting.append(match.id)
        try:
            if found := plain_facts(work.session, work.identities, known, work.asked):
                facts[match.id] = found.texts()
        except HashclientError as error:
            stuck.setdefault(match.id, error)

    @contextlib.contextmanager
    def open_evidence(match: ReportedMatch) -> Iterator[Proven]:
        if table.evidence == "file":
            known = record.get(match.id)
            sealer = work.session.sealer()
            with plain_source(known, quarantine_dir, work.identities, sealer) as proven:
                yield proven
            return
        item = find_item(quarantine_dir, match.id)
        if item is None:
            raise StateError(f"sealed copy is missing: match {match.id}")
        path = evidence_path(quarantine_dir, match.id)
        yield sealed_source(path, item.evidence_sha256, item.evidence_bytes)

    upload_order = tuple(upload)
    plan = Plan(document, table.incident_type, upload_order, sealed_to, facts, open_evidence)
    return plan, waiting, stuck
