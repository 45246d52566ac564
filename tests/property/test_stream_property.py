"""A stream is judged like a file of the same bytes, whatever pieces it arrives in."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.digests import StreamDigester
from hashclient.core.kinds import Algorithm

plans = st.integers(0, 7).map(Algorithm.in_mask)


@given(st.lists(st.binary(max_size=40), max_size=12), plans, plans, st.integers(0, 120))
def test_a_stream_is_judged_by_all_of_it_however_it_comes(
    pieces: list[bytes], plan: tuple[Algorithm, ...], more: tuple[Algorithm, ...], kept: int
) -> None:
    digester = StreamDigester(plan, kept)
    for piece in pieces:
        digester.update(memoryview(piece))
    found = digester.finish()
    whole = b"".join(pieces)
    expected = {a: hashlib.new(a.label, whole).digest() for a in Algorithm}
    assert digester.length == len(whole)
    assert found == {a: expected[a] for a in (Algorithm if len(whole) > kept else plan)}
    assert digester.more(more) == {a: expected[a] for a in more}
