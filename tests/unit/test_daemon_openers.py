"""Openers of containers in a daemon: kept for the same lists, stopped only for their owner."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hashclient.config.settings import Config
from hashclient.config.tables import AcceptRule, ContainersConfig
from hashclient.containers.protocol import BrokenError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon import openers as module
from hashclient.daemon.openers import Opener, Openers, opening
from hashclient.scan.check.members import Members

NOW = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)


class Fake:
    """Replaces an opener of containers, and starts no process."""

    def __init__(self, judge: object, options: object, *, starting: Any) -> None:
        self.judge, self.options, self.starting = judge, options, starting
        self.has_failed = self.is_closed = self.is_stopped = False
        self.ourselves: Any = None
        self.opened: list[Any] = []
        self.outcomes: list[Outcome] = []

    def open_kept(self, kept: object, door: str) -> Any:
        self.opened.append((kept, door))
        return SimpleNamespace(outcomes=self.outcomes, not_opened={"disk image": 1})

    def open(self, fd: int, size: int, door: str, unchanged: Any) -> Any:
        os.lseek(fd, 0, os.SEEK_END)
        self.opened.append((fd, size, door, unchanged()))
        return SimpleNamespace(outcomes=self.outcomes, not_opened={})

    def stop(self) -> None:
        self.is_stopped = True

    def close(self) -> None:
        self.is_closed = True


class Lists:
    """Lists that replace the reason of every outcome by "ruled"."""

    def __init__(self) -> None:
        self.judge = object()

    def rule(self, outcome: Outcome) -> Outcome:
        return msgspec.structs.replace(outcome, reason="ruled")


@pytest.fixture
def openers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "Opener", Fake)
    rules = (
        AcceptRule("a!/x", "encrypted", date(2026, 3, 1)),
        AcceptRule("a!/y", "encrypted", date(2026, 2, 28)),
    )
    session: Any = SimpleNamespace(
        settings=SimpleNamespace(config=SimpleNamespace(accept=rules)), now=lambda: NOW
    )
    made = Openers("options", session)  # type: ignore[arg-type]
    yield made
    made.close()


@pytest.mark.parametrize(
    ("most_s", "time_s"),
    [*((0.1, 1), (1.0, 1), (1.9, 1), (2.0, 2), (299.9, 299)), *((300.0, 300), (1e6, 300))],
)
def test_a_container_may_take_no_longer_than_its_stream(most_s: float, time_s: int) -> None:
    config = Config(containers=ContainersConfig(time_s=300, depth=7))
    limits = opening(config, most_s, lambda _: None).limits
    assert (limits.time_s, limits.depth) == (time_s, 7)


def test_an_opener_is_used_again_for_the_same_lists(openers: Any) -> None:
    lists, other = Lists(), Lists()
    with openers.taken(lists, "me") as first:
        assert (first.judge, first.options) == (lists.judge, "options")
        with openers.taken(lists, "you") as second:
            assert second is not first
    with openers.taken(lists, "me") as again:
        assert again in (first, second)
        again.ourselves = "rights of a client"
    assert again.ourselves is not None and not isinstance(again.ourselves, str)
    with openers.taken(other, "me") as third:
        assert third.judge is other.judge
        assert first.is_closed and second.is_closed  # no connection uses the first lists any more
    openers.close()
    assert third.is_closed


@pytest.mark.parametrize("why", ["failed", "raised", "stopped", "nothing"])
def test_an_opener_that_has_failed_or_was_stopped_is_not_used_again(openers: Any, why: str) -> None:
    lists = Lists()
    with contextlib.suppress(ZeroDivisionError), openers.taken(lists, "me") as opener:
        opener.has_failed = why == "failed"
        if why == "stopped":
            openers.stop("me")
        elif why == "raised":
            raise ZeroDivisionError
    assert opener.is_closed is (why != "nothing")
    with openers.taken(lists, "me") as other:
        assert (other is opener) is (why == "nothing")


@pytest.mark.parametrize(
    ("whose", "stopped"), [("me", [True, True, False]), ("you", [False, False, True])]
)
def test_containers_of_one_owner_or_of_all_are_stopped(
    openers: Any, whose: str, stopped: list[bool]
) -> None:
    lists = Lists()
    with (
        openers.taken(lists, "me") as one,
        openers.taken(lists, "me") as two,
        openers.taken(lists, "you") as three,
    ):
        found = (one, two, three)
        openers.stop("nobody")
        assert not any(opener.is_stopped for opener in found)
        openers.stop(whose)
        assert [opener.is_stopped for opener in found] == stopped
        openers.stop()
        assert all(opener.is_stopped for opener in found)
    assert all(opener.is_closed for opener in found)


def unread(member: str) -> Outcome:
    return Outcome(Kind.UNREAD, "a", members=(member,), obstacle="encrypted", reason="encrypted")


def test_members_that_may_be_unread_are_accepted_until_the_end_of_their_day(openers: Any) -> None:
    match, clean = Outcome(Kind.MATCH, "a"), Outcome(Kind.CLEAN, "a")
    assert openers.accepted([]) == []
    given = [match, clean, unread("x"), unread("y"), Outcome(Kind.EXCEPTED, "a")]
    assert openers.accepted(given) == [match, unread("y"), given[4]]


def test_what_is_in_a_stream_is_noted_with_it(openers: Any) -> None:
    lists = Lists()
    content: Any = SimpleNamespace(lists=lists, kept="kept", door="serve:s")
    with openers.taken(lists, "me") as opener:
        opener.outcomes = [Outcome(Kind.MATCH, "a"), Outcome(Kind.CLEAN, "b"), unread("x")]
    openers.open(content, "me")
    assert opener.opened == [("kept", "serve:s")]
    assert content.not_opened == {"disk image": 1}
    assert content.inside == [Outcome(Kind.MATCH, "a", is_stream=True, reason="ruled")]


def test_an_open_file_keeps_its_offset_whatever_happens(
    openers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abcdef")
    fd = os.open(path, os.O_RDONLY)
    try:
        os.lseek(fd, 2, os.SEEK_SET)
        lists = Lists()
        content: Any = SimpleNamespace(
            *(),
            lists=lists,
            kept=None,
            door="serve:s",
            fd=fd,
            status=os.fstat(fd),
            digester=SimpleNamespace(length=6),
        )
        openers.open(content, "me")
        with openers.taken(lists, "me") as opener:
            assert opener.opened == [(fd, 6, "serve:s", True)]
        assert os.lseek(fd, 0, os.SEEK_CUR) == 2
        path.write_bytes(b"longer than before")
        openers.open(content, "me")
        assert opener.opened[-1] == (fd, 6, "serve:s", False)

        def fail(*_: object) -> None:
            os.lseek(fd, 5, os.SEEK_SET)
            raise OSError(5, "unreadable")

        monkeypatch.setattr(Fake, "open", fail)
        with pytest.raises(OSError, match="unreadable"):
            openers.open(content, "me")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 2
    finally:
        os.close(fd)


def test_processes_are_started_by_one_thread_that_lives_as_long(openers: Any) -> None:
    with openers.taken(Lists(), "me") as opener:
        assert opener.starting(lambda: "process") == "process"
        openers.close()
        with pytest.raises(BrokenError):
            opener.starting(lambda: "process")
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="odd"):
        module._started(pool, lambda: int("odd"))  # type: ignore[arg-type, return-value]


def test_an_opener_has_the_rights_of_the_daemon_while_it_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[Any] = []

    class Ourselves:
        """Notes when a block begins and ends in which the daemon uses its own credentials."""

        def __enter__(self) -> None:
            said.append("ours")

        def __exit__(self, *_: object) -> None:
            said.append("theirs")

    def opened(*args: Any, **options: Any) -> Any:
        said.append((args[1:], options))
        return "opened"

    monkeypatch.setattr(Members, "open", opened)
    opener = Opener.__new__(Opener)
    with opener.ourselves():
        pass
    opener.ourselves = Ourselves
    result: Any = opener.open(1, b=2)
    assert result == "opened"
    assert said == ["ours", ((1,), {"b": 2}), "theirs"]
