"""Shows exceptions, and copies them to other machines (`exceptions export`, `import`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.options import written_option
from hashclient.cli.output import facts
from hashclient.core.errors import ExitCode, StateError, UsageError
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.decisions.rulings import Ruling


def with_obstacles(app: App, rulings: Sequence[Ruling]) -> list[tuple[Ruling, str | None]]:
    """Return each ruling with the reason why it has no effect now, or with None."""
    from hashclient.decisions.exceptions import Exceptions

    try:
        ruler = Exceptions.of(app.session, app.session.open_lists())
    except StateError as error:
        return [(ruling, error.message) for ruling in rulings]
    return [(ruling, ruler.obstacle(ruling)) for ruling in rulings]


def waiting(ruling: Ruling) -> str | None:
    """Return the reason why a new ruling has no effect yet; None if it takes effect at once."""
    from hashclient.decisions.rulings import WAITS

    return WAITS if ruling.waits else None


def state_of(ruling: Ruling, obstacle: str | None) -> str:
    """Return a text that says until when a ruling has effect, or why it has no effect."""
    if obstacle is None:
        return f"until {for_people(ruling.until)}"
    return f"not yet: {obstacle}" if obstacle == waiting(ruling) else f"no more: {obstacle}"


def lines_of(shown: Sequence[tuple[Ruling, str | None]]) -> Iterator[str]:
    """Yield a line for each ruling, with its end, or with the reason why it has no effect."""
    for ruling, obstacle in shown:
        about = f"{ruling.about}  {printable(ruling.reason)}"
        yield f"{ruling.id}  {state_of(ruling, obstacle)}  {about}"


def facts_of(ruling: Ruling, obstacle: str | None) -> Iterator[str]:
    """Yield the lines that show all fields of a ruling."""
    yield f"exception {ruling.id}"
    yield from facts(
        (
            ("about", ruling.about),
            ("counts", state_of(ruling, obstacle)),
            ("reason", printable(ruling.reason)),
            ("by", printable(ruling.by)),
            ("approved by", printable(ruling.approved_by)),
            ("made", for_people(ruling.made_at)),
        )
    )


def document_of(ruling: Ruling, obstacle: str | None) -> dict[str, Any]:
    """Return a ruling as a JSON object."""
    from hashclient.decisions.keeping import fields_of

    return {**fields_of(ruling), "counts": obstacle is None, "obstacle": obstacle}


@click.command("export")
@written_option
@format_option("text", "json")
@pass_app
def export(app: App, output: Path, output_format: str) -> None:
    """Write the valid exceptions of entries into a signed file, for other machines.

    The file has the lists and ids of the entries, with reason, author and end. Exceptions of files
    and exceptions below a path only count on this machine, so the file has no digest and no path.
    The key of the audit log signs the file. `hashclient audit verify` shows this key: add it to
    `trusted` in [decisions] on the other machines. Each file has all exceptions, and replaces
    earlier files.

    \b
      hashclient exceptions export --output exceptions.jsonl
    """
    from hashclient.decisions.sharing import make_export
    from hashclient.system.outputs import replaced_file

    made, data, stays = make_export(app.session, app.session.open_lists())
    with replaced_file(output) as stream:
        stream.write(data)
    count = counted(len(made.exceptions), "exception")
    app.show(
        output_format,
        {
            "output": output,
            "version": made.version,
            "exceptions": [shared.id for shared in made.exceptions],
            "stays": [ruling.id for ruling in stays],
        },
        f"written: {printable(output)}: {count}, version {made.version}",
    )
    for ruling in stays:
        app.say(f"not exported, since it only counts on this machine: {ruling.id}, {ruling.about}")


@click.command("import")
@click.argument("source", metavar="FILE|ADDRESS")
@click.option(
    "--token-file",
    metavar="FILE",
    type=existing_path(dir_okay=False),
    help="File with a bearer token for an https address.",
)
@click.option(
    "--ca",
    metavar="FILE",
    type=existing_path(dir_okay=False),
    help="CA of the certificate at an https address (PEM), if the system does not know it.",
)
@format_option("text", "json")
@pass_app
def import_(
    app: App, source: str, token_file: Path | None, ca: Path | None, output_format: str
) -> ExitCode:
    """Take the exceptions that another machine has exported, from a file or an https address.

    A key in `trusted` of [decisions] must have signed the file. The file replaces the exceptions
    from earlier files of this key. An older file is refused; the same file again changes nothing.
    An exception for an entry that is on no list here has no effect: import the file again when the
    list is here. Recorded matches without an action so far are excepted at once.

    \b
      hashclient exceptions import exceptions.jsonl
      hashclient exceptions import https://decisions.example.org/exceptions.jsonl

    Exit codes: 0 all exceptions are here, 3 some were left out, 4 the address cannot be reached, 6
    refused: the file is not signed by a trusted key, is older than an earlier file, or has a date
    in the future.
    """
    from hashclient.decisions.exceptions import Exceptions
    from hashclient.decisions.sharing import import_exceptions
    from hashclient.scan.run.release import except_open

    lists = app.session.open_lists()
    done = import_exceptions(app.session, lists, _read(source, token_file, ca))
    number = except_open(app.session, Exceptions.of(app.session, lists).rule)
    shown = with_obstacles(app, done.rulings)
    document = {
        "key": done.name,
        "version": done.version,
        "new": done.is_new,
        "exceptions": [document_of(*one) for one in shown],
        "left_out": done.left_out,
        "matches_excepted": number,
    }
    about = f"version {done.version} of {done.name}"
    nothing = f"{about} has no exception"
    app.show(output_format, document, lines_of(shown), nothing=nothing)
    if not done.is_new:
        app.say(f"{about} was imported before: no exception is new")
    for text in done.left_out:
        app.say(f"left out: {printable(text)}")
    if number:
        app.say(f"excepted: {counted(number, 'match')} on record")
    return ExitCode.INCOMPLETE if done.left_out else ExitCode.OK


def _read(source: str, token_file: Path | None, ca: Path | None) -> bytes:
    from hashclient.config.tables import AccessConfig
    from hashclient.decisions.sharing import MAX_EXPORT_BYTES
    from hashclient.fetch.places import read_address
    from hashclient.system.files import read_regular

    if "://" in source:
        access = AccessConfig(
            token_file=str(token_file) if token_file else None, ca=str(ca) if ca else None
        )
        return read_address(source, access, MAX_EXPORT_BYTES)
    try:
        return read_regular(Path(source), MAX_EXPORT_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {printable(source)}: {error.strerror}") from error
