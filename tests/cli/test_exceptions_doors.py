"""An exception applies in each kind of scan and lookup, and each counts the excepted file."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fixtures import buckets
from fixtures.archives import zip_of
from hashclient.core.kinds import Algorithm
from hashclient.decisions.rulings import Book, load_book
from tests.clamd import Daemon, instream, open_for_reading, serving
from tests.kit import Run, State, arguments, call, environment, from_pipe, wait_until

WRONG, RIGHT = b"a licence that everybody has", b"a dummy that stands for what is meant"
REASON = ("--reason", "ticket 4711")
FOUND, CLEAN = b"stream: Hashclient.base.wrong FOUND\0", b"stream: OK\0"


@pytest.fixture
def world(tmp_path: Path) -> State:
    return State(tmp_path, {"base": {"wrong": WRONG, "right": RIGHT}}, {"wrong": WRONG})


def make_exception(world: State, *args: object) -> str:
    result = world.call("exceptions", "add", "base/wrong", *REASON, "--format", "json", *args)
    assert result.code == 0, result
    return str(json.loads(result.out)["exception"]["id"])


def of_tree(world: State, tmp_path: Path, *options: str) -> Run:
    return world.scan(*options)


def of_workers(world: State, tmp_path: Path, *options: str) -> Run:
    for number in range(40):
        (world.tree / f"other-{number}").write_bytes(b"%d" % number)
    return world.scan("--jobs", "2", *options)


def of_member(world: State, tmp_path: Path, *options: str) -> Run:
    (tmp_path / "a.zip").write_bytes(zip_of({"inner": zip_of({"wrong": WRONG})}))
    return world.scan(*options, tmp_path / "a.zip")


def of_stdin(world: State, tmp_path: Path, *options: str) -> Run:
    with from_pipe(WRONG):
        return world.call("scan", "--format", "jsonl", *options, "-")


def of_lookup(world: State, tmp_path: Path, *options: str) -> Run:
    digest = hashlib.sha256(WRONG).hexdigest()
    return world.call("lookup", "--format", "jsonl", *options, digest)


def of_bucket(world: State, tmp_path: Path, *options: str) -> Run:
    site = buckets.Site()
    try:
        bucket = site.bucket(**{"docs/wrong": WRONG})
        # This runs in another process, because the threads of the object library outlive the scan.
        words = ("scan", "--format", "jsonl", *options, bucket.uri)
        return world.run(*words, env=site.environment)
    finally:
        site.close()


def of_cluster(world: State, tmp_path: Path, *options: str) -> Run:
    words = ("scan", "--format", "jsonl", "--executor", "local-cluster:1")
    return world.run(*words, *options, world.tree)


DOORS = {
    "tree": of_tree,
    "workers": of_workers,
    "member": of_member,
    "stdin": of_stdin,
    "lookup": of_lookup,
    "bucket": of_bucket,
    "cluster": of_cluster,
}
SLOW = ("workers", "bucket", "cluster")
_doors = [pytest.param(d, marks=[pytest.mark.slow] * (d in SLOW)) for d in DOORS]


@pytest.mark.sampled
@pytest.mark.parametrize("door", _doors)
def test_the_answer_is_the_same_through_each_door(world: State, tmp_path: Path, door: str) -> None:
    ruling = make_exception(world)
    result = DOORS[door](world, tmp_path)
    assert result.code == 0, result
    summary = result.lines[-1]
    assert (summary["excepted"], summary["match"]) == (1, 0)
    assert [number for what, number in summary["excepted_by"].items() if ruling in what] == [1]
    (line,) = result.lines[:-1]
    assert (line["type"], line["entry"], line["exceptions"]) == ("excepted", "wrong", [ruling])
    assert [data["exceptions"] for _, data in world.events("excepted")] == [[ruling]]
    without = DOORS[door](world, tmp_path, "--no-exceptions")
    world.call("exceptions", "remove", ruling, *REASON)
    for result in (without, DOORS[door](world, tmp_path)):
        assert (result.code, result.lines[-1]["match"], result.lines[-1]["excepted"]) == (10, 1, 0)
        assert result.lines[0]["type"] == "match"


#: The ways of checking that read the content of a file. A lookup gets only a digest, which does not
#: identify a file.
BY_CONTENT = [p for p in _doors if p.values[0] != "lookup"]


@pytest.mark.sampled
@pytest.mark.parametrize("door", BY_CONTENT)
def test_a_file_is_excepted_through_each_door_if_its_entry_has_no_sha256(
    tmp_path: Path, door: str
) -> None:
    files = {"wrong": WRONG}
    world = State(tmp_path, {"base": {"wrong": WRONG}}, files, algorithms=[Algorithm.MD5])
    assert world.call("exceptions", "add", "--file", world.tree / "wrong", *REASON).code == 0
    result = DOORS[door](world, tmp_path)
    assert (result.code, result.lines[-1]["excepted"]) == (0, 1), result


def counted(daemon: Daemon) -> dict[str, float]:
    with urllib.request.urlopen(f"{daemon.metrics}") as answer:
        lines = answer.read().decode().splitlines()
    prefix = 'hashclient_serve_objects_total{verdict="'
    pairs = [line.removeprefix(prefix).split('"} ') for line in lines if line.startswith(prefix)]
    return {verdict: float(number) for verdict, number in pairs}


@pytest.mark.slow
def test_a_daemon_answers_ok_counts_and_logs_it_and_follows_each_change(
    world: State, tmp_path: Path
) -> None:
    mail = zip_of({"wrong": WRONG})
    with serving(world.path, tmp_path / "run", "--metrics", "127.0.0.1:0") as daemon:
        assert daemon.ask(instream(WRONG)) == FOUND
        ruling = make_exception(world)
        assert daemon.ask(instream(WRONG)) == CLEAN
        assert daemon.ask(instream(mail)) == CLEAN
        fd = open_for_reading(world.tree / "wrong")
        assert daemon.ask_descriptor(fd).endswith(b": OK\0")
        os.close(fd)
        path = os.fsencode(world.tree)
        for command in (b"SCAN", b"CONTSCAN", b"ALLMATCHSCAN"):
            assert daemon.ask(b"z" + command + b" " + path + b"\0") == path + b": OK\0"
        assert daemon.ask(instream(RIGHT)).endswith(b"right FOUND\0")
        found = counted(daemon)
        assert (found["excepted"], found["match"], found["clean"]) == (6, 2, 0)
        world.call("exceptions", "remove", ruling, *REASON)
        assert daemon.ask(instream(WRONG)) == FOUND
        assert daemon.stop() == 0
    logged = [data["exceptions"] for _, data in world.events("excepted")]
    assert logged and set(map(tuple, logged)) == {(ruling,)}
    assert sum(data["excepted"] for _, data in world.events("serve-end")) == 6


@pytest.mark.slow
def test_a_daemon_records_an_excepted_container_beside_its_listed_member(tmp_path: Path) -> None:
    packed = zip_of({"right": RIGHT})
    world = State(tmp_path, {"base": {"wrong": packed, "right": RIGHT}})
    make_exception(world)
    with serving(world.path, tmp_path / "run") as daemon:
        assert daemon.ask(instream(packed)).endswith(b"right FOUND\0")
        assert daemon.stop() == 0
    assert [len(world.events(kind)) for kind in ("match", "excepted")] == [1, 1]


def asked_after_exception(
    world: State, daemon: Daemon, *, seconds: int
) -> tuple[datetime, Run, bytes]:
    """Add an exception that ends soon; return its end, the result, and the daemon's answer."""
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    words = ("exceptions", "add", "base/wrong", *REASON, "--until", until.isoformat())
    return until, world.call(*words), daemon.ask(instream(WRONG))


@pytest.mark.slow
def test_an_exception_ends_while_a_daemon_runs_and_the_next_answer_is_found(
    world: State, tmp_path: Path
) -> None:
    with serving(world.path, tmp_path / "run") as daemon:
        until, made, answer = asked_after_exception(world, daemon, seconds=2)
        if datetime.now(UTC) >= until:  # on a slow machine, the exception has ended already
            until, made, answer = asked_after_exception(world, daemon, seconds=40)
        assert (made.code, answer) == (0, CLEAN)
        wait_until(lambda: datetime.now(UTC) > until, daemon.process.pid)
        assert daemon.ask(instream(WRONG)) == FOUND
        make_exception(world)
        assert daemon.ask(instream(WRONG)) == CLEAN
        (world.path / "decisions/exceptions.json").write_bytes(b"{}")
        assert daemon.ask(instream(WRONG)) == FOUND


@pytest.mark.slow
def test_a_daemon_without_exceptions_answers_found(world: State, tmp_path: Path) -> None:
    make_exception(world)
    with serving(world.path, tmp_path / "run", "--no-exceptions") as daemon:
        assert daemon.ask(instream(WRONG)) == FOUND


def watching(world: State, *options: str) -> subprocess.Popen[str]:
    words = arguments("--state-dir", world.path, "watch", "--format", "jsonl", *options, world.tree)
    return subprocess.Popen(words, env=environment(), stdout=-1, stderr=-1, text=True)


@pytest.mark.slow
def test_a_watch_without_exceptions_names_the_match(world: State) -> None:
    make_exception(world)
    with watching(world, "--no-exceptions") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "match"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    ends = [(data["match"], data["excepted"]) for _, data in world.events("scan-end")]
    assert ends == [(1, 0)]


@pytest.mark.slow
def test_a_watch_names_what_is_excepted_and_acts_upon_nothing(world: State) -> None:
    ruling = make_exception(world)
    with watching(world) as process:
        assert process.stdout is not None and process.stderr is not None
        line = json.loads(process.stdout.readline())
        assert (line["type"], line["exceptions"]) == ("excepted", [ruling])
        assert any(f"excepted 1: exception {ruling}" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert call("--state-dir", world.path, "audit", "verify").code == 0
    assert [data["excepted"] for _, data in world.events("scan-end")] == [1]


def test_a_lookup_with_many_matches_reads_the_exceptions_once(
    world: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []

    def note(*args: Any) -> Book:
        loaded.append(args)
        return load_book(*args)

    make_exception(world)
    monkeypatch.setattr("hashclient.decisions.exceptions.load_book", note)
    digests = [hashlib.sha256(WRONG).hexdigest(), hashlib.sha256(RIGHT).hexdigest()] * 3
    assert world.call("lookup", *digests).code == 10
    assert len(loaded) == 1
