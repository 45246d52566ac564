"""What a client remembers of the files of a batch, and which records it sends to the worker."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hashclient.core.errors import StateError
from hashclient.scan.cache import cache
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.cache.records import PLAIN, RECORD, records_of
from hashclient.scan.cluster import known as module
from hashclient.scan.cluster.known import Received, Remembered, as_before, is_beside
from hashclient.scan.cluster.messages import Known, names_elsewhere
from hashclient.scan.executors.wire import Names, group_of
from hashclient.scan.values.work import Container, Group
from hashclient.system.identity import boot_id
from hashclient.system.layout import INVENTORY_NAME
from tests.unit.test_cache import KEY, MD5, SHA256, set_day, status

DISK, SHARE = 7, 8
#: The mask of a record without tags. The client does not send such a record.
EMPTY = 0


def asked(file_system: int, *inodes: int) -> Names:
    """Return a group of files in the form in which a worker lists it."""
    names = list(map(str, inodes))
    group = Group("/d", names, follow=False, inodes=array("Q", inodes))
    return names_elsewhere(group, file_system)


def records(*masks: tuple[int, int], size: int = 10) -> bytes:
    """Return records of inodes, each with its mask."""
    made = records_of([status(inode, size=size) for inode, _ in masks])
    made["mask"] = [mask for _, mask in masks]
    return made.tobytes()


def container(file_system: int, inode: int, members: int = 1) -> Container:
    return file_system, records((inode, EMPTY)), np.ones(members, MEMBER).tobytes()


def inodes_of(found: Known) -> list[int]:
    inodes: list[int] = np.frombuffer(found.records, RECORD)["ino"].tolist()
    return inodes


def holders_of(found: Known) -> list[int]:
    return [int(np.frombuffer(record, RECORD)["ino"][0]) for record, _ in found.containers]


@pytest.fixture
def place(tmp_path: Path) -> InventoryPlace:
    return InventoryPlace(tmp_path, KEY)


def keep(
    place: InventoryPlace, batches: Sequence[tuple[int, bytes]], *containers: Container
) -> None:
    with contextlib.closing(place.writer()) as writer:
        writer.store(batches, containers=containers)


@contextlib.contextmanager
def remembering(place: InventoryPlace | None, *, opens: bool = True) -> Iterator[Remembered]:
    made = Remembered(place, opens=opens)
    with contextlib.closing(made):
        made.begin()
        yield made


def test_a_client_is_beside_the_workers_of_its_own_start_alone() -> None:
    assert is_beside(boot_id())
    assert not is_beside(b"") and not is_beside(boot_id() + b"x")


@pytest.mark.parametrize("damage", ["", "none", "missing", "another key", "no database"])
def test_records_are_sent_if_an_inventory_is_there(
    place: InventoryPlace, tmp_path: Path, damage: str
) -> None:
    """A missing inventory stops no scan: the process that writes the inventory makes a new one."""
    if damage != "missing":
        keep(place, [(DISK, records((1, MD5)))])
    if damage == "no database":
        (tmp_path / INVENTORY_NAME).write_bytes(b"x" * 999)
    other = InventoryPlace(tmp_path, "f" * 16) if damage == "another key" else place
    remembered = Remembered(None if damage == "none" else other, opens=True)
    assert remembered.begin() is (not damage)
    assert [inodes_of(one) for one in remembered.of([asked(DISK, 1)])] == ([] if damage else [[1]])
    remembered.close()
    assert remembered.of([asked(DISK, 1)]) == ()
    assert remembered.seen() == []


def test_each_file_system_has_the_records_of_its_files_in_their_order(
    place: InventoryPlace,
) -> None:
    """Records are looked up only for files on file systems that have a number."""
    keep(
        place,
        [(DISK, records((1, MD5), (2, SHA256), (2**40, MD5))), (SHARE, records((1, MD5)))],
    )
    with remembering(place) as remembered:
        found = remembered.of(
            [asked(DISK, 2**40, 3), asked(0, 1), asked(SHARE, 1, 2), asked(DISK, 1), asked(9, 1)]
        )
        assert [(one.file_system, inodes_of(one)) for one in found] == [
            (DISK, [1, 2**40]),
            (SHARE, [1]),
        ]
        assert remembered.of([]) == remembered.of([asked(0, 1)]) == ()


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("mask", [EMPTY, MD5, SHA256, MD5 | SHA256, PLAIN, PLAIN | MD5])
def test_members_are_sent_of_files_that_may_be_containers(
    place: InventoryPlace, mask: int, opens: bool
) -> None:
    """If the record says that a file is no container, old records of its members are not sent."""
    keep(place, [(DISK, records((1, mask)))], container(DISK, 1, 3), container(SHARE, 1))
    with remembering(place, opens=opens) as remembered:
        found = remembered.of([asked(DISK, 1, 5)])
    is_sent = opens and not mask & PLAIN
    assert [one.file_system for one in found] == [DISK] * (is_sent or mask != EMPTY)
    for one in found:
        assert inodes_of(one) == ([1] if mask else [])
        assert one.containers == ([container(DISK, 1, 3)[1:]] if is_sent else [])


@pytest.mark.parametrize(
    ("room", "sent"), [(0, []), (1, [1]), (2, [1]), (3, [1, 2]), (5, [1, 2]), (6, [1, 2, 3])]
)
def test_members_are_sent_while_there_is_room_for_all_file_systems_together(
    place: InventoryPlace, monkeypatch: pytest.MonkeyPatch, room: int, sent: list[int]
) -> None:
    assert module.MOST_MEMBER_BYTES == 8 << 20
    monkeypatch.setattr(module, "MOST_MEMBER_BYTES", room * MEMBER.itemsize)
    keep(place, [], container(DISK, 1, 1), container(DISK, 2, 2), container(SHARE, 3, 3))
    with remembering(place) as remembered:
        found = remembered.of([asked(DISK, 1, 2), asked(SHARE, 3)])
        again = remembered.of([asked(DISK, 1, 2), asked(SHARE, 3)])
    assert [inode for one in found for inode in holders_of(one)] == sent
    assert found == again  # the limit of records applies to each batch, not to the run


def test_rows_in_use_are_named_once(place: InventoryPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    set_day(monkeypatch, 100)
    keep(place, [(DISK, records((1, MD5), (300, MD5))), (SHARE, records((1, MD5)))])
    set_day(monkeypatch, 101)
    with remembering(place) as remembered:
        remembered.of([asked(DISK, 1)])
        remembered.of([asked(DISK, 300), asked(SHARE, 1)])
        assert sorted(remembered.seen()) == [(DISK, 0), (DISK, 1), (SHARE, 0)]
        assert remembered.seen() == []


def test_an_inventory_that_is_damaged_meanwhile_is_not_asked_again(
    place: InventoryPlace,
) -> None:
    keep(place, [(DISK, records((1, MD5)))])
    with remembering(place) as remembered:
        calls: list[object] = []

        def fail(*given: object) -> None:
            calls.append(given)
            raise StateError("damaged")

        remembered._inventory.containers_at = fail  # type: ignore[method-assign, union-attr]
        assert remembered.of([asked(DISK, 1)]) == ()
        assert remembered.of([asked(DISK, 1)]) == ()
        assert len(calls) == 1


def test_a_worker_knows_the_records_of_the_last_batch_alone() -> None:
    received = Received(14)
    inodes = np.array([1, 2], np.uint64)
    known, old = received.at(DISK, inodes)
    assert (known["mask"].tolist(), old) == ([0, 0], [])
    assert list(received.inside_at(DISK, [status(1)])) == []
    received.take(
        [Known(DISK, records((1, MD5)), [container(DISK, 2, 3)[1:]]), Known(SHARE, b"", [])]
    )
    known, old = received.at(DISK, inodes)
    assert (known["ino"].tolist(), known["mask"].tolist(), old) == ([1, 1], [MD5, MD5], [])
    ((place, members, believed),) = received.inside_at(DISK, [status(1), status(2)])
    assert (place, len(members), believed) == (1, 3, False)
    for other in (SHARE, 9):
        assert received.at(other, inodes)[0]["mask"].tolist() == [0, 0]
        assert list(received.inside_at(other, [status(2)])) == []
    received.take([])
    assert received.at(DISK, inodes)[0]["mask"].tolist() == [0, 0]


@pytest.mark.parametrize(("days", "is_known"), [(1, False), (14, True)])
def test_members_that_are_believed_are_due_as_the_client_says(
    monkeypatch: pytest.MonkeyPatch, days: int, is_known: bool
) -> None:
    monkeypatch.setattr(cache, "time", SimpleNamespace(time=lambda: 21 * cache.DAY_S))
    record = np.frombuffer(records((14, EMPTY)), RECORD).copy()
    record["read_day"] = 20
    received = Received(days)
    received.take([Known(DISK, b"", [(record.tobytes(), np.ones(1, MEMBER).tobytes())])])
    found = list(received.inside_at(DISK, [status(14)]))
    assert [(place, believed) for place, _, believed in found] == [(0, True)] * is_known


def group(directory: str, *names: str, follow: bool = False) -> Group:
    inodes = array("Q", range(1, len(names) + 1))
    return Group(directory, list(names), follow=follow, inodes=inodes)


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ([], []),
        ([("/d", "b")], [("/d", ["b"], [2])]),
        ([("/d", "c", "a")], [("/d", ["a", "c"], [1, 3])]),
        ([("/d", "a"), ("/d", "c")], [("/d", ["a", "c"], [1, 3])]),
        ([("/e", "x")], [("/e", ["x"], [1])]),
        # A worker hands back a name that was not sent, because the file was renamed.
        ([("/d", "b", "new")], [("/d", ["b"], [2]), ("/d", ["new"], [])]),
        ([("/d", "new"), ("/d", "new")], [("/d", ["new"], []), ("/d", ["new"], [])]),
        ([("/d", "a", "a")], [("/d", ["a"], [1]), ("/d", ["a"], [])]),
    ],
)
def test_files_that_are_left_have_the_form_that_they_had(
    left: list[tuple[str, ...]], found: list[tuple[str, list[str], list[int]]]
) -> None:
    batch = [
        names_elsewhere(group("/d", "a", "b", "c"), DISK),
        names_elsewhere(group("/e", "x", "y"), DISK),
    ]
    rest = [Group(one, list(names), follow=False) for one, *names in left]
    back = [
        (each.directory, each.names, list(each.inodes))
        for each in map(group_of, as_before(rest, batch))
    ]
    flat = [(one, name) for one, names, _ in found for name in names]
    assert sorted((one, name) for one, names, _ in back for name in names) == sorted(flat)
    assert back[: len([1 for _, _, inodes in found if inodes])] == [f for f in found if f[2]]


def test_a_file_behind_a_link_is_another_one_than_the_link() -> None:
    batch = [names_elsewhere(group("/d", "a", follow=follow), DISK) for follow in (False, True)]
    (back,) = as_before([Group("/d", ["a"], follow=True)], batch)
    assert back == batch[1]
    raw = [names_elsewhere(group("/\udcff", "\udcfe", "b"), DISK)]
    (back,) = as_before([Group("/\udcff", ["\udcfe"], follow=False)], raw)
    assert (back.names, back.directory) == (os.fsencode("\udcfe"), b"/\xff")
