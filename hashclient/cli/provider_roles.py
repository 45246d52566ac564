"""`provider rotate` and `renew`: the keys of roles, and how long their signatures hold."""

from __future__ import annotations

from pathlib import Path

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.completing import ROLES
from hashclient.cli.provider_options import (
    draft_option,
    keys_wanted,
    public_key_option,
    repo_argument,
    repository_at,
    say_draft,
    warn_expiring,
)
from hashclient.cli.provider_passphrase import passphrase_option, passphrases
from hashclient.errors import ExitCode, UsageError


@click.command("rotate", short_help="Replace the keys of ROLE by new ones.")
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
    wanted = None if threshold is None else keys_wanted(keys, threshold, public_keys)
    repository = repository_at(app, directory, passphrases(passphrase_file))
    repository.rotate(role, wanted, draft=draft)
    document = {"rotated": role} if draft is None else {"drafted": [role]}
    app.show(output_format, document, (), nothing="" if draft else f"role {role} has new keys")
    say_draft(app, draft)
    warn_expiring(app, repository)


@click.command("renew", short_help="Sign again roles that are due.")
@repo_argument
@click.option(
    "--draft",
    type=existing_path(),
    metavar="DIR",
    help="Write due roles whose keys are elsewhere into a new directory, for people to sign.",
)
@passphrase_option
@format_option("text", "json")
@pass_app
def renew(
    app: App,
    directory: Path,
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> ExitCode:
    """Sign the timestamp again, and each role past half of its time.

    Clients refuse a repository whose signatures have expired, so run this every day. A role
    that is due but whose keys are kept elsewhere is named; bring them in time.

    \b
      hashclient provider renew /srv/lists

    Exit codes: 0 what is due is signed, or there is time; 7 a role has expired whose keys are not
    here; all are in `hashclient --help`.
    """
    repository = repository_at(app, directory, passphrases(passphrase_file))
    if draft is not None:
        drafted = repository.draft_renewal(draft)
        to_sign = f"to be signed: {', '.join(drafted)}"
        app.show(output_format, {"drafted": drafted}, (), nothing=to_sign)
        say_draft(app, draft)
        return ExitCode.OK
    done = repository.renew()
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
