"""The lists of a daemon: each moment at which they are doubted, opened again, or warned of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.errors import ConfigError, StateError
from hashclient.core.model import MissingList
from hashclient.core.staleness import CLOCK_TOLERANCE, ListState
from hashclient.daemon import lists as module
from hashclient.daemon.lists import (
    AGES_S,
    CHECKED_WITHIN,
    HINT,
    LOOK_S,
    MISSING,
    REOPEN_S,
    SAY_AGAIN_S,
    STALE,
    Ageing,
    InUse,
    Lists,
    age_of,
)
from hashclient.decisions.interface import as_it_is

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY, HOUR, TICK = timedelta(days=1), timedelta(hours=1), timedelta(microseconds=1)


def manifest(name: str = "base", *, checked: datetime = NOW, expires: datetime = NOW + DAY) -> Any:
    return SimpleNamespace(
        list=name, provider="of " + name, checked_at=checked, expires=expires, generation=3
    )


def session(*, grace: timedelta = timedelta(0), now: datetime = NOW) -> Any:
    """Return a session with a clock; only the provider of `base` has a grace period."""
    made = SimpleNamespace(at=now)
    made.now = lambda: made.at
    made.settings = SimpleNamespace(
        grace=lambda provider: grace if provider == "of base" else timedelta(0)
    )
    return made


def opened(*manifests: Any, missing: tuple[MissingList, ...] = (), stale: bool = False) -> Any:
    states = tuple(
        ListState(one.list, one.generation, one.expires, fresh=not stale) for one in manifests
    )
    return SimpleNamespace(
        missing=missing,
        states=states,
        indexes=tuple(SimpleNamespace(manifest=one) for one in manifests),
        sealer=SimpleNamespace(key_id="key"),
        judge=lambda: SimpleNamespace(screen=lambda: "screen"),
    )


def in_use(lists: Any, of: Any = None) -> InUse:
    return InUse(lists, of or session(), exceptions=False)


GONE = (MissingList("other", "of other", "never fetched"),)


def test_the_times_are_those_of_the_documents() -> None:
    assert (LOOK_S, REOPEN_S, AGES_S, SAY_AGAIN_S) == (1.0, 60.0, 3600.0, 86_400.0)
    assert (CHECKED_WITHIN, MISSING, STALE) == (DAY, "Missing", "Stale")


@pytest.mark.parametrize(
    ("missing", "stale", "doubt"),
    [((), False, None), ((), True, STALE), (GONE, False, MISSING), (GONE, True, MISSING)],
)
def test_a_list_that_is_missing_outranks_one_that_is_stale(
    missing: tuple[MissingList, ...], stale: bool, doubt: str | None
) -> None:
    used = in_use(opened(manifest(), missing=missing, stale=stale))
    assert (used.known_doubt, used.doubt) == (doubt, doubt)
    assert (used.key_id, used.rule) == ("key", as_it_is)
    assert str(used.may_be_listed) == "screen"


@pytest.mark.parametrize(
    ("at", "doubt"),
    [
        (NOW - CLOCK_TOLERANCE - TICK, STALE),
        (NOW - CLOCK_TOLERANCE, None),
        (NOW, None),
        (NOW + 3 * HOUR - TICK, None),
        (NOW + 3 * HOUR, STALE),
    ],
)
@pytest.mark.parametrize("missing", [(), GONE])
def test_lists_are_fresh_from_the_last_check_to_the_first_expiry_with_its_grace(
    at: datetime, doubt: str | None, missing: tuple[MissingList, ...]
) -> None:
    clock = session(grace=2 * HOUR)
    base = manifest(checked=NOW - HOUR, expires=NOW + HOUR)
    other = manifest("other", checked=NOW, expires=NOW + 4 * HOUR)
    used = in_use(opened(base, other, missing=missing), clock)
    clock.at = at
    assert used.doubt == (MISSING if missing else doubt)


def test_exceptions_that_cannot_be_used_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hashclient.daemon")
    module._unusable(StateError("the record of exceptions is damaged"))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["no exception counts: the record of exceptions is damaged"]


def test_a_doubted_copy_leaves_the_lists_as_they_are() -> None:
    used = in_use(opened(manifest(), manifest("b")))
    doubted = used.doubted()
    assert (doubted.doubt, used.doubt) == (MISSING, None)
    assert doubted.judge is used.judge and doubted.same_lists(used)
    assert used.generations == doubted.generations == "base:3,b:3"


def test_lists_are_the_same_if_names_generations_missing_lists_and_key_are() -> None:
    used, other = in_use(opened(manifest())), in_use(opened(manifest()))
    assert used.same_lists(other)
    later = manifest()
    later.generation = 4
    for lists in (opened(later), opened(manifest("b")), opened(manifest(), missing=GONE)):
        assert not used.same_lists(in_use(lists))
    other.key_id = "another"
    assert not used.same_lists(other)


class Watched(Lists):
    """Lists that a test replaces, whose folders and clock it sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.folders = 0.0, ["a"]
        self.found: list[Any] = []
        self.opens = 0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.at))
        clock: Any = SimpleNamespace(list_folders=lambda: list(self.folders))
        super().__init__(clock)

    def _open(self) -> InUse:
        self.opens += 1
        found: Any = self.found.pop(0) if self.found else SimpleNamespace(doubt=None)
        if isinstance(found, BaseException):
            raise found
        if not isinstance(found, InUse):
            found.doubted = lambda: SimpleNamespace(doubt=MISSING, doubted=found.doubted)
        return found  # type: ignore[no-any-return]

    def after(self, seconds: float, **how: bool) -> bool:
        self.at += seconds
        return self.refresh(**how)


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_folders_are_looked_at_once_a_second(lists: Watched) -> None:
    lists.folders = ["b"]
    assert [lists.after(0.5), lists.after(0.5), lists.after(1.0)] == [False, True, False]
    lists.folders = ["c"]
    assert [lists.after(0.5), lists.after(0.5), lists.after(0.75)] == [False, True, False]
    assert lists.opens == 3


def test_lists_are_opened_again_each_minute(lists: Watched) -> None:
    assert [lists.after(59.0), lists.after(0.5), lists.after(0.5)] == [False, False, True]
    # The next look is due one second after the last one.
    assert [lists.after(59.5), lists.after(0.5), lists.after(0.5)] == [False, False, True]


def test_lists_are_opened_at_once_if_that_is_asked_for(lists: Watched) -> None:
    assert [lists.after(0.0, force=True), lists.after(0.0), lists.after(0.0, force=True)] == [
        True,
        False,
        True,
    ]


def test_lists_that_have_become_stale_are_opened_at_once(lists: Watched) -> None:
    lists.now.doubt = STALE  # type: ignore[misc]
    lists.found = [SimpleNamespace(doubt=STALE)]
    assert [lists.after(0.1), lists.after(0.1)] == [True, False]
    lists.now.doubt = None  # type: ignore[misc]
    assert lists.after(0.1)


@pytest.mark.parametrize(
    "error", [StateError("damaged"), ConfigError("no key"), OSError(5, "x"), MemoryError()]
)
def test_lists_that_cannot_be_opened_are_tried_again_after_a_second(
    lists: Watched, error: Exception
) -> None:
    lists.folders = ["b"]
    lists.found = [error, error]
    assert [lists.after(1.0), lists.after(0.9), lists.after(0.1)] == [False, False, False]
    assert (lists.now.doubt, lists.opens) == (MISSING, 3)
    assert [lists.after(1.0), lists.after(1.0)] == [True, False]
    assert lists.now.doubt is None


def test_unchanged_lists_that_could_not_be_opened_are_tried_again_after_a_second(
    lists: Watched,
) -> None:
    lists.found = [StateError("damaged")]
    assert [lists.after(1.0, force=True), lists.after(0.9), lists.after(0.1)] == [
        False,
        False,
        True,
    ]


def test_an_error_that_is_a_bug_is_raised(lists: Watched) -> None:
    lists.found = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        lists.after(0.0, force=True)


def test_at_its_start_a_daemon_with_lists_that_cannot_be_opened_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> InUse:
        raise StateError("no list")

    monkeypatch.setattr(Watched, "_open", fail)
    with pytest.raises(StateError):
        Watched(monkeypatch)


LATE = "list base was last checked {}; from {} on nothing is answered as clean"


@pytest.mark.parametrize(
    ("checked", "expires", "grace", "text"),
    [
        (-DAY, DAY, 0 * DAY, None),
        (
            *(-DAY - TICK, DAY, 0 * DAY),
            LATE.format("2026-04-30 11:59 UTC", "2026-05-02 12:00 UTC"),
        ),
        (0 * DAY, TICK, 0 * DAY, None),
        (*(0 * DAY, 0 * DAY, HOUR), LATE.format("2026-05-01 12:00 UTC", "2026-05-01 13:00 UTC")),
        (
            *(0 * DAY, -HOUR, HOUR),
            "list base is stale since 2026-05-01 12:00 UTC: nothing is answered as clean",
        ),
        (
            *(0 * DAY, TICK - HOUR, HOUR),
            LATE.format("2026-05-01 12:00 UTC", "2026-05-01 12:00 UTC"),
        ),
    ],
)
def test_when_a_list_is_warned_of(
    checked: timedelta, expires: timedelta, grace: timedelta, text: str | None
) -> None:
    assert age_of(manifest(checked=NOW + checked, expires=NOW + expires), grace, NOW) == text


class Ages(Ageing):
    """Warnings about lists that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 0.0
        self.said: list[tuple[str, str | None]] = []
        self.ages: dict[str, str] = {}
        self.looks = 0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.at))
        super().__init__(session(), lambda text, hint: self.said.append((text, hint)))

    def _ages(self) -> Any:
        self.looks += 1
        return iter(self.ages.items())

    def after(self, seconds: float) -> list[str]:
        self.at += seconds
        return self.look()


def test_ages_are_looked_at_once_an_hour_and_the_same_list_warned_of_once_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ages = Ages(monkeypatch)
    ages.ages = {"a": "a is old"}
    assert (ages.after(0), ages.after(3599.9), ages.looks) == (["a is old"], [], 1)
    ages.ages["b"] = "b is old"
    assert (ages.after(0.1), ages.looks) == (["b is old"], 2)
    # The list `a` is due a day after its first warning, and `b` an hour later.
    assert (ages.after(86_400 - 7200), ages.looks) == ([], 3)
    assert ages.after(3600) == ["a is old"]
    assert ages.after(3600) == ["b is old"]
    assert ages.said == [(text, HINT) for text in ("a is old", "b is old") * 2]


def test_each_list_on_the_disk_is_aged_up_to_one_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifests: dict[str, Any] = {
        "fresh": manifest("fresh"),
        "empty": None,
        "old": manifest("old", checked=NOW - 2 * DAY),
        "base": manifest(checked=NOW - 2 * DAY, expires=NOW - HOUR),
        "damaged": StateError("damaged"),
        "stale": manifest("stale", expires=NOW - HOUR),
    }

    def load(folder: Path, sealer: object) -> Any:
        assert (folder.parent.name, sealer) == ("lists", "sealer")
        found = manifests[folder.name]
        if isinstance(found, Exception):
            raise found
        return found

    of = session(grace=2 * HOUR)
    of.settings.layout = SimpleNamespace(lists=Path("/state/lists"))
    of.sealer = lambda: "sealer"
    monkeypatch.setattr(module, "load_manifest", load)
    monkeypatch.setattr(module, "list_folders", lambda _: list(manifests))
    ages = Ageing(of, lambda _, __: None)
    assert [name for name, _ in ages._ages()] == ["old", "base"]
    assert [text.split()[1] for text in ages.look()] == ["old", "base"]

    def fail() -> str:
        raise ConfigError("no key")

    of.sealer = fail
    assert list(ages._ages()) == []
