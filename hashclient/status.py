"""What a state directory holds and whether it can be relied on, without changing any of it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hashclient.audit import Record, read
from hashclient.config import Settings
from hashclient.errors import AuditError, ConfigError, ExitCode, HashclientError, StateError
from hashclient.fsio import state_error
from hashclient.index import Manifest, check_key, lists_on_disk, open_index, state_of
from hashclient.match import Remembered
from hashclient.matches import Matches
from hashclient.matchstore import DATABASE_NAME
from hashclient.model import MatchState
from hashclient.seal import Sealer, load_sealer


@dataclass(frozen=True, slots=True)
class ListStatus:
    """One list: its manifest if it can be read, and what is wrong with it if anything is."""

    name: str
    manifest: Manifest | None
    exit_code: ExitCode
    problem: str | None

    @property
    def usable(self) -> bool:
        """Whether a scan can use the list at all."""
        return self.exit_code is not ExitCode.STATE

    @property
    def fresh(self) -> bool:
        """Whether it is within its expiry, with nothing to object."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class QuarantineStatus:
    """How many files are in quarantine, and how much room they take."""

    files: int
    sealed_bytes: int


@dataclass(frozen=True, slots=True)
class ReportsStatus:
    """How many reports there are in each state, and when the oldest was made that is not sent."""

    counts: Mapping[str, int]
    oldest_open: datetime | None


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """The last record of the audit log, and the last that says how a scan has ended, if any."""

    last: Record
    last_scan: Record | None


@dataclass(slots=True)
class Status:
    """Everything that a state directory holds. A part that is not there, or damaged, is None.

    `bare_providers` are those of which nothing was ever fetched. `problems` are of the parts that
    cannot be read; those of the lists are said there. `exit_code` is the worst of it all.
    """

    lists: list[ListStatus]
    bare_providers: list[str]
    exit_code: ExitCode
    matches: Mapping[MatchState, int] | None = None
    withdrawn: list[Remembered] = field(default_factory=list)
    quarantine: QuarantineStatus | None = None
    reports: ReportsStatus | None = None
    audit: AuditStatus | None = None
    problems: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Read a part: that it is damaged is a problem, and no reason to read no other."""
        try:
            yield
        except (StateError, AuditError) as error:
            self.problems.append(_text_of(error))
            self.exit_code = max(self.exit_code, error.exit_code)


def read_status(
    settings: Settings, environ: Mapping[str, str], now: datetime, *, verify: bool = False
) -> Status:
    """Read everything that the state directory holds.

    With `verify`, every byte of the indexes is read and compared with its digest, that of the known
    good files among them.
    """
    lists = read_lists(settings, environ, now, verify=verify)
    bare = _providers_without_lists(settings, lists)
    code = ExitCode.STATE if bare or not lists else ExitCode.OK
    status = Status(lists, bare, max([code, *(entry.exit_code for entry in lists)]))
    with status.part():
        # What no provider asks for any more is not used, and no fetch would mend it.
        if verify and any(p.known_good for p in settings.config.providers.values()):
            from hashclient.knowngood import verify_guard  # brings the writer of indexes

            verify_guard(settings.state_dir)
    with status.part():
        if (settings.state_dir / DATABASE_NAME).exists():
            with Matches(settings.state_dir, create=False) as matches:
                status.matches = matches.counts()
                status.withdrawn = matches.withdrawn()
    with status.part():
        if settings.quarantine_dir.exists():
            status.quarantine = _quarantine(settings)
    with status.part():
        if settings.reports_dir.exists():
            status.reports = _reports(settings)
    with status.part():
        status.audit = _audit(settings)
    return status


def read_lists(
    settings: Settings, environ: Mapping[str, str], now: datetime, *, verify: bool = False
) -> list[ListStatus]:
    """Return the status of every list that is here or ought to be, by name."""
    here = lists_on_disk(settings.lists_dir)
    wanted = {n for p in settings.config.providers.values() for n in p.lists or ()}
    sealer: Sealer | None = None
    key_problem = None
    if here:
        try:
            sealer = load_sealer(settings.state_dir, settings.seal_key_file, environ)
        except (StateError, ConfigError) as error:
            key_problem = error.message
    return [
        _list(settings, name, sealer, key_problem, now, verify=verify)
        if name in here
        else ListStatus(name, None, ExitCode.STATE, "never fetched")
        for name in sorted(wanted.union(here))
    ]


def _providers_without_lists(settings: Settings, lists: Iterable[ListStatus]) -> list[str]:
    """Return the names of the providers of which nothing was ever fetched.

    While a list is missing or cannot be read, which is worse, it may be anyone's: none is named.
    """
    manifests = [status.manifest for status in lists]
    if None in manifests:
        return []
    seen = {manifest.provider for manifest in manifests if manifest is not None}
    return [
        name
        for name, provider in sorted(settings.config.providers.items())
        if name not in seen and not provider.lists
    ]


def _list(
    settings: Settings,
    name: str,
    sealer: Sealer | None,
    key_problem: str | None,
    now: datetime,
    *,
    verify: bool,
) -> ListStatus:
    try:
        index = open_index(settings.lists_dir / name, verify=verify)
        if index is None or sealer is None:
            problem = key_problem or "never fetched"
            manifest = index.manifest if index else None
            return ListStatus(name, manifest, ExitCode.STATE, problem)
        check_key(index.manifest, sealer.key_id)
    except StateError as error:
        return ListStatus(name, None, ExitCode.STATE, _text_of(error))
    manifest = index.manifest
    state = state_of(manifest, now, settings.grace(manifest.provider))
    if state.fresh:
        return ListStatus(name, manifest, ExitCode.OK, None)
    if now < manifest.expires:
        return ListStatus(
            name, manifest, ExitCode.STALE, "STALE: the clock is behind the last check"
        )
    if state.in_grace:
        until = manifest.expires + settings.grace(manifest.provider)
        problem = f"past its expiry, in its grace period until {until:%Y-%m-%d %H:%M} UTC"
        return ListStatus(name, manifest, ExitCode.OK, problem)
    return ListStatus(name, manifest, ExitCode.STALE, "STALE: past its expiry")


def _quarantine(settings: Settings) -> QuarantineStatus:
    from hashclient.quarantine.item import evidence_path, item_ids

    sizes = []
    for match_id in item_ids(settings.quarantine_dir):
        path = evidence_path(settings.quarantine_dir, match_id)
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # given back or destroyed meanwhile
            continue
        except OSError as error:
            raise state_error("cannot read", path, error) from error
    return QuarantineStatus(len(sizes), sum(sizes))


def _reports(settings: Settings) -> ReportsStatus:
    from hashclient.reporting.state import State, load_all

    reports = load_all(settings.reports_dir)
    counts = Counter(report.state for report in reports)
    waiting = [report.created for report in reports if report.is_open]
    return ReportsStatus({str(s): counts[s] for s in State}, min(waiting, default=None))


def _audit(settings: Settings) -> AuditStatus | None:
    try:
        last = next(read(settings.audit_dir, limit=1), None)
        last_scan = next(read(settings.audit_dir, event="scan-end", limit=1), None)
    except StateError:  # it has not begun
        return None
    return None if last is None else AuditStatus(last, last_scan)


def _text_of(error: HashclientError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message
