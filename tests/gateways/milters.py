"""clamav-milter, set up by its recipe, for a simple client and for a mail server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.gateways.door import Door
from tests.gateways.milter import asked
from tests.gateways.objects import MAILS
from tests.gateways.programs import SOCKET, listens, program, recipe, running

USUAL = """
Foreground yes
MilterSocket {place}/milter
MilterSocketMode 666
TemporaryDirectory {place}
LogFile {place}/milter.log
"""


@contextlib.contextmanager
def clamav_milter(gate: Door) -> Iterator[str]:
    """Run clamav-milter, and yield the path of its socket."""
    place = gate.directory / "milter"
    place.mkdir()
    gate.open()
    configuration = place / "clamav-milter.conf"
    usual = USUAL.format(place=place)
    configuration.write_text(usual + recipe("recipe-clamav-milter", {SOCKET: gate.socket}))
    command = [program("clamav-milter"), "-c", configuration]
    path = str(place / "milter")

    def is_ready() -> bool:
        # The milter listens before it has connected to the daemon, so a mail is tried, too.
        return listens(path) and asked(path, MAILS["clean"]) == "taken"

    with running(command, is_ready, gate.directory / "milter.log"):
        yield path
