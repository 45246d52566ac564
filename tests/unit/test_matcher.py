"""The matcher: entries that could match an input of some size, real matches, and outcomes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.core.digests import CHEAPEST_COVER, COST_S_PER_GB
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Hit
from hashclient.index import matcher as module
from hashclient.index.matcher import Judge, verdict
from hashclient.index.reader import Index
from hashclient.lists.wire import NO_SIZE

MD5, SHA1, SHA256 = Algorithm


def row(
    entry_id: str,
    data: bytes,
    *algorithms: Algorithm,
    size: int | None = None,
    wrong: Algorithm | None = None,
) -> str:
    cells = [
        hashlib.new(a.label, b"other" if a is wrong else data).hexdigest()
        if a in algorithms
        else ""
        for a in Algorithm
    ]
    return ",".join([entry_id, *cells, "" if size is None else str(size)])


def judge(directory: Path, **lists: list[str]) -> Judge:
    simulator = Simulator(directory / "repo")
    for name, rows in lists.items():
        simulator.publish("\n".join(["entry_id,md5,sha1,sha256,size", *rows]).encode(), name)
    client = Client(directory / "state", simulator, simulator.root)
    client.fetch()
    return client.open().judge()


def digests(data: bytes, *algorithms: Algorithm) -> dict[Algorithm, bytes]:
    return {a: hashlib.new(a.label, data).digest() for a in algorithms or tuple(Algorithm)}


def hits(asked: Judge, given: Mapping[Algorithm, bytes], size: int | None) -> list[tuple[str, ...]]:
    """Return each hit as texts: list, entry, agreeing algorithms, and `all` or an empty text."""
    found = asked.hits(asked.seal(given), size)
    return [
        (h.list_name, h.entry, "+".join(a.label for a in h.algorithms), "all" if h.complete else "")
        for h in found
    ]


def test_the_size_decides_which_digests_are_worth_computing(tmp_path: Path) -> None:
    asked = judge(
        tmp_path,
        one=[
            row("a", b"12345", MD5, size=5),
            row("b", b"123456", *Algorithm, size=6),
            row("c", b"1234567", MD5, SHA256, size=7),
            row("d", b"7654321", SHA1, size=7),
        ],
    )
    assert not asked.reads_everything
    assert asked.plan(4) == asked.plan(0) == asked.plan(2**62) == ()
    assert asked.plan(5) == (MD5,)
    # Size 6 needs the cheapest of three digests, and size 7 one digest for each of two entries.
    assert asked.plan(6) == (SHA1,)
    assert asked.plan(7) == (SHA1, SHA256)
    # If the size is unknown, no entry is ruled out.
    assert asked.plan(None) == (MD5, SHA1)


def test_an_entry_without_a_size_is_in_every_plan(tmp_path: Path) -> None:
    asked = judge(tmp_path, one=[row("a", b"x", SHA256, size=1)], two=[row("b", b"y", MD5)])
    assert asked.reads_everything
    assert asked.plan(0) == asked.plan(17) == (MD5,)
    assert asked.plan(1) == asked.plan(None) == (MD5, SHA256)


def test_plans_are_remembered_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLANS_KEPT", 3)
    asked = judge(tmp_path, one=[row("a", b"x", SHA1, size=4)])
    for _ in range(2):
        assert [bool(asked.plan(size)) for size in range(10)] == [s == 4 for s in range(10)]
    assert len(asked._plans) <= 3


def test_no_cheaper_set_of_digests_touches_every_entry() -> None:
    for masks in range(128):
        possible = [m for m in range(1, 8) if masks >> (m - 1) & 1]
        cost = {
            cover: sum(COST_S_PER_GB[a] for a in Algorithm.in_mask(cover))
            for cover in range(8)
            if all(cover & m for m in possible)
        }
        assert cost[CHEAPEST_COVER[masks]] == min(cost.values())


def test_all_digests_that_both_have_must_agree(tmp_path: Path) -> None:
    asked = judge(
        tmp_path,
        one=[
            row("whole", b"data", *Algorithm, size=4),
            row("wrong", b"data", MD5, SHA1, wrong=MD5),
            row("alone", b"data", SHA256),
        ],
    )
    assert hits(asked, digests(b"data"), 4) == [
        ("one", "whole", "md5+sha1+sha256", "all"),
        ("one", "alone", "sha256", "all"),
        ("one", "wrong", "sha1", ""),
    ]
    # A digest that the input lacks cannot disagree.
    assert hits(asked, digests(b"data", SHA1), 4) == [
        ("one", "whole", "sha1", "all"),
        ("one", "wrong", "sha1", "all"),
    ]
    assert hits(asked, digests(b"data", MD5), None) == [("one", "whole", "md5", "all")]
    assert hits(asked, digests(b"other", MD5, SHA1), None) == [("one", "wrong", "md5", "")]
    assert hits(asked, digests(b"nothing"), 4) == hits(asked, {}, 4) == []


def test_an_entry_of_another_size_is_ruled_out(tmp_path: Path) -> None:
    asked = judge(
        tmp_path, one=[row("sized", b"data", SHA1, size=9), row("unsized", b"data", SHA1)]
    )
    assert [h[1] for h in hits(asked, digests(b"data"), 4)] == ["unsized"]
    assert {h[1] for h in hits(asked, digests(b"data"), None)} == {"sized", "unsized"}


def test_an_input_may_be_on_several_lists_and_complete_hits_come_first(tmp_path: Path) -> None:
    asked = judge(
        tmp_path,
        one=[row("a", b"data", MD5, SHA1, wrong=SHA1)],
        two=[row("a", b"data", SHA1), row("b", b"data", SHA1)],
    )
    assert hits(asked, digests(b"data"), 4) == [
        ("two", "a", "sha1", "all"),
        ("two", "b", "sha1", "all"),
        ("one", "a", "md5", ""),
    ]


def test_places_say_what_else_is_to_be_computed(tmp_path: Path) -> None:
    asked = judge(tmp_path, one=[row("a", b"x", MD5, SHA1)], two=[row("b", b"y", SHA1, SHA256)])
    tags = asked.sealer.tags_of(SHA1, [digests(data)[SHA1] for data in (b"z", b"y", b"x", b"y")])
    places = asked.find(SHA1, tags)
    assert sorted(places) == [1, 2, 3]
    assert asked.wanted(places[2]) == mask_of([MD5, SHA1])
    assert asked.wanted(places[1] + places[2]) == mask_of(Algorithm)
    assert asked.wanted([]) == 0
    assert asked.find(MD5, asked.seal(digests(b"y"))[MD5].reshape(1, 2)) == {}


@pytest.mark.parametrize(
    ("complete", "kind"),
    [
        ((), Kind.CLEAN),
        ((True,), Kind.MATCH),
        ((True, False), Kind.MATCH),
        ((False,), Kind.CONFLICT),
    ],
)
def test_one_complete_hit_makes_a_match(complete: tuple[bool, ...], kind: Kind) -> None:
    assert verdict(tuple(Hit("l", "e", "c", 1, (MD5,), c) for c in complete)) is kind


@pytest.mark.slow
def test_many_inputs_get_what_each_would_get_alone(tmp_path: Path) -> None:
    """Inputs that are judged together get the outcomes that each input gets by itself."""
    contents = [b"a", b"b", b"c", b"d"]
    rows = [
        row(f"e-{n}", contents[n % 3], *kinds, size=size, wrong=wrong)
        for n, (kinds, size, wrong) in enumerate(
            (kinds, size, wrong)
            for kinds in ((MD5,), (MD5, SHA1), (SHA1, SHA256), tuple(Algorithm))
            for size in (None, 1, 2)
            for wrong in (None, SHA1)
        )
    ]
    asked = judge(tmp_path, base=rows, more=rows[::5])
    chance = random.Random(3)
    for _ in range(60):
        count = chance.randrange(1, 40)
        given = [
            digests(
                chance.choice(contents), *chance.sample(tuple(Algorithm), chance.randrange(1, 4))
            )
            for _ in range(count)
        ]
        sizes = [chance.choice((None, 1, 2)) for _ in range(count)]
        columns = {}
        for algorithm in Algorithm:
            at = [n for n, one in enumerate(given) if algorithm in one]
            if at:
                tags = asked.sealer.tags_of(algorithm, [given[n][algorithm] for n in at])
                columns[algorithm] = tags, np.array(at, np.uint32)
        lengths = np.array([NO_SIZE if size is None else size for size in sizes], np.uint64)
        alone = {
            n: found
            for n, (one, size) in enumerate(zip(given, sizes, strict=True))
            if (found := asked.hits(asked.seal(one), size))
        }
        assert asked.hits_by_row(columns, lengths) == alone
        is_hit, wanted = asked.wanted_by_row(columns, count)
        for n, one in enumerate(given):
            places = [
                place
                for algorithm, words in asked.seal(one).items()
                for found in asked.find(algorithm, words.reshape(1, 2)).values()
                for place in found
            ]
            assert (bool(is_hit[n]), int(wanted[n])) == (bool(places), asked.wanted(places))


def test_files_of_one_content_are_judged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, files = 300, 1000
    asked = judge(tmp_path, base=[row(f"e-{n}", b"one", MD5) for n in range(entries)])
    judged: list[int] = []
    original = Index.hits

    def counted(index: Index, found: Any, *rest: Any) -> Any:
        judged.append(sum(len(one.queries) for _, one in found))
        return original(index, found, *rest)

    monkeypatch.setattr(Index, "hits", counted)
    tags = asked.sealer.tags_of(MD5, [digests(b"one", MD5)[MD5]] * files)
    columns = {MD5: (tags, np.arange(files, dtype=np.uint32))}
    found = asked.hits_by_row(columns, np.full(files, 3, np.uint64))
    assert judged == [entries]
    assert list(found) == list(range(files)) and len(found[0]) == entries
    assert all(of_file is found[0] for of_file in found.values())
    assert asked.are_listed(MD5, tags).all()
