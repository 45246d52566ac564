"""`scan`: checks files and trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from hashclient.cli.app import App, existing_path, load_numpy, pass_app
from hashclient.cli.buckets import Asked, object_options
from hashclient.cli.options import (
    OutcomeOptions,
    declared_options,
    gathered,
    outcome_options,
    refuse_lost_directory,
)
from hashclient.cli.publishing import publish_after
from hashclient.core.errors import ExitCode, UsageError
from hashclient.formats.registry import FORMATS
from hashclient.scan.values.options import ScanOptions
from hashclient.system.descriptors import open_input
from hashclient.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hashclient.cli.run import RunOutput
    from hashclient.scan.check.streaming import Stream
    from hashclient.scan.objects.objects import Objects
    from hashclient.scan.run.pipeline import Scan
    from hashclient.scan.sources.interface import Source


class Listed(NamedTuple):
    """The options for a file with the names of inputs, and for the name of stdin as an input."""

    files_from: str | None
    null: bool
    stdin_name: str | None

    def check(self, *, ignore_missing: bool) -> None:
        """Refuse options about a file of names if no file of names is given.

        Raises:
            UsageError: an option about a file of names is given without `--files-from`.
        """
        if self.files_from is None and (ignore_missing or self.null):
            option = "--ignore-missing" if ignore_missing else "--null"
            raise UsageError(f"{option} is about the names of --files-from", hint="give both")

    def stream(self, paths: Sequence[str], *, quarantine: bool) -> Stream | None:
        """Return stdin as a source of content to scan, if `paths` contains `-`.

        Raises:
            UsageError: the options do not allow stdin as an input.
        """
        count, name = paths.count("-"), self.stdin_name
        if not count:
            if name is not None:
                raise UsageError("--stdin-name is about the PATH `-`", hint="give both")
            return None
        if count > 1 or self.files_from == "-":
            raise UsageError(
                "stdin can only be read once", hint="a file that is called `-` is given as `./-`"
            )
        if quarantine:
            raise UsageError(
                "stdin is no file, so it cannot be isolated",
                hint="leave out --quarantine, or give the file as PATH; `./-` is a file",
            )
        if name == "":
            raise UsageError("--stdin-name is empty", hint="give a name, or leave the option out")
        from hashclient.scan.check.streaming import Stream

        return Stream(0, name or "-")

    def sources(self, exclude: tuple[str, ...]) -> list[Source]:
        """Return the source that yields the inputs named in the file of `--files-from`.

        Raises:
            UsageError: the file cannot be opened.
        """
        file = self.files_from
        if file is None:
            return []
        from hashclient.scan.sources.names import Names

        try:
            fd = 0 if file == "-" else open_input(file)
        except OSError as error:
            raise UsageError(
                f"cannot read {printable(file)}: {error.strerror}", hint="check the path"
            ) from error
        return [Names(fd, file, null=self.null, exclude=exclude)]


#: Click does not check that a PATH can be read, because the scan has to report an outcome for a
#: PATH that is missing or unreadable.
_path = click.Path(readable=False)
_sort = click.option(
    "--sort",
    is_flag=True,
    help="When everything is checked, write outcomes sorted by the bytes of their paths, to "
    "compare two outputs.",
)

_listed_options = gathered(
    "listed",
    Listed,
    click.option(
        "--files-from",
        metavar="FILE|-",
        # The value is not converted to a Path, because a Path would turn `./-` (a file) into `-`
        # (stdin).
        type=click.Path(allow_dash=True, readable=False),
        help="Check the files whose names are in FILE, or come from stdin, one a line. A directory"
        " among them is unread.",
    ),
    click.option(
        "-0",
        "--null",
        is_flag=True,
        help="The names of --files-from are separated by NUL, as `find -print0` writes them.",
    ),
    click.option(
        "--stdin-name",
        metavar="NAME",
        help="The name for the content of stdin, if PATH is `-`. [default: -]",
    ),
)


@click.command("scan")
@click.argument("paths", metavar="[PATH…]", nargs=-1, type=_path)
@_listed_options
@click.option(
    "--allow-empty",
    is_flag=True,
    help="If there is nothing to check, end with 0 instead of 3, for example for a commit without "
    "files.",
)
@outcome_options(*FORMATS, more=[_sort])
@click.option(
    "--passwords-file",
    metavar="FILE",
    type=existing_path(dir_okay=False),
    help="Try the passwords in FILE, one a line, for encrypted members of archives.",
)
@declared_options(
    ScanOptions,
    *("jobs", "executor", "exclude", "one_file_system", "follow_symlinks", "sparse", "members"),
    *("verify_sizes", "all_digests", "inventory", "ignore_missing"),
    *("quarantine", "policy_check", "actions", "exceptions"),
)
@object_options
@click.option(
    "--fetch", "fetch_first", is_flag=True, help="Fetch the lists first, as `fetch` does."
)
@pass_app
def command(
    app: App,
    paths: tuple[str, ...],
    listed: Listed,
    allow_empty: bool,
    written: OutcomeOptions,
    passwords_file: Path | None,
    options: ScanOptions,
    asked: Asked,
    fetch_first: bool,
) -> ExitCode:
    """Check files, and trees to any depth, against the lists.

    Matches are named with the entry of the list, and the exit code gives the verdict. Every file
    ends as clean, match, conflict (digests of one entry disagree), skipped or unread, with a
    reason. Scanning needs no lock and no network. No content is ever shown. No file is changed or
    moved, unless the policy in config.toml or --quarantine says so. Each match is recorded with an
    id: `hashclient matches` lists all matches.

    The PATH `-` means the content of stdin, as one input without a file; `./-` is a file. A PATH
    that begins with s3://, gs:// or az:// is an object in a bucket, and all objects below it.

    \b
      hashclient scan /srv/files
      hashclient scan --policy-check /srv/files
      hashclient scan --quarantine /srv/files
      hashclient scan --format jsonl --output found.jsonl /srv/files
      find /srv -newer stamp -type f -print0 | hashclient scan --files-from - -0
      zcat backup.gz | hashclient scan --stdin-name backup -
      hashclient scan --exclude '*.iso' --exclude '/srv/cache/*' /srv
      hashclient scan s3://bucket/uploads/

    Exit codes: 0 nothing found, 10 match, 11 match and something needs attention, 3 an input was
    unread or no input was given, 7 stale list; all are in `hashclient --help`.
    """
    from hashclient.cli.run import RunOutput, load_lists
    from hashclient.client.client import Client
    from hashclient.core.objecturi import split_paths

    publish_after(app)
    files, uris = split_paths(paths)
    asked = asked._replace(uris=uris)
    executor = options.executor or app.settings.config.cluster.scheduler or "processes"
    has_names = listed.files_from is not None
    asked.check(others=bool(files) or has_names, excludes=bool(options.exclude))
    if written.show_digests and executor != "processes":
        raise UsageError(
            "digests stay on the machine where they were computed",
            hint="leave out --show-digests, or give `--executor processes`",
        )
    listed.check(ignore_missing=options.ignore_missing)
    refuse_lost_directory([*files, *filter(None, [listed.files_from])])
    load_numpy()
    stream = listed.stream(files, quarantine=options.quarantine)
    sources = listed.sources(options.exclude)
    failed = _fetch(app) if fetch_first else None
    output = RunOutput(app, "scan", written, [*files, *asked.texts])
    lists = load_lists(app)
    options = options._replace(
        executor=executor,
        # With `--show-digests`, the inventory is not used, because the inventory has no digests.
        inventory=options.inventory and not written.show_digests,
        members=options.members and asked.reads,
        passwords=_passwords(passwords_file),
        show_clean=written.show_all,
    )
    objects = asked.objects(app, options, lists.sealer.key_id)
    run = Client(app.session).scan(
        *(path for path in files if path != "-"),
        options=options,
        sources=sources,
        stream=stream,
        objects=objects,
        lists=lists,
        front=output.front,
    )
    run.summary.allow_empty = allow_empty
    if failed is not None:
        run.summary.failed, run.summary.failure = failed, None
    is_countable = not (stream or sources or uris) and executor == "processes"
    return _write(app, run, output, files if is_countable else (), options, objects)


def _fetch(app: App) -> ExitCode | None:
    """Fetch the lists, and return the exit code of the worst failure.

    `hashclient.cli.fetch` is imported inside the function, because only a scan with `--fetch` needs
    `hashclient.cli.fetch`.
    """
    from hashclient.cli.fetch import fetch_and_show

    return fetch_and_show(app)


def _write(
    app: App,
    run: Scan,
    output: RunOutput,
    countable: Sequence[str],
    options: ScanOptions,
    objects: Objects | None,
) -> ExitCode:
    """Write the output while a bar shows the progress, then print the next steps.

    The bar shows a percentage if all inputs are below the paths `countable`. The number of inputs
    is not known if their names come from another program, or if the inputs are objects in a bucket.
    """
    from hashclient.cli.progress import files_counted, scan_progress

    counted = countable if app.progress_wanted() else ()
    with (
        files_counted(counted, options) as total,
        scan_progress(app, run.progress, total) as output.tick,
    ):
        code = output.write(run)
    if objects is not None and objects.token is not None:
        app.say(f"next: hashclient scan --resume {objects.token}, with the same options and URI")
    if run.is_mount_missing:
        app.say(
            "next: mount the missing file system; if it is gone for ever, run `hashclient "
            "inventory forget PATH`"
        )
    return code


def _passwords(path: Path | None) -> tuple[bytes, ...]:
    """Read passwords of any bytes, one a line, from the file `path`; return none without `path`.

    Raises:
        UsageError: the file of passwords cannot be read.
    """
    if path is None:
        return ()
    from hashclient.system.files import MAX_TEXT_BYTES, read_regular

    try:
        text = read_regular(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise UsageError(
            f"cannot read {printable(path)}: {error.strerror}",
            hint="check the path; the file must have at most 1 MiB",
        ) from error
    lines = text.replace(b"\r\n", b"\n").split(b"\n")
    return tuple(line for line in lines if line and b"\0" not in line)
