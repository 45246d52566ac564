"""Paths that clients name: the daemon checks only what the client could read at that moment."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hashclient.config.settings import Config, Settings
from hashclient.core.kinds import Kind
from hashclient.daemon.lists import InUse
from hashclient.daemon.paths import Named, results_at
from hashclient.scan.check.checker import Checker
from hashclient.scan.values.work import Result, Task
from hashclient.session import Session
from hashclient.system.rights import Rights, acting_as
from tests.kit import csv_of, make_state, open_files, write_tree
from tests.kit.attacker import (
    ATTACKER,
    Victim,
    attack_once,
    attacking,
    exchange,
    give_tree,
    link,
    needs_root,
    open_ground,
    rename,
)

LISTED, OTHER = b"a benign file that the list names", b"another file, and of its length.."
CLIENT = Rights(ATTACKER, ATTACKER, ())
NOTHING = "nothing but clean files"


@pytest.fixture
def ground() -> Iterator[Path]:
    with open_ground() as made:
        yield made


@pytest.fixture
def lists(tmp_path: Path) -> InUse:
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    settings = Settings(state, state / "config.toml", None, Config())
    session = Session(settings, now=lambda: datetime.now(UTC), environ={})
    return InUse(session.open_lists(), session)


def ask(lists: InUse, path: Path | str, rights: Rights | None = CLIENT) -> dict[str, Kind]:
    """Check a path as a daemon does for a client, and return the inputs that are not clean."""
    with contextlib.closing(Named(str(path))) as named, acting_as(rights):
        results = list(results_at(lists, named))
    return {outcome.path: outcome.kind for result in results for outcome in result.outcomes}


def test_outcomes_have_real_paths_and_answers_have_the_given_one(
    lists: InUse, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"d/f": LISTED, "d/g": OTHER})
    (tmp_path / "way").symlink_to(tree)
    for given in (tmp_path / "way", tmp_path / "way" / "d", tmp_path / "way" / "d" / "f"):
        assert ask(lists, given, None) == {str(tree / "d" / "f"): Kind.MATCH}
        with contextlib.closing(Named(str(given))) as named:
            named.open()
            assert named.as_given(str(tree / "d" / "f")) == str(tmp_path / "way" / "d" / "f")
            assert named.as_given(str(given.resolve())) == str(given)


@pytest.mark.parametrize("name", ["none", "d/none/f", "fifo"])
def test_what_cannot_be_checked_is_unread_and_nothing_stays_open(
    lists: InUse, tmp_path: Path, name: str
) -> None:
    tree = write_tree(tmp_path / "t", {"d/f": OTHER})
    os.mkfifo(tree / "fifo")
    before = open_files()
    assert ask(lists, tree / name, None) == {str(tree / name): Kind.UNREAD}
    assert open_files() == before


@needs_root
@pytest.mark.parametrize("way", ["", "/f", "/sub", "/sub/f"])
def test_what_the_daemon_has_open_is_not_reached_through_proc(
    lists: InUse, ground: Path, way: str
) -> None:
    """The daemon has a file open for another client, in a directory closed to this client."""
    (ground / "closed").mkdir(mode=0o700)
    inner = write_tree(ground / "closed" / "inner", {"f": LISTED, "sub/f": LISTED})
    held = os.open(inner, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for start in ("/proc/self/fd", "/proc/thread-self/fd", f"/proc/{os.getpid()}/fd"):
            path = f"{start}/{held}{way}"
            assert ask(lists, path) == {path: Kind.UNREAD}
            assert set(ask(lists, path, None).values()) == {Kind.MATCH}
    finally:
        os.close(held)


@pytest.mark.sampled
@needs_root
@pytest.mark.parametrize("rounds", [6, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("one", "other"), [("d", "e"), ("d/f", "d/g"), ("d/f", "e/f"), ("d/x", "e/x")]
)
def test_no_listed_file_of_a_tree_is_answered_as_clean(
    lists: InUse, ground: Path, one: str, other: str, rounds: int
) -> None:
    """No listed file is answered as clean, even if its owner exchanges files meanwhile."""
    files = {"d/f": LISTED, "d/g": OTHER, "e/f": OTHER, "d/x/o": OTHER, "e/x/o": OTHER}
    tree = give_tree(ground / "tree", files)
    said: Counter[str] = Counter()
    with attacking(exchange(tree / one, tree / other), most_pause_us=200) as attack:
        for _ in range(rounds):
            found = ask(lists, tree)
            assert all(f"{path}/".startswith(f"{tree}/") for path in found), found
            said[",".join(sorted(set(found.values()))) or NOTHING] += 1
    assert attack.succeeded
    assert said[NOTHING] == 0, said


@pytest.mark.sampled
@needs_root
@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["up", "up/d", "up/d/f"])
def test_a_link_that_is_put_in_the_place_of_a_name_leads_to_nothing_closed(
    lists: InUse, ground: Path, name: str, rounds: int
) -> None:
    """The client may not enter the directory above the link's target, so files in it are safe."""
    victim = Victim(ground / "closed" / "up" / "d" / "f", LISTED)
    for open_to_all in (victim.path.parent.parent, victim.path.parent, victim.path):
        open_to_all.chmod(0o755)
    victim.look()
    (ground / "closed").chmod(0o700)
    tree = give_tree(ground / "tree", {"up/d/f": OTHER})
    attack_once(link(tree / "trap", ground / "closed" / name))
    with attacking(exchange(tree / "trap", tree / name), most_pause_us=50) as attack:
        for _ in range(rounds):
            for path in (tree, tree / "up", tree / "up" / "d", tree / "up" / "d" / "f"):
                assert Kind.MATCH not in ask(lists, path).values()
    assert attack.succeeded
    assert victim.is_untouched()


def test_a_listed_file_that_was_away_when_its_directory_was_read_is_found_when_it_is_back(
    lists: InUse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file takes the name while the listed file is away, and the listed file comes back."""
    tree = write_tree(tmp_path / "t", {"f": LISTED})
    tree.chmod(0o777)
    check, calls = Checker.check, list[Task]()

    def moving(checker: Checker, task: Task, **options: bool) -> Result:
        calls.append(task)
        if len(calls) > 1:
            return check(checker, task, **options)
        (tree / "f").rename(tmp_path / "away")
        write_tree(tree, {"f": OTHER})
        result = check(checker, task, **options)
        (tmp_path / "away").rename(tree / "f")
        return result

    monkeypatch.setattr(Checker, "check", moving)
    assert ask(lists, tree, None) == {str(tree / "f"): Kind.MATCH}
    assert len(calls) == 2


@needs_root
def test_a_file_that_is_moved_while_it_is_looked_at_is_never_another_one(
    lists: InUse, ground: Path
) -> None:
    tree = give_tree(ground / "tree", {"d/f": LISTED, "d/g": OTHER})
    steps = [rename(tree / "d" / "f", tree / "h"), rename(tree / "h", tree / "d" / "f")]
    with attacking(*steps, most_pause_us=50) as attack:
        for _ in range(50):
            found = ask(lists, tree / "d" / "f")
            assert set(found.values()) <= {Kind.MATCH, Kind.UNREAD} and found
    assert attack.succeeded
