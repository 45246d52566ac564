"""File descriptors of a daemon: connections leave enough free descriptors for its threads."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hashclient.config.settings import Config, Settings
from hashclient.daemon import checks, worker
from hashclient.daemon.checks import READERS, Checks
from hashclient.daemon.counts import Counts
from hashclient.daemon.lists import InUse
from hashclient.daemon.options import Paths
from hashclient.daemon.paths import Named, results_at
from hashclient.daemon.users import Peer
from hashclient.daemon.worker import SPARE_DESCRIPTORS, room_for_clients
from hashclient.scan.check.checker import DIRECTORIES
from hashclient.scan.check.opening_files import FILES_AHEAD, Waits
from hashclient.scan.check.reading import Reader
from hashclient.scan.sources.walk import OPEN_DEPTH
from hashclient.session import Session
from hashclient.system.rights import Rights
from tests.clamd import OPTIONS
from tests.kit import csv_of, make_state, open_files, write_tree


@pytest.mark.slow
def test_connections_leave_what_threads_have_open_that_read_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(tmp_path, {"base": csv_of({"e-1": b"listed"}, sized=False)})
    session = Session(Settings(state, state / "config.toml", None, Config()), now=now, environ={})
    lists = InUse(session.open_lists(), session)
    deep = "/".join("d" * (OPEN_DEPTH + 8))
    names = {f"{deep}/{d:02d}/{f}": b"x" for d in range(DIRECTORIES) for f in range(FILES_AHEAD)}
    tree = write_tree(tmp_path / "t", names)
    read, most, before = Reader.read, 0, open_files()

    def watched(reader: Reader, *args: Any) -> Any:
        nonlocal most
        most = max(most, open_files() - before)
        return read(reader, *args)

    monkeypatch.setattr(Reader, "read", watched)
    monkeypatch.setattr(Waits, "often", property(lambda _: True, lambda *_: None), raising=False)
    with contextlib.closing(Named(str(tree))) as named:
        assert [r for r in results_at(lists, named) if r.outcomes] == []
    assert most > FILES_AHEAD
    assert READERS * most < SPARE_DESCRIPTORS
    assert most <= worker._PATH_DESCRIPTORS


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize("can_act", [True, False])
def test_a_daemon_without_the_power_checks_no_paths_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_act: bool
) -> None:
    """Only root may open a path with the credentials of a client."""
    state = make_state(tmp_path, {"base": csv_of({"e-1": b"listed"})})
    session = Session(Settings(state, state / "config.toml", None, Config()), now=now, environ={})
    monkeypatch.setattr(checks, "can_act_as_others", lambda: can_act)
    own, other = (Rights(uid, uid, ()) for uid in (os.geteuid(), 70_000))
    options = [OPTIONS, replace(OPTIONS, paths=Paths.ANY)]
    careful, open_to_all = (Checks(session, o, Counts(1).row(0), [], 1, 1) for o in options)
    peers = [Peer("", "", rights is not None, rights) for rights in (own, other, None)]
    assert [open_to_all.rights_for(peer, "/") for peer in peers] == [None] * 3
    assert careful.rights_for(peers[0], "/") is None
    for peer in peers[1:]:
        if can_act and peer.rights is not None:
            assert careful.rights_for(peer, "/") == other
        else:
            with pytest.raises(PermissionError):
                careful.rights_for(peer, "/")
    for one in (careful, open_to_all):
        one.end()


@pytest.mark.parametrize(
    ("descriptors", "clients"),
    [
        (1, 1),
        (1024, 256),
        (SPARE_DESCRIPTORS, SPARE_DESCRIPTORS // 4),
        (10 * SPARE_DESCRIPTORS, 9 * SPARE_DESCRIPTORS),
    ],
)
def test_few_descriptors_are_shared_by_clients_and_threads(descriptors: int, clients: int) -> None:
    assert room_for_clients(descriptors) == clients
