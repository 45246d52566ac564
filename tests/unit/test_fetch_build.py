"""Building a generation: the files that are downloaded ahead, and the files that count as a delta.

Results are tested in `test_fetch.py`, kills during a build in `tests/faults/test_crash.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from tuf.api.metadata import TargetFile

from hashclient.fetch import build
from hashclient.fetch.guard import PoisonGuard
from hashclient.index.blinding import Sealer
from hashclient.lists.wire import ListIndex, Segment, delta_of
from hashclient.trust.tuf import Trust


@pytest.mark.parametrize(("megabytes", "at_once"), [(1, 3), (128, 2), (200, 2), (256, 1), (300, 1)])
def test_segments_in_memory_are_bounded_in_number_and_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, megabytes: int, at_once: int
) -> None:
    held, seen = 0, []

    class Counted:
        def __init__(self, _work: object, _name: str) -> None:
            nonlocal held
            held += 1
            seen.append(held)

        def wait(self, _seconds: float) -> bool:
            return True

        def result(self) -> bytes:
            nonlocal held
            held -= 1
            return b""

    class Signed:
        def download(self) -> None: ...

        def target(self, _list: str, name: str) -> TargetFile:
            return TargetFile(megabytes << 20, {"sha256": "0" * 64}, name)

    monkeypatch.setattr(build, "Task", Counted)
    segments = [Segment(f"s{n}", "add", 1, n, n) for n in range(1, 7)]
    index = ListIndex("", "baseline", 6, datetime.now(UTC), 6, "0" * 16, tuple(segments))
    work = build.Build(
        provider="main",
        trust=cast(Trust, Signed()),
        sealer=Sealer(bytes(32)),
        guard=PoisonGuard(None, Sealer(bytes(32))),
        directory=tmp_path,
        index_hash="",
        signed={},
        expires=datetime.now(UTC),
        epoch="",
        mark="",
        now=datetime.now(UTC),
        progress=lambda *_: None,
        received=lambda: 0,
    )
    assert [segment for segment, _ in work._download(index, segments)] == segments
    assert (max(seen), len(seen), held) == (at_once, 6, 0)


def test_a_delta_is_of_whole_segments() -> None:
    ranges = ((1, 1), (2, 4), (5, 5), (5, 5), (6, 8))
    segments = tuple(Segment(f"s{n}", "add", 1, *r) for n, r in enumerate(ranges))
    index = ListIndex("", "baseline", 8, datetime.now(UTC), 5, "0" * 16, segments)
    deltas = {generation: delta_of(generation, index) for generation in range(10)}
    assert {g for g, delta in deltas.items() if delta is None} == {2, 3, 6, 7}
    lengths = {g: len(delta) for g, delta in deltas.items() if delta is not None}
    assert lengths == {0: 5, 1: 4, 4: 3, 5: 1, 8: 0, 9: 0}
