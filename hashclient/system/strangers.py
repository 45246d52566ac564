"""Finds out who else may change the target of a path: users besides root and us.

A directory is safe from others if its owner is root or us, and if nobody else may write to the
directory. A sticky directory, for example /tmp, is safe, too: everybody may add names, but only the
owner of a name may exchange it, and this owner is checked next. A name that is missing in a sticky
directory is not safe: others may make it at any moment. ssh(1) has this rule for its files. The
rules for groups:

1. The private group of a user, without other members, counts as the user.
2. A group of the system (below 1000) without members is trusted: for example `staff`, which may
   write to /usr/local on an older Debian.
3. All other groups are others. Only for `outputs`, there is one exception: a group of the system
   whose only members are programs may exchange names on a path. An example is `syslog`, which may
   write to /var/log on Ubuntu. For configuration and state, this exception does not apply.

Limits: only the present rights are checked. Anyone who could write a moment ago may still hold a
file open. Limit: if a directory service does not list its users, these users are not seen in groups
of the system.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Iterator

import msgspec

#: Links that are followed on the way; the kernel follows as many.
_MOST_LINKS = 40
#: Users and groups below are made by the system for its programs: SYS_GID_MAX of login.defs(5).
_FIRST_OF_PEOPLE = 1000


class Stranger(msgspec.Struct, frozen=True):
    """A place that others may change: its path, who the others are, as text, and its foreign owner.

    `is_missing`: others may only add names to this directory, and the wanted name is missing.
    """

    path: str
    who: str
    uid: int | None = None
    is_missing: bool = False


def stranger_on(
    path: str | os.PathLike[str], known: frozenset[int] = frozenset()
) -> Stranger | None:
    """Return the first place on the way to `path`, itself included, that others may change.

    Links are followed; a link and the directories on the way to it count as well. If something is
    missing, the way ends at the directory that would have it, and who may add names there counts,
    too. The users `known` count as us.

    Raises:
        OSError: something on the way cannot be looked at, or links lead in a circle (ELOOP).
    """
    for at, status in _way(path):
        if status is None:
            return adds_names_at(at, os.stat(at))  # noqa: PTH116 - any bytes
        if (found := stranger_at(at, status, known)) is not None:
            return found
    return None


def way_of(path: str | os.PathLike[str]) -> tuple[str, Stranger | None]:
    """Return where `path` leads now, and the first place where others may change a link on it.

    The place is None if the way has no link that others may change. A single walk finds both
    results, so a link that appears or disappears meanwhile counts for both.

    Raises:
        OSError: as `stranger_on`.
    """
    stranger: Stranger | None = None
    links = None
    real = "/"
    for at, status in _way(path):
        if status is None:
            break
        stranger = stranger or stranger_at(at, status)
        if stat.S_ISLNK(status.st_mode):
            links = links or stranger
        else:
            real = at
    return real, links


def _way(path: str | os.PathLike[str]) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield each place on the way to `path`, also links and their targets, with its status.

    If a place is missing, the last place is the directory that lacks it, without a status.

    Raises:
        OSError: a place cannot be looked at, or links lead in a circle (ELOOP).
    """
    full = os.path.abspath(path) if not os.path.isabs(path) else os.fspath(path)  # noqa: PTH100, PTH117
    rest = full.split("/")[::-1]
    at, links = "/", 0
    yield at, os.lstat(at)
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
            yield at, None
            return
        yield inner, status
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
            target = os.readlink(inner)  # noqa: PTH115 - any bytes
            rest += target.split("/")[::-1]
            at = "/" if target.startswith("/") else at
            continue
        at = inner


def stranger_at(
    path: str, status: os.stat_result, known: frozenset[int] = frozenset()
) -> Stranger | None:
    """Return who besides root and us may change the file or directory at `path`, by its status."""
    if status.st_uid not in (*trusted_users(), *known):
        return Stranger(path, _user(status.st_uid), status.st_uid)
    if stat.S_ISLNK(status.st_mode):  # the mode of a link means nothing
        return None
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None
    if status.st_mode & stat.S_IWOTH and not stat.S_ISCHR(status.st_mode):  # /dev/null
        return Stranger(path, "everybody")
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid, status.st_uid):
        return Stranger(path, _group(status.st_gid))
    return None


def is_shared(status: os.stat_result, ours: tuple[int, int]) -> bool:
    """Return whether others than `ours` may add names to a directory, for example /tmp.

    The private group of a user counts as others here, since recognising it takes long.
    """
    return status.st_uid not in ours or bool(status.st_mode & 0o022)


def adds_names_at(path: str, status: os.stat_result) -> Stranger | None:
    """Return who may add names to a directory whose names only their owners may change."""
    if not status.st_mode & stat.S_ISVTX:
        return None
    if status.st_mode & stat.S_IWOTH:
        return Stranger(path, "everybody", is_missing=True)
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid, status.st_uid):
        return Stranger(path, "its group", is_missing=True)
    return None


def trusted_users() -> tuple[int, int]:
    """Return the user ids of root and of this process."""
    return 0, os.geteuid()


@functools.cache
def _is_private(group: int, user: int) -> bool:
    """Return whether a group is root's group, or has only one user: rules 1 and 2."""
    if group == 0 or (group < _FIRST_OF_PEOPLE and _users_in(group) == frozenset()):
        return True
    import grp
    import pwd

    try:
        entry = grp.getgrgid(group)
    # the group is unknown, as in a container whose files come from elsewhere: compare numbers
    except KeyError:
        return group == user or group in (os.getegid(), *os.getgroups())
    try:
        owner = pwd.getpwuid(user)
    except KeyError:
        return False
    # Debian's rule: the group is the user's own and has its name.
    return (
        owner.pw_gid == group
        and entry.gr_name == owner.pw_name
        and set(entry.gr_mem) <= {owner.pw_name}
    )


def is_for_programs(status: os.stat_result) -> bool:
    """Return whether only root, we, and programs of the system may write to a directory: rule 3."""
    if status.st_mode & stat.S_IWOTH or status.st_uid not in trusted_users():
        return False
    users = _users_in(status.st_gid) or frozenset()
    return all(number < _FIRST_OF_PEOPLE for number in (status.st_gid, *users))


@functools.cache
def _users_in(group: int) -> frozenset[int] | None:
    """Return the users in a group, listed or by their main group; None if the group is unknown."""
    import grp
    import pwd

    try:
        members = set(grp.getgrgid(group).gr_mem)
    except KeyError:
        return None
    users = pwd.getpwall()
    return frozenset(u.pw_uid for u in users if u.pw_gid == group or u.pw_name in members)


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
