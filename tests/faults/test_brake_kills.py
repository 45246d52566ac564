"""Scans and a watch are killed together: the brake exceeds no limit and loses no action."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
from pathlib import Path

import pytest

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import MatchState
from hashclient.matches.store import Matches
from hashclient.quarantine.item import item_ids
from tests.cli.test_brake import RIGHT, WRONG, Braked
from tests.kit import arguments, environment
from tests.kit.depth import count_of

LIMIT, FILES = 60, 200
#: The number of rounds. In each round, three programs run, and each is killed once.
ROUNDS = count_of(20, 6)


def isolated(world: Braked) -> int:
    """Return how many files of the entry are no longer in their place."""
    return FILES - sum(name.startswith("wrong") for name in world.left())


@pytest.mark.slow
def test_two_scans_and_a_watch_that_are_killed_never_act_above_the_limit(tmp_path: Path) -> None:
    world = Braked(tmp_path, FILES, limit=LIMIT)
    chance = random.Random(20)
    commands = [("scan", "--jobs", "1"), ("scan",), ("watch", "--settle", "1s")]
    for number in range(ROUNDS):
        running = [
            subprocess.Popen(
                [*arguments(), "--state-dir", world.path, command, *options, world.tree],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
            )
            for command, *options in commands
        ]
        (world.tree / f"right-{number % 20:03}").write_bytes(RIGHT)
        for process in chance.sample(running, len(running)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=chance.uniform(0.2, 1.2))
            process.send_signal(signal.SIGKILL)
            # The exit code USAGE would mean that the command line is wrong and no scan ran.
            assert process.wait() != ExitCode.USAGE
        assert isolated(world) <= LIMIT
    result = world.scan()
    assert result.code == 11
    with Matches(world.path, create=False) as matches:
        (entry,) = matches.held_entries(10)
        kept = set(item_ids(world.path / "quarantine"))
        found = list(matches.find())
        taken = {match.path for match in found if match.id in kept}
        for match in found:
            # If two programs recorded a file at once, the second record is closed, and the sealed
            # copy belongs to the first record.
            is_second = match.ended is MatchState.CLOSED and match.path in taken
            assert match.in_place or match.id in kept or is_second
    assert isolated(world) <= LIMIT
    assert entry.held == FILES - isolated(world)
    assert {name for name in world.left() if name.startswith("right")} == set()
    assert all(path.read_bytes() == WRONG for path in world.tree.iterdir())
    assert world.call("audit", "verify").code == 0
    # Finish the actions that a kill has interrupted: `quarantine verify` lists their items.
    for item in json.loads(world.call("quarantine", "verify", "--format", "json").out)["items"]:
        if item["attention"]:
            assert world.call("quarantine", "add", item["id"]).code == 0
    assert world.call("quarantine", "verify").code == 0
    assert world.scan().code == 11
    assert isolated(world) <= LIMIT
