"""Where a scan checks files: in processes of this machine or on a cluster (`--executor`).

The forms of `--executor` are `processes`, `local-cluster:N` and `dask://HOST:PORT`. This module
does not import Dask, so that a wrong address is refused before any process starts.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import msgspec

from hashclient.config.tables import ClusterConfig
from hashclient.core.errors import ConfigError, UsageError
from hashclient.scan.values.options import PROCESSES
from hashclient.system.files import user_path
from hashclient.system.secrets import read_secret
from hashclient.system.text import printable

DEFAULT_PORT = 8786
MOST_WORKERS = 256
FORMS = "`processes`, `local-cluster:N` or `dask://HOST:PORT`"

_REMOTE = re.compile(
    r"dask://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,252}))(:(?P<port>[0-9]{1,5}))?/?"
)


class LocalCluster(msgspec.Struct, frozen=True):
    """A cluster with `workers` workers on this machine, which ends with the scan."""

    workers: int


class Tls(msgspec.Struct, frozen=True):
    """The certificate files by which client and cluster prove their identity to each other."""

    ca: Path
    cert: Path
    key: Path


class Scheduler(msgspec.Struct, frozen=True):
    """A scheduler that the administrator has started; without `tls`, it is on this machine."""

    host: str
    port: int
    tls: Tls | None = None

    @property
    def url(self) -> str:
        """The address of the scheduler in the form of Dask."""
        return f"{'tcp' if self.tls is None else 'tls'}://{self.host}:{self.port}"


def parse_executor(text: str, config: ClusterConfig) -> LocalCluster | Scheduler | None:
    """Return the cluster that `text` names; None if `text` names processes of this machine.

    Raises:
        UsageError: `text` names no executor.
        ConfigError: certificates are missing, or cannot be used.
    """
    if text == PROCESSES:
        return None
    kind, _, rest = text.partition(":")
    if kind == "local-cluster" and rest.isascii() and rest.isdigit():
        if 1 <= (number := int(rest[:9])) <= MOST_WORKERS:
            return LocalCluster(number)
        raise UsageError(f"a local cluster has from 1 to {MOST_WORKERS} workers: {rest[:20]}")
    found = _REMOTE.fullmatch(text)
    if found is None or not 0 < (port := int(found["port"] or DEFAULT_PORT)) < 1 << 16:
        raise UsageError(
            f"not an executor: {printable(text[:200])}", hint=f"an executor is {FORMS}"
        )
    tls = _tls_of(config)
    if tls is None and not is_loopback(found["host"]):
        raise ConfigError(
            f"a cluster beyond this machine needs TLS and a client certificate: {found['host']}",
            hint="set ca, cert and key in [cluster] of config.toml; docs/cluster.md has the steps",
        )
    return Scheduler(found["host"], port, tls)


def is_loopback(host: str) -> bool:
    """Return whether a host name always means this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def problem_with_worker(address: str) -> str | None:
    """Return why a worker at an address from Dask must not be used; None if it may be used."""
    scheme, _, rest = address.partition("://")
    host = rest.rpartition(":")[0]
    if scheme == "tls" or (scheme == "tcp" and is_loopback(host)):
        return None
    return "it is reached without TLS"


def _tls_of(config: ClusterConfig) -> Tls | None:
    given = {name: getattr(config, name) for name in ("ca", "cert", "key")}
    if not any(given.values()):
        return None
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise ConfigError(
            f"[cluster] lacks {' and '.join(missing)}",
            hint="ca, cert and key are needed together: each side proves itself to the other",
        )
    tls = Tls(*(user_path(value).absolute() for value in given.values()))
    read_secret(tls.key, "key of the cluster")
    read_secret(tls.cert, "certificate of the cluster", forbidden=0o022)
    read_secret(tls.ca, "certificates of the cluster", forbidden=0o022)
    return tls
