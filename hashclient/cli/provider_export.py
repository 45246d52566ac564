"""`provider export`: the published lists as one file."""

from __future__ import annotations

from pathlib import Path

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.errors import UsageError
from hashclient.system.text import counted, for_people, printable


@click.command("export", short_help="Write the published files of REPO to one file.")
@click.argument("directory", metavar="REPO", type=existing_path(file_okay=False))
@click.option(
    "--to",
    metavar="FILE",
    type=existing_path(),
    required=True,
    help="The bundle to write; an earlier file is replaced.",
)
@click.option(
    "--since",
    metavar="LIST=GENERATION",
    multiple=True,
    help="Of this list only the changes for clients with that generation or a later one. Can be"
    " given several times. [default: all]",
)
@format_option("text", "json")
@pass_app
def command(
    app: App, directory: Path, to: Path, since: tuple[str, ...], output_format: str
) -> None:
    """Write all that REPO publishes to a file, for clients without a network.

    They read it with `hashclient fetch --from FILE`, and verify it as if it came from a web server.
    So it has to be there before its signatures expire: `renew` first, and carry it within
    days. It has the lists in the clear, which nobody else may have: encrypt it on the way.

    \b
      hashclient provider renew /srv/lists
      hashclient provider export /srv/lists --to lists.bundle
      hashclient provider export /srv/lists --to lists.bundle --since baseline=41
    """
    from hashclient.provider.export import export_bundle

    wanted = _generations(since)
    done = export_bundle(directory, to, wanted)
    until = for_people(done.until)
    document = {
        "file": to,
        "files": done.files,
        "bytes": done.bytes,
        "until": done.until,
        "lists": [
            {"list": entry.name, "generation": entry.generation, "since": entry.since}
            for entry in done.lists
        ],
    }
    text = [
        f"list {entry.name}: generation {entry.generation},"
        f" {'all of it' if entry.since is None else f'since generation {entry.since}'}"
        for entry in done.lists
    ]
    files = f"{counted(done.files, 'file')}, {counted(done.bytes, 'byte')}"
    last = f"{printable(to)}: {files}; clients take it until {until}"
    app.show(output_format, document, [*text, last])
    for entry in done.lists:
        if entry.since is None and wanted.get(entry.name):
            app.say(
                f"list {entry.name}: since it was consolidated, the changes since that"
                " generation are not known any more: all of the list is in the bundle"
            )
    if done.until <= app.now():
        app.warn(
            f"the signatures have expired: {until}; clients refuse the bundle",
            f"run `hashclient provider renew {printable(directory)}` and export again",
        )


def _generations(since: tuple[str, ...]) -> dict[str, int]:
    generations = {}
    for text in since:
        name, _, number = text.rpartition("=")
        if not name or not number.isascii() or not number.isdigit() or len(number) > 16:
            raise UsageError(
                f"not a list and a generation: {printable(text)}",
                hint="write --since baseline=41, say",
            )
        generations[name] = int(number)
    return generations
