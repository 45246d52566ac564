"""Answers about paths: the most important answer comes first; no answer contradicts another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from fixtures import archives
from hashclient.config.settings import Config, Settings
from hashclient.containers.limits import Options as Containers
from hashclient.core.digests import CHUNK_BYTES
from hashclient.core.kinds import Kind
from hashclient.core.model import Hit, Outcome
from hashclient.daemon import paths as module
from hashclient.daemon.checks import Checks
from hashclient.daemon.client import Form
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.lists import InUse
from hashclient.daemon.options import NoVerdict, Paths
from hashclient.daemon.paths import Named, check_path
from hashclient.daemon.protocol import Command
from hashclient.daemon.users import Peer
from hashclient.session import Session
from hashclient.system.rights import Rights
from tests.clamd import OPTIONS
from tests.kit import csv_of, make_state, open_files, write_tree

LISTED, ALSO = b"a benign file that is listed", b"another one"
#: A container with a listed member and a damaged member.
BOTH = archives.Zip().add(b"in", LISTED).add(b"bad", b"x", archives.STORED, local={"crc": 5}).end()
DAMAGED = archives.Zip().add(b"bad", b"x", archives.STORED, local={"crc": 5}).end()

Ask = Callable[[Command, Path, NoVerdict], list[str]]


class _Client:
    """A client at a port that reads all answers at once."""

    def __init__(self) -> None:
        self.peer = Peer("tcp", "192.0.2.1", is_local=False)
        self.is_closed = False
        self.lines: list[str] = []
        self.is_answered = False

    def answer(self, form: Form, lines: list[str], *, last: bool = True) -> None:
        assert not self.is_answered
        self.lines += lines
        self.is_answered = last


@pytest.fixture
def counts() -> Counts:
    return Counts(1)


@pytest.fixture
def checks(tmp_path: Path, counts: Counts) -> Iterator[Checks]:
    lists = {"base": csv_of({"e-1": LISTED, "e-2": ALSO}, sized=False)}
    state = make_state(tmp_path / "site", lists)
    settings = Settings(state, state / "config.toml", None, Config())
    session = Session(settings, now=lambda: datetime.now(UTC), environ={})
    options = replace(OPTIONS, paths=Paths.ANY, containers=Containers())
    made = Checks(session, options, counts.row(0), [], 1, 1)
    yield made
    made.end()


@pytest.fixture
def ask(checks: Checks) -> Ask:
    """Return the answer of a daemon about a path, with the path removed."""

    def asked(command: Command, path: Path, rule: NoVerdict) -> list[str]:
        checks.options = replace(checks.options, no_verdict=rule)
        client = _Client()
        whom: Any = client
        job = check_path(checks, whom, command, str(path), (b"", b"\n"))
        with contextlib.closing(job):
            for step in job:
                if step is not None and not step():
                    break
        assert client.is_answered
        return [line.removeprefix(str(path)) for line in client.lines]

    return asked


def test_a_check_ends_with_the_lists_that_were_there_when_it_was_asked_for(
    checks: Checks, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"clean")
    client: Any = _Client()
    job = check_path(checks, client, Command.SCAN, str(tmp_path / "f"), (b"", b"\n"))
    checks._lists.now = checks.lists.doubted()
    with contextlib.closing(job):
        for step in job:
            if step is not None and not step():
                break
    assert client.lines == [f"{tmp_path / 'f'}: OK"]


@pytest.mark.parametrize("command", [Command.SCAN, Command.CONTSCAN, Command.ALLMATCHSCAN])
def test_of_a_tree_the_matches_are_named_or_the_first_one(
    ask: Ask, counts: Counts, tmp_path: Path, command: Command
) -> None:
    tree = write_tree(tmp_path / "t", {"a": LISTED, "b": b"clean", "d/c": ALSO})
    found = ask(command, tree, NoVerdict.FOUND)
    every = {"/a: Hashclient.base.e-1 FOUND", "/d/c: Hashclient.base.e-2 FOUND"}
    if command is Command.SCAN:
        (one,) = found
        assert one in every
    else:
        assert set(found) == every and len(found) == 2
        assert counts.total(Count.MATCH) == 2
    assert ask(command, tree / "b", NoVerdict.FOUND) == [": OK"]


@pytest.mark.sampled
@pytest.mark.parametrize("rule", list(NoVerdict))
@pytest.mark.parametrize("command", [Command.CONTSCAN, Command.ALLMATCHSCAN])
def test_what_is_unread_is_no_answer_beside_a_match_unless_every_one_is_asked_for(
    ask: Ask, tmp_path: Path, command: Command, rule: NoVerdict
) -> None:
    """A container with a listed member is not clean, even if unread files count as clean."""
    tree = write_tree(tmp_path / "t", {"both": BOTH, "bad": DAMAGED})
    match = ": Hashclient.base.e-1 FOUND"
    found = ask(command, tree / "both", rule)
    alone = ask(command, tree / "bad", rule)
    assert alone and (alone == [": OK"]) == (rule is NoVerdict.OK)
    is_one = command is Command.CONTSCAN or rule is NoVerdict.OK
    assert found == [match, *(() if is_one else alone)]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (NoVerdict.FOUND, "Heuristics.Limits.Exceeded.Hashclient.Path FOUND"),
        (NoVerdict.ERROR, "not an absolute path. ERROR"),
        (NoVerdict.OK, "OK"),
    ],
)
def test_a_path_that_may_not_be_asked_about_has_one_answer_and_is_not_counted(
    ask: Ask, counts: Counts, rule: NoVerdict, said: str
) -> None:
    assert ask(Command.CONTSCAN, Path("relative"), rule) == [f": {said}"]
    assert sum(counts.total(count) for count in Count) == 0


def run(
    checks: Checks, path: str, command: Command = Command.CONTSCAN, *, end: bytes = b"\n"
) -> list[str]:
    """Check a path for a client at a port; return the lines of the answer."""
    client: Any = _Client()
    with contextlib.closing(check_path(checks, client, command, path, (b"", end))) as job:
        for step in job:
            if step is not None and not step():
                break
    assert client.is_answered
    return list(client.lines)


@pytest.mark.parametrize(("end", "shown"), [(b"\n", "a_b"), (b"\0", "a\nb")])
def test_a_name_does_not_end_the_line_of_its_answer(
    checks: Checks, tmp_path: Path, end: bytes, shown: str
) -> None:
    tree = write_tree(tmp_path / "t", {"a\nb": LISTED})
    assert run(checks, str(tree), end=end) == [f"{tree}/{shown}: Hashclient.base.e-1 FOUND"]


def test_an_input_is_counted_by_what_was_found(
    checks: Checks, counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"c/a": b"clean", "c/b": b"clean too", "m/a": LISTED, "m/b": ALSO, "m/c": b"clean"}
    tree = write_tree(tmp_path / "t", files)

    def totals() -> dict[str, int]:
        kinds = (Count.CLEAN, Count.MATCH, Count.EXCEPTED, Count.UNREAD, Count.NO_VERDICT)
        return {count.name: counts.total(count) for count in kinds if counts.total(count)}

    assert run(checks, str(tree / "c")) == [f"{tree}/c: OK"]
    assert totals() == {"CLEAN": 1}  # a tree without a match is one clean input
    assert len(run(checks, str(tree / "m"))) == 2
    assert totals() == {"CLEAN": 1, "MATCH": 2}
    lists = checks.lists

    def rule(outcome: Outcome) -> Outcome:
        is_first = bool(outcome.hits) and outcome.hits[0].entry == "e-1"
        return msgspec.structs.replace(outcome, kind=Kind.EXCEPTED) if is_first else outcome

    monkeypatch.setattr(lists, "rule", rule)
    assert run(checks, f"{tree}/m/a") == [f"{tree}/m/a: OK"]
    assert totals() == {"CLEAN": 1, "MATCH": 2, "EXCEPTED": 1}
    assert run(checks, str(tree / "m")) == [f"{tree}/m/b: Hashclient.base.e-2 FOUND"]
    assert totals() == {"CLEAN": 1, "MATCH": 3, "EXCEPTED": 2}
    monkeypatch.setattr(lists, "known_doubt", "Missing")
    missing = "Heuristics.Limits.Exceeded.Hashclient.Missing FOUND"
    assert run(checks, str(tree / "c")) == [f"{tree}/c: {missing}"]
    assert totals() == {"CLEAN": 1, "MATCH": 3, "EXCEPTED": 2, "NO_VERDICT": 1}


@pytest.mark.parametrize("command", [Command.CONTSCAN, Command.ALLMATCHSCAN])
def test_every_entry_of_a_file_is_named_if_that_is_asked_for(
    tmp_path: Path, command: Command
) -> None:
    lists = {"base": csv_of({"e-1": LISTED}), "more": csv_of({"f-1": LISTED})}
    state = make_state(tmp_path / "site", lists)
    settings = Settings(state, state / "config.toml", None, Config())
    session = Session(settings, now=lambda: datetime.now(UTC), environ={})
    checks = Checks(session, replace(OPTIONS, paths=Paths.ANY), Counts(1).row(0), [], 1, 1)
    (tmp_path / "f").write_bytes(LISTED)
    found = run(checks, f"{tmp_path}/f", command)
    checks.end()
    names = ["Hashclient.base.e-1", "Hashclient.more.f-1"]
    count = 2 if command is Command.ALLMATCHSCAN else 1
    assert found == [f"{tmp_path}/f: {name} FOUND" for name in names[:count]]


def test_kinds_that_are_not_opened_are_counted(
    checks: Checks, counts: Counts, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"disk": b"QFI\xfb\0\0\0\3" + bytes(600), "f": b"clean"})
    assert run(checks, str(tree)) == [f"{tree}: OK"]
    assert sum(counts.not_opened().values()) == 1


@pytest.mark.parametrize("is_trusted", [True, False])
def test_each_match_of_a_trusted_client_is_recorded_and_of_others_the_first_of_an_hour(
    checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trusted: bool
) -> None:
    (tmp_path / "f").write_bytes(LISTED)
    rights = Rights(0, 0, ()) if is_trusted else None
    peer = Peer("serve:s", "u", is_local=True, rights=rights)
    asked: list[tuple[str | None, bool]] = []
    add = checks.records.of_paths.add

    def noted(found: Any, lists: InUse, *, each: bool) -> Any:
        asked.extend((outcome.door, each) for outcome in found)
        return add(found, lists, each=each)

    monkeypatch.setattr(checks.records.of_paths, "add", noted)
    monkeypatch.setattr(_Client, "peer", peer, raising=False)
    monkeypatch.setattr(_Client, "__init__", _bare)
    run(checks, f"{tmp_path}/f")
    assert asked == [("serve:s", is_trusted)]


def _bare(client: _Client) -> None:
    client.is_closed = client.is_answered = False
    client.lines = []


@pytest.mark.parametrize("why", ["closed", "stopping"])
def test_a_long_read_ends_when_nobody_waits_for_its_answer(
    checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    (tmp_path / "f").write_bytes(bytes(3 * CHUNK_BYTES))
    client: Any = _Client()
    path = f"{tmp_path}/f"
    before = open_files()
    with contextlib.closing(check_path(checks, client, Command.SCAN, path, (b"", b"\n"))) as job:
        client.is_closed = why == "closed"
        monkeypatch.setattr(checks, "is_stopping", why == "stopping")
        with pytest.raises(module._DroppedError):
            next(job)
    assert client.lines == []
    assert checks.openers is not None
    checks.openers.stop()
    assert open_files() <= before + 3  # the process that opens containers


# Paths as clients name them


@pytest.mark.parametrize("given", ["/", "//", "/dir/", "/dir", "/dir/f"])
def test_a_path_in_an_answer_begins_as_the_client_has_named_it(tmp_path: Path, given: str) -> None:
    tree = write_tree(tmp_path / "dir", {"f": b"x", "e/g": b"y"})
    path = given if given in ("/", "//") else f"{tmp_path}{given}"
    with contextlib.closing(Named(path)) as named:
        named.open()
        assert not os.get_inheritable(named._fd)
        real = str(Path(path).resolve())
        held = f"/proc/self/fd/{named._fd}"
        below = "" if given == "/dir/f" else "/e/g"
        if given == "/dir/f":
            held += "/f"
        found = named.real(Outcome(Kind.UNREAD, held + below)).path
        assert found == (real.rstrip("/") + below or "/")
        assert named.as_given(found) == path.rstrip("/") + below
        assert named.as_given(real) == path
        assert named.real(Outcome(Kind.UNREAD, held)).path == real
    assert tree.is_dir() and named._fd == -1
    named.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "no such file or directory"),
        ("fifo", "named pipe"),
        ("f/g", "not a directory"),
        ("a\0b", "no file can have this name"),
        ("\ud800", "no file can have this name"),
    ],
)
def test_a_path_that_cannot_be_checked_has_its_reason(
    checks: Checks, tmp_path: Path, name: str, reason: str
) -> None:
    write_tree(tmp_path, {"f": b"x"})
    os.mkfifo(tmp_path / "fifo")
    checks.options = replace(checks.options, no_verdict=NoVerdict.ERROR)
    assert run(checks, f"{tmp_path}/{name}") == [f"{tmp_path}/{name}: {reason}. ERROR"]


@pytest.mark.parametrize("what", ["deleted", "another", "replaced"])
def test_a_path_that_leads_to_another_file_meanwhile_is_unread(
    checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A link in /proc leads to a file that only this process has open."""
    tree = write_tree(tmp_path / "t", {"f": LISTED, "other": b"clean"})
    before = open_files()
    with (tree / "f").open("rb") as held:
        path = f"/proc/self/fd/{held.fileno()}"
        readlink = os.readlink
        if what == "another":
            monkeypatch.setattr(os, "readlink", lambda _: str(tree / "other"))
        else:
            (tree / "f").unlink()
            write_tree(tree, {"f": b"clean"} if what == "replaced" else {})
        if what == "replaced":
            monkeypatch.setattr(os, "readlink", lambda at: readlink(at).removesuffix(" (deleted)"))
        checks.options = replace(checks.options, no_verdict=NoVerdict.ERROR)
        assert run(checks, path) == [f"{path}: no such file or directory. ERROR"]
    assert open_files() == before


def test_links_and_pipes_below_a_path_are_passed_over(checks: Checks, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"d/f": b"clean"})
    outside = write_tree(tmp_path / "outside", {"f": LISTED})
    (tree / "file").symlink_to(outside / "f")
    (tree / "d" / "directory").symlink_to(outside)
    os.mkfifo(tree / "pipe")
    assert run(checks, str(tree)) == [f"{tree}: OK"]
    # A link in the path itself is followed.
    assert run(checks, f"{tree}/file") == [f"{tree}/file: Hashclient.base.e-1 FOUND"]


def outcome(kind: Kind, path: str = "/a", entry: str = "e-1") -> Outcome:
    hits = (Hit("l", entry, "c", 1, (), kind is Kind.MATCH),)
    return Outcome(kind, path, hits=hits, reason="broken")


UNREAD = "Heuristics.Limits.Exceeded.Hashclient.Unread FOUND"


@pytest.mark.parametrize(
    ("kinds", "rule", "every", "said"),
    [
        ([Kind.UNREAD], NoVerdict.OK, True, ["OK"]),
        ([Kind.UNREAD, Kind.UNREAD], NoVerdict.OK, True, ["OK"]),
        ([Kind.UNREAD, Kind.MATCH], NoVerdict.OK, True, ["Hashclient.l.e-1 FOUND"]),
        ([Kind.UNREAD, Kind.MATCH], NoVerdict.OK, False, ["Hashclient.l.e-1 FOUND"]),
        ([Kind.UNREAD, Kind.MATCH], NoVerdict.FOUND, True, [UNREAD, "Hashclient.l.e-1 FOUND"]),
        ([Kind.UNREAD, Kind.MATCH], NoVerdict.FOUND, False, ["Hashclient.l.e-1 FOUND"]),
        ([Kind.MATCH, Kind.MATCH], NoVerdict.FOUND, True, ["Hashclient.l.e-1 FOUND"]),
        ([Kind.EXCEPTED, Kind.UNREAD], NoVerdict.ERROR, True, ["broken. ERROR"]),
        ([Kind.EXCEPTED], NoVerdict.ERROR, True, ["OK"]),
    ],
)
def test_of_a_file_no_answer_contradicts_another(
    kinds: list[Kind], rule: NoVerdict, every: bool, said: list[str]
) -> None:
    found = module._said([outcome(kind) for kind in kinds], None, rule, every=every)
    assert list(found) == [("/a", text) for text in said]


def test_answers_name_files_in_the_order_in_which_they_were_found() -> None:
    given = [outcome(Kind.MATCH, path, path[1:]) for path in ("/b", "/a", "/b", "/c")]
    found = list(module._said(given, None, NoVerdict.FOUND, every=False))
    assert found == [(f"/{name}", f"Hashclient.l.{name} FOUND") for name in "bac"]
