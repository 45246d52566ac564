"""The share of each user in a daemon, and which connection is closed when all are in use."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashclient.daemon.connection import SLOW_S, Connection
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.users import Peer, Share
from hashclient.daemon.worker import SEARCH_S, SILENT_S, Connections
from hashclient.scan.check.kept import Spool
from hashclient.system.rights import Rights
from tests.clamd import OPTIONS


def peer(uid: int) -> Peer:
    return Peer(f"serve:s,uid={uid}", f"uid={uid}", True, Rights(uid, uid, ()))


ROOT, EVE, ADA, BOB = peer(0), peer(70001), peer(70002), peer(70003)


def test_one_user_has_a_part_and_root_has_the_whole() -> None:
    share = Share(10, 50)
    assert share.take(EVE, 5)
    assert not share.take(EVE)
    assert share.take(ADA, 4)
    assert not share.take(ADA, 2)
    assert share.take(ROOT)
    assert share.left == 0
    assert not share.take(ROOT)
    assert not share.take(BOB)
    share.give_back(EVE, 5)
    assert share.take(ROOT, 5)
    assert share.of(EVE.user) == 0


class Client:
    """A connection with the attributes that `places` uses."""

    def __init__(self, owner: Peer, places: Connections, now: float = 0.0) -> None:
        self.peer = owner
        self.last = now
        self.waits_for_client = True
        self.slow = False
        self.is_closed = False
        self._places = places

    def is_slow(self, _: float) -> bool:
        return self.slow

    def close(self) -> None:
        self.is_closed = True
        self._places.remove(cast(Any, self))


class House:
    """A daemon with room for ten connections, where one user may have `percent` of them."""

    def __init__(self, percent: int = 50) -> None:
        self.now = 0.0
        self.counts = Counts(1)
        self.places = Connections(Share(10, percent), self.counts.row(0), lambda: self.now)

    def enter(self, owner: Peer) -> Client | None:
        if not self.places.take(owner):
            return None
        client = Client(owner, self.places, self.now)
        self.places.add(cast(Any, client))
        return client

    def enter_many(self, owner: Peer, count: int) -> list[Client]:
        clients = [self.enter(owner) for _ in range(count)]
        assert None not in clients
        return cast(list[Client], clients)


def test_one_user_cannot_have_all_places() -> None:
    house = House()
    house.enter_many(EVE, 5)
    assert house.enter(EVE) is None
    house.enter_many(ADA, 5)


def test_users_who_have_all_places_together_make_place_for_another() -> None:
    house = House()
    first, *_ = house.enter_many(EVE, 5)
    house.enter_many(ADA, 4)
    house.enter_many(BOB, 1)
    assert house.enter(BOB)
    assert first.is_closed
    assert house.enter(ROOT)
    assert house.counts.total(Count.CROWDED) == 2
    assert house.enter(EVE) is None  # refused: no user has two connections more than EVE


def test_root_keeps_its_places() -> None:
    house = House()
    house.enter_many(ROOT, 10)
    assert house.enter(EVE) is None


@pytest.mark.parametrize("kind", ["silent", "slow"])
def test_a_client_that_is_silent_or_slow_makes_place(kind: str) -> None:
    house = House()
    clients = house.enter_many(ROOT, 10)
    clients[3].waits_for_client = False  # the daemon works on the request of this client
    if kind == "silent":
        house.now = SILENT_S + 1
        for client in clients[:3]:
            client.last = house.now
    for client in clients[3:5]:
        client.slow = kind == "slow"
    assert house.enter(EVE)
    assert [client.is_closed for client in clients].index(True) == 4
    assert house.counts.total(Count.IDLE if kind == "silent" else Count.SLOW) == 1


def test_a_user_at_the_share_only_closes_connections_of_its_own() -> None:
    house = House()
    (ada,) = house.enter_many(ADA, 1)
    first, *_ = house.enter_many(EVE, 5)
    house.now = SILENT_S + 1
    assert house.enter(EVE)
    assert (ada.is_closed, first.is_closed) == (False, True)


def test_who_asks_for_places_all_the_time_delays_no_other_user() -> None:
    house = House()
    house.enter_many(EVE, 5)
    assert house.enter(EVE) is None
    clients = house.enter_many(ADA, 5)
    assert house.enter(EVE) is None
    clients[0].slow = True
    house.now += SEARCH_S / 2
    # Refused, because the daemon has just searched for slow connections.
    assert house.enter(EVE) is None
    assert not clients[0].is_closed
    assert house.enter(BOB)
    house.now += SEARCH_S
    house.places.forget_searches()


def test_a_connection_is_silent_after_more_than_a_second() -> None:
    assert (SILENT_S, SEARCH_S) == (1.0, 0.05)
    house = House()
    clients = house.enter_many(ROOT, 10)
    house.now = SILENT_S
    assert house.enter(EVE) is None
    house.now += SEARCH_S
    assert house.enter(EVE)
    assert [client.is_closed for client in clients] == [True] + [False] * 9
    assert house.counts.total(Count.IDLE) == 1


def test_a_silent_connection_goes_before_a_slow_one_and_that_before_the_crowd() -> None:
    house = House()
    slow, silent, *others = house.enter_many(EVE, 5)
    others += house.enter_many(ADA, 5)
    house.now = SILENT_S + 1
    for client in (slow, *others):
        client.last = house.now
    slow.slow = True
    counts = (Count.IDLE, Count.SLOW, Count.CROWDED)
    for number, expected in enumerate(([1, 0, 0], [1, 1, 0], [1, 1, 1])):
        assert house.enter(peer(80_000 + number))
        assert [house.counts.total(count) for count in counts] == expected
    assert silent.is_closed and slow.is_closed


@pytest.mark.parametrize(
    ("eve", "ada", "bob", "asks", "closed"),
    [
        *((6, 4, 0, ADA, EVE), (5, 5, 0, ADA, None), (5, 4, 1, ADA, None), (5, 4, 1, BOB, EVE)),
        *((3, 3, 4, EVE, None), (2, 3, 5, EVE, BOB), (1, 9, 0, EVE, ADA), (9, 1, 0, EVE, None)),
    ],
)
def test_the_user_who_has_the_most_makes_place_for_one_who_has_less(
    eve: int, ada: int, bob: int, asks: Peer, closed: Peer | None
) -> None:
    house = House(100)
    clients = house.enter_many(EVE, eve) + house.enter_many(ADA, ada) + house.enter_many(BOB, bob)
    assert (house.enter(asks) is not None) is (closed is not None)
    assert [client.peer for client in clients if client.is_closed] == [closed] * (
        closed is not None
    )
    if closed is not None:  # the oldest silent or slow connection is closed
        assert next(c for c in clients if c.peer is closed).is_closed


def test_one_user_has_a_part_of_the_spool(tmp_path: Path) -> None:
    archive = memoryview(b"PK\3\4" + bytes(100_000))
    share = Share(300_000, 50)
    spool = Spool(tmp_path, 1 << 20)
    first, second = spool.keep(share.room_of(EVE)), spool.keep(share.room_of(EVE))
    first.update(archive)
    second.update(archive)
    assert first.finish() is not None
    assert second.finish() is None
    assert second.failure is not None
    assert "no room" in second.failure
    other = spool.keep(share.room_of(ADA))
    other.update(archive)
    assert other.finish() is not None
    first.close()
    again = spool.keep(share.room_of(EVE))
    again.update(archive)
    assert again.finish() is not None
    for kept in (second, other, again):
        kept.close()
    assert (share.of(EVE.user), share.of(ADA.user)) == (0, 0)


class Checks:
    """Takes the bytes of one connection and answers only when the test says so."""

    def __init__(self, share: Share) -> None:
        self.options = OPTIONS
        self.counts = Counts(1).row(0)
        self.buffer = memoryview(bytearray(1 << 16))
        self.open_files = share
        self.readers: dict[object, Callable[[], None]] = {}
        self.loop = SimpleNamespace(
            add_reader=self.readers.__setitem__,
            remove_reader=self.readers.pop,
            call_soon=lambda do: do(),
            call_later=lambda *_: None,
        )
        self.asked: list[Any] = []
        self.files = SimpleNamespace(add=lambda _, job: job.close())

    def upload(self, _: str, __: Connection, form: Any, fd: int) -> Any:
        self.asked.append(form)
        return SimpleNamespace(fd=fd)

    def release(self, upload: Any) -> None:
        os.close(upload.fd)


def test_a_client_hands_over_no_more_files_than_its_share(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    checks, closed = Checks(Share(4, 50)), list[Connection]()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        connection = Connection(cast(Any, checks), theirs, EVE, closed.append)
        ours.sendall(b"zIDSESSION\0")
        for _ in range(6):
            ours.sendall(b"zFILDES\0")
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            ours.sendmsg([b"\0"], [rights])
        for answered in range(6):
            for _ in range(30):
                if theirs in checks.readers:
                    connection.readable()
            # A connection gets its share of files and one more, so that it makes progress with a
            # share of zero.
            assert len(checks.asked) == min(6, answered + 3)
            connection.files.end()
            connection.answer(checks.asked[answered], ["fd: OK"])
        assert checks.open_files.of(EVE.user) == 0
        connection.close()
        assert closed == [connection]
    finally:
        os.close(fd)
        ours.close()


@pytest.mark.parametrize(("rate", "slow"), [(100, True), (2000, False)])
def test_a_stream_that_comes_too_slowly_is_known_after_some_seconds(rate: int, slow: bool) -> None:
    checks, closed = Checks(Share(4, 50)), list[Connection]()
    ours, theirs = socket.socketpair()
    connection = Connection(cast(Any, checks), theirs, EVE, closed.append)
    now = 0.0
    ours.sendall(b"zPIN")
    connection.readable()
    connection.look(now)
    while now < SLOW_S:
        assert not connection.is_slow(now)
        now += 1.0
        connection._pace.came += rate
    assert connection.is_slow(now + 0.1) is slow
    connection.last = now
    connection.look(checks.options.command_s)
    assert not closed
    connection.look(checks.options.command_s + 0.1)
    assert closed == [connection]
    ours.close()
