"""Matches on file systems that replace each other under one device name: no file is gone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.test_gone import LISTED, state_with_file
from tests.disks import Vault, make_image, mounted, needs_mounts

pytestmark = needs_mounts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_another_disk_under_the_name_of_the_device_has_lost_nothing(
    tmp_path: Path, kind: str
) -> None:
    """Two USB sticks, one after the other, get the name `/dev/sdb1`."""
    state = state_with_file(tmp_path)
    one, two = (make_image(tmp_path / name, kind) for name in ("one", "two"))
    place = state.tree / "stick"

    def device() -> str:
        done = subprocess.run(["findmnt", "-no", "SOURCE", place], capture_output=True, check=True)
        return done.stdout.decode().strip()

    with mounted("-o", "loop", one, place):
        (place / "a").write_bytes(LISTED)
        state.scan()
        before = device()
    with mounted("-o", "loop", two, place):
        if device() != before:
            pytest.skip("another loop device")
        assert state.scan().summary["gone"] == 0
    assert state.states()["stick/a"] == "found"
    with mounted("-o", "loop", one, place):
        (place / "a").unlink()
        assert state.scan().summary["gone"] == 1
    assert state.states()["stick/a"] == "gone"


def test_another_folder_mounted_over_it_has_lost_nothing(tmp_path: Path) -> None:
    state = state_with_file(tmp_path)
    state.scan()
    (tmp_path / "empty").mkdir()
    with mounted("--bind", tmp_path / "empty", state.tree / "sub"):
        assert state.scan().summary["gone"] == 0
    assert state.states()["sub/deep/a"] == "found"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "deep/a"])
def test_a_folder_that_is_encrypted_and_locked_has_lost_nothing(tmp_path: Path, name: str) -> None:
    """While an encrypted directory is locked, the kernel denies that its files exist."""
    state = state_with_file(tmp_path)
    disk = make_image(tmp_path / "disk", "ext4", *Vault.OPTIONS)
    with mounted("-o", "loop", disk, state.tree / "disk") as place:
        vault = Vault(place)
        for path in (vault.path / name, vault.path / "b"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(LISTED)
        state.scan()
        (vault.path / "b").unlink()
        assert state.scan().summary["gone"] == 1
        vault.lock()
        assert not (vault.path / name).exists()
        locked = state.scan()
        assert (locked.code, locked.summary["gone"]) == (11, 0)
    assert state.states()[f"disk/vault/{name}"] == "found"
    assert state.states()["disk/vault/b"] == "gone"
