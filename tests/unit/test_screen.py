"""Digests that must not be published: of the empty file and of known good files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import pytest

from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm
from hashclient.lists.empty_file import EMPTY_DIGESTS
from hashclient.lists.importers.importfile import Reading
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch
from hashclient.provider.screen import without_empty_file, without_known_good

CONTENTS = [b"benign %d" % n for n in range(20)]


def hexed(algorithm: str, content: bytes) -> str:
    return hashlib.new(algorithm, content).hexdigest()


def batches(text: str, *, name: str = "list") -> Iterator[tuple[str, DigestBatch]]:
    for batch in read_digests(io.BytesIO(text.encode()), name):
        yield name, batch


def lines_of(found: Iterator[tuple[str, DigestBatch]]) -> list[int]:
    return [int(line) for _, batch in found for line in batch.lines]


@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_empty_file_is_skipped_where_something_may_be(algorithm: Algorithm) -> None:
    empty = EMPTY_DIGESTS[algorithm].hex()
    text = f"{empty}\n{hexed('md5', CONTENTS[0])}\n{empty}\n"
    reading = Reading(max_bad=2)
    assert lines_of(without_empty_file(batches(text), reading)) == [2]
    assert reading.remarks.skipped == [
        (f"list:{line}", "has a digest of the empty file") for line in (1, 3)
    ]
    with pytest.raises(UsageError, match=r"list:3: .*more than 1 rows"):
        list(without_empty_file(batches(text), Reading(max_bad=1)))
    # The reader keeps rows of the empty file, because publishing counts them and refuses the list.
    assert lines_of(without_empty_file(batches(text), Reading())) == [1, 2, 3]


def test_known_good_files_are_skipped_by_any_of_their_digests() -> None:
    rows = [f"{hexed('md5', c)},{hexed('sha1', c)}" for c in CONTENTS]
    text = "md5,sha1\n" + "".join(f"{row}\n" for row in [*rows, *rows])
    good = [
        ("one", io.BytesIO(f"{hexed('md5', CONTENTS[3])}\n{hexed('md5', b'else')}\n".encode())),
        ("two", io.BytesIO(f"{hexed('sha1', CONTENTS[5])}  name\n".encode())),
        ("none", io.BytesIO(f"{hexed('sha256', CONTENTS[7])}\n".encode())),
    ]
    reading = Reading(max_bad=4)
    kept = lines_of(without_known_good(batches(text), good, reading))
    gone = [5, 7, 25, 27]
    assert kept == [line for line in range(2, 42) if line not in gone]
    assert [place for place, _ in reading.remarks.skipped] == [f"list:{line}" for line in gone]


def test_a_known_good_file_is_refused_where_nothing_may_be_skipped() -> None:
    text = f"{hexed('md5', CONTENTS[0])}\n"
    with pytest.raises(UsageError, match="list:1: has a digest of a known good file"):
        list(without_known_good(batches(text), [("good", io.BytesIO(text.encode()))], Reading()))


def test_digests_that_begin_alike_are_not_the_same() -> None:
    one, other = "ab" * 8 + "cd" * 8, "ab" * 8 + "ef" * 8
    good = [("good", io.BytesIO(f"{other}\n".encode()))]
    assert lines_of(without_known_good(batches(f"{one}\n{one}\n"), good, Reading())) == [1, 2]
    good = [("good", io.BytesIO(f"{other}\n{one}\n".encode()))]
    reading = Reading(max_bad=2)
    assert lines_of(without_known_good(batches(f"{one}\n{other}\n"), good, reading)) == []
