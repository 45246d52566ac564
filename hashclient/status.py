"""What a state directory holds and whether it can be relied on, without changing any of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from hashclient.config import Settings
from hashclient.errors import ConfigError, ExitCode, StateError
from hashclient.index import Manifest, check_key, lists_on_disk, open_index, state_of, verify_runs
from hashclient.matches import DATABASE_NAME, Matches, Remembered
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


def read_status(
    settings: Settings, environ: Mapping[str, str], now: datetime, *, verify: bool = False
) -> list[ListStatus]:
    """Return the status of every list that is here or ought to be, by name.

    With `verify`, every byte of the indexes is read and compared with its digest.
    """
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
        _status(settings, name, sealer, key_problem, now, verify=verify)
        if name in here
        else ListStatus(name, None, ExitCode.STATE, "never fetched")
        for name in sorted(wanted.union(here))
    ]


def providers_without_lists(settings: Settings, lists: Iterable[ListStatus]) -> list[str]:
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


def withdrawn_matches(settings: Settings) -> list[Remembered]:
    """Return the paths that matched entries which have been withdrawn since.

    Raises:
        StateError: the record of matches cannot be read.
    """
    if not (settings.state_dir / DATABASE_NAME).exists():
        return []
    with Matches(settings.state_dir, create=False) as matches:
        return matches.withdrawn()


def _status(
    settings: Settings,
    name: str,
    sealer: Sealer | None,
    key_problem: str | None,
    now: datetime,
    *,
    verify: bool,
) -> ListStatus:
    try:
        index = open_index(settings.lists_dir / name)
        if index is None or sealer is None:
            problem = key_problem or "never fetched"
            manifest = index.manifest if index else None
            return ListStatus(name, manifest, ExitCode.STATE, problem)
        check_key(index.manifest, sealer.key_id)
        if verify:
            verify_runs(settings.lists_dir / name, index.manifest)
    except StateError as error:
        problem = f"{error.message}; {error.hint}" if error.hint else error.message
        return ListStatus(name, None, ExitCode.STATE, problem)
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
