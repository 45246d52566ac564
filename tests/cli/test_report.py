"""`report` as people and scripts see it, from a scan to a confirmed report."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.desk import Desk
from fixtures.reporting_service import Fault, ReportingService
from hashclient.core.kinds import Verdict
from hashclient.packages.tarstream import Member, write_tar
from tests.kit import Run, call, csv_of, make_state, run, write_tree


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ReportingService]:
    with ReportingService(tmp_path) as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, service: ReportingService) -> Desk:
    return Desk(tmp_path / "desk", f"[report.to.hotline]\n{service.table()}")


def command(desk: Desk, *args: object) -> Run:
    """Run a command in this process on the desk's state directory."""
    return call("--state-dir", desk.settings.state_dir, *args)


@pytest.mark.slow
def test_from_a_scan_to_a_confirmed_report(tmp_path: Path) -> None:
    """The test takes the same steps as an administrator."""
    state = make_state(tmp_path, {"baseline": csv_of({"e-1": b"listed"})})
    tree = write_tree(tmp_path / "tree", {"a": b"listed", "b": b"other"})
    out = tmp_path / "out"
    out.mkdir()
    root = hashlib.sha256((state / "trust/main/pinned-root.json").read_bytes()).hexdigest()
    url = "https://lists.example.org/v1"
    (state / "config.toml").write_text(
        f'[providers.main]\nurl = "{url}"\nroot_sha256 = "{root}"\n'
        '[report]\norganisation = "Example"\n'
        f'[report.to.police]\nkind = "package"\ndirectory = "{out}"\n'
    )

    def do(*args: object) -> Run:
        return call("--state-dir", state, *args)

    assert do("scan", tree).code == 10
    match_id = do("matches", "--format", "jsonl").lines[0]["id"]
    prepared = do("report", "prepare", match_id)
    report_id = prepared.out.split()[1].rstrip(":")
    assert prepared.out == f"prepared {report_id}: 1 match to police\n"
    assert f"hashclient report submit {report_id}" in prepared.err
    name = f"hashclient-report-{report_id}"
    sent = run("--state-dir", state, "report", "submit", "--all")
    assert (sent.code, sent.err) == (0, "")
    assert sent.out == f"{report_id}  handed over: {out / name}\n"
    again = run("--state-dir", state, "report", "submit", "--all")
    assert (again.code, again.out, again.err) == (0, "", "no report waits\n")
    quiet = run("--state-dir", state, "report", "submit", "--due")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    shown = do("report", "status").out
    assert re.fullmatch(rf"{report_id}  submitted +police  1 match\n", shown)
    verified = call("report", "verify", out / name)
    assert verified.code == 0
    assert "the package verifies\n" in verified.out and "organisation     Example" in verified.out
    key = re.search(r"public key +(\w{64})", verified.out)
    assert key is not None and key[1] in do("audit", "verify").out
    assert call("report", "verify", out / name, "--public-key", key[1]).err == ""
    assert call("report", "verify", out / name, "--public-key", "0" * 64).code == 6
    document = json.loads((out / name / "document.json").read_text())
    (entry,) = document["matches"][0]["entries"]
    assert entry["provider"] == {"root_sha256": root, "url": url}
    assert document["reporter"]["machine"] == os.uname().nodename
    packaged = json.loads((out / name / "custody.jsonl").read_bytes().splitlines()[-1])["data"]
    assert packaged["organisation"] == "Example"
    assert packaged["machine"] == os.uname().nodename
    assert packaged["providers"] == [entry["provider"]]
    done = do("report", "acknowledge", report_id, "--reference", "case 4711")
    assert done.out == f"acknowledged {report_id}: case 4711\n"
    assert do("matches", "show", match_id).out.splitlines()[0] == f"match {match_id}: acknowledged"
    assert do("report", "status").out.rstrip().endswith("1 match  case 4711")


def test_the_reports_are_a_table(desk: Desk) -> None:
    for name, destination in (("a", "hotline"), ("b", "police")):
        match = desk.find(name, name.encode())
        assert command(desk, "report", "prepare", match.id, "--to", destination).code == 0
    lines = command(desk, "report", "status").out.splitlines()
    assert len({line.index("1 match") for line in lines}) == 1 and len(lines) == 2


def test_a_package_that_was_edited(desk: Desk) -> None:
    desk.send(desk.prepare(desk.find("a", b"x")))
    (path,) = desk.out.iterdir()
    (path / "document.json").write_bytes((path / "document.json").read_bytes() + b" ")
    result = command(desk, "report", "verify", path)
    assert (result.code, result.out) == (6, "")
    assert "not those that the signed record names" in result.err


@pytest.mark.slow
def test_a_report_over_the_network(desk: Desk, service: ReportingService) -> None:
    match = desk.find("a", b"one")
    assert command(desk, "report", "prepare", match.id, "--to", "hotline").code == 0
    service.fail("upload", Fault(code=1000))
    failed = command(desk, "report", "submit", "--all")
    assert failed.code == 4
    status = command(desk, "report", "status").out
    report_id = status.split()[0]
    assert "submitting" in status and "code 1000, request req-4" in status
    shown = command(desk, "report", "status", report_id).out
    assert re.search(r"in doubt +whether upload was carried out\n", shown)
    assert re.search(r"problem +the service has a problem of its own: /upload: code 1000", shown)
    assert re.search(r"attempts +1 failed, the last \d{4}-\d\d-\d\d \d\d:\d\d UTC\n", shown)
    assert re.search(r"next attempt +\d{4}-\d\d-\d\d \d\d:\d\d UTC\n", shown)
    assert command(desk, "report", "submit", "--due").out == ""  # the report is not due yet
    sent = command(desk, "report", "submit", report_id)
    assert sent.out == f"{report_id}  finished: hotline calls it 4712\n"
    assert service.states() == ["retracted", "finished"]
    assert command(desk, "report", "retract", report_id, "--reason", "x").code == 2
    assert command(desk, "report", "submit", report_id).code == 2


@pytest.mark.slow
def test_evidence_that_is_sealed_needs_the_officers_key(
    desk: Desk, service: ReportingService
) -> None:
    match = desk.find("a", b"one")
    desk.quarantine(match)
    command(desk, "report", "prepare", match.id, "--to", "hotline")
    for _ in range(2):
        waits = command(desk, "report", "submit", "--all")
        assert waits.code == 3 and "waits: 1 file is sealed in quarantine" in waits.out
    assert command(desk, "report", "submit", "--due").code == 0
    sent = command(desk, "report", "submit", "--all", "--identity", desk.officer)
    assert sent.code == 0 and "finished" in sent.out
    assert [f.data for f in service.finished.files.values()] == [b"one"]


@pytest.mark.slow
def test_several_where_some_fail(desk: Desk, service: ReportingService) -> None:
    first = desk.prepare(desk.find("a", b"one"), to="hotline")
    second = desk.prepare(desk.find("b", b"two"))
    service.fail("submit", Fault(status=401))
    given = command(desk, "report", "submit", "r-bbbbbbbbbb", first.id, second.id)
    assert given.code == 5  # the highest of the codes 2, 5 and 0
    assert given.out.startswith(f"{second.id}  handed over")
    assert "dummy-password" not in given.out + given.err


def test_as_json(desk: Desk, service: ReportingService) -> None:
    match = desk.find("a", b"one")
    prepared = command(
        desk, "report", "prepare", match.id, "--to", "hotline", "--format", "json"
    ).lines[0]
    assert (prepared["state"], prepared["matches"]) == ("prepared", [match.id])
    service.fail("status", Fault(status=500))
    failed = command(desk, "report", "submit", "--all", "--format", "json")
    (report,) = failed.lines[0]["reports"]
    assert report["problem"]["exit_code"] == failed.code == 4
    (report,) = command(desk, "report", "status", "--format", "json").lines[0]["reports"]
    assert report["id"] == prepared["id"] and report["next_attempt"] is not None
    shown = command(desk, "report", "status", prepared["id"], "--format", "json").lines[0]
    assert shown["history"][-1]["event"] == "attempt-failed"
    retracted = command(
        desk, "report", "retract", prepared["id"], "--reason", "x", "--format", "json"
    )
    assert retracted.lines[0]["reports"][0]["state"] == "retracted"
    nothing = command(desk, "report", "submit", "--all", "--format", "json")
    assert json.loads(nothing.out) == {"reports": []}
    other = desk.prepare(desk.find("b", b"two"))
    desk.send(other)
    done = command(
        desk, "report", "acknowledge", other.id, "--reference", "x", "--format", "json"
    ).lines[0]
    assert done["reference"] == "x"
    (path,) = desk.out.iterdir()
    found = command(desk, "report", "verify", path, "--format", "jsonl").lines[0]
    assert found["report"] == other.id and found["public_key_compared"] is False
    command(desk, "report", "retract", other.id, "--reason", "x")
    note = desk.out / f"hashclient-report-{other.id}-retraction.json"
    found = command(desk, "report", "verify", note, "--format", "jsonl").lines[0]
    assert (found["result"], found["report"], found["reason"]) == ("retraction", other.id, "x")


def test_all_that_is_in_no_report_yet(desk: Desk) -> None:
    first, second = desk.find("a", b"one"), desk.find("b", b"two")
    command(desk, "report", "prepare", first.id, "--to", "police")
    given = command(desk, "report", "prepare", "--all", "--to", "police", "--format", "json")
    assert given.lines[0]["matches"] == [second.id]
    assert command(desk, "report", "prepare", "--all", "--to", "police").out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["prepare"],
        ["prepare", "bbbbbbbbbb"],
        ["prepare", "bbbbbbbbbb", "--all"],
        ["submit"],
        ["submit", "--all", "r-bbbbbbbbbb"],
        ["submit", "--all", "--again"],
        ["submit", "--all", "--due"],
        ["submit", "--due", "r-bbbbbbbbbb"],
        ["submit", "--all", "--allow-closed"],
        ["submit", "r-bbbbbbbbbb"],
        ["submit", "--all", "--identity", "no-such-file"],
        ["status", "r-bbbbbbbbbb"],
        ["acknowledge", "r-bbbbbbbbbb"],
        ["acknowledge", "r-bbbbbbbbbb", "--reference", "x"],
        ["retract", "r-bbbbbbbbbb", "--reason", "x"],
        ["verify", "no-such-file"],
    ],
)
def test_contradicting_options_are_refused(desk: Desk, words: list[str]) -> None:
    assert command(desk, "report", *words).code == 2


def test_a_damaged_record_hides_no_other(desk: Desk) -> None:
    first, second = desk.prepare(desk.find("a", b"1")), desk.prepare(desk.find("b", b"2"))
    (desk.outbox.folder(first.id) / "report.json").write_text("{")
    shown = command(desk, "report", "status")
    assert shown.code == 8 and shown.out.startswith(second.id) and "damaged" in shown.err
    sent = command(desk, "report", "submit", "--all")
    assert sent.code == 8 and sent.out.startswith(f"{second.id}  handed over")
    third = desk.prepare(desk.find("c", b"3"), again=True)
    sent = command(desk, "report", "submit", "--all", "--format", "json")
    assert sent.code == 8 and "damaged" in sent.err
    assert [report["id"] for report in json.loads(sent.out)["reports"]] == [third.id]


def test_reports_count_again_after_the_record_of_matches_was_lost(tmp_path: Path) -> None:
    desk = Desk(tmp_path, keep_days=30)
    matches = [desk.find(name, name.encode()) for name in "abc"]
    for match in matches:
        desk.quarantine(match)
    sent, retracted = desk.prepare(matches[0]), desk.prepare(matches[1])
    for report in sent, retracted:
        desk.send(report)
        desk.wait(days=1)
        desk.acknowledge(report)
    desk.prepare(matches[2])
    desk.retract(retracted)
    before = [(desk.due(match), desk.get(match).state) for match in matches]
    (desk.settings.state_dir / "matches.db").unlink()
    assert command(desk, "quarantine", "recover").code == 0
    stories = [desk.story(match) for match in matches]
    assert command(desk, "quarantine", "recover").out == ""
    assert [desk.story(match) for match in matches] == stories
    assert [(desk.due(match), desk.get(match).state) for match in matches] == before
    desk.wait(days=27)
    refused = desk.purge(matches[0], force=True)
    assert refused.done is False and "kept until 2026-03-02 12:00 UTC" in refused.detail
    assert desk.purge(matches[1], force=True).done is True


def test_a_report_is_exported_as_a_table_and_logged(desk: Desk) -> None:
    report = desk.prepare(desk.find("a", b"one"), desk.find("=b", b"two"))
    lines = command(desk, "report", "export", report.id).out.splitlines()
    rows = list(csv.DictReader(lines))
    assert [row["match"] for row in rows] == list(report.matches)
    assert {row["category"] for row in rows} == {"synthetic"}
    assert {row["evidence"] for row in rows} == {"none"} and rows[0]["organisation"] == "Example"
    found = command(desk, "report", "export", report.id, "--format", "jsonl").lines
    assert [row["entry"] for row in found] == [row["entry"] for row in rows]
    assert desk.events().count("report-exported") == 2


def test_an_exported_report_has_the_present_state_of_its_matches(desk: Desk) -> None:
    match = desk.find("a", b"one")
    report = desk.prepare(match)
    desk.review(match, verdict=Verdict.CONFIRMED, viewed=True)
    desk.quarantine(match)
    (row,) = command(desk, "report", "export", report.id, "--format", "jsonl").lines
    assert (row["viewed"], row["state"], row["evidence"]) == (True, "quarantined", "sealed")


def test_a_dry_run_writes_what_would_be_sent_and_names_what_is_missing(desk: Desk) -> None:
    first, second = desk.find("a", b"one"), desk.find(b"b\x1b", b"two")
    desk.prepare(first)
    desk.prepare(second, to="hotline")
    shown = command(desk, "report", "submit", "--all", "--dry-run")
    assert shown.code == 3 and list(desk.out.iterdir()) == []
    assert '"format": "hashclient-report/2"' in shown.out and "<incidentType>" in shown.out
    assert "\x1b" not in shown.out
    assert f"match {first.id}: its file is not in quarantine" in shown.err
    assert "organisation of [report]" not in shown.err and "contact of [report]" in shown.err
    found = command(desk, "report", "submit", "--all", "--dry-run", "--format", "json").lines[0]
    hotline, police = sorted(found["reports"], key=lambda report: report["to"])
    assert hotline["files"] == [second.id] and set(police["texts"]) == {"document.json"}
    assert {r.state for r in desk.outbox.reports()} == {"prepared"}


def test_a_report_that_is_not_handed_over_in_time_is_overdue(tmp_path: Path) -> None:
    desk = Desk(tmp_path, police="deadline_hours = 24\n")
    desk.time = datetime.now(UTC) - timedelta(hours=25)
    report = desk.prepare(desk.find("a", b"one"))
    desk.time += timedelta(hours=2)
    desk.prepare(desk.find("b", b"two"))
    with (desk.settings.state_dir / "config.toml").open("a") as config:
        config.write(f'[providers.main]\nroot_sha256 = "{"0" * 64}"\n')
    assert re.search(r"^overdue +1 report to police$", command(desk, "status").out, re.MULTILINE)
    assert command(desk, "status", "--format", "json").lines[0]["reports_overdue"] == {"police": 1}
    metrics = command(desk, "status", "--format", "prometheus").out
    assert 'hashclient_reports_overdue{destination="police"} 1' in metrics
    assert desk.send(report).error is None
    assert "overdue" not in command(desk, "status").out


def test_without_reports_status_is_empty_and_submit_succeeds(desk: Desk) -> None:
    shown = command(desk, "report", "status")
    assert (shown.code, shown.out) == (0, "")
    assert json.loads(command(desk, "report", "status", "--format", "json").out) == {"reports": []}
    assert command(desk, "report", "submit", "--all").code == 0


def test_things_that_are_no_package(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(b"{}")
    (tmp_path / "sealed").write_bytes(b"age-encryption.org/v1\nx")
    (tmp_path / "text").write_bytes(b"a text of thirty-three characters")
    (tmp_path / "long").write_bytes(b"x" * 5000)
    write_tree(tmp_path / "dir", {"README.txt": b"of something else", "a/b": b"x"})
    (tmp_path / "none").mkdir()
    names = ("note", "sealed", "text", "long", "dir", "none")
    found = {name: command(desk, "report", "verify", tmp_path / name) for name in names}
    codes = {name: result.code for name, result in found.items()}
    assert codes == {"note": 6, "sealed": 2, "text": 2, "long": 2, "dir": 2, "none": 2}
    for name in ("text", "long", "dir", "none"):
        assert (
            f"error: no package, and nothing was verified: {tmp_path}/{name}\n" in found[name].err
        )
    assert all(result.out == "" for result in found.values())
    sealed = tmp_path / "sealed"
    assert command(desk, "report", "verify", sealed, "--identity", desk.officer).code == 6


def test_what_is_left_of_a_package_is_damaged(tmp_path: Path) -> None:
    """A cut or damaged package is reported as damaged, and never as missing."""
    members = [Member(name, 3, iter([b"abc"])) for name in ("README.txt", "document.json")]
    whole = b"".join(write_tar("hashclient-report-r-bbbbbbbbbb", members))
    cuts = {f"cut at {n}": whole[:n] for n in (0, 1, 11, 300, 512, 513, len(whole) - 1)}
    damaged = {"first": b"\xff" + whole[1:], "mark": whole[:257] + b"\xff" * 8 + whole[265:]}
    damaged["zeros"] = bytes(4096)
    for name, data in (cuts | damaged).items():
        (tmp_path / name).write_bytes(data)
        assert call("report", "verify", tmp_path / name).code == 6, name
    for name in ("document.json", "custody.jsonl", "checkpoint.json", "evidence/x.age"):
        left = write_tree(tmp_path / f"only {Path(name).stem}", {name: b"x"})
        result = call("report", "verify", left)
        assert (result.code, "package lacks " in result.err) == (6, True), name


def test_after_a_repair_a_report_is_sent_at_once_by_a_person_and_later_by_a_timer(
    desk: Desk,
) -> None:
    report = desk.prepare(desk.find("a", b"one"))
    away = desk.out.rename(desk.out.with_name("away"))
    failed = command(desk, "report", "submit", "--all")
    assert failed.code == 8 and "no directory for packages" in failed.err
    listed = command(desk, "report", "status").out
    assert re.search(r"prepared +police +1 match  next [-0-9]+ [:0-9]+ UTC: no directory", listed)
    assert command(desk, "report", "submit", "--all").code == 8
    away.rename(desk.out)
    timer = command(desk, "report", "submit", "--due")
    assert (timer.code, timer.out, timer.err) == (0, "", "")
    sent = command(desk, "report", "submit", "--all")
    assert sent.code == 0 and sent.out.startswith(f"{report.id}  handed over: ")


def test_status_shows_who_retracted_a_report_and_why(desk: Desk) -> None:
    report = desk.prepare(desk.find("a", b"one"))
    desk.send(report)
    desk.retract(report, reason="not ours\x1b[2J")
    listed = command(desk, "report", "status").out
    assert listed.endswith("  retracted  police  1 match  by tester: not ours\\x1b[2J\n")
    shown = command(desk, "report", "status", report.id).out
    assert re.search(r"  retraction    by tester, 2026-01-31 12:00 UTC: not ours", shown)
    document = command(desk, "report", "status", report.id, "--format", "json").lines[0]
    assert document["retraction"]["by"] == "tester"


@pytest.mark.slow
def test_a_retraction_that_failed_says_why_and_when_it_is_tried_next(
    desk: Desk, service: ReportingService
) -> None:
    report = desk.prepare(desk.find("a", b"one"), to="hotline")
    service.fail("upload", Fault(code=1000))
    command(desk, "report", "submit", "--all")
    service.fail("retract", Fault(code=1000))
    assert command(desk, "report", "retract", report.id, "--reason", "mistake").code == 4
    listed = command(desk, "report", "status").out
    assert re.search(
        r"being retracted by \S+: mistake; next [-0-9]+ [:0-9]+ UTC: the service has", listed
    )
    shown = command(desk, "report", "status", report.id).out
    assert "retraction" in shown and "next attempt" in shown and "problem" in shown
    assert command(desk, "report", "submit", "--due").out == ""
    assert command(desk, "report", "submit", "--all").code == 0
    assert re.search(r"  retracted .*  by \S+: mistake\n", command(desk, "report", "status").out)
