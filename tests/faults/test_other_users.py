"""Other users of the machine, who own what root scans, and exchange it while root works there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import attacker
from tests.kit.attacker import Victim, attack_once, attacking, exchange, give_tree, needs_root

pytestmark = needs_root

LISTED = b"a benign file that the list names"


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


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
