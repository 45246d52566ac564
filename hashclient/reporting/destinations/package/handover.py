"""Hands a report over as a package in a directory, without a network, and takes it back.

The record of the report names the package before it appears, so the attempt after a kill recognises
its own package and does not add a second one. `package` makes packages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from hashclient.configfile.tables import PackageDestination
from hashclient.errors import UsageError
from hashclient.packages.contents import DOCUMENT_NAME
from hashclient.packages.document import Document, Evidence
from hashclient.quarantine.age import canonical_recipient
from hashclient.quarantine.evidence import find_item
from hashclient.reporting.custody import retraction_note
from hashclient.reporting.describing import encode_document, missing_about
from hashclient.reporting.destinations.interface import Rehearsal, Work
from hashclient.reporting.destinations.package.package import (
    Packager,
    gather,
    package_name,
    remove_unfinished,
)
from hashclient.reporting.evidence import seal_in_place, sealed_evidence
from hashclient.reporting.report import Report, Sent, State
from hashclient.system.files import make_private_dir, user_path
from hashclient.system.layout import SEALED_DIR
from hashclient.system.outputs import named_directory, replaced_file
from hashclient.system.text import excerpt, printable


class HandOver:
    """Puts packages into one directory. The caller holds the outbox's lock."""

    def __init__(self, work: Work, table: PackageDestination) -> None:
        """Keep the arguments."""
        self._outbox = work.outbox
        self._session = work.session
        self._record = work.record
        self._directory = user_path(table.directory)
        self._recipients = table.recipients
        self._allow_closed = work.allow_closed

    def renew(self, report: Report) -> Report:
        """Do nothing: a begun package is finished as the journal says."""
        return report

    def rehearse(self, report: Report) -> Rehearsal:
        """Return the document, the evidence, and who cannot open it."""
        document = self._outbox.described(report, self._record)
        evidence = {m.id: m.evidence for m in document.matches if m.evidence is not None}
        missing = missing_about(document.reporter)
        if not self._directory.is_dir():
            missing.append(f"no directory for packages: {printable(self._directory)}")
        for match in document.matches:
            if match.id not in evidence and not (report.seal_evidence and match.in_place):
                missing.append(f"match {match.id}: its file is not in quarantine")
        for match_id, recipients in self._closed(evidence).items():
            closed = ", ".join(map(excerpt, recipients))
            missing.append(f"match {match_id}: its evidence is not sealed to {closed}")
        files = tuple(sealed.name for sealed in evidence.values())
        return Rehearsal({DOCUMENT_NAME: encode_document(document)}, files, tuple(missing))

    def send(self, report: Report) -> Sent:
        """Make the package of a report and put it there, unless it is there already.

        Raises:
            UsageError: one of its recipients cannot open the sealed files in it.
            HashclientError: it cannot be made; the directory has no package.
        """
        settings = self._session.settings
        folder = self._outbox.folder(report.id)
        packager = Packager(self._directory, self._recipients, self._session)
        notes: list[str] = []
        closed: tuple[str, ...] = ()
        if report.package is None or not packager.is_there(report.package):
            # Before files in place are sealed for the package, which takes a while.
            self._refuse_closed(sealed_evidence(settings.layout.quarantine, report.matches))
            document = self._document(report, notes)
            evidence = {m.id: m.evidence for m in document.matches if m.evidence is not None}
            closed = self._refuse_closed(evidence)
            content = gather(document, (settings.layout.quarantine, folder / SEALED_DIR))
            data = {"report": report.id, "to": report.destination, "by": self._session.operator}
            with packager.made(content, data) as package:
                report = self._outbox.save(report.replace(state=State.SUBMITTING, package=package))
        done = report.replace(state=State.SUBMITTED, next_attempt=None, problem=None)
        done = done.noted(
            self._session.now(),
            "submitted",
            package=package_name(report.id, self._recipients),
            by=self._session.operator,
            **({"closed": list(closed)} if closed else {}),
        )
        done = self._outbox.settle(self._outbox.save(done), self._record)
        _remove_sealed(folder)
        assert done.package is not None
        detail = f"handed over: {self._directory / done.package.name}"
        return Sent(done, detail, notes=tuple(notes))

    def _document(self, report: Report, notes: list[str]) -> Document:
        """Return the document of a report; on request, files in place are sealed for it.

        A begun package keeps its document, unless its evidence was sealed to other keys since.
        """
        folder = self._outbox.folder(report.id)
        if report.is_untouched:
            sealed = self._seal_in_place(report, notes)
            return self._outbox.write_document(folder, report, self._record, sealed)
        document = self._outbox.document(report)
        named = {m.id: m.evidence for m in document.matches if m.evidence is not None}
        now = sealed_evidence(self._session.settings.layout.quarantine, tuple(named))
        if {**named, **now} == named:
            return document
        return self._outbox.write_document(folder, report, self._record, named)

    def _refuse_closed(self, evidence: Mapping[str, Evidence]) -> tuple[str, ...]:
        """Refuse evidence that a recipient of the package cannot open, unless a person allows it.

        `evidence` is by match. Return the matches whose evidence some recipient cannot open.

        Raises:
            UsageError: there is such evidence, and it is not allowed.
        """
        closed = self._closed(evidence)
        if closed and not self._allow_closed:
            match_id, (recipient, *_) = next(iter(closed.items()))
            others = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
            raise UsageError(
                f"the recipient cannot open the evidence of match {match_id}{others}:"
                f" {excerpt(recipient)}",
                hint="`hashclient quarantine add-recipient KEY` names them, and `quarantine reseal"
                " --all --identity FILE` seals earlier copies to them, too; or `report submit"
                " REPORT --allow-closed` hands it over as it is",
            )
        return tuple(closed)

    def _closed(self, evidence: Mapping[str, Evidence]) -> dict[str, list[str]]:
        """Return by match the recipients of the package who cannot open its evidence."""
        closed: dict[str, list[str]] = {}
        for recipient in self._recipients:
            key = canonical_recipient(recipient)
            for match_id, sealed in evidence.items():
                if key not in map(canonical_recipient, sealed.recipients):
                    closed.setdefault(match_id, []).append(recipient)
        return closed

    def _seal_in_place(self, report: Report, notes: list[str]) -> dict[str, Evidence]:
        """On request, seal files that are not in quarantine into the folder of the report."""
        if not report.seal_evidence:
            return {}
        settings = self._session.settings
        configured = settings.config.quarantine.recipients
        recipients = tuple(dict.fromkeys((*configured, *self._recipients)))
        directory = make_private_dir(self._outbox.folder(report.id) / SEALED_DIR)
        sealer = self._session.sealer()
        sealed = {}
        for match_id in report.matches:
            if find_item(settings.layout.quarantine, match_id) is not None:
                continue
            match = self._record.get(match_id)
            path = directory / f"{match_id}.age"
            evidence: Evidence | str = "neither in place nor in quarantine"
            if match.in_place:
                evidence = seal_in_place(match, path, recipients, sealer)
            if isinstance(evidence, str):
                notes.append(f"no evidence of match {match_id}: {evidence}")
            else:
                sealed[match_id] = evidence
        return sealed

    def take_back(self, report: Report) -> Sent:
        """Retract a package; if it was handed over, put the signed note of this beside it.

        Raises:
            HashclientError: the retraction cannot be noted, or the note cannot be written.
        """
        with contextlib.suppress(OSError), named_directory(self._directory) as directory:
            remove_unfinished(directory, report.id)
        _remove_sealed(self._outbox.folder(report.id))
        if report.state is not State.RETRACTED:
            report = self._outbox.retracted(report, self._record)
        if self.is_taken_back(report):
            return Sent(report, "retracted")
        note = retraction_note(self._session.settings.layout.audit, report.id)
        with replaced_file(self._directory / _note_name(report)) as stream:
            stream.write(note)
        return Sent(report, f"retracted: a signed note is beside it: {_note_name(report)}")

    def is_taken_back(self, report: Report) -> bool:
        """Return whether a retracted package is gone from its place or has a note beside it."""
        if report.package is None:
            return True
        there = os.path.lexists(self._directory / report.package.name)
        return not there or os.path.lexists(self._directory / _note_name(report))


def _remove_sealed(folder: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(folder / SEALED_DIR)


def _note_name(report: Report) -> str:
    return f"hashclient-report-{report.id}-retraction.json"
