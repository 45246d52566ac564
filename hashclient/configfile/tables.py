"""The tables of config.toml as values: their keys, types and defaults.

`config` checks the ranges of values, and how tables depend on each other.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

from hashclient.core.patience import ATTEMPTS, MIN_RATE_KIB_S, TIMEOUT_S


class OAuthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OAuth 2 client credentials: where tokens come from, and the reference to the secret."""

    token_url: str
    client_id: str
    client_secret_file: str | None = None
    client_secret_env: str | None = None
    scope: str | None = None
    ca: str | None = None


class AccessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The credentials for one address; no other address gets them."""

    token_file: str | None = None
    token_env: str | None = None
    token_credential: str | None = None
    basic_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    ca: str | None = None
    proxy: str | None = None
    proxy_basic_file: str | None = None
    allow_http: bool = False
    oauth: OAuthConfig | None = None


class MirrorConfig(AccessConfig, frozen=True, kw_only=True):
    """A further address of a provider with its own credentials."""

    url: str


class ProviderConfig(AccessConfig, frozen=True, kw_only=True):
    """One provider: its address, the credentials, and the pinned root of trust.

    Without a `url` or `mirrors`, its files come as a bundle or a directory. `mirrors` are further
    addresses, tried in their order after `url`. `lists` names the lists to fetch; without it, every
    list of the provider is fetched. `grace_hours` is how long past its expiry a list still counts.
    Entries that are known to be good by the files `known_good` are set aside: at most
    `max_set_aside`, and a generation that adds more of them is refused. One is also refused that
    adds and withdraws more than the share `max_churn` of the entries that were live before.
    `timeout_s`, `min_rate_kib_s` and `attempts` limit the transport, for each address.
    """

    root_sha256: str
    url: str | None = None
    mirrors: tuple[MirrorConfig, ...] = ()
    lists: tuple[str, ...] | None = None
    grace_hours: float = 0.0
    known_good: tuple[str, ...] = ()
    max_set_aside: int = 20
    max_churn: float | None = None
    timeout_s: float = TIMEOUT_S
    min_rate_kib_s: float = MIN_RATE_KIB_S
    attempts: int = ATTEMPTS

    @property
    def addresses(self) -> tuple[tuple[str, AccessConfig], ...]:
        """Every address with its credentials, in the order in which they are tried."""
        first = () if self.url is None else ((self.url, self),)
        return (*first, *((mirror.url, mirror) for mirror in self.mirrors))


class PolicyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The actions on matches of a list, of a category, or of both; a missing key fits all.

    Every match is recorded; `record` says that this is all that is done, as no action does.
    """

    actions: tuple[Literal["record", "report", "quarantine"], ...]
    list: str | None = None
    category: str | None = None


class BrakeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The brake: how many distinct files are acted upon within 24 hours; 0 stands for no limit.

    `per_entry` is for one entry, `per_day` for all entries together. A match above a limit is held.
    """

    per_entry: int = 100
    per_day: int = 0


class QuarantineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How files are isolated: the recipients they are sealed to, and how long they are kept.

    `recipients` are age public keys; the owner of one of them is needed to open a file again.
    `tombstone` is the text of a file that is left in place of the isolated one. `retention_days`
    counts from the acknowledgement of the report; without it no item is ever due. Without
    `isolate_containers`, a file is not isolated because of its members.
    """

    recipients: tuple[str, ...] = ()
    tombstone: str | None = None
    retention_days: float | None = None
    isolate_containers: bool = True


class InventoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The inventory: a file believed unchanged is read again after this many days."""

    reread_days: int = 14


class PackageDestination(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="package"
):
    """A body that takes packages: the directory for them, and the body's age public keys."""

    directory: str
    recipients: tuple[str, ...] = ()


class ServiceDestination(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cybertipline"
):
    """A reporting service with an API of the CyberTipline's kind.

    `evidence` chooses the upload: the `file` itself, its `sealed` form, or `none`.
    """

    url: str
    incident_type: str
    basic_file: str
    evidence: Literal["file", "sealed", "none"] = "file"
    ca: str | None = None
    proxy: str | None = None
    proxy_basic_file: str | None = None
    allow_http: bool = False
    timeout_s: float = TIMEOUT_S
    min_rate_kib_s: float = MIN_RATE_KIB_S
    attempts: int = ATTEMPTS


class ReportConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reporter, the destinations, and whether people review matches before a report leaves.

    `default` names the default destination. With `after`, a report of a match waits until `people`
    persons have confirmed the match; that is for the `share` of all matches, chosen by their ids.
    """

    organisation: str | None = None
    contact: str | None = None
    email: str | None = None
    default: str | None = None
    after: Literal["review"] | None = None
    people: int = 1
    share: float = 1.0
    to: dict[str, PackageDestination | ServiceDestination] = {}

    def destination(self) -> str | None:
        """Return the name of the default destination, or None."""
        if self.default is None and len(self.to) == 1:
            return next(iter(self.to))
        return self.default


class ContainersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far containers are opened: bounds for one file and all its members.

    `depth` limits containers within containers, `members` the number of members, `bytes_out` the
    unpacked bytes, and `ratio` these divided by the bytes of the file. `time_s` limits the time,
    and `memory_mib` the memory of a process that opens containers. `sandbox` says what happens
    where the kernel cannot lock that process up: with `require`, no container is opened there.
    `not_opened` says how files count that hold others and are of a kind that is not opened, such as
    images of disks: they are counted by kind, or unread as well.
    """

    depth: int = 32
    members: int = 2_000_000
    bytes_out: int = 1 << 42
    ratio: int = 2_000
    time_s: int = 3_600
    memory_mib: int = 256
    sandbox: Literal["auto", "require"] = "auto"
    not_opened: Literal["counted", "unread"] = "counted"


class ObjectsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of one bucket.

    With `trust_etag`, an ETag that may be an MD5 is one. `isolate` says what is done to an object
    that is isolated, once its sealed copy is complete: it is deleted, or put on legal hold. With
    `conditional_delete`, the store heeds the condition under which an object is to be deleted.
    """

    trust_etag: bool = False
    conditional_delete: bool = False
    isolate: Literal["delete", "hold"] = "delete"


class AcceptRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Members that may stay unread: by path and reason, until the end of a day in UTC.

    `path` is a pattern like those of `--exclude`, for the whole path with the names of members.
    """

    path: str
    reason: Literal["encrypted", "damaged", "limit", "not-opened"]
    until: dt.date


class KeepConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long records that grow by themselves are kept.

    `matches_days` counts from the last step of a settled match (restored, purged or closed);
    without it matches are kept for ever. `inventory_days` counts from the last scan that met a
    file. A file of the audit log with `audit_mib` MiB is closed, and the next one begins; with 0 it
    is never closed.
    """

    matches_days: float | None = None
    inventory_days: float = 90
    audit_mib: float = 64


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster that scans run on, and the proofs of each side of a connection to the other.

    `scheduler` is as for `scan --executor`. `ca` is a file of certificates that have signed those
    of scheduler and workers; `cert` and `key` are the client's own.
    """

    scheduler: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class NoticesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The effect of providers' notices.

    While a notice of the severity `alert_from`, or worse, is open, `status` ends with 3; without
    `alert_from`, notices do not change its exit code.
    """

    alert_from: Literal["minor", "moderate", "severe", "extreme"] | None = None
