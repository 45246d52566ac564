"""The output of `scan`: its order, its amount, and additional text on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from hashclient.audit import log
from tests.kit import State, arguments, environment

CONTENTS = {"e-1": b"the first of them", "e-2": b"the second, and a longer one"}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    """A tree of matches, links and clean files."""
    files = {f"{n % 7}/{n}": CONTENTS["e-1"] for n in range(40)} | {"c": b"clean"}
    state = State(tmp_path_factory.mktemp("state"), {"base": CONTENTS}, files)
    for name in ("z", "y"):
        (state.tree / name).symlink_to("nowhere")
    os.mkfifo(state.tree / "pipe")
    return state


@pytest.mark.parametrize("more", [(), ("--show-all",)])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_sorted_outcomes_come_by_the_bytes_of_their_paths(
    state: State, more: tuple[str, ...], jobs: str
) -> None:
    found = state.call("scan", "--format", "jsonl", "--sort", "--jobs", jobs, *more, state.tree)
    paths = [os.fsencode(line["path"]) for line in found.lines[:-1]]
    assert paths == sorted(paths)
    assert len(paths) == (44 if more else 40)
    assert found.summary["inputs"] == 44


@pytest.mark.parametrize("output_format", ["text", "csv", "sarif", "ecs", "html"])
def test_a_sorted_report_of_any_format_is_whole(state: State, output_format: str) -> None:
    plain = state.call("scan", "--format", output_format, state.tree)
    by_path = state.call("scan", "--format", output_format, "--sort", state.tree)
    assert by_path.code == plain.code == 10
    names = sorted(re.findall(r"tree/\d/(?:<wbr>)?\d+", plain.out))
    assert sorted(re.findall(r"tree/\d/(?:<wbr>)?\d+", by_path.out)) == names


def test_skipped_files_are_counted_by_reason_and_listed_with_show_all(state: State) -> None:
    found = state.call("scan", "--format", "jsonl", state.tree)
    assert found.summary["skipped_by_reason"] == {"named pipe": 1, "symbolic link": 2}
    assert set(found.outcomes.values()) == {"match"}
    everything = state.call("scan", "--format", "jsonl", "--show-all", state.tree).outcomes
    assert sorted(set(everything.values())) == ["clean", "match", "skipped"]
    text = state.call("scan", state.tree).out
    assert "\nskipped 3: symbolic link 2, named pipe 1\n" in text
    assert "skipped   " not in text


def test_the_output_and_the_log_name_user_host_and_directory(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(state.tree)
    summary = state.call("scan", "--format", "jsonl", "c", "1").summary
    host = os.uname().nodename
    assert (summary["host"], summary["directory"]) == (host, str(state.tree))
    assert summary["paths"] == [{"path": "c"}, {"path": "1"}]
    assert summary["user"] and summary["started"]
    (start,) = log.read(state.path / "audit", event="scan-start", limit=1)
    assert (start.data["host"], start.data["directory"]) == (host, str(state.tree))
    assert start.data["by"] == summary["user"]
    text = state.call("scan", "c", "1").out
    assert f"\nscan of c, 1 by {summary['user']} on {host}, in {state.tree}\nexit 10: " in text


def test_a_file_of_names_is_not_named_as_checked(state: State, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text(f"{state.tree}/c\n")
    assert state.call("scan", "--format", "jsonl", "--files-from", names).summary["paths"] == []
    found = state.call("scan", "--files-from", names, state.tree / "1").out
    assert f"\nscan of {state.tree}/1 by " in found


def test_an_empty_path_is_seen_among_those_of_the_scan(state: State) -> None:
    """A shell passes an empty path for a variable that is not set."""
    shown = state.call("scan", "").out
    assert "\nscan of '' by " in shown
    page = state.call("scan", "--format", "html", "").out
    assert page.count(">''<") + page.count("&#39;&#39;<") + page.count("&#x27;&#x27;<") == 1


def test_a_working_directory_that_is_gone_is_no_reason_to_fail(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = state.call("scan", state.tree / "c")
    assert found.code == 0
    assert "in a directory that is gone\n" in found.out


def on_terminal(*args: object, both: bool = True, **env: str) -> tuple[str, str]:
    """Run the command with stderr (and with `both` stdout) on a terminal; return both outputs."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        arguments(*args),
        env=environment(TERM="xterm", **env),
        stdin=subprocess.DEVNULL,
        stdout=theirs if both else subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the terminal was hung up
            break
        if not piece:
            break
        seen += piece
    out = b"" if done.stdout is None else done.stdout.read()
    if done.stdout is not None:
        done.stdout.close()
    done.wait()
    os.close(ours)
    return out.decode(), seen.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_with_an_output_a_terminal_still_shows_the_verdict(state: State, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    args = ("--state-dir", state.path, "scan", "--format", "html", "--output", report, state.tree)
    out, seen = on_terminal(*args, both=False)
    assert out == ""
    assert "44 inputs: 1 clean, 40 matches, 0 conflicts, 3 skipped, 0 unread\n" in seen
    assert f"exit 10: 40 matches\nthe output is in {report}\n" in seen
    # In a script, the command prints nothing on stderr.
    assert state.call(*args[2:]).err == ""


@pytest.mark.slow
def test_lines_of_matches_have_colour_on_a_terminal_and_nowhere_else(state: State) -> None:
    scan = ("--state-dir", state.path, "scan", "--sort", state.tree / "1")
    _, seen = on_terminal(*scan)
    lines = [line for line in seen.splitlines() if "match " in line or "match\x1b" in line]
    assert any(line.startswith("\x1b[1;31mmatch\x1b[0m  ") for line in lines)
    _, plain = on_terminal(*scan, NO_COLOR="1")
    assert "\x1b[1;31mmatch" not in plain and "\nmatch  " in f"\n{plain}"
    out, _ = on_terminal(*scan, both=False)
    assert "\x1b" not in out and out.startswith("match  ")
    out, seen = on_terminal(*scan[:3], "--format", "jsonl", *scan[3:])
    assert all(json.loads(line) for line in seen.splitlines() if line.startswith("{"))
