"""The amount of a list that is in memory at a time depends on the free memory."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.generate import make_list
from hashclient.core.kinds import Algorithm
from hashclient.index.writer import Room
from tests.kit import Site, environment

MIB = 1 << 20


def test_where_memory_is_plenty_or_unknown_pieces_are_the_largest() -> None:
    assert Room.of(None) == Room.of(8 << 30) == Room()
    assert Room.of(2_000_000_000) == Room()


def test_with_less_memory_pieces_are_smaller_down_to_what_is_worth_it() -> None:
    rooms = [Room.of(n * MIB) for n in (0, 64, 128, 256, 512, 1024, 4096)]
    for smaller, larger in itertools.pairwise(rooms):
        assert smaller.batch_rows <= larger.batch_rows
        assert smaller.run_rows <= larger.run_rows
        assert smaller.merge_rows <= larger.merge_rows
        assert smaller.ahead_bytes <= larger.ahead_bytes
    assert rooms[0].run_rows == rooms[0].batch_rows == 100_000
    assert rooms[3].run_rows == 268_435
    assert rooms[3].ahead_bytes == 32 * MIB


#: A script that runs the real command in a simulated control group with little memory, and writes
#: the peak memory of the command, in KiB, into the file `most` of the group.
IN_A_GROUP = """
import pathlib, re, sys, threading, time
from hashclient.system import cgroups
cgroups.MOUNTED = group = pathlib.Path(sys.argv.pop(1))
cgroups.OWN_GROUPS = group / "own"
def watch(most=0):
    while True:
        now = int(re.search(r"RssAnon:\\s*(\\d+)", status.read_text())[1])
        if now > most:
            most = now
            (group / "most").write_text(str(most))
        time.sleep(0.005)
status = pathlib.Path("/proc/self/status")
threading.Thread(target=watch, daemon=True).start()
from hashclient.cli.main import main
main()
"""


@pytest.mark.deep
def test_a_fetch_takes_the_less_memory_the_less_its_group_leaves(tmp_path: Path) -> None:
    entries, most = 3_000_000, {}
    with Site(tmp_path / "site") as site:
        with (tmp_path / "list.csv").open("wb") as out:
            make_list(out, entries=entries, algorithms=list(Algorithm), sizes=True, seed=1)
        site.publish((tmp_path / "list.csv").read_bytes())
        for left in (4096, 128):
            group = tmp_path / f"group-{left}"
            group.mkdir()
            (group / "own").write_text("0::/\n")
            (group / "memory.max").write_text(f"{left * MIB}\n")
            (group / "memory.current").write_text("0\n")
            state = tmp_path / f"state-{left}"
            assert site.run(*site.init_arguments(), state=state).code == 0
            done = subprocess.run(
                [sys.executable, "-c", IN_A_GROUP, group, "--state-dir", state, "fetch"],
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert f"{entries:,} live entries" in done.stdout
            most[left] = int((group / "most").read_text()) // 1024
            assert site.run("status", "--verify", state=state).code == 0
    # The measured peak is usually between 250 and 310 MiB, depending on the allocator.
    assert most[128] < 350
    assert most[128] < 0.6 * most[4096]
