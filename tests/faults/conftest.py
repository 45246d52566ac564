"""The provider and the client that the tests of attacks use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.provider.keys import Keys
from tests.attack_world import Generations


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generations:
    simulator = Simulator(tmp_path_factory.mktemp("provider") / "repo")
    served: dict[int, dict[str, bytes]] = {}
    simulator.publish(csv(range(10)), list_keys=Keys(2, 2))
    served[1] = dict(simulator.files)
    simulator.publish(csv(range(10, 15)))
    served[2] = dict(simulator.files)
    client = Client(tmp_path_factory.mktemp("client") / "state", simulator, simulator.root)
    client.fetch()
    simulator.withdraw("e-0", "e-1")
    served[3] = dict(simulator.files)
    return Generations(simulator, served, client.settings.state_dir, simulator.root)


@pytest.fixture
def simulator(world: Generations) -> Simulator:
    """A provider that is honest so far and has published generation 2."""
    world.simulator.files = dict(world.served[2])
    world.simulator.faults.clear()
    world.simulator.requests.clear()
    return world.simulator


@pytest.fixture
def client(world: Generations, simulator: Simulator, tmp_path: Path) -> Client:
    """A client that has fetched generation 2."""
    state = tmp_path / "state"
    shutil.copytree(world.template, state, symlinks=True)
    return Client(state, simulator, world.root)
