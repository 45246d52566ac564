"""Races against a tree's owner, who exchanges a directory with a link while root acts.

`test_other_users` tests the same exchanges at a known instant. In this file the instant is unknown,
and there are many rounds.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hashclient.client.client import Client
from hashclient.core.model import Handled
from hashclient.quarantine.vault import item_ids
from hashclient.scan.values.options import ScanOptions
from hashclient.watch.watch import Watch
from tests.kit import attacker
from tests.kit.attacker import attacking, exchange, needs_root
from tests.kit.run import call
from tests.kit.scene import LISTED, Scene

pytestmark = needs_root

#: The rounds of a race in a quick run and in a full run, and the number of files of each round.
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
    """Scan files, prepare each file, and act on each while the attacker exchanges names."""
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


@pytest.mark.slow
@rounds_of_a_race
@pytest.mark.parametrize("put", ["link", "directory"])
def test_isolating_by_hand(ground: Path, tmp_path: Path, rounds: int, put: str) -> None:
    scene = Scene(ground, tmp_path, tombstone="gone {id}")
    scene.lay_traps(BATCH, put)

    def act(match_id: str) -> None:
        done = scene.state.call("quarantine", "add", match_id)
        assert done.code in {0, 3}, done

    race(scene, rounds, act)


@pytest.mark.slow
@rounds_of_a_race
@pytest.mark.parametrize("put", ["link", "directory"])
def test_evidence_in_place(ground: Path, tmp_path: Path, rounds: int, put: str) -> None:
    """The attacker has put other content into the files: only the listed file has this content."""
    scene = Scene(ground, tmp_path)
    scene.lay_traps(rounds, put)
    scene.fill(rounds)
    found = scene.state.scan(scene.directory).lines[:-1]
    for line in found:
        Path(line["path"]).write_bytes(LISTED[::-1])
    reports = []
    for start in range(0, len(found), BATCH):
        ids = [line["id"] for line in found[start : start + BATCH]]
        prepared = scene.state.call("report", "prepare", "--seal-evidence", *ids)
        reports.append(prepared.out.split()[1].rstrip(":"))
    with attacking(exchange(scene.directory, scene.trap), most_pause_us=500) as attack:
        for report in reports:
            done = scene.state.call("report", "submit", report)
            assert done.code == 3, done
    assert attack.succeeded
    assert list(scene.out.rglob("*.age")) == []
    scene.fill(0)
    assert scene.victim.is_untouched()


@pytest.mark.slow
@rounds_of_a_race
@pytest.mark.parametrize("named", [False, True])
def test_restoring(ground: Path, tmp_path: Path, rounds: int, named: bool) -> None:
    """The victim's directory has no file with this name, but an attack could create one."""
    scene = Scene(ground, tmp_path, tombstone="gone")

    def act(match_id: str) -> None:
        words = ["--identity", scene.key, "--reason", "r", "--force"]
        words += ["--output", scene.directory / f"new-{match_id}"] if named else []
        done = scene.state.call("quarantine", "restore", match_id, *words)
        assert done.code in {0, 2, 8}, done

    def prepare(match_id: str) -> None:
        scene.state.call("quarantine", "add", match_id)

    race(scene, rounds, act, prepare)


@pytest.mark.slow
@rounds_of_a_race
def test_sealing_again_and_destroying(ground: Path, tmp_path: Path, rounds: int) -> None:
    """Sealing to other keys and destroying change only the sealed copy, and not the tree."""
    scene = Scene(ground, tmp_path, tombstone="gone")
    other = call("quarantine", "keygen", "--output", tmp_path / "other.key", "--format", "json")
    recipient = json.loads(other.out)["public_key"]

    def prepare(match_id: str) -> None:
        assert scene.state.call("quarantine", "add", match_id).code == 0

    def act(match_id: str) -> None:
        words = [match_id, "--identity", scene.key, "--recipient", recipient]
        assert scene.state.call("quarantine", "reseal", *words).code == 0
        words = ["--force", match_id, "--reason", "an order"]
        assert scene.state.call("quarantine", "purge", *words).code == 0

    race(scene, rounds, act, prepare)
    assert item_ids(scene.state.path / "quarantine") == []


@pytest.mark.slow
@rounds_of_a_race
@pytest.mark.parametrize("how", ["option", "policy"])
def test_a_scan_takes_no_file_from_outside_of_its_tree(
    ground: Path, tmp_path: Path, how: str, rounds: int
) -> None:
    scene = Scene(ground, tmp_path)
    if how == "policy":
        scene.configure('[[policy]]\nactions = ["quarantine"]\n')
    with attacking(*scene.steps, most_pause_us=2_000) as attack:
        for _ in range(rounds):
            scene.state.scan(*(["--quarantine"] if how == "option" else []), scene.tree)
    assert attack.succeeded > attack.rounds
    scene.check()


@pytest.mark.slow
@rounds_of_a_race
def test_a_watch_takes_no_file_from_outside_of_its_tree(
    ground: Path, tmp_path: Path, rounds: int
) -> None:
    scene = Scene(ground, tmp_path)
    scene.configure('[[policy]]\nactions = ["quarantine"]\n')
    told: list[Handled] = []

    def tell(handled: Handled) -> None:
        told.append(handled)
        if len(told) == rounds:
            os.kill(os.getpid(), signal.SIGTERM)

    # In addition, the whole tree is scanned again and again.
    watch = Watch(
        Client(scene.state.path),
        [str(scene.tree)],
        settle_s=0.001,
        rescan_s=0.2,
        options=ScanOptions(jobs=1),
        on_outcome=tell,
        on_failure=lambda _: None,
    )
    with attacking(*scene.steps, most_pause_us=2_000) as attack:
        watch.run(lambda _: None)
    assert attack.succeeded > attack.rounds
    assert len(told) >= rounds
    scene.check()
