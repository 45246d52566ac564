"""The workers of a scan on a cluster: which get batches, and what is reported of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.msgpack import decode

from hashclient.core.errors import ConfigError, StateError, UnreachableError
from hashclient.core.version import __version__
from hashclient.scan.cluster import crew as module
from hashclient.scan.cluster import worker
from hashclient.scan.cluster.crew import SAME_HASHCLIENT, Crew, _refusal
from hashclient.scan.cluster.messages import PROTOCOL, Probe, Setup, Spec
from hashclient.scan.executors.wire import encode, names_of
from hashclient.scan.values.work import Group

ONE, TWO, THREE = (f"tcp://127.0.0.1:{port}" for port in (1, 2, 3))
FAR = "tcp://10.0.0.1:9"
REFUSED = b"it has other lists\nfetch them"


class Cluster:
    """A scheduler whose workers return set answers, and whose clock advances with each wait."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = answers
        self.looked: dict[str, Any] = {}
        self.now = 100.0
        self.waited: list[float] = []
        self.asked: list[list[str]] = []
        self.setups: list[Setup] = []
        self.noticed: list[str] = []

    def workers(self) -> dict[str, int]:
        return {address: int(address[-1]) for address in self.answers}

    def call(self, function: object, *given: Any, workers: Sequence[str]) -> dict[str, Any]:
        self.asked.append(list(workers))
        if function is worker.look_at:
            assert given[0] == "run"
            return {address: self.looked.get(address, OSError()) for address in workers}
        assert (function, given[1]) == (worker.prepare, "hashclient-run")
        self.setups.append(decode(given[0], type=Setup))
        return {address: self.answers[address] for address in workers}

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds

    def crew(self, *places: str) -> Crew:
        spec = Spec(PROTOCOL, __version__, "run", "key", (), b"/")
        made: Any = self
        return Crew(
            *(made, spec, places, self.noticed.append), clock=lambda: self.now, wait=self.wait
        )


def cluster(*answers: tuple[str, Any]) -> Cluster:
    return Cluster(**dict(answers))


def test_how_long_the_first_worker_is_waited_for() -> None:
    assert (module.FIRST_S, module.POLL_S) == (30.0, 1.0)


def test_workers_that_are_ready_count_with_all_their_threads(tmp_path: Path) -> None:
    made = cluster((ONE, b""), (TWO, b""), (THREE, OSError()))
    crew = made.crew(str(tmp_path))
    assert (crew.resource, crew.slots, crew.most, crew.idle_since) == ("hashclient-run", 0, 0, None)
    crew.muster()
    assert (crew.slots, crew.most, made.waited) == (3, 2, [])
    (setup,) = made.setups
    assert (setup.spec.run, [probe.directory for probe in setup.probes]) == (
        "run",
        [bytes(tmp_path)],
    )
    assert made.asked == [[ONE, TWO, THREE]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answers", [[], [(ONE, OSError())]])
def test_the_first_worker_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, Any]]
) -> None:
    monkeypatch.setattr(module, "FIRST_S", 0.95)
    made = cluster(*answers)
    with pytest.raises(UnreachableError, match="the cluster has no worker") as failed:
        made.crew().muster()
    assert failed.value.hint == "start some: `dask worker`, say"
    assert made.waited == [0.1] * 10


def test_a_worker_that_comes_in_time_is_used() -> None:
    made = cluster()

    def wait(seconds: float) -> None:
        Cluster.wait(made, seconds)
        if len(made.waited) == 3:
            made.answers[TWO] = b""

    made.wait = wait  # type: ignore[method-assign]
    crew = made.crew()
    crew.muster()
    assert (crew.slots, len(made.waited)) == (2, 3)


@pytest.mark.parametrize(
    ("answers", "kind", "message", "hint"),
    [
        ([(ONE, REFUSED)], StateError, f"worker {ONE}: it has other lists", "fetch them"),
        ([(ONE, b"no hint")], StateError, f"worker {ONE}: no hint", None),
        (
            [(TWO, REFUSED), (THREE, b"x"), (ONE, b"")],
            *(StateError, f"worker {TWO}: it has other lists (and 1 more)", "fetch them"),
        ),
        (
            [(ONE, REFUSED), (TWO, REFUSED), (THREE, REFUSED)],
            *(StateError, f"worker {ONE}: it has other lists (and 2 more)", "fetch them"),
        ),
        (
            [(FAR, b""), (ONE, b"")],
            *(ConfigError, f"worker {FAR}: it is reached without TLS"),
            "start it with certificates: docs/cluster.md",
        ),
        (
            [(ONE, AttributeError("secret"))],
            *(StateError, f"worker {ONE}: it cannot run this hashclient (AttributeError)"),
            SAME_HASHCLIENT,
        ),
    ],
)
def test_a_worker_at_the_start_that_cannot_be_used_ends_the_scan(
    answers: list[tuple[str, Any]], kind: type[Exception], message: str, hint: str | None
) -> None:
    made = cluster(*answers)
    with pytest.raises((ConfigError, StateError)) as failed:
        made.crew().muster()
    assert (type(failed.value), failed.value.message, failed.value.hint) == (kind, message, hint)
    assert all(FAR not in asked for asked in made.asked)


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (b"", None),
        (b"\nhint", None),
        (b"a", ("a", None)),
        (b"a\n", ("a", None)),
        (b"a\nb\nc", ("a", "b\\x0ac")),
        (b"\xff\nb", ("\ufffd", "b")),
        (OSError("died"), None),
        (ConnectionResetError(), None),
        (TypeError("x"), ("it cannot run this hashclient (TypeError)", SAME_HASHCLIENT)),
        (None, ("it cannot run this hashclient (NoneType)", SAME_HASHCLIENT)),
    ],
)
def test_what_an_answer_says_of_a_worker(answer: Any, refusal: object) -> None:
    assert _refusal(answer) == refusal


def ready(made: Cluster, *places: str) -> Crew:
    crew = made.crew(*places)
    crew.muster()
    made.asked.clear()
    return crew


@pytest.mark.parametrize(("seconds", "looks"), [(0.0, False), (0.99, False), (1.0, True)])
def test_workers_are_looked_at_once_a_second(seconds: float, looks: bool) -> None:
    made = cluster((ONE, b""))
    crew = ready(made)
    assert crew.look()
    made.now += seconds
    assert crew.look() is looks


def looks(made: Cluster, crew: Crew, times: int = 1) -> None:
    for _ in range(times):
        made.now += 1.0
        assert crew.look()


def test_a_later_worker_gets_batches_once_it_was_seen_twice() -> None:
    made = cluster((ONE, b""))
    crew = ready(made)
    made.answers[TWO] = b""
    looks(made, crew)
    assert (crew.slots, made.asked) == (1, [])
    looks(made, crew)
    assert (crew.slots, crew.most, made.asked) == (3, 2, [[TWO]])
    looks(made, crew)
    assert len(made.asked) == 1  # the worker is not asked again and stays ready


def test_a_later_worker_that_cannot_be_used_is_told_once_until_it_comes_again() -> None:
    made = cluster((ONE, b""))
    crew = ready(made)
    made.answers |= {TWO: REFUSED, FAR: b""}
    looks(made, crew, 4)
    said = [
        f"cluster: worker {FAR} is not used: it is reached without TLS",
        f"cluster: worker {TWO} is not used: it has other lists",
    ]
    assert (sorted(made.noticed), crew.slots, made.asked) == (said, 1, [[TWO]])
    del made.answers[TWO]
    looks(made, crew)
    made.answers[TWO] = REFUSED
    looks(made, crew, 3)
    assert made.noticed[2:] == said[1:]


def test_a_worker_that_dies_is_asked_again_when_it_is_back() -> None:
    made = cluster((ONE, b""), (TWO, b""))
    crew = ready(made)
    made.answers = {TWO: b""}
    looks(made, crew)
    assert (crew.slots, crew.most, crew.idle_since) == (2, 2, None)
    made.answers = {ONE: OSError()}  # the worker ONE does not answer
    looks(made, crew, 2)
    assert (crew.slots, made.asked) == (0, [[ONE]])
    made.answers = {ONE: b""}
    looks(made, crew)
    assert (crew.slots, crew.most, made.asked) == (1, 2, [[ONE], [ONE]])


def test_since_when_no_worker_is_ready() -> None:
    made = cluster((ONE, b""))
    crew = ready(made)
    made.answers = {}
    looks(made, crew)
    since = made.now
    assert crew.idle_since == since
    looks(made, crew, 2)
    assert crew.idle_since == since
    made.answers = {ONE: b""}
    looks(made, crew, 2)
    assert crew.idle_since is None


def test_places_that_were_the_same_everywhere_are_compared_on_later_workers(
    tmp_path: Path,
) -> None:
    first, same, other = (tmp_path / name for name in ("first", "same", "other"))
    for directory in (first, same, other):
        directory.mkdir()
    made = cluster((ONE, b""), (TWO, b""))
    crew = ready(made, str(first))
    made.looked = {ONE: encode([None, "is elsewhere"]), TWO: encode([None, "is away"])}
    gone = str(tmp_path / "gone")
    assert crew.verify([str(same), str(other), gone]) == {
        str(same): None,
        str(other): f"is elsewhere, on worker {ONE}",
        gone: "it cannot be opened",
    }
    made.answers[THREE] = b""
    looks(made, crew, 2)
    probed = [probe.directory for probe in made.setups[-1].probes]
    assert probed == [bytes(first), bytes(same)]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (encode([None]), None),
        (encode(["away"]), f"away, on worker {ONE}"),
        (encode(["\x1b[2J"]), rf"\x1b[2J, on worker {ONE}"),
        (encode(None), None),  # a restarted worker is checked before it gets a batch
        (encode([]), f"it does not answer, on worker {ONE}"),
        (encode([None, None]), f"it does not answer, on worker {ONE}"),
        (b"nonsense", f"it does not answer, on worker {ONE}"),
        (OSError(), f"it does not answer, on worker {ONE}"),
    ],
)
def test_a_directory_is_wrong_if_a_worker_says_so(
    tmp_path: Path, answer: Any, problem: str | None
) -> None:
    made = cluster((ONE, b""))
    crew = ready(made)
    made.looked = {ONE: answer}
    assert crew.verify([str(tmp_path)]) == {str(tmp_path): problem}
    assert made.asked == [[ONE]]
    assert crew.verify([]) == {}


def test_a_worker_that_died_while_it_looked_is_asked_when_it_is_back(tmp_path: Path) -> None:
    made = cluster((ONE, b""), (TWO, b""))
    crew = ready(made)
    made.looked = {ONE: encode([None])}
    del made.answers[TWO]
    assert crew.verify([str(tmp_path)]) == {str(tmp_path): None}


def test_probes_of_the_scan_are_no_files_of_it(tmp_path: Path) -> None:
    """Neither the probes at the start of a scan nor later probes are counted as files."""
    made = cluster((ONE, b""))
    seen: list[Probe] = []
    call = made.call

    def noted(function: object, *given: Any, workers: Sequence[str]) -> dict[str, Any]:
        raw = given[0] if function is worker.prepare else given[1]
        is_setup = function is worker.prepare
        seen.extend(decode(raw, type=Setup).probes if is_setup else decode(raw, type=list[Probe]))
        return call(function, *given, workers=workers)

    made.call = noted  # type: ignore[method-assign]
    crew = ready(made, str(tmp_path))
    crew.verify([str(tmp_path)])
    assert len({probe.name for probe in seen}) == 2
    for probe in seen:
        name = probe.name.decode()
        group = names_of(Group("/d", ["a", name], follow=False))
        assert crew.without_probes(group) == names_of(Group("/d", ["a"], follow=False))
        assert crew.without_probes(names_of(Group("/d", [name], follow=False))) is None
    other = names_of(Group("/d", [".hashclient-probe-x"], follow=False))
    assert crew.without_probes(other) == other
