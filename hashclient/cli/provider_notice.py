"""`provider notice`: publishes, replaces and cancels notices for all clients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.notices import document_of, line_of
from hashclient.cli.options import TIME, together
from hashclient.cli.provider_keys import passphrase_option, passphrases
from hashclient.cli.provider_options import (
    draft_option,
    key_options,
    keys_wanted,
    public_key_option,
    repo_argument,
    repository_at,
    say_draft,
    warn_expiring,
)
from hashclient.core.errors import UsageError
from hashclient.system.text import for_people

if TYPE_CHECKING:
    from hashclient.notices.document import Notice
    from hashclient.provider.notices import NoticeBoard, Said


_SEVERITIES = ("Extreme", "Severe", "Moderate", "Minor", "Unknown")
_URGENCIES = ("Immediate", "Expected", "Future", "Past", "Unknown")
_CERTAINTIES = ("Observed", "Likely", "Possible", "Unlikely", "Unknown")
_STATUSES = ("Actual", "Exercise", "Test")

_ids = click.argument("ids", metavar="ID…", nargs=-1, required=True)


@click.group("notice")
def command() -> None:
    """Publish notices for all clients, replace and cancel them.

    A notice is a short text with a severity and an end, in the words of the Common Alerting
    Protocol. A role with its own keys signs the notice; the first notice makes this role and its
    keys. Clients get the notice with their next fetch. A published notice is never changed: another
    notice replaces or cancels it.

    \b
      hashclient provider notice publish /srv/lists --event maintenance \\
            --severity minor --headline 'no updates on Friday' \\
            --sender lists@example.org
      hashclient provider notice list /srv/lists
    """


def _choice(words: tuple[str, ...]) -> click.Choice[str]:
    return click.Choice(words, case_sensitive=False)


#: The options for the content of a notice.
_text_options = together(
    click.option("--headline", metavar="TEXT", help="The subject, in one line."),
    click.option("--description", metavar="TEXT", help="A longer description."),
    click.option("--instruction", metavar="TEXT", help="Instructions for clients."),
    click.option("--contact", metavar="TEXT", help="The person or office to ask."),
    click.option("--event", metavar="TEXT", help="The kind of event, as one word."),
    click.option(
        "--severity",
        type=_choice(_SEVERITIES),
        help="How bad the event is; required for a new notice.",
    ),
    click.option("--urgency", type=_choice(_URGENCIES), help="How soon clients have to act."),
    click.option("--certainty", type=_choice(_CERTAINTIES), help="How certain the event is."),
    click.option(
        "--status",
        type=_choice(_STATUSES),
        help="A test or an exercise requires no action. [default: Actual]",
    ),
    click.option(
        "--list",
        "lists",
        metavar="NAME",
        multiple=True,
        help="A list that the notice is about. Can be given several times.",
    ),
    click.option(
        "--expires",
        type=TIME,
        metavar="TIME",
        help="When the notice expires, in UTC. [default: in 30 days]",
    ),
    click.option("--language", metavar="TAG", help="The language of the texts. [default: en]"),
    click.option(
        "--sender",
        metavar="NAME",
        help="The sender: a name that stays unique, like a mail address. [default: as in the last "
        "notice]",
    ),
    click.option("--id", "notice_id", metavar="ID", help="The id of the notice."),
)


@command.command("publish")
@repo_argument
@_text_options
@key_options("the role of notices, with the first notice")
@public_key_option
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def publish(
    app: App,
    /,
    directory: Path,
    keys: int,
    threshold: int,
    public_keys: tuple[Path, ...],
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
    **said: Any,
) -> None:
    """Publish a new notice.

    \b
      hashclient provider notice publish /srv/lists --event correction \\
            --severity severe --urgency immediate --list baseline \\
            --headline 'check category undecided again' --expires 2026-12-31
    """
    board = _board(app, directory, passphrase_file)
    wanted = keys_wanted(keys, threshold, public_keys)
    done = board.publish(_said(said), app.now(), keys=wanted, draft=draft)
    _show_done(app, board, done, draft, output_format)


@command.command("update")
@repo_argument
@_ids
@_text_options
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def update(
    app: App,
    /,
    directory: Path,
    ids: tuple[str, ...],
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
    **said: Any,
) -> None:
    """Replace the notices ID… by a new notice.

    The new notice has the text of the first ID, except where an option changes the text. Clients
    that have acknowledged the old notices have to acknowledge the new notice, too.

    \b
      hashclient provider notice update /srv/lists n-1 --severity minor
    """
    board = _board(app, directory, passphrase_file)
    done = board.update(ids, _said(said), app.now(), draft=draft)
    _show_done(app, board, done, draft, output_format)


@command.command("cancel")
@repo_argument
@_ids
@_text_options
@draft_option
@passphrase_option
@format_option("text", "json")
@pass_app
def cancel(
    app: App,
    /,
    directory: Path,
    ids: tuple[str, ...],
    draft: Path | None,
    passphrase_file: Path | None,
    output_format: str,
    **said: Any,
) -> None:
    """End the notices ID… before they expire.

    \b
      hashclient provider notice cancel /srv/lists n-1 \\
            --description 'it was a mistake'
    """
    board = _board(app, directory, passphrase_file)
    done = board.cancel(ids, _said(said), app.now(), draft=draft)
    _show_done(app, board, done, draft, output_format)


@command.command("list")
@repo_argument
@format_option("text", "json")
@pass_app
def list_notices(app: App, directory: Path, output_format: str) -> None:
    """List the notices that are published, the newest first.

    \b
      hashclient provider notice list /srv/lists
    """
    found = _board(app, directory, None).standing(app.now())
    document = {"notices": [_published(document_of(s)) for s in found]}
    text = (line_of(standing).removeprefix("/") for standing in found)
    app.show(output_format, document, text, nothing="no notice is published")


def _published(document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a notice without the state at a client, which no provider knows."""
    return {key: document[key] for key in ("state", "ended_by", "notice")}


def _board(app: App, directory: Path, passphrase_file: Path | None) -> NoticeBoard:
    from hashclient.provider.notices import NoticeBoard

    return NoticeBoard(repository_at(app, directory, passphrases(passphrase_file)))


def _said(said: dict[str, Any]) -> Said:
    """Return the fields of a notice that the options set.

    Raises:
        UsageError: the option `--id` is empty.
    """
    from hashclient.notices.document import Certainty, Severity, Status, Urgency
    from hashclient.provider.notices import Said

    kinds = {
        "severity": Severity,
        "urgency": Urgency,
        "certainty": Certainty,
        "status": Status,
    }
    values = {name: value for name, value in said.items() if value not in (None, ())}
    values |= {name: kind(values[name]) for name, kind in kinds.items() if name in values}
    if "notice_id" in values:
        values["id"] = values.pop("notice_id")
        if not values["id"]:
            raise UsageError("--id is empty")
    return Said(**values)


def _show_done(
    app: App, board: NoticeBoard, notice: Notice, draft: Path | None, output_format: str
) -> None:
    document = {"id": notice.id, "type": notice.type, "draft": draft}
    text = f"notice {notice.id}: {notice.type}, until {for_people(notice.expires)}"
    app.show(output_format, document, text)
    say_draft(app, draft)
    if draft is None:
        warn_expiring(app, board.repository)
