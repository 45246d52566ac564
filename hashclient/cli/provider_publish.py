"""`provider publish`: adds entries to a list, or republishes the list of another provider."""

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
from hashclient.cli.provider_keys import passphrase_option, passphrases
from hashclient.cli.provider_options import (
    change_text,
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
from hashclient.core.errors import UsageError

if TYPE_CHECKING:
    from hashclient.lists.importers.importfile import Reading
    from hashclient.provider.repository import Repository
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
    help="The files are the whole list: keep the entries that they contain, and withdraw all "
    "others.",
)
@click.option(
    "--from-bundle",
    "bundle",
    metavar="BUNDLE",
    type=existing_path(),
    help="Republish a list of another provider: its bundle, or a copy of its public directory, "
    "becomes the whole list. `follow` repeats this with later bundles.",
)
@click.option(
    "--root",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="The root.json of the other provider; the program remembers this root.",
)
@click.option(
    "--from-list",
    "of",
    metavar="LIST",
    help="The name of the list at the other provider. [default: the same name]",
)
@click.option("--terms", metavar="TEXT", help="The terms of use of the list; signed with the list.")
@click.option("--new-list", is_flag=True, help="Make a new list with this name.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, and publish nothing: show categories, and rows that cannot be used, "
    "up to --max-bad rows.",
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
    `-` is standard input. docs/import.md describes them all. An entry without an id gets an id. All
    rows are checked first: nothing is published if more rows than --max-bad cannot be used. A row
    with a digest of the empty file cannot be used. If all digests of an entry are on the list
    already, the entry is still published; a warning counts these entries.

    With --from-bundle, the entries come from the list of another provider. The bundle is verified
    as a client verifies it, and `follow` brings later changes.

    The first publication makes the list and its keys; if other lists exist already, add --new-list.
    If a file was published before, it adds nothing. With --public-key, the keys of the list belong
    to people, who sign a --draft on their own machines.

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
            "--replace excludes --max-bad: skipped entries would be withdrawn",
            hint="correct the rows that cannot be used first",
        )
    reading = make_reading(where, columns, category_map=category_map, max_bad=max_bad)
    repository = repository_at(app, directory, passphrases(passphrase_file))
    #: The options that apply to entries from files and to entries from a bundle.
    how: dict[str, Any] = {
        "list_keys": keys_wanted(keys, threshold, public_keys),
        "may_be_new": new_list,
        "dry_run": dry_run,
        "draft": draft,
    }
    if bundle is not None:
        about = (app, repository, list_name, bundle)
        app.show(output_format, *share_on(*about, root=root, of=of, where=where, **how))
        say_draft(app, draft)
        return
    how |= {"category": category, "replace": replace, "terms": terms}
    _publish_files(app, repository, list_name, files, known_good, reading, output_format, **how)


def _publish_files(
    app: App,
    repository: Repository,
    list_name: str,
    files: tuple[str, ...],
    known_good: tuple[str, ...],
    reading: Reading,
    output_format: str,
    *,
    replace: bool,
    dry_run: bool,
    draft: Path | None,
    terms: str | None,
    **how: Any,
) -> None:
    """Publish the entries in `files`, and show the result.

    Raises:
        HashclientError: see `Repository.publish`.
    """
    try:
        done = repository.publish(
            list_name,
            open_files(files, sys.stdin.buffer),
            reading=reading,
            known_good=open_files(known_good, sys.stdin.buffer) if known_good else None,
            replace=replace,
            dry_run=dry_run,
            draft=draft,
            again=False,
            terms=terms,
            **how,
        )
    except UsageError:
        if dry_run:
            say_remarks(app, reading, reading.max_bad)
        raise
    _show_published(
        app, done, reading, output_format, replace=replace, dry_run=dry_run, draft=draft
    )
    if terms is not None and not (done.changed or done.withdrawn):
        app.warn(
            "the terms do not apply yet", "the terms are signed with the next change of the list"
        )
    say_draft(app, draft)
    if not dry_run and draft is None:
        warn_expiring(app, repository)


def _check_source(
    files: Sequence[str],
    bundle: Path | None,
    *,
    with_bundle: Sequence[object],
    with_files: Sequence[object],
) -> None:
    """Check that either files or a bundle is given, without options of the other kind.

    Raises:
        UsageError: the arguments contradict each other.
    """
    if (bundle is None) != bool(files):
        raise UsageError("give either FILE… or --from-bundle")
    if bundle is None and any(with_bundle):
        raise UsageError("--root and --from-list need --from-bundle")
    if bundle and any(with_files):
        raise UsageError(
            "--from-bundle does not change entries and terms: only --where chooses entries",
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
    """Show the number of entries that were or would be published, and of unused rows.

    Raises:
        UsageError: the replacement would withdraw entries because their rows cannot be used.
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
            hint="correct these rows, and publish without --max-bad",
        )
    if not (done.changed or done.withdrawn):
        app.say("all entries are listed already: nothing was published")
    _warn_doubles(app, done, dry_run=dry_run or draft is not None)


def _warn_doubles(app: App, done: Published, *, dry_run: bool) -> None:
    """Warn of added entries whose digests were all listed before, or occur twice in the files."""
    published = "they would be published" if dry_run else "they were published"
    for some, what in ((done.listed, "on the list before"), (done.repeated, "given twice")):
        if some is not None:
            app.warn(
                f"{what}, by all their digests: {some.count:,} of {done.changed:,} entries,"
                f" the first from {some.first}",
                f"{published} anyway; `hashclient provider withdraw` takes entries off the list",
            )
