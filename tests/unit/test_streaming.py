"""A stream: it is read once, to its end, and counts as one input."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from hashclient.containers.limits import Options
from hashclient.core.digests import CHUNK_BYTES, StreamDigester
from hashclient.core.kinds import Algorithm, Kind
from hashclient.index.open_lists import OpenLists
from hashclient.scan.check import streaming
from hashclient.scan.check.members import Members
from hashclient.scan.check.streaming import Stream, judge_streams
from hashclient.scan.values.work import Advance, Result
from tests.kit import csv_of
from tests.unit.test_checker import lists_of, zipped

LISTED = b"listed"


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    entries = {"e-1": LISTED, "e-2": b"other"}
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of(entries))


def check(
    lists: OpenLists, path: Path, *, keep_clean: bool = False, opens: bool = False
) -> tuple[list[Advance], Result]:
    """Return the progress and the result of a stream."""
    with contextlib.ExitStack() as stack:
        members = None
        if opens:
            members = stack.enter_context(
                contextlib.closing(Members(lists.judge(), Options(), keep_clean=keep_clean))
            )
        fd = os.open(path, os.O_RDONLY)
        stack.callback(os.close, fd)
        stream = Stream(fd, "name").check(lists.judge(), members, keep_clean=keep_clean)
        *progress, result = stream
    assert isinstance(result, Result)
    assert all(isinstance(one, Advance) for one in progress)
    return progress, result  # type: ignore[return-value]


@pytest.mark.parametrize("keep_clean", [False, True])
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_stream_is_one_input_and_its_progress_is_told(
    lists: OpenLists, tmp_path: Path, size: int, keep_clean: bool
) -> None:
    (tmp_path / "s").write_bytes(b"x" * size)
    progress, result = check(lists, tmp_path / "s", keep_clean=keep_clean)
    counts = [min(CHUNK_BYTES, size - at) for at in range(0, size, CHUNK_BYTES)]
    assert progress == [Advance(), *(Advance(count, "stdin:name") for count in counts)]
    assert result.reported == Advance(size, "stdin:name")
    assert (result.files_read, result.clean, result.bytes_read) == (1, 1, size)
    told = [(one.kind, one.path, one.size, one.is_stream) for one in result.outcomes]
    assert told == ([(Kind.CLEAN, "name", size, True)] if keep_clean else [])


def test_a_listed_stream_is_a_match_and_no_clean_one(lists: OpenLists, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(LISTED)
    _, result = check(lists, tmp_path / "s")
    (match,) = result.outcomes
    assert (match.kind, match.path, match.size, match.is_stream) == (Kind.MATCH, "name", 6, True)
    assert set(match.digests) == set(match.tags) == set(Algorithm)
    assert (result.files_read, result.clean) == (1, 0)


def test_a_container_is_a_stream_and_its_members(lists: OpenLists, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(zipped(LISTED, b"benign"))
    _, result = check(lists, tmp_path / "s", opens=True)
    assert [(one.kind, one.members) for one in result.outcomes] == [(Kind.MATCH, ("0",))]
    assert (result.clean, result.members) == (2, 2)
    _, result = check(lists, tmp_path / "s")
    assert (result.clean, result.members, result.outcomes) == (1, 0, [])


def test_a_stream_that_breaks_off_is_unread(
    lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").write_bytes(LISTED)
    reads = iter([6])

    def read(_fd: int, buffer: memoryview) -> int:
        for count in reads:
            buffer[:count] = LISTED
            return count
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(streaming, "read_into", read)
    progress, result = check(lists, tmp_path / "s", opens=True)
    (outcome,) = result.outcomes
    assert (outcome.kind, outcome.path, outcome.is_stream) == (Kind.UNREAD, "name", True)
    assert outcome.reason == "broken"
    assert (result.files_read, result.clean, result.bytes_read) == (0, 0, 6)
    assert len(progress) == 2


@pytest.mark.parametrize("contents", [[], [LISTED], [b"LISTED", LISTED, b"other", LISTED, b""]])
def test_streams_that_are_judged_together_have_their_own_outcomes(
    lists: OpenLists, contents: list[bytes]
) -> None:
    judge, streams = lists.judge(), []
    for number, data in enumerate(contents):
        digester = StreamDigester(judge.plan(None))
        digester.update(memoryview(data))
        streams.append((f"s{number}", digester))
    entries = {LISTED: ["e-1"], b"other": ["e-2"]}
    outcomes = judge_streams(judge, streams)
    assert [(one.path, one.size, [hit.entry for hit in one.hits]) for one in outcomes] == [
        (f"s{number}", len(data), entries.get(data, [])) for number, data in enumerate(contents)
    ]
    assert all(bool(one.tags) == bool(one.hits) for one in outcomes)
    assert all(set(one.digests) == set(Algorithm) for one in outcomes if one.hits)
