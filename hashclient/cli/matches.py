"""`matches`: what scans have found, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.options import FORMAT_HELP, output_option
from hashclient.core.kinds import MatchState
from hashclient.errors import ExitCode, UsageError
from hashclient.formats.interface import FORMATS
from hashclient.system.text import path_fields, printable

if TYPE_CHECKING:
    from hashclient.core.match import Match, Step
    from hashclient.matches.store import Matches


@click.group("matches", invoke_without_command=True)
@click.option(
    "--state",
    "states",
    type=click.Choice([str(state) for state in MatchState]),
    metavar="STATE",
    multiple=True,
    help="Only matches in this state: " + ", ".join(MatchState) + ". Can be given several times.",
)
@output_option()
@format_option(*FORMATS, help=FORMAT_HELP)
@click.pass_context
def command(
    ctx: click.Context, states: tuple[str, ...], output_format: str, output: Path | None
) -> ExitCode | None:
    """List what scans have found, and what became of it.

    Every match of a scan is remembered under an id; the same file found again is the same match.
    A match is found, then perhaps quarantined, reported, acknowledged by whom it was reported to,
    and purged; or its entry is withdrawn by the provider, and the file restored. What was dealt
    with by other means can be closed.

    \b
      hashclient matches
      hashclient matches --state found --state withdrawn
      hashclient matches --format html --output matches.html
      hashclient matches show 3kdz7wnq2m
    """
    if ctx.invoked_subcommand is not None:
        return None
    from hashclient.formats.interface import Context, formatter

    app = ctx.ensure_object(App)
    written = formatter(output_format, Context("matches", app.now()))
    with open_record(app) as record:
        # All before the first is written: while it is read, no scan can write to it.
        found = [written.outcome(m.handled()) for m in record.find([MatchState(s) for s in states])]
    with app.output.open(output, app.out) as write:
        for text in (written.begin(), *found, written.end(None)):
            if text is not None:
                write(text)
    if not found:
        app.say("no match is in that state" if states else "no scan has found anything yet")
    return ExitCode.OK


@command.command("show")
@click.argument("match_id", metavar="ID")
@format_option("text", "json")
@pass_app
def show(app: App, match_id: str, output_format: str) -> ExitCode:
    """Tell the whole story of one match.

    \b
      hashclient matches show 3kdz7wnq2m
    """
    with open_record(app) as record:
        match, story = record.get(match_id), record.story(match_id)
    if output_format == "json":
        app.out(json.dumps(_document(match, story)))
        return ExitCode.OK
    app.out(f"match {match.id}: {match.state}")
    size = "unknown" if match.size is None else f"{match.size:,} bytes"
    place = "as far as is known" if match.in_place else "not any more"
    app.out(f"  path        {printable(match.path)}")
    if match.is_stream:
        app.out("  file        none: it came as a stream")
        app.out(f"  seen        {match.times_seen or 1:,} times")
    app.out(f"  size        {size}")
    app.out(f"  in place    {place}")
    app.out(f"  first seen  {match.first_seen:%Y-%m-%d %H:%M:%S} UTC")
    app.out(f"  last seen   {match.last_seen:%Y-%m-%d %H:%M:%S} UTC")
    for hit in match.hits:
        line = f"{hit.list_name} {hit.entry} ({hit.category}; generation {hit.generation})"
        if not hit.stands:
            line += f", withdrawn in generation {hit.withdrawn_generation}"
        app.out(f"  entry       {line}")
    app.out("story")
    for step in story:
        app.out(
            f"  {step.time:%Y-%m-%d %H:%M:%S}  {step.event:<19}{_explain(step.detail)}".rstrip()
        )
    return ExitCode.OK


@command.command("close")
@click.argument("match_ids", metavar="ID…", nargs=-1)
@click.option("--withdrawn", is_flag=True, help="Close all that are withdrawn and in place.")
@click.option("--reason", metavar="TEXT", required=True, help="Why; it goes into the audit log.")
@format_option("text", "json")
@pass_app
def close(
    app: App, match_ids: tuple[str, ...], withdrawn: bool, reason: str, output_format: str
) -> ExitCode:
    """Say that matches have been dealt with by other means, or need nothing.

    They are not named as open any more; when a scan finds the file again, the match is open again.

    \b
      hashclient matches close 3kdz7wnq2m --reason 'removed by hand, ticket 4711'
      hashclient matches close --withdrawn --reason 'nothing was done to them'
    """
    from hashclient.audit.log import Event
    from hashclient.cli.items import Results

    if not match_ids and not withdrawn:
        raise UsageError("no match to close", hint="give ids, or --withdrawn")
    results = Results(app, output_format)
    with open_record(app) as record:
        chosen = [record.get(match_id) for match_id in match_ids]
        if withdrawn:
            chosen += [m for m in record.find([MatchState.WITHDRAWN]) if m.in_place]
        for match in chosen:
            if not match.in_place:
                raise UsageError(
                    f"match {match.id} is not in place: it is {match.state}",
                    hint="`hashclient quarantine restore` and `purge` end its story",
                )
        for match in chosen:
            detail = {"by": app.operator(), "reason": reason}
            event = Event("closed", {"id": match.id, **path_fields(match.path), **detail})
            app.audit_log().append([event], durable=True)
            record.change(match.id, MatchState.CLOSED, app.now(), detail)
            results.put(match.id, str(MatchState.CLOSED), path=match.path, done=True)
    return results.end("no match is withdrawn and in its place")


def open_record(app: App) -> Matches:
    """Open the record of matches, which is empty where no scan has found anything yet.

    Only scans make it.

    Raises:
        StateError: it cannot be opened.
    """
    from hashclient.matches.store import Matches

    return Matches(app.settings.state_dir, create=False)


def _explain(detail: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {printable(str(value))}" for key, value in detail.items())


def _document(match: Match, story: list[Step]) -> dict[str, Any]:
    from hashclient.core.model import LOGGED_FIELDS, hit_fields

    return {
        "id": match.id,
        "state": str(match.state),
        **path_fields(match.path),
        "size": match.size,
        "in_place": match.in_place,
        **({"times_seen": match.times_seen} if match.is_stream else {}),
        "first_seen": match.first_seen.isoformat(),
        "last_seen": match.last_seen.isoformat(),
        "entries": [
            hit_fields(hit, (*LOGGED_FIELDS, "withdrawn_generation")) for hit in match.hits
        ],
        "story": [
            {"time": step.time.isoformat(), "event": step.event, **step.detail} for step in story
        ],
    }
