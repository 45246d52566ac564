"""`provider`: make, change and try a repository of signed hash lists."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.importing import (
    check_category,
    make_reading,
    open_files,
    publishing_options,
    reading_options,
    say_remarks,
)
from hashclient.cli.provider_ask import diff, find, show
from hashclient.cli.provider_clients import client, server_config
from hashclient.cli.provider_drafts import draft
from hashclient.cli.provider_export import command as export
from hashclient.cli.provider_keys import key
from hashclient.cli.provider_list import command as list_group
from hashclient.cli.provider_log import log
from hashclient.cli.provider_notice import command as notice
from hashclient.cli.provider_options import (
    draft_option,
    key_options,
    keys_wanted,
    list_option,
    public_key_option,
    repo_argument,
    repository_at,
    say_draft,
    warn_closed,
    warn_expiring,
)
from hashclient.cli.provider_passphrase import new_passphrase, passphrase_option, passphrases
from hashclient.cli.provider_roles import renew, rotate
from hashclient.cli.provider_view import show_change, status_text, warn_doubles
from hashclient.cli.signals import Terminated
from hashclient.errors import ExitCode, UsageError
from hashclient.system.text import printable


@click.group("provider")
def command() -> None:
    """Make, change and try a repository of signed hash lists.

    This is the side of the provider: the body that decides what is listed. REPO is a
    directory; its `public/` goes behind a web server, its `keys/` never leave the machine, its
    `root.json` is handed to clients by a way they trust.

    \b
      hashclient provider init /srv/lists
      hashclient provider publish /srv/lists --list baseline entries.csv
      hashclient provider serve /srv/lists              try it on this machine
      hashclient provider renew /srv/lists              every day, from cron
    """


@command.command("init")
@repo_argument
@key_options("the root role")
@click.option("--encrypt-keys", is_flag=True, help="Put all keys under a passphrase.")
@click.option(
    "--passphrase-file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="That passphrase. [default: asked for at the terminal]",
)
@format_option("text", "json")
@pass_app
def init(
    app: App,
    directory: Path,
    keys: int,
    threshold: int,
    encrypt_keys: bool,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Make a repository in the new or empty directory REPO.

    Give the root role several keys and a threshold when nobody alone should be able to replace
    all other keys. The root's keys are needed for `rotate` and once in half a year for `renew`:
    in between, keep their files (REPO/keys/root-*.pem) offline. With --encrypt-keys, new keys that
    other commands make later are under the passphrase of those that they go with, too.

    \b
      hashclient provider init /srv/lists --keys 3 --threshold 2
    """
    from hashclient.provider.keys import Keys

    repository = repository_at(app, directory)
    if passphrase_file is not None and not encrypt_keys:
        raise UsageError("--passphrase-file is of use with --encrypt-keys only")
    passphrase = new_passphrase(passphrase_file) if encrypt_keys else None
    repository.create(root_keys=Keys(keys, threshold), passphrase=passphrase)
    root_sha256 = repository.status().root_sha256
    document = {"root": repository.root_file.absolute(), "root_sha256": root_sha256}
    app.show(output_format, document, printable(repository.root_file))
    app.say("hand this file to clients by a way they trust; then `publish` a list")
    app.say(
        f"every account of this machine may read {printable(repository.public)}, as a web server"
        " has to; keys/ is yours alone"
    )
    warn_closed(app, repository)


@command.command("publish", short_help="Add the entries of FILE... to a list.")
@repo_argument
@list_option
@click.argument("files", metavar="FILE…", nargs=-1, required=True)
@reading_options
@publishing_options
@click.option(
    "--replace",
    is_flag=True,
    help="The files are the whole list: withdraw entries that they lack, keep equal entries.",
)
@click.option("--new-list", is_flag=True, help="Make a list of that name, beside others.")
@click.option("--dry-run", is_flag=True, help="Check all of it, and publish nothing.")
@key_options("a new list")
@public_key_option
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def publish(
    app: App,
    directory: Path,
    list_name: str,
    files: tuple[str, ...],
    where: str | None,
    columns: tuple[str, ...],
    category: str | None,
    category_map: Path | None,
    known_good: tuple[str, ...],
    max_bad: int,
    replace: bool,
    new_list: bool,
    dry_run: bool,
    passphrase_file: Path | None,
    output_format: str,
    keys: int,
    threshold: int,
    public_keys: tuple[Path, ...],
    draft: Path | None,
) -> None:
    """Add the entries of FILE... to a list, as its next generation.

    A FILE is CSV or TSV with a header (entry_id, md5, sha1, sha256, size, category, added; one
    digest column at least), an ICSE export, VICS JSON of Project VIC or CAID, NCMEC hash sharing
    XML, JSONL, Parquet, output of md5sum, sha1sum, sha256sum or hashdeep, ClamAV signatures (.hdb,
    .hsb), the NSRL database (RDSv3) or NSRLFile.txt, or one digest a line; in gzip or zstd, too;
    `-` is standard input. docs/import.md describes them all. An entry without an id gets one. All
    is checked first: with more than --max-bad rows that cannot be used, digests of the empty file
    among them, nothing is published. Entries whose digests are listed before are published, and
    counted.

    The first publication makes the list and its keys; beside other lists it wants --new-list. A
    file that was published before adds nothing. With --public-key, the keys of the list are those
    of people, who sign apart: they are given a --draft.

    \b
      hashclient provider publish /srv/lists --list baseline entries.csv
      hashclient provider publish /srv/lists --list baseline \\
            --where 'Baseline = true' icse.csv
      sha256sum * | hashclient provider publish /srv/lists --list local -
    """
    check_category(category)
    if draft is not None and dry_run:
        raise UsageError("give either --draft or --dry-run")
    if replace and max_bad:
        raise UsageError(
            "--replace takes no --max-bad: skipped entries would be withdrawn",
            hint="see to the rows that cannot be used first",
        )
    reading = make_reading(where, columns, category_map=category_map, max_bad=max_bad)
    repository = repository_at(app, directory, passphrases(passphrase_file))
    done = repository.publish(
        list_name,
        open_files(files, sys.stdin.buffer),
        list_keys=keys_wanted(keys, threshold, public_keys),
        reading=reading,
        category=category,
        known_good=open_files(known_good, sys.stdin.buffer) if known_good else None,
        replace=replace,
        dry_run=dry_run,
        draft=draft,
        may_be_new=new_list,
        again=False,
    )
    remarks = reading.remarks
    more: dict[str, Any] = {
        "listed_before": done.listed.count if done.listed else 0,
        "repeated": done.repeated.count if done.repeated else 0,
        "withdrawn": done.withdrawn,
        "not_meant": remarks.not_meant,
        "skipped": [{"at": place, "reason": what} for place, what in remarks.skipped],
        "dry_run": dry_run,
        "draft": draft if draft and draft.exists() else None,
    }
    what = "would be added" if dry_run or draft else "added"
    show_change(app, done, what, output_format, more, with_withdrawn=replace)
    say_remarks(app, reading)
    if not (done.changed or done.withdrawn):
        app.say("all of it is listed already: nothing was published")
    warn_doubles(app, done, dry_run=dry_run or draft is not None)
    say_draft(app, draft)
    if not dry_run and draft is None:
        warn_expiring(app, repository)


@command.command("withdraw")
@repo_argument
@list_option
@click.argument("entry_ids", metavar="[ENTRY_ID…]", nargs=-1)
@click.option("--from", "files", metavar="FILE", multiple=True, help="Ids, one a line; - is stdin.")
@click.option(
    "--generation",
    type=click.IntRange(1, 2**53 - 1),
    metavar="N",
    help="All entries that this generation added.",
)
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def withdraw(
    app: App,
    directory: Path,
    list_name: str,
    entry_ids: tuple[str, ...],
    files: tuple[str, ...],
    generation: int | None,
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Take entries off a list, as its next generation.

    It is one generation, however many entries they are.

    \b
      hashclient provider withdraw /srv/lists --list baseline 2024-017 2024-018
      hashclient provider withdraw /srv/lists --list baseline --from ids.txt
      hashclient provider withdraw /srv/lists --list baseline --generation 7
    """
    if (bool(entry_ids), bool(files), generation is not None).count(True) != 1:
        raise UsageError("give either ENTRY_ID…, or --from, or --generation")
    repository = repository_at(app, directory, passphrases(passphrase_file))
    if files:
        from hashclient.provider.ids import read_ids

        entry_ids = tuple(read_ids(open_files(files, sys.stdin.buffer)))
    done = repository.withdraw(list_name, entry_ids, generation=generation, draft=draft)
    what = "would be withdrawn" if draft else "withdrawn"
    show_change(app, done, what, output_format, {"draft": draft})
    say_draft(app, draft)
    warn_expiring(app, repository)


@command.command("consolidate")
@repo_argument
@list_option
@click.option(
    "--keep-newest",
    type=click.IntRange(0, 1_000_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Leave the newest N generations as they are.",
)
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def consolidate(
    app: App,
    directory: Path,
    list_name: str,
    keep_newest: int,
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Join small segments of a list into few larger ones.

    The list stays the same, and new clients download less. Clients that are up to date download
    nothing; those that were away for more than N generations may build the list again. Once a
    day, from cron, is enough.

    \b
      hashclient provider consolidate /srv/lists --list baseline
    """
    repository = repository_at(app, directory, passphrases(passphrase_file))
    done = repository.consolidate(list_name, keep_newest=keep_newest, draft=draft)
    joined = f"{done.before} segments -> {done.after}"
    text = f"list {done.list_name}: generation {done.generation}: {joined}"
    app.show(output_format, done, text)
    say_draft(app, draft)
    warn_expiring(app, repository)


@command.command("status")
@repo_argument
@format_option("text", "json")
@pass_app
def status(app: App, directory: Path, output_format: str) -> ExitCode:
    """Show the roles, until when each is valid, and the lists.

    Warns of roles that expire soon: of those with less than a quarter of their time left. Warns,
    too, when REPO/public cannot be read by other accounts, that of a web server among them.

    \b
      hashclient provider status /srv/lists

    Exit codes: 0 all roles are valid, 7 one has expired; all are in `hashclient --help`.
    """
    repository = repository_at(app, directory)
    found = repository.status()
    app.show(output_format, found, status_text(found, app.now()), indent=2)
    warn_closed(app, repository)
    return ExitCode.STALE if warn_expiring(app, repository) else ExitCode.OK


@command.command("serve")
@repo_argument
@click.option(
    "--bind",
    metavar="HOST:PORT",
    default="127.0.0.1:0",
    show_default=True,
    help="A loopback address; port 0 takes a free one.",
)
@format_option("text", "json")
@click.option("-v", "--verbose", is_flag=True, help="Log requests to stderr.")
@pass_app
def serve(app: App, directory: Path, bind: str, output_format: str, verbose: bool) -> None:
    """Serve REPO on this machine, to try a client against it.

    HTTPS with a certificate and a bearer token made for it, on loopback only. One line says
    where, once it listens; Ctrl-C ends it. For others, put REPO/public behind a web server.

    \b
      hashclient provider serve /srv/lists --bind 127.0.0.1:8443
    """
    from hashclient.provider.server import open_server

    def log(text: str) -> None:
        if verbose:
            click.echo(text, err=True)
        else:
            app.debug(text)

    try:
        with open_server(repository_at(app, directory), bind, clock=app.now, log=log) as opened:
            server, at = opened
            # For a client that is started elsewhere.
            ca, token = (str(path.absolute()) for path in (at.ca, at.token_file))
            text = f"serving {at.url} (--ca {printable(ca)} --token-file {printable(token)})"
            app.show(output_format, {"url": at.url, "ca": ca, "token_file": token}, text)
            server.serve_forever()
    except (KeyboardInterrupt, Terminated):
        app.debug("stopped")


for _other in (
    export,
    draft,
    rotate,
    renew,
    show,
    find,
    diff,
    client,
    server_config,
    log,
    list_group,
    key,
    notice,
):
    command.add_command(_other)
