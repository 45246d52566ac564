"""The parts of a scan for given options and configuration; no part is started."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hashclient.config.settings import Settings, parse_config
from hashclient.containers import meaning
from hashclient.containers.limits import Options
from hashclient.core.errors import ConfigError, StateError, UsageError
from hashclient.core.kinds import Kind
from hashclient.core.match import Place
from hashclient.core.model import Outcome
from hashclient.core.objecturi import parse_uri
from hashclient.core.version import __version__
from hashclient.index.open_lists import OpenLists, open_lists
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.check.streaming import Stream
from hashclient.scan.cluster.address import LocalCluster, Scheduler
from hashclient.scan.cluster.assembly import on_cluster
from hashclient.scan.cluster.executor import Dask
from hashclient.scan.cluster.messages import PROTOCOL, Spec, pins_of
from hashclient.scan.executors.here import Here, Inline
from hashclient.scan.objects.objects import READERS
from hashclient.scan.run import start as module
from hashclient.scan.run.pipeline import FrontEnd
from hashclient.scan.run.start import Inputs, objects_of, start_scan
from hashclient.scan.sources.interface import Several
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import NOT_THERE
from hashclient.session import Session
from hashclient.system.identity import boot_id, mount_namespace
from hashclient.system.layout import Layout
from tests.kit import csv_of, make_state

NOW = datetime(2026, 2, 28, 12, tzinfo=UTC)
RULE = '[[scan.accept]]\npath = "*.zip*"\nreason = "encrypted"\nuntil = 2026-02-28\n'
#: Options that differ from the default wherever a worker of a cluster needs the value.
UNUSUAL = ScanOptions(
    exclude=("*.iso", "\udcff"),
    sparse=True,
    all_digests=True,
    show_clean=True,
    learn=True,
)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("start")
    return make_state(directory, {"base": csv_of({"e-1": b"listed"})})


def session_of(state: Path, config: str = "") -> Session:
    made = parse_config(config, "config.toml")
    settings = Settings(state, state / "config.toml", None, made)
    return Session(settings, now=lambda: NOW)


@pytest.fixture(scope="module")
def lists(state: Path) -> OpenLists:
    return open_lists(session_of(state).settings, {}, NOW)


@pytest.mark.parametrize(
    ("options", "kind", "jobs"),
    [
        (ScanOptions(), Here, None),
        (ScanOptions(jobs=3), Here, 3),
        (ScanOptions(jobs=0), Inline, None),
        (ScanOptions(executor="processes"), Here, None),
        (ScanOptions(executor="local-cluster:2"), Dask, None),
        (ScanOptions(executor="dask://127.0.0.1"), Dask, None),
    ],
)
def test_the_executor_is_the_one_that_the_options_name(
    state: Path, lists: OpenLists, options: ScanOptions, kind: type, jobs: int | None
) -> None:
    executor = module._executor_of(
        options,
        session_of(state),
        lists,
        objects=None,
        inventory=None,
        containers=None,
        on_notice=print,
    )
    assert type(executor) is kind
    assert getattr(executor, "_jobs", None) == jobs


@pytest.mark.parametrize("has_objects", [False, True])
def test_objects_are_checked_at_the_cluster_that_checks_the_files(
    state: Path, lists: OpenLists, has_objects: bool
) -> None:
    where: list[object] = []

    class Objects:
        def check_at(self, cluster: object) -> None:
            where.append(cluster)

    given: Any = Objects() if has_objects else None
    executor = module._executor_of(
        ScanOptions(executor="local-cluster:2"),
        session_of(state),
        lists,
        objects=given,
        inventory=None,
        containers=None,
        on_notice=print,
    )
    assert isinstance(executor, Dask)
    assert where == [executor] * has_objects
    assert executor._spec.objects is has_objects


def spec_of(state: Path, lists: OpenLists, options: ScanOptions, **how: Any) -> Spec:
    config = how.pop("config", "")
    given: dict[str, Any] = {
        "inventory": None,
        "containers": None,
        "on_notice": print,
        "objects": False,
    }
    where = LocalCluster(2)
    return on_cluster(where, options, session_of(state, config), lists, **given | how)._spec


def test_a_cluster_is_told_what_the_options_say(
    state: Path, lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(base)  # noqa: PTH102 - bytes
    monkeypatch.chdir(os.fsdecode(base))
    containers = Options(refuses_unopened=True)
    unusual = spec_of(
        state,
        msgspec.structs.replace(lists, also=5),
        UNUSUAL,
        config="[inventory]\nreread_days = 3\n",
        containers=containers,
        objects=True,
    )
    usual = spec_of(state, lists, ScanOptions(learn=False))
    common = {
        "protocol": PROTOCOL,
        "version": __version__,
        "key_id": lists.sealer.key_id,
        "lists": pins_of(lists),
        "base": base,
        "points": (),
        "asks_inventory": False,
        "gets_known": False,
        "boot": boot_id(),
        "namespace": mount_namespace(),
    }
    told, default = msgspec.structs.asdict(unusual), msgspec.structs.asdict(usual)
    assert len(bytes.fromhex(told.pop("run"))) == len(bytes.fromhex(default.pop("run"))) == 8
    assert told == common | {
        "exclude": (b"*.iso", b"\xff"),
        "keep_clean": True,
        "sparse": True,
        "all_digests": True,
        "learn": True,
        "reread_days": 3,
        "containers": containers,
        "objects": True,
        "also": 5,
        "reads": meaning.READS,
    }
    assert default == common | {
        "exclude": (),
        "keep_clean": False,
        "sparse": False,
        "all_digests": False,
        "learn": False,
        "reread_days": 14,
        "containers": None,
        "objects": False,
        "also": 0,
        "reads": 0,
    }
    assert unusual.run != usual.run


def test_a_cluster_has_its_workers_and_needs_a_current_directory(
    state: Path, lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="as many as were started"):
        spec_of(state, lists, ScanOptions(jobs=2))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="the current directory is gone"):
        spec_of(state, lists, ScanOptions())


def test_a_cluster_has_the_inventory_and_tells_the_caller(
    state: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, told = InventoryPlace(state, "key"), list[str]()
    where = Scheduler("127.0.0.1", 5)
    made = on_cluster(
        *(where, ScanOptions(), session_of(state), lists),
        inventory=place,
        containers=None,
        on_notice=told.append,
        objects=False,
    )
    assert made._inventory is place
    made._on_notice("so it is")
    assert told == ["so it is"]
    connect: Any = made._connect
    assert connect.args[0] is where
    assert connect.args[1]["HASHCLIENT_STATE_DIR"] == str(state)


@pytest.mark.parametrize(
    ("config", "ignores", "found"),
    [
        ("", False, (Kind.UNREAD, Kind.UNREAD)),
        ("", True, (Kind.UNREAD, Kind.SKIPPED)),
        (RULE, False, (Kind.ACCEPTED, Kind.UNREAD)),
        (RULE, True, (Kind.ACCEPTED, Kind.SKIPPED)),
        (RULE.replace("28", "27"), True, (Kind.UNREAD, Kind.SKIPPED)),
    ],
)
def test_outcomes_are_accepted_as_the_configuration_and_the_options_say(
    state: Path, config: str, ignores: bool, found: tuple[Kind, Kind]
) -> None:
    assert date(2026, 2, 28) == NOW.date()
    session, options = session_of(state, config), ScanOptions(ignore_missing=ignores)
    rules = module._rules(session, options, ["/c"])
    encrypted = Outcome(
        Kind.UNREAD, "/a.zip", reason="encrypted: x", members=("m",), obstacle="encrypted"
    )
    missing = Outcome(Kind.UNREAD, "/b", reason=NOT_THERE)
    assert tuple(one.kind for one in rules([encrypted, missing])) == found
    assert list(rules([])) == []
    # A PATH that is not there is unread, because nobody else has named it.
    (given,) = module._rules(session, options, ["/b"])([missing])
    assert given is missing


POLICY = "[[policy]]\nactions = []\n"


@pytest.mark.parametrize(
    ("config", "options", "acts"),
    [
        ("", ScanOptions(), None),
        (POLICY, ScanOptions(), False),
        (POLICY, ScanOptions(actions=False), None),
        (POLICY, ScanOptions(actions=False, policy_check=True), True),
        ("", ScanOptions(policy_check=True), True),
        ("", ScanOptions(quarantine=True, actions=False), None),
    ],
)
def test_matches_are_acted_upon_if_the_policy_or_an_option_says_so(
    state: Path, lists: OpenLists, config: str, options: ScanOptions, acts: bool | None
) -> None:
    made = module._responder(session_of(state, config), options, lists)
    assert (None if made is None else made._only_tell) is acts
    with pytest.raises(ConfigError):  # no recipient is configured
        module._responder(session_of(state), ScanOptions(quarantine=True), lists)


def test_a_scan_needs_something_to_check(state: Path) -> None:
    with pytest.raises(UsageError, match="nothing to scan") as failed:
        start_scan(session_of(state), Inputs(), ScanOptions())
    assert failed.value.hint == "give a path"
    objects: Any = object()
    with pytest.raises(UsageError, match="given twice"):
        start_scan(session_of(state), Inputs(["s3://bucket-a"], objects=objects), ScanOptions())


def test_the_arguments_in_the_log_are_those_of_all_inputs() -> None:
    class Source:
        def __init__(self, *arguments: str) -> None:
            self.arguments = arguments

    sources: Any = Several([Source("a", "b"), Source("--files-from x")])  # type: ignore[list-item]
    objects: Any = Source("s3://bucket")
    stream = Stream(0, "stdin")
    every = ["a", "b", "--files-from x"]
    assert Inputs().arguments(sources) == every
    assert Inputs(stream=stream).arguments(sources) == ["-", *every]
    assert Inputs(objects=objects).arguments(sources) == [*every, "s3://bucket"]
    assert Inputs((), (), stream, objects).arguments(sources) == ["-", *every, "s3://bucket"]


def objects(state: Path, options: ScanOptions, *uris: str, config: str = "", **how: Any) -> Any:
    return objects_of(session_of(state, config), [*map(parse_uri, uris)], options, "key", **how)


def test_objects_are_scanned_as_the_options_and_the_configuration_say(state: Path) -> None:
    assert objects(state, ScanOptions()) is None
    config = '[objects."s3://bucket-a"]\ntrust_etag = true\n'
    config += '[objects."s3://bucket-b"]\ntrust_etag = false\n'
    made = objects(state, ScanOptions(), "s3://bucket-a/p", config=config)
    request, tools = made._request, made._tools
    assert [uri.text for uri in request.uris] == ["s3://bucket-a/p"]
    assert (request.reads, request.all_versions, request.after, request.report) == (
        *(True, False, None),
        None,
    )
    assert [tools.trusts(f"s3://bucket-{name}") for name in "abc"] == [True, False, False]
    assert (tools.readers, tools.learns, tools.memory is not None) == (READERS, True, True)
    assert module.SPOOL_BYTES == 4 << 30
    other = objects(
        state,
        ScanOptions(jobs=3, inventory=False, learn=False),
        *("s3://bucket-a", "s3://bucket-b"),
        reads=False,
        all_versions=True,
        after="k",
    )
    request, tools = other._request, other._tools
    assert (len(request.uris), request.reads, request.all_versions, request.after) == (
        *(2, False, True),
        "k",
    )
    assert (tools.readers, tools.learns, tools.memory) == (3, False, None)


@pytest.mark.parametrize("library", ["obstore", "botocore", "arro3"])
def test_without_a_library_objects_are_refused_before_the_scan(
    state: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == library else name)
    with pytest.raises(UsageError):
        objects(state, ScanOptions(), "s3://bucket-a")


class Made:
    """Notes how `start_scan` makes the parts of a scan; a part is only its name."""

    def __init__(self, patch: pytest.MonkeyPatch, unknown: StateError | None = None) -> None:
        self.given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.mounts = SimpleNamespace(unknown=unknown)
        self.ruled: list[list[Outcome]] = []
        ruler = SimpleNamespace(lists="lists of exceptions", rule_all=self._rule)
        for name, part in (
            *((name, name) for name in ("scan", "RunRecord", "Scan", "Memory")),
            ("container_options", "containers"),
            ("exceptions_of", ruler),
            ("Mounts", self.mounts),
            ("_executor_of", Inline()),
        ):
            patch.setattr(module, name, self._noting(name, part))

    def _noting(self, name: str, part: object) -> Any:
        def make(*args: Any, **how: Any) -> object:
            self.given[name] = args, how
            return part

        return make

    def _rule(self, outcomes: list[Outcome]) -> list[Outcome]:
        self.ruled.append(outcomes)
        return outcomes


MISSING = Outcome(Kind.UNREAD, "/b", reason=NOT_THERE)


def test_a_scan_is_made_of_parts_that_know_each_other(
    state: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, front = Made(monkeypatch), FrontEnd()
    session = session_of(state, "[inventory]\nreread_days = 3\n")
    options = ScanOptions(passwords=(b"p",), verify_sizes=True, ignore_missing=True)
    source: Any = SimpleNamespace(arguments=["--files-from x"])
    inputs = Inputs(["/a"], [source], Stream(0, "stdin"))
    made_of: object = start_scan(session, inputs, options, lists, front)
    assert made_of == "Scan"
    observer, given = front.observer, made.given
    (_, found, progress, of_scan), parts = given["scan"]
    trees = parts["again"]
    assert (found, of_scan, parts["memory"], parts["containers"]) == (
        *("lists of exceptions", options),
        *("Memory", "containers"),
    )
    assert (type(parts["executor"]), type(trees), parts["stream"]) == (Inline, Trees, inputs.stream)
    assert ([*trees.arguments], trees._mounts, parts["objects"]) == (["/a"], made.mounts, None)
    assert [one.kind for one in parts["accept"]([MISSING])] == [Kind.SKIPPED]
    assert [one.kind for (one,) in made.ruled] == [Kind.SKIPPED]
    given_path = msgspec.structs.replace(MISSING, path="/a")
    assert parts["accept"]([given_path]) == [given_path]
    summary = progress.summary
    assert (summary.lists, summary.missing, summary.failure) == (lists.states, lists.missing, None)
    (place,), how = given["Memory"]
    assert (place._state_dir, place._key_id, place._reread_days) == (state, lists.sealer.key_id, 3)
    assert how == {"use": True, "on_failure": observer.failed}
    assert given["container_options"] == (
        (session.settings.config.containers, observer.noticed, (b"p",)),
        {"verify_sizes": True},
    )
    assert given["exceptions_of"] == ((session, lists, summary, observer), {})
    callbacks = {"on_failure": observer.failed, "on_change": observer.file_system_changed}
    assert given["Mounts"] == ((state,), callbacks)
    assert given["_executor_of"] == (
        (options, session, "lists of exceptions"),
        {
            "objects": None,
            "inventory": place,
            "containers": "containers",
            "on_notice": observer.noticed,
        },
    )
    args, how = given["RunRecord"]
    assert args == (session, "scan", summary, lists.sealer.key_id)
    assert how.pop("places_of")([MISSING]) == [Place("/b")]
    assert how.pop("lists") == "lists of exceptions"
    assert how == {"on_failure": observer.failed, "decision": None, "brief": False}
    args, how = given["Scan"]
    assert args == ("scan", "RunRecord", progress, made.mounts, trees.coverage)
    assert how == {
        "arguments": ["-", "/a", "--files-from x"],
        "actions": None,
        "front": front,
    }


def test_a_part_of_a_scan_that_the_options_turn_off_is_not_made(
    state: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, session = Made(monkeypatch), session_of(state)
    monkeypatch.setattr(session, "open_lists", lambda: lists)
    options = ScanOptions(
        members=False, learn=False, inventory=False, exceptions=False, brief=True, policy_check=True
    )
    start_scan(session, Inputs(["/a"]), options)
    (_, found, _, _), parts = made.given["scan"]
    assert (found, parts["containers"]) == (lists, None)
    assert not {"container_options", "exceptions_of"} & {*made.given}
    (place,), how = made.given["Memory"]
    assert (place, how["use"]) == (None, False)
    executor = made.given["_executor_of"][1]
    assert (executor["inventory"], executor["containers"]) == (None, None)
    args, how = made.given["RunRecord"]
    responder = made.given["Scan"][1]["actions"]
    assert (args[1], how["brief"], how["decision"]) == ("watch-look", True, responder.decision)
    assert parts["accept"]([MISSING]) == [MISSING]


@pytest.mark.parametrize("options", [ScanOptions(inventory=False), ScanOptions(learn=False)])
def test_an_inventory_is_read_only_if_it_is_used(
    state: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch, options: ScanOptions
) -> None:
    """Without `inventory`, new records are still written, and each file is read."""
    made = Made(monkeypatch)
    start_scan(session_of(state), Inputs(["/a"]), options, lists)
    (place,), _ = made.given["Memory"]
    assert (place is None) is not options.learn
    assert made.given["_executor_of"][1]["inventory"] is None


def test_a_scan_that_knows_no_earlier_file_system_has_failed(
    state: Path, lists: OpenLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch, StateError("damaged"))
    start_scan(session_of(state), Inputs(["/a"]), ScanOptions(), lists)
    assert made.given["scan"][0][2].summary.failure == "damaged"


@pytest.mark.parametrize("uris", [(), ("s3://bucket-b/p",)])
def test_a_report_names_the_bucket_of_a_scan(
    state: Path, monkeypatch: pytest.MonkeyPatch, uris: tuple[str, ...]
) -> None:
    made: list[tuple[Any, ...]] = []
    listed = parse_uri("s3://bucket-a/p")

    def report(*args: Any, **how: Any) -> Any:
        made.append((*args, how))
        return SimpleNamespace(uri=listed)

    monkeypatch.setattr("hashclient.objects.report.Report", report)
    config = "[inventory]\nreread_days = 3\n"
    found = objects(state, ScanOptions(), *uris, config=config, report="s3://reports/r")
    request, tools = found._request, found._tools
    ((name, uri, how),) = made
    assert (name, uri) == ("s3://reports/r", parse_uri(uris[0]) if uris else None)
    assert (request.uris, request.report.uri) == ((listed,), listed)
    spool, memory = tools.spool, tools.memory
    assert how == {"make_file": spool.open}
    assert (spool._directory, spool._most_bytes) == (Layout(state).spool, 4 << 30)
    place = memory._place
    assert (place._state_dir, place._key_id, place._reread_days) == (state, "key", 3)
    assert memory._reread_days == 3
