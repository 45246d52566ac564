"""Who else may change where a path leads: users besides root and us.

A directory is safe from others if its owner is root or us, and if nobody else may write to it. A
sticky directory such as /tmp is safe, too: everybody may add names, but only the owner of a name
may exchange it, and that owner is looked at next. The rule is that of ssh(1) for its files; the
private group of a user, which has no other member, counts as the user.

Limit: this is how it is now. Whoever could write a moment ago may still hold a file open.
"""

from __future__ import annotations

import errno
import functools
import os
import stat

import msgspec

#: Links that are followed on the way; the kernel follows as many.
_MOST_LINKS = 40


class Stranger(msgspec.Struct, frozen=True):
    """A place that others may change: its path, and in words who they are."""

    path: str
    who: str


def stranger_on(path: str | os.PathLike[str]) -> Stranger | None:
    """Return the first place on the way to `path`, itself included, that others may change.

    Links are followed; a link and the directories on the way to it count as well. If something is
    missing, the way ends at the directory that would have it.

    Raises:
        OSError: something on the way cannot be looked at, or links lead in a circle (ELOOP).
    """
    full = os.path.abspath(path) if not os.path.isabs(path) else os.fspath(path)  # noqa: PTH100, PTH117
    rest = full.split("/")[::-1]
    at, links = "/", 0
    if (found := stranger_at(at, os.lstat(at))) is not None:
        return found
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = os.path.dirname(at)  # noqa: PTH120 - `at` has no links
            continue
        inner = os.path.join(at, part)  # noqa: PTH118 - any bytes
        try:
            status = os.lstat(inner)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
            if status.st_uid not in trusted_users():  # its mode means nothing
                return Stranger(inner, _user(status.st_uid))
            target = os.readlink(inner)  # noqa: PTH115 - any bytes
            rest += target.split("/")[::-1]
            at = "/" if target.startswith("/") else at
            continue
        if (found := stranger_at(inner, status)) is not None:
            return found
        at = inner
    return None


def stranger_at(path: str, status: os.stat_result) -> Stranger | None:
    """Return who besides root and us may change the file or directory at `path`, by its status."""
    if status.st_uid not in trusted_users():
        return Stranger(path, _user(status.st_uid))
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None
    if status.st_mode & stat.S_IWOTH and not stat.S_ISCHR(status.st_mode):  # /dev/null
        return Stranger(path, "everybody")
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid, status.st_uid):
        return Stranger(path, _group(status.st_gid))
    return None


def trusted_users() -> tuple[int, int]:
    """Return the user ids of root and of this process."""
    return 0, os.geteuid()


@functools.cache
def _is_private(group: int, user: int) -> bool:
    """Return whether a group is that of root, or has nobody in it but one user."""
    if group == 0:
        return True
    import grp
    import pwd

    try:
        entry, owner = grp.getgrgid(group), pwd.getpwuid(user)
    except KeyError:
        return False
    # Debian's rule: the group is the user's own and has its name.
    return (
        owner.pw_gid == group
        and entry.gr_name == owner.pw_name
        and set(entry.gr_mem) <= {owner.pw_name}
    )


def _user(number: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def _group(number: int) -> str:
    import grp

    try:
        return f"group {grp.getgrgid(number).gr_name}"
    except KeyError:
        return f"group {number}"
