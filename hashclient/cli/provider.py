"""`provider`: make, change and try a repository of signed hash lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.options import ROLES, TIME
from hashclient.cli.output import Terminated, table
from hashclient.cli.provider_ask import diff, find, show
from hashclient.cli.provider_clients import client, server_config
from hashclient.cli.provider_drafts import draft
from hashclient.cli.provider_export import command as export
from hashclient.cli.provider_feedback import feedback
from hashclient.cli.provider_keys import key, new_passphrase, passphrase_option, passphrases
from hashclient.cli.provider_lists import consolidate, list_group, publish, revert, withdraw
from hashclient.cli.provider_log import log
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
from hashclient.cli.provider_share import follow
from hashclient.errors import ExitCode, UsageError
from hashclient.system.text import for_people, printable

if TYPE_CHECKING:
    from hashclient.provider.repository import Repository
    from hashclient.provider.results import Status


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


@command.command("status")
@repo_argument
@click.option(
    "--against",
    metavar="ADDRESS",
    help="Compare with what is served there, or with a bundle or a copy of a public directory.",
)
@click.option(
    "--ca", type=existing_path(dir_okay=False), metavar="FILE", help="The authority of ADDRESS."
)
@click.option(
    "--token-file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="A token of a client, for ADDRESS.",
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
    """Show the roles, until when each is valid, and the lists.

    Warns of roles that expire soon: of those with less than a quarter of their time left. Warns,
    too, when REPO/public cannot be read by other accounts, that of a web server among them. With
    --against, each role is compared by its version and its content: a place that is ahead, or has
    forked, was published to by another host with the same keys.

    \b
      hashclient provider status /srv/lists
      hashclient provider status /srv/lists --against https://lists.example.org/ \\
            --token-file own.token

    Exit codes: 0 all roles are valid, 7 one has expired. With --against: 0 the same, 3 ADDRESS is
    behind or ahead, 6 it has forked; all are in `hashclient --help`.
    """
    repository = repository_at(app, directory)
    if against is not None:
        return _compare(app, repository, against, ca, token_file, output_format)
    if ca is not None or token_file is not None:
        raise UsageError("--ca and --token-file are of use with --against only")
    found = repository.status()
    app.show(output_format, found, _status_text(found, app.now()), indent=2)
    warn_closed(app, repository)
    return ExitCode.STALE if warn_expiring(app, repository) else ExitCode.OK


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


def _compare(
    app: App,
    repository: Repository,
    against: str,
    ca: Path | None,
    token_file: Path | None,
    output_format: str,
) -> ExitCode:
    """Compare a repository with another place, and say what differs."""
    from hashclient.configfile.tables import ProviderConfig
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
    rows += [[r.role, str(r.here or "-"), str(r.elsewhere or "-"), r.state] for r in found]
    app.show(output_format, {"against": against, "roles": found}, table(rows), indent=2)
    states = {role.state for role in found}
    if states & {"forked", "foreign"}:
        forked = ", ".join(r.role for r in found if r.state in ("forked", "foreign"))
        who = "another host publishes this repository" if "forked" in states else "others sign it"
        app.warn(
            f"forked: {forked}: {who}",
            "keep one of the two hosts, and have it serve one repository; docs/provider.md says how"
            " clients come back",
        )
        return ExitCode.UNVERIFIED
    if "ahead" in states:
        app.warn("it is ahead: publish nothing here before the newer copy is here")
    return ExitCode.OK if states == {"same"} else ExitCode.INCOMPLETE


def _days(number: int | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)


def _status_text(found: Status, now: datetime) -> Iterator[str]:
    """Yield the published state as two tables; roles expired at `now` are marked."""
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
    server_config,
    feedback,
    log,
    key,
    notice,
):
    command.add_command(_other)
