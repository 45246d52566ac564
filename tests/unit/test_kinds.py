"""Enumerations whose names and numbers are stored in files: no name or number may change."""

from __future__ import annotations

import hashlib
from itertools import combinations

import pytest

from hashclient.core.kinds import (
    COMES_FROM,
    REVIEW_REASONS,
    SETTLED,
    Action,
    Algorithm,
    Kind,
    MatchState,
    Verdict,
    mask_of,
)


@pytest.mark.parametrize(
    ("algorithm", "label", "bit"),
    [(Algorithm.MD5, "md5", 1), (Algorithm.SHA1, "sha1", 2), (Algorithm.SHA256, "sha256", 4)],
)
def test_an_algorithm_has_a_name_a_bit_and_a_length(
    algorithm: Algorithm, label: str, bit: int
) -> None:
    assert (algorithm.label, int(algorithm)) == (label, bit)
    assert algorithm.digest_bytes == hashlib.new(label).digest_size
    assert Algorithm.from_label(label) is algorithm
    assert {algorithm: 1}[Algorithm(bit)] == 1


@pytest.mark.parametrize("label", ["MD5", "sha512", "", "sha-1"])
def test_no_other_name_is_an_algorithm(label: str) -> None:
    with pytest.raises(KeyError):
        Algorithm.from_label(label)


def test_a_mask_has_the_bits_of_its_algorithms() -> None:
    masks = {}
    for count in range(4):
        for some in combinations(Algorithm, count):
            masks[mask_of(some)] = some
            assert mask_of([*some, *some]) == mask_of(some)
            assert Algorithm.in_mask(mask_of(some)) == some  # the algorithms are in ascending order
    assert sorted(masks) == list(range(8))


def test_words_of_outcomes_states_verdicts_and_actions() -> None:
    assert " ".join(Kind) == "clean match conflict skipped unread accepted excepted"
    assert (
        " ".join(MatchState) == "found held excepted quarantined reported acknowledged gone"
        " withdrawn restored purged closed"
    )
    assert " ".join(Verdict) == "confirmed rejected"
    assert " ".join(Action) == "quarantine report"
    assert dict.fromkeys((*Kind, *MatchState, *Verdict), 1)["match"] == 1


def test_reasons_of_a_review_belong_to_its_verdict() -> None:
    assert {verdict: " ".join(REVIEW_REASONS[verdict]) for verdict in Verdict} == {
        "confirmed": "as-listed circumstances provider",
        "rejected": "harmless other-file wrong-category lawful provider",
    }


def test_a_settled_match_is_open_again_only_if_its_file_is_found_again() -> None:
    assert " ".join(sorted(SETTLED)) == "closed excepted purged restored"
    for state in MatchState:
        assert state not in COMES_FROM[state]
        after = {new for new in MatchState if state in COMES_FROM[new]}
        found = {MatchState.FOUND, MatchState.HELD, MatchState.EXCEPTED}
        if state in SETTLED:
            assert after <= found and after
    assert COMES_FROM[MatchState.ACKNOWLEDGED] == (MatchState.REPORTED,)
