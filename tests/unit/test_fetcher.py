"""The fetch pipeline: several lists, also damaged, unfinished or consolidated lists.

Attacks are in `tests/faults/test_attacks_*.py`, kills and failing disks in `test_crash.py`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fixtures.client import Client, csv, digests_of
from fixtures.crash import Recorder, watched
from fixtures.simulator import Simulator, status
from hashclient.config.tables import AccessConfig, OAuthConfig
from hashclient.core.errors import (
    AuthorisationError,
    ConfigError,
    StateError,
    UnreachableError,
    VerificationError,
)
from hashclient.core.kinds import Algorithm
from hashclient.fetch import build, fetcher
from hashclient.fetch.fetcher import Fetcher, How
from hashclient.fetch.providers import Received
from hashclient.fetch.switch import Fetched
from hashclient.index import writer
from hashclient.index.blinding import Sealer
from hashclient.index.manifest import Manifest, verify_runs, write_manifest
from hashclient.index.reader import open_index
from hashclient.index.run import DamagedError, Run
from hashclient.index.writer import Room
from hashclient.lists.wire import add_schema, encode_segment, parse_index
from hashclient.net.client import access_of
from hashclient.net.credentials import OAuth
from hashclient.system.files import writer_lock
from tests.kit import edit_manifest

ALL = range(40)
DAY = timedelta(days=1)


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    simulator = Simulator(tmp_path / "repo")
    for start in (0, 10, 20):
        simulator.publish(csv(range(start, start + 10)))
    return simulator


@pytest.fixture
def client(tmp_path: Path, simulator: Simulator) -> Client:
    return Client(tmp_path / "state", simulator, simulator.root)


def folder(client: Client, list_name: str = "baseline") -> Path:
    return client.settings.layout.lists / list_name


def events(client: Client) -> list[dict[str, Any]]:
    lines = (client.settings.layout.audit / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def segments_asked_for(simulator: Simulator) -> list[str]:
    names = [r.split(".", 1)[1] for r in simulator.requests if r.startswith("targets/")]
    return sorted(name for name in names if name.endswith("parquet"))


def all_results(client: Client, *only: str) -> list[Fetched]:
    """Fetch, and return the result for each list, also for a refused list."""
    settings = client.settings
    with writer_lock(settings.layout.lock):
        return list(Fetcher(client.session, "main", client.source).fetch(frozenset(only)))


def configured(client: Client, **changes: Any) -> None:
    """Change the client's configuration of the provider."""
    config = client.settings.config
    provider = msgspec.structs.replace(config.providers["main"], **changes)
    client.settings = msgspec.structs.replace(
        client.settings, config=msgspec.structs.replace(config, providers={"main": provider})
    )


# Reported results


def test_the_result_for_a_list_is_returned(client: Client, simulator: Simulator) -> None:
    (first,) = client.fetch()
    assert first.changed
    assert (first.before, first.generation, first.added, first.withdrawn) == (None, 3, 30, 0)
    assert first.entries == 30 and first.expires is not None
    simulator.withdraw("e-1", "e-2")
    simulator.publish(csv([30]))
    (second,) = client.fetch()
    assert (second.before, second.generation, second.added, second.withdrawn) == (3, 5, 1, 2)
    (third,) = client.fetch()
    assert not third.changed
    assert (third.before, third.generation, third.added, third.withdrawn) == (5, 5, 0, 0)


def test_the_audit_log_records_everything(client: Client, simulator: Simulator) -> None:
    client.fetch()
    simulator.edit_index(lambda document: document.update(generation=1))
    with pytest.raises(VerificationError):
        client.fetch()
    simulator.faults["*"] = status(403)
    with pytest.raises(AuthorisationError):
        client.fetch()
    heard = [
        (e["event"], e["data"].get("list"), e["data"].get("exit_code")) for e in events(client)
    ]
    assert heard[1:] == [
        ("fetch", "baseline", None),
        ("refused", "baseline", 6),
        ("refused", None, 5),
    ]


def test_a_generation_its_metadata_and_its_record_are_synced(
    client: Client, simulator: Simulator
) -> None:
    client.fetch()
    simulator.publish(csv([30]))
    recorder = Recorder()
    with watched(recorder):
        client.fetch()
    synced = {str(a): n for n, (name, a) in enumerate(recorder.calls) if name == "fsync"}
    switched = synced[str(folder(client))]
    trust = client.settings.layout.provider("main") / "metadata"
    # The metadata of the list is loaded after the metadata of the top level was synced.
    assert synced[str(trust)] > synced[str(trust / "baseline.json")] > switched
    log = client.settings.layout.audit / "log.jsonl"
    assert synced[str(log)] > switched
    (recorded,) = (n for n, call in enumerate(recorder.calls) if call == ("write", str(log)))
    assert recorded > switched


def test_a_refusal_is_on_the_disk_when_it_is_reported(client: Client, simulator: Simulator) -> None:
    client.fetch()
    simulator.replace_target("index.json", b"{}")
    recorder = Recorder()
    with watched(recorder), pytest.raises(VerificationError):
        client.fetch()
    log = str(client.settings.layout.audit / "log.jsonl")
    assert ("fsync", log) in recorder.calls


def test_progress_is_reported_in_bytes(client: Client, simulator: Simulator) -> None:
    told: list[tuple[str, int, int]] = []
    settings = client.settings
    with writer_lock(settings.layout.lock):
        session = client.session
        session.sealer(create=True)
        how = How(progress=lambda *now: told.append(now))
        fetcher = Fetcher(session, "main", simulator, how)
        list(fetcher.fetch())
    total = sum(
        len(simulator.files[simulator.target_path(f"g00000{n}-add-000.parquet")]) for n in (1, 2, 3)
    )
    assert {(name, whole) for name, _, whole in told} == {("baseline", total)}
    done = [bytes_done for _, bytes_done, _ in told]
    assert done == sorted(done) and done[0] == 0 and done[-1] == total


def test_a_check_that_finds_nothing_new_is_noted(client: Client, simulator: Simulator) -> None:
    """A check changes two times: the end of the list's validity, and the time of the check."""
    client.fetch()
    before = client.manifest()
    later = client.now + timedelta(hours=3)
    simulator.edit("timestamp", lambda signed: setattr(signed, "expires", signed.expires + 2 * DAY))
    client.now = later
    assert not client.fetch()[0].changed
    after = client.manifest()
    assert before is not None and after is not None
    assert (after.checked_at, after.fetched_at) == (later, before.fetched_at)
    assert after.expires > before.expires
    assert (after.verified_at, before.verified_at) == (later, before.fetched_at)
    changed = ("mac", "checked_at", "expires", "verified_at", "oldest_verified")
    unchanged = {name: getattr(before, name) for name in changed}
    assert msgspec.structs.replace(after, **unchanged) == before


def test_the_manifest_says_what_vouches_for_it(client: Client, simulator: Simulator) -> None:
    client.fetch()
    manifest = client.manifest()
    assert manifest is not None
    assert manifest.provider == "main" and manifest.checked_at == client.now
    assert manifest.expires == simulator.metadata("timestamp").signed.expires
    index = parse_index(simulator.files[simulator.target_path("index.json")], "baseline")
    assert (manifest.generation, manifest.entries, manifest.checksum) == (
        index.generation,
        index.entries,
        index.checksum,
    )
    assert manifest.with_digest == {"md5": 30, "sha1": 20, "sha256": 20}
    assert manifest.with_size == 20


# Several lists


@pytest.mark.slow
def test_several_lists_are_fetched_and_one_that_is_refused_does_not_hold_up_the_others(
    client: Client, simulator: Simulator
) -> None:
    simulator.publish(csv(range(30, 33)), list_name="other")
    simulator.publish(csv(range(33, 36)), list_name="third")
    assert [f.list_name for f in client.fetch()] == ["baseline", "other", "third"]
    assert client.numbers(ALL) == set(range(36))
    for name in ("baseline", "other", "third"):
        simulator.publish(csv([{"baseline": 36, "other": 37, "third": 38}[name]]), list_name=name)
    simulator.replace_target("index.json", b"{}", "other")
    results = all_results(client)
    assert [type(f.error) for f in results] == [type(None), VerificationError, type(None)]
    assert [f.changed for f in results] == [True, False, True]
    assert client.numbers(ALL) == {*range(37), 38}


@pytest.mark.parametrize("long", [10_000, 0], ids=["short lists", "long lists"])
def test_lists_wait_for_the_disk_together_and_for_no_long_list(
    client: Client, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, long: int
) -> None:
    simulator.publish(csv([30]), list_name="other")
    monkeypatch.setattr(fetcher, "LONG", long)
    monkeypatch.setattr(fetcher, "BUILT_S", 1e9)
    recorder = Recorder()
    with watched(recorder):
        client.fetch()
    calls = [(name, str(argument)) for name, argument in recorder.calls]
    lists = client.settings.layout.lists
    # The last sync is of the name of the manifest; the sync before is of all files that it names.
    ready, switched = zip(
        *(
            [n for n, call in enumerate(calls) if call == ("fsync", str(lists / name))][-2:]
            for name in ("baseline", "other")
        ),
        strict=True,
    )
    assert (max(ready) < min(switched)) == (long > 0)
    assert (switched[0] < ready[1]) == (long == 0)
    runs = [n for n, (name, path) in enumerate(calls) if name == "fsync" and "/run-" in path]
    assert len(runs) == 2 and min(runs) < min(ready) and max(runs) < max(ready)
    logged = calls.count(("write", str(client.settings.layout.audit / "log.jsonl")))
    assert logged == (1 if long else 2)
    assert [e["data"]["list"] for e in events(client) if e["event"] == "fetch"] == [
        "baseline",
        "other",
    ]


@pytest.mark.slow
def test_a_list_that_cannot_be_switched_to_holds_up_no_other(
    client: Client, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.fetch()
    before = len(events(client))
    simulator.publish(csv([30]))
    simulator.publish(csv([31]), list_name="other")

    def refuse(directory: Path, manifest: Manifest, sealer: Sealer) -> None:
        if directory.name == "baseline":
            raise StateError("cannot write")
        write_manifest(directory, manifest, sealer)

    with monkeypatch.context() as patch:
        patch.setattr("hashclient.fetch.switch.write_manifest", refuse)
        results = all_results(client)
    assert [f.error and f.error.message for f in results] == ["cannot write", None]
    assert [e["event"] for e in events(client)[before:]] == ["fetch", "refused"]
    assert client.numbers(ALL) == {*range(30), 31}
    client.fetch()
    assert client.numbers(ALL) == set(range(32))


def test_only_the_lists_that_are_asked_for(client: Client, simulator: Simulator) -> None:
    simulator.publish(csv([30]), list_name="other")
    assert [f.list_name for f in client.fetch("other")] == ["other"]
    assert client.numbers(ALL) == {30}


def test_only_the_lists_of_the_configuration(tmp_path: Path, simulator: Simulator) -> None:
    simulator.publish(csv([30]), list_name="other")
    client = Client(tmp_path / "s", simulator, simulator.root, lists=("other",))
    assert [f.list_name for f in client.fetch()] == ["other"]
    assert client.numbers(ALL) == {30}
    client = Client(tmp_path / "t", simulator, simulator.root, lists=("other", "nothing"))
    with pytest.raises(VerificationError, match="does not offer list nothing") as caught:
        client.fetch()
    assert "the provider offers: baseline, other" in (caught.value.hint or "")


def test_a_provider_that_offers_nothing_to_fetch(tmp_path: Path) -> None:
    """Without lists, no list is up to date, and no scan would exit with 0."""
    simulator = Simulator(tmp_path / "empty")
    client = Client(tmp_path / "state", simulator, simulator.root)
    with pytest.raises(StateError, match="provider main: no list is offered"):
        client.fetch()
    assert events(client)[-1]["event"] == "refused"
    simulator.publish(csv(ALL))
    (fetched,) = client.fetch()
    assert fetched.entries == len(ALL)


def test_a_list_of_another_provider_is_left_alone(client: Client) -> None:
    client.fetch()
    edit_manifest(client.settings.state_dir, "baseline", provider="elsewhere")
    with pytest.raises(ConfigError, match="is here already, from provider elsewhere"):
        client.fetch()
    assert client.numbers(ALL) == set(range(30))


def test_a_damaged_list_of_another_provider_is_left_alone(client: Client) -> None:
    client.fetch()
    edit_manifest(client.settings.state_dir, "baseline", provider="elsewhere")
    (run,) = folder(client).glob("run-*")
    os.truncate(run, 99)
    with pytest.raises(ConfigError, match="is here already, from provider elsewhere"):
        client.fetch()


# Damage


@pytest.mark.sampled
@pytest.mark.parametrize(
    "damage", [b"", b"{", b"{}", b"[]", b"\xff", b'{"format": "hashclient-index/0"}'], ids=ascii
)
def test_a_damaged_manifest_is_an_error_until_the_next_fetch(client: Client, damage: bytes) -> None:
    client.fetch()
    (folder(client) / "manifest.json").write_bytes(damage)
    with pytest.raises(StateError) as caught:
        client.open()
    assert "hashclient fetch" in (caught.value.hint or "")
    (fetched,) = client.fetch()
    assert fetched.generation == 3
    assert client.numbers(ALL) == set(range(30))
    assert client.leftovers() == set()


@pytest.mark.sampled
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "longer", "header"])
def test_a_damaged_run_is_an_error_until_the_next_fetch(client: Client, damage: str) -> None:
    client.fetch()
    (run,) = folder(client).glob("run-*")
    data = run.read_bytes()
    if damage == "gone":
        run.unlink()
    else:
        run.write_bytes(
            {
                "empty": b"",
                "cut": data[:-64],
                "longer": data + b"x",
                "header": data[:16] + b"x" + data[17:],
            }[damage]
        )
    with pytest.raises(StateError) as caught:
        client.open()
    assert "hashclient fetch" in (caught.value.hint or "")
    client.fetch()
    assert client.numbers(ALL) == set(range(30))
    assert client.leftovers() == set()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_manifest_that_lost_a_run_is_damage_until_the_next_fetch(
    client: Client, simulator: Simulator, lost: int
) -> None:
    """A manifest that lacks a run must be refused: entries of the run would match no file."""
    client.fetch()
    simulator.publish(csv(range(30, 33)))
    client.fetch()
    path = folder(client) / "manifest.json"
    document = json.loads(path.read_bytes())
    assert [run["entries"] for run in document["runs"]] == [30, 3]
    del document["runs"][lost]
    edit_manifest(client.settings.state_dir, "baseline", runs=document["runs"])
    with pytest.raises(DamagedError, match=r"has (3|30) entries, its manifest says 33") as caught:
        open_index(folder(client), client.session.sealer())
    assert "hashclient fetch" in (caught.value.hint or "")
    client.fetch()
    assert client.numbers(ALL) == set(range(33))
    assert client.leftovers() == set()


def test_rot_is_not_merged_into_a_new_run(client: Client, simulator: Simulator) -> None:
    """A damaged run is not merged, because the merged run would get a valid digest."""
    client.fetch()
    (run,) = folder(client).glob("run-*")
    data = bytearray(run.read_bytes())
    for position in range(len(data) // 2, len(data)):
        data[position] ^= 0x55
    run.write_bytes(data)
    simulator.publish(csv(range(30, 40)))
    client.fetch()
    assert client.numbers(ALL) == set(range(40))
    manifest = client.manifest()
    assert manifest is not None
    verify_runs(folder(client), manifest.runs)


def test_damage_that_cannot_be_mended_yet_stays_an_error(
    client: Client, simulator: Simulator
) -> None:
    client.fetch()
    (folder(client) / "manifest.json").write_bytes(b"{")
    simulator.faults["targets/*.parquet"] = status(500)
    with pytest.raises(UnreachableError):
        client.fetch()
    with pytest.raises(StateError, match="damaged"):
        client.open()
    simulator.faults.clear()
    client.fetch()
    assert client.numbers(ALL) == set(range(30))


def test_another_seal_key_is_refused(client: Client) -> None:
    client.fetch()
    before = client.list_files()
    path = client.settings.state_dir / "seal.key"
    path.write_text("ab" * 32)
    with pytest.raises(StateError, match="sealed with another key"):
        client.fetch()
    path.unlink()
    with pytest.raises(StateError, match="no seal key"):
        client.fetch()
    assert client.list_files() == before


# Unfinished builds


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Room, "of", lambda _: Room(run_rows=10))


def break_off(client: Client, simulator: Simulator) -> None:
    """Fail the connection at the last segment of a first fetch."""
    simulator.faults["*g000003*"] = status(500)
    with pytest.raises(UnreachableError):
        client.fetch()
    simulator.faults.clear()
    simulator.requests.clear()
    assert client.manifest() is None
    assert (folder(client) / "staging.json").exists()


@pytest.mark.slow
def test_a_build_that_broke_off_goes_on(
    client: Client, simulator: Simulator, small_runs: None
) -> None:
    break_off(client, simulator)
    (fetched,) = client.fetch()
    assert segments_asked_for(simulator) == ["g000003-add-000.parquet"]
    assert (fetched.before, fetched.added) == (None, 30)
    assert client.numbers(ALL) == set(range(30))
    assert client.leftovers() == set()


@pytest.mark.sampled
@pytest.mark.parametrize("what", ["newer", "damaged", "other key", "run gone", "nonsense"])
def test_a_build_that_cannot_go_on_starts_again(
    client: Client, simulator: Simulator, small_runs: None, what: str
) -> None:
    break_off(client, simulator)
    staging = folder(client) / "staging.json"
    if what == "newer":
        simulator.publish(csv([30]))
    elif what == "damaged":
        staging.write_bytes(b"{")
    elif what == "nonsense":
        document = json.loads(staging.read_bytes())
        document["partial"]["runs"][0]["length"] = 1
        staging.write_text(json.dumps(document))
    elif what == "other key":
        (client.settings.state_dir / "seal.key").write_text("ab" * 32)
    else:
        next(folder(client).glob("run-*")).unlink()
    client.fetch()
    assert len(segments_asked_for(simulator)) == (4 if what == "newer" else 3)
    assert client.numbers(ALL) == set(range(31 if what == "newer" else 30))
    assert client.leftovers() == set()


@pytest.mark.slow
def test_no_build_continues_from_a_damaged_one(
    client: Client, simulator: Simulator, small_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge finds invalid rows, and the client then discards the unfinished build."""
    break_off(client, simulator)
    # The disk fails after the unfinished build was verified.
    monkeypatch.setattr(build, "verify_runs", lambda *_: {})
    monkeypatch.setattr(writer, "verify_runs", lambda *_: {})
    path = min(folder(client).glob("run-*"))
    rows = Run(path).section("md5.row")
    assert rows is not None
    data = path.read_bytes()
    with path.open("r+b") as stream:
        stream.write(data.replace(rows.tobytes(), b"\xfe" * rows.nbytes))
    with pytest.raises(DamagedError):
        client.fetch()
    assert client.manifest() is None
    assert not (folder(client) / "staging.json").exists()
    client.fetch()
    assert client.numbers(ALL) == set(range(30))
    assert client.leftovers() == set()


def rot_tags(run: Path) -> None:
    """Change half of every tag in a run, like a failing disk: the run opens, but finds nothing."""
    data = run.read_bytes()
    sections = [Run(run).section(f"{algorithm.label}.lo") for algorithm in Algorithm]
    for tags in sections:
        assert tags is not None
        data = data.replace(tags.tobytes(), bytes(byte ^ 0x55 for byte in tags.tobytes()))
    assert data != run.read_bytes()
    run.write_bytes(data)


@pytest.mark.slow
def test_a_build_does_not_continue_from_damaged_bytes(
    client: Client, simulator: Simulator, small_runs: None
) -> None:
    """A resumed build must notice damaged runs, because files of their entries would be clean."""
    break_off(client, simulator)
    rot_tags(min(folder(client).glob("run-*")))
    client.fetch()
    assert len(segments_asked_for(simulator)) == 3
    assert client.numbers(ALL) == set(range(30))
    manifest = client.manifest()
    assert manifest is not None
    verify_runs(folder(client), manifest.runs)
    assert client.leftovers() == set()


@pytest.mark.slow
def test_damage_before_an_interrupted_update_is_still_found(
    client: Client, simulator: Simulator, small_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed build keeps the noted digests, so it finds the damage of an earlier run."""
    monkeypatch.setattr(build, "DELTA_UNNOTED_S", 0.0)
    client.fetch()
    (run,) = folder(client).glob("run-*")
    rot_tags(run)
    simulator.publish(csv(range(30, 35)))
    simulator.publish(csv(range(35, 60)))
    simulator.faults["*g000005*"] = status(500)
    with pytest.raises(UnreachableError):
        client.fetch()
    assert (folder(client) / "staging.json").exists()
    simulator.faults.clear()
    client.fetch()
    assert client.numbers(range(60)) == set(range(60))
    manifest = client.manifest()
    assert manifest is not None
    verify_runs(folder(client), manifest.runs)


def test_no_progress_is_noted_of_a_build_that_has_seen_poison(
    client: Client, simulator: Simulator, small_runs: None, tmp_path: Path
) -> None:
    """No progress is noted after a poisoned entry, because a resumed build would skip the entry."""
    good = tmp_path / "good"
    good.write_text(f"{digests_of(4)[Algorithm.MD5].hex()}  benign\n")
    configured(client, known_good=(str(good),), max_set_aside=0)
    simulator.faults["*g000003*"] = status(500)
    with pytest.raises(UnreachableError):
        client.fetch()
    assert not (folder(client) / "staging.json").exists()
    simulator.faults.clear()
    with pytest.raises(VerificationError, match="known to be good: e-4"):
        client.fetch()
    assert client.manifest() is None


def test_a_build_upon_an_older_generation_is_no_fresh_build(
    client: Client, simulator: Simulator, small_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the manifest is damaged, the client builds the list from the start, whatever was noted."""
    monkeypatch.setattr(build, "DELTA_UNNOTED_S", 0.0)
    client.fetch()
    simulator.publish(csv(range(30, 35)))
    simulator.publish(csv(range(35, 40)))
    simulator.faults["*g000005*"] = status(500)
    with pytest.raises(UnreachableError):
        client.fetch()
    assert json.loads((folder(client) / "staging.json").read_bytes())["fresh"] is False
    (folder(client) / "manifest.json").write_bytes(b"{")
    simulator.faults.clear()
    simulator.requests.clear()
    client.fetch()
    assert len(segments_asked_for(simulator)) == 5
    assert client.numbers(ALL) == set(range(40))


@pytest.mark.slow
def test_an_update_that_broke_off_leaves_nothing(
    client: Client, simulator: Simulator, small_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update is so short that no progress is noted, even on a slow machine."""
    monkeypatch.setattr(build, "DELTA_UNNOTED_S", float("inf"))
    client.fetch()
    before = client.list_files()
    simulator.publish(csv(range(30, 35)))
    simulator.withdraw("e-1")
    simulator.publish(csv([36]))
    simulator.faults["*g000006*"] = status(500)
    with pytest.raises(UnreachableError):
        client.fetch()
    assert client.list_files() == before
    simulator.faults.clear()
    client.fetch()
    assert client.numbers(ALL) == {0, *range(2, 35), 36}


@pytest.mark.slow
def test_the_next_fetch_removes_leftovers_of_a_kill_after_the_switch(client: Client) -> None:
    client.fetch()
    directory = folder(client)
    (run,) = directory.glob("run-*")
    shutil.copy(run, directory / "run-00000099")
    (directory / ".tmp-abc").write_bytes(b"half")
    (directory / "staging.json").write_bytes(b"{}")
    assert client.fetch()[0].changed is False
    assert client.leftovers() == set()


def test_a_fetch_removes_no_file_that_a_scan_is_writing(client: Client) -> None:
    """A scan writes `mounts.json` under a lock of its own, not under the lock of a fetch."""
    layout = client.settings.layout
    half = layout.root / ".tmp-abc"
    with writer_lock(layout.mounts_lock):
        half.write_bytes(b"half")
        client.fetch()
        assert half.exists()
    client.fetch()
    assert not half.exists()


# Too much change


def test_change_is_counted_by_what_is_added_and_withdrawn(
    client: Client, simulator: Simulator
) -> None:
    """The list has thirty entries before and after the update, but six of them were replaced."""
    client.fetch()
    simulator.withdraw(*(f"e-{n}" for n in range(6)))
    simulator.publish(csv(range(30, 36)))
    before = client.list_files()
    configured(client, max_churn=0.39)
    with pytest.raises(
        VerificationError, match=r"changes 12 of 30 entries, more than max_churn = 0\.39"
    ):
        client.fetch()
    assert client.list_files() == before
    configured(client, max_churn=0.4)
    client.fetch()
    assert client.numbers(ALL) == set(range(6, 36))


def with_old_ids(new: bytes) -> bytes:
    """Return the entries 30 and higher under the ids of the entries 0 and higher."""
    return new.replace(b"\ne-3", b"\ne-")


@pytest.mark.parametrize("ids", [with_old_ids, bytes])
def test_change_of_what_is_built_again_is_counted_by_its_entries(
    client: Client, simulator: Simulator, ids: Callable[[bytes], bytes]
) -> None:
    client.fetch()
    simulator.withdraw(*(f"e-{n}" for n in range(6)))
    simulator.publish(ids(csv(range(30, 36))))
    before = client.list_files()
    simulator.repository.consolidate("baseline", keep_newest=0)
    simulator.serve_published()
    configured(client, max_churn=0.39)
    with pytest.raises(VerificationError, match="changes 12 of 30 entries"):
        client.fetch()
    assert client.list_files() == before
    configured(client, max_churn=0.4)
    assert client.fetch()[0].added is None
    assert client.numbers(ALL) == set(range(6, 36 if ids is bytes else 30))


def test_a_list_of_nothing_may_grow_without_limit(client: Client, simulator: Simulator) -> None:
    simulator.withdraw(*(f"e-{n}" for n in range(30)))
    client.fetch()
    configured(client, max_churn=0.1)
    simulator.publish(csv(range(30, 35)))
    client.fetch()
    assert client.numbers(ALL) == set(range(30, 35))


# Consolidated segments


def consolidate(simulator: Simulator, first: int, last: int, **changes: Any) -> None:
    """Join the segments of generations `first` to `last` into one segment, as a provider may do."""
    index = json.loads(simulator.files[simulator.target_path("index.json")])
    gone = [s for s in index["segments"] if first <= s["first"] <= last]
    tables = [
        pq.read_table(io.BytesIO(simulator.files[simulator.target_path(s["name"])])) for s in gone
    ]
    table = pa.concat_tables(tables).cast(add_schema())
    simulator.replace_target("whole", encode_segment(table))
    whole = {
        "name": "whole",
        "kind": "add",
        "entries": table.num_rows,
        "first": first,
        "last": last,
    }

    def change(document: dict[str, Any]) -> None:
        kept = [s for s in document["segments"] if s not in gone]
        document["segments"] = sorted([*kept, whole], key=lambda s: s["first"])
        document.update(changes)

    simulator.edit_index(change)


def test_consolidation_of_what_is_here_costs_nothing(client: Client, simulator: Simulator) -> None:
    client.fetch()
    consolidate(simulator, 1, 3)
    simulator.requests.clear()
    (fetched,) = client.fetch()
    assert (fetched.changed, fetched.added) == (False, 0)
    assert segments_asked_for(simulator) == []
    assert client.numbers(ALL) == set(range(30))
    simulator.requests.clear()
    client.fetch()
    assert not [r for r in simulator.requests if r.startswith("targets/")]


def test_consolidation_across_our_generation_is_built_again(
    client: Client, simulator: Simulator
) -> None:
    client.fetch()
    simulator.publish(csv(range(30, 35)))
    simulator.publish(csv(range(35, 38)))
    consolidate(simulator, 2, 4)
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.added) == (3, 5, None)
    assert client.numbers(ALL) == set(range(38))
    assert client.leftovers() == set()


def test_a_segment_that_grows_under_its_name_is_built_again(
    client: Client, simulator: Simulator
) -> None:
    consolidate(simulator, 1, 3)
    client.fetch()
    simulator.publish(csv(range(30, 35)))
    consolidate(simulator, 1, 4)
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.added) == (3, 4, None)
    assert client.numbers(ALL) == set(range(35))


def test_consolidation_of_what_is_not_here_is_a_delta(client: Client, simulator: Simulator) -> None:
    client.fetch()
    simulator.publish(csv(range(30, 35)))
    simulator.publish(csv(range(35, 38)))
    consolidate(simulator, 4, 5)
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.added) == (3, 5, 8)
    assert client.numbers(ALL) == set(range(38))


# Settings


def test_every_way_in_is_passed_on() -> None:
    url = "https://list.invalid/x"
    access = access_of(
        url,
        AccessConfig(
            token_file="~/token",
            client_cert="/c",
            client_key="/k",
            ca="/ca",
            proxy="http://proxy.invalid:3128",
        ),
    )
    assert access.url == url
    assert access.token_file == Path.home() / "token"
    assert (access.client_cert, access.client_key, access.ca) == (
        Path("/c"),
        Path("/k"),
        Path("/ca"),
    )
    assert access.proxy == "http://proxy.invalid:3128"
    assert access_of(url, AccessConfig(token_env="T")).token_env == "T"
    assert access_of(url, AccessConfig(token_credential="c")).token_credential == "c"
    assert access_of(url, AccessConfig(basic_file="/b")).basic_file == Path("/b")
    oauth = OAuthConfig("https://id.invalid/t", "me", client_secret_file="/s", scope="lists")
    assert access_of(url, AccessConfig(oauth=oauth)).oauth == OAuth(
        "https://id.invalid/t", "me", Path("/s"), None, "lists"
    )
    with pytest.raises(ConfigError, match="more than one credential"):
        access_of(url, AccessConfig(token_env="T", basic_file="/b"))


def test_a_provider_that_is_not_configured(client: Client) -> None:
    fetched = msgspec.structs.replace(client.settings.config, providers={})
    client.settings = msgspec.structs.replace(client.settings, config=fetched)
    with pytest.raises(ConfigError, match="no provider called 'main'"):
        client.fetch()


def test_progress_is_reported_within_a_segment(client: Client, simulator: Simulator) -> None:
    received, told = Received(), threading.Event()
    seen: list[tuple[int, int]] = []

    def halfway(_url: str, data: bytes, _max_bytes: int) -> bytes:
        received.add(len(data) // 2)
        assert told.wait(60)
        received.add(len(data) - len(data) // 2)
        return data

    def progress(_list: str, done: int, total: int) -> None:
        seen.append((done, total))
        if 0 < done < total:
            told.set()

    simulator.faults["*.parquet"] = halfway
    settings = client.settings
    with writer_lock(settings.layout.lock):
        session = client.session
        session.sealer(create=True)
        how = How(progress=progress, received=received.count)
        fetcher = Fetcher(session, "main", simulator, how)
        assert [fetched.error for fetched in fetcher.fetch()] == [None]
    assert told.is_set()
    dones = [done for done, _ in seen]
    assert dones == sorted(dones) and seen[-1][0] == seen[-1][1]
