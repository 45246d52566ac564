"""What tests of the command line share: state directories, a provider on loopback, the command.

`make_state` fetches in this process from a simulated provider, in some ten milliseconds. A `Site`
is a provider behind HTTPS and a client that uses nothing but the real command.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.cli import main as command
from hashclient.core.algorithms import Algorithm
from hashclient.errors import ExitCode
from hashclient.index.authentic import NO_MAC, authenticate
from hashclient.index.blinding import load_sealer
from hashclient.index.manifest import MANIFEST_FORMAT
from hashclient.provider.repository import Repository
from hashclient.provider.server import open_server
from hashclient.scan import cache
from hashclient.system import filesystems, identity

ROOT = Path(__file__).parents[1]
ALL_ALGORITHMS = tuple(Algorithm)
#: What root needs besides, so that what it may not read is really unreadable.
_UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def outcomes(self) -> dict[str, str]:
        """Path to kind of the lines, without the summary; no path occurs twice."""
        found: dict[str, str] = {}
        for line in self.lines[:-1]:
            assert line["path"] not in found
            found[line["path"]] = line["type"]
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The last of the JSON lines."""
        last = self.lines[-1]
        assert last["type"] == "summary"
        return last


def checked(result: Result) -> Result:
    """Return `result` if it has what every run must have, however it ended."""
    assert "Traceback" not in result.err, result.err
    assert "Exception ignored" not in result.err, result.err
    assert "hashclient: internal error" not in result.err, result.err
    assert result.code in set(ExitCode) - {ExitCode.BUG}, (result.code, result.err)
    if result.code in {2, 4, 5, 6, 8, 9} and not result.out:
        assert result.err.startswith(("hashclient: ", "hashclient.", "Usage: ")), result.err
    return result


#: For a process that `make coverage` must not measure, since that shows in what it does.
UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with `changes`, and with this checkout's code."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def arguments(*args: object) -> list[str]:
    """Return the arguments that start the real command; bytes are those of a path."""
    given = [os.fsdecode(arg) if isinstance(arg, bytes) else str(arg) for arg in args]
    return [sys.executable, "-m", "hashclient", *given]


def run(
    *args: object,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    unprivileged: bool = False,
    preexec: Callable[[], object] | None = None,
) -> Result:
    """Run the real command to its end; `unprivileged` makes permissions count for root, too."""
    prefix = _UNPRIVILEGED if unprivileged and os.geteuid() == 0 else ()
    done = subprocess.run(
        [*prefix, *arguments(*args)],
        env=environment(**(env or {})),
        input=stdin,
        cwd=cwd,
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=preexec,
    )
    err = done.stderr.decode(errors="surrogateescape")
    return checked(Result(done.returncode, done.stdout.decode(errors="surrogateescape"), err))


@contextlib.contextmanager
def restored_signals() -> Iterator[None]:
    """Let signals mean in the end what they mean now: a run that has ended leaves them ignored."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def call(*args: object) -> Result:
    """Run the command in this process: for what would take too many starts."""
    out, err = io.StringIO(), io.StringIO()
    with restored_signals(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command._run([str(arg) for arg in args])
    return checked(Result(int(code), out.getvalue(), err.getvalue()))


def digests_of(data: bytes, algorithms: Iterable[Algorithm] = ALL_ALGORITHMS) -> list[str]:
    """Return digests of `data` in hexadecimal."""
    return [hashlib.new(a.label, data).hexdigest() for a in algorithms]


def csv_of(
    contents: Mapping[str, bytes],
    *,
    algorithms: Sequence[Algorithm] = ALL_ALGORITHMS,
    sized: bool = True,
) -> bytes:
    """Return a file to publish: one entry for each of `contents`, by its id."""
    names = ["entry_id", *(a.label for a in algorithms), *(["size"] if sized else []), "category"]
    rows = [",".join(names)]
    for entry_id, data in contents.items():
        size = [str(len(data))] if sized else []
        rows.append(",".join([entry_id, *digests_of(data, algorithms), *size, "synthetic"]))
    return "\n".join([*rows, ""]).encode()


def make_state(directory: Path, lists: Mapping[str, bytes]) -> Path:
    """Make a state directory that holds `lists`, files of digests by the name of their list."""
    simulator = Simulator(directory / "provider")
    for name, content in lists.items():
        simulator.publish(content, name)
    client = Client(directory / "state", simulator, simulator.root)
    client.fetch()
    return directory / "state"


def edit_manifest(state: Path, list_name: str, **changes: object) -> None:
    """Change what a state directory says of a list, such as when it `expires`.

    As who has the key can: what it says is vouched for.
    """
    path = state / "lists" / list_name / "manifest.json"
    manifest = json.loads(path.read_bytes())
    assert changes.keys() <= manifest.keys()
    changed = json.dumps(manifest | changes | {"mac": NO_MAC}).encode()
    path.write_bytes(authenticate(changed, MANIFEST_FORMAT, load_sealer(state, None, {})))


def remember_at_once(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """Let scans in this process remember files as soon as they are written, also if in memory.

    Tests then wait for the next tick of the clock; where nothing ever is remembered matters to few.
    """
    for name in ("FRESH_NS", "FRESH_PROVEN_NS"):
        patch.setattr(cache, name, 0)
    fd = os.open(directory, os.O_RDONLY)
    kinds = filesystems._KEEP_CTIME | {filesystems.kind_of(fd)}
    if identity.unique_mount(fd) is None:  # an earlier kernel
        patch.setattr(identity, "unique_mount", lambda fd: os.fstat(fd).st_dev)
    os.close(fd)
    patch.setattr(filesystems, "_KEEP_CTIME", kinds)
    patch.setattr(identity, "_LEASES_PROVE", kinds)


def write_tree(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their paths below `directory`."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    directory.mkdir(exist_ok=True)
    return directory


@contextlib.contextmanager
def fast_directory() -> Iterator[Path]:
    """Make a directory for trees of many or very large files: in memory, where that is possible."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    directory = Path(tempfile.mkdtemp(prefix="hashclient-", dir=memory if usable else None))
    try:
        yield directory
    finally:
        # Also what is deeper than Python's own function can go.
        subprocess.run(["rm", "-rf", directory], check=True)


def make_deep_tree(directory: Path, depth: int) -> None:
    """Make a chain of `depth` directories called `dd`, each with an empty file `f`."""
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("dd", dir_fd=fd)
        inner = os.open("dd", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        os.close(os.open("f", os.O_CREAT, dir_fd=fd))
    os.close(fd)


def wait_until(condition: Callable[[], bool], pid: int) -> None:
    """Wait for something that a running scan does soon; give up when it takes far too long."""
    for _ in range(2_000):
        if condition():
            return
        signal.sigtimedwait([], 0.01)
    raise AssertionError(f"process {pid} did not do what was expected")


def open_files() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def bytes_path(line: Mapping[str, Any]) -> bytes:
    """Return the path of a JSON line as it is on disk."""
    if "path_b64" in line:
        return base64.b64decode(line["path_b64"])
    return str(line["path"]).encode()


class Site:
    """A provider that is served on loopback, and a client's state directory.

    `requests` are the lines that the server logs.
    """

    def __init__(self, directory: Path) -> None:
        """Make the provider, without lists, and serve it until the end of the context."""
        self.directory = directory
        self.state = directory / "state"
        self.requests: list[str] = []
        self.repository = Repository(directory / "repo", clock=lambda: datetime.now(UTC))
        self.repository.create()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Site:
        """Serve."""
        opened = open_server(
            self.repository,
            "127.0.0.1:0",
            clock=lambda: datetime.now(UTC),
            log=self.requests.append,
        )
        self.server, self.endpoint = self._stack.enter_context(opened)
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self.server.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stack.close()

    @property
    def token(self) -> str:
        """The credential that the server wants."""
        return self.endpoint.token_file.read_text().strip()

    def publish(self, content: bytes, list_name: str = "baseline") -> None:
        """Publish entries."""
        self.repository.publish(list_name, [(f"{list_name}.csv", io.BytesIO(content))])

    def run(self, *args: object, state: Path | None = None, **kwargs: Any) -> Result:
        """Run the real command on the client's state directory."""
        return run("--state-dir", state or self.state, *args, **kwargs)

    def call(self, *args: object, state: Path | None = None) -> Result:
        """Run a command in this process on the client's state directory."""
        return call("--state-dir", state or self.state, *args)

    def init_arguments(self, *more: str | Path, token_file: Path | None = None) -> list[str | Path]:
        """Return the arguments of `init` for this provider."""
        return [
            *("init", self.endpoint.url),
            *("--root", self.repository.root_file),
            *("--ca", self.endpoint.ca),
            *("--token-file", token_file or self.endpoint.token_file),
            *more,
        ]
