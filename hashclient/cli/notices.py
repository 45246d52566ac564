"""`notices`: lists, shows and acknowledges messages of providers.

The commands `fetch`, `status` and `provider notice` also show notices with this module. Text from a
provider is always escaped before it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.options import NOTICES, run_alone, together
from hashclient.core.errors import AuditError, StateError
from hashclient.system.text import for_people, printable

if TYPE_CHECKING:
    from hashclient.client.journal import Journal
    from hashclient.fetch.notices import FetchedNotices
    from hashclient.notices.document import Notice
    from hashclient.notices.lifecycle import Standing


#: The options of `notices` and `notices list`.
_list_options = together(
    click.option(
        "--show-all", is_flag=True, help="Also show notices that require no action any more."
    ),
    click.option("--provider", metavar="NAME", help="Only notices of this provider."),
    format_option("text", "json"),
)


@click.group("notices", invoke_without_command=True)
@_list_options
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Show notices of providers, and acknowledge them.

    A notice is a short text that a provider signs for all its clients, for example: a list is
    consolidated tomorrow, a category has to be checked again, reports go to another address.
    `fetch` downloads notices. A notice is open until somebody acknowledges it, until it expires, or
    until the provider replaces or cancels it. The audit log records who has seen a notice and who
    has acknowledged it. No part of a notice is opened or executed.

    Without a command, `list` is meant.

    \b
      hashclient notices
      hashclient notices --show-all
      hashclient notices show n-20260131t120000
      hashclient notices acknowledge n-20260131t120000 --reason 'ticket 4711'
    """
    run_alone(ctx, list_notices, chosen)


@command.command("list")
@_list_options
@pass_app
def list_notices(app: App, show_all: bool, provider: str | None, output_format: str) -> None:
    """List the notices that are open or acknowledged, the newest first.

    The full name of a notice is PROVIDER/ID; ID is enough if no other provider uses the same ID.

    \b
      hashclient notices list
      hashclient notices list --show-all --format json
    """
    journal = _journal(app)
    kept = journal.all()
    if provider is not None and not any(standing.provider == provider for standing in kept):
        app.settings.provider(provider)  # fails if no provider has this name
    found = [s for s in kept if provider in {None, s.provider} and (show_all or s.stands)]
    unnoted = _note_shown(journal, found, "headline")
    failure = journal.failure or unnoted
    nothing = "there is no notice" if show_all else "no notice requires action; try --show-all"
    app.show(
        output_format,
        {"notices": [document_of(standing) for standing in found]},
        map(line_of, found),
        nothing="" if failure else nothing,
    )
    if failure is not None:
        raise failure


@command.command("show")
@click.argument("name", metavar="ID", shell_complete=NOTICES)
@format_option(
    "text", "json", "cap", help="For people, for scripts, or as a CAP 1.2 message in XML."
)
@pass_app
def show(app: App, name: str, output_format: str) -> None:
    """Show all that a notice says.

    With `--format cap`, the notice is written as a message of the Common Alerting Protocol, for
    systems that distribute alerts.

    \b
      hashclient notices show n-20260131t120000
      hashclient notices show main/n-20260131t120000 --format cap
    """
    from hashclient.notices.document import to_cap

    journal = _journal(app)
    (standing,) = journal.find([name])
    failure = _note_shown(journal, [standing], "text")
    if output_format == "cap":
        app.out(to_cap(standing.notice, standing.provider).rstrip("\n"))
    else:
        app.show(output_format, document_of(standing), text_of(standing))
    if failure is not None:
        raise failure


@command.command("acknowledge")
@click.argument("names", metavar="ID…", nargs=-1, required=True, shell_complete=NOTICES)
@click.option(
    "--reason", metavar="TEXT", help="The reason, or the action taken, for the audit log."
)
@format_option("text", "json")
@pass_app
def acknowledge(app: App, names: tuple[str, ...], reason: str | None, output_format: str) -> None:
    """Acknowledge notices: they are not open any more.

    If the provider updates an acknowledged notice, the update is a new, open notice.

    \b
      hashclient notices acknowledge n-20260131t120000 --reason 'ticket 4711'
    """
    journal = _journal(app)
    chosen = journal.find(names)
    done = journal.acknowledge(chosen, reason)
    documents = [
        {"provider": one.provider, "id": one.notice.id, "done": one.name in done} for one in chosen
    ]
    text = (
        f"{one.name}  {'acknowledged' if one.name in done else f'is {one.state}'}" for one in chosen
    )
    app.show(output_format, {"items": documents}, text)


def _journal(app: App) -> Journal:
    from hashclient.client.journal import Journal
    from hashclient.system.files import require_state_dir

    require_state_dir(app.settings.state_dir)
    return Journal(app.session)


def _note_shown(
    journal: Journal, shown: Sequence[Standing], how: str
) -> AuditError | StateError | None:
    """Log that notices are shown; return the error if logging fails."""
    try:
        journal.note_shown(shown, how)
    except (AuditError, StateError) as error:
        return error
    return None


def severity_of(notice: Notice) -> str:
    """Return the severity of a notice, with its status if it is a test or an exercise."""
    meant = "" if notice.status == "Actual" else f", {notice.status}"
    return f"{notice.severity}{meant}"


def line_of(standing: Standing) -> str:
    """Return one line that shows a notice."""
    notice = standing.notice
    return (
        f"{standing.name}  [{severity_of(notice)}]  {_state_of(standing)}"
        f"  {for_people(notice.sent)}  {printable(notice.headline)}"
    )


def text_of(standing: Standing) -> Iterator[str]:
    """Yield a line for each field of a notice, and for its state on this machine."""
    kept = standing.kept
    more = {"state": _state_of(standing), "received": for_people(kept.received)}
    if kept.acknowledged is not None:
        said = f": {printable(kept.acknowledged.reason)}" if kept.acknowledged.reason else ""
        by = printable(kept.acknowledged.by)
        more["acknowledged"] = f"{for_people(kept.acknowledged.at)} by {by}{said}"
    yield f"notice {standing.name}"
    yield from lines_of(standing.notice, more)


def lines_of(notice: Notice, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Yield a line for each field of a notice; `more` has its state on this machine."""
    rows = {
        "headline": printable(notice.headline),
        "event": printable(notice.event),
        "state": more.get("state", ""),
        "type": str(notice.type),
        "refers to": ", ".join(reference.id for reference in notice.references),
        "status": str(notice.status),
        "severity": str(notice.severity),
        "urgency": str(notice.urgency),
        "certainty": str(notice.certainty),
        "lists": ", ".join(notice.lists),
        "sender": printable(notice.sender),
        "sent": for_people(notice.sent),
        "expires": for_people(notice.expires),
        "received": more.get("received", ""),
        "contact": printable(notice.contact),
        "acknowledged": more.get("acknowledged", ""),
    }
    yield from (f"  {name:<13} {value}" for name, value in rows.items() if value)
    for name in ("description", "instruction"):
        text: str = getattr(notice, name)
        if text:
            yield f"  {name}"
            yield from (f"    {printable(line)}".rstrip() for line in text.split("\n"))


def document_of(standing: Standing) -> dict[str, Any]:
    """Return a notice and its state on this machine as a JSON object."""
    import msgspec

    kept = standing.kept
    return {
        "provider": standing.provider,
        "state": str(standing.state),
        "ended_by": standing.by,
        "received": kept.received,
        "shown": kept.shown,
        "acknowledged": kept.acknowledged and msgspec.to_builtins(kept.acknowledged),
        "notice": msgspec.to_builtins(standing.notice),
    }


def show_notices(
    app: App,
    fetched: FetchedNotices,
    *,
    with_text: bool,
    refused: Callable[[str, str | None], None],
) -> None:
    """Show the notices of a fetch on stdout or stderr; `refused` is called to show an error."""
    show = app.out if with_text else app.say
    for standing in fetched.arrived:
        if standing.stands:
            notice = standing.notice
            headline = printable(notice.headline)
            show(f"notice {standing.name}: [{severity_of(notice)}] {headline}")
    for standing in fetched.ended:
        show(f"notice {standing.name}: {_state_of(standing)}")
    if any(standing.stands for standing in fetched.arrived):
        app.say("next: `hashclient notices show ID` shows all of it")
    if (error := fetched.error) is not None:
        more = len(fetched.refused) - 1
        others = (
            f" ({more:,} more notices of this provider are not here either)" if more > 0 else ""
        )
        refused(f"{error.message}{others}", error.hint)


def document_of_fetched(fetched: FetchedNotices) -> dict[str, Any]:
    """Return the notices that a fetch has downloaded as a JSON object."""
    document: dict[str, Any] = {
        "provider": fetched.provider,
        "arrived": [document_of(standing) for standing in fetched.arrived],
        "ended": [
            {"id": s.notice.id, "state": str(s.state), "ended_by": s.by} for s in fetched.ended
        ],
    }
    if fetched.refused:
        document["refused"] = [{"id": one.id, "reason": one.reason} for one in fetched.refused]
    if (error := fetched.error) is not None:
        document["error"] = {"message": error.message, "exit_code": error.exit_code}
    return document


def _state_of(standing: Standing) -> str:
    return f"{standing.state} by {standing.by}" if standing.by else str(standing.state)
