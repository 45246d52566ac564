"""Feedback has only names of lists, ids of entries and numbers, whatever is on record."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.client.client import Client
from hashclient.core.kinds import REVIEW_REASONS, Algorithm, Kind, Verdict
from hashclient.core.model import Hit, Outcome
from hashclient.decisions.review import Review, review
from hashclient.matches.stats import Statistics
from hashclient.reporting.feedback import make_feedback
from hashclient.session import Session
from tests.kit import State
from tests.kit.depth import examples

LISTED = {f"e-{number}": b"a dummy %d" % number for number in range(3)}
ROOT = "ab" * 32
#: Names that are too long to occur in a file by chance.
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=9, max_size=30)
reviews = st.lists(
    st.tuples(st.sampled_from(sorted(LISTED)), names, names, names, st.sampled_from([*Verdict])),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> State:
    state = State(tmp_path_factory.mktemp("feedback"), {"base": LISTED})
    state.configure(
        f'[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "{ROOT}"\n'
    )
    return state


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


@pytest.mark.slow
@examples(60)
@given(reviews)
def test_no_path_no_digest_and_no_name_of_a_person_is_in_feedback(
    world: State, made: list[tuple[str, str, str, str, Verdict]]
) -> None:
    settings = Client(world.path).session.settings
    forbidden: set[str] = set()
    with Statistics(world.path) as record:
        for entry, directory, name, operator, verdict in made:
            session = Session(settings, operator=operator)
            path = f"/srv/{directory}/{name}"
            tag = hashlib.sha256(path.encode()).digest()[:16]
            hit = Hit("base", entry, "synthetic", 1, (Algorithm.SHA256,), complete=True)
            outcome = Outcome(Kind.MATCH, path, 7, hits=(hit,), tags={Algorithm.SHA256: tag})
            (ref,) = record.record([outcome], session.sealer().key_id, session.now())
            word = REVIEW_REASONS[verdict][0]
            said = Review.of(verdict, f"{word}: x{operator} has looked at x{name}")
            assert [*review(session, record, [ref.id], said)]
            forbidden |= {directory, name, operator, ref.id, tag.hex()}
            forbidden.add(base64.b64encode(tag).decode())
        for data in LISTED.values():
            for algorithm in Algorithm:
                digest = hashlib.new(algorithm.label, data).digest()
                forbidden |= {digest.hex(), base64.b64encode(digest).decode()}
        feedback, written = make_feedback(Session(settings, operator="somebody"), "main", record)
    content, signed = map(json.loads, written.splitlines())
    assert feedback.entries
    allowed = {"format", "hashclient-feedback/1", "provider_root", ROOT, "made", "entries"}
    allowed |= {"list", "entry", "confirmed", "rejected", "excepted", "held", "base", *LISTED}
    allowed |= {content["made"]}
    assert {*strings(content)} <= allowed
    assert signed.keys() == {"public_key", "signature"}
    text = written.decode()
    for word in forbidden - allowed:
        assert word not in text
