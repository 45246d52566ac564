"""`hashclient fleet summary`: what the logs of many machines say about a period, added up."""

from __future__ import annotations

from pathlib import Path

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.audit_summary import RENDERERS
from hashclient.cli.options import whole_output_option
from hashclient.cli.outputfile import write_whole
from hashclient.errors import UsageError
from hashclient.system.text import printable

#: A summary is a few kilobytes, and a little more for each list, outage and gap.
MAX_SUMMARY_BYTES = 16 << 20


@click.command("summary", short_help="Add up the summaries of machines.")
@click.argument(
    "files", metavar="FILE…", nargs=-1, required=True, type=existing_path(dir_okay=False)
)
@format_option("text", "json", "csv", "html")
@whole_output_option
@pass_app
def summary(app: App, files: tuple[Path, ...], output_format: str, output: Path | None) -> None:
    """Add up summaries that `audit summary --format json` has written on many machines.

    All must be of the same period, and each of another log. Counts are added; of how long things
    took, median and percentile are the highest of all machines.

    \b
      hashclient audit summary --from 2026-01-01 --format json -o web-1.json
      hashclient fleet summary web-1.json web-2.json --format html -o 2026.html
    """
    from hashclient.fleet.summing import add_up, parse_summary
    from hashclient.system.files import read_regular

    found = []
    for path in files:
        try:
            found.append(parse_summary(read_regular(path, MAX_SUMMARY_BYTES)))
        except OSError as error:
            raise UsageError(
                f"cannot read {printable(path)}: {error.strerror}", hint="check the path"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"not a summary of an audit log: {printable(path)}",
                hint="`hashclient audit summary --format json` on that machine writes one",
            ) from error
    write_whole(app.out, output, RENDERERS[output_format](add_up(found)))
