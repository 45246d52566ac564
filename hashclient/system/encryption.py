"""Finds out whether a directory shows its real names, which a locked encrypted directory hides.

Single directories of ext4, f2fs, UBIFS and CephFS may be encrypted (fscrypt), for example home
directories that are unlocked at login. Without the key, an encrypted directory shows encoded names,
and the kernel reports every real name as missing. A directory that is encrypted under an fscrypt
policy of version 1 counts as locked, because the key of such a policy may be in a keyring that this
process cannot see.
"""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

from hashclient.system.identity import attributes

#: The attribute of an encrypted file in statx(2), from linux/stat.h.
_STATX_ATTR_ENCRYPTED = 0x800
#: From linux/fscrypt.h: the request for the policy of a directory, the form of its argument, and
#: the version 2 of a policy. The argument is the size of the buffer and then the policy, which ends
#: with the identifier of the key in version 2.
_GET_POLICY, _POLICY, _VERSION_2 = 0xC0096616, struct.Struct("=QB7x16s"), 2
#: From linux/fscrypt.h: the request for the status of a key, and the form of its argument.
_GET_KEY_STATUS, _KEY_STATUS = 0xC080661A, struct.Struct("=II32s24xI60x")
_BY_IDENTIFIER, _PRESENT = 2, 2


def shows_all_names(fd: int) -> bool:
    """Return whether an open directory shows the real names of all its files."""
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
