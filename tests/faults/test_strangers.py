"""Other users of the machine, beside a root who signs, writes outputs and reads configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import Signature

from fixtures.client import csv
from fixtures.simulator import Simulator
from hashclient.provider.drafts import load_draft
from hashclient.provider.keyfiles import load_public
from hashclient.provider.keys import Keys
from hashclient.provider.personkeys import make_pair
from tests.kit import attacker, call
from tests.kit.attacker import attacking, exchange, give_tree, needs_root

pytestmark = needs_root

#: A race is run a few times, and in slow runs 200 times.
rounds = pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.slow)])


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


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
