"""Report formats: pure functions from outcomes and summaries to text.

A format is a `Formatter`; `FORMATS` names them all, and `formatter` makes one. None of them does
I/O, knows a clock, shows content, or shows digests unless it is told to.

To add one: a module here with a class, a row in `FORMATS`, a section of `docs/formats.md`, and a
reader in `tests/contract/readers.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from hashclient.core.model import Handled, Invocation
    from hashclient.core.verdict import Summary


class Context(NamedTuple):
    """What a report is of: the command, when it ran (in UTC), and whether digests are shown.

    `about` says where, by whom and for what it was called, where that is known.
    """

    command: str
    now: datetime
    show_digests: bool = False
    about: Invocation | None = None


class Formatter(Protocol):
    """How one report is written: each method returns text without its last line end, or None.

    They are called in this order: `begin`, `outcome` for each outcome, `end`.
    """

    def begin(self) -> str | None:
        """Return what comes before the first outcome."""

    def outcome(self, handled: Handled) -> str | None:
        """Return what is written of one outcome when it is found; the rest comes with `end`."""

    def end(self, summary: Summary | None) -> str | None:
        """Return what comes last; there is no summary where no run is reported."""


#: Name of a format to the module and the class that writes it, the default first. A module is
#: imported when it is used. `docs/formats.md` says what each is for.
FORMATS: Mapping[str, tuple[str, str]] = {
    "text": ("hashclient.formats.text", "TextFormatter"),
    "jsonl": ("hashclient.formats.jsonl", "JsonlFormatter"),
    "csv": ("hashclient.formats.csv", "CsvFormatter"),
    "sarif": ("hashclient.formats.sarif", "SarifFormatter"),
    "ecs": ("hashclient.formats.ecs", "EcsFormatter"),
    "html": ("hashclient.formats.html", "HtmlFormatter"),
}

#: Of these a report is one document; of the others it can go on in another file, begun once more.
DOCUMENTS = frozenset({"sarif", "html"})


def formatter(name: str, context: Context) -> Formatter:
    """Return the formatter called `name`.

    Raises:
        KeyError: there is none of that name.
    """
    module, class_name = FORMATS[name]
    made: Formatter = getattr(importlib.import_module(module), class_name)(context)
    return made
