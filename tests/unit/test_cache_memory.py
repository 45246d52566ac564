"""The cache within a scan: when records are written, and what follows if the cache fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hashclient.core.errors import StateError
from hashclient.scan.cache import memory as module
from hashclient.scan.cache.cache import DamagedInventoryError, Inventory
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.memory import InventoryPlace, Memory, remove_inventory
from hashclient.scan.cache.records import RECORD, records_of
from hashclient.scan.values.work import Block, Container, Result
from hashclient.system.layout import INVENTORY_NAME
from tests.unit.test_cache import KEY, find, known, masks, status


class Place(InventoryPlace):
    """The place of an inventory; it notes the calls, and raises the errors in `failures`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, KEY)
        self.done: list[str] = []
        self.stored: list[tuple[int, list[Block], int]] = []
        #: The errors that opening for writing raises, in this order.
        self.failures: list[StateError] = []

    def writer(self) -> Inventory:
        self.done.append("open")
        if self.failures:
            raise self.failures.pop(0)
        opened, place = super().writer(), self

        class Noting(Inventory):
            """An inventory that notes how many records each call stores."""

            def store(
                self,
                batches: Sequence[tuple[int, bytes]],
                seen: Sequence[Block] = (),
                containers: Sequence[Container] = (),
            ) -> None:
                place.stored.append((len(batches), list(seen), len(containers)))
                super().store(batches, seen, containers)

        opened.__class__ = Noting
        return opened

    def remove(self) -> None:
        self.done.append("remove")
        super().remove()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def failures() -> list[StateError]:
    return []


@pytest.fixture
def memory(place: Place, failures: list[StateError]) -> Iterator[Memory]:
    with contextlib.closing(Memory(place, on_failure=failures.append)) as made:
        yield made


def container(inode: int = 9) -> Container:
    return 7, records_of([status(inode)]).tobytes(), np.zeros(1, MEMBER).tobytes()


def kept(place: Place) -> list[int]:
    """Return the masks of three files, as the next scan finds them."""
    with contextlib.closing(InventoryPlace(place._state_dir, KEY).reader() or Empty()) as opened:
        return masks(find(opened, [status(n) for n in (1, 2, 3)])[0])  # type: ignore[arg-type]


class Empty:
    """An inventory that does not exist."""

    def find(self, statuses: list[object], _: object) -> tuple[object, list[Block]]:
        return np.zeros(len(statuses), RECORD), []

    def close(self) -> None: ...


def test_without_a_place_nothing_is_remembered() -> None:
    memory = Memory()
    memory.learn(Result(learned=[(7, known(status(1)))]))
    memory.flush()
    assert (memory.learns, memory.open()) == (False, None)
    memory.close()


def test_so_much_waits_before_it_is_written() -> None:
    assert (module.LEARN_BYTES, module.LEARN_BLOCKS) == (1 << 20, 10_000)


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("what", ["records", "members", "both", "blocks"])
def test_what_was_learnt_is_written_when_enough_of_it_waits(
    memory: Memory, place: Place, monkeypatch: pytest.MonkeyPatch, what: str, more: int
) -> None:
    size = RECORD.itemsize * (what != "members") + MEMBER.itemsize * (what != "records")
    monkeypatch.setattr(module, "LEARN_BYTES", 3 * size - more if what != "blocks" else 1 << 20)
    monkeypatch.setattr(module, "LEARN_BLOCKS", 4 if more < 0 else 3)
    last = [(7, 4)] if more > 0 else []
    count = 3 if what in ("records", "both") else 0
    blocks = [(7, 1), (7, 2), (7, 3), *last] if what == "blocks" else []
    found = (count, blocks, 3 if what in ("members", "both") else 0)
    for written in ([], [found]):  # in round two, one write is done
        for n in (1, 2, 3):
            assert place.stored == written
            memory.learn(
                Result(
                    learned=[(7, known(status(n)))] if what in ("records", "both") else [],
                    containers=[container(n)] if what in ("members", "both") else [],
                    seen=[(7, n), (7, n), *last[: n // 3]] if what == "blocks" else [],
                )
            )
        assert place.stored == (written if more < 0 else [*written, found])
        memory.flush()
        memory.flush()  # after the run, nothing is left to write
        assert place.stored == [*written, found]
    memory.learn(Result())
    assert place.done == ["open"]


def test_blocks_are_written_once_and_in_their_order(memory: Memory, place: Place) -> None:
    memory.learn(Result(seen=[(8, 1), (7, 2)]))
    memory.learn(Result(seen=[(7, 2), (7, 1)]))
    memory.flush()
    assert place.stored == [(0, [(7, 1), (7, 2), (8, 1)], 0)]


def test_records_are_found_by_the_next_scan(memory: Memory, place: Place) -> None:
    memory.learn(Result(learned=[(7, known(status(1)))]))
    assert kept(place) == [0, 0, 0]
    memory.flush()
    memory.learn(Result(learned=[(7, known(status(3)))]))
    memory.flush()
    assert (kept(place), place.done) == ([1, 0, 1], ["open"])
    memory.close()
    memory.learn(Result(learned=[(7, known(status(2)))]))
    memory.flush()
    assert (kept(place), place.done) == ([1, 1, 1], ["open", "open"])


def test_a_cache_is_read_until_it_is_written(memory: Memory, place: Place, tmp_path: Path) -> None:
    """`open` returns None for a missing or damaged cache, because a later write reports it."""
    assert memory.open() is None
    memory.learn(Result(learned=[(7, known(status(1)))]))
    memory.flush()
    assert memory.open() is None
    memory.close()
    assert Memory(place, use=False).open() is None
    assert Memory(place, use=False).learns
    one, other = memory.open(), memory.open()
    assert one is not None and other is not None and one is not other
    memory.close()
    for reader in (one, other):
        with pytest.raises(StateError):
            find(reader, [status(1)])  # type: ignore[arg-type]
    (tmp_path / INVENTORY_NAME).write_bytes(b"no database " * 99)
    assert memory.open() is None


def test_a_damaged_cache_is_made_again_with_what_was_learnt(
    memory: Memory, place: Place, failures: list[StateError], tmp_path: Path
) -> None:
    memory.learn(Result(learned=[(7, known(status(1)))]))
    memory.flush()
    memory.close()
    (tmp_path / INVENTORY_NAME).write_bytes(b"no database " * 99)
    memory.learn(Result(learned=[(7, known(status(2)))], seen=[(7, 0)]))
    memory.flush()
    assert [type(one) for one in failures] == [DamagedInventoryError]
    assert place.done == ["open", "open", "remove", "open"]
    assert (kept(place), memory.learns) == ([0, 1, 0], True)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_cache_that_cannot_be_written_is_told_once_and_left(
    memory: Memory, place: Place, failures: list[StateError], is_damaged: bool
) -> None:
    """A damaged cache that cannot be replaced is reported once, too."""
    place.failures = [DamagedInventoryError("damaged")] * is_damaged + [StateError("no space")]
    for _ in range(2):
        memory.learn(Result(learned=[(7, known(status(1)))]))
        memory.flush()
    assert [one.message for one in failures] == ["damaged"] * is_damaged + ["no space"]
    assert (memory.learns, memory.open(), kept(place)) == (False, None, [0, 0, 0])


def test_removing_takes_the_journals_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_inventory(tmp_path)  # the database of the inventory does not exist
    for suffix in ("", "-wal", "-shm", "-other"):
        (tmp_path / f"{INVENTORY_NAME}{suffix}").touch()
    taken: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, *, missing_ok: bool) -> None:
        taken.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    remove_inventory(tmp_path)
    assert taken == [f"{INVENTORY_NAME}{suffix}" for suffix in ("-wal", "-shm", "")]
    assert [path.name for path in tmp_path.iterdir()] == [f"{INVENTORY_NAME}-other"]


def test_a_cache_that_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / INVENTORY_NAME / "directory").mkdir(parents=True)
    with pytest.raises(StateError, match="cannot remove"):
        InventoryPlace(tmp_path, KEY).remove()


def test_an_inventory_is_opened_for_its_key_and_its_days(tmp_path: Path) -> None:
    place = InventoryPlace(tmp_path, KEY, 3)
    assert place.reader() is None
    for open_it in (place.writer, place.reader):
        with contextlib.closing(open_it() or Empty()) as opened:
            assert isinstance(opened, Inventory) and opened._reread_days == 3
    with pytest.raises(StateError, match="another key"):
        InventoryPlace(tmp_path, "f" * 16).reader()
