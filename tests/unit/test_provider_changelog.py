"""The log of a provider: each change is logged before it is published."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.client import csv
from fixtures.simulator import Simulator
from hashclient.audit import log as audit_log
from hashclient.core.errors import AuditError, StateError, UsageError
from hashclient.notices.document import Severity
from hashclient.provider.keys import Keys
from hashclient.provider.notices import NoticeBoard, Said
from hashclient.provider.repository import Repository
from hashclient.system.beneath import Directory
from tests.kit import call

CHANGES: dict[str, tuple[str, Callable[[Simulator], object]]] = {
    "a list": ("list-published", lambda s: s.publish(csv(range(5, 8)))),
    "a new list": ("list-published", lambda s: s.publish(csv(range(3)), "other")),
    "a withdrawal": ("entries-withdrawn", lambda s: s.withdraw("1-1")),
    "a consolidation": (
        "list-consolidated",
        lambda s: s.repository.consolidate("baseline", keep_newest=0),
    ),
    "an undone generation": (
        "generation-reverted",
        lambda s: s.repository.revert("baseline", 2),
    ),
    "a renewal": ("roles-renewed", lambda s: s.renew()),
    "new keys of a list": ("keys-rotated", lambda s: s.rotate("baseline")),
    "new keys of the root": ("keys-rotated", lambda s: s.rotate("root")),
    "new keys of targets": ("keys-rotated", lambda s: s.rotate("targets")),
}


def sums(numbers: range) -> bytes:
    """Return a table without ids, so that entries get the ids `<generation>-<number>`."""
    return b"".join(b"%032x\n" % (number + 1) for number in numbers)


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    made = Simulator(tmp_path / "repo")
    made.publish(sums(range(3)))
    made.publish(sums(range(20, 23)))
    return made


def events(simulator: Simulator) -> list[str]:
    return [record.event for record in audit_log.read(simulator.repository.log.directory)]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_recorded_before_it_is_seen(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    event, change = CHANGES[name]
    rename, seen = Directory.rename, list[list[str]]()
    before = len(events(simulator))

    def replace(directory: Directory, source: str, target: str) -> None:
        if target == "timestamp.json" or target.endswith(".root.json"):
            seen.append(events(simulator)[before:])
        rename(directory, source, target)

    monkeypatch.setattr(Directory, "rename", replace)
    change(simulator)
    assert seen and all(found == [event] for found in seen)
    assert events(simulator)[before:] == [event]
    audit_log.verify(simulator.repository.log.directory)
    record = list(audit_log.read(simulator.repository.log.directory))[-1]
    roles = simulator.repository.load()
    assert record.data["root"] == roles.root.signed.version or name == "new keys of targets"
    assert record.data["timestamp"] == roles.timestamp.signed.version


@pytest.mark.sampled
@pytest.mark.parametrize("name", CHANGES)
def test_a_failed_change_is_recorded(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    event, change = CHANGES[name]
    rename, before = Directory.rename, len(events(simulator))

    def replace(directory: Directory, source: str, target: str) -> None:
        if target == "timestamp.json" or target.endswith(".root.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(directory, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "rename", replace)
        with pytest.raises(StateError):
            change(simulator)
    assert events(simulator)[before:] == [event, "change-failed"]


def test_without_a_log_nothing_is_published(simulator: Simulator) -> None:
    (simulator.repository.log.directory / "log.jsonl").write_text("something else\n")
    published = (simulator.repository.public / "metadata/timestamp.json").read_bytes()
    for change in (lambda: simulator.publish(csv(range(30, 33))), simulator.renew):
        with pytest.raises(AuditError):
            change()
    assert (simulator.repository.public / "metadata/timestamp.json").read_bytes() == published


def test_the_name_of_who_publishes_is_recorded(simulator: Simulator) -> None:
    """The name is also recorded for a change without an event in the log."""
    with simulator.repository.changing():
        roles = simulator.repository.load()
        roles.commit({"targets"})
    assert events(simulator)[-1] == "repository-changed"


def test_notices_are_recorded_before_they_are_seen(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, seen = NoticeBoard(simulator.repository), list[str]()
    rename = Directory.rename

    def replace(directory: Directory, source: str, target: str) -> None:
        if target == "timestamp.json":
            seen.append(events(simulator)[-1])
        rename(directory, source, target)

    monkeypatch.setattr(Directory, "rename", replace)
    draft = Said(sender="a", event="b", headline="c", severity=Severity.MINOR)
    first = board.publish(draft, simulator.now)
    board.cancel([first.id], Said(), simulator.now)
    assert seen == ["notice-published", "notice-published"]
    record = list(audit_log.read(simulator.repository.log.directory))[-2]
    assert (record.data["notice"], record.data["type"]) == (first.id, "Alert")


def test_an_act_that_changes_nothing_is_not_recorded(simulator: Simulator) -> None:
    before = events(simulator)
    simulator.publish(csv(range(30, 33)), dry_run=True)
    simulator.repository.consolidate("baseline")
    for wrong in (b"md5\nnonsense\n", b"md5\n"):
        with pytest.raises(UsageError):
            simulator.publish(wrong)
    assert events(simulator) == before


def test_a_failure_is_not_taken_for_one_of_an_earlier_change(simulator: Simulator) -> None:
    with pytest.raises(UsageError):
        simulator.withdraw("no-such-entry")
    assert events(simulator)[-1] == "list-published"


def test_the_log_has_no_digest_and_no_key(simulator: Simulator) -> None:
    simulator.withdraw("1-1", "1-2")
    text = (simulator.repository.log.directory / "log.jsonl").read_text()
    assert '"entries":["1-1","1-2"]' in text
    assert f"{1:032x}" not in text
    assert "PRIVATE" not in text


def test_a_repository_of_before_begins_its_log_with_the_next_change(simulator: Simulator) -> None:
    for path in simulator.repository.log.directory.iterdir():
        path.unlink()
    simulator.repository.log.directory.rmdir()
    where = simulator.repository.directory
    shown = call("provider", "log", "show", where)
    assert (shown.code, f"no log yet: {where}/log" in shown.err) == (8, True)
    simulator.renew()
    assert events(simulator) == ["genesis", "roles-renewed"]


def test_the_commands(tmp_path: Path) -> None:
    repo, entries = tmp_path / "repo", tmp_path / "entries.csv"
    entries.write_bytes(csv(range(3)))
    assert call("provider", "init", repo, "--keys", "3", "--threshold", "2").code == 0
    assert call("provider", "publish", repo, "--list", "baseline", entries).code == 0
    lines = call("provider", "log", "show", repo, "--format", "jsonl").lines
    assert [line["event"] for line in lines] == ["genesis", "repository-created", "list-published"]
    assert (lines[1]["data"]["keys"], lines[1]["data"]["threshold"]) == (3, 2)
    assert lines[2]["data"]["operator"]
    shown = call("provider", "log", "show", repo, "--event", "list-published").out
    assert "list=baseline generation=1 added=3 withdrawn=0 live=3" in shown
    assert call("provider", "log", "checkpoint", repo, "-o", tmp_path / "point").code == 0
    verified = call(
        *("provider", "log", "verify", repo, "--checkpoint", tmp_path / "point"),
        *("--format", "json"),
    )
    assert json.loads(verified.out)["records"] == 3
    log = repo / "log/log.jsonl"
    log.write_text(log.read_text().replace('"added":3', '"added":4'))
    assert call("provider", "log", "verify", repo).code == 9
    assert call("provider", "log", "verify", tmp_path).code == 8


def test_the_log_names_the_operator(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    named = Repository(tmp_path / "repo", clock=lambda: simulator.now, operator="alice")
    named.rotate("root", Keys(2, 2))
    record = list(audit_log.read(named.log.directory))[-1]
    assert (record.event, record.data["operator"]) == ("keys-rotated", "alice")
