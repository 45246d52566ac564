"""Settings: decoded strictly, resolved once, and written in a form that reads back the same."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.config.edit import provider_table
from hashclient.config.settings import Settings, parse_config, resolve_settings
from hashclient.config.tables import (
    MirrorConfig,
    OAuthConfig,
    PackageDestination,
    PolicyRule,
    ProviderConfig,
    QuarantineConfig,
    ReportConfig,
    ServiceDestination,
)
from hashclient.core.errors import ConfigError

PROVIDER = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'


def resolved(environ: dict[str, str] | None = None, **kwargs: Any) -> Settings:
    given_paths: dict[str, Any] = {"state_dir": None, "config_path": None, "seal_key_file": None}
    return resolve_settings(**(given_paths | kwargs), environ=environ or {})


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_a_state_directory_holds_its_own_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(PROVIDER)
    settings = resolved(state_dir=tmp_path)
    assert settings.config_path == tmp_path / "config.toml"
    assert settings.state_dir == tmp_path
    assert settings.provider("main").url == "https://lists.example.org"
    assert (settings.layout.audit, settings.layout.lists, settings.layout.lock) == (
        tmp_path / "audit",
        tmp_path / "lists",
        tmp_path / "lock",
    )
    assert settings.layout.provider("main") == tmp_path / "trust" / "main"


def test_the_configuration_may_name_state_and_key(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('state_dir = "~/s"\nseal_key_file = "~/k"\n')
    home = Path.home()
    settings = resolved(config_path=path)
    assert (settings.state_dir, settings.seal_key_file) == (home / "s", home / "k")
    # A path from the command line takes precedence over the path in the file.
    settings = resolved(config_path=path, state_dir=tmp_path / "t", seal_key_file=tmp_path / "key")
    assert (settings.state_dir, settings.seal_key_file) == (tmp_path / "t", tmp_path / "key")


def test_a_user_has_directories_of_their_own(as_user: None, tmp_path: Path) -> None:
    environ = {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    settings = resolved(environ)
    assert settings.state_dir == tmp_path / "state" / "hashclient"
    assert settings.config_path == tmp_path / "config" / "hashclient" / "config.toml"
    # A relative value counts as unset because trusted files are never below the current directory.
    for value in "", "state":
        settings = resolved({"XDG_STATE_HOME": value, "XDG_CONFIG_HOME": value})
        assert settings.state_dir == Path.home() / ".local/state/hashclient"
    assert settings.config_path == Path.home() / ".config/hashclient/config.toml"


def test_root_has_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    settings = resolved({"XDG_STATE_HOME": "/nope"}, config_path=None)
    assert settings.config_path == Path("/etc/hashclient/config.toml")
    assert settings.state_dir == Path("/var/lib/hashclient")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = resolved(state_dir=Path("s"))
    assert settings.state_dir == tmp_path / "s"
    assert settings.config_path == tmp_path / "s" / "config.toml"


def test_a_configuration_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file") as caught:
        resolved(config_path=tmp_path / "nope")
    assert caught.value.hint
    settings = resolved(config_path=tmp_path / "nope", config_must_exist=False)
    assert settings.config.providers == {}
    with pytest.raises(ConfigError, match="Is a directory"):
        resolved(config_path=tmp_path)


def test_a_missing_provider_is_an_error_with_a_hint(tmp_path: Path) -> None:
    settings = resolved(state_dir=tmp_path)
    for ask in (settings.providers, lambda: settings.provider("main")):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert "init" in str(caught.value.hint)
    assert settings.grace("main").total_seconds() == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frob = 1", "unknown key 'frob' at the top"),
        ("scan = 1", "wrong type of 'scan' at the top: expected a table, not a whole number"),
        ('"a\\u001bb" = 1', "unknown key 'a\\\\x1bb'"),
        ("state_dir = 7", "wrong type of 'state_dir' at the top: expected a text"),
        ("a = = 1", "Invalid value"),
        ("[providers.main]\nurl = 'u'", "'root_sha256' is missing in [providers.main]"),
        (PROVIDER + "tokenfile = 'x'", "unknown key 'tokenfile' in [providers.main]"),
        (PROVIDER + "token_file = 3", "'token_file' in [providers.main]: expected a text"),
        (PROVIDER + "allow_http = 'yes'", "expected true or false, not a text"),
        (PROVIDER + "lists = 'one'", "expected a list of texts in quotes, not a text"),
        (PROVIDER + "lists = ['../x']", "cannot name a list"),
        (PROVIDER + "lists = ['A']", "cannot name a list"),
        (
            PROVIDER + "[providers.main.oauth]\nclient_id = 'x'",
            "'token_url' is missing in [providers.main.oauth]",
        ),
        (PROVIDER.replace("main", '"../x"'), "cannot name a provider"),
        (PROVIDER.replace("main", '"a\\u001b"'), "cannot name a provider"),
        (PROVIDER + "grace_hours = -1", "grace_hours"),
        (PROVIDER + "grace_hours = nan", "grace_hours"),
        (PROVIDER + "grace_hours = inf", "grace_hours"),
        (PROVIDER + "grace_hours = 1e9", "grace_hours"),
        (PROVIDER + "timeout_s = 0", "timeout_s"),
        (PROVIDER + "timeout_s = nan", "timeout_s"),
        (PROVIDER + "timeout_s = 4000", "timeout_s"),
        (PROVIDER + "min_rate_kib_s = 0", "min_rate_kib_s"),
        (PROVIDER + "min_rate_kib_s = inf", "min_rate_kib_s"),
        (PROVIDER + "attempts = 0", "attempts"),
        (PROVIDER + "attempts = 21", "attempts"),
        (PROVIDER + "attempts = 1.5", "expected a whole number, not a number with a fraction"),
        (PROVIDER + "max_churn = 0.0", "max_churn"),
        (PROVIDER + "max_churn = nan", "max_churn"),
        ("providers = [1]", "wrong type of 'providers' at the top: expected a table, not a list"),
        ("x = " + "[" * 5000 + "]" * 5000, ""),
    ],
)
def test_errors_name_the_file_and_the_fault(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "the/file")
    assert message in caught.value.message
    assert "the/file" in caught.value.message
    assert caught.value.message.isprintable()


def test_tables_of_commands_are_left_to_the_command_line() -> None:
    config = parse_config(PROVIDER + "[scan]\nanything = 1\n[fetch]\n", "f")
    assert config.commands == {"scan": {"anything": 1}, "fetch": {}}
    with pytest.raises(ConfigError, match="unknown key 'matches'"):
        parse_config("[matches]\n", "f")


def test_grace_is_a_time() -> None:
    config = parse_config(PROVIDER + "grace_hours = 36\n", "f")
    settings = Settings(Path("/s"), Path("/c"), None, config)
    assert settings.grace("main").total_seconds() == 36 * 3600


def test_a_configuration_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"state_dir = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        resolved(state_dir=tmp_path)


@pytest.mark.parametrize("text", ["~no-such-user-here/x", "a\\u0000b"])
@pytest.mark.parametrize("key", ["state_dir", "seal_key_file"])
def test_an_impossible_path_is_refused(tmp_path: Path, key: str, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'{key} = "{text}"\n')
    with pytest.raises(ConfigError):
        resolved(config_path=path)


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_maybe = st.none() | _text
_oauth = st.builds(
    OAuthConfig,
    token_url=_text,
    client_id=_text,
    client_secret_file=_maybe,
    client_secret_env=_maybe,
    scope=_maybe,
)
_mirrors = st.builds(
    MirrorConfig, url=_text, token_file=_maybe, allow_http=st.booleans(), oauth=st.none() | _oauth
)
_providers = st.builds(
    ProviderConfig,
    url=_maybe,
    mirrors=st.lists(_mirrors, max_size=2).map(tuple),
    root_sha256=_text,
    token_file=_maybe,
    basic_file=_maybe,
    proxy=_maybe,
    allow_http=st.booleans(),
    oauth=st.none() | _oauth,
    lists=st.none() | st.lists(st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True)).map(tuple),
    grace_hours=st.floats(0, 100),
    known_good=st.lists(_text, max_size=3).map(tuple),
    max_churn=st.none() | st.floats(0.01, 2),
    timeout_s=st.floats(0.05, 3600),
    min_rate_kib_s=st.floats(0.05, 1e6),
    attempts=st.integers(1, 20),
)


def test_a_misspelt_key_is_reported_with_the_right_one() -> None:
    for text, meant in (
        ("[quarantin]\n", "quarantine"),
        ("[lokup]\n", "lookup"),
        (PROVIDER + "atempts = 3\n", "attempts"),
        (PROVIDER + "[[policy]]\nactions = ['quarantne']\n", "quarantine"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(text, "f")
        assert str(caught.value.hint).startswith(f"did you mean {meant!r}?")


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    for text in (PROVIDER + "grace_hours = 'hunter2'\n", "providers = 'hunter2'\n"):
        with pytest.raises(ConfigError) as caught:
            parse_config(text, "f")
        assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


SINCE = (
    PROVIDER
    + """attempts = 2
[[policy]]
actions = ["record"]
[since."0.3".scan]
deep = true
[since."0.3".providers.main]
attempts = 3
[since."0.10.1".providers.main]
attempts = 4
[[since."0.10.1".policy]]
actions = ["report"]
shiny = 1
"""
)


@pytest.mark.parametrize(
    ("version", "attempts", "tables"),
    [
        ("0.1.0", 2, {}),
        ("0.2.9", 2, {}),
        ("0.3.0.dev1", 3, {"scan": {"deep": True}}),
        ("0.9", 3, {"scan": {"deep": True}}),
        ("0.10.0", 3, {"scan": {"deep": True}}),
    ],
)
def test_tables_for_later_versions_are_ignored(
    version: str, attempts: int, tables: dict[str, Any]
) -> None:
    config = parse_config(SINCE, "f", version=version)
    assert config.providers["main"].attempts == attempts
    assert config.commands == tables
    assert config.policy == (PolicyRule(("record",)),)


def test_ignored_tables_are_reported_to_a_listener(caplog: pytest.LogCaptureFixture) -> None:
    """With a mistyped version, a table would hide its keys from all machines."""
    with caplog.at_level("INFO", "hashclient"):
        parse_config(SINCE, "f", version="0.9")
    assert caplog.messages == ["passed over, for later versions: [since.0.10.1]"]


def test_tables_for_this_version_are_checked_like_others() -> None:
    for version in ("0.10.1", "1.0"):
        with pytest.raises(ConfigError, match=r"unknown key 'shiny' in \[\[policy\]\] number 1"):
            parse_config(SINCE, "f", version=version)
    # An unknown key is an error in every version if its table names no version.
    with pytest.raises(ConfigError, match="unknown key 'deeep'"):
        parse_config(PROVIDER + "deeep = 1", "f", version="0.1.0")


@pytest.mark.parametrize(
    "text",
    [
        "since = 3",
        "[since]\nscan = 3",
        "[since.scan]\ndeep = true",
        "[since.0.3.scan]\ndeep = true",
        '[since."3".scan]\ndeep = true',
        '[since."0.3 ".scan]\ndeep = true',
        '[since]\n"0.3" = 3',
        '[since."9.3".since."0.1".scan]\ndeep = true',
        "since.'0.1'." + ".".join("a" * 3000) + " = 1\n",
    ],
)
def test_a_table_for_no_version_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f", version="0.1.0")
    assert caught.value.hint


@pytest.mark.slow
@given(_providers)
def test_a_provider_that_was_written_reads_back_the_same(provider: ProviderConfig) -> None:
    table = provider_table("the.name", provider)
    config = parse_config("# a comment\nstate_dir = 's'\n\n" + table, "f")
    assert config.providers == {"the.name": provider}
    assert "oauth" in tomllib.loads(table)["providers"]["the.name"] or provider.oauth is None


def test_mirrors_are_addresses_after_the_first() -> None:
    mirror = "[[providers.main.mirrors]]\nurl = 'https://{}.test'\ntoken_env = 'T'\n"
    config = parse_config(PROVIDER + mirror.format("two") + mirror.format("three"), "f")
    addresses = config.providers["main"].addresses
    assert [url for url, _ in addresses] == [
        "https://lists.example.org",
        "https://two.test",
        "https://three.test",
    ]
    assert [access.token_env for _, access in addresses] == [None, "T", "T"]
    without = parse_config("[providers.main]\nroot_sha256 = '00'\n", "f")
    assert without.providers["main"].addresses == ()
    for text, message in (
        (mirror.format("x").replace("url", "utl"), "unknown key 'utl'"),
        ("[[providers.main.mirrors]]\n", "'url'"),
        (mirror.format("x") * 17, "'mirrors' in .* are more than 16"),
        (mirror.format("x") + "attempts = 3\n", "unknown key 'attempts'"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config(PROVIDER + text, "f")


def test_a_path_that_is_not_utf8_cannot_be_written() -> None:
    provider = ProviderConfig(url="u", root_sha256="", token_file=os.fsdecode(b"\xff"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        provider_table("main", provider)


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = resolved(state_dir=tmp_path)
    with pytest.raises(AttributeError):
        settings.state_dir = Path("/")  # type: ignore[misc]
    assert msgspec.structs.replace(settings, state_dir=Path("/")).state_dir == Path("/")


# Actions on matches.

WAY_OUT = """
[quarantine]
recipients = ["age1example"]
keep_days = 365

[report]
organisation = "Example Ltd"
email = "abuse@example.org"

[report.to.police]
kind = "package"
directory = "/srv/handover"

[[policy]]
list = "baseline"
category = "worst"
actions = ["quarantine", "report"]

[[policy]]
actions = ["record"]
"""


def test_policies_are_read() -> None:
    config = parse_config(WAY_OUT, "c.toml")
    assert config.policy == (
        PolicyRule(("quarantine", "report"), "baseline", "worst"),
        PolicyRule(("record",)),
    )
    assert config.quarantine == QuarantineConfig(("age1example",), keep_days=365)
    assert config.report.to == {"police": PackageDestination("/srv/handover")}
    # If a report names no destination, the only configured destination is used.
    assert config.report.destination() == "police"
    service = (
        '[report.to.centre]\nkind = "cybertipline"\nurl = "https://r.example.org"\n'
        'incident_type = "x"\nbasic_file = "/f"\n'
    )
    two = parse_config(
        WAY_OUT.replace("[[policy]]", f"{service}\n[[policy]]", 1).replace(
            "email =", 'default = "centre"\nemail ='
        ),
        "c.toml",
    )
    assert two.report.destination() == "centre"
    assert isinstance(two.report.to["centre"], ServiceDestination)


def test_for_how_long_files_are_believed_unchanged() -> None:
    assert parse_config("", "c.toml").inventory.reread_days == 14
    for days in (0, 1, 3650):
        text = f"[inventory]\nreread_days = {days}\n"
        assert parse_config(text, "c.toml").inventory.reread_days == days
    for wrong in ("-1", "3651", "1.5", '"14"', "true"):
        with pytest.raises(ConfigError, match="reread_days"):
            parse_config(f"[inventory]\nreread_days = {wrong}\n", "c.toml")
    with pytest.raises(ConfigError, match="unknown key 'days'"):
        parse_config("[inventory]\ndays = 1\n", "c.toml")


def test_without_a_word_matches_are_recorded_only() -> None:
    config = parse_config("", "c.toml")
    assert (config.policy, config.quarantine, config.report) == (
        (),
        QuarantineConfig(),
        ReportConfig(),
    )
    assert config.report.destination() is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('recipients = ["age1example"]', "", "recipients of quarantine are not set"),
        (
            "keep_days = 365",
            "keep_days = -1",
            "in [quarantine] is not from 0",
        ),
        (
            "keep_days = 365",
            "keep_days = nan",
            "in [quarantine] is not from 0",
        ),
        ("keep_days = 365", "retention = 365", "unknown key 'retention' in [quarantine]"),
        ("[report.to.police]", "[report.to.'a b']", "cannot name a destination"),
        (
            'kind = "package"',
            'kind = "letter"',
            (
                "'letter' is no value of 'kind' in [report.to.police]: it is one of"
                ' "cybertipline", "package"'
            ),
        ),
        ('kind = "package"', "", "'kind' is missing in [report.to.police]"),
        ('kind = "package"', "kind = 3", "a whole number is no value of 'kind'"),
        ('kind = "package"', 'kind = ["package"]', "a list is no value of 'kind'"),
        ('kind = "package"', "kind = { a = 1 }", "a table is no value of 'kind'"),
        ('email = "abuse@example.org"', 'default = "nobody"', "names no destination: nobody"),
        (
            '"report"]',
            '"delete"]',
            (
                "'delete' is no value of 'actions' in [[policy]] number 1: it is one of"
                ' "quarantine", "record", "report"'
            ),
        ),
        ('actions = ["record"]', "", "'actions' is missing in [[policy]] number 2"),
        ('["record"]', "[true]", "a boolean is no value of 'actions' in [[policy]] number 2"),
        ('"abuse@example.org"', "2026-01-01", "'email' in [report]: expected a text in quotes"),
        (
            '[report.to.police]\nkind = "package"\ndirectory = "/srv/handover"',
            "",
            "no default destination",
        ),
    ],
)
def test_mistakes_about_matches_are_named(old: str, new: str, said: str) -> None:
    assert old in WAY_OUT
    with pytest.raises(ConfigError) as caught:
        parse_config(WAY_OUT.replace(old, new), "c.toml")
    assert said in caught.value.message


@pytest.mark.parametrize(("key", "value"), [("timeout_s", "0"), ("attempts", "99")])
def test_a_service_has_the_limits_of_a_provider(key: str, value: str) -> None:
    text = (
        '[report.to.centre]\nkind = "cybertipline"\nurl = "https://r.example.org"\n'
        f'incident_type = "x"\nbasic_file = "/f"\n{key} = {value}\n'
    )
    with pytest.raises(ConfigError, match=rf"'{key}' in \[report.to.centre\] is not from"):
        parse_config(text, "c.toml")


@pytest.mark.parametrize("text", ["providers = 1\n", "[providers]\nmain = 1\n", "scan = 1\n"])
def test_a_value_in_the_place_of_a_table_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not valid"):
        parse_config(text, "c.toml")
