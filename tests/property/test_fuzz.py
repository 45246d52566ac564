"""A short fuzzing of all code that parses foreign bytes; `make fuzz` runs as long as you like."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.fuzz.targets import Target, Workshop, targets
from tests.kit.depth import examples

NAMES = (
    "index",
    "add",
    "withdraw",
    "config",
    "audit",
    "checkpoint",
    "digests",
    "exports",
    "nsrl",
    "delegations",
    "manifest",
    "staging",
    "run",
    "inventory",
    "matches",
    "mounts",
    "clamd",
    "bundle",
    "object-uri",
    "object-token",
    "object-page",
    "object-report",
    "object-report-manifest",
    "notice",
    "notices",
    "noticerole",
    "clients",
    "draft",
    "draft-snapshot",
    "draft-timestamp",
    "draft-notices",
    "signature",
    "item",
    "document",
    "answer",
    "age",
    "zip",
    "tar",
    "compressed",
    "mail",
    "mailbox",
    "winmail",
    "store",
)


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, tuple[Target, list[bytes]]]]:
    with tempfile.TemporaryDirectory() as name:
        yield targets(Workshop(Path(name)))


def mutated(chance: random.Random, seed: bytes) -> bytes:
    """Return data after a few mutations: bits flipped, parts inserted, cut, doubled, exchanged."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        if not data:
            break
        at = chance.randrange(len(data))
        length = chance.choice((1, 1, 2, 4, 8, 50))
        what = chance.randrange(6)
        if what == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            data[at] = chance.choice(b'\x00\xff\x7f\x80"\\{}[],:-0123456789eE\n\r=.T')
        elif what == 2:
            del data[at : at + length]
        elif what == 3:
            data[at:at] = data[at : at + length]
        elif what == 4:
            data[at : at + length] = chance.randbytes(length)
        else:
            other = chance.randrange(len(data))
            data[at : at + length] = data[other : other + length]
    if chance.randrange(20) == 0:
        del data[chance.randrange(len(data) + 1) :]
    return bytes(data)


@pytest.mark.slow
def test_the_table_is_what_is_tested(table: dict[str, tuple[Target, list[bytes]]]) -> None:
    assert tuple(table) == NAMES
    for target, seeds in table.values():
        for seed in seeds:
            target(seed)


@pytest.mark.sampled
@pytest.mark.parametrize("name", NAMES)
def test_broken_input_gives_documented_errors_only(
    table: dict[str, tuple[Target, list[bytes]]], name: str
) -> None:
    target, seeds = table[name]
    chance = random.Random(name)
    for number in range(300):
        target(mutated(chance, seeds[number % len(seeds)]))


@pytest.mark.parametrize(
    "name", ["index", "config", "audit", "checkpoint", "digests", "exports", "staging"]
)
def test_any_bytes_give_documented_errors_only(
    table: dict[str, tuple[Target, list[bytes]]], name: str
) -> None:
    target = table[name][0]

    @given(
        st.one_of(
            st.binary(max_size=200),
            st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")),
        )
    )
    @examples(100)
    def run(data: bytes) -> None:
        target(data)

    run()
