"""Measures the best wall time and the peak memory of whole processes, and formats table rows."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: The text that follows a goal that was missed.
MISSED = ", missed"
LAUNCHER = Path(__file__).with_name("launch.py")
HASHCLIENT = (sys.executable, "-m", "hashclient")


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a process: the best wall seconds of several runs, and the peak resident bytes."""

    wall_s: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: our cost beside the cost of a peer program or of the least possible code.

    `target`: the largest ratio ours / theirs that is good enough; None if every ratio is good
    enough.
    """

    scenario: str
    ours: str
    theirs: str
    against: str
    ratio: float
    target: float | None

    def line(self) -> str:
        """Return the comparison as a line of a plain-text table."""
        goal = "" if self.target is None else f"{self.target:g}"
        verdict = "" if self.target is None else ("ok" if self.ratio <= self.target else "MISSED")
        return (
            f"{self.scenario:<34} {self.ours:>12} {self.theirs:>12}  {self.against:<34}"
            f" {self.ratio:>7.3f} {goal:>7} {verdict}"
        )

    def cells(self) -> str:
        """Return the cells of a Markdown table row, joined with `|`."""
        goal = "" if self.target is None else f"{self.target:.3g}"
        if self.target is not None and self.ratio > self.target:
            goal += MISSED
        cells = (self.scenario, self.ours, self.theirs, self.against, f"{self.ratio:.2f}", goal)
        return f"| {' | '.join(cells)} |"


HEADER = (
    f"{'scenario':<34} {'hashclient':>12} {'other':>12}  {'which other':<34}"
    f" {'ratio':>7} {'at most':>7}"
)


def time_row(
    scenario: str, ours: float, theirs: float, against: str, target: float | None = None
) -> Row:
    """Return a row that compares two times in seconds."""
    return Row(scenario, f"{ours:.3f} s", f"{theirs:.3f} s", against, ours / theirs, target)


def bytes_row(scenario: str, ours: float, limit: float, against: str) -> Row:
    """Return a row that compares an amount of memory or disk with its limit in bytes."""
    return Row(
        scenario, f"{ours / 1e6:.1f} MB", f"{limit / 1e6:.1f} MB", against, ours / limit, 1.0
    )


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    repeat: int = 3,
    expect: Sequence[int] = (0,),
    before: Sequence[str | os.PathLike[str]] | None = None,
) -> Cost:
    """Run a command `repeat` times and return its best time and its peak memory.

    `before` runs, untimed, before each run. The peak is that of the largest process of the command.

    Raises:
        RuntimeError: the exit code of the command is not in `expect`.
    """
    best, peak = float("inf"), 0
    for _ in range(repeat):
        if before is not None:
            subprocess.run(before, check=True, stdout=subprocess.DEVNULL)
        with tempfile.NamedTemporaryFile("r") as result:
            launch = [sys.executable, "-S", "-E", str(LAUNCHER), result.name]
            done = subprocess.run([*launch, *argv], check=False, stderr=subprocess.PIPE)
            if done.returncode not in expect:
                text = done.stderr.decode(errors="replace")
                raise RuntimeError(f"{argv}: exit {done.returncode}\n{text}")
            elapsed, rss = result.read().split()
        best = min(best, float(elapsed))
        peak = max(peak, int(rss))
    return Cost(best, peak)


def alternating(
    commands: Mapping[str, Sequence[str | os.PathLike[str]]],
    before: Callable[[], None],
    *,
    times: int = 7,
) -> dict[str, float]:
    """Run commands in alternating order, and return the median wall seconds of each.

    `before` is called, untimed, before each command. A run counts whatever its exit code is.
    """
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(times):
        for name in list(commands)[:: -1 if turn % 2 else 1]:
            before()
            started = time.perf_counter()
            subprocess.run(
                commands[name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def seconds_to_first_line(
    argv: Sequence[str | os.PathLike[str]], env: Mapping[str, str] | None = None
) -> float:
    """Return how many seconds pass until a command prints its first line; then end the command."""
    started = time.perf_counter()
    whole = {**os.environ, **(env or {})}
    with subprocess.Popen(
        argv, env=whole, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        elapsed = time.perf_counter() - started
        process.terminate()
        process.communicate()
    return elapsed


def hashclient(state: Path, *words: str | os.PathLike[str]) -> list[str | os.PathLike[str]]:
    """Return the argument list of a `hashclient` command that uses the state directory `state`."""
    return [*HASHCLIENT, "--state-dir", state, *words]


def cpu_seconds(argv: Sequence[str | os.PathLike[str]], *, expect: Sequence[int] = (0,)) -> float:
    """Run a command and return the processor seconds of it and of its children.

    Raises:
        RuntimeError: the exit code of the command is not in `expect`.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in expect:
        raise RuntimeError(f"{argv}: exit code {done.returncode}: {done.stderr!r}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
