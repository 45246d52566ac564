"""What every command does before all else: see whether the state is one that it can work on."""

from __future__ import annotations

from hashclient.migrations.version import CURRENT, READABLE, read_version, refuse_newer
from hashclient.system.layout import Layout


def check_state(layout: Layout) -> int:
    """Make sure that this hashclient can work on a state directory, which need not exist.

    Return its version.

    State that it could not read as it is, it brings forward.

    Raises:
        StateError: it is newer, and needs another hashclient; or it cannot be brought forward.
        LockedError: it is being written to, and has to be brought forward first.
    """
    version = read_version(layout)
    refuse_newer(layout, version, CURRENT)
    if version.migrating or (version.number < READABLE and layout.root.is_dir()):
        from hashclient.migrations.migrate import writing

        with writing(layout):
            pass
        return CURRENT
    return version.number
