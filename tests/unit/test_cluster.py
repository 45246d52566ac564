"""The parts of a scan on a cluster, each tested separately and without Dask."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from fixtures.buckets import Answer, Request, Site, is_listing, listing, reached_site
from hashclient.config.tables import ClusterConfig
from hashclient.containers import meaning
from hashclient.core.errors import ConfigError, StateError, UsageError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Hit, Outcome, Outer, Seen
from hashclient.core.version import __version__
from hashclient.scan.cache import cache
from hashclient.scan.cache.records import RECORD
from hashclient.scan.check.checker import Checker
from hashclient.scan.cluster import objectwork, probes, worker
from hashclient.scan.cluster.address import (
    LocalCluster,
    Scheduler,
    parse_executor,
    problem_with_worker,
)
from hashclient.scan.cluster.backlog import BATCH_S, FIRST_NAMES, MOST_NAMES, Backlog
from hashclient.scan.cluster.crew import Crew
from hashclient.scan.cluster.executor import _Run
from hashclient.scan.cluster.jobs import Jobs
from hashclient.scan.cluster.known import Received, Remembered, as_before, identities_beside
from hashclient.scan.cluster.listing import ClusterTrees, Errand
from hashclient.scan.cluster.messages import (
    PROTOCOL,
    SIGN,
    Known,
    Listed,
    ListedRange,
    Lost,
    ReadObjects,
    Setup,
    Sign,
    Spec,
    ToCheck,
    ToList,
    ToListRange,
    answer_of,
    decode_answer,
    decode_object_answer,
    paths_of,
    pins_of,
    some_of,
)
from hashclient.scan.cluster.named import OTHER, NamedFiles, only_same
from hashclient.scan.executors.wire import (
    Checked,
    Names,
    encode,
    group_of,
    names_of,
    pack_result,
    unpack_outcomes,
    unpack_result,
)
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import WORKER_FAILED, Advance, Group, Result, Start
from hashclient.system.identity import Identities, Identity, boot_id, mount_namespace
from hashclient.system.leases import can_lease
from tests.kit import State, remember_at_once, write_tree

NO_CLUSTER = ClusterConfig()


def names(directory: str, *found: str) -> Names:
    return names_of(Group(directory, list(found), follow=False))


class TestAddress:
    def test_valid_executors(self) -> None:
        assert parse_executor("processes", NO_CLUSTER) is None
        assert parse_executor("local-cluster:3", NO_CLUSTER) == LocalCluster(3)
        for text, url in {
            "dask://127.0.0.1": "tcp://127.0.0.1:8786",
            "dask://localhost:1/": "tcp://localhost:1",
            "dask://[::1]:9": "tcp://[::1]:9",
        }.items():
            found = parse_executor(text, NO_CLUSTER)
            assert isinstance(found, Scheduler)
            assert found.url == url

    @pytest.mark.parametrize(
        "text",
        [
            *("", "dask", "dask://", "dask://a:b", "dask://h:0", "dask://h:65536", "dask://-h"),
            *("local-cluster", "local-cluster:0", "local-cluster:257", "local-cluster:²"),
            f"local-cluster:{'9' * 5000}",
            *("dask://u:p@h", "dask://h/path", "tcp://127.0.0.1", "processes:2", "dask://h\n"),
        ],
    )
    def test_invalid_executors(self, text: str) -> None:
        with pytest.raises(UsageError):
            parse_executor(text, NO_CLUSTER)

    def test_beyond_loopback_there_is_no_cluster_without_certificates(self, tmp_path: Path) -> None:
        for host in ("files.example", "10.0.0.1", "[2001:db8::1]", "localhost.example", "127.1x"):
            with pytest.raises(ConfigError, match="needs TLS and a client certificate"):
                parse_executor(f"dask://{host}:1", NO_CLUSTER)
        for name in ("ca", "cert", "key"):
            (tmp_path / name).touch(0o600)
        paths = {name: str(tmp_path / name) for name in ("ca", "cert", "key")}
        found = parse_executor("dask://files.example:1", ClusterConfig(**paths))
        assert isinstance(found, Scheduler)
        assert found.url == "tls://files.example:1"
        for name in paths:
            with pytest.raises(ConfigError, match=rf"^\[cluster\] lacks {name}$"):
                parse_executor("dask://h", ClusterConfig(**paths | {name: None}))
        (tmp_path / "key").chmod(0o644)
        with pytest.raises(ConfigError, match="can be read by others"):
            parse_executor("dask://files.example:1", ClusterConfig(**paths))

    def test_a_worker_without_tls_is_refused(self) -> None:
        for address in ("tls://10.0.0.1:1", "tcp://127.0.0.1:1", "tcp://[::1]:5"):
            assert problem_with_worker(address) is None
        for address in ("tcp://10.0.0.1:1", "ucx://10.0.0.1:1", "inproc://1", "tcp://host:1", ""):
            assert problem_with_worker(address) == "it is reached without TLS"


class TestMessages:
    def test_an_outcome_comes_back_as_it_was_but_for_digests(self) -> None:
        hit = Hit("base", "e-1", "synthetic", 3, (Algorithm.MD5,), complete=True)
        outcome = Outcome(
            Kind.MATCH,
            "/a\udcff/b\n",
            7,
            "reason",
            (hit,),
            {Algorithm.MD5: b"d" * 16},
            tags={Algorithm.MD5: b"t" * 16},
            members=("x", "\udcfe"),
            outer=Outer(9, {Algorithm.SHA1: b"o" * 16}, 2),
            obstacle="damaged",
            is_object=True,
            evidence="read",
            seen=Seen(1, 2, None, 4),
        )
        raw = encode(pack_result(Result(outcomes=[outcome]), digests=False))
        assert b"d" * 16 not in raw
        answer = decode_answer(raw)
        assert isinstance(answer, Checked)
        (found,) = unpack_result(answer).outcomes
        assert found == msgspec.structs.replace(outcome, digests={})
        # Fields about streams and clients never occur on a worker, and only the client rules
        # exceptions.
        kept = {"kind", "path", "size", "reason", "hits", "tags", "members", "outer", "obstacle"}
        kept |= {"is_object", "evidence", "seen"}
        left = {"digests", "origin", "is_stream", "door", "exceptions"}
        assert set(Outcome.__struct_fields__) - kept == left

    def test_a_result_comes_back_as_it_was_but_for_what_was_handed_back(self) -> None:
        fields = Result.__struct_fields__
        result = Result(learned=[(1, b"r")], seen=[(2, 3)], containers=[(4, b"s", b"m")], lost=[5])
        result.not_opened = {"disk": 2}
        others = (
            "not_opened",
            "outcomes",
            "deferred",
            "learned",
            "seen",
            "containers",
            "lost",
            "reported",
            "taken_s",
        )
        assert set(others) < set(fields)
        for number, name in enumerate(name for name in fields if name not in others):
            setattr(result, name, number + 1)
        answer = decode_answer(encode(pack_result(result, digests=False)))
        assert isinstance(answer, Checked)
        assert unpack_result(answer) == result
        assert result.reported == Advance()

    def test_an_answer_with_an_outcome_that_is_cut_short_makes_no_sense(self) -> None:
        """If one outcome is cut short, the answer is refused and the whole batch is unread."""
        answer = pack_result(Result(outcomes=[Outcome(Kind.UNREAD, "/b", reason="reason")]))
        assert answer_of(decode_answer, encode(answer)) == answer
        ((path, members, _),) = map(msgspec.structs.astuple, answer.outcomes)
        cut = msgspec.structs.replace(answer, outcomes=[(path, members)])
        assert answer_of(decode_answer, encode(cut)) == Lost(WORKER_FAILED)
        listed = Listed([], cut.outcomes, [])
        assert answer_of(decode_answer, encode(listed)) == Lost(WORKER_FAILED)
        read = encode(ReadObjects([(cut, False, False)]))
        assert answer_of(decode_object_answer, read) == Lost(WORKER_FAILED)

    def test_names_come_back_whatever_their_bytes(self) -> None:
        group = Group("/d\udcff", ["a\n", "\udcfe", "ü"], follow=True, is_named=True)
        assert group_of(names_of(group)) == group
        assert list(paths_of([names_of(group)])) == [f"/d\udcff/{name}" for name in group.names]


class TestErrand:
    def listed(self, tree: Path, starts: Sequence[Start] | None = None, **how: object) -> Listed:
        points = how.pop("points", frozenset())
        exclude = how.pop("exclude", ())
        errand = Errand("/nowhere", points, exclude, **how)  # type: ignore[arg-type]
        return errand.run(starts or [Start(os.fsencode(tree), verified=True, is_root=True)])

    def test_it_finds_what_a_walk_finds(self, tmp_path: Path) -> None:
        files = {f"{n}/{k}/{m}": b"" for n in range(3) for k in range(3) for m in range(3)}
        tree = write_tree(tmp_path / "t", files | {"0/x.iso": b"", "\udcff/\udcfe": b""})
        (tree / "link").symlink_to("0")
        os.mkfifo(tree / "pipe")
        options = ScanOptions(exclude=("*.iso",))
        walked = list(Trees([str(tree)], options).batches())
        files_walked = {
            f"{group.directory}/{name}"
            for item in walked
            if not isinstance(item, Outcome)
            for group in item
            for name in group.names
        }
        listed = self.listed(tree, exclude=options.exclude)
        assert set(paths_of(listed.groups)) == files_walked
        told = {(o.path, o.kind, o.reason) for o in walked if isinstance(o, Outcome)}
        outcomes = unpack_outcomes(listed.outcomes)
        assert {(o.path, o.kind, o.reason) for o in outcomes} == told
        assert not listed.rest

    def test_it_hands_back_what_does_not_fit(self, tmp_path: Path) -> None:
        tree = write_tree(tmp_path / "t", {f"{n}/{k}": b"" for n in range(9) for k in range(4)})
        waiting: list[Start] = [Start(os.fsencode(tree), verified=True, is_root=True)]
        found: list[str] = []
        rounds = 0
        while waiting:
            listed = self.listed(tree, waiting, most_names=10)
            found += paths_of(listed.groups)
            waiting, rounds = listed.rest, rounds + 1
        assert sorted(found) == sorted(str(p) for p in tree.rglob("*") if p.is_file())
        assert rounds == 3

    def test_where_another_file_system_begins_a_worker_stops(self, tmp_path: Path) -> None:
        tree = write_tree(tmp_path / "t", {"a/in": b"", "b/in": b""})
        point = f"{tree}/a"
        listed = self.listed(tree, points=frozenset({point}))
        assert listed.rest == [Start(point.encode(), is_border=True)]
        assert list(paths_of(listed.groups)) == [f"{tree}/b/in"]
        verified = [Start(point.encode(), verified=True)]
        listed = self.listed(tree, verified, points=frozenset({point}))
        assert list(paths_of(listed.groups)) == [f"{point}/in"]
        # The worker also compares device numbers, so it finds a mount point at the first directory
        # of a batch.
        if Path("/proc").stat().st_dev != Path("/").stat().st_dev:
            rest = self.listed(tree, [Start(b"/proc")]).rest
            assert rest == [Start(b"/proc", is_border=True)]

    def test_a_worker_stops_where_its_own_file_system_is_mounted_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A mount may hide files on one worker only, so all workers compare the directory."""
        tree = write_tree(tmp_path / "t", {"a/in": b"", "b/in": b""})
        mounted = (tree / "a").stat().st_ino
        name = "hashclient.scan.cluster.listing.is_mount_root"
        monkeypatch.setattr(name, lambda fd: os.fstat(fd).st_ino == mounted)
        listed = self.listed(tree)
        assert listed.rest == [Start(f"{tree}/a".encode(), is_border=True)]
        assert list(paths_of(listed.groups)) == [f"{tree}/b/in"]

    def test_a_wide_directory_goes_back_as_a_whole(self, tmp_path: Path) -> None:
        tree = write_tree(tmp_path / "t", {**{f"w/{n}": b"" for n in range(30)}, "w/d/x": b""})
        (tree / "w" / "link").symlink_to("x")
        listed = self.listed(tree, wide_names=20)
        assert [(start.path, start.is_wide) for start in listed.rest] == [
            (f"{tree}/w".encode(), True)
        ]
        assert not listed.groups
        assert not listed.outcomes
        trees = ClusterTrees([str(tree)], ScanOptions(exclude=("7",)))
        items = list(trees.list_wide(Start(f"{tree}/w".encode())))
        groups = [item for item in items if isinstance(item, Names)]
        assert sum(group.count for group in groups) == 29
        inner = f"{tree}/w/d"
        (start,) = (item for item in items if isinstance(item, Start))
        assert start.path == inner.encode()
        assert start.inode in (0, Path(inner).stat().st_ino)
        told = sorted((o.path, o.reason) for o in items if isinstance(o, Outcome))
        assert told == [(f"{tree}/w/7", "excluded"), (f"{tree}/w/link", "symbolic link")]

    @pytest.mark.parametrize(("more", "is_wide"), [(0, False), (1, True)])
    def test_all_entries_count_for_how_wide_a_directory_is(
        self, tmp_path: Path, more: int, is_wide: bool
    ) -> None:
        tree = write_tree(tmp_path / "t", {**{f"{n}": b"" for n in range(4 + more)}, "d/x": b""})
        (tree / "link").symlink_to("d")
        listed = self.listed(tree, wide_names=6)
        assert [start.is_wide for start in listed.rest] == [True] * is_wide
        assert sum(group.count for group in listed.groups) == (0 if is_wide else 5)

    @pytest.mark.parametrize("is_root", [False, True])
    def test_a_given_directory_that_is_wide_goes_back_as_it_was_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_root: bool
    ) -> None:
        """A root that is a link is followed; a directory found in a listing is never followed."""
        remember_at_once(monkeypatch, tmp_path)
        tree = write_tree(tmp_path / "t", {f"w/{n}": b"" for n in range(9)})
        if is_root:
            (tmp_path / "link").symlink_to("t/w")
            given = Start(os.fsencode(tmp_path / "link"), verified=True, is_root=True)
        else:
            errand = Errand("/", frozenset(), (), identities=Identities(), most_names=0)
            root = Start(os.fsencode(tree), verified=True, is_root=True)
            (given,) = (item for item in errand.listed(root) if isinstance(item, Start))
            assert given.above == tree.stat().st_ino
        listed = self.listed(tree, [given], wide_names=8, identities=Identities())
        assert listed.rest == [msgspec.structs.replace(given, is_wide=True)]
        trees = ClusterTrees([str(tree)], ScanOptions())
        groups = [item for item in trees.list_wide(listed.rest[0]) if isinstance(item, Names)]
        assert sum(group.count for group in groups) == 9

    def test_directories_that_are_exchanged_since_they_were_listed_are_found_as_in_a_walk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remember_at_once(monkeypatch, tmp_path)
        tree = write_tree(tmp_path / "t", {"a/one": b"", "b/two": b"", "c/three": b""})

        def errand(most_names: int = 100) -> Errand:
            identities = Identities()
            return Errand("/", frozenset(), (), identities=identities, most_names=most_names)

        root = Start(os.fsencode(tree), verified=True, is_root=True)
        found = [item for item in errand(0).listed(root) if isinstance(item, Start)]
        starts = sorted(found, key=lambda start: start.path)
        assert [start.path for start in starts] == [f"{tree}/{n}".encode() for n in "abc"]
        assert all(start.inode and start.above == tree.stat().st_ino for start in starts)
        for source, target in (("a", "kept"), ("b", "a"), ("kept", "b"), ("c", "d")):
            (tree / source).rename(tree / target)
        listed = errand().run(starts)
        wanted = {f"{tree}/{name}" for name in ("b/one", "a/two", "d/three")}
        assert set(paths_of(listed.groups)) == wanted
        assert not listed.outcomes
        # Another directory has taken the path, so the listed directory is unread.
        (tmp_path / "x").mkdir()
        tree.rename(tmp_path / "x" / "away")
        write_tree(tree, {"a/other": b""})
        outcomes = unpack_outcomes(errand().run(starts[:1]).outcomes)
        assert [outcome.kind for outcome in outcomes] == [Kind.UNREAD]

    def test_a_directory_that_cannot_be_listed_is_unread(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        starts = [Start(os.fsencode(tmp_path / name)) for name in ("gone", "link")]
        listed = self.listed(tmp_path, starts)
        outcomes = unpack_outcomes(listed.outcomes)
        assert [o.kind for o in outcomes] == [Kind.UNREAD, Kind.UNREAD]
        assert not listed.groups


class TestProbes:
    def test_a_probe_is_found_and_taken_away(self, tmp_path: Path) -> None:
        with probes.written([str(tmp_path), str(tmp_path / "gone")]) as left:
            (probe,) = left
            assert len(list(tmp_path.iterdir())) == 1
            assert probes.problem_with(probe, "/nowhere") is None
        assert not list(tmp_path.iterdir())

    def test_another_directory_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        waited: list[float] = []
        with probes.written([str(tmp_path / "a")]) as (probe,):
            other = msgspec.structs.replace(probe, directory=os.fsencode(tmp_path / "b"))
            assert probes.problem_with(other, "/", waited.append) == "is another directory there"
            (tmp_path / "b" / os.fsdecode(probe.name)).write_bytes(b"another token")
            assert probes.problem_with(other, "/", waited.append) == "is another directory there"
            gone = msgspec.structs.replace(probe, directory=b"gone")
            assert probes.problem_with(gone, str(tmp_path)) == "no such file or directory"
        assert len(waited) == 2 * (probes.TRIES - 1)

    def test_a_directory_that_is_listed_meanwhile_has_no_probe(self, tmp_path: Path) -> None:
        (tmp_path / f"{probes.PREFIX}of-others").touch()
        with probes.written([str(tmp_path)]) as (probe,):
            listed = Errand("/", frozenset(), ()).run([Start(os.fsencode(tmp_path))])
            (group,) = listed.groups
            assert group.count == 2
            left = probes.without(group, {probe.name})
        assert left is not None
        assert list(paths_of([left])) == [f"{tmp_path}/{probes.PREFIX}of-others"]
        only = names("/d", os.fsdecode(probe.name))
        assert probes.without(only, {probe.name}) is None
        backlog = Backlog(lambda group: probes.without(group, {probe.name}))
        backlog.add_groups([only, names("/d", "x")])
        assert backlog.names == 1

    def test_where_nothing_can_be_written_signs_are_compared(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The probe cannot be opened for writing, as on a read-only file system.
        monkeypatch.setattr(probes, "_WRITE_FLAGS", os.O_WRONLY)
        for name in ("a", "b", "empty", "empty-too"):
            (tmp_path / name).mkdir()
        (tmp_path / "a" / "x").write_bytes(b"1")
        (tmp_path / "b" / "x").write_bytes(b"1")
        (tmp_path / "a" / "d").mkdir()
        with probes.written([str(tmp_path / "a"), str(tmp_path / "empty")]) as (full, empty):
            assert not full.name
            assert probes.problem_with(full, "/") is None
            assert probes.problem_with(empty, "/") is None
            for probe, name in ((full, "b"), (full, "empty"), (empty, "b"), (empty, "empty-too")):
                other = msgspec.structs.replace(probe, directory=os.fsencode(tmp_path / name))
                assert probes.problem_with(other, "/") == "is another directory there"
            (tmp_path / "a" / "x").write_bytes(b"22")
            assert probes.problem_with(full, "/") == "is another directory there"


class TestBacklog:
    def test_batches_grow_and_shrink_with_the_time_they_take(self) -> None:
        backlog = Backlog()
        assert backlog.batch_names == FIRST_NAMES
        for _ in range(50):
            backlog.took(100, 10.0)
        assert backlog.batch_names == 500
        for _ in range(50):
            backlog.took(10_000, BATCH_S)
        assert backlog.batch_names == pytest.approx(10_000, rel=0.01)
        for _ in range(50):
            backlog.took(10_000, 0.0)
        assert backlog.batch_names == MOST_NAMES

    def test_a_batch_has_paths_of_one_kind(self) -> None:
        backlog = Backlog()
        backlog.add_groups([names("/a", "x"), names("b", "y"), names("b/c", "z")])
        backlog.add_groups([names("/d", "first")], first=True)
        backlog.large.append(names("/l", "large"))
        taken = []
        while (batch := backlog.take_files()) is not None:
            taken.append(list(paths_of(batch.groups)))
        assert taken == [["/l/large"], ["/d/first", "/a/x"], ["b/y", "b/c/z"]]
        assert backlog.names == 0
        assert backlog.is_empty

    def test_directories_come_depth_first_and_few_at_a_time(self) -> None:
        backlog = Backlog()
        backlog.add_starts([Start(b"/a"), Start(b"/b")])
        backlog.add_starts([Start(b"/a/x"), Start(b"/a/y")])
        taken = []
        while (batch := backlog.take_directories(4)) is not None:
            taken += [start.path for start in batch.starts]
            assert len(batch.starts) == 1
        assert taken == [b"/a/x", b"/a/y", b"/a", b"/b"]

    def test_a_wide_directory_is_read_no_further_than_is_needed(self) -> None:
        read = 0

        def endless() -> Iterator[Names | Outcome | Start]:
            nonlocal read
            while True:
                read += 1
                yield names("/w", *map(str, range(500)))

        backlog = Backlog()
        backlog.wide.append(("/w", endless()))
        assert not backlog.read_wide()
        assert read == FIRST_NAMES // 500
        groups, directories = backlog.empty()
        assert (len(groups), directories) == (read, ["/w"])


class TestNamed:
    def test_a_file_has_to_be_the_one_at_the_client(self, tmp_path: Path) -> None:
        tree = write_tree(tmp_path, {"a": b"1", "b": b"2", "there": b"3"})
        (tree / "link").symlink_to("a")
        found = ("a", "b", "gone", "there", "link")
        group = Group(str(tree), list(found), follow=True)
        (tree / "there").rename(tmp_path / "kept")
        asked = NamedFiles().look_at(group)
        # A missing file has no file system and is not looked up.
        assert len(asked) <= 2
        for part in asked:
            assert only_same(part, None) == (part, [])
        (tmp_path / "kept").rename(tree / "there")
        (tree / "b").write_bytes(b"22")

        def only(directory: str, base: str | None) -> tuple[set[str], dict[str, str | None]]:
            kept: set[str] = set()
            told: dict[str, str | None] = {}
            for part in asked:
                raw = os.fsencode(directory)
                same, others = only_same(msgspec.structs.replace(part, directory=raw), base)
                kept |= set() if same is None else set(paths_of([same]))
                told |= {o.path: o.reason for o in others if o.kind is Kind.UNREAD}
            return kept, told

        # All files of a directory that is missing on this machine have no file system either.
        gone = Group(f"{tree}/gone", ["a", "b"], follow=False)
        (away,) = NamedFiles().look_at(gone)
        assert group_of(away) == gone and not away.file_system
        assert only_same(away, None) == (away, [])

        # A file that is missing on both machines stays in the batch, and the checker reports it.
        kept, told = only(str(tree), None)
        assert kept == {f"{tree}/{name}" for name in ("a", "gone", "link")}
        assert told == {f"{tree}/{name}": OTHER for name in ("b", "there")}
        kept, told = only("nowhere", str(tmp_path))
        assert kept == {"nowhere/gone", "nowhere/there"}
        assert told.keys() == {f"nowhere/{name}" for name in ("a", "b", "link")}

    def test_a_group_that_is_handed_back_keeps_its_signs_and_comes_once(
        self, tmp_path: Path
    ) -> None:
        tree = write_tree(tmp_path, {"a": b"1", "b": b"2"})
        group = Group(str(tree), ["a", "b"], follow=True)
        (asked,) = NamedFiles().look_at(group)
        (back,) = as_before([group._replace(names=["b"])], [asked, asked])
        assert list(paths_of([back])) == [f"{tree}/b"]
        assert back == some_of(asked, [1])
        assert back.signs == asked.signs[SIGN.itemsize :]
        assert as_before([group, group], [asked, asked]) == [asked, asked]


class TestOtherMachines:
    def test_only_file_systems_of_a_network_are_the_same_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        boot = boot_id()
        assert type(identities_beside(boot)) is Identities
        for other in (b"", b"another machine"):
            elsewhere = identities_beside(other)
            for is_local in (True, False):
                found = Identity(5, is_local=is_local)
                monkeypatch.setattr(Identities, "of", lambda *_, found=found: found)
                assert elsewhere.of(0, 0) == (None if is_local else found)

    def test_a_worker_there_neither_knows_nor_learns_of_a_local_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remember_at_once(monkeypatch, tmp_path)
        state = State(tmp_path, {"base": {"e-1": b"x"}}, {"a": b"1", "b": b"2"}, sized=False)
        state.let_time_pass()
        judge = state.client.open().judge()
        listed = Errand("/", frozenset(), (), identities=Identities()).run(
            [Start(os.fsencode(state.tree), verified=True)]
        )
        task = [group_of(group) for group in listed.groups]
        first = Checker(judge, learn=True).check(task)
        assert first.learned
        ((number, learned),) = first.learned
        found = np.sort(np.frombuffer(learned, RECORD), order="ino")
        # Day 0 means that a lease proved the record.
        for read_day, believed in ((0, 0), (cache.today(), 2)):
            found["read_day"] = read_day
            sent = Received(14)
            sent.take([Known(number, found.tobytes(), [])])
            result = Checker(judge, cache=sent).check(task)
            assert (result.known_unchanged, result.believed_unchanged) == (2, believed)
        records = found.tobytes()
        assert {group.file_system for group in listed.groups} == {number}
        for boot, reads in ((boot_id(), 0), (b"another machine", 2)):
            sent = Received(14)
            sent.take([Known(number, records, [])])
            identities = identities_beside(boot)
            checker = Checker(judge, cache=sent, learn=True, file_systems=identities)
            result = checker.check(task)
            assert (result.files_read, result.known_unchanged) == (reads, 2 - reads)
            assert not result.learned
            errand = Errand("/", frozenset(), (), identities=identities)
            again = errand.run([Start(os.fsencode(state.tree), verified=True)])
            assert {group.file_system for group in again.groups} == {0 if reads else number}


class _Process:
    """Replaces Dask's worker: it calls functions and notes its resources."""

    def __init__(self, directory: Path) -> None:
        """Make a worker whose lists are those of the client."""
        self.state = State(directory, {"base": {"e-1": b"listed"}}, {"a": b"a file"})
        lists = self.state.client.open()
        (self.pin,) = pins_of(lists)
        self._key_id = lists.sealer.key_id
        self._runs: set[str] = set()
        self.resources: dict[str, float] = {}

    def spec(self, run: str) -> Spec:
        """Return the description of a scan that the client sends to workers."""
        return Spec(PROTOCOL, __version__, run, self._key_id, (self.pin,), b"/")

    async def set_resources(self, **resources: float) -> None:
        """Set resources as Dask's worker does."""
        self.resources |= resources

    def prepare(self, setup: Setup) -> bytes:
        """Return why the worker is not ready, or an empty answer."""
        self._runs.add(setup.spec.run)
        return asyncio.run(worker.prepare(encode(setup), "r", self))

    def forget(self, run: str) -> None:
        """End the scan `run` on the worker."""
        asyncio.run(worker.forget(run, "r", self))

    def is_ready(self, run: str) -> bool:
        """Return whether the worker lists a directory for a scan."""
        starts = ToList((Start(os.fsencode(self.state.tree), verified=True, is_root=True),))
        answer = decode_answer(worker.list_directories(run, encode(starts)))
        assert isinstance(answer, Listed | Lost)
        return isinstance(answer, Listed)

    def close(self) -> None:
        """End all scans on the worker."""
        for run in self._runs:
            self.forget(run)


@pytest.fixture
def worker_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Process]:
    """Prepare this process as a worker process: it collects garbage rarely and takes leases."""
    process = _Process(tmp_path / "worker")
    monkeypatch.setenv("HASHCLIENT_STATE_DIR", str(process.state.path))
    before, thresholds = signal.getsignal(signal.SIGIO), gc.get_threshold()
    yield process
    process.close()
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    signal.signal(signal.SIGIO, before)


class TestWorker:
    def test_no_digest_is_in_an_answer(self, tmp_path: Path) -> None:
        content = b"a listed file"
        state = State(tmp_path, {"base": {"e-1": content}}, {"a": content, "b": b"another file!"})
        lists = state.client.open()
        checker = Checker(lists.judge(), keep_clean=True, learn=True)
        payload = encode(ToCheck((names(str(state.tree), "a", "b"),)))
        raw = encode(worker.checked(lambda _known: checker, "/", payload))
        answer = decode_answer(raw)
        assert isinstance(answer, Checked)
        match, clean = unpack_result(answer).outcomes
        assert (match.kind, clean.kind) == (Kind.MATCH, Kind.CLEAN)
        assert match.tags and not match.digests
        for algorithm in Algorithm:
            for data in (content, b"another file!"):
                digest = hashlib.new(algorithm.label, data).digest()
                assert digest[:8] not in raw and digest.hex().encode() not in raw

    def test_a_large_file_goes_back_to_be_a_batch_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "LARGE_BYTES", 5 << 20)
        state = State(tmp_path, {"base": {"e-1": b"x"}}, sized=False)
        for name, size in (("a", 5 << 20), ("b", 1), ("c", 5 << 20)):
            (state.tree / name).write_bytes(b"y" * size)
        checker = Checker(state.client.open().judge())

        def check(*found: str) -> Checked:
            payload = encode(ToCheck((names(str(state.tree), *found),)))
            answer = decode_answer(encode(worker.checked(lambda _known: checker, "/", payload)))
            assert isinstance(answer, Checked)
            return answer

        together = check("a", "b", "c")
        assert unpack_result(together).clean == 1
        large = [list(paths_of([group])) for group in together.large]
        assert large == [[f"{state.tree}/a"], [f"{state.tree}/c"]]
        alone = check("a")
        assert unpack_result(alone).clean == 1
        assert not alone.large

    @pytest.mark.parametrize("is_same", [True, False])
    def test_a_worker_with_other_mounts_than_the_client_compares_them(
        self, tmp_path: Path, is_same: bool
    ) -> None:
        state = State(tmp_path, {"base": {"e-1": b"x"}})
        spec = Spec(PROTOCOL, __version__, "r", "k", (), b"/", (b"/t/f",))
        namespace = mount_namespace() if is_same else b"other"
        spec = msgspec.structs.replace(spec, namespace=namespace)
        mounted = worker.Work(spec, state.client.open(), state.path).mounted
        assert mounted == frozenset() if is_same else {"/t/f", "/proc"} <= mounted

    def test_a_worker_may_take_leases_in_its_threads(self) -> None:
        before = signal.signal(signal.SIGIO, signal.SIG_DFL)
        try:
            assert asyncio.run(worker.prepare(b"nonsense", "resource", None))
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(can_lease).result()
        finally:
            signal.signal(signal.SIGIO, before)

    def test_only_a_worker_with_the_same_lists_and_directories_becomes_ready(
        self, tmp_path: Path, worker_process: _Process
    ) -> None:
        (tmp_path / "other").mkdir()
        spec, pin = worker_process.spec("scan"), worker_process.pin
        also = msgspec.structs.replace(pin, name="also")
        with probes.written([str(worker_process.state.tree)]) as (probe,):
            other = msgspec.structs.replace(
                probe, directory=os.fsencode(tmp_path / "other"), name=b""
            )
            for changes, wrong in (
                ({"protocol": PROTOCOL + 1}, ()),
                ({"version": "0"}, ()),
                ({"key_id": "another"}, ()),
                ({"reads": meaning.READS ^ 1}, ()),
                ({"lists": ()}, ()),
                ({"lists": (pin, also)}, ()),
                ({"lists": (msgspec.structs.replace(pin, provider="another"),)}, ()),
                ({"lists": (msgspec.structs.replace(pin, generation=pin.generation + 1),)}, ()),
                ({"lists": (msgspec.structs.replace(pin, index_hash=b"another"),)}, ()),
                ({}, (probe, msgspec.structs.replace(other, signs=(Sign(b"", 1, 0, 0, 0),)))),
            ):
                setup = Setup(msgspec.structs.replace(spec, **changes), wrong)
                assert worker_process.prepare(setup), changes
                assert not worker_process.is_ready("scan") and not worker_process.resources
            assert not worker_process.prepare(
                Setup(msgspec.structs.replace(spec, reads=meaning.READS), (probe,))
            )
        assert worker_process.is_ready("scan")
        assert worker_process.resources == {"r": worker.PLENTY}
        worker_process.forget("scan")
        assert not worker_process.is_ready("scan")
        assert worker_process.resources == {"r": 0}

    @pytest.mark.slow
    def test_a_process_keeps_few_scans_ready_those_that_are_used(
        self, worker_process: _Process
    ) -> None:
        runs = [f"scan {n}" for n in range(worker.MOST_RUNS + 1)]
        for run in runs[:-1]:
            assert not worker_process.prepare(Setup(worker_process.spec(run)))
        # makes `runs[0]` the most recently used run
        assert all(map(worker_process.is_ready, runs[:-1]))
        assert worker_process.is_ready(runs[0])
        # the worker accepts no further scan
        assert not worker_process.prepare(Setup(worker_process.spec(runs[0])))
        assert not worker_process.prepare(Setup(worker_process.spec(runs[-1])))
        assert [run for run in runs if not worker_process.is_ready(run)] == [runs[1]]

    def test_a_worker_that_is_not_ready_has_lost_the_batch(self) -> None:
        for function in (worker.check, worker.list_directories):
            answer = decode_answer(function("no such scan", encode(ToCheck(()))))
            assert not isinstance(answer, Checked | Listed)


class _Verdicts:
    """Replaces workers on which a directory differs from the client's."""

    slots = 1
    resource = "r"

    def without_probes(self, found: Names) -> Names | None:
        return found

    def verify(self, directories: Sequence[str]) -> dict[str, str | None]:
        return {
            path: None if path.endswith("same") else "is another directory there"
            for path in directories
        }


def test_a_file_system_that_is_not_the_same_everywhere_is_unread(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"same/x": b"", "other/x": b""})
    trees = ClusterTrees([str(tree)], ScanOptions())
    assert trees.begin() == [str(tree)]
    crew = _Verdicts()
    jobs = Jobs(None, crew, "name")  # type: ignore[arg-type]
    run = _Run(trees, crew, jobs, Remembered(None, opens=True), worker.check, NamedFiles().look_at)  # type: ignore[arg-type]
    run._cross([f"{tree}/same", f"{tree}/other", f"{tree}/gone"])
    told = {outcome.path: (outcome.kind, outcome.reason) for outcome in run._outcomes}
    assert told == {
        f"{tree}/gone": (Kind.UNREAD, "no such file or directory"),
        f"{tree}/other": (
            Kind.UNREAD,
            "not the same everywhere: is another directory there",
        ),
    }
    batch = run._backlog.take_directories(9)
    assert batch is not None
    assert batch.starts == (Start(f"{tree}/same".encode(), verified=True),)
    assert trees.coverage.has_failed(f"{tree}/other")


ONE, OTHER_ONE, DEAD = (f"tcp://127.0.0.1:{port}" for port in (1, 2, 3))


class _Connection:
    """Replaces a scheduler whose workers send the answers that a test has set, or have died."""

    def __init__(self) -> None:
        self.prepared: dict[str, bytes | OSError] = {ONE: b"", OTHER_ONE: b"", DEAD: OSError()}
        self.looked: dict[str, bytes | Exception] = {}

    def workers(self) -> dict[str, int]:
        return dict.fromkeys(self.prepared, 2)

    def call(self, function: object, *_: object, workers: Sequence[str]) -> dict[str, Any]:
        answers = self.prepared if function is worker.prepare else self.looked
        return {address: answers[address] for address in workers}


def crew_of(connection: Any, noticed: list[str]) -> Crew:
    spec = Spec(PROTOCOL, __version__, "run", "key", (), b"/")
    times = itertools.count(0.0, 10.0)
    return Crew(connection, spec, [], noticed.append, clock=lambda: next(times))


def test_a_directory_is_the_same_everywhere_if_each_worker_says_so(tmp_path: Path) -> None:
    same, other, gone = (str(tmp_path / name) for name in ("same", "other", "gone"))
    Path(same).mkdir()
    Path(other).mkdir()
    connection = _Connection()
    crew = crew_of(connection, [])
    crew.muster()
    assert (crew.slots, crew.most) == (4, 2)
    right = encode([None, None])
    for problems in (["elsewhere", None], [None, "elsewhere"]):
        wrong = encode(problems)
        for answers in ((wrong, right), (right, wrong), (wrong, encode(None))):
            connection.looked = dict(zip((ONE, OTHER_ONE), answers, strict=True))
            found = crew.verify([same, other, gone])
            assert found[gone] is not None
            assert [found[same] is None, found[other] is None] == [p is None for p in problems]
            assert (ONE, OTHER_ONE)[answers.index(wrong)] in f"{found[same]}{found[other]}"
    # A worker that sent a wrong answer may get batches later, but a dead worker gets none.
    for answer in (OSError(), MemoryError(), b"no sense", encode([None]), encode(["\x1b", "\x1b"])):
        connection.looked = {ONE: answer, OTHER_ONE: right}
        told = crew.verify([same, other])
        assert all(
            problem and ONE in problem and problem.isprintable() for problem in told.values()
        )
    connection.looked = {ONE: OSError(), OTHER_ONE: right}
    del connection.prepared[ONE]
    assert crew.verify([same, other]) == {same: None, other: None}
    assert not list(Path(same).iterdir())


def test_a_worker_that_is_not_ready_ends_the_begin_and_later_only_itself() -> None:
    connection, noticed = _Connection(), list[str]()
    connection.prepared[OTHER_ONE] = b"its lists are others\nfetch"
    with pytest.raises(StateError, match="its lists are others") as refused:
        crew_of(connection, noticed).muster()
    assert refused.value.hint == "fetch"
    connection.prepared = {ONE: b""}
    crew = crew_of(connection, noticed)
    crew.muster()
    connection.prepared |= {OTHER_ONE: b"its lists are others\nfetch", DEAD: OSError()}
    # A new worker is asked several times to prepare, before the client reports that the worker is
    # unusable.
    assert all(crew.look() for _ in range(3))
    assert (crew.slots, len(noticed)) == (2, 1)
    assert OTHER_ONE in noticed[0]
    connection.prepared = {DEAD: b""}
    assert crew.look() and crew.slots == 2


def test_without_a_cluster_all_that_is_left_is_unread(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"d/x": b"", "e/y": b""})
    trees = ClusterTrees([str(tree)], ScanOptions())
    trees.begin()
    crew: Any = _Verdicts()
    jobs = Jobs(None, crew, "name")  # type: ignore[arg-type]
    remembered = Remembered(None, opens=True)
    run = _Run(trees, crew, jobs, remembered, worker.check, NamedFiles().look_at)
    run._cross([f"{tree}/d"])
    run._cross([f"{tree}/gone"])
    run._backlog.add_starts([Start(f"{tree}/e".encode())])
    run._backlog.add_groups([names("/f", "1", "2")])
    skipped = Outcome(Kind.SKIPPED, "/s", reason="pipe")
    left = run.lose_all(iter([skipped, [Group("/g", ["3"], follow=False)]]))
    found = {outcome.path: outcome.kind for outcome in left}
    lost = ("/f/1", "/f/2", "/g/3", f"{tree}/d", f"{tree}/e", f"{tree}/gone", str(tree))
    assert found == {"/s": Kind.SKIPPED, **dict.fromkeys(lost, Kind.UNREAD)}
    assert trees.coverage.has_failed(f"{tree}/e")


site = pytest.fixture(reached_site, scope="module")


@pytest.mark.slow
@pytest.mark.parametrize("most", [2, 100])
def test_the_parts_of_a_bucket_that_is_divided_have_each_key_once(
    site: Site, worker_process: _Process, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The keys are below a prefix with many keys, beside the prefix, and close to a slash."""
    bucket = site.bucket()
    keys = ["a", "a-1/x/0", "a-1/x/1", "a.", "a/", "a/x/0", "a/x/1", "a/y/0", "a0", "b/", "z"]
    for key in keys:
        bucket.put(key, b"")

    def pages_of_two(request: Request) -> Answer:
        """Answer a listing that is not divided, with two keys a page; real pages have more."""
        if not is_listing(request) or "delimiter" in request[2]:
            return None
        query = parse_qs(request[2])
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        rows = [(key, 0, "e") for key in sorted(keys) if key > after]
        return listing(rows[:2], more=rows[1][0] if len(rows) > 2 else None)

    monkeypatch.setattr(site, "answer", pages_of_two)
    assert not worker_process.prepare(Setup(worker_process.spec("scan")))
    namespace = f"s3 {site.url} {bucket.name}"
    bounds: list[tuple[bytes | None, bytes | None]] = [(None, b"a/x."), (b"a/x.", None)]
    found: list[bytes] = []
    divided = 0
    while bounds:
        after, until = bounds.pop(0)
        asked = ToListRange(namespace, bucket.name, b"", after, until, most)
        answer = decode_object_answer(objectwork.list_range("scan", encode(asked)))
        assert isinstance(answer, ListedRange)
        assert answer.ended is None
        here = [] if not answer.pages else pa.ipc.open_stream(answer.pages).read_all()["key"]
        found += [key.as_py() for key in here]
        if answer.rest is not None:
            divided += bool(answer.points)
            parts = [answer.rest, *answer.points, until]
            bounds[:0] = pairwise(parts)
    assert found == sorted(os.fsencode(key) for key in keys)
    assert bool(divided) == (most < 100)


class _Dying:
    """Replaces a scheduler whose workers die with each batch that they get."""

    resource = "r"
    slots = 1
    idle_since = None

    def __init__(self, most: int) -> None:
        self.most = most
        self.given: list[str] = []
        self.waiting: set[str] = set()

    def look(self) -> bool:
        return True

    def submit(self, *_: object, key: str, resource: str) -> str:
        self.given.append(key)
        self.waiting.add(key)
        return key

    def stuck(self) -> set[str]:
        return set(self.waiting)

    def abandon(self, futures: Sequence[str]) -> None:
        self.waiting -= set(futures)


@pytest.mark.parametrize(("workers", "times"), [(1, 3), (2, 2), (9, 2)])
def test_a_batch_is_handed_out_again_until_three_workers_have_died_with_it(
    workers: int, times: int
) -> None:
    """With several workers, each attempt counts as two deaths, because Dask counts none."""
    dying: Any = _Dying(workers)
    jobs = Jobs(dying, dying, "name")
    jobs.submit("batch", worker.check, b"")
    for done in range(1, times + 1):
        assert (len(dying.given), jobs.batches, jobs.take_lost()) == (done, ["batch"], [])
        jobs.look()  # at the first look, a worker may just have become ready
        assert len(dying.given) == done
        jobs.look()
    assert (len(dying.given), jobs.batches, jobs.take_lost()) == (times, [], ["batch"])
    assert jobs.take_lost() == [] and not dying.waiting
