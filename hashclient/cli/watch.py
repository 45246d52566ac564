"""`watch`: check files in folders when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.options import DURATION, declared_options, refuse_lost_directory
from hashclient.errors import ExitCode
from hashclient.scan.values.options import ScanOptions

if TYPE_CHECKING:
    from hashclient.core.verdict import Summary
    from hashclient.errors import HashclientError


@click.command("watch")
@click.argument("paths", nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--settle",
    metavar="TIME",
    type=DURATION,
    default="1s",
    show_default=True,
    help="Check a file when it was unchanged for this time.",
)
@click.option(
    "--rescan-every",
    metavar="TIME",
    type=DURATION,
    default="24h",
    show_default=True,
    help="Check everything at this interval, since the kernel does not report every change.",
)
@declared_options(ScanOptions, "exclude", "jobs", "actions", "exceptions")
@format_option("text", "jsonl")
@pass_app
def command(
    app: App,
    paths: tuple[str, ...],
    settle: float,
    rescan_every: float,
    options: ScanOptions,
    output_format: str,
) -> ExitCode:
    """Check files at once when they are written or moved to folders.

    The first step is a scan of everything, with the inventory; it is repeated whenever changes may
    have been missed. Matches are recorded, logged and acted upon as by `scan`, and printed on
    stdout. Network file systems and FUSE are refused, since they do not report changes by others.

    \b
      hashclient watch /srv/upload /home
      hashclient watch --settle 10s --format jsonl /srv/upload

    Exit codes: 0 stopped by SIGTERM or SIGINT, 2 a directory cannot be watched, 8 no list can be
    used, or there are too many directories; all are in `hashclient --help`.
    """
    from hashclient.cli.alerts import alerts_beside
    from hashclient.cli.run import load_lists
    from hashclient.client import Client
    from hashclient.formats.cells import words
    from hashclient.formats.fields import excepted_text, held_texts, not_opened_text
    from hashclient.formats.interface import Context, formatter
    from hashclient.system.text import counted, printable
    from hashclient.watch.watch import Watch

    refuse_lost_directory(paths)
    load_lists(app)
    written = formatter(output_format, Context("scan", app.now()))

    def failed(error: HashclientError) -> None:
        app.warn(error.message, error.hint)

    def scanned(summary: Summary) -> None:
        app.say(
            f"looked at everything: {counted(summary.inputs, 'input')},"
            f" exit {int(summary.exit_code)}"
        )
        texts = (not_opened_text(summary), excepted_text(summary), *held_texts(summary))
        for text in filter(None, texts):
            app.say(words(text))

    def listed(summary: Summary) -> None:
        hint = "run `hashclient fetch`; a file without a match may be listed all the same"
        for state in summary.lists:
            if state.stale:
                app.warn(f"list is stale: {state.name}", hint)
        for missing in summary.missing:
            name = missing.name or f"all of provider {missing.provider}"
            app.warn(f"list is missing: {name}: {missing.problem}", hint)

    def unseen(path: str) -> None:
        app.warn(
            f"cannot watch {printable(path)}: this machine does not see changes by others on this"
            " kind of file system",
            "it is checked in scans of everything: --rescan-every",
        )

    watch = Watch(
        Client(app.session),
        paths,
        settle_s=settle,
        rescan_s=rescan_every,
        options=options,
        on_outcome=lambda handled: app.out(written.outcome(handled) or ""),
        on_failure=failed,
        on_scan=scanned,
        on_lists=listed,
        on_unseen=unseen,
        beside=alerts_beside(app),
    )
    watch.run(lambda count: app.say(f"watching {counted(count, 'directory', 'directories')}"))
    return ExitCode.OK
