"""A second scan: which files it reads again, and that its verdict is the same."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.client import content, csv
from fixtures.crash import in_child
from hashclient.core.errors import HashclientError
from hashclient.core.kinds import Algorithm
from hashclient.scan.cache import cache, records
from hashclient.scan.cache.cache import Inventory
from hashclient.scan.check import judging
from hashclient.system.layout import INVENTORY_NAME as DATABASE_NAME
from tests.kit import (
    UNMEASURED,
    Run,
    State,
    arguments,
    digests_of,
    environment,
    remember_at_once,
    run,
)

SHA1_ONLY = (Algorithm.SHA1,)
#: A script that runs the command as if all files were old enough to be remembered.
REMEMBERS_AT_ONCE = """
from hashclient.scan.cache import cache
cache.FRESH_NS = cache.FRESH_PROVEN_NS = 0
import runpy
runpy.run_module("hashclient", run_name="__main__")
"""
FILES = {f"d{n % 3}/f{n}": content(n) for n in range(12)}


class Known(State):
    """A tree, and a list whose entries have no size, so that every file must be read."""

    def __init__(self, directory: Path) -> None:
        entries = {"base": {"e-0": content(0)}}
        super().__init__(directory, entries, FILES, algorithms=SHA1_ONLY, sized=False)

    def scan(self, *args: object) -> Run:
        self.let_time_pass()
        result = super().scan("--jobs", "1", *args)
        self.let_time_pass()
        return result

    def file(self, number: int) -> Path:
        return self.tree / f"d{number % 3}" / f"f{number}"

    @property
    def database(self) -> Path:
        return self.path / DATABASE_NAME


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    # Tests do not wait until the files that they wrote are old enough to be remembered.
    remember_at_once(monkeypatch, tmp_path)
    return Known(tmp_path)


def reads(result: Run) -> tuple[int, int]:
    return result.summary["files_read"], result.summary["bytes_read"]


def matches(result: Run) -> set[str]:
    return {Path(line["path"]).name for line in result.lines if line["type"] == "match"}


def test_an_unchanged_tree_is_not_read_again(world: Known) -> None:
    first = world.scan()
    assert reads(first) == (12, sum(map(len, FILES.values())))
    again = world.scan()
    assert reads(again) == (0, 0)
    assert (again.code, matches(again)) == (first.code, matches(first)) == (10, {"f0"})
    assert again.summary["inputs"] == 12 and again.summary["clean"] == 11


def test_a_new_generation_is_checked_without_reading(world: Known) -> None:
    world.scan()
    world.add({"e-5": content(5), "e-7": content(7)})
    found = world.scan()
    assert (found.code, reads(found), matches(found)) == (10, (0, 0), {"f0", "f5", "f7"})
    assert {line.get("generation") for line in found.lines[:-1]} == {2}
    world.provider.withdraw("e-5", "e-0", list_name="base")
    world.client.fetch()
    found = world.scan()
    assert (reads(found), matches(found)) == ((0, 0), {"f7"})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
def test_the_kernel_is_not_asked_for_a_single_byte(world: Known, tmp_path: Path) -> None:
    world.scan()
    world.add({"e-5": content(5)})
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-o", str(trace), "-e", "trace=openat,open,openat2"]
    command = arguments("--state-dir", world.path, "scan", "--jobs", "2", world.tree)
    done = subprocess.run(
        [*strace, *command], env=environment(), capture_output=True, timeout=60, check=False
    )
    if not trace.exists() or b"ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 10, done.stderr
    opened = trace.read_text(errors="replace")
    assert f'"{world.tree}' in opened
    assert [n for n in range(12) if f'"f{n}"' in opened or f'/f{n}"' in opened] == []


def test_digests_that_are_missing_are_computed_once_for_the_files_that_need_them(
    world: Known,
) -> None:
    world.scan()
    # The new entry has all digests, but the inventory has only one digest of its file.
    world.add({"e-5": content(5)}, algorithms=tuple(Algorithm))
    found = world.scan()
    assert (matches(found), reads(found)) == ({"f0", "f5"}, (1, len(content(5))))
    assert reads(world.scan()) == (0, 0)


def test_a_list_of_another_algorithm_makes_files_be_read_for_it_alone(world: Known) -> None:
    world.scan()
    world.add({"e-5": content(5)}, "other", algorithms=(Algorithm.MD5,))
    found = world.scan()
    assert (matches(found), reads(found)[0]) == ({"f0", "f5"}, 12)
    assert reads(world.scan()) == (0, 0)
    # The inventory still knows all files after the list was removed.
    shutil.rmtree(world.path / "lists" / "other")
    assert reads(world.scan()) == (0, 0)


def _restore(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_edit_with_its_time_set_back_is_seen(world: Known) -> None:
    world.scan()
    path = world.file(1)
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(content(0))
    _restore(path, before)
    after = path.stat()
    same = ("st_ino", "st_size", "st_mtime_ns")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    found = world.scan()
    assert (matches(found), reads(found)) == ({"f0", "f1"}, (1, len(content(0))))


def test_a_file_that_is_replaced_is_seen(world: Known) -> None:
    world.scan()
    path = world.file(1)
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(content(0))
    _restore(other, before)
    other.replace(path)
    found = world.scan()
    assert (matches(found), reads(found)[0]) == ({"f0", "f1"}, 1)


def test_files_that_are_swapped_are_seen(world: Known) -> None:
    world.scan()
    listed, clean, aside = world.file(0), world.file(3), world.tree / "aside"
    listed.rename(aside)
    clean.rename(listed)
    aside.rename(clean)
    assert matches(world.scan()) == {"f3"}


@pytest.mark.parametrize("size", [0, 3])
def test_a_file_that_is_cut_or_grows_is_seen(world: Known, size: int) -> None:
    path = world.file(1)
    path.write_bytes(content(0) + b"!")
    world.scan()
    before = path.stat()
    os.truncate(path, size)
    _restore(path, before)
    found = world.scan()
    assert (matches(found), reads(found)) == ({"f0"}, (1, size))
    with path.open("ab") as stream:
        stream.write(content(0)[size:])
    _restore(path, before)
    found = world.scan()
    assert (matches(found), reads(found)) == ({"f0", "f1"}, (1, len(content(0))))


def test_links_to_a_known_file_are_known(world: Known) -> None:
    link = world.tree / "d1" / "link"
    link.hardlink_to(world.file(0))
    world.scan()
    found = world.scan()
    assert (matches(found), reads(found)) == ({"f0", "link"}, (0, 0))
    # The file is changed through a hard link, and the scan knows the file by another name.
    world.file(0).write_bytes(content(1))
    assert matches(world.scan()) == set()


def test_a_tree_that_has_moved_is_known(world: Known) -> None:
    world.scan()
    (world.tree / "d0").rename(world.tree / "moved")
    found = world.scan()
    assert (matches(found), reads(found)) == ({"f0"}, (0, 0))
    moved = [line for line in found.lines if line["type"] == "match"]
    assert moved[0]["path"] == str(world.tree / "moved" / "f0")


def test_an_inode_that_is_used_again_is_seen(world: Known) -> None:
    world.scan()
    inodes = set()
    for number in range(1, 12):
        inodes.add(world.file(number).stat().st_ino)
        world.file(number).unlink()
    new = [world.tree / f"new-{n}" for n in range(11)]
    for path in new:
        path.write_bytes(content(0))
    found = world.scan()
    assert matches(found) == {"f0", *(path.name for path in new)}
    # If no inode was used a second time, the test proves nothing; common file systems reuse inodes.
    if not inodes & {path.stat().st_ino for path in new}:
        pytest.skip("no inode was used again")


def test_a_file_that_has_just_changed_is_not_remembered(
    world: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "FRESH_PROVEN_NS", 3600 * 10**9)
    for _ in range(2):
        assert reads(world.scan())[0] == 12
    assert not world.database.exists()


def test_a_file_that_changes_after_it_was_read_is_not_remembered_as_it_was(
    world: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes after it was read, so the next scan finds another status than the record."""
    original = records.records_of

    def change(statuses: Sequence[os.stat_result]) -> records.Records:
        if statuses:
            world.file(1).write_bytes(content(0))
        return original(statuses)

    monkeypatch.setattr(judging, "records_of", change)
    assert matches(world.scan()) == {"f0"}
    monkeypatch.setattr(judging, "records_of", original)
    found = world.scan()
    assert (matches(found), reads(found)[0]) == ({"f0", "f1"}, 1)


@pytest.mark.parametrize("year", [1850, 2400, 3000])
def test_a_file_from_another_century_does_not_stop_a_scan(world: Known, year: int) -> None:
    world.scan()
    seconds = (year - 1970) * 31_556_952
    os.utime(world.file(1), (seconds, seconds))
    world.file(2).write_bytes(content(0))
    for _ in range(2):
        found = world.scan()
        assert (found.code, matches(found), found.err) == (10, {"f0", "f2"}, "")


def test_another_seal_key_begins_again(world: Known) -> None:
    world.scan()
    (world.path / "seal.key").write_text("12" * 32 + "\n")
    shutil.rmtree(world.path / "lists")
    world.client.fetch()
    for expected in (12, 0):
        found = world.scan()
        assert (matches(found), reads(found)[0], found.err) == ({"f0"}, expected, "")


@pytest.mark.sampled
@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty"])
def test_a_damaged_inventory_is_reported_and_made_again(world: Known, damage: str) -> None:
    world.scan()
    data = world.database.read_bytes()
    bad = {"garbage": os.urandom(len(data)), "truncated": data[: len(data) // 2], "empty": b""}
    world.database.write_bytes(bad[damage])
    found = world.scan()
    assert (found.code, matches(found), reads(found)[0]) == (10, {"f0"}, 12)
    assert found.err.count("warning: the inventory is damaged") == (damage != "empty")
    assert world.database.stat().st_mode & 0o777 == 0o600
    found = world.scan()
    assert (matches(found), reads(found), found.err) == ({"f0"}, (0, 0), "")


def test_damage_that_shows_only_in_a_page_is_made_good(world: Known) -> None:
    world.scan()
    data = bytearray(world.database.read_bytes())
    with sqlite3.connect(world.database) as db:
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'files'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    data[(page - 1) * size : page * size] = b"\xff" * size
    world.database.write_bytes(data)
    found = world.scan()
    assert (found.code, matches(found), reads(found)[0]) == (10, {"f0"}, 12)
    assert "the inventory is damaged" in found.err
    assert reads(world.scan()) == (0, 0)


def test_stats_of_a_damaged_inventory_are_an_error(world: Known) -> None:
    world.scan()
    world.database.write_bytes(b"no database" * 1000)
    for command in (["stats"], ["prune"]):
        result = world.call("inventory", *command)
        assert result.code == 8 and "hint: a scan" in result.err


@pytest.mark.slow
def test_where_nothing_can_be_written_the_verdict_is_the_same(world: Known) -> None:
    world.scan()
    result = run(
        *("--state-dir", world.path, "scan", "--format", "jsonl", "--jobs", "1", world.tree),
        env=UNMEASURED,
        preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    # An audit log that cannot be written gives exit code 11.
    assert (result.code, matches(result)) == (11, {"f0"})
    assert result.err.count("cannot use the inventory") <= 1


def test_that_it_cannot_be_opened_is_said_once(world: Known) -> None:
    warnings: list[HashclientError] = []
    world.database.mkdir()
    outcomes, summary = world.client.scan(world.tree, on_failure=warnings.append)
    assert len(outcomes) == 12 and summary.files_read == 12
    assert len(warnings) == 1 and "cannot use the inventory" in warnings[0].message


@pytest.mark.slow
def test_scans_at_the_same_time_do_not_disturb_each_other(world: Known) -> None:
    results: list[Run] = []

    def one() -> None:
        options = ("scan", "--format", "jsonl", "--jobs", "2")
        done = subprocess.run(
            [
                *(sys.executable, "-c", REMEMBERS_AT_ONCE),
                *map(str, ("--state-dir", world.path, *options, world.tree)),
            ],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        results.append(Run(done.returncode, done.stdout, done.stderr))

    for _ in range(2):
        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 8
    for result in results:
        assert (result.code, matches(result), result.err) == (10, {"f0"}, "")
    assert reads(world.scan()) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["BEGIN", "INSERT", "UPDATE", "COMMIT"])
def test_a_kill_while_it_is_written_loses_nothing_but_that(world: Known, at: str) -> None:
    world.scan()
    world.file(1).write_bytes(content(0))
    world.file(2).unlink()

    def killed() -> None:
        store = Inventory.store

        def watched(self: Inventory, batches: Sequence[tuple[int, bytes]], *_: object) -> None:
            def trace(statement: str) -> None:
                if statement.startswith(at):
                    os.kill(os.getpid(), signal.SIGKILL)

            self._db.set_trace_callback(trace)
            store(self, batches, [(0, 0)])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Inventory, "store", watched)
            world.scan()

    assert in_child(killed) == -signal.SIGKILL
    found = world.scan()
    assert (found.code, matches(found), reads(found)[0]) == (10, {"f0", "f1"}, 1)
    assert found.err == ""
    assert reads(world.scan()) == (0, 0)


def test_stats_and_prune_say_what_they_did(world: Known) -> None:
    def inventory_command(*args: str) -> Run:
        return world.call("inventory", *args)

    assert inventory_command("stats").code == 8
    assert "there is no inventory yet" in inventory_command("prune").err
    world.scan()
    stats = json.loads(inventory_command("stats", "--format", "json").out)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert (stats["files"], stats["believed"]) == (12, 0)
    assert stats["bytes"] > 12 * 85
    assert stats["oldest_seen"] <= today
    text = inventory_command("stats").out
    assert text.startswith("files        12\nbelieved     0\n") and stats["oldest_seen"] in text
    pruned = inventory_command("prune", "--days", "1", "--format", "json")
    assert json.loads(pruned.out) == {"forgotten": 0}
    with sqlite3.connect(world.database) as db:
        db.execute("UPDATE files SET seen_day = seen_day - 90")
    db.close()
    assert inventory_command("prune").out == "0 files forgotten\n"
    assert inventory_command("prune", "--days", "89").out == "12 files forgotten\n"
    stats = json.loads(inventory_command("stats", "--format", "json").out)
    assert (stats["files"], stats["oldest_seen"]) == (0, None)
    assert "oldest seen  never" in inventory_command("stats").out
    assert reads(world.scan())[0] == 12


def test_no_digest_is_in_it(world: Known) -> None:
    world.add({"e-5": content(5)}, "other", algorithms=tuple(Algorithm))
    world.scan()
    data = b"".join(path.read_bytes() for path in world.path.glob(f"{DATABASE_NAME}*"))
    assert len(data) > 12 * 81
    for body in FILES.values():
        for digest in digests_of(body):
            assert digest.encode() not in data.lower()
            # A tag is computed from the first 16 bytes of a digest.
            assert bytes.fromhex(digest)[:16] not in data


def test_without_the_inventory_everything_is_read_and_still_remembered(world: Known) -> None:
    assert reads(world.scan("--no-inventory"))[0] == 12
    assert reads(world.scan("--no-inventory"))[0] == 12
    assert reads(world.scan()) == (0, 0)


def test_digests_are_shown_also_when_they_are_known(world: Known) -> None:
    expected = digests_of(content(0), SHA1_ONLY)
    for _ in range(2):
        found = world.scan("--show-digests")
        line = next(line for line in found.lines if line["type"] == "match")
        assert line["digests"] == {"sha1": expected[0]}
        assert reads(found)[0] == 12
    assert reads(world.scan()) == (0, 0)


def test_clean_files_are_reported_when_they_are_known(world: Known) -> None:
    first = world.scan("--show-all")
    again = world.scan("--show-all")
    assert reads(again) == (0, 0)
    assert again.outcomes == first.outcomes and len(again.outcomes) == 12
    assert again.summary["clean"] == 11 and again.summary["match"] == 1


def test_sizes_rule_files_out_before_the_inventory_is_asked(world: Known) -> None:
    shutil.rmtree(world.path / "lists")
    world.provider.publish(csv([2, 5]), "sized")
    world.client.fetch("sized")
    wanted = [data for data in FILES.values() if len(data) == len(content(2))]
    first = world.scan()
    # Matching files are read for the other digests of their entries, too.
    assert matches(first) == {"f2", "f5"}
    assert reads(first) == (len(wanted), sum(map(len, wanted)) + 2 * len(content(2)))
    assert reads(world.scan()) == (0, 0)
