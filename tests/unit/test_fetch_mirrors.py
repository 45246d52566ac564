"""Several addresses of one provider: each is asked in order for the lists still missing."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.client import Client, csv
from fixtures.simulator import URL, Simulator, endless, status, truncated
from hashclient.config.tables import MirrorConfig, OAuthConfig, ProviderConfig
from hashclient.core.errors import (
    ConfigError,
    ExitCode,
    HashclientError,
    StaleError,
    UnreachableError,
    VerificationError,
)
from hashclient.fetch.fetcher import How
from hashclient.fetch.places import Place, addresses
from hashclient.fetch.providers import PATIENCE, fetch_in_turn
from hashclient.fetch.switch import Fetched
from hashclient.migrations.migrate import writing
from hashclient.status.status import read_status

ALL = range(40)


def place_of(mirror: Simulator, name: str) -> Place:
    return Place(name, URL, lambda: contextlib.nullcontext(mirror))


class Mirrors:
    """A provider, a client, and mirrors of the provider that can fail separately."""

    def __init__(self, directory: Path) -> None:
        self.provider = Simulator(directory / "provider")
        self.provider.publish(csv(range(10)))
        self.provider.publish(csv(range(10, 15)), "other")
        self.old = dict(self.provider.files)
        self.provider.publish(csv(range(20, 25)))
        self.client = Client(directory / "state", self.provider, self.provider.root)
        self.told: list[HashclientError] = []
        self.clock: Callable[[], float] = lambda: 0.0

    def mirror(self, **faults: Any) -> Simulator:
        """Return a mirror of the provider's current files; `faults` breaks files by their names."""
        mirror = copy.copy(self.provider)
        mirror.files, mirror.requests = dict(self.provider.files), []
        mirror.faults = {
            f"*{pattern.replace('_', '.')}*": fault for pattern, fault in faults.items()
        }
        return mirror

    def fetch(self, *mirrors: Simulator | Place, only: tuple[str, ...] = ()) -> list[Fetched]:
        """Fetch from these mirrors; the first mirror is called m-1."""
        places = [
            mirror if isinstance(mirror, Place) else place_of(mirror, f"m-{n}")
            for n, mirror in enumerate(mirrors, 1)
        ]
        self.told.clear()
        with writing(self.client.settings.layout):
            session = self.client.session
            session.sealer(create=True)
            how = How(on_failure=self.told.append)
            return list(fetch_in_turn(session, "main", places, only, how, monotonic=self.clock))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the data of the log records of one kind."""
        lines = (self.client.settings.layout.audit / "log.jsonl").read_text().splitlines()
        return [r["data"] for r in map(json.loads, lines) if r["event"] == kind]


@pytest.fixture
def world(tmp_path: Path) -> Mirrors:
    return Mirrors(tmp_path)


def fetched_all(results: list[Fetched], source: str) -> bool:
    return {(r.list_name, r.error, r.source) for r in results} == {
        ("baseline", None, source),
        ("other", None, source),
    }


def test_the_first_is_enough_and_no_other_is_asked(world: Mirrors) -> None:
    one, two = world.mirror(), world.mirror()
    assert fetched_all(world.fetch(one, two), "m-1")
    one.requests.clear()
    assert fetched_all(world.fetch(one, two), "m-1")
    # The client sends two requests, as with one address: for a newer root, and for the timestamp.
    assert len(one.requests) == 2 and two.requests == []
    assert world.told == [] and world.events("refused") == []
    assert {event["source"] for event in world.events("fetch")} == {"m-1"}


def garbled(_url: str, data: bytes, _max_bytes: int) -> bytes:
    return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ({"timestamp": truncated}, 4),
        ({"timestamp": status(503)}, 4),
        ({"timestamp": status(404)}, 4),
        ({"snapshot": status(404)}, 4),
        ({"timestamp": status(401)}, 5),
        ({"timestamp": garbled}, 6),
        ({"snapshot": garbled}, 6),
        ({"targets_json": endless}, 6),
        ({"root": status(500)}, 4),
    ],
)
def test_a_mirror_that_fails_as_a_whole_is_passed_over(
    world: Mirrors, faults: dict[str, Any], code: int
) -> None:
    one, two = world.mirror(**faults), world.mirror()
    assert fetched_all(world.fetch(one, two), "m-2")
    (told,) = world.told
    assert told.exit_code == code
    assert told.message.startswith("m-1 is passed over: ")
    (refused,) = world.events("refused")
    assert (refused["source"], refused["list"], refused["exit_code"]) == ("m-1", None, code)
    assert world.client.numbers(ALL) == {*range(15), *range(20, 25)}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ({"g000002": status(404)}, 4),
        ({"g000002": truncated}, 4),
        ({"g000002": garbled}, 6),
        ({"g000002": endless}, 6),
        ({"baseline_json": status(404)}, 4),
        ({"baseline_json": garbled}, 6),
    ],
)
def test_a_mirror_that_fails_for_one_list_is_asked_for_the_others(
    world: Mirrors, faults: dict[str, Any], code: int
) -> None:
    one, two = world.mirror(**faults), world.mirror()
    results = {r.list_name: r for r in world.fetch(one, two)}
    assert [results[name].source for name in ("baseline", "other")] == ["m-2", "m-1"]
    assert all(r.error is None for r in results.values())
    assert not [path for path in two.requests if "other" in path]
    assert [e.exit_code for e in world.told] == [code]
    (refused,) = world.events("refused")
    assert (refused["source"], refused["list"], refused["exit_code"]) == ("m-1", "baseline", code)
    assert world.client.numbers(ALL) == {*range(15), *range(20, 25)}


def test_a_mirror_that_lags_is_passed_over_once_something_newer_is_here(world: Mirrors) -> None:
    one, two = world.mirror(), world.mirror()
    one.files = dict(world.old)
    # A first fetch takes the older generation of the mirror, as the client knows no newer
    # generation.
    assert {r.generation for r in world.fetch(one, two)} == {1}
    world.fetch(two)
    assert world.client.numbers(ALL) == {*range(15), *range(20, 25)}
    assert fetched_all(world.fetch(one, two), "m-2")
    (told,) = world.told
    assert told.exit_code is ExitCode.UNVERIFIED and "m-1" in told.message
    # If only this mirror is configured, it is refused because it offers an older version.
    with pytest.raises(VerificationError):
        world.fetch(one)
    assert world.client.numbers(ALL) == {*range(15), *range(20, 25)}


def test_a_mirror_that_holds_updates_back_until_they_expire_is_passed_over(world: Mirrors) -> None:
    one, two = world.mirror(), world.mirror()
    frozen = copy.copy(world.provider)
    frozen.files = dict(one.files)
    frozen.expire("timestamp", datetime.now(UTC) - timedelta(days=1))
    one.files = frozen.files
    world.provider.renew()
    world.provider.renew()
    two.files = dict(world.provider.files)
    assert fetched_all(world.fetch(one, two), "m-2")
    assert [error.exit_code for error in world.told] == [ExitCode.STALE]


def test_a_mirror_that_lacks_the_newest_root_is_passed_over(world: Mirrors) -> None:
    """The mirror answers 404 for the new root, so its other metadata fails verification."""
    world.fetch(world.mirror())
    world.provider.rotate("timestamp")
    world.provider.renew()
    one, two = world.mirror(), world.mirror()
    one.files.pop("metadata/2.root.json")
    assert fetched_all(world.fetch(one, two), "m-2")
    assert [error.exit_code for error in world.told] == [ExitCode.UNVERIFIED]


def test_the_metadata_of_one_mirror_and_the_files_of_another(world: Mirrors) -> None:
    """Mirror 1 has new metadata without files, mirror 2 only old files, mirror 3 all new files."""
    new = world.mirror(parquet=status(404))
    old = world.mirror()
    old.files = dict(world.old)
    results = {r.list_name: r for r in world.fetch(new, old, world.mirror())}
    assert {r.source for r in results.values()} == {"m-3"}
    assert [error.exit_code for error in world.told] == [4, 4, 6]


def test_signed_lists_that_are_refused_are_requested_once(world: Mirrors) -> None:
    world.fetch(world.mirror())
    limited = msgspec.structs.replace(world.client.settings.config.providers["main"], max_churn=0.1)
    world.client.settings = msgspec.structs.replace(
        world.client.settings,
        config=msgspec.structs.replace(world.client.settings.config, providers={"main": limited}),
    )
    world.provider.publish(csv(range(30, 40)))
    one, two = world.mirror(), world.mirror()
    results = {r.list_name: r for r in world.fetch(one, two)}
    error = results["baseline"].error
    assert isinstance(error, VerificationError) and "max_churn" in error.message
    assert two.requests == [] and world.told == []


def test_when_all_have_failed_the_worst_is_raised_and_each_is_reported(world: Mirrors) -> None:
    with pytest.raises(VerificationError) as caught:
        world.fetch(
            world.mirror(timestamp=truncated),
            world.mirror(timestamp=garbled),
            world.mirror(timestamp=status(404)),
        )
    assert [error.exit_code for error in world.told] == [4, 6]
    assert caught.value.exit_code is ExitCode.UNVERIFIED
    assert [event["source"] for event in world.events("refused")] == ["m-1", "m-2", "m-3"]


def test_a_list_that_none_has_ends_with_the_worst_of_what_is_wrong(world: Mirrors) -> None:
    mirrors = (world.mirror(g000002=garbled), world.mirror(timestamp=truncated))
    results = {r.list_name: r for r in world.fetch(*mirrors)}
    assert results["other"].error is None
    error = results["baseline"].error
    assert error is not None and error.exit_code is ExitCode.UNVERIFIED
    mirrors = (world.mirror(g000002=truncated), world.mirror(timestamp=garbled))
    results = {r.list_name: r for r in world.fetch(*mirrors)}
    error = results["baseline"].error
    assert error is not None and error.exit_code is ExitCode.UNVERIFIED


def test_one_list_alone_is_asked_for_at_each(world: Mirrors) -> None:
    one, two = world.mirror(timestamp=truncated), world.mirror()
    (fetched,) = world.fetch(one, two, only=("other",))
    assert (fetched.list_name, fetched.source) == ("other", "m-2")
    assert not [path for path in two.requests if "baseline" in path]


def test_mirrors_that_fail_for_too_long_end_it(world: Mirrors) -> None:
    seconds = iter(range(0, 10_000_000, 200))
    world.clock = lambda: float(next(seconds))
    assert PATIENCE * world.client.settings.provider("main").timeout_s == 240
    asked = world.mirror(timestamp=truncated), world.mirror(timestamp=truncated)
    third = world.mirror()
    with pytest.raises(UnreachableError):
        world.fetch(*asked, third)
    assert third.requests == []
    assert "not asked: m-3" in world.told[-1].message


def test_a_wrong_clock_is_no_fault_of_a_mirror(world: Mirrors) -> None:
    world.fetch(world.mirror())
    world.client.now -= timedelta(days=3)
    one, two = world.mirror(), world.mirror()
    with pytest.raises(StaleError, match="the clock shows"):
        world.fetch(one, two)
    assert one.requests == two.requests == [] == world.told


def test_a_credential_that_is_not_here_is_a_fault_of_its_mirror(world: Mirrors) -> None:
    provider = ProviderConfig(
        url="https://one.test/x", root_sha256="", token_file="/nonexistent/token"
    )
    (first,) = addresses("main", provider)
    assert fetched_all(world.fetch(first, world.mirror()), "m-2")
    (told,) = world.told
    assert isinstance(told, ConfigError) and "https://one.test/x is passed over" in told.message
    (refused,) = world.events("refused")
    assert (refused["source"], refused["exit_code"]) == ("https://one.test/x", 2)
    with pytest.raises(ConfigError):
        world.fetch(first)


def test_status_says_from_where_lists_came(world: Mirrors) -> None:
    world.fetch(world.mirror(g000002=status(404)), world.mirror())
    status_now = read_status(world.client.settings, {}, world.client.now)
    assert status_now.audit is not None
    assert status_now.audit.sources == {"baseline": "m-2", "other": "m-1"}


# Settings


def test_each_mirror_has_a_credential_of_its_own_and_nothing_from_another(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("first\n")
    provider = ProviderConfig(
        url="http://127.0.0.1:1/x",
        root_sha256="",
        allow_http=True,
        token_file=str(token),
        mirrors=(
            MirrorConfig(url="http://127.0.0.1:2/y", allow_http=True),
            MirrorConfig(url="https://three.test/z", token_env="NOBODY_HAS_SET_THIS"),
        ),
    )
    one, two, three = addresses("main", provider)
    assert [place.base for place in (one, two, three)] == [
        "http://127.0.0.1:1/x",
        "http://127.0.0.1:2/y",
        "https://three.test/z",
    ]
    with one.open() as first, two.open() as second:
        assert first._authorization == "Bearer first"  # type: ignore[attr-defined]
        assert second._authorization is None  # type: ignore[attr-defined]
        # A credential for one address is never sent to the other address.
        for source, url in ((first, two.base), (second, one.base)):
            with pytest.raises(VerificationError, match="address refused"):
                source.get(f"{url}/metadata/timestamp.json", 100)
    with pytest.raises(ConfigError, match="NOBODY_HAS_SET_THIS"), three.open():
        pass


def test_settings_of_a_mirror_that_contradict_each_other_are_found_at_once() -> None:
    bad = MirrorConfig(url="https://two.test", oauth=OAuthConfig("https://t.test", "me"))
    provider = ProviderConfig(url="https://one.test", root_sha256="", mirrors=(bad,))
    with pytest.raises(ConfigError, match="oauth needs client_secret_file or"):
        addresses("main", provider)


def test_a_busy_server_is_waited_for_only_where_it_has_no_mirror() -> None:
    mirrors = (MirrorConfig(url="https://two.test"),)
    provider = ProviderConfig(url="https://one.test", root_sha256="", mirrors=mirrors)
    one, two = (place.open() for place in addresses("main", provider))
    with one as first, two as second:
        limits = [source._limits.retry_total_s for source in (first, second)]  # type: ignore[attr-defined]
    assert limits == [30.0, 120.0]
