"""`hashclient init`: it pins only what works, and never repeats a secret."""

from __future__ import annotations

import json
import os
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.config.settings import Config, Settings
from hashclient.config.tables import ProviderConfig
from hashclient.core.errors import ConfigError
from hashclient.fetch.pinning import pin_provider
from hashclient.provider.repository import Repository
from hashclient.session import Session
from tests.kit import Run, Site, call, csv_of, run

SECRET = "s3cret-7f3a9c"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as made:
        made.publish(csv_of({"e-1": b"listed"}))
        made.publish(csv_of({"e-1": b"other"}), "local")
        yield made


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def refused(result: Run, code: int, message: str, state: Path) -> None:
    """Check that nothing was pinned, and that the message says what to do and has no secret."""
    assert result.code == code, result.err
    assert message in result.err
    assert "hint: " in result.err
    assert result.out == ""
    assert SECRET not in result.err
    assert not (state / "config.toml").exists()
    assert not (state / "trust" / "main").exists()


@pytest.mark.slow
def test_a_provider_is_pinned(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    result = site.run(*site.init_arguments(), state=state)
    assert result.code == 0
    assert result.out == "provider main is pinned; it offers: baseline, local\n"
    assert f"configuration: {state}/config.toml" in result.err
    assert "next: hashclient fetch" in result.err
    config = tomllib.loads((state / "config.toml").read_text())
    assert config["providers"]["main"]["token_file"] == str(site.endpoint.token_file)
    assert state.stat().st_mode & 0o777 == 0o700
    for path in state.rglob("*"):
        assert path.is_dir() or site.token not in path.read_text(errors="replace")


@pytest.mark.slow
def test_the_pinned_provider_is_written_as_json(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    result = site.run(*site.init_arguments("--format", "json"), state=state)
    assert result.code == 0
    assert json.loads(result.out) == {
        "provider": "main",
        "url": site.endpoint.url.rstrip("/"),
        "lists": ["baseline", "local"],
        "config": f"{state}/config.toml",
    }


@pytest.mark.slow
def test_quiet_is_quiet(site: Site, tmp_path: Path) -> None:
    result = run("--quiet", "--state-dir", tmp_path / "state", *site.init_arguments())
    assert (result.code, result.err) == (0, "")


@pytest.mark.slow
def test_a_second_provider_is_added_and_comments_are_kept(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("# mine\n[scan]\njobs = 1  # slow disk")
    options = ["--config", config, "--state-dir", tmp_path / "state"]
    assert run(*options, *site.init_arguments("--name", "one")).code == 0
    assert run(*options, *site.init_arguments("--name", "two", "--list", "local")).code == 0
    text = config.read_text()
    assert text.startswith("# mine\n[scan]\njobs = 1  # slow disk\n")
    providers = tomllib.loads(text)["providers"]
    assert list(providers) == ["one", "two"]
    assert providers["two"]["lists"] == ["local"]
    again = run(*options, *site.init_arguments("--name", "one"))
    assert again.code == 2
    assert "provider one is configured already" in again.err
    assert config.read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["providers = {}\n", "[[providers.more]]\n", "providers.more.url = ''\n"]
)
def test_a_configuration_that_would_be_broken_is_left_alone(
    site: Site, tmp_path: Path, text: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    options = ("--config", config, "--state-dir", tmp_path / "state")
    refused_ = run(*options, *site.init_arguments())
    assert refused_.code == 2 and "hint: " in refused_.err, refused_.err
    assert config.read_text() == text
    assert not (tmp_path / "state" / "trust" / "main").exists()


@pytest.mark.slow
def test_two_that_pin_one_name_at_once(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    config = state / "config.toml"
    early = Session(Settings(state, config, None, Config()))
    assert site.call(*site.init_arguments(), state=state).code == 0
    text, provider = config.read_text(), ProviderConfig(root_sha256="")
    # The second `init` keeps the change that the first `init` made after the settings were read.
    with pytest.raises(ConfigError, match="cannot add a provider"):
        pin_provider(early, "main", provider, site.repository.root_file, site.repository.public)
    assert config.read_text() == text
    assert site.call("fetch", state=state).code == 0


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("missing", 2, "cannot read root metadata"),
        ("directory", 2, "is a directory"),
        ("text", 6, "not the root metadata"),
        ("empty", 6, "not the root metadata"),
        ("timestamp", 6, "not the root metadata"),
        ("huge", 2, "too large"),
        ("foreign", 6, "foreign; get the file from the provider"),
    ],
)
def test_a_root_has_to_be_the_providers(
    site: Site, tmp_path: Path, name: str, code: int, message: str
) -> None:
    path = tmp_path / name
    state = tmp_path / "state"
    metadata = site.repository.public / "metadata"
    match name:
        case "directory":
            path.mkdir()
        case "text":
            path.write_text("-----BEGIN CERTIFICATE-----\n")
        case "empty":
            path.touch()
        case "timestamp":
            path.write_bytes((metadata / "timestamp.json").read_bytes())
        case "huge":
            path.write_bytes(bytes(600_000))
        case "foreign":
            repository = Repository(tmp_path / "foreign-repo", clock=site.repository.clock)
            repository.create()
            path.write_bytes(repository.root_file.read_bytes())
    arguments = site.init_arguments()
    arguments[arguments.index("--root") + 1] = path
    refused(site.call(*arguments, state=state), code, message, state)


@pytest.mark.slow
def test_a_wrong_credential(site: Site, tmp_path: Path, secret_file: Path) -> None:
    state = tmp_path / "state"
    result = site.run(*site.init_arguments(token_file=secret_file), state=state)
    refused(result, 5, "refuses the credential", state)
    environ = {"TOKEN": SECRET}
    base = site.init_arguments()[:-2]
    refused(site.run(*base, "--token-env", "TOKEN", state=state, env=environ), 5, "refuses", state)


@pytest.mark.parametrize("how", ["missing", "open", "pipe", "directory"])
def test_a_credential_that_cannot_be_used(site: Site, tmp_path: Path, how: str) -> None:
    state, path = tmp_path / "state", tmp_path / how
    match how:
        case "open":
            path.write_text(SECRET)
            path.chmod(0o640)
        case "pipe":
            os.mkfifo(path, 0o600)
        case "directory":
            path.mkdir()
    result = site.call(*site.init_arguments(token_file=path), state=state)
    assert result.code == 2
    assert SECRET not in result.err
    assert not (state / "config.toml").exists()


def test_no_credential_where_one_is_wanted(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    result = site.call(*site.init_arguments()[:-2], state=state)
    refused(result, 5, "provider asks for a credential, and none is configured", state)
    assert "--token-file" in result.err


def test_a_variable_that_is_not_set(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    base = site.init_arguments()[:-2]
    result = site.call(*base, "--token-env", "NOT_SET", state=state)
    refused(result, 2, "environment variable is not set: NOT_SET", state)


def test_one_credential_is_enough(site: Site, tmp_path: Path, secret_file: Path) -> None:
    state = tmp_path / "state"
    result = site.call(*site.init_arguments("--basic-file", secret_file), state=state)
    refused(result, 2, "more than one credential", state)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:1/", 2),
        (f"https://user:{SECRET}@127.0.0.1/", 2),
        (f"https://127.0.0.1/?token={SECRET}", 2),
        ("ftp://127.0.0.1/", 2),
        ("nonsense", 2),
        ("https://", 2),
        ("https://127.0.0.1:99999/", 2),
        ("https://xn--.invalid/\x1b", 2),
    ],
)
def test_addresses_that_are_refused(site: Site, tmp_path: Path, url: str, code: int) -> None:
    state = tmp_path / "state"
    arguments = site.init_arguments()
    arguments[1] = url
    result = site.call(*arguments, state=state)
    assert result.code == code
    assert SECRET not in result.err
    assert all(line.isprintable() for line in result.err.splitlines())


@pytest.mark.slow
def test_nobody_answers(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    # The socket is bound and does not listen, so that no other process can get the port.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        arguments = site.init_arguments()
        arguments[1] = f"https://127.0.0.1:{bound.getsockname()[1]}/"
        result = site.run(*arguments, state=state)
    refused(result, 4, "connection refused", state)
    assert "nothing was pinned" in result.err and "stay in use" not in result.err


def test_a_certificate_of_an_unknown_authority(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    arguments = site.init_arguments()
    position = arguments.index("--ca")
    del arguments[position : position + 2]
    refused(site.call(*arguments, state=state), 4, "unknown authority", state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "../x"], "cannot name a provider"),
        (["--name", ""], "cannot name a provider"),
        (["--name", "Big"], "cannot name a provider"),
        (["--list", "nope"], "does not offer list nope"),
        (["--oauth-client-id", "me"], "oauth needs both"),
        (["--client-cert", "/dev/null"], "not a regular file"),
        (["--ca", "/nope"], "/nope"),
        (["--frob"], "no such option"),
    ],
)
def test_options_that_are_refused(
    site: Site, tmp_path: Path, options: list[str], message: str
) -> None:
    state = tmp_path / "state"
    result = site.call(*site.init_arguments(*options), state=state)
    assert result.code == 2, result.err
    assert message in result.err.lower()
    assert not (state / "config.toml").exists()


@pytest.mark.slow
def test_a_state_directory_that_cannot_be(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = site.run(*site.init_arguments(), state=Path("/proc/nope"))
    assert result.code == 8
    config = tmp_path / "c.toml"
    options = ["--config", config, "--state-dir", tmp_path / "file" / "below"]
    result = run(*options, *site.init_arguments())
    assert result.code == 8
    assert "cannot make directory" in result.err
    assert not config.exists()


@pytest.mark.slow
def test_a_failed_attempt_does_not_stand_in_the_way(
    site: Site, tmp_path: Path, secret_file: Path
) -> None:
    state = tmp_path / "state"
    assert site.call(*site.init_arguments(token_file=secret_file), state=state).code == 5
    assert site.call(*site.init_arguments(), state=state).code == 0
    assert site.call("fetch", state=state).code == 0


def test_a_failed_attempt_keeps_a_provider_of_another_configuration(
    site: Site, tmp_path: Path
) -> None:
    state, root, other = tmp_path / "state", tmp_path / "root.json", tmp_path / "other.toml"
    assert site.call(*site.init_arguments(), state=state).code == 0
    kept = {path: path.read_bytes() for path in state.glob("trust/**/*") if path.is_file()}
    root.touch()
    arguments = site.init_arguments()
    arguments[arguments.index("--root") + 1] = root
    assert call("--config", other, "--state-dir", state, *arguments).code == 6
    assert kept == {p: p.read_bytes() for p in state.glob("trust/**/*") if p.is_file()}


@pytest.mark.slow
def test_only_the_owner_may_write_to_new_files_with_any_umask(site: Site, tmp_path: Path) -> None:
    """With any umask, private files stay private, and other users can read public files."""
    base = tmp_path / "base"
    config, state, out = base / "etc/hashclient/config.toml", base / "var/state", base / "out"
    out.mkdir(parents=True)
    made = [
        ("--config", config, *site.init_arguments()),
        ("--config", config, "fetch"),
        ("--config", config, "scan", "--output", out / "report.txt", site.directory / "repo"),
        ("--config", config, "status", "--output", out / "status.txt"),
        ("--config", config, "audit", "checkpoint", "--output", out / "checkpoint.json"),
        ("quarantine", "keygen", "--output", out / "officer.key"),
        ("provider", "init", base / "repo"),
        ("provider", "publish", base / "repo", "--list", "own", site.directory / "rows.csv"),
    ]
    (site.directory / "rows.csv").write_bytes(csv_of({"e-1": b"listed"}))
    for args in made:
        result = run("--state-dir", state, *args, preexec=lambda: os.umask(0))
        assert result.code in {0, 10}, result.err
    paths = [base / "etc", base / "var", *base.rglob("*")]
    modes = {str(p.relative_to(base)): p.stat().st_mode & 0o777 for p in paths if p != out}
    assert [name for name, mode in modes.items() if mode & 0o022] == []
    assert modes["etc/hashclient"] == modes["repo/public/metadata"] == 0o755
    assert modes["etc/hashclient/config.toml"] == modes["out/report.txt"] == 0o644
    private = [name for name in modes if name.startswith(("var/state", "repo/keys", "out/officer"))]
    assert len(private) > 10
    # python-tuf makes this directory itself, inside a private directory.
    assert {name for name in private if modes[name] & 0o077} <= {
        "var/state/trust/main/metadata/root_history"
    }


@pytest.mark.slow
@pytest.mark.parametrize("what", ["/dev/zero", "pipe"])
def test_a_configuration_is_a_file(site: Site, tmp_path: Path, what: str) -> None:
    """A configuration that is an endless device, or a pipe without a writer, is refused."""
    path = tmp_path / what
    if what == "pipe":
        os.mkfifo(path)
    for args in (["status"], site.init_arguments()):
        result = site.run(*args, env={"HASHCLIENT_CONFIG": str(path)}, state=tmp_path / "state")
        assert (result.code, result.out) == (2, "")
        assert f"cannot read configuration {path}: not a regular file" in result.err
    nothing = site.run("status", env={"HASHCLIENT_CONFIG": "/dev/null"}, state=tmp_path / "state")
    assert "no provider is configured in /dev/null" in nothing.err


@pytest.mark.slow
@pytest.mark.parametrize("what", ["token_file", "seal_key_file", "ca", "client_cert", "known_good"])
def test_a_configured_path_that_is_no_regular_file_is_refused(
    site: Site, tmp_path: Path, what: str
) -> None:
    state = tmp_path / "state"
    assert site.call(*site.init_arguments(), state=state).code == 0
    config = (state / "config.toml").read_text()
    os.mkfifo(tmp_path / "pipe", mode=0o600)
    for named in (tmp_path / "pipe", Path("/dev/zero")):
        setting = f"{what} = " + (f'["{named}"]' if what == "known_good" else f'"{named}"')
        lines = [line for line in config.splitlines() if not line.startswith(f"{what} =")]
        lines = [setting, *lines] if what == "seal_key_file" else [*lines, setting]
        (state / "config.toml").write_text("\n".join(lines))
        result = site.run("fetch", state=state)
        assert (result.code, result.out) == (2, "")
        assert "not a regular file" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("url", ["https://xn--a/", "https://999.1.1.1/", "https://xn--0.a/v1"])
def test_an_address_that_cannot_be_one_is_a_wrong_argument(tmp_path: Path, url: str) -> None:
    root = tmp_path / "root.json"
    root.write_text("{}")
    result = run("--state-dir", tmp_path / "state", "init", url, "--root", root)
    assert (result.code, result.out) == (2, "")
    assert "provider URL is not acceptable" in result.err
    assert not (tmp_path / "state").exists()
