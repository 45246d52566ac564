"""`provider show`, `provider find` and `provider diff`: show published entries, not digests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.importing import make_reading, open_files, reading_options, say_remarks
from hashclient.cli.output import table
from hashclient.cli.provider_options import list_option, repo_argument, repository_at
from hashclient.core.errors import ExitCode, UsageError
from hashclient.system.text import counted, for_people

if TYPE_CHECKING:
    from hashclient.provider.results import Answer, Difference, Entry, Overview


@click.command("show", short_help="Show a list in numbers.")
@repo_argument
@list_option
@format_option("text", "json")
@pass_app
def show(app: App, directory: Path, list_name: str, output_format: str) -> None:
    """Show a list in numbers: its categories, kinds of digests and generations.

    Entries are only counted here; `find` shows single entries.

    \b
      hashclient provider show /srv/lists --list baseline
    """
    from hashclient.provider.asking import overview

    found = overview(repository_at(app, directory), list_name)
    app.show(output_format, found, _overview_text(found), indent=2)


@click.command("diff")
@repo_argument
@list_option
@click.argument("first", metavar="FROM", type=click.IntRange(0))
@click.argument("last", metavar="[TO]", required=False, type=click.IntRange(0))
@click.option("--ids", "with_ids", is_flag=True, help="Show the ids of the entries, too.")
@format_option("text", "json")
@pass_app
def diff(
    app: App,
    directory: Path,
    list_name: str,
    first: int,
    last: int | None,
    with_ids: bool,
    output_format: str,
) -> None:
    """Show the changes of a list from generation FROM to TO.

    Without TO, the newest generation is compared. FROM 0 is the empty list before the first
    generation. Entries that were added and withdrawn in between do not count. Entries that were
    withdrawn and added again with the same id count as renewed. Generations that `consolidate` has
    joined cannot be compared separately any more.

    \b
      hashclient provider diff /srv/lists --list baseline 11
      hashclient provider diff /srv/lists --list baseline 11 12 --ids
    """
    from hashclient.provider.asking import difference

    found = difference(repository_at(app, directory), list_name, first, last)
    numbers = ("added", "withdrawn", "renewed")
    counts = ", ".join(f"{len(getattr(found, what)):,} {what}" for what in numbers)
    text = [f"list {found.list_name}: generation {found.first} to {found.last}: {counts}"]
    text += [f"  added in category {name}: {count:,}" for name, count in found.categories.items()]
    document: dict[str, Any] = {
        "list": found.list_name,
        "from": found.first,
        "to": found.last,
        "added": len(found.added),
        "withdrawn": len(found.withdrawn),
        "renewed": len(found.renewed),
        "added_by_category": found.categories,
    }
    if with_ids:
        document["ids"] = ids_of(found)
        text += ids_text(found)
    app.show(output_format, document, text, indent=2)


def ids_of(found: Difference) -> dict[str, tuple[str, ...]]:
    """Return the ids of changed entries, by the keys `added`, `withdrawn` and `renewed`."""
    return {"added": found.added, "withdrawn": found.withdrawn, "renewed": found.renewed}


def ids_text(found: Difference) -> list[str]:
    """Return a line for each added, withdrawn or renewed entry."""
    signs = zip("+-~", ids_of(found).values(), strict=True)
    return [f"{sign} {entry_id}" for sign, some in signs for entry_id in some]


@click.command("find", short_help="Find entries by their ids, or by digests in a file.")
@repo_argument
@click.argument("entry_ids", metavar="[ENTRY_ID…]", nargs=-1)
@click.option(
    "--from",
    "sources",
    metavar="FILE|-",
    multiple=True,
    help="Find entries by the digests in FILE, a file of any format that `lookup` reads. Can be "
    "given several times.",
)
@click.option(
    "--list",
    "lists",
    metavar="NAME",
    multiple=True,
    help="Search only this list. Can be given several times. [default: all]",
)
@reading_options
@format_option("text", "json")
@pass_app
def find(
    app: App,
    directory: Path,
    entry_ids: tuple[str, ...],
    sources: tuple[str, ...],
    lists: tuple[str, ...],
    where: str | None,
    columns: tuple[str, ...],
    output_format: str,
) -> ExitCode:
    """Find entries by their ids, or by the digests in a file.

    For each entry, this shows the list, the generations, the category and the kinds of digests, but
    never a digest. Rows of a file are shown by their numbers. If a row agrees with some digests of
    an entry and differs from others, this is shown: check why.

    \b
      hashclient provider find /srv/lists 2024-00017
      hashclient provider find /srv/lists --from complaint.txt

    Exit codes: 0 each entry is listed, 3 an entry is not listed, was withdrawn, or differs; all are
    in `hashclient --help`.
    """
    from hashclient.provider.asking import find as find_entries
    from hashclient.provider.find import Questions

    if not entry_ids and not sources:
        raise UsageError(
            "nothing to find", hint="give ids of entries, or a file of digests with --from"
        )
    questions = Questions(entry_ids)
    reading = make_reading(where, columns, all_rows=True)
    questions.ask(open_files(sources, sys.stdin.buffer), reading)
    answers = find_entries(repository_at(app, directory), questions, lists)
    is_whole = bool(answers) and all(map(_is_listed, answers))
    documents = [{"asked": a.asked, "entries": [*map(_entry_json, a.entries)]} for a in answers]
    text = (line for answer in answers for line in _answer_text(answer))
    app.show(output_format, {"answers": documents}, text, indent=2)
    say_remarks(app, reading)
    if not answers:
        app.warn("the files have no digest: there is nothing to find")
    return ExitCode.OK if is_whole else ExitCode.INCOMPLETE


def _is_listed(answer: Answer) -> bool:
    """Return whether a listed entry matches the question, and no listed entry differs from it."""
    listed = [entry for entry in answer.entries if entry.withdrawn is None]
    return bool(listed) and all(entry.is_listed for entry in listed)


def _answer_text(answer: Answer) -> list[str]:
    if not answer.entries:
        return [f"{answer.asked}: not found"]
    return [f"{answer.asked}: {_entry_text(entry)}" for entry in answer.entries]


def _entry_text(entry: Entry) -> str:
    size = [] if entry.size is None else [counted(entry.size, "byte")]
    has = ", ".join([*entry.algorithms, *size])
    parts = [
        f"list {entry.list_name}",
        f"entry {entry.entry_id}",
        f"category {entry.category}",
        f"has {has}",
        f"added in generation {_span(entry.first, entry.last)}",
    ]
    if entry.withdrawn is not None:
        parts.append(f"withdrawn in generation {_span(*entry.withdrawn)}")
    if entry.agree:
        parts.append(f"agrees in {', '.join(entry.agree)}")
    if entry.differ:
        parts.append(f"differs in {', '.join(entry.differ)}")
    return "; ".join(parts)


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "list": entry.list_name,
        "entry_id": entry.entry_id,
        "category": entry.category,
        "size": entry.size,
        "algorithms": entry.algorithms,
        "added_in": {"first": entry.first, "last": entry.last},
        "withdrawn_in": None
        if entry.withdrawn is None
        else {"first": entry.withdrawn[0], "last": entry.withdrawn[1]},
        "agree": entry.agree,
        "differ": entry.differ,
    }


def _overview_text(found: Overview) -> Iterator[str]:
    facts = [
        ["list", found.name],
        ["generation", f"{found.generation} of {for_people(found.published_at)}"],
        ["keys", f"{found.threshold} of {found.keys}"],
        ["live", f"{found.live:,}"],
        ["with size", f"{found.sized:,}"],
        *([f"with {label}", f"{count:,}"] for label, count in found.algorithms.items()),
        *found.provenance.facts(),
    ]
    categories = [[name, f"{count:,}"] for name, count in found.categories.items()]
    steps = [[_span(s.first, s.last), f"{s.added:,}", f"{s.withdrawn:,}"] for s in found.steps]
    yield from table(facts)
    if categories:
        yield from ("", *table([["CATEGORY", "LIVE"], *categories]))
    if steps:
        yield from ("", *table([["GENERATION", "ADDED", "WITHDRAWN"], *steps]))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"
