"""`scan`: check files and trees."""

from __future__ import annotations

from pathlib import Path

import click

from hashclient.cli.app import App, pass_app
from hashclient.cli.options import report_options
from hashclient.errors import ExitCode
from hashclient.formats.interface import FORMATS

#: Whether it is there and can be read, the walk says: of each PATH by itself, as an outcome.
_path = click.Path(readable=False)


@click.command("scan")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=_path)
@report_options(*FORMATS)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Worker processes. [default: as many as there are processors]",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Skip names that match; with a slash, paths that match. Can be given several times.",
)
@click.option("--one-file-system", is_flag=True, help="Stay on the file system of each PATH.")
@click.option(
    "--follow-symlinks",
    is_flag=True,
    help="Follow links that are met on the way. A PATH that is a link is always followed.",
)
@click.option(
    "--sparse",
    is_flag=True,
    help="Read files of more than 1 GiB too of which more than 99 % is hole; without it they are"
    " unread.",
)
@click.option(
    "--no-inventory",
    is_flag=True,
    help="Read every file, also those that the inventory knows unchanged.",
)
@click.option(
    "--quarantine",
    is_flag=True,
    help="Take every match away, sealed, whatever the policy says.",
)
@click.option(
    "--policy-check",
    is_flag=True,
    help="Say for each match what the policy would do, and do nothing.",
)
@click.option(
    "--no-actions",
    is_flag=True,
    help="Record matches and do nothing about them, whatever the policy, config.toml or"
    " --quarantine says: for hooks and CI jobs.",
)
@click.option(
    "--fetch", "fetch_first", is_flag=True, help="Fetch the lists first, as `fetch` does."
)
@pass_app
def command(
    app: App,
    paths: tuple[str, ...],
    output_format: str,
    output: Path | None,
    show_all: bool,
    show_digests: bool,
    jobs: int | None,
    exclude: tuple[str, ...],
    one_file_system: bool,
    follow_symlinks: bool,
    sparse: bool,
    no_inventory: bool,
    quarantine: bool,
    policy_check: bool,
    no_actions: bool,
    fetch_first: bool,
) -> ExitCode:
    """Check files, and trees to any depth, against the lists.

    Matches are reported with the entry of the list, and the exit code tells the verdict. Every
    file ends as clean, match, conflict (digests of one entry disagree), skipped or unread, with a
    reason. Reading needs no lock and no network. Nothing is ever shown, and nothing is changed or
    moved, unless the policy in config.toml or --quarantine says so. Each match is remembered under
    an id: `hashclient matches` lists them.

    \b
      hashclient scan /srv/files
      hashclient scan --policy-check /srv/files
      hashclient scan --quarantine /srv/files
      hashclient scan --format jsonl --output report.jsonl /srv/files
      hashclient scan --exclude '*.iso' --exclude '/srv/cache/*' /srv

    Exit codes: 0 nothing found, 10 match, 11 match and something needs attention, 3 something
    was unread or there was nothing to check, 7 stale list; all are in `hashclient --help`.
    """
    from hashclient.cli.progress import scan_progress
    from hashclient.cli.run import Report, load_lists
    from hashclient.client import Client

    failed = None
    if fetch_first:
        from hashclient.cli.fetch import fetch_and_tell

        failed = fetch_and_tell(app)
    report = Report(
        app, "scan", output_format, output, show_digests=show_digests, show_all=show_all
    )
    run = Client(app.session).scan(
        *paths,
        exclude=exclude,
        one_file_system=one_file_system,
        follow_symlinks=follow_symlinks,
        sparse=sparse,
        jobs=jobs,
        # The inventory knows tags, not digests: to show these, files are read.
        inventory=not no_inventory and not show_digests,
        show_clean=show_all,
        act=not no_actions,
        quarantine=quarantine,
        only_tell=policy_check,
        lists=load_lists(app),
        front=report.front,
    )
    if failed is not None:
        run.summary.failed, run.summary.failure = failed, None
    with scan_progress(app, run.progress) as report.tick:
        code = report.write(run)
    if run.is_mount_missing:
        app.say("next: mount what is missing; `hashclient inventory forget PATH` if it is given up")
    return code
