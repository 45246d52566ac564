"""Other users of the machine, beside a root who signs, writes outputs and reads configuration."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import Signature

from fixtures.client import csv
from fixtures.simulator import Simulator
from hashclient.provider.drafts import load_draft
from hashclient.provider.keyfiles import load_public
from hashclient.provider.keys import Keys
from hashclient.provider.personkeys import make_pair
from tests.kit import State, attacker, call
from tests.kit.attacker import (
    Victim,
    attack_once,
    attacking,
    exchange,
    give_tree,
    link,
    make_fifo,
    needs_root,
    remove,
)

pytestmark = needs_root

#: A race is run a few times, and in slow runs 200 times.
rounds = pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.slow)])


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


def until_seen(is_so: Callable[[], bool]) -> None:
    """Wait until an attack is under way, as a look at what it changes shows."""
    while not is_so():
        pass


@rounds
def test_a_draft_that_another_user_exchanges_is_never_signed(ground: Path, rounds: int) -> None:
    """A signature is of the draft that was shown, or there is none."""
    home, theirs = ground / "home", ground / "theirs"
    home.mkdir(mode=0o700)
    theirs.mkdir()
    repo = Simulator(home / "repo")
    make_pair(home / "a.pem", home / "a.pub", None)
    key = load_public(home / "a.pub")
    first, second = theirs / "draft", theirs / "other"
    for draft, numbers in ((first, range(3)), (second, range(40))):
        repo.publish(csv(numbers), draft=draft, list_keys=Keys(1, 1, (key,)))
    found = load_draft(first)
    words = ("provider", "draft", "sign", first, "--root", home / "repo" / "root.json")
    give_tree(theirs, {})
    codes, steps = set(), 0
    for _ in range(rounds):
        with attacking(exchange(first, second), most_pause_us=20_000) as attack:
            signed = call(*words, "--draft-digest", found.digest, "--key", home / "a.pem")
        codes.add(signed.code)
        steps += attack.succeeded
        for path in theirs.glob("*/signatures/baseline-*"):
            signature = Signature(key.keyid, json.loads(path.read_bytes())["sig"])
            key.verify_signature(signature, found.roles["baseline"].signed_bytes)
            path.unlink()
    assert steps > 0
    assert codes <= {0, 2, 6}


# Outputs

LISTED = b"a benign file that the list names"


class Outputs:
    """A state of root's, and a directory of another user that root writes an output into."""

    def __init__(self, ground: Path) -> None:
        """Make both, and a file of root's that nobody else may touch."""
        (ground / "home").mkdir(mode=0o700)
        self.state = State(ground / "home", {"base": {"e": LISTED}}, {"a": LISTED, "b": b"other"})
        self.victim = Victim(ground / "closed" / "out", b"root's")
        self.theirs = give_tree(ground / "theirs", {"out": b"theirs", "real/x": b""})
        self.out = self.theirs / "out"

    def write(self, kind: str) -> int:
        """Let root write an output of a kind; return the exit code."""
        words = {
            "scan": ("scan", "--output", self.out, self.state.tree),
            "status": ("status", "--output", self.out),
            "checkpoint": ("audit", "checkpoint", "--output", self.out),
            "keygen": ("quarantine", "keygen", "--output", self.out),
        }
        return self.state.call(*words[kind]).code


KINDS = ("scan", "status", "checkpoint", "keygen")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trap", ["link", "link to a directory", "pipe", "file"])
def test_an_output_in_a_directory_of_another_user_leads_nowhere_else(
    ground: Path, kind: str, trap: str
) -> None:
    """It is refused by name, or takes the place of what was there; a pipe does not hang it."""
    scene = Outputs(ground)
    attack_once(remove(scene.out))
    if trap == "link":
        attack_once(link(scene.out, scene.victim.path))
    elif trap == "link to a directory":
        attack_once(link(scene.theirs / "dir", scene.victim.path.parent))
        scene.out = scene.theirs / "dir" / "new"
    elif trap == "pipe":
        attack_once(make_fifo(scene.out))
    else:
        attack_once(attacker.write(scene.out, "theirs"))
    code = scene.write(kind)
    assert scene.victim.is_untouched()
    takes_the_place = kind in ("status", "checkpoint") and trap in ("link", "file")
    if not takes_the_place:
        assert code == 2
    else:
        assert stat.S_ISREG(scene.out.lstat().st_mode) and scene.out.lstat().st_uid == 0


@rounds
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_is_never_written_through_a_link_that_is_exchanged(
    ground: Path, kind: str, rounds: int
) -> None:
    """Of the file, and of its directory."""
    scene = Outputs(ground)
    scene.out = scene.theirs / "real" / "out"
    attack_once(link(scene.theirs / "link", scene.victim.path.parent))
    codes = set()
    for number in range(rounds):
        with attacking(exchange(scene.theirs / "real", scene.theirs / "link")):
            until_seen((scene.theirs / "real").is_symlink)
            codes.add(scene.write(kind))
        assert scene.victim.is_untouched(), number
        for path in scene.theirs.rglob("out"):
            path.unlink(missing_ok=True)
    assert codes <= {0, 2, 8, 10}
