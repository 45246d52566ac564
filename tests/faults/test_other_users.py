"""Other users of the machine, who own what root scans, and exchange it while root works there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hashclient.errors import ExitCode
from hashclient.matches.store import Matches
from hashclient.quarantine import isolate
from hashclient.quarantine.vault import item_ids, load_item
from hashclient.scan.actions import Responder
from hashclient.scan.recorder import RunRecord
from tests.kit import State, attacker, call
from tests.kit.attacker import (
    Victim,
    attack_once,
    attacking,
    exchange,
    give_tree,
    link,
    needs_root,
    write,
)

pytestmark = needs_root

LISTED = b"a benign file that the list names"


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


class Scene:
    """A tree of the attacker with a listed file, and a victim outside of it with the same content.

    `directory` holds the listed file; `trap` is a link to the victim's directory, which has a file
    of the same name. `steps` exchange the two, and put the listed file back if it was taken.
    """

    def __init__(self, ground: Path, state_directory: Path) -> None:
        self.state = State(state_directory, {"base": {"e-1": LISTED}})
        self.key = state_directory / "officer.key"
        made = call("quarantine", "keygen", "--output", self.key, "--format", "json")
        self.recipient = json.loads(made.out)["public_key"]
        self.configure()
        self.victim = Victim(ground / "closed" / "f", LISTED)
        self.tree = give_tree(ground / "home", {"d/f": LISTED, "other": b"not listed"})
        self.directory, self.trap = self.tree / "d", self.tree / "trap"
        attack_once(link(self.trap, self.victim.path.parent))
        back = [write(place / "f", LISTED.decode()) for place in (self.directory, self.trap)]
        self.steps = [*back, exchange(self.directory, self.trap)]

    def configure(self, more: str = "") -> None:
        self.state.configure(f"{more}\n[quarantine]\nrecipients = [{json.dumps(self.recipient)}]\n")

    def check(self) -> None:
        """Fail if the attacker has reached the victim, or anything says so."""
        assert self.victim.is_untouched()
        inode = self.victim.path.stat().st_ino
        room = self.state.path / "quarantine"
        for item in (load_item(room, match_id) for match_id in item_ids(room)):
            assert item.origin.inode != inode
            assert item.file in {str(self.directory / "f"), str(self.trap / "f")}
        with Matches(self.state.path) as matches:
            # The attacker's own directory has either name.
            own = {str(self.directory / "f"), str(self.trap / "f")}
            assert {match.path for match in matches.find()} <= own


def test_an_attacker_exchanges_names_and_cannot_reach_a_victim(ground: Path) -> None:
    victim = Victim(ground / "closed" / "f", LISTED)
    tree = give_tree(ground / "tree", {"d/f": LISTED, "e/f": b"another"})
    seen: set[bytes] = set()
    with attacking(exchange(tree / "d", tree / "e")) as attack:
        while len(seen) < 2:
            seen.add((tree / "d" / "f").read_bytes())
    assert attack.succeeded == attack.rounds > 0
    with pytest.raises(AssertionError, match="PermissionError"):
        attack_once(attacker.hard_link(tree / "mine", victim.path))
    with pytest.raises(AssertionError, match="PermissionError"):
        attack_once(attacker.rename(ground / "closed", ground / "theirs"))
    attack_once(attacker.link(tree / "d" / "f", victim.path))
    assert (tree / "d" / "f").read_bytes() == LISTED  # root follows it; the attacker could not
    assert victim.is_untouched()
    victim.path.chmod(0o644)
    assert not victim.is_untouched()


@pytest.mark.parametrize("put", ["link", "directory", "link for the file", "hard link"])
@pytest.mark.parametrize("seam", [(RunRecord, "keep"), (Responder, "respond"), (isolate, "seal")])
def test_only_the_file_that_was_read_is_taken(
    ground: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    put: str,
    seam: tuple[object, str],
) -> None:
    """What is exchanged after the read, before the record, before the action, or within that."""
    scene = Scene(ground, tmp_path)
    one, other, victim = scene.directory, scene.trap, scene.victim
    if put == "directory":
        # In a directory of the attacker's, root has made one that is closed to others.
        victim = Victim(scene.tree / "closed" / "f", LISTED)
        other = victim.path.parent
    elif put == "link for the file":
        one, other = scene.directory / "f", scene.tree / "to-victim"
        attack_once(link(other, victim.path))
    elif put == "hard link":
        # Not every system keeps a user from making one.
        one, other = scene.directory / "f", scene.tree / "same"
        os.link(victim.path, other)
        victim.look()
    where, name = seam
    real, attacks = getattr(where, name), [exchange(one, other)]
    own = (scene.directory / "f").stat().st_ino

    def attacked(*args: Any, **kwargs: Any) -> Any:
        if attacks and args[-1]:  # something was read
            attack_once(attacks.pop())
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, attacked)
    done = scene.state.scan("--quarantine", scene.directory)
    assert not attacks and done.summary["match"] == 1
    if put == "directory":
        attack_once(exchange(one, other))  # back
    assert victim.is_untouched()
    room = scene.state.path / "quarantine"
    taken = [load_item(room, match_id) for match_id in item_ids(room)]
    if where is isolate:  # which holds the file and its directory by then
        assert {item.origin.inode for item in taken} <= {own}
    else:
        assert not taken
        assert done.code == ExitCode.MATCH_ATTENTION
        assert not done.lines[0]["actions"][0]["done"]
    with Matches(scene.state.path) as matches:
        assert [match.path for match in matches.find()] == [str(scene.directory / "f")]
