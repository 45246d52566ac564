"""`provider list`: what is done about a list as a whole."""

from __future__ import annotations

from pathlib import Path

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.completing import LISTS_OF_REPOSITORY
from hashclient.cli.provider_options import (
    draft_option,
    repo_argument,
    repository_at,
    say_draft,
    warn_expiring,
)
from hashclient.cli.provider_passphrase import passphrase_option, passphrases


@click.group("list")
def command() -> None:
    """End a list.

    \b
      hashclient provider list end /srv/lists basline
    """


@command.command("end")
@repo_argument
@click.argument("list_name", metavar="LIST", shell_complete=LISTS_OF_REPOSITORY)
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def end(
    app: App,
    directory: Path,
    list_name: str,
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Say that LIST has ended: clients drop it, and withdraw its matches.

    The targets sign that. The name is not used again, so this is for a list that is given up, or
    whose name was misspelt. Published files stay, for clients in the middle of a fetch.

    \b
      hashclient provider list end /srv/lists basline
    """
    repository = repository_at(app, directory, passphrases(passphrase_file))
    repository.end_list(list_name, draft=draft)
    text = f"list {list_name} has ended: clients drop it with their next fetch"
    app.show(output_format, {"ended": list_name, "draft": draft}, () if draft else text)
    say_draft(app, draft)
    warn_expiring(app, repository)
