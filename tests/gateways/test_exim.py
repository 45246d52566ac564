"""Exim asks about the file in which it keeps a mail, before it takes the mail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.blocks import free_port
from tests.gateways.door import Door
from tests.gateways.mails import sent
from tests.gateways.objects import FOUND, MAILS, SPLIT, WITHOUT_VERDICT
from tests.gateways.programs import (
    SOCKET,
    give,
    listens,
    needs,
    needs_root,
    program,
    recipe,
    running,
)

pytestmark = [pytest.mark.deep, needs("exim4"), needs_root]

USUAL = """
primary_hostname = localhost
local_interfaces = 127.0.0.1
daemon_smtp_port = {port}
spool_directory = {place}
log_file_path = {place}/%slog
pid_file_path = {place}/pid
tls_advertise_hosts =
message_size_limit = 50M
acl_smtp_rcpt = accept
queue_only = true
"""


@pytest.fixture(scope="module")
def port(gate: Door) -> Iterator[int]:
    port, place = free_port(), gate.directory / "exim"
    place.mkdir()
    give(place, "Debian-exim")
    usual = USUAL.format(port=port, place=place)
    configuration = gate.directory / "exim.conf"
    configuration.write_text(usual + recipe("recipe-exim", {SOCKET: gate.socket}))
    command = [program("exim4"), "-C", configuration, "-bdf", "-q1h"]
    with running(command, lambda: listens(("127.0.0.1", port)), gate.directory / "log"):
        yield port


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_mails(gate: Door, port: int, rule: str) -> None:
    gate.open(rule)
    made = {what: sent(port, MAILS[what]) for what in MAILS}
    unknown = {"found": "refused", "error": "put off", "ok": "taken"}[rule]
    assert made == {
        "clean": "taken",
        **dict.fromkeys(FOUND, "refused"),
        **dict.fromkeys(WITHOUT_VERDICT, unknown),
        "long": "taken",  # a limit for streams, and this is a file
    }


@pytest.mark.parametrize(
    ("rule", "made"), [("found", "refused"), ("error", "put off"), ("ok", "taken")]
)
def test_stale_lists(gate: Door, port: int, rule: str, made: str) -> None:
    gate.open(rule, stale=True)
    assert sent(port, MAILS["clean"]) == made
    assert sent(port, MAILS["match"]) == "refused"


def test_a_mail_that_looks_like_two(gate: Door, port: int) -> None:
    """Exim keeps it as a mailbox, without a mark before such a line."""
    gate.open()
    assert sent(port, SPLIT) == "refused"


def test_nobody_there(gate: Door, port: int) -> None:
    gate.close()
    assert sent(port, MAILS["clean"]) == "put off"
