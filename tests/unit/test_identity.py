"""How file systems are named, by facts from the kernel about disks, mounts and networks.

Tests with real file systems are in `tests/faults/test_proofs.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from hashclient.system import filesystems, identity
from hashclient.system.filesystems import Mount
from hashclient.system.identity import Facts, Identities, Identity

NFS, GFS2, EXT4 = 0x6969, 0x01161970, 0xEF53
HERE = Mount("/srv", b"/", "ext4", b"/dev/sda1")
PCI = "devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda"
USB = "devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/block/sdb"


class Machine:
    """Stands for a tree like /sys with some disks."""

    def __init__(self, directory: Path) -> None:
        self.sys = directory / "sys"

    def disk(self, path: str, *, removable: str = "0", slaves: tuple[Path, ...] = ()) -> Path:
        disk = self.sys / path
        (disk / "slaves").mkdir(parents=True)
        (disk / "removable").write_text(f"{removable}\n")
        for slave in slaves:
            (disk / "slaves" / slave.name).symlink_to(slave)
        return disk

    def partition(self, disk: Path) -> Path:
        path = disk / f"{disk.name}1"
        path.mkdir()
        (path / "partition").write_text("1\n")
        return path

    def mapped(self, number: int, name: str, *slaves: Path) -> Path:
        disk = self.disk(f"devices/virtual/block/dm-{number}", slaves=slaves)
        (disk / "dm").mkdir()
        (disk / "dm/uuid").write_text(f"{name}\n")
        return disk


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Told(Facts):
    """Stands for the kernel: the test sets the mount of each file."""

    def __init__(self, directory: Path) -> None:
        self.utab = directory / "utab"
        self.kind, self.boot = EXT4, b"one"
        self.mount: Mount | None = HERE
        self.numbers: list[int | None] = [5]
        self.asked = 0

    def kind_of(self, fd: int) -> int:
        return self.kind

    def mount_of(self, fd: int) -> Mount | None:
        self.asked += 1
        return self.mount

    def unique_mount(self, fd: int) -> int | None:
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]

    def boot_id(self) -> bytes:
        return self.boot

    def identity(self, kind: int, mount: Mount | None) -> Identity | None:
        """Return the identity of a file system of this type and mount, for a new process."""
        self.kind, self.mount = kind, mount
        return self.known_to(Identities(self))

    def known_to(self, identities: Identities) -> Identity | None:
        fd = os.open("/", os.O_RDONLY)
        try:
            return identities.of(fd, os.makedev(0, 77))
        finally:
            os.close(fd)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_a_uuid_counts_on_disks_that_are_built_in(machine: Machine) -> None:
    name = identity._disk_name
    disk = machine.disk(PCI)
    partition = machine.partition(disk)
    assert name(disk) == name(partition) == b""
    usb = machine.partition(machine.disk(USB))
    for loose in (
        usb,
        machine.disk("devices/virtual/block/loop0"),
        machine.disk("devices/virtual/block/zram0"),
        machine.disk("devices/platform/soc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0"),
        machine.disk("devices/pci0000:00/0000:00:1f.5/ata2/block/sr0", removable="1"),
        machine.mapped(1, "CRYPT-of-a-stick", usb),
        machine.mapped(2, "LVM-over-two", partition, usb),
    ):
        assert name(loose) is None
    # A PCI bridge leads to this disk, which can be pulled out while the machine runs.
    nvme = machine.disk("devices/pci0000:00/0000:00:07.0/0000:05:00.0/nvme/nvme0/nvme0n1")
    assert name(nvme) == b""
    (machine.sys / "devices/pci0000:00/0000:00:07.0/0000:05:00.0/removable").write_text("removable")
    assert name(nvme) is None
    with pytest.raises(OSError, match="No such file"):
        name(machine.sys / "dev/block/8:1")


def test_a_volume_and_its_snapshot_have_names_of_their_own(machine: Machine) -> None:
    """A volume and its snapshot have the same UUID, and their files the same inodes and times."""
    disk = machine.disk(PCI)
    crypt = machine.mapped(0, "CRYPT-LUKS2-1", disk)
    names = [identity._disk_name(machine.mapped(n, f"LVM-volume-{n}", crypt)) for n in (1, 2)]
    assert names == [b"LVM-volume-1 CRYPT-LUKS2-1", b"LVM-volume-2 CRYPT-LUKS2-1"]
    # `dmsetup` can make a volume without a name, which could be any volume.
    assert identity._disk_name(machine.mapped(3, "", disk)) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (rb"SRC=/dev/sda1 TARGET=/mnt/a\040b ROOT=/ OPTS=uhelper=udisks2", True),
        (rb"SRC=/dev/sda1 TARGET=/mnt ROOT=/ OPTS=noauto,user=joe", True),
        (rb"ID=1 SRC=/dev/other TARGET=/mnt/a\040b ROOT=/ ATTRS=users", True),
        (rb"SRC=/dev/sda1 TARGET=/mnt/a\040b ROOT=/ OPTS=_netdev,usrquota", False),
        (rb"SRC=/dev/other TARGET=/mnt/other ROOT=/ OPTS=user=joe", False),
        (b"", False),
        (b"\xff=\n=,=", False),
    ],
)
def test_a_mount_made_by_a_user_is_recognised(told: Told, line: bytes, expected: bool) -> None:
    told.utab.write_bytes(b"SRC=x TARGET=/y OPTS=users\n" + line + b"\n")
    mount = Mount("/mnt/a b", b"/", "ext4", b"/dev/sda1")
    assert (told.identity(EXT4, mount) is None) is expected


def test_a_share_is_known_by_what_was_mounted(told: Told) -> None:
    mounts = [
        Mount("/srv", b"/", "nfs4", b"host:/export"),
        Mount("/srv", b"/sub", "nfs4", b"host:/export"),
        Mount("/srv", b"/", "nfs", b"host:/export"),
        Mount("/srv", b"/", "nfs4", b"other:/export"),
    ]
    found = [told.identity(NFS, mount) for mount in mounts]
    assert len(set(found)) == 4
    # The identity does not depend on the mount point and the number of the mount.
    told.numbers = [None]
    assert told.identity(NFS, msgspec.structs.replace(mounts[0], point="/elsewhere")) == found[0]
    first = found[0]
    assert first is not None
    assert (first.proves, first.is_local) == (False, False)
    # A file system without a known mount has no identity.
    assert told.identity(NFS, None) is None


def test_leases_do_not_see_writers_on_other_machines(told: Told) -> None:
    found = told.identity(GFS2, Mount("/srv", b"/", "gfs2", b"/dev/sda1"))
    assert found is not None and not found.proves and not found.is_local


def test_a_mount_is_another_one_after_each_start(told: Told) -> None:
    numbers = []
    for told.boot, number in ((b"one", 5), (b"one", 6), (b"two", 5)):
        told.numbers = [number]
        found = told.identity(EXT4, HERE)
        assert found is not None
        numbers.append(found.number)
    assert len(set(numbers)) == 3
    told.boot = b""
    assert told.identity(EXT4, HERE) is None


def test_file_systems_that_a_user_has_mounted_have_no_cache(told: Told) -> None:
    """A file system also has no cache if the kernel does not say who mounted it."""
    assert told.identity(EXT4, HERE) is not None
    told.utab.write_text("SRC=/dev/sda1 TARGET=/srv ROOT=/ OPTS=uhelper=udisks2\n")
    assert told.identity(EXT4, HERE) is None
    told.utab.unlink()
    assert told.identity(EXT4, None) is None


def test_a_file_system_is_looked_at_once_a_mount(told: Told) -> None:
    """If mounts have no unique numbers, the file system is examined for each file."""
    told.numbers, identities = [5, 5, 6, None, None], Identities(told)
    asked = []
    for _ in range(5):
        told.known_to(identities)
        asked.append(told.asked)
    assert asked == [1, 1, 2, 3, 4]


def test_the_mount_of_a_file_is_found() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    mount = filesystems.mount_of(fd)
    os.close(fd)
    assert mount is not None and (mount.point, mount.kind) == ("/proc", "proc")
    assert filesystems.mount_of(fd) is None
