"""The table of the kinds of destinations, and the look-up of configured destinations.

This module contains facts about each kind of destination, so that the implementation of a kind is
imported only when a report is sent. A new kind of destination needs a table in the package
`config`, an entry in `KINDS`, and a class with the methods of `interface.Destination`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import msgspec

from hashclient.config.tables import PackageDestination, ReportConfig, ServiceDestination
from hashclient.core.errors import ConfigError, UsageError
from hashclient.system.text import printable

#: The type of the configuration of a destination of any kind.
Table = PackageDestination | ServiceDestination

_HERE = "hashclient.reporting.destinations"


class Kind(msgspec.Struct, frozen=True):
    """The facts about one kind of destination.

    `implementation` names a class in the form `module:name`, where the module is in this package.
    `takes_back` says whether a report can be retracted after it was handed over. `needs_email` says
    whether the email address of the reporter must be configured.
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
    """Return the name of the kind of a configured destination, which is a key of `KINDS`."""
    kind = type(table).__struct_config__.tag
    assert isinstance(kind, str)
    return kind


def load(kind: str) -> Any:
    """Import and return the implementation of a kind of destination, an `interface.Factory`."""
    module, _, name = KINDS[kind].implementation.partition(":")
    return getattr(importlib.import_module(f"{_HERE}.{module}"), name)


def find_destination(config: ReportConfig, name: str | None) -> tuple[str, Table]:
    """Return the name and table of the destination `name`, or of the default destination.

    Raises:
        UsageError, ConfigError: no destination has this name, or a setting that this destination
            needs is missing.
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
