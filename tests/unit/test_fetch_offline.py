"""Fetching without a network, from a bundle and from a copy: the rules are those of a server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.core.errors import (
    DeliveryError,
    ExitCode,
    HashclientError,
    StaleError,
    StateError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from hashclient.fetch.places import copy_at
from hashclient.fetch.providers import fetch_in_turn
from hashclient.fetch.switch import Fetched
from hashclient.lists.bundle import Bundle, Mark, write_bundle
from hashclient.lists.offline import BASE, MissingError, open_copy
from hashclient.migrations.migrate import writing
from hashclient.provider.export import Exported, export_bundle

ALL = range(60)


class Exporting:
    """A provider, its exported bundle, and a client that can only read the bundle."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.provider = Simulator(directory / "provider")
        self.provider.publish(csv(range(10)))
        self.client = Client(directory / "state", self.provider, self.provider.root)

    def export(self, name: str = "a.bundle", **since: int) -> Path:
        self.exported = export_bundle(
            self.provider.repository.directory, self.directory / name, since
        )
        return self.directory / name

    @property
    def public(self) -> Path:
        return self.provider.repository.public

    def fetch(self, path: Path) -> list[Fetched]:
        with writing(self.client.settings.layout):
            session = self.client.session
            session.sealer(create=True)
            results = list(fetch_in_turn(session, "main", [copy_at(path)]))
        for result in results:
            if result.error is not None:
                raise result.error
        return results

    def numbers(self) -> set[int]:
        return self.client.numbers(ALL)

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.client.settings.layout.audit / "log.jsonl").read_text().splitlines()
        return [r["data"] for r in map(json.loads, lines) if r["event"] == kind]

    def repack(self, path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
        """Rewrite the files in a bundle."""
        with path.open("rb") as stream:
            found = Bundle(stream)
            files = {name: found.read(name, 1 << 20) or b"" for name in list(found._members)[1:]}
        change(files)
        with path.open("wb") as out:
            write_bundle(out, found.mark, files.items())
        return path


@pytest.fixture
def world(tmp_path: Path) -> Exporting:
    return Exporting(tmp_path)


@pytest.mark.parametrize("way", ["bundle", "copy"])
def test_a_first_fetch_and_one_with_nothing_new(world: Exporting, way: str) -> None:
    path = world.export() if way == "bundle" else world.public
    (fetched,) = world.fetch(path)
    assert (fetched.before, fetched.generation, fetched.added) == (None, 1, 10)
    assert fetched.source == str(path)
    (again,) = world.fetch(path)
    assert not again.changed
    assert world.numbers() == set(range(10))
    assert world.client.leftovers() == set()
    assert [event["source"] for event in world.events("fetch")] == [str(path)] * 2
    assert world.provider.requests == []
    # No list is stored unsealed: of the provider's files, the state directory has only metadata.
    names = {path.name for path in world.client.settings.state_dir.rglob("*") if path.is_file()}
    assert not [name for name in names if "parquet" in name or name.endswith("index.json")]


def test_the_network_goes_on_from_a_bundle_and_a_bundle_from_the_network(world: Exporting) -> None:
    world.fetch(world.export())
    world.provider.publish(csv(range(20, 25)))
    (fetched,) = world.client.fetch()
    assert (fetched.before, fetched.generation, fetched.added) == (1, 2, 5)
    assert not [path for path in world.provider.requests if "g000001" in path]
    world.provider.rotate("timestamp")
    world.provider.rotate("root")
    world.provider.publish(csv(range(30, 35)))
    (fetched,) = world.fetch(world.export(baseline=2))
    assert (fetched.before, fetched.generation, fetched.added) == (2, 3, 5)
    world.provider.withdraw("e-1")
    (fetched,) = world.fetch(world.public)
    assert (fetched.before, fetched.generation, fetched.withdrawn) == (3, 4, 1)
    (fetched,) = world.client.fetch()
    assert not fetched.changed
    assert world.numbers() == {0, *range(2, 10), *range(20, 25), *range(30, 35)}


def test_a_bundle_of_changes_is_enough_from_its_generation_on(world: Exporting) -> None:
    world.fetch(world.export())
    for n in range(20, 23):
        world.provider.publish(csv([n]))
    whole, part = world.export("whole"), world.export("part", baseline=1)
    assert part.stat().st_size < whole.stat().st_size
    newcomer = Exporting(world.directory / "newcomer")
    newcomer.provider = world.provider
    newcomer.client = Client(newcomer.directory / "s", world.provider, world.provider.root)
    with pytest.raises(UnreachableError, match=r"there is no .*g000001") as caught:
        newcomer.fetch(part)
    assert "since generation 1" in str(caught.value.hint)
    (event,) = newcomer.events("refused")
    assert (event["source"], event["exit_code"]) == (str(part), 4)
    (fetched,) = world.fetch(part)
    assert (fetched.before, fetched.generation, fetched.added) == (1, 4, 3)
    newcomer.fetch(whole)
    assert newcomer.numbers() == world.numbers() == {*range(10), 20, 21, 22}


def test_an_expired_notice_has_the_state_expired(world: Exporting) -> None:
    world.provider.now -= timedelta(days=8)
    world.provider.renew()
    path = world.export()
    assert world.exported.until < datetime.now(UTC)
    for source in (path, world.public):
        with pytest.raises(StaleError, match="expired since"):
            world.fetch(source)
    world.provider.now += timedelta(days=8)
    world.provider.renew()
    world.fetch(world.export())
    assert world.numbers() == set(range(10))


def test_an_older_bundle_is_refused_once_a_newer_one_was_read(world: Exporting) -> None:
    old = world.export("old")
    copy = world.directory / "copy"
    shutil.copytree(world.public, copy)
    world.provider.publish(csv(range(20, 25)))
    world.fetch(world.export("new"))
    for source in (old, copy):
        with pytest.raises(VerificationError):
            world.fetch(source)
    assert world.numbers() == {*range(10), *range(20, 25)}


def test_a_bundle_of_another_provider_is_refused(world: Exporting, tmp_path: Path) -> None:
    other = Exporting(tmp_path / "other")
    with pytest.raises(VerificationError):
        world.fetch(other.export())
    assert not (world.client.settings.layout.lists / "baseline" / "manifest.json").exists()


def test_any_byte_of_any_file_that_was_changed_is_found(world: Exporting) -> None:
    path = world.export()
    names: list[str] = []
    world.repack(path, names.extend)

    def garble(name: str) -> Callable[[dict[str, bytes]], object]:
        return lambda files: files.update({name: files[name][:-3] + b"\0" + files[name][-2:]})

    for name in names:
        if name == "metadata/1.root.json":
            continue  # the client uses the pinned root, not this file
        # A new client is used each time, because verified metadata is not read again.
        state = world.directory / name.replace("/", "-")
        world.client = Client(state, world.provider, world.provider.root)
        changed = Path(shutil.copy(path, world.directory / "changed"))
        with pytest.raises((VerificationError, UnreachableError)):
            world.fetch(world.repack(changed, garble(name)))
        assert world.client.manifest() is None
    world.fetch(path)


def test_a_file_that_is_missing_is_named(world: Exporting) -> None:
    path = world.export()
    with pytest.raises(UnreachableError, match=r"there is no metadata/timestamp\.json in it"):
        world.fetch(world.repack(path, lambda files: files.pop("metadata/timestamp.json")))
    copy = world.directory / "copy"
    shutil.copytree(world.public, copy)
    (segment,) = copy.rglob("*.parquet")
    segment.unlink()
    with pytest.raises(UnreachableError, match=r"there is no .*\.parquet"):
        world.fetch(copy)


def test_a_bundle_that_breaks_the_format_is_refused_and_logged(world: Exporting) -> None:
    path = world.export()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(VerificationError, match=f"bundle {path}: it is cut short"):
        world.fetch(path)
    (event,) = world.events("refused")
    assert (event["source"], event["exit_code"]) == (str(path), 6)


# The sources by themselves


def test_paths_that_are_neither_bundle_nor_copy(tmp_path: Path) -> None:
    (tmp_path / "repo" / "public" / "metadata").mkdir(parents=True)
    (tmp_path / "text").write_text("hello\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    cases: dict[str, tuple[type[HashclientError], str]] = {
        "nothing": (UsageError, "no such file or directory"),
        "text/x": (UsageError, "no such file or directory"),
        "dangling": (UsageError, "no such file or directory"),
        "pipe": (UsageError, "neither a file nor a directory"),
        "repo": (UsageError, "there is no metadata/"),
        "text": (VerificationError, "no bundle of hash lists"),
    }
    for name, (kind, message) in cases.items():
        with pytest.raises(kind, match=message), open_copy(tmp_path / name):
            pass
    with pytest.raises(UsageError) as caught, open_copy(tmp_path / "repo"):
        pass
    assert caught.value.hint == f"give {tmp_path}/repo/public"


def test_a_copy_with_odd_things_in_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    public = tmp_path / "public"
    metadata = public / "metadata"
    metadata.mkdir(parents=True)
    (metadata / "plain.json").write_text("{}")
    (metadata / "link.json").symlink_to(secret)
    os.mkfifo(metadata / "pipe.json")
    (metadata / "folder.json").mkdir()
    (public / "linked").symlink_to(tmp_path)
    (public / "file").write_text("")
    with open_copy(public) as source:
        assert source.get(f"{BASE}/metadata/plain.json", 2, expected_bytes=2) == b"{}"
        for name in ("link.json", "pipe.json", "folder.json"):
            with pytest.raises(DeliveryError, match="not a plain file"):
                source.get(f"{BASE}/metadata/{name}", 100)
        for name in ("linked/secret", "file/x"):
            with pytest.raises(DeliveryError, match="not a plain file"):
                source.get(f"{BASE}/{name}", 100)
        for limits in ({"max_bytes": 1}, {"max_bytes": 9, "expected_bytes": 3}):
            with pytest.raises(DeliveryError):
                source.get(f"{BASE}/metadata/plain.json", **limits)
        with pytest.raises(MissingError) as caught:
            source.get(f"{BASE}/metadata/2.root.json", 100)
        assert caught.value.status == 404 and caught.value.exit_code is ExitCode.UNREACHABLE
        for url in (
            *(f"{BASE}/../secret", f"{BASE}/metadata/../../secret", f"{BASE}//x", "x", BASE),
            *(f"{BASE}/", f"{BASE}/metadata/%2e%2e", f"{BASE}/a\0b", "https://lists.test/x"),
        ):
            with pytest.raises(VerificationError, match="address refused"):
                source.get(url, 100)


def test_a_bundle_has_no_way_out_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as out:
        write_bundle(out, Mark(), [("metadata/a", b"{}")])
    with open_copy(path) as source:
        assert source.get(f"{BASE}/metadata/a", 2, expected_bytes=2) == b"{}"
        with pytest.raises(DeliveryError, match="2 bytes, more than the 1 allowed"):
            source.get(f"{BASE}/metadata/a", 1)
        with pytest.raises(DeliveryError, match="3 are signed"):
            source.get(f"{BASE}/metadata/a", 9, expected_bytes=3)
        with pytest.raises(VerificationError, match="address refused"):
            source.get(f"{BASE}/../a", 9)


# Exported files


def test_the_same_repository_gives_the_same_bytes_for_its_owner_alone(world: Exporting) -> None:
    one = world.export("one")
    before = os.umask(0)
    try:
        two = world.export("two")
    finally:
        os.umask(before)
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_mode & 0o777 == two.stat().st_mode & 0o777 == 0o600
    assert isinstance(world.exported, Exported)
    assert world.exported.until == world.provider.metadata("timestamp").signed.expires


def test_unpublished_files_are_not_exported(world: Exporting) -> None:
    (world.public / "metadata" / "notes.json").write_text("{}")
    (world.public / "targets" / "lists" / "baseline" / "00.old").write_text("")
    world.provider.publish(csv([20]))
    (world.public / "metadata" / "1x.root.json").write_text("{}")
    with world.export().open("rb") as stream:
        names = Bundle(stream)._members.keys()
    assert not {name for name in names if "notes" in name or "old" in name or "keys" in name}
    assert len([name for name in names if name.endswith("timestamp.json")]) == 1
    # The bundle has only the newest index, although the repository keeps the index of generation 1.
    assert len([name for name in names if name.endswith("index.json")]) == 1


@pytest.mark.slow
def test_a_consolidated_list_is_exported_whole(world: Exporting) -> None:
    for n in range(20, 26):
        world.provider.publish(csv([n]))
    world.provider.repository.consolidate("baseline", keep_newest=2)
    world.export(baseline=3)
    (entry,) = world.exported.lists
    assert (entry.generation, entry.since) == (7, None)
    world.export(baseline=5)
    assert world.exported.lists[0].since == 5
    world.fetch(world.export(baseline=3))
    assert world.numbers() == {*range(10), *range(20, 26)}


def test_a_generation_that_is_not_there(world: Exporting) -> None:
    with pytest.raises(UsageError, match="no generation 2"):
        world.export(baseline=2)
    with pytest.raises(UsageError, match="no such list: other"):
        world.export(other=1)
    assert not (world.directory / "a.bundle").exists()


def test_a_repository_that_is_corrupt_is_not_exported(world: Exporting) -> None:
    before = world.export().read_bytes()
    (segment,) = world.public.rglob("*.parquet")
    segment.write_bytes(segment.read_bytes()[:-1] + b"\0")
    with pytest.raises(HashclientError, match="is not the signed file") as caught:
        world.export()
    assert caught.value.exit_code is ExitCode.STATE
    # The former bundle is still complete.
    assert (world.directory / "a.bundle").read_bytes() == before
    assert not list(world.directory.glob(".tmp*"))


@pytest.mark.parametrize("name", ["timestamp", "2.snapshot", "1.baseline", "1.root"])
def test_metadata_of_another_role_is_not_exported(world: Exporting, name: str) -> None:
    metadata = world.public / "metadata"
    other = "timestamp" if name == "1.root" else "1.root"
    path = metadata / f"{name}.json"
    path.write_bytes((metadata / f"{other}.json").read_bytes())
    with pytest.raises(StateError, match=r"it is for the role|is not the signed file"):
        world.export()
    assert not list(world.directory.glob("*.bundle"))


def test_an_export_into_the_repository_is_refused(world: Exporting) -> None:
    repository = world.public.parent
    (world.directory / "way").symlink_to(world.public / "metadata")
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    for to in (
        world.public / "metadata" / "timestamp.json",
        world.public / "a.bundle",
        repository / "root.json",
        world.directory / "way" / "timestamp.json",
        repository / ".." / repository.name / "lock",
    ):
        with pytest.raises(UsageError, match="does not belong into the repository"):
            export_bundle(repository, to, {})
    after = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    assert after == before


def test_only_a_file_is_replaced(world: Exporting) -> None:
    os.mkfifo(world.directory / "a.bundle")
    with pytest.raises(UsageError, match="cannot write"):
        world.export()
    with pytest.raises(HashclientError) as caught:
        world.export("nowhere/a.bundle")
    assert caught.value.exit_code is ExitCode.STATE
    with pytest.raises(HashclientError, match="not a provider's repository"):
        export_bundle(world.directory, world.directory / "b", {})
