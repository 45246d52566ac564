"""`inventory`: manages the cache of files that were read, and the record of file systems."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.options import refuse_empty
from hashclient.core.errors import StateError, UsageError
from hashclient.system.files import is_there
from hashclient.system.text import counted, log_path_fields, path_fields, printable

if TYPE_CHECKING:
    from hashclient.scan.cache.cache import Inventory

#: By default, the inventory keeps a file for this number of days after the last scan that saw the
#: file.
DEFAULT_DAYS = 90
#: The largest number of days that can be given: a hundred years.
MAX_DAYS = 36_500
DAY_S = 86_400


@click.group("inventory")
def command() -> None:
    """Manage the records that scans keep of files already read.

    A scan keeps tags (digests under the local key) of every file that it reads, so that the next
    scan reads only new and changed files. The inventory may be removed at any time; `scan
    --no-inventory` does not use it.

    Scans also remember which file systems were mounted below their paths. If a file system is not
    mounted any more, scans report it as unread, until you declare with `inventory forget` that it
    will never come back.
    """


@command.command("stats")
@format_option("text", "json")
@pass_app
def stats(app: App, output_format: str) -> None:
    """Show the size of the inventory.

    `believed` counts files that seem unchanged, but without proof: somebody could have changed them
    without a trace. Scans read these files again within `reread_days` of the configuration.

    \b
      hashclient inventory stats
      hashclient inventory stats --format json
    """
    with contextlib.closing(_open(app, write=False)) as inventory:
        found = inventory.stats()
    day = found.oldest_seen_day
    oldest = None if day is None else _date(day)
    document = {
        "files": found.files,
        "believed": found.believed,
        "bytes": found.file_bytes,
        "oldest_seen": oldest,
    }
    text = (
        f"files        {found.files:,}",
        f"believed     {found.believed:,}",
        f"size         {found.file_bytes / 1e6:.1f} MB",
        f"oldest seen  {oldest or 'never'}",
    )
    app.show(output_format, document, text)


@command.command("prune")
@click.option(
    "--days",
    type=click.IntRange(0, MAX_DAYS),
    metavar="N",
    default=DEFAULT_DAYS,
    show_default=True,
    help="Forget files that no scan has seen for this number of days.",
)
@format_option("text", "json")
@pass_app
def prune(app: App, days: int, output_format: str) -> None:
    """Forget files that no scan has seen for a long time.

    Most of these files no longer exist.

    \b
      hashclient inventory prune
      hashclient inventory prune --days 0     forget all files not seen today
    """
    with contextlib.closing(_open(app, write=True)) as inventory:
        forgotten = inventory.prune(days)
    app.show(output_format, {"forgotten": forgotten}, f"{counted(forgotten, 'file')} forgotten")


@command.command("mounts")
@format_option("text", "json")
@pass_app
def mounts(app: App, output_format: str) -> None:
    """List the file systems that scans remember, by directory.

    Directories that were given to a scan are listed, too, on any file system.

    \b
      hashclient inventory mounts
    """
    from hashclient.scan.sources.remembered import load

    records = load(app.settings.state_dir)
    documents = [
        {
            **path_fields(record.real_path),
            "mount_point": record.is_point,
            "type": record.kind,
            "last_seen": _date(record.seen_day),
        }
        for record in records
    ]
    text = (
        f"{printable(record.real_path)}  {printable(record.kind)},"
        f" {'mount point' if record.is_point else f'on {printable(record.point)}'},"
        f" last seen {_date(record.seen_day)}"
        for record in records
    )
    nothing = "nothing is remembered; the next scan begins to remember"
    app.show(output_format, {"mounts": documents}, text, nothing=nothing)


@command.command("forget")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=click.Path(readable=False))
@format_option("text", "json")
@pass_app
def forget(app: App, paths: tuple[str, ...], output_format: str) -> None:
    """Forget the file systems that were mounted at PATH or below.

    Use this for file systems that will never come back: scans then accept the directory at PATH.
    The audit log records who has forgotten a file system. If a file system is still mounted, the
    next scan remembers it again.

    \b
      hashclient inventory forget /srv/share
    """
    from hashclient.audit.log import Event
    from hashclient.scan.sources.remembered import below, forget_all, load

    refuse_empty(paths)
    # Each path is looked for in two forms: as the user typed it, and with symbolic links resolved.
    roots = {kind(path) for path in paths for kind in (os.path.abspath, os.path.realpath)}
    gone = below((record.real_path for record in load(app.settings.state_dir)), roots)
    if not gone:
        raise UsageError(
            f"nothing is remembered at or below {', '.join(map(printable, paths))}",
            hint="`hashclient inventory mounts` lists all remembered directories",
        )
    by = app.session.operator
    events = [Event("mount-forgotten", {**log_path_fields(path), "by": by}) for path in gone]
    app.session.audit.append(events, durable=True)
    forget_all(app.settings.state_dir, gone)
    document = {"forgotten": [path_fields(path) for path in gone]}
    app.show(output_format, document, (f"forgotten: {printable(path)}" for path in gone))


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()


def _open(app: App, *, write: bool) -> Inventory:
    from hashclient.index.blinding import load_sealer
    from hashclient.scan.cache.cache import Inventory

    settings = app.settings
    if not is_there(settings.layout.inventory):
        raise StateError("there is no inventory yet", hint="the first `hashclient scan` makes it")
    sealer = load_sealer(settings.state_dir, settings.seal_key_file, os.environ)
    days = settings.config.inventory.reread_days
    return Inventory(settings.state_dir, sealer.key_id, write=write, reread_days=days)
