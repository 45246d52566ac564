"""`provider`: makes, changes and tries out a repository of signed hash lists."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.options import ROLES, TIME
from hashclient.cli.provider_ask import diff, find, show
from hashclient.cli.provider_clients import client, feedback
from hashclient.cli.provider_drafts import draft
from hashclient.cli.provider_keys import key, new_passphrase, passphrase_option, passphrases
from hashclient.cli.provider_lists import consolidate, list_group, revert, withdraw
from hashclient.cli.provider_notice import command as notice
from hashclient.cli.provider_options import (
    conclude,
    draft_option,
    key_options,
    keys_wanted,
    longest_option,
    public_key_option,
    repo_argument,
    repository_at,
    say_draft,
    warn_closed,
    warn_expiring,
)
from hashclient.cli.provider_publish import publish
from hashclient.cli.provider_server import serve, server_config
from hashclient.cli.provider_share import export, follow
from hashclient.cli.provider_status import log, status
from hashclient.core.errors import ExitCode, UsageError
from hashclient.system.text import printable


@click.group("provider")
def command() -> None:
    """Make, change and try a repository of signed hash lists.

    These are the commands of the provider: the body that decides which files are listed. REPO is a
    directory. A web server publishes its `public/`, its `keys/` never leave this machine, and
    clients get its `root.json` by a way that they trust.

    \b
      hashclient provider init /srv/lists
      hashclient provider publish /srv/lists --list baseline entries.csv
      hashclient provider serve /srv/lists              try it on this machine
      hashclient provider renew /srv/lists              every day, from cron
    """


@command.command("init")
@repo_argument
@key_options("the root role")
@longest_option
@click.option("--encrypt-keys", is_flag=True, help="Encrypt all keys with a passphrase.")
@click.option(
    "--passphrase-file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="File with the passphrase of the keys. [default: ask at the terminal]",
)
@format_option("text", "json")
@pass_app
def init(
    app: App,
    directory: Path,
    keys: int,
    threshold: int,
    longest_days: int | None,
    encrypt_keys: bool,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Make a repository in the new or empty directory REPO.

    If no single person should be able to replace all other keys, give the root role several keys
    and a threshold. The root's keys are needed for `rotate`, and every half year for `renew`. At
    other times, keep their files (REPO/keys/root-*.pem) offline. With --encrypt-keys, the same
    passphrase also encrypts new keys that other commands make later.

    \b
      hashclient provider init /srv/lists --keys 3 --threshold 2
    """
    from hashclient.provider.keys import Keys

    repository = repository_at(app, directory)
    if passphrase_file is not None and not encrypt_keys:
        raise UsageError("--passphrase-file needs --encrypt-keys")
    passphrase = new_passphrase(passphrase_file) if encrypt_keys else None
    repository.create(
        root_keys=Keys(keys, threshold), passphrase=passphrase, longest=_days(longest_days)
    )
    root_sha256 = repository.status().root_sha256
    document = {"root": repository.root_file.absolute(), "root_sha256": root_sha256}
    app.show(output_format, document, printable(repository.root_file))
    app.say("give this file to clients by a way that they trust; then `publish` a list")
    app.say(
        f"every account of this machine can read {printable(repository.public)}, because a web "
        "server has to; only you can read keys/"
    )
    warn_closed(app, repository)


@command.command("rotate", short_help="Replace the keys of ROLE by new ones.")
@repo_argument
@click.argument("role", shell_complete=ROLES)
@click.option(
    "--keys",
    type=click.IntRange(1, 16),
    metavar="N",
    help="How many new keys to make. [default: as many as now]",
)
@click.option(
    "--threshold",
    type=click.IntRange(1, 16),
    metavar="N",
    help="How many of the new keys have to sign. [default: as before]",
)
@longest_option
@public_key_option
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def rotate(
    app: App,
    directory: Path,
    role: str,
    keys: int | None,
    threshold: int | None,
    longest_days: int | None,
    public_keys: tuple[Path, ...],
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Replace the keys of ROLE by new keys, and remove the old keys.

    ROLE is root, targets, snapshot, timestamp, notices or the name of a list. Clients learn the new
    keys automatically. Rotate if a key may have leaked, or was lost. The root's keys have to be
    here; for notices and for a list, the keys of targets are enough. With --public-key, the new
    keys belong to people, who sign a --draft on their own machines. The draft also needs signatures
    of the root, or of targets.

    \b
      hashclient provider rotate /srv/lists timestamp
      hashclient provider rotate /srv/lists root --keys 3 --threshold 2
      hashclient provider rotate /srv/lists baseline --threshold 2 --draft new \\
            --public-key alice.pub --public-key bob.pub --public-key carol.pub
    """
    if not public_keys and (keys is None) != (threshold is None):
        raise UsageError(
            "`rotate` needs both --keys and --threshold, or neither",
            hint="without both options, there will be as many keys as before",
        )
    if public_keys and threshold is None:
        raise UsageError("`rotate` needs --threshold with --public-key")
    if longest_days is not None and role != "root":
        raise UsageError("--longest-days is for new keys of the root")
    wanted = None if threshold is None else keys_wanted(keys, threshold, public_keys)
    repository = repository_at(app, directory, passphrases(passphrase_file))
    repository.rotate(role, wanted, draft=draft, longest=_days(longest_days))
    document = {"rotated": role} if draft is None else {"drafted": [role]}
    app.show(output_format, document, (), nothing="" if draft else f"role {role} has new keys")
    conclude(app, repository, draft)


@command.command("renew", short_help="Sign roles again that are due.")
@repo_argument
@click.option(
    "--draft",
    type=existing_path(),
    metavar="DIR",
    help="If keys of a due role are elsewhere, write the role into a new directory, for people to "
    "sign.",
)
@click.option(
    "--until",
    type=TIME,
    metavar="TIME",
    help="Let signatures stay valid until this time, as before a holiday; the root sets a limit.",
)
@passphrase_option
@format_option("text", "json")
@pass_app
def renew(
    app: App,
    directory: Path,
    draft: Path | None,
    until: datetime | None,
    passphrase_file: Path | None,
    output_format: str,
) -> ExitCode:
    """Sign the timestamp again, and each role that is past half of its validity.

    Clients refuse a repository whose signatures have expired, so run this every day. If a role is
    due but its keys are kept elsewhere, this command names the role; bring the keys in time. If
    nobody can sign for some time, --until makes signatures valid for longer, up to the limit that
    the root sets.

    \b
      hashclient provider renew /srv/lists
      hashclient provider renew /srv/lists --until 2027-01-07

    Exit codes: 0 all due roles are signed, or still have time; 7 a role has expired and its keys
    are not here; all are in `hashclient --help`.
    """
    repository = repository_at(app, directory, passphrases(passphrase_file))
    if draft is not None:
        drafted = repository.draft_renewal(draft, until)
        to_sign = f"to be signed: {', '.join(drafted)}"
        app.show(output_format, {"drafted": drafted}, (), nothing=to_sign)
        say_draft(app, draft)
        return ExitCode.OK
    done = repository.renew(until)
    signed = f"signed again: {', '.join(done.signed)}"
    document = {"signed": done.signed, "skipped": done.skipped}
    app.show(output_format, document, (), nothing=signed)
    has_expired = warn_expiring(app, repository)
    if done.skipped:
        app.warn(
            f"due, but the keys are not here: {', '.join(done.skipped)}",
            hint=f"{'; '.join(done.wanting)}; then run `renew` again, or `renew --draft DIR` for"
            " people to sign",
        )
    return ExitCode.STALE if has_expired else ExitCode.OK


def _days(number: int | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)


for _other in (
    publish,
    withdraw,
    revert,
    follow,
    consolidate,
    list_group,
    export,
    draft,
    show,
    find,
    diff,
    client,
    serve,
    server_config,
    status,
    feedback,
    log,
    key,
    notice,
):
    command.add_command(_other)
