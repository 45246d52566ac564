"""The outbox of alerts, killed at each change of the disk and at random: no alert is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.crash import in_child, kill_at, watched
from hashclient.alerts.book import Book
from hashclient.alerts.outbox import Outbox
from hashclient.core.errors import ExitCode
from tests.faults.test_reporting_retraction import each_change
from tests.kit import State, arguments, environment, fast_directory
from tests.told import Told, documents, into

KILLS = int(os.environ.get("ALERT_KILLS", "60"))


@pytest.fixture
def told() -> Iterator[Told]:
    with fast_directory() as directory:
        yield Told(directory, "every_hours = 0\n")


@pytest.mark.slow
def test_killed_at_each_change_an_alert_is_not_lost(told: Told) -> None:
    told.alert()
    told.refuse(ExitCode.UNREACHABLE)
    told.refuse(ExitCode.UNVERIFIED)
    for number in each_change(told):
        told.inbox.unlink(missing_ok=True)

        def work(number: int = number) -> None:
            with watched(kill_at(number)):
                Outbox(told.session).raise_silent(["web-1"])
                told.alert()

        is_killed = in_child(work) != 0
        assert isinstance(told.book(), Book)
        told.alert()
        kinds = {d["kind"]: d["id"] for d in documents(told.inbox)}
        assert kinds.keys() >= {"fetch-failed", "refused"}
        # If an alert is received twice, both documents have the same id and count.
        assert len({(d["id"], d["count"]) for d in documents(told.inbox)}) == len(kinds)
        assert told.book().waiting == ()
        if not is_killed:
            assert number > 10 and "machine-silent" in kinds
            return


@pytest.mark.slow
def test_random_kills_of_scans_and_of_sending_lose_no_match(tmp_path: Path) -> None:
    """All files are listed, and the command is killed KILLS times at random moments."""
    inbox, chance = tmp_path / "inbox", random.Random(31)
    state = State(tmp_path, {"base": {"e-1": b"listed"}})
    state.configure(f"[alerts]\nevery_hours = 0\n{into(inbox)}")
    for number in range(KILLS):
        (state.tree / f"file-{number:03}").write_bytes(b"listed")
        words = ("scan", state.tree) if number % 3 else ("alerts", "send")
        start = [*arguments(), "--state-dir", str(state.path), *map(str, words)]
        with subprocess.Popen(
            start, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            try:
                running.wait(chance.uniform(0.2, 1.2))
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
        # The exit code USAGE would mean that the command line is wrong and no scan ran.
        assert running.returncode != ExitCode.USAGE
        # The outbox can be read after each kill, so no document in it is damaged.
        assert state.call("alerts", "list").code == 0
    assert state.call("scan", state.tree).code == 10
    assert state.call("alerts", "send").code == 0
    found = documents(inbox)
    assert not [d for d in found if d["kind"] != "match"]
    by_id = {d["id"]: d for d in found}
    assert all(by_id[d["id"]] == d for d in found)
    assert sum(d["count"] for d in by_id.values()) == KILLS
    named = {match_id for d in by_id.values() for match_id in d["matches"]}
    assert named <= {*state.ids().values()}
