"""`provider`: make, change and try a repository of signed hash lists."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hashclient.cli.app import App, Terminated, existing_path, format_option, pass_app
from hashclient.cli.completing import LISTS_OF_REPOSITORY, ROLES
from hashclient.cli.importing import (
    check_category,
    make_reading,
    open_files,
    publishing_options,
    reading_options,
    say_remarks,
)
from hashclient.cli.providerexport import command as export
from hashclient.cli.providernotice import command as notice_command
from hashclient.cli.providerview import show_change, warn_doubles
from hashclient.errors import ExitCode, UsageError
from hashclient.system.text import printable
from hashclient.system.times import for_people

if TYPE_CHECKING:
    from hashclient.provider.repository import Repository

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


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


command.add_command(export)

_repo = click.argument("directory", metavar="REPO", type=existing_path(file_okay=False))
_list = click.option(
    "--list",
    "list_name",
    metavar="NAME",
    required=True,
    shell_complete=LISTS_OF_REPOSITORY,
    help="The list.",
)


def _key_options(whose: str) -> Callable[[_Decorated], _Decorated]:
    """Return a decorator that adds `--keys` and `--threshold`."""

    def decorate(function: _Decorated) -> _Decorated:
        for flag, text in (
            ("--threshold", "How many of them have to sign."),
            ("--keys", f"How many keys to make for {whose}."),
        ):
            option = click.option(
                flag,
                type=click.IntRange(1, 16),
                metavar="N",
                default=1,
                show_default=True,
                help=text,
            )
            function = option(function)
        return function

    return decorate


def _warn_expiring(app: App, repository: Repository) -> bool:
    """Warn of roles that expire soon; tell whether one has expired."""
    expired = False
    renew = f"`hashclient provider renew {shlex.quote(str(repository.directory))}`"
    for role, at, wanting in repository.expiring():
        left = at - app.now()
        expired = expired or left.total_seconds() <= 0
        when = "has expired" if left.total_seconds() <= 0 else f"expires in {left.days} day(s)"
        app.warn(
            f"role {role} {when}: {for_people(at)}",
            hint=f"run {renew}" if wanting is None else f"{wanting} and run {renew}",
        )
    return expired


def _warn_closed(app: App, repository: Repository) -> None:
    """Warn when a web server that has an account of its own cannot read what is published."""
    if closed := repository.closed():
        more = f" and {len(closed) - 1:,} more" if len(closed) > 1 else ""
        public = shlex.quote(str(repository.public))
        app.warn(
            f"closed to a web server of another account: {printable(closed[0])}{more}",
            f"chmod a+x {shlex.quote(str(repository.directory))}; chmod -R a+rX {public}",
        )


def _repository(app: App, directory: Path) -> Repository:
    from hashclient.provider.repository import Repository

    return Repository(directory, clock=app.now)


@command.command("init")
@_repo
@_key_options("the root role")
@format_option("text", "json")
@pass_app
def init(app: App, directory: Path, keys: int, threshold: int, output_format: str) -> None:
    """Make a repository in the new or empty directory REPO.

    Give the root role several keys and a threshold when nobody alone should be able to replace
    all other keys. The root's keys are needed for `rotate` and once in half a year for `renew`:
    in between, keep their files (REPO/keys/root-*.pem) offline.

    \b
      hashclient provider init /srv/lists --keys 3 --threshold 2
    """
    from hashclient.provider.keys import Keys

    repository = _repository(app, directory)
    repository.create(root_keys=Keys(keys, threshold))
    if output_format == "json":
        found = repository.status()
        document = {"root": str(repository.root_file.absolute()), "root_sha256": found.root_sha256}
        app.out(json.dumps(document))
    else:
        app.out(printable(repository.root_file))
    app.say("hand this file to clients by a way they trust; then `publish` a list")
    app.say(
        f"every account of this machine may read {printable(repository.public)}, as a web server"
        " has to; keys/ is yours alone"
    )
    _warn_closed(app, repository)


@command.command("publish")
@_repo
@_list
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@reading_options
@publishing_options
@click.option(
    "--replace",
    is_flag=True,
    help="The files are all of the list: withdraw what they lack, leave alone what is listed.",
)
@click.option("--dry-run", is_flag=True, help="Check all of it, and publish nothing.")
@_key_options("a new list")
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
    dry_run: bool,
    output_format: str,
    keys: int,
    threshold: int,
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

    The first publication makes the list and its keys.

    \b
      hashclient provider publish /srv/lists --list baseline entries.csv
      hashclient provider publish /srv/lists --list baseline \\
            --where 'Baseline = true' icse.csv
      sha256sum * | hashclient provider publish /srv/lists --list local -
    """
    from hashclient.provider.keys import Keys

    check_category(category)
    if replace and max_bad:
        raise UsageError(
            "--replace takes no --max-bad: what was skipped would be withdrawn",
            hint="see to the rows that cannot be used first",
        )
    reading = make_reading(where, columns, category_map=category_map, max_bad=max_bad)
    repository = _repository(app, directory)
    done = repository.publish(
        list_name,
        open_files(files, sys.stdin.buffer),
        list_keys=Keys(keys, threshold),
        reading=reading,
        category=category,
        known_good=open_files(known_good, sys.stdin.buffer) if known_good else None,
        replace=replace,
        dry_run=dry_run,
    )
    remarks = reading.remarks
    more: dict[str, Any] = {
        "listed_before": done.listed.count if done.listed else 0,
        "repeated": done.repeated.count if done.repeated else 0,
        "withdrawn": done.withdrawn,
        "not_meant": remarks.not_meant,
        "skipped": [{"at": place, "reason": what} for place, what in remarks.skipped],
        "dry_run": dry_run,
    }
    what = "would be added" if dry_run else "added"
    show_change(app, done, what, output_format, more, with_withdrawn=replace)
    say_remarks(app, reading)
    warn_doubles(app, done, dry_run=dry_run)
    if not dry_run:
        _warn_expiring(app, repository)


@command.command("withdraw")
@_repo
@_list
@click.argument("entry_ids", metavar="ENTRY_ID...", nargs=-1, required=True)
@format_option("text", "json")
@pass_app
def withdraw(
    app: App, directory: Path, list_name: str, entry_ids: tuple[str, ...], output_format: str
) -> None:
    """Take entries off a list, as its next generation.

    \b
      hashclient provider withdraw /srv/lists --list baseline 2024-017 2024-018
    """
    repository = _repository(app, directory)
    done = repository.withdraw(list_name, entry_ids)
    show_change(app, done, "withdrawn", output_format)
    _warn_expiring(app, repository)


@command.command("consolidate")
@_repo
@_list
@click.option(
    "--keep-newest",
    type=click.IntRange(0, 1_000_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Leave the newest N generations as they are.",
)
@format_option("text", "json")
@pass_app
def consolidate(
    app: App, directory: Path, list_name: str, keep_newest: int, output_format: str
) -> None:
    """Join small segments of a list into few larger ones.

    The list stays the same, and new clients download less. Clients that are up to date download
    nothing; those that were away for more than N generations may build the list again. Once a
    day, from cron, is enough.

    \b
      hashclient provider consolidate /srv/lists --list baseline
    """
    done = _repository(app, directory).consolidate(list_name, keep_newest=keep_newest)
    if output_format == "json":
        document = {
            "list": done.list_name,
            "generation": done.generation,
            "segments_before": done.before,
            "segments": done.after,
        }
        app.out(json.dumps(document))
    else:
        app.out(
            f"list {done.list_name}: generation {done.generation}: {done.before} segments"
            f" -> {done.after}"
        )


@command.command("rotate")
@_repo
@click.argument("role", shell_complete=ROLES)
@click.option(
    "--keys", type=click.IntRange(1, 16), metavar="N", help="New keys. [default: as many]"
)
@click.option(
    "--threshold",
    type=click.IntRange(1, 16),
    metavar="N",
    help="How many of them have to sign. [default: as before]",
)
@format_option("text", "json")
@pass_app
def rotate(
    app: App,
    directory: Path,
    role: str,
    keys: int | None,
    threshold: int | None,
    output_format: str,
) -> None:
    """Replace the keys of ROLE by new ones and remove the old ones.

    ROLE is root, targets, snapshot, timestamp or the name of a list. Clients follow by
    themselves. Rotate after a key may have leaked, or was lost. The keys of the root have to be
    here; for a list, those of targets.

    \b
      hashclient provider rotate /srv/lists timestamp
      hashclient provider rotate /srv/lists root --keys 3 --threshold 2
    """
    from hashclient.provider.keys import Keys

    if (keys is None) != (threshold is None):
        raise UsageError(
            "`rotate` needs both --keys and --threshold, or neither",
            hint="without them there will be as many keys as before",
        )
    wanted = None if keys is None or threshold is None else Keys(keys, threshold)
    _repository(app, directory).rotate(role, wanted)
    if output_format == "json":
        app.out(json.dumps({"rotated": role}))
    else:
        app.say(f"role {role} has new keys")


@command.command("renew")
@_repo
@format_option("text", "json")
@pass_app
def renew(app: App, directory: Path, output_format: str) -> None:
    """Sign the timestamp again, and what is past half of its time.

    Clients refuse a repository whose signatures have expired, so run this every day. A role
    that is due but whose keys are kept elsewhere is named; bring them in time.

    \b
      hashclient provider renew /srv/lists
    """
    repository = _repository(app, directory)
    done = repository.renew()
    if output_format == "json":
        app.out(json.dumps({"signed": done.signed, "skipped": done.skipped}))
    else:
        app.say(f"signed again: {', '.join(done.signed)}")
    _warn_expiring(app, repository)
    if done.skipped:
        app.warn(
            f"due, but the keys are not here: {', '.join(done.skipped)}",
            hint=f"{'; '.join(done.wanting)}; then run `renew` again",
        )


@command.command("status")
@_repo
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
    from hashclient.cli.providerview import status_json, status_text

    repository = _repository(app, directory)
    found = repository.status()
    app.out(status_json(found) if output_format == "json" else status_text(found, app.now()))
    _warn_closed(app, repository)
    return ExitCode.STALE if _warn_expiring(app, repository) else ExitCode.OK


@command.command("serve")
@_repo
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
        with open_server(_repository(app, directory), bind, clock=app.now, log=log) as opened:
            server, at = opened
            # For a client that is started elsewhere.
            ca, token = (str(path.absolute()) for path in (at.ca, at.token_file))
            if output_format == "json":
                app.out(json.dumps({"url": at.url, "ca": ca, "token_file": token}))
            else:
                app.out(f"serving {at.url} (--ca {printable(ca)} --token-file {printable(token)})")
            server.serve_forever()
    except (KeyboardInterrupt, Terminated):
        app.debug("stopped")


command.add_command(notice_command)
