"""`--where`: its meaning and its errors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hashclient.core.errors import UsageError
from hashclient.lists.importers.where import parse_where

COLUMNS: dict[str, list[str | None]] = {
    "baseline": ["True", "false", "YES", "n", None, "maybe"],
    "number of submissions": ["1", "3", "10", "-2.5", None, "many"],
    "series name": ["Alpha", "alpha beta", None, "AND", "it's", "b;c"],
}


def chosen(text: str) -> list[int]:
    def column(name: str) -> pa.Array:
        return pa.array(COLUMNS[name], pa.string())

    meant, _ = parse_where(text).choose(column, 6)
    return np.flatnonzero(meant).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Baseline = true", [0, 2]),
        ("baseline=FALSE", [1, 3]),
        ("Baseline != true", [1, 3]),
        ("Baseline != false", [0, 2]),
        ("'Baseline'=\"true\"", [0, 2]),
        ("Baseline = maybe", [5]),
        ("Baseline = ''", [4]),
        ("Baseline != ''", [0, 1, 2, 3, 5]),
        ("Number of submissions >= 3", [1, 2]),
        ("Number  of submissions > 3", [2]),
        ("Number of submissions < 1", [3]),
        ("Number of submissions <= -2.5", [3]),
        ("Number of submissions = 10", [2]),
        ("Series name = alpha beta", [1]),
        ("Series name = 'AND'", [3]),
        ('"Series name" = "it\'s"', [4]),
        ("Series name = 'b;c'", [5]),
        ("Series name != ALPHA", [1, 3, 4, 5]),
        ("Baseline = true AND Number of submissions > 5", [2]),
        ("Baseline = true or Series name = AND_", [0, 2]),
        ("Baseline = true AND Number of submissions > 5 OR Baseline = false", [1, 2, 3]),
        ("Baseline = false OR Baseline = true AND Number of submissions > 5", [1, 2, 3]),
        ("all", [0, 1, 2, 3, 4, 5]),
        (" ALL ", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_which_rows_a_filter_means(text: str, rows: list[int]) -> None:
    assert chosen(text) == rows


@pytest.mark.parametrize(
    ("text", "column"),
    [("Baseline = true", "baseline"), ("Number of submissions < 3", "number of submissions")],
)
def test_cells_that_cannot_be_compared_are_reported(text: str, column: str) -> None:
    _, unclear = parse_where(text).choose(lambda name: pa.array(COLUMNS[name]), 6)
    assert {name: np.flatnonzero(rows).tolist() for name, rows in unclear.items()} == {column: [5]}


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "AND", "a", "a =", "= a", "a = b c = d", "a == b", "a = b AND", "OR a = b"),
        *("a = b AND OR c = d", "a < b", "a > ''", "a = 'b", 'a = "b', "a ! b", "(a = b)  = c = d"),
        *("a >= 1e5", "a > 0x10", "a < 1_000", "a = b NOT c = d =", "all = "),
        *("x" * 3000, " OR ".join(["a = b"] * 51)),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--where"):
        parse_where(text)


def test_no_expression_is_evaluated_as_code() -> None:
    assert parse_where("__import__.system() = exit()").columns() == ("__import__.system()",)
