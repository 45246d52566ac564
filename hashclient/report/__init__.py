"""Report formats: pure functions from outcomes and summaries to text.

A format is a `Formatter`; `FORMATS` names them all. None of them does I/O, shows content, or shows
digests unless it is told to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hashclient.model import Outcome
from hashclient.report import jsonl, text
from hashclient.summary import Summary


class Formatter(Protocol):
    """How one run is written: a line for each outcome, and what comes last."""

    def outcome(self, outcome: Outcome) -> str:
        """Return the line of one outcome, without its end."""

    def summary(self, summary: Summary) -> str:
        """Return what comes last, without its end."""


#: Name of a format to its maker; the argument says whether digests are shown.
FORMATS: dict[str, Callable[[bool], Formatter]] = {
    "text": text.TextFormatter,
    "jsonl": jsonl.JsonlFormatter,
}
