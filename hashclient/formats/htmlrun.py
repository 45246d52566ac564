"""The part of the HTML page on a run as a whole: the scanned paths, what to do next, where to look.

It turns values into elements, and does no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hashclient.core.kinds import Kind
from hashclient.core.verdict import Summary
from hashclient.formats.fields import NO_NAME, excepted_text, skipped_text, words
from hashclient.formats.markup import Markup, element, joined
from hashclient.system.text import printable
from hashclient.system.times import for_people

if TYPE_CHECKING:
    from hashclient.formats.interface import Context

#: The first advice on every file that matches.
HANDS_OFF = "Do not open, copy or send a file that matches, and do not delete it by hand"


def contents(sections: Sequence[tuple[str, str]]) -> Markup:
    """Return links to `sections`, each an id and a title."""
    links = [
        element("li", element("a", title, href=f"#{section_id}")) for section_id, title in sections
    ]
    return element("nav", element("ul", *links), class_="contents", aria_label="On this page")


def about_run(context: Context, summary: Summary | None) -> Markup | None:
    """Return where, by whom, when and for what a command was called; None if that is not known."""
    about = context.about
    if about is None:
        return None
    paths = [element("li", element("code", printable(path) or NO_NAME)) for path in about.paths]
    if about.omitted:
        paths.append(element("li", f"and {about.omitted:,} more"))
    where = "a directory that is gone" if about.directory is None else printable(about.directory)
    left_out = excepted = None
    if summary is not None:
        left_out, excepted = skipped_text(summary), excepted_text(summary)
    rows = {
        "Paths": element("ul", *paths) if paths else None,
        "Host": element("code", words(about.host)),
        "Directory": element("code", where),
        "User": element("code", words(about.user)),
        "Began": element("span", for_people(context.now)),
        "Took": None if summary is None else element("span", f"{summary.elapsed_s:,.1f} s"),
        "Left out": None if left_out is None else element("span", left_out),
        "Excepted": None if excepted is None else element("span", excepted),
    }
    pairs = (
        element("div", element("dt", name), element("dd", value))
        for name, value in rows.items()
        if value is not None
    )
    return element("dl", *pairs, class_="run")


def next_steps(
    context: Context, summary: Summary | None, matches: int, conflicts: int
) -> Iterator[Markup]:
    """Yield the next steps of a reader, the most urgent first."""
    if matches:
        yield joined(
            element("strong", HANDS_OFF), ": follow your procedure for such files and for reports."
        )
        yield joined(
            _command("quarantine add ID"),
            " isolates a file, sealed; the ids are in the column Record. ",
            _command("report prepare --all"),
            " prepares a report. ",
            _command("matches close ID --reason TEXT"),
            " is for a match that was dealt with by other means.",
        )
    if conflicts:
        yield joined(
            "Do not open a file that conflicts either: the entry is wrong, or the file was made to"
            " look like it. Ask the provider of the list."
        )
    if summary is None or context.command == "matches":
        return
    if summary.counts[Kind.UNREAD]:
        yield joined("Remove the reasons why inputs could not be read, and scan again.")
    if summary.missing or any(state.stale for state in summary.lists):
        yield joined("Run ", _command("fetch"), ", then scan again.")
    if summary.stopped is not None or summary.failed is not None:
        yield joined("Scan again: this run is not whole.")


def _command(words_of: str) -> Markup:
    return element("code", f"hashclient {words_of}")
