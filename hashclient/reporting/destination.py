"""To whom a report goes: destinations as the configuration has them, by name."""

from __future__ import annotations

from typing import Literal

from hashclient.config import PackageDestination, ReportConfig, ServiceDestination
from hashclient.errors import ConfigError, UsageError
from hashclient.system.text import printable

Destination = PackageDestination | ServiceDestination


def find_destination(config: ReportConfig, name: str | None) -> tuple[str, Destination]:
    """Return the destination called `name`, or the one that is meant without a name.

    Raises:
        UsageError, ConfigError: there is none, or it lacks something to report to it.
    """
    if not config.to:
        raise ConfigError(
            "no destination of reports is configured",
            hint="config.toml needs a table [report.to.NAME]; docs/reporting.md has examples",
        )
    names = ", ".join(sorted(config.to))
    name = config.destination() if name is None else name
    if name is None:
        raise UsageError("to whom is not said", hint=f"give --to one of: {names}")
    if name not in config.to:
        raise UsageError(f"no destination is called {printable(name)}", hint=f"there are: {names}")
    destination = config.to[name]
    if isinstance(destination, ServiceDestination) and not config.email:
        raise ConfigError(
            f"{name} wants to know who reports: email of [report] is not set",
            hint="set organisation, contact and email in [report] of config.toml",
        )
    return name, destination


def kind_of(destination: Destination) -> Literal["package", "cybertipline"]:
    """Return the word for how reports get to `destination`."""
    return "package" if isinstance(destination, PackageDestination) else "cybertipline"
