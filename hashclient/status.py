"""What a state directory holds and whether it can be relied on, without changing any of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from hashclient.config import Settings
from hashclient.errors import ConfigError, ExitCode, StateError
from hashclient.index import Manifest, check_key, lists_on_disk, open_index, state_of
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
        """Whether a scan can rely on it."""
        return self.exit_code is ExitCode.OK


def read_status(settings: Settings, environ: Mapping[str, str], now: datetime) -> list[ListStatus]:
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
        _status(settings, name, sealer, key_problem, now)
        if name in here
        else ListStatus(name, None, ExitCode.STATE, "never fetched")
        for name in sorted(wanted.union(here))
    ]


def _status(
    settings: Settings, name: str, sealer: Sealer | None, key_problem: str | None, now: datetime
) -> ListStatus:
    try:
        index = open_index(settings.lists_dir / name)
        if index is None or sealer is None:
            problem = key_problem or "never fetched"
            manifest = index.manifest if index else None
            return ListStatus(name, manifest, ExitCode.STATE, problem)
        check_key(index.manifest, sealer.key_id)
    except StateError as error:
        return ListStatus(name, None, ExitCode.STATE, error.message)
    if state_of(index.manifest, now).fresh:
        return ListStatus(name, index.manifest, ExitCode.OK, None)
    problem = "STALE: past its expiry"
    if now < index.manifest.expires:
        problem = "STALE: the clock is behind the last check"
    return ListStatus(name, index.manifest, ExitCode.STALE, problem)
