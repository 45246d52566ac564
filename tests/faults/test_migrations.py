"""A state that was really used is migrated by an invented step that changes files of each kind.

The step is killed before each change of the disk, and run on a disk that fails at each change.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fixtures.crash import Act, FailAt, in_child, kill_at, watched
from fixtures.used_state import LISTED, pack, unpack, use, write_listed
from hashclient.core.errors import StateError
from hashclient.migrations import migrate, version
from hashclient.migrations.migrate import STEPS, Step, check_state, writing
from hashclient.migrations.version import FIRST, Version, read_version
from hashclient.system.files import write_atomic
from hashclient.system.layout import Layout
from tests.kit import Run, call, digests_of
from tests.kit.depth import changes, of_changes
from tests.kit.state import purpose_of

MOST = 200


@pytest.fixture(scope="session")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a really used state in `state`, and the key `officer.key`."""
    with pytest.MonkeyPatch.context() as patch:
        return use(tmp_path_factory.mktemp("used"), patch).parent


Unpack = Callable[[Path], Layout]


@pytest.fixture
def unpacked(used: Path) -> Unpack:
    """Copy the state to a directory, with the key that opens its quarantine."""

    def copy(directory: Path) -> Layout:
        shutil.copytree(used / "state", directory / "state")
        shutil.copy(used / "officer.key", directory)
        return Layout(directory / "state")

    return copy


def on(layout: Layout, *args: object) -> Run:
    return call("--state-dir", layout.root, *args)


def check_all(layout: Layout) -> None:
    """Check that all parts of the state can be used, and that its log continues."""
    files = layout.root.parent / "files"
    files.mkdir()
    listed = ("taken.bin", "back.bin", "left.bin")
    write_listed(files, *listed)
    (files / "clean.txt").write_bytes(b"nobody lists this")
    logged = json.loads(on(layout, "audit", "verify", "--format", "json").out)["records"]
    assert logged > 10

    found = on(layout, "scan", "--format", "jsonl", files)
    assert (found.code, found.err) == (10, "")
    assert {Path(p).name: kind for p, kind in found.outcomes.items()} == {
        **dict.fromkeys(listed, "match"),
    }
    assert found.summary["inputs"] == 4
    assert on(layout, "lookup", *digests_of(LISTED["left.bin"])).code == 10
    assert on(layout, "lookup", "0" * 64).code == 0
    known = on(layout, "matches", "--format", "jsonl").lines
    # An exception that has ended makes its match a found one again.
    states = sorted(line["state"].replace("excepted", "found") for line in known)
    assert states == ["found"] * 6 + ["reported"]
    assert on(layout, "exceptions", "list", "--format", "json").code == 0
    assert on(layout, "notices", "list", "--show-all").code == 0
    assert on(layout, "alerts", "list").code == 0

    assert on(layout, "status").code == 0
    assert on(layout, "inventory", "stats").code == 0
    verified = on(layout, "quarantine", "verify")
    assert verified.code == 0, verified
    (item,) = json.loads(on(layout, "quarantine", "list", "--format", "json").out)["items"]
    back = layout.root.parent / "back.bin"
    officer = layout.root.parent / "officer.key"
    how = ("--identity", officer, "--reason", "test", "--output", back, "--force")
    restored = on(layout, "quarantine", "restore", item["id"], *how)
    # Exit code 3: this disk cannot keep an attribute of the file.
    assert restored.code in {0, 3}, restored
    assert back.read_bytes() == LISTED["taken.bin"]
    report = json.loads(on(layout, "report", "status", "--format", "json").out)
    assert {entry["state"] for entry in report["reports"]} == {"prepared", "submitted"}

    log = json.loads(on(layout, "audit", "verify", "--format", "json").out)
    assert log["records"] > logged
    left = [p.relative_to(layout.root).as_posix() for p in layout.root.rglob("*") if p.is_file()]
    assert [path for path in left if purpose_of(path) is None] == []


RELEASES = sorted((Path(__file__).parents[1] / "data").glob("state-*.tar.xz"))


@pytest.mark.parametrize("archive", RELEASES, ids=lambda path: path.name)
def test_the_state_that_a_release_has_written_is_used(tmp_path: Path, archive: Path) -> None:
    check_all(Layout(unpack(archive, tmp_path) / "state"))


@pytest.mark.slow
def test_a_state_that_is_packed_now_is_used(tmp_path: Path) -> None:
    """The next release packs its state in this way."""
    archive = tmp_path / "state.tar.xz"
    pack(archive)
    check_all(Layout(unpack(archive, tmp_path) / "state"))


def taking(layout: Layout, act: Act) -> None:
    with watched(act), writing(layout):
        pass


def contents(layout: Layout) -> dict[str, bytes]:
    """Return the content of a state directory; for a database its rows, as bytes may differ."""
    found = {}
    for path in sorted(layout.root.rglob("*")):
        name = path.relative_to(layout.root).as_posix()
        # Unfinished files of a killed writer are removed by the next writer of the folder.
        if not path.is_file() or name.endswith(("-wal", "-shm", "-journal")) or "/.tmp-" in name:
            continue
        if path.suffix == ".db":
            with contextlib.closing(sqlite3.connect(path)) as db:
                pragma = db.execute("PRAGMA user_version").fetchone()
                found[name] = repr([pragma, *db.iterdump()]).encode()
        elif not path.name.startswith(".tmp-"):
            found[name] = path.read_bytes()
    return found


def some_files(layout: Layout) -> Iterator[Path]:
    yield layout.matches
    yield from layout.reports.glob("r-*/report.json")
    yield layout.root / "made.json"


def change_some(layout: Layout) -> None:
    """Change files of each kind; a second run of the change would fail or be visible."""
    for path in layout.reports.glob("r-*/report.json"):
        document = json.loads(path.read_bytes())
        assert "added" not in document
        write_atomic(path, json.dumps(document | {"added": 1}).encode())
    with contextlib.closing(sqlite3.connect(layout.matches, isolation_level=None)) as db:
        db.execute("CREATE TABLE added (value)")
        db.execute("UPDATE match SET state = state || '!'")
        db.execute("PRAGMA user_version = 4")
    assert not (layout.root / "made.json").exists()
    write_atomic(layout.root / "made.json", b"{}")


NEXT = version.CURRENT + 1
TODAY = STEPS
STEP = Step(NEXT, "9.9.9", some_files, change_some)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program be a later release, whose state has one version more."""
    monkeypatch.setattr(migrate, "STEPS", (*TODAY, STEP))
    monkeypatch.setattr(migrate, "CURRENT", NEXT)
    monkeypatch.setattr(migrate, "READABLE", NEXT)


def go_on(layout: Layout, after: dict[str, bytes]) -> None:
    """Check that any command finishes the migration, and that the next writer removes leftovers."""
    check_state(layout)
    now = contents(layout)
    assert {name: now[name] for name in after} == after
    with writing(layout):
        pass
    assert contents(layout) == after
    assert not layout.backup.exists()
    assert not layout.new_backup.exists()


@pytest.fixture
def before(tmp_path: Path, unpacked: Unpack) -> dict[str, bytes]:
    return contents(unpacked(tmp_path / "before"))


@pytest.fixture
def after(tmp_path: Path, unpacked: Unpack, later: None) -> dict[str, bytes]:
    layout = unpacked(tmp_path / "after")
    check_state(layout)  # every command calls this first
    assert read_version(layout) == Version(NEXT, "9.9.9", exceptions=1)
    return contents(layout)


def test_a_migration_changes_only_the_intended_files(
    before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    changed = {name for name in after if after[name] != before.get(name)}
    reports = {name for name in before if name.endswith("report.json")}
    assert changed == {"matches.db", "made.json", "state.json"} | reports
    assert after.keys() == before.keys() | changed


@pytest.mark.slow
def test_a_kill_at_each_change_leaves_what_is_gone_on_with(
    tmp_path: Path, unpacked: Unpack, after: dict[str, bytes]
) -> None:
    backups = 0
    for number in changes(MOST):
        layout = unpacked(tmp_path / str(number))
        ended = in_child(partial(taking, layout, kill_at(number)))
        backups += layout.backup.exists()
        go_on(layout, after)
        if ended == 0:
            break
    assert 20 < number < MOST
    assert backups > of_changes(5)  # several kills left the backup on the disk


def fail_in_the_middle(layout: Layout) -> StateError:
    """Let a step fail after it has changed all files, and return the message."""

    def change(layout: Layout) -> None:
        change_some(layout)
        raise StateError("the step has failed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "STEPS", (*TODAY, Step(NEXT, "9.9.9", some_files, change)))
        with pytest.raises(StateError, match="the step has failed") as caught:
            check_state(layout)
    assert read_version(layout).migrating
    return caught.value


@pytest.mark.slow
def test_a_kill_while_what_was_begun_is_taken_back(
    tmp_path: Path, unpacked: Unpack, after: dict[str, bytes]
) -> None:
    for number in changes(MOST):
        layout = unpacked(tmp_path / str(number))
        fail_in_the_middle(layout)
        ended = in_child(partial(taking, layout, kill_at(number)))
        go_on(layout, after)
        if ended == 0:
            break
    assert 20 < number < MOST


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_each_change(
    tmp_path: Path, unpacked: Unpack, after: dict[str, bytes], code: int
) -> None:
    for number in changes(MOST):
        layout = unpacked(tmp_path / str(number))
        fail = FailAt(number, code)
        with watched(fail), contextlib.suppress(StateError):
            check_state(layout)
        go_on(layout, after)
        if not fail.fired:
            break
    assert 20 < number < MOST


def test_the_release_before_takes_back_what_was_begun(
    tmp_path: Path,
    unpacked: Unpack,
    before: dict[str, bytes],
    later: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = unpacked(tmp_path / "state")
    error = fail_in_the_middle(layout)
    assert f"the old files are kept in {layout.backup}" in (error.hint or "")
    monkeypatch.undo()
    check_state(layout)
    assert read_version(layout).number == version.CURRENT
    assert contents(layout) == before
    check_all(layout)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"version": 2, "kept": ["../matches.db"], "absent": []}',
        '{"version": 2, "kept": [], "absent": ["/tmp/x"]}',
        '{"version": 2, "kept": [], "absent": ["a\\u0000b"]}',
    ],
)
def test_a_damaged_backup_is_not_put_back(
    tmp_path: Path, unpacked: Unpack, later: None, text: str
) -> None:
    layout = unpacked(tmp_path / "state")
    fail_in_the_middle(layout)
    (layout.backup / "files.json").write_text(text)
    for _ in range(2):
        with pytest.raises(StateError, match="backup of an unfinished migration is damaged"):
            check_state(layout)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (NEXT, "the state directory needs hashclient 9.9.9 or later"),
        (FIRST - 1, "written before the first release"),
    ],
)
def test_every_command_refuses_state_that_it_cannot_read_before_it_changes_anything(
    tmp_path: Path, unpacked: Unpack, number: int, said: str
) -> None:
    layout = unpacked(tmp_path)
    other = {"format": f"hashclient-state/{number}", "needs": "9.9.9", "written_by": "9.9.9"}
    layout.state.write_text(json.dumps(other))
    before, names = contents(layout), {p.name for p in layout.root.iterdir()}
    some, key, why = tmp_path / "some", layout.root.parent / "officer.key", ("--reason", "test")
    some.mkdir()
    for args in (
        ("fetch",),
        ("init", "https://127.0.0.1:1/", "--root", key, "--token-file", key),
        ("status",),
        ("scan", some),
        ("lookup", "0" * 64),
        ("matches",),
        ("matches", "show", "bcdfghjkmn"),
        ("matches", "close", "bcdfghjkmn", *why),
        ("quarantine", "list"),
        ("quarantine", "show", "bcdfghjkmn"),
        ("quarantine", "verify"),
        ("quarantine", "add", "bcdfghjkmn", *why),
        ("quarantine", "hold", "bcdfghjkmn", *why),
        ("quarantine", "release", "bcdfghjkmn", *why),
        ("quarantine", "recover"),
        ("quarantine", "restore", "bcdfghjkmn", "--identity", key, *why),
        ("quarantine", "reseal", "bcdfghjkmn", "--identity", key, *why),
        ("quarantine", "purge", "bcdfghjkmn", *why),
        ("report", "prepare", "--all"),
        ("report", "submit", "--all"),
        ("report", "status"),
        ("report", "acknowledge", "r-bcdfghjkmn", "--reference", "1"),
        ("report", "retract", "r-bcdfghjkmn", *why),
        ("inventory", "stats"),
        ("inventory", "mounts"),
        ("inventory", "prune"),
        ("inventory", "forget", some),
        ("audit", "show"),
        ("audit", "verify"),
        ("audit", "checkpoint"),
        ("audit", "rotate"),
    ):
        result = on(layout, *args)
        assert result.code == 8, (args, result)
        assert said in result.err, (args, result)
    assert contents(layout) == before
    assert {p.name for p in layout.root.iterdir()} == names
