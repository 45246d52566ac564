"""`provider log`: shows and verifies the log of a repository."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.audit import (
    checkpoint_option,
    output_option,
    records_options,
    show_records,
    show_verified,
    write_checkpoint,
)
from hashclient.cli.provider_options import repo_argument, repository_at
from hashclient.errors import StateError
from hashclient.system.text import printable


@click.group("log")
def log() -> None:
    """Show and verify the log of publications, and who made each.

    It is in REPO/log, in the format of the client's audit log: each record holds the hash of the
    one before it, and the log is signed. A change is recorded before clients can see it; where
    it failed, that is recorded, too.

    \b
      hashclient provider log show /srv/lists --event list-published
      hashclient provider log verify /srv/lists
      hashclient provider log checkpoint /srv/lists -o today.json
    """


@contextlib.contextmanager
def _log_of(app: App, directory: Path) -> Iterator[Path]:
    """Return the directory of the log; the error for a missing log says when it begins."""
    repository = repository_at(app, directory)
    repository.require()
    where = repository.log.directory
    try:
        yield where
    except StateError as error:
        if where.is_dir():
            raise
        raise StateError(
            f"no log yet: {printable(where)}", hint="it begins with the next change"
        ) from error


@log.command("show")
@repo_argument
@records_options
@pass_app
def show(
    app: App,
    directory: Path,
    output_format: str,
    events: tuple[str, ...],
    since: datetime | None,
    limit: int | None,
) -> None:
    """Print records, the oldest first.

    \b
      hashclient provider log show /srv/lists --since 2026-01-31
    """
    with _log_of(app, directory) as where:
        show_records(app, where, output_format, events, since, limit)


@log.command("verify")
@repo_argument
@checkpoint_option
@format_option("text", "json")
@pass_app
def verify(app: App, directory: Path, checkpoint_path: Path | None, output_format: str) -> None:
    """Check every record of the log.

    The exit code is 0 when it is intact, 9 when it is not.

    \b
      hashclient provider log verify /srv/lists --checkpoint today.json
    """
    with _log_of(app, directory) as where:
        show_verified(app, where, checkpoint_path, output_format)


@log.command("checkpoint")
@repo_argument
@output_option
@pass_app
def checkpoint(app: App, directory: Path, output: Path) -> None:
    """Print a signed statement of the log's last record.

    Keep it where people who can write to the repository cannot write.

    \b
      hashclient provider log checkpoint /srv/lists -o today.json
    """
    with _log_of(app, directory) as where:
        write_checkpoint(app, where, output)
