"""The brake: if too many files match one entry, the rest is held until a person releases it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pyrage import x25519

from fixtures.archives import zip_of
from hashclient import Client
from hashclient.core.kinds import Kind, MatchState
from hashclient.matches.store import Matches
from tests.kit import Run, State

WRONG, RIGHT = b"a licence that everybody has", b"a dummy that stands for what is meant"
QUARANTINE = '[[policy]]\nactions = ["quarantine"]\n'
BOTH = '[[policy]]\nactions = ["quarantine", "report"]\n'
REPORT = '[[policy]]\nactions = ["report"]\n'
CONFIG = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'


class Braked(State):
    """A tree with many files of the entry `wrong`, and a few of `right`."""

    def __init__(self, directory: Path, wrong: int = 8, *, limit: int = 3) -> None:
        files = {f"wrong-{number:04}": WRONG for number in range(wrong)}
        super().__init__(
            directory,
            {"base": {"wrong": WRONG, "right": RIGHT}},
            files | {"right-1": RIGHT, "right-2": RIGHT},
        )
        self.handover = directory / "handover"
        self.handover.mkdir()
        self.public = x25519.Identity.generate().to_public()
        self.brake(f"per_entry = {limit}")

    def brake(self, limits: str, policy: str = QUARANTINE) -> None:
        self.configure(
            f'{CONFIG}[quarantine]\nrecipients = ["{self.public}"]\n'
            f'[report.to.police]\nkind = "package"\ndirectory = "{self.handover}"\n'
            f"[brake]\n{limits}\n{policy}"
        )

    def counts(self) -> dict[str, int]:
        with Matches(self.path, create=False) as matches:
            return {str(state): n for state, n in matches.counts().items() if n}

    def let_a_day_pass(self) -> None:
        """Move the times at which the brake has permitted actions 25 hours into the past."""
        with Matches(self.path) as matches:
            matches._db.execute("UPDATE permit SET time = datetime(time, '-25 hours') || '+00:00'")
            matches._db.execute("UPDATE permit SET time = replace(time, ' ', 'T')")

    def release(self, *args: object) -> Run:
        return self.call("matches", "release", "--reason", "ticket 4711", *args)


@pytest.fixture
def world(tmp_path: Path) -> Braked:
    return Braked(tmp_path)


SENTENCE = "entry wrong of base matched 8 files: 3 isolated, 5 held"


def test_what_a_program_checks_is_held_above_the_limit_too(world: Braked) -> None:
    with Client(world.path).checker() as checker:
        answers = [checker.check(path) for path in sorted(world.tree.iterdir())]
    assert {answer.kind for answer in answers} == {Kind.MATCH} and checker.failures == 0
    records = [one.record for answer in answers for one in answer.found]
    assert [record is not None and record.held for record in records].count(True) == 5
    assert world.counts() == {"quarantined": 5, "held": 5}


def test_what_is_above_the_limit_is_held_and_other_entries_are_acted_upon(world: Braked) -> None:
    result = world.scan()
    assert result.code == 11
    assert world.counts() == {"quarantined": 5, "held": 5}
    assert not {"right-1", "right-2"} & world.left()
    summary = result.lines[-1]
    assert (summary["match"], summary["held"]) == (10, 5)
    assert summary["held_entries"] == [
        {"list": "base", "entry": "wrong", "matched": 8, "isolated": 3, "reported": 0, "held": 5}
    ]
    held = [line for line in result.lines[:-1] if line["state"] == "held"]
    assert len(held) == 5
    assert held[0]["actions"] == [
        {
            "action": "quarantine",
            "done": False,
            "detail": "not quarantined: held, it waits for a person",
        }
    ]
    logged = [data for _, data in world.events("match")]
    assert sum(data.get("held", False) for data in logged) == 5
    assert world.events("scan-end")[-1][1]["held"] == 5
    assert "`hashclient matches release` acts on them" in world.call("scan", world.tree).err


def test_status_and_metrics_name_the_entry_with_its_numbers(world: Braked) -> None:
    world.scan()
    shown = world.call("status").out
    assert "held, waiting for a person:\n  " + SENTENCE in shown
    document = json.loads(world.call("status", "--format", "json").out)
    assert [entry["held"] for entry in document["held_entries"]] == [5]
    metrics = world.call("status", "--format", "prometheus").out
    assert 'hashclient_matches{state="held"} 5.0' in metrics
    assert 'hashclient_entries_held{list="base"} 1.0' in metrics
    for state, number in (("matched", 8), ("isolated", 3), ("reported", 0), ("held", 5)):
        labels = f'entry="wrong",list="base",state="{state}"'
        assert f"hashclient_entry_files{{{labels}}} {number}.0" in metrics


def test_a_held_match_stays_held_also_the_day_after_while_new_files_are_acted_upon(
    world: Braked,
) -> None:
    world.scan()
    assert world.scan().code == 11
    assert world.counts()["held"] == 5
    world.let_a_day_pass()
    (world.tree / "new").write_bytes(WRONG)
    result = world.scan()
    assert result.code == 11
    assert "new" not in world.left()
    assert world.counts() == {"quarantined": 6, "held": 5}


def test_within_a_day_the_limit_counts_over_all_scans(world: Braked) -> None:
    world.scan()
    (world.tree / "new").write_bytes(WRONG)
    assert world.scan().code == 11
    assert "new" in world.left()
    assert world.counts() == {"quarantined": 5, "held": 6}


def test_isolating_and_reporting_one_file_counts_once(world: Braked) -> None:
    world.brake("per_entry = 3", BOTH)
    assert world.scan().code == 11
    assert world.counts()["held"] == 5
    document = json.loads(world.call("report", "status", "--format", "json").out)
    assert sum(len(report["matches"]) for report in document["reports"]) == 5


def test_files_in_a_report_take_no_permit_again(world: Braked) -> None:
    world.brake("per_entry = 3", REPORT)
    world.scan()
    world.let_a_day_pass()
    assert world.scan().code == 11
    (world.tree / "new").write_bytes(WRONG)
    world.scan()
    assert world.counts()["held"] == 5


def test_a_limit_of_the_day_is_for_all_entries_together(world: Braked) -> None:
    world.brake("per_entry = 0\nper_day = 4")
    result = world.scan()
    assert result.code == 11
    assert world.counts() == {"quarantined": 4, "held": 6}


def test_without_limits_nothing_is_held(world: Braked) -> None:
    world.brake("per_entry = 0")
    assert world.scan().code == 10
    assert world.counts() == {"quarantined": 10}


def test_the_option_that_isolates_everything_is_braked_too(world: Braked) -> None:
    world.brake("per_entry = 3", "")
    assert world.scan("--quarantine").code == 11
    assert world.counts() == {"quarantined": 5, "held": 5}


def test_a_scan_that_does_nothing_holds_nothing_and_keeps_what_is_held(world: Braked) -> None:
    assert world.scan("--no-actions").code == 10
    assert world.counts() == {"found": 10}
    world.scan()
    assert world.scan("--no-actions").code == 10
    assert world.counts() == {"quarantined": 5, "held": 5}
    result = world.scan("--policy-check")
    details = {line["actions"][0]["detail"] for line in result.lines[:-1]}
    assert details == {"not quarantined: held, it waits for a person"}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 4096])
def test_a_policy_check_says_what_would_be_held_and_changes_nothing(
    world: Braked, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("hashclient.scan.run.pipeline.BATCH", batch)
    for _ in range(2):
        result = world.scan("--policy-check")
        assert result.code == 10
        details = Counter(line["actions"][0]["detail"] for line in result.lines[:-1])
        assert details == {"would be quarantined": 5, "not quarantined: it would be held": 5}
        assert world.counts() == {"found": 10}
    assert world.scan().code == 11
    assert world.counts() == {"quarantined": 5, "held": 5}
    assert world.left() == {path.name for path in world.tree.iterdir()}


def test_a_policy_check_counts_what_was_acted_upon_within_the_day(world: Braked) -> None:
    world.scan()
    (world.tree / "wrong-more").write_bytes(WRONG)
    (world.tree / "right-3").write_bytes(RIGHT)
    told = {
        Path(line["path"]).name: line["actions"][0]["detail"]
        for line in world.scan("--policy-check").lines[:-1]
    }
    assert told["wrong-more"] == "not quarantined: it would be held"
    assert told["right-3"] == "would be quarantined"


@pytest.mark.slow
def test_of_1001_dummies_of_one_entry_100_are_isolated_and_901_held(tmp_path: Path) -> None:
    world = Braked(tmp_path, 1001, limit=100)
    result = world.scan()
    assert result.code == 11
    assert world.counts() == {"quarantined": 102, "held": 901}
    (entry,) = result.lines[-1]["held_entries"]
    assert "matched 1,001 files: 100 isolated, 901 held" in world.call("status").out
    assert (entry["entry"], entry["held"]) == ("wrong", 901)


def test_a_match_that_was_only_found_is_held_with_a_step_of_its_story(world: Braked) -> None:
    world.scan("--no-actions")
    world.scan()
    with Matches(world.path) as matches:
        first = matches.held()[0]
    assert world.story(first.id) == ["found", "held"]


def test_a_person_releases_some_of_an_entry_and_the_rest_stays_held(world: Braked) -> None:
    world.scan()
    result = world.release("--entry", "base/wrong", "--most", "2")
    assert result.code == 0, result
    assert result.out.count("quarantined") == 2
    assert world.counts() == {"quarantined": 7, "held": 3}
    # Matches that a person has released do not count towards the limit.
    released = [data for _, data in world.events("released")]
    assert {data["reason"] for data in released} == {"ticket 4711"} and len(released) == 2
    assert world.story(released[0]["id"]) == ["found", "held", "released", "quarantined"]
    assert world.call("audit", "verify").code == 0
    assert world.scan().code == 11


def test_single_matches_are_released_by_id_and_reported_as_the_policy_says(world: Braked) -> None:
    world.brake("per_entry = 3", BOTH)
    world.scan()
    with Matches(world.path) as matches:
        chosen = matches.held()[0].id
    result = world.release(chosen, "--format", "json")
    assert result.code == 0, result
    (item,) = json.loads(result.out)["items"]
    assert item["done"] and "quarantined" in item["detail"] and "police" in item["detail"]
    assert "is prepared" in result.err
    assert world.counts()["held"] == 4


def test_a_release_without_an_action_says_so_and_the_next_scan_acts(world: Braked) -> None:
    world.scan()
    world.brake("per_entry = 3", "")
    with Matches(world.path) as matches:
        chosen = matches.held()[0].id
    assert "the policy has no action" in world.release(chosen).out
    world.brake("per_entry = 3")
    world.scan()
    with Matches(world.path) as matches:
        assert matches.get(chosen).state is MatchState.QUARANTINED


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((), "say which matches"),
        (("--entry", "base/wrong", "bcdfghjkmn"), "say which matches"),
        (("bcdfghjkmn",), "no match has the id"),
        (("--entry", "wrong"), "id of a match, which is in brackets: ID, without --entry"),
        (("bcdfghjkmn", "--most", "1"), "--most is for --entry"),
    ],
)
def test_a_release_that_says_nothing_clear_is_refused(
    world: Braked, args: tuple[str, ...], why: str
) -> None:
    result = world.release(*args)
    assert result.code == 2 and why in result.err, result


def test_a_withdrawal_ends_held_matches_by_itself(world: Braked) -> None:
    world.scan()
    world.provider.withdraw("wrong", list_name="base")
    world.client.fetch()
    assert world.counts() == {"quarantined": 2, "withdrawn": 8}
    assert "held, waiting" not in world.call("status").out


@pytest.mark.slow
def test_a_held_file_that_another_entry_matches_too_is_acted_upon(world: Braked) -> None:
    """An attacker who plants many copies of one listed file must not stop other actions."""
    world.scan()
    world.add({"second": WRONG}, "other")
    world.scan()
    assert world.counts() == {"quarantined": 8, "held": 2}


@pytest.mark.slow
def test_an_archive_counts_once_and_another_member_of_it_is_not_held_back(
    tmp_path: Path,
) -> None:
    """An archive is isolated although one of its two listed members matches a held entry."""
    world = Braked(tmp_path, wrong=0)
    for number in range(5):
        (world.tree / f"two-{number}.zip").write_bytes(zip_of({"a": WRONG, "b": WRONG}))
    result = world.scan()
    assert result.code == 11
    assert world.counts() == {"quarantined": 5, "held": 2}
    assert result.lines[-1]["held"] == 4  # the summary counts members, not archives
    (world.tree / "both.zip").write_bytes(zip_of({"a": WRONG, "b": RIGHT}))
    world.scan()
    assert "both.zip" not in world.left()
    assert world.counts() == {"quarantined": 6, "held": 2}


def test_held_matches_are_not_among_all_that_are_isolated_or_reported(world: Braked) -> None:
    world.scan()
    world.call("quarantine", "add", "--all")
    assert world.counts()["held"] == 5
    result = world.call("report", "prepare", "--all", "--to", "police", "--format", "json")
    assert len(json.loads(result.out)["matches"]) == 5, result


def test_a_file_that_is_gone_is_not_held_any_more(world: Braked) -> None:
    world.scan()
    for path in world.tree.iterdir():
        path.unlink()
    (world.tree / "clean").write_bytes(b"nothing")
    world.scan()
    assert world.counts() == {"quarantined": 5, "gone": 5}


def test_a_closed_match_that_was_released_once_needs_a_permit_again(world: Braked) -> None:
    world.scan()
    with Matches(world.path) as matches:
        chosen = matches.held()[0].id
    world.brake("per_entry = 3", "")
    world.release(chosen)
    world.call("matches", "close", chosen, "--reason", "handled")
    world.brake("per_entry = 3")
    world.scan()
    with Matches(world.path) as matches:
        assert matches.get(chosen).state is MatchState.HELD
    world.scan()
    with Matches(world.path) as matches:
        assert matches.get(chosen).state is MatchState.HELD


def test_the_log_verifies_and_so_does_the_record(world: Braked) -> None:
    world.scan()
    assert world.call("status", "--verify").code == 0
    assert world.call("audit", "verify").code == 0
