"""`notices`: list, show and acknowledge messages of providers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.completing import NOTICES
from hashclient.cli.noticeview import document_of, line_of, text_of
from hashclient.cli.options import refuse_before_command, together
from hashclient.errors import AuditError, StateError

if TYPE_CHECKING:
    from hashclient.notices.journal import Journal
    from hashclient.notices.lifecycle import Standing


#: The options of a list of notices.
_list_options = together(
    click.option("--show-all", is_flag=True, help="Also those that require no action any more."),
    click.option("--provider", metavar="NAME", help="Only notices of this provider."),
    format_option("text", "json"),
)


@click.group("notices", invoke_without_command=True)
@_list_options
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Show notices of providers, and acknowledge them.

    A notice is a short text that a provider signs for all of its clients: a list is consolidated
    tomorrow, a category has to be checked again, reports go to another address. `fetch` brings
    them. A notice is open until somebody acknowledges it, it expires, or the provider replaces or
    cancels it. The audit log records who was shown it and who acknowledged it. No part of a notice
    is opened or executed.

    Without a command, `list` is meant.

    \b
      hashclient notices
      hashclient notices --show-all
      hashclient notices show n-20260131t120000
      hashclient notices acknowledge n-20260131t120000 --reason 'ticket 4711'
    """
    if ctx.invoked_subcommand is not None:
        refuse_before_command(ctx)
        return
    ctx.invoke(list_notices, **chosen)


@command.command("list")
@_list_options
@pass_app
def list_notices(app: App, show_all: bool, provider: str | None, output_format: str) -> None:
    """List the notices that are open or acknowledged, the newest first.

    A notice is called PROVIDER/ID; its ID is enough where no other provider has one of that name.

    \b
      hashclient notices list
      hashclient notices list --show-all --format json
    """
    journal = _journal(app)
    kept = journal.all()
    if provider is not None and not any(standing.provider == provider for standing in kept):
        app.settings.provider(provider)  # that one without notices is called so
    found = [s for s in kept if provider in {None, s.provider} and (show_all or s.stands)]
    unnoted = _note_shown(journal, found, "headline")
    failure = journal.failure or unnoted
    nothing = "there is no notice" if show_all else "no notice stands; --show-all shows others"
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

    With `--format cap` it is written as a message of the Common Alerting Protocol, for systems that
    hand alerts on.

    \b
      hashclient notices show n-20260131t120000
      hashclient notices show main/n-20260131t120000 --format cap
    """
    from hashclient.notices.cap import to_cap

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
    "--reason", metavar="TEXT", help="The reason, or the action taken; it goes into the audit log."
)
@format_option("text", "json")
@pass_app
def acknowledge(app: App, names: tuple[str, ...], reason: str | None, output_format: str) -> None:
    """Say that notices have been dealt with; they are open no more.

    An update of one of them is a notice of its own, and open again.

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
    from hashclient.notices.journal import Journal

    return Journal(app.session)


def _note_shown(
    journal: Journal, shown: Sequence[Standing], how: str
) -> AuditError | StateError | None:
    """Log that notices are shown; where that fails they are shown all the same, and it is said."""
    try:
        journal.note_shown(shown, how)
    except (AuditError, StateError) as error:
        return error
    return None
