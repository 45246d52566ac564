"""Reads the attributes of a file that is sealed, and sets the attributes of a restored file.

The attributes are owner, mode, times and extended attributes; access control lists, capabilities
and security labels are extended attributes. An extended attribute is not recorded if this process
may not read it, if its name is not UTF-8, or if the attributes together exceed `MAX_XATTR_BYTES`.
Attributes of the file system (`chattr`), holes and the birth time are not recorded.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import stat

from hashclient.quarantine.item import Origin

#: The set-id bits of a mode, which are only set if the file gets its original owner.
_POWERS = stat.S_ISUID | stat.S_ISGID

_ACCESS_LIST = "system.posix_acl_access"
#: The extended attribute for file capabilities, which grant privileges as set-id bits do.
_CAPABILITIES = "security.capability"

#: The highest total size of recorded extended attributes of a file, in bytes; some file systems
#: allow half a gigabyte.
MAX_XATTR_BYTES = 1 << 23


def read_origin(fd: int, status: os.stat_result, directory_inode: int) -> Origin:
    """Return the attributes of the file open as `fd`, whose status is `status`."""
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
    with contextlib.suppress(OSError):  # the file system has no extended attributes
        # Attributes in the namespace `user.` are read last, because any owner can make them large.
        for name in sorted(os.listxattr(fd), key=lambda name: name.startswith("user.")):
            if not _is_text(name):
                continue
            with contextlib.suppress(OSError):  # the attribute is gone or unreadable
                value = os.getxattr(fd, name)
                left -= len(name) + len(value)
                if left < 0:
                    break
                found[name] = base64.b64encode(value).decode()
    return found


def _is_text(name: str) -> bool:
    """Return whether the bytes of a name are UTF-8, so that JSON can contain the name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def give_back(fd: int, origin: Origin, *, with_powers: bool) -> list[str]:
    """Set the attributes in `origin`, except times, on a file; return the attributes that failed.

    Without `with_powers`, set-id bits and capabilities are not set. The owner is set first, because
    a change of owner removes capabilities. The mode is set last, because a change of an access
    control list changes the mode. Each attribute is read back, because some file systems report
    success without making a change.
    """
    missing = []
    mode, xattrs = origin.mode, dict(origin.xattrs)
    if not with_powers:
        if mode & _POWERS:
            missing.append("its set-id bits")
            mode &= ~_POWERS
        if xattrs.pop(_CAPABILITIES, None) is not None:
            missing.append(f"its attribute {_CAPABILITIES}")
    if (owner := (origin.uid, origin.gid)) != _owner(fd):
        with contextlib.suppress(OSError):
            os.fchown(fd, *owner)
        if owner != _owner(fd):
            missing.append(f"its owner ({origin.uid}:{origin.gid})")
            mode &= ~_POWERS
            if xattrs.pop(_CAPABILITIES, None) is not None:
                missing.append(f"its attribute {_CAPABILITIES}")
    with contextlib.suppress(OSError):
        for name in os.listxattr(fd):  # the new file may have inherited an access control list
            if name not in xattrs and name == _ACCESS_LIST:
                os.removexattr(fd, name)
    for name, value in xattrs.items():
        data = base64.b64decode(value)
        if data != _xattr(fd, name):
            with contextlib.suppress(OSError):
                os.setxattr(fd, name, data)
            if data != _xattr(fd, name):
                missing.append(f"its attribute {name}")
    with contextlib.suppress(OSError):
        os.fchmod(fd, mode)
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        missing.append("its mode")
    return missing


def give_times_back(fd: int, origin: Origin) -> None:
    """Set the times of the file open as `fd`, after all other changes of the file.

    Raises:
        OSError: the times cannot be set.
    """
    try:
        os.utime(fd, ns=(origin.atime_ns, origin.mtime_ns))
    except OverflowError as error:  # no file system can store these times
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW)) from error


def _owner(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_uid, status.st_gid


def _xattr(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError:
        return None
