"""Messages between a scan and its workers: everything arrives as it was sent."""

from __future__ import annotations

from array import array

import pytest
from msgspec.structs import replace

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Hit, Outcome, Seen
from hashclient.core.verdict import Counts
from hashclient.scan.executors.wire import (
    Failed,
    decode_message,
    decode_task,
    encode,
    encode_task,
    names_of,
    pack_outcomes,
    pack_result,
    shown,
    unpack_outcomes,
    unpack_result,
)
from hashclient.scan.values.work import NO_INODES, Group, Result

ODD = "\udcff\n \u00fc"
GROUPS = [
    Group("/d", ["a", ODD, ""], False, (5, 2**64 - 1), array("Q", [0, 7, 2**64 - 1])),
    Group(ODD, ["x"], True, (None, 6), NO_INODES, is_named=True),
    Group("", ["x"], follow=True),
]
HIT = Hit("base", "e-1", "synthetic", 3, (Algorithm.MD5,), complete=True)
MATCH = Outcome(
    Kind.MATCH,
    f"/{ODD}",
    7,
    hits=(HIT,),
    digests={Algorithm.MD5: b"d" * 16},
    tags={Algorithm.MD5: b"t" * 16},
    members=("m", ODD),
    seen=Seen(1, 2, None, 4),
)


@pytest.mark.parametrize("groups", [[], GROUPS[:1], GROUPS])
def test_a_task_arrives_as_it_was_sent(groups: list[Group]) -> None:
    assert decode_task(encode_task(groups)) == groups


@pytest.mark.parametrize(
    ("directory", "is_relative"), [("/", False), ("/d", False), ("d/e", True), ("", True)]
)
def test_a_path_that_does_not_begin_at_the_root_is_relative(
    directory: str, is_relative: bool
) -> None:
    assert names_of(Group(directory, ["x"], follow=False)).is_relative is is_relative


@pytest.mark.parametrize("digests", [True, False])
def test_an_outcome_is_sent_to_another_machine_without_its_digests(digests: bool) -> None:
    (sent,) = pack_outcomes([MATCH], digests=digests)
    (back,) = unpack_outcomes([sent])
    assert back == (MATCH if digests else replace(MATCH, digests={}))


@pytest.mark.parametrize("digests", [True, False])
def test_a_result_arrives_with_all_its_numbers(digests: bool) -> None:
    numbers = {
        name: number
        for number, name in enumerate(Counts.__struct_fields__, 1)
        if name != "not_opened"
    }
    result = Result(
        **numbers,  # type: ignore[arg-type]
        not_opened={"luks": 3},
        clean=77,
        outcomes=[MATCH, Outcome(Kind.UNREAD, "/u", reason="no")],
        deferred=GROUPS,
        learned=[(1, b"record")],
        seen=[(2, 3)],
        containers=[(4, b"record", b"members")],
        lost=[2**64 - 1],
        taken_s=0.5,
    )
    packed = pack_result(result, digests=digests)
    back = unpack_result(packed)
    if digests:
        assert back == result == decode_message(encode(packed))
    else:
        assert [dict(one.digests) for one in back.outcomes] == [{}, {}]
        back.outcomes = result.outcomes
        assert back == result


def test_progress_is_a_number() -> None:
    assert decode_message(encode(2**40)) == 2**40


@pytest.mark.parametrize(
    ("text", "safe"),
    [("plain", "plain"), ("a\\b", "a\\b"), ("\x1b[2J", "\\x1b[2J"), ("a\\\n", "a\\\\\\x0a")],
)
def test_words_of_another_process_are_shown_safely(text: str, safe: str) -> None:
    assert shown(text) == safe
    for hint in (None, "", text):
        error = decode_message(encode(Failed(text, hint)))
        assert isinstance(error, StateError)
        assert (error.message, error.hint) == (safe, hint and safe)
