"""The tables of `config.toml` as values: their keys, types, ranges and defaults.

`settings` checks how tables depend on each other.

Clients of several versions may read one `config.toml`, so some of its tables are only for clients
from a certain version on. A key that a client does not know is an error. An unknown key may be
misspelt; or an older client that ignores the key may do more than intended, for example apply a
rule of a policy without the key that limits the rule. So the file itself says which of its parts
are not for older clients. For a client of version 0.3 or later, everything below `[since."0.3"]`
applies as if it were at the top of the file, and replaces the same keys at the top. An earlier
client ignores everything below `[since."0.3"]`. An unknown key below `since` is an error as well.
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

#: The longest grace period, ten years in hours: a longer time is a mistake, and its dates may be
#: out of range.
MAX_GRACE_HOURS = 87_600
#: The longest time for keeping records, a hundred years in days: a longer time is a mistake.
MAX_KEEP_DAYS = 36_500

_Seconds = Annotated[float, Meta(ge=0.05, le=3600)]
_Rate = Annotated[float, Meta(ge=0.05, le=1_000_000)]
_Attempts = Annotated[int, Meta(ge=1, le=20)]
#: The hours until a deadline, at most a year.
_Hours = Annotated[float, Meta(gt=0, le=8_784)]
_Days = Annotated[float, Meta(ge=1, le=MAX_KEEP_DAYS)]
_Number = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class OAuthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OAuth 2 client credentials: the address for tokens, and where the secret is."""

    token_url: str
    client_id: str
    client_secret_file: str | None = None
    client_secret_env: str | None = None
    scope: str | None = None
    ca: str | None = None


class AccessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The credentials for one address; they are sent to no other address."""

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
    """Another address of a provider, with its own credentials."""

    url: str


class ProviderConfig(AccessConfig, frozen=True, kw_only=True):
    """A provider: its address, its credentials, and the pinned root of trust.

    Without `url` and `mirrors`, the provider's files come as a bundle or a directory. `mirrors`:
    more addresses, which are tried in order after `url`. `lists`: the names of the lists to fetch;
    None means every list of the provider. `grace_hours`: the hours for which a list may be used
    after its expiry. `max_set_aside`: the number of entries that may be set aside because the files
    `known_good` contain them; a generation that adds more of these entries is refused. `max_churn`:
    the largest share of the live entries that a new generation may add and withdraw. `timeout_s`,
    `min_rate_kib_s`, `attempts`: limits of the transport for each address.
    """

    root_sha256: str
    url: str | None = None
    # The number of mirrors is limited, because one fetch may have to try all addresses.
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
        """All addresses with their credentials, in the order in which they are tried."""
        first = () if self.url is None else ((self.url, self),)
        return (*first, *((mirror.url, mirror) for mirror in self.mirrors))


class PolicyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The actions on matches of a list, of a category, or of both.

    A rule without `list` applies to all lists, and a rule without `category` to all categories.

    Every match is recorded; `record`, or an empty list of actions, means that nothing else is done.
    """

    actions: tuple[Literal["record", "report", "quarantine"], ...]
    list: str | None = None
    category: str | None = None


class BrakeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The brake: how many different files may be acted upon within 24 hours.

    A limit of 0 means that there is no limit.

    `per_entry`: the limit for one entry. `per_day`: the limit for all entries together. A match
    above a limit is held.
    """

    per_entry: _Number = 100
    per_day: _Number = 0


class DecisionsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many persons an exception needs.

    If an exception needs two persons, the first makes it and the second approves it.

    `trusted`: the keys that may sign exported exceptions, by the name that the operator has given
    to each key.
    """

    people: Annotated[int, Meta(ge=1, le=2)] = 1
    trusted: dict[str, Key] = {}


class QuarantineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How files are isolated: for whom they are encrypted, and how long they are kept.

    `recipients`: age public keys; the owner of each of these keys can decrypt an isolated file.
    `tombstone`: the text of a file that replaces an isolated file. `keep_days`: the days after the
    hand-over of the report for which an item is kept; None means that no item is ever due.
    `isolate_containers`: whether a file is isolated because one of its members matches.
    """

    recipients: tuple[str, ...] = ()
    tombstone: str | None = None
    keep_days: Annotated[float, Meta(ge=0, le=MAX_KEEP_DAYS)] | None = None
    isolate_containers: bool = True


class InventoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The inventory.

    `reread_days`: a file that is believed unchanged is read again after this many days.
    """

    reread_days: Annotated[int, Meta(ge=0, le=3_650)] = 14


class PackageDestination(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="package"
):
    """An organisation that receives packages: the directory for packages, and its age public keys.

    `key`: the organisation's Ed25519 public key, which verifies its answers. `deadline_hours`: a
    report that was prepared more than this many hours ago and was not handed over is overdue.
    """

    directory: str
    recipients: tuple[str, ...] = ()
    key: Key | None = None
    deadline_hours: _Hours | None = None


class ServiceDestination(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cybertipline"
):
    """A reporting service with an API like the CyberTipline's.

    `evidence`: what is uploaded: the `file` itself, its `sealed` form, or `none`. `deadline_hours`:
    the same as in `PackageDestination`.
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
    """The command that prints facts about the source of a match when a report is sent."""

    command: Annotated[tuple[str, ...], Meta(min_length=1)]


class ReportConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reporter, the destinations, and whether people review matches before a report is sent.

    `default`: the name of the default destination. `after`: if it is "review", a report of a match
    waits until `people` persons have confirmed the match. Only a `share` of all matches, chosen by
    their ids, needs reviews.
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
    """How far containers are opened: limits for one file and all its members.

    `depth`: the largest depth of containers inside containers. `members`: the largest number of
    members. `bytes_out`: the largest number of decompressed bytes. `ratio`: the largest number of
    decompressed bytes for each byte of the file. `time_s`: the largest time for one file, in
    seconds. `memory_mib`: the largest memory of a process that opens containers, in MiB. `sandbox`:
    with `require`, no container is opened on a machine whose kernel cannot confine the process that
    opens containers. `not_opened`: whether files that contain other files and are of a kind that is
    not opened, such as images of disks, are only counted by kind, or are unread as well.
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

    `trust_etag`: use an ETag that looks like an MD5 as the MD5 of the object. `isolate`: how an
    object is removed after its sealed copy is complete: `delete` it, or put it on legal `hold`.
    `conditional_delete`: whether the store can delete an object on the condition that its ETag is
    unchanged.
    """

    trust_etag: bool = False
    conditional_delete: bool = False
    isolate: Literal["delete", "hold"] = "delete"


class AcceptRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Members that may stay unread, by path and reason, until the end of a day in UTC.

    `path`: a pattern as for `--exclude`, for the path of a file with the names of members.
    """

    path: str
    reason: Literal["encrypted", "damaged", "limit", "not-opened"]
    until: dt.date


class KeepConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long records that accumulate are kept.

    `matches_days`: the days for which a settled match (restored, purged or closed) is kept after
    its last step; None keeps matches for ever. `inventory_days`: the days for which the inventory
    keeps a file after the last scan that has met the file. `audit_mib`: the size in MiB at which a
    file of the audit log is closed and the next file begins; 0 means that no file is closed.
    """

    matches_days: _Days | None = None
    inventory_days: _Days = 90
    audit_mib: Annotated[float, Meta(ge=0, le=1_000_000)] = 64


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster for scans, and the files with which client and cluster authenticate each other.

    `scheduler`: the address of the scheduler, as for `scan --executor`. `ca`: a file of the
    certificate authorities of scheduler and workers. `cert`, `key`: the certificate and the key of
    this client.
    """

    scheduler: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class FleetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where `fetch` and `scan` publish the status of this machine.

    `publish`: a directory or a URI, as for `status --publish`; None means that nothing is
    published. `every_hours`: each published document promises the next document within this many
    hours.
    """

    publish: Annotated[str, Meta(min_length=1)] | None = None
    every_hours: Annotated[float, Meta(ge=0.1, le=MAX_GRACE_HOURS)] = 26.0


class NoticesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How notices of providers affect the exit code of `status`.

    `alert_from`: while a notice of this severity or a higher severity is open, `status` ends with
    3; None means that notices do not change the exit code.
    """

    alert_from: Literal["minor", "moderate", "severe", "extreme"] | None = None


_log = Log("config")

SINCE = "since"

Version = tuple[int, int, int]

#: A pattern for a version. A version of a single number is refused, because TOML reads
#: `[since.0.3]`, without quotes, as a table 3 in a table 0.
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?", re.ASCII)


def parse_version(text: str, *, whole: bool = True) -> Version | None:
    """Return a version as three numbers, or None if it is malformed.

    A number that is missing in a version is 0.

    Text after the version is ignored, unless `whole` is set.
    """
    found = _VERSION.fullmatch(text) if whole else _VERSION.match(text)
    if found is None:
        return None
    major, minor, patch = (int(number or 0) for number in found.groups())
    return major, minor, patch


def apply_since(document: dict[str, Any], own: str) -> Fault | None:
    """Merge the parts for a client of version `own` into `document`; return the fault, if any.

    The part for a later version replaces values in the part for an earlier version. Tables with the
    same name are merged; any other value, including a list, replaces the earlier value.
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
            # Tables for later versions are logged, because a mistyped version would mean that its
            # tables never apply.
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
    """Who receives a message when something needs a person: a command, a webhook, or mail.

    `command`: a command that receives each alert on its standard input. `webhook`: the address to
    which alerts are sent. `secret_file`, `secret_env`: where the secret is that signs the messages
    to the webhook. `mail`: the recipients of mail. `smtp`: the server to which mail is sent.
    `paths`: whether alerts contain the paths of matches. `every_hours`: the shortest time between
    two alerts about the same subject.
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
        """The names of the receivers, which are the keys that are set."""
        return tuple(name for name in ("command", "webhook", "mail") if getattr(self, name))
