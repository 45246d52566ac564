"""Whether a directory tells its names: one that is encrypted, and whose key is away, denies them.

Directories of ext4, f2fs, UBIFS and CephFS may be encrypted one by one (fscrypt), as homes are that
are opened when their users log in. Without the key there are other names in them, and the kernel
says of every real one that there is no such file. What was encrypted under a policy of version 1
counts as locked, since its key may lie where nobody else can ask for it.
"""

from __future__ import annotations

import struct
from fcntl import ioctl

#: From linux/fs.h: the flags of a file, and the one of what is encrypted.
_GET_FLAGS, _ENCRYPTED = 0x80086601, 0x800
#: From linux/fscrypt.h: the policy of a directory, after the room for it; in one of version 2, the
#: key's identifier comes last.
_GET_POLICY, _POLICY, _VERSION_2 = 0xC0096616, struct.Struct("=QB7x16s"), 2
#: From there, too: which key is asked for, by its identifier, and what is said of it.
_GET_KEY_STATUS, _KEY_STATUS = 0xC080661A, struct.Struct("=II32s24xI60x")
_BY_IDENTIFIER, _PRESENT = 2, 2


def tells_names(fd: int) -> bool:
    """Tell whether an open directory says the truth of names that it does not have."""
    try:
        (flags,) = struct.unpack("=l4x", ioctl(fd, _GET_FLAGS, bytes(8)))
    except OSError:
        return True  # nothing is ever encrypted there
    if not flags & _ENCRYPTED:
        return True
    try:
        policy = ioctl(fd, _GET_POLICY, _POLICY.pack(_POLICY.size - 8, 0, b""))
        _, version, identifier = _POLICY.unpack(policy)
        if version != _VERSION_2:
            return False
        asked = _KEY_STATUS.pack(_BY_IDENTIFIER, 0, identifier, 0)
        return bool(_KEY_STATUS.unpack(ioctl(fd, _GET_KEY_STATUS, asked))[3] == _PRESENT)
    except OSError:
        return False
