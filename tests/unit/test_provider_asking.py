"""Questions to a provider about its lists: numbers, differences and entries, but no digests."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path

import pytest

from fixtures.simulator import Simulator
from hashclient.core.errors import UsageError
from hashclient.lists.importers.importfile import Reading
from hashclient.provider import find as provider_find
from hashclient.provider.asking import difference, find, overview
from hashclient.provider.find import Questions
from hashclient.provider.results import Answer, Step
from tests.kit import call


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    return Simulator(tmp_path / "repo")


def md5(number: int) -> str:
    return hashlib.md5(f"benign {number}".encode(), usedforsecurity=False).hexdigest()


def sha1(number: int) -> str:
    return hashlib.sha1(f"benign {number}".encode(), usedforsecurity=False).hexdigest()


def rows(*numbers: int, category: str = "baseline") -> bytes:
    lines = [f"e-{n},{md5(n)},{sha1(n) if n % 2 else ''},{n or ''},{category}" for n in numbers]
    return "\n".join(["entry_id,md5,sha1,size,category", *lines, ""]).encode()


@pytest.fixture
def repo(simulator: Simulator) -> Simulator:
    """A repository of four generations; one entry was withdrawn and published again."""
    simulator.publish(rows(0, 1, 2))
    simulator.publish(rows(3, 4, category="other"))
    simulator.withdraw("e-1", "e-3")
    simulator.publish(rows(1, 5, category="third"))
    return simulator


def asked(
    simulator: Simulator, *ids: str, content: str = "", lists: tuple[str, ...] = ()
) -> list[Answer]:
    questions = Questions(ids)
    if content:
        questions.ask([("asked.csv", io.BytesIO(content.encode()))], Reading(all_rows=True))
    return find(simulator.repository, questions, lists)


def test_a_list_in_numbers(repo: Simulator) -> None:
    found = overview(repo.repository, "baseline")
    assert (found.generation, found.live, found.sized) == (4, 5, 4)
    assert found.categories == {"baseline": 2, "other": 1, "third": 2}
    assert found.algorithms == {"md5": 5, "sha1": 2, "sha256": 0}
    assert found.steps == (Step(1, 1, 3, 0), Step(2, 2, 2, 0), Step(3, 3, 0, 2), Step(4, 4, 2, 0))


def test_the_difference_between_generations(repo: Simulator) -> None:
    whole = difference(repo.repository, "baseline", 0)
    assert whole.added == ("e-0", "e-1", "e-2", "e-4", "e-5")
    assert (whole.withdrawn, whole.renewed) == ((), ())
    assert whole.categories == {"baseline": 2, "other": 1, "third": 2}
    step = difference(repo.repository, "baseline", 2, 3)
    assert (step.added, step.withdrawn, step.renewed) == ((), ("e-1", "e-3"), ())
    later = difference(repo.repository, "baseline", 1)
    assert (later.added, later.withdrawn, later.renewed) == (("e-4", "e-5"), (), ("e-1",))
    nothing = difference(repo.repository, "baseline", 4)
    assert (nothing.added, nothing.withdrawn, nothing.renewed) == ((), (), ())


@pytest.mark.slow
def test_differences_add_up_as_sets_do(simulator: Simulator) -> None:
    """Random changes are compared with plain Python sets."""
    chance = random.Random(5)
    states: list[set[str]] = [set()]
    for _ in range(12):
        live = set(states[-1])
        if live and chance.random() < 0.4:
            gone = set(chance.sample(sorted(live), chance.randint(1, len(live))))
            simulator.withdraw(*sorted(gone))
            states.append(live - gone)
        else:
            new = {f"e-{n}" for n in chance.sample(range(30), 5)} - live
            if not new:
                continue
            simulator.publish(rows(*sorted(int(n[2:]) for n in new)))
            states.append(live | new)
    for first in range(len(states)):
        for last in range(first, len(states)):
            found = difference(simulator.repository, "baseline", first, last)
            assert set(found.added) == states[last] - states[first]
            assert set(found.withdrawn) == states[first] - states[last]
            assert set(found.renewed) <= states[first] & states[last]
    assert overview(simulator.repository, "baseline").live == len(states[-1])


def test_generations_that_were_joined_cannot_be_separated(repo: Simulator) -> None:
    repo.repository.consolidate("baseline", keep_newest=1)
    with pytest.raises(UsageError, match="generation 2 was joined with others: 1 to 3") as caught:
        difference(repo.repository, "baseline", 2)
    assert caught.value.hint == "ask for 0 or 3"
    assert difference(repo.repository, "baseline", 3).added == ("e-1", "e-5")
    assert overview(repo.repository, "baseline").live == 5


@pytest.mark.parametrize(("first", "last"), [(5, 5), (3, 2), (0, 5)])
def test_generations_that_there_are_not(repo: Simulator, first: int, last: int) -> None:
    with pytest.raises(UsageError, match="no such generations") as caught:
        difference(repo.repository, "baseline", first, last)
    assert "to 4, the newest" in str(caught.value.hint)


def test_an_entry_by_its_id(repo: Simulator) -> None:
    answers = asked(repo, "e-1", "e-3", "e-9")
    again, gone, none = answers
    assert [(e.first, e.withdrawn, e.category) for e in again.entries] == [
        (1, (3, 3), "baseline"),
        (4, None, "third"),
    ]
    assert [(e.first, e.withdrawn, e.size) for e in gone.entries] == [(2, (3, 3), 3)]
    assert gone.entries[0].algorithms == ("md5", "sha1")
    assert none == Answer("e-9", ())


def test_an_entry_by_digests_says_what_agrees_and_what_differs(repo: Simulator) -> None:
    content = "\n".join(
        [
            "md5,sha1,size",
            f"{md5(5)},{sha1(5)},5",
            f"{md5(5)},{sha1(6)},7",
            f"{md5(4)},{sha1(4)},",
            f"{md5(9)},,",
            f",{sha1(5)},",
        ]
    )
    same, other, less, none, sha = asked(repo, content=content)
    assert same.asked == "asked.csv:2"
    (entry,) = same.entries
    assert (entry.entry_id, entry.agree, entry.differ) == ("e-5", ("md5", "sha1"), ())
    assert (other.entries[0].agree, other.entries[0].differ) == (("md5",), ("sha1", "size"))
    assert (less.entries[0].agree, less.entries[0].differ) == (("md5",), ())
    assert none.entries == ()
    assert sha.entries[0].agree == ("sha1",)


def test_every_list_is_looked_at_unless_some_are_named(repo: Simulator) -> None:
    repo.publish(rows(1, 2), "second")
    assert [e.list_name for e in asked(repo, "e-2")[0].entries] == ["baseline", "second"]
    assert [e.list_name for e in asked(repo, "e-2", lists=("second",))[0].entries] == ["second"]
    # A withdrawal from one list does not affect another list.
    repo.withdraw("e-2", list_name="second")
    first, second = asked(repo, "e-2")[0].entries
    assert (first.withdrawn, second.withdrawn) == (None, (2, 2))
    with pytest.raises(UsageError, match="no such list: third"):
        asked(repo, "e-2", lists=("third",))


def test_a_digest_in_place_of_an_id_is_not_repeated() -> None:
    with pytest.raises(UsageError, match="not an entry id: number 2 of those given") as caught:
        Questions(["e-1", md5(1)])
    assert caught.value.hint == "to find entries by digests, use --from FILE"


def test_the_same_digest_twice_is_answered_twice(repo: Simulator) -> None:
    answers = asked(repo, content=f"{md5(4)}\n{md5(4)}\n")
    assert [len(a.entries) for a in answers] == [1, 1]


def test_more_rows_than_memory_is_meant_for_are_refused(
    repo: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_find, "MAX_ASKED", 2)
    with pytest.raises(UsageError, match=r"asked\.csv: more than 2 rows to find"):
        asked(repo, content=f"{md5(1)}\n{md5(2)}\n{md5(3)}\n")


# The command


def test_the_commands_never_show_a_digest(repo: Simulator, tmp_path: Path) -> None:
    where, sums = repo.repository.directory, tmp_path / "sums"
    sums.write_text("".join(f"{md5(n)}  file {n}\n" for n in range(7)))
    secrets = [f(n) for n in range(7) for f in (md5, sha1)]
    for words, code in (
        (["show", where, "--list", "baseline"], 0),
        (["diff", where, "--list", "baseline", "0", "--ids"], 0),
        (["find", where, "e-4", "--from", sums], 3),
    ):
        for form in ("text", "json"):
            done = call("provider", *words, "--format", form)
            assert done.code == code, done.err
            assert not any(secret in done.out + done.err for secret in secrets)
            if form == "json":
                json.loads(done.out)


def test_show(repo: Simulator) -> None:
    where = repo.repository.directory
    text = call("provider", "show", where, "--list", "baseline").out
    assert "live         5\n" in text
    assert "third     2\n" in text
    assert text.endswith("3           0      2\n4           2      0\n")
    found = json.loads(
        call("provider", "show", where, "--list", "baseline", "--format", "json").out
    )
    assert found["categories"] == {"baseline": 2, "other": 1, "third": 2}
    assert found["generations"][2] == {"first": 3, "last": 3, "added": 0, "withdrawn": 2}
    assert call("provider", "show", where, "--list", "nothing").code == 2


def test_diff(repo: Simulator) -> None:
    where = repo.repository.directory
    plain = call("provider", "diff", where, "--list", "baseline", "1")
    assert plain.out == (
        "list baseline: generation 1 to 4: 2 added, 0 withdrawn, 1 renewed\n"
        "  added in category other: 1\n  added in category third: 1\n"
    )
    with_ids = call("provider", "diff", where, "--list", "baseline", "1", "4", "--ids")
    assert with_ids.out == plain.out + "+ e-4\n+ e-5\n~ e-1\n"
    document = json.loads(
        call("provider", "diff", where, "--list", "baseline", "2", "--format", "json").out
    )
    assert document["withdrawn"] == 1
    assert "ids" not in document


def test_find_ends_with_0_when_each_is_listed_and_agrees(repo: Simulator, tmp_path: Path) -> None:
    where, asks = repo.repository.directory, tmp_path / "asks.csv"
    found = call("provider", "find", where, "e-1", "e-4")
    assert found.code == 0  # e-1 was withdrawn and is listed again
    assert "e-4: list baseline; entry e-4; category other; has md5, 4 bytes; added" in found.out
    assert call("provider", "find", where, "e-1", "e-3").code == 3
    assert call("provider", "find", where, "e-9").out == "e-9: not found\n"
    asks.write_text(f"md5,size\n{md5(4)},4\n")
    assert call("provider", "find", where, "--from", asks).code == 0
    asks.write_text(f"md5,size\n{md5(4)},5\n")
    differs = call("provider", "find", where, "--from", asks)
    assert differs.code == 3
    assert differs.out.endswith("agrees in md5; differs in size\n")
    asks.write_text("md5,size\n")
    assert call("provider", "find", where, "--from", asks).code == 3
    assert call("provider", "find", where).code == 2
