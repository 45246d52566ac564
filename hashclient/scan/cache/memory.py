"""What a scan does with the inventory: how a scan opens it, reads it and adds records to it.

Each process that checks files opens the inventory and reads it. Only the process that distributes
work writes to the inventory. The inventory may be removed at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hashclient.core.errors import StateError
from hashclient.scan.cache.cache import REREAD_DAYS, DamagedInventoryError, Inventory
from hashclient.scan.cache.interface import Cache, CachePlace
from hashclient.scan.values.work import Block, Container, Result
from hashclient.system.files import is_there, state_error
from hashclient.system.layout import Layout

#: New records wait in memory until they have `LEARN_BYTES` bytes, or until `LEARN_BLOCKS` blocks
#: were seen; afterwards the records are written to the cache.
LEARN_BYTES = 1 << 20
LEARN_BLOCKS = 10_000


class Memory:
    """The memory of one scan; without a place for a cache, the memory stores no records.

    A failure of the cache is reported once and never stops a scan.
    """

    def __init__(
        self,
        place: CachePlace | None = None,
        *,
        use: bool = True,
        on_failure: Callable[[StateError], None] = lambda _: None,
    ) -> None:
        """Use the cache at `place`; if `use` is false, files that have records are read again."""
        self._place = place
        self._use = use
        self._on_failure = on_failure
        self._readers: list[Cache] = []
        self._writer: Cache | None = None
        self._learned: list[tuple[int, bytes]] = []
        self._seen: set[Block] = set()
        self._containers: list[Container] = []
        self._waiting_bytes = 0

    @property
    def learns(self) -> bool:
        """Whether results of tasks must contain new records of files."""
        return self._place is not None

    def open(self) -> Cache | None:
        """Open the cache in the process that reads it; return None if the cache does not exist."""
        if self._place is None or not self._use:
            return None
        if self._writer is not None:
            # At this point only moved files are still checked. The few moved files are read again
            # without their records.
            return None
        try:
            reader = self._place.reader()
        except StateError:
            return None  # the writer will make a new inventory, or report why it cannot
        if reader is not None:
            self._readers.append(reader)
        return reader

    def learn(self, result: Result) -> None:
        """Note the records of a result of a task; called in the process that distributes work."""
        if self._place is None:
            return
        self._learned += result.learned
        self._seen.update(result.seen)
        self._waiting_bytes += sum(len(raw) for _, raw in result.learned)
        self._containers += result.containers
        self._waiting_bytes += sum(len(members) for _, _, members in result.containers)
        if self._waiting_bytes >= LEARN_BYTES or len(self._seen) >= LEARN_BLOCKS:
            self.flush()

    def flush(self) -> None:
        """Write the new records to the cache."""
        if self._place is None or not (self._learned or self._seen or self._containers):
            return
        try:
            try:
                self._write(self._place)
            except DamagedInventoryError as error:
                self._on_failure(error)
                self.close()
                self._place.remove()
                self._write(self._place)
        except StateError as error:
            self._place = None
            self._on_failure(error)
        self._learned, self._seen, self._containers, self._waiting_bytes = [], set(), [], 0

    def _write(self, place: CachePlace) -> None:
        if self._writer is None:
            # The writer is opened late, because workers must not inherit a database connection by a
            # fork.
            self._writer = place.writer()
        self._writer.store(self._learned, sorted(self._seen), self._containers)

    def close(self) -> None:
        """Close all readers and the writer; the memory may be used again afterwards."""
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class InventoryPlace:
    """The inventory of one state directory, whose tags are made with one key."""

    def __init__(self, state_dir: Path, key_id: str, reread_days: int = REREAD_DAYS) -> None:
        """Keep the arguments; believed records are due after `reread_days`."""
        self._state_dir = state_dir
        self._key_id = key_id
        self._reread_days = reread_days

    def reader(self) -> Inventory | None:
        """Open the inventory for reading; return None if the inventory does not exist."""
        if not is_there(Layout(self._state_dir).inventory):
            return None
        return Inventory(self._state_dir, self._key_id, reread_days=self._reread_days)

    def writer(self) -> Inventory:
        """Open the inventory for writing; make the inventory if it does not exist."""
        return Inventory(self._state_dir, self._key_id, write=True, reread_days=self._reread_days)

    def remove(self) -> None:
        """Remove the inventory."""
        remove_inventory(self._state_dir)


def remove_inventory(state_dir: Path) -> None:
    """Remove the inventory.

    Raises:
        StateError: the inventory cannot be removed.
    """
    # The database file is removed last, because SQLite must not apply a remaining journal to
    # another database.
    inventory = Layout(state_dir).inventory
    for suffix in ("-wal", "-shm", ""):
        path = inventory.with_name(inventory.name + suffix)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise state_error("cannot remove", path, error) from error
