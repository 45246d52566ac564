"""`hashclient scan -`: the bytes from stdin are one input without a file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pyrage import x25519

from hashclient.core.kinds import Algorithm
from tests.kit import (
    Run,
    arguments,
    checked,
    csv_of,
    environment,
    make_state,
    run,
    wait_until,
    write_tree,
)

LISTED = b"listed one"
LONG = bytes(range(256)) * (3 << 13)


def recipient() -> str:
    return str(x25519.Identity.generate().to_public())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    entries = {"e-1": LISTED, "e-long": LONG}
    return make_state(tmp_path / "site", {"base": csv_of(entries)})


def scan(state: Path, *args: object, stdin: bytes = b"", cwd: Path | None = None) -> Run:
    command = ("--state-dir", state, "scan", "--format", "jsonl", "--show-all")
    return run(*command, *args, stdin=stdin, cwd=cwd)


@pytest.mark.slow
def test_a_stream_that_matches_is_reported_recorded_and_logged(state: Path) -> None:
    result = scan(state, "-", stdin=LISTED)
    (line, summary) = result.lines
    assert (line["type"], line["path"], line["entry"]) == ("match", "-", "e-1")
    assert line["algorithms"] == ["md5", "sha1", "sha256"]
    assert (result.code, summary["files_read"], summary["bytes_read"]) == (10, 1, len(LISTED))
    assert line["id"] in (state / "audit" / "log.jsonl").read_text()


@pytest.mark.slow
def test_it_may_be_called_something(state: Path) -> None:
    result = scan(state, "--stdin-name", "mail/part 3", "-", stdin=LONG)
    assert result.outcomes == {"mail/part 3": "match"}


@pytest.mark.slow
def test_no_bytes_are_an_input(state: Path) -> None:
    result = scan(state, "-")
    assert (result.code, result.outcomes) == (0, {"-": "clean"})


@pytest.mark.sampled
@pytest.mark.parametrize("data", [b"benign", LISTED + b".", LONG[:-1], LONG + b"."])
def test_unlisted_bytes_from_stdin_are_clean(state: Path, data: bytes) -> None:
    result = scan(state, "-", stdin=data)
    assert (result.code, result.outcomes) == (0, {"-": "clean"})


@pytest.mark.slow
def test_together_with_paths(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"benign", "-": LISTED})
    result = scan(state, "-", "./-", "a", stdin=b"benign", cwd=tree)
    assert result.outcomes == {"-": "clean", "./-": "match", "a": "clean"}
    result = scan(state, "./-", cwd=tree)
    assert result.outcomes == {"./-": "match"}


@pytest.mark.slow
def test_one_row_for_a_name_and_what_came(state: Path) -> None:
    for name, data in (("a", LISTED), ("a", LISTED), ("b", LISTED), ("a", LONG), ("a", LISTED)):
        assert scan(state, "--stdin-name", name, "-", stdin=data).code == 10
    rows = run("--state-dir", state, "matches", "--format", "jsonl").lines
    shown = [
        run("--state-dir", state, "matches", "show", row["id"], "--format", "json").lines[0]
        for row in rows
    ]
    assert [(s["path"], s["size"], s["times_seen"]) for s in shown] == [
        ("stdin:a", len(LISTED), 3),
        ("stdin:b", len(LISTED), 1),
        ("stdin:a", len(LONG), 1),
    ]
    text = run("--state-dir", state, "matches", "show", rows[0]["id"]).out
    assert "none: the content came as a stream" in text
    assert "3 times" in text and "in place" not in text


@pytest.mark.slow
def test_a_stream_is_never_taken_for_a_file(state: Path, tmp_path: Path) -> None:
    """No action touches a file that has the name of the stream."""
    tree = write_tree(tmp_path / "t", {"f": LISTED, "stdin:f": LISTED})
    (state / "config.toml").write_text(f'[quarantine]\nrecipients = ["{recipient()}"]\n')
    for name in (f"{tree}/f", "f"):
        (line, _) = scan(state, "--stdin-name", name, "-", stdin=LISTED, cwd=tree).lines
        added = run("--state-dir", state, "quarantine", "add", line["id"], cwd=tree)
        assert added.code in (2, 3)
        assert "there is no file" in added.out + added.err
        assert (tree / "f").exists()
        assert (tree / "stdin:f").exists()
        # The file with the name of the stream is a separate match.
        assert scan(state, "f", cwd=tree).lines[0]["id"] != line["id"]


@pytest.mark.slow
def test_isolation_by_a_policy_is_not_done(state: Path) -> None:
    (state / "config.toml").write_text(
        f'[[policy]]\nactions = ["quarantine"]\n[quarantine]\nrecipients = ["{recipient()}"]\n'
    )
    result = scan(state, "-", stdin=LISTED)
    assert result.code == 11
    (action,) = result.lines[0]["actions"]
    assert (action["action"], action["done"]) == ("quarantine", False)
    assert "there is no file" in action["detail"]


@pytest.mark.sampled
@pytest.mark.parametrize(
    "args",
    [
        ("-", "-"),
        ("-", "--files-from", "-"),
        ("-", "--quarantine"),
        ("--stdin-name", "x", "."),
        ("--stdin-name", "", "-"),
    ],
)
def test_impossible_uses_of_stdin_are_refused(state: Path, args: tuple[str, ...]) -> None:
    result = run("--state-dir", state, "scan", *args)
    assert result.code == 2
    assert "hint: " in result.err


def broken_off() -> None:
    """Make stdin a connection whose other side has ended and left bytes unread."""
    ours, theirs = socket.socketpair()
    ours.send(b"unread")
    theirs.close()
    os.dup2(ours.fileno(), 0)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("make", "reason"),
    [(broken_off, "connection reset by peer"), (lambda: os.close(0), "bad file descriptor")],
    ids=["broken off", "closed"],
)
def test_a_stream_that_cannot_be_read_is_unread(
    state: Path, make: Callable[[], object], reason: str
) -> None:
    result = run("--state-dir", state, "scan", "--format", "jsonl", "-", preexec=make)
    (line,) = result.lines[:-1]
    assert (line["type"], line["path"], line["reason"]) == ("unread", "-", reason)
    assert result.code == 3


def test_the_output_is_not_what_comes(state: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(LISTED)
    with data.open("rb") as stream:
        done = subprocess.run(
            arguments("--state-dir", state, "scan", "--output", data, "-"),
            stdin=stream,
            env=environment(),
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert data.read_bytes() == LISTED


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_a_signal_while_it_waits_ends_it_as_any_scan(
    state: Path, number: signal.Signals, code: int
) -> None:
    log = state / "audit" / "log.jsonl"
    process = subprocess.Popen(
        arguments("--state-dir", state, "scan", "--format", "jsonl", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    wait_until(lambda: log.exists() and "scan-start" in log.read_text(), process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    result = checked(Run(process.returncode, out, err))
    assert result.code == code
    assert result.summary["interrupted"] is True
    assert result.summary["inputs"] == 0
    assert "scan-end" in log.read_text()


@pytest.mark.slow
def test_of_a_list_with_few_digests_what_is_missing_is_computed(tmp_path: Path) -> None:
    """A stream matches an entry with two digests only if both digests agree."""
    rows = csv_of({"e-1": LISTED, "e-2": LONG}, algorithms=(Algorithm.MD5, Algorithm.SHA256))
    state = make_state(tmp_path / "site", {"base": rows})
    for data in (LISTED, LONG):
        (line, _) = scan(state, "-", stdin=data).lines
        assert (line["type"], line["algorithms"]) == ("match", ["md5", "sha256"])
