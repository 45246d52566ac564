"""Finds the problems in a status that become alerts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hashclient.alerts.alert import Kind, Noticed, noticed
from hashclient.alerts.noticing import LOG, STATE
from hashclient.core.errors import ExitCode

if TYPE_CHECKING:
    from hashclient.status.status import Status


def alarms(status: Status) -> Iterator[Noticed]:
    """Yield lists that have expired, damaged parts of the state, and exceptions that end soon."""
    yield noticed(Kind.STALE, *(e.name for e in status.lists if e.usable and not e.fresh))
    damaged = [*status.providers, *(e.name for e in status.lists if not e.usable)]
    if status.exit_code is ExitCode.AUDIT:
        damaged.append(LOG)
    elif status.exit_code is ExitCode.STATE and status.problems:
        damaged.append(STATE)
    yield noticed(Kind.DAMAGED, *damaged)
    if status.exceptions is not None:
        yield noticed(Kind.EXCEPTION_ENDS, *(ruling.id for ruling in status.exceptions.ending))
