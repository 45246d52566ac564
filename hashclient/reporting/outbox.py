"""The outbox: makes and changes reports in the state directory, and records their states.

A report is made while the lock file `prepare.lock` is locked, and its folder gets its name when the
report is complete. A state of a report is *settled* when it is written to the audit log and the
record of matches. After the first state is settled, a report may be changed only while the lock
file `lock` is locked. A new state is first written to the record of the report, then to the audit
log, and then to the record of matches. If the process is killed between these writes, the next
command writes the state to the audit log and the record of matches again. The module `submit` sends
reports.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from hashclient.audit.log import Event
from hashclient.core.errors import (
    ConfigError,
    HashclientError,
    StateError,
    UsageError,
    VerificationError,
)
from hashclient.core.match import REPORT_HELD, REPORT_RETRACTED, REPORT_WANTED, Match
from hashclient.decisions.review import ReviewPolicy
from hashclient.matches.store import Matches
from hashclient.packages.document import FORMAT, Document, Provider, parse_document
from hashclient.quarantine.item import require_quarantine
from hashclient.reporting.describing import Sealed, encode_document, make_document, sealed_items
from hashclient.reporting.destinations.registry import Table, find_destination, kind_of
from hashclient.reporting.report import (
    Apart,
    Decision,
    Report,
    State,
    load,
    load_all,
    new_report_id,
    report_ids,
    save,
)
from hashclient.reporting.settling import is_reopened, settle, unsettled
from hashclient.session import Session
from hashclient.system.files import (
    MAX_STATE_BYTES,
    TEMP_PREFIX,
    fsync_dir,
    is_there,
    make_private_dir,
    read_regular,
    state_error,
    state_errors,
    write_atomic,
    writer_lock,
)
from hashclient.system.layout import DOCUMENT_NAME, PREPARE_LOCK_NAME, ROOM_LOCK_NAME
from hashclient.system.text import counted, printable
from hashclient.system.versions import format_of, is_newer, older

#: A regular expression for the SHA-256 of a provider's root of trust.
ROOT_PATTERN = re.compile(r"[0-9a-f]{64}")
#: The highest number of matches in a report. The number of matches is limited because one record of
#: the audit log contains the ids of all matches, and the length of a record is limited.
MAX_MATCHES = 10_000
#: Seconds that a command waits for `prepare.lock`; a report of very many matches takes a minute.
PREPARE_WAIT_S = 120.0


class Outbox:
    """The reports of one state directory."""

    def __init__(self, session: Session) -> None:
        """Store the arguments; no file is read or made yet."""
        self.session = session
        self.settings = session.settings
        self.now = session.now
        self.policy = ReviewPolicy(session.settings.config.report)

    def folder(self, report_id: str) -> Path:
        """Return the folder of a report."""
        return self.settings.layout.reports / report_id

    def ids(self) -> list[str]:
        """Return the ids of all reports.

        Raises:
            StateError: the directory cannot be read.
        """
        return report_ids(self.settings.layout.reports)

    def get(self, report_id: str) -> Report:
        """Return the report `report_id`.

        Raises:
            UsageError: no report has this id.
            StateError: the report cannot be read, or is damaged.
        """
        return load(self.settings.layout.reports, report_id)

    def reports(self) -> Iterator[Report]:
        """Yield all reports, the oldest first.

        Raises:
            StateError: a report cannot be read, or is damaged.
        """
        yield from load_all(self.settings.layout.reports)

    def prepare(
        self,
        matches: Sequence[Match],
        record: Matches,
        destination: str | None,
        *,
        again: bool = False,
        seal_evidence: bool = False,
        with_context: bool = False,
    ) -> Report:
        """Make a report of `matches`, which is sent later.

        `record` is the open record of matches. If `destination` is None, the default destination is
        used. `again` allows matches that were already reported to this destination. `seal_evidence`
        says whether files that are not in quarantine are sealed for the package. `with_context`
        says whether files that were added to the items are put into the package, too.

        Raises:
            UsageError, ConfigError: the matches cannot be reported to the destination.
            StateError, AuditError: the report cannot be written. Or the report was written and will
                be sent, but the audit log or the record of matches cannot be written now.
        """
        name, where = find_destination(self.settings.config.report, destination)
        chosen = {match.id: match for match in matches}
        if not 0 < len(chosen) <= MAX_MATCHES:
            raise UsageError(
                f"a report is of 1 to {MAX_MATCHES} matches, not of {len(chosen)}",
                hint="`hashclient matches` lists them; make several reports of many",
            )
        for match in chosen.values():
            if ended := self.policy.ended(match, record.reviews(match.id)):
                raise UsageError(f"match {match.id} is not to be reported: it is {ended}")
        report = self._new_report(name, where, chosen)
        report = report.replace(seal_evidence=seal_evidence, with_context=with_context)
        with self._preparing():
            self._settle_new(record)
            if not again:
                self._refuse_reported(name, chosen.keys())
            return self._write_new(report, record)

    def prepare_wanted(
        self, destination: str, record: Matches, *, most: int, unreviewed: bool = False
    ) -> Report | None:
        """Make a report of up to `most` matches that scans have marked for reporting.

        Matches that wait for a review are not reported yet, unless `unreviewed` is set. Return None
        if no match can be reported.

        Raises:
            ConfigError: the destination is not configured any more, or one of its settings is
                missing.
            StateError, AuditError: as `prepare`.
        """
        with self._preparing():
            # Reports of killed commands are settled first, so that their matches are not reported
            # twice.
            self._settle_new(record)
            # If the destination was removed, a report to another destination is enough.
            is_configured = destination in self.settings.config.report.to
            reported = self.reported(destination if is_configured else None)
            wanting = record.wanting_report().get(destination, [])
            reviews = record.all_reviews()
            ready = (
                m.id
                for m in wanting
                if m.id not in reported
                and not self.policy.ended(m, said := reviews.get(m.id, ()))
                and (unreviewed or not self.policy.waits(m, said))
            )
            chosen = [*itertools.islice(ready, most)]
            if not chosen:
                return None
            if not is_configured:
                raise ConfigError(
                    f"scans want {len(chosen)} matches reported to {printable(destination)},"
                    " which is not configured any more",
                    hint="configure it, or `hashclient report prepare --all --to NAME` reports them"
                    " to another",
                )
            name, where = find_destination(self.settings.config.report, destination)
            report = self._new_report(name, where, chosen)
            return self._write_new(report, record)

    def _new_report(self, name: str, table: Table, matches: Iterable[str]) -> Report:
        return Report(
            id=new_report_id(),
            destination=name,
            kind=kind_of(table),
            created=self.now(),
            by=self.session.operator,
            matches=tuple(matches),
        )

    def settle_new(self, record: Matches) -> None:
        """Settle new reports that a killed command has made but not settled.

        Raises:
            AuditError, StateError: the audit log or the record of matches cannot be written.
        """
        if is_there(self.settings.layout.reports):
            with self._preparing():
                self._settle_new(record)

    def _settle_new(self, record: Matches) -> None:
        for report_id in self.ids():
            # A damaged report is skipped here; commands that send or list reports show the damage.
            with contextlib.suppress(StateError):
                report = self.get(report_id)
                if report.settled is None:
                    self.settle(report, record)
                self._make_apart(report, record)

    def set_apart(
        self, report: Report, stuck: Mapping[str, HashclientError | None], record: Matches
    ) -> tuple[Report, Report]:
        """Move matches that cannot be sent into another, new report; return both reports.

        No part of the report may have been sent yet. `stuck` are the matches, each with an
        exception as the reason; None means that the match only waits for a review.

        1. The move is logged.
        2. The report is saved without these matches. If the process is killed after step 2, the
           next command takes step 3.
        3. The new report is written, and the reasons are written to the histories of the matches.

        Raises:
            AuditError, StateError: the change cannot be logged or written.
        """
        assert report.is_untouched
        other = new_report_id()
        data = {
            "report": report.id,
            "to": report.destination,
            "by": self.session.operator,
            "into": other,
            "matches": [*stuck],
        }
        self.session.audit.append([Event("report-parted", data)], durable=True)  # 1
        rest = tuple(i for i in report.matches if i not in stuck)
        moved = report.replace(matches=rest, apart=(*report.apart, Apart(other, tuple(stuck))))
        noted = moved.noted(self.now(), "set-apart", into=other, matches=[*stuck])
        report = self.save(noted)  # 2
        with self._preparing():  # 3
            self._make_apart(report, record)
        made = self.get(other)
        if reasons := {i: error for i, error in stuck.items() if error is not None}:
            self.note_stuck(made, reasons, record)
        return report, made

    def _make_apart(self, report: Report, record: Matches) -> None:
        """Write missing reports of matches that `set_apart` has moved out of a report."""
        for apart in report.apart:
            if not is_there(self.folder(apart.report)):
                self._take_out(report, apart.matches, record, f"it is in report {apart.report} now")
                made = Report(
                    id=apart.report,
                    destination=report.destination,
                    kind=report.kind,
                    created=report.created,
                    by=report.by,
                    matches=apart.matches,
                    seal_evidence=report.seal_evidence,
                    with_context=report.with_context,
                    unreviewed=report.unreviewed,
                )
                self._write_new(made, record)

    def note_stuck(
        self, report: Report, stuck: Mapping[str, HashclientError], record: Matches
    ) -> None:
        """Write to the history of each match, once, why a report cannot be sent with the match.

        Raises:
            StateError: the record of matches cannot be written.
        """
        with record.batch():
            for match_id, error in stuck.items():
                said = {"report": report.id, "why": error.message, "by": self.session.operator}
                held = [s.detail for s in record.story(match_id) if s.event == REPORT_HELD]
                if not held or held[-1] != said:
                    record.note(match_id, REPORT_HELD, self.now(), said)

    def reported(self, destination: str | None) -> dict[str, Report]:
        """Return the matches in unretracted reports to a destination, each with its report.

        None means all destinations.

        Raises:
            StateError: a report cannot be read.
        """
        return {
            match_id: report
            for report in self.reports()
            if destination in (None, report.destination) and report.state is not State.RETRACTED
            for match_id in report.matches
        }

    def _refuse_reported(self, destination: str, ids: Collection[str]) -> None:
        reported = self.reported(destination)
        for match_id in ids:
            if match_id in reported:
                report = reported[match_id]
                raise UsageError(
                    f"match {match_id} is in report {report.id} to {destination} already,"
                    f" which is {report.state}",
                    hint="`--again` reports the match once more; `hashclient report retract` "
                    "takes back a report that was not sent",
                )

    def _write_new(self, report: Report, record: Matches) -> Report:
        """Write a new report, and settle its first state."""
        directory = self.settings.layout.reports
        temporary = directory / f"{TEMP_PREFIX}{report.id}"
        with state_errors("cannot write report", temporary):
            # A leftover folder of a killed command contains a report that was not recorded
            # anywhere.
            for leftover in directory.glob(f"{TEMP_PREFIX}*"):
                shutil.rmtree(leftover)
            temporary.mkdir(mode=0o700)
            self.write_document(temporary, report, record)
            save(temporary, report)
            temporary.rename(self.folder(report.id))
            fsync_dir(directory)
        return self.settle(report, record)

    def write_document(
        self,
        folder: Path,
        report: Report,
        record: Matches,
        more: Mapping[str, Sealed] = MappingProxyType({}),
    ) -> Document:
        """Write the document of a report with the present state of its matches, and return it.

        `more` are the sealed files outside of the quarantine, by match id.

        Raises:
            StateError: the document cannot be written, or the quarantine cannot be read.
        """
        document = self.described(report, record, more)
        write_atomic(folder / DOCUMENT_NAME, encode_document(document))
        return document

    def described(
        self,
        report: Report,
        record: Matches,
        more: Mapping[str, Sealed] = MappingProxyType({}),
    ) -> Document:
        """Return the document that `write_document` would write now.

        Raises:
            StateError: the quarantine or the record of matches cannot be read.
        """
        sealed = self.sealed(report, record)
        for match_id, other in more.items():
            here = sealed.get(match_id, other)
            sealed[match_id] = msgspec.structs.replace(here, facts=other.facts)
        return make_document(
            report.id,
            self.now(),
            self.settings.config.report,
            printable(self.session.invocation().host),
            [(record.get(i), record.story(i)) for i in report.matches],
            sealed,
            functools.cache(self._provider_of),
        )

    def sealed(self, report: Report, record: Matches) -> dict[str, Sealed]:
        """Return the sealed files in quarantine of a report's matches, by match id.

        Raises:
            StateError: an item cannot be read, or is damaged; or the whole quarantine is missing.
        """
        where = self.settings.layout.quarantine
        found = sealed_items(where, report.matches, with_context=report.with_context)
        others = record.look_up_all([i for i in report.matches if i not in found])
        if any(match.is_isolated for match in others.values()):
            require_quarantine(where)
        return found

    def _provider_of(self, list_name: str) -> Provider | None:
        """Return the provider of a list; None if the list or the provider does not exist."""
        from hashclient.index.manifest import load_manifest

        try:
            manifest = load_manifest(self.settings.layout.lists / list_name, self.session.sealer())
            if manifest is None:
                return None
            provider = self.settings.provider(manifest.provider)
        except (ConfigError, StateError):
            return None
        root = provider.root_sha256.lower()
        # a person has edited the setting, and no fetch accepts a root that is not a SHA-256
        if not ROOT_PATTERN.fullmatch(root):
            return None
        return Provider(root, next((url for url, _ in provider.addresses), None))

    def document(self, report: Report) -> Document:
        """Read and return the document of a report.

        Raises:
            StateError: the document cannot be read, or is damaged.
        """
        path = self.folder(report.id) / DOCUMENT_NAME
        try:
            text = read_regular(path, MAX_STATE_BYTES)
            if is_newer(FORMAT, written := format_of(text)):
                raise older(path, written)
            return parse_document(text)
        except OSError as error:
            raise state_error("cannot read report", path, error) from error
        except VerificationError as error:
            raise StateError(f"document of a report is damaged: {printable(path)}") from error

    def export(self, report: Report, record: Matches) -> Document:
        """Log the export of a report, and return its document.

        The document is returned as it would be sent now, without matches that have ended or were
        rejected.

        Raises:
            UsageError: a match in the report waits for a review.
            StateError: the document cannot be read, or is damaged.
            AuditError: the export cannot be logged.
        """
        if waiting := self.waiting(report, record):
            raise UsageError(
                f"report {report.id} waits: {counted(len(waiting), 'match')} in it to be reviewed",
                hint="`hashclient matches --to-review` lists what waits; `hashclient report "
                "submit --unreviewed --reason …` sends the report without a review",
            )
        # Before sending begins, the document on disk is from the time when the report was prepared.
        is_new = report.is_untouched
        document = self.described(report, record) if is_new else self.document(report)
        if report.is_ours:
            left = tuple(m for m in document.matches if not self.has_ended(m.id, record))
            document = msgspec.structs.replace(document, matches=left)
        data = {"report": report.id, "to": report.destination, "by": self.session.operator}
        self.session.audit.append([Event("report-exported", data)], durable=True)
        return document

    def save(self, report: Report) -> Report:
        """Write the record of a report, and return the report.

        Raises:
            StateError: the record cannot be written.
        """
        return save(self.folder(report.id), report)

    @contextlib.contextmanager
    def _preparing(self) -> Iterator[None]:
        lock = make_private_dir(self.settings.layout.reports) / PREPARE_LOCK_NAME
        with writer_lock(lock, wait_s=PREPARE_WAIT_S):
            yield

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Hold the lock for sending and changing reports during the block.

        Raises:
            LockedError: another command holds the lock.
        """
        lock = make_private_dir(self.settings.layout.reports) / ROOM_LOCK_NAME
        hint = "wait until it has finished; this command, or the next, sends the waiting reports"
        with writer_lock(lock, busy="another command is working on reports", hint=hint):
            yield

    def acknowledge(self, report_id: str, reference: str, record: Matches) -> Report:
        """Record that the recipient has acknowledged a package with the reference `reference`.

        Raises:
            UsageError: no report has this id, or the report was not handed over.
            LockedError, StateError, AuditError: the acknowledgement cannot be recorded.
        """
        with self.working():
            report = self.get(report_id)
            if report.state is not State.SUBMITTED:
                raise UsageError(
                    f"report {report.id} is {report.state}",
                    hint="only a report that was handed over and is not acknowledged yet can be"
                    " acknowledged",
                )
            if report.is_retracting or is_reopened(report, record):
                raise UsageError(
                    f"report {report.id} is being retracted",
                    hint="`hashclient report retract` finishes the retraction",
                )
            changed = report.replace(state=State.ACKNOWLEDGED, reference=reference, problem=None)
            noted = changed.noted(
                self.now(), "acknowledged", reference=reference, by=self.session.operator
            )
            return self.settle(self.save(noted), record)

    def decide_retraction(self, report: Report, *, reason: str, by: str | None = None) -> Report:
        """Write the decision to retract a report to its record, before it is retracted.

        `by` is the person who has made the decision; the default is the operator.
        """
        if report.retraction is not None:
            return report
        decision = Decision(self.now(), by or self.session.operator, reason)
        return self.save(report.replace(retraction=decision, next_attempt=None))

    def retracted(self, report: Report, record: Matches) -> Report:
        """Record a retraction in the report, in the audit log and in the record of matches.

        Raises:
            StateError, AuditError: the retraction cannot be recorded.
        """
        done = report.replace(state=State.RETRACTED, next_attempt=None, problem=None)
        return self.settle(self.save(done.noted(self.now(), "retracted")), record)

    def leave_out_ended(self, report: Report, record: Matches) -> Report:
        """Remove the matches that have ended or were rejected from a report that was not sent.

        The histories of these matches are written last. If the process is killed before, the next
        attempt writes them.

        Raises:
            StateError: the change cannot be recorded.
        """
        gone = tuple(i for i in report.matches if self.has_ended(i, record))
        if gone:
            rest = tuple(i for i in report.matches if i not in gone)
            changed = report.replace(matches=rest, left_out=(*report.left_out, *gone))
            report = self.save(changed.noted(self.now(), "left-out", matches=list(gone)))
        self._take_out(report, report.left_out, record, "it had ended or was rejected")
        for match_id in report.left_out:
            # The request of a scan still counts if the match is listed again or found again.
            with contextlib.suppress(UsageError):
                if REPORT_WANTED in [step.event for step in record.story(match_id)]:
                    record.want_report(match_id, report.destination, self.now())
        return report

    def _take_out(
        self, report: Report, match_ids: Sequence[str], record: Matches, reason: str
    ) -> None:
        """Note in the histories of matches that a report does not contain them any more.

        Without this note, a later scan would not request another report of these matches.
        """
        detail = {"report": report.id, "to": report.destination, "by": self.session.operator}
        detail["reason"] = reason
        with record.batch():
            for match_id in match_ids:
                with contextlib.suppress(UsageError):  # the match was deleted from the record
                    record.take_back(match_id, REPORT_RETRACTED, self.now(), detail)

    def has_ended(self, match_id: str, record: Matches) -> bool:
        """Return whether a match must not be reported, because it has ended or was rejected."""
        return self.policy.ended(record.get(match_id), record.reviews(match_id)) is not None

    def waiting(self, report: Report, record: Matches) -> list[str]:
        """Return the matches that wait for a review and therefore prevent sending a report.

        The result is empty if a person has allowed sending the report without the review, or if the
        recipient may already have the report.

        Raises:
            StateError: the record of matches cannot be read.
        """
        if report.unreviewed is not None or not report.is_ours:
            return []
        found = (record.look_up(match_id) for match_id in report.matches)
        return [m.id for m in found if m and self.policy.waits(m, record.reviews(m.id))]

    def settle(self, report: Report, record: Matches) -> Report:
        """Settle the states of a report: write them to the audit log and the record of matches.

        Raises:
            AuditError, StateError: a state cannot be written; the next command that sends reports
                tries again.
        """
        for state in unsettled(report):
            settle(self.session, report, state, record)
            report = self.save(report.replace(settled=state))
        return report
