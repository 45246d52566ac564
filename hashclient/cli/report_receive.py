"""`report receive`, `certificate` and `verify`: record answers, certify purges, verify packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hashclient.cli.app import App, Results, existing_path, format_option, pass_app
from hashclient.cli.matches import open_record
from hashclient.cli.options import REPORTS
from hashclient.cli.report_show import open_outbox
from hashclient.core.errors import ExitCode, UsageError
from hashclient.system.text import counted, printable


@click.command("receive")
@click.argument(
    "paths", metavar="FILE…", nargs=-1, required=True, type=existing_path(dir_okay=False)
)
@format_option("text", "json")
@pass_app
def receive(app: App, paths: tuple[Path, ...], output_format: str) -> ExitCode:
    """Record the signed answers of bodies to reports.

    An answer counts once. It must be about a report of this machine, and signed by the body's `key`
    in [report.to.NAME]. A valid answer acknowledges the report. Files that the body asks to keep
    are on hold until the date in the answer. Files that the body asks to destroy are due for
    `hashclient quarantine purge`. A request to retract is only shown: a person decides.

    \b
      hashclient report receive answer-1.json answer-2.json

    Exit codes: 0 all answers are recorded, 6 an answer is not for a report of this machine, or was
    received before.
    """
    from hashclient.packages.answer import MAX_ANSWER_BYTES
    from hashclient.packages.contents import unreadable
    from hashclient.reporting.receiving import receive as note
    from hashclient.system.files import open_regular, translated

    results = Results(app, output_format, [str(path) for path in paths])
    outbox = open_outbox(app)
    with open_record(app) as record:
        for path in paths:
            with results.item(str(path)):
                with translated(path, unreadable), open_regular(path) as stream:
                    text = stream.read(MAX_ANSWER_BYTES + 1)
                report, answer = note(outbox, record, text)
                parts = [f"{answer.body}: {counted(len(answer.accepted), 'match')} accepted"]
                parts += [f"{len(answer.refused):,} refused"] if answer.refused else []
                parts += [] if answer.reference is None else [f"reference {answer.reference}"]
                parts += [f"asks to {ask}" for ask in report.answers[-1].asks]
                more: dict[str, Any] = {"answer": answer.id, "requests": report.answers[-1].asks}
                results.put(report.id, printable("; ".join(parts)), done=True, **more)
    return results.end("no answers")


@click.command("certificate")
@click.argument("report_id", metavar="REPORT", shell_complete=REPORTS)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the certificate. [default: beside the packages of the report's "
    "destination]",
)
@pass_app
def certificate(app: App, report_id: str, output: Path | None) -> None:
    """Write a signed certificate of the files that were destroyed because the body asked for this.

    The certificate contains the records of the audit log about the destruction. `hashclient report
    verify` verifies it.

    \b
      hashclient report certificate r-3kdz7wnq2m
    """
    from hashclient.packages.contents import package_folder
    from hashclient.reporting.custody import destruction_note
    from hashclient.reporting.destinations.registry import find_destination
    from hashclient.system.files import user_path
    from hashclient.system.outputs import replaced_file

    outbox = open_outbox(app)
    report = outbox.get(report_id)
    note = destruction_note(app.settings.layout.audit, report.id)
    if note is None:
        raise UsageError(
            f"no file of report {report.id} was destroyed because its body asked for this",
            hint="`hashclient report receive` records the request of a body, `quarantine purge` "
            "destroys the files afterwards; the audit log must still have both records",
        )
    if output is None:
        _, table = find_destination(app.settings.config.report, report.destination)
        directory = user_path(str(getattr(table, "directory", ".")))
        output = directory / f"{package_folder(report.id)}-destruction.json"
    with replaced_file(output) as stream:
        stream.write(note)
    app.out(printable(output))


@click.command("verify")
@click.argument("paths", metavar="PACKAGE…", nargs=-1, required=True, type=existing_path())
@click.option(
    "--identity",
    "identity_paths",
    metavar="FILE",
    multiple=True,
    type=existing_path(dir_okay=False),
    help="The recipient's secret key, for packages that are sealed.",
)
@click.option(
    "--public-key", metavar="HEX", help="The reporter's public audit key, received in another way."
)
@click.option(
    "--extract",
    "extract_to",
    metavar="DIR",
    type=existing_path(file_okay=False),
    help="Decrypt the evidence with --identity, and write it to DIR/REPORT/MATCH.bin.",
)
@format_option("table", "csv", "jsonl")
@pass_app
def verify(
    app: App,
    paths: tuple[Path, ...],
    identity_paths: tuple[Path, ...],
    public_key: str | None,
    extract_to: Path | None,
    output_format: str,
) -> ExitCode:
    """Verify packages, notes and answers of bodies, on any machine.

    `hashclient init` is not needed. Document, chain of custody, checkpoint and evidence
    are checked against each other and against one signature. To know who signed, compare the key
    that is shown with the reporter's key, by telephone for example. On the reporter's machine
    `hashclient audit verify` shows the key. If you give many packages, `also in` names the reports
    about the same entry. No content is shown, and content is only written with --extract.

    \b
      hashclient report verify hashclient-report-r-3kdz7wnq2m
      hashclient report verify --identity key.txt *.tar.age --format csv
      hashclient report verify --identity key.txt *.tar.age --extract evidence

    Exit codes: 0 all files verify, 5 the key does not open a package or a file in it, 6 a file does
    not verify.
    """
    from hashclient.cli.package_lines import package_lines
    from hashclient.packages.index import check, extract
    from hashclient.quarantine.age import load_identities
    from hashclient.quarantine.evidence import opener_of

    identities = [key for path in identity_paths for key in load_identities(path)]
    opener = opener_of(identities) if identities else None
    if extract_to is not None and opener is None:
        raise UsageError("--extract needs a key that opens the evidence: --identity FILE")
    checked = [check(path, opener=opener, public_key=public_key) for path in paths]
    if extract_to is not None and opener is not None:
        checked = [extract(one, extract_to, opener, public_key=public_key) for one in checked]
    for line in package_lines(checked, output_format, compared=public_key is not None):
        app.out(line)
    code = ExitCode.OK
    for one in checked:
        if one.error is not None:
            where = f"{printable(one.path)}: " if len(paths) > 1 else ""
            app.fail(where + one.error.message, one.error.hint)
            code = max(code, one.error.exit_code)
        if one.closed:
            app.warn(
                f"{printable(one.path)}: evidence that the key does not open:"
                f" {counted(one.closed_matches, 'match')}"
            )
            code = max(code, ExitCode.UNAUTHORISED)
    if public_key is None and output_format == "table" and any(c.found for c in checked):
        app.say(
            "hint: compare the public key with the reporter's key, which you received in "
            "another way"
        )
    return code
