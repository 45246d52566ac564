"""`hashclient quarantine`: isolates, restores, destroys and lists files that matched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, Results, existing_path, format_option, pass_app, put_restored
from hashclient.cli.matches import open_record
from hashclient.cli.options import MATCHES, not_blank, reason_option, split_entry
from hashclient.cli.quarantine_keys import add_recipient, keygen
from hashclient.cli.quarantine_show import list_items, open_quarantine, show, verify
from hashclient.cli.report_show import open_outbox
from hashclient.core.errors import ExitCode, HashclientError, UsageError
from hashclient.system.text import counted, first_of, printable

if TYPE_CHECKING:
    from hashclient.matches.store import Matches
    from hashclient.quarantine.vault import Item, Quarantine

#: The argument with the ids of matches. `_ids` may be empty if a command has an option such as
#: `--all`. `_needed_ids` must not be empty.
_ids = click.argument("match_ids", metavar="[ID…]", nargs=-1, shell_complete=MATCHES)
_needed_ids = click.argument("match_ids", metavar="ID…", nargs=-1, shell_complete=MATCHES)


@click.group("quarantine")
def command() -> None:
    """Isolate files that matched: seal and keep them.

    A file is encrypted to the public keys in the configuration, proven to be the file that matched,
    and then removed from its place. After that this machine cannot read the file; the owner of a
    secret key can restore it. The content is never shown.

    \b
      hashclient quarantine keygen --output officer.key  once; see what it says
      hashclient quarantine add 3kdz7wnq2m               isolate one match
      hashclient quarantine list                         see all items
    """


@command.command("add")
@_ids
@click.option("--all", "take_all", is_flag=True, help="All matches that are in their place.")
@click.option(
    "--with-container",
    is_flag=True,
    help="Of a match in an archive or mailbox, isolate the whole file with everything in it.",
)
@click.option(
    "--context",
    "context_of",
    metavar="ID",
    shell_complete=MATCHES,
    help="Seal copies of files that belong to this item; then the arguments are their paths.",
)
@reason_option(default="isolated by hand")
@format_option("text", "json")
@pass_app
def add(
    app: App,
    match_ids: tuple[str, ...],
    take_all: bool,
    with_container: bool,
    context_of: str | None,
    reason: str,
    output_format: str,
) -> ExitCode:
    """Isolate the files of matches: seal, prove, remove.

    An interruption loses nothing; the same command then finishes the work. A file that has changed
    since it matched stays in place. A file that cannot be removed stays, too; then a complete
    sealed copy of it is kept. A member of an archive or a mailbox cannot be removed alone: with
    --with-container, the whole file with all its members is isolated. With --context, copies of
    other files that belong to an item are sealed. The files stay in place; the copies are kept,
    sealed again and destroyed with the item.

    \b
      hashclient quarantine add 3kdz7wnq2m --reason 'ticket 4711'
      hashclient quarantine add 7hq2mk9dwz --with-container
      hashclient quarantine add --all
      hashclient quarantine add --context 3kdz7wnq2m chat.json account.json

    Exit codes: 0 all files are isolated, 3 a file is not isolated, has other names, or is open in a
    program.
    """
    if not match_ids and not take_all:
        what = "match" if context_of is None else "file"
        raise UsageError(f"no {what} to take", hint="give ids, or --all")
    if context_of is not None:
        if take_all or with_container:
            raise UsageError("--context takes the paths of files, and nothing else")
        return _add_context(app, context_of, match_ids, reason, output_format)
    from hashclient.cli.progress import bytes_progress
    from hashclient.core.match import members_of

    with open_record(app) as record, bytes_progress(app, "sealed") as on_bytes:
        quarantine = open_quarantine(app, on_bytes)
        chosen = list(match_ids)
        if take_all:
            chosen += [i for i in _open_ones(quarantine, record) if i not in match_ids]
        results = Results(app, output_format, chosen)
        # `quarantine.unfinished` reads all items, so it is called at most once.
        unfinished = functools.cache(quarantine.unfinished)
        wanted: dict[str, tuple[str, str]] = {}
        for match_id in chosen:
            with results.item(match_id):
                match = record.get(match_id)
                members = members_of(record.story(match_id)) if match.in_place else []
                # An interrupted isolation that was started with `--with-container` is finished even
                # if the option is missing now.
                if members and not with_container and match_id not in unfinished():
                    raise UsageError(
                        f"match {match_id} is in a container, which would be isolated with"
                        f" everything in it: {printable(match.path)}",
                        hint=f"--with-container does that; it matched in {_named(members)}",
                    )
                with_it = f": the container, with everything in it besides {_named(members)}"
                wanted[match_id] = match.path, with_it if members else ""
        together = ((match_id, None) for match_id in wanted)
        for match_id, taken in quarantine.take_all(together, record, reason=reason):
            with results.item(match_id):
                if isinstance(taken, HashclientError):
                    raise taken
                path, with_it = wanted[match_id]
                results.put(
                    match_id,
                    taken.detail + (with_it if taken.taken else ""),
                    path=path,
                    done=taken.taken,
                    attention=taken.attention,
                    sealed=taken.sealed,
                )
    return results.end("no match is in its place")


def _open_ones(quarantine: Quarantine, record: Matches) -> Iterator[str]:
    """Yield the ids of matches whose file is in place or whose isolation was interrupted."""
    from hashclient.core.kinds import SETTLED, MatchState

    sealed = quarantine.unfinished()
    for match in record.find():
        if match.is_stream or match.state is MatchState.HELD:
            continue
        # If an interrupted isolation has removed the file already, the isolation is finished even
        # if the entry of the match was withdrawn.
        is_unfinished = match.id in sealed and match.state not in SETTLED
        if not match.ended if match.in_place else is_unfinished:
            yield match.id


def _add_context(
    app: App, match_id: str, paths: tuple[str, ...], reason: str, output_format: str
) -> ExitCode:
    """Seal copies of the files `paths`, which belong to the item of a match."""
    results = Results(app, output_format, [match_id])
    with open_record(app) as record, results.item(match_id):
        files = [Path(path) for path in paths]
        item = open_quarantine(app).add_context(match_id, files, record, reason=reason)
        sealed = counted(len(files), "file")
        results.put(match_id, f"sealed with it: {sealed}", path=item.file, done=True)
    return results.end("")


def _named(members: list[tuple[str, ...]]) -> str:
    """Return the names of the first three members as text for people."""
    return first_of([printable("!/".join(names)) for names in members], 3)


@command.command("restore")
@_ids
@click.option(
    "--identity",
    "identity_file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    required=True,
    help="The secret key: a file of `keygen` or age-keygen, or an SSH key.",
)
@click.option("--withdrawn", is_flag=True, help="All whose entries the provider has withdrawn.")
@click.option("--entry", metavar="LIST/ENTRY", help="All that match this entry.")
@click.option("--output", type=existing_path(), metavar="FILE", help="Put the file here instead.")
@click.option(
    "--force", is_flag=True, help="Restore files even if their entries are not withdrawn."
)
@reason_option()
@format_option("text", "json")
@pass_app
def restore(
    app: App,
    match_ids: tuple[str, ...],
    identity_file: Path,
    withdrawn: bool,
    entry: str | None,
    output: Path | None,
    force: bool,
    reason: str,
    output_format: str,
) -> ExitCode:
    """Put files back where they were.

    This is for files whose entries the provider has withdrawn. Owner, mode, times and attributes
    are restored, too. The restored file is proven to be the sealed one before the sealed copy is
    dropped, and it never replaces another file.

    \b
      hashclient quarantine restore 3kdz7wnq2m --identity officer.key \\
          --reason 'withdrawn in generation 17'
      hashclient quarantine restore --withdrawn --identity officer.key \\
          --reason 'withdrawn'
      hashclient quarantine restore --entry baseline/d-1 --force \\
          --identity officer.key --reason 'ticket 4711: the entry is wrong'

    Exit codes: 0 all files are restored, 3 an attribute is missing, 5 the key does not open an
    item.
    """
    from hashclient.cli.progress import bytes_progress
    from hashclient.core.kinds import MatchState
    from hashclient.matches.selection import Choice
    from hashclient.quarantine.vault import item_ids, load_identities

    choices = []
    if withdrawn:
        # An item whose match has the state `restored` is chosen, too, because an interrupted
        # restoration has not removed the item yet.
        choices.append(Choice((MatchState.WITHDRAWN, MatchState.RESTORED)))
    if entry is not None:
        list_name, name = split_entry(entry)
        choices.append(Choice(list_name=list_name, entry=name))
    if not match_ids and not choices:
        raise UsageError("nothing to restore", hint="give ids, --withdrawn or --entry")
    if output is not None and (choices or len(match_ids) != 1):
        raise UsageError("--output is for one item")
    identities = load_identities(identity_file)
    with open_record(app) as record, bytes_progress(app, "opened") as on_bytes:
        quarantine = open_quarantine(app, on_bytes)
        here = set(item_ids(app.settings.layout.quarantine)) if choices else set[str]()
        found = (i for choice in choices for i in record.ids(choice=choice) if i in here)
        chosen = list(dict.fromkeys((*match_ids, *found)))
        results = Results(app, output_format, chosen)
        put_restored(
            results,
            quarantine.restore_all(
                chosen, identities, record, reason=reason, to=output, force=force
            ),
        )
    return results.end(
        "nothing in quarantine is withdrawn" if withdrawn else "nothing in quarantine matches that"
    )


@command.command("reseal")
@_ids
@click.option("--all", "reseal_all", is_flag=True, help="All items in quarantine.")
@click.option(
    "--identity",
    "identity_files",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    multiple=True,
    required=True,
    help="A secret key that opens the sealed copy now; repeatable.",
)
@click.option(
    "--recipient",
    "recipients",
    metavar="KEY",
    multiple=True,
    help="Seal the copy to this public key; repeatable. [default: the keys in config.toml]",
)
@reason_option(default="sealed to other recipients")
@format_option("text", "json")
@pass_app
def reseal(
    app: App,
    match_ids: tuple[str, ...],
    reseal_all: bool,
    identity_files: tuple[Path, ...],
    recipients: tuple[str, ...],
    reason: str,
    output_format: str,
) -> ExitCode:
    """Seal the items again, for other officers.

    If the recipients in config.toml have changed, only the old recipients can open older items.
    With an old key, each item is opened in memory, proven, and sealed to the new recipients alone.
    Items that already have exactly these recipients stay as they are. The files stay in quarantine.

    \b
      hashclient quarantine reseal --all --identity old-officer.key
      hashclient quarantine reseal 3kdz7wnq2m --identity officer.key \\
          --recipient age1… --recipient age1… --reason 'for the police'

    Exit codes: 0 all items are sealed to these recipients, 5 the key does not open an item.
    """
    from hashclient.cli.progress import bytes_progress
    from hashclient.quarantine.vault import item_ids, load_identities

    if bool(match_ids) == reseal_all:
        raise UsageError("nothing to seal again", hint="give ids, or --all")
    identities = [key for file in identity_files for key in load_identities(file)]
    chosen = list(match_ids) or item_ids(app.settings.layout.quarantine)
    wanted = recipients or app.settings.config.quarantine.recipients
    results = Results(app, output_format, match_ids)
    with open_record(app) as record, bytes_progress(app, "sealed") as on_bytes:
        quarantine = open_quarantine(app, on_bytes)
        for match_id in chosen:
            with results.item(match_id):
                resealed = quarantine.reseal(match_id, identities, wanted, record, reason=reason)
                item = resealed.item
                detail = "sealed again" if resealed.done else "sealed to these already"
                results.put(
                    match_id,
                    f"{detail}: {counted(len(item.recipients), 'recipient')}",
                    path=item.file,
                    done=True,
                    recipients=list(item.recipients),
                )
    return results.end("nothing is in quarantine")


@command.command("purge")
@_ids
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print which items would be destroyed and which not, with reasons.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Destroy the given items although they are not due; not before keep_days are over.",
)
@click.option(
    "--order",
    metavar="TEXT",
    callback=not_blank,
    help="Destroy the given items as an authority has ordered, also before keep_days are over.",
)
@reason_option(default="the retention period is over")
@format_option("text", "json")
@pass_app
@click.pass_context
def purge(
    ctx: click.Context,
    app: App,
    match_ids: tuple[str, ...],
    dry_run: bool,
    force: bool,
    order: str | None,
    reason: str,
    output_format: str,
) -> ExitCode:
    """Destroy items that are due.

    An item is due keep_days ([quarantine] of config.toml) after its report was handed over, if the
    report is acknowledged. An item is also due when the body of its report has asked for
    destruction (`report receive`). A retracted report does not count. An item that is on hold or
    withdrawn is never due. --order names the order of a competent authority; it goes into the audit
    log.

    \b
      hashclient quarantine purge --dry-run
      hashclient quarantine purge
      hashclient quarantine purge 3kdz7wnq2m --order 'public prosecutor, 17/4'

    Exit codes: 0 done, 3 a given item was not due.
    """
    from click.core import ParameterSource

    from hashclient.quarantine.vault import item_ids

    by_default = ctx.get_parameter_source("reason") is ParameterSource.DEFAULT
    if force and (not match_ids or by_default):
        raise UsageError("--force needs ids and a --reason")
    if order is not None and not match_ids:
        raise UsageError("--order needs ids")
    chosen = list(match_ids) or item_ids(app.settings.layout.quarantine)
    results = Results(app, output_format, match_ids)
    with open_record(app) as record:
        quarantine = open_quarantine(app)
        for match_id in chosen:
            with results.item(match_id):
                purged = quarantine.purge(
                    match_id,
                    record,
                    reason=reason,
                    force=force,
                    order=order,
                    dry_run=dry_run,
                )
                if match_ids or dry_run or purged.done is not False:
                    results.put(
                        match_id,
                        purged.detail,
                        path=purged.item.file,
                        done=purged.done,
                        attention=purged.done is False and bool(match_ids),
                    )
    return results.end(
        "nothing is due; --dry-run says why" if chosen else "nothing is in quarantine"
    )


@command.command("recover")
@format_option("text", "json")
@pass_app
def recover(app: App, output_format: str) -> ExitCode:
    """Record items again, after the record of matches was lost.

    The next fetch then notices withdrawals for these files, and they can be reported. Earlier
    reports of these files count again, as `hashclient report status` shows them.

    \b
      hashclient quarantine recover
    """
    from hashclient.matches.store import Matches
    from hashclient.reporting.settling import note_again

    results = Results(app, output_format)
    outbox = open_outbox(app)
    with Matches(app.settings.state_dir) as record:
        for item in open_quarantine(app).recover(record):
            results.put(item.id, "recorded again", path=item.file, done=True)
        for report_id in outbox.ids():
            with results.item(report_id):
                note_again(outbox.get(report_id), record)
    return results.end("the record of matches knows all that is in quarantine")


@command.command("hold")
@_needed_ids
@reason_option()
@format_option("text", "json")
@pass_app
def hold(app: App, match_ids: tuple[str, ...], reason: str, output_format: str) -> ExitCode:
    """Forbid destroying or restoring items until a release.

    \b
      hashclient quarantine hold 3kdz7wnq2m --reason 'court order 12/34'
    """
    return _mark(app, match_ids, output_format, "on hold", lambda it: it.hold, reason)


@command.command("release")
@_needed_ids
@reason_option()
@format_option("text", "json")
@pass_app
def release(app: App, match_ids: tuple[str, ...], reason: str, output_format: str) -> ExitCode:
    """End the hold on items.

    \b
      hashclient quarantine release 3kdz7wnq2m --reason 'order 12/34 lifted'
    """
    return _mark(app, match_ids, output_format, "released", lambda it: it.release, reason)


def _mark(
    app: App,
    match_ids: tuple[str, ...],
    output_format: str,
    detail: str,
    method: Callable[[Quarantine], Callable[..., Item]],
    reason: str,
) -> ExitCode:
    if not match_ids:
        raise UsageError("no item is given", hint="`hashclient quarantine list` shows them")
    results = Results(app, output_format, match_ids)
    with open_record(app) as record:
        quarantine = open_quarantine(app)
        for match_id in match_ids:
            with results.item(match_id):
                item = method(quarantine)(match_id, record, reason=reason)
                results.put(match_id, detail, path=item.file, done=True)
    return results.end("")


for _command in (list_items, show, verify, keygen, add_recipient):
    command.add_command(_command)
