"""`lookup`: check digests instead of files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, pass_app
from hashclient.cli.run import load_lists, report_options, run_report
from hashclient.errors import ExitCode, UsageError
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.lists.importers.interface import DigestBatch


@click.command("lookup")
@click.argument("digests", metavar="[DIGEST…]", nargs=-1)
@click.option(
    "--from",
    "sources",
    metavar="FILE|-",
    multiple=True,
    # One that cannot be read must not keep the others from being looked up. Kept as it was typed:
    # a Path makes `-`, which is stdin, of `./-`, which is a file.
    type=click.Path(allow_dash=True, readable=False),
    help="Read digests from FILE, or from stdin. Can be given several times.",
)
@click.option(
    "--accept-gaps",
    is_flag=True,
    help="Count as clean what cannot be told since entries lack digests of the kind given. It is"
    " said all the same.",
)
@report_options("text", "jsonl", "csv")
@pass_app
def command(
    app: App,
    digests: tuple[str, ...],
    sources: tuple[str, ...],
    accept_gaps: bool,
    output_format: str,
    output: Path | None,
    show_all: bool,
    show_digests: bool,
) -> ExitCode:
    """Check digests that were computed elsewhere.

    A DIGEST is an MD5, SHA-1 or SHA-256 in hexadecimal. A file may hold bare digests, the output
    of md5sum, sha1sum or sha256sum (GNU or BSD style), of hashdeep, CSV with a header, or ClamAV
    signatures (.hdb, .hsb); in UTF-8, with lines that end in LF, CRLF or CR; or it is the NSRL
    database (RDSv3). Whatever is not understood is refused.
    Outcomes and exit codes are those of `scan`; a row with several digests has to agree in all.

    A list can only be asked by digests that its entries have: `status` says which these are. An
    input that matches nothing, and may be an entry without a digest of its kinds, is unread. A
    size, where a file gives one, rules out entries of another.

    \b
      hashclient lookup 9d9b4dd7a5b5ac4d0c6f8e3ba3f66f8c
      sha256sum * | hashclient lookup --from -
      hashclient lookup --format jsonl --from inventory.hashdeep

    Exit codes: 0 nothing found, 10 match, 11 match and something needs attention, 3 a conflict,
    something that cannot be told or nothing to check, 7 stale list, 8 a list is missing; all are
    in `hashclient --help`.
    """
    from hashclient.core.verdict import Summary
    from hashclient.scan.lookup import lookup

    if not digests and not sources:
        raise UsageError(
            "nothing to look up", hint="give digests as arguments, or a file of them with --from"
        )
    lists = load_lists(app)
    summary = Summary(lists.states, missing=lists.missing, gaps_accepted=accept_gaps)
    outcomes = lookup(_batches(app, digests, sources), lists, summary, keep_clean=show_all)
    code = run_report(
        app,
        "lookup",
        outcomes,
        summary,
        lists.sealer.key_id,
        output_format=output_format,
        output=output,
        show_digests=show_digests,
        show_all=show_all,
        arguments=[f"{len(digests)} digests", *sources],
    )
    if summary.gaps and not accept_gaps:
        app.say(
            "hint: look up other digests of the same files too, or their sizes; --accept-gaps does"
            " without"
        )
    return code


def _batches(
    app: App, digests: tuple[str, ...], sources: tuple[str, ...]
) -> Iterator[tuple[str, DigestBatch]]:
    """Yield the digests of every source.

    Raises:
        UsageError: one cannot be read to its end; after all others, and those besides it are told.
    """
    errors: list[UsageError] = []
    for source in ([None] if digests else []) + list(sources):
        try:
            yield from _arguments(digests) if source is None else _content(source)
        except UsageError as error:
            errors.append(error)
    for other in errors[1:]:
        app.warn(other.message, other.hint)
    if errors:
        raise errors[0]


def _arguments(digests: tuple[str, ...]) -> Iterator[tuple[str, DigestBatch]]:
    from hashclient.lists.importers.arguments import digests_of_arguments

    yield "argument", digests_of_arguments(digests)


def _content(source: str) -> Iterator[tuple[str, DigestBatch]]:
    from hashclient.lists.importers.registry import read_digests

    if source == "-":
        for batch in read_digests(sys.stdin.buffer, "stdin"):
            yield "stdin", batch
        return
    name = printable(source)
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - it is closed below
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}", hint="check the path") from error
    with stream:
        for batch in read_digests(stream, name):
            yield name, batch
