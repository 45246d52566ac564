"""Finds out whether a directory shows real names; encrypted without its key, it does not.

Single directories of ext4, f2fs, UBIFS and CephFS may be encrypted (fscrypt), for example home
directories that are unlocked at login. Without the key, the directory shows other names, and the
kernel reports every real name as missing. A directory that is encrypted under a policy of version 1
counts as locked, since its key may be where no other process can see the key.
"""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

from hashclient.system.identity import attributes

#: A number from linux/stat.h.
_STATX_ATTR_ENCRYPTED = 0x800
#: From linux/fscrypt.h: the policy of a directory, after the size of the buffer; in a policy of
#: version 2, the key's identifier comes last.
_GET_POLICY, _POLICY, _VERSION_2 = 0xC0096616, struct.Struct("=QB7x16s"), 2
#: From linux/fscrypt.h, too: the request for the status of a key, and the answer.
_GET_KEY_STATUS, _KEY_STATUS = 0xC080661A, struct.Struct("=II32s24xI60x")
_BY_IDENTIFIER, _PRESENT = 2, 2


def shows_all_names(fd: int) -> bool:
    """Return whether a name that an open directory does not show really does not exist."""
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
