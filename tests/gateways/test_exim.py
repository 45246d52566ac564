"""Exim stores a mail in a file, and asks the daemon about this file before it accepts the mail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.gateways.door import Door
from tests.gateways.mails import (
    check_mails,
    check_nobody_there,
    check_stale_lists,
    mail_server,
    sent,
)
from tests.gateways.objects import SPLIT
from tests.gateways.programs import SOCKET, needs, needs_root, program, recipe

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
    def command(place: Path, port: int) -> Sequence[object]:
        configuration = gate.directory / "exim.conf"
        usual = USUAL.format(port=port, place=place)
        configuration.write_text(usual + recipe("recipe-exim", {SOCKET: gate.socket}))
        return [program("exim4"), "-C", configuration, "-bdf", "-q1h"]

    with mail_server(gate, "exim", "Debian-exim", command) as port:
        yield port


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_mails(gate: Door, port: int, rule: str) -> None:
    check_mails(gate, port, rule)


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_stale_lists(gate: Door, port: int, rule: str) -> None:
    check_stale_lists(gate, port, rule)


def test_a_mail_that_looks_like_two(gate: Door, port: int) -> None:
    """Exim stores the mail as a mailbox without escaping lines that begin like a new mail."""
    gate.open()
    assert sent(port, SPLIT) == "refused"


def test_nobody_there(gate: Door, port: int) -> None:
    check_nobody_there(gate, port)
