"""Workers that are forked late: they have the state of the run's start and end with the run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import cast

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.executors.interface import MakeChecker, OnBytes
from hashclient.scan.executors.nursery import Nursery
from hashclient.scan.executors.wire import decode_message, encode_task
from hashclient.scan.values.work import Group, Result, Task
from tests.kit import open_files, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

STATE = {"value": "of the start"}


class Telling:
    """Reports the value that it had at the start, and ends when the test asks."""

    def __init__(self, _: OnBytes | None) -> None:
        self.made_of = STATE["value"]

    def check(self, task: Task) -> Result:
        name = task[0].names[0]
        if name == "die":
            os._exit(7)
        if name == "wait":
            signal.pause()
        return Result(outcomes=[Outcome(Kind.UNREAD, name, reason=self.made_of)])


TASK: Task = [Group("d", ["f"], follow=False)]


def nursery() -> Nursery:
    return Nursery(cast("MakeChecker", Telling))


def test_a_forked_worker_is_as_at_the_start_and_serves() -> None:
    files, before = open_files(), STATE["value"]
    one = nursery()
    STATE["value"] = "of later"
    try:
        born = [one.fork_one(), one.fork_one()]
        assert len({pid for pid, _ in born}) == 2
        for _, connection in born:
            connection.send_bytes(encode_task(TASK))
            result = decode_message(connection.recv_bytes())
            assert isinstance(result, Result)
            assert result.outcomes == [Outcome(Kind.UNREAD, "f", reason="of the start")]
        for pid, connection in born:
            connection.close()
            assert one.exit_code(pid) == 0
    finally:
        STATE["value"] = before
        one.close()
    assert open_files() == files


def test_the_exit_code_is_known_and_so_is_a_signal() -> None:
    one = nursery()
    (dying, connection), (waiting, other) = one.fork_one(), one.fork_one()
    connection.send_bytes(encode_task([Group("d", ["die"], follow=False)]))
    assert one.exit_code(dying) == 7
    other.send_bytes(encode_task([Group("d", ["wait"], follow=False)]))
    os.kill(waiting, signal.SIGTERM)
    assert one.exit_code(waiting) == -signal.SIGTERM
    connection.close()
    other.close()
    one.close()


def test_a_forked_worker_ends_with_the_nursery() -> None:
    one = nursery()
    pid, connection = one.fork_one()
    connection.send_bytes(encode_task([Group("d", ["wait"], follow=False)]))
    one.close()
    assert not Path(f"/proc/{pid}").exists()
    connection.close()


@pytest.mark.slow
def test_one_that_was_killed_is_an_error_and_nothing_waits_for_it() -> None:
    files, one = open_files(), nursery()
    late, connection = one.fork_one()
    pid = one._process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    one._process.join()

    with pytest.raises(OSError, match=r"child|pipe"):
        one.fork_one()
    assert one.exit_code(late) is None
    # The worker still works, and ends when its connection is closed.
    connection.send_bytes(encode_task(TASK))
    assert isinstance(decode_message(connection.recv_bytes()), Result)
    connection.close()
    wait_until(lambda: not Path(f"/proc/{late}").exists(), os.getpid())
    one.close()
    assert open_files() == files
