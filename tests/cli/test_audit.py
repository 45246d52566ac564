"""`audit`: the log as people and scripts see it."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from resource import RLIMIT_FSIZE, setrlimit

import pytest

from hashclient.audit.log import AuditLog, Event, checkpoint, verify
from hashclient.config.settings import resolve_settings
from hashclient.session import Session
from hashclient.system.text import path_fields
from tests.kit import UNMEASURED, Run, arguments, call, environment, run

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def match(number: int) -> Event:
    return Event("match", {"path": f"/srv/{number}", "entry": f"e{number}", "list": "demo"})


class Logged:
    """A state directory whose log has a genesis record and three appends, a minute apart."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.directory = state / "audit"
        self.path = self.directory / "log.jsonl"
        minutes = iter(range(1_000))
        self.log = AuditLog(self.directory, clock=lambda: START + timedelta(minutes=next(minutes)))
        self.log.append([Event("init", {"provider": "demo"})])
        self.log.append([Event("scan-start", {"roots": ["/srv"]}), match(1), match(2)])
        self.log.append([Event("scan-end", {"matches": 2, "seconds": 1.5, "complete": True})])

    def audit(self, *arguments: object) -> Run:
        return call("--state-dir", self.state, "audit", *arguments)

    def output(self, *arguments: object) -> str:
        result = self.audit(*arguments)
        assert result.code == 0, result
        return result.out


@pytest.fixture
def world(tmp_path: Path) -> Logged:
    return Logged(tmp_path / "state")


def test_show_prints_aligned_lines(world: Logged) -> None:
    assert world.output("show", "--event", "match", "--event", "scan-end") == (
        "     4  2026-01-31T12:01:00Z  match                path=/srv/1 entry=e1 list=demo\n"
        "     5  2026-01-31T12:01:00Z  match                path=/srv/2 entry=e2 list=demo\n"
        "     6  2026-01-31T12:02:00Z  scan-end             matches=2 seconds=1.5 complete=true\n"
    )


def test_show_makes_paths_printable(world: Logged) -> None:
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


def test_show_is_bounded_as_text_only(world: Logged) -> None:
    world.log.append([match(number) for number in range(100)])
    assert len(world.output("show").splitlines()) == 50
    assert world.output("show", "--format", "jsonl").encode() == world.path.read_bytes()


def test_show_since_a_date(world: Logged) -> None:
    nothing = world.audit("show", "--since", "2026-02-01")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no record fits the options\n")
    assert len(world.output("show", "--since", "2026-01-31T12:02").splitlines()) == 1
    assert len(world.output("show", "--since", "2026-01-31T13:01+01:00").splitlines()) == 4
    result = world.audit("show", "--since", "yesterday")
    assert result.code == 2
    assert "not like 2026-01-31" in result.err


def test_an_event_that_the_log_does_not_have_is_named(world: Logged) -> None:
    """For a misspelt event, a hint names the events of the log."""
    shown = world.audit("show", "--event", "mtch", "--event", "match")
    assert (shown.code, len(shown.out.splitlines())) == (0, 2), shown.out
    assert shown.err.startswith("hint: the log has no event mtch; it has ")
    assert "match" in shown.err.partition("it has ")[2]
    nothing = world.audit("show", "--event", "match", "--since", "2999-01-01")
    assert (nothing.out, nothing.err) == ("", "no record fits the options\n")


def test_verify_prints_what_the_log_holds(world: Logged) -> None:
    result = world.audit("verify")
    report = verify(world.directory)
    assert result.code == 0
    assert result.out.startswith("the audit log is intact\n  records     6\n")
    assert f"  hash        {report.hash}\n" in result.out
    assert "hint: only a checkpoint" in result.err
    document = json.loads(world.output("verify", "--format", "json"))
    assert (document["records"], document["hash"]) == (6, report.hash)
    assert document["checkpoint"] is False


def test_a_checkpoint_goes_to_stdout_or_a_file_and_verifies(world: Logged, tmp_path: Path) -> None:
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


def test_files_of_checkpoints_that_cannot_be_used_are_errors(world: Logged, tmp_path: Path) -> None:
    assert world.audit("verify", "--checkpoint", tmp_path / "absent").code == 2
    assert world.audit("verify", "--checkpoint", "/proc/self/mem").code == 2
    assert world.audit("checkpoint", "--output", tmp_path / "absent" / "kept.json").code == 2


@pytest.mark.slow
def test_a_checkpoint_takes_the_place_of_a_file_whole_and_of_nothing_else(
    world: Logged, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_bytes(b"an earlier one")
    command = ("--state-dir", world.state, "audit", "checkpoint", "--output")
    full = run(*command, kept, env=UNMEASURED, preexec=lambda: setrlimit(RLIMIT_FSIZE, (0, 0)))
    assert full.code == 8 and kept.read_bytes() == b"an earlier one"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["kept.json"]
    link = tmp_path / "stdout"
    link.symlink_to("/dev/stdout")
    done = run(*command, link)
    assert (done.code, done.out.encode()) == (0, checkpoint(world.directory))
    assert link.is_symlink()
    with (tmp_path / "elsewhere.json").open("wb") as elsewhere:
        words = arguments(*command, link)
        subprocess.run(words, env=environment(), stdout=elsewhere, timeout=60, check=True)
    assert link.is_symlink()
    assert (tmp_path / "elsewhere.json").read_bytes() == checkpoint(world.directory)


def test_every_help_has_an_example(world: Logged) -> None:
    for name in ("show", "verify", "checkpoint"):
        assert f"    hashclient audit {name}" in world.output(name, "--help")


def test_rotate_goes_on_in_another_file(world: Logged) -> None:
    first = world.output("checkpoint")
    (world.state / "first.json").write_text(first)
    assert world.output("rotate") == "closed log-000001.jsonl, which ends with record 7\n"
    again = world.audit("rotate")
    assert (again.code, again.out) == (0, "")
    assert "nothing was recorded since" in again.err
    world.log.append([match(3)])
    document = json.loads(world.output("rotate", "--format", "json"))["closed"]
    assert (document["segment"], document["file"], document["seq"]) == (2, "log-000002.jsonl", 10)
    world.output("verify", "--checkpoint", world.state / "first.json")
    shown = world.output("verify")
    assert "  files       3\n" in shown and "archived" not in shown
    assert len(world.output("show", "--format", "jsonl").splitlines()) == 11
    assert world.output("show", "--event", "match", "--limit", 1).count("/srv/3") == 1

    begun = world.output("show", "--event", "segment").splitlines()
    assert len(begun) == 2 and "segment=2" in begun[0] and "genesis" not in begun[0]

    (world.directory / "log-000001.jsonl").unlink()
    shown = world.output("verify")
    assert "  files       2\n" in shown and "  archived    file 1: records 1 to 7\n" in shown
    values = json.loads(world.output("verify", "--format", "json"))
    assert (values["records"], values["seq"], values["archived"]["seq"]) == (4, 11, 7)
    gone = world.audit("verify", "--checkpoint", world.state / "first.json")
    assert gone.code == 9 and "the record of the checkpoint was archived" in gone.err
    (world.directory / "log-000002.jsonl").unlink()
    assert "files 1 to 2: records 1 to 10" in world.output("verify")


def test_a_last_file_that_was_taken_away_is_said_to_be_missed(world: Logged) -> None:
    """A kill could also leave no next file, so only a checkpoint proves that a file was removed."""
    world.output("rotate")
    assert "if another file followed" not in world.output("verify")
    (world.directory / "log-000001.jsonl").rename(world.directory / "log.jsonl")
    shown = world.output("verify")
    assert "  end         file 1 is closed: if another file followed, it is missing\n" in shown
    assert json.loads(world.output("verify", "--format", "json"))["ends_closed"] is True


def test_rotate_without_a_log(tmp_path: Path) -> None:
    result = call("--state-dir", tmp_path / "state", "audit", "rotate")
    assert (result.code, result.out) == (8, "")
    assert not (tmp_path / "state").exists()


def test_the_log_goes_on_in_another_file_at_the_size_that_is_configured(world: Logged) -> None:
    (world.state / "config.toml").write_text("[keep]\naudit_mib = 0.0001\n")
    settings = resolve_settings(
        state_dir=world.state,
        config_path=None,
        seal_key_file=None,
        environ={},
    )
    Session(settings).audit.append([match(9)])
    assert [p.name for p in world.directory.glob("log-*")] == ["log-000001.jsonl"]
    world.output("verify")
