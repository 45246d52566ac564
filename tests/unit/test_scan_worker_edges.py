"""A cluster's worker: how it is made ready, what it opens for a scan, and when it closes it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec.msgpack import decode

from hashclient.containers import meaning
from hashclient.core.errors import ConfigError, StateError
from hashclient.core.version import __version__
from hashclient.scan.cluster import worker as module
from hashclient.scan.cluster.messages import PROTOCOL, Known, Probe, Setup, Spec
from hashclient.scan.cluster.worker import PLENTY, Stopped, Work
from hashclient.scan.executors.wire import encode
from hashclient.system.identity import Identities, boot_id

SPEC = Spec(PROTOCOL, __version__, "scan", "key", (), b"/base")


class Worker:
    """Replaces Dask's worker."""

    def __init__(self) -> None:
        self.resources: list[dict[str, float]] = []

    async def set_resources(self, **resources: float) -> None:
        self.resources.append(resources)


@pytest.fixture
def dask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    idle = SimpleNamespace(collect=lambda: None, freeze=lambda: None)
    monkeypatch.setattr(module, "gc", idle)  # a collection of garbage takes long
    monkeypatch.setattr(module, "collect_rarely", lambda: None)
    yield Worker()
    module._runs.clear()


@pytest.fixture(autouse=True)
def _no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_lease", lambda: False)


class Lists(msgspec.Struct):
    """Replaces open lists."""

    also: int = 0
    sealer: Any = SimpleNamespace(key_id="key")

    def judge(self, *, all_digests: bool) -> tuple[int, bool]:
        return self.also, all_digests


def spec(**changes: Any) -> Spec:
    return msgspec.structs.replace(SPEC, **changes)


def work_of(**changes: Any) -> Work:
    return Work(spec(**changes), cast("Any", Lists()), Path("/state"))


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (StateError("no list", hint="run fetch"), b"no list\nrun fetch"),
        (ConfigError("no \udcff key"), b"no ? key\n"),
        (
            TimeoutError(),
            b"not ready after 120 seconds\nsee whether a file system hangs",
        ),
        (ValueError("secret"), b"ValueError while it was made ready\n"),
    ],
)
def test_a_worker_that_is_not_ready_says_why_and_never_raises(
    dask: Worker, monkeypatch: pytest.MonkeyPatch, error: Exception, answer: bytes
) -> None:
    """Dask would log an exception with its arguments."""

    def fail(_: bytes) -> None:
        raise error

    monkeypatch.setattr(module, "_prepare", fail)
    assert asyncio.run(module.prepare(b"payload", "r", dask)) == answer
    assert dask.resources == []


@pytest.mark.parametrize(
    ("problem", "answer"),
    [(None, b""), (("wrong", None), b"wrong\n"), (("wrong", "hint"), b"wrong\nhint")],
)
def test_only_a_worker_without_a_problem_has_the_resource(
    dask: Worker,
    monkeypatch: pytest.MonkeyPatch,
    problem: tuple[str, str | None] | None,
    answer: bytes,
) -> None:
    given: list[bytes] = []
    leases: list[threading.Thread] = []
    monkeypatch.setattr(module, "can_lease", lambda: leases.append(threading.current_thread()))

    def prepared(payload: bytes) -> tuple[str, str | None] | None:
        given.append(payload)
        return problem

    monkeypatch.setattr(module, "_prepare", prepared)
    assert asyncio.run(module.prepare(b"payload", "r", dask)) == answer
    assert given == [b"payload"] and leases == [threading.main_thread()]
    assert dask.resources == ([{"r": 1e9}] if problem is None else [])
    assert PLENTY == 1e9


@pytest.fixture
def prepare(
    dask: Worker, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, str | None] | None]:
    """Return a function that prepares a scan; lists are opened without a state directory."""
    opened: list[str] = []
    monkeypatch.setattr(module, "own_settings", lambda _: SimpleNamespace(state_dir=Path("/s")))

    def open_lists() -> Lists:
        opened.append("lists")
        return Lists()

    monkeypatch.setattr(module, "Session", lambda _: SimpleNamespace(open_lists=open_lists))
    monkeypatch.setattr(module, "problem_with_lists", lambda *_: None)
    monkeypatch.setattr(module, "problem_with", lambda probe, base: probe.token.decode() or None)

    def prepared(*probes: Probe, **changes: Any) -> tuple[str, str | None] | None:
        return module._prepare(encode(Setup(spec(**changes), probes)))

    cast("Any", prepared).opened = opened
    return prepared


def test_a_worker_of_another_version_or_protocol_is_not_used(
    prepare: Callable[..., Any],
) -> None:
    for changes in ({"version": "0.0"}, {"protocol": PROTOCOL + 1}, {"protocol": -PROTOCOL}):
        client = spec(**changes).version
        text = f"it has hashclient {__version__}, and the client {client}"
        assert prepare(**changes) == (text, "install the same version everywhere")
    assert (prepare.opened, module._runs) == ([], {})  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("there", "missing"),
    [(("obstore",), "botocore"), (("botocore",), "obstore"), ((), "botocore")],
)
def test_a_worker_without_the_libraries_for_buckets_is_used_for_files_only(
    prepare: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[str, ...],
    missing: str,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name in there or None)
    assert prepare(objects=True) == (
        f"it cannot read buckets: {missing} is not installed",
        "`pip install '.[objects]'` in a checkout, for every worker",
    )
    assert prepare(objects=False) is None
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    assert prepare(objects=True) is None


@pytest.mark.parametrize(
    ("reads", "is_ready"), [(0, True), (meaning.READS, True), (meaning.READS + 1, False)]
)
def test_a_worker_opens_the_containers_that_the_client_opens(
    prepare: Callable[..., Any], reads: int, is_ready: bool
) -> None:
    found = prepare(reads=reads)
    if is_ready:
        assert found is None
    else:
        assert found[0] == "it opens other kinds of containers than the client"
        assert "such as `documents`, for every worker" in found[1]


def test_a_worker_with_other_lists_is_not_used(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "problem_with_lists", lambda spec, _: (spec.run, "hint"))
    assert prepare() == ("scan", "hint")
    assert module._runs == {}


def test_all_probes_must_be_there(prepare: Callable[..., Any]) -> None:
    there, gone = Probe(b"/a"), Probe(b"/b\xff", token=b"it is gone")
    assert prepare(there, gone, there) == (
        "/b\\xff: it is gone",
        "every machine must have the same files at the same path",
    )
    assert module._runs == {}
    assert prepare(there, there) is None
    assert list(module._runs) == ["scan"]
    # A worker that is ready is looked at again, for example for a later PATH.
    assert prepare(gone) is not None
    assert list(module._runs) == ["scan"]
    assert prepare.opened == ["lists"] * 2  # type: ignore[attr-defined]


def test_of_too_many_scans_the_one_that_was_not_used_for_longest_is_closed(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_RUNS", 2)
    works = list[Work]()
    for run in "abc":
        assert prepare(run=run) is None
        module._runs[run].used = {"a": 2.0, "b": 1.0, "c": 3.0}[run]
        works.append(module._runs[run])
    assert sorted(module._runs) == ["a", "c"]
    assert [work.is_over for work in works] == [False, True, False]


def test_probes_of_a_later_time_are_looked_for_in_the_directory_of_the_client(
    dask: Worker, prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare() is None
    monkeypatch.setattr(
        module, "problem_with", lambda probe, base: f"{base}: {probe.name.decode()}"
    )

    def look(run: str) -> Any:
        probes = [Probe(b"/a", b"one"), Probe(b"/a", b"two")]
        return decode(asyncio.run(module.look_at(run, encode(probes))))

    assert look("scan") == ["/base: one", "/base: two"]
    assert look("another") is None

    def late(*_: object) -> str:
        raise TimeoutError

    monkeypatch.setattr(module, "problem_with", late)
    assert look("scan") == ["not looked at in time"] * 2


def test_a_scan_is_forgotten_once(dask: Worker, prepare: Callable[..., Any]) -> None:
    prepare()
    work = module._runs["scan"]
    for run in ("another", "scan", "scan"):
        asyncio.run(module.forget(run, "r", dask))
    assert work.is_over
    assert (module._runs, dask.resources) == ({}, [{"r": 0}])


@pytest.mark.parametrize("names", ["", "STATE_DIR", "STATE_DIR CONFIG SEAL_KEY_FILE"])
def test_a_worker_has_the_settings_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "resolve_settings", lambda **how: asked.append(how))
    environ = {f"HASHCLIENT_{name}": f"{tmp_path}/{name}" for name in names.split()}
    module.own_settings(environ)
    words = {"state_dir": "STATE_DIR", "config_path": "CONFIG", "seal_key_file": "SEAL_KEY_FILE"}
    wanted = {
        name: tmp_path / word if word in names.split() else None for name, word in words.items()
    }
    assert asked == [{**wanted, "environ": environ}]


def test_each_scan_has_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    work: Any = work_of(also=5, all_digests=True, points=(b"/m", b"/\xff"), exclude=(b"*.o",))
    other: Any = work_of()
    assert (work.judge(), other.judge()) == ((5, True), (0, False))
    assert (work.base, work.points) == ("/base", {"/m", os.fsdecode(b"/\xff")})
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "Errand", lambda *given, **how: made.append((*given, how)))
    identities = object()
    monkeypatch.setattr(work, "identities", lambda: identities)
    work.errand()
    assert made == [("/base", work.points, ["*.o"], {"identities": identities})]


def test_a_worker_beside_its_client_knows_file_systems_by_the_same_numbers() -> None:
    beside, elsewhere = work_of(boot=boot_id()), work_of(boot=b"another")
    assert (beside.is_beside, elsewhere.is_beside, work_of().is_beside) == (True, False, False)
    assert type(beside.identities()) is Identities
    assert type(elsewhere.identities()) is not Identities


def test_what_a_scan_has_opened_is_opened_once_for_each_key() -> None:
    work = work_of()
    made = [work.opened(key, object) for key in ("a", "b", "a")]
    assert made[0] is made[2] is not made[1]
    assert work.opened("b", list) is made[1]


class Members:
    """Replaces the opener of containers."""

    def __init__(self, judge: object, options: object, *, keep_clean: bool) -> None:
        self.made = (judge, options, keep_clean)
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("keep_clean", [False, True])
def test_containers_are_opened_as_the_client_says_and_closed_with_the_scan(
    monkeypatch: pytest.MonkeyPatch, keep_clean: bool
) -> None:
    monkeypatch.setattr(module, "Members", Members)
    assert work_of().members() is None
    options: Any = object()
    work = work_of(containers=options, keep_clean=keep_clean)
    opened = [cast("Any", work.members()) for _ in range(2)]
    assert [one.made for one in opened] == [((0, False), options, keep_clean)] * 2
    work._on_bytes(5)
    work.close()
    assert [one.closed for one in opened] == [1, 1]
    with pytest.raises(Stopped):
        work._on_bytes(5)


@pytest.fixture
def checkers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []

    def make(judge: object, **how: Any) -> SimpleNamespace:
        made.append({"judge": judge, **how})
        return SimpleNamespace()

    monkeypatch.setattr(module, "Checker", make)
    monkeypatch.setattr(
        module, "Memory", lambda *places: SimpleNamespace(open=lambda: ("cache", *places))
    )
    monkeypatch.setattr(module, "InventoryPlace", lambda *given: given)
    return made


def test_a_checker_reads_the_inventory_only_if_the_client_shares_it(
    checkers: list[dict[str, Any]],
) -> None:
    given = {"learn": True, "keep_clean": True, "sparse": True}
    for asks, changes in ((False, {}), (True, given)):
        work = work_of(asks_inventory=asks, reread_days=7, **changes)
        work.checker()
        made = checkers.pop()
        place = ((Path("/state"), "key", 7),) if asks else ()
        assert made["cache"] == ("cache", *place)
        options = {name: made[name] for name in given}
        assert options == (changes or dict.fromkeys(given, False))
        assert (made["judge"], made["members"], made["is_elsewhere"]) == ((0, False), None, True)
        assert made["on_bytes"] == work._on_bytes
        assert type(made["file_systems"]) is type(work.identities())


def test_each_thread_has_one_checker(checkers: list[dict[str, Any]]) -> None:
    work = work_of()
    first = work.checker()
    assert work.checker() is first
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(work.checker()))
    thread.start()
    thread.join()
    assert (others[0] is first, len(checkers)) == (False, 2)


def test_records_of_the_client_reach_the_checker_with_each_batch(
    checkers: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    sent = SimpleNamespace(take=taken.append)
    days: list[int] = []

    def receive(number: int) -> SimpleNamespace:
        days.append(number)
        return sent

    monkeypatch.setattr(module, "Received", receive)
    work = work_of(gets_known=True, reread_days=7, asks_inventory=False)
    known = [Known(1, b"", [])]
    for batch in (known, []):
        work.checker(batch)
    assert (taken, days, len(checkers)) == ([known, []], [7], 1)
    assert checkers[0]["cache"] is sent
    other = work_of(gets_known=False)
    other.checker(known)
    assert len(taken) == 2
