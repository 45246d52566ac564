"""`--where`: chooses the rows of a file by the values in their columns.

    Baseline = true AND Number of submissions >= 3 OR Series name = 'A series'

A condition is COLUMN OP VALUE, where OP is `=`, `!=`, `<`, `<=`, `>` or `>=`. AND binds tighter
than OR; brackets are not allowed. The text `all` chooses every row. Upper and lower case are equal
in names and values; names and values are quoted with ' or " if they contain an operator, a quote,
AND or OR. If the value of a condition is `true` or `false`, cells are read as yes or no. If the
operator of a condition is `<`, `<=`, `>` or `>=`, cells are read as numbers. A row is unusable if a
condition cannot read the cell as yes or no, or as a number. Of all conditions, an empty cell
fulfils only `= ''`. The text of `--where` is never evaluated as code.

Organisations number and name their categories differently, country by country. The name of a
category is only converted to the form that a list needs ('Category 1' becomes `category-1`). A map
of categories, written by the operator, says what a category means, and whether its files belong on
a list.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.errors import UsageError
from hashclient.lists.wire import is_category
from hashclient.system.files import read_regular
from hashclient.system.text import printable

if TYPE_CHECKING:
    import pyarrow as pa


Mask = npt.NDArray[np.bool_]

MAX_CHARS = 2000
MAX_CONDITIONS = 50
TRUE = ("true", "yes", "y", "t", "1")
FALSE = ("false", "no", "n", "f", "0")
#: A number with at most fifteen digits before the point, because a float represents fifteen digits
#: exactly.
NUMBER = r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?"

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>'[^']*'|"[^"]*")|(?P<op>[<>!]=|[=<>])|(?P<word>[^\s'"=<>!]+))"""
)
_HINT = "such as 'Baseline = true AND Number of submissions >= 3', or `all`"


class Condition(msgspec.Struct, frozen=True):
    """A comparison of a column with a value; `column` and `value` are in lower case."""

    column: str
    op: str
    value: str

    @property
    def is_truth(self) -> bool:
        """Whether the condition reads cells as yes or no."""
        return self.value in ("true", "false") and self.op in ("=", "!=")


class Where(msgspec.Struct, frozen=True):
    """A filter that chooses a row if all conditions of one of the `alternatives` are true."""

    alternatives: tuple[tuple[Condition, ...], ...]

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns in the conditions, in lower case, each once."""
        return tuple(dict.fromkeys(c.column for some in self.alternatives for c in some))

    def choose(self, column: Callable[[str], pa.Array], count: int) -> tuple[Mask, dict[str, Mask]]:
        """Return which of `count` rows are chosen, and which rows have an unusable cell.

        `column` returns the texts of a column, with None for an empty cell. The second value maps
        the name of a column to the rows whose cells have the wrong type for a condition.
        """
        meant = np.zeros(count, np.bool_)
        unclear: dict[str, Mask] = {}
        for conditions in self.alternatives:
            all_hold = np.ones(count, np.bool_)
            for condition in conditions:
                holds, wrong = _compare(condition, column(condition.column))
                all_hold &= holds
                if wrong.any():
                    before = unclear.get(condition.column, np.zeros(count, np.bool_))
                    unclear[condition.column] = before | wrong
            meant |= all_hold
        return meant, unclear


def parse_where(text: str) -> Where:
    """Parse a filter.

    Raises:
        UsageError: the text is not a filter, or is too long.
    """
    if len(text) > MAX_CHARS:
        raise UsageError(f"--where is longer than {MAX_CHARS} characters")
    if text.strip().lower() == "all":
        return Where(((),))
    alternatives: list[tuple[Condition, ...]] = []
    conditions: list[Condition] = []
    part: list[tuple[str, str]] = []
    for kind, token in [*_tokens(text), ("word", "OR")]:
        joins = kind == "word" and token.upper() in ("AND", "OR")
        if not joins:
            part.append((kind, token))
            continue
        conditions.append(_condition(part))
        part = []
        if token.upper() == "OR":
            alternatives.append(tuple(conditions))
            conditions = []
    if sum(map(len, alternatives)) > MAX_CONDITIONS:
        raise UsageError(f"--where has more than {MAX_CONDITIONS} conditions")
    return Where(tuple(alternatives))


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise UsageError(f"--where is not understood at character {at + 1}", hint=_HINT)
        kind = str(found.lastgroup)
        token = found[kind]
        tokens.append((kind, token[1:-1] if kind == "quoted" else token))
        at = found.end()
    return tokens


def _condition(part: list[tuple[str, str]]) -> Condition:
    places = [n for n, (kind, _) in enumerate(part) if kind == "op"]
    if len(places) != 1 or not 0 < places[0] < len(part) - 1:
        raise UsageError("--where has a part that is not COLUMN OP VALUE", hint=_HINT)
    place = places[0]
    column = " ".join(token for _, token in part[:place]).strip().lower()
    value = " ".join(token for _, token in part[place + 1 :]).strip().lower()
    op = part[place][1]
    if op not in ("=", "!=") and re.fullmatch(NUMBER, value) is None:
        raise UsageError(f"--where compares with {op} a value that is no number", hint=_HINT)
    return Condition(column, op, value)


def _compare(condition: Condition, cells: pa.Array) -> tuple[Mask, Mask]:
    """Return which cells fulfil a condition, and which cells have the wrong type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    op, value = condition.op, condition.value
    cells = pc.fill_null(pc.utf8_lower(pc.utf8_trim_whitespace(cells)), "")
    filled = _mask(pc.not_equal(cells, ""))
    if condition.is_truth:
        yes = _mask(pc.is_in(cells, pa.array(TRUE)))
        no = _mask(pc.is_in(cells, pa.array(FALSE)))
        holds = yes if (value == "true") == (op == "=") else no
        return holds, filled & ~yes & ~no
    if op in ("=", "!="):
        same = _mask(pc.equal(cells, value))
        if value:
            return (same if op == "=" else filled & ~same), np.zeros(len(cells), np.bool_)
        return (~filled if op == "=" else filled), np.zeros(len(cells), np.bool_)
    is_number = _mask(pc.match_substring_regex(cells, f"^{NUMBER}$"))
    numbers = pc.if_else(pa.array(is_number), cells, "0").cast(pa.float64()).to_numpy()
    wanted = float(value)
    compared = {
        "<": numbers < wanted,
        "<=": numbers <= wanted,
        ">": numbers > wanted,
        ">=": numbers >= wanted,
    }[op]
    return is_number & compared, filled & ~is_number


def _mask(array: pa.Array) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return mask


MAX_MAP_BYTES = 1 << 20

_BLANKS = re.compile(r"\s+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_MAP_HINT = (
    'a line of it is: "Category 1" = "name-on-the-list", or "Category 0" = false to leave it out'
)


def category_name(text: str) -> str:
    """Return the name of a category in the form for lists: lower case, with `-` for white space.

    Characters that lists forbid are kept, because dropping these characters could make two names
    equal. Two names become equal only if they differ in case or in white space.
    """
    return _BLANKS.sub("-", text.strip()).lower()


def numbered(number: str) -> str:
    """Return `category-N` for a category whose name is the number N; other names do not change."""
    return f"category-{int(number)}" if _NUMBER.fullmatch(number) else number


class CategoryMap(msgspec.Struct, frozen=True):
    """The name on the list for each category in a file.

    None means that rows of this category are left out.
    """

    names: Mapping[str, str | None]

    def __contains__(self, text: object) -> bool:
        """Return whether the map has a category, in any spelling that `category_name` unifies."""
        return isinstance(text, str) and numbered(category_name(text)) in self.names

    def name_of(self, text: str) -> str | None:
        """Return the name on the list, or None if rows of the category are left out.

        A category that the map does not have raises KeyError.
        """
        return self.names[numbered(category_name(text))]


def load_category_map(path: Path) -> CategoryMap:
    """Read a map of categories from a TOML file: names in files, and names on the list.

    Raises:
        UsageError: the file cannot be read, or is not a map of categories.
    """
    shown = printable(path)
    try:
        document = tomllib.loads(read_regular(path, MAX_MAP_BYTES).decode())
    except OSError as error:
        raise UsageError(
            f"cannot read the map of categories: {shown}: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not a map of categories: {shown}", hint=_MAP_HINT) from error
    names: dict[str, str | None] = {}
    for key, value in document.items():
        name = numbered(category_name(key))
        if not (value is False or (isinstance(value, str) and is_category(value))):
            raise UsageError(
                f"{shown}: {printable(key[:40])}: not the name of a category, nor false",
                hint=_MAP_HINT,
            )
        if name in names:
            raise UsageError(f"{shown}: {printable(key[:40])}: occurs twice", hint=_MAP_HINT)
        names[name] = value or None
    if not names:
        raise UsageError(f"{shown}: the map of categories is empty", hint=_MAP_HINT)
    return CategoryMap(names)
