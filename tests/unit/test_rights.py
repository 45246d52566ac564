"""The credentials of another user: in one thread, the kernel refuses what the user may not read."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest

from hashclient.system.rights import Rights, acting_as, can_act_as_others
from tests.kit.attacker import ATTACKER, needs_root, open_ground

OTHER = Rights(ATTACKER, ATTACKER, ())
GROUP = 54321


def may_read(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


@needs_root
def test_the_kernel_decides_by_modes_groups_and_parents() -> None:
    with open_ground() as ground:
        for name, owner, group, mode in (
            ("roots", 0, 0, 0o600),
            ("theirs", ATTACKER, 0, 0o400),
            ("of a group", 0, GROUP, 0o640),
            ("for all", 0, 0, 0o644),
        ):
            (ground / name).write_bytes(b"x")
            os.chown(ground / name, owner, group)
            (ground / name).chmod(mode)
        closed = ground / "closed"
        closed.mkdir(mode=0o700)
        (closed / "for all").write_bytes(b"x")
        (ground / "link").symlink_to(closed / "for all")
        with acting_as(OTHER):
            readable = {path.name for path in sorted(ground.iterdir()) if may_read_file(path)}
            assert readable == {"theirs", "for all"}
            with pytest.raises(PermissionError):
                (closed / "none").lstat()
        with acting_as(Rights(ATTACKER, ATTACKER, (GROUP,))):
            assert may_read(ground / "of a group")
            assert not may_read(ground / "roots")
        assert all(may_read_file(path) for path in ground.iterdir() if path != closed)


def may_read_file(path: Path) -> bool:
    try:
        return path.name != "closed" and may_read(path)
    except IsADirectoryError:
        return False


@needs_root
def test_an_access_control_list_counts() -> None:
    with open_ground() as ground:
        path = ground / "file"
        path.write_bytes(b"x")
        path.chmod(0o600)
        # The access list user::rw-, user:ATTACKER:r--, group::---, mask::r--, other::---, in the
        # binary form of linux/posix_acl_xattr.h.
        nobody = 0xFFFFFFFF
        entries = (
            (1, 6, nobody),
            (2, 4, ATTACKER),
            (4, 0, nobody),
            (16, 4, nobody),
            (32, 0, nobody),
        )
        text = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        try:
            os.setxattr(path, "system.posix_acl_access", text)
        except OSError:
            pytest.skip("this file system has no access control lists")
        with acting_as(OTHER):
            assert may_read(path)
        with acting_as(Rights(ATTACKER - 1, ATTACKER, ())):
            assert not may_read(path)


@needs_root
def test_only_one_thread_changes_and_it_changes_back() -> None:
    with open_ground() as ground:
        secret = ground / "secret"
        secret.write_bytes(b"x")
        secret.chmod(0o600)
        before = Path("/proc/thread-self/status").read_text().splitlines()[8:]
        with acting_as(OTHER) as ourselves:
            found: list[bool] = []
            # A thread that starts in this block keeps the credentials of the process.
            with ourselves():
                assert may_read(secret)
                thread = threading.Thread(target=lambda: found.append(may_read(secret)))
                thread.start()
            thread.join()
            assert found == [True]
            assert not may_read(secret)
        after = Path("/proc/thread-self/status").read_text().splitlines()[8:]
        ids = ("Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "CapInh:")
        assert [s for s in after if s.startswith(ids)] == [s for s in before if s.startswith(ids)]


@needs_root
def test_root_can_act_as_others_and_an_error_changes_nothing() -> None:
    assert can_act_as_others()
    with pytest.raises(ZeroDivisionError), acting_as(OTHER):
        raise ZeroDivisionError
    assert os.access("/root", os.R_OK, effective_ids=True)
    with pytest.raises(OSError, match="cannot take the id"), acting_as(Rights(2**32 - 1, 0, ())):
        pass
    assert Path("/proc/thread-self/status").read_text().count("\nUid:\t0\t0\t0\t0\n") == 1
