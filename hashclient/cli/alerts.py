"""`alerts`: shows, tests and sends messages to people about events that need attention."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, format_option, own_command, pass_app
from hashclient.cli.options import run_alone
from hashclient.core.errors import ConfigError, ExitCode, HashclientError, LockedError
from hashclient.system.beside import Beside
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.alerts.book import Book
    from hashclient.alerts.outbox import Attempt

_EVERY_S = 600.0


@click.group("alerts", invoke_without_command=True)
@format_option("text", "json")
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Inform people about matches, failed fetches and damage.

    [alerts] in config.toml names the receivers: a command, a webhook, mail. Each run of hashclient
    checks what has happened since the last check, and sends new alerts, one message for each kind.
    If the same alert was sent within the last hour or day, it is not sent again. An alert has
    counts and the names of lists, never content, digests or entries, and paths only with `paths =
    true`. If a receiver fails, later runs try again; this never changes the exit code of a run.

    Without a command, `list` is meant.

    \b
      hashclient alerts test
      hashclient alerts
      hashclient alerts send --due          for timers
    """
    run_alone(ctx, list_alerts, chosen)


@command.command("list")
@format_option("text", "json")
@pass_app
def list_alerts(app: App, output_format: str) -> None:
    """List the waiting alerts, and whether each receiver could be reached.

    \b
      hashclient alerts list
      hashclient alerts list --format json
    """
    import msgspec

    from hashclient.alerts.alert import document_of
    from hashclient.alerts.outbox import Outbox

    book = Outbox(app.session).book()
    names = app.settings.config.alerts.receivers
    document = {
        "receivers": [
            {"name": name, **msgspec.structs.asdict(book.receiver(name))} for name in names
        ],
        "waiting": [
            {**document_of(alert, app.session.machine), "to": alert.to} for alert in book.waiting
        ],
    }
    lines = [_line(book, name) for name in names]
    lines += [
        f"{alert.id}  {alert.text}  "
        + (f"waits for {', '.join(alert.to)}" if alert.to else "not due yet")
        for alert in book.waiting
    ]
    nothing = "no receiver is configured: [alerts] in config.toml names them"
    app.show(output_format, document, lines, nothing=nothing)


@command.command("test")
@format_option("text", "json")
@pass_app
def test(app: App, output_format: str) -> ExitCode:
    """Send a test alert to each receiver now, and show whether it arrived.

    \b
      hashclient alerts test

    Exit codes: 0 each receiver has accepted the alert, 2 a setting is wrong, 4 a receiver cannot be
    reached, 5 a receiver refuses the credential.
    """
    from hashclient.alerts.outbox import Outbox

    _refuse_without_receivers(app)
    return _show(app, Outbox(app.session).test(), output_format)


@command.command("send")
@click.option(
    "--due",
    is_flag=True,
    help="Send only due alerts, and only to receivers that have not just failed.",
)
@format_option("text", "json")
@pass_app
def send(app: App, due: bool, output_format: str) -> ExitCode:
    """Check what has happened, and send the waiting alerts.

    At its end, every run does this for due alerts. A timer with `alerts send --due` sends the
    alerts that a run could not send.

    \b
      hashclient alerts send
      hashclient alerts send --due

    Exit codes: 0 all alerts are sent, or no alert was due, 2 a setting is wrong, 4 a receiver
    cannot be reached, 5 a receiver refuses the credential, 8 the outbox cannot be written.
    """
    from hashclient.client.client import Client

    _refuse_without_receivers(app)
    return _show(app, Client(app.session).alert(at_once=not due, patient=True), output_format)


def after_run(app: App, exit_code: int) -> None:
    """Send the due alerts at the end of a command that ends with `exit_code`.

    If an alert cannot be sent, a warning is printed, and the exit code stays the same.
    """
    from hashclient.client.client import Client

    try:
        for attempt in Client(app.session).alert(exit_code=exit_code):
            if attempt.error is not None:
                _warn(app, attempt)
    except LockedError:
        pass  # another run has locked the outbox and sends the alerts, or the next run does
    except HashclientError as error:
        app.warn(f"alerts are not sent: {error.message}", error.hint)
    except Exception as error:  # noqa: BLE001 - not even a bug here changes the verdict of the run
        app.warn(f"alerts are not sent: internal error: {type(error).__name__}")


def raise_silent(app: App, machines: Sequence[str]) -> None:
    """Store an alert that `machines` have not published their status for too long.

    If the alert cannot be stored, a warning is printed.
    """
    from hashclient.alerts.outbox import Outbox

    try:
        Outbox(app.session).raise_silent(machines)
    except HashclientError as error:
        app.warn(f"no alert about silent machines: {error.message}", error.hint)


def alerts_beside(app: App) -> list[Beside]:
    """Return the command that sends alerts while a long command runs, if receivers are configured.

    The command runs soon after a record was added to the audit log. The command also runs every ten
    minutes, because alerts may become due without a new record.
    """
    from hashclient.system.layout import LOG_NAME

    if not app.settings.config.alerts.receivers:
        return []
    log = app.settings.layout.audit / LOG_NAME

    def changed() -> object:
        with contextlib.suppress(OSError):
            status = log.stat()
            return status.st_ino, status.st_size
        return None

    return [Beside(own_command(app, "alerts", "send", "--due"), _EVERY_S, changed=changed)]


def _warn(app: App, attempt: Attempt) -> None:
    assert attempt.error is not None
    hint = "`hashclient alerts list` shows the waiting alerts; later runs try again"
    app.warn(f"alert not sent: {attempt.error.message}", attempt.error.hint or hint)


def _refuse_without_receivers(app: App) -> None:
    if not app.settings.config.alerts.receivers:
        raise ConfigError(
            "no receiver of alerts is configured",
            hint='add [alerts] to config.toml, such as command = ["/usr/local/bin/page"];'
            " docs/operations/alerts.md has examples",
        )


def _show(app: App, attempts: Iterable[Attempt], output_format: str) -> ExitCode:
    """Show the attempts to send alerts, and return the worst exit code."""
    code, documents, lines = ExitCode.OK, [], []
    for attempt in attempts:
        error = attempt.error
        documents.append(
            {
                "receiver": attempt.receiver,
                "taken": attempt.taken,
                "error": None if error is None else error.message,
            }
        )
        if error is None:
            lines.append(f"{attempt.receiver}: took {counted(attempt.taken, 'alert')}")
        else:
            code = max(code, error.exit_code)
            _warn(app, attempt)
    app.show(
        output_format, {"attempts": documents}, lines, nothing="" if code else "nothing is due"
    )
    return code


def _line(book: Book, name: str) -> str:
    known = book.receiver(name)
    if known.problem is not None:
        fails = f"{name}  FAILS: {printable(known.problem)}"
        # `next_attempt` is None if at least one other address of the receiver works.
        if known.next_attempt is None:
            return fails
        tries = counted(known.attempts, "failed attempt")
        return f"{fails}; {tries}, the next at {for_people(known.next_attempt)}"
    return f"{name}  " + (
        f"reached {for_people(known.reached)}" if known.reached else "not tried yet"
    )
