"""`scan`: check files and trees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, pass_app
from hashclient.cli.early import load_numpy
from hashclient.cli.options import no_exceptions_option, outcome_options, refuse_lost_directory
from hashclient.errors import ExitCode, UsageError
from hashclient.formats.interface import FORMATS
from hashclient.system.descriptors import open_input
from hashclient.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hashclient.cli.run import RunOutput
    from hashclient.scan.objects.objects import Objects
    from hashclient.scan.pipeline import Scan
    from hashclient.scan.sources.frontier import WalkOptions
    from hashclient.scan.sources.interface import Source
    from hashclient.scan.streaming import Stream

#: The walk checks whether each PATH exists and can be read, and gives an outcome.
_path = click.Path(readable=False)


@click.command("scan")
@click.argument("paths", metavar="[PATH…]", nargs=-1, type=_path)
@click.option(
    "--files-from",
    metavar="FILE|-",
    # Kept as it was typed: a Path would turn `./-`, which is a file, into `-`, which is stdin.
    type=click.Path(allow_dash=True, readable=False),
    help="Check the files whose names are in FILE, or come from stdin, one a line. A directory"
    " among them is unread.",
)
@click.option(
    "-0",
    "--null",
    is_flag=True,
    help="The names of --files-from are separated by NUL, as `find -print0` writes them.",
)
@click.option(
    "--ignore-missing",
    is_flag=True,
    help="Skip names of --files-from that are not there any more; without it they are unread.",
)
@click.option(
    "--allow-empty",
    is_flag=True,
    help="Nothing to check is no failure: end with 0 instead of 3, as for a commit without files.",
)
@click.option(
    "--stdin-name",
    metavar="NAME",
    help="The name of the input from stdin, where PATH is `-`. [default: -]",
)
@outcome_options(*FORMATS)
@click.option(
    "--sort",
    is_flag=True,
    help="Write outcomes by path, in the order of its bytes, when all is checked; so two outputs"
    " can be compared.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Worker processes. [default: as many as there are processors, or as a quota is worth, and"
    " more as long as they wait for storage]",
)
@click.option(
    "--executor",
    metavar="WHERE",
    help="Where files are checked: in `processes` of this machine; by the workers of a cluster,"
    " `dask://HOST:PORT`; or `local-cluster:N`, for a trial. [default: that of config.toml, or"
    " `processes`]",
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
    "--no-members",
    is_flag=True,
    help="Do not open archives and mail: each is one file, and the summary says so.",
)
@click.option(
    "--verify-sizes",
    is_flag=True,
    help="Read also members of archives that claim a size which no entry has; without it, such a"
    " claim rules them out.",
)
@click.option(
    "--passwords-file",
    metavar="FILE",
    type=existing_path(dir_okay=False),
    help="Try the passwords in FILE, one a line, where something in an archive is encrypted.",
)
@click.option(
    "--all-digests",
    is_flag=True,
    help="Compute every digest that the lists have for a file of its size, not the cheapest alone:"
    " finds entries whose digests are not of one file.",
)
@click.option(
    "--no-inventory",
    is_flag=True,
    help="Read every file, also those that the inventory knows unchanged.",
)
@click.option(
    "--no-read",
    is_flag=True,
    help="Read no object: one that is not decided by its size or a trusted digest of its store"
    " is unread.",
)
@click.option(
    "--all-versions",
    is_flag=True,
    help="Check every version of each object, not the latest alone; for S3.",
)
@click.option(
    "--inventory-report",
    metavar="REPORT",
    help="Check the objects that REPORT names instead of a listing: the manifest.json of an S3"
    " Inventory, as path or URI, or a Parquet or CSV file with columns key and size, and perhaps"
    " etag and version.",
)
@click.option(
    "--resume",
    metavar="TOKEN",
    help="Continue a listing of objects that ended early, after the objects checked then.",
)
@click.option(
    "--quarantine",
    is_flag=True,
    help="Isolate every match, sealed, with any policy.",
)
@click.option(
    "--policy-check",
    is_flag=True,
    help="Print for each match what the policy would do, without doing it.",
)
@click.option(
    "--no-actions",
    is_flag=True,
    help="Only record matches, with any policy, config.toml and --quarantine: for hooks and CI"
    " jobs.",
)
@no_exceptions_option
@click.option(
    "--fetch", "fetch_first", is_flag=True, help="Fetch the lists first, as `fetch` does."
)
@pass_app
def command(
    app: App,
    paths: tuple[str, ...],
    files_from: str | None,
    null: bool,
    ignore_missing: bool,
    allow_empty: bool,
    stdin_name: str | None,
    output_format: str,
    output: Path | None,
    show_all: bool,
    show_digests: bool,
    sort: bool,
    jobs: int | None,
    executor: str | None,
    exclude: tuple[str, ...],
    one_file_system: bool,
    follow_symlinks: bool,
    sparse: bool,
    no_members: bool,
    verify_sizes: bool,
    passwords_file: Path | None,
    all_digests: bool,
    no_inventory: bool,
    no_read: bool,
    all_versions: bool,
    inventory_report: str | None,
    resume: str | None,
    quarantine: bool,
    policy_check: bool,
    no_actions: bool,
    no_exceptions: bool,
    fetch_first: bool,
) -> ExitCode:
    """Check files, and trees to any depth, against the lists.

    Matches are named with the entry of the list, and the exit code gives the verdict. Every file
    ends as clean, match, conflict (digests of one entry disagree), skipped or unread, with a
    reason. Reading needs no lock and no network. Nothing is ever shown, and nothing is changed or
    moved, unless the policy in config.toml or --quarantine says so. Each match is remembered under
    an id: `hashclient matches` lists them.

    A PATH of `-` is the content of stdin, as one input without a file; `./-` is a file. One that
    begins with s3://, gs:// or az:// names objects in a bucket: one object, and all below it.

    \b
      hashclient scan /srv/files
      hashclient scan --policy-check /srv/files
      hashclient scan --quarantine /srv/files
      hashclient scan --format jsonl --output found.jsonl /srv/files
      find /srv -newer stamp -type f -print0 | hashclient scan --files-from - -0
      zcat backup.gz | hashclient scan --stdin-name backup -
      hashclient scan --exclude '*.iso' --exclude '/srv/cache/*' /srv
      hashclient scan s3://bucket/uploads/

    Exit codes: 0 nothing found, 10 match, 11 match and something needs attention, 3 something
    was unread or there was nothing to check, 7 stale list; all are in `hashclient --help`.
    """
    from hashclient.cli.buckets import Asked, split_paths
    from hashclient.cli.run import RunOutput, load_lists
    from hashclient.client import Client
    from hashclient.scan.sources.frontier import WalkOptions

    files, uris = split_paths(paths)
    asked = Asked(uris, not no_read, all_versions, resume, inventory_report)
    executor = executor or app.settings.config.cluster.scheduler or "processes"
    asked.check(others=bool(files) or files_from is not None, excludes=bool(exclude))
    _refuse_contradictions(files_from, ignore_missing, null, executor, show_digests)
    refuse_lost_directory([*files, *filter(None, [files_from])])
    load_numpy()
    stream = _stream(files, files_from, stdin_name, quarantine=quarantine)
    sources = [] if files_from is None else [_names(files_from, null=null, exclude=exclude)]
    failed = _fetch(app) if fetch_first else None
    output_of_run = RunOutput(
        app,
        "scan",
        output_format,
        output,
        show_digests=show_digests,
        show_all=show_all,
        paths=[*files, *asked.texts],
        sort=sort,
    )
    lists = load_lists(app)
    inventory = not (no_inventory or show_digests)  # it has tags, and no digests to show
    objects = asked.objects(app, jobs, lists.sealer.key_id, use=inventory)
    run = Client(app.session).scan(
        *(path for path in files if path != "-"),
        sources=sources,
        stream=stream,
        objects=objects,
        exclude=exclude,
        one_file_system=one_file_system,
        follow_symlinks=follow_symlinks,
        sparse=sparse,
        all_digests=all_digests,
        jobs=jobs,
        executor=executor,
        inventory=inventory,
        ignore_missing=ignore_missing,
        show_clean=show_all,
        act=not no_actions,
        quarantine=quarantine,
        only_tell=policy_check,
        exceptions=not no_exceptions,
        members=not no_members and not no_read,
        verify_sizes=verify_sizes,
        passwords=() if passwords_file is None else _passwords(passwords_file),
        lists=lists,
        front=output_of_run.front,
    )
    run.summary.allow_empty = allow_empty
    if failed is not None:
        run.summary.failed, run.summary.failure = failed, None
    is_countable = not (stream or sources or uris) and executor == "processes"
    options = WalkOptions(tuple(exclude), one_file_system, follow_symlinks)
    return _write(app, run, output_of_run, files if is_countable else (), options, objects)


def _fetch(app: App) -> ExitCode | None:
    """Fetch the lists, and return the worst failure; few scans do, so only these load it."""
    from hashclient.cli.fetch import fetch_and_show

    return fetch_and_show(app)


def _refuse_contradictions(
    files_from: str | None, ignore_missing: bool, null: bool, executor: str, show_digests: bool
) -> None:
    if show_digests and executor != "processes":
        raise UsageError(
            "digests stay on the machine where they were computed",
            hint="leave out --show-digests, or give `--executor processes`",
        )
    if files_from is None and (ignore_missing or null):
        option = "--ignore-missing" if ignore_missing else "--null"
        raise UsageError(f"{option} is about the names of --files-from", hint="give both")


def _write(
    app: App,
    run: Scan,
    output: RunOutput,
    countable: Sequence[str],
    options: WalkOptions,
    objects: Objects | None,
) -> ExitCode:
    """Write the output while a bar shows the progress, then the next steps.

    The bar shows a share where all inputs are those at the `countable` paths: the numbers of names
    from another program and of objects are not known.
    """
    from hashclient.cli.counting import files_counted
    from hashclient.cli.progress import scan_progress

    counted = countable if app.progress_wanted() else ()
    with (
        files_counted(counted, options) as total,
        scan_progress(app, run.progress, total) as output.tick,
    ):
        code = output.write(run)
    if objects is not None and objects.token is not None:
        app.say(f"next: hashclient scan --resume {objects.token}, with the same options and URI")
    if run.is_mount_missing:
        app.say("next: mount what is missing; `hashclient inventory forget PATH` if it is given up")
    return code


def _stream(
    paths: tuple[str, ...], files_from: str | None, name: str | None, *, quarantine: bool
) -> Stream | None:
    """Return the source for stdin, if it is one of `paths`.

    Raises:
        UsageError: it cannot be read in the way that was asked for.
    """
    count = paths.count("-")
    if not count:
        if name is not None:
            raise UsageError("--stdin-name is about the PATH `-`", hint="give both")
        return None
    if count > 1 or files_from == "-":
        raise UsageError(
            "stdin can only be read once", hint="a file that is called `-` is given as `./-`"
        )
    if quarantine:
        raise UsageError(
            "stdin has no file that could be isolated",
            hint="leave out --quarantine, or give the file as PATH; `./-` is a file",
        )
    if name == "":
        raise UsageError("--stdin-name is empty", hint="give a name, or leave it out")
    from hashclient.scan.streaming import Stream

    return Stream(0, name or "-")


def _passwords(path: Path) -> list[bytes]:
    """Read passwords, one a line, in any bytes.

    Raises:
        UsageError: they cannot be read.
    """
    from hashclient.system.files import MAX_TEXT_BYTES, read_regular

    try:
        text = read_regular(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise UsageError(
            f"cannot read {printable(path)}: {error.strerror}",
            hint="check the path; it is a file of at most 1 MiB",
        ) from error
    return [
        line for line in text.replace(b"\r\n", b"\n").split(b"\n") if line and b"\0" not in line
    ]


def _names(file: str, *, null: bool, exclude: tuple[str, ...]) -> Source:
    """Return the source for the names in a file; `-` is stdin.

    Raises:
        UsageError: it cannot be opened.
    """
    from hashclient.scan.sources.names import Names

    try:
        fd = 0 if file == "-" else open_input(file)
    except OSError as error:
        raise UsageError(
            f"cannot read {printable(file)}: {error.strerror}", hint="check the path"
        ) from error
    return Names(fd, file, null=null, exclude=exclude)
