"""Names of categories: translates the names in files to the names on lists.

Bodies number and name their categories differently, country by country. A name is only brought into
the form that a list needs ('Category 1' becomes `category-1`). A map written by the operator says
what a category means, and whether its files belong on a list.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hashclient.errors import UsageError
from hashclient.lists.wire import is_category
from hashclient.system.files import read_regular
from hashclient.system.text import printable

MAX_MAP_BYTES = 1 << 20

_BLANKS = re.compile(r"\s+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_HINT = (
    'a line of it is: "Category 1" = "name-on-the-list", or "Category 0" = false to leave it out'
)


def category_name(text: str) -> str:
    """Return a name in the form for lists: lower case, `-` for blanks.

    Characters that a name must not have stay, so that dropping them cannot make two names equal.
    Only names that differ in case or in the width of blanks become equal.
    """
    return _BLANKS.sub("-", text.strip()).lower()


def numbered(number: str) -> str:
    """Return the name of a category that is only a number; other names stay as they are."""
    return f"category-{int(number)}" if _NUMBER.fullmatch(number) else number


class CategoryMap(msgspec.Struct, frozen=True):
    """The names on the list for a file's categories; None leaves their rows out."""

    names: Mapping[str, str | None]

    def __contains__(self, text: object) -> bool:
        """Return whether the map has a category, in whatever form."""
        return isinstance(text, str) and numbered(category_name(text)) in self.names

    def name_of(self, text: str) -> str | None:
        """Return the name on the list, or None for rows to leave out; KeyError if unknown."""
        return self.names[numbered(category_name(text))]


def load_category_map(path: Path) -> CategoryMap:
    """Read a map from a TOML file of one table: names in the file, names on the list or false.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    shown = printable(path)
    try:
        document = tomllib.loads(read_regular(path, MAX_MAP_BYTES).decode())
    except OSError as error:
        raise UsageError(
            f"cannot read the map of categories: {shown}: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not a map of categories: {shown}", hint=_HINT) from error
    names: dict[str, str | None] = {}
    for key, value in document.items():
        name = numbered(category_name(key))
        if not (value is False or (isinstance(value, str) and is_category(value))):
            raise UsageError(
                f"{shown}: {printable(key[:40])}: not the name of a category, nor false", hint=_HINT
            )
        if name in names:
            raise UsageError(f"{shown}: {printable(key[:40])}: is named twice", hint=_HINT)
        names[name] = value or None
    if not names:
        raise UsageError(f"{shown}: the map of categories is empty", hint=_HINT)
    return CategoryMap(names)
