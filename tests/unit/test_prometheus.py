"""Metrics: an independent parser reads the values of the status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hashclient.alerts.book import Book, Receiver
from hashclient.audit.record import Record
from hashclient.core.errors import ExitCode
from hashclient.core.kinds import MatchState
from hashclient.core.model import HeldEntry
from hashclient.decisions.rulings import Ruling
from hashclient.index.manifest import Manifest, RunRef
from hashclient.notices.document import Severity
from hashclient.status.notices import NoticesStatus
from hashclient.status.prometheus import render
from hashclient.status.published import Published
from hashclient.status.status import (
    AuditStatus,
    ExceptionsStatus,
    ListStatus,
    QuarantineStatus,
    Refusal,
    ReportsStatus,
    Status,
)

NOW = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
ODD = 'a"b\\c\nd é'


def record(event: str, **data: object) -> Record:
    return Record(17, NOW, event, dict(data), "0" * 64, "0" * 64, None)


def manifest() -> Manifest:
    return Manifest(
        format="",
        list="baseline",
        provider="main",
        generation=7,
        published_at=NOW - timedelta(hours=3),
        fetched_at=NOW - timedelta(hours=2),
        checked_at=NOW - timedelta(hours=1),
        expires=NOW + timedelta(days=7),
        entries=12_345_678_901,
        checksum="",
        with_digest={},
        with_size=0,
        key_id="",
        index_hash="",
        oldest_verified=NOW - timedelta(days=5),
        runs=tuple(RunRef(f"run-{n}", n, 1) for n in (100, 23)),
    )


RULING = Ruling(id="x-1", entries=(), reason="wrong", by="root", made_at=NOW, until=NOW)


def full() -> Status:
    counts = {state: number for number, state in enumerate(MatchState)}
    return Status(
        [
            ListStatus(
                "baseline",
                manifest(),
                ExitCode.OK,
                None,
                "main",
                {"size+md5": 12_345_678_901, "md5": 3},
            ),
            ListStatus(
                ODD,
                None,
                ExitCode.STATE,
                "never fetched",
                refused=Refusal(NOW, ExitCode.UNVERIFIED, "not signed"),
            ),
        ],
        {"second": "no list was ever fetched"},
        ExitCode.STATE,
        matches=counts,
        held=(HeldEntry("baseline", "d-1", 5, 3, 0, 2),),
        to_review=3,
        quarantine=QuarantineStatus(2, 4096),
        reports=ReportsStatus(
            {"prepared": 1, "submitted": 4}, NOW - timedelta(minutes=5), {"police": 2}
        ),
        notices=NoticesStatus(
            (), {"main": {Severity.EXTREME: 0, Severity.MINOR: 7}}, 5, 0, (), ExitCode.OK
        ),
        exceptions=ExceptionsStatus(3, (RULING,), (RULING,)),
        published=Published(counter=8, at=NOW, failures=2),
        alerts=Book(receivers={"webhook": Receiver(1, NOW, "no answer"), "mail": Receiver()}),
        audit=AuditStatus(
            record("fetch"),
            record("scan-end", exit_code=10, believed_unchanged=3, not_opened={"disk": 2}),
        ),
    )


def parsed(text: str) -> dict[str, dict[str, float]]:
    """Return the values of each metric, as the parser reads them, by the value of the label."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge" and family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.name == family.name and sample.timestamp is None
            label = ",".join(sample.labels.values())
            values = found.setdefault(sample.name.removeprefix("hashclient_"), {})
            assert label not in values
            values[label] = sample.value
    return found


def test_every_value_is_read_as_it_was() -> None:
    found = parsed(render(full()))
    (version,) = found.pop("build_info").values()
    assert version == 1
    assert found == {
        "status_exit_code": {"": 8},
        "lists_missing": {"": 2},
        "list_usable": {"baseline": 1, ODD: 0},
        "list_fresh": {"baseline": 1, ODD: 0},
        "list_updated": {"baseline": 1, ODD: 0},
        "list_generation": {"baseline": 7},
        "list_entries": {"baseline": 12_345_678_901},
        "list_index_bytes": {"baseline": 123},
        "list_published_timestamp_seconds": {"baseline": NOW.timestamp() - 3 * 3600},
        "list_expires_timestamp_seconds": {"baseline": NOW.timestamp() + 7 * 86400},
        "list_last_fetch_timestamp_seconds": {"baseline": NOW.timestamp() - 2 * 3600},
        "list_last_check_timestamp_seconds": {"baseline": NOW.timestamp() - 3600},
        "list_verified_timestamp_seconds": {"baseline": NOW.timestamp() - 5 * 86400},
        "list_recognised_ratio": {"size+md5,baseline": 1, "md5,baseline": 3 / 12_345_678_901},
        "matches": {str(state): number for number, state in enumerate(MatchState)},
        "entries_held": {"baseline": 1},
        "entry_files": {
            "d-1,baseline,matched": 5,
            "d-1,baseline,isolated": 3,
            "d-1,baseline,reported": 0,
            "d-1,baseline,held": 2,
        },
        "matches_to_review": {"": 3},
        "quarantine_files": {"": 2},
        "quarantine_bytes": {"": 4096},
        "reports": {"prepared": 1, "submitted": 4},
        "reports_overdue": {"police": 2},
        "report_oldest_open_timestamp_seconds": {"": NOW.timestamp() - 300},
        "notices_open": {"main,Extreme": 0, "main,Minor": 7},
        "alerts_waiting": {"": 0},
        "alert_receiver_failing": {"webhook": 1, "mail": 0},
        "exceptions": {"": 3},
        "exceptions_ending": {"": 1},
        "exceptions_waiting": {"": 1},
        "publish_failures": {"": 2},
        "published_timestamp_seconds": {"": NOW.timestamp()},
        "audit_records": {"": 17},
        "audit_last_record_timestamp_seconds": {"": NOW.timestamp()},
        "last_scan_end_timestamp_seconds": {"": NOW.timestamp()},
        "last_scan_exit_code": {"": 10},
        "last_scan_believed_unchanged": {"": 3},
        "last_scan_not_opened": {"disk": 2},
    }


def test_a_metric_is_described_once_and_its_samples_follow() -> None:
    lines = render(full()).splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# HELP ")]
    assert len(names) == len(set(names))
    assert [line.split()[2] for line in lines if line.startswith("# TYPE ")] == names
    in_order = [line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")]
    assert list(dict.fromkeys(in_order)) == names


def test_an_absent_part_of_the_status_has_no_samples() -> None:
    found = parsed(render(Status([], {}, ExitCode.OK)))
    assert found.keys() == {"build_info", "status_exit_code", "lists_missing"}


@pytest.mark.parametrize("exit_code", ["10", None])
def test_a_record_without_an_exit_code_is_no_reason_to_fail(exit_code: object) -> None:
    audit = AuditStatus(record("fetch"), record("scan-end", exit_code=exit_code))
    found = parsed(render(Status([], {}, ExitCode.OK, audit=audit)))
    assert "last_scan_end_timestamp_seconds" in found
    assert "last_scan_exit_code" not in found
