"""`provider publish`, `withdraw`, `consolidate` and `list end`: changes of a list."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.importing import (
    SHOWN,
    check_category,
    make_reading,
    open_files,
    publishing_options,
    reading_options,
    say_remarks,
)
from hashclient.cli.options import LISTS_OF_REPOSITORY
from hashclient.cli.provider_keys import passphrase_option, passphrases
from hashclient.cli.provider_options import (
    change_text,
    conclude,
    draft_option,
    key_options,
    keys_wanted,
    list_option,
    public_key_option,
    repo_argument,
    repository_at,
    say_draft,
    warn_expiring,
)
from hashclient.cli.provider_share import share_on
from hashclient.errors import UsageError

if TYPE_CHECKING:
    from hashclient.lists.importers.importfile import Reading
    from hashclient.provider.results import Published


@click.command("publish", short_help="Add the entries of FILE... to a list.")
@repo_argument
@list_option
@click.argument("files", metavar="[FILE…]", nargs=-1)
@reading_options
@publishing_options
@click.option(
    "--replace",
    is_flag=True,
    help="The files are the whole list, doubles included: withdraw what they lack, keep equal"
    " entries.",
)
@click.option(
    "--from-bundle",
    "bundle",
    metavar="BUNDLE",
    type=existing_path(),
    help="Share a list of another provider on: publish what its bundle lists, or a copy of its"
    " public directory, as the whole list. `follow` does it again.",
)
@click.option(
    "--root",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="The root.json of that provider; it is remembered.",
)
@click.option(
    "--from-list", "of", metavar="LIST", help="The name of the list there. [default: the same]"
)
@click.option(
    "--terms", metavar="TEXT", help="On which terms the list may be used; signed with the list."
)
@click.option("--new-list", is_flag=True, help="Make a list of that name, beside others.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check all of it, and publish nothing: show categories, and each row that cannot be used,"
    " up to --max-bad.",
)
@key_options("a new list")
@public_key_option
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def publish(
    app: App,
    directory: Path,
    list_name: str,
    files: tuple[str, ...],
    where: str | None,
    columns: tuple[str, ...],
    category: str | None,
    category_map: Path | None,
    known_good: tuple[str, ...],
    max_bad: int,
    replace: bool,
    bundle: Path | None,
    root: Path | None,
    of: str | None,
    terms: str | None,
    new_list: bool,
    dry_run: bool,
    passphrase_file: Path | None,
    output_format: str,
    keys: int,
    threshold: int,
    public_keys: tuple[Path, ...],
    draft: Path | None,
) -> None:
    """Add the entries of FILE... to a list, as its next generation.

    A FILE is CSV or TSV with a header (entry_id, md5, sha1, sha256, size, category, added; one
    digest column at least), an ICSE export, VICS JSON of Project VIC or CAID, NCMEC hash sharing
    XML, JSONL, Parquet, output of md5sum, sha1sum, sha256sum or hashdeep, ClamAV signatures (.hdb,
    .hsb), the NSRL database (RDSv3) or NSRLFile.txt, or one digest a line; in gzip or zstd, too;
    `-` is standard input. docs/import.md describes them all. An entry without an id gets one. All
    is checked first: with more than --max-bad rows that cannot be used, digests of the empty file
    among them, nothing is published. Entries whose digests are listed before are published, and
    counted.

    With --from-bundle, the entries are those that another provider lists. Its bundle is verified as
    by a client, and `follow` brings later changes.

    The first publication makes the list and its keys; beside other lists it wants --new-list. A
    file that was published before adds nothing. With --public-key, the keys of the list are those
    of people, who sign apart: they are given a --draft.

    \b
      hashclient provider publish /srv/lists --list baseline entries.csv
      hashclient provider publish /srv/lists --list baseline \\
            --where 'Baseline = true' icse.csv
      sha256sum * | hashclient provider publish /srv/lists --list local -
      hashclient provider publish /srv/lists --list shared --new-list \\
            --from-bundle theirs.bundle --root theirs.json --from-list baseline
    """
    check_category(category)
    if draft is not None and dry_run:
        raise UsageError("give either --draft or --dry-run")
    for_files = (columns, category, category_map, known_good, max_bad, replace, terms)
    _check_source(files, bundle, with_bundle=(root, of), with_files=for_files)
    if replace and max_bad and not dry_run:
        raise UsageError(
            "--replace takes no --max-bad: skipped entries would be withdrawn",
            hint="see to the rows that cannot be used first",
        )
    reading = make_reading(where, columns, category_map=category_map, max_bad=max_bad)
    repository = repository_at(app, directory, passphrases(passphrase_file))
    list_keys = keys_wanted(keys, threshold, public_keys)
    if bundle is not None:
        document, text = share_on(
            *(app, repository, list_name, bundle),
            root=root,
            of=of,
            where=where,
            keys=list_keys,
            may_be_new=new_list,
            dry_run=dry_run,
            draft=draft,
        )
        app.show(output_format, document, text)
        say_draft(app, draft)
        return
    try:
        done = repository.publish(
            list_name,
            open_files(files, sys.stdin.buffer),
            list_keys=list_keys,
            reading=reading,
            category=category,
            known_good=open_files(known_good, sys.stdin.buffer) if known_good else None,
            replace=replace,
            dry_run=dry_run,
            draft=draft,
            may_be_new=new_list,
            again=False,
            terms=terms,
        )
    except UsageError:
        if dry_run:
            say_remarks(app, reading, max_bad)
        raise
    _show_published(
        app, done, reading, output_format, replace=replace, dry_run=dry_run, draft=draft
    )
    if terms is not None and not (done.changed or done.withdrawn):
        app.warn("the terms are not in force", "they are signed with a change of the list")
    say_draft(app, draft)
    if not dry_run and draft is None:
        warn_expiring(app, repository)


@click.command("withdraw")
@repo_argument
@list_option
@click.argument("entry_ids", metavar="[ENTRY_ID…]", nargs=-1)
@click.option("--from", "files", metavar="FILE", multiple=True, help="Ids, one a line; - is stdin.")
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

    It is one generation, however many entries they are.

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

    What N added is withdrawn, and what it withdrew comes back as it was, under its ids. An entry
    that a later generation has added or withdrawn stays as it is. To undo that again, revert the
    new generation. What another provider has withdrawn, whose list is shared on, cannot come back.

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
    """Join small segments of a list into few larger ones.

    The list stays the same, and new clients download less. Clients that are up to date download
    nothing; those that were away for more than N generations may build the list again. Once a
    day, from cron, is enough.

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
    conclude(app, repository, draft)


def _check_source(
    files: Sequence[str],
    bundle: Path | None,
    *,
    with_bundle: Sequence[object],
    with_files: Sequence[object],
) -> None:
    """Refuse files beside a bundle, neither, and options of the one with the other.

    Raises:
        UsageError: they do not go together.
    """
    if (bundle is None) != bool(files):
        raise UsageError("give either FILE… or --from-bundle")
    if bundle is None and any(with_bundle):
        raise UsageError("--root and --from-list are of use with --from-bundle only")
    if bundle and any(with_files):
        raise UsageError(
            "--from-bundle takes entries and terms as they are: --where chooses among them",
            hint="leave out options that are for files",
        )


def _show_published(
    app: App,
    done: Published,
    reading: Reading,
    output_format: str,
    *,
    replace: bool,
    dry_run: bool,
    draft: Path | None,
) -> None:
    """Show what was published, or would be, and which rows were not used.

    Raises:
        UsageError: entries of rows that cannot be used would be withdrawn.
    """
    remarks = reading.remarks
    more: dict[str, Any] = {
        "listed_before": done.listed.count if done.listed else 0,
        "repeated": done.repeated.count if done.repeated else 0,
        "withdrawn": done.withdrawn,
        "added_by_category": done.categories,
        "not_meant": remarks.not_meant,
        "skipped": [{"at": place, "reason": what} for place, what in remarks.skipped],
        "dry_run": dry_run,
        "draft": draft if draft and draft.exists() else None,
    }
    what = "would be added" if dry_run or draft else "added"
    app.show(output_format, *change_text(done, what, more, with_withdrawn=replace))
    say_remarks(app, reading, reading.max_bad if dry_run else SHOWN)
    if replace and remarks.skipped:
        raise UsageError(
            "--replace would withdraw the entries of rows that cannot be used",
            hint="see to these rows, and publish without --max-bad",
        )
    if not (done.changed or done.withdrawn):
        app.say("all of it is listed already: nothing was published")
    _warn_doubles(app, done, dry_run=dry_run or draft is not None)


def _warn_doubles(app: App, done: Published, *, dry_run: bool) -> None:
    """Warn of added entries whose digests were all listed before, or given twice."""
    published = "they would be published" if dry_run else "they were published"
    for some, what in ((done.listed, "on the list before"), (done.repeated, "given twice")):
        if some is not None:
            app.warn(
                f"{what}, by all their digests: {some.count:,} of {done.changed:,} entries,"
                f" the first from {some.first}",
                f"{published} all the same; `hashclient provider withdraw` takes entries"
                " off the list",
            )
