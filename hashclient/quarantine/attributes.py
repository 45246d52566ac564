"""What a file has besides its content: recorded when it is sealed, given back when it is restored.

Owner, mode, times and extended attributes, among which Linux keeps access control lists,
capabilities and security labels. What this process may not read, has no name in UTF-8, or is more
than a description should hold, is not recorded. Attributes of a file system's own (`chattr`), holes
and the time of birth are not kept.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import stat

from hashclient.quarantine.item import Origin

#: Of a file that changes hands: what must not be given to another owner than the one it was for.
_POWERS = stat.S_ISUID | stat.S_ISGID

_ACCESS_LIST = "system.posix_acl_access"
#: The other kind of power.
_CAPABILITIES = "security.capability"

#: Some file systems let anybody give a file half a gigabyte of attributes.
MAX_XATTR_BYTES = 1 << 23


def read_origin(fd: int, status: os.stat_result, directory_inode: int) -> Origin:
    """Return what is to be known of the file open as `fd`, whose status is `status`."""
    return Origin(
        device=status.st_dev,
        inode=status.st_ino,
        directory_inode=directory_inode,
        links=status.st_nlink,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        atime_ns=status.st_atime_ns,
        mtime_ns=status.st_mtime_ns,
        xattrs=_read_xattrs(fd),
    )


def _read_xattrs(fd: int) -> dict[str, str]:
    found: dict[str, str] = {}
    left = MAX_XATTR_BYTES
    with contextlib.suppress(OSError):  # a file system that has none
        # Those that only the system's own programs set come first.
        for name in sorted(os.listxattr(fd), key=lambda name: name.startswith("user.")):
            if not _is_text(name):
                continue
            with contextlib.suppress(OSError):  # gone meanwhile, or not for us to read
                value = os.getxattr(fd, name)
                left -= len(name) + len(value)
                if left < 0:
                    break
                found[name] = base64.b64encode(value).decode()
    return found


def _is_text(name: str) -> bool:
    """Tell whether a name can stand in a document: it is made of whole characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def give_back(fd: int, origin: Origin) -> list[str]:
    """Give the file open as `fd` what `origin` says, but times; return what could not be given.

    The order matters: a change of owner takes powers away, and a change of an access control list
    changes the mode.
    """
    missing = []
    mode, xattrs = origin.mode, dict(origin.xattrs)
    if (origin.uid, origin.gid) != _owner(fd):
        try:
            os.fchown(fd, origin.uid, origin.gid)
        except OSError:
            missing.append(f"its owner ({origin.uid}:{origin.gid})")
            mode &= ~_POWERS
            if xattrs.pop(_CAPABILITIES, None) is not None:
                missing.append(f"its attribute {_CAPABILITIES}")
    with contextlib.suppress(OSError):
        for name in os.listxattr(fd):  # a new file gets the default list of its directory
            if name not in xattrs and name == _ACCESS_LIST:
                os.removexattr(fd, name)
    for name, value in xattrs.items():
        try:
            data = base64.b64decode(value)
            if data != _xattr(fd, name):
                os.setxattr(fd, name, data)
        except OSError:
            missing.append(f"its attribute {name}")
    try:
        os.fchmod(fd, mode)
    except OSError:
        missing.append("its mode")
    return missing


def give_times_back(fd: int, origin: Origin) -> None:
    """Give the file open as `fd` its times, once nothing else is to be done with it.

    Raises:
        OSError: that cannot be.
    """
    try:
        os.utime(fd, ns=(origin.atime_ns, origin.mtime_ns))
    except OverflowError as error:  # no file ever had these
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW)) from error


def _owner(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_uid, status.st_gid


def _xattr(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError:
        return None
