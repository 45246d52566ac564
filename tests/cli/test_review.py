"""`matches review`, `--to-review` and `matches stats`, as an administrator uses them."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hashclient import Client, Verdict
from hashclient.cli.matches_review import review
from hashclient.core.figures import wilson
from hashclient.core.kinds import REVIEW_REASONS
from hashclient.quarantine.age import write_identity
from tests.kit.state import State

LISTED = {"e-1": b"one listed dummy", "e-2": b"another listed dummy"}
REASON = ("--reason", "harmless: a dummy")


def state_with(tmp_path: Path, table: str = "") -> State:
    state = State(tmp_path, {"base": LISTED}, {"a": LISTED["e-1"], "b": LISTED["e-2"], "c": b"c"})
    (tmp_path / "out").mkdir()
    state.configure(
        f'{table}[report.to.police]\nkind = "package"\ndirectory = "{tmp_path}/out"\n'
        '[[policy]]\nactions = ["report"]\n'
    )
    return state


WAITS = '[report]\nafter = "review"\n'


def test_what_a_policy_reports_waits_until_it_is_confirmed(tmp_path: Path) -> None:
    state = state_with(tmp_path, WAITS)
    found = state.scan().lines[:-1]
    assert {line["actions"][0]["detail"] for line in found} == {
        "to be reported to police after a review"
    }
    ids = state.ids()
    assert state.call("report", "status").out == ""
    listed = state.call("matches", "--to-review", "--format", "jsonl")
    assert {line["id"] for line in listed.lines} == {*ids.values()}
    done = state.call(
        *("matches", "review", ids["a"], "--confirmed", "--viewed"),
        *("--reason", "as-listed: seen, ticket 4711"),
    )
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{ids['a']}  {state.tree}/a  confirmed\n"
    # The timer prepares and sends only the confirmed matches.
    assert state.call("report", "submit", "--due").code == 0
    (package,) = (tmp_path / "out").iterdir()
    (match,) = json.loads((package / "document.json").read_text())["matches"]
    assert (match["id"], match["viewed"]) == (ids["a"], True)
    assert state.states()["b"] == "found"
    ((_, logged),) = state.events("reviewed")
    assert {k: v for k, v in logged.items() if k not in ("path", "by")} == {
        "id": ids["a"],
        "verdict": "confirmed",
        "reason": "as-listed",
        "text": "seen, ticket 4711",
        "viewed": True,
    }
    assert state.call("audit", "verify").code == 0
    left = state.call("matches", "--to-review", "--format", "jsonl")
    assert [line["id"] for line in left.lines] == [ids["b"]]
    rejected = state.call("matches", "review", ids["b"], "--rejected", *REASON)
    assert rejected.code == 0
    assert state.call("report", "submit", "--all").err == "no report waits\n"
    assert state.call("matches", "--to-review").err == "no match waits for a review\n"


def test_only_submit_unreviewed_lets_it_leave(tmp_path: Path) -> None:
    state = state_with(tmp_path, WAITS)
    ids = state.ids()
    for words in (["report", "submit", "--due"], ["report", "submit", "--all"]):
        assert state.call(*words).code == 0
    said = state.call("report", "prepare", "--all")
    assert "2 matches wait for a review" in said.err and not [*(tmp_path / "out").iterdir()]
    report_id = state.call("report", "prepare", ids["a"]).out.split()[1].rstrip(":")
    waits = state.call("report", "submit", report_id)
    assert (waits.code, waits.out) == (
        3,
        f"{report_id}  waits: 1 match in it waits for a review\n",
    )
    assert not [*(tmp_path / "out").iterdir()]
    refused = state.call("report", "export", report_id)
    assert (refused.code, refused.out) == (2, "") and "1 match in it to be reviewed" in refused.err
    assert state.events("report-exported") == []
    sent = state.call("report", "submit", "--all", "--unreviewed", "--reason", "urgent: 4711")
    assert sent.code == 0
    assert {v for k, v in state.states().items()} == {"reported"}
    assert [d["reason"] for _, d in state.events("report-unreviewed")] == ["urgent: 4711"] * 2
    assert state.call("report", "export", report_id).out.count("\n") == 2


def test_a_reason_whose_bytes_are_not_utf_8_stops_no_report(tmp_path: Path) -> None:
    state = state_with(tmp_path, WAITS)
    ids, odd = state.ids(), "caf\udce9"
    state.call("matches", "review", ids["a"], "--confirmed", "--reason", f"as-listed: {odd}")
    report_id = state.call("report", "prepare", *ids.values()).out.split()[1].rstrip(":")
    for words in (
        ("submit", "--unreviewed", "--reason", odd),
        ("acknowledge", "--reference", odd),
        ("retract", "--reason", odd),
    ):
        assert state.call("report", *words, report_id).code == 0, words
    package, note = sorted((tmp_path / "out").iterdir())
    for written in (package, note):
        assert state.call("report", "verify", written).code == 0
    assert "caf\ufffd" in (package / "document.json").read_text()


def test_a_rejected_match_is_in_no_exported_report(tmp_path: Path) -> None:
    state = state_with(tmp_path)
    ids = state.ids()
    state.scan()
    (report,) = json.loads(state.call("report", "status", "--format", "json").out)["reports"]
    state.call("matches", "review", ids["a"], "--rejected", *REASON)
    exported = state.call("report", "export", report["id"], "--format", "jsonl").lines
    assert [row["match"] for row in exported] == [ids["b"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["report", "submit", "--all", "--unreviewed"],
        ["report", "submit", "--all", "--reason", "x"],
        ["report", "submit", "--due", "--unreviewed", "--reason", "x"],
        ["matches", "review", "ID", *REASON],
        ["matches", "review", "ID", "--confirmed", "--rejected", *REASON],
        ["matches", "review", "ID", "--confirmed", *REASON],
        ["matches", "review", "ID", "--rejected", "--reason", "because"],
        ["matches", "review", "ID", "--rejected"],
        ["matches", "review", "--rejected", *REASON],
        ["matches", "review", "ID", "--confirmed", "--except", "--reason", "as-listed: yes"],
        ["matches", "review", "ID", "--rejected", "--until", "2999-01-01", *REASON],
        ["matches", "review", "bbbbbbbbbb", "--rejected", *REASON],
    ],
)
def test_contradicting_or_missing_words_are_refused(tmp_path: Path, words: list[str]) -> None:
    state = state_with(tmp_path)
    ids = state.ids()
    done = state.call(*(ids["a"] if word == "ID" else word for word in words))
    assert done.code == 2 and "Traceback" not in done.err
    assert state.events("reviewed") == []


def test_of_several_none_is_reviewed_if_one_is_unknown(tmp_path: Path) -> None:
    state = state_with(tmp_path)
    ids = state.ids()
    assert state.call("matches", "review", ids["a"], "bbbbbbbbbb", "--rejected", *REASON).code == 2
    assert state.story(ids["a"]) == ["found", "report-wanted", "report-prepared"]


def test_a_rejected_file_is_put_back_in_the_same_step(tmp_path: Path) -> None:
    state = State(tmp_path, {"base": LISTED}, {"a": LISTED["e-1"], "b": LISTED["e-2"]})
    key = tmp_path / "officer.key"
    public = write_identity(key, datetime.now(UTC))
    state.configure(
        f'[quarantine]\nrecipients = ["{public}"]\n[[policy]]\nactions = ["quarantine"]\n'
    )
    ids = state.ids()
    assert state.left() == set()
    hint = state.call("matches", "review", ids["a"], "--rejected", *REASON)
    assert "quarantine restore ID --identity FILE" in hint.err and state.left() == set()
    back = state.call("matches", "review", *ids.values(), "--rejected", "--restore", key, *REASON)
    assert back.code == 0 and back.out.count("  restored\n") == 2
    assert state.left() == {"a", "b"}
    assert state.story(ids["a"])[-3:] == ["rejected", "rejected", "restored"]


def test_a_rejected_file_is_excepted_and_put_back_and_stays(tmp_path: Path) -> None:
    state = State(tmp_path, {"base": LISTED}, {"a": LISTED["e-1"], "b": LISTED["e-2"]})
    key = tmp_path / "officer.key"
    public = write_identity(key, datetime.now(UTC))
    state.configure(
        f'[quarantine]\nrecipients = ["{public}"]\n[[policy]]\nactions = ["quarantine"]\n'
    )
    ids = state.ids()
    words = ("--rejected", "--except", "--restore", key, *REASON)
    done = state.call("matches", "review", ids["a"], *words)
    assert (done.code, state.left()) == (0, {"a"})
    assert "hint" not in done.err
    again = state.scan()
    assert (again.code, state.left()) == (0, {"a"})
    assert [*again.outcomes.values()] == ["excepted"]
    ((_, made),) = state.events("exception-added")
    assert "rejected: a dummy" in json.dumps(made)
    figures = json.loads(state.call("matches", "stats", "--format", "json").out)["lines"][0]
    assert (figures["found"], figures["excepted"], figures["rejected"]) == (2, 1, 1)


def test_a_file_is_not_put_back_while_its_exception_waits(tmp_path: Path) -> None:
    state = State(tmp_path, {"base": LISTED}, {"a": LISTED["e-1"]})
    key = tmp_path / "officer.key"
    public = write_identity(key, datetime.now(UTC))
    state.configure(
        f'[decisions]\npeople = 2\n[quarantine]\nrecipients = ["{public}"]\n'
        '[[policy]]\nactions = ["quarantine"]\n'
    )
    words = ("--rejected", "--except", "--restore", key, *REASON)
    done = state.call("matches", "review", state.ids()["a"], *words)
    assert (done.code, state.left()) == (0, set())
    assert "exceptions approve x-" in done.err and "hashclient quarantine restore ID" in done.err


def test_two_people_are_needed_before_anything_is_put_back(tmp_path: Path) -> None:
    state = state_with(tmp_path, "[report]\npeople = 2\n")
    ids = state.ids()
    done = state.call("matches", "review", ids["a"], "--rejected", *REASON, "--format", "json")
    (item,) = json.loads(done.out)["items"]
    assert (item["decided"], item["detail"]) == (
        None,
        "rejected: a second person has to review, too",
    )


def test_a_program_reviews_as_the_command_does(tmp_path: Path) -> None:
    state = state_with(tmp_path, WAITS)
    ids = state.ids()
    client = Client(state.path)
    assert {match.id for match in client.to_review()} == {*ids.values()}
    ((match, decided),) = client.review(
        ids["a"], verdict=Verdict.REJECTED, reason="lawful", text="ticket 4711"
    )
    assert (match.id, decided) == (ids["a"], Verdict.REJECTED)
    assert [match.id for match in client.to_review()] == [ids["b"]]


def test_the_help_names_every_reason() -> None:
    words = re.findall(r"[a-z-]+", review.help or "")
    assert {word for some in REVIEW_REASONS.values() for word in some} <= {*words}


def test_figures_of_a_time(tmp_path: Path) -> None:
    state = state_with(tmp_path)
    ids = state.ids()
    state.call("matches", "review", ids["a"], "--confirmed", "--reason", "as-listed: yes")
    state.call("matches", "review", ids["b"], "--rejected", *REASON)
    state.call("report", "submit", "--all")
    rows = [*csv.DictReader(io.StringIO(state.call("matches", "stats", "--format", "csv").out))]
    lines = json.loads(state.call("matches", "stats", "--format", "json").out)["lines"]
    assert [row["found"] for row in rows] == ["2", "2", "2", "1", "1"]
    assert [{k: "" if v is None else str(v) for k, v in line.items()} for line in lines] == rows
    total = lines[0]
    assert (total["confirmed"], total["rejected"], total["reported"]) == (1, 1, 1)
    assert (total["precision_share"], total["list"]) == (0.5, None)
    assert {(row["entry"], row["confirmed"]) for row in rows[3:]} == {("e-1", "1"), ("e-2", "0")}
    assert total["review_median_s"] >= 0 and total["isolation_p95_s"] is None
    text = state.call("matches", "stats").out
    assert "50.0% (9.5% to 90.5%)" in text and "isolation   never" in text
    assert (
        state.call("matches", "stats", "--to", "2020-01-01", "--format", "csv").out.count("\n") == 2
    )
    assert state.call("matches", "stats", "--from", "2999-01-01").code == 0
    # The summary of the log has the same figures for the precision and its interval.
    summary = state.call("audit", "summary", "--format", "csv").out.splitlines()
    assert {f"precision,{n},{total[f'precision_{n}']}" for n in ("share", "low", "high")} <= {
        *summary
    }


def test_wilsons_interval_is_that_of_the_literature() -> None:
    # The expected intervals are from R. G. Newcombe, Two-sided confidence intervals for the single
    # proportion, 1998, table I.
    for good, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = wilson(good, count)
        assert found is not None and (round(found.low, 4), round(found.high, 4)) == (low, high)
    for good, count, low, high in ((0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        found = wilson(good, count)
        assert found is not None and (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert wilson(0, 0) is None
