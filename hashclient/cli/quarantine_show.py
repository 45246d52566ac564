"""`quarantine list`, `show` and `verify`: commands that change nothing in the quarantine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, Results, format_option, pass_app
from hashclient.cli.matches import open_record
from hashclient.cli.options import MATCHES
from hashclient.cli.output import facts
from hashclient.core.errors import ExitCode
from hashclient.system.text import counted, for_people, path_fields, printable

if TYPE_CHECKING:
    from hashclient.matches.store import Matches
    from hashclient.quarantine.vault import Item, Quarantine


def open_quarantine(app: App, on_bytes: Callable[[int], None] = lambda _count: None) -> Quarantine:
    """Return the quarantine in the state directory."""
    from hashclient.quarantine.vault import Quarantine

    return Quarantine(app.session, on_bytes=on_bytes)


@click.command("list")
@format_option("text", "json")
@pass_app
def list_items(app: App, output_format: str) -> ExitCode:
    """List the items in quarantine, and when each may be purged.

    \b
      hashclient quarantine list
    """
    from hashclient.quarantine.vault import item_ids, load_item

    results = Results(app, output_format)
    directory = app.settings.layout.quarantine
    with open_record(app) as record:
        quarantine = open_quarantine(app)
        for match_id in item_ids(directory):
            with results.item(match_id):
                item = load_item(directory, match_id)
                document = _document(item, quarantine, record)
                since = f"{item.taken.time:%Y-%m-%d}"
                line = f"{item.id}  {document['state']:<12}  since {since}  {printable(item.file)}"
                more = counted(len(item.context), "file")
                belongs = f" and {more} with it" if item.context else ""
                results.put_document(
                    f"{line}  {counted(item.size, 'byte')}{belongs}  {document['due']}", document
                )
    return results.end("nothing is in quarantine")


@click.command("show")
@click.argument("match_id", metavar="ID", shell_complete=MATCHES)
@format_option("text", "json")
@pass_app
def show(app: App, match_id: str, output_format: str) -> None:
    """Show one item, without its content.

    \b
      hashclient quarantine show 3kdz7wnq2m
    """
    from hashclient.quarantine.vault import evidence_path, load_item

    item = load_item(app.settings.layout.quarantine, match_id)
    with open_record(app) as record:
        document = _document(item, open_quarantine(app), record)
    evidence = evidence_path(app.settings.layout.quarantine, match_id)
    origin = item.origin
    pairs = (
        ("path", printable(item.file)),
        ("size", counted(item.size, "byte")),
        ("owner, mode", f"{origin.uid}:{origin.gid}, {origin.mode:04o}"),
        ("isolated", f"{for_people(item.taken.time)} by {printable(item.taken.by)}"),
        ("reason", printable(item.taken.reason)),
        ("purge", document["due"]),
        ("sealed copy", printable(evidence)),
        ("  SHA-256", item.evidence_sha256),
        *(("sealed to", printable(recipient)) for recipient in item.recipients),
        *(
            ("entry", f"{hit.list} {hit.entry} ({hit.category}; generation {hit.generation})")
            for hit in item.hits
        ),
        *(("with it", printable(one.file)) for one in item.context),
        ("hold", item.hold and printable(item.hold.reason)),
    )
    text = (f"item {item.id}: {document['state']}", *facts(pairs, 12))
    app.show(output_format, {**document, "evidence": evidence}, text)


@click.command("verify")
@format_option("text", "json")
@pass_app
def verify(app: App, output_format: str) -> ExitCode:
    """Check that every item is whole; change nothing.

    This reads every sealed copy. It does not open copies, since only the secret key can do that.

    \b
      hashclient quarantine verify

    Exit codes: 0 all is well, 3 an interrupted command must be finished, 8 an item is damaged or
    missing.
    """
    from hashclient.cli.progress import bytes_progress

    results = Results(app, output_format)
    with open_record(app) as record, bytes_progress(app, "checked") as on_bytes:
        for found in open_quarantine(app, on_bytes).verify(record):
            if not found.ok:
                results.count(ExitCode.STATE)
            results.put(found.name, found.detail, done=found.ok, attention=found.attention)
    return results.end("nothing is in quarantine")


def _document(item: Item, quarantine: Quarantine, record: Matches) -> dict[str, Any]:
    """Return an item of the quarantine as a JSON object."""
    match = record.look_up(item.id)
    state = "unrecorded" if match is None else str(match.state)
    due = quarantine.due(item.id, record)
    return {
        "id": item.id,
        "state": state,
        "stage": str(item.stage),
        **path_fields(item.file),
        "size": item.size,
        "taken": item.taken,
        "hold": item.hold,
        "due": due.why,
        "due_at": due.at,
        "recipients": list(item.recipients),
        "evidence_sha256": item.evidence_sha256,
        "evidence_bytes": item.evidence_bytes,
        "context": [
            {**path_fields(one.file), "size": one.size, "added": one.added} for one in item.context
        ],
        "entries": [
            {"list": h.list, "entry": h.entry, "category": h.category, "generation": h.generation}
            for h in item.hits
        ],
    }
