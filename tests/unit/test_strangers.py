"""Which other users may change where a path leads: by owner, group, mode or link."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.system import strangers
from hashclient.system.strangers import is_for_programs, stranger_on, way_of

NOBODY = 65534


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory that no other user may change, below the sticky directory of all tests."""
    assert stranger_on(tmp_path) is None
    return tmp_path


def test_what_belongs_to_us_alone_has_no_stranger(base: Path) -> None:
    (base / "a").mkdir(mode=0o755)
    (base / "a" / "file").write_text("x")
    assert stranger_on(base / "a" / "file") is None
    assert stranger_on(base / "a" / "missing" / "more") is None
    assert stranger_on("/dev/null") is None


@pytest.mark.parametrize(("mode", "is_safe"), [(0o777, False), (0o757, False), (0o1777, True)])
def test_a_directory_that_all_may_write_to_has_strangers_unless_it_is_sticky(
    base: Path, mode: int, *, is_safe: bool
) -> None:
    (base / "open").mkdir()
    (base / "open" / "file").write_text("x")
    (base / "open").chmod(mode)
    found = stranger_on(base / "open" / "file")
    assert (found is None) == is_safe
    if found is not None:
        assert (found.path, found.who) == (str(base / "open"), "everybody")


@pytest.mark.parametrize(("mode", "who"), [(0o1777, "everybody"), (0o1770, "its group")])
def test_what_is_missing_in_a_sticky_directory_can_be_made_by_others(
    base: Path, monkeypatch: pytest.MonkeyPatch, mode: int, who: str
) -> None:
    monkeypatch.setattr(strangers, "_is_private", lambda *_: False)
    (base / "open").mkdir()
    (base / "open").chmod(mode)
    found = stranger_on(base / "open" / "new" / "more")
    assert found is not None
    assert (found.path, found.who, found.is_missing) == (str(base / "open"), who, True)
    (base / "open" / "new").mkdir()
    assert stranger_on(base / "open" / "new" / "more") is None


def test_a_file_that_all_may_write_to_has_strangers(base: Path) -> None:
    (base / "file").write_text("x")
    (base / "file").chmod(0o666)
    found = stranger_on(base / "file")
    assert found is not None and found.path == str(base / "file")


def test_the_group_counts_unless_it_is_the_private_one_of_the_owner(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "file").write_text("x")
    (base / "file").chmod(0o664)
    monkeypatch.setattr(strangers, "_is_private", lambda *_: True)
    assert stranger_on(base / "file") is None
    monkeypatch.setattr(strangers, "_is_private", lambda *_: False)
    found = stranger_on(base / "file")
    assert found is not None and found.who.startswith("group ")


def test_a_group_of_others_is_not_private() -> None:
    assert strangers._is_private(0, os.getuid())
    assert not strangers._is_private(4_000_000_000, os.getuid())


#: Groups by number, with the names of their members; and users with their own groups.
GROUPS = {50: ("staff", []), 100: ("users", []), 102: ("syslog", ["syslog"]), 4: ("adm", ["ann"])}
USERS = {"root": (0, 0), "syslog": (102, 103), "ann": (1000, 1000), "bob": (1001, 100)}


@pytest.fixture
def _a_system(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the system have the groups `GROUPS` and the users `USERS`."""

    def group(number: int) -> grp.struct_group:
        name, members = GROUPS[number]
        return grp.struct_group((name, "x", number, members))

    people = {
        name: pwd.struct_passwd((name, "x", *numbers, "", "/", "/bin/sh"))
        for name, numbers in USERS.items()
    }
    by_number = {user.pw_uid: user for user in people.values()}
    monkeypatch.setattr(grp, "getgrgid", group)
    monkeypatch.setattr(pwd, "getpwall", lambda: list(people.values()))
    monkeypatch.setattr(pwd, "getpwuid", by_number.__getitem__)
    caches = (strangers._is_private, strangers._users_in)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.usefixtures("_a_system")
@pytest.mark.parametrize(
    ("group", "is_nobody", "may_change_ways"),
    [
        pytest.param(50, True, True, id="staff of Debian, where nobody is"),
        pytest.param(102, False, True, id="syslog of Ubuntu, where a program is"),
        pytest.param(4, False, False, id="adm, where a person is"),
        pytest.param(100, False, False, id="users, which is the group of a person"),
        pytest.param(999, False, True, id="one of the system, of which nothing is known"),
        pytest.param(1000, False, False, id="one of people"),
    ],
)
def test_a_group_of_the_system_counts_by_who_is_in_it(
    base: Path, group: int, is_nobody: bool, may_change_ways: bool
) -> None:
    """Examples: a `--ca` below /usr/local of older Debian, and reports in /var/log of Ubuntu."""
    (base / "local").mkdir()
    os.chown(base / "local", 0, group)
    (base / "local").chmod(0o2775)
    (base / "local" / "ca.pem").write_text("x")
    assert (stranger_on(base / "local" / "ca.pem") is None) == is_nobody
    assert is_for_programs((base / "local").stat()) == may_change_ways


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
class TestOtherOwners:
    """Files, directories and links that belong to another user."""

    def test_the_owner_of_a_directory_on_the_way_is_a_stranger(self, base: Path) -> None:
        (base / "theirs" / "mine").mkdir(parents=True)
        os.chown(base / "theirs", NOBODY, NOBODY)
        found = stranger_on(base / "theirs" / "mine")
        assert found is not None
        assert found.path == str(base / "theirs") and found.who.startswith("user ")

    def test_a_name_in_a_sticky_directory_counts_by_its_own_owner(self, base: Path) -> None:
        (base / "tmp").mkdir()
        (base / "tmp").chmod(0o1777)
        (base / "tmp" / "file").write_text("x")
        os.chown(base / "tmp" / "file", NOBODY, NOBODY)
        found = stranger_on(base / "tmp" / "file")
        assert found is not None and found.path == str(base / "tmp" / "file")

    def test_a_link_counts_by_its_owner_and_by_the_way_to_its_target(self, base: Path) -> None:
        for name in ("safe", "theirs", "links"):
            (base / name).mkdir()
        (base / "theirs" / "target").write_text("x")
        os.chown(base / "theirs", NOBODY, NOBODY)
        (base / "links" / "ours").symlink_to("../theirs/target")
        found = stranger_on(base / "links" / "ours")
        assert found is not None and found.path == str(base / "theirs")
        (base / "links" / "given").symlink_to(base / "safe")
        assert stranger_on(base / "links" / "given") is None
        os.lchown(base / "links" / "given", NOBODY, NOBODY)
        found = stranger_on(base / "links" / "given")
        assert found is not None and found.path == str(base / "links" / "given")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_way_leads_through_links_that_others_may_change_or_through_none(base: Path) -> None:
    for name in ("safe", "theirs/d", "links"):
        (base / name).mkdir(parents=True)
    (base / "links/ours").symlink_to("../theirs")
    (base / "theirs/link").symlink_to(base / "safe")
    os.chown(base / "theirs", NOBODY, NOBODY)
    # Behind the last symbolic link, directories of other users are accepted.
    assert way_of(base / "links/ours/d") == (str(base / "theirs/d"), None)
    assert way_of(base / "theirs/d") == (str(base / "theirs/d"), None)
    real, stranger = way_of(base / "links/ours/link")
    assert real == str(base / "safe")
    assert stranger is not None and stranger.path == str(base / "theirs")
    os.lchown(base / "links/ours", NOBODY, NOBODY)
    real, stranger = way_of(base / "links/ours/d")
    assert real == str(base / "theirs/d")
    assert stranger is not None and stranger.path == str(base / "links/ours")


def test_links_that_lead_in_a_circle_are_an_error(base: Path) -> None:
    (base / "a").symlink_to("b")
    (base / "b").symlink_to("a")
    with pytest.raises(OSError) as raised:
        stranger_on(base / "a")
    assert raised.value.errno == errno.ELOOP
