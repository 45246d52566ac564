"""`inventory`: look after what scans remember of files already read."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.errors import ExitCode, StateError

if TYPE_CHECKING:
    from hashclient.inventory import Inventory

#: How long what no scan has come across is kept by default.
DEFAULT_DAYS = 90
#: A hundred years.
MAX_DAYS = 36_500


@click.group("inventory")
def command() -> None:
    """Look after what scans remember of files already read.

    A scan keeps sealed tags of every file that it reads, so that the next one reads only what is
    new or has changed. The inventory may be removed at any time; `scan --no-inventory` does
    without.
    """


@command.command("stats")
@format_option("text", "json")
@pass_app
def stats(app: App, output_format: str) -> ExitCode:
    """Show how much is remembered.

    \b
      hashclient inventory stats
      hashclient inventory stats --format json
    """
    inventory = _open(app, write=False)
    try:
        found = inventory.stats()
    finally:
        inventory.close()
    oldest = None
    if found.oldest_seen_day is not None:
        oldest = datetime.fromtimestamp(found.oldest_seen_day * 86_400, UTC).date().isoformat()
    if output_format == "json":
        document = {"files": found.files, "bytes": found.file_bytes, "oldest_seen": oldest}
        app.out(json.dumps(document))
    else:
        app.out(f"files        {found.files:,}")
        app.out(f"size         {found.file_bytes / 1e6:.1f} MB")
        app.out(f"oldest seen  {oldest or 'never'}")
    return ExitCode.OK


@command.command("prune")
@click.option(
    "--days",
    type=click.IntRange(0, MAX_DAYS),
    metavar="N",
    default=DEFAULT_DAYS,
    show_default=True,
    help="Forget files that no scan has come across for so many days.",
)
@format_option("text", "json")
@pass_app
def prune(app: App, days: int, output_format: str) -> ExitCode:
    """Forget files that no scan has come across for long.

    Those are removed ones, mostly.

    \b
      hashclient inventory prune
      hashclient inventory prune --days 0     forget all but what was seen today
    """
    inventory = _open(app, write=True)
    try:
        forgotten = inventory.prune(days)
    finally:
        inventory.close()
    if output_format == "json":
        app.out(json.dumps({"forgotten": forgotten}))
    else:
        app.out(f"{forgotten:,} files forgotten")
    return ExitCode.OK


def _open(app: App, *, write: bool) -> Inventory:
    from hashclient.inventory import DATABASE_NAME, Inventory
    from hashclient.seal import load_sealer

    settings = app.settings
    if not (settings.state_dir / DATABASE_NAME).exists():
        raise StateError("there is no inventory yet", hint="the first `hashclient scan` makes it")
    sealer = load_sealer(settings.state_dir, settings.seal_key_file, os.environ)
    return Inventory(settings.state_dir, sealer.key_id, write=write)
