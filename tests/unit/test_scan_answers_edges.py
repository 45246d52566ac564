"""The answers of workers at the edges of what makes sense: each number, record and path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Hit, Outcome, Outer
from hashclient.core.verdict import Counts
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.records import RECORD
from hashclient.scan.cluster.answers import is_about, verified
from hashclient.scan.cluster.listing import Errand
from hashclient.scan.cluster.messages import (
    Listed,
    Lost,
    ReadObjects,
    ToCheck,
    ToList,
    ToRead,
)
from hashclient.scan.executors.wire import Checked, Failed, Names, names_of, pack_outcomes
from hashclient.scan.objects.wanted import Wanted
from hashclient.scan.values.work import WORKER_FAILED, Group, Start
from tests.kit import write_tree

FAILED = Lost(WORKER_FAILED)
MOST = 2**63 - 1


def group(directory: str, *names: str) -> Names:
    return names_of(Group(directory, list(names), follow=True))


def checked(**fields: Any) -> Checked:
    """Return an answer that says nothing, except for the given fields."""
    outcomes = pack_outcomes(fields.pop("outcomes", []))
    answer = Checked(0, Counts(), outcomes, [], [], [], [], 0.0, [])
    return msgspec.structs.replace(answer, **fields)


def is_taken(answer: Checked) -> bool:
    """Return whether an answer makes sense, for a batch of files and for a batch of objects."""
    batch = ToCheck((group("/d", "a", "b"),))
    found = verified(batch, answer)
    assert found in (answer, FAILED)
    read = ToRead("here", "bucket", [Wanted("a", 1, None, None)])
    named = [msgspec.structs.replace(one, path=b"s3://bucket/a") for one in answer.outcomes]
    of_object = msgspec.structs.replace(answer, outcomes=named)
    assert is_about(read, ReadObjects([(of_object, False, False)])) is (found == answer)
    return found == answer


def hit(generation: int) -> Hit:
    return Hit("base", "e-1", "c", generation, (Algorithm.MD5,), complete=True)


def outcome(**fields: Any) -> dict[str, Any]:
    return {"outcomes": [Outcome(**{"kind": Kind.MATCH, "path": "/d/a", **fields})]}


def fields_with(number: int) -> dict[str, dict[str, Any]]:
    """Return answers that have a number in one place each."""
    counts = {name: Counts() for name in Counts.__struct_fields__ if name != "not_opened"}
    for name, made in counts.items():
        setattr(made, name, number)
    names = msgspec.structs.replace(group("/d", "a"), file_system=number)
    record = bytes(RECORD.itemsize)
    return {
        **{name: {"counts": made} for name, made in counts.items()},
        "not opened": {"counts": Counts(not_opened={"7z": 1, "lha": number})},
        "clean": {"clean": number},
        "file system seen": {"seen": [(1, 1), (number, 1)]},
        "block seen": {"seen": [(1, number)]},
        "learned": {"learned": [(1, record), (number, record)]},
        "container": {"containers": [(number, record, b"")]},
        "size": outcome(size=number),
        "generation": outcome(hits=(hit(1), hit(number))),
        "outer size": outcome(outer=Outer(number, {}, 1)),
        "outer members": outcome(outer=Outer(1, {}, number)),
        "deferred": {"deferred": [names]},
        "large": {"large": [names]},
    }


@pytest.mark.parametrize(
    ("number", "taken"), [(-1, False), (0, True), (MOST, True), (MOST + 1, False)]
)
@pytest.mark.parametrize("place", sorted(fields_with(0)))
def test_records_and_logs_can_have_the_numbers_of_an_answer(
    place: str, number: int, taken: bool
) -> None:
    answer = checked(**fields_with(number)[place])
    if place in ("deferred", "large"):  # only files are handed back
        batch = ToCheck((group("/d", "a", "b"),))
        assert verified(batch, answer) == (answer if taken else FAILED)
    else:
        assert is_taken(answer) is taken


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [(0.0, True), (-1.0, True), (1e300, True), *((float(x), False) for x in ("nan", "inf"))],
)
def test_a_time_is_finite(seconds: float, taken: bool) -> None:
    answer = checked(taken_s=seconds)
    batch = ToCheck((group("/d", "a"),))
    assert (verified(batch, answer) is answer) is taken


ITEM, PART = RECORD.itemsize, MEMBER.itemsize


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        *(({"learned": [(1, bytes(n))]}, n in (ITEM, 2 * ITEM)) for n in (0, 1, ITEM - 1, ITEM)),
        *(({"learned": [(1, bytes(n))]}, n == 2 * ITEM) for n in (ITEM + 1, 2 * ITEM)),
        *(
            ({"containers": [(1, bytes(n), bytes(PART))]}, n == ITEM)
            for n in (0, ITEM - 1, ITEM, ITEM + 1, 2 * ITEM)
        ),
        *(
            ({"containers": [(1, bytes(ITEM), bytes(n))]}, n in (0, PART, 2 * PART))
            for n in (0, 1, PART - 1, PART, PART + 1, 2 * PART)
        ),
    ],
)
def test_records_are_whole(fields: dict[str, Any], taken: bool) -> None:
    assert is_taken(checked(**fields)) is taken


@pytest.mark.parametrize("kind", Kind)
def test_only_the_client_rules_exceptions(kind: Kind) -> None:
    assert is_taken(checked(**outcome(kind=kind))) is (kind not in (Kind.EXCEPTED, Kind.ACCEPTED))


@pytest.mark.parametrize(
    ("reason", "taken"), [(None, True), ("", True), ("so it is", True), ("a\n", False)]
)
def test_a_reason_is_one_line(reason: str | None, taken: bool) -> None:
    assert is_taken(checked(**outcome(kind=Kind.UNREAD, reason=reason))) is taken
    if reason is not None:
        lost = Lost(reason)
        assert verified(ToCheck(()), lost) == (lost if taken else FAILED)


@pytest.mark.parametrize("size", [None, 0])
def test_a_size_may_be_unknown(size: int | None) -> None:
    assert is_taken(checked(**outcome(size=size)))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_each_object_has_one_result(count: int) -> None:
    batch = ToRead("here", "bucket", [Wanted(key, 1, None, None) for key in "ab"])
    assert is_about(batch, ReadObjects([(checked(), False, False)] * count)) is (count == 2)


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("s3://bucket/a", True),
        ("s3://bucket/a?versionId=1", True),
        ("s3://bucket/b%3F", True),
        ("s3://bucket/b%3F?versionId=v", True),
        ("s3://bucket/b%3F?versionId=w", True),
        ("s3://bucket/aa", False),
        ("s3://bucket/", False),
        ("s3://other/a", False),
        ("gs://bucket/a", False),
        ("/d/a", False),
    ],
)
def test_the_result_of_an_object_names_the_object(path: str, taken: bool) -> None:
    wanted = Wanted("b?" if "b%" in path else "a", 1, None, None)
    batch = ToRead("here", "bucket", [wanted])
    answer = checked(outcomes=[Outcome(Kind.MATCH, path, is_object=True)])
    assert is_about(batch, ReadObjects([(answer, False, False)])) is taken
    versioned = ToRead("here", "bucket", [msgspec.structs.replace(wanted, version="v")])
    is_version = path.endswith("=v")
    assert is_about(versioned, ReadObjects([(answer, False, False)])) is is_version


@pytest.mark.parametrize(
    ("directory", "path", "taken"),
    [
        *(("/d", "/d/a", True), ("/d/", "/d/a", True), ("/d", "/d//a", True)),
        *(("/", "/a", True), ("/", "/d/a", False), ("", "a", True), ("", "/a", True)),
        *(("", "d/a", False), ("d", "d/a", True), ("d", "/d/a", False), ("/d", "/d", False)),
        *(("/d", "/d/\udcff", True), ("/d", "/e/a", False), ("/d", "/d/a\0", False)),
    ],
)
def test_an_outcome_is_of_a_file_in_a_directory_of_the_batch(
    directory: str, path: str, taken: bool
) -> None:
    answer = checked(**outcome(path=path))
    batch = ToCheck((group("/other", "b"), group(directory, "b")))
    assert (verified(batch, answer) is answer) is taken


@pytest.mark.parametrize(
    ("given", "deferred", "large", "taken"),
    [
        (1, 0, 0, True),
        (1, 1, 0, False),  # a file that is alone is checked, however long that takes
        (1, 0, 1, False),
        (2, 1, 1, True),
        (2, 2, 0, True),
        (2, 0, 2, True),
        (2, 2, 1, False),
        (2, 3, 0, False),
        (3, 2, 1, True),
        (3, 2, 2, False),
    ],
)
def test_a_worker_hands_back_at_most_what_it_got(
    given: int, deferred: int, large: int, taken: bool
) -> None:
    batch = ToCheck(tuple(group("/d", f"{n}") for n in range(given)))
    answer = checked()
    if deferred:
        answer.deferred = [group("/d/", *map(str, range(deferred)))]
    answer.large = [group("/d", f"{n}") for n in range(large)]
    assert (verified(batch, answer) is answer) is taken


@pytest.mark.parametrize("field", ["deferred", "large"])
@pytest.mark.parametrize("directory", [b"/e", b"/d\0", b"/d/a", b""])
def test_what_is_handed_back_is_of_the_batch(field: str, directory: bytes) -> None:
    other = msgspec.structs.replace(group("/d", "a"), directory=directory)
    batch = ToCheck((group("/d", "a", "b"), group("/c", "a")))
    assert verified(batch, checked(**{field: [group("/d", "a"), other]})) == FAILED
    if directory == b"/e":
        answer = checked(**{field: [other]})
        assert verified(ToCheck((*batch.groups, group("/e", "a"))), answer) is answer


def test_an_answer_is_of_the_kind_of_its_batch() -> None:
    files, directories = ToCheck((group("/d", "a"),)), ToList((Start(b"/d"),))
    failed = Failed("\x1b", None)
    assert verified(files, Listed([], [], [])) == FAILED
    assert verified(directories, checked()) == FAILED
    assert verified(directories, Listed([], [], [])) == Listed([], [], [])
    assert verified(files, failed) is verified(directories, failed) is failed


def listed(*rest: Start, **fields: Any) -> Listed:
    return msgspec.structs.replace(Listed([], [], [*rest]), **fields)


@pytest.mark.parametrize(
    ("start", "path", "taken"),
    [
        (Start(b"/t", verified=True), b"/t", True),
        (Start(b"/t", verified=True), b"/t/a", True),
        (Start(b"/t/", verified=True), b"/t/a", True),
        (Start(b"/t", verified=True), b"/ta", False),
        (Start(b"/t", verified=True), b"/", False),
        (Start(b"/", verified=True), b"/a", True),
        (Start(b"t", verified=True), b"t/a", True),
        (Start(b"t", verified=True), b"/t/a", False),
        (Start(b"/t/a"), b"/t/b", True),  # the directory was renamed
        (Start(b"/t/a"), b"/t", True),
        (Start(b"/t/a"), b"/u", False),
        (Start(b"/t/a"), b"/t/a\0", False),
    ],
)
def test_what_is_listed_is_below_the_directories_of_the_batch(
    start: Start, path: bytes, taken: bool
) -> None:
    """The parent of an unverified directory is one that the worker has listed."""
    one = msgspec.structs.replace(group("/", "a"), directory=path)
    unread = Outcome(Kind.UNREAD, os.fsdecode(path))
    batch = ToList((Start(b"/other/x"), start))
    for answer in (
        listed(groups=[one]),
        listed(outcomes=pack_outcomes([unread])),
        listed(Start(path, is_wide=True)),
    ):
        assert verified(batch, answer) == (answer if taken else FAILED)


@pytest.mark.parametrize(
    ("start", "path", "taken"),
    [
        (Start(b"/t", verified=True), b"/t/a", "any"),
        (Start(b"/t", verified=True), b"/t/a/b", "any"),
        (Start(b"/t", verified=True), b"/t", "none"),
        (Start(b"/t/a"), b"/t/a", "border"),
        (Start(b"/t/a"), b"/t/b", "border"),
        (Start(b"/t/a"), b"/t/a/b", "any"),
        (Start(b"/t/a"), b"/t/b/c", "any"),
        (Start(b"/t/a"), b"/t", "none"),
    ],
)
@pytest.mark.parametrize("how", ["later", "border"])
def test_a_directory_is_handed_back_once(start: Start, path: bytes, how: str, taken: str) -> None:
    """A directory on another file system is verified, and then handed back no more."""
    answer = listed(Start(path, is_border=how == "border"))
    assert verified(ToList((start,)), answer) == (answer if taken in (how, "any") else FAILED)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ({}, True),
        ({"count": 1}, False),
        ({"count": 3}, False),
        ({"names": b"a\0b\0"}, False),
        ({"file_system": -1}, False),
        ({"file_system": MOST}, True),
        ({"inodes": bytes(16)}, True),
        ({"inodes": bytes(15)}, False),
        ({"inodes": bytes(8)}, False),
        ({"signs": bytes(48)}, True),
        ({"signs": bytes(24)}, False),
    ],
)
def test_names_have_their_number(names: dict[str, Any], taken: bool) -> None:
    one = msgspec.structs.replace(group("/t", "a", "b"), **names)
    answer = listed(groups=[group("/t", "c"), one])
    assert verified(ToList((Start(b"/t", verified=True),)), answer) == (answer if taken else FAILED)
    files = checked(deferred=[one])
    assert verified(ToCheck((group("/t", "a", "b", "c"),)), files) == (files if taken else FAILED)


def test_outcomes_of_a_listing_have_reasons_of_one_line() -> None:
    outcomes = pack_outcomes([Outcome(Kind.UNREAD, "/t/a", reason="\n")])
    assert verified(ToList((Start(b"/t", verified=True),)), listed(outcomes=outcomes)) == FAILED


@pytest.mark.parametrize("most_names", [1, 99])
@pytest.mark.parametrize("given", ["a", "b a", "a b"])
def test_what_a_worker_finds_makes_sense(tmp_path: Path, given: str, most_names: int) -> None:
    """Another file system may begin at the first directory of a batch."""
    tree = write_tree(tmp_path, {"a/x": b"", "b/c/y": b"", "d/z": b""})
    points = frozenset({f"{tree}/a"})
    starts = [Start(os.fsencode(tree / name)) for name in given.split()]
    found = Errand("/", points, [], most_names=most_names).run(starts)
    assert os.fsencode(tree / "a") in [start.path for start in found.rest]
    assert verified(ToList(tuple(starts)), found) is found
