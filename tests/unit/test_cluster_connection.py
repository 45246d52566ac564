"""Calls to a cluster: their answers, and those that never come. A scheduler is not started."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.scan.cluster.connection import (
    ANSWER_S,
    CALL_S,
    CONNECT_S,
    GOODBYE_S,
    Connection,
    GoneError,
    environment_of,
)


class Dask:
    """Stands for a client of Dask, with its queue of answers."""

    def __init__(self) -> None:
        self.queue: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.status = "running"
        self.called: list[Any] = []
        self.states: dict[str, str] = {}
        self.failure: Exception | None = None
        self.scheduler = SimpleNamespace(identity="identity", get_task_status="status")
        self.cancel = "cancel"

    def run(self, function: Callable[..., Any], *args: Any, **how: Any) -> dict[str, Any]:
        self._fail()
        self.called.append((function, args, how))
        return dict.fromkeys(how.get("workers", ()), "answer")

    def submit(self, function: Any, *args: Any, **how: Any) -> Any:
        self._fail()
        self.called.append((function, args, how))
        return SimpleNamespace(key=how["key"], status="pending")

    def sync(self, function: Any, *args: Any, limit_s: float = ANSWER_S, **named: Any) -> Any:
        self._fail()
        self.called.append((function, args, named, limit_s))
        if function == "identity":
            return {"workers": {"tcp://a": {"nthreads": 2}, "tcp://b": {"nthreads": "1"}}}
        return self.states

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def connection(dask: Dask) -> Connection:
    made = Connection.__new__(Connection)
    made._client, made._asked, made.shares_state = dask, {}, False
    made._done = SimpleNamespace(queue=dask.queue, add=lambda future: None)
    made._sync = dask.sync  # type: ignore[method-assign]
    return made


def submitted(made: Connection, *keys: str) -> dict[str, Any]:
    return {key: made.submit(bytes, b"x", key=key, resource="r") for key in keys}


def test_the_times_that_a_cluster_has() -> None:
    assert (CONNECT_S, ANSWER_S, CALL_S, GOODBYE_S) == (10.0, 60.0, 150.0, 2.0)


def test_answers_that_are_there_come_together() -> None:
    dask = Dask()
    made = connection(dask)
    futures = submitted(made, "a", "b", "c", "d")
    assert dask.called[0] == (bytes, (b"x",), {"key": "a", "pure": False, "resources": {"r": 1}})
    for key, answer in (("a", b"1"), ("b", None), ("c", "no bytes")):
        dask.queue.put((futures[key], answer))
    dask.queue.put((SimpleNamespace(key="of another"), ValueError()))
    assert made.ended(0.0) == {"a": b"1", "b": None, "c": None}
    assert made.ended(0.0) == {}
    dask.queue.put((futures["a"], b"again"))
    assert made.ended(0.0) == {}
    dask.queue.put((futures["d"], ValueError("cancelled")))
    with pytest.raises(GoneError):
        made.ended(0.0)


def test_a_call_that_has_failed_without_an_answer_ends_when_no_other_does() -> None:
    dask = Dask()
    made = connection(dask)
    futures = submitted(made, "a", "b", "c")
    for key in "ab":
        futures[key].status = "error"
    dask.queue.put((futures["c"], b"1"))
    assert made.ended(0.0) == {"c": b"1"}
    assert made.ended(0.0) == {"a": None, "b": None}
    assert made.ended(0.0) == {}


def test_calls_that_no_worker_may_do_are_stuck() -> None:
    dask = Dask()
    made = connection(dask)
    assert (made.stuck(), dask.called) == (set(), [])
    futures = submitted(made, "a", "b")
    dask.states = {"a": "no-worker", "b": "processing"}
    assert made.stuck() == {"a"}
    made.abandon([futures["a"], SimpleNamespace(key="gone")])
    assert [*made._asked] == ["b"]
    function, (given,), named, limit_s = dask.called[-1]
    assert (function, given[0].key, named["force"], limit_s) == ("cancel", "a", True, ANSWER_S)


def test_workers_are_asked_by_their_addresses() -> None:
    dask = Dask()
    made = connection(dask)
    assert made.workers() == {"tcp://a": 2, "tcp://b": 1}
    assert dask.called[-1][2] == {"n_workers": -1}
    assert made.call(bytes, workers=[]) == {}
    assert made.call(bytes, 1, workers={"tcp://a"}) == {"tcp://a": "answer"}
    assert dask.called[-1][2]["callback_timeout"] == CALL_S


def test_a_scheduler_that_does_not_answer_has_gone() -> None:
    dask = Dask()
    made = connection(dask)
    submitted(made, "a")
    dask.failure = OSError("gone")
    asks: list[Callable[[], object]] = [made.workers, made.stuck, lambda: made.abandon([])]
    asks += [lambda: made.call(bytes, workers=["tcp://a"]), lambda: submitted(made, "b")]
    for ask in asks:
        with pytest.raises(GoneError):
            ask()


@pytest.mark.parametrize("status", ["running", "closed"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_goodbye_takes_little_time_and_never_fails(status: str, fails: bool) -> None:
    dask = Dask()
    dask.status = status
    made = connection(dask)
    assert made.is_up is (status == "running")
    dask.failure = OSError("gone") if fails else None
    made.goodbye([SimpleNamespace(key="a")], bytes, "run")
    is_said = status == "running" and not fails
    assert len(dask.called) == (2 if is_said else 0)
    if is_said:
        assert dask.called[0][3] == GOODBYE_S
        assert dask.called[1] == (
            bytes,
            ("run",),
            {"on_error": "ignore", "callback_timeout": GOODBYE_S},
        )


@pytest.mark.parametrize("has_config", [None, False, True])
@pytest.mark.parametrize("has_key", [False, True])
def test_workers_here_have_the_state_of_the_client(
    tmp_path: Path, has_config: bool | None, has_key: bool
) -> None:
    config = None if has_config is None else tmp_path / "config.toml"
    if has_config:
        (tmp_path / "config.toml").touch()
    found = environment_of(tmp_path, config, tmp_path / "key" if has_key else None)
    assert found.pop("HASHCLIENT_STATE_DIR") == str(tmp_path)
    assert found.pop("HASHCLIENT_CONFIG", None) == (str(config) if has_config else None)
    key = found.pop("HASHCLIENT_SEAL_KEY_FILE", None)
    assert key == (str(tmp_path / "key") if has_key else None)
    assert found == {}
