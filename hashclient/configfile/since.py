"""One `config.toml` for clients of several versions: tables that count from a version on.

An unknown key is an error, since it may be a misspelt one, and since an older client that passes
over a key that it does not know may do more than was meant: a rule of a policy without the key that
limits it, say. So it is the file that says what is not for older clients: all below
`[since."0.3"]` is as if it stood at the top, for a client of 0.3 or later, and outranks that; an
earlier one passes over it. Within it an unknown key is an error as anywhere else.
"""

from __future__ import annotations

import re
from typing import Any

from hashclient.configfile.faults import Fault, wrong_type
from hashclient.system.log import Log

_log = Log("config")

KEY = "since"

Version = tuple[int, int, int]

#: One number alone is none: it is what TOML makes of `[since.0.3]`, without quotes.
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?", re.ASCII)


def parse_version(text: str, *, whole: bool = True) -> Version | None:
    """Return a version as three numbers, None if it is none; what is missing is 0.

    Unless it has to be that as a `whole`, what comes after the numbers is passed over.
    """
    found = _VERSION.fullmatch(text) if whole else _VERSION.match(text)
    if found is None:
        return None
    major, minor, patch = (int(number or 0) for number in found.groups())
    return major, minor, patch


def apply_since(document: dict[str, Any], own: str) -> Fault | None:
    """Merge into `document` what counts for a client of version `own`; return what is wrong.

    A later version outranks an earlier one. Tables are merged; of anything else, lists included,
    the value of the later one is all that counts.
    """
    tables = document.pop(KEY, {})
    if not isinstance(tables, dict):
        return wrong_type(KEY, "at the top", "tables by version", tables)
    ordered: list[tuple[Version, dict[str, Any]]] = []
    for text, table in tables.items():
        version = parse_version(text)
        if version is None or not isinstance(table, dict):
            return Fault(
                f"what is below [{KEY}] is no table of a version",
                hint=f'write [{KEY}."0.3".scan], say: the version of hashclient is in quotes',
            )
        ordered.append((version, table))
    mine = parse_version(own, whole=False) or (0, 0, 0)
    for version, table in sorted(ordered, key=lambda pair: pair[0]):
        if KEY in table:
            return Fault(f"[{KEY}] stands below [{KEY}]", hint="write each version at the top")
        if version <= mine:
            _merge(document, table)
        else:
            # Meant so, or a version that was mistyped: then what it says is done nowhere.
            _log.info("passed over, for later versions: [%s.%s]", KEY, ".".join(map(str, version)))
    return None


def _merge(into: dict[str, Any], table: dict[str, Any]) -> None:
    for key, value in table.items():
        before = into.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        else:
            into[key] = value
