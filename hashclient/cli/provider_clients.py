"""`provider client` and `provider feedback`: manage clients, their tokens and feedback."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.options import LISTS_OF_REPOSITORY, together
from hashclient.cli.output import table
from hashclient.cli.provider_options import repo_argument, repository_at
from hashclient.core.errors import AuditError, ExitCode, HashclientError, LockedError, UsageError
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.provider.access import Given
    from hashclient.provider.clients import Client
    from hashclient.provider.feedback import Tally


#: A warning is shown for a token that expires within this time.
SOON = timedelta(days=30)


@click.group("client")
def client() -> None:
    """Manage the clients that may fetch; each has a bearer token.

    The repository only keeps hashes of tokens, so a token is shown only once, when it is made.
    `serve` accepts a new client immediately; a web server needs a new configuration, which
    `server-config` makes.

    \b
      hashclient provider client add /srv/lists alice --output alice.token
      hashclient provider client rotate /srv/lists alice --output alice.token.2
      hashclient provider client revoke /srv/lists alice
    """


_name = click.argument("name")


#: The options for the file and the validity of a token.
_token_options = together(
    click.option(
        "--output",
        type=existing_path(dir_okay=False, allow_dash=True),
        metavar="FILE",
        required=True,
        help="The new file for the token; - writes it to stdout, to encrypt it with another "
        "program.",
    ),
    click.option(
        "--valid-days",
        type=click.IntRange(1, 3650),
        metavar="N",
        default=365,
        show_default=True,
        help="How long the token is valid.",
    ),
)


_lists_option = click.option(
    "--list",
    "lists",
    metavar="NAME",
    multiple=True,
    shell_complete=LISTS_OF_REPOSITORY,
    help="A list that the client may fetch. Can be given several times. [default: all]",
)


@client.command("add")
@repo_argument
@_name
@_lists_option
@click.option(
    "--key", metavar="KEY", help="The client's public key for feedback, as with `client key`."
)
@_token_options
@format_option("text", "json")
@pass_app
def add(
    app: App,
    directory: Path,
    name: str,
    lists: tuple[str, ...],
    key: str | None,
    output: Path,
    valid_days: int,
    output_format: str,
) -> None:
    """Allow a client to fetch, and write its token into a file.

    NAME appears in logs, and names the client in the other commands. If the client was revoked, it
    may fetch again, with a new token. Give the file to the client by a way that others cannot read,
    then delete it.

    \b
      hashclient provider client add /srv/lists alice --output alice.token
      hashclient provider client add /srv/lists carol --list baseline \\
            --output carol.token
      hashclient provider client add /srv/lists bob --output - \\
            | age -r age1… > bob.age
    """
    from hashclient.provider.access import add_client

    _check_output(output, output_format)
    given = add_client(
        *(repository_at(app, directory), name, timedelta(days=valid_days), _file(output)),
        tuple(dict.fromkeys(lists)) or None,
        key,
    )
    _show_done(app, directory, given, output, output_format)


@client.command("rotate")
@repo_argument
@_name
@_token_options
@click.option(
    "--overlap-days",
    type=click.IntRange(0, 365),
    metavar="N",
    default=7,
    show_default=True,
    help="Days for which the old token is still valid; 0 if the token may have leaked.",
)
@format_option("text", "json")
@pass_app
def rotate(
    app: App,
    directory: Path,
    name: str,
    output: Path,
    valid_days: int,
    overlap_days: int,
    output_format: str,
) -> None:
    """Give a client a new token; the old token expires some days later.

    \b
      hashclient provider client rotate /srv/lists alice --output alice.token.2
      hashclient provider client rotate /srv/lists bob --output b --overlap-days 0
    """
    from hashclient.provider.access import rotate_client

    _check_output(output, output_format)
    given = rotate_client(
        repository_at(app, directory),
        name,
        timedelta(days=valid_days),
        timedelta(days=overlap_days),
        _file(output),
    )
    _show_done(app, directory, given, output, output_format)


@client.command("revoke")
@repo_argument
@_name
@format_option("text", "json")
@pass_app
def revoke(app: App, directory: Path, name: str, output_format: str) -> None:
    """Remove a client's right to fetch.

    The client's tokens are deleted; its name stays in `client list`. The client keeps the lists
    that it has fetched.

    \b
      hashclient provider client revoke /srv/lists alice
    """
    from hashclient.provider.access import revoke_client

    revoke_client(repository_at(app, directory), name)
    app.show(output_format, {"client": name, "revoked": True}, f"client {name}: revoked")
    _say_reload(app, directory)


@client.command("lists")
@repo_argument
@_name
@_lists_option
@format_option("text", "json")
@pass_app
def lists(app: App, directory: Path, name: str, lists: tuple[str, ...], output_format: str) -> None:
    """Set the lists that a client may fetch.

    Without --list, the client may fetch all lists.

    To the client, other lists seem not to be offered. The client keeps the lists that it has
    fetched.

    \b
      hashclient provider client lists /srv/lists alice --list baseline
    """
    from hashclient.provider.access import set_lists

    wanted = tuple(dict.fromkeys(lists)) or None
    set_lists(repository_at(app, directory), name, wanted)
    text = f"client {name}: {', '.join(wanted or ['all lists'])}"
    app.show(output_format, {"client": name, "lists": wanted}, text)
    _say_reload(app, directory)


@client.command("key")
@repo_argument
@_name
@click.argument("key", metavar="KEY")
@format_option("text", "json")
@pass_app
def note_key(app: App, directory: Path, name: str, key: str, output_format: str) -> None:
    """Record the public key that signs the feedback of a client.

    This key signs the client's audit log: `hashclient audit verify` shows it on the client. Get the
    key by a way that you trust; a new key replaces the old key.

    \b
      hashclient provider client key /srv/lists alice 8f3c…
    """
    from hashclient.provider.access import note_key

    note_key(repository_at(app, directory), name, key)
    app.show(output_format, {"client": name, "feedback_key": key}, f"client {name}: key noted")


@client.command("list")
@repo_argument
@format_option("text", "json")
@pass_app
def list_clients(app: App, directory: Path, output_format: str) -> None:
    """Show all clients, and the date until which each may fetch.

    \b
      hashclient provider client list /srv/lists
    """
    from hashclient.provider.access import all_clients

    clients, now = all_clients(repository_at(app, directory)), app.now()
    documents = [
        {
            "name": c.name,
            "state": _state(c, app),
            "added": c.added,
            "revoked": c.revoked,
            "feedback_key": c.feedback_key,
            "lists": c.lists,
            "tokens": [{"id": t.id, "made": t.made, "expires": t.expires} for t in c.tokens],
        }
        for c in clients
    ]
    rows = [
        [
            c.name,
            _state(c, app),
            str(len(c.valid_tokens(now))),
            "-" if (expires := c.expires()) is None else for_people(expires),
            "all" if c.lists is None else ", ".join(c.lists),
        ]
        for c in clients
    ]
    text = table([["CLIENT", "STATE", "TOKENS", "EXPIRES", "LISTS"], *rows]) if rows else ()
    app.show(output_format, {"clients": documents}, text, nothing="no client yet", indent=2)
    for c in clients:
        expires = c.expires()
        if expires is not None and expires < now + SOON:
            what = "has expired" if expires <= now else "expires soon"
            app.warn(
                f"the token of client {c.name} {what}: {for_people(expires)}",
                hint="`hashclient provider client rotate` gives the client a new token",
            )


def _file(output: Path) -> Path | None:
    return None if str(output) == "-" else output


def _check_output(output: Path, output_format: str) -> None:
    if str(output) == "-" and output_format != "text":
        raise UsageError("the token goes to stdout, so --format json cannot be used")


def _show_done(app: App, directory: Path, given: Given, output: Path, output_format: str) -> None:
    """Print the path of the file with a new token; with `--output -`, print the token."""
    document = {"client": given.client, "token_file": output, "expires": given.expires}
    until = f"valid until {for_people(given.expires)}"
    text = f"client {given.client}: token in {printable(output)}, {until}"
    app.show(output_format, document, given.token if str(output) == "-" else text)
    app.say(
        "give the file to the client by a way that others cannot read; only a hash of the "
        "token stays here"
    )
    _say_reload(app, directory)


def _say_reload(app: App, directory: Path) -> None:
    app.say(
        "hint: a web server needs a new configuration for this: `hashclient provider"
        f" server-config nginx {printable(directory)} …`"
    )


def _state(c: Client, app: App) -> str:
    if c.revoked is not None:
        return "revoked"
    return "valid" if c.valid_tokens(app.now()) else "expired"


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
    help="Propose entries that at least N clients reject and no client confirms.",
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
    """Read feedback files of clients, and add up the counts.

    A file is accepted if it is signed by a key that `client key` has recorded, if it is for this
    repository, and if it is newer than the client's last file. The new file replaces the last file,
    so that no file counts twice. Entries that clients reject are proposed for withdrawal; this
    command withdraws nothing.

    \b
      hashclient provider feedback /srv/lists alice.jsonl bob.jsonl
      hashclient provider feedback /srv/lists --list baseline --output ids.txt
      hashclient provider withdraw /srv/lists --list baseline --from ids.txt

    Exit codes: 0 all files count, 2 a file counts already, 6 a file does not verify.
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
    app.show(output_format, document, _table(found), nothing="no client has sent feedback yet")
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
