"""Resolves the settings of a run into frozen values, from flags, the environment and `config.toml`.

`config.toml` is decoded strictly: an unknown key, a wrong type or a missing value is an error that
names the key. The settings never contain secrets, only the names of files and variables with
secrets. A table with the name of a command contains defaults for the options of the command; the
command line checks the table, because it knows the options.
"""

import datetime as dt
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hashclient.config.faults import (
    HINT_RECIPIENTS,
    Fault,
    find_fault,
    no_toml,
    unknown_key,
    wrong_type,
)
from hashclient.config.owners import allows_shared, files_named, refuse_shared
from hashclient.config.tables import (
    SINCE,
    AcceptRule,
    AlertsConfig,
    BrakeConfig,
    ClusterConfig,
    ContainersConfig,
    DecisionsConfig,
    FleetConfig,
    InventoryConfig,
    KeepConfig,
    NoticesConfig,
    ObjectsConfig,
    PolicyRule,
    ProviderConfig,
    QuarantineConfig,
    ReportConfig,
    apply_since,
)
from hashclient.core.errors import ConfigError, UsageError
from hashclient.core.kinds import Action
from hashclient.core.model import is_name
from hashclient.core.objecturi import is_object_uri, parse_prefix, parse_uri
from hashclient.core.version import __version__
from hashclient.system.files import MAX_TEXT_BYTES, read_regular, user_path
from hashclient.system.layout import Layout
from hashclient.system.text import excerpt, printable

_Kind = TypeVar("_Kind")

CONFIG_NAME = "config.toml"
#: The commands that have a table in `config.toml` with defaults for their options; these defaults
#: do not apply to programs that use the library.
COMMAND_TABLES = frozenset({"init", "fetch", "status", "scan", "lookup", "watch", "serve"})


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tables of `config.toml`, without the tables of commands."""

    state_dir: str | None = None
    seal_key_file: str | None = None
    providers: dict[str, ProviderConfig] = {}
    policy: tuple[PolicyRule, ...] = ()
    quarantine: QuarantineConfig = QuarantineConfig()
    inventory: InventoryConfig = InventoryConfig()
    report: ReportConfig = ReportConfig()
    keep: KeepConfig = KeepConfig()
    objects: dict[str, ObjectsConfig] = {}
    cluster: ClusterConfig = ClusterConfig()
    notices: NoticesConfig = NoticesConfig()
    brake: BrakeConfig = BrakeConfig()
    decisions: DecisionsConfig = DecisionsConfig()
    fleet: FleetConfig = FleetConfig()
    alerts: AlertsConfig = AlertsConfig()


class Config(_Document, frozen=True):
    """The content of `config.toml`.

    `commands`: the tables with names of commands, unchecked, without the keys `containers` and
    `accept` of the table `scan`.
    """

    containers: ContainersConfig = ContainersConfig()
    accept: tuple[AcceptRule, ...] = ()
    commands: dict[str, dict[str, Any]] = {}


class _Scan(msgspec.Struct, frozen=True):
    """The keys of the table `scan` that are not defaults for options."""

    containers: ContainersConfig = ContainersConfig()
    accept: tuple[AcceptRule, ...] = ()


class _Scans(msgspec.Struct, frozen=True):
    scan: _Scan = _Scan()


class Settings(msgspec.Struct, frozen=True):
    """The paths and the configuration of this run."""

    state_dir: Path
    config_path: Path
    seal_key_file: Path | None
    config: Config

    @property
    def layout(self) -> Layout:
        """The paths below the state directory."""
        return Layout(self.state_dir)

    def provider(self, name: str) -> ProviderConfig:
        """Return the configuration of provider `name`.

        Raises:
            ConfigError: no provider has this name.
        """
        try:
            return self.config.providers[name]
        except KeyError:
            raise ConfigError(
                f"no provider called {name!r} is configured",
                hint="run `hashclient init`, or choose one that `hashclient status` shows",
            ) from None

    def grace(self, provider: str) -> dt.timedelta:
        """Return how long a list of `provider` may be used after its expiry."""
        config = self.config.providers.get(provider)
        return dt.timedelta(hours=config.grace_hours if config else 0)

    def providers(self) -> dict[str, ProviderConfig]:
        """Return the configurations of all providers, by name.

        Raises:
            ConfigError: no provider is configured.
        """
        if not self.config.providers:
            raise ConfigError(
                f"no provider is configured in {printable(self.config_path)}",
                hint="run `hashclient init URL --root ROOT.json` first",
            )
        return self.config.providers


def resolve_settings(
    *,
    state_dir: Path | None,
    config_path: Path | None,
    seal_key_file: Path | None,
    environ: Mapping[str, str],
    config_must_exist: bool = True,
    complete: bool = True,
    allow_shared: bool | None = None,
) -> Settings:
    """Resolve `config.toml` and the arguments, into which flags and environment are merged already.

    Without `config_path`, a given state directory must contain its own `config.toml`, so that the
    directory has all settings. If no state directory is given either, the file of the user is read;
    root reads the file of the system. If `complete` is False, the recipients of the quarantine may
    be missing, because the file is about to be changed. `allow_shared`: allow files that other
    users may change; if it is None, the environment decides.

    Raises:
        ConfigError: the file is malformed, a file that must exist is missing, or others may change
            a file that takes part in decisions.
    """
    if allow_shared is None:
        allow_shared = allows_shared(environ)
    refuse = (lambda *_: None) if allow_shared else refuse_shared
    where = config_path or (state_dir or _default_config_dir(environ)) / CONFIG_NAME
    refuse(where, "configuration")
    if config_path is not None:
        config = load_config(config_path, must_exist=config_must_exist, complete=complete)
    else:
        config_path = (state_dir or _default_config_dir(environ)) / CONFIG_NAME
        config = load_config(config_path, must_exist=False, complete=complete)
    if state_dir is None:
        state_dir = (
            user_path(config.state_dir)
            if config.state_dir is not None
            else _default_state_dir(environ)
        )
    if seal_key_file is None and config.seal_key_file is not None:
        seal_key_file = user_path(config.seal_key_file)
    refuse(state_dir, "state directory")
    if seal_key_file is not None:
        refuse(seal_key_file, "seal key file")
    for name, key in files_named(config):
        refuse(user_path(name), f"{key} of the configuration")
    # The paths become absolute now, because another user may later own the current directory.
    return Settings(state_dir.absolute(), config_path.absolute(), seal_key_file, config)


def _default_state_dir(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/hashclient")
    return _xdg_dir(environ.get("XDG_STATE_HOME", ""), "~/.local/state")


def _default_config_dir(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/etc/hashclient")
    return _xdg_dir(environ.get("XDG_CONFIG_HOME", ""), "~/.config")


def _xdg_dir(value: str, default: str) -> Path:
    """Return our directory below an XDG base directory, which must be absolute or unset."""
    return user_path(value if value.startswith("/") else default) / "hashclient"


def load_config(path: Path, *, must_exist: bool, complete: bool = True) -> Config:
    """Read and check the file `config.toml` at `path`.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown key or a value of a
            wrong type.
    """
    try:
        text = read_regular(path, MAX_TEXT_BYTES).decode("utf-8")
    except FileNotFoundError as error:
        if not must_exist:
            return Config()
        raise ConfigError(
            f"no configuration file: {printable(path)}", hint="`hashclient init` writes it"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot read configuration {printable(path)}: {error.strerror}",
            hint="check the path and its permissions; a configuration is a file of at most 1 MiB",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration {printable(path)} is not UTF-8", hint="save it as UTF-8"
        ) from error
    return parse_config(text, printable(path), complete=complete)


def parse_config(
    text: str,
    where: str,
    *,
    version: str = __version__,
    complete: bool = True,
) -> Config:
    """Decode the text of a `config.toml` for a client of `version`; `where` names the file.

    Raises:
        ConfigError: the text is malformed, as in `load_config`.
    """
    try:
        document = tomllib.loads(text)
        fault = apply_since(document, version)
    except (ValueError, RecursionError) as error:
        raise no_toml(text, error).refusal(where) from error
    if fault is not None:
        raise fault.refusal(where)
    commands = {name: document.pop(name) for name in sorted(COMMAND_TABLES & document.keys())}
    for name, table in commands.items():
        if not isinstance(table, dict):
            raise wrong_type(name, "at the top", "a table", table).refusal(where)
    for name in document.keys() - set(_Document.__struct_fields__):
        known_here = [*_Document.__struct_fields__, *COMMAND_TABLES, SINCE]
        raise unknown_key(name, known_here, "at the top").refusal(where)
    table = commands.get("scan", {})
    tables = {"scan": {name: table.pop(name) for name in _Scan.__struct_fields__ if name in table}}
    scan = _converted(tables, _Scans, where).scan
    known = _converted(document, _Document, where)
    for name, provider in known.providers.items():
        if not is_name(name):
            raise ConfigError(f"configuration {where}: {name!r} cannot name a provider")
        for list_name in provider.lists or ():
            if not is_name(list_name):
                raise ConfigError(f"configuration {where}: {list_name!r} cannot name a list")
    for name in known.objects:
        _check_bucket(name, f"configuration {where}")
    _check_place(known.fleet.publish, f"configuration {where}")
    _check_way_out(known, f"configuration {where}", complete=complete)
    return Config(
        **msgspec.structs.asdict(known), **msgspec.structs.asdict(scan), commands=commands
    )


def _converted(document: dict[str, Any], kind: type[_Kind], where: str) -> _Kind:
    try:
        return msgspec.convert(document, kind)
    except (ValueError, RecursionError) as error:
        fault = find_fault(document, kind) or Fault(excerpt(error))
        raise fault.refusal(where) from error


def _check_bucket(name: str, where: str) -> None:
    """Check that a table of [objects] is for a whole bucket.

    A table of [objects] for a prefix would never apply, so it is refused.
    """
    try:
        uri = parse_uri(name)
    except UsageError as error:
        raise ConfigError(f"{where}: [objects]: {error.message}", hint=error.hint) from error
    if uri.bucket_text != name:
        raise ConfigError(
            f"{where}: a table of [objects] is of a whole bucket, not of {printable(name)}",
            hint=f'write [objects."{uri.bucket_text}"]',
        )


def _check_place(publish: str | None, where: str) -> None:
    """Check that `publish` of [fleet] names a place, without opening the place."""
    if publish is None:
        return
    try:
        parse_prefix(publish) if is_object_uri(publish) else user_path(publish)
    except (UsageError, ConfigError) as error:
        raise ConfigError(
            f"{where}: 'publish' in [fleet]: {error.message}",
            hint=error.hint or "write a directory, or the URI of a bucket: s3://BUCKET/PREFIX",
        ) from error


def _check_way_out(known: _Document, where: str, *, complete: bool) -> None:
    """Check the tables about reports and the quarantine."""
    actions = {action for rule in known.policy for action in rule.actions}
    if complete and Action.QUARANTINE in actions and not known.quarantine.recipients:
        raise ConfigError(
            f"{where}: a policy asks for quarantine, but recipients of quarantine are not set",
            hint=HINT_RECIPIENTS,
        )
    for name in known.report.to:
        if not is_name(name):
            raise ConfigError(f"{where}: {name!r} cannot name a destination of reports")
    if known.report.after is None and known.report.share != 1:
        raise ConfigError(
            f"{where}: share of report is for reviews, and no review is asked for",
            hint='write `after = "review"` as well',
        )
    default = known.report.default
    if default is not None and default not in known.report.to:
        raise ConfigError(
            f"{where}: default of report names no destination: {printable(default)}",
            hint=f"it is one of: {', '.join(known.report.to)}"
            if known.report.to
            else "a table [report.to.NAME] makes a destination",
        )
    if Action.REPORT in actions and known.report.destination() is None:
        raise ConfigError(
            f"{where}: a policy asks for reports, but there is no default destination for them",
            hint="docs/operations/configuration.md describes [report]",
        )
