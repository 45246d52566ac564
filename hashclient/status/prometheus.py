"""The status of a state directory as metrics in Prometheus' text format.

The textfile collector of Prometheus' node exporter can read the metrics.

The functions of this module are pure: they turn a status into text. Dashboards and alerts rely on
names and labels of metrics (`docs/operations/prometheus.md` has a table of them), so metrics may be
added, but not changed. If a part of the status is missing or cannot be read, its metrics have no
samples, and the exit code shows that something is wrong. No metric contains a path, an entry or a
digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from hashclient.core.version import __version__
from hashclient.system.exposition import expose

# The imports are for type checkers only, because reading a status imports numpy (17 MB), which the
# metrics of a fleet do not need.
if TYPE_CHECKING:
    from hashclient.audit.record import Record
    from hashclient.index.manifest import Manifest
    from hashclient.status.status import ListStatus, Status

_PREFIX = "hashclient_"


class Metric(msgspec.Struct, frozen=True):
    """A gauge: its values by values of its labels; a gauge without labels has one value."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


_OF_LISTS: tuple[tuple[str, str, Callable[[ListStatus], float]], ...] = (
    ("usable", "1 if scans can use the list.", lambda s: int(s.usable)),
    ("fresh", "1 if the list is within its expiry.", lambda s: int(s.fresh)),
    (
        "updated",
        "1 if the last fetch got the newest generation, 0 if it was refused or not reached.",
        lambda s: int(s.refused is None),
    ),
)
_OF_MANIFESTS: tuple[tuple[str, str, Callable[[Manifest], float]], ...] = (
    ("generation", "The generation of the list.", lambda m: m.generation),
    ("entries", "Live entries of the list.", lambda m: m.entries),
    ("index_bytes", "Size of the index.", lambda m: sum(run.length for run in m.runs)),
    (
        "published_timestamp_seconds",
        "When the provider published the generation.",
        lambda m: m.published_at.timestamp(),
    ),
    ("expires_timestamp_seconds", "When the list expires.", lambda m: m.expires.timestamp()),
    (
        "last_fetch_timestamp_seconds",
        "When the generation was fetched.",
        lambda m: m.fetched_at.timestamp(),
    ),
    (
        "last_check_timestamp_seconds",
        "When a fetch last found that there is no newer one, or got it.",
        lambda m: m.checked_at.timestamp(),
    ),
    (
        "verified_timestamp_seconds",
        "Since when each part of the index was compared with its digest, or written.",
        lambda m: m.verified_since.timestamp(),
    ),
)


#: The help texts of all metrics except those for each list.
_HELP: Mapping[str, str] = {
    "lists_missing": "Lists that should be here and cannot be used, and providers whose lists are"
    " not known.",
    "list_recognised_ratio": "Share of the live entries that lookups can decide about by digests"
    " of this kind.",
    "matches": "Matches that are remembered.",
    "entries_held": "Entries with matches that wait for a person.",
    "entry_files": "Files that an entry with held matches matched, by what was done.",
    "matches_to_review": "Matches that wait for a review.",
    "quarantine_files": "Files in quarantine.",
    "quarantine_bytes": "Bytes of the files in quarantine.",
    "reports": "Reports that are kept.",
    "reports_overdue": "Reports that are past the deadline of their destination.",
    "report_oldest_open_timestamp_seconds": "When the oldest report was prepared that is still to"
    " be sent.",
    "notices_open": "Notices that nobody has acknowledged and that have not ended.",
    "exceptions": "Exceptions that have not come to their end.",
    "exceptions_ending": "Exceptions that end within a week.",
    "exceptions_waiting": "Exceptions that wait for a second person.",
    "publish_failures": "Attempts to publish the status that have failed since the last success.",
    "published_timestamp_seconds": "When the status was last published.",
    "alerts_waiting": "Alerts that no attempt has sent yet, or that a receiver lacks.",
    "alert_receiver_failing": "1 if the last attempt at the receiver of alerts has failed.",
    "build_info": "The version of hashclient; always 1.",
    "status_exit_code": "The exit code of `hashclient status`.",
    "audit_records": "Records in the audit log.",
    "audit_last_record_timestamp_seconds": "When the last of them was written.",
    "last_scan_end_timestamp_seconds": "When a scan last came to its end.",
    "last_scan_exit_code": "The exit code of that scan.",
    "last_scan_believed_unchanged": "Files that it did not read again, though nothing proves that"
    " they are unchanged.",
    "last_scan_not_opened": "Inputs of that scan which hold others and are of a kind that is not"
    " opened.",
}


def render(status: Status) -> str:
    """Return `status` as metrics, which are all gauges and always in the same order."""
    return metrics_text(metric for metric in _metrics(status) if metric.values)


def render_failure(exit_code: int) -> str:
    """Return the metrics for a `status` that failed with an exit code before it read anything."""
    return metrics_text(_of_command(exit_code))


def metrics_text(metrics: Iterable[Metric]) -> str:
    """Return metrics as text, with the prefix of this program in their names."""
    from prometheus_client.core import GaugeMetricFamily

    def gauge(metric: Metric) -> GaugeMetricFamily:
        family = GaugeMetricFamily(_PREFIX + metric.name, metric.help, labels=metric.labels)
        for of, value in metric.values.items():
            family.add_metric(of, value)
        return family

    return expose(map(gauge, metrics))


def _metrics(status: Status) -> Iterator[Metric]:
    yield from _of_command(int(status.exit_code))
    yield _one("lists_missing", status.missing)
    for name, what, of_list in _OF_LISTS:
        values: dict[str, float] = {}
        for entry in status.lists:
            # Two providers may have a list of the same name, and the metric then describes the list
            # that is missing.
            values[entry.name] = min(of_list(entry), values.get(entry.name, 1))
        yield Metric(
            f"list_{name}", what, ("list",), {(of,): value for of, value in values.items()}
        )
    manifests = {s.name: s.manifest for s in status.lists if s.manifest is not None}
    for name, what, of_manifest in _OF_MANIFESTS:
        values = {of: of_manifest(manifest) for of, manifest in manifests.items()}
        yield Metric(
            f"list_{name}", what, ("list",), {(of,): value for of, value in values.items()}
        )
    shares: dict[tuple[str, ...], float] = {
        (entry.name, by): count / entry.manifest.entries
        for entry in status.lists
        for by, count in entry.recognised.items()
        if entry.manifest is not None and entry.manifest.entries
    }
    yield _of("list_recognised_ratio", ("list", "by"), shares)
    if status.matches is not None:
        counts = {str(state): count for state, count in status.matches.items()}
        yield _by("matches", "state", counts)
        entries = Counter(entry.list for entry in status.held)
        yield _by("entries_held", "list", entries)
        files: dict[tuple[str, ...], float] = {
            (held.list, held.entry, state): getattr(held, state)
            for held in status.held
            for state in ("matched", "isolated", "reported", "held")
        }
        yield _of("entry_files", ("list", "entry", "state"), files)
        yield _one("matches_to_review", status.to_review)
    if status.quarantine is not None:
        yield _one("quarantine_files", status.quarantine.files)
        yield _one("quarantine_bytes", status.quarantine.sealed_bytes)
    if status.reports is not None:
        yield _by("reports", "state", status.reports.counts)
        yield _by("reports_overdue", "destination", status.reports.overdue)
        oldest = status.reports.oldest_open
        if oldest is not None:
            yield _one("report_oldest_open_timestamp_seconds", oldest.timestamp())
    if status.notices is not None:
        numbers: dict[tuple[str, ...], float] = {
            (provider, str(severity)): count
            for provider, of_provider in status.notices.counts.items()
            for severity, count in of_provider.items()
        }
        yield _of("notices_open", ("provider", "severity"), numbers)
    if (rulings := status.exceptions) is not None:
        yield _one("exceptions", rulings.standing)
        yield _one("exceptions_ending", len(rulings.ending))
        yield _one("exceptions_waiting", len(rulings.waiting))
    if (published := status.published) is not None:
        yield _one("publish_failures", published.failures)
        if published.at is not None:
            yield _one("published_timestamp_seconds", published.at.timestamp())
    if (alerts := status.alerts) is not None:
        yield _one("alerts_waiting", len(alerts.waiting))
        failing = {name: int(r.problem is not None) for name, r in alerts.receivers.items()}
        yield _by("alert_receiver_failing", "receiver", failing)
    if status.audit is not None:
        yield from _of_audit(status.audit.last, status.audit.last_scan)


def _of_command(exit_code: int) -> Iterator[Metric]:
    yield _by("build_info", "version", {__version__: 1})
    yield _one("status_exit_code", exit_code)


def _of_audit(last: Record, last_scan: Record | None) -> Iterator[Metric]:
    yield _one("audit_records", last.seq)
    yield _one("audit_last_record_timestamp_seconds", last.time.timestamp())
    if last_scan is not None:
        yield _one("last_scan_end_timestamp_seconds", last_scan.time.timestamp())
        if isinstance(code := last_scan.data.get("exit_code"), int):
            yield _one("last_scan_exit_code", code)
        if isinstance(believed := last_scan.data.get("believed_unchanged"), int):
            yield _one("last_scan_believed_unchanged", believed)
        kinds = last_scan.data.get("not_opened")
        if isinstance(kinds, dict) and all(type(number) is int for number in kinds.values()):
            yield _by("last_scan_not_opened", "kind", kinds)


def _of(name: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    return Metric(name, _HELP[name], labels, values)


def _by(name: str, label: str, values: Mapping[str, float]) -> Metric:
    return _of(name, (label,), {(of,): value for of, value in values.items()})


def _one(name: str, value: float) -> Metric:
    return _of(name, (), {(): value})
