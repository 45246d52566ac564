"""`provider export` writes a bundle; `provider follow` republishes a list from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.options import LISTS_OF_REPOSITORY
from hashclient.cli.provider_keys import passphrase_option, passphrases
from hashclient.cli.provider_options import (
    change_text,
    conclude,
    draft_option,
    read_root,
    repo_argument,
    repository_at,
)
from hashclient.core.errors import UsageError
from hashclient.system.text import counted, first_of, for_people, printable

if TYPE_CHECKING:
    from hashclient.provider.keys import Keys
    from hashclient.provider.repository import Repository


@click.command("follow", short_help="Republish changes of other providers.")
@repo_argument
@click.argument("bundle", metavar="BUNDLE", type=existing_path())
@click.option(
    "--list",
    "lists",
    metavar="NAME",
    multiple=True,
    shell_complete=LISTS_OF_REPOSITORY,
    help="Only this list of REPO. Can be given several times. [default: all lists that republish "
    "a list of that provider]",
)
@click.option("--dry-run", is_flag=True, help="Check everything, and publish nothing.")
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def follow(
    app: App,
    directory: Path,
    bundle: Path,
    lists: tuple[str, ...],
    dry_run: bool,
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Update lists that republish another provider's list, with additions and withdrawals.

    BUNDLE is a newer bundle of the other provider with the whole list, or a copy of its public
    directory. BUNDLE is verified as a client verifies it: a generation that is older than the last
    republished generation is refused. The first `publish --from-bundle` decided which list and
    which entries are republished: `follow` remembers this choice. An entry that you have withdrawn
    from your list stays withdrawn.

    \b
      hashclient provider follow /srv/lists new.bundle
    """
    from hashclient.lists.offline import open_copy
    from hashclient.provider.sharing import Share

    repository = repository_at(app, directory, passphrases(passphrase_file))
    repository.require()
    with open_copy(bundle) as copy:
        here = sorted(path.name for path in repository.sources.glob("*"))
        if unknown := [name for name in lists if name not in here]:
            raise UsageError(
                f"list {printable(unknown[0])} does not republish another provider's list",
                hint=f"lists that do: {first_of(here) or 'none'}",
            )
        names = lists or [
            name for name in here if Share(repository.sources / name, copy, app.now).is_from()
        ]
        if not names:
            raise UsageError(
                f"no list here republishes a list of this provider: {printable(bundle)}",
                hint="`hashclient provider publish --from-bundle` makes one",
            )
    if draft is not None and len(names) > 1:
        raise UsageError("a draft is of one list: name it with --list")
    found = []
    for name in names:
        document, text = share_on(app, repository, name, bundle, dry_run=dry_run, draft=draft)
        found.append(document)
        if output_format == "text":
            app.show("text", None, text)
    if output_format == "json":
        app.show("json", {"lists": found}, (), indent=2)
    conclude(app, repository, draft)


def share_on(
    app: App,
    repository: Repository,
    name: str,
    bundle: Path,
    *,
    root: Path | None = None,
    of: str | None = None,
    where: str | None = None,
    list_keys: Keys | None = None,
    may_be_new: bool = False,
    dry_run: bool = False,
    draft: Path | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Republish a list of `bundle` as list `name`; return the result as JSON and as text.

    Raises:
        HashclientError: see `Repository.publish` and `Share`.
    """
    from hashclient.lists.offline import open_copy
    from hashclient.provider.keys import Keys
    from hashclient.provider.sharing import Share

    with open_copy(bundle) as copy:
        share = Share(repository.sources / name, copy, app.now, writes=not dry_run)
        share.begin(None if root is None else read_root(app, root), of, where)
        done = repository.publish(
            name,
            (),
            list_keys=list_keys or Keys(),
            dry_run=dry_run,
            draft=draft,
            may_be_new=may_be_new,
            share=share,
        )
    origin = share.provenance(done.generation).origins[-1]
    more: dict[str, Any] = {
        "withdrawn": done.withdrawn,
        "added_by_category": done.categories,
        "origin": origin,
        "left_out": share.left_out,
        "dry_run": dry_run,
        "draft": draft if draft and draft.exists() else None,
    }
    app.say(f"list {name}: from list {origin.list}, generation {origin.generation}")
    if share.left_out:
        app.say(f"left out, because they were withdrawn here: {share.left_out:,}")
    if not (done.changed or done.withdrawn):
        app.say("all entries are listed already: nothing was published")
    what = "would be added" if dry_run or draft else "added"
    return change_text(done, what, more, with_withdrawn=True)


@click.command("export", short_help="Write the published files of REPO to one file.")
@click.argument("directory", metavar="REPO", type=existing_path(file_okay=False))
@click.option(
    "--to",
    metavar="FILE",
    type=existing_path(),
    required=True,
    help="The file to write; an earlier file is replaced.",
)
@click.option(
    "--since",
    metavar="LIST=GENERATION",
    multiple=True,
    help="From this list, write only changes for clients that already have this generation or a "
    "later one. Can be given several times. [default: write all of each list]",
)
@format_option("text", "json")
@pass_app
def export(app: App, directory: Path, to: Path, since: tuple[str, ...], output_format: str) -> None:
    """Write all that REPO publishes to a file, for clients without a network.

    Clients read the file with `hashclient fetch --from FILE`, and verify it like files from a web
    server. The file has to reach the clients before its signatures expire: run `renew` first, and
    carry the file within days. The lists in the file are not encrypted: encrypt the file while you
    carry it, so that nobody else can read it.

    \b
      hashclient provider renew /srv/lists
      hashclient provider export /srv/lists --to lists.bundle
      hashclient provider export /srv/lists --to lists.bundle --since baseline=41
    """
    from hashclient.provider.export import export_bundle

    wanted = _generations(since)
    done = export_bundle(directory, to, wanted)
    until = for_people(done.until)
    document = {
        "file": to,
        "files": done.files,
        "bytes": done.bytes,
        "until": done.until,
        "lists": [
            {"list": entry.name, "generation": entry.generation, "since": entry.since}
            for entry in done.lists
        ],
    }
    text = [
        f"list {entry.name}: generation {entry.generation},"
        f" {'all of it' if entry.since is None else f'since generation {entry.since}'}"
        for entry in done.lists
    ]
    files = f"{counted(done.files, 'file')}, {counted(done.bytes, 'byte')}"
    last = f"{printable(to)}: {files}; clients accept it until {until}"
    app.show(output_format, document, [*text, last])
    for entry in done.lists:
        if entry.since is None and wanted.get(entry.name):
            app.say(
                f"list {entry.name}: it was consolidated, so the changes since that generation "
                "are not known any more: the bundle has all of the list"
            )
    if done.until <= app.now():
        app.warn(
            f"the signatures have expired: {until}; clients refuse the bundle",
            f"run `hashclient provider renew {printable(directory)}` and export again",
        )


def _generations(since: tuple[str, ...]) -> dict[str, int]:
    generations = {}
    for text in since:
        name, _, number = text.rpartition("=")
        if not name or not number.isascii() or not number.isdigit() or len(number) > 16:
            raise UsageError(
                f"not a list and a generation: {printable(text)}",
                hint="write --since baseline=41, for example",
            )
        generations[name] = int(number)
    return generations
