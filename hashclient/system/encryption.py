"""Whether a directory tells its names: one that is encrypted, and whose key is away, denies them.

Directories of ext4, f2fs, UBIFS and CephFS may be encrypted one by one (fscrypt), as homes are that
are opened when their users log in. Without the key there are other names in them, and the kernel
says of every real one that there is no such file. What was encrypted under a policy of version 1
counts as locked, since its key may lie where nobody else can ask for it.
"""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

from hashclient.system.identity import attributes

#: From linux/stat.h.
_STATX_ATTR_ENCRYPTED = 0x800
#: From linux/fscrypt.h: the policy of a directory, after the room for it; in one of version 2, the
#: key's identifier comes last.
_GET_POLICY, _POLICY, _VERSION_2 = 0xC0096616, struct.Struct("=QB7x16s"), 2
#: From there, too: which key is asked for, by its identifier, and what is said of it.
_GET_KEY_STATUS, _KEY_STATUS = 0xC080661A, struct.Struct("=II32s24xI60x")
_BY_IDENTIFIER, _PRESENT = 2, 2


def tells_names(fd: int) -> bool:
    """Tell whether an open directory says the truth of names that it does not have."""
    if not attributes(fd) & _STATX_ATTR_ENCRYPTED:
        return True
    try:
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return False
    try:
        policy = ioctl(own, _GET_POLICY, _POLICY.pack(_POLICY.size - 8, 0, b""))
        _, version, identifier = _POLICY.unpack(policy)
        if version != _VERSION_2:
            return False
        asked = _KEY_STATUS.pack(_BY_IDENTIFIER, 0, identifier, 0)
        return bool(_KEY_STATUS.unpack(ioctl(own, _GET_KEY_STATUS, asked))[3] == _PRESENT)
    except OSError:
        return False
    finally:
        os.close(own)
