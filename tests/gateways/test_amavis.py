"""amavis unpacks a mail into a directory, and asks the daemon about this directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.gateways.door import Door
from tests.gateways.mails import check_mails, check_nobody_there, check_stale_lists, mail_server
from tests.gateways.programs import SOCKET, needs, needs_root, program, recipe

pytestmark = [pytest.mark.deep, needs("amavisd"), needs_root]

USUAL = """
use strict;
$file = 'file';
$path = '/usr/bin:/bin';
$daemon_user = 'amavis';
$daemon_group = 'amavis';
$MYHOME = '{place}';
$TEMPBASE = '{place}';
$pid_file = '{place}/pid';
$lock_file = '{place}/lock';
$QUARANTINEDIR = undef;
$virus_quarantine_method = undef;
$mydomain = 'example.org';
$myhostname = 'gate.example.org';
$inet_socket_bind = '127.0.0.1';
$inet_socket_port = {port};
$max_servers = 1;
$max_requests = 1000;
$enable_db = 0;
$enable_zmq = 0;
$log_level = 2;
$do_syslog = 0;
$LOGFILE = '{place}/mail.log';
@bypass_spam_checks_maps = (1);
$virus_admin = undef;
$final_virus_destiny = D_REJECT;
$final_banned_destiny = D_PASS;
$final_bad_header_destiny = D_PASS;
$forward_method = 'pipe:argv=/usr/bin/sha256sum';
$notify_method = 'pipe:argv=/usr/bin/sha256sum';
"""


@pytest.fixture(scope="module")
def port(gate: Door) -> Iterator[int]:
    def command(place: Path, port: int) -> Sequence[object]:
        configuration = gate.directory / "amavis.conf"
        usual = USUAL.format(port=port, place=place)
        configuration.write_text(f"{usual}{recipe('recipe-amavis', {SOCKET: gate.socket})}1;\n")
        return [program("amavisd"), "-c", configuration, "foreground"]

    with mail_server(gate, "amavis", "amavis", command) as port:
        yield port


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_mails(gate: Door, port: int, rule: str) -> None:
    check_mails(gate, port, rule)


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_stale_lists(gate: Door, port: int, rule: str) -> None:
    check_stale_lists(gate, port, rule)


def test_nobody_there(gate: Door, port: int) -> None:
    check_nobody_there(gate, port)
