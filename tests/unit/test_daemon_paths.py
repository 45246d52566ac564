"""Answers about paths: the most important answer comes first; no answer contradicts another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fixtures import archives
from hashclient.config.settings import Config, Settings
from hashclient.containers.limits import Options as Containers
from hashclient.daemon.checks import Checks
from hashclient.daemon.client import Form
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.options import NoVerdict, Paths
from hashclient.daemon.paths import check_path
from hashclient.daemon.protocol import Command
from hashclient.daemon.users import Peer
from hashclient.session import Session
from tests.clamd import OPTIONS
from tests.kit import csv_of, make_state, write_tree

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
