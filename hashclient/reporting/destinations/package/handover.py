"""Hands a report over as a package in a directory, and retracts a report with its package.

The record of the report names the package before the package gets its name in the directory. If the
process is killed, the next attempt recognises the package by this name and does not make a second
package. The module `package` makes packages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from hashclient.config.tables import PackageDestination
from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.packages.contents import DOCUMENT_NAME
from hashclient.packages.document import Document, Evidence, facts_name
from hashclient.quarantine.age import canonical_recipient
from hashclient.quarantine.evidence import find_item
from hashclient.reporting.custody import retraction_note
from hashclient.reporting.describing import Sealed, encode_document, missing_about, seal_in_place
from hashclient.reporting.destinations.interface import Rehearsal, Work
from hashclient.reporting.destinations.package.package import (
    Packager,
    gather,
    package_name,
    remove_unfinished,
)
from hashclient.reporting.facts import facts_known, seal_facts
from hashclient.reporting.report import Report, Sent, State
from hashclient.system.files import make_private_dir, user_path
from hashclient.system.layout import SEALED_DIR
from hashclient.system.outputs import named_directory, replaced_file
from hashclient.system.text import excerpt, printable


class HandOver:
    """The destination that puts packages into a directory, under the lock of the outbox."""

    def __init__(self, work: Work, table: PackageDestination) -> None:
        """Store the arguments."""
        self._outbox = work.outbox
        self._session = work.session
        self._record = work.record
        self._directory = user_path(table.directory)
        self._recipients = table.recipients
        self._work = work

    def renew(self, report: Report) -> Report:
        """Return the report unchanged, because `send` finishes a package that was begun."""
        return report

    def rehearse(self, report: Report) -> Rehearsal:
        """Return the document, the names of the sealed files, and messages about missing parts."""
        document = self._outbox.described(report, self._record)
        missing = missing_about(document.reporter)
        if not self._directory.is_dir():
            missing.append(f"no directory for packages: {printable(self._directory)}")
        for match in document.matches:
            if match.evidence is None and not (report.seal_evidence and match.in_place):
                missing.append(f"match {match.id}: its file is not in quarantine")
        for match_id, recipients in self._closed(document).items():
            closed = ", ".join(map(excerpt, recipients))
            missing.append(f"match {match_id}: its evidence is not sealed to {closed}")
        stuck: dict[str, HashclientError] = {}
        files = [name for match in document.matches for name in match.sealed]
        gather(document, self._places(report), stuck)
        for match_id in report.matches:
            try:
                if facts_known(self._session, self._record.get(match_id), self._work.asked):
                    files.append(facts_name(match_id))
            except HashclientError as error:
                stuck.setdefault(match_id, error)
        missing += [f"match {match_id}: {error.message}" for match_id, error in stuck.items()]
        return Rehearsal({DOCUMENT_NAME: encode_document(document)}, tuple(files), tuple(missing))

    def _places(self, report: Report) -> tuple[Path, Path]:
        """Return the directories with sealed files: the quarantine, and a folder of the report."""
        folder = self._outbox.folder(report.id)
        return self._session.settings.layout.quarantine, folder / SEALED_DIR

    def send(self, report: Report) -> Sent:
        """Make the package of a report in the directory, unless the package exists already.

        Raises:
            HashclientError: the package cannot be made, and the directory does not contain the
                package.
        """
        folder = self._outbox.folder(report.id)
        packager = Packager(self._directory, self._recipients, self._session)
        notes: list[str] = []
        closed: tuple[str, ...] = ()
        if report.package is None or not packager.is_there(report.package):
            # The recipients are checked before files outside of the quarantine are sealed for the
            # package, because sealing may take long.
            stuck = self._refused(self._outbox.described(report, self._record))
            if stuck:
                return Sent.stuck_at(report, stuck)
            document = self._document(report, notes, stuck)
            closed = tuple(self._closed(document))
            stuck |= self._refused(document)
            content = gather(document, self._places(report), stuck)
            if stuck:
                return Sent.stuck_at(report, stuck)
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

    def _document(
        self, report: Report, notes: list[str], stuck: dict[str, HashclientError]
    ) -> Document:
        """Seal files and facts for the package, and return the document of the report.

        An interrupted package keeps its document, unless its evidence was sealed to other keys
        meanwhile. Matches whose facts are not available are added to `stuck`.
        """
        folder = self._outbox.folder(report.id)
        if report.is_untouched:
            sealed = self._seal_in_place(report, notes)
            for match_id in report.matches:
                match, directory = self._record.get(match_id), folder / SEALED_DIR
                try:
                    facts = seal_facts(
                        self._session, self._recipients, match, self._work.asked, directory
                    )
                except HashclientError as error:
                    stuck[match_id] = error
                    continue
                if facts is not None:
                    before = sealed.get(match_id, Sealed())
                    sealed[match_id] = msgspec.structs.replace(before, facts=facts)
            return self._outbox.write_document(folder, report, self._record, sealed)
        document = self._outbox.document(report)
        named = {m.id: Sealed(m.evidence, m.facts, m.context) for m in document.matches}
        now = self._outbox.sealed(report, self._record)
        if all(
            named[i].evidence in (None, here.evidence) and named[i].context == here.context
            for i, here in now.items()
        ):
            return document
        return self._outbox.write_document(folder, report, self._record, named)

    def _refused(self, document: Document) -> dict[str, HashclientError]:
        """Return an exception for each match with a file that a recipient cannot open.

        The result is empty if a person has allowed handing over such files.
        """
        if self._work.allow_closed:
            return {}
        return {
            match_id: UsageError(
                f"the recipient cannot open the evidence of match {match_id}: {excerpt(first)}",
                hint="`hashclient quarantine add-recipient KEY` names them, and `quarantine reseal"
                " --all --identity FILE` seals earlier copies to them, too; or `report submit"
                " REPORT --allow-closed` hands it over as it is",
            )
            for match_id, (first, *_) in self._closed(document).items()
        }

    def _closed(self, document: Document) -> dict[str, list[str]]:
        """Return, by match id, the recipients of the package who cannot open all its files."""
        closed: dict[str, list[str]] = {}
        for recipient in self._recipients:
            key = canonical_recipient(recipient)
            for match in document.matches:
                keys = (map(canonical_recipient, one.recipients) for one in match.sealed.values())
                if not all(key in each for each in keys):
                    closed.setdefault(match.id, []).append(recipient)
        return closed

    def _seal_in_place(self, report: Report, notes: list[str]) -> dict[str, Sealed]:
        """If `seal_evidence` is set, seal files that are not in quarantine for the report."""
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
                sealed[match_id] = Sealed(evidence)
        return sealed

    def take_back(self, report: Report) -> Sent:
        """Retract a report; if its package was handed over, write a signed note beside the package.

        Raises:
            HashclientError: the retraction cannot be recorded, or the note cannot be written.
        """
        with contextlib.suppress(OSError), named_directory(self._directory) as directory:
            remove_unfinished(directory, report.id)
        _remove_sealed(self._outbox.folder(report.id))
        if report.state is not State.RETRACTED:
            report = self._outbox.retracted(report, self._record)
        if self.is_taken_back(report):
            return Sent(report, "retracted")
        note = retraction_note(self._session.settings.layout.audit, report.id)
        path = self._directory / _note_name(report)
        try:
            with replaced_file(path) as stream:
                stream.write(note)
        except StateError as error:
            raise StateError(
                error.message,
                hint="the recipient has no signed note of this retraction yet: `hashclient report"
                " retract` writes the note when `directory` in [report.to] is there again",
            ) from error
        return Sent(report, f"retracted: hand over the signed note: {printable(path)}")

    def is_taken_back(self, report: Report) -> bool:
        """Return whether the note about a retraction exists, or is not needed without a package.

        The note about the retraction is also needed if the package is not in the directory any
        more, because the recipient may have taken the package.
        """
        return report.package is None or os.path.lexists(self._directory / _note_name(report))


def _remove_sealed(folder: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(folder / SEALED_DIR)


def _note_name(report: Report) -> str:
    return f"hashclient-report-{report.id}-retraction.json"
