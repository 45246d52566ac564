"""Results of commands: JSON for programs, tables and facts for people."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient.cli.app import MOST_SHOWN, App, shortened
from hashclient.cli.output import facts, json_text, table
from hashclient.core.errors import ExitCode
from hashclient.core.kinds import MatchState


class Inner(msgspec.Struct):
    """A nested part of a result."""

    at: datetime


class Result(msgspec.Struct, rename={"list_name": "list"}):
    """A result whose fields have other names in JSON."""

    list_name: str
    parts: tuple[Inner, ...]
    code: ExitCode = ExitCode.STATE


EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            Result("base", (Inner(datetime(2026, 1, 31, 14, tzinfo=EAST)),)),
            '{"list": "base", "parts": [{"at": "2026-01-31T12:00:00Z"}], "code": 8}',
        ),
        ({"z": None, "a": Path("/srv/x")}, '{"z": null, "a": "/srv/x"}'),
        ({"state": MatchState.FOUND, MatchState.GONE: 1}, '{"state": "found", "gone": 1}'),
        # Names of files may have bytes that are not UTF-8, and letters beyond ASCII.
        ({"name": "a\udcffü"}, '{"name": "a\\udcff\\u00fc"}'),
        ({"at": datetime(2026, 1, 31, 12, 0, 0, 5, UTC)}, '{"at": "2026-01-31T12:00:00.000005Z"}'),
    ],
)
def test_json_has_structs_times_and_paths_as_text(value: Any, expected: str) -> None:
    assert json_text(value) == expected
    assert json.loads(json_text(value, indent=2)) == json.loads(expected)
    assert json.loads(json_text(value, compact=True)) == json.loads(expected)


def test_what_json_cannot_hold_is_a_bug_and_no_text() -> None:
    with pytest.raises((TypeError, AttributeError)):
        json_text({"key": b"secret"})


def test_columns_of_a_table_are_aligned_and_no_line_ends_with_a_space() -> None:
    assert list(table([["NAME", "N"], ["longer", "1"], ["x", ""]])) == [
        "NAME    N",
        "longer  1",
        "x",
    ]
    assert list(table([])) == []


def test_facts_leave_out_what_is_not_known() -> None:
    found = facts([("size", 0), ("hold", None), ("hint", ""), ("state", MatchState.FOUND)], 6)
    assert list(found) == ["  size   0", "  state  found"]


@pytest.mark.parametrize("count", [0, MOST_SHOWN, MOST_SHOWN + 1_000])
def test_of_very_many_lines_the_first_are_shown_and_the_others_counted(count: int) -> None:
    shown = list(shortened([f"line {number}" for number in range(count)], "`there`"))
    assert len(shown) == min(count, MOST_SHOWN + 1)
    assert (shown[-1:] == ["  and 1,000 more: `there`"]) is (count > MOST_SHOWN)


@pytest.mark.parametrize(
    ("output_format", "text", "out", "err"),
    [
        ("json", ["a line"], '{"items": []}\n', ""),
        ("json", [], '{"items": []}\n', ""),
        ("text", "a line", "a line\n", ""),
        ("text", ["one", "two"], "one\ntwo\n", ""),
        ("text", [], "", "nothing is there\n"),
    ],
)
def test_a_result_is_a_document_or_lines_or_a_message_that_there_is_nothing(
    output_format: str, text: Any, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App(lambda: pytest.fail("no settings are needed"), 0)
    app.show(output_format, {"items": []}, text, nothing="nothing is there")
    assert tuple(capsys.readouterr()) == (out, err)
