"""`hashclient status`: all facts that a monitor needs, and an exit code for alarms."""

from __future__ import annotations

import functools
import json
import os
import re
import resource
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hashclient.cli.status import percent
from hashclient.core.kinds import Algorithm, MatchState
from hashclient.formats.registry import FORMATS
from hashclient.matches.store import Matches
from tests.kit import UNMEASURED, call, csv_of, edit_manifest, make_state, run, write_tree

CONFIG = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lists = {
        "baseline": csv_of({"e-1": b"one", "e-2": b"two"}),
        "local": csv_of({"x": b"one"}, algorithms=(Algorithm.MD5,), sized=False),
    }
    state = make_state(tmp_path_factory.mktemp("site"), lists)
    (state / "config.toml").write_text(CONFIG)
    return state


@pytest.fixture
def state(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "state", symlinks=True))


@pytest.mark.slow
def test_status_for_people(state: Path) -> None:
    result = run("--state-dir", state, "status")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "provider main  https://lists.example.org"
    assert lines[1] == "list baseline"
    assert "  state       fresh" in lines
    assert "  entries     2 live" in lines
    assert "  digests     md5 2, sha1 2, sha256 2" in lines
    assert "  sizes       100 % of the entries have one" in lines
    assert "  digests     md5 1" in lines
    assert "  sizes       0 % of the entries have one" in lines
    assert "  recognised  by md5 100 %, sha1 100 %, sha256 100 %" in lines
    assert "  recognised  by md5 100 %, sha1 0 %, sha256 0 %" in lines


@pytest.mark.slow
def test_status_for_scripts(state: Path) -> None:
    result = run("--state-dir", state, "status", "--format", "json")
    document = json.loads(result.out)
    assert (result.code, document["exit_code"]) == (0, 0)
    assert document["state_dir"] == str(state)
    assert document["providers"][0]["name"] == "main"
    baseline = document["lists"][0]
    assert (baseline["name"], baseline["generation"], baseline["entries"]) == ("baseline", 1, 2)
    assert (baseline["fresh"], baseline["usable"], baseline["problem"]) == (True, True, None)
    assert baseline["index_bytes"] > 0
    assert 0 <= baseline["age_s"] < 3600


@pytest.mark.parametrize("url", ["https://u:hunter2@a.example", "https://a.example/?k=hunter2"])
def test_status_shows_no_address_that_may_have_a_password(state: Path, url: str) -> None:
    """A fetch refuses these addresses, and does not repeat them."""
    (state / "config.toml").write_text(CONFIG.replace("https://lists.example.org", url))
    for output_format in ("text", "json"):
        result = call("--state-dir", state, "status", "--format", output_format)
        assert (result.code, "hunter2" in result.out, "not shown" in result.out) == (0, False, True)


def test_status_shows_how_much_of_a_list_each_digest_recognises(tmp_path: Path) -> None:
    """An entry without the digest lowers the share, except for `size+` if the entry has a size."""
    rows = [
        f"e-{n},{f'{n:032x}' if n else ''},{f'{n:040x}' if n % 5 < 2 else ''},{n + 1}"
        for n in range(20)
    ]
    rows.append(f"u,{'f' * 32},,")
    text = "\n".join(["entry_id,md5,sha1,size", *rows, ""])
    state = make_state(tmp_path, {"base": text.encode()})
    (state / "config.toml").write_text(CONFIG)
    result = call("--state-dir", state, "status")
    assert result.code == 0
    shares = "size+md5 100 %, md5 95 %, size+sha1 95 %, sha1 38 %, size+sha256 95 %, sha256 0 %"
    assert f"  recognised  by {shares}" in result.out
    (document,) = json.loads(call("--state-dir", state, "status", "--format", "json").out)["lists"]
    assert document["recognised_by"]["size+md5"] == 1
    assert document["recognised_by"]["md5"] == 20 / 21
    metrics = call("--state-dir", state, "status", "--format", "prometheus").out
    assert f'hashclient_list_recognised_ratio{{by="sha1",list="base"}} {8 / 21!r}\n' in metrics
    # A lookup exits with an error exactly if the status reports one.
    assert call("--state-dir", state, "lookup", "0" * 32).code == 3
    (state / "rows.csv").write_text(f"md5,size\n{'0' * 32},99\n{'0' * 32},20\n")
    assert call("--state-dir", state, "lookup", "--from", state / "rows.csv").code == 0


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 0, "0 %"),
        (0, 7, "0 %"),
        (7, 7, "100 %"),
        (2, 5, "40 %"),
        (2, 3, "66 %"),
        (99, 100, "99 %"),
        (996, 1000, "99.6 %"),
        (1_999_988, 2_000_000, "99.9994 %"),
        (399_999_999, 400_000_000, "99.9999997 %"),
        (1, 2_000_000, "0.00005 %"),
    ],
)
def test_a_share_is_all_only_if_it_is(part: int, whole: int, shown: str) -> None:
    assert percent(part, whole) == shown


def test_status_fails_without_a_provider_and_before_a_fetch(tmp_path: Path) -> None:
    result = call("--state-dir", tmp_path, "status")
    assert result.code == 2
    assert "no provider is configured" in result.err
    (tmp_path / "config.toml").write_text(CONFIG)
    result = call("--state-dir", tmp_path, "status")
    assert result.code == 8
    assert "no list was ever fetched; run `hashclient fetch`" in result.out


def test_a_provider_that_was_never_fetched_from(state: Path) -> None:
    second = '[providers.second]\nurl = "https://other.example.org"\nroot_sha256 = "00"\n'
    (state / "config.toml").write_text(CONFIG + second)
    result = call("--state-dir", state, "status")
    assert result.code == 8
    said = "  state       no list was ever fetched"
    assert f"provider second  https://other.example.org\n{said}" in result.out
    assert result.out.count("no list was ever fetched") == 1
    document = json.loads(call("--state-dir", state, "status", "--format", "json").out)
    assert {p["name"]: p["fetched"] for p in document["providers"]} == {
        "main": True,
        "second": False,
    }


def test_an_age_is_shown_in_units_for_people(state: Path) -> None:
    for stamp, age in (
        ("2020-01-01T00:00:00Z", r"\d,\d{3} days"),
        ((datetime.now(UTC) - timedelta(hours=30)).isoformat(), "30 hours"),
        ((datetime.now(UTC) - timedelta(minutes=3)).isoformat(), "3 minutes"),
        (datetime.now(UTC).isoformat(), "less than two minutes"),
    ):
        edit_manifest(state, "baseline", published_at=stamp)
        assert re.search(
            rf"^  age         {age}$", call("--state-dir", state, "status").out, re.MULTILINE
        )


@pytest.mark.parametrize(
    ("changes", "code", "problem"),
    [
        ({"expires": "2020-01-01T00:00:00Z"}, 7, "STALE: past its expiry"),
        (
            {"checked_at": "2999-01-01T00:00:00Z", "expires": "2999-02-01T00:00:00Z"},
            7,
            "STALE: the clock is behind the last check",
        ),
        ({"key_id": "0" * 16}, 8, "sealed with another key"),
        ({"format": "hashclient-index/0"}, 8, "manifest is damaged"),
        ({"entries": "many"}, 8, "manifest is damaged"),
    ],
)
def test_one_list_with_a_problem_is_enough(
    state: Path, changes: dict[str, str], code: int, problem: str
) -> None:
    edit_manifest(state, "local", **changes)
    result = call("--state-dir", state, "status")
    assert result.code == code
    assert problem in result.out
    document = json.loads(call("--state-dir", state, "status", "--format", "json").out)
    assert document["exit_code"] == code
    assert [entry["fresh"] for entry in document["lists"]] == [True, False]
    assert problem in document["lists"][1]["problem"]
    assert document["lists"][1]["usable"] == (code == 7)


def test_grace_is_said_and_counts(state: Path) -> None:
    edit_manifest(state, "local", expires="2020-01-01T00:00:00Z")
    (state / "config.toml").write_text(CONFIG + "grace_hours = 87600\n")
    result = call("--state-dir", state, "status")
    assert result.code in {0, 7}
    assert "grace" in result.out


def test_a_scan_says_that_the_clock_is_behind_and_not_that_the_list_expired(
    state: Path, tmp_path: Path
) -> None:
    far = {"checked_at": "2999-01-01T00:00:00Z", "expires": "2999-02-01T00:00:00Z"}
    edit_manifest(state, "local", **far)
    write_tree(tmp_path / "files", {"a": b"nothing"})
    result = call("--state-dir", state, "scan", tmp_path / "files")
    assert result.code == 7
    assert "list local counts as stale: the clock shows " in result.err
    assert (
        "but the list was checked at 2999-01-01 00:00 UTC\nhint: set this machine's" in result.err
    )
    for form in FORMATS:
        result = call("--state-dir", state, "scan", "--format", form, tmp_path / "files")
        assert result.code == 7
        assert "expired" not in result.out + result.err, form
    assert "(the clock is behind the last check)" in result.out


def test_a_list_that_ought_to_be_there(state: Path) -> None:
    (state / "config.toml").write_text(CONFIG + 'lists = ["baseline", "missing"]\n')
    result = call("--state-dir", state, "status")
    assert result.code == 8
    assert "list missing\n  state       never fetched" in result.out


def test_damage_and_missing_keys_are_seen(state: Path) -> None:
    (run_file,) = (state / "lists" / "local").glob("run-*")
    run_file.write_bytes(run_file.read_bytes()[:-1])
    result = call("--state-dir", state, "status")
    assert result.code == 8
    assert "index file has" in result.out and "  recognised  by " in result.out
    (state / "seal.key").unlink()
    result = call("--state-dir", state, "status")
    assert result.code == 8
    assert result.out.count("no seal key") >= 1
    assert "recognised" not in result.out


def test_it_reads_and_changes_nothing(state: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    assert run("--state-dir", state, "status").code == 0
    assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before


@pytest.fixture
def scanned(state: Path, tmp_path: Path) -> Path:
    """Return a state that has recorded one match."""
    tree = write_tree(tmp_path / "t", {"listed": b"one", "clean": b"no"})
    assert call("--state-dir", state, "scan", tree).code == 10
    return state


def test_scripts_find_all_keys_whatever_there_is(state: Path, tmp_path: Path) -> None:
    def document() -> dict[str, object]:
        found = json.loads(call("--state-dir", state, "status", "--format", "json").out)
        assert isinstance(found, dict)
        return found

    before = document()
    assert call("--state-dir", state, "scan", write_tree(tmp_path / "t", {"f": b"one"})).code == 10
    assert list(document()) == list(before)
    assert {key for key, value in before.items() if value is None} == {
        "matches",
        "quarantine",
        "reports",
        "reports_overdue",
        "notices",
        "exceptions",
        "alerts",
        "last_scan",
        "published",
    }


def test_matches_of_scans_are_counted(scanned: Path) -> None:
    text = call("--state-dir", scanned, "status").out
    assert re.search(r"^matches       1 found$", text, re.MULTILINE)
    assert re.search(
        r"^last scan     \d{4}-\d\d-\d\d \d\d:\d\d UTC, exit code 10$", text, re.MULTILINE
    )
    document = json.loads(call("--state-dir", scanned, "status", "--format", "json").out)
    assert document["matches"].pop("found") == 1
    assert set(document["matches"].values()) == {0}
    assert document["last_scan"]["exit_code"] == 10
    assert document["problems"] == []


@pytest.mark.slow
def test_metrics_for_a_collector(scanned: Path, tmp_path: Path) -> None:
    edit_manifest(scanned, "local", expires="2020-01-01T00:00:00Z")
    path = tmp_path / "hashclient.prom"
    path.write_text("old")
    args = ("status", "--format", "prometheus")
    result = run("--state-dir", scanned, *args, "--output", path, preexec=lambda: os.umask(0o027))
    assert (result.code, result.out, result.err) == (7, "", "")
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text() == call("--state-dir", scanned, *args).out
    values = {
        (sample.name.removeprefix("hashclient_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert values["status_exit_code",] == 7
    assert values["list_fresh", "baseline"] == 1
    assert values["list_fresh", "local"] == 0
    assert values["list_usable", "local"] == 1
    assert values["list_entries", "baseline"] == 2
    assert values["list_expires_timestamp_seconds", "local"] == 1577836800
    assert values["matches", "found"] == 1
    assert values["matches", "purged"] == 0
    assert values["last_scan_exit_code",] == 10
    assert (
        values["last_scan_end_timestamp_seconds",]
        > values["list_last_check_timestamp_seconds", "baseline"]
    )
    assert values["audit_records",] >= 4


@pytest.mark.slow
def test_an_output_that_cannot_be_written_leaves_the_old_one(state: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "hashclient.prom"
    result = call("--state-dir", state, "status", "--format", "prometheus", "--output", missing)
    # An --output that cannot be opened gives exit code 2, because the unit accepts 8 as success.
    assert result.code == 2
    assert "cannot open the output" in result.err
    assert "hint: choose another --output" in result.err
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    args = ("status", "--format", "prometheus", "--output", closed / "hashclient.prom")
    result = run("--state-dir", state, *args, unprivileged=True)
    assert result.code == 2 and "Permission denied" in result.err
    # A limit on the size of files simulates a full disk.
    path = tmp_path / "hashclient.prom"
    path.write_text("old")
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100, 100))
    args = ("status", "--format", "prometheus", "--output", path)
    result = run("--state-dir", state, *args, preexec=limit, env=UNMEASURED)
    assert result.code == 8
    assert "cannot write" in result.err
    assert path.read_text() == "old"
    assert list(tmp_path.glob(".tmp-*")) == []


def test_a_broken_part_is_named_and_the_others_are_shown(scanned: Path) -> None:
    log = scanned / "audit" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-2] + b"x\n")
    for output_format, said in (("text", "problem       the audit log"), ("json", "the audit log")):
        result = call("--state-dir", scanned, "status", "--format", output_format)
        assert result.code == 9
        assert said in result.out and "found" in result.out
    result = call("--state-dir", scanned, "status", "--format", "prometheus")
    assert result.code == 9
    assert "hashclient_status_exit_code 9.0\n" in result.out
    assert 'hashclient_matches{state="found"} 1.0\n' in result.out
    assert "hashclient_audit_records" not in result.out


def test_quarantined_files_and_open_reports_are_counted(state: Path, tmp_path: Path) -> None:
    made = call("--state-dir", state, "quarantine", "keygen", "--output", tmp_path / "officer.key")
    recipient = re.findall(r"\bage1[a-z0-9]+", made.out)[0]
    handover = tmp_path / "handover"
    handover.mkdir()
    with (state / "config.toml").open("a") as stream:
        stream.write(
            f'[[policy]]\nactions = ["quarantine", "report"]\n'
            f'[quarantine]\nrecipients = ["{recipient}"]\n'
            f'[report.to.police]\nkind = "package"\ndirectory = "{handover}"\n'
        )
    tree = write_tree(tmp_path / "t", {"listed": b"one", "also": b"two", "clean": b"no"})
    assert call("--state-dir", state, "scan", tree).code == 10
    text = call("--state-dir", state, "status").out
    assert re.search(r"^matches       2 quarantined$", text, re.MULTILINE)
    assert re.search(r"^quarantine    2 files, \d+ bytes$", text, re.MULTILINE)
    assert re.search(r"^reports       1 prepared$", text, re.MULTILINE)
    document = json.loads(call("--state-dir", state, "status", "--format", "json").out)
    assert document["quarantine"]["files"] == 2
    assert not call("--state-dir", state, "scan", tree).err.startswith("next: ")
    assert document["reports"]["prepared"] == 1
    metrics = call("--state-dir", state, "status", "--format", "prometheus").out
    sealed = sum(path.stat().st_size for path in state.glob("quarantine/*/*.age"))
    assert f"\nhashclient_quarantine_bytes {float(sealed)}\n" in metrics
    assert "\nhashclient_report_oldest_open_timestamp_seconds " in metrics
    assert call("--state-dir", state, "report", "submit", "--all").code == 0
    metrics = call("--state-dir", state, "status", "--format", "prometheus").out
    assert '\nhashclient_reports{state="prepared"} 0.0\n' in metrics
    assert '\nhashclient_matches{state="reported"} 2.0\n' in metrics
    assert "report_oldest_open" not in metrics
    # The damaged record is named, and the rest is shown.
    (record,) = state.glob("reports/*/report.json")
    record.write_text("{}")
    result = call("--state-dir", state, "status")
    assert result.code == 8
    assert re.search(r"^problem       .*report\.json", result.out, re.MULTILINE)
    assert "\nquarantine    2 files" in result.out


def test_a_quarantine_that_is_not_mounted_is_not_an_empty_one(scanned: Path) -> None:
    with Matches(scanned) as record:
        (match,) = record.find()
        now = datetime(2026, 5, 1, tzinfo=UTC)
        record.change(match.id, MatchState.QUARANTINED, now, {}, in_place=False)
    (scanned / "quarantine").mkdir()  # the mount point
    unmounted = call("--state-dir", scanned, "status")
    assert unmounted.code == 8
    assert "problem       the quarantine is not there" in unmounted.out
    (scanned / "quarantine" / "lock").touch()
    assert call("--state-dir", scanned, "status").code == 0


@pytest.mark.parametrize("then", ["gone", "another"])
def test_a_lost_record_of_matches_is_not_an_empty_one(
    state: Path, tmp_path: Path, then: str
) -> None:
    made = call("--state-dir", state, "quarantine", "keygen", "--output", tmp_path / "officer.key")
    recipient = re.findall(r"\bage1[a-z0-9]+", made.out)[0]
    with (state / "config.toml").open("a") as stream:
        stream.write(f'[quarantine]\nrecipients = ["{recipient}"]\n')
    tree = write_tree(tmp_path / "t", {"listed": b"one"})
    assert call("--state-dir", state, "scan", "--quarantine", tree).code == 10
    assert call("--state-dir", state, "status").code == 0
    (state / "matches.db").unlink()
    if then == "another":
        write_tree(tmp_path / "t", {"also": b"two"})
        assert call("--state-dir", state, "scan", tree).code == 10
    lost = call("--state-dir", state, "status")
    assert lost.code == 8
    assert "problem       the record of matches lacks 1 file in quarantine; restore it" in lost.out
    assert call("--state-dir", state, "quarantine", "recover").code == 0
    assert call("--state-dir", state, "status").code == 0
