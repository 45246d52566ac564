"""`watch`: checks files in folders when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, format_option, own_command, pass_app
from hashclient.cli.options import (
    DURATION,
    declared_options,
    refuse_empty,
    refuse_lost_directory,
)
from hashclient.core.errors import ExitCode, UsageError
from hashclient.scan.values.options import ScanOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hashclient.core.errors import HashclientError
    from hashclient.core.model import Handled
    from hashclient.core.objecturi import ObjectUri
    from hashclient.core.verdict import Summary


@click.command("watch")
@click.argument("paths", nargs=-1, required=True, metavar="DIR|URI...")
@click.option(
    "--events",
    metavar="sqs://QUEUE|-",
    help="Needed with URIs: the source of events about new objects. This is an SQS queue "
    "(sqs://ACCOUNT/QUEUE for a queue of another account), or `-` to read one URI a line from "
    "stdin.",
)
@click.option(
    "--settle",
    metavar="TIME",
    type=DURATION,
    default="1s",
    show_default=True,
    help="Check a file when it has not changed for this time.",
)
@click.option(
    "--rescan-every",
    metavar="TIME",
    type=DURATION,
    default="24h",
    show_default=True,
    help="Scan everything at this interval, since the system does not report every change.",
)
@declared_options(ScanOptions, "exclude", "jobs", "actions", "exceptions")
@format_option("text", "jsonl")
@pass_app
def command(
    app: App,
    paths: tuple[str, ...],
    events: str | None,
    settle: float,
    rescan_every: float,
    options: ScanOptions,
    output_format: str,
) -> ExitCode:
    """Check changed files in folders, and new objects in buckets.

    The first step is a scan of everything, with the inventory; this scan is repeated when changes
    may have been missed. Matches are recorded, logged and acted upon as by `scan`, and printed on
    stdout. Network file systems and FUSE are refused, since they do not report changes by others.

    For URIs of buckets, --events names the objects to check. When an object is checked, its event
    is removed from its queue. If an object cannot be read, its event stays in the queue, and later
    goes to the dead-letter queue. The scan of everything runs at the same time. --settle has no
    effect on buckets.

    \b
      hashclient watch /srv/upload /home
      hashclient watch --settle 10s --format jsonl /srv/upload
      hashclient watch s3://uploads/ --events sqs://uploads-created

    Exit codes: 0 stopped by SIGTERM or SIGINT, 2 a directory cannot be watched, 8 no list can be
    used, or the paths have too many directories; all codes are in `hashclient --help`.
    """
    from hashclient.cli.run import load_lists
    from hashclient.core.objecturi import split_paths
    from hashclient.formats.registry import Context, formatter

    folders, uris = split_paths(paths)
    if bool(uris) != (events is not None) or (folders and uris):
        raise UsageError(
            "--events is for URIs, and URIs need --events",
            hint="run one command for folders and another command for buckets",
        )
    if uris and options.exclude:
        raise UsageError(
            "--exclude is not for objects", hint="give only the prefixes to check, each as a URI"
        )
    refuse_empty(paths)
    refuse_lost_directory(paths)
    load_lists(app)
    written = formatter(output_format, Context("scan", app.now()))

    def found(handled: Handled) -> None:
        app.out(written.outcome(handled) or "")

    def failed(error: HashclientError) -> None:
        app.warn(error.message, error.hint)

    if events is None:
        _watch_folders(app, folders, settle, rescan_every, options, found, failed)
    else:
        _watch_buckets(app, uris, events, rescan_every, options, found, failed)
    return ExitCode.OK


def _watch_folders(
    app: App,
    paths: Sequence[str],
    settle_s: float,
    every_s: float,
    options: ScanOptions,
    found: Callable[[Handled], None],
    failed: Callable[[HashclientError], None],
) -> None:
    """Check files when they change, until a signal ends the command."""
    from hashclient.cli.alerts import alerts_beside
    from hashclient.client.client import Client
    from hashclient.formats.cells import words
    from hashclient.formats.fields import excepted_text, held_texts, not_opened_text
    from hashclient.system.text import counted, printable
    from hashclient.watch.watch import Watch

    def scanned(summary: Summary) -> None:
        app.say(
            f"looked at everything: {counted(summary.inputs, 'input')},"
            f" exit {int(summary.exit_code)}"
        )
        texts = (not_opened_text(summary), excepted_text(summary), *held_texts(summary))
        for text in filter(None, texts):
            app.say(words(text))

    def listed(summary: Summary) -> None:
        hint = "run `hashclient fetch`; until then, a file without a match may still be on a list"
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
            "scans of everything check it: --rescan-every",
        )

    watch = Watch(
        Client(app.session),
        paths,
        settle_s=settle_s,
        rescan_s=every_s,
        options=options,
        on_outcome=found,
        on_failure=failed,
        on_scan=scanned,
        on_lists=listed,
        on_unseen=unseen,
        beside=alerts_beside(app),
    )
    watch.run(lambda count: app.say(f"watching {counted(count, 'directory', 'directories')}"))


def _watch_buckets(
    app: App,
    uris: Sequence[ObjectUri],
    address: str,
    every_s: float,
    options: ScanOptions,
    found: Callable[[Handled], None],
    failed: Callable[[HashclientError], None],
) -> None:
    """Check the objects that events name, until a signal arrives or stdin ends."""
    from hashclient.cli.alerts import alerts_beside
    from hashclient.client.client import Client
    from hashclient.scan.run.start import SPOOL_BYTES
    from hashclient.system.beside import Beside
    from hashclient.watch.bucket import BucketWatch
    from hashclient.watch.events import Lines, Queue

    events = Lines(0) if address == "-" else Queue(address)
    if address != "-" and not events.has_dead_letters:
        app.warn(
            f"{address} has no dead-letter queue: if an object cannot be read, its event will be "
            "lost",
            "give the queue a redrive policy",
        )
    flags = [("--no-actions", options.actions), ("--no-exceptions", options.exceptions)]
    words = ["scan", "--allow-empty", *(flag for flag, is_on in flags if not is_on)]
    scan = own_command(app, *words, *(uri.text for uri in uris))

    def is_complete(code: int) -> bool:
        if code in (ExitCode.OK, ExitCode.MATCH):
            return True
        app.warn(
            f"the scan of the URIs ended with {code}",
            "it is repeated; the audit log and `hashclient scan` say more",
        )
        return False

    beside = Beside(scan, every_s, at_once=True, is_complete=is_complete)
    client = Client(app.session)
    # as much room for archives as the scan of the URIs has
    with client.checker(
        actions=options.actions, exceptions=options.exceptions, spool_bytes=SPOOL_BYTES
    ) as checker:
        app.say(f"waiting for events: {address}")
        BucketWatch(
            *(checker, uris, events),
            on_outcome=found,
            on_failure=failed,
            beside=[*alerts_beside(app), beside],
        ).run()
