"""Clients of a provider: tokens are stored as hashes, and expire in time."""

from __future__ import annotations

import json
import ssl
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from fixtures.client import csv
from fixtures.simulator import Simulator
from hashclient.audit import log as audit_log
from hashclient.core.errors import AuditError, StateError, UsageError
from hashclient.provider.access import add_client, all_clients, revoke_client, rotate_client
from hashclient.provider.clients import Clients, Doorkeeper
from hashclient.provider.server import open_server
from hashclient.provider.serverconfig import Site, nginx_clients, nginx_server
from tests.kit import call

YEAR = timedelta(days=365)
WEEK = timedelta(days=7)


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    made = Simulator(tmp_path / "repo")
    made.publish(csv(range(3)))
    return made


def client_of(simulator: Simulator, token: str) -> str | None:
    keeper = Doorkeeper(simulator.repository.clients_file, lambda: simulator.now)
    client = keeper.who(f"Bearer {token}".encode())
    return None if client is None else client.name


def test_a_token_is_kept_as_hashes_only(simulator: Simulator, tmp_path: Path) -> None:
    given = add_client(simulator.repository, "alice", YEAR, tmp_path / "alice")
    assert (tmp_path / "alice").read_text() == f"{given.token}\n"
    assert stat.S_IMODE((tmp_path / "alice").stat().st_mode) == 0o600
    secret = given.token.rpartition(".")[2].encode()
    for path in simulator.repository.directory.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path
    assert stat.S_IMODE(simulator.repository.clients_file.stat().st_mode) == 0o600
    assert client_of(simulator, given.token) == "alice"


WRONG: dict[str, Callable[[str], str]] = {
    "capitals": lambda t: t.upper(),
    "another end": lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"),
    "padding": lambda t: t + "=",
    "a new line": lambda t: t + "\n",
    "another version": lambda t: t.replace("hc1", "hc2"),
    "an unknown id": lambda t: "hc1." + "0" * 16 + t[20:],
    "nothing": lambda t: "",
    "the id alone": lambda t: t.split(".")[1],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_token_is_refused(simulator: Simulator, name: str) -> None:
    token = add_client(simulator.repository, "alice", YEAR, None).token
    assert client_of(simulator, WRONG[name](token)) is None


def test_the_id_of_one_client_with_the_secret_of_another(simulator: Simulator) -> None:
    alice = add_client(simulator.repository, "alice", YEAR, None).token
    bob = add_client(simulator.repository, "bob", YEAR, None).token
    assert client_of(simulator, f"{alice[:21]}{bob[21:]}") is None


def test_a_token_ends_by_itself(simulator: Simulator) -> None:
    token = add_client(simulator.repository, "alice", WEEK, None).token
    simulator.now += WEEK - timedelta(seconds=1)
    assert client_of(simulator, token) == "alice"
    simulator.now += timedelta(seconds=1)
    assert client_of(simulator, token) is None


def test_the_token_before_holds_for_the_overlap(simulator: Simulator) -> None:
    first = add_client(simulator.repository, "alice", YEAR, None).token
    second = rotate_client(simulator.repository, "alice", YEAR, WEEK, None).token
    assert (client_of(simulator, first), client_of(simulator, second)) == ("alice", "alice")
    simulator.now += WEEK
    assert (client_of(simulator, first), client_of(simulator, second)) == (None, "alice")
    third = rotate_client(simulator.repository, "alice", YEAR, timedelta(0), None).token
    assert (client_of(simulator, second), client_of(simulator, third)) == (None, "alice")
    (client,) = all_clients(simulator.repository)
    assert len(client.tokens) == 1


def test_an_overlap_never_makes_a_token_hold_longer(simulator: Simulator) -> None:
    first = add_client(simulator.repository, "alice", timedelta(days=2), None).token
    rotate_client(simulator.repository, "alice", YEAR, WEEK, None)
    simulator.now += timedelta(days=2)
    assert client_of(simulator, first) is None


def test_a_revoked_client_is_refused_until_it_is_allowed_again(simulator: Simulator) -> None:
    first = add_client(simulator.repository, "alice", YEAR, None).token
    keeper = Doorkeeper(simulator.repository.clients_file, lambda: simulator.now)
    header = f"Bearer {first}".encode()
    assert keeper.who(header) is not None
    revoke_client(simulator.repository, "alice")
    assert keeper.who(header) is None  # the same keeper has read the file before the change
    with pytest.raises(UsageError, match="the client was revoked: alice"):
        rotate_client(simulator.repository, "alice", YEAR, WEEK, None)
    second = add_client(simulator.repository, "alice", YEAR, None).token
    assert (keeper.who(header), client_of(simulator, second)) == (None, "alice")


def test_impossible_changes_of_clients_are_refused(simulator: Simulator, tmp_path: Path) -> None:
    add_client(simulator.repository, "alice", YEAR, None)
    for name, message in (("alice", "there is a client"), ("Alice", "not a name"), ("", "not a")):
        with pytest.raises(UsageError, match=message):
            add_client(simulator.repository, name, YEAR, tmp_path / "token")
    assert not (tmp_path / "token").exists()
    with pytest.raises(UsageError, match="no such client: bob"):
        revoke_client(simulator.repository, "bob")
    (tmp_path / "token").write_text("of somebody else")
    with pytest.raises(UsageError, match="file exists"):
        add_client(simulator.repository, "bob", YEAR, tmp_path / "token")
    assert (tmp_path / "token").read_text() == "of somebody else"
    assert [client.name for client in all_clients(simulator.repository)] == ["alice"]


def test_a_link_in_place_of_the_token_file_is_not_followed(
    simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="file exists"):
        add_client(simulator.repository, "bob", YEAR, tmp_path / "token")
    assert not (tmp_path / "elsewhere").exists()


def test_a_token_that_could_not_be_recorded_is_nobodys(
    simulator: Simulator, tmp_path: Path
) -> None:
    """Whichever step fails, the client has both a token and a record of it, or neither."""
    (simulator.repository.log.directory / "log.jsonl").write_text("no log\n")
    with pytest.raises(AuditError):
        add_client(simulator.repository, "alice", YEAR, tmp_path / "token")
    assert not (tmp_path / "token").exists()
    assert all_clients(simulator.repository) == ()


@pytest.mark.parametrize("is_done", [False, True])
def test_a_disk_that_fails_at_the_last_step(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    write = Clients.write

    def failing(clients: Clients, changed: tuple[object, ...]) -> None:
        if is_done:
            write(clients, changed)  # type: ignore[arg-type]
        raise StateError("cannot write")

    monkeypatch.setattr(Clients, "write", failing)
    with pytest.raises(StateError):
        add_client(simulator.repository, "alice", YEAR, tmp_path / "token")
    assert (tmp_path / "token").exists() == is_done
    assert bool(all_clients(simulator.repository)) == is_done
    events = [r.event for r in audit_log.read(simulator.repository.log.directory)]
    assert events[-2:] == ["client-added", "change-failed"]


def file_of(*clients: str, version: int = 1, more: str = "") -> str:
    return f'{{"format": "hashclient-clients/{version}", "clients": [{", ".join(clients)}]{more}}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged"),
        ("{}", "damaged"),
        (file_of(version=2), "this one reads"),
        (file_of(more=', "more": 1'), "damaged"),
        (file_of('{"name": "a b", "added": "2026-01-01T00:00:00Z"}'), "damaged"),
        (file_of('{"name": "a", "added": "2026-01-01T00:00:00"}'), "damaged"),
        (file_of(*['{"name": "a", "added": "2026-01-01T00:00:00Z"}'] * 2), "damaged"),
    ],
)
def test_a_damaged_or_newer_file_lets_nobody_in(
    simulator: Simulator, content: str, message: str
) -> None:
    token = add_client(simulator.repository, "alice", YEAR, None).token
    simulator.repository.clients_file.write_text(content)
    with pytest.raises(StateError, match=message):
        client_of(simulator, token)
    with pytest.raises(StateError, match=message):
        add_client(simulator.repository, "bob", YEAR, None)
    assert simulator.repository.clients_file.read_text() == content


def test_changes_of_clients_are_in_the_log(simulator: Simulator) -> None:
    token = add_client(simulator.repository, "alice", YEAR, None).token
    rotate_client(simulator.repository, "alice", YEAR, WEEK, None)
    revoke_client(simulator.repository, "alice")
    audit_log.verify(simulator.repository.log.directory)
    records = list(audit_log.read(simulator.repository.log.directory))[-3:]
    assert [r.event for r in records] == ["client-added", "client-rotated", "client-revoked"]
    assert records[0].data["token"] == token.split(".")[1]


# The trial server


def test_the_trial_server_knows_clients_at_once(simulator: Simulator) -> None:
    with (
        open_server(
            simulator.repository, "127.0.0.1:0", clock=lambda: simulator.now, log=lambda _: None
        ) as (server, at),
        httpx.Client(
            base_url=at.url,
            verify=ssl.create_default_context(cafile=at.ca),
            trust_env=False,
            timeout=60,
        ) as browser,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            check_that_clients_are_known(simulator, browser)
        finally:
            server.shutdown()
            thread.join()


def check_that_clients_are_known(simulator: Simulator, browser: httpx.Client) -> None:
    def status(token: str) -> int:
        header = {"Authorization": f"Bearer {token}"}
        return browser.get("metadata/timestamp.json", headers=header).status_code

    token = add_client(simulator.repository, "alice", YEAR, None).token
    assert status(token) == 200
    assert status(token[:-1]) == 401
    revoke_client(simulator.repository, "alice")
    assert status(token) == 401
    simulator.repository.clients_file.write_text("damaged")
    assert status(token) == 401
    trial = (simulator.repository.directory / "keys/serve/token").read_text().strip()
    assert status(trial) == 200


# The configuration of nginx (which runs in tests/docs)


def test_the_configuration_holds_no_token_and_no_client_that_is_out(simulator: Simulator) -> None:
    alice = add_client(simulator.repository, "alice", YEAR, None).token
    bob = add_client(simulator.repository, "bob", WEEK, None).token
    carol = add_client(simulator.repository, "carol", YEAR, None).token
    revoke_client(simulator.repository, "carol")
    simulator.now += WEEK
    text = nginx_clients(all_clients(simulator.repository), simulator.now)
    assert alice.split(".")[1] in text
    for token in (bob, carol):
        assert token.split(".")[1] not in text
    for token in (alice, bob, carol):
        assert token.split(".")[2] not in text
    assert "alice;" in text and "bob" not in text and "carol" not in text


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("lists.example.org; }", "/srv"),
        ("-x", "/srv"),
        ("lists", "/srv/$x"),
        ("lists", "/srv/\n"),
        ("lists", '/srv/"; }'),
        ("lists", "srv"),
    ],
)
def test_no_directive_is_smuggled_into_the_configuration(name: str, public: str) -> None:
    with pytest.raises(UsageError):
        nginx_server(Site(name, Path(public), Path("/cert"), Path("/key")))


# The commands for clients


def test_the_commands(tmp_path: Path) -> None:
    repo = Simulator(tmp_path / "repo").repository.directory
    out = tmp_path / "alice.token"
    added = call("provider", "client", "add", repo, "alice", "--output", out)
    assert added.code == 0, added.err
    token = out.read_text().strip()
    assert token not in added.out + added.err
    assert f"client alice: token in {out}, valid until" in added.out
    assert "`hashclient provider server-config nginx" in added.err
    again = call("provider", "client", "add", repo, "bob", "--output", "-")
    assert again.out.startswith("hc1.") and again.out.strip() not in again.err
    rotated = call(
        *("provider", "client", "rotate", repo, "alice", "--format", "json"),
        *("--output", tmp_path / "2", "--overlap-days", "0", "--valid-days", "10"),
    )
    assert json.loads(rotated.out)["token_file"] == str(tmp_path / "2")
    assert call("provider", "client", "revoke", repo, "bob").out == "client bob: revoked\n"
    listed = call("provider", "client", "list", repo)
    assert [line.split()[:3] for line in listed.out.splitlines()[1:]] == [
        ["alice", "valid", "1"],
        ["bob", "revoked", "0"],
    ]
    assert "warning: the token of client alice expires soon" in listed.err
    found = json.loads(call("provider", "client", "list", repo, "--format", "json").out)
    assert [client["state"] for client in found["clients"]] == ["valid", "revoked"]
    assert call("provider", "client", "rotate", repo, "bob", "--output", "x").code == 2
    assert call("provider", "client", "list", tmp_path).code == 8


def test_the_command_that_writes_a_configuration(tmp_path: Path) -> None:
    repo = Simulator(tmp_path / "repo").repository.directory
    where = tmp_path / "lists.conf"
    words = ("provider", "server-config", "nginx", repo)
    done = call(*words, "--server-name", "lists.example.org", "--output", where)
    assert done.code == 0
    assert "warning: nobody may fetch yet" in done.err
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
    assert f'root             "{repo}/public";' in where.read_text()
    only = call(*words, "--only-clients").out
    assert "server {" not in only and where.read_text().startswith(only)
    assert call(*words).code == 2
    assert call(*words, "--only-clients", "--server-name", "x").code == 2
    before = where.stat().st_ino
    assert call(*words, "--server-name", "no name", "--output", where).code == 2
    assert where.stat().st_ino == before
