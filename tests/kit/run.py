"""The command, run in a new process or in this one, and its result."""

from __future__ import annotations

import base64
import contextlib
import functools
import gc
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hashclient.cli import main as command
from hashclient.core.errors import ExitCode

ROOT = Path(__file__).parents[2]
#: This program runs the command so that even root cannot read files without permission.
_UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@functools.cache
def is_python_for_all() -> bool:
    """Return whether another account can run this Python, which may be in the home of root."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    words = [*nobody, sys.executable, "-I", "-S", "-c", ""]
    return subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def outcomes(self) -> dict[str, str]:
        """Return the kind of each outcome by its path; fail if two lines have the same path."""
        found: dict[str, str] = {}
        for line in self.lines[:-1]:
            assert line["path"] not in found
            found[line["path"]] = line["type"]
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The last of the JSON lines, which is the summary."""
        last = self.lines[-1]
        assert last["type"] == "summary"
        return last


def checked(result: Run) -> Run:
    """Return `result` after checks that apply to every run, however it ended."""
    assert "Traceback" not in result.err, result.err
    assert "Exception ignored" not in result.err, result.err
    assert "hashclient: internal error" not in result.err, result.err
    assert result.code in set(ExitCode) - {ExitCode.BUG}, (result.code, result.err)
    if result.code in {2, 4, 5, 6, 8, 9} and not result.out:
        assert result.err.startswith(("hashclient: ", "hashclient.", "Usage: ")), result.err
    return result


#: Variables for a process that `make coverage` must not measure, because that changes its
#: behaviour.
UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with `changes`, and with this checkout's code."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def arguments(*args: object) -> list[str]:
    """Return the arguments that start the real command; paths may be bytes."""
    given = [os.fsdecode(arg) if isinstance(arg, bytes) else str(arg) for arg in args]
    return [sys.executable, "-m", "hashclient", *given]


def run(
    *args: object,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    unprivileged: bool = False,
    preexec: Callable[[], object] | None = None,
) -> Run:
    """Run the real command to its end; with `unprivileged`, permissions also bind root."""
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
    return checked(Run(done.returncode, done.stdout.decode(errors="surrogateescape"), err))


@contextlib.contextmanager
def started(*args: object, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start the real command in a new session; check at the end that no process of it is left."""
    process = subprocess.Popen(
        arguments(*args),
        # This variable makes the processes dumpable, so that the tests can look into them.
        env=environment(**{"HASHCLIENT_DEBUG": "1"} | variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def members(session: int) -> set[int]:
    """Return the processes of a session, except those that have ended."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    found.add(int(entry.name))
    return found


#: A script that measures the command. A process has at least the peak of the process that forked
#: it, so this small process forks instead of pytest.
_MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True, errors="surrogateescape")
used = resource.getrusage(resource.RUSAGE_CHILDREN)
run = done.returncode, done.stdout, done.stderr
print(json.dumps([*run, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def measured(*args: object, env: Mapping[str, str] | None = None) -> tuple[Run, float, int]:
    """Run the real command; return its result, seconds of processor time, and peak in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *arguments(*args)],
        env=environment(**UNMEASURED, **(env or {})),
        capture_output=True,
        text=True,
        check=True,
    )
    code, out, err, seconds, peak_kb = json.loads(done.stdout)
    return checked(Run(code, out, err)), seconds, peak_kb


@contextlib.contextmanager
def restored_signals() -> Iterator[None]:
    """Restore the signal handlers at the end, because a run that ended leaves signals ignored."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def from_pipe(data: bytes) -> Iterator[None]:
    """Make a pipe with `data`, which must fit into it, the standard input of this process."""
    assert len(data) <= 1 << 16
    before = os.dup(0)
    reading, writing = os.pipe()
    try:
        os.write(writing, data)
        os.close(writing)
        os.dup2(reading, 0)
        os.close(reading)
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


def call(*args: object) -> Run:
    """Run the command in this process, because starting many processes would take too long."""
    out, err = io.StringIO(), io.StringIO()
    with restored_signals(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command._run(
            [os.fsdecode(arg) if isinstance(arg, bytes) else str(arg) for arg in args]
        )
    return checked(Run(int(code), out.getvalue(), err.getvalue()))


def wait_until(condition: Callable[[], bool], pid: int) -> None:
    """Wait for an event that a running scan causes soon; fail when it takes far too long.

    The limit is more than a minute, because other tests use the processors, too.
    """
    for _ in range(6_000):
        if condition():
            return
        signal.sigtimedwait([], 0.01)
    raise AssertionError(f"process {pid} did not do what was expected")


class NoThread(threading.Thread):
    """Replaces `Thread` on a system that cannot start another thread."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def open_files() -> int:
    """Return how many descriptors this process has open."""
    gc.collect()  # files of objects from earlier tests are closed now and not later
    # Later garbage collections skip the present objects, because a collection of all objects takes
    # half a second.
    gc.freeze()
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Within the block, let this process open only `count` further files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.open("/", os.O_PATH) for _ in range(count)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, limits[1]))
    for fd in free:
        os.close(fd)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def bytes_path(line: Mapping[str, Any]) -> bytes:
    """Return the path in a JSON line as bytes, even if the path is not UTF-8."""
    if "path_b64" in line:
        return base64.b64decode(line["path_b64"])
    return str(line["path"]).encode()
