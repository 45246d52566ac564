"""Failing commands of the provider: the files that they leave, and hints that suffice."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.client import csv
from fixtures.simulator import PlainClient, Simulator
from hashclient.core.errors import StateError, UsageError
from hashclient.provider.keys import Keys
from hashclient.provider.repository import Repository
from hashclient.system import beneath
from hashclient.system.beneath import Directory
from tests.kit import call

pytestmark = pytest.mark.usefixtures("reachable")

Command = Callable[[Simulator], object]

COMMANDS: dict[str, Command] = {
    "a new list": lambda s: s.repository.publish(
        "other", [("x", io.BytesIO(csv(range(3))))], list_keys=Keys(3, 2)
    ),
    "more of a list": lambda s: s.repository.publish(
        "baseline", [("x", io.BytesIO(csv(range(10, 13))))]
    ),
    "new keys of the root": lambda s: s.repository.rotate("root", Keys(2, 2)),
    "new keys of targets": lambda s: s.repository.rotate("targets"),
    "new keys of a list": lambda s: s.repository.rotate("baseline"),
    "new keys of the timestamp": lambda s: s.repository.rotate("timestamp"),
}


def keys_of(simulator: Simulator) -> set[str]:
    return {path.name for path in (simulator.repository.directory / "keys").iterdir()}


def named_keys(simulator: Simulator) -> set[str]:
    """Return the names of the key files that the published metadata trusts."""
    return simulator.repository.load().key_files()


class FailingDisk:
    """A disk that is full at one step: before a rename, or between a rename and the next sync."""

    def __init__(self, patch: pytest.MonkeyPatch, step: int) -> None:
        """Let the `step`-th rename or sync of a directory fail."""
        self._left = step
        self._rename, self._sync = Directory.rename, beneath.sync_directory

        def replace(directory: Directory, source: str, target: str) -> None:
            self._take_step()
            self._rename(directory, source, target)

        patch.setattr(Directory, "rename", replace)
        patch.setattr(beneath, "sync_directory", self._sync_directory)

    def _sync_directory(self, directory: int) -> None:
        self._take_step()
        self._sync(directory)

    def _take_step(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_fails_leaves_no_key_that_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Wherever the disk fails, the metadata that clients see decides which keys are kept."""
    for step in range(1, 100):
        simulator = Simulator(tmp_path / f"repo-{step}", root_keys=Keys(2, 2))
        simulator.publish(csv(range(5)))
        client = PlainClient(tmp_path / f"client-{step}", simulator)
        assert client.generation() == 1
        before = keys_of(simulator)
        with monkeypatch.context() as patch:
            FailingDisk(patch, step)
            try:
                COMMANDS[name](simulator)
                break
            except StateError as failure:
                error = failure
        assert error.hint is not None and error.hint.startswith("free some space and try again")
        assert keys_of(simulator) <= before | named_keys(simulator)
        # Every key in use still exists, so the next command works, and clients follow.
        assert named_keys(simulator) <= keys_of(simulator)
        simulator.publish(csv(range(20, 23)))
        assert client.generation() >= 2
    assert step > 4


def test_a_repository_that_could_not_be_made_leaves_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Directory.rename

    def replace(directory: Directory, source: str, target: str) -> None:
        if target == "timestamp.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(directory, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "rename", replace)
        made = call("provider", "init", tmp_path / "repo")
    assert made.code == 8
    assert "hint: free some space and try again; clients still get" in made.err
    assert list((tmp_path / "repo" / "keys").iterdir()) == []
    assert call("provider", "init", tmp_path / "repo").code == 0


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_a_new_list_without_a_key_writes_nothing(tmp_path: Path, role: str) -> None:
    simulator = Simulator(tmp_path / "repo")
    (key,) = (tmp_path / "repo" / "keys").glob(f"{role}-*.pem")
    key.unlink()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(StateError, match=f"role {role} needs 1 signing") as caught:
        simulator.publish(csv(range(3)))
    assert caught.value.hint == (
        f"put {key.name} back into {tmp_path}/repo/keys;"
        " people who hold keys sign apart, with --draft DIR"
    )
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_mistake_in_the_entries_of_a_new_list_leaves_no_keys(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    before = keys_of(simulator)
    with pytest.raises(UsageError):
        simulator.publish(b"md5\nnonsense\n")
    assert keys_of(simulator) == before


def test_keys_that_are_kept_elsewhere_are_not_touched_by_a_failure(tmp_path: Path) -> None:
    """A failed command removes only its own files, known by name and time."""
    simulator = Simulator(tmp_path / "repo")
    other = tmp_path / "repo" / "keys" / f"baseline-{'0' * 16}.pem"
    other.write_text("of an earlier time")
    (key,) = (tmp_path / "repo" / "keys").glob("targets-*.pem")
    key.unlink()
    with pytest.raises(StateError):
        simulator.publish(csv(range(3)))
    assert other.read_text() == "of an earlier time"


def test_a_hint_names_the_keys_that_suffice(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo", root_keys=Keys(3, 2))
    directory = tmp_path / "repo" / "keys"
    keys = sorted(path.name for path in directory.glob("root-*.pem"))
    for count, choice in ((3, "2 of "), (2, "1 of ")):
        away = keys[:count]
        for name in away:
            (directory / name).rename(tmp_path / name)
        with pytest.raises(StateError) as caught:
            simulator.rotate("timestamp")
        hint = caught.value.hint or ""
        assert hint.startswith(f"put {choice}root-")
        assert f" back into {directory}; people who hold keys sign apart, with --draft" in hint
        assert all(name in hint for name in away)
        for name in away:
            (tmp_path / name).rename(directory / name)


def test_warnings_of_expiry_name_the_keys_that_suffice(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "a repo")
    repo = simulator.repository.directory
    simulator.now -= timedelta(days=300)
    simulator.repository.rotate("root")
    (key,) = (repo / "keys").glob("root-*.pem")
    status = call("provider", "status", repo)
    renew = f"run `hashclient provider renew '{repo}'`"
    assert f"hint: {renew}\n" in status.err
    key.rename(tmp_path / key.name)
    status = call("provider", "status", repo)
    back = f"put {key.name} back into {repo}/keys"
    draft = f"`hashclient provider renew '{repo}' --draft DIR` for people to sign"
    assert f"hint: {back} and {renew}, or {draft}\n" in status.err
    renewed = call("provider", "renew", repo)
    assert f"hint: {back}; then run `renew` again, or `renew --draft DIR` for people" in renewed.err
    (tmp_path / key.name).rename(key)
    assert call("provider", "renew", repo).err.endswith("timestamp\n")


def test_a_repository_that_lost_a_file_says_so(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    (tmp_path / "repo/public/metadata/1.snapshot.json").unlink()
    with pytest.raises(StateError, match="No such file") as caught:
        Repository(tmp_path / "repo", clock=lambda: simulator.now).status()
    assert caught.value.hint == "something was removed from the repository; restore it from a copy"


def test_a_file_called_nearly_like_a_root_is_passed_over(simulator: Simulator) -> None:
    metadata = simulator.repository.public / "metadata"
    for name in ("1x", "2.bak", "²"):
        (metadata / f"{name}.root.json").write_bytes(b"?")
    simulator.repository.renew()
    assert simulator.repository.load().root.signed.version == 1
