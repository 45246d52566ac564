"""Other users of the machine, who own the scanned files and exchange them during the scan."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hashclient.core.errors import ExitCode
from hashclient.matches.store import Matches
from hashclient.quarantine import isolate
from hashclient.quarantine import restore as restoring
from hashclient.quarantine.safe_rename import NEW_NAME, PRIVATE_NAME
from hashclient.quarantine.vault import item_ids, load_item
from hashclient.scan.run.actions import Responder
from hashclient.scan.run.recorder import RunRecord
from tests.kit import Run, attacker
from tests.kit.attacker import (
    Step,
    Victim,
    attack_once,
    attacking,
    exchange,
    give_tree,
    link,
    make_directory,
    make_fifo,
    needs_root,
    rename,
)
from tests.kit.scene import LISTED, Scene

pytestmark = needs_root


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


def test_an_attacker_exchanges_names_and_cannot_reach_a_victim(ground: Path) -> None:
    victim = Victim(ground / "closed" / "f", LISTED)
    tree = give_tree(ground / "tree", {"d/f": LISTED, "e/f": b"another"})
    seen: set[bytes] = set()
    with attacking(exchange(tree / "d", tree / "e")) as attack:
        while len(seen) < 2:
            seen.add((tree / "d" / "f").read_bytes())
    assert attack.succeeded == attack.rounds > 0
    with pytest.raises(AssertionError, match="PermissionError"):
        attack_once(attacker.hard_link(tree / "mine", victim.path))
    with pytest.raises(AssertionError, match="PermissionError"):
        attack_once(attacker.rename(ground / "closed", ground / "theirs"))
    attack_once(attacker.link(tree / "d" / "f", victim.path))
    assert (tree / "d" / "f").read_bytes() == LISTED  # only root can follow this link
    assert victim.is_untouched()
    victim.path.chmod(0o644)
    assert not victim.is_untouched()


def exchanged(scene: Scene, put: str) -> tuple[Victim, Step]:
    """Return a victim, and the step that puts the victim in the place of the listed file."""
    victim = scene.victim
    if put == "link":
        return victim, exchange(scene.directory, scene.trap)
    if put == "directory":
        # Root has made a directory that is closed to others within a directory of the attacker.
        victim = Victim(scene.tree / "closed" / "f", LISTED)
        return victim, exchange(scene.directory, victim.path.parent)
    other = scene.tree / "other"
    if put == "link for the file":
        attack_once(link(other, victim.path))
    else:
        # Some systems forbid a hard link to another user's file.
        os.link(victim.path, other)
        victim.look()
    return victim, exchange(scene.directory / "f", other)


PUTS = ["link", "directory", "link for the file", "hard link"]


@pytest.mark.sampled
@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("seam", [(RunRecord, "keep"), (Responder, "respond"), (isolate, "seal")])
def test_only_the_file_that_was_read_is_taken(
    ground: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    put: str,
    seam: tuple[object, str],
) -> None:
    """Names are exchanged before the match is recorded, before the action, or during it."""
    scene = Scene(ground, tmp_path)
    victim, step = exchanged(scene, put)
    where, name = seam
    real, attacks = getattr(where, name), [step]
    own = (scene.directory / "f").stat().st_ino

    def attacked(*args: Any, **kwargs: Any) -> Any:
        if attacks and args[-1]:  # the last argument says whether the file was read
            attack_once(attacks.pop())
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, attacked)
    done = scene.state.scan("--quarantine", scene.directory)
    # A name that was moved into a listed directory during the scan is found at the end of the scan
    # and read. It is removed like any name of a listed file, and the file keeps its other name.
    later = {victim.path.stat().st_ino} if put == "hard link" else set[int]()
    assert not attacks and done.summary["match"] == 1 + len(later)
    if put == "directory":
        attack_once(step)  # exchange the directories back
    assert victim.path.read_bytes() == LISTED if later else victim.is_untouched()
    room = scene.state.path / "quarantine"
    taken = {load_item(room, match_id).origin.inode for match_id in item_ids(room)} - later
    if where is isolate:  # when the action is killed here, it has opened the file and its directory
        assert taken <= {own}
    else:
        assert not taken
        assert done.code == ExitCode.MATCH_ATTENTION
        assert not done.lines[0]["actions"][0]["done"]
    with Matches(scene.state.path) as matches:
        assert [match.path for match in matches.find()] == [str(scene.directory / "f")]


@pytest.mark.sampled
@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("act", ["add", "resume", "seal-evidence"])
def test_what_is_exchanged_after_the_scan_is_not_acted_upon(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, put: str
) -> None:
    scene = Scene(ground, tmp_path)
    victim, step = exchanged(scene, put)
    (match_id,) = (line["id"] for line in scene.state.scan(scene.directory).lines[:-1])
    if act == "resume":
        with monkeypatch.context() as patch:
            patch.setattr(isolate, "_remove", lambda act, item, *_: isolate._left(act, item, "x"))
            assert scene.state.call("quarantine", "add", match_id).code == ExitCode.INCOMPLETE
    attack_once(step)
    if act == "seal-evidence":
        assert scene.state.call("report", "prepare", "--seal-evidence", match_id).code == 0
        sent = scene.state.call("report", "submit", "--all")
        assert f"no evidence of match {match_id}" in sent.err
        assert list(scene.out.rglob("*.age")) == []
        assert list(scene.state.path.rglob("*.age")) == []
    else:
        done = scene.state.call("quarantine", "add", match_id)
        assert done.code == ExitCode.INCOMPLETE, done
    if put == "directory":
        attack_once(step)  # exchange the directories back
    assert victim.is_untouched()
    room = scene.state.path / "quarantine"
    assert item_ids(room) == ([match_id] if act == "resume" else [])
    with Matches(scene.state.path) as matches:
        # If a link has replaced the file, `resume` records that the file has left its place.
        assert matches.get(match_id).in_place == ((act, put) != ("resume", "link for the file"))


@pytest.mark.sampled
@pytest.mark.parametrize("is_changed_back", [False, True])
@pytest.mark.parametrize("given", ["directory", "file", "--files-from"])
def test_a_link_of_others_that_root_names_takes_nothing_away(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, is_changed_back: bool
) -> None:
    """Root follows the link and the match is recorded, but a user's link does not choose a file."""
    scene = Scene(ground, tmp_path)
    attack_once(exchange(scene.directory, scene.trap))
    path: Path = scene.directory if given == "directory" else scene.directory / "f"
    if is_changed_back:
        real = Responder.respond

        def respond(*args: Any, **kwargs: Any) -> Any:
            attack_once(exchange(scene.directory, scene.trap))
            return real(*args, **kwargs)

        monkeypatch.setattr(Responder, "respond", respond)
    if given == "--files-from":
        names = tmp_path / "names"
        names.write_text(f"{path}\n")
        done = scene.state.call(*("scan", "--format", "jsonl", "--quarantine"), given, names)
    else:
        done = scene.state.scan("--quarantine", path)
    assert done.code == ExitCode.MATCH_ATTENTION
    assert "a link leads to it" in done.lines[0]["actions"][0]["detail"]
    assert scene.victim.is_untouched()
    assert item_ids(scene.state.path / "quarantine") == []


def test_a_link_of_root_that_root_names_takes_the_file_away(ground: Path, tmp_path: Path) -> None:
    scene = Scene(ground, tmp_path)
    (ground / "way").symlink_to("home")
    assert scene.state.scan("--quarantine", ground / "way" / "d").code == ExitCode.MATCH
    assert not (scene.directory / "f").exists()


def restore(scene: Scene, match_id: str, *more: object) -> Run:
    """Restore an item, whether its entry is withdrawn or not."""
    words = ("--identity", scene.key, "--reason", "r", "--force", *more)
    return scene.state.call("quarantine", "restore", match_id, *words)


def taken(scene: Scene) -> str:
    """Scan, isolate the listed file, and return the id of its match."""
    (match_id,) = (line["id"] for line in scene.state.scan(scene.directory).lines[:-1])
    assert scene.state.call("quarantine", "add", match_id).code == 0
    return str(match_id)


@pytest.mark.slow
@pytest.mark.parametrize("put", ["link", "directory"])
def test_a_file_is_restored_only_to_the_directory_that_it_was_taken_from(
    ground: Path, tmp_path: Path, put: str
) -> None:
    scene = Scene(ground, tmp_path)
    victim, step = exchanged(scene, put)
    victim.path.unlink()
    victim = Victim(victim.path.with_name("other"), b"")
    match_id = taken(scene)
    attack_once(step)
    refused = restore(scene, match_id)
    assert refused.code == ExitCode.USAGE
    assert ("a link leads to it" if put == "link" else "may write to") in refused.err
    if put == "link":
        by_name = restore(scene, match_id, "--output", scene.directory / "f")
        assert by_name.code == ExitCode.USAGE and "a link leads to it" in by_name.err
    attack_once(step)  # exchange the directories back
    assert victim.is_untouched()
    assert restore(scene, match_id).code == 0
    assert (scene.directory / "f").read_bytes() == LISTED


def test_a_link_that_nobody_else_could_have_put_there_is_followed_to_a_named_place(
    ground: Path, tmp_path: Path
) -> None:
    scene = Scene(ground, tmp_path)
    match_id = taken(scene)
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real")
    assert restore(scene, match_id, "--output", tmp_path / "way" / "f").code == 0
    assert (tmp_path / "real" / "f").read_bytes() == LISTED


def test_a_directory_that_was_made_again_gets_its_file_where_nobody_else_may_change_it(
    ground: Path, tmp_path: Path
) -> None:
    scene = Scene(ground, tmp_path)
    directory = tmp_path / "own"
    directory.mkdir()
    (directory / "f").write_bytes(LISTED)
    scene.directory = directory
    match_id = taken(scene)
    directory.rename(tmp_path / "before")
    directory.mkdir()
    assert restore(scene, match_id).code == 0
    assert (directory / "f").read_bytes() == LISTED


def test_set_id_bits_come_back_to_where_they_were_and_not_to_a_directory_of_others(
    ground: Path, tmp_path: Path
) -> None:
    scene = Scene(ground, tmp_path)
    file = scene.directory / "f"
    for output in (None, scene.tree / "named", tmp_path / "own"):
        os.chown(file, 0, 0)
        file.chmod(0o4755)
        match_id = taken(scene)
        more = () if output is None else ("--output", output)
        done = restore(scene, match_id, *more)
        found = (output or file).stat()
        is_theirs = output == scene.tree / "named"
        assert (found.st_uid, found.st_mode & 0o7777) == (0, 0o755 if is_theirs else 0o4755)
        assert done.code == (ExitCode.INCOMPLETE if is_theirs else 0), done
        assert ("its set-id bits" in done.out) == is_theirs
        if output is not None:
            output.rename(file)


@pytest.mark.sampled
@pytest.mark.parametrize("has_unnamed_files", [True, False])
def test_a_copy_is_kept_if_the_restored_file_is_moved_away_at_once(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_unnamed_files: bool
) -> None:
    """On some file systems the copy has a temporary name, which somebody may rename."""
    scene = Scene(ground, tmp_path)
    match_id = taken(scene)
    file, new = scene.directory / "f", scene.directory / NEW_NAME.format(match_id)
    real = restoring._give_name
    if has_unnamed_files:

        def named(*args: Any) -> None:
            real(*args)
            attack_once(rename(file, scene.directory / "away"))

    else:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_RDONLY)

        def named(*args: Any) -> None:
            attack_once(rename(new, scene.directory / "away"), link(new, scene.victim.path))
            real(*args)

    monkeypatch.setattr(restoring, "_give_name", named)
    done = restore(scene, match_id)
    assert done.code == ExitCode.STATE and "moved the restored file away" in done.err
    assert scene.victim.is_untouched()
    assert item_ids(scene.state.path / "quarantine") == [match_id]


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["link", "hard link", "directory", "fifo"])
@pytest.mark.parametrize("name", [PRIVATE_NAME, NEW_NAME])
def test_names_that_somebody_has_planted_lead_nowhere(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """The attacker may even know the id of a match before the action."""
    scene = Scene(ground, tmp_path, tombstone="gone")
    (match_id,) = (line["id"] for line in scene.state.scan(scene.directory).lines[:-1])
    planted = scene.directory / name.format(match_id)

    def plant() -> None:
        if kind == "hard link":  # some systems forbid a user to make a hard link
            os.link(scene.victim.path, planted)
            scene.victim.look()
        else:
            kinds = {
                "link": link(planted, scene.victim.path),
                "directory": make_directory(planted),
                "fifo": make_fifo(planted),
            }
            attack_once(kinds[kind])

    def is_untouched() -> bool:
        if kind == "hard link" and scene.victim.path.stat().st_nlink == 1:
            os.link(scene.victim.path, planted)  # a name in the attacker's directory may be removed
        return scene.victim.is_untouched()

    plant()
    done = scene.state.call("quarantine", "add", match_id)
    assert done.code in {0, ExitCode.INCOMPLETE} and "quarantined" in done.out
    assert is_untouched()
    if planted.is_dir() and not planted.is_symlink():
        planted.rmdir()
    planted.unlink(missing_ok=True)
    monkeypatch.setattr(os, "O_TMPFILE", os.O_RDONLY)
    plant()
    done = restore(scene, match_id)
    assert done.code in {0, ExitCode.USAGE}, done
    assert is_untouched()
