"""`feedback`: writes a signed file with the counts of reviewed matches of each entry."""

from __future__ import annotations

from pathlib import Path

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.options import written_option
from hashclient.core.errors import StateError
from hashclient.system.text import counted, printable


@click.group("feedback")
def command() -> None:
    """Give a provider counts of reviewed matches.

    \b
      hashclient feedback write --provider hotline --output feedback.jsonl
    """


@command.command("write")
@click.option(
    "--provider",
    metavar="NAME",
    required=True,
    help="The name of the provider in config.toml.",
)
@written_option
@format_option("text", "json")
@pass_app
def write(app: App, provider: str, output: Path, output_format: str) -> None:
    """Write a signed file with counts by entry; give this file to the provider.

    For each entry, the file has the id and the numbers of confirmed, rejected, excepted and held
    matches. The file has no path, no digest and no name of a person. The key of the audit log signs
    the file; the provider has to know this key, which `hashclient audit verify` shows. Each file
    has all counts since the beginning.

    \b
      hashclient feedback write --provider hotline --output feedback.jsonl
    """
    from hashclient.matches.stats import Statistics
    from hashclient.reporting.feedback import make_feedback
    from hashclient.system.files import is_there
    from hashclient.system.outputs import replaced_file

    if not is_there(app.settings.layout.matches):
        raise StateError(
            f"no record of matches: {printable(app.settings.layout.matches)}",
            hint="a scan makes it; if it was lost, restore it from a backup: otherwise the new "
            "file would replace all earlier counts by zero",
        )
    with Statistics(app.settings.state_dir, create=False) as record:
        feedback, data = make_feedback(app.session, provider, record)
    with replaced_file(output) as stream:
        stream.write(data)
    text = f"written: {printable(output)}: {counted(len(feedback.entries), 'entry', 'entries')}"
    app.show(output_format, {"output": output, "entries": feedback.entries}, text)
    if not feedback.entries:
        app.say(
            "note: this file has no counts, and replaces all earlier counts: do not hand it over "
            "if the record of matches was lost"
        )
