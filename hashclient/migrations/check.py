"""The first step of every command: check that it can use the state."""

from __future__ import annotations

from hashclient.migrations.version import CURRENT, READABLE, read_version, refuse_foreign
from hashclient.system.layout import Layout


def check_state(layout: Layout) -> None:
    """Check that this hashclient can use a state directory, which need not exist.

    State that it cannot read as it is, is migrated.

    Raises:
        StateError: the state is newer and needs a later hashclient, or is from before the first
            release; or the migration failed.
        LockedError: another process writes to the state, which must first be migrated.
    """
    version = read_version(layout)
    refuse_foreign(layout, version, CURRENT)
    if version.migrating or (version.number < READABLE and layout.root.is_dir()):
        from hashclient.migrations.migrate import writing

        with writing(layout):
            pass
