"""Doubles: rows whose digests are all listed already, or all in earlier rows of the files."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.client import csv, digests_of
from fixtures.simulator import Simulator
from hashclient.core.kinds import Algorithm
from hashclient.provider import entries
from hashclient.provider.results import Published, Some
from tests.kit.depth import examples


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    return Simulator(tmp_path / "repo")


def rows(*wanted: tuple[int, str], first: int = 0) -> bytes:
    """Return entries of the numbered files with the named digests (`m`, `1` and `2`)."""
    lines = ["entry_id,md5,sha1,sha256"]
    for place, (number, kinds) in enumerate(wanted, first):
        digests = zip("m12", digests_of(number).values(), strict=True)
        cells = [digest.hex() if kind in kinds else "" for kind, digest in digests]
        lines.append(",".join([f"x-{place}", *cells]))
    return "\n".join([*lines, ""]).encode()


def counts(done: Published) -> tuple[int, int]:
    return tuple(some.count if some else 0 for some in (done.listed, done.repeated))  # type: ignore[return-value]


def test_new_entries_are_no_doubles(simulator: Simulator) -> None:
    assert counts(simulator.publish(csv(range(9)))) == (0, 0)
    done = simulator.publish(csv(range(9, 12)))
    assert (done.listed, done.repeated) == (None, None)


def test_entries_that_are_listed_already_are_counted_and_the_first_is_named(
    simulator: Simulator,
) -> None:
    simulator.publish(rows((1, "m12"), (2, "m")))
    files = [
        ("one", io.BytesIO(rows((3, "m12"), (1, "2"), first=10))),
        ("two", io.BytesIO(rows((2, "m1"), (2, "m"), first=20))),
    ]
    done = simulator.repository.publish("baseline", files)
    # The list lacked the SHA-1 of entry one:3, so this entry is no double.
    assert done.listed == Some(2, "one:3")
    assert done.repeated == Some(1, "two:3")


def test_a_withdrawn_entry_does_not_count_as_listed(simulator: Simulator) -> None:
    simulator.publish(rows((1, "m12"), (2, "m12")))
    simulator.withdraw("x-0")
    assert simulator.publish(rows((1, "m12"), first=10)).listed is None
    # The id is published again with another digest.
    simulator.withdraw("x-10")
    simulator.publish(rows((5, "m12"), first=0))
    done = simulator.publish(rows((1, "m12"), (5, "1"), (2, "2"), first=20))
    assert done.listed == Some(2, "baseline.csv:3")


def test_lists_of_the_same_provider_are_no_doubles_of_each_other(simulator: Simulator) -> None:
    simulator.publish(csv(range(5)))
    assert counts(simulator.publish(csv(range(5)), "other")) == (0, 0)


Entries = st.lists(st.tuples(st.integers(0, 5), st.sets(st.sampled_from("m12"), min_size=1)))


@examples(6)
@given(generations=st.lists(Entries.filter(bool), min_size=1, max_size=3), seed=st.integers())
def test_the_counts_are_those_of_sets(
    tmp_path_factory: pytest.TempPathFactory,
    generations: list[list[tuple[int, set[str]]]],
    seed: int,
) -> None:
    simulator = Simulator(tmp_path_factory.mktemp("doubles") / "repo")
    live: dict[str, set[tuple[int, str]]] = {}
    number = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "SEGMENT_ENTRIES", 2)
        for generation in generations:
            before = set().union(*live.values())
            seen: set[tuple[int, str]] = set()
            listed = repeated = 0
            content = rows(*((n, "".join(kinds)) for n, kinds in generation), first=number)
            for n, kinds in generation:
                digests = {(n, kind) for kind in kinds}
                listed += digests <= before
                repeated += digests <= seen
                seen |= digests
                live[f"x-{number}"] = digests
                number += 1
            assert counts(simulator.publish(content)) == (listed, repeated)
            gone = random.Random(seed).choice(sorted(live))
            simulator.withdraw(gone)
            del live[gone]
    assert len(Algorithm) == 3
