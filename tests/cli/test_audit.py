"""`audit`: what people and scripts see of the log."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hashclient.audit.log import AuditLog, Event, checkpoint, verify
from hashclient.system.text import path_fields
from tests.support import Result, call

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def match(number: int) -> Event:
    return Event("match", {"path": f"/srv/{number}", "entry": f"e{number}", "list": "demo"})


class World:
    """A state directory with a log of a genesis record and three appends, a minute apart."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.directory = state / "audit"
        self.path = self.directory / "log.jsonl"
        minutes = iter(range(1_000))
        self.log = AuditLog(self.directory, clock=lambda: START + timedelta(minutes=next(minutes)))
        self.log.append([Event("init", {"provider": "demo"})])
        self.log.append([Event("scan-start", {"roots": ["/srv"]}), match(1), match(2)])
        self.log.append([Event("scan-end", {"matches": 2, "seconds": 1.5, "complete": True})])

    def audit(self, *arguments: object) -> Result:
        return call("--state-dir", self.state, "audit", *arguments)

    def output(self, *arguments: object) -> str:
        result = self.audit(*arguments)
        assert result.code == 0, result
        return result.out


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state")


def test_show_prints_aligned_lines(world: World) -> None:
    assert world.output("show", "--event", "match", "--event", "scan-end") == (
        "     4  2026-01-31T12:01:00Z  match                path=/srv/1 entry=e1 list=demo\n"
        "     5  2026-01-31T12:01:00Z  match                path=/srv/2 entry=e2 list=demo\n"
        "     6  2026-01-31T12:02:00Z  scan-end             matches=2 seconds=1.5 complete=true\n"
    )


def test_show_makes_paths_printable(world: World) -> None:
    world.log.append(
        [
            Event("match", path_fields(os.fsdecode(b"/a b/\x1b[31m\xff"))),
            Event("match", {"path": "/x", "path_b64": "no base64"}),
            Event("match", {"path": "", "more": {"a": "\x1b"}}),
        ]
    )
    lines = world.output("show", "--limit", "3").splitlines()
    assert lines[0].endswith(r'path="/a b/\x1b[31m\xff"')
    assert lines[1].endswith("path=/x")
    assert lines[2].endswith(r'path="" more={"a":"\u001b"}')


def test_show_is_bounded_as_text_only(world: World) -> None:
    world.log.append([match(number) for number in range(100)])
    assert len(world.output("show").splitlines()) == 50
    assert world.output("show", "--format", "jsonl").encode() == world.path.read_bytes()


def test_show_since_a_date(world: World) -> None:
    nothing = world.audit("show", "--since", "2026-02-01")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no record fits\n")
    assert len(world.output("show", "--since", "2026-01-31T12:02").splitlines()) == 1
    assert len(world.output("show", "--since", "2026-01-31T13:01+01:00").splitlines()) == 4
    result = world.audit("show", "--since", "yesterday")
    assert result.code == 2
    assert "not like 2026-01-31" in result.err


def test_verify_prints_what_the_log_holds(world: World) -> None:
    result = world.audit("verify")
    report = verify(world.directory)
    assert result.code == 0
    assert result.out.startswith("the audit log is intact\n  records     6\n")
    assert f"  hash        {report.hash}\n" in result.out
    assert "hint: only a checkpoint" in result.err
    document = json.loads(world.output("verify", "--format", "json"))
    assert (document["records"], document["hash"]) == (6, report.hash)
    assert document["checkpoint"] is False


def test_a_checkpoint_goes_to_stdout_or_a_file_and_verifies(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    assert world.output("checkpoint").encode() == checkpoint(world.directory)
    assert world.output("checkpoint", "-o", kept) == ""
    assert kept.read_bytes() == checkpoint(world.directory)
    world.log.append([match(3)])
    assert "checkpoint  holds" in world.output("verify", "--checkpoint", kept)
    document = json.loads(world.output("verify", "--checkpoint", kept, "--format", "json"))
    assert document["checkpoint"] is True
    lines = world.path.read_bytes().splitlines(keepends=True)
    world.path.write_bytes(b"".join(lines[:5]))
    cut = world.audit("verify", "--checkpoint", kept)
    assert (cut.code, cut.out) == (9, "") and "the log ends at line 5" in cut.err


def test_files_of_checkpoints_that_cannot_be_used_are_errors(world: World, tmp_path: Path) -> None:
    assert world.audit("verify", "--checkpoint", tmp_path / "absent").code == 2
    assert world.audit("verify", "--checkpoint", "/proc/self/mem").code == 2
    assert world.audit("checkpoint", "--output", tmp_path / "absent" / "kept.json").code == 8


def test_every_help_has_an_example(world: World) -> None:
    for name in ("show", "verify", "checkpoint"):
        assert f"    hashclient audit {name}" in world.output(name, "--help")
