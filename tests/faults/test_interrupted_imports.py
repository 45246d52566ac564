"""Ctrl-C and SIGTERM during a fetch or a publication, at many moments of the command.

The command reports the interruption and ends with the code of the signal, without a traceback. The
state is as before or after the command, and a repeated command succeeds.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.core.errors import ExitCode
from tests.kit import Run, Site, csv_of, environment
from tests.kit.depth import count_of

#: A script that runs the real command and sends it a signal when it opens, renames or removes a
#: file, imports a module or connects. Moments are counted from the point where the signal handlers
#: exist.
INTERRUPTED = """
import os, sys
number, moment = int(sys.argv.pop(1)), int(sys.argv.pop(1))
is_on, seen = False, 0
def hook(event, arguments):
    global is_on, seen
    if event == "import" and arguments[0] == "hashclient.cli.main":
        is_on = True
    if is_on and event in ("open", "import", "os.rename", "os.remove", "socket.connect"):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), number)
sys.addaudithook(hook)
end = os._exit

def count_and_end(code):
    if not moment:
        print("moments", seen, file=sys.stderr, flush=True)
    end(code)

os._exit = count_and_end
from hashclient.__main__ import main
main()
"""

#: The number of moments that are tried.
MOMENTS = count_of(60, 8)
ENDS = {
    signal.SIGINT: (ExitCode.INTERRUPTED, "interrupted"),
    signal.SIGTERM: (ExitCode.TERMINATED, "terminated"),
}
ENTRIES = {f"e-{n:04d}": b"listed %d" % n for n in range(2000)}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as made:
        made.publish(csv_of(ENTRIES))
        yield made


def interrupted(number: signal.Signals, moment: int, *args: object) -> Run:
    words = [str(word) for word in (int(number), moment, *args)]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def moments_of(*args: object) -> Iterator[tuple[signal.Signals, int]]:
    """Run a command to its end, and yield signals and moments that are spread over its run."""
    whole = interrupted(signal.SIGINT, 0, *args)
    assert whole.code == 0, whole
    total = int(whole.err.split("moments ")[-1])
    assert total > MOMENTS
    for step in range(MOMENTS):
        number = signal.SIGTERM if step % 4 == 3 else signal.SIGINT
        yield number, 1 + step * total // MOMENTS


def check(number: signal.Signals, moment: int, done: Run) -> None:
    code, word = ENDS[number]
    assert "Traceback" not in done.err and "Exception" not in done.err, (moment, done)
    # If all work is done when the signal arrives, the exit code is 0.
    assert done.code in (0, code), (moment, done)
    if done.code:
        assert done.err.endswith(f"hashclient: {word}\n"), (moment, done)


@pytest.mark.slow
def test_a_fetch_that_is_interrupted_leaves_the_state_whole(site: Site, tmp_path: Path) -> None:
    def state(name: str) -> Path:
        made = tmp_path / name
        assert site.call(*site.init_arguments(), state=made).code == 0
        return made

    ended = 0
    for number, moment in moments_of("--state-dir", state("whole"), "fetch"):
        where = state(f"{moment}")
        done = interrupted(number, moment, "--state-dir", where, "fetch")
        check(number, moment, done)
        ended += done.code != 0
        again = site.call("fetch", state=where)
        assert again.code == 0, (moment, again)
        assert site.call("status", "--verify", state=where).code == 0
        assert site.call("audit", "verify", state=where).code == 0
        assert list(where.rglob(".tmp-*")) == [], moment
    assert ended > MOMENTS // 2


@pytest.mark.slow
def test_a_publication_that_is_interrupted_leaves_the_repository_whole(
    site: Site, tmp_path: Path
) -> None:
    more = tmp_path / "more.csv"
    whole, ended = "whole", 0

    def publish(name: str) -> tuple[object, ...]:
        more.write_bytes(csv_of({f"{name}-{n}": b"more %d" % n for n in range(50)}))
        repository = site.repository.root_file.parent
        return ("provider", "publish", repository, "--list", "baseline", more)

    for number, moment in moments_of(*publish(whole)):
        command = publish(f"m{moment}")
        done = interrupted(number, moment, *command)
        check(number, moment, done)
        ended += done.code != 0
        if done.code:
            # The list was published before the signal, or the repeated command publishes it.
            again = site.call(*command)
            assert again.code in (0, ExitCode.USAGE), (moment, again)
            assert again.code == 0 or "already" in again.err, (moment, again)
    assert ended > MOMENTS // 2
    state = tmp_path / "state"
    assert site.call(*site.init_arguments(), state=state).code == 0
    assert site.call("fetch", state=state).code == 0
