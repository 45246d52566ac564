"""`matches`: shows and closes the matches of all scans, with the history of each match."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, Results, format_option, pass_app
from hashclient.cli.matches_review import release, review
from hashclient.cli.matches_stats import stats
from hashclient.cli.options import (
    FORMAT_HELP,
    LISTS,
    MATCHES,
    TIME,
    output_option,
    reason_option,
    refuse_empty,
    run_alone,
    together,
)
from hashclient.cli.output import facts
from hashclient.core.errors import ExitCode, UsageError
from hashclient.core.kinds import SETTLED, MatchState
from hashclient.formats.registry import FORMATS, Context, formatter
from hashclient.system.text import counted, for_people, path_fields, printable

if TYPE_CHECKING:
    from hashclient.core.match import Match, Step
    from hashclient.core.model import Hit
    from hashclient.matches.selection import Choice
    from hashclient.matches.store import Matches

#: The states of open matches: a person may still have to act, or an action of the program waits.
OPEN = tuple(state.value for state in MatchState if state not in {*SETTLED, MatchState.WITHDRAWN})
#: Matches are closed in groups of at most this size. Each group needs one record of the log and one
#: change of the database.
_AT_ONCE = 512


#: The options that choose matches.
choice_options = together(
    click.option(
        "--open",
        "is_open",
        is_flag=True,
        help="Only matches that are not finished: " + ", ".join(OPEN[:-1]) + f" or {OPEN[-1]}.",
    ),
    click.option(
        "--state",
        "states",
        type=click.Choice([str(state) for state in MatchState]),
        metavar="STATE",
        multiple=True,
        help="Only matches in this state: "
        + ", ".join(MatchState)
        + ". Can be given several times.",
    ),
    click.option(
        "--path",
        "paths",
        multiple=True,
        metavar="PATH",
        help="Only matches at or below PATH. Can be given several times.",
    ),
    click.option(
        "--list",
        "list_name",
        metavar="LIST",
        shell_complete=LISTS,
        help="Only matches of entries of LIST.",
    ),
    click.option(
        "--since",
        type=TIME,
        metavar="TIME",
        help="Only matches that a scan has found at TIME or later, in UTC.",
    ),
)


#: The options of `matches` and `matches list`.
_list_options = together(
    choice_options,
    click.option(
        "--to-review",
        is_flag=True,
        help="Only matches that wait for a review: see [report] of config.toml.",
    ),
    output_option,
    format_option(*FORMATS, help=FORMAT_HELP),
)


@click.group("matches", invoke_without_command=True)
@_list_options
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """List the matches of all scans, and the actions that were done.

    Every match is recorded with an id; if a scan finds the same file again, it is the same match.
    The first state of a match is found. Later it may be quarantined, reported, acknowledged by the
    recipient of the report, and purged. If the provider withdraws the entry, the file can be
    restored. If a scan sees that the file of a match is missing, the match is gone, until a scan
    finds the file again. A match that was handled by other means can be closed. A match is held if
    more files match its entry than the configuration allows to act upon within a day; `release`
    lets the actions happen.

    Without a command, `list` is meant.

    \b
      hashclient matches
      hashclient matches --open
      hashclient matches --state found --path /srv/files
      hashclient matches --list baseline --since 2026-01-31
      hashclient matches --format html --output matches.html
      hashclient matches show 3kdz7wnq2m
    """
    run_alone(ctx, list_matches, chosen)


@command.command("list")
@_list_options
@pass_app
def list_matches(
    app: App,
    states: tuple[str, ...],
    is_open: bool,
    paths: tuple[str, ...],
    list_name: str | None,
    since: datetime | None,
    to_review: bool,
    output_format: str,
    output: Path | None,
) -> None:
    """List the matches of all scans; the same as `matches` alone.

    \b
      hashclient matches list --state found --path /srv/files
    """
    from hashclient.decisions.review import ReviewPolicy

    states = _states(states, is_open=is_open)
    choice = _choice(states, paths, list_name, since)
    about = app.session.invocation(paths)
    written = formatter(output_format, Context("matches", app.now(), about=about))
    with open_record(app) as record:
        # All matches are read before the first match is printed, because scans cannot write to the
        # database while matches are being read.
        chosen = record.find(choice=choice)
        if to_review:
            waiting = {*ReviewPolicy(app.settings.config.report).waiting(record)}
            chosen = (match for match in chosen if match.id in waiting)
        found = [written.outcome(m.handled()) for m in chosen]
    with app.output.open(output, app.out) as write:
        for text in (written.begin(), *found, written.end(None)):
            if text is not None:
                write(text)
    if not found:
        if to_review:
            app.say("no match waits for a review")
        elif states and not (paths or list_name or since):
            app.say("no match is in that state")
        else:
            app.say(
                "no match fits these options"
                if choice.where()[1]
                else "no scan has found anything yet"
            )


def _states(states: tuple[str, ...], *, is_open: bool) -> tuple[str, ...]:
    if is_open and states:
        raise UsageError("--open and --state exclude each other", hint="give one of them")
    return OPEN if is_open else states


def _choice(
    states: Sequence[str], paths: Sequence[str], list_name: str | None, since: datetime | None
) -> Choice:
    from hashclient.core.objecturi import is_object_uri, parse_uri
    from hashclient.matches.selection import Choice

    refuse_empty(paths)
    # Each path is looked for in two forms. Scans record paths without symbolic links, so symbolic
    # links are resolved. The path is also looked for as the user typed it, because a directory may
    # have been replaced by a symbolic link after the scan.
    files = [path for path in paths if not is_object_uri(path)]
    forms = {form(path): None for path in files for form in (os.path.realpath, os.path.abspath)}
    objects = tuple(parse_uri(path).text for path in paths if is_object_uri(path))
    return Choice(
        tuple(MatchState(state) for state in states),
        (*("/" + path.lstrip("/") for path in forms), *objects),
        list_name,
        since,
    )


@command.command("show")
@click.argument("match_id", metavar="ID", shell_complete=MATCHES)
@format_option("text", "json")
@pass_app
def show(app: App, match_id: str, output_format: str) -> None:
    """Show one match, and everything that happened to it.

    \b
      hashclient matches show 3kdz7wnq2m
    """
    with open_record(app) as record:
        match, story = record.get(match_id), record.story(match_id)
    app.show(output_format, _document(match, story), _lines(match, story))


def _lines(match: Match, story: list[Step]) -> Iterator[str]:
    """Yield the lines about a match and its history."""
    yield f"match {match.id}: {match.state}"
    is_stream = match.is_stream
    yield from facts(
        [
            ("path", printable(match.path)),
            ("file", "none: the content came as a stream" if is_stream else None),
            ("seen", counted(match.times_seen or 1, "time") if is_stream else None),
            ("size", "unknown" if match.size is None else counted(match.size, "byte")),
            ("in place", None if is_stream else _place(match)),
            ("first seen", for_people(match.first_seen)),
            ("last seen", for_people(match.last_seen)),
            *(("entry", _entry(hit)) for hit in match.hits),
        ]
    )
    yield "story"
    for step in story:
        about = ", ".join(f"{key}: {printable(_plain(v))}" for key, v in step.detail.items())
        yield f"  {for_people(step.time)}  {step.event:<19}{about}".rstrip()


def _entry(hit: Hit) -> str:
    text = f"{hit.list_name} {hit.entry} ({hit.category}; generation {hit.generation})"
    end = "" if hit.stands else f", withdrawn in generation {hit.withdrawn_generation}"
    return text + end


def _place(match: Match) -> str:
    if match.state is MatchState.GONE:
        return "no: a scan has seen that the file is no longer there"
    return "as far as is known" if match.in_place else "not any more"


@command.command("close")
@click.argument("match_ids", metavar="[ID…]", nargs=-1, shell_complete=MATCHES)
@click.option("--withdrawn", is_flag=True, help="As --state withdrawn.")
@choice_options
@click.option(
    "--dry-run", is_flag=True, help="Print which matches would be closed, and close none."
)
@reason_option()
@format_option("text", "json")
@pass_app
def close(
    app: App,
    match_ids: tuple[str, ...],
    withdrawn: bool,
    states: tuple[str, ...],
    is_open: bool,
    paths: tuple[str, ...],
    list_name: str | None,
    since: datetime | None,
    dry_run: bool,
    reason: str,
    output_format: str,
) -> ExitCode:
    """Close matches that were handled by other means, or need no action.

    A closed match is not shown as open any more; when a scan finds the file again, the match is
    open again. Give ids, or options as for `hashclient matches`: then all open matches are closed
    that fit all given options. Try the command with --dry-run first. A match of an isolated file is
    closed only by its id, and only if its sealed copy is lost.

    \b
      hashclient matches close 3kdz7wnq2m --reason 'removed by hand, ticket 4711'
      hashclient matches close --withdrawn --reason 'nothing was done to them'
      hashclient matches close --path /srv/old --reason 'disk destroyed' --dry-run
    """
    states = _states(states, is_open=is_open)
    if withdrawn:
        states = (*states, MatchState.WITHDRAWN)
        if set(states) != {MatchState.WITHDRAWN}:
            raise UsageError("--withdrawn already chooses a --state", hint="give one of them")
    choice = _choice(states, paths, list_name, since)
    is_choosing = bool(choice.where()[1])
    if not match_ids and not is_choosing:
        raise UsageError(
            "no match to close",
            hint="give ids, or --withdrawn, --open, --path, --list, --state or --since",
        )
    results = Results(app, output_format)
    with open_record(app) as record:
        chosen = {match_id: record.get(match_id) for match_id in match_ids}
        for match in chosen.values():
            if not match.in_place and not _is_lost(app, match):
                raise UsageError(
                    f"the file of match {match.id} is not in place: the match is {match.state}",
                    hint="use `hashclient quarantine restore` or `purge` to finish this match",
                )
        if is_choosing:
            chosen |= {m.id: m for m in record.find(choice=choice) if _is_closable(m)}
        closed = set(chosen) if dry_run else _close(app, record, list(chosen.values()), reason)
        for match in chosen.values():
            word = "would be closed" if dry_run else str(MatchState.CLOSED)
            if match.id not in closed:
                word = "not closed: its state has changed meanwhile"
            is_done = match.id in closed and not dry_run
            results.put(
                match.id, word, path=match.path, done=is_done, attention=match.id not in closed
            )
    if is_choosing and closed:
        verb = "would be closed" if dry_run else "closed"
        app.say(f"{verb}: {counted(len(closed), 'match')}")
    return results.end(
        "no withdrawn match has its file in place"
        if withdrawn
        else "no open match fits these options"
    )


def _is_lost(app: App, match: Match) -> bool:
    """Return whether the file of a match was isolated, and the quarantine does not have it.

    Raises:
        StateError: the whole quarantine is missing.
    """
    from hashclient.quarantine.item import require_quarantine
    from hashclient.system.files import is_there

    directory = app.settings.layout.quarantine
    if not match.is_isolated or is_there(directory / match.id):
        return False
    require_quarantine(directory)
    return True


def _is_closable(match: Match) -> bool:
    """Return whether options may close a match: it is open, and its file is in place."""
    return match.in_place and match.state in (
        MatchState.FOUND,
        MatchState.HELD,
        MatchState.GONE,
        MatchState.WITHDRAWN,
    )


def _close(app: App, record: Matches, chosen: Sequence[Match], reason: str) -> set[str]:
    """Close matches in groups of `_AT_ONCE`; return the ids of the closed matches.

    The log is written first, so that no match is closed without a record if the command is killed.
    A match whose state has changed since it was chosen stays open, because its file may have been
    isolated meanwhile.
    """
    from hashclient.audit.log import Event

    detail = {"by": app.session.operator, "reason": reason}
    closed: set[str] = set()
    for start in range(0, len(chosen), _AT_ONCE):
        with record.batch():
            batch = [m for m in chosen[start : start + _AT_ONCE] if _is_unchanged(m, record)]
            events = [Event("closed", {"id": m.id, **path_fields(m.path), **detail}) for m in batch]
            app.session.audit.append(events, durable=True, sign_each=True)
            for match in batch:
                record.change(match.id, MatchState.CLOSED, app.now(), detail)
        closed.update(match.id for match in batch)
    return closed


def _is_unchanged(match: Match, record: Matches) -> bool:
    """Return whether the match in the database has the same state as the chosen `match`."""
    now = record.look_up(match.id)
    return now is not None and (now.state, now.in_place) == (match.state, match.in_place)


def open_record(app: App) -> Matches:
    """Open the database of matches, which is empty if no scan has found a match yet.

    Only scans create the file of the database.

    Raises:
        StateError: the database cannot be opened.
    """
    from hashclient.matches.store import Matches

    return Matches(app.settings.state_dir, create=False)


def _plain(value: object) -> str:
    """Return a value of a step in the history as text for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(map(_plain, value.values()))
    if isinstance(value, list):
        return "; ".join(map(_plain, value)) or "none"
    return "none" if value is None else str(value)


def _document(match: Match, story: list[Step]) -> dict[str, Any]:
    from hashclient.core.model import LOGGED_FIELDS, hit_fields

    return {
        "id": match.id,
        "state": str(match.state),
        **path_fields(match.path),
        "size": match.size,
        "in_place": match.in_place,
        **({"times_seen": match.times_seen} if match.is_stream else {}),
        "first_seen": match.first_seen,
        "last_seen": match.last_seen,
        "entries": [
            hit_fields(hit, (*LOGGED_FIELDS, "withdrawn_generation")) for hit in match.hits
        ],
        "story": [{"time": step.time, "event": step.event, **step.detail} for step in story],
    }


for _command in (release, review, stats):
    command.add_command(_command)
