"""Keys with a passphrase: where it is read, and that no command silently removes it."""

from __future__ import annotations

import io
import os
import pty
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import click
import pytest

from fixtures.client import csv
from fixtures.simulator import PlainClient, Simulator
from hashclient.cli.provider import command as provider_command
from hashclient.core.errors import StateError, UsageError
from hashclient.provider.keyfiles import (
    Passphrases,
    change_passphrase,
    is_encrypted,
    load_private,
    make_pair,
)
from hashclient.provider.keys import Keys
from hashclient.provider.repository import Repository
from tests.kit import ROOT, Run, call, environment

PASSPHRASE = b"six words of nobody in particular"

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")


def knowing(*passphrases: bytes | None) -> Callable[[], Passphrases]:
    left = list(passphrases)
    return lambda: Passphrases(lambda _name: left.pop(0) if left else None)


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    """A provider all of whose keys have a passphrase."""
    made = Simulator(tmp_path / "plain")
    shutil.rmtree(tmp_path / "plain")
    made.repository = Repository(
        tmp_path / "repo",
        clock=lambda: made.now,
        passphrases=Passphrases(lambda _name: PASSPHRASE),
    )
    made.repository.create(root_keys=Keys(2, 2), passphrase=PASSPHRASE)
    made.serve_published()
    return made


def closed_repository(simulator: Simulator) -> Repository:
    """Return the repository as opened by a person who does not know the passphrase."""
    return Repository(simulator.repository.directory, clock=lambda: simulator.now)


def keys_of(simulator: Simulator) -> dict[str, bool]:
    folder = simulator.repository.directory / "keys"
    return {path.name: is_encrypted(path.read_bytes()) for path in folder.glob("*.pem")}


def test_all_keys_are_under_the_passphrase_and_clients_notice_nothing(
    simulator: Simulator, tmp_path: Path
) -> None:
    client = PlainClient(tmp_path / "client", simulator)
    simulator.publish(csv(range(3)))
    for role in ("root", "targets", "snapshot", "timestamp", "baseline"):
        simulator.rotate(role)
    simulator.publish(csv(range(3, 6)))
    assert client.generation() == 2
    found = keys_of(simulator)
    assert len(found) == 6 and all(found.values())


@needs_openssl
def test_openssl_opens_such_a_key(simulator: Simulator) -> None:
    key = next(iter((simulator.repository.directory / "keys").glob("root-*.pem")))
    for passphrase, code in ((PASSPHRASE, 0), (b"another one", 1)):
        done = subprocess.run(
            ["openssl", "pkey", "-in", key, "-passin", "stdin", "-noout"],
            input=passphrase + b"\n",
            capture_output=True,
            check=False,
        )
        assert (done.returncode != 0) == bool(code), done.stderr


@needs_openssl
def test_a_key_that_openssl_made_slower_to_guess_is_read(tmp_path: Path) -> None:
    plain, slow = tmp_path / "plain.pem", tmp_path / "slow.pem"
    key_id = make_pair(plain, tmp_path / "public.pem", None)
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-scrypt", "-in", plain, "-out", slow, "-passout", "stdin"],
        input=PASSPHRASE + b"\n",
        capture_output=True,
        check=True,
    )
    slow.chmod(0o600)
    signer, passphrase = load_private(slow, Passphrases(lambda _name: PASSPHRASE))
    assert (signer.public_key.keyid, passphrase) == (key_id, PASSPHRASE)


def test_without_the_passphrase_nothing_is_signed(simulator: Simulator) -> None:
    simulator.publish(csv(range(3)))
    repository = closed_repository(simulator)
    before = (simulator.repository.public / "metadata/timestamp.json").read_bytes()
    for change in (
        lambda: repository.publish("baseline", [("x", io.BytesIO(csv(range(5, 6))))]),
        repository.renew,
        lambda: repository.rotate("timestamp"),
    ):
        with pytest.raises(StateError, match="key is encrypted with a passphrase: ") as caught:
            change()
        assert "--passphrase-file" in str(caught.value.hint)
    assert (simulator.repository.public / "metadata/timestamp.json").read_bytes() == before
    assert repository.status().lists[0].live == 3
    assert repository.expiring() == []


def test_a_wrong_passphrase_is_said_and_not_repeated(simulator: Simulator) -> None:
    repository = Repository(
        simulator.repository.directory,
        clock=lambda: simulator.now,
        passphrases=knowing(b"a wrong one that is long")(),
    )
    with pytest.raises(StateError, match="wrong passphrase, or a damaged key") as caught:
        repository.renew()
    assert "a wrong one" not in f"{caught.value.message}{caught.value.hint}"


def test_renew_leaves_out_what_it_cannot_open(simulator: Simulator) -> None:
    """Snapshot and timestamp sign unattended every day; the root's keys stay encrypted."""
    folder = simulator.repository.directory / "keys"
    for role in ("snapshot", "timestamp", "targets"):
        (key,) = folder.glob(f"{role}-*.pem")
        change_passphrase(key, Passphrases(lambda _name: PASSPHRASE), lambda: None)
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    simulator.now += timedelta(days=300)
    repository = closed_repository(simulator)
    (root,) = [at for at in repository.expiring() if at[0] == "root"]
    assert root[2] is None  # the keys are on this machine, so `renew` asks for the passphrase
    done = repository.renew()
    assert done.skipped == ("root",)
    assert done.wanting == ("give the passphrase of its key",)


def test_the_keys_of_a_new_list_are_protected_as_those_of_targets(simulator: Simulator) -> None:
    folder = simulator.repository.directory / "keys"
    (key,) = folder.glob("targets-*.pem")
    simulator.publish(csv(range(3)), "first")
    change_passphrase(key, Passphrases(lambda _name: PASSPHRASE), lambda: None)
    simulator.publish(csv(range(3)), "second")
    found = {name.split("-")[0]: closed for name, closed in keys_of(simulator).items()}
    assert (found["first"], found["second"]) == (True, False)
    # The new keys of a list get the same protection as its old keys.
    simulator.rotate("first")
    found = {name.split("-")[0]: closed for name, closed in keys_of(simulator).items()}
    assert (found["first"], found["second"]) == (True, False)


def test_each_passphrase_is_asked_for_once(simulator: Simulator) -> None:
    asked: list[str] = []

    def ask(name: str) -> bytes:
        asked.append(name)
        return PASSPHRASE

    repository = Repository(
        simulator.repository.directory,
        clock=lambda: simulator.now,
        passphrases=Passphrases(ask),
    )
    repository.rotate("root")
    repository.publish("baseline", [("x", io.BytesIO(csv(range(3))))])
    assert len(asked) == 1


def test_a_pair_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("of somebody else")
    with pytest.raises(UsageError, match="file exists"):
        make_pair(tmp_path / "key", tmp_path / "taken", None)
    assert not (tmp_path / "key").exists()
    with pytest.raises(UsageError, match="file exists"):
        make_pair(tmp_path / "taken", tmp_path / "public", None)
    assert (tmp_path / "taken").read_text() == "of somebody else"
    assert not (tmp_path / "public").exists()


def test_a_change_that_fails_leaves_the_key_as_it_is(tmp_path: Path) -> None:
    make_pair(tmp_path / "key", tmp_path / "public", PASSPHRASE)
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(StateError, match="wrong passphrase"):
        change_passphrase(tmp_path / "key", knowing(b"wrong")(), lambda: None)
    assert (tmp_path / "key").read_bytes() == before


# The commands that use keys


def secret(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def real(*words: object, **env: str) -> Run:
    """Run the command in a new process without a terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "hashclient", *map(str, words)],
        env=environment(**env),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_a_passphrase_from_a_file_the_environment_or_a_credential(tmp_path: Path) -> None:
    repo, text = tmp_path / "repo", PASSPHRASE.decode()
    file = secret(tmp_path / "passphrase", f"{text}\n")
    made = call("provider", "init", repo, "--encrypt-keys", "--passphrase-file", file)
    assert made.code == 0, made.err
    assert call("provider", "renew", repo, "--passphrase-file", file).code == 0
    assert real("provider", "renew", repo, HASHCLIENT_KEY_PASSPHRASE=text).code == 0
    folder = tmp_path / "credentials"
    folder.mkdir()
    secret(folder / "hashclient.key-passphrase", text).chmod(0o440)
    assert real("provider", "renew", repo, CREDENTIALS_DIRECTORY=str(folder)).code == 0
    without = real("provider", "renew", repo)
    assert without.code == 8
    assert "key is encrypted with a passphrase: " in without.err
    wrong = real("provider", "renew", repo, HASHCLIENT_KEY_PASSPHRASE="not that one")
    assert (wrong.code, "not that one" in wrong.err) == (8, False)
    file.chmod(0o644)
    readable = call("provider", "renew", repo, "--passphrase-file", file)
    assert (readable.code, "can be read by others" in readable.err) == (2, True)


@pytest.mark.parametrize("text", ["", "short", "x" * 1024])
def test_a_passphrase_that_protects_nothing_is_refused(tmp_path: Path, text: str) -> None:
    file = secret(tmp_path / "passphrase", text)
    made = call("provider", "init", tmp_path / "repo", "--encrypt-keys", "--passphrase-file", file)
    assert (made.code, (tmp_path / "repo").exists()) == (2, False)
    assert "a passphrase has 16 to 1,023 bytes" in made.err


@pytest.mark.slow
def test_there_is_no_passphrase_without_a_terminal(tmp_path: Path) -> None:
    made = real("provider", "init", tmp_path / "repo", "--encrypt-keys")
    assert (made.code, "no terminal to ask for one" in made.err) == (2, True)
    assert not (tmp_path / "repo").exists()


def test_a_passphrase_is_asked_for_at_the_terminal_and_not_shown(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = ["provider", "key", "new", "--output", "key.pem", "--public", "key.pub"]
    with subprocess.Popen(
        [sys.executable, "-m", "hashclient", *words],
        env=environment(PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            for _ in range(2):
                while not shown.endswith(b": "):
                    shown += os.read(ours, 1000)
                os.write(ours, PASSPHRASE + b"\n")
                shown += b"!"
            while b"keep it" not in shown:
                shown += os.read(ours, 1000)
        finally:
            process.wait(60)
            os.close(ours)
        assert process.returncode == 0
    assert PASSPHRASE not in shown
    signer, _ = load_private(tmp_path / "key.pem", Passphrases(lambda _name: PASSPHRASE))
    assert signer.public_key.keyid


def test_all_commands_that_sign_take_the_passphrase_in_the_same_way() -> None:
    """The test lists the commands that do not sign, so that a new command cannot be forgotten."""
    without = {
        *("client add", "client key", "client list", "client lists", "client revoke"),
        *("client rotate", "diff", "draft compare", "server-config apache"),
        *("draft show", "export", "feedback", "find", "log checkpoint", "log show", "log verify"),
        *("notice list", "serve", "server-config nginx", "show", "status"),
    }
    found = set()

    def walk(command: click.Command, name: str) -> None:
        if isinstance(command, click.Group):
            for word, other in command.commands.items():
                walk(other, f"{name} {word}".strip())
        elif not any("--passphrase-file" in option.opts for option in command.params):
            found.add(name)

    walk(provider_command, "")
    assert found == without


def test_a_notice_is_signed_by_keys_under_a_passphrase(tmp_path: Path) -> None:
    file = secret(tmp_path / "passphrase", PASSPHRASE.decode())
    repo, by = tmp_path / "repo", ("--passphrase-file", file)
    assert call("provider", "init", repo, "--encrypt-keys", *by).code == 0
    said = ("--id", "n-1", "--sender", "a@b.example", "--event", "test", "--severity", "minor")
    publish = ("provider", "notice", "publish", repo, *said, "--headline", "A test")
    closed = call(*publish)
    assert (closed.code, "key is encrypted with a passphrase" in closed.err) == (8, True)
    assert call(*publish, *by).code == 0
    assert call("provider", "notice", "update", repo, "n-1", "--id", "n-2", *by).code == 0
    assert call("provider", "notice", "cancel", repo, "n-2", *by).code == 0
    (key,) = (repo / "keys").glob("notices-*")
    assert is_encrypted(key.read_bytes())


def test_the_commands_for_keys(tmp_path: Path) -> None:
    file = secret(tmp_path / "passphrase", PASSPHRASE.decode())
    other = secret(tmp_path / "other", "another one that is long enough")
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    made = call(
        *("provider", "key", "new", "--output", key, "--public", public),
        *("--passphrase-file", file, "--format", "json"),
    )
    assert made.code == 0
    assert (stat.S_IMODE(key.stat().st_mode), is_encrypted(key.read_bytes())) == (0o600, True)
    assert b"PUBLIC" in public.read_bytes()
    change = ("provider", "key", "passphrase", key, "--passphrase-file")
    assert call(*change, other, "--remove").code == 8
    assert call(*change, file, "--new-passphrase-file", other).code == 0
    assert call(*change, file, "--remove").code == 8
    assert call(*change, other, "--remove").code == 0
    assert not is_encrypted(key.read_bytes())
    assert call("provider", "key", "passphrase", public, "--remove").code == 8
