"""A scan that is interrupted while it records, acts and writes: no outcome is lost or doubled.

A trace of the executed lines chooses where the signal arrives, so that every place is tried.
"""

from __future__ import annotations

import gc
import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pyrage import x25519

from hashclient.audit import log as audit_log
from hashclient.audit.log import AuditLog, Event
from hashclient.matches.store import Matches
from hashclient.system.text import counted
from tests.kit import Run, call, csv_of, fast_directory, make_state, write_tree

# An interrupted action may leave a database or a directory open until the process ends. A real run
# ends soon, but this test process does not, and Python 3.13 warns of open databases.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed database:ResourceWarning", "ignore:unclosed scandir iterator:ResourceWarning"
)


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    """Let warnings about leftover objects appear in the test that has left them."""
    yield
    gc.collect()


FILES = {f"f{n}": f"what is in file {n}".encode() for n in range(3)}
FILED = {f"e-{name}": data for name, data in FILES.items()}
POLICY = """
[[policy]]
actions = ["quarantine", "report"]
[quarantine]
recipients = ["{}"]
[report.to.police]
kind = "package"
directory = "{}"
"""

#: The modules and functions of the run in which files are found, and outcomes are recorded, acted
#: on and written.
MODULES = (
    "hashclient/scan/sources/trees.py",
    "hashclient/scan/sources/walk.py",
    "scan/run/recorder.py",
    "matches/store.py",
    "matches/tables.py",
    "scan/run/actions.py",
    "formats/text.py",
    "quarantine/isolate.py",
)
FUNCTIONS = frozenset({"_flush", "_finish", "__next__", "_show_outcomes", "_show_portion", "_put"})
RUNS = ("hashclient/scan/run/pipeline.py", "hashclient/cli/run.py")


class Interruption:
    """Sends SIGINT when the watched lines with these numbers are run.

    The watched lines begin with the walk.
    """

    def __init__(
        self,
        *at: int,
        modules: tuple[str, ...] = MODULES,
        functions: frozenset[str] = FUNCTIONS,
    ) -> None:
        self.at = at
        self.modules = modules
        self.functions = functions
        self.begun = False
        self.lines = 0
        #: The former trace function, for example of coverage, which is restored afterwards.
        self._before = sys.gettrace()

    def __enter__(self) -> Interruption:
        self._before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def trace(self, frame: FrameType, event: str, _arg: Any) -> Any:
        code = frame.f_code
        watched = code.co_filename.endswith(self.modules) or (
            code.co_filename.endswith(RUNS) and code.co_name in self.functions
        )
        self.begun = self.begun or code.co_qualname == "Trees.batches"
        if not watched or not self.begun:
            return None
        if event == "line":
            self.lines += 1
            if self.lines in self.at:
                signal.raise_signal(signal.SIGINT)
        return self.trace


class Interrupted:
    """A state directory in which nothing was found so far, and a tree of listed files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fresh = make_state(directory, {"base": csv_of(FILED)})
        self.state, self.tree = directory / "copy", directory / "tree"

    def begin(self) -> None:
        """Restore the state before the test."""
        for path in (self.state, self.tree):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.fresh, self.state)
        write_tree(self.tree, FILES)

    def call(self, *args: object) -> Run:
        return call("--state-dir", self.state, *args)

    def scan(self, *at: int, **watched: Any) -> tuple[Run, int]:
        """Scan, interrupted at lines `at`; return the result and the number of watched lines."""
        with Interruption(*at, **watched) as interruption:
            result = self.call("scan", self.tree)
        return result, interruption.lines

    def points(self, count: int) -> Iterator[int]:
        """Return about `count` places at which to interrupt a scan, from the first to the last."""
        self.begin()
        _, lines = self.scan()
        return iter(range(1, lines + 1, max(1, lines // count)))

    def logged(self, event: str) -> list[Any]:
        return [record.data for record in audit_log.read(self.state / "audit", event=event)]

    def check_told_once(self, result: Run, at: int) -> None:
        """Check that output, record and log agree, and that each has every entry once."""
        told = Counter(
            line.split()[1] for line in result.out.splitlines() if line.startswith("match ")
        )
        with Matches(self.state, create=False) as matches:
            remembered = Counter(match.path for match in matches.find())
        logged = Counter(data["path"] for data in self.logged("match"))
        assert told == remembered == logged, at
        assert set(told.values()) <= {1}, at
        (end,) = self.logged("scan-end")
        assert end["exit_code"] == result.code, at
        assert end["interrupted"] == (result.code in (11, 130)), at
        assert end["match"] == told.total(), at
        assert f" {counted(told.total(), 'match')}, " in result.out, at
        assert result.out.splitlines()[-1].startswith(f"exit {result.code}: "), at
        assert result.code in ({10, 11} if told else {130}), at


@pytest.fixture
def world() -> Iterator[Interrupted]:
    with fast_directory() as directory:
        yield Interrupted(directory)


@pytest.mark.slow
def test_an_earlier_trace_function_is_restored() -> None:
    def tracer(_frame: FrameType, _event: str, _arg: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with Interruption():
            assert sys.gettrace() is not tracer
        found = sys.gettrace()
    finally:
        sys.settrace(before)
    assert found is tracer


@pytest.mark.slow
def test_matches_are_printed_recorded_and_logged_once(world: Interrupted) -> None:
    codes = set()
    for at in world.points(150):
        world.begin()
        result, _ = world.scan(at)
        world.check_told_once(result, at)
        codes.add(result.code)
    assert codes >= {10, 130}


@pytest.mark.slow
def test_counted_outcomes_are_printed_or_do_not_count(world: Interrupted) -> None:
    codes = set()
    for at in range(1, 1_000):
        world.begin()
        result, lines = world.scan(
            at, modules=("hashclient/scan/run/engine.py",), functions=frozenset()
        )
        if lines < at:
            break
        world.check_told_once(result, at)
        codes.add(result.code)
    assert codes >= {11, 130}


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 3])
def test_signals_right_after_a_match_is_logged(
    world: Interrupted, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    append = AuditLog.append

    def appending(log: AuditLog, events: Sequence[Event], **how: Any) -> None:
        append(log, events, **how)
        for _ in range(times if events[0].event == "match" else 0):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(AuditLog, "append", appending)
    world.begin()
    result, _ = world.scan()
    assert result.code == 11
    assert Counter(data["path"] for data in world.logged("match")).most_common(1)[0][1] == 1
    world.check_told_once(result, times)


@pytest.mark.slow
def test_a_second_signal_logs_nothing_twice_and_hides_no_match(world: Interrupted) -> None:
    """The second signal may cut off the output, but not the record, the log and the exit code."""
    codes = set()
    watched = {
        "modules": ("hashclient/scan/run/recorder.py",),
        "functions": frozenset({"_flush", "_keep"}),
    }
    world.begin()
    _, lines = world.scan(**watched)
    for number, at in enumerate(range(1, lines + 1, max(1, lines // 25))):
        world.begin()
        result, _ = world.scan(at, at + 1 + number % 5, **watched)
        told = Counter(
            line.split()[1] for line in result.out.splitlines() if line.startswith("match ")
        )
        with Matches(world.state, create=False) as matches:
            remembered = Counter(match.path for match in matches.find())
        logged = Counter(data["path"] for data in world.logged("match"))
        assert remembered == logged, at
        assert set(logged.values()) <= {1} and set(told.values()) <= {1}, at
        assert set(told) <= set(logged), at
        assert result.code in ({10, 11} if logged else {130}), at
        assert len(world.logged("scan-end")) == 1, at
        codes.add(result.code)
    assert codes >= {11}


@pytest.mark.slow
def test_unfinished_actions_are_done_later(world: Interrupted) -> None:
    """After any interruption, later runs quarantine and report all files, each once."""
    key = x25519.Identity.generate().to_public()
    with (world.fresh / "config.toml").open("a") as config:
        config.write(POLICY.format(key, world.directory))
    codes = set()
    for at in world.points(40):
        world.begin()
        result, _ = world.scan(at)
        world.check_told_once(result, at)
        codes.add(result.code)
        world.call("quarantine", "add", "--all")
        world.scan()
        assert list(world.tree.iterdir()) == [], at
        listed = json.loads(world.call("quarantine", "list", "--format", "json").out)
        assert {item["state"] for item in listed["items"]} == {"quarantined"}, at
        reports = json.loads(world.call("report", "status", "--format", "json").out)["reports"]
        reported = Counter(match_id for report in reports for match_id in report["matches"])
        assert reported == dict.fromkeys((item["id"] for item in listed["items"]), 1), at
        assert len(reported) == len(FILES), at
    assert codes >= {10, 11}
