"""The kinds of destinations, and the configured destinations.

This module has the facts about each kind of destination, so that its implementation need not be
imported. A new kind needs a table in `config`, an entry in `KINDS`, and a class that follows
`interface`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import msgspec

from hashclient.config.tables import PackageDestination, ReportConfig, ServiceDestination
from hashclient.core.errors import ConfigError, UsageError
from hashclient.system.text import printable

#: The configuration of a destination.
Table = PackageDestination | ServiceDestination

_HERE = "hashclient.reporting.destinations"


class Kind(msgspec.Struct, frozen=True):
    """The facts about a kind of destination.

    `implementation` names a class, as `module:name` below this package. `takes_back` says whether a
    report can be taken back after it was handed over, `needs_email` whether the reporter's address
    is needed.
    """

    implementation: str
    takes_back: bool
    needs_email: bool


KINDS: Mapping[str, Kind] = {
    "package": Kind("package.handover:HandOver", takes_back=True, needs_email=False),
    "cybertipline": Kind(
        "cybertipline.cybertipline:CyberTipline", takes_back=False, needs_email=True
    ),
}


def kind_of(table: Table) -> str:
    """Return the word for the kind of a destination."""
    kind = type(table).__struct_config__.tag
    assert isinstance(kind, str)
    return kind


def load(kind: str) -> Any:
    """Import and return the implementation of the kind: a `Factory`, see `interface`."""
    module, _, name = KINDS[kind].implementation.partition(":")
    return getattr(importlib.import_module(f"{_HERE}.{module}"), name)


def find_destination(config: ReportConfig, name: str | None) -> tuple[str, Table]:
    """Return the destination called `name`, or without a name the default destination.

    Raises:
        UsageError, ConfigError: no destination has this name, or a setting for reports to it is
            missing.
    """
    if not config.to:
        raise ConfigError(
            "no destination of reports is configured",
            hint="config.toml needs a table [report.to.NAME]; docs/reporting.md has examples",
        )
    names = ", ".join(sorted(config.to))
    name = config.destination() if name is None else name
    if name is None:
        raise UsageError("no destination is given", hint=f"give --to one of: {names}")
    if name not in config.to:
        raise UsageError(f"no destination is called {printable(name)}", hint=f"there are: {names}")
    table = config.to[name]
    if KINDS[kind_of(table)].needs_email and not config.email:
        raise ConfigError(
            f"{name} wants to know who reports: email of [report] is not set",
            hint="set organisation, contact and email in [report] of config.toml",
        )
    return name, table
