"""Files that decide what root does, in places where other users may write: refused by name."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hashclient.config.owners import ALLOW_SHARED, allows_shared, files_named
from hashclient.config.settings import Config, parse_config
from hashclient.config.tables import (
    ClusterConfig,
    MirrorConfig,
    OAuthConfig,
    ProviderConfig,
    ReportConfig,
    ServiceDestination,
)
from tests.kit import State, attacker, call
from tests.kit.attacker import ATTACKER, needs_root

LISTED = b"a benign file that the list names"


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


@pytest.fixture
def state(ground: Path) -> State:
    state = State(ground / "home", {"base": {"e": LISTED}}, {"a": LISTED})
    state.configure("")
    return state


@pytest.mark.parametrize("mode", [0o602, 0o646])
def test_a_configuration_that_everybody_may_write_to_is_refused(state: State, mode: int) -> None:
    (state.path / "config.toml").chmod(mode)
    refused = state.scan()
    assert refused.code == 2
    assert "configuration could be changed by everybody" in refused.err
    assert (
        f"hint: chmod go-w {state.path}/config.toml; if this is intended, use --all" in refused.err
    )
    assert state.call("--allow-shared", "scan", state.tree).code == 10


def test_a_variable_says_that_it_is_meant(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    (state.path / "config.toml").chmod(0o666)
    for value, code in (("0", 2), ("1", 10)):
        monkeypatch.setenv(ALLOW_SHARED, value)
        assert state.scan().code == code
        assert allows_shared(os.environ) == (code == 10)


def test_the_directory_of_the_state_counts_and_what_is_above_it(state: State) -> None:
    for directory in (state.path, state.directory):
        before = directory.stat().st_mode
        directory.chmod(0o777)
        refused = state.scan()
        assert (refused.code, f"chmod go-w {directory}" in refused.err) == (2, True)
        directory.chmod(before)
    state.directory.chmod(0o1777)  # the directory gets the mode of /tmp
    assert state.scan().code == 10


def test_a_private_group_may_write_and_another_may_not(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A umask of 002 makes files and directories with these modes."""
    for path in (state.directory, state.path, state.path / "config.toml"):
        path.chmod(path.stat().st_mode | 0o020)
    assert state.scan().code == 10
    if os.geteuid() == 0:
        os.chown(state.path / "config.toml", 0, 4_000_000_000)
        refused = state.scan()
        assert (refused.code, "could be changed by group 4000000000" in refused.err) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_of_the_system_that_nobody_is_in_may_write_on_the_way(state: State) -> None:
    """Example: the group `staff` may write to /usr/local on older Debian."""
    used = {user.pw_gid for user in pwd.getpwall()}
    empty = [g.gr_gid for g in grp.getgrall() if not g.gr_mem and g.gr_gid not in used]
    if not (system := [number for number in empty if number < 1000]):
        pytest.skip("somebody is in each group of this system")
    os.chown(state.directory, 0, system[0])
    state.directory.chmod(0o2775)
    assert state.scan().code == 10


def test_every_file_that_the_configuration_names_counts(state: State, tmp_path: Path) -> None:
    named = tmp_path / "known.txt"
    named.write_text("")
    state.configure(f'[providers.x]\nroot_sha256 = "{"0" * 64}"\nknown_good = ["{named}"]\n')
    assert "could be changed" not in state.call("status").err
    named.chmod(0o666)
    refused = state.call("status")
    assert refused.code == 2
    assert (
        "providers.x.known_good of the configuration could be changed by everybody" in refused.err
    )


def test_no_key_that_names_a_file_is_forgotten() -> None:
    """Keys in `_file` are found by name; `known_good`, `cert` and others are listed by hand."""
    oauth = OAuthConfig("https://t.example", "c", client_secret_file="1", ca="2")
    mirror = MirrorConfig(url="https://m.example", token_file="3", ca="4")
    provider = ProviderConfig(
        root_sha256="0" * 64,
        known_good=("5", "6"),
        basic_file="7",
        client_cert="8",
        client_key="9",
        proxy_basic_file="10",
        mirrors=(mirror,),
        oauth=oauth,
    )
    service = ServiceDestination("https://s.example", "x", basic_file="11", ca="12")
    cluster = ClusterConfig(ca="13", cert="14", key="15")
    report = ReportConfig(to={"ncmec": service})
    found = dict(files_named(Config(providers={"p": provider}, cluster=cluster, report=report)))
    assert set(found) == {str(number) for number in range(1, 16)}
    assert found["3"] == "providers.p.mirrors.token_file"
    assert found["11"] == "report.to.ncmec.basic_file"
    for table in (ProviderConfig, OAuthConfig, ServiceDestination, ClusterConfig):
        for field in msgspec.structs.fields(table):
            if field.name.endswith("_file"):
                named = msgspec.defstruct("Named", [(field.name, str, "x")])()
                assert list(files_named(named)) == [("x", field.name)]


@pytest.mark.parametrize(
    "text",
    [
        f'[providers.ca]\nroot_sha256 = "{"0" * 64}"',
        f'[providers.command]\nroot_sha256 = "{"0" * 64}"',
        '[report.to.key]\nkind = "package"\ndirectory = "/reports"',
        f'[report.to.x]\nkind = "package"\ndirectory = "/reports"\nkey = "{"0" * 64}"',
        f'[decisions.trusted]\nkey = "{"0" * 64}"',
    ],
)
def test_a_chosen_name_and_a_public_key_name_no_file(text: str) -> None:
    assert list(files_named(parse_config(text, "config.toml"))) == []


@pytest.mark.parametrize("value", ["5", "[5]", "true"])
def test_a_wrong_default_of_a_command_is_not_taken_for_a_file(state: State, value: str) -> None:
    state.configure(f"[scan]\nkey = {value}\n[init]\nca = {value}\ncommand = {value}\n")
    refused = state.scan()
    assert (refused.code, "unknown key 'key' in [scan]" in refused.err) == (2, True)


# Files of other users


@needs_root
def test_a_configuration_of_another_user_is_refused(state: State) -> None:
    os.chown(state.path / "config.toml", ATTACKER, ATTACKER)
    refused = state.scan()
    assert refused.code == 2
    assert "configuration could be changed by user nobody" in refused.err
    assert "hint: run hashclient as this user, or chown 0 " in refused.err


@needs_root
@pytest.mark.slow
def test_nobody_is_told_to_give_away_what_a_user_namespace_does_not_know(state: State) -> None:
    namespace = ("unshare", "--map-root-user")
    if subprocess.run((*namespace, "true"), check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    os.chown(state.path / "config.toml", ATTACKER, ATTACKER)
    words = ("--state-dir", state.path, "scan", state.tree)
    done = subprocess.run(
        (*namespace, sys.executable, "-m", "hashclient", *words),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"hint: this user namespace does not tell whose {state.path}/config.toml is; if" in (
        done.stderr
    )


@needs_root
def test_a_state_directory_below_one_of_another_user_is_refused(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(state.directory, ATTACKER, ATTACKER)
    refused = state.scan()
    assert refused.code == 2
    assert f"could be changed by user nobody: {state.path}" in refused.err
    assert f", by {state.directory}\n" in refused.err
    assert state.call("--allow-shared", "scan", state.tree).code == 10
    monkeypatch.setenv("SUDO_UID", str(ATTACKER))  # the user who ran sudo could become root anyway
    assert state.scan().code == 10
    monkeypatch.setenv("SUDO_UID", "1")
    assert state.scan().code == 2


@pytest.mark.slow
def test_a_state_directory_that_others_could_make_first_is_refused(
    state: State, ground: Path
) -> None:
    """All users can see the path of the file and create the file while `init` asks the provider."""
    sticky = ground / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    root = ground / "root.json"
    root.write_bytes(state.provider.root)
    words = ("--state-dir", sticky / "new", "init", "https://127.0.0.1:1/", "--root", root)
    refused = call(*words)
    assert refused.code == 2
    assert "could be changed by everybody" in refused.err
    assert (
        f"hint: others could be first in {sticky}: make a directory with `mkdir -m 700`"
        in refused.err
    )
    (sticky / "new").mkdir(mode=0o700)
    assert call(*words).code == 4


@needs_root
def test_a_seal_key_and_a_root_of_another_user_are_refused(state: State, ground: Path) -> None:
    key = ground / "seal.key"
    key.write_bytes(next(state.path.rglob("seal.key")).read_bytes())
    key.chmod(0o600)
    assert state.call("--seal-key-file", key, "scan", state.tree).code == 10
    os.chown(key, ATTACKER, ATTACKER)
    refused = state.call("--seal-key-file", key, "scan", state.tree)
    assert (refused.code, "seal key file could be changed by user nobody" in refused.err) == (
        2,
        True,
    )
    root = ground / "root.json"
    root.write_bytes(state.provider.root)
    os.chown(root, ATTACKER, ATTACKER)
    new = ("--state-dir", ground / "new", "init", "https://127.0.0.1:1/", "--root", root)
    refused = call(*new)
    assert (refused.code, "root.json could be changed by user nobody" in refused.err) == (2, True)


@needs_root
@pytest.mark.parametrize("part", ["", "keys", "log", "public", "public/metadata", "public/targets"])
def test_a_repository_of_another_user_is_refused(ground: Path, part: str) -> None:
    repo = ground / "repo"
    assert call("provider", "init", repo).code == 0
    assert call("provider", "status", repo).code == 0
    (repo / "public" / "targets").mkdir(exist_ok=True)
    os.chown(repo / part, ATTACKER, ATTACKER)
    for words in (("status", repo), ("renew", repo), ("serve", repo), ("log", "verify", repo)):
        refused = call("provider", *words)
        assert (refused.code, "could be changed by user nobody" in refused.err) == (2, True)
    assert call("--allow-shared", "provider", "status", repo).code == 0


@needs_root
def test_a_list_of_names_and_inputs_may_belong_to_anybody(state: State, ground: Path) -> None:
    names = ground / "names"
    names.write_text(f"{state.tree}/a\n")
    os.chown(names, ATTACKER, ATTACKER)
    os.chown(state.tree / "a", ATTACKER, ATTACKER)
    assert state.call("scan", "--files-from", names).code == 10
