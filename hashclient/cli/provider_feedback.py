"""`provider feedback`: what clients say of the entries, added up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.options import LISTS_OF_REPOSITORY
from hashclient.cli.output import table
from hashclient.cli.provider_options import repo_argument, repository_at
from hashclient.errors import AuditError, ExitCode, HashclientError, LockedError, UsageError
from hashclient.system.text import counted, printable

if TYPE_CHECKING:
    from hashclient.provider.feedback import Tally


@click.command("feedback")
@repo_argument
@click.argument("files", metavar="[FILE…]", nargs=-1, type=existing_path(dir_okay=False))
@click.option(
    "--clients",
    "least",
    type=click.IntRange(1, 10_000),
    default=2,
    show_default=True,
    metavar="N",
    help="Propose entries that at least N clients reject and none confirms.",
)
@click.option(
    "--list",
    "list_name",
    metavar="NAME",
    shell_complete=LISTS_OF_REPOSITORY,
    help="Only entries of this list.",
)
@click.option(
    "--output",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="With --list: write the ids of the proposed entries, for `withdraw --from`.",
)
@format_option("text", "json")
@pass_app
def feedback(
    app: App,
    directory: Path,
    files: tuple[Path, ...],
    least: int,
    list_name: str | None,
    output: Path | None,
    output_format: str,
) -> ExitCode:
    """Take feedback of clients, and add it up.

    A file counts if it is signed by a key that `client key` has noted, is for this repository and
    is newer than the client's last one, which it replaces. So no file counts twice. Entries that
    clients reject are proposed for a withdrawal; nothing is withdrawn here.

    \b
      hashclient provider feedback /srv/lists alice.jsonl bob.jsonl
      hashclient provider feedback /srv/lists --list baseline --output ids.txt
      hashclient provider withdraw /srv/lists --list baseline --from ids.txt

    Exit codes: 0 all files count, 2 one counts already, 6 one does not verify.
    """
    from hashclient.lists.feedback import MAX_FEEDBACK_BYTES
    from hashclient.provider.feedback import take_feedback, tallies
    from hashclient.system.files import read_regular, state_error
    from hashclient.system.outputs import replaced_file

    if output is not None and list_name is None:
        raise UsageError("--output is for one list: name it with --list")
    code, repository = ExitCode.OK, repository_at(app, directory)
    taken = []
    for path in files:
        try:
            name, one = take_feedback(repository, read_regular(path, MAX_FEEDBACK_BYTES))
        except OSError as error:
            raise state_error("cannot read", path, error) from error
        except (AuditError, LockedError):
            raise
        except HashclientError as error:
            code = max(code, error.exit_code)
            app.fail(f"{printable(path)}: {error.message}", error.hint)
            continue
        taken.append({"client": name, "made": one.made, "entries": len(one.entries)})
        app.say(f"client {name}: {counted(len(one.entries), 'entry', 'entries')}")
    found = [t for t in tallies(repository, least) if list_name in (None, t.list)]
    proposed = [t for t in found if t.proposed]
    document = {"taken": taken, "entries": found}
    app.show(output_format, document, _table(found), nothing="no client has said anything yet")
    if output is not None:
        with replaced_file(output) as stream:
            stream.write("".join(f"{t.entry}\n" for t in proposed).encode())
    if proposed:
        count = counted(len(proposed), "entry", "entries")
        app.say(
            f"proposed for a withdrawal: {count}: `hashclient provider withdraw"
            f" {printable(directory)} --list {list_name or 'LIST'}"
            f" --from {printable(output or 'FILE')}`"
        )
    return code


def _table(found: list[Tally]) -> list[str]:
    heads = ["LIST", "ENTRY", "CLIENTS", "CONFIRMED", "REJECTED", "EXCEPTED", "HELD", ""]
    rows = [
        [
            t.list,
            printable(t.entry),
            *(str(n) for n in (t.clients, t.confirmed, t.rejected, t.excepted, t.held)),
            "proposed" if t.proposed else "" if t.listed else "not listed any more",
        ]
        for t in found
    ]
    return [*table([heads, *rows])] if rows else []
