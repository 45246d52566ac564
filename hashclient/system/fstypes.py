"""The types of file systems, by their number in statfs(2), with the traits of each.

The numbers are from linux/magic.h, and from the file systems' own headers where they are not part
of Linux. A type that is not in the table has no trait, so nothing about it is relied on.
"""

from __future__ import annotations

EXT, BTRFS, XFS = 0xEF53, 0x9123683E, 0x58465342
FUSE, NINE_P = 0x65735546, 0x01021997

#: Sizes can be relied on even without a block device below.
SIZES = 1
#: Each change of a file sets its ctime, in the kernel or at a server. Not so on bcachefs: its
#: snapshots share the numbers of device and inode.
CTIME = 2
#: This kernel makes each change itself, so it can report changes.
TELLS = 4
#: Other machines can change files without asking this kernel: through a server, or on a shared
#: disk.
NETWORK, CLUSTER = 8, 16
#: It lies on top of other file systems, and has no disk of its own.
STACKED = 32

_TRAITS = {
    BTRFS: SIZES | CTIME | TELLS,  # btrfs
    0xCA451A4E: SIZES | TELLS,  # bcachefs
    0x2FC12FC1: SIZES | CTIME | TELLS,  # zfs
    0x24051905: SIZES | CTIME | TELLS,  # ubifs
    0x01021994: SIZES | TELLS,  # tmpfs, devtmpfs
    0x858458F6: SIZES | TELLS,  # ramfs
    0x958458F6: SIZES,  # hugetlbfs
    0x794C7630: SIZES | CTIME | TELLS | STACKED,  # overlay
    0x61756673: SIZES | CTIME | STACKED,  # aufs
    0x0000F15F: SIZES | CTIME | TELLS | STACKED,  # ecryptfs
    0xE0F5E1E2: SIZES,  # erofs, which may lie in a file
    0x00006969: SIZES | CTIME | NETWORK,  # nfs
    0x0000517B: SIZES | CTIME | NETWORK,  # smb
    0xFF534D42: SIZES | CTIME | NETWORK,  # cifs
    0xFE534D42: SIZES | CTIME | NETWORK,  # smb2 and later
    0x00C36400: SIZES | CTIME | NETWORK,  # ceph
    0x5346414F: SIZES,  # afs
    0x6B414653: SIZES,  # afs of the kernel
    0x73757245: SIZES,  # coda
    0x0BD00BD0: SIZES | CTIME | NETWORK,  # lustre
    0x47504653: SIZES | CTIME | NETWORK,  # gpfs
    0x19830326: SIZES | CTIME | NETWORK,  # beegfs
    0x20030528: SIZES,  # orangefs
    0xAAD7AAEA: SIZES,  # panfs
    0x786F4256: SIZES,  # vboxsf
    0xBACBACBC: SIZES,  # vmhgfs
    0x7C7C6673: SIZES,  # prl_fs
    EXT: CTIME | TELLS,  # ext2, ext3, ext4
    XFS: CTIME | TELLS,  # xfs
    0xF2F52010: CTIME | TELLS,  # f2fs
    0x3153464A: CTIME | TELLS,  # jfs
    0x52654973: CTIME | TELLS,  # reiserfs
    0x00003434: CTIME | TELLS,  # nilfs2
    0x7366746E: CTIME | TELLS,  # ntfs3
    0x01161970: CTIME | CLUSTER,  # gfs2
    0x7461636F: CTIME | CLUSTER,  # ocfs2
    0x00004D44: TELLS,  # FAT
    0x2011BAB0: TELLS,  # exFAT
}


def with_trait(trait: int) -> frozenset[int]:
    """Return the numbers of the types that have a trait."""
    return frozenset(number for number, traits in _TRAITS.items() if traits & trait)
