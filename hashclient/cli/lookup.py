"""`lookup`: checks digests instead of files."""

from __future__ import annotations

import sys

import click

from hashclient.cli.app import App, load_numpy, pass_app
from hashclient.cli.importing import make_reading, reading_options, say_remarks
from hashclient.cli.options import OutcomeOptions, declared, outcome_options
from hashclient.core.errors import ExitCode, UsageError
from hashclient.scan.values.options import ScanOptions


@click.command("lookup")
@click.argument("digests", metavar="[DIGEST…]", nargs=-1)
@click.option(
    "--from",
    "sources",
    metavar="FILE|-",
    multiple=True,
    # Click does not check that the file can be read, because an unreadable file must not stop the
    # lookup of the other files. The name is not converted to a Path, because a Path would turn
    # `./-` (a file) into `-` (stdin).
    type=click.Path(allow_dash=True, readable=False),
    help="Read digests from FILE, or from stdin. Can be given several times.",
)
@click.option(
    "--accept-gaps",
    is_flag=True,
    help="Count inputs as clean even if entries have no digest of their kind. The output still "
    "names the kinds.",
)
@declared(ScanOptions, "exceptions")
@reading_options
@outcome_options("text", "jsonl", "csv", digests="given digests")
@pass_app
def command(
    app: App,
    digests: tuple[str, ...],
    sources: tuple[str, ...],
    accept_gaps: bool,
    exceptions: bool,
    where: str | None,
    columns: tuple[str, ...],
    written: OutcomeOptions,
) -> ExitCode:
    """Check digests that were computed elsewhere.

    A DIGEST is an MD5, SHA-1 or SHA-256 in hexadecimal. A file may hold bare digests, the output of
    md5sum, sha1sum or sha256sum (GNU or BSD style), of hashdeep, CSV or TSV with a header, JSONL or
    Parquet, ICSE exports, VICS JSON of Project VIC or CAID, NCMEC hash sharing XML, ClamAV
    signatures (.hdb, .hsb), the NSRL database (RDSv3) or its NSRLFile.txt. A file may be compressed
    with gzip or zstd. All rows are looked up, unless --where selects rows. A line that is not
    understood is an error. Outcomes and exit codes are the same as for `scan`. If a row has several
    digests, all of them must agree with the entry.

    A lookup can only find entries that have a digest of the given kind; `status` shows how many
    entries have this kind. An input without a match is unread if some entry has no digest of this
    kind: this entry could be the input. If FILE gives the size of an input, entries with another
    size are ruled out.

    \b
      hashclient lookup 9d9b4dd7a5b5ac4d0c6f8e3ba3f66f8c
      sha256sum * | hashclient lookup --from -
      hashclient lookup --format jsonl --from inventory.hashdeep

    Exit codes: 0 nothing found, 10 match, 11 match and something needs attention, 3 a conflict,
    something undecided or nothing to check, 7 stale list, 8 a list is missing; all codes are in
    `hashclient --help`.
    """
    load_numpy()
    from hashclient.cli.run import RunOutput, load_lists
    from hashclient.client.client import Client

    if not digests and not sources:
        raise UsageError(
            "nothing to look up", hint="give digests as arguments, or a file of them with --from"
        )
    reading = make_reading(where, columns, all_rows=True)
    output_of_run = RunOutput(app, "lookup", written, sources)
    run = Client(app.session).lookup(
        *digests,
        files=sources,
        stdin=sys.stdin.buffer,
        accept_gaps=accept_gaps,
        show_clean=written.show_all,
        exceptions=exceptions,
        lists=load_lists(app),
        front=output_of_run.front,
        reading=reading,
    )
    code = output_of_run.write(run)
    say_remarks(app, reading)
    if run.summary.gaps and not accept_gaps:
        app.say(
            "hint: look up other digests of the same files too, or their sizes; --accept-gaps "
            "counts such inputs as clean"
        )
    return code
