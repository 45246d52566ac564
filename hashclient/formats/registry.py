"""All formats of output, which are pure functions from outcomes and summaries to text.

A format is a class like `Formatter`; `FORMATS` names all formats, and `formatter` makes an object
of a format. Formats do no I/O, read no clock and show no content of files; they show digests only
on request.

To add a format, add a module with a class, a row in `FORMATS`, a section of `docs/formats.md`, and
a reader in `tests/contract/readers.py`.
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
    """What an output is about: the command, its time (in UTC), and whether digests are shown.

    `about`: the place, the user and the paths of the command, if they are known.
    """

    command: str
    now: datetime
    show_digests: bool = False
    about: Invocation | None = None

    @property
    def host(self) -> str | None:
        """The name of the machine for each line of `matches`, whose output has no summary.

        For other commands, the value is None.
        """
        return self.about.host if self.about is not None and self.command == "matches" else None


class Formatter(Protocol):
    """Writes one output; each method returns text without its last line end, or None.

    The methods are called in this order: `begin`, `outcome` for each outcome, and `end`.
    """

    def begin(self) -> str | None:
        """Return the text before the first outcome."""

    def outcome(self, handled: Handled) -> str | None:
        """Return the text for one outcome as soon as it is found.

        A format may return text at `end` instead.
        """

    def end(self, summary: Summary | None) -> str | None:
        """Return the last text; `summary` is None if the output is not about a run."""


#: For each format, the module and the class that write it; the first is the default. The module of
#: a format is imported when the format is used. `docs/formats.md` says for which purpose each
#: format is.
FORMATS: Mapping[str, tuple[str, str]] = {
    "text": ("hashclient.formats.text", "TextFormatter"),
    "jsonl": ("hashclient.formats.jsonl", "JsonlFormatter"),
    "csv": ("hashclient.formats.csv", "CsvFormatter"),
    "sarif": ("hashclient.formats.sarif", "SarifFormatter"),
    "ecs": ("hashclient.formats.ecs", "EcsFormatter"),
    "html": ("hashclient.formats.html", "HtmlFormatter"),
}

#: The formats that write a single document; an output in another format can continue in another
#: file, after a new `begin`.
DOCUMENTS = frozenset({"sarif", "html"})


def formatter(name: str, context: Context) -> Formatter:
    """Return the formatter called `name`.

    Raises:
        KeyError: no formatter has this name.
    """
    module, class_name = FORMATS[name]
    made: Formatter = getattr(importlib.import_module(module), class_name)(context)
    return made
