"""The tables of config.toml as values: their keys, types, ranges and defaults.

`config` checks how tables depend on each other.

A `config.toml` may be for clients of several versions: some tables apply only from a version on. An
unknown key is an error for two reasons. An unknown key may be misspelt; or an older client that
ignores it may do more than intended, for example apply a rule of a policy without the key that
limits the rule. So the file itself says which parts are not for older clients. For a client of 0.3
or later, everything below `[since."0.3"]` counts as if it was at the top of the file, and outranks
the keys there. An earlier client ignores this part. Below `since` an unknown key is an error, too.
"""

import datetime as dt
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hashclient.config.faults import Fault, wrong_type
from hashclient.core.patience import ATTEMPTS, MIN_RATE_KIB_S, TIMEOUT_S
from hashclient.system.log import Log
from hashclient.system.signed import Key

#: Ten years: a longer time is a mistake, and its dates may be out of range.
MAX_GRACE_HOURS = 87_600
#: A hundred years: a longer time is a mistake, too.
MAX_KEEP_DAYS = 36_500

_Seconds = Annotated[float, Meta(ge=0.05, le=3600)]
_Rate = Annotated[float, Meta(ge=0.05, le=1_000_000)]
_Attempts = Annotated[int, Meta(ge=1, le=20)]
#: Hours until a deadline: up to a year.
_Hours = Annotated[float, Meta(gt=0, le=8_784)]
_Days = Annotated[float, Meta(ge=1, le=MAX_KEEP_DAYS)]
_Number = Annotated[int, Meta(ge=0, le=1_000_000_000)]


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
    """A provider: its address, the credentials, and the pinned root of trust.

    Without a `url` or `mirrors`, its files come as a bundle or a directory. `mirrors` are further
    addresses, tried in their order after `url`. `lists` names the lists to fetch; without it, every
    list of the provider is fetched. `grace_hours` is how long past its expiry a list still counts.
    Entries that are known to be good by the files `known_good` are set aside: at most
    `max_set_aside`, and a generation that adds more of these entries is refused. A generation is
    also refused if it adds and withdraws more than the share `max_churn` of the entries that were
    live before. `timeout_s`, `min_rate_kib_s` and `attempts` limit the transport, for each address.
    """

    root_sha256: str
    url: str | None = None
    # A limit, since one fetch may have to try all addresses.
    mirrors: Annotated[tuple[MirrorConfig, ...], Meta(max_length=16)] = ()
    lists: tuple[str, ...] | None = None
    grace_hours: Annotated[float, Meta(ge=0, le=MAX_GRACE_HOURS)] = 0.0
    known_good: tuple[str, ...] = ()
    max_set_aside: Annotated[int, Meta(ge=0, le=1_000)] = 20
    max_churn: Annotated[float, Meta(gt=0)] | None = None
    timeout_s: _Seconds = TIMEOUT_S
    min_rate_kib_s: _Rate = MIN_RATE_KIB_S
    attempts: _Attempts = ATTEMPTS

    @property
    def addresses(self) -> tuple[tuple[str, AccessConfig], ...]:
        """Every address with its credentials, in the order in which addresses are tried."""
        first = () if self.url is None else ((self.url, self),)
        return (*first, *((mirror.url, mirror) for mirror in self.mirrors))


class PolicyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The actions on matches of a list, of a category, or of both; a missing key fits all.

    Every match is recorded; `record`, or no action at all, means that only this is done.
    """

    actions: tuple[Literal["record", "report", "quarantine"], ...]
    list: str | None = None
    category: str | None = None


class BrakeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The brake: how many distinct files are acted upon within 24 hours; 0 means no limit.

    `per_entry` is for one entry, `per_day` for all entries together. A match above a limit is held.
    """

    per_entry: _Number = 100
    per_day: _Number = 0


class DecisionsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many persons an exception needs: with two, the first makes it and the second approves it.

    `trusted` are the keys that may sign exported exceptions, by a name for each.
    """

    people: Annotated[int, Meta(ge=1, le=2)] = 1
    trusted: dict[str, Key] = {}


class QuarantineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How files are isolated: the recipients that they are sealed to, and how long they are kept.

    `recipients` are age public keys; the owner of any of these keys can open a file again.
    `tombstone` is the text of a file that is left in place of the isolated file. `keep_days` counts
    from the hand-over of the report; without `keep_days`, no item is ever due. Without
    `isolate_containers`, a file is not isolated because of its members.
    """

    recipients: tuple[str, ...] = ()
    tombstone: str | None = None
    keep_days: Annotated[float, Meta(ge=0, le=MAX_KEEP_DAYS)] | None = None
    isolate_containers: bool = True


class InventoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The inventory: a file believed unchanged is read again after this many days."""

    reread_days: Annotated[int, Meta(ge=0, le=3_650)] = 14


class PackageDestination(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="package"
):
    """A body that takes packages: the directory for them, and the body's age public keys.

    `key` is the body's public key, Ed25519, which signs its answers. A report that was prepared
    more than `deadline_hours` ago, and was not handed over, is overdue.
    """

    directory: str
    recipients: tuple[str, ...] = ()
    key: Key | None = None
    deadline_hours: _Hours | None = None


class ServiceDestination(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cybertipline"
):
    """A reporting service with an API like the CyberTipline's.

    `evidence` chooses the upload: the `file` itself, its `sealed` form, or `none`. `deadline_hours`
    is as for a `PackageDestination`.
    """

    url: str
    incident_type: str
    basic_file: str
    evidence: Literal["file", "sealed", "none"] = "file"
    ca: str | None = None
    proxy: str | None = None
    proxy_basic_file: str | None = None
    allow_http: bool = False
    timeout_s: _Seconds = TIMEOUT_S
    min_rate_kib_s: _Rate = MIN_RATE_KIB_S
    attempts: _Attempts = ATTEMPTS
    deadline_hours: _Hours | None = None


class FactsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The command that gives the facts about the source of a match when a report is sent."""

    command: Annotated[tuple[str, ...], Meta(min_length=1)]


class ReportConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reporter, the destinations, and whether people review matches before a report leaves.

    `default` names the default destination. With `after`, a report of a match waits until `people`
    persons have confirmed the match; this concerns only the `share` of all matches, chosen by their
    ids.
    """

    organisation: str | None = None
    contact: str | None = None
    email: str | None = None
    default: str | None = None
    after: Literal["review"] | None = None
    people: Annotated[int, Meta(ge=1, le=2)] = 1
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    facts: FactsConfig | None = None
    to: dict[str, PackageDestination | ServiceDestination] = {}

    def destination(self) -> str | None:
        """Return the name of the default destination, or None."""
        if self.default is None and len(self.to) == 1:
            return next(iter(self.to))
        return self.default


class ContainersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far containers are opened: bounds for one file and all its members.

    `depth` limits containers within containers, `members` the number of members, `bytes_out` the
    unpacked bytes, and `ratio` the unpacked bytes divided by the bytes of the file. `time_s` limits
    the time, and `memory_mib` the memory of a process that opens containers. `sandbox` says what
    happens if the kernel cannot lock that process up: with `require`, no container is opened on
    this machine. `not_opened` says how files count that contain other files and are of a kind that
    is not opened, for example images of disks: they are counted by kind, or are unread as well.
    """

    depth: Annotated[int, Meta(ge=1, le=100)] = 32
    members: Annotated[int, Meta(ge=1, le=10_000_000)] = 2_000_000
    bytes_out: Annotated[int, Meta(ge=1, le=1 << 62)] = 1 << 42
    ratio: Annotated[int, Meta(ge=1, le=10_000_000)] = 2_000
    time_s: Annotated[int, Meta(ge=1, le=86_400)] = 3_600
    memory_mib: Annotated[int, Meta(ge=64, le=65_536)] = 256
    sandbox: Literal["auto", "require"] = "auto"
    not_opened: Literal["counted", "unread"] = "counted"


class ObjectsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of one bucket.

    With `trust_etag`, an ETag that looks like an MD5 counts as an MD5. `isolate` says how an object
    is removed after its sealed copy is complete: it is deleted, or put on legal hold. With
    `conditional_delete`, the store deletes an object only if the given condition holds.
    """

    trust_etag: bool = False
    conditional_delete: bool = False
    isolate: Literal["delete", "hold"] = "delete"


class AcceptRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Members that may stay unread: by path and reason, until the end of a day in UTC.

    `path` is a pattern as for `--exclude`, for the whole path with the names of members.
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

    matches_days: _Days | None = None
    inventory_days: _Days = 90
    audit_mib: Annotated[float, Meta(ge=0, le=1_000_000)] = 64


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster that scans run on, and the files that prove each side to the other.

    `scheduler` is as for `scan --executor`. `ca` is a file of certificates that have signed the
    certificates of scheduler and workers; `cert` and `key` are the client's own.
    """

    scheduler: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class FleetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where `fetch` and `scan` publish the status of this machine, if anywhere.

    `publish` is a directory or a URI, as for `status --publish`. Each document promises the next
    document within `every_hours`.
    """

    publish: Annotated[str, Meta(min_length=1)] | None = None
    every_hours: Annotated[float, Meta(ge=0.1, le=MAX_GRACE_HOURS)] = 26.0


class NoticesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The effect of providers' notices.

    While a notice of the severity `alert_from`, or worse, is open, `status` ends with 3; without
    `alert_from`, notices do not change its exit code.
    """

    alert_from: Literal["minor", "moderate", "severe", "extreme"] | None = None


_log = Log("config")

SINCE = "since"

Version = tuple[int, int, int]

#: A version with one number alone is refused: TOML reads `[since.0.3]`, without quotes, like that.
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?", re.ASCII)


def parse_version(text: str, *, whole: bool = True) -> Version | None:
    """Return a version as three numbers, None if it is wrong; a missing number is 0.

    Text after the numbers is ignored, unless `whole` is set.
    """
    found = _VERSION.fullmatch(text) if whole else _VERSION.match(text)
    if found is None:
        return None
    major, minor, patch = (int(number or 0) for number in found.groups())
    return major, minor, patch


def apply_since(document: dict[str, Any], own: str) -> Fault | None:
    """Merge into `document` the parts for a client of version `own`; return notes.

    A later version outranks an earlier version. Tables are merged; any other value, a list
    included, replaces the earlier value.
    """
    tables = document.pop(SINCE, {})
    if not isinstance(tables, dict):
        return wrong_type(SINCE, "at the top", "tables by version", tables)
    ordered: list[tuple[Version, dict[str, Any]]] = []
    for text, table in tables.items():
        version = parse_version(text)
        if version is None or not isinstance(table, dict):
            return Fault(
                f"a key below [{SINCE}] is no table of a version",
                hint=f'write [{SINCE}."0.3".scan], say: the version is in quotes',
            )
        ordered.append((version, table))
    mine = parse_version(own, whole=False) or (0, 0, 0)
    for version, table in sorted(ordered, key=lambda pair: pair[0]):
        if SINCE in table:
            return Fault(f"[{SINCE}] stands below [{SINCE}]", hint="write each version at the top")
        if version <= mine:
            _merge(document, table)
        else:
            # This may be intended, or a mistyped version whose tables then never apply.
            _log.info(
                "passed over, for later versions: [%s.%s]", SINCE, ".".join(map(str, version))
            )
    return None


def _merge(into: dict[str, Any], table: dict[str, Any]) -> None:
    for key, value in table.items():
        before = into.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        else:
            into[key] = value


class AlertsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who gets a message when something needs a person: a command, a webhook, or mail.

    `command` gets each alert on its standard input. `webhook` is an address; the secret that signs
    the messages to it is in `secret_file` or `secret_env`. `mail` names the recipients; the server
    `smtp` gets the mail. With `paths`, alerts name the paths of matches. `every_hours` is the
    shortest time between two alerts about the same.
    """

    command: tuple[str, ...] = ()
    webhook: str | None = None
    secret_file: str | None = None
    secret_env: str | None = None
    mail: tuple[str, ...] = ()
    mail_from: str | None = None
    smtp: str = "localhost:25"
    smtp_basic_file: str | None = None
    ca: str | None = None
    proxy: str | None = None
    paths: bool = False
    every_hours: Annotated[float, Meta(ge=0, le=MAX_GRACE_HOURS)] | None = None

    @property
    def receivers(self) -> tuple[str, ...]:
        """The names of the receivers: the keys that are set."""
        return tuple(name for name in ("command", "webhook", "mail") if getattr(self, name))
