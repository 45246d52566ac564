"""If two persons must agree on an exception, it covers nothing until the second has agreed."""

from __future__ import annotations

import json
import pwd
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hashclient.core.match import person_of
from hashclient.session import current_operator
from tests.cli.test_exceptions import CONFIG, REASON, RIGHT, Ruled
from tests.kit import Run

TWO = f"{CONFIG}[decisions]\npeople = 2\n"

As = Callable[[str], None]


@pytest.fixture
def world(tmp_path: Path) -> Ruled:
    world = Ruled(tmp_path)
    world.configure(TWO)
    return world


@pytest.fixture
def as_(monkeypatch: pytest.MonkeyPatch) -> As:
    """Return a function that sets who runs the commands; alice does at first."""

    def become(name: str) -> None:
        monkeypatch.setattr("hashclient.session.current_operator", lambda: name)

    become("alice")
    return become


def approve(world: Ruled, *ids: str) -> Run:
    return world.exceptions("approve", *ids, "--reason", "looked at the paths")


def listed(world: Ruled) -> list[dict[str, Any]]:
    found: list[dict[str, Any]]
    found = json.loads(world.exceptions("list", "--format", "json").out)["exceptions"]
    return found


def test_what_one_person_makes_waits_for_another_one(world: Ruled, as_: As) -> None:
    made = world.exceptions("add", "base/wrong", *REASON, "--format", "json")
    ruling = json.loads(made.out)["exception"]["id"]
    assert f"exceptions approve {ruling}" in made.err
    assert world.scan().code == 10
    assert world.obstacles() == ["it waits for a second person"]
    assert "not yet: it waits for a second person" in world.exceptions("list").out
    assert "not yet: it waits for a second person" in world.exceptions("show", ruling).out
    assert "1 waits for a second person\n" in world.call("status").out
    document = json.loads(world.call("status", "--format", "json").out)["exceptions"]
    assert [one["id"] for one in document["waiting"]] == [ruling]
    as_("bob")
    done = approve(world, ruling)
    assert (done.code, "excepted: 2 matches on record" in done.err) == (0, True)
    assert world.scan().code == 0
    assert world.obstacles() == [None]
    shown = world.exceptions("show", ruling).out
    assert "  by          alice\n" in shown and "  approved by bob\n" in shown
    assert "waits" not in world.call("status").out
    (added,) = (data for _, data in world.events("exception-added"))
    (approved,) = (data for _, data in world.events("exception-approved"))
    assert (added["by"], approved["by"], approved["made_by"]) == ("alice", "bob", "alice")
    assert (added["reason"], approved["reason"]) == ("ticket 4711", "looked at the paths")
    assert world.call("audit", "verify").code == 0


@pytest.mark.parametrize("name", ["alice", "root (sudo: alice)", "hashclient (login: alice)"])
def test_nobody_approves_what_they_have_made(world: Ruled, as_: As, name: str) -> None:
    ruling = world.add("base/wrong")
    as_(name)
    refused = approve(world, ruling)
    assert (refused.code, "was made by you" in refused.err) == (2, True)
    assert world.scan().code == 10
    assert not [*world.events("exception-approved")]


@pytest.mark.parametrize(
    ("user", "login", "sudo", "operator", "person"),
    [
        ("root", "4294967295", None, "root", "root"),
        ("root", None, None, "root", "root"),
        ("root", "not a number", None, "root", "root"),
        ("root", "0", None, "root", "root"),
        ("root", "4294967295", "alice", "root (sudo: alice)", "alice"),
        ("root", "1", "daemon", "root (login: daemon, sudo: daemon)", "daemon"),
        ("root", "1", "bob", "root (login: daemon, sudo: bob)", "daemon"),
        ("root", "1", "b), (login: bob", "root (login: daemon, sudo: b), (login: bob)", "daemon"),
        ("root", "1", None, "root (login: daemon)", "daemon"),
        ("nobody", "1", "bob", "nobody (login: daemon)", "daemon"),
        ("nobody", "1999999999", None, "nobody (login: uid 1999999999)", "uid 1999999999"),
        ("nobody", "4294967295", "bob", "nobody", "nobody"),
    ],
)
def test_the_operator_is_the_account_and_who_became_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    login: str | None,
    sudo: str | None,
    operator: str,
    person: str,
) -> None:
    if login is not None:
        (tmp_path / "loginuid").write_text(login)
    monkeypatch.setattr("hashclient.session._LOGIN", tmp_path / "loginuid")
    monkeypatch.setattr("os.getuid", lambda: pwd.getpwnam(user).pw_uid)
    monkeypatch.delenv("SUDO_USER", raising=False)
    if sudo is not None:
        monkeypatch.setenv("SUDO_USER", sudo)
    assert current_operator() == operator
    assert person_of(operator) == person


def test_what_waits_for_nobody_cannot_be_approved(world: Ruled, as_: As) -> None:
    world.configure(CONFIG)
    ruling = world.add("base/wrong")
    as_("bob")
    assert "waits for nobody" in approve(world, ruling).err
    assert "no exception has the id x-1" in approve(world, "x-1").err


def test_what_is_renewed_waits_and_the_former_end_stands(world: Ruled, as_: As) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    ruling = world.add("base/wrong", "--until", soon.isoformat())
    as_("bob")
    approve(world, ruling)
    longer = world.exceptions("renew", ruling, *REASON, "--format", "json")
    (other,) = json.loads(longer.out)["exceptions"]
    assert (other["counts"], other["by"], other["id"] != ruling) == (False, "bob", True)
    assert {one["id"]: one["counts"] for one in listed(world)} == {ruling: True, other["id"]: False}
    assert world.scan().code == 0
    assert approve(world, other["id"]).code == 2
    as_("alice")
    assert approve(world, other["id"]).code == 0
    world.exceptions("remove", ruling, *REASON)
    assert world.scan().code == 0


def test_what_is_renewed_while_it_waits_is_not_approved_by_its_former_id(
    world: Ruled, as_: As
) -> None:
    """Who approves has read the exception before it was renewed, perhaps for other reasons."""
    ruling = world.add("base/wrong")
    as_("bob")
    world.exceptions("renew", ruling, *REASON)
    ((renewed, by),) = [(one["id"], one["by"]) for one in listed(world)]
    assert (by, renewed != ruling) == ("bob", True)
    assert approve(world, renewed).code == 2
    as_("alice")
    assert "no exception has the id" in approve(world, ruling).err
    assert approve(world, renewed).code == 0
    assert world.scan().code == 0


def test_an_approval_after_the_entry_has_changed_says_that_nothing_is_covered(
    world: Ruled, as_: As
) -> None:
    ruling = world.add("base/wrong")
    world.provider.withdraw("wrong", list_name="base")
    world.client.fetch()
    world.provider.add({"wrong": RIGHT}, "base")
    world.client.fetch()
    as_("bob")
    done = approve(world, ruling)
    assert (done.code, "no more: base/wrong has changed" in done.out) == (0, True), done
    (world.tree / "meant").write_bytes(RIGHT)
    assert world.scan().code == 10


def test_an_approval_that_is_edited_in_counts_for_nothing(world: Ruled, as_: As) -> None:
    world.add("base/wrong")
    data = world.file.read_bytes()
    # The field says whether the exception waits for a second person.
    assert data.count(b",true,") == 1
    world.file.write_bytes(data.replace(b",true,", b",false,"))
    result = world.scan()
    assert (result.code, result.lines[-1]["match"]) == (11, 2)
    assert "not as they were written" in result.err


def test_a_rejected_match_is_excepted_once_another_person_approves_it(
    world: Ruled, as_: As
) -> None:
    words = ("--rejected", "--except", "--reason", "harmless: a licence")
    done = world.call("matches", "review", world.ids()["wrong-2"], *words)
    assert (done.code, "exceptions approve x-" in done.err) == (0, True)
    assert world.scan().code == 10
    as_("bob")
    (one,) = listed(world)
    assert approve(world, one["id"]).code == 0
    assert world.scan().code == 0


def test_one_person_removes_an_exception(world: Ruled, as_: As) -> None:
    ruling = world.add("base/wrong")
    as_("bob")
    approve(world, ruling)
    assert world.exceptions("remove", ruling, *REASON).code == 0
    assert world.scan().code == 10


def test_a_person_and_the_same_by_sudo_are_one_reviewer(world: Ruled, as_: As) -> None:
    world.configure(f"{CONFIG}[report]\npeople = 2\n")
    match_id = world.ids()["wrong-2"]
    words = ("--rejected", "--reason", "harmless: a licence", "--format", "json")
    decided = []
    for name in ("alice", "root (sudo: alice)", "bob"):
        as_(name)
        done = world.call("matches", "review", match_id, *words)
        decided.append(json.loads(done.out)["items"][0]["decided"])
    assert decided == [None, None, "rejected"]


def test_a_match_that_cannot_be_excepted_is_not_reviewed_either(tmp_path: Path) -> None:
    from hashclient.core.kinds import Algorithm

    world = Ruled(tmp_path, algorithms=[Algorithm.MD5])
    match_id = world.ids()["wrong-2"]
    words = ("--rejected", "--except", "--reason", "harmless: a licence")
    done = world.call("matches", "review", match_id, *words)
    assert (done.code, "the SHA-256 of match" in done.err) == (2, True)
    assert world.story(match_id) == ["found"] and not [*world.events("reviewed")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--reason", f"harmless: {'x' * 495}"), "more than 500 characters"),
        (("--reason", "harmless: a licence", "--until", "2020-01-01"), "cannot end at 2020-01-01"),
    ],
)
def test_a_review_whose_exception_would_be_refused_is_not_noted(
    world: Ruled, words: tuple[str, ...], why: str
) -> None:
    match_id = world.ids()["wrong-2"]
    done = world.call("matches", "review", match_id, "--rejected", "--except", *words)
    assert (done.code, why in done.err) == (2, True), done
    assert world.story(match_id) == ["found"] and not [*world.events("reviewed")]
    assert not listed(world)
