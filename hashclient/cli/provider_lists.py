"""`provider withdraw`, `revert`, `consolidate` and `list end`: change a published list."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.importing import open_files
from hashclient.cli.options import LISTS_OF_REPOSITORY
from hashclient.cli.provider_keys import passphrase_option, passphrases
from hashclient.cli.provider_options import (
    change_text,
    conclude,
    draft_option,
    list_option,
    repo_argument,
    repository_at,
)
from hashclient.core.errors import UsageError


@click.command("withdraw")
@repo_argument
@list_option
@click.argument("entry_ids", metavar="[ENTRY_ID…]", nargs=-1)
@click.option(
    "--from", "files", metavar="FILE", multiple=True, help="A file of ids, one a line; - is stdin."
)
@click.option(
    "--generation",
    type=click.IntRange(1, 2**53 - 1),
    metavar="N",
    help="All entries that this generation added.",
)
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def withdraw(
    app: App,
    directory: Path,
    list_name: str,
    entry_ids: tuple[str, ...],
    files: tuple[str, ...],
    generation: int | None,
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Take entries off a list, as its next generation.

    All entries of one call are withdrawn in one generation.

    \b
      hashclient provider withdraw /srv/lists --list baseline 2024-017 2024-018
      hashclient provider withdraw /srv/lists --list baseline --from ids.txt
      hashclient provider withdraw /srv/lists --list baseline --generation 7
    """
    if (bool(entry_ids), bool(files), generation is not None).count(True) != 1:
        raise UsageError("give either ENTRY_ID…, or --from, or --generation")
    repository = repository_at(app, directory, passphrases(passphrase_file))
    if files:
        from hashclient.provider.changes import read_ids

        entry_ids = tuple(read_ids(open_files(files, sys.stdin.buffer)))
    done = repository.withdraw(list_name, entry_ids, generation=generation, draft=draft)
    what = "would be withdrawn" if draft else "withdrawn"
    app.show(output_format, *change_text(done, what, {"draft": draft}))
    conclude(app, repository, draft)


@click.command("revert", short_help="Undo generation N of LIST.")
@repo_argument
@click.argument("list_name", metavar="LIST", shell_complete=LISTS_OF_REPOSITORY)
@click.argument("generation", metavar="N", type=click.IntRange(1, 2**53 - 1))
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def revert(
    app: App,
    directory: Path,
    list_name: str,
    generation: int,
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Undo generation N of LIST, as its next generation.

    Entries that N added are withdrawn. Entries that N withdrew come back unchanged, with the same
    ids. If a later generation has added or withdrawn an entry again, this entry does not change. To
    undo this command, revert the new generation. If LIST shares the list of another provider,
    entries that this provider has withdrawn cannot come back.

    \b
      hashclient provider revert /srv/lists baseline 7
    """
    repository = repository_at(app, directory, passphrases(passphrase_file))
    done = repository.revert(list_name, generation, draft=draft)
    more = {"withdrawn": done.withdrawn, "added_by_category": done.categories, "draft": draft}
    what = "would be added" if draft else "added"
    app.show(output_format, *change_text(done, what, more, with_withdrawn=True))
    conclude(app, repository, draft)


@click.command("consolidate")
@repo_argument
@list_option
@click.option(
    "--keep-newest",
    type=click.IntRange(0, 1_000_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Leave the newest N generations as they are.",
)
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def consolidate(
    app: App,
    directory: Path,
    list_name: str,
    keep_newest: int,
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Join small segments of a list into a few large segments.

    The list stays the same, and new clients download less. Clients that are up to date download
    nothing; clients that were away for more than N generations may have to build the list again.
    Once a day, from cron, is enough.

    \b
      hashclient provider consolidate /srv/lists --list baseline
    """
    repository = repository_at(app, directory, passphrases(passphrase_file))
    done = repository.consolidate(list_name, keep_newest=keep_newest, draft=draft)
    joined = f"{done.before} segments -> {done.after}"
    text = f"list {done.list_name}: generation {done.generation}: {joined}"
    app.show(output_format, done, text)
    conclude(app, repository, draft)


@click.group("list")
def list_group() -> None:
    """End a list.

    \b
      hashclient provider list end /srv/lists basline
    """


@list_group.command("end")
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
    """End LIST: clients remove it, and withdraw its matches.

    The role `targets` signs the end of the list. The name can never be used again. So use this
    command for a list that you will not continue, or for a list with a misspelt name. Published
    files stay, for clients that are fetching them now.

    \b
      hashclient provider list end /srv/lists basline
    """
    repository = repository_at(app, directory, passphrases(passphrase_file))
    repository.end_list(list_name, draft=draft)
    text = f"list {list_name} has ended: clients remove it with their next fetch"
    app.show(output_format, {"ended": list_name, "draft": draft}, () if draft else text)
    conclude(app, repository, draft)
