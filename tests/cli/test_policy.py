"""Actions of a scan on matches: none, the actions of the policy, or those of the command line."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pyrage import x25519

from hashclient.audit import log
from hashclient.core.kinds import MatchState
from hashclient.matches.store import Matches
from tests.kit import Run, State, csv_of, edit_manifest, make_state, write_tree

WORST, OTHER = b"the worst of them", b"another one, and longer"
FILES = {"worst": WORST, "sub/other": OTHER, "clean": b"nobody listed this"}

REPORTS = '[report.to.police]\nkind = "package"\ndirectory = "{}"\n'
QUARANTINE = '[[policy]]\nlist = "base"\nactions = ["quarantine"]\n'
REPORT = '[[policy]]\nactions = ["report"]\n'
BOTH = '[[policy]]\nactions = ["quarantine", "report"]\n'


PROVIDER = '[providers.main]\nurl = "https://127.0.0.1:1"\nroot_sha256 = "00"\n'


class Policies(State):
    """A tree with files of two lists, and a key for the evidence."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, {"base": {"e-1": WORST}, "local": {"e-2": OTHER}}, FILES)
        self.handover = directory / "handover"
        self.handover.mkdir()
        self.identity = x25519.Identity.generate()

    def set_policy(self, policy: str, *, recipients: bool = True) -> None:
        keys = f'recipients = ["{self.identity.to_public()}"]' if recipients else ""
        self.configure(f"[quarantine]\n{keys}\n{REPORTS.format(self.handover)}{policy}")

    def reports(self) -> list[Mapping[str, object]]:
        result = self.call("report", "status", "--format", "json")
        reports: list[Mapping[str, object]] = json.loads(result.out)["reports"]
        return reports

    def happened(self) -> list[str]:
        return [event for event, _ in self.events()]


def acted(result: Run) -> dict[str, list[tuple[str, bool | None, str]]]:
    """Return the actions that were done, or would be done, by the name of the file."""
    return {
        Path(line["path"]).name: [
            (a["action"], a["done"], a["detail"]) for a in line.get("actions", [])
        ]
        for line in result.lines[:-1]
    }


@pytest.fixture
def world(tmp_path: Path) -> Policies:
    return Policies(tmp_path)


def test_without_a_policy_nothing_is_touched(world: Policies) -> None:
    result = world.scan()
    assert result.code == 10
    assert acted(result) == {"worst": [], "other": []}
    assert world.left() == {"worst", "other", "clean"}
    assert not (world.path / "quarantine").exists() and not (world.path / "reports").exists()


def test_the_policy_takes_away_what_it_says_and_nothing_else(world: Policies) -> None:
    world.set_policy(QUARANTINE)
    result = world.scan()
    assert result.code == 10
    done_to = acted(result)
    assert done_to["other"] == []
    ((action, done, detail),) = done_to["worst"]
    assert (action, done) == ("quarantine", True) and "quarantined" in detail
    assert world.left() == {"other", "clean"}
    assert world.states() == {"worst": MatchState.QUARANTINED, "sub/other": MatchState.FOUND}
    # A match is recorded and logged before an action is done.
    events = world.happened()
    assert events.index("match") < events.index("quarantine-sealed") < events.index("quarantined")
    # The second scan finds only the remaining files.
    result = world.scan()
    assert set(acted(result)) == {"other"}


def test_the_command_line_takes_away_all(world: Policies) -> None:
    world.set_policy("")
    result = world.call("scan", "--quarantine", world.tree)
    assert result.code == 10
    assert result.out.count("-> quarantined") == 2
    taken = log.read(world.path / "audit", event="quarantined")
    assert {record.data["reason"] for record in taken} == {"scan --quarantine"}
    assert world.left() == {"clean"}
    assert set(world.states().values()) == {MatchState.QUARANTINED}


def test_without_recipients_nothing_is_scanned(world: Policies) -> None:
    world.set_policy("", recipients=False)
    result = world.scan("--quarantine")
    assert (result.code, result.out) == (2, "")
    assert "recipients" in result.err and "keygen" in result.err


def test_a_policy_for_a_list_that_nobody_knows_is_an_error(world: Policies) -> None:
    world.set_policy('[[policy]]\nlist = "bsae"\nactions = ["record"]\n')
    for args in (["scan", world.tree], ["scan", "--policy-check", world.tree], ["status"]):
        if args == ["status"]:  # `status` needs a configured provider
            world.set_policy(f'{PROVIDER}[[policy]]\nlist = "bsae"\nactions = ["record"]\n')
        result = world.call(*args)
        assert (result.code, result.out) == (2, ""), result
        assert "a policy is about list bsae, which is not known here" in result.err
        assert "did you mean base?" in result.err and "base, local" in result.err
    # A scan with `--no-actions` ignores a faulty policy.
    assert world.scan("--no-actions").code == 10


def test_a_policy_may_be_for_a_list_that_is_not_here_yet(world: Policies) -> None:
    rule = '[[policy]]\nlist = "soon"\nactions = ["record"]\n'
    world.set_policy(rule + PROVIDER + 'lists = ["base", "local", "soon"]\n')
    result = world.scan()
    assert result.code == 11 and "soon" in result.err  # the list is missing, and a message says so
    assert "not known" not in result.err
    # If the lists of a provider are unknown, a rule for such a list cannot be checked.
    world.set_policy(rule + PROVIDER.replace("main", "other"))
    result = world.scan()
    assert result.code == 11 and "a policy" not in result.err
    # A list that the provider offers counts as known, even if it is not fetched.
    world.set_policy(rule.replace("soon", "local") + PROVIDER + 'lists = ["base"]\n')
    (world.path / "lists/local/manifest.json").unlink()
    assert "a policy" not in world.scan().err


def test_a_recipient_that_is_none_is_found_before_the_scan(world: Policies) -> None:
    world.set_policy("")
    path = world.path / "config.toml"
    path.write_text(path.read_text().replace("age1", "age0"))
    result = world.scan("--quarantine")
    assert (result.code, result.out) == (2, "")
    assert world.left() == {"worst", "other", "clean"}


@pytest.mark.parametrize("output_format", ["jsonl", "text"])
def test_a_check_of_the_policy_does_nothing(world: Policies, output_format: str) -> None:
    world.set_policy(QUARANTINE + REPORT)
    if output_format == "jsonl":
        result = world.scan("--policy-check")
        assert acted(result) == {
            "worst": [("quarantine", None, "would be quarantined")],
            "other": [("report", None, "would be reported to police")],
        }
    else:
        result = world.call("scan", "--policy-check", world.tree)
        assert "-> would be quarantined\n" in result.out
        assert "-> would be reported to police\n" in result.out
    assert result.code == 10
    assert world.left() == {"worst", "other", "clean"}
    assert set(world.states().values()) == {MatchState.FOUND}
    assert world.reports() == []


@pytest.mark.parametrize("policy", [BOTH, f"{BOTH}[scan]\nquarantine = true\n"])
def test_no_actions_outranks_everything(world: Policies, policy: str) -> None:
    world.set_policy(policy)
    result = world.scan("--no-actions", "--quarantine")
    assert result.code == 10
    assert acted(result) == {"worst": [], "other": []}
    assert world.left() == {"worst", "other", "clean"}
    assert set(world.states().values()) == {MatchState.FOUND}
    assert world.reports() == [] and not (world.path / "quarantine").exists()
    assert not {event for event in world.happened() if event.startswith(("quarantine", "report"))}
    with Matches(world.path) as record:
        assert record.wanting_report() == {}
    result = world.scan("--no-actions", "--policy-check")
    assert acted(result)["worst"][0] == ("quarantine", None, "would be quarantined")
    assert world.left() == {"worst", "other", "clean"}


def test_no_actions_needs_no_recipients(world: Policies) -> None:
    world.set_policy("[scan]\nquarantine = true\n", recipients=False)
    assert world.scan().code == 2
    assert world.scan("--no-actions").code == 10


def test_a_check_without_a_policy_says_that_matches_are_recorded(world: Policies) -> None:
    result = world.call("scan", "--policy-check", world.tree)
    assert result.code == 10 and result.out.count("would only be recorded") == 2


def test_a_report_is_prepared_once_for_all_matches_of_a_scan(world: Policies) -> None:
    world.set_policy(BOTH)
    result = world.scan()
    assert result.code == 10
    assert [a for a, _, _ in acted(result)["worst"]] == ["quarantine", "report"]
    (report,) = world.reports()
    assert (report["state"], report["destination"]) == ("prepared", "police")
    assert f"report {report['id']} is prepared" in result.err
    assert "hashclient report submit" in result.err
    # The files are gone, so another scan adds nothing.
    assert world.scan().code == 0
    assert len(world.reports()) == 1


def test_a_match_left_in_place_is_reported_once(world: Policies) -> None:
    world.set_policy(REPORT)

    def told() -> set[str]:
        result = world.scan()
        assert result.code == 10
        return {detail for acted in acted(result).values() for _, _, detail in acted}

    assert told() == {"to be reported to police"}
    assert told() == {"in a report already"}
    assert world.call("report", "submit", "--all").code == 0
    assert told() == {"reported already"}
    (report,) = world.reports()
    assert world.left() == {"worst", "other", "clean"}
    assert len(report["matches"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("next_command", ["scan", "submit"])
def test_a_report_that_a_killed_scan_wanted_is_prepared_by_what_comes_next(
    world: Policies, monkeypatch: pytest.MonkeyPatch, next_command: str
) -> None:
    world.set_policy(BOTH)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hashclient.scan.run.actions.prepare_wanted", killed)
        world.scan()
    assert world.reports() == []
    assert world.left() == {"clean"}
    # No file matches any more, but the earlier matches are reported.
    if next_command == "scan":
        assert world.scan().code == 0
    else:
        assert world.call("report", "submit", "--all").code == 0
        assert len(list(world.handover.iterdir())) == 1
    (report,) = world.reports()
    assert len(report["matches"]) == 2  # type: ignore[arg-type]


def test_no_file_is_isolated_because_of_a_stale_list(world: Policies) -> None:
    world.set_policy(BOTH)
    edit_manifest(world.path, "base", expires="2020-01-01T00:00:00Z")
    result = world.scan()
    assert result.code == 11
    done_to = acted(result)
    assert ("quarantine", False, "not quarantined: its list is stale") in done_to["worst"]
    assert done_to["other"][0][1] is True
    assert world.left() == {"worst", "clean"}
    assert len(world.reports()) == 1


def test_a_list_that_is_not_stale_does_not_speak_for_one_that_is(tmp_path: Path) -> None:
    """A file is on two lists, and only the rule of the stale list asks for isolation."""
    world = Policies(tmp_path)
    both = {"base": csv_of({"e-1": WORST}), "local": csv_of({"e-2": WORST})}
    world.path = make_state(tmp_path / "second", both)
    world.set_policy(QUARANTINE)
    edit_manifest(world.path, "base", expires="2020-01-01T00:00:00Z")
    result = world.scan()
    assert result.code == 11
    stale = ("quarantine", False, "not quarantined: its list is stale")
    assert acted(result) == {"worst": [stale]}
    assert world.left() == {"worst", "other", "clean"}
    # `--quarantine` isolates a match of any fresh list.
    assert acted(world.scan("--quarantine"))["worst"][0][1] is True


def test_a_report_to_a_removed_destination_delays_no_other(
    world: Policies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.set_policy(REPORT)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hashclient.scan.run.actions.prepare_wanted", killed)
        world.scan()
    # The destination `police` is now called `second`, and a further file matches.
    config = world.path / "config.toml"
    config.write_text(config.read_text().replace("report.to.police", "report.to.second"))
    copy = write_tree(tmp_path / "more", {"again": WORST})
    result = world.call("scan", copy)
    assert result.code == 11
    assert "2 matches reported to police, which is not configured any more" in result.err
    (report,) = world.reports()
    assert (report["destination"], len(report["matches"])) == ("second", 1)  # type: ignore[arg-type]
    sent = world.call("report", "submit", "--all")
    assert sent.code == 2 and "handed over" in sent.out and "police" in sent.err
    # The hint of the warning names the command `report prepare --all --to second`.
    words = ("report", "prepare", "--all", "--to", "second")
    assert world.call(*words).code == 0
    sent = world.call("report", "submit", "--all")
    assert (sent.code, sent.err) == (0, "")
    assert len(list(world.handover.iterdir())) == 2


def test_a_file_that_cannot_be_isolated_needs_attention(world: Policies, tmp_path: Path) -> None:
    world.set_policy(QUARANTINE)
    os.link(world.tree / "worst", tmp_path / "another-name")
    result = world.scan()
    assert result.code == 11
    ((action, done, detail),) = acted(result)["worst"]
    assert (action, done) == ("quarantine", True) and "1 other name" in detail
    assert result.summary["exit_code"] == 11


def test_a_quarantine_that_cannot_be_written_leaves_all_in_place(world: Policies) -> None:
    world.set_policy(QUARANTINE)
    (world.path / "quarantine").touch()
    result = world.scan()
    assert result.code == 11
    ((_, done, detail),) = acted(result)["worst"]
    assert done is False and detail.startswith("not quarantined: ")
    assert world.left() == {"worst", "other", "clean"}


def test_a_log_that_cannot_be_written_leaves_all_in_place(world: Policies) -> None:
    world.set_policy(QUARANTINE)
    for path in (world.path / "audit").iterdir():
        path.unlink()
    (world.path / "audit").rmdir()
    (world.path / "audit").touch()
    result = world.scan()
    assert result.code == 11
    assert world.left() == {"worst", "other", "clean"}


def test_conflicts_are_never_taken_away(tmp_path: Path) -> None:
    md5, sha1, _ = csv_of({"e": WORST}).decode().splitlines()[1].split(",")[1:4]
    rows = f"entry_id,md5,sha1,category\ne-1,{md5[::-1]},{sha1},worst\n"
    world = Policies(tmp_path)
    world.path = make_state(tmp_path / "second", {"base": rows.encode()})
    world.set_policy(QUARANTINE)
    result = world.scan("--quarantine")
    assert (result.code, result.summary["conflict"]) == (3, 1)
    assert acted(result) == {"worst": []}
    assert world.left() == {"worst", "other", "clean"}


def test_quarantine_and_reports_are_readable_by_their_owner_only(world: Policies) -> None:
    world.set_policy(BOTH)
    world.scan()
    for path in (world.path / "quarantine", world.path / "reports"):
        for inner in (path, *path.rglob("*")):
            assert stat.S_IMODE(inner.stat().st_mode) & 0o077 == 0, inner
            if inner.is_file():
                assert WORST not in inner.read_bytes() and OTHER not in inner.read_bytes()


def test_reports_of_many_are_wanted_in_one_change_of_the_record(
    world: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[list[str]] = []
    batch = Matches.batch

    @contextlib.contextmanager
    def watched(self: Matches) -> Iterator[None]:
        with batch(self):
            yield
        changes.append(
            [match.path for matches in self.wanting_report().values() for match in matches]
        )

    monkeypatch.setattr(Matches, "batch", watched)
    world.set_policy(REPORT)
    assert world.scan("--jobs", "1").code == 10
    assert len(changes[0]) == 2
