"""Postfix asks clamav-milter about a mail before it accepts the mail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fixtures.mails import mail_of
from tests.gateways.door import Door
from tests.gateways.mails import (
    check_mails,
    check_nobody_there,
    check_stale_lists,
    mail_server,
    sent,
)
from tests.gateways.milters import clamav_milter
from tests.gateways.objects import LISTED
from tests.gateways.programs import needs, needs_root, program, recipe

pytestmark = [pytest.mark.deep, needs("clamav-milter", "postfix"), needs_root]

MILTER = "/run/clamav/clamav-milter.ctl"
USUAL = """
compatibility_level = 3.6
queue_directory = {place}/queue
data_directory = {place}/data
maillog_file = {place}/log
maillog_file_prefixes = {place}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = localhost
mydestination = example.org
local_transport = discard:
default_transport = discard:
local_recipient_maps =
alias_maps =
message_size_limit = 200000000
"""
SERVICES = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
discard unix - - n - - discard
postlog unix-dgram n - n - 1 postlogd
"""


@pytest.fixture(scope="module")
def port(gate: Door) -> Iterator[int]:
    with clamav_milter(gate) as milter:

        def command(place: Path, port: int) -> Sequence[object]:
            configuration = gate.directory / "postfix.d"
            (place / "queue").mkdir()
            configuration.mkdir()
            usual = USUAL.format(place=place) + recipe("recipe-postfix", {MILTER: milter})
            (configuration / "main.cf").write_text(usual)
            (configuration / "master.cf").write_text(SERVICES.format(port=port))
            return [program("postfix"), "-c", configuration, "start-fg"]

        with mail_server(gate, "postfix", "postfix", command) as port:
            yield port


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_mails(gate: Door, port: int, rule: str) -> None:
    check_mails(gate, port, rule)


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_stale_lists(gate: Door, port: int, rule: str) -> None:
    check_stale_lists(gate, port, rule)


def test_it_asks_about_large_mails(gate: Door, port: int) -> None:
    """By default the milter would leave out mails of more than 100 MB."""
    gate.open()
    assert sent(port, bytes(mail_of({"a.bin": bytes(80 << 20), "b.bin": LISTED}))) == "refused"


def test_nobody_there(gate: Door, port: int) -> None:
    check_nobody_there(gate, port)


def test_without_the_milter_it_takes_nothing(gate: Door, port: int) -> None:
    """While the milter is away, Postfix must refuse mail instead of accepting it unchecked."""
    gate.open()
    milter = gate.directory / "milter/milter"
    away = milter.rename(milter.with_name("away"))
    try:
        check_nobody_there(gate, port)
    finally:
        away.rename(milter)
