"""One `config.toml` for clients of several versions: tables that apply from a version on.

An unknown key is an error for two reasons. It may be misspelt; and an older client that ignores it
may do more than intended, for example apply a rule of a policy without the key that limits the
rule. So the file itself says which parts are not for older clients. For a client of 0.3 or later,
everything below `[since."0.3"]` counts as if it were at the top of the file, and outranks it; an
earlier client ignores it. Below it an unknown key is an error, too.
"""

from __future__ import annotations

import re
from typing import Any

from hashclient.configfile.faults import Fault, wrong_type
from hashclient.system.log import Log

_log = Log("config")

KEY = "since"

Version = tuple[int, int, int]

#: One number alone is no version: TOML reads `[since.0.3]`, without quotes, like that.
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?", re.ASCII)


def parse_version(text: str, *, whole: bool = True) -> Version | None:
    """Return a version as three numbers, None if it is none; a missing number is 0.

    Text after the numbers is ignored, unless `whole` is set.
    """
    found = _VERSION.fullmatch(text) if whole else _VERSION.match(text)
    if found is None:
        return None
    major, minor, patch = (int(number or 0) for number in found.groups())
    return major, minor, patch


def apply_since(document: dict[str, Any], own: str) -> Fault | None:
    """Merge into `document` the parts for a client of version `own`; return notes.

    A later version outranks an earlier one. Tables are merged; any other value, a list included,
    replaces the earlier value.
    """
    tables = document.pop(KEY, {})
    if not isinstance(tables, dict):
        return wrong_type(KEY, "at the top", "tables by version", tables)
    ordered: list[tuple[Version, dict[str, Any]]] = []
    for text, table in tables.items():
        version = parse_version(text)
        if version is None or not isinstance(table, dict):
            return Fault(
                f"a key below [{KEY}] is no table of a version",
                hint=f'write [{KEY}."0.3".scan], say: the version is in quotes',
            )
        ordered.append((version, table))
    mine = parse_version(own, whole=False) or (0, 0, 0)
    for version, table in sorted(ordered, key=lambda pair: pair[0]):
        if KEY in table:
            return Fault(f"[{KEY}] stands below [{KEY}]", hint="write each version at the top")
        if version <= mine:
            _merge(document, table)
        else:
            # This may be intended, or a mistyped version whose tables then apply nowhere.
            _log.info("passed over, for later versions: [%s.%s]", KEY, ".".join(map(str, version)))
    return None


def _merge(into: dict[str, Any], table: dict[str, Any]) -> None:
    for key, value in table.items():
        before = into.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        else:
            into[key] = value
