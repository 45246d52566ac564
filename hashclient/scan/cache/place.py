"""Where the inventory is: each process that asks it opens it, and it may be removed at any time."""

from __future__ import annotations

from pathlib import Path

from hashclient.scan.cache.cache import REREAD_DAYS, Inventory
from hashclient.system.files import is_there, state_error
from hashclient.system.layout import Layout


class InventoryPlace:
    """The inventory of one state directory, whose tags are made under one key."""

    def __init__(self, state_dir: Path, key_id: str, reread_days: int = REREAD_DAYS) -> None:
        """Nothing is opened yet; believed records are due after `reread_days`."""
        self._state_dir = state_dir
        self._key_id = key_id
        self._reread_days = reread_days

    def reader(self) -> Inventory | None:
        """Open it for reading; None if there is none."""
        if not is_there(Layout(self._state_dir).inventory):
            return None
        return Inventory(self._state_dir, self._key_id, reread_days=self._reread_days)

    def writer(self) -> Inventory:
        """Open it for writing, or make it."""
        return Inventory(self._state_dir, self._key_id, write=True, reread_days=self._reread_days)

    def remove(self) -> None:
        """Remove it."""
        remove_inventory(self._state_dir)


def remove_inventory(state_dir: Path) -> None:
    """Remove the inventory.

    Raises:
        StateError: it cannot be removed.
    """
    # The file itself last: a journal that is left must not be applied to another database.
    inventory = Layout(state_dir).inventory
    for suffix in ("-wal", "-shm", ""):
        path = inventory.with_name(inventory.name + suffix)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise state_error("cannot remove", path, error) from error
