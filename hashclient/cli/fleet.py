"""`hashclient fleet`: shows an overview of the machines that publish their status."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.audit_summary import RENDERERS
from hashclient.cli.options import refuse_lost_directory, whole_output_option
from hashclient.cli.output import json_text, table
from hashclient.cli.outputfile import write_whole
from hashclient.core.errors import ExitCode, HashclientError, UsageError
from hashclient.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from hashclient.fleet.show import Row


@click.group("fleet")
def command() -> None:
    """Show an overview of many machines.

    Each machine publishes a signed status document: `hashclient status --publish WHERE`, or
    `publish` in [fleet] of config.toml. WHERE is a directory or s3://…, gs://… or az://….

    \b
      hashclient fleet trust web-1 KEY                pin the key of a machine
      hashclient fleet show /mnt/fleet                are all machines well?
      hashclient fleet summary web-1.json web-2.json  a year of all machines
    """


where_argument = click.argument("where", metavar="WHERE")


@command.command()
@where_argument
@click.option(
    "--roster",
    type=existing_path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The names of all machines and their keys, as TOML.",
)
@format_option("table", "jsonl", "csv", "prometheus", "html")
@whole_output_option
@pass_app
def show(
    app: App, where: str, roster: Path | None, output_format: str, output: Path | None
) -> ExitCode:
    """Verify all documents, and show each machine with its problems.

    A machine is well if its document has the right signature, is new enough, is not older than an
    earlier document, and reports no problem. This machine keeps the last checkpoint of each audit
    log: so it notices if a log was rolled back. Keys are pinned by a roster or by `fleet trust`. If
    `fleet show` fails, it also replaces the file of -o, by a text about the failure.

    \b
      hashclient fleet show /mnt/fleet
      hashclient fleet show s3://bucket/fleet --roster fleet.toml
      hashclient fleet show /mnt/fleet --format html -o fleet.html

    Exit codes: 0 all machines are well, 3 a machine is missing or silent, 6 a document is forged,
    replayed or of an unknown machine, 9 a machine was rolled back, 10 a match is open, 11 a match
    is open and another problem exists; all codes are in `hashclient --help`.
    """
    from hashclient.cli.alerts import raise_silent
    from hashclient.fleet.show import exit_code, failed
    from hashclient.fleet.writing import headline

    now = app.now()
    try:
        rows = _judged(app, where, roster, now)
    except HashclientError as error:
        if output is not None:
            # The output file is replaced, because an old page would look as if the state had not
            # changed.
            text = _rendered(output_format, [failed(where, error)], error.exit_code, now)
            with contextlib.suppress(HashclientError):
                write_whole(app.out, output, text)
        raise
    # If there is no machine, the exit code is `ExitCode.INCOMPLETE`, because nothing was verified.
    code = exit_code(rows) if rows else ExitCode.INCOMPLETE
    write_whole(app.out, output, _rendered(output_format, rows, code, now))
    (app.warn if code else app.say)(headline(rows))
    absent = {"missing", "silent"}
    raise_silent(app, [row.name for row in rows if absent & {f.word for f in row.findings}])
    return code


def _judged(app: App, where: str, roster: Path | None, now: datetime) -> list[Row]:
    """Return a row for each machine, and store which documents this machine has seen."""
    from hashclient.core.objecturi import is_object_uri
    from hashclient.fleet.document import SUFFIX
    from hashclient.fleet.known import changing, load_roster, pins_of
    from hashclient.fleet.places import place_at
    from hashclient.fleet.show import judge

    if not is_object_uri(where):
        refuse_lost_directory((where,))
    listed = {}
    if roster is not None:
        app.refuse_shared(roster, "roster")
        listed = load_roster(roster)
    place = place_at(where)
    with changing(app.settings.layout) as known:
        pins = pins_of(known.machines, listed)
        return judge(place.read(SUFFIX), pins, known.seen.setdefault(place.id, {}), now)


def _rendered(output_format: str, rows: Sequence[Row], code: ExitCode, now: datetime) -> str:
    from hashclient.fleet import writing

    if output_format == "html":
        return writing.page(rows, code, now)
    if output_format == "prometheus":
        return writing.metrics(rows).rstrip("\n")
    if output_format == "csv":
        return "\n".join(writing.csv_lines(rows))
    if output_format == "jsonl":
        return "\n".join(json_text(row, compact=True) for row in writing.json_rows(rows))
    return "\n".join(table(writing.table_rows(rows)))


@command.command()
@click.argument("name", metavar="NAME")
@click.argument("key", metavar="KEY")
@pass_app
def trust(app: App, name: str, key: str) -> None:
    """Pin the public key of a machine, with a name.

    `hashclient audit verify` on that machine shows the key. A machine that was restored from a
    backup counts as rolled back until you pin its key again: pinning forgets its earlier documents.

    \b
      hashclient fleet trust web-1 KEY
    """
    from hashclient.fleet.known import changing, checked_key, pins_of

    with changing(app.settings.layout) as known:
        known.forget(checked_key(key))
        if not 0 < len(name) <= 255 or not name.isprintable():
            raise UsageError(f"not a name: {printable(name)}", hint="use the name of the machine")
        pins_of(known.machines, {name: key})
        known.machines[name] = key
    app.say(f"pinned: {printable(name)}")


@command.command()
@click.argument("name", metavar="NAME")
@pass_app
def forget(app: App, name: str) -> None:
    """Forget a machine that `fleet trust` has pinned.

    Also remove its published document: otherwise it counts as a document of an unknown machine.

    \b
      hashclient fleet forget web-1
    """
    from hashclient.fleet.known import changing

    with changing(app.settings.layout) as known:
        if name not in known.machines:
            raise UsageError(f"not pinned: {printable(name)}", hint="edit a roster in its file")
        known.forget(known.machines.pop(name))
    app.say(f"forgotten: {printable(name)}")


#: The largest size of a summary, in bytes. A summary has a few kilobytes, and some bytes more for
#: each list, each outage and each gap in the log.
MAX_SUMMARY_BYTES = 16 << 20


@command.command("summary", short_help="Add up the summaries of machines.")
@click.argument(
    "files", metavar="FILE…", nargs=-1, required=True, type=existing_path(dir_okay=False)
)
@format_option("text", "json", "csv", "html")
@whole_output_option
@pass_app
def summary(app: App, files: tuple[Path, ...], output_format: str, output: Path | None) -> None:
    """Add up summaries that `audit summary --format json` has written on many machines.

    All summaries must be of the same period, and each of another log. Counts are added. For times
    between steps, the sum shows the highest median and the highest percentile of all machines.

    \b
      hashclient audit summary --from 2026-01-01 --format json -o web-1.json
      hashclient fleet summary web-1.json web-2.json --format html -o 2026.html
    """
    from hashclient.fleet.summing import add_up, parse_summary
    from hashclient.system.files import read_regular

    found = []
    for path in files:
        try:
            found.append(parse_summary(read_regular(path, MAX_SUMMARY_BYTES)))
        except OSError as error:
            raise UsageError(
                f"cannot read {printable(path)}: {error.strerror}", hint="check the path"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"not a summary of an audit log: {printable(path)}",
                hint="`hashclient audit summary --format json` on that machine writes one",
            ) from error
    write_whole(app.out, output, RENDERERS[output_format](add_up(found)))
