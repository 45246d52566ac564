"""`provider status` shows a repository; `provider log` shows and verifies its log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.audit import (
    checkpoint_option,
    output_option,
    records_options,
    show_records,
    show_verified,
    write_checkpoint,
)
from hashclient.cli.output import table
from hashclient.cli.provider_options import (
    repo_argument,
    repository_at,
    warn_closed,
    warn_expiring,
)
from hashclient.core.errors import ExitCode, StateError, UsageError
from hashclient.system.text import for_people, printable

if TYPE_CHECKING:
    from hashclient.provider.repository import Repository
    from hashclient.provider.results import Status


@click.command("status")
@repo_argument
@click.option(
    "--against",
    metavar="ADDRESS",
    help="Compare with the files at this address, or with a bundle or a copy of a public "
    "directory.",
)
@click.option(
    "--ca",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="Certificate of the authority (CA) for ADDRESS.",
)
@click.option(
    "--token-file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="File with the token of a client, for ADDRESS.",
)
@format_option("text", "json")
@pass_app
def status(
    app: App,
    directory: Path,
    against: str | None,
    ca: Path | None,
    token_file: Path | None,
    output_format: str,
) -> ExitCode:
    """Show the roles, how long they are valid, and the lists.

    The command warns if a role has less than a quarter of its validity left. The command also warns
    if other accounts, for example the account of a web server, cannot read REPO/public. With
    --against, the version and the content of each role are compared. If ADDRESS is ahead or has
    forked, another host with the same keys has published there.

    \b
      hashclient provider status /srv/lists
      hashclient provider status /srv/lists --against https://lists.example.org/ \\
            --token-file own.token

    Exit codes: 0 all roles are valid, 7 a role has expired. With --against: 0 both are the same, 3
    ADDRESS is behind or ahead, 6 ADDRESS has forked; all codes are in `hashclient --help`.
    """
    repository = repository_at(app, directory)
    if against is not None:
        return _compare(app, repository, against, ca, token_file, output_format)
    if ca is not None or token_file is not None:
        raise UsageError("--ca and --token-file need --against")
    found = repository.status()
    app.show(output_format, found, _status_text(found, app.now()), indent=2)
    warn_closed(app, repository)
    return ExitCode.STALE if warn_expiring(app, repository) else ExitCode.OK


def _compare(
    app: App,
    repository: Repository,
    against: str,
    ca: Path | None,
    token_file: Path | None,
    output_format: str,
) -> ExitCode:
    """Compare a repository with the copy at the address `against`, and show the differences."""
    from hashclient.config.tables import ProviderConfig
    from hashclient.fetch.places import addresses, copy_at
    from hashclient.provider.against import compare

    if "://" in against:
        config = ProviderConfig(
            root_sha256="",
            url=against,
            ca=None if ca is None else str(ca),
            token_file=None if token_file is None else str(token_file),
        )
        (place,) = addresses("there", config)
    else:
        place = copy_at(Path(against))
    with place.open() as source:
        found = compare(repository, source, place.base)
    rows = [["ROLE", "HERE", "THERE", "STATE"]]
    rows += [
        [printable(r.role), str(r.here or "-"), str(r.elsewhere or "-"), r.state] for r in found
    ]
    app.show(output_format, {"against": against, "roles": found}, table(rows), indent=2)
    states = {role.state for role in found}
    if states & {"forked", "foreign"}:
        forked = ", ".join(r.role for r in found if r.state in ("forked", "foreign"))
        who = "another host publishes this repository" if "forked" in states else "others sign it"
        app.warn(
            f"forked: {forked}: {who}",
            "keep only one of the two hosts, with one repository; docs/provider.md says how "
            "clients use it again",
        )
        return ExitCode.UNVERIFIED
    if "ahead" in states:
        app.warn("the address is ahead: copy the newer repository here before you publish")
    return ExitCode.OK if states == {"same"} else ExitCode.INCOMPLETE


def _status_text(found: Status, now: datetime) -> Iterator[str]:
    """Yield the published state as two tables, of the roles and of the lists."""
    rows = [["ROLE", "VERSION", "KEYS", "EXPIRES"]]
    for role in found.roles:
        when = for_people(role.expires) + ("  expired" if role.expires <= now else "")
        rows.append([role.name, str(role.version), f"{role.threshold} of {role.keys}", when])
    lists = [["LIST", "GENERATION", "LIVE", "SEGMENTS", "PUBLISHED"]]
    for one in found.lists:
        numbers = map(str, (one.generation, one.live, one.segments))
        lists.append([one.name, *numbers, for_people(one.published_at)])
    yield from table(rows)
    yield from ("", *(table(lists) if found.lists else ["no list yet"]))
    if found.ended:
        yield from ("", f"ended: {', '.join(found.ended)}")
    yield from ("", f"root.json sha256 {found.root_sha256}")


@click.group("log")
def log() -> None:
    """Show and verify the log of publications, and who made each.

    The log is in REPO/log, in the format of the client's audit log: each record holds the hash of
    the record before it, and the log is signed. A change is recorded before clients can see it; if
    the change fails, the failure is recorded, too.

    \b
      hashclient provider log show /srv/lists --event list-published
      hashclient provider log verify /srv/lists
      hashclient provider log checkpoint /srv/lists -o today.json
    """


@contextlib.contextmanager
def _log_of(app: App, directory: Path) -> Iterator[Path]:
    """Yield the directory of the log; the error for a missing log says when the log begins."""
    repository = repository_at(app, directory)
    repository.require()
    where = repository.log.directory
    try:
        yield where
    except StateError as error:
        if where.is_dir():
            raise
        raise StateError(
            f"no log yet: {printable(where)}", hint="the log begins with the next change"
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
    """Print records of the log, the oldest record first.

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

    The exit code is 0 if the log is intact, and 9 if it is not.

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

    Keep this file in a place where people who can write to the repository cannot write.

    \b
      hashclient provider log checkpoint /srv/lists -o today.json
    """
    with _log_of(app, directory) as where:
        write_checkpoint(app, where, output)
