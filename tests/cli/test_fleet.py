"""`status --publish` and `fleet`: machines publish their status, and one machine judges all."""

from __future__ import annotations

import csv
import gc
import itertools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fixtures.buckets import Answer, Request, Site, blobs, is_listing, listing
from fixtures.crash import in_child, kill_at, watched
from fixtures.fleet import LIST, NO_MATCHES, Box, edited, roster_of
from fixtures.fleet import NOW as FLEET_NOW
from hashclient.core.kinds import MatchState
from hashclient.fleet.document import (
    MAX_STATUS_BYTES,
    MOST_LISTS,
    Freshness,
    Runs,
    StatusDocument,
    verify_status,
)
from hashclient.fleet.places import Found
from hashclient.fleet.show import judge
from tests.kit import Run, State, call, measured, run

HOUR = timedelta(hours=1)
CONFIG = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'
LISTED = {"e-1": b"listed one"}


@pytest.fixture
def world(tmp_path: Path) -> State:
    world = State(tmp_path, {"base": LISTED}, {"a": b"listed one", "b": b"benign"})
    world.configure(CONFIG)
    return world


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (place := tmp_path / "fleet").mkdir()
    return place


def only(place: Path) -> Path:
    (path,) = place.iterdir()
    return path


# Publishing the status


def test_a_status_is_published_signed_and_numbered(world: State, place: Path) -> None:
    assert world.call("status", "--publish", place).code == 0
    first = verify_status(only(place).read_bytes()).document
    assert world.scan().code == 10
    assert world.call("status", "--publish", place).code == 0
    verified = verify_status(only(place).read_bytes())
    document = verified.document
    assert only(place).name == document.machine.file_name
    assert only(place).stat().st_mode & 0o777 == 0o644
    assert (first.counter, document.counter) == (1, 2)
    assert first.machine == document.machine
    assert document.machine.name == os.uname().nodename
    assert (document.open_matches, document.runs["scan"].match) == (1, 1)
    assert document.runs["scan"].inputs == 2
    assert [one.name for one in document.lists] == ["base"]
    assert json.loads(world.call("audit", "verify", "--format", "json").out)["hash"] == (
        verified.checkpoint.hash
    )


def test_status_and_metrics_say_when_it_was_published(world: State, place: Path) -> None:
    assert "\npublished" not in world.call("status").out
    first = world.call("status", "--publish", place).out
    assert "published     20" in first and first == world.call("status").out
    failed = world.call("status", "--publish", place / "missing").out
    assert ", 1 failure since" in failed and failed == world.call("status").out
    published = json.loads(world.call("status", "--format", "json").out)["published"]
    assert published["failures"] == 1 and published["at"]
    metrics = world.call("status", "--format", "prometheus").out
    assert "hashclient_publish_failures 1.0" in metrics
    assert "hashclient_published_timestamp_seconds" in metrics
    world.call("status", "--publish", place)
    assert "hashclient_publish_failures 0.0" in world.call("status", "--format", "prometheus").out


def test_fetch_and_scan_publish_where_the_configuration_says(world: State, place: Path) -> None:
    world.configure(f'{CONFIG}[fleet]\npublish = "{place}"\nevery_hours = 2\n')
    assert world.scan().code == 10
    document = verify_status(only(place).read_bytes()).document
    assert (document.counter, document.interval_s, document.open_matches) == (1, 7200, 1)
    assert world.call("fetch").code != 0  # the fetch fails because the provider has another root
    assert verify_status(only(place).read_bytes()).document.counter == 2


@pytest.mark.parametrize(
    "where", ["s3://not a bucket", "s3://bucket/x?versionId=1", "gs://bucket/%zz", "", "a\\u0000b"]
)
def test_a_place_that_can_be_none_is_refused_in_the_configuration(world: State, where: str) -> None:
    world.configure(f'{CONFIG}[fleet]\npublish = "{where}"\n')
    for words in (("scan", world.path), ("status",), ("fetch",)):
        done = world.call(*words)
        assert (done.code, done.out) == (2, "")
        assert "hashclient: error: configuration " in done.err and "fleet" in done.err


@pytest.mark.parametrize("where", ["s3://not a bucket", ""])
def test_status_warns_of_a_place_that_can_be_none(
    world: State, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty text, from an unset variable of a shell, is not the working directory."""
    monkeypatch.chdir(tmp_path)
    done = world.call("status", "--publish", where)
    assert (done.code, "the status was not published" in done.err) == (0, True)


@pytest.mark.parametrize("where", ["/dev/null/x", "/no/such/directory"])
def test_a_failure_to_publish_is_a_warning_and_never_the_verdict(world: State, where: str) -> None:
    world.configure(f'{CONFIG}[fleet]\npublish = "{where}"\n')
    scan = world.scan()
    assert scan.code == 10
    assert "hashclient: warning: the status was not published: " in scan.err
    assert scan.summary["exit_code"] == 10
    done = world.call("status", "--publish", where)
    assert (done.code, "the status was not published" in done.err) == (0, True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_an_interruption_while_it_is_published_leaves_the_verdict(
    world: State, place: Path, error: BaseException
) -> None:
    world.configure(f'{CONFIG}[fleet]\npublish = "{place}"\n')
    with mock.patch("hashclient.fleet.making.make_document", side_effect=error):
        scan = world.scan()
    assert scan.code == 10
    assert "hashclient: warning: the status was not published: " in scan.err
    assert list(place.iterdir()) == []


def test_a_state_without_a_log_publishes_nothing_and_says_so(tmp_path: Path, place: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/config.toml").write_text(CONFIG)
    done = call("--state-dir", tmp_path / "state", "status", "--publish", place)
    assert (done.code, list(place.iterdir())) == (8, [])
    assert "not published: no audit log yet" in done.err


def test_a_link_in_the_place_of_a_document_is_replaced_and_not_followed(
    world: State, place: Path, tmp_path: Path
) -> None:
    world.call("status", "--publish", place)
    path = only(place)
    path.unlink()
    (target := tmp_path / "target").write_bytes(b"kept")
    path.symlink_to(target)
    world.call("status", "--publish", place)
    assert not path.is_symlink() and target.read_bytes() == b"kept"
    assert verify_status(path.read_bytes()).document.counter == 2


@pytest.mark.slow
def test_sixty_kills_leave_whole_documents_and_rising_numbers(world: State, place: Path) -> None:
    """The command is killed at each change of the disk, again and again."""
    world.call("status", "--publish", place)
    path, last, kills, changes = only(place), 1, 0, 0
    while kills < 60:
        changes += 1

        def publish(number: int = changes) -> None:
            with watched(kill_at(number)):
                world.call("status", "--publish", place)

        is_killed = in_child(publish) != 0
        document = verify_status(path.read_bytes()).document
        assert document.counter >= last
        last, kills = document.counter, kills + is_killed
        if not is_killed:
            assert changes > 10
            changes = 0
    assert last > 4
    failures = json.loads(world.call("status", "--format", "json").out)["published"]["failures"]
    assert world.call("status", "--publish", place).code == 0
    document = verify_status(path.read_bytes()).document
    assert document.counter > last
    assert document.failed_publications == failures
    assert world.call("audit", "verify", "--against", place).code == 0


# Judging the fleet


class Yard:
    """Machines that have published their status to a place, and the collector that reads it."""

    def __init__(self, directory: Path, count: int) -> None:
        self.place = directory / "fleet"
        self.place.mkdir()
        self.state = directory / "collector"
        self.boxes = [Box(number) for number in range(count)]
        self.roster = directory / "roster.toml"
        self.roster.write_text(roster_of(self.boxes))
        self.now = datetime.now(UTC)

    def file(self, box: Box, counter: int = 5, seq: int = 100, **changes: Any) -> tuple[str, bytes]:
        fresh = {"made": self.now - HOUR / 2 + timedelta(seconds=counter)}
        return box.file(counter, seq, **fresh | changes)

    def put(self, box: Box, counter: int = 5, seq: int = 100, **changes: Any) -> Path:
        name, data = self.file(box, counter, seq, **changes)
        (self.place / name).write_bytes(data)
        return self.place / name

    def show(self, *args: object, where: object = None) -> Run:
        words = ("--state-dir", self.state, "fleet", "show", where or self.place)
        return call(*words, "--roster", self.roster, *args)

    def states(self, **kwargs: Any) -> dict[str, str]:
        """Return the state of each machine that is not well, and of each odd file."""
        lines = self.show("--format", "jsonl", **kwargs).lines
        return {line["machine"]: line["state"] for line in lines if line["state"] != "well"}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    yard = Yard(tmp_path, 3)
    for box in yard.boxes:
        yard.put(box)
    return yard


def test_all_are_well(yard: Yard) -> None:
    shown = yard.show()
    assert (shown.code, shown.err) == (0, "3 machines: 3 well\n")
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["MACHINE", "STATE"],
        *([f"web-{n}", "well"] for n in range(3)),
    ]


@pytest.mark.parametrize(
    ("changes", "state", "code"),
    [
        ({"exit_code": 8}, "unwell", 8),
        ({"exit_code": 1}, "unwell", 3),
        ({"exit_code": 10}, "unwell", 3),
        ({"exit_code": 130}, "unwell", 3),
        ({"exit_code": 255}, "unwell", 3),
        ({"matches": {**NO_MATCHES, MatchState.FOUND: 2}}, "match", 10),
        ({"matches": {**NO_MATCHES, MatchState.HELD: 2}, "exit_code": 3}, "match", 11),
        ({"interval_s": 60}, "silent", 3),
        ({"runs": {"scan": Runs(datetime.now(UTC), 3)}}, "no-verdict", 3),
    ],
)
def test_each_finding_has_its_word_and_its_code(
    yard: Yard, changes: dict[str, Any], state: str, code: int
) -> None:
    yard.put(yard.boxes[1], 6, 101, **changes)
    assert yard.states() == {"web-1": state}
    assert yard.show().code == code


def test_a_clock_that_is_ahead_is_named(yard: Yard) -> None:
    yard.put(yard.boxes[1], 6, 101, made=yard.now + 99 * HOUR)
    assert yard.states() == {"web-1": "ahead"}


def test_a_list_that_others_have_had_for_longer_is_behind(yard: Yard) -> None:
    newer = msgspec.structs.replace(LIST, generation=8, published=yard.now - 30 * HOUR)
    yard.put(yard.boxes[0], 6, 101, lists=(newer,))
    assert yard.states() == {"web-1": "behind", "web-2": "behind"}
    assert yard.show().code == 7
    # A generation that is younger than the interval may not have reached all machines.
    newest = msgspec.structs.replace(newer, generation=9, published=yard.now)
    yard.put(yard.boxes[0], 7, 102, lists=(newest,))
    assert yard.states() == {}
    # The newest generation is too young to be expected, but web-2 also lacks the one before it.
    yard.put(yard.boxes[1], 7, 102, lists=(newer,))
    assert yard.states() == {"web-2": "behind"}


def test_a_machine_without_a_document_is_missing_and_one_without_a_pin_unknown(yard: Yard) -> None:
    (yard.place / yard.boxes[0].machine().file_name).unlink()
    yard.put(Box(99, "stranger"))
    assert yard.states() == {"web-0": "missing", "stranger": "unknown"}
    assert yard.show().code == 6


def test_a_stranger_cannot_make_others_behind_or_twins(yard: Yard) -> None:
    stranger = Box(99, "web-1")
    stranger.log_id = yard.boxes[1].log_id
    lie = msgspec.structs.replace(LIST, generation=10**6, published=yard.now - 900 * HOUR)
    yard.put(stranger, lists=(lie,), machine=stranger.machine("1"))
    lines = yard.show("--format", "jsonl").lines
    assert Counter(line["state"] for line in lines) == {"well": 3, "unknown": 1}


def test_a_stranger_gives_no_metric_a_name(yard: Yard) -> None:
    """Otherwise a stranger could fill a database of metrics, or speak for another machine."""
    yard.put(Box(99, "web-1"))
    (yard.place / "x.jsonl").write_bytes(b"")
    shown = yard.show("--format", "prometheus").out
    assert "hashclient_fleet_finding{" not in shown
    assert 'hashclient_fleet_machines{state="unknown"} 1.0' in shown
    assert 'hashclient_fleet_machines{state="forged"} 1.0' in shown


def test_only_one_document_of_a_machine_is_compared_with_those_of_others(yard: Yard) -> None:
    """A machine that writes many documents cannot fill the memory of `fleet show`."""
    for copy in "12":
        lie = msgspec.structs.replace(LIST, generation=10**6, published=yard.now - 900 * HOUR)
        yard.put(yard.boxes[1], lists=(lie,), machine=yard.boxes[1].machine(copy))
    lines = yard.show("--format", "jsonl").lines
    assert Counter(line["state"] for line in lines) == {"well": 2, "twin": 3}


def test_a_machine_that_was_rolled_back_cannot_make_others_behind(yard: Yard) -> None:
    assert yard.show().code == 0
    lie = msgspec.structs.replace(LIST, generation=10**6, published=yard.now - 900 * HOUR)
    yard.put(yard.boxes[1], 6, 40, lists=(lie,))
    assert yard.states() == {"web-1": "rolled-back"}


def test_a_machine_that_was_restored_counts_as_rolled_back_until_it_is_pinned_again(
    yard: Yard,
) -> None:
    assert yard.show().code == 0
    yard.put(yard.boxes[1], 6, 40)
    assert yard.states() == {"web-1": "rolled-back"}
    assert yard.states() == {"web-1": "rolled-back"}  # the machine stays reported as rolled back
    assert yard.show().code == 9
    # The machine stays reported when its number exceeds the highest earlier number.
    yard.put(yard.boxes[1], 7, 101)
    assert yard.states() == {"web-1": "rolled-back"}
    yard.put(yard.boxes[1])  # the rollback stays reported
    assert yard.states() == {"web-1": "rolled-back"}
    box = yard.boxes[1]
    assert call("--state-dir", yard.state, "fleet", "trust", box.name, box.public).code == 0
    assert yard.states() == {}


def test_what_was_seen_counts_however_the_place_is_named(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents that were seen in another place of the same name do not count."""
    assert yard.show().code == 0
    yard.put(yard.boxes[1], 6, 40)
    monkeypatch.chdir(yard.place.parent)
    assert yard.states(where="fleet") == {"web-1": "rolled-back"}
    assert yard.states(where="./fleet/") == {"web-1": "rolled-back"}
    (other := yard.place / "fleet").mkdir()
    shutil.copy(yard.place / yard.boxes[1].machine().file_name, other)
    monkeypatch.chdir(yard.place)
    assert yard.states(where="fleet") == {"web-0": "missing", "web-2": "missing"}


def test_a_relative_place_without_a_working_directory_is_refused(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    shown = yard.show(where="fleet")
    assert (shown.code, "the working directory was removed" in shown.err) == (2, True)
    assert yard.show().code == 0


@pytest.mark.parametrize(
    ("counter", "seq", "later", "state"),
    [
        (4, 99, -1, "replayed"),
        (4, 99, 2, "rolled-back"),
        (5, 101, 2, "twin"),
        (6, 99, 2, "rolled-back"),
        (6, 100, 2, None),
        (6, 101, 2, None),
    ],
)
def test_what_was_seen_before_decides(
    yard: Yard, counter: int, seq: int, later: int, state: str | None
) -> None:
    made = yard.now - HOUR
    yard.put(yard.boxes[1], 5, 100, made=made)
    assert yard.show().code == 0
    yard.put(yard.boxes[1], counter, seq, made=made + later * timedelta(minutes=1))
    assert yard.states() == ({} if state is None else {"web-1": state})


def test_a_record_that_was_exchanged_and_another_log_are_rolled_back(yard: Yard) -> None:
    assert yard.show().code == 0
    box = yard.boxes[1]
    yard.put(box, 6, checkpoint=box.checkpoint(100, "another record"))
    assert yard.states() == {"web-1": "rolled-back"}
    (yard.place / box.machine().file_name).unlink()
    box.log_id = "ab" * 16
    yard.put(box, 7, 200)
    assert yard.states() == {"web-1": "rolled-back"}


@pytest.mark.parametrize("made", ["2026-01-31T12:00:00", "no time"])
def test_a_record_of_what_was_seen_that_is_damaged_is_named(yard: Yard, made: str) -> None:
    assert yard.show().code == 0
    path = yard.state / "fleet/known.json"
    known = json.loads(path.read_bytes())
    known["seen"][str(yard.place)][yard.boxes[1].public]["made"] = made
    path.write_text(json.dumps(known))
    yard.put(yard.boxes[1], 4, 99)
    shown = yard.show()
    assert (shown.code, "the file is damaged: " in shown.err) == (8, True)


def test_keys_are_pinned_by_trust_as_well(yard: Yard) -> None:
    yard.roster.write_text("[machines]\n")
    assert set(yard.states().values()) == {"unknown"}
    for box in yard.boxes:
        assert call("--state-dir", yard.state, "fleet", "trust", box.name, box.public).code == 0
    assert yard.states() == {}
    assert call("--state-dir", yard.state, "fleet", "forget", "web-0").code == 0
    assert yard.states() == {"web-0": "unknown"}
    for words in (
        ("trust", "web-9", "no-key"),
        ("trust", "web-9", yard.boxes[1].public),
        ("trust", "a\nb", "0" * 64),
        ("forget", "web-0"),
    ):
        assert call("--state-dir", yard.state, "fleet", *words).code == 2


@pytest.mark.parametrize("text", ["", "[machines]\na = 1\n", "x = [", "[machines]\nb = 'no'\n"])
def test_a_file_that_is_no_roster_is_refused(yard: Yard, text: str) -> None:
    yard.roster.write_text(text)
    shown = yard.show()
    assert shown.code == 2 and "not a roster" in shown.err


def test_one_key_for_two_machines_is_refused(yard: Yard) -> None:
    yard.roster.write_text(roster_of([yard.boxes[0], Box(0, "other")]))
    assert yard.show().code == 2


def test_nothing_at_all_is_not_well(yard: Yard) -> None:
    shutil.rmtree(yard.place)
    yard.roster.write_text("[machines]\n")
    assert yard.show().code == 2  # the fleet's place does not exist
    yard.place.mkdir()
    assert yard.show().code == 3
    shown = yard.show("--format", "jsonl")
    assert (shown.code, shown.out) == (3, "")
    output = yard.state / "fleet.jsonl"
    assert yard.show("--format", "jsonl", "-o", output).code == 3
    assert output.read_bytes() == b""


@pytest.mark.slow
def test_a_roster_that_others_may_change_is_refused(yard: Yard) -> None:
    yard.roster.chmod(0o666)
    refused = yard.show()
    assert refused.code == 2 and "roster could be changed by everybody" in refused.err


@pytest.mark.parametrize("what", ["place", "roster", "known", "configuration"])
def test_a_look_that_fails_replaces_its_file_by_one_that_says_so(yard: Yard, what: str) -> None:
    """An old page of the fleet would look as if all machines were well."""
    for output_format in ("table", "jsonl", "csv", "prometheus", "html"):
        assert yard.show("--format", output_format, "-o", yard.state / output_format).code == 0
    match what:
        case "place":
            shutil.rmtree(yard.place)
        case "roster":
            yard.roster.write_text("no roster")
        case "known":
            (yard.state / "fleet/known.json").write_text("{")
        case _:
            (yard.state / "config.toml").write_text("no configuration")
    for output_format in ("table", "jsonl", "csv", "prometheus", "html"):
        output = yard.state / output_format
        shown = yard.show("--format", output_format, "-o", output)
        assert (shown.code, shown.out) == (8 if what == "known" else 2, "")
        text = output.read_text()
        assert "failed" in text and not re.search('"well"} 1|web-1', text)
        (message,) = re.findall("error: (.*)", shown.err)
        assert output_format in ("prometheus", "html") or json.dumps(message)[1:-1] in text
    assert "The machines could not be looked at" in (yard.state / "html").read_text()
    line = json.loads((yard.state / "jsonl").read_text())
    assert (line["machine"], line["state"], line["document"]) == (str(yard.place), "failed", None)


def test_hostile_files_are_named_and_hold_nothing_up(yard: Yard) -> None:
    """The files have any size, depth and kind, and names that must not reach a terminal."""
    good = yard.put(Box(0))
    with (yard.place / "huge.jsonl").open("wb") as stream:
        stream.truncate(1 << 30)
    deep = "[" * 30_000
    (yard.place / "deep.jsonl").write_text(f"{deep}\n{{}}\n")
    (yard.place / "link.jsonl").symlink_to(good)
    (yard.place / "secret.jsonl").symlink_to("/etc/shadow")
    os.mkfifo(yard.place / "pipe.jsonl")
    (yard.place / "folder.jsonl").mkdir()
    (yard.place / "escape\x1b[2J.jsonl").write_bytes(b"x")
    (yard.place / os.fsdecode(b"bytes\xff.jsonl")).write_bytes(good.read_bytes())
    (yard.place / "index.html").write_text("not a document")
    (yard.place / ".tmp-0123.jsonl").write_text("of a killed writer")
    shown = yard.show()
    assert shown.code == 6
    assert "\x1b" not in shown.out
    notes = {
        line.split()[0]: line.split("forged")[1].strip()
        for line in shown.out.splitlines()
        if "forged" in line
    }
    assert notes.pop("huge.jsonl") == f"longer than {MAX_STATUS_BYTES:,} bytes"
    assert notes.pop("deep.jsonl") == "not of the format hashclient-status/1"
    for name in ("link", "secret", "pipe", "folder"):
        assert notes.pop(f"{name}.jsonl") == "not a regular file"
    assert notes == {
        "escape\\x1b[2J.jsonl": "not of the format hashclient-status/1",
        "bytes\\xff.jsonl": "it lies under the name of another document",
    }
    assert shown.err == "hashclient: warning: 3 machines: 8 forged, 3 well\n"
    for output_format in ("jsonl", "csv", "prometheus", "html"):
        assert "\x1b" not in yard.show("--format", output_format).out


def test_a_name_with_control_characters_is_shown_escaped(yard: Yard) -> None:
    evil = "evil\x1b]0;\x07\nweb-9  well<script>alert(1)</script>"
    yard.put(Box(98, evil))
    twin = msgspec.structs.replace(yard.boxes[1].machine("1"), name=evil)
    yard.put(yard.boxes[1], machine=twin)
    for output_format in ("table", "csv", "html", "prometheus"):
        out = yard.show("--format", output_format).out
        assert "\x1b" not in out and "\x07" not in out and "\nweb-9" not in out
    assert "<script>alert" not in yard.show("--format", "html").out


@pytest.mark.parametrize(("state", "shown"), [("fresh", "201/201"), ("stale", "0/201")])
def test_lists_that_are_left_out_are_fresh_only_if_another_one_is(
    yard: Yard, state: Freshness, shown: str
) -> None:
    lists = (msgspec.structs.replace(LIST, state=state),) * MOST_LISTS
    yard.put(yard.boxes[1], 6, 101, lists=lists, lists_omitted=201 - MOST_LISTS)
    rows = csv.DictReader(yard.show("--format", "csv").out.splitlines())
    assert {row["machine"]: row["lists"] for row in rows}["web-1"] == shown


def test_every_format_has_every_machine(yard: Yard, tmp_path: Path) -> None:
    yard.put(yard.boxes[1], 6, 101, matches={**NO_MATCHES, MatchState.FOUND: 2})
    rows = list(csv.DictReader(yard.show("--format", "csv").out.splitlines()))
    assert {row["machine"]: row["state"] for row in rows} == {
        "web-0": "well",
        "web-1": "match",
        "web-2": "well",
    }
    assert [row["open"] for row in rows] == ["2", "0", "0"]
    metrics = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(yard.show("--format", "prometheus").out + "\n")
        for sample in family.samples
    }
    assert metrics["hashclient_fleet_machines", "well"] == 2
    assert metrics["hashclient_fleet_machines", "twin"] == 0
    assert metrics["hashclient_fleet_finding", "match", "web-1"] == 1
    assert metrics["hashclient_fleet_open", "web-1"] == 2
    output = tmp_path / "fleet.html"
    shown = yard.show("--format", "html", "-o", output)
    assert (shown.code, shown.out) == (10, "")
    page = output.read_text()
    assert "2 of 3 machines well" in page
    assert all(f">web-{n}<" in page for n in range(3))


# A thousand machines

#: The numbers of the machines whose documents the test forges, replays, withholds, rolls back or
#: doubles.
FORGED, REPLAYED, SILENT, ROLLED, TWIN = (
    range(3),
    range(3, 8),
    range(8, 15),
    range(15, 17),
    (17,),
)
EXPECTED = {"forged": 3, "missing": 3, "replayed": 5, "silent": 7, "rolled-back": 2, "twin": 2}


def before_and_after(yard: Yard) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return all documents when all machines are well, and when some documents are faulty."""
    old = dict(yard.file(box, made=yard.now - 3 * HOUR) for box in yard.boxes)
    new = {}
    for number, box in enumerate(yard.boxes):
        if number in FORGED:
            name, data = yard.file(box, 6, 101)
            new[name] = edited(data, exit_code=0, counter=7)
        elif number in REPLAYED:
            name, data = yard.file(box, 4, 90, made=yard.now - 4 * HOUR)
            new[name] = data
        elif number in SILENT:
            name = box.machine().file_name
            new[name] = old[name] = yard.file(box, made=yard.now - 27 * HOUR)[1]
        elif number in ROLLED:
            new |= [yard.file(box, 6, 60)]
        elif number in TWIN:
            new |= [yard.file(box, 6, 101), yard.file(box, 6, 102, machine=box.machine("1"))]
        else:
            new |= [yard.file(box, 6, 101)]
    return old, new


def check(yard: Yard, shown: Run) -> None:
    """Check that each machine with a problem is named, and is not counted as healthy."""
    assert shown.code == 9
    states: dict[str, list[str]] = {}
    for line in shown.lines:
        states.setdefault(line["state"], []).append(line["machine"])
    assert {state: len(names) for state, names in states.items()} == {
        **EXPECTED,
        "well": len(yard.boxes) - 18,
    }
    names = {
        word: {yard.boxes[n].name for n in numbers}
        for word, numbers in (
            ("missing", FORGED),
            ("replayed", REPLAYED),
            ("silent", SILENT),
            ("rolled-back", ROLLED),
            ("twin", TWIN),
        )
    }
    assert {word: set(states[word]) for word in names} == names
    assert set(states["forged"]) == {yard.boxes[n].machine().file_name for n in FORGED}
    numbers = [int(name.removeprefix("web-")) for name in states["well"]]
    assert numbers == sorted(numbers)  # names are sorted by number: web-2 precedes web-10
    assert not set(states["well"]) & {name for of_word in names.values() for name in of_word}


@pytest.mark.slow
def test_a_thousand_documents_are_judged_in_little_memory(tmp_path: Path) -> None:
    yard = Yard(tmp_path, 1000)
    old, new = before_and_after(yard)
    for name, data in old.items():
        (yard.place / name).write_bytes(data)
    assert yard.show().code == 3  # the exit code is 3 because of the silent machines
    for name, data in new.items():
        (yard.place / name).write_bytes(data)
    words = ("--state-dir", yard.state, "fleet", "show", yard.place, "--roster", yard.roster)
    shown, _, peak_kb = measured(*words, "--format", "jsonl")
    check(yard, shown)
    assert peak_kb < 100_000
    page = tmp_path / "fleet.html"
    yard.show("--format", "html", "-o", page)
    assert page.stat().st_size < 1 << 20


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.mark.slow
def test_the_same_in_a_bucket(tmp_path: Path, site: Site) -> None:
    yard = Yard(tmp_path, 1000)
    old, new = before_and_after(yard)
    bucket = site.bucket()
    where = f"{bucket.uri}/machines"
    words = ("--state-dir", yard.state, "fleet", "show", where, "--roster", yard.roster)
    bucket.put("machines/other/x.jsonl", b"of something else")
    bucket.put("machines-of-others.jsonl", b"of something else")
    for name, data in old.items():
        bucket.put(f"machines/{name}", data)
    assert run(*words, env=site.environment).code == 3
    # Documents of healthy machines may stay unchanged, because putting documents is slow.
    for name, data in itertools.islice(new.items(), 19):
        bucket.put(f"machines/{name}", data)
    shown, _, peak_kb = measured(*words, "--format", "jsonl", env=site.environment)
    check(yard, shown)
    assert peak_kb < 100_000
    bucket.put("machines/huge.jsonl", bytes(1 << 22))
    shown = run(*words, "--format", "jsonl", env=site.environment)
    (huge,) = [line for line in shown.lines if line["machine"] == "huge.jsonl"]
    assert huge["findings"][0]["text"] == f"longer than {MAX_STATUS_BYTES:,} bytes"


@pytest.mark.slow
def test_a_status_is_published_to_a_bucket(world: State, site: Site) -> None:
    bucket = site.bucket()
    done = world.run("status", "--publish", f"{bucket.uri}/fleet", env=site.environment)
    assert (done.code, done.err) == (0, "")
    (key,) = bucket.keys
    body = site.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    assert key == f"fleet/{verify_status(body).document.machine.file_name}"
    assert (
        world.run("audit", "verify", "--against", f"{bucket.uri}/fleet", env=site.environment).code
        == 0
    )
    refused = world.run("status", "--publish", f"{bucket.uri}-no/fleet", env=site.environment)
    assert (refused.code, "not published: cannot write to s3://" in refused.err) == (0, True)


@pytest.mark.slow
def test_a_store_that_repeats_its_listing_does_not_hold_up_a_look(yard: Yard, site: Site) -> None:
    bucket = site.bucket()
    again = listing([("machines/a.jsonl", 5, "e")], more="again", at="machines/")
    site.answer = lambda request: again if is_listing(request) else None
    try:
        with site.reached():
            shown = yard.show(where=f"{bucket.uri}/machines")
    finally:
        site.answer = lambda _request: None
    assert shown.code == 4 and "cannot read s3://" in shown.err


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_the_clients_of_google_and_azure_publish_and_show(
    world: State, site: Site, scheme: str
) -> None:
    """The server speaks the protocol that each client uses to put, list and get objects."""
    kept: dict[str, bytes] = {}
    where = f"{scheme}://machines/fleet"
    # To write an object, Google's client needs an account, even an account without a key.
    account = {"gcs_base_url": site.url, "disable_oauth": True}
    account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    env = {"GOOGLE_BASE_URL": site.url, "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}
    if scheme == "az":
        env = {
            "AZURE_STORAGE_ENDPOINT": site.url,
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
        }

    def store(request: Request) -> Answer:
        method, path, query = request
        if "list" in query:
            rows = [(name, len(data), '"e"') for name, data in sorted(kept.items())]
            return listing(rows) if scheme == "gs" else blobs(rows)
        name = unquote(path).removeprefix("/machines/")
        if method == "PUT":
            kept[name] = site.body
        headers = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if method != "PUT" and name not in kept:
            return "404 Not Found", headers, b""
        return ("201 Created", headers, b"") if method == "PUT" else ("200 OK", headers, kept[name])

    site.answer = store
    try:
        for number in (1, 2):
            done = world.run("status", "--publish", where, env=env)
            assert (done.code, done.err) == (0, "")
            ((name, data),) = kept.items()
            document = verify_status(data).document
            assert (name, document.counter) == (f"fleet/{document.machine.file_name}", number)
        key = json.loads(world.call("audit", "verify", "--format", "json").out)["public_key"]
        world.call("fleet", "trust", "web-1", key)
        shown = world.run("fleet", "show", where, "--format", "jsonl", env=env)
        assert (shown.code, [line["state"] for line in shown.lines]) == (0, ["well"])
        assert world.run("audit", "verify", "--against", where, env=env).code == 0
        ((name, data),) = kept.items()
        kept[name] = edited(data, exit_code=0, counter=9)
        assert world.run("fleet", "show", where, env=env).code == 6
    finally:
        site.answer = lambda _request: None


# Checkpoints that are kept on another machine


def test_the_log_is_verified_against_what_was_published(world: State, place: Path) -> None:
    world.scan()
    world.call("status", "--publish", place)
    world.call("audit", "checkpoint", "-o", place / "later.json")
    (place / "foreign.json").write_text("{}")
    Yard.put(_yard(place), Box(5))
    for _ in range(2):
        done = world.call("audit", "verify", "--against", place, "--format", "json")
        assert (done.code, json.loads(done.out)["against"]) == (0, 2)
        world.scan()


def _yard(place: Path) -> Yard:
    yard = object.__new__(Yard)
    yard.place, yard.now = place, datetime.now(UTC)
    return yard


def test_a_log_that_was_cut_or_replaced_does_not_pass(world: State, place: Path) -> None:
    world.scan()
    world.call("status", "--publish", place)
    log = world.path / "audit" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    signed = [n for n, line in enumerate(lines) if b'"sig"' in line]
    log.write_bytes(b"".join(lines[: signed[-2] + 1]))
    assert world.call("audit", "verify").code == 0  # without the checkpoint, the log seems intact
    done = world.call("audit", "verify", "--against", place)
    assert done.code == 9 and "missing: the log ends at line" in done.err
    world.scan()  # the scan adds records until the log is as long as before
    done = world.call("audit", "verify", "--against", place)
    assert done.code == 9 and "not the record of the checkpoint" in done.err
    shutil.rmtree(world.path / "audit")
    assert world.call("audit", "verify", "--against", place).code == 9
    world.scan()
    assert world.call("audit", "verify").code == 0
    done = world.call("audit", "verify", "--against", place)
    assert done.code == 9 and "no checkpoint of this log is there" in done.err


def test_of_several_checkpoints_those_of_archived_records_are_passed_over(
    world: State, place: Path
) -> None:
    world.call("audit", "checkpoint", "-o", place / "first.json")
    world.call("audit", "rotate")
    world.scan()
    world.call("audit", "checkpoint", "-o", place / "second.json")
    (world.path / "audit" / "log-000001.jsonl").unlink()
    done = world.call("audit", "verify", "--against", place, "--format", "json")
    assert (done.code, json.loads(done.out)["against"]) == (0, 2)
    (place / "second.json").unlink()
    done = world.call("audit", "verify", "--against", place)
    assert done.code == 9 and "was archived" in done.err


def test_of_documents_of_unknown_machines_little_is_kept() -> None:
    kept: list[int] = []

    def found() -> Iterator[Found]:
        for number in range(5):
            yield Found(*Box(number).file())
        kept.append(sum(isinstance(one, StatusDocument) for one in gc.get_objects()))

    rows = judge(found(), {}, {}, FLEET_NOW)
    assert [row.state for row in rows] == ["unknown"] * 5
    assert kept[0] < 5
