"""Permissions for a web server of another account, which reads `public/` but not `keys/`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.client import csv
from fixtures.simulator import Simulator
from hashclient.provider.public import make_folder_below
from hashclient.provider.repository import Repository
from tests.kit import call

pytestmark = pytest.mark.usefixtures("reachable")


@pytest.fixture(params=[0o077, 0o027, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(directory: Path) -> dict[str, int]:
    return {
        path.relative_to(directory).as_posix(): path.stat().st_mode & 0o7777
        for path in directory.rglob("*")
    }


def use(directory: Path) -> Simulator:
    """Do every action that makes folders and files."""
    simulator = Simulator(directory)
    simulator.publish(csv(range(3)))
    simulator.publish(csv(range(3)), "other")
    simulator.withdraw("e-1")
    simulator.repository.consolidate("baseline", keep_newest=0)
    simulator.rotate("timestamp")
    simulator.rotate("root")
    simulator.renew()
    return simulator


@pytest.mark.usefixtures("umask")
def test_public_is_open_and_keys_are_closed_whatever_the_umask(tmp_path: Path) -> None:
    simulator = use(tmp_path / "new" / "repo")
    found = modes(tmp_path)
    assert found.pop("new") == found.pop("new/repo") == 0o755
    public = {name: mode for name, mode in found.items() if name.startswith("new/repo/public")}
    folders = {name for name in public if (tmp_path / name).is_dir()}
    assert len(folders) >= 6
    assert {public[name] for name in folders} == {0o755}
    assert {mode for name, mode in public.items() if name not in folders} == {0o644}
    keys = {name: mode for name, mode in found.items() if name.startswith("new/repo/keys")}
    assert keys.pop("new/repo/keys") == 0o700
    assert set(keys.values()) == {0o600}
    assert simulator.repository.closed() == []


def test_an_existing_directory_is_left_as_it_is_and_reported(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir(mode=0o700)
    done = call("provider", "init", repo)
    assert (done.code, repo.stat().st_mode & 0o777) == (0, 0o700)
    assert f"every account of this machine can read {repo}/public" in done.err
    assert (
        f"hashclient: warning: a web server with another account cannot read: {repo}\n"
        f"hint: chmod a+x {repo}\n"
    ) in done.err
    repo.chmod(0o711)
    assert call("provider", "status", repo).err == ""


def test_a_directory_above_that_keeps_a_web_server_out_is_reported(tmp_path: Path) -> None:
    repo, above = tmp_path / "a" / "b" / "repo", tmp_path / "a"
    above.mkdir(mode=0o700)
    said = (
        f"hashclient: warning: a web server with another account cannot read: {above}\n"
        f"hint: chmod a+x {above}, or copy public/ to another place for the web server\n"
    )
    assert said in call("provider", "init", repo).err
    assert call("provider", "status", repo).err == said
    above.chmod(0o710)  # a group may enter, for example the group of the web server
    assert call("provider", "status", repo).err == ""


def test_a_repository_that_was_closed_before_is_reported_and_opened_by_the_hint(
    tmp_path: Path,
) -> None:
    """For example, an earlier version made the repository under a umask of 077."""
    simulator = use(tmp_path / "it's repo")
    public = simulator.repository.public
    folders = [public, *(path for path in public.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o700)
    status = call("provider", "status", simulator.repository.directory)
    assert status.code == 0
    assert f"a web server with another account cannot read: {public} and" in status.err
    hint = status.err.partition("hint: ")[2]
    assert os.system(hint) == 0
    assert simulator.repository.closed() == []
    assert call("provider", "status", simulator.repository.directory).err == ""


@pytest.mark.parametrize("mode", [0o750, 0o2750])
def test_new_files_are_closed_to_all_but_a_group_as_public_is(tmp_path: Path, mode: int) -> None:
    simulator = Simulator(tmp_path / "repo")
    simulator.repository.public.chmod(mode)
    simulator.publish(csv(range(3)))
    targets = simulator.repository.public / "targets"
    for folder in (targets, targets / "lists", targets / "lists" / "baseline"):
        assert folder.stat().st_mode & 0o7777 == mode
    assert simulator.repository.closed() == []


def test_folders_that_a_killed_command_left_closed_are_opened(tmp_path: Path) -> None:
    """A kill came between the making of a folder and its mode, and the command is repeated."""
    for name in ("repo/public/metadata", "repo/public/targets/lists/baseline"):
        (tmp_path / name).mkdir(mode=0o700, parents=True)
    for folder in (tmp_path / "repo" / "public").rglob("*"):
        folder.chmod(0o700)
    repository = Repository(tmp_path / "repo", clock=lambda: datetime.now(UTC))
    repository.create()
    with (tmp_path / "list").open("w+b") as stream:
        stream.write(csv(range(2)))
        stream.seek(0)
        repository.publish("baseline", [("list", stream)])
    assert repository.closed() == []


def test_only_files_below_public_get_its_mode(tmp_path: Path) -> None:
    public, keys = tmp_path / "public", tmp_path / "keys"
    public.mkdir(mode=0o755)
    keys.mkdir(mode=0o700)
    make_folder_below(public, keys / "new")
    assert modes(tmp_path)["keys"] == 0o700
