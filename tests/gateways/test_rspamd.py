"""The antivirus module of rspamd asks the daemon, and rspamd tells a mail server its verdict."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest

from tests.docs.blocks import free_port
from tests.gateways.door import NAME, NO_VERDICT, Door
from tests.gateways.objects import INLINE, MAILS, WITHOUT_VERDICT
from tests.gateways.programs import SOCKET, listens, needs, program, recipe, running

pytestmark = [pytest.mark.deep, needs("rspamd")]

#: Modules of rspamd that use the network or need a database.
OFFLINE = "arc asn dkim dkim_signing dmarc fuzzy_check phishing rbl reputation rspamd_update spf"
MODULES = f"{OFFLINE} surbl url_redirector whitelist mx_check greylist multimap neural"
OPTIONS = """
dns {{ nameserver = ["127.0.0.1:1"]; retransmits = 1; }}
disable_hyperscan = true;
url_tld = "{place}/suffixes";
"""
TIMEOUT_S = 60
PASSES: tuple[str, dict[str, list[str]]] = ("no action", {})


@pytest.fixture(scope="module")
def port(gate: Door) -> Iterator[int]:
    port, place = free_port(), gate.directory / "rspamd"
    local = place / "local.d"
    local.mkdir(parents=True)
    (local / "antivirus.conf").write_text(recipe("recipe-rspamd", {SOCKET: gate.socket}))
    (local / "force_actions.conf").write_text(recipe("recipe-rspamd-fail", {}))
    (local / "worker-normal.inc").write_text(f'bind_socket = "127.0.0.1:{port}";\ncount = 1;\n')
    for worker in ("controller", "proxy", "fuzzy"):
        (local / f"worker-{worker}.inc").write_text("enabled = false;\n")
    for module in MODULES.split():
        (local / f"{module}.conf").write_text("enabled = false;\n")
    (local / "options.inc").write_text(OPTIONS.format(place=place))
    (place / "suffixes").write_text("org\n")  # the real list of suffixes takes long to compile
    (local / "actions.conf").write_text("reject = 999; add_header = 998; greylist = 997;\n")
    words = [f"--var={name}={place}" for name in ("LOCAL_CONFDIR", "DBDIR", "RUNDIR", "LOGDIR")]
    command = [program("rspamd"), "-f", "-i", "-c", "/etc/rspamd/rspamd.conf", *words]
    with running(command, lambda: listens(("127.0.0.1", port)), gate.directory / "log"):
        yield port


def asked(port: int, mail: bytes) -> tuple[str, dict[str, list[str]]]:
    """Return the action for a mail, and the answers of the scanner by symbol."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/checkv2", mail)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        said = json.load(answer)
    symbols = said["symbols"].items()
    return said["action"], {
        name: symbol.get("options", [])
        for name, symbol in symbols
        if name.startswith("HASHCLIENT") and "FORCE" not in name
    }


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_mails(gate: Door, port: int, rule: str) -> None:
    gate.open(rule)
    made = {what: asked(port, mail) for what, mail in (MAILS | {"inline": INLINE}).items()}

    def failed(reason: str) -> tuple[str, dict[str, list[str]]]:
        # On an error, the module of rspamd fails and reports nothing.
        told = {"HASHCLIENT_FAIL": [f"Limits Exceeded: {NO_VERDICT}{reason}"]}
        return ("soft reject", told) if rule == "found" else PASSES

    assert made.pop("whole") == ("reject", {"HASHCLIENT": ["Hashclient.base.e-zip"]})
    assert made == {
        "clean": PASSES,
        **dict.fromkeys(("match", "archive", "mail", "inline"), ("reject", {"HASHCLIENT": [NAME]})),
        **dict.fromkeys(WITHOUT_VERDICT, failed("Unread")),
        "long": failed("Length"),
    }


def test_stale_lists(gate: Door, port: int) -> None:
    gate.open(stale=True)
    stale = ("soft reject", {"HASHCLIENT_FAIL": [f"Limits Exceeded: {NO_VERDICT}Stale"]})
    assert asked(port, MAILS["clean"]) == stale
    assert asked(port, MAILS["match"])[0] == "reject"
    for rule in ("error", "ok"):
        gate.open(rule, stale=True)
        assert asked(port, MAILS["clean"]) == PASSES


def test_nobody_there(gate: Door, port: int) -> None:
    gate.close()
    action, said = asked(port, MAILS["clean"])
    assert (action, list(said)) == ("soft reject", ["HASHCLIENT_FAIL"])
