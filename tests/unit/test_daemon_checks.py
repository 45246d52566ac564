"""One process of the daemon: what it reports, whose credentials it uses, and who gets work."""

from __future__ import annotations

import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient import __version__
from hashclient.core.digests import KEPT_BYTES
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Outcome
from hashclient.daemon import checks as module
from hashclient.daemon.checks import (
    NOT_YOURS,
    SMALL_BYTES,
    STOP,
    Checks,
    unknown,
)
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.options import NoVerdict, Paths
from hashclient.daemon.protocol import Command
from hashclient.daemon.users import Peer, Share
from hashclient.system.rights import Rights

ROOT = Peer("serve:s,uid=0", "uid=0", True, Rights(0, 0, ()))
EVE = Peer("serve:s,uid=70001", "uid=70001", True, Rights(70001, 70001, (5,)))
FAR = Peer("serve:t,from=192.0.2.1", "from=192.0.2.1", False)


class Lists:
    """Lists with one entry of three bytes; `listed` are digests that the quick test finds."""

    generations = "base:3,more:1"

    def __init__(self, doubt: str | None = None, *, listed: bool = False) -> None:
        self.doubt = doubt
        self.judge = SimpleNamespace(
            plan=lambda size: (Algorithm.MD5, Algorithm.SHA256) if size in (None, 3) else ()
        )
        self.may_be_listed = lambda algorithm, _: listed and algorithm is Algorithm.SHA256


def made(lists: Any = None, *, opens: bool = True, **options: Any) -> Any:
    """Return the checks of a process that has opened nothing yet."""
    checks: Any = Checks.__new__(Checks)
    values = {
        "no_verdict": NoVerdict.FOUND,
        "paths": Paths.OWN,
        "max_connections": 9,
        "idle_s": 2.6,
    }
    checks.options = SimpleNamespace(**{**values, **options})
    checks._lists = SimpleNamespace(now=lists or Lists())
    checks.counts = Counts(1).row(0)
    checks.loop = SimpleNamespace(call_soon=lambda *call: checks.calls.append(call))
    checks.calls, checks.queued, checks._ended, checks._parent = [], [], [], 4711
    checks.openers = object() if opens else None
    checks._openings, checks._large = (
        SimpleNamespace(add=lambda client, job, name=name: checks.queued.append((name, client)))
        for name in ("small", "large")
    )
    checks._open = lambda *_: None
    checks._kept, checks._spooled = Share(8_000, 100), Share(100, 50)
    checks._spool = SimpleNamespace(keep=lambda room: SimpleNamespace(room=room, close=int))
    return checks


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (Command.PING, "PONG"),
        (Command.VERSION, f"hashclient {__version__}/base:3,more:1/now"),
        (None, "UNKNOWN COMMAND"),
        (Command.SCAN, "UNKNOWN COMMAND"),
    ],
)
def test_anybody_may_ask_about_the_daemon(
    monkeypatch: pytest.MonkeyPatch, command: Command | None, said: str
) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(ctime=lambda: "now"))
    for peer in (ROOT, EVE, FAR):
        assert made().say(command, peer) == said


def test_all_commands_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(ctime=lambda: "now"))
    version, _, words = made().say(Command.VERSIONCOMMANDS, EVE).partition("| COMMANDS: ")
    assert version == f"hashclient {__version__}/base:3,more:1/now"
    assert words.split() == [command.value.decode() for command in Command]


def test_the_state_has_the_form_that_programs_read() -> None:
    checks = made()
    checks.counts.add(Count.OPEN, 3)
    checks._ended = [1, 2]
    lines = checks.say(Command.STATS, EVE).split("\n")
    assert lines[:3] == ["POOLS: 1", "", "STATE: VALID PRIMARY"]
    assert lines[3] == "THREADS: live 3  idle 0 max 9 idle-timeout 3"
    assert lines[4:7] == ["QUEUE: 2 items", "\tSTATS 0.000000", ""]
    assert lines[7].startswith("MEMSTATS: heap N/A ") and lines[8:] == ["END"]


@pytest.mark.parametrize(("peer", "may"), [(ROOT, True), (EVE, False), (FAR, False)])
def test_only_root_and_the_user_of_the_daemon_reload_and_stop_it(
    monkeypatch: pytest.MonkeyPatch, peer: Peer, may: bool
) -> None:
    sent: list[Any] = []
    kill = lambda *call: sent.append(call)  # noqa: E731
    monkeypatch.setattr(module.os, "kill", kill)  # type: ignore[attr-defined]
    checks = made()
    refused = "COMMAND UNAVAILABLE"
    assert checks.say(Command.RELOAD, peer) == ("RELOADING" if may else refused)
    assert sent == ([(4711, signal.SIGHUP)] if may else [])
    assert checks.say(Command.SHUTDOWN, peer) == ("OK" if may else refused)
    # The answer is sent before the daemon stops.
    assert checks.calls == ([(kill, 4711, STOP)] if may else [])
    assert len(sent) == may and STOP is signal.SIGUSR1


@pytest.mark.parametrize("can", [True, False])
@pytest.mark.parametrize("paths", list(Paths))
def test_a_path_is_opened_with_the_rights_of_its_client(
    monkeypatch: pytest.MonkeyPatch, paths: Paths, can: bool
) -> None:
    monkeypatch.setattr(module, "can_act_as_others", lambda: can)
    checks = made(paths=paths)
    for peer in (ROOT, EVE, FAR):
        for path in ("", "a", "./a"):
            with pytest.raises(PermissionError, match="not an absolute path"):
                checks.rights_for(peer, path)
        if paths is Paths.ANY or peer is ROOT:
            assert checks.rights_for(peer, "/a") is None
        elif peer is EVE and can:
            assert checks.rights_for(peer, "/a") == EVE.rights
        else:
            with pytest.raises(PermissionError, match=NOT_YOURS):
                checks.rights_for(peer, "/a")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (NoVerdict.FOUND, "Heuristics.Limits.Exceeded.Hashclient.Unread FOUND"),
        (NoVerdict.ERROR, "a, b, c:d. ERROR"),
        (NoVerdict.OK, "OK"),
    ],
)
def test_an_input_without_a_verdict_is_answered_as_the_operator_wants(
    rule: NoVerdict, text: str
) -> None:
    assert unknown("Unread", "a: b: c:d", rule) == text
    checks = made(no_verdict=rule)
    assert checks.without_verdict("Unread", "too long.") == unknown("Unread", "too long", rule)
    assert checks.counts.of(Count.UNREAD) == 1


@pytest.mark.parametrize(
    ("kind", "doubt", "counted"),
    [
        *((None, None, Count.CLEAN), (None, "Stale", Count.NO_VERDICT)),
        *((Kind.MATCH, None, Count.MATCH), (Kind.MATCH, "Stale", Count.MATCH)),
        *((Kind.CONFLICT, None, Count.CONFLICT), (Kind.UNREAD, "Stale", Count.UNREAD)),
        (Kind.EXCEPTED, None, Count.EXCEPTED),
    ],
)
def test_an_input_is_counted_by_its_verdict(
    kind: Kind | None, doubt: str | None, counted: Count
) -> None:
    checks = made()
    checks.count(None if kind is None else Outcome(kind, "x"), Lists(doubt))
    assert [count for count in Count if checks.counts.of(count)] == [counted]


@pytest.mark.parametrize(
    ("data", "lists", "opens", "said"),
    [
        (b"abc", Lists(), True, b"stream: OK"),
        (b"abcd", Lists(listed=True), True, b"stream: OK"),
        (b"abc", Lists(listed=True), True, None),
        (b"PK\3\4" + bytes(30), Lists(), True, None),
        (b"PK\3\4" + bytes(30), Lists(), False, b"stream: OK"),
        (b"", Lists(), True, b"stream: OK"),
        (b"abc", Lists("Stale"), True, b"FOUND"),
    ],
)
def test_a_small_stream_is_answered_at_once_if_it_is_surely_clean(
    data: bytes, lists: Any, opens: bool, said: bytes | None
) -> None:
    checks = made(lists, opens=opens)
    found = checks.clean_answer(memoryview(data))
    assert found is None if said is None else found.endswith(said)
    counted = [count for count in Count if checks.counts.of(count)]
    verdict = Count.CLEAN if lists.doubt is None else Count.NO_VERDICT
    expected = [] if said is None else [verdict, *([Count.BYTES] if data else [])]
    assert counted == expected and checks.counts.of(Count.BYTES) == (len(data) if said else 0)


@pytest.mark.parametrize(
    ("left", "kept"),
    [(8_000, 1_000), (7, 0), (8, 1), (KEPT_BYTES * 8 + 7, KEPT_BYTES), (10**9, KEPT_BYTES)],
)
@pytest.mark.parametrize(("opens", "fd"), [(True, None), (False, None), (True, 3)])
def test_a_stream_keeps_an_eighth_of_what_is_left_and_gives_it_back_once(
    left: int, kept: int, opens: bool, fd: int | None
) -> None:
    checks = made(opens=opens)
    checks._kept = Share(left, 100)
    client = SimpleNamespace(peer=EVE)
    before = time.monotonic()
    upload = checks.upload("stream", client, (b"", b"\0"), fd)
    assert before <= upload.began <= time.monotonic()
    assert (upload.kept_bytes, checks._kept.left) == (kept, left - kept)
    assert (upload.kept is not None) == (opens and fd is None)
    if upload.kept is not None:  # one user may have half of the spool
        assert upload.kept.room.take(50) and not upload.kept.room.take(1)
        upload.kept.room.give_back(50)
    assert (upload.fd, upload.name, upload.lists) == (fd, "stream", checks.lists)
    upload.fd = None
    for _ in range(2):
        checks.release(upload)
        assert (checks._kept.left, upload.kept_bytes, upload.kept) == (left, 0, None)


@pytest.mark.parametrize(
    ("length", "opens", "container", "queue"),
    [
        *((SMALL_BYTES, True, True, "small"), (SMALL_BYTES + 1, True, True, "large")),
        *((9, True, False, None), (9, False, True, None)),
    ],
)
@pytest.mark.parametrize("is_file", [True, False])
def test_large_containers_wait_apart_from_small_ones(
    length: int, opens: bool, container: bool, queue: str | None, is_file: bool
) -> None:
    checks = made(opens=opens)
    judged: list[Any] = []
    checks._judge_soon = judged.append
    upload = SimpleNamespace(
        client="client",
        opens=container and is_file,
        digester=SimpleNamespace(length=length),
        may_be_container=lambda: container and not is_file,
    )
    checks.ended(upload)
    assert checks.queued == ([] if queue is None else [(queue, "client")])
    assert judged == ([upload] if queue is None else [])
    assert SMALL_BYTES == 8 * 1024 * 1024
