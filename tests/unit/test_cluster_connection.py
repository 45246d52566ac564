"""Calls to a cluster: answers that arrive and answers that never arrive.

No scheduler is started.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.errors import ConfigError, StateError, UnreachableError, UsageError
from hashclient.scan.cluster import connection as module
from hashclient.scan.cluster import jobs as jobs_module
from hashclient.scan.cluster.address import LocalCluster, Scheduler, Tls
from hashclient.scan.cluster.connection import (
    ANSWER_S,
    CALL_S,
    CONNECT_S,
    GOODBYE_S,
    Connection,
    GoneError,
    environment_of,
)
from hashclient.scan.cluster.jobs import MOST_DEATHS, Jobs


class Dask:
    """Replaces a client of Dask, with its queue of answers."""

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
    assert (function, given[0].key, limit_s) == ("cancel", "a", ANSWER_S)
    assert named == {"force": True, "asynchronous": True}


def test_workers_are_asked_by_their_addresses() -> None:
    dask = Dask()
    made = connection(dask)
    assert made.workers() == {"tcp://a": 2, "tcp://b": 1}
    assert dask.called[-1][2] == {"n_workers": -1}
    assert made.call(bytes, workers=[]) == {}
    assert made.call(bytes, 1, workers={"tcp://a"}) == {"tcp://a": "answer"}
    how = {"workers": ["tcp://a"], "on_error": "return", "callback_timeout": CALL_S}
    assert dask.called[-1] == (bytes, (1,), how)


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


class Library:
    """Replaces the library Dask and notes the arguments of clusters and certificates."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.given: dict[str, Any] = {}
        self.failure: Exception | None = None
        self.closed: list[float] = []

    def LocalCluster(self, **how: Any) -> Any:  # noqa: N802 - the name in Dask
        if self.failure is not None:
            raise self.failure
        self.made = how
        return SimpleNamespace(close=self.close)

    def close(self, timeout: float) -> None:
        self.closed.append(timeout)
        raise OSError

    class _Security:
        def __init__(self, library: Library) -> None:
            self.library = library

        def __call__(self, **how: Any) -> Any:
            self.library.given = how
            return SimpleNamespace(get_connection_args=self.arguments)

        def arguments(self, role: str) -> None:
            assert role == "client"
            if self.library.failure is not None:
                raise self.library.failure

        def temporary(self) -> str:
            return "temporary certificates"

    @property
    def Security(self) -> Any:  # noqa: N802 - the name in Dask
        return self._Security(self)


def test_workers_here_are_reached_from_this_machine_alone_and_with_certificates() -> None:
    library = Library()
    with module._started(library, LocalCluster(3), {"A": "b"}) as cluster:
        assert cluster.close == library.close
        assert library.made == {
            "n_workers": 3,
            "threads_per_worker": 1,
            "processes": True,
            "host": "127.0.0.1",
            "dashboard_address": "127.0.0.1:0",
            "scheduler_kwargs": {"dashboard": False},
            "memory_limit": 0,
            "security": "temporary certificates",
            "silence_logs": logging.CRITICAL + 1,
            "env": {"A": "b"},
            "preload": ["hashclient.scan.cluster.quiet"],
        }
        assert library.closed == []
    assert library.closed == [CONNECT_S]


@pytest.mark.parametrize("failure", [OSError(), RuntimeError(), TimeoutError()])
def test_a_cluster_that_cannot_be_started_is_an_error(failure: Exception) -> None:
    library = Library()
    library.failure = failure
    with (
        pytest.raises(StateError, match="a local cluster cannot be started") as failed,
        module._started(library, LocalCluster(1), {}),
    ):
        pass
    assert "try fewer workers" in str(failed.value.hint)


TLS = Tls(Path("/ca"), Path("/cert"), Path("/key"))


def test_a_scheduler_is_reached_with_certificates_or_not_beyond_this_machine() -> None:
    library = Library()
    assert module._security(library, Scheduler("127.0.0.1", 1)) is None
    assert library.given == {}
    assert module._security(library, Scheduler("files.example", 1, TLS)) is not None
    assert library.given == {
        "tls_ca_file": "/ca",
        "tls_client_cert": "/cert",
        "tls_client_key": "/key",
        "require_encryption": True,
    }


@pytest.mark.parametrize("failure", [OSError("no file"), ValueError("no PEM")])
def test_certificates_that_cannot_be_used_are_known_before_anything_is_sent(
    failure: Exception,
) -> None:
    library = Library()
    library.failure = failure
    with pytest.raises(ConfigError, match="certificates of the cluster cannot be used") as failed:
        module._security(library, Scheduler("files.example", 1, TLS))
    assert failed.value.hint == "check ca, cert and key in [cluster] of config.toml"


@pytest.mark.parametrize("is_debugged", [False, True])
def test_the_log_of_dask_is_silent_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, is_debugged: bool
) -> None:
    monkeypatch.setattr(module, "is_debugged", lambda: is_debugged)
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.of_a_test")]
    other = logging.getLogger("other")
    before = [logger.level for logger in (*loggers, other)]
    loggers[1].setLevel(logging.INFO)
    with module._hushed():
        levels = [logger.level for logger in loggers]
        assert (levels == [logging.CRITICAL + 1] * 2) is not is_debugged
        assert other.level == before[2]
    assert [logger.level for logger in loggers] == [before[0], logging.INFO]


def test_what_dask_leaves_out() -> None:
    """Without Dask's dashboard, nobody sees what runs, and an idle cluster takes little time."""
    assert module.QUIET == {
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "2s",
        "distributed.admin.system-monitor.interval": "10s",
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.admin.log-length": 100,
        "distributed.deploy.lost-worker-timeout": "600s",
    }
    # A batch during which three workers have died is not handed out again.
    assert module._ALLOWED_FAILURES + 1 == MOST_DEATHS == 3


class Packages(Library):
    """Replaces the packages of Dask; it notes the settings, and the clients with their calls."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.settings: list[dict[str, Any]] = []
        self.clients: list[tuple[Any, ...]] = []
        self.started: list[float] = []
        self.reached: list[tuple[Any, ...]] = []
        self.completed: list[dict[str, Any]] = []
        self.synced: list[tuple[Any, ...]] = []
        self.refusal: Exception | None = None
        packages = self

        class Client:
            loop, status = "loop", "running"

            def __init__(
                self, address: object, *, security: object, timeout: float, set_as_default: bool
            ) -> None:
                packages.clients.append((address, security, timeout, set_as_default))
                self.start(timeout=timeout)

            def start(self, **how: float) -> None:
                packages.started.append(how["callback_timeout"])
                if packages.failure is not None:
                    raise packages.failure

            def close(self, timeout: float) -> None:
                packages.close(timeout)

        self.Client = Client
        self.utils = SimpleNamespace(sync=lambda *args, **how: self.synced.append((*args, how)))
        patch.setitem(sys.modules, "distributed", self)
        config = SimpleNamespace(set=self.set)
        patch.setitem(sys.modules, "dask", SimpleNamespace(config=config))
        patch.setattr(socket, "create_connection", self.reach)

    def set(self, settings: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        self.settings.append(settings)
        return contextlib.nullcontext()

    def as_completed(self, **how: Any) -> str:
        self.completed.append(how)
        return "completed"

    def reach(self, *where: Any) -> Any:
        self.reached.append(where)
        if self.refusal is not None:
            raise self.refusal
        return SimpleNamespace(close=lambda: self.reached.append(("closed",)))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Packages:
    return Packages(monkeypatch)


@pytest.mark.parametrize(
    ("host", "reached"), [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("files.example",) * 2]
)
def test_a_scheduler_is_tried_before_a_client_of_dask_waits_for_it(
    packages: Packages, host: str, reached: str
) -> None:
    tls = TLS if host == "files.example" else None
    with module.connected(Scheduler(host, 5, tls), {}) as made:
        assert (made.shares_state, made.is_up) == (False, True)
        assert packages.closed == []
    assert packages.reached == [((reached, 5), 10.0), ("closed",)]
    assert packages.settings == [module.QUIET]
    ((address, security, timeout, is_default),) = packages.clients
    assert (address, timeout, is_default) == (
        f"{'tls' if tls else 'tcp'}://{host}:5",
        *(10.0, False),
    )
    assert (security is not None) is bool(tls)
    # The start of a client ends after twice the time if the scheduler does not answer.
    assert (packages.started, packages.closed) == ([20.0], [2.0])
    assert packages.completed == [{"loop": "loop", "with_results": True, "raise_errors": False}]


@pytest.mark.parametrize("fails", ["the connection", "the client"])
def test_a_scheduler_that_cannot_be_reached_is_named(packages: Packages, fails: str) -> None:
    if fails == "the client":
        packages.failure = OSError("no scheduler")
    else:
        packages.refusal = ConnectionRefusedError()
    with (
        pytest.raises(UnreachableError) as failed,
        module.connected(Scheduler("127.0.0.1", 5), {}),
    ):
        raise AssertionError
    assert failed.value.message == "the scheduler cannot be reached: tcp://127.0.0.1:5"
    assert failed.value.hint == "is it running, and are the certificates of the same authority?"
    assert packages.closed == ([2.0] if fails == "the client" else [])


def test_workers_here_share_the_state_and_may_die_twice_during_a_batch(packages: Packages) -> None:
    made = SimpleNamespace(security="its certificates", close=packages.close)
    packages.LocalCluster = lambda **how: made  # type: ignore[method-assign]
    with module.connected(LocalCluster(3), {}) as found:
        assert found.shares_state
    assert packages.settings == [module.QUIET, {"distributed.scheduler.allowed-failures": 2}]
    assert packages.clients == [(made, "its certificates", 10.0, False)]
    assert (packages.reached, packages.closed) == ([], [2.0, 10.0])
    packages.failure = OSError("no answer")
    with (
        pytest.raises(UnreachableError, match="the scheduler cannot be reached: local cluster"),
        module.connected(LocalCluster(3), {}),
    ):
        raise AssertionError


def test_without_dask_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    with (
        pytest.raises(UsageError, match="a cluster needs Dask") as failed,
        module.connected(LocalCluster(1), {}),
    ):
        raise AssertionError
    assert failed.value.hint == "`pip install '.[cluster]'` in a checkout installs what it needs"


def test_requests_to_the_scheduler_have_a_limit_of_time(packages: Packages) -> None:
    client: Any = SimpleNamespace(loop="loop", status="running")
    made = Connection(client, shares_state=True)
    made._sync("ask", 1, named=2)
    made._sync("ask", limit_s=3.0)
    assert packages.synced == [
        ("loop", "ask", 1, {"callback_timeout": 60.0, "named": 2}),
        ("loop", "ask", {"callback_timeout": 3.0}),
    ]


class Crew:
    """The workers of a scan; the test sets how many of them are ready."""

    resource = "r"

    def __init__(self) -> None:
        self.slots, self.most = 2, 2
        self.idle_since: float | None = None
        self.has_looked = True

    def look(self) -> bool:
        return self.has_looked


class Calls:
    """A connection that notes the calls that were submitted and abandoned."""

    def __init__(self) -> None:
        self.is_up = True
        self.submitted: list[str] = []
        self.abandoned: list[str] = []
        self.answers: dict[str, bytes | None] = {}
        self.no_worker: set[str] = set()
        self.fails = False

    def submit(self, _function: object, *_: object, key: str, resource: str) -> str:
        assert resource == "r"
        if self.fails:
            raise GoneError
        self.submitted.append(key)
        return key

    def ended(self, _seconds: float) -> dict[str, bytes | None]:
        answers, self.answers = self.answers, {}
        return answers

    def stuck(self) -> set[str]:
        return set(self.no_worker)

    def abandon(self, futures: list[str]) -> None:
        if self.fails:
            raise GoneError
        self.abandoned += futures


def jobs_of(calls: Calls, crew: Crew) -> Jobs:
    connection: Any = calls
    workers: Any = crew
    return Jobs(connection, workers, "run")


def test_so_many_batches_are_on_their_way() -> None:
    calls, crew = Calls(), Crew()
    jobs = jobs_of(calls, crew)
    assert (len(jobs), jobs.slots, jobs.has_room) == (0, 2, True)
    rooms = []
    for number in range(5):
        jobs.submit(number, bytes, b"")  # type: ignore[arg-type]
        rooms.append(jobs.has_room)
    assert rooms == [True, True, True, False, False]
    assert (jobs.batches, jobs.futures) == ([*range(5)], [f"r-{n}" for n in range(5)])
    crew.slots = 0
    assert not jobs_of(calls, crew).has_room


def test_a_batch_ends_once_and_a_silent_scheduler_has_gone() -> None:
    calls, crew = Calls(), Crew()
    jobs = jobs_of(calls, crew)
    for batch in ("a", "b"):
        jobs.submit(batch, bytes, b"")  # type: ignore[arg-type]
    calls.answers = {"r-1": b"done", "r-7": b"of another"}
    assert jobs.ended(0) == [("b", b"done")]
    calls.answers = {"r-1": b"again", "r-0": None}
    calls.is_up = False
    # An answer that has arrived counts even after the cluster is down.
    assert jobs.ended(0) == [("a", None)]
    with pytest.raises(GoneError):
        jobs.ended(0)


@pytest.mark.parametrize(("idle_s", "is_gone"), [(None, False), (59.0, False), (61.0, True)])
def test_without_a_worker_for_a_minute_the_cluster_has_gone(
    monkeypatch: pytest.MonkeyPatch, idle_s: float | None, is_gone: bool
) -> None:
    calls, crew = Calls(), Crew()
    monkeypatch.setattr(jobs_module, "time", SimpleNamespace(monotonic=lambda: 1_000.0))
    crew.idle_since = None if idle_s is None else 1_000.0 - idle_s
    jobs = jobs_of(calls, crew)
    if is_gone:
        with pytest.raises(GoneError):
            jobs.look()
    else:
        jobs.look()


def test_only_batches_that_are_stuck_at_two_looks_are_sent_again() -> None:
    calls, crew = Calls(), Crew()
    crew.most = 1
    jobs = jobs_of(calls, crew)
    for batch in "abc":
        jobs.submit(batch, bytes, b"")  # type: ignore[arg-type]
    calls.no_worker = {"r-0", "r-1", "r-9"}
    jobs.look()
    calls.no_worker = {"r-0", "r-2", "r-9"}
    crew.has_looked = False
    jobs.look()
    assert calls.abandoned == []
    crew.has_looked = True
    crew.slots = 0  # no worker is ready to take the call
    jobs.look()
    jobs.look()
    assert calls.abandoned == []
    crew.slots = 2
    jobs.look()
    jobs.look()
    assert sorted(calls.abandoned) == ["r-0", "r-2"]
    assert sorted(jobs.batches) == ["a", "b", "c"]
    assert len(calls.submitted) == 5 and len(set(calls.submitted)) == 5


@pytest.mark.parametrize("fails", [False, True])
def test_batches_that_are_abandoned_are_forgotten(fails: bool) -> None:
    calls, crew = Calls(), Crew()
    jobs = jobs_of(calls, crew)
    jobs.abandon()
    assert calls.abandoned == []
    jobs.submit("a", bytes, b"")  # type: ignore[arg-type]
    jobs._lost.append("b")
    calls.fails = fails
    jobs.abandon()
    assert (len(jobs), jobs.take_lost()) == (0, [])
    assert calls.abandoned == ([] if fails else ["r-0"])


def test_a_batch_that_could_not_be_submitted_is_on_its_way_until_all_is_taken() -> None:
    """Once all batches are taken, the scan reports the files of the batch as unread."""
    calls, crew = Calls(), Crew()
    calls.fails = True
    jobs = jobs_of(calls, crew)
    with pytest.raises(GoneError):
        jobs.submit("a", bytes, b"")  # type: ignore[arg-type]
    assert (jobs.take_all(), jobs.take_all()) == (["a"], [])
    assert (jobs_module.AHEAD, jobs_module.PATIENCE_S) == (2, 60.0)
