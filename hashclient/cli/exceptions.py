"""`exceptions`: makes, shows and ends exceptions, which prevent actions on matches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.exceptions_share import (
    document_of,
    export,
    facts_of,
    import_,
    lines_of,
    state_of,
    waiting,
    with_obstacles,
)
from hashclient.cli.options import (
    EXCEPTIONS,
    MATCHES,
    TIME,
    reason_option,
    run_alone,
    split_entry,
)
from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm
from hashclient.system.text import counted, is_unicode, printable

if TYPE_CHECKING:
    from hashclient.decisions.keeping import Keeper
    from hashclient.decisions.rulings import Ruling
    from hashclient.index.open_lists import OpenLists

until_option = click.option(
    "--until",
    type=TIME,
    metavar="TIME",
    help="When the exception ends, in UTC: at most 90 days from now. [default: in 30 days]",
)


@click.group("exceptions", invoke_without_command=True)
@format_option("text", "json")
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Except wrong entries from actions, for a limited time.

    A file is excepted if an exception covers each entry that the file matches. Each scan, watch,
    daemon and lookup shows, counts and logs the file as excepted, and never acts on it; a daemon
    answers OK. An exception ends at its end time, when the provider withdraws or changes the entry,
    or when somebody removes it: then the file is a match again. Tell the provider about a wrong
    entry, since only the provider can correct the list.

    Without a command, `list` is meant.

    \b
      hashclient exceptions add baseline/d-1 --reason 'ticket 4711'
      hashclient exceptions
      hashclient exceptions remove x-3kdz7wnq2m --reason 'it is right'
    """
    run_alone(ctx, list_exceptions, chosen)


@command.command("add")
@click.argument("entry", metavar="[LIST/ENTRY]", required=False)
@click.option(
    "--match",
    "match_id",
    metavar="ID",
    shell_complete=MATCHES,
    help="Only the file of this match, in any place, with the entries that the file matches.",
)
@click.option(
    "--file",
    "file",
    metavar="PATH",
    type=existing_path(dir_okay=False),
    help="Only files with the content of this file, with the entries that the file matches.",
)
@reason_option()
@until_option
@click.option(
    "--below",
    metavar="PATH",
    help="Only files at or below PATH, or objects at or below a URI.",
)
@format_option("text", "json")
@pass_app
def add(
    app: App,
    entry: str | None,
    match_id: str | None,
    file: Path | None,
    reason: str,
    until: datetime | None,
    below: str | None,
    output_format: str,
) -> None:
    """Make an exception for an entry, or for one file with the entries that it matches.

    Recorded matches without an action so far are excepted at once. A file is recognised by its
    SHA-256; if the SHA-256 of a match is not recorded, use --file.

    \b
      hashclient exceptions add baseline/d-1 --reason 'ticket 4711'
      hashclient exceptions add --match 3kdz7wnq2m --below /srv/docs \\
          --until 2026-03-01 --reason 'ticket 4711'

    Exit codes: 0 the exception is made, 2 the entry, match or file does not exist, 8 the exceptions
    or the lists cannot be read.
    """
    from hashclient.decisions.exceptions import Exceptions
    from hashclient.scan.run.release import except_open

    if sum(one is not None for one in (entry, match_id, file)) != 1:
        raise UsageError("say what is excepted: LIST/ENTRY, --match ID or --file PATH")
    lists = app.session.open_lists()
    if entry is not None:
        about = [split_entry(entry, "--match ID")], ""
    elif match_id is not None:
        about = _of_match(app, match_id, lists.sealer.key_id)
    else:
        assert file is not None
        about = _of_file(file, lists)
    ruler = Exceptions.of(app.session, lists)
    names, content = about
    entries = [ruler.entry(*name, of_file=bool(content)) for name in names]
    ruling = _keeper(app).add(entries, reason, until=until, content=content, below=_place(below))
    number = except_open(app.session, ruler.rule)
    app.show(
        output_format,
        {"exception": document_of(ruling, waiting(ruling)), "matches_excepted": number},
        facts_of(ruling, waiting(ruling)),
    )
    _say_what_follows(app, [ruling], number)


def prepare_exceptions(
    app: App, match_ids: Iterable[str], reason: str, until: datetime | None
) -> Callable[[Iterable[str]], bool]:
    """Return a function that makes and shows an exception for the file of each given match.

    `prepare_exceptions` makes all checks that could refuse an exception, and changes nothing; the
    returned function makes the exceptions. The returned function returns True if the exceptions
    take effect at once, and False if they wait for the approval of a second person.

    Raises:
        UsageError: the SHA-256 of a match is not recorded, all entries of a match were withdrawn,
          or the reason or the end time is refused.
        StateError: the lists, the database of matches or the exceptions cannot be read.
    """
    from hashclient.decisions.exceptions import Exceptions
    from hashclient.scan.run.release import except_open

    lists, keeper = app.session.open_lists(), _keeper(app)
    ruler = Exceptions.of(app.session, lists)
    about = {}
    for match_id in dict.fromkeys(match_ids):
        names, content = _of_match(app, match_id, lists.sealer.key_id)
        about[match_id] = [ruler.entry(*name, of_file=True) for name in names], content
    keeper.check(len(about), reason, until)

    def make(chosen: Iterable[str]) -> bool:
        rulings = []
        for match_id in chosen:
            entries, content = about[match_id]
            rulings.append(keeper.add(entries, reason, until=until, content=content))
        _say_what_follows(app, rulings, except_open(app.session, ruler.rule))
        return not any(ruling.waits for ruling in rulings)

    return make


def _say_what_follows(app: App, rulings: Sequence[Ruling], number: int) -> None:
    """Print how many recorded matches are excepted now, and which exceptions wait for approval."""
    if number:
        app.say(f"excepted: {counted(number, 'match')} on record")
    if ids := [ruling.id for ruling in rulings if ruling.waits]:
        app.say(
            "hint: this does not count before another person approves it: `hashclient exceptions"
            f" approve {' '.join(ids)} --reason …`"
        )


@command.command("list")
@format_option("text", "json")
@pass_app
def list_exceptions(app: App, output_format: str) -> None:
    """List all exceptions, also exceptions that have ended lately; the same as `exceptions` alone.

    \b
      hashclient exceptions list --format json
    """
    rulings = _keeper(app).rulings()
    shown = with_obstacles(app, rulings)
    document = {"exceptions": [document_of(*one) for one in shown]}
    app.show(output_format, document, lines_of(shown), nothing="there is no exception")


@command.command("show")
@click.argument("exception_id", metavar="ID", shell_complete=EXCEPTIONS)
@format_option("text", "json")
@pass_app
def show(app: App, exception_id: str, output_format: str) -> None:
    """Show an exception, with its author, reason and end.

    \b
      hashclient exceptions show x-3kdz7wnq2m
    """
    found = [ruling for ruling in _keeper(app).rulings() if ruling.id == exception_id]
    if not found:
        raise UsageError(
            f"no exception has the id {printable(exception_id)}",
            hint="`hashclient exceptions list` shows them",
        )
    ((ruling, obstacle),) = with_obstacles(app, found)
    app.show(output_format, document_of(ruling, obstacle), facts_of(ruling, obstacle))


@command.command("renew")
@click.argument("ids", metavar="ID…", nargs=-1, required=True, shell_complete=EXCEPTIONS)
@reason_option()
@until_option
@format_option("text", "json")
@pass_app
def renew(
    app: App, ids: tuple[str, ...], reason: str, until: datetime | None, output_format: str
) -> None:
    """Change the end of exceptions, with a reason.

    If an exception has ended because its entry changed, it stays ended: make a new exception. If
    your configuration requires two persons, the exception counts until its old end, and a new
    exception waits for approval.

    \b
      hashclient exceptions renew x-3kdz7wnq2m --reason 'no answer yet'
    """
    rulings = _keeper(app).renew(ids, reason, until)
    _show_all(app, output_format, rulings)
    _say_what_follows(app, rulings, 0)


@command.command("approve")
@click.argument("ids", metavar="ID…", nargs=-1, required=True, shell_complete=EXCEPTIONS)
@reason_option()
@format_option("text", "json")
@pass_app
def approve(app: App, ids: tuple[str, ...], reason: str, output_format: str) -> None:
    """Approve exceptions that another person has made.

    This is needed with `people = 2` in [decisions].

    Persons are distinguished by their accounts, as the audit log names them: the account that
    logged in; if that is unknown, the account that runs this command; for root, the account that
    called `sudo`. Recorded matches without an action so far are excepted at once.

    \b
      hashclient exceptions approve x-3kdz7wnq2m --reason 'ticket 4711'
    """
    from hashclient.decisions.exceptions import Exceptions
    from hashclient.scan.run.release import except_open

    ruler = Exceptions.of(app.session, app.session.open_lists())
    rulings = _keeper(app).approve(ids, reason)
    _show_all(app, output_format, rulings)
    _say_what_follows(app, rulings, except_open(app.session, ruler.rule))


@command.command("remove")
@click.argument("ids", metavar="[ID…]", nargs=-1, shell_complete=EXCEPTIONS)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Remove all exceptions, also if their file is damaged or lost.",
)
@reason_option()
@format_option("text", "json")
@pass_app
def remove(
    app: App, ids: tuple[str, ...], everything: bool, reason: str, output_format: str
) -> None:
    """End exceptions now: the next scan reports the files as matches again.

    \b
      hashclient exceptions remove x-3kdz7wnq2m --reason 'the entry is right'
    """
    if bool(ids) == everything:
        raise UsageError("say which exceptions: their ids, or --all")
    keeper = _keeper(app)
    if everything:
        keeper.remove_all(reason)
        app.show(output_format, {"exceptions": []}, "all exceptions have ended")
        return
    _show_all(app, output_format, keeper.remove(ids, reason), removed=True)


command.add_command(export)
command.add_command(import_)


def _keeper(app: App) -> Keeper:
    from hashclient.decisions.keeping import Keeper

    return Keeper(app.session, app.session.sealer())


def _of_match(app: App, match_id: str, key_id: str) -> tuple[list[tuple[str, str]], str]:
    """Return the entries of a recorded match, and the tag of its SHA-256."""
    from hashclient.matches.store import Matches

    with Matches(app.settings.state_dir, create=False) as matches:
        match = matches.get(match_id)
    tag = match.tags.get(Algorithm.SHA256) if match.key_id == key_id else None
    if tag is None:
        raise UsageError(
            f"the SHA-256 of match {match.id} is not recorded",
            hint="name the file with --file, or the entry as LIST/ENTRY",
        )
    if not match.standing:
        raise UsageError(f"match {match.id} has no entry any more: all are withdrawn")
    return [(hit.list_name, hit.entry) for hit in match.standing], tag.hex()


def _of_file(path: Path, lists: OpenLists) -> tuple[list[tuple[str, str]], str]:
    """Return the entries that a file matches, and the tag of its SHA-256."""
    import msgspec

    from hashclient.core.digests import CHUNK_BYTES, StreamDigester
    from hashclient.scan.check.streaming import judge_streams
    from hashclient.system.descriptors import open_input

    with_sha256 = msgspec.structs.replace(lists, also=int(Algorithm.SHA256))
    judge = with_sha256.judge(all_digests=True)
    digester = StreamDigester(judge.plan(None))
    try:
        with os.fdopen(open_input(str(path)), "rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digester.update(memoryview(chunk))
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}: {error.strerror}") from error
    (outcome,) = judge_streams(judge, [("-", digester)])
    found = [(hit.list_name, hit.entry) for hit in outcome.hits]
    if not found:
        raise UsageError(
            f"the file matches no entry: {printable(path)}",
            hint="for a member of an archive, name the entry, or the match of the archive",
        )
    return found, outcome.tags[Algorithm.SHA256].hex()


def _place(below: str | None) -> str:
    """Return a path without symbolic links, or a URI as scans record it; empty for None."""
    from hashclient.core.objecturi import is_object_uri, parse_uri

    if below is None:
        return ""
    if not below:
        raise UsageError("--below is empty", hint="leave the option out to have no limit")
    if is_object_uri(below):
        return parse_uri(below).text
    path = os.path.realpath(below)
    if not is_unicode(path):
        raise UsageError(f"not UTF-8, which --below needs: {printable(path)}")
    return path


def _show_all(
    app: App, output_format: str, rulings: Sequence[Ruling], *, removed: bool = False
) -> None:
    if removed:
        shown: list[tuple[Ruling, str | None]] = [(ruling, "it is removed") for ruling in rulings]
    else:
        shown = with_obstacles(app, rulings)
    app.show(
        output_format,
        {"exceptions": [document_of(ruling, obstacle) for ruling, obstacle in shown]},
        (f"{r.id}  {state_of(r, obstacle)}  {r.about}" for r, obstacle in shown),
    )
