"""clamav-milter asks the daemon about mails. A simple client replaces the mail server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.mails import mail_of
from tests.gateways.door import Door
from tests.gateways.milter import asked
from tests.gateways.milters import clamav_milter
from tests.gateways.objects import FOUND, LISTED, MAILS, WITHOUT_VERDICT
from tests.gateways.programs import needs

pytestmark = [pytest.mark.deep, needs("clamav-milter")]


@pytest.fixture(scope="module")
def milter(gate: Door) -> Iterator[str]:
    with clamav_milter(gate) as path:
        yield path


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_mails(gate: Door, milter: str, rule: str) -> None:
    gate.open(rule)
    made = {what: asked(milter, mail) for what, mail in MAILS.items()}
    unknown = {"found": "refused", "error": "put off", "ok": "taken"}[rule]
    assert made == {
        "clean": "taken",
        **dict.fromkeys(FOUND, "refused"),
        **dict.fromkeys(WITHOUT_VERDICT, unknown),
        "long": "taken",  # the limit applies to streams, but the milter passes a file
    }


@pytest.mark.parametrize(
    ("rule", "made"), [("found", "refused"), ("error", "put off"), ("ok", "taken")]
)
def test_stale_lists(gate: Door, milter: str, rule: str, made: str) -> None:
    gate.open(rule, stale=True)
    assert asked(milter, MAILS["clean"]) == made
    assert asked(milter, MAILS["match"]) == "refused"


def test_it_asks_about_large_mails(gate: Door, milter: str) -> None:
    """By default the milter would leave out mails of more than 100 MB."""
    gate.open()
    assert asked(milter, bytes(mail_of({"a.bin": bytes(80 << 20), "b.bin": LISTED}))) == "refused"


def test_nobody_there(gate: Door, milter: str) -> None:
    gate.close()
    assert asked(milter, MAILS["clean"]) == "put off"
