"""Sends mail to a server on loopback, and returns the result in one word."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.docs.blocks import free_port
from tests.gateways.door import Door
from tests.gateways.objects import FOUND, MAILS, WITHOUT_VERDICT
from tests.gateways.programs import give, listens, running

SENDER, RECEIVER = "sender@example.org", "receiver@example.org"
#: The limit in seconds for a mail; scanners have shorter limits.
TIMEOUT_S = 60


def sent(port: int, mail: bytes) -> str:
    """Send a mail; return `taken`, `refused` (for good) or `put off` (the sender tries again)."""
    with smtplib.SMTP("127.0.0.1", port, "localhost", TIMEOUT_S) as server:
        try:
            server.sendmail(SENDER, [RECEIVER], mail)
        except smtplib.SMTPResponseException as error:
            return "refused" if error.smtp_code >= 500 else "put off"
    return "taken"


@contextlib.contextmanager
def mail_server(
    gate: Door, name: str, user: str, command: Callable[[Path, int], Sequence[object]]
) -> Iterator[int]:
    """Run a mail server until the end of the block, and yield its port.

    `command` gets a directory that belongs to `user`, and the port. It writes the configuration
    beside the directory, and returns the command that starts the server.
    """
    port, place = free_port(), gate.directory / name
    place.mkdir()
    give(place, user)
    words = command(place, port)
    with running(words, lambda: listens(("127.0.0.1", port)), gate.directory / f"{name}.log"):
        yield port


def check_mails(gate: Door, port: int, rule: str) -> None:
    """Send each kind of mail while a daemon answers by `rule`, and compare the results."""
    gate.open(rule)
    made = {what: sent(port, MAILS[what]) for what in MAILS}
    unknown = {"found": "refused", "error": "put off", "ok": "taken"}[rule]
    assert made == {
        "clean": "taken",
        **dict.fromkeys(FOUND, "refused"),
        **dict.fromkeys(WITHOUT_VERDICT, unknown),
        "long": "taken",  # the limit applies to streams, but this program passes files
    }


def check_stale_lists(gate: Door, port: int, rule: str) -> None:
    """Send mails while the daemon's list is stale."""
    gate.open(rule, stale=True)
    made = {"found": "refused", "error": "put off", "ok": "taken"}[rule]
    assert sent(port, MAILS["clean"]) == made
    assert sent(port, MAILS["match"]) == "refused"


def check_nobody_there(gate: Door, port: int) -> None:
    """Send a mail while no daemon runs."""
    gate.close()
    assert sent(port, MAILS["clean"]) == "put off"
