"""A fetch that is killed, or whose disk fails, at each of its changes of the disk in turn.

A switch of generations makes some hundred changes: files are made, written, synced, renamed,
removed. In turn, each change is the last one before the kill, or the one that fails. The list must
then be the complete old or new generation, and the next fetch must succeed and leave no other
files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.client import Client, content, csv
from fixtures.crash import FailAt, Recorder, drop_capabilities, in_child, kill_at, watched
from fixtures.hostile import Connection, HostileServer, Request, reply
from fixtures.simulator import Simulator
from hashclient.cli import main as command
from hashclient.config.edit import provider_table
from hashclient.core.errors import AuditError, ExitCode, HashclientError, StateError
from hashclient.fetch import build
from hashclient.index.writer import Room
from tests.kit import edit_manifest
from tests.kit.depth import changes, of_changes

ALL = range(30)
#: The listed entries of each generation; generation 0 stands for no list.
LISTED: dict[int, set[int]] = {0: set(), 3: set(range(15)), 4: set(range(1, 20)) - {7}}
MOST = 400
ROOT = Path(__file__).parents[2]


@dataclass
class Crashing:
    """A provider, its files by generation, and states of clients with generation 0 or 3."""

    simulator: Simulator
    served: dict[int, dict[str, bytes]]
    states: dict[int, Path]
    root: bytes


@pytest.fixture(scope="module", autouse=True)
def _small_runs() -> Iterator[None]:
    """Let a fetch write small runs, so that it merges runs and can resume."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "of", lambda _: Room(run_rows=5, merge_rows=7))
        patch.setattr(build, "DELTA_UNNOTED_S", 0.0)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, _small_runs: None) -> Crashing:
    simulator = Simulator(tmp_path_factory.mktemp("provider") / "repo")
    for start in (0, 5, 10):
        simulator.publish(csv(range(start, start + 5)))
    served = {3: dict(simulator.files)}
    states = {n: tmp_path_factory.mktemp("client") / "state" for n in (0, 3)}
    for generation, state in states.items():
        client = Client(state, simulator, simulator.root)
        if generation:
            client.fetch()
            assert client.numbers(ALL) == LISTED[3]
    simulator.withdraw("e-0", "e-7")
    simulator.publish(csv(range(15, 20)))
    # Generation 4 has all changes since generation 3 in one fetch.
    served[4] = dict(simulator.files)
    return Crashing(simulator, served, states, simulator.root)


@dataclass
class Step:
    """An update of a client from generation `old` to generation `new`, in copies of its state."""

    world: Crashing
    old: int
    new: int
    directory: Path

    def client(self, name: str) -> Client:
        """Return a client in a new copy of the old state."""
        self.world.simulator.files = dict(self.world.served[self.new])
        self.world.simulator.requests.clear()
        state = self.directory / name
        shutil.copytree(self.world.states[self.old], state, symlinks=True)
        return Client(state, self.world.simulator, self.world.root)

    def check(self, client: Client) -> int:
        """Check that the state has exactly one complete generation, and return its number."""
        manifest = client.manifest()
        if manifest is None:
            assert self.old == 0
            return 0
        generation = 3 if manifest.generation == 3 else 4
        assert generation in {self.old, self.new}
        assert manifest.entries == len(LISTED[generation])
        assert client.numbers(ALL) == LISTED[generation]
        return generation

    def check_recovers(self, client: Client) -> None:
        """Check that the next fetch succeeds and leaves no other files."""
        (fetched,) = client.fetch()
        assert fetched.error is None
        assert self.check(client) == self.new
        assert client.leftovers() == set()


@pytest.fixture(params=[(0, 3), (3, 4)], ids=["first fetch", "update"])
def step(world: Crashing, tmp_path: Path, request: pytest.FixtureRequest) -> Step:
    old, new = request.param
    return Step(world, old, new, tmp_path)


def test_the_watched_calls_are_those_that_happen(step: Step) -> None:
    """If the important calls were not watched, the other tests would prove nothing."""
    recorder = Recorder()
    client = step.client("recorded")
    with watched(recorder):
        client.fetch()
    names = {name for name, _ in recorder.calls}
    assert names >= {"create", "write", "fsync", "replace", "unlink"}
    assert 60 < len(recorder.calls) < MOST
    renames = [str(a) for name, a in recorder.calls if name == "replace"]
    # At least the runs, the merged run and the manifest.
    assert sum("/lists/" in path for path in renames) >= 4
    assert sum("/trust/" in path for path in renames) >= 3


def test_every_file_of_a_list_is_on_the_disk_with_its_name_before_the_manifest(step: Step) -> None:
    recorder = Recorder()
    client = step.client("recorded")
    with watched(recorder):
        client.fetch()
    folder = client.settings.layout.lists / "baseline"
    calls = recorder.calls
    renames = [
        n for n, (name, a) in enumerate(calls) if name == "replace" and str(folder) in str(a)
    ]
    switch = renames[-1]
    assert calls[switch - 1] == ("fsync", str(calls[switch][1]))
    assert calls[switch + 1] == ("fsync", str(folder))
    # The runs are synced together under their names, and then the names are synced.
    runs = {("fsync", str(path)) for path in folder.iterdir() if path.name.startswith("run-")}
    assert runs and runs <= set(calls[:switch])
    last = max(n for n, call in enumerate(calls[:switch]) if call in runs)
    assert ("fsync", str(folder)) in calls[max(last, *renames[:-1]) : switch]
    # No file is removed before the switch to the new generation is synced.
    removed = [n for n, (name, a) in enumerate(calls) if name == "unlink" and str(folder) in str(a)]
    assert removed and min(removed) > switch + 1


@pytest.mark.slow
def test_killed_before_each_change(step: Step) -> None:
    seen = []
    for number in changes(MOST):
        client = step.client(f"k{number}")

        def work(client: Client = client, number: int = number) -> None:
            with watched(kill_at(number)):
                client.fetch()

        status = in_child(work)
        assert status in {0, -signal.SIGKILL}
        seen.append(step.check(client))
        step.check_recovers(client)
        if status == 0:
            break
        assert number < MOST
    # The number of writes may differ by one from run to run, so only the first and the last result
    # are certain.
    assert (seen[0], seen[-1], set(seen)) == (step.old, step.new, {step.old, step.new})
    assert number > 40


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_disk_fails_at_each_change(step: Step, code: int) -> None:
    failures = 0
    for number in changes(MOST):
        client = step.client(f"k{number}")
        fault = FailAt(number, code)
        error: HashclientError | None = None
        try:
            with watched(fault):
                client.fetch()
        except HashclientError as caught:
            error = caught
            failures += 1
        # If the fetch reports no error, the failed call was unimportant, such as the removal of an
        # old run.
        if error is not None:
            assert isinstance(error, StateError | AuditError)
            assert os.strerror(code) in error.message and error.message.isprintable()
        step.check(client)
        names = {p.name for p in client.settings.state_dir.rglob("*") if p.is_file()}
        temporary = {n for n in names if n.startswith((".tmp-", "tmp"))}
        assert not temporary or code == errno.EIO  # the removal of a temporary file may itself fail
        step.check_recovers(client)
        if not fault.fired:
            break
        assert number < MOST
    assert failures > of_changes(60)


def test_killed_fetch_goes_on_where_it_was(world: Crashing, tmp_path: Path) -> None:
    """Segments that were sealed before the kill are not requested again."""
    step = Step(world, 0, 3, tmp_path)
    client = step.client("killed")
    staged = 0

    def act(name: str, argument: object) -> None:
        """Kill the process when it has noted its progress for the second time."""
        nonlocal staged
        if name == "create" and staged == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "replace" and b'"partial"' in Path(str(argument)).read_bytes():
            staged += 1

    def work() -> None:
        with watched(act):
            client.fetch()

    assert in_child(work) == -signal.SIGKILL
    assert client.manifest() is None
    step.check_recovers(client)
    asked = [r.split(".", 1)[1] for r in world.simulator.requests if r.startswith("targets/")]
    assert asked == ["index.json", "g000003-add-000.parquet"]


def test_killed_update_goes_on_where_it_was(world: Crashing, tmp_path: Path) -> None:
    """In an update over several generations, sealed segments are not requested again either."""
    step = Step(world, 3, 4, tmp_path)
    client = step.client("killed")
    noted = False

    def act(name: str, argument: object) -> None:
        """Kill the process at its first change after it has noted its progress."""
        nonlocal noted
        if noted:
            os.kill(os.getpid(), signal.SIGKILL)
        noted = name == "replace" and b'"partial"' in Path(str(argument)).read_bytes()

    def work() -> None:
        with watched(act):
            client.fetch()

    assert in_child(work) == -signal.SIGKILL
    assert step.check(client) == 3
    step.check_recovers(client)
    asked = [r.split(".", 1)[1] for r in world.simulator.requests if r.startswith("targets/")]
    assert asked == ["index.json", "g000005-add-000.parquet"]


def test_noted_update_that_does_not_add_up_is_built_again(world: Crashing, tmp_path: Path) -> None:
    """An update of a changed manifest has a wrong checksum, so the list is built again."""
    step = Step(world, 3, 4, tmp_path)
    client = step.client("drifted")
    edit_manifest(client.settings.state_dir, "baseline", checksum="0" * 16)
    (fetched,) = client.fetch()
    assert (fetched.added, fetched.error) == (None, None)
    assert step.check(client) == 4
    assert client.leftovers() == set()


# A state directory without write permission


@dataclass
class Result:
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def read_only(world: Crashing, tmp_path: Path) -> Iterator[Path]:
    """A state directory with generation 3 in which no file can be made or changed."""
    state = tmp_path / "state"
    shutil.copytree(world.states[3], state, symlinks=True)
    client = Client(state, world.simulator, world.root)
    (provider,) = client.settings.providers().values()
    (state / "config.toml").write_text(provider_table("main", provider))
    everything = [state, *state.rglob("*")]
    for path in everything:
        if not path.is_symlink():
            path.chmod(0o500 if path.is_dir() else 0o400)
    yield state
    for path in everything:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


def run_without_rights(tmp_path: Path, state: Path, *arguments: str) -> Result:
    """Run the command in a child process that may not write to `state`."""
    answer = tmp_path / "answer.json"

    def work() -> None:
        drop_capabilities()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command._run(["--state-dir", str(state), *arguments])
        answer.write_text(json.dumps([code, out.getvalue(), err.getvalue()]))

    answer.unlink(missing_ok=True)
    assert in_child(work) == 0
    return Result(*json.loads(answer.read_text()))


@pytest.mark.slow
def test_read_only_state_can_be_read(read_only: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "clean").write_bytes(content(25))
    before = {p: p.read_bytes() for p in read_only.rglob("*") if p.is_file()}

    fetched = run_without_rights(tmp_path, read_only, "fetch")
    assert fetched.code == ExitCode.STATE
    assert "Permission denied" in fetched.err and "hint: " in fetched.err

    status = run_without_rights(tmp_path, read_only, "status")
    assert status.code == ExitCode.OK and "baseline" in status.out

    clean = run_without_rights(tmp_path, read_only, "scan", str(inputs))
    assert clean.code == ExitCode.AUDIT
    assert "audit log" in clean.err

    (inputs / "listed").write_bytes(content(3))
    match = run_without_rights(tmp_path, read_only, "scan", str(inputs), "--format", "jsonl")
    assert match.code == ExitCode.MATCH_ATTENTION
    assert '"entry": "e-3"' in match.out and "audit log" in match.err

    digest = hashlib.md5(content(3)).hexdigest()
    found = run_without_rights(tmp_path, read_only, "lookup", digest)
    assert found.code == ExitCode.MATCH_ATTENTION and "e-3" in found.out
    assert before == {p: p.read_bytes() for p in read_only.rglob("*") if p.is_file()}


# The real command, killed by a signal to itself


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["timestamp", "index.json", "g000002-add"])
def test_real_command_killed_while_it_waits(world: Crashing, tmp_path: Path, victim: str) -> None:
    world.simulator.files = dict(world.served[3])
    state = tmp_path / "state"
    (tmp_path / "root.json").write_bytes(world.root)
    running: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def kill(connection: Connection, request: Request) -> bool:
        started.wait(60)
        running[0].kill()
        return False

    with HostileServer() as server:
        for path, data in world.simulator.files.items():
            server.on(f"/{path}", reply(data))
        arguments = [sys.executable, "-m", "hashclient", "--state-dir", str(state)]
        subprocess.run(
            [*arguments, "init", server.origin, "--root", tmp_path / "root.json", "--allow-http"],
            check=True,
            capture_output=True,
            cwd=ROOT,
            timeout=60,
        )
        for path, data in world.simulator.files.items():
            if victim in path:
                server.on(f"/{path}", kill, reply(data))
        running.append(subprocess.Popen([*arguments, "-q", "fetch"], cwd=ROOT))
        started.set()
        assert running[0].wait(60) == -signal.SIGKILL
        done = subprocess.run(
            [*arguments, "fetch"], capture_output=True, cwd=ROOT, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    client = Client(state, world.simulator, world.root)
    assert client.numbers(ALL) == LISTED[3]
    assert client.leftovers() - {"config.toml"} == set()
