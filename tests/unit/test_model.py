"""The values that all packages share: the allowed names, and the sentences about them."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.model import (
    ENTRY_FIELDS,
    LOGGED_FIELDS,
    Gap,
    Handled,
    HeldEntry,
    Hit,
    Mail,
    MatchRef,
    Outcome,
    Outer,
    Seen,
    hit_fields,
    is_entry_id,
    is_name,
)

HIT = Hit("l", "e", "c", 7, (Algorithm.MD5, Algorithm.SHA256), complete=False)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        *(("", False), ("a", True), ("0", True), ("a" * 64, True), ("a" * 65, False)),
        *((".a", False), ("-a", False), ("_a", False), ("a.b_c-d.", True), ("a..b", False)),
        *(("A", False), ("a/b", False), ("a\n", False), ("ä", False)),
    ],
)
def test_a_name_goes_into_urls_and_files(text: str, allowed: bool) -> None:
    assert is_name(text) is allowed


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        *(("", False), ("a", True), ("A.z_0:9-", True), ("a b", False), ("ä", False)),
        *(("x" * 64, True), ("x" * 65, False), ("a" * 65, False)),
        *((f"{'aF0'[n % 3] * length}", False) for n, length in enumerate((32, 40, 64))),
        *(("a" * length, True) for length in (31, 33, 39, 41, 63)),
        *((f"{'a' * (length - 1)}g", True) for length in (32, 40, 64)),
    ],
)
def test_an_entry_id_never_looks_like_a_digest(text: str, allowed: bool) -> None:
    assert is_entry_id(text) is allowed


def test_a_hit_is_rendered_as_far_as_it_is_asked_for() -> None:
    first = {"list": "l", "entry": "e", "category": "c", "generation": 7}
    first |= {"algorithms": ["md5", "sha256"]}
    assert hit_fields(HIT) == first
    assert hit_fields(HIT, LOGGED_FIELDS) == first | {"complete": False}
    assert [*hit_fields(HIT, LOGGED_FIELDS)] == [*LOGGED_FIELDS]
    assert [*hit_fields(HIT)] == [*ENTRY_FIELDS]
    assert hit_fields(HIT, ("withdrawn_generation", "list")) == {
        "withdrawn_generation": None,
        "list": "l",
    }


def test_an_entry_stands_until_it_is_withdrawn() -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert HIT.stands
    assert not Hit("l", "e", "c", 1, (), True, 0, now).stands


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((1, 0, 0, 1), "1 file: 1 held"),
        ((2, 0, 0, 1), "2 files: 1 without an action, 1 held"),
        ((4_000, 1_000, 500, 1_500), "4,000 files: 1,000 isolated, 500 reported, 1,000 without"),
        ((6, 1, 2, 3), "6 files: 1 isolated, 2 reported, 3 held"),
        ((0, 0, 0, 0), "0 files: "),
    ],
)
def test_what_was_done_with_the_files_of_an_entry(
    counts: tuple[int, int, int, int], text: str
) -> None:
    assert HeldEntry("l", "e", *counts).text.startswith(f"entry e of l matched {text}")


@pytest.mark.parametrize(
    ("algorithms", "entries", "text"),
    [
        ((Algorithm.MD5,), 1, "l: 1 of 2,000 entries has no md5"),
        ((Algorithm.SHA1,), 2, "l: 2 of 2,000 entries have no sha1"),
        ((Algorithm.MD5, Algorithm.SHA1), 1_500, "l: 1,500 of 2,000 entries have neither md5"),
        ((), 0, "l: 0 of 2,000 entries have neither"),
    ],
)
def test_a_gap_is_a_sentence(algorithms: tuple[Algorithm, ...], entries: int, text: str) -> None:
    found = Gap("l", algorithms, entries, 2_000, 3).text
    assert found.startswith(text)
    assert found.endswith("neither md5 nor sha1") is (len(algorithms) == 2)


def status(device: int, inode: int) -> os.stat_result:
    return os.stat_result((0, inode, device, 0, 0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("known", "is_same"),
    [((1, 5), True), ((None, 5), True), ((2, 5), False), ((1, 6), False), ((None, 4), False)],
)
def test_a_file_is_known_by_its_numbers(known: tuple[int | None, int], is_same: bool) -> None:
    file = Seen(None, None, *known)
    assert file.is_file(status(1, 5)) is is_same
    assert file.is_directory(status(9, 9))
    directory = Seen(*known, 9, 9)
    assert directory.is_directory(status(1, 5)) is is_same
    assert not directory.is_file(status(1, 5))


def test_the_place_of_a_member_has_one_meaning() -> None:
    assert Outcome(Kind.CLEAN, "a!.zip").place == "a!.zip"
    outcome = Outcome(Kind.CLEAN, "a.zip", members=("b!", "", "c"))
    assert outcome.place == "a.zip!/b!!!/!/c"
    assert outcome.mail is None
    mail = Mail("id", "from")
    assert Outcome(Kind.MATCH, "a", outer=Outer(1, {}, 1, mail)).mail == mail
    # All values of a new outcome say that nothing was found.
    assert (outcome.size, outcome.reason, outcome.hits, outcome.digests) == (None, None, (), {})
    assert not outcome.is_stream and not outcome.is_object


@pytest.mark.parametrize("kind", list(Kind))
def test_a_match_without_a_record_is_unrecorded(kind: Kind) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    outcome, record = Outcome(kind, "/a"), MatchRef("b" * 10, MatchState.FOUND, now, now)
    assert Handled(outcome).is_unrecorded is (kind in ("match", "excepted"))
    assert not Handled(outcome, record).is_unrecorded
    assert (record.in_place, record.held, Handled(outcome).acted) == (True, False, ())
