"""The format csv: its rows, and that a spreadsheet takes no cell for a formula."""

from __future__ import annotations

import base64
import csv
import io
import os
from datetime import UTC, datetime

import pytest

from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import Acted, Handled, Hit, MatchRef
from hashclient.formats.cells import csv_row
from hashclient.formats.csv import CsvFormatter
from hashclient.formats.registry import Context
from tests.outcomes import handled

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
MATCH = Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA1), complete=True)
OTHER = Hit("local", "-2", "other", 1, (Algorithm.SHA256,), complete=False)
RECORDED = MatchRef("3kdz7wnq2m", MatchState.FOUND, NOW, NOW)
HEADER = (
    "kind,path,path_b64,size,reason,id,state,in_place,first_seen,last_seen,list,entry,category,"
    "generation,algorithms,complete,quarantine,report,actions,container,evidence,host"
)


def rows(outcome: Handled, *, show_digests: bool = False) -> list[dict[str, str]]:
    written = CsvFormatter(Context("scan", NOW, show_digests))
    text = f"{written.begin()}\n{written.outcome(outcome)}\n"
    return list(csv.DictReader(io.StringIO(text), strict=True))


def test_the_header_is_always_there() -> None:
    written = CsvFormatter(Context("scan", NOW))
    assert written.begin() == HEADER
    assert (
        CsvFormatter(Context("scan", NOW, show_digests=True)).begin() == f"{HEADER},md5,sha1,sha256"
    )


def test_a_row_is_an_entry_that_was_hit() -> None:
    acted = (
        Acted(Action.QUARANTINE, done=True, detail="quarantined"),
        Acted(Action.REPORT, done=None, detail="would be reported to police, soon"),
    )
    outcome = handled(Kind.MATCH, "a,b", 5, hits=(MATCH, OTHER), record=RECORDED, acted=acted)
    seen = "2026-01-02T03:04:00Z"
    file = f'match,"a,b",,5,,3kdz7wnq2m,found,yes,{seen},{seen}'
    done = 'yes,planned,"quarantined; would be reported to police, soon"'
    assert CsvFormatter(Context("scan", NOW)).outcome(outcome).split("\n") == [
        f"{file},baseline,e-1,synthetic,3,md5 sha1,yes,{done},,,",
        f"{file},local,'-2,other,1,sha256,no,{done},,,",
    ]


def test_an_outcome_without_an_entry_is_a_row() -> None:
    (row,) = rows(handled(Kind.UNREAD, "a", reason="gone"))
    assert {name: cell for name, cell in row.items() if cell} == {
        "kind": "unread",
        "path": "a",
        "reason": "gone",
    }


def test_digests_have_their_own_columns() -> None:
    digests = {Algorithm.SHA1: b"\1" * 20}
    (row,) = rows(handled(Kind.CLEAN, "a", 1, digests=digests), show_digests=True)
    assert (row["md5"], row["sha1"], row["sha256"]) == ("", "01" * 20, "")


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        (b"=HYPERLINK(1)", "'=HYPERLINK(1)"),
        (b"+1", "'+1"),
        (b"-1", "'-1"),
        (b"@SUM(1)", "'@SUM(1)"),
        ("\uff1d1".encode(), "'\uff1d1"),
        (b"\t=1", "\\x09=1"),
        (b"\r=1", "\\x0d=1"),
        (b"a\n=1", "a\\x0a=1"),
        (b"a;=1", "a\\x3b=1"),
        (b'a; "=1', 'a\\x3b "=1'),
        (b"a\\b", "a\\\\b"),
        (b"\xf8", "\\xf8"),
    ],
)
def test_a_path_that_had_to_change_is_there_in_base64_too(path: bytes, cell: str) -> None:
    (row,) = rows(handled(Kind.UNREAD, os.fsdecode(path), reason="=gone"))
    assert row["path"] == cell
    assert base64.b64decode(row["path_b64"].removeprefix("'")) == path
    assert not row["path_b64"].startswith("+")
    assert row["reason"] == "'=gone"


@pytest.mark.parametrize("path", ["a", "a;b", "a=b;c", "'=1", "a b", 'a"b', "grün"])
def test_a_path_that_did_not_stands_alone(path: str) -> None:
    (row,) = rows(handled(Kind.UNREAD, path, reason="gone"))
    assert (row["path"], row["path_b64"]) == (path, "")


def test_a_row_of_figures_has_no_formula_and_no_line_end_in_a_text() -> None:
    row = csv_row(["-1", "=1+1", "a\nb", "x,y", None, -1, 0.5])
    assert row == "'-1,'=1+1,a\\x0ab,\"x,y\",,-1,0.5"
