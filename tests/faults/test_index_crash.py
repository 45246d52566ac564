"""Kills and failing disks while pieces of an index are compared, and rot is noted.

After a kill, the list is usable, or a command reports it as damaged, and the next fetches repair
it. If the damage of a run was seen, it is noted, or the next comparison sees it again.
"""

from __future__ import annotations

import errno
import shutil
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.client import Client, csv
from fixtures.crash import Act, FailAt, in_child, kill_at, watched
from fixtures.simulator import Simulator
from hashclient.core.errors import HashclientError
from hashclient.index.manifest import load_manifest
from hashclient.index.run import DamagedError
from tests.kit.depth import changes

ALL = range(30)
LISTED = set(range(20))
MOST = 200


class Merging:
    """A list that was fetched a week ago and has no new generation since."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.simulator = Simulator(directory / "repo")
        self.simulator.publish(csv(LISTED))
        self.client("made").fetch()

    def client(self, name: str) -> Client:
        client = Client(self.directory / name, self.simulator, self.simulator.root)
        client.now += timedelta(days=6, hours=1) if name != "made" else timedelta(0)
        return client

    def copy(self, name: str, change: Callable[[Path], None]) -> Client:
        shutil.copytree(self.directory / "made", self.directory / name, symlinks=True)
        client = self.client(name)
        change(client.settings.layout.lists / "baseline")
        self.simulator.requests.clear()
        return client


@pytest.fixture
def world(tmp_path: Path) -> Merging:
    return Merging(tmp_path)


def rot(folder: Path) -> None:
    (run,) = folder.glob("run-*")
    data = bytearray(run.read_bytes())
    data[-70] ^= 1
    run.write_bytes(data)


def unchanged(_: Path) -> None:
    pass


def working(client: Client, act: Act) -> None:
    with watched(act):
        client.fetch()


def asked_for(world: Merging) -> list[str]:
    return [request for request in world.simulator.requests if request.endswith("parquet")]


@pytest.mark.slow
def test_killed_before_each_change_of_a_list_that_is_sound(world: Merging) -> None:
    for number in changes(MOST):
        client = world.copy(f"k{number}", unchanged)
        ended = in_child(lambda client=client, n=number: working(client, kill_at(n)))  # type: ignore[misc]
        assert ended in {0, -signal.SIGKILL}
        assert client.numbers(ALL) == LISTED
        client.fetch()
        assert asked_for(world) == []
        assert client.numbers(ALL) == LISTED
        manifest = load_manifest(client.settings.layout.lists / "baseline", client.session.sealer())
        assert manifest is not None
        assert manifest.verified_at == client.now
        assert client.leftovers() == set()
        if ended == 0:
            break
    assert 10 < number < MOST


@pytest.mark.slow
def test_killed_before_each_change_of_a_list_that_has_rotted(world: Merging) -> None:
    """Damage that was seen is noted, or the next fetch sees it again."""
    known = 0
    for number in changes(MOST):
        client = world.copy(f"k{number}", rot)
        ended = in_child(lambda client=client, n=number: working(client, kill_at(n)))  # type: ignore[misc]
        assert ended in {1, -signal.SIGKILL}
        before = client.manifest()
        assert before is not None
        if before.rotten is None:
            with pytest.raises(DamagedError):
                client.fetch()
        else:
            known += 1
        with pytest.raises(DamagedError):
            client.open()
        client.fetch()
        assert client.numbers(ALL) == LISTED
        assert client.leftovers() == set()
        if ended == 1:
            break
    assert 3 < number < MOST
    assert known


@pytest.mark.slow
@pytest.mark.parametrize("change", [unchanged, rot])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_while_an_index_is_compared(
    world: Merging, change: Callable[[Path], None], code: int
) -> None:
    for number in changes(MOST):
        client = world.copy(f"f{number}", change)
        fail = FailAt(number, code)
        error: HashclientError | None = None
        try:
            with watched(fail):
                client.fetch()
        except HashclientError as caught:
            error = caught
        if change is rot:
            assert error is not None
            manifest = client.manifest()
            assert manifest is not None
            if manifest.rotten is None:  # the manifest does not note the damage
                with pytest.raises(DamagedError):
                    client.fetch()
        client.fetch()
        assert client.numbers(ALL) == LISTED
        if not fail.fired:
            break
    assert 3 < number < MOST
