"""Finds out whether users other than root and the user of this process may change a path.

A directory is safe if its owner is root or the user of this process, and if no other user may write
to the directory. A sticky directory, for example /tmp, is also safe: all users may add names, but
only the owner of a file may rename the file, and the owner of the next component is checked as
well. A name that is missing in a sticky directory is not safe, because other users may make it at
any time. ssh(1) checks its files by the same rules. Groups with write permission are trusted by
these rules:

1. The private group of a user, which has no other members, counts as the user.
2. A group of the system (an id below 1000) without members is trusted. An example of such a group
   is `staff`, which may write to /usr/local on an older Debian.
3. All other groups count as other users. In the module `outputs` only, there is an exception: a
   group of the system is trusted to exchange names in a path if its only members are programs. An
   example of a group of programs is `syslog`, which may write to /var/log on Ubuntu. The exception
   does not apply to the paths of configuration and state.

Limits: only the present permissions are checked, and a user who had write permission earlier may
still have a file open. If a directory service does not list its users, these users are not found as
members of a group of the system.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Iterator

import msgspec

#: The highest number of symbolic links that are followed in a path; the limit of the kernel is the
#: same.
_MOST_LINKS = 40
#: The lowest id of a person or group of persons; lower ids belong to programs of the system
#: (SYS_GID_MAX in login.defs(5)).
_FIRST_OF_PEOPLE = 1000


class Stranger(msgspec.Struct, frozen=True):
    """A file or directory that other users may change: its path, and who these users are, as text.

    `uid` is the owner, if another user owns the file or directory. If `is_missing` is set, other
    users may only add names to the directory, and the next component of the path is missing in the
    directory.
    """

    path: str
    who: str
    uid: int | None = None
    is_missing: bool = False


def stranger_on(
    path: str | os.PathLike[str], known: frozenset[int] = frozenset()
) -> Stranger | None:
    """Return the first component of `path` that other users may change, or None.

    Symbolic links are followed, and the symbolic links and the components of their targets are
    checked, too. If a component is missing, the directory that lacks it is the last component that
    is checked, and the function also checks who may add names to this directory. The users `known`
    are trusted.

    Raises:
        OSError: the status of a component cannot be read, or symbolic links lead in a circle
            (ELOOP).
    """
    for at, status in _way(path):
        if status is None:
            return adds_names_at(at, os.stat(at))  # noqa: PTH116 - any bytes
        if (found := stranger_at(at, status, known)) is not None:
            return found
    return None


def way_of(path: str | os.PathLike[str]) -> tuple[str, Stranger | None]:
    """Return the real path of `path`, and a component that lets others change a symbolic link.

    The component is the first component that other users may change, so that they can change a
    symbolic link in the path; it is None if no component lets them do so. The real path and the
    component are found in one pass over the path, so both agree about a symbolic link that appears
    or disappears during the call.

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
    """Yield each component of `path`, also of the targets of symbolic links, with its status.

    If a component is missing, the directory that lacks it is yielded last, without a status.

    Raises:
        OSError: the status of a component cannot be read, or symbolic links lead in a circle
            (ELOOP).
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
    """Return which other users may change the file `path`, by its owner, group and mode."""
    if status.st_uid not in (*trusted_users(), *known):
        return Stranger(path, _user(status.st_uid), status.st_uid)
    if stat.S_ISLNK(status.st_mode):  # the mode of a link has no meaning
        return None
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None
    if status.st_mode & stat.S_IWOTH and not stat.S_ISCHR(status.st_mode):  # /dev/null
        return Stranger(path, "everybody")
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid, status.st_uid):
        return Stranger(path, _group(status.st_gid))
    return None


def is_shared(status: os.stat_result, ours: tuple[int, int]) -> bool:
    """Return whether users other than `ours` may add names to a directory, for example /tmp.

    This function does not trust the private group of a user, because it takes long to recognise a
    private group.
    """
    return status.st_uid not in ours or bool(status.st_mode & 0o022)


def adds_names_at(path: str, status: os.stat_result) -> Stranger | None:
    """Return which other users may add names to a sticky directory, or None."""
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
    """Return whether a group is root's group, or is trusted by rule 1 or 2 of this module."""
    if group == 0 or (group < _FIRST_OF_PEOPLE and _users_in(group) == frozenset()):
        return True
    import grp
    import pwd

    try:
        entry = grp.getgrgid(group)
    # in a container, the group of a mounted file may have no name: compare the ids
    except KeyError:
        return group == user or group in (os.getegid(), *os.getgroups())
    try:
        owner = pwd.getpwuid(user)
    except KeyError:
        return False
    # On Debian, the private group of a user is the user's main group and has the user's name.
    return (
        owner.pw_gid == group
        and entry.gr_name == owner.pw_name
        and set(entry.gr_mem) <= {owner.pw_name}
    )


def is_for_programs(status: os.stat_result) -> bool:
    """Return whether rule 3 of this module trusts all users who may write to a directory."""
    if status.st_mode & stat.S_IWOTH or status.st_uid not in trusted_users():
        return False
    users = _users_in(status.st_gid) or frozenset()
    return all(number < _FIRST_OF_PEOPLE for number in (status.st_gid, *users))


@functools.cache
def _users_in(group: int) -> frozenset[int] | None:
    """Return the members of a group, and users with this main group; None for an unknown group."""
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
