"""One process of the daemon, with real lists: streams from their first byte to their answer."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from hashclient.audit.log import read
from hashclient.containers.unopened import NAMES
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon import checks as module
from hashclient.daemon.checks import KEPT_SHARE, READERS, Checks
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.ledger import Ledger
from hashclient.daemon.lists import Lists
from hashclient.daemon.options import NoVerdict
from hashclient.daemon.users import HandedOver, Peer, Share
from hashclient.scan.check.kept import MEMORY_BYTES
from tests.clamd import OPTIONS
from tests.kit import State

LISTED, OTHER = b"listed", b"other!"
EVE = Peer("serve:s,uid=70001", "uid=70001", True)
FORM = (b"1: ", b"\0")


class Asker:
    """A client that keeps its answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, wanted: int = 0) -> None:
        self.peer, self.is_closed, self.has_room = EVE, False, True
        self.files = HandedOver(Share(4, 100), EVE)
        self.said: list[str] = []
        self._loop, self._wanted = loop, wanted

    def answer(self, form: object, lines: list[str], *, last: bool = True) -> None:
        assert form == FORM and last
        self.said += lines
        if self._loop is not None and len(self.said) == self._wanted:
            self._loop.stop()

    def close_if_gone(self) -> None:
        """Stay connected."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    return State(tmp_path_factory.mktemp("daemon"), {"base": {"e-1": LISTED}})


@pytest.fixture
def counts() -> Counts:
    return Counts(1)


@pytest.fixture
def checks(state: State, counts: Counts) -> Iterator[Checks]:
    made = Checks(state.client.session, OPTIONS, counts.row(0), ("unix:/s",), 4711, 5)
    yield made
    if not made.loop.is_closed():
        made.end()


def ask(checks: Checks, *contents: bytes) -> list[str]:
    """Let a client send streams that end together; return the answers."""
    client: Any = Asker(checks.loop, len(contents))
    for content in contents:
        upload = checks.upload("stream", client, FORM)
        upload.update(memoryview(content))
        checks.ended(upload)
    checks.loop.run_forever()
    return list(client.said)


def test_streams_are_answered_counted_and_recorded(
    state: State, checks: Checks, counts: Counts
) -> None:
    said = ask(checks, LISTED, b"clean", OTHER, LISTED)
    found, clean = "stream: Hashclient.base.e-1 FOUND", "stream: OK"
    assert sorted(said) == [found, found, clean, clean]
    total = {c: counts.total(c) for c in (Count.MATCH, Count.CLEAN, Count.BYTES, Count.FAILURES)}
    assert total == {Count.MATCH: 2, Count.CLEAN: 2, Count.BYTES: 23, Count.FAILURES: 0}
    assert counts.times()[0][-1] == 4
    assert 0 <= counts.times()[1] < 1  # clean streams took no time, and the others little
    assert checks._kept.left == OPTIONS.kept_bytes and not checks._ended
    checks.end()
    assert checks.loop.is_closed()
    start, match, again, end = list(read(state.path / "audit"))[-4:]
    assert (start.event, start.data["arguments"]) == ("serve-start", ["unix:/s"])
    assert (match.event, match.data["path"]) == ("match", EVE.door)
    assert (again.event, again.data["times"]) == ("match", 1)
    assert (end.event, end.data["match"]) == ("serve-end", 2)


def test_lists_are_opened_again_when_they_must_be(tmp_path: Path, counts: Counts) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    checks = Checks(state.client.session, OPTIONS, counts.row(0), (), 1, 1)
    before = checks.lists
    checks.refresh()
    assert (checks.lists is before, counts.total(Count.RELOADS)) == (True, 0)
    state.add({"e-2": OTHER})
    early: Any = Asker()
    upload = checks.upload("stream", early, FORM)
    upload.update(memoryview(OTHER))
    checks.refresh(force=True)
    assert (checks.lists is before, counts.total(Count.RELOADS)) == (False, 1)
    assert ask(checks, OTHER) == ["stream: Hashclient.base.e-2 FOUND"]
    # A stream is judged with the lists that were in use when it began.
    checks.ended(upload)
    assert early.said == ["stream: OK"]
    checks.end()
    starts = [r.data["lists"] for r in read(state.path / "audit") if r.event == "serve-start"]
    assert [lists[0]["generation"] for lists in starts] == [1, 2]


def test_the_shares_are_those_of_the_options(checks: Checks) -> None:
    root = Peer("serve:s,uid=0", "uid=0", True)
    assert (checks.open_files.left, checks._kept.left) == (5, OPTIONS.kept_bytes)
    assert checks.open_files.take(EVE, 2) and not checks.open_files.take(EVE)  # 50 % of 5
    assert checks._spooled.left == MEMORY_BYTES + OPTIONS.spool_bytes
    assert not checks._spooled.take(root, (MEMORY_BYTES + OPTIONS.spool_bytes) // 2 + 1)
    assert checks._kept.take(EVE, OPTIONS.kept_bytes)  # one user may have all
    assert [turns._threads.left for turns in checks._turns] == [READERS, READERS, 8, 4]
    assert checks._turns == (checks.paths, checks.files, checks._openings, checks._large)
    assert [turns._threads._of_each for turns in checks._turns] == [4, 4, 4, 2]
    assert (READERS, KEPT_SHARE, module.OPENERS, module.OPENERS_OF_LARGE) == (8, 8, 8, 4)
    assert checks.openers is None and checks.is_stopping is False


def test_a_stream_without_a_match_is_doubted_as_its_lists_are(
    checks: Checks, counts: Counts
) -> None:
    client: Any = Asker()
    upload = checks.upload("stream", client, FORM)
    upload.lists = checks.lists.doubted()
    checks.ended(upload)
    limits = "Heuristics.Limits.Exceeded.Hashclient"
    assert client.said == [f"stream: {limits}.Missing FOUND"]
    assert (counts.total(Count.NO_VERDICT), counts.total(Count.CLEAN)) == (1, 0)
    checks.options = replace(checks.options, no_verdict=NoVerdict.ERROR)
    for is_file in (False, True):
        unread = checks.upload("fd[3]", client, FORM)
        unread.is_file = is_file
        client.files.begin()
        checks.unread(unread, "disk: is broken")
        assert client.said[-1] == "fd[3]: disk, is broken. ERROR"
        # Only the answer about an open file frees the client's share of open files.
        assert client.files._files == 1
    assert counts.total(Count.UNREAD) == 2


@pytest.mark.parametrize("act", [True, False])
@pytest.mark.parametrize("exceptions", [True, False])
def test_the_policy_and_the_exceptions_are_applied_as_the_options_say(
    state: State, counts: Counts, monkeypatch: pytest.MonkeyPatch, act: bool, exceptions: bool
) -> None:
    made: list[tuple[Any, Any]] = []

    def noted_ledger(*given: Any, **how: Any) -> Any:
        made.append(("act", how["act"]))
        return Ledger(*given, **how)

    def noted_lists(*given: Any, **how: Any) -> Any:
        made.append(("exceptions", how["exceptions"]))
        return Lists(*given, **how)

    monkeypatch.setattr(module, "Ledger", noted_ledger)
    monkeypatch.setattr(module, "Lists", noted_lists)
    options = replace(OPTIONS, act=act, exceptions=exceptions)
    Checks(state.client.session, options, counts.row(0), (), 1, 1).end()
    assert made == [("exceptions", exceptions), ("act", act), ("act", act)]


@pytest.mark.parametrize("streams", [1, 3])
def test_the_time_of_an_answer_is_that_of_its_judgement(
    monkeypatch: pytest.MonkeyPatch, counts: Counts, streams: int
) -> None:
    """Streams that are judged together are answered together."""
    checks = bare([])
    checks.counts = counts.row(0)
    moments = iter([10.0, 10.75])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    judged: list[Any] = []
    monkeypatch.setattr(module, "judge", judged.append)
    uploads: list[Any] = [
        SimpleNamespace(digester=SimpleNamespace(length=5), outcome="outcome")
        for _ in range(streams)
    ]
    checks._ended = list(uploads)
    checks._judge()
    assert (judged, checks._ended) == ([uploads], [])
    assert counts.times()[1] == 0.75 * streams
    assert counts.total(Count.BYTES) == 5 * streams


class Tool:
    """Replaces turns, openers, records and the loop, and notes its calls under its name."""

    def __init__(self, name: str, calls: list[tuple[object, ...]]) -> None:
        self._name, self._calls = name, calls

    def __getattr__(self, what: str) -> Any:
        return lambda *given: self._calls.append((self._name, what, *given))


def bare(calls: list[tuple[object, ...]], *, opens: bool = True) -> Any:
    """Return the checks of a process whose parts are tools."""
    checks: Any = Checks.__new__(Checks)
    checks._turns = tuple(Tool(f"turns {n}", calls) for n in range(3))
    checks.openers = Tool("openers", calls) if opens else None
    checks.records = Tool("records", calls)
    checks.records.of_paths = Tool("paths", calls)
    checks.loop = Tool("loop", calls)
    checks.counts, checks._ended = Counts(1).row(0), []
    return checks


@pytest.mark.parametrize("opens", [True, False])
def test_the_parts_of_a_process_end_in_an_order_in_which_none_waits(opens: bool) -> None:
    calls: list[tuple[object, ...]] = []
    checks = bare(calls, opens=opens)
    of_turns = [(f"turns {n}",) for n in range(3)]
    checks.resume("ada")
    assert calls == [(*one, "resume", "ada") for one in of_turns]
    calls.clear()
    checks.closed("ada")
    stopped = [("openers", "stop", "ada")] if opens else []
    assert calls == [*((*one, "drop", "ada") for one in of_turns), *stopped]
    calls.clear()
    checks.end()
    # A stopped opener lets the thread end that waits for it.
    assert calls == [
        ("records", "end_streams"),
        *([("openers", "stop")] if opens else []),
        *((*one, "close") for one in of_turns),
        ("paths", "end"),
        *([("openers", "close")] if opens else []),
        ("loop", "close"),
    ]


@pytest.mark.parametrize("fails", [True, False])
def test_a_container_is_opened_for_its_client_and_let_go(
    tmp_path: Path, checks: Checks, fails: bool
) -> None:
    opened: list[object] = []

    def open_(upload: object, client: object) -> None:
        opened.append((upload, client))
        if fails:
            raise OSError(errno.EIO, "Input/output error")

    client: Any = Asker()
    (tmp_path / "f").write_bytes(b"f")
    for rest in ([], [None], [None, "step"]):  # how far the job has come when it is closed
        fd = os.open(tmp_path / "f", os.O_RDONLY)
        upload = checks.upload("fd[9]", client, FORM, fd)
        client.files.begin()
        openers: Any = SimpleNamespace(open=open_)
        with closing(checks._open(openers, upload)) as job:
            os.fstat(fd)  # the file is open
            assert not opened
            if rest:
                step = next(job)
                assert step is not None and opened.pop() == (upload, client)
                step()
                if not fails:
                    checks._judge()
        assert upload.fd is None and upload.kept_bytes == 0
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    unread = "fd[9]: Heuristics.Limits.Exceeded.Hashclient.Unread FOUND"
    assert client.said == [unread if fails else "fd[9]: OK"] * 2


def test_containers_that_are_not_opened_are_counted_where_the_stream_is(
    state: State, checks: Checks, counts: Counts
) -> None:
    client: Any = Asker()
    upload = checks.upload("stream", client, FORM)
    upload.not_opened = {NAMES[0]: 2}
    checks.ended(upload)
    assert client.said == ["stream: OK"] and counts.not_opened() == {NAMES[0]: 2}
    checks.end()
    (end,) = read(state.path / "audit", limit=1)
    assert end.data["not_opened"] == {NAMES[0]: 2}


def test_a_member_that_is_unread_is_answered_and_not_recorded(
    state: State, checks: Checks, counts: Counts
) -> None:
    client: Any = Asker(checks.loop, 1)
    upload = checks.upload("stream", client, FORM)
    upload.inside = [Outcome(Kind.UNREAD, EVE.door, reason="broken", is_stream=True)]
    checks.ended(upload)
    checks.loop.run_forever()
    assert client.said == ["stream: Heuristics.Limits.Exceeded.Hashclient.Unread FOUND"]
    assert (counts.total(Count.UNREAD), counts.total(Count.MATCH)) == (1, 0)
    checks.end()
    assert [r.event for r in list(read(state.path / "audit"))[-2:]] == ["serve-start", "serve-end"]
