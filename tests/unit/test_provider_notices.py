"""The provider's side of notices: the role, its keys and files, and removed notices."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import Metadata, Targets

from fixtures.client import csv
from hashclient.core.errors import StateError, UsageError
from hashclient.notices.document import Severity
from hashclient.notices.lifecycle import State
from hashclient.provider import notices
from hashclient.provider.keys import Keys
from hashclient.provider.notices import REMOVED_AFTER, NoticeBoard, Said
from hashclient.provider.repository import Repository
from hashclient.trust.additions import FIELD, NOTICES

NOW = datetime(2026, 5, 1, 12, 0, 0, 5, tzinfo=UTC)
FIRST = Said(
    sender="lists@provider.test", event="test", severity=Severity.MINOR, headline="The first"
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> Repository:
    repository = Repository(tmp_path / "repo", clock=clock)
    repository.create()
    return repository


@pytest.fixture
def board(repository: Repository) -> NoticeBoard:
    return NoticeBoard(repository)


def published(repository: Repository) -> list[str]:
    return sorted(path.name for path in (repository.public / "targets" / NOTICES).iterdir())


def roles(repository: Repository) -> dict[str, int]:
    return {role.name: role.version for role in repository.status().roles}


def test_the_first_notice_makes_the_role_with_keys_of_its_own(
    repository: Repository, board: NoticeBoard
) -> None:
    before = roles(repository)
    assert NOTICES not in before
    notice = board.publish(FIRST, NOW, keys=Keys(3, 2))
    after = roles(repository)
    assert after[NOTICES] == 1 and after["targets"] == before["targets"] + 1
    assert after["root"] == before["root"]
    (role,) = [role for role in repository.status().roles if role.name == NOTICES]
    assert (role.keys, role.threshold) == (3, 2)
    assert len(list((repository.directory / "keys").glob("notices-*.pem"))) == 3
    assert notice.id == "n-20260501t120000" and notice.sent == NOW.replace(microsecond=0)
    board.publish(FIRST, NOW)
    assert roles(repository) == {
        name: version + (name in {NOTICES, "snapshot", "timestamp"})
        for name, version in after.items()
    }


def test_the_delegation_stands_where_others_pass_over_it(
    repository: Repository, board: NoticeBoard
) -> None:
    board.publish(FIRST, NOW)
    repository.publish("baseline", [("x.csv", io.BytesIO(csv(range(2))))])
    path = max((repository.public / "metadata").glob("*.targets.json"))
    targets = Metadata[Targets].from_file(str(path)).signed
    assert targets.delegations is not None
    assert list(targets.delegations.roles or {}) == ["baseline"]
    (role,) = targets.unrecognized_fields[FIELD]["roles"]
    assert (role["name"], role["paths"], role["terminating"]) == ("notices", ["notices/*"], True)


def test_ids_differ_within_a_second(board: NoticeBoard) -> None:
    ids = [board.publish(FIRST, NOW).id for _ in range(3)]
    assert ids == ["n-20260501t120000", "n-20260501t120000-2", "n-20260501t120000-3"]
    with pytest.raises(UsageError, match="has this id already"):
        board.publish(msgspec.structs.replace(FIRST, id=ids[0]), NOW)


def test_fields_that_are_not_given_stay_as_before(board: NoticeBoard) -> None:
    first = board.publish(msgspec.structs.replace(FIRST, instruction="Do", lists=("a",)), NOW)
    second = board.update([first.id], Said(headline="Another"), NOW)
    assert (second.instruction, second.lists, second.headline) == ("Do", ("a",), "Another")
    assert second.references == (first.reference,)
    # The update is sent a second after the notice to which it refers, even if both are made in one
    # second.
    assert second.sent == first.sent + timedelta(seconds=1)
    last = board.cancel([second.id], Said(), NOW)
    assert (last.headline, last.instruction) == ("Cancelled: Another", "")
    assert last.expires == second.expires
    short = Said(event="x", headline="y", severity=Severity.MINOR)
    assert board.publish(short, NOW).sender == first.sender


def test_only_what_stands_is_referred_to(board: NoticeBoard) -> None:
    first = board.publish(FIRST, NOW)
    board.cancel([first.id], Said(), NOW)
    for ids in ([first.id], ["nonsense"]):
        with pytest.raises(UsageError):
            board.update(ids, Said(), NOW)
    other = board.publish(FIRST, NOW)
    with pytest.raises(UsageError, match="has ended: expired"):
        board.cancel([other.id], Said(), other.expires)


def test_notices_that_break_the_format_are_not_published(
    repository: Repository, board: NoticeBoard
) -> None:
    board.publish(FIRST, NOW)
    before = roles(repository), published(repository)
    for draft, message in (
        (msgspec.structs.replace(FIRST, expires=NOW), "expires before"),
        (msgspec.structs.replace(FIRST, id="A"), "id is not allowed"),
        (msgspec.structs.replace(FIRST, description="警" * 2_001), "2,001 characters"),
        (msgspec.structs.replace(FIRST, headline="a\x1b"), "control character"),
    ):
        with pytest.raises(UsageError, match=message):
            board.publish(draft, NOW)
    assert (roles(repository), published(repository)) == before


@pytest.mark.parametrize("age", [timedelta(hours=1), timedelta(days=2)])
def test_a_notice_that_expired_long_ago_is_taken_out(
    repository: Repository, board: NoticeBoard, clock: Clock, age: timedelta
) -> None:
    """The file of the notice stays for a day, for clients in the middle of a fetch."""
    first = board.publish(FIRST, NOW)
    clock.now = first.expires + REMOVED_AFTER + timedelta(hours=1)
    (path,) = (repository.public / "targets" / NOTICES).iterdir()
    written = (clock.now - age).timestamp()
    os.utime(path, (written, written))
    second = board.publish(FIRST, clock.now)
    assert [s.notice.id for s in board.standing(clock.now)] == [second.id]
    assert path.exists() is (age < timedelta(days=1))


def test_no_more_are_published_than_clients_take(
    board: NoticeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "MAX_NOTICES", 2)
    board.publish(FIRST, NOW)
    board.publish(FIRST, NOW)
    with pytest.raises(UsageError, match="the most that are allowed"):
        board.publish(FIRST, NOW)


def test_a_list_and_the_role_cannot_have_one_name(
    repository: Repository, board: NoticeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = [("x.csv", io.BytesIO(csv(range(2))))]
    with pytest.raises(UsageError, match="a list cannot be called notices"):
        repository.publish(NOTICES, content)
    # An earlier version may have made a list named like the role of notices.
    from hashclient.provider import repository as module

    monkeypatch.setattr(module, "NOTICES", "")
    repository.publish(NOTICES, [("x.csv", io.BytesIO(csv(range(2))))])
    with pytest.raises(UsageError, match="there is a list called notices"):
        board.publish(FIRST, NOW)
    assert roles(repository)[NOTICES] == 1


def test_the_role_is_renewed_rotated_and_missed_as_others(
    repository: Repository, board: NoticeBoard, clock: Clock
) -> None:
    board.publish(FIRST, NOW)
    repository.rotate(NOTICES, Keys(2, 2))
    assert len(list((repository.directory / "keys").glob("notices-*.pem"))) == 2
    clock.now = NOW + timedelta(days=50)
    assert NOTICES in repository.renew().signed
    for path in (repository.directory / "keys").glob("notices-*.pem"):
        path.unlink()
    with pytest.raises(StateError, match="role notices needs 2 signing"):
        board.publish(FIRST, clock.now)
    clock.now += timedelta(days=80)
    assert NOTICES in repository.renew().skipped
    assert NOTICES in {role for role, _, _ in repository.expiring()}


def test_a_failed_first_notice_leaves_no_key(repository: Repository, board: NoticeBoard) -> None:
    (key,) = (repository.directory / "keys").glob("targets-*.pem")
    key.rename(repository.directory / "kept.pem")
    with pytest.raises(StateError, match="role targets needs 1 signing"):
        board.publish(FIRST, NOW)
    assert list((repository.directory / "keys").glob("notices-*")) == []
    assert board.standing(NOW) == []


def test_a_damaged_notice_is_said(repository: Repository, board: NoticeBoard) -> None:
    board.publish(FIRST, NOW)
    assert [s.state for s in board.standing(NOW)] == [State.OPEN]
    (path,) = (repository.public / "targets" / NOTICES).iterdir()
    path.write_bytes(b"{}")
    with pytest.raises(StateError, match="corrupt repository"):
        board.standing(NOW)
