"""Reads what a state directory contains and whether it is reliable, without changing anything.

`index.open_lists` decides which lists should be on this machine, and which of them can be used.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from hashclient.alerts.book import Book
from hashclient.alerts.book import load_book as load_alerts
from hashclient.audit.log import Record, read
from hashclient.config.settings import Settings
from hashclient.core.errors import AuditError, ConfigError, ExitCode, StateError
from hashclient.core.kinds import Algorithm, MatchState
from hashclient.core.match import Match
from hashclient.core.model import HeldEntry, Hit
from hashclient.decisions.review import ReviewPolicy
from hashclient.decisions.rulings import SOON, Ruling, has_book, load_book
from hashclient.index.blinding import Sealer, load_sealer
from hashclient.index.checks import OVERDUE
from hashclient.index.manifest import Manifest
from hashclient.index.open_lists import UNCONFIGURED_HINT, ExpectedList, expected_lists
from hashclient.index.reader import Index
from hashclient.matches.store import Matches
from hashclient.status.notices import NoticesStatus, read_notices, text_of
from hashclient.status.published import Published, load_published
from hashclient.system.files import is_there, state_error
from hashclient.system.text import counted, for_people, printable

_CODES = {code.value: code for code in ExitCode}
_FETCHES = frozenset({"fetch", "refused"})
#: The largest number of entries with held matches that the status names.
HELD_ENTRIES = 1000
#: The number of records of fetches that are read for each list. The number is larger than one,
#: because some lists are fetched more often than others.
FETCHES_PER_LIST = 4


class Refusal(msgspec.Struct, frozen=True):
    """A fetch that has failed to update a list: the time, the exit code, and the message."""

    time: datetime
    exit_code: ExitCode
    reason: str

    @property
    def text(self) -> str:
        """A sentence which says that the update of the list was refused or has failed."""
        what = "failed" if self.exit_code is ExitCode.UNREACHABLE else "was refused"
        return f"the last update {what} at {for_people(self.time)}: {self.reason}"


class ListStatus(msgspec.Struct, frozen=True):
    """A list: its manifest if the list can be used, and its problem, if any.

    `provider`: None if the provider is not known. `recognised`: the number of live entries that a
    lookup can decide about by one digest (`md5`: entries with an MD5), or by a digest and a size
    (`size+md5`: entries with an MD5 or a size, because another size rules an entry out).
    `warnings`: problems of the list that somebody should attend to, although the list can be used.
    `refused`: set if the last fetch has failed, so that the provider may have a newer generation.
    """

    name: str
    manifest: Manifest | None
    exit_code: ExitCode
    problem: str | None
    provider: str | None = None
    recognised: Mapping[str, int] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    refused: Refusal | None = None

    @property
    def usable(self) -> bool:
        """Whether scans can use the list, even if it has expired."""
        return self.exit_code is not ExitCode.STATE

    @property
    def fresh(self) -> bool:
        """Whether the list has not expired and has no other problem."""
        return self.problem is None


class QuarantineStatus(msgspec.Struct, frozen=True):
    """The number of files in quarantine, and the number of bytes that they take."""

    files: int
    sealed_bytes: int


class ReportsStatus(msgspec.Struct, frozen=True):
    """The number of reports in each state, and when the oldest unsent report was made.

    `overdue`: for each destination, the number of unsent reports that are past its
    `deadline_hours`.
    """

    counts: Mapping[str, int]
    oldest_open: datetime | None
    overdue: Mapping[str, int]


class ExceptionsStatus(msgspec.Struct, frozen=True):
    """The number of exceptions that have not ended, and the exceptions that end within a week.

    `waiting`: exceptions that wait for a second person.
    """

    standing: int
    ending: tuple[Ruling, ...]
    waiting: tuple[Ruling, ...] = ()


class AuditStatus(msgspec.Struct, frozen=True):
    """The last record of the audit log, and the record of the end of the last scan, if any.

    `refusals`: the fetches that have failed since the last successful fetch, by provider and list;
    the list is None if the fetch of the whole provider failed. `sources`: for each list, the source
    of its last successful fetch: an address, or the path of a bundle or a directory. `sources`
    lacks a list if too many newer records follow its last fetch in the log.
    """

    last: Record
    last_scan: Record | None
    sources: Mapping[str, str] = msgspec.field(default_factory=dict)
    refusals: Mapping[tuple[str, str | None], Refusal] = msgspec.field(default_factory=dict)


class Status(msgspec.Struct):
    """The status of all parts of a state directory.

    If a part is missing or damaged, its field is None.

    `providers`: the providers whose lists are not known, with the reason. `problems`: the parts of
    the state that cannot be read; the problem of a list is in the row of the list. `held`: the
    entries with matches that wait for a person. `to_review`: the number of matches that wait for a
    review. `alerts`: the outbox of alerts, if receivers are configured. `exit_code`: the highest
    exit code of all parts.
    """

    lists: list[ListStatus]
    providers: Mapping[str, str]
    exit_code: ExitCode
    matches: Mapping[MatchState, int] | None = None
    held: tuple[HeldEntry, ...] = ()
    to_review: int = 0
    withdrawn: list[tuple[Match, Hit]] = msgspec.field(default_factory=list)
    quarantine: QuarantineStatus | None = None
    reports: ReportsStatus | None = None
    notices: NoticesStatus | None = None
    exceptions: ExceptionsStatus | None = None
    alerts: Book | None = None
    audit: AuditStatus | None = None
    published: Published | None = None
    problems: list[str] = msgspec.field(default_factory=list)

    @property
    def missing(self) -> int:
        """The number of lists that scans cannot use, and of providers whose lists are not known."""
        return len(self.providers) + sum(not entry.usable for entry in self.lists)

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Read a part of the state in the block.

        If the part is damaged, this is recorded as a problem, and the remaining parts are still
        read.
        """
        try:
            yield
        except (StateError, AuditError) as error:
            self.problems.append(text_of(error))
            self.exit_code = max(self.exit_code, error.exit_code)


def read_status(
    settings: Settings, environ: Mapping[str, str], now: datetime, *, verify: bool = False
) -> Status:
    """Read the status of all parts of a state directory.

    With `verify`, every byte of the indexes, including the index of known good files, is read and
    compared with its digest, and the whole record of matches is read.
    """
    lists, providers = read_lists(settings, environ, now, verify=verify)
    code = ExitCode.STATE if providers or not lists else ExitCode.OK
    status = Status(lists, providers, max([code, *(entry.exit_code for entry in lists)]))
    with status.part():
        # If no provider uses the index of known good files, damage to it does no harm, and no fetch
        # would repair it.
        if verify and any(p.known_good for p in settings.config.providers.values()):
            # this import loads the writer of indexes
            from hashclient.fetch.guard import verify_guard

            verify_guard(settings.state_dir)
    with status.part():
        if is_there(settings.layout.matches):
            with Matches(settings.state_dir, create=False) as matches:
                status.matches = matches.counts()
                if status.matches[MatchState.HELD]:
                    status.held = matches.held_entries(HELD_ENTRIES)
                status.withdrawn = matches.withdrawn()
                status.to_review = sum(
                    1 for _ in ReviewPolicy(settings.config.report).waiting(matches)
                )
            if verify:
                from hashclient.matches.verify import verify_matches

                verify_matches(settings.state_dir)
    with status.part():
        if status.matches and status.matches[MatchState.QUARANTINED]:
            from hashclient.quarantine.item import require_quarantine

            require_quarantine(settings.layout.quarantine)
        if is_there(settings.layout.quarantine):
            status.quarantine = _quarantine(settings)
            _check_recorded(settings)
    with status.part():
        if is_there(settings.layout.reports):
            status.reports = _reports(settings, now)
    with status.part():
        status.notices = read_notices(settings, now)
        if status.notices is not None:
            status.problems.extend(status.notices.problems)
            status.exit_code = max(status.exit_code, status.notices.exit_code)
    with (
        status.part(),
        contextlib.suppress(ConfigError),
    ):  # the status of the lists reports an error of the key
        status.exceptions = _exceptions(settings, environ, now)
    with status.part():
        published = load_published(settings.layout)
        status.published = published if published.counter else None
        if settings.config.alerts.receivers:
            status.alerts = load_alerts(settings.layout, now)
    with status.part():
        status.audit = _audit(settings, len(lists))
        if status.audit is not None:
            _add_refusals(status, status.audit.refusals)
    return status


def _add_refusals(status: Status, refusals: Mapping[tuple[str, str | None], Refusal]) -> None:
    """Add failures of the last fetch to the lists.

    An unreachable provider does not change the exit code.
    """
    for number, entry in enumerate(status.lists):
        refused = refusals.get((entry.provider or "", entry.name)) or refusals.get(
            (entry.provider or "", None)
        )
        if refused is None:
            continue
        warnings = (*entry.warnings, refused.text)
        status.lists[number] = msgspec.structs.replace(entry, warnings=warnings, refused=refused)
        if refused.exit_code is not ExitCode.UNREACHABLE:
            status.exit_code = max(status.exit_code, refused.exit_code)


def read_lists(
    settings: Settings, environ: Mapping[str, str], now: datetime, *, verify: bool = False
) -> tuple[list[ListStatus], dict[str, str]]:
    """Return the status of every list that should be on this machine, sorted by name.

    The second value has the problem of each provider whose lists are not known, by the name of the
    provider.

    Raises:
        StateError: the folder of all lists cannot be read.
    """
    sealer: Sealer | None = None
    key_problem = None
    try:
        sealer = load_sealer(settings.state_dir, settings.seal_key_file, environ)
    except (StateError, ConfigError) as error:
        key_problem = error.message
    expected = expected_lists(settings, sealer, verify=verify)
    lists, providers = [], {}
    for entry in expected:
        if entry.name is not None:
            lists.append(_list(settings, entry.name, entry, key_problem, now))
        elif entry.provider is not None:
            providers[entry.provider] = _problem_of(entry)
    return lists, providers


def _list(
    settings: Settings,
    name: str,
    entry: ExpectedList,
    key_problem: str | None,
    now: datetime,
) -> ListStatus:
    if entry.index is None:
        return ListStatus(name, None, ExitCode.STATE, _problem_of(entry), entry.provider)
    manifest = entry.index.manifest
    if key_problem is not None:
        return ListStatus(name, manifest, ExitCode.STATE, key_problem, entry.provider)
    code, problem = _freshness(manifest, now, settings.grace(manifest.provider))
    recognised, warnings = _recognised(entry.index), tuple(_warnings(settings, manifest, now))
    return ListStatus(name, manifest, code, problem, entry.provider, recognised, warnings)


def _warnings(settings: Settings, manifest: Manifest, now: datetime) -> Iterator[str]:
    config = settings.config.providers.get(manifest.provider)
    if config is not None and config.known_good:
        from hashclient.fetch.known_listed import read_known_listed

        known = read_known_listed(settings.state_dir).get(manifest.list)
        if known is not None and (text := known.text):
            yield text
    if config is None:
        yield f"fetches do not keep the list up to date; {UNCONFIGURED_HINT}"
    elif config.lists and manifest.list not in config.lists:
        folder = printable(settings.layout.lists / manifest.list)
        yield (
            "`lists` of its provider does not name this list; if you do not want the list any more,"
            f" remove {folder}"
        )
    since = manifest.verified_since
    if now - since > OVERDUE:
        yield (
            f"parts of the index were not compared with their digests since {for_people(since)},"
            f" for more than {OVERDUE.days} days; run `hashclient fetch`, and more often"
        )


def _recognised(index: Index) -> dict[str, int]:
    counts: dict[str, int] = {}
    for algorithm in Algorithm:
        sized, unsized = index.count_missed(algorithm)
        counts[f"size+{algorithm.label}"] = index.manifest.entries - unsized
        counts[algorithm.label] = index.manifest.entries - unsized - sized
    return counts


def _freshness(manifest: Manifest, now: datetime, grace: timedelta) -> tuple[ExitCode, str | None]:
    state = manifest.state(now, grace)
    if state.fresh:
        return ExitCode.OK, None
    if state.is_early:
        return ExitCode.STALE, "STALE: the clock is behind the last check"
    if state.in_grace:
        until = manifest.expires + grace
        return (
            ExitCode.OK,
            f"past its expiry, in its grace period until {for_people(until)}",
        )
    return ExitCode.STALE, "STALE: past its expiry"


def _problem_of(entry: ExpectedList) -> str:
    return f"{entry.problem}; {entry.hint}"


def _quarantine(settings: Settings) -> QuarantineStatus:
    from hashclient.quarantine.item import evidence_path, item_ids

    sizes = []
    for match_id in item_ids(settings.layout.quarantine):
        path = evidence_path(settings.layout.quarantine, match_id)
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # the item was restored or destroyed meanwhile
            continue
        except OSError as error:
            raise state_error("cannot read", path, error) from error
    return QuarantineStatus(len(sizes), sum(sizes))


def _check_recorded(settings: Settings) -> None:
    """Check that each item has its match.

    A lost record of matches must not look like an empty record.

    Raises:
        StateError: a match is lost, or the quarantine or the record of matches cannot be read.
    """
    from hashclient.quarantine.item import item_ids

    ids = item_ids(settings.layout.quarantine)
    with Matches(settings.state_dir, create=False) as matches:
        lost = len(ids) - len(matches.known(ids))
    if lost:
        raise StateError(
            f"the record of matches lacks {counted(lost, 'file')} in quarantine",
            hint="restore it from a backup, or run `hashclient quarantine recover`",
        )


def _reports(settings: Settings, now: datetime) -> ReportsStatus:
    from hashclient.reporting.report import State, load_all

    reports = load_all(settings.layout.reports)
    counts = Counter(report.state for report in reports)
    waiting = [report.created for report in reports if report.is_open]
    overdue = {
        name: sum(r.is_overdue(now, table.deadline_hours) for r in reports if r.destination == name)
        for name, table in settings.config.report.to.items()
        if table.deadline_hours is not None
    }
    return ReportsStatus({str(s): counts[s] for s in State}, min(waiting, default=None), overdue)


def _exceptions(
    settings: Settings, environ: Mapping[str, str], now: datetime
) -> ExceptionsStatus | None:
    layout = settings.layout
    if not has_book(layout):
        return None
    sealer = load_sealer(settings.state_dir, settings.seal_key_file, environ)
    standing = [ruling for ruling in load_book(layout, sealer).rulings if now < ruling.until]
    ending = sorted((r for r in standing if r.until - now <= SOON), key=lambda r: r.until)
    waiting = tuple(ruling for ruling in standing if ruling.waits)
    return ExceptionsStatus(len(standing), tuple(ending), waiting)


def _audit(settings: Settings, lists: int) -> AuditStatus | None:
    try:
        last = next(read(settings.layout.audit, limit=1), None)
        last_scan = next(read(settings.layout.audit, event="scan-end", limit=1), None)
        limit = FETCHES_PER_LIST * lists
        fetches = [*read(settings.layout.audit, event=_FETCHES, limit=limit)] if limit else []
    except StateError:  # no log exists
        return None
    if last is None:
        return None
    sources: dict[str, str] = {}
    refusals: dict[tuple[str, str | None], Refusal] = {}
    for record in fetches:
        provider, name = str(record.data.get("provider")), record.data.get("list")
        if record.event == "refused":
            code = _CODES.get(int(record.data.get("exit_code") or 0), ExitCode.BUG)
            reason = str(record.data.get("reason"))
            refusals[provider, name] = Refusal(record.time, code, reason)
            continue
        for key in ((provider, name), (provider, None)):
            refusals.pop(key, None)
        if "source" in record.data:
            sources[str(name)] = record.data["source"]
    return AuditStatus(last, last_scan, sources, refusals)
