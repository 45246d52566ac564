"""Context files of a match: sealed with its item, shown, reported, and destroyed with the item."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from fixtures.desk import A, Desk
from hashclient.core.errors import StateError
from hashclient.core.match import Match
from hashclient.packages.document import parse_document
from hashclient.quarantine.age import load_identities, write_identity
from hashclient.quarantine.evidence import unsealed
from hashclient.quarantine.item import Item, load_item
from tests.kit import Run, call

CHAT, ACCOUNT = b'{"chat": "benign"}', b"account\n" * 100_000


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def match(desk: Desk) -> Match:
    match = desk.find("a", A)
    desk.quarantine(match)
    (desk.directory / "chat.json").write_bytes(CHAT)
    (desk.directory / os.fsdecode(b"acc\xff")).write_bytes(ACCOUNT)
    return match


def paths(desk: Desk) -> list[Path]:
    return [desk.directory / "chat.json", desk.directory / os.fsdecode(b"acc\xff")]


def run(desk: Desk, *words: object) -> Run:
    return call("--state-dir", desk.settings.state_dir, *words)


def add(desk: Desk, match: Match) -> Run:
    return run(desk, "quarantine", "add", "--context", match.id, *paths(desk), "--reason", "4711")


def item_of(desk: Desk, match: Match) -> Item:
    return load_item(desk.settings.layout.quarantine, match.id)


def copies(desk: Desk, match: Match) -> list[Path]:
    return sorted((desk.settings.layout.quarantine / match.id).glob("evidence.*.age"))


def opened(path: Path, key: Path) -> bytes:
    return b"".join(unsealed(iter((path.read_bytes(),)), load_identities(key)))


def test_copies_are_sealed_with_the_item_and_the_files_stay(desk: Desk, match: Match) -> None:
    done = add(desk, match)
    assert done.code == 0 and "sealed with it: 2 files" in done.out, done.err
    first, second = copies(desk, match)
    assert opened(first, desk.officer) == CHAT and opened(second, desk.officer) == ACCOUNT
    assert {p.stat().st_mode & 0o777 for p in (first, second)} == {0o600}
    assert [Path(one.file) for one in item_of(desk, match).context] == paths(desk)
    assert [path.read_bytes() for path in paths(desk)] == [CHAT, ACCOUNT]
    shown = run(desk, "quarantine", "show", match.id)
    assert "with it" in shown.out and "chat.json" in shown.out
    assert " and 2 files with it" in run(desk, "quarantine", "list").out
    (document,) = run(desk, "quarantine", "show", match.id, "--format", "json").lines
    assert [one["size"] for one in document["context"]] == [len(CHAT), len(ACCOUNT)]
    assert desk.story(match)[-1] == "context-added" == desk.events()[-1]
    assert run(desk, "quarantine", "verify").code == 0
    # More context files can be added later.
    assert add(desk, match).code == 0
    assert len(item_of(desk, match).context) == len(copies(desk, match)) == 4


def test_a_damaged_copy_is_found(desk: Desk, match: Match) -> None:
    add(desk, match)
    first, second = copies(desk, match)
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    assert "evidence.1.age was altered" in run(desk, "quarantine", "verify").out
    second.unlink()
    first.unlink()
    found = run(desk, "quarantine", "verify")
    assert found.code == 8 and "evidence.1.age is missing" in found.out


def test_they_are_sealed_again_with_the_item(desk: Desk, match: Match, tmp_path: Path) -> None:
    add(desk, match)
    other = tmp_path / "other.key"
    public = write_identity(other, desk.now())
    words = ("--identity", desk.officer, "--recipient", public)
    assert run(desk, "quarantine", "reseal", match.id, *words).code == 0
    assert [opened(path, other) for path in copies(desk, match)] == [CHAT, ACCOUNT]
    assert {one.recipients for one in item_of(desk, match).context} == {(public,)}
    assert run(desk, "quarantine", "verify").code == 0


def test_they_go_into_a_package_where_that_is_asked(desk: Desk, match: Match) -> None:
    add(desk, match)
    package = desk.out
    for count in (0, 2):
        sent = desk.send(desk.prepare(match, with_context=count > 0, again=count > 0))
        assert sent.error is None, sent.error
        package = desk.out / f"hashclient-report-{sent.report.id}"
        (reported,) = parse_document((package / "document.json").read_bytes()).matches
        assert len(reported.context) == count
        assert len(list((package / "evidence").iterdir())) == 1 + count
        assert call("report", "verify", package).code == 0
    target = desk.directory / "extracted"
    target.mkdir()
    words = (package, "--identity", desk.officer, "--extract", target)
    assert call("report", "verify", *words).code == 0
    (folder,) = target.iterdir()
    assert (folder / f"{match.id}.1.bin").read_bytes() == CHAT
    assert (folder / f"{match.id}.2.bin").read_bytes() == ACCOUNT
    # If two context files are exchanged for each other, both are refused.
    one, two = sorted((package / "evidence").glob("*.[12].age"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert call("report", "verify", package).code == 6


def test_they_are_destroyed_with_the_item(desk: Desk, match: Match) -> None:
    add(desk, match)
    # The context files are destroyed before the folder is dropped, which a kill may prevent.
    with (
        mock.patch("hashclient.quarantine.store.Room.drop", side_effect=StateError("killed")),
        pytest.raises(StateError, match="killed"),
    ):
        desk.purge(match, order="17/4")
    assert copies(desk, match) == [] and desk.events()[-1] == "purged"
    assert desk.purge(match, order="17/4").done
    assert not (desk.settings.layout.quarantine / match.id).exists()


def test_they_are_dropped_when_the_item_is_restored(desk: Desk, match: Match) -> None:
    add(desk, match)
    words = ("--identity", desk.officer, "--force", "--reason", "harmless")
    assert run(desk, "quarantine", "restore", match.id, *words).code == 0
    assert not (desk.settings.layout.quarantine / match.id).exists()
    assert [path.read_bytes() for path in paths(desk)] == [CHAT, ACCOUNT]


def test_what_cannot_be_added(desk: Desk, match: Match) -> None:
    other = desk.find("b", b"in place")
    assert run(desk, "quarantine", "add", "--context", other.id, *paths(desk)).code == 2
    assert run(desk, "quarantine", "add", "--context", match.id).code == 2
    assert run(desk, "quarantine", "add", "--context", match.id, "--all", "x").code == 2
    missing = run(desk, "quarantine", "add", "--context", match.id, paths(desk)[0], "/nowhere/x")
    assert missing.code == 2 and "cannot read /nowhere/x" in missing.err
    pipe = desk.directory / "pipe"
    os.mkfifo(pipe)
    assert run(desk, "quarantine", "add", "--context", match.id, pipe).code == 2
    assert item_of(desk, match).context == ()
    assert "context-added" not in desk.events()


def test_a_kill_before_the_document_leaves_the_item_as_it_was(desk: Desk, match: Match) -> None:
    with mock.patch("hashclient.quarantine.store.Room.save", side_effect=StateError("killed")):
        assert add(desk, match).code == 8
    assert item_of(desk, match).context == () and len(copies(desk, match)) == 2
    assert run(desk, "quarantine", "verify").code == 0
    assert add(desk, match).code == 0
    assert [opened(path, desk.officer) for path in copies(desk, match)] == [CHAT, ACCOUNT]


def test_a_file_that_grows_meanwhile_is_not_added(desk: Desk, match: Match) -> None:
    path = paths(desk)[0]

    def grow(*_: object) -> None:
        path.write_bytes(CHAT * 2)

    with (
        mock.patch("hashclient.quarantine.context.check_space", side_effect=grow),
        desk.record() as record,
        pytest.raises(StateError, match="changed while it was read"),
    ):
        desk.room().add_context(match.id, [path], record, reason="x")
    assert item_of(desk, match).context == ()
