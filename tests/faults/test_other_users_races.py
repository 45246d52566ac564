"""Races against the owner of a tree, who exchanges a directory with a link while root acts there.

`test_other_users` has the same at the instant that matters; here nobody knows the instant, and
there are many rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import attacker
from tests.kit.attacker import attacking, exchange, needs_root
from tests.kit.scene import Scene

pytestmark = needs_root

#: The rounds of a race in a quick run, and in a full one; and how many files there are at a time.
FEW, MANY, BATCH = 4, 200, 20

rounds_of_a_race = pytest.mark.parametrize(
    "rounds", [FEW, pytest.param(MANY, marks=pytest.mark.slow)]
)


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


def race(
    scene: Scene,
    rounds: int,
    act: Callable[[str], None],
    prepare: Callable[[str], None] = lambda _: None,
) -> None:
    """Scan files, prepare each, and act on each while the attacker is at work."""
    while rounds > 0:
        count = min(BATCH, rounds)
        scene.fill(count)
        found = scene.state.scan(scene.directory).lines[:-1]
        ids = [line["id"] for line in found if Path(line["path"]).name != "f"]
        assert len(ids) >= count
        for match_id in ids:
            prepare(match_id)
        with attacking(exchange(scene.directory, scene.trap), most_pause_us=500) as attack:
            for match_id in ids:
                act(match_id)
        assert attack.succeeded
        scene.check()
        rounds -= count


@rounds_of_a_race
@pytest.mark.parametrize("tombstone", [False, True])
def test_isolating_by_hand(ground: Path, tmp_path: Path, rounds: int, tombstone: bool) -> None:
    scene = Scene(ground, tmp_path, **({"tombstone": "gone {id}"} if tombstone else {}))
    scene.lay_traps(BATCH)

    def act(match_id: str) -> None:
        done = scene.state.call("quarantine", "add", match_id)
        assert done.code in {0, 3}, done

    race(scene, rounds, act)


@rounds_of_a_race
def test_evidence_in_place(ground: Path, tmp_path: Path, rounds: int) -> None:
    scene = Scene(ground, tmp_path)
    scene.lay_traps(BATCH)

    def act(match_id: str) -> None:
        scene.state.call("report", "prepare", "--seal-evidence", match_id)
        done = scene.state.call("report", "submit", "--all")
        assert done.code in {0, 3}, done

    race(scene, rounds, act)


@rounds_of_a_race
@pytest.mark.parametrize("named", [False, True])
def test_restoring(ground: Path, tmp_path: Path, rounds: int, named: bool) -> None:
    """The victim's directory has no file with such a name, but it might get one."""
    scene = Scene(ground, tmp_path, tombstone="gone")

    def act(match_id: str) -> None:
        words = ["--identity", scene.key, "--reason", "r", "--force"]
        words += ["--output", scene.directory / f"new-{match_id}"] if named else []
        done = scene.state.call("quarantine", "restore", match_id, *words)
        assert done.code in {0, 2, 8}, done

    def prepare(match_id: str) -> None:
        scene.state.call("quarantine", "add", match_id)

    race(scene, rounds, act, prepare)
