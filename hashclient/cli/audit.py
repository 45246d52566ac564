"""`hashclient audit`: shows and verifies the audit log, and makes checkpoints of the log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.audit_summary import summary
from hashclient.cli.options import TIME, together
from hashclient.cli.output import json_text
from hashclient.cli.outputfile import replace
from hashclient.core.errors import StateError, UsageError
from hashclient.system.descriptors import open_input
from hashclient.system.text import path_of, printable

if TYPE_CHECKING:
    from hashclient.audit.log import Record, Report
    from hashclient.audit.record import Checkpoint

#: The number of records that the format `text` shows by default; the format `jsonl` shows all
#: records.
DEFAULT_LIMIT = 50
#: A limit that no log reaches: it is larger than the number of records of any log.
MAX_LIMIT = 1_000_000_000


@click.group(name="audit")
def command() -> None:
    """Show and verify the log of fetches, scans and matches.

    Each record holds the hash of the record before it, and the log is signed, so every change can
    be noticed. A checkpoint on another machine also shows whether the end was cut off or the whole
    log replaced.

    \b
      hashclient audit show --event match           recent matches
      hashclient audit verify                       is the log intact?
      hashclient audit checkpoint -o today.json     keep this file elsewhere
      hashclient audit rotate                       continue in a new file
      hashclient audit summary --from 2026-01-01    what happened since
    """


command.add_command(summary)


checkpoint_option = click.option(
    "--checkpoint",
    "checkpoint_path",
    type=existing_path(exists=True, dir_okay=False),
    metavar="FILE",
    help="An earlier checkpoint; the log must still hold its record, unchanged.",
)
output_option = click.option(
    "-o",
    "--output",
    type=existing_path(dir_okay=False, allow_dash=True),
    default="-",
    metavar="FILE",
    show_default=True,
    help="Where to write the checkpoint; - is stdout.",
)


#: The options that choose records and the format in which the records are shown.
records_options = together(
    format_option("text", "jsonl", help="text for people; jsonl: the records as they are."),
    click.option(
        "--event",
        "events",
        multiple=True,
        metavar="EVENT",
        help="Only records of this event. Can be given several times.",
    ),
    click.option("--since", type=TIME, metavar="TIME", help="Only records from TIME on, in UTC."),
    click.option(
        "--limit",
        type=click.IntRange(1, MAX_LIMIT),
        metavar="N",
        help=f"Only the newest N records. [default: {DEFAULT_LIMIT} as text, all as jsonl]",
    ),
)


@command.command()
@records_options
@pass_app
def show(
    app: App,
    output_format: str,
    events: tuple[str, ...],
    since: datetime | None,
    limit: int | None,
) -> None:
    """Print records of the log, the oldest record first.

    This does not check whether the log is intact; `hashclient audit verify` does.

    \b
      hashclient audit show --event match --event conflict --since 2026-01-31
    """
    show_records(app, app.settings.layout.audit, output_format, events, since, limit)


def show_records(
    app: App,
    directory: Path,
    output_format: str,
    events: tuple[str, ...],
    since: datetime | None,
    limit: int | None,
) -> None:
    """Print records of the log in `directory`.

    Raises:
        AuditError: a record is damaged.
        StateError: no log exists yet.
    """
    from hashclient.audit.log import read

    if limit is None and output_format == "text":
        limit = DEFAULT_LIMIT
    record, shown = None, set()
    for record in read(directory, event=events or None, since=since, limit=limit):
        shown.add(record.event)
        app.out(_text(record) if output_format == "text" else record.line.decode())
    if record is None:
        app.say("no record fits the options")
    if wanted := set(events) - shown:
        # A misspelt name of an event is refused, because an empty output would mean that the event
        # has not happened.
        known = {record.event for record in read(directory)}
        for event in sorted(wanted - known):
            events_here = ", ".join(map(printable, sorted(known)))
            app.say(f"hint: the log has no event {printable(event)}; it has {events_here}")


@command.command()
@checkpoint_option
@click.option(
    "--against",
    metavar="WHERE",
    help="A directory, or s3://…, gs://… or az://…, with checkpoints or published status documents:"
    " for each document of this log, the log must still hold its record.",
)
@format_option("text", "json")
@pass_app
def verify(app: App, checkpoint_path: Path | None, against: str | None, output_format: str) -> None:
    """Check every record of the log.

    The exit code is 0 if the log is intact, and 9 if it is not.

    \b
      hashclient audit verify --checkpoint /mnt/elsewhere/today.json
      hashclient audit verify --against /mnt/fleet
    """
    show_verified(app, app.settings.layout.audit, checkpoint_path, output_format, against)


def show_verified(
    app: App,
    directory: Path,
    checkpoint_path: Path | None,
    output_format: str,
    against: str | None = None,
) -> None:
    """Verify the log in `directory`, and show the key and the last record of the log.

    Raises:
        AuditError: the log does not verify.
        StateError: no log exists yet.
    """
    from hashclient.audit.log import verify as verify_log

    checkpoint = None if checkpoint_path is None else _read_checkpoint(checkpoint_path)
    others = [] if against is None else _checkpoints(directory, against)
    report = verify_log(directory, checkpoint, others=others)
    has_checkpoint = checkpoint is not None or bool(others)
    document = {**_values(report), "checkpoint": has_checkpoint, "against": len(others)}
    app.show(output_format, document, _verified(report, has_checkpoint=has_checkpoint))
    if not has_checkpoint and output_format == "text":
        app.say("hint: only a checkpoint kept elsewhere shows that the end was cut off")


def _checkpoints(directory: Path, where: str) -> list[Checkpoint]:
    from hashclient.audit.reading import identity_of
    from hashclient.fleet.places import checkpoints_at, place_at

    return checkpoints_at(place_at(where), identity_of(directory))


def _verified(report: Report, *, has_checkpoint: bool) -> Iterator[str]:
    """Yield the lines about a log that is intact."""
    yield "the audit log is intact"
    shown = _values(report)
    for name in ("first_segment", "segment", "ends_closed"):
        del shown[name]
    if report.segment > 1:
        shown["files"] = report.segment - report.first_segment + 1
    if report.archived_seq:
        gone = (
            f"file {report.first_segment - 1}"
            if report.first_segment == 2
            else (f"files 1 to {report.first_segment - 1}")
        )
        shown["archived"] = f"{gone}: records 1 to {report.archived_seq}"
    else:
        del shown["archived"]
    if report.is_closed:
        shown["end"] = f"file {report.segment} is closed: if another file followed, it is missing"
    if has_checkpoint:
        shown["checkpoint"] = "holds"
    for name, value in shown.items():
        yield f"  {name.replace('_', ' '):<11} {value}"


@command.command()
@output_option
@pass_app
def checkpoint(app: App, output: Path) -> None:
    """Print a signed statement of the log's last record.

    The log is verified first. Keep the statement on another machine, where nobody who can change
    this log can change the statement.

    \b
      hashclient audit checkpoint | ssh elsewhere 'cat > $(date +%F).json'
    """
    write_checkpoint(app, app.settings.layout.audit, output)


def write_checkpoint(app: App, directory: Path, output: Path) -> None:
    """Write a checkpoint of the log in `directory`; `-` means stdout.

    Raises:
        AuditError: the log does not verify.
        StateError: no log exists yet, or `output` cannot be written and stays unchanged.
        UsageError: `output` must not be written, see `replaced_file`.
    """
    from hashclient.audit.log import checkpoint as make_checkpoint

    document = make_checkpoint(directory)
    if str(output) == "-":
        app.out(document.decode().rstrip("\n"))
        return
    replace(output, document)


@command.command("rotate")
@format_option("text", "json")
@pass_app
def rotate(app: App, output_format: str) -> None:
    """Close the file of the log, and continue in a new file.

    A new file is begun automatically when the file reaches the size audit_mib of [keep] in
    config.toml. Closed files still belong to the log, and `verify` checks all of them. The oldest
    files may be moved to an archive; a file in the middle must stay. `verify` says which files are
    missing.

    \b
      hashclient audit rotate
    """
    layout = app.settings.layout
    if not layout.audit.is_dir():
        raise StateError(
            f"no audit log yet: {printable(layout.audit)}",
            hint="it starts with the first fetch or scan; or check --state-dir",
        )
    rotated = app.session.audit.rotate()
    if rotated is None:
        nothing = "nothing was recorded since the last file was closed"
        app.show(output_format, {"closed": None}, (), nothing=nothing)
        return
    name, last = rotated.path.name, rotated.last
    closed = {"segment": rotated.number, "file": name, "seq": last.seq, "hash": last.hash}
    text = f"closed {name}, which ends with record {last.seq}"
    app.show(output_format, {"closed": closed}, text)


def _read_checkpoint(path: Path) -> bytes:
    from hashclient.audit.record import MAX_CHECKPOINT_BYTES

    try:
        with os.fdopen(open_input(path), "rb") as stream:
            return stream.read(MAX_CHECKPOINT_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the checkpoint: {printable(path)}: {error.strerror}"
        ) from error


def _values(report: Report) -> dict[str, Any]:
    return {
        "records": report.records,
        "first_time": _time(report.first_time),
        "last_time": _time(report.last_time),
        "seq": report.seq,
        "hash": report.hash,
        "log_id": report.log_id,
        "public_key": report.public_key,
        "first_segment": report.first_segment,
        "segment": report.segment,
        "ends_closed": report.is_closed,
        "archived": None
        if report.archived_hash is None
        else {"seq": report.archived_seq, "hash": report.archived_hash},
    }


def _text(record: Record) -> str:
    data = dict(record.data)
    if record.event == "segment":
        # the field `genesis` is not shown, because only programs that verify the log need it
        data.pop("genesis", None)
    raw = data.pop("path_b64", None)
    if isinstance(raw, str):
        data["path"] = _path(raw, data.get("path"))
    fields = " ".join(f"{printable(key)}={_value(value)}" for key, value in data.items())
    event = printable(record.event)
    return f"{record.seq:>6}  {_time(record.time)}  {event:<19}  {fields}".rstrip()


def _path(encoded: str, text: Any) -> Any:
    """Return the path that `path_fields` encoded; return `text` if `encoded` is not valid."""
    try:
        return path_of("", encoded)
    except ValueError:
        return text


def _value(value: Any) -> str:
    if not isinstance(value, str):
        return json_text(value, compact=True)
    shown = printable(value)
    return f'"{shown}"' if not shown or " " in shown else shown


def _time(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
