"""The two formats, line for line."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from hashclient.model import Algorithm, Hit, Kind, ListState, Outcome
from hashclient.formats.jsonl import JsonlFormatter
from hashclient.formats.text import TextFormatter, human_bytes
from hashclient.summary import Summary

MATCH = Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA1), complete=True)
CONFLICT = Hit("local", "e-2", "other", 1, (Algorithm.SHA256,), complete=False)
THEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome(Kind.CLEAN, "a/b", 7), "clean     a/b"),
        (
            Outcome(Kind.MATCH, "a\nb", 7, hits=(MATCH,)),
            "match     a\\x0ab  baseline e-1 (synthetic; md5, sha1 agree)",
        ),
        (
            Outcome(Kind.CONFLICT, "a", 7, hits=(CONFLICT,)),
            "conflict  a  local e-2 (other; sha256 agrees, others do not)",
        ),
        (
            Outcome(Kind.MATCH, "a", 7, hits=(MATCH, CONFLICT)),
            (
                "match     a  baseline e-1 (synthetic; md5, sha1 agree);"
                " local e-2 (other; sha256 agrees, others do not)"
            ),
        ),
        (Outcome(Kind.SKIPPED, "a", reason="named pipe"), "skipped   a  named pipe"),
        (Outcome(Kind.UNREAD, "a", reason="gone"), "unread    a  gone"),
    ],
)
def test_lines_for_people(outcome: Outcome, line: str) -> None:
    assert TextFormatter(show_digests=False).outcome(outcome) == line


def test_digests_for_people_come_last() -> None:
    outcome = Outcome(Kind.CLEAN, "a", 1, digests={Algorithm.SHA1: b"\x01", Algorithm.MD5: b"\x02"})
    assert TextFormatter(show_digests=True).outcome(outcome) == "clean     a  md5=02  sha1=01"


def test_the_summary_for_people() -> None:
    states = (
        ListState("baseline", 3, THEN, fresh=True),
        ListState("local", 1, THEN, fresh=False),
        ListState("old", 2, THEN, fresh=False, in_grace=True),
    )
    summary = Summary(states)
    summary.counts[Kind.CLEAN] = 12_345
    summary.counts[Kind.MATCH] = 1
    summary.files_read, summary.bytes_read, summary.elapsed_s = 12_346, 1_234_567, 2.26
    assert TextFormatter(show_digests=False).summary(summary).split("\n") == [
        "12,346 inputs: 12,345 clean, 1 match, 0 conflict, 0 skipped, 0 unread",
        "read 12,346 files, 1.2 MB, in 2.3 s",
        "list baseline, generation 3, fresh until 2026-01-02 03:04 UTC",
        "list local, generation 1, expired 2026-01-02 03:04 UTC, STALE",
        "list old, generation 2, expired 2026-01-02 03:04 UTC, in its grace period",
        "exit 11: match, and something else needs attention (unread, stale, a failure)",
    ]


def test_a_summary_of_nothing_says_so() -> None:
    lines = TextFormatter(show_digests=False).summary(Summary(())).split("\n")
    assert "there was nothing to check" in lines
    assert lines[-1].startswith("exit 3: ")
    one = Summary(())
    one.counts[Kind.CLEAN] = one.files_read = 1
    lines = TextFormatter(show_digests=False).summary(one).split("\n")
    assert lines[0].startswith("1 input: ")
    assert lines[1].startswith("read 1 file, ")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_550_000, "1.6 MB"),
        (2_000_000_000, "2.0 GB"),
        (7e12, "7.0 TB"),
        (7e15, "7000.0 TB"),
    ],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_paths_in_json_lose_nothing() -> None:
    assert path_fields("grün") == {"path": "grün"}
    assert path_fields(os.fsdecode(b"a\xffb")) == {"path": "a\ufffdb", "path_b64": "Yf9i"}


def test_a_reason_and_an_unknown_size_in_json() -> None:
    outcome = Outcome(Kind.UNREAD, "a", reason="gone")
    line = '{"type": "unread", "path": "a", "size": null, "reason": "gone"}'
    assert JsonlFormatter(show_digests=True).outcome(outcome) == line
