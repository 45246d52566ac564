"""Samba asks the daemon when a client opens a file of a share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.mails import mail_of
from tests.docs.blocks import free_port
from tests.gateways.door import Door
from tests.gateways.objects import FILES, FOUND_FILES, LISTED, WITHOUT_VERDICT
from tests.gateways.programs import (
    SOCKET,
    listens,
    needs,
    needs_root,
    output_of,
    program,
    recipe,
    running,
)
from tests.kit import write_tree

MODULES = [*Path("/usr/lib").glob("*/samba/vfs/virusfilter.so")]
pytestmark = [
    pytest.mark.deep,
    needs("smbd", "smbclient"),
    needs_root,
    pytest.mark.skipif(not MODULES, reason="not installed: samba-vfs-modules"),
]

USUAL = """
[global]
interfaces = 127.0.0.1
bind interfaces only = yes
smb ports = {port}
server role = standalone
disable netbios = yes
disable spoolss = yes
map to guest = bad user
guest account = nobody
private dir = {place}
lock directory = {place}
state directory = {place}
cache directory = {place}
pid directory = {place}
ncalrpc dir = {place}/ncalrpc
log file = {place}/smbd.log
log level = 1

[share]
path = {share}
guest ok = yes
read only = no
force user = root
"""


@pytest.fixture(scope="module")
def port(gate: Door) -> Iterator[int]:
    port, place = free_port(), gate.directory / "samba"
    place.mkdir()
    (gate.directory / "share").mkdir()
    configuration = place / "smb.conf"
    usual = USUAL.format(port=port, place=place, share=gate.directory / "share")
    configuration.write_text(usual + recipe("recipe-samba", {SOCKET: gate.socket}))
    command = [program("smbd"), "-F", "--no-process-group", "-s", configuration]
    with running(command, lambda: listens(("127.0.0.1", port)), gate.directory / "log"):
        yield port


def got(gate: Door, port: int, data: bytes) -> str:
    """Return the result of reading a file: `passes`, `denied`, or `taken` away."""
    share, out = gate.directory / "share", gate.directory / "out"
    write_tree(share, {"sub/file": data})
    out.unlink(missing_ok=True)
    command = f"get sub\\file {out}"
    output_of(
        *("smbclient", "//127.0.0.1/share", "-p", port, "-N", "-s", "/dev/null", "-c", command)
    )
    if out.exists() and out.read_bytes() == data:
        return "passes"
    return "denied" if (share / "sub/file").exists() else "taken"


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_files(gate: Door, port: int, rule: str) -> None:
    gate.open(rule)
    made = {what: got(gate, port, data) for what, data in FILES.items()}
    assert made == {
        "clean": "passes",
        **dict.fromkeys(FOUND_FILES, "denied"),
        **dict.fromkeys(WITHOUT_VERDICT, "passes" if rule == "ok" else "denied"),
        "long": "passes",  # the limit applies to streams, but Samba names a path
    }
    # Samba ignores an answer about another name.
    assert "Invalid reply" not in (gate.directory / "samba" / "smbd.log").read_text()


@pytest.mark.parametrize(
    ("rule", "made"), [("found", "denied"), ("error", "denied"), ("ok", "passes")]
)
def test_stale_lists(gate: Door, port: int, rule: str, made: str) -> None:
    gate.open(rule, stale=True)
    assert got(gate, port, FILES["clean"]) == made
    assert got(gate, port, FILES["match"]) == "denied"


def test_it_asks_about_large_files(gate: Door, port: int) -> None:
    """By default Samba would leave out files of more than 100 MB."""
    gate.open()
    large = bytes(mail_of({"a.bin": bytes(80 << 20), "b.bin": LISTED}))
    assert got(gate, port, large) == "denied"


def test_it_asks_again_about_a_file_that_was_written(gate: Door, port: int) -> None:
    """Samba caches the answer about a file for ten seconds, but must ask again after a write."""
    gate.open()
    other = write_tree(gate.directory / "other", {"listed": LISTED}) / "listed"
    write_tree(gate.directory / "share", {"sub/again": b"a benign dummy"})
    first, second = gate.directory / "first", gate.directory / "second"
    command = f"get sub\\again {first}; put {other} sub\\again; get sub\\again {second}"
    output_of(
        *("smbclient", "//127.0.0.1/share", "-p", port, "-N", "-s", "/dev/null"), "-c", command
    )
    assert (gate.directory / "share/sub/again").read_bytes() == LISTED
    assert (first.exists(), second.exists() and second.read_bytes() == LISTED) == (True, False)


def test_nobody_there(gate: Door, port: int) -> None:
    gate.close()
    assert got(gate, port, FILES["clean"]) == "denied"
