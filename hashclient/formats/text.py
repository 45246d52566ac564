"""The format for people: one aligned line for each outcome, and a summary of some lines.

The last line has the exit code; an output without this line was cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hashclient.core.kinds import Kind, MatchState
from hashclient.core.model import Acted, Handled, Hit
from hashclient.core.verdict import Summary
from hashclient.formats.cells import words
from hashclient.formats.conclusion import conclusion
from hashclient.formats.fields import (
    EARLY,
    agreement,
    counts_text,
    excepted_text,
    inside_text,
    not_opened_text,
    remarks,
    rests_on,
    run_text,
    skipped_text,
)
from hashclient.formats.ready import ActedParts, HitParts
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.formats.registry import Context


class TextFormatter:
    """Writes lines that are safe on a terminal whatever characters a path contains."""

    def __init__(self, context: Context) -> None:
        """Write the outcomes in the form that `context` requires."""
        self._context = context
        self._of_run = context.command != "matches"
        self._of_files = context.command != "lookup"
        self._show_digests = context.show_digests
        self._hits = HitParts(_around_entry)
        self._acted = ActedParts(_acted_text)
        self._host = "" if context.host is None else f"  on {words(context.host)}"
        width = 8 if self._of_run else 12
        self._words = {word: f"{word:<{width}}  " for word in (*Kind, *MatchState)}

    def begin(self) -> None:
        """Return nothing, because the output begins with the first outcome."""

    def outcome(self, handled: Handled) -> str:
        """Return an outcome as one line: kind, path, hits and reason."""
        outcome, record = handled.outcome, handled.record
        hits = outcome.hits
        if (
            record is not None
            and self._of_run
            and len(hits) == 1
            and outcome.reason is None
            and not (outcome.members or self._show_digests)
        ):
            # There may be very many outcomes of this form, so their lines are made from rendered
            # parts.
            hit, path = hits[0], outcome.path
            if not path.isprintable() or "\\" in path:
                path = printable(path)
            before, after = self._hits.of(hit)
            word = self._words[outcome.kind]
            done = self._acted.of(handled.acted)
            return f"{word}{path}  [{record.id}]  {before}{hit.entry}{after}{done}"
        word = outcome.kind if self._of_run or record is None else record.state
        place = outcome.place if outcome.members else outcome.path
        line = self._words[word] + printable(place)
        if record is not None:
            away = "" if self._of_run or record.in_place else ", isolated"
            line += f"  [{record.id}{away}]"
        if hits:
            line += "  " + "; ".join([hit.entry.join(self._hits.of(hit)) for hit in hits])
        line += self._acted.of(handled.acted)
        if outcome.reason is not None:
            line += f"  {words(outcome.reason)}"
        if self._show_digests:
            for algorithm, digest in sorted(outcome.digests.items()):
                line += f"  {algorithm.label}={digest.hex()}"
        return line + self._host

    def end(self, summary: Summary | None) -> str | None:
        """Return the counts, the evidence, the lists, and all reasons why the run is incomplete."""
        if summary is None:
            return None
        lines = [*(self._work(summary) if self._of_run else ()), *self._attention(summary)]
        if (text := run_text(self._context)) is not None:
            lines.append(text)
        lines.append(f"exit {int(summary.exit_code)}: {conclusion(summary)}")
        return "\n".join(lines)

    def _work(self, summary: Summary) -> Iterator[str]:
        yield counts_text(summary)
        if self._of_files:
            read = human_bytes(summary.bytes_read)
            took = f"in {summary.elapsed_s:.1f} s"
            besides = f"; {text}" if (text := rests_on(summary)) else ""
            yield f"read {counted(summary.files_read, 'file')}, {read}, {took}{besides}"
        if (inside := inside_text(summary)) is not None:
            yield inside
        texts = (not_opened_text(summary), skipped_text(summary), excepted_text(summary))
        yield from filter(None, texts)
        for state in summary.lists:
            when = for_people(state.expires)
            fresh = f"fresh until {when}"
            if state.is_early:
                fresh = f"STALE: {EARLY}"
            elif not state.fresh:
                fresh = f"expired {when}, {'in its grace period' if state.in_grace else 'STALE'}"
            yield f"list {state.name}, generation {state.generation}, {fresh}"

    def _attention(self, summary: Summary) -> Iterator[str]:
        for remark in remarks(summary):
            if remark.subject != "stale":  # the lines about lists show it
                yield ("failed: " if remark.subject == "failed" else "") + words(remark.text)
        if summary.inputs == 0 and summary.stopped is None and summary.failed is None:
            yield "there was nothing to check"


def _acted_text(acted: tuple[Acted, ...]) -> str:
    return "".join([f"  -> {words(one.detail)}" for one in acted])


def _around_entry(hit: Hit) -> tuple[str, str]:
    """Return the text of a hit before its entry, and the text after the entry."""
    return f"{hit.list_name} ", f" ({hit.category}; {agreement(hit)})"


def human_bytes(count: float) -> str:
    """Return a number of bytes with a unit that suits its size."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
