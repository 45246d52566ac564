"""`hashclient provider`: the commands, and `serve` as a real process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from fixtures.simulator import Simulator
from hashclient.cli.main import cli
from hashclient.core.errors import (
    UsageError,
)
from hashclient.provider.repository import Repository
from tests.kit import call

pytestmark = pytest.mark.usefixtures("reachable")

MD5 = hashlib.md5(b"benign").hexdigest()
SHA1 = hashlib.sha1(b"benign").hexdigest()
SHA256 = hashlib.sha256(b"benign").hexdigest()

CSV = f"""entry_id,md5,sha1,sha256,size,category,added
a-1,{MD5},{SHA1},{SHA256},6,baseline,2024-05-01
a-2,{MD5},,,,,
,,{SHA1},,7,other,2024-05-01T10:00:00Z
""".encode()

ROLES = ("root", "targets", "snapshot", "timestamp", "baseline")


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    return Simulator(tmp_path / "repo")


def run(*args: str | Path, stdin: bytes | None = None) -> tuple[str, str]:
    """Run a command that must succeed, and return its stdout and stderr."""
    result = CliRunner().invoke(cli, ["provider", *map(str, args)], input=stdin)
    if result.exception is not None:
        raise result.exception
    return result.stdout, result.stderr


def test_the_commands_make_and_change_a_repository(tmp_path: Path) -> None:
    repo, sums = tmp_path / "repo", tmp_path / "sums"
    sums.write_text(f"{MD5}  one\n")
    out, said = run("init", repo, "--keys", "3", "--threshold", "2")
    assert out == f"{repo}/root.json\n"
    assert "give this file to clients" in said
    assert run("publish", repo, "--list", "baseline", sums)[0] == (
        "list baseline: generation 1: 1 added, 1 live\n"
    )
    out, said = run("publish", repo, "--list", "baseline", "--format", "json", "-", stdin=CSV)
    assert json.loads(out) == {
        "list": "baseline",
        "generation": 2,
        "added": 3,
        "live": 4,
        "listed_before": 1,
        "repeated": 2,
        "withdrawn": 0,
        "added_by_category": {"baseline": 2, "other": 1},
        "not_meant": 0,
        "skipped": [],
        "dry_run": False,
        "draft": None,
    }
    off = (
        "hint: they were published anyway; `hashclient provider withdraw` takes entries off"
        " the list\n"
    )
    assert said == (
        "hashclient: warning: on the list before, by all their digests: 1 of 3 entries, the first"
        f" from standard input:3\n{off}"
        "hashclient: warning: given twice, by all their digests: 2 of 3 entries, the first from"
        f" standard input:3\n{off}"
    )
    out, _ = run("withdraw", repo, "--list", "baseline", "1-1", "a-1", "--format", "json")
    assert json.loads(out) == {
        "list": "baseline",
        "generation": 3,
        "withdrawn": 2,
        "live": 2,
        "draft": None,
    }
    assert run("rotate", repo, "baseline")[1] == "role baseline has new keys\n"
    rotated = run("rotate", repo, "baseline", "--format", "json")[0]
    assert json.loads(rotated) == {"rotated": "baseline"}
    assert run("renew", repo) == ("", "signed again: timestamp\n")
    renewed = run("renew", repo, "--format", "json")[0]
    assert json.loads(renewed) == {"signed": ["timestamp"], "skipped": []}
    out = run("consolidate", repo, "--list", "baseline")[0]
    assert out == "list baseline: generation 3: 3 segments -> 3\n"
    out = run(*("consolidate", repo, "--list", "baseline", "--format", "json"))[0]
    assert json.loads(out) == {
        "list": "baseline",
        "generation": 3,
        "segments_before": 3,
        "segments": 3,
    }
    text = run("status", repo)[0]
    assert "root       1        2 of 3  " in text
    document = json.loads(run("status", repo, "--format", "json")[0])
    assert document["root_sha256"] in text
    assert [role["name"] for role in document["roles"]] == list(ROLES)
    (baseline,) = document["lists"]
    assert (baseline["generation"], baseline["live"], baseline["segments"]) == (3, 2, 3)


def test_the_results_of_init_are_written_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = json.loads(run("init", "repo", "--format", "json")[0])
    root = (tmp_path / "repo/root.json").read_bytes()
    assert document == {
        "root": str(tmp_path / "repo/root.json"),
        "root_sha256": hashlib.sha256(root).hexdigest(),
    }


def test_the_commands_say_what_is_due(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=400)
    Repository(tmp_path / "repo", clock=lambda: long_ago).create()
    text = run("status", tmp_path / "repo")[0]
    assert text.count("  expired") == 4
    assert "no list yet" in text
    for path in (tmp_path / "repo/keys").glob("root-*"):
        path.unlink()
    renewed = call("provider", "renew", tmp_path / "repo")
    assert renewed.code == 7
    assert "due, but the keys are not here: root" in renewed.err
    said = call("provider", "renew", tmp_path / "repo").err
    assert "role root has expired: " in said and "role timestamp" not in said
    assert call("provider", "status", tmp_path / "repo").code == 7


def test_every_change_warns_of_what_expires_soon(tmp_path: Path) -> None:
    repo, sums = tmp_path / "repo", tmp_path / "sums"
    sums.write_text(f"{MD5}  one\n")
    months_ago = datetime.now(UTC) - timedelta(days=300)
    Repository(repo, clock=lambda: months_ago).create()
    warning = "warning: role root expires in 6"
    assert warning in run("publish", repo, "--list", "baseline", sums)[1]
    assert warning in run("withdraw", repo, "--list", "baseline", "1-1")[1]
    status = call("provider", "status", repo)
    assert (status.code, warning in status.err) == (0, True)
    assert warning not in run("renew", repo)[1]
    status = call("provider", "status", repo)
    assert (status.code, status.err) == (0, "")


def test_rotate_takes_both_numbers_or_neither(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    run("init", repo)
    done = call("provider", "rotate", repo, "root", "--keys", "2")
    assert done.code == 2 and "both --keys and --threshold" in done.err
    run("rotate", repo, "root", "--keys", "3", "--threshold", "2")
    assert "root       2        2 of 3  " in run("status", repo)[0]


def test_a_file_that_is_not_there_is_a_usage_error(simulator: Simulator) -> None:
    with pytest.raises(UsageError, match="cannot read none: No such file or directory"):
        run("publish", simulator.repository.directory, "--list", "baseline", "none")


@contextlib.contextmanager
def serve(repository: Repository, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """Run `provider serve`, and yield the process and the printed line with its address."""
    command = [sys.executable, "-m", "hashclient", "provider", "serve"]
    with subprocess.Popen(
        [*command, str(repository.directory), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_where_and_ends_cleanly(simulator: Simulator, number: signal.Signals) -> None:
    with serve(simulator.repository, "--format", "json", "-v") as (process, line):
        at = json.loads(line)
        token = Path(at["token_file"]).read_text().strip()
        with httpx.Client(
            base_url=at["url"],
            verify=ssl.create_default_context(cafile=at["ca"]),
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=60,
        ) as browser:
            answer = browser.get("metadata/1.root.json")
            assert answer.content == simulator.files["metadata/1.root.json"]
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"")
    assert err == b"127.0.0.1: GET /metadata/1.root.json HTTP/1.1: 200\n"


@pytest.mark.slow
def test_serve_says_where_in_words(simulator: Simulator) -> None:
    with serve(simulator.repository) as (process, line):
        process.terminate()
        out, err = process.communicate(timeout=60)
    keys = simulator.repository.directory / "keys/serve"
    assert line.startswith(b"serving https://127.0.0.1:")
    assert line.endswith(f"/ (--ca {keys}/ca.pem --token-file {keys}/token)\n".encode())
    assert (process.returncode, out, err) == (0, b"", b"")
