"""A socket path for a gateway program, and daemons that answer there in turn.

The program is started once and connects to one path. The path is a link to the socket of the daemon
that the test wants: a daemon with fresh or stale lists, under each rule for inputs without a
verdict. A test may also have no daemon.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.clamd import serving
from tests.gateways.objects import CONFIGURATION, ENTRIES, OPTIONS
from tests.kit import csv_of, edit_manifest, make_state

NAME = "Hashclient.base.e-1"
NO_VERDICT = "Heuristics.Limits.Exceeded.Hashclient."


class Door:
    """A socket path `socket` for programs, in a `directory` that every user may enter."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.socket = directory / "clamd.sock"
        self._stack = stack
        self._sockets: dict[tuple[str, bool], str] = {}
        self._states: dict[bool, Path] = {}

    def open(self, rule: str = "found", *, stale: bool = False) -> None:
        """Let a daemon answer at this door that handles inputs without a verdict by `rule`."""
        key = (rule, stale)
        if key not in self._sockets:
            options = (*OPTIONS, "--jobs", 1, "--no-verdict", rule, "--socket-mode", "666")
            place = self.directory / f"{rule}{'-stale' if stale else ''}"
            daemon = self._stack.enter_context(serving(self._state(stale=stale), place, *options))
            self._sockets[key] = daemon.unix
        new = self.directory / "new"
        new.symlink_to(self._sockets[key])
        new.replace(self.socket)

    def close(self) -> None:
        """Let no daemon answer at this door."""
        self.socket.unlink(missing_ok=True)

    def _state(self, *, stale: bool) -> Path:
        if stale not in self._states:
            place = self.directory / f"site{stale:d}"
            place.mkdir()
            state = make_state(place, {"base": csv_of(ENTRIES)})
            (state / "config.toml").write_text(CONFIGURATION)
            if stale:
                edit_manifest(state, "base", expires="2020-01-01T00:00:00Z")
            self._states[stale] = state
        return self._states[stale]


@contextlib.contextmanager
def door() -> Iterator[Door]:
    """Yield a door; at the end, all its daemons are stopped, and its directory is removed."""
    # Socket paths must be short, and pytest's own directories are closed to other users.
    directory = Path(tempfile.mkdtemp(prefix="hashclient-"))
    try:
        directory.chmod(0o755)
        with contextlib.ExitStack() as stack:
            yield Door(directory, stack)
    finally:
        if os.geteuid() == 0:  # other users have written into the directory of the door
            subprocess.run(["rm", "-rf", directory], check=True)
        shutil.rmtree(directory, ignore_errors=True)
