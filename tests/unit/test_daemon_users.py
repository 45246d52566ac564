"""The users of a daemon: who is at the other end of a socket, and how much each user may use."""

from __future__ import annotations

import array
import errno
import os
import socket
from typing import Any

import pytest

from hashclient.daemon.users import HandedOver, Peer, Share, peer_of
from hashclient.system.rights import Rights


def peer(uid: int) -> Peer:
    return Peer(f"serve:s,uid={uid}", f"uid={uid}", True, Rights(uid, uid, ()))


ROOT, OURS, EVE, ADA = peer(0), peer(os.geteuid()), peer(70001), peer(70002)


def test_a_local_client_is_named_by_its_user() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = peer_of("unix:/s", theirs)
    uid = os.geteuid()
    assert (found.door, found.user) == (f"serve:unix:/s,uid={uid}", f"uid={uid}")
    assert found.is_local and found.is_trusted
    assert found.rights is not None
    assert (found.rights.uid, found.rights.gid) == (uid, os.getegid())
    assert set(found.rights.groups) == set(os.getgroups())


def test_a_client_at_a_port_is_named_by_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            found = peer_of("tcp:1", accepted)
            assert found == Peer("serve:tcp:1,from=127.0.0.1", "from=127.0.0.1", False)
            assert not found.is_trusted
        with socket.socket() as unconnected:
            assert peer_of("tcp:1", unconnected) == Peer("serve:tcp:1", "", False)


def test_a_local_client_that_has_gone_has_no_user() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    assert peer_of("unix:/s", theirs) == Peer("serve:unix:/s", "", True)


@pytest.mark.parametrize("known", [True, False])
def test_groups_of_a_local_client_are_those_of_the_kernel_if_they_are_known(known: bool) -> None:
    class Local:
        family = socket.AF_UNIX

        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            assert level == socket.SOL_SOCKET
            if option == socket.SO_PEERCRED:
                return array.array("i", [1, 2, 3]).tobytes()
            assert (option, size) == (59, 1024)
            if not known:
                raise OSError(errno.ERANGE, "too many")
            return array.array("I", [7, 70_000]).tobytes()

    sock: Any = Local()
    rights = Rights(2, 3, (7, 70_000) if known else ())
    assert peer_of("unix:/s", sock) == Peer("serve:unix:/s,uid=2", "uid=2", True, rights)


@pytest.mark.parametrize(
    ("client", "trusted"), [(ROOT, True), (OURS, True), (EVE, False), (Peer("d", "u", True), False)]
)
def test_root_and_the_user_of_the_daemon_are_trusted(client: Peer, trusted: bool) -> None:
    assert client.is_trusted is trusted


@pytest.mark.parametrize(
    ("most", "percent", "each"),
    [
        *((10, 50, 5), (10, 100, 10), (10, 0, 1), (3, 50, 1), (1, 1, 1), (1, 100, 1)),
        *((199, 1, 1), (200, 1, 2), (99, 99, 98)),
    ],
)
def test_each_user_may_take_a_part_and_one_at_least(most: int, percent: int, each: int) -> None:
    share = Share(most, percent)
    assert [share.take(EVE) for _ in range(each + 1)] == [True] * each + [False]
    assert (share.of(EVE.user), share.left) == (each, most - each)
    assert not Share(most, percent).take(EVE, each + 1)
    assert Share(most, percent).take(EVE, each)
    assert Share(most, percent).take(ROOT, most)
    assert not Share(most, percent).take(ROOT, most + 1)
    for _ in range(each):
        share.give_back(EVE)
    assert (share.of(EVE.user), share.left, share._by_user) == (0, most, {})


def test_a_refused_user_takes_nothing_and_all_together_no_more_than_there_is() -> None:
    share = Share(4, 75)
    assert share.take(EVE, 3)
    assert not share.take(ADA, 2)
    assert (share.of(ADA.user), share.left) == (0, 1)
    assert share.take(ADA, 1)
    assert share.left == 0
    assert not share.take(ROOT)
    share.give_back(EVE, 2)
    assert (share.of(EVE.user), share.left) == (1, 2)
    room = share.room_of(ADA)
    assert room.take(2) and not room.take(1)
    room.give_back(3)
    assert (share.of(ADA.user), share.left) == (0, 3)


def test_a_client_may_have_one_file_beyond_the_share_of_its_user() -> None:
    share = Share(4, 50)
    first, second = HandedOver(share, EVE), HandedOver(share, EVE)
    first.begin()
    second.begin()
    assert (share.of(EVE.user), first.is_beyond, second.is_beyond) == (2, False, False)
    first.begin()
    assert (share.of(EVE.user), first.is_beyond, second.is_beyond) == (2, True, False)
    first.end()  # the other file is unanswered and counts
    assert (share.of(EVE.user), first.is_beyond) == (2, False)
    first.end()
    assert (share.of(EVE.user), first.is_beyond) == (1, False)
    first.begin()
    assert (share.of(EVE.user), first.is_beyond) == (2, False)


def test_files_of_a_closed_connection_are_given_back_once() -> None:
    share = Share(4, 100)
    files, other = HandedOver(share, EVE), HandedOver(share, EVE)
    for _ in range(2):
        files.begin()
    other.begin()
    files.let_go()
    assert share.of(EVE.user) == 1
    files.let_go()
    files.end()  # the answers arrive after the connection has ended
    files.end()
    files.let_go()
    assert (share.of(EVE.user), share.left) == (1, 3)
    HandedOver(share, ADA).let_go()
    assert share.left == 3
