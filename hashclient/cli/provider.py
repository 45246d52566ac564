"""`provider`: make, change and try a repository of signed hash lists."""

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
@longest_option
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
    longest_days: int | None,
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
    repository.create(
        root_keys=Keys(keys, threshold), passphrase=passphrase, longest=_days(longest_days)
    )
    root_sha256 = repository.status().root_sha256
    document = {"root": repository.root_file.absolute(), "root_sha256": root_sha256}
    app.show(output_format, document, printable(repository.root_file))
    app.say("hand this file to clients by a way they trust; then `publish` a list")
    app.say(
        f"every account of this machine may read {printable(repository.public)}, as a web server"
        " has to; keys/ is yours alone"
    )
    warn_closed(app, repository)


@command.command("rotate", short_help="Replace the keys of ROLE by new ones.")
@repo_argument
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
    """Replace the keys of ROLE by new ones and remove the old ones.

    ROLE is root, targets, snapshot, timestamp, notices or the name of a list. Clients follow by
    themselves. Rotate after a key may have leaked, or was lost. The keys of the root have to be
    here; for notices and a list, those of targets. With --public-key, the new keys are those of
    people, who sign a --draft apart; it needs signatures of the root, or of targets, as well.

    \b
      hashclient provider rotate /srv/lists timestamp
      hashclient provider rotate /srv/lists root --keys 3 --threshold 2
      hashclient provider rotate /srv/lists baseline --threshold 2 --draft new \\
            --public-key alice.pub --public-key bob.pub --public-key carol.pub
    """
    if not public_keys and (keys is None) != (threshold is None):
        raise UsageError(
            "`rotate` needs both --keys and --threshold, or neither",
            hint="without them there will be as many keys as before",
        )
    if public_keys and threshold is None:
        raise UsageError("`rotate` needs --threshold with --public-key")
    if longest_days is not None and role != "root":
        raise UsageError("--longest-days is for a new root")
    wanted = None if threshold is None else keys_wanted(keys, threshold, public_keys)
    repository = repository_at(app, directory, passphrases(passphrase_file))
    repository.rotate(role, wanted, draft=draft, longest=_days(longest_days))
    document = {"rotated": role} if draft is None else {"drafted": [role]}
    app.show(output_format, document, (), nothing="" if draft else f"role {role} has new keys")
    conclude(app, repository, draft)


@command.command("renew", short_help="Sign again roles that are due.")
@repo_argument
@click.option(
    "--draft",
    type=existing_path(),
    metavar="DIR",
    help="Write due roles whose keys are elsewhere into a new directory, for people to sign.",
)
@click.option(
    "--until",
    type=TIME,
    metavar="TIME",
    help="Let all that is signed hold until then, as before a holiday; the root says how far.",
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
    """Sign the timestamp again, and each role past half of its time.

    Clients refuse a repository whose signatures have expired, so run this every day. A role
    that is due but whose keys are kept elsewhere is named; bring them in time. Before a time in
    which nobody can sign, --until lets signatures hold longer: as long as the root allows.

    \b
      hashclient provider renew /srv/lists
      hashclient provider renew /srv/lists --until 2027-01-07

    Exit codes: 0 what is due is signed, or there is time; 7 a role has expired whose keys are not
    here; all are in `hashclient --help`.
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
