"""c-icap, set up by its recipe, for a simple client and for a proxy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.docs.blocks import free_port
from tests.gateways.door import Door
from tests.gateways.programs import SOCKET, listens, program, recipe, running

USUAL = """
PidFile {place}/pid
CommandsSocket {place}/ctl
Port 127.0.0.1:{port}
StartServers 1
MaxServers 1
ThreadsPerChild 5
TmpDir {place}
DebugLevel 3
ServerName localhost
ServerAdmin root@localhost
TemplateDir /usr/share/c_icap/templates/
LoadMagicFile /etc/c-icap/c-icap.magic
ServerLog {place}/server.log
AccessLog {place}/access.log
"""


@contextlib.contextmanager
def icap(gate: Door, place: Path) -> Iterator[int]:
    """Run c-icap in a new directory, and yield its port."""
    place.mkdir()
    port = free_port()
    configuration = place / "c-icap.conf"
    usual = USUAL.format(port=port, place=place)
    configuration.write_text(usual + recipe("recipe-c-icap", {SOCKET: gate.socket}))
    command = [program("c-icap"), "-N", "-f", configuration]
    with running(command, lambda: listens(("127.0.0.1", port)), gate.directory / "log"):
        yield port
