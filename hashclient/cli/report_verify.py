"""`report verify`: packages and notes of retraction, on any machine."""

from __future__ import annotations

from pathlib import Path

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.errors import ExitCode, UsageError
from hashclient.system.text import counted, printable


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
    "--public-key", metavar="HEX", help="The reporter's audit key, received in another way."
)
@click.option(
    "--extract",
    "extract_to",
    metavar="DIR",
    type=existing_path(file_okay=False),
    help="Write the evidence, opened with --identity, to DIR/REPORT/MATCH.bin.",
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

    No set-up is needed. Document, chain of custody, checkpoint and evidence are checked against
    each other and against one signature. To know whose key it is, compare it with the reporter's
    key, by telephone for example. On the reporter's machine `hashclient audit verify` shows the
    key. Of many packages, `also in` names the reports that concern the same entry. No content is
    shown, and none is written without --extract.

    \b
      hashclient report verify hashclient-report-r-3kdz7wnq2m
      hashclient report verify --identity key.txt *.tar.age --format csv
      hashclient report verify --identity key.txt *.tar.age --extract evidence

    Exit codes: 0 all verify, 5 the key does not open a package or evidence, 6 one does not verify.
    """
    from hashclient.cli.package_lines import package_lines
    from hashclient.packages.index import check, extract
    from hashclient.quarantine.age import load_identities
    from hashclient.quarantine.evidence import opener_of

    identities = [key for path in identity_paths for key in load_identities(path)]
    opener = opener_of(identities) if identities else None
    if extract_to is not None and opener is None:
        raise UsageError("--extract needs a key to open the evidence with: --identity FILE")
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
        app.say("hint: compare the public key with the reporter's, got in another way")
    return code
