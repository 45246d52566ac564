"""Unchanged archives are not opened again, but are checked against new entries."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from hashclient.scan.cache import inside
from tests.kit import Run, State, remember_at_once

LISTED = b"a listed file of some length"
BENIGN = b"a benign file"


def zip_of(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


class Archives(State):
    """A tree of archives without a listed member."""

    def __init__(self, directory: Path, *, sized: bool) -> None:
        files = {f"a{n}.zip": zip_of({"x": b"%d" % n, "y": BENIGN}) for n in range(3)}
        files["in.zip"] = zip_of({"z.zip": zip_of({"w": LISTED, "v": BENIGN}), "u": b""})
        lists = {"baseline": {"e-0": b"something else"}}
        super().__init__(directory, lists, {**files, "plain": BENIGN}, sized=sized)
        self.sized = sized

    def scan(self, *args: object) -> Run:
        self.let_time_pass()
        result = super().scan("--jobs", "1", *args)
        self.let_time_pass()
        return result

    def list(self, **entries: bytes) -> None:
        self.add(entries, "baseline")


@pytest.fixture(params=[True, False], ids=["with sizes", "without sizes"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Archives:
    remember_at_once(monkeypatch, tmp_path)
    return Archives(tmp_path, sized=request.param)


def counts(result: Run) -> tuple[int, int, int]:
    summary = result.summary
    return summary["members"], summary["members_read"], summary["files_read"]


@pytest.mark.slow
def test_unchanged_archives_are_not_opened_again(world: Archives) -> None:
    first = world.scan()
    assert (first.code, first.summary["members"]) == (0, 10)
    second = world.scan()
    assert counts(second) == (10, 0, 0)
    assert (second.code, second.summary["inputs"]) == (0, 15)
    # If entries have sizes, the members were never read, because of the sizes that archives claim.
    assert second.summary["known_unchanged"] + second.summary["ruled_out_by_claim"] >= 10


@pytest.mark.slow
def test_that_a_file_is_no_container_is_counted_as_known_where_its_size_says_nothing_of_that(
    world: Archives,
) -> None:
    """A file whose size no entry has is skipped only if a record says that it is no container."""
    world.scan()
    (world.tree / "plain").rename(world.tree.parent / "plain")
    archives = world.scan().summary
    (world.tree.parent / "plain").rename(world.tree / "plain")
    world.scan()  # the rename has changed the ctime of the file
    summary = world.scan().summary
    names = ("ruled_out_by_size", "known_unchanged", "believed_unchanged")
    more = {name: summary[name] - archives[name] for name in names}
    assert more == {
        "ruled_out_by_size": 0,
        "known_unchanged": 1,
        # If entries have sizes, the file was not read, so no lease proved it unchanged.
        "believed_unchanged": int(world.sized),
    }


@pytest.mark.slow
def test_new_entries_are_found_in_unchanged_archives(world: Archives) -> None:
    world.scan()
    world.list(e1=LISTED)
    result = world.scan()
    assert result.code == 10
    assert [line["members"] for line in result.lines[:-1]] == [["z.zip", "w"]]
    world.list(e2=BENIGN)
    found = sorted(line["path"].rpartition("/tree/")[2] for line in world.scan().lines[:-1])
    members = ["a0.zip!/y", "a1.zip!/y", "a2.zip!/y", "in.zip!/z.zip!/v", "in.zip!/z.zip!/w"]
    assert found == [*members, "plain"]


@pytest.mark.slow
@pytest.mark.sampled
def test_one_that_has_changed_is_opened(world: Archives) -> None:
    world.scan()
    world.list(e1=LISTED)
    (world.tree / "a1.zip").write_bytes(zip_of({"x": LISTED}))
    result = world.scan()
    assert {line["container"].rpartition("/")[2] for line in result.lines[:-1]} == {
        "a1.zip",
        "in.zip",
    }


@pytest.mark.slow
def test_clean_members_are_shown_on_request(world: Archives) -> None:
    world.scan()
    assert len(world.scan("--show-all").lines) == 16


@pytest.mark.slow
def test_an_unread_archive_is_tried_again(world: Archives) -> None:
    data = bytearray(zip_of({"b": LISTED * 9}))
    data[40] ^= 0xFF
    (world.tree / "bad.zip").write_bytes(data)
    for _ in range(3):
        assert world.scan().code == 3


@pytest.mark.slow
@pytest.mark.sampled
def test_no_inventory_opens_them_all(world: Archives) -> None:
    first = world.scan()
    assert counts(world.scan("--no-inventory")) == counts(first)


@pytest.mark.slow
def test_claims_that_are_to_be_verified_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    world = Archives(tmp_path, sized=True)
    world.scan()
    assert world.scan("--verify-sizes").summary["members_read"] > 0


def encrypted(data: bytes) -> bytes:
    """Return a zip whose headers say that all members are encrypted."""
    changed = bytearray(data)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = changed.find(mark)
        while place >= 0:
            changed[place + at] |= 1
            place = changed.find(mark, place + 4)
    return bytes(changed)


@pytest.mark.slow
def test_very_many_that_are_unread_or_match_are_not_named_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashclient.scan.check import members

    monkeypatch.setattr(members, "MAX_KEPT", 3)
    world = Archives(tmp_path, sized=False)
    many = {f"m{n}": b"%d" % n for n in range(8)}
    for path in world.tree.iterdir():
        path.unlink()
    (world.tree / "o.zip").write_bytes(encrypted(zip_of(many)))
    result = world.scan()
    assert (result.code, len(result.lines)) == (3, 5)
    assert "5 more are unread or match" in result.lines[3]["reason"]
    summary = result.summary
    assert (summary["inputs"], summary["unread"], summary["clean"]) == (5, 4, 1)
    world.list(**{f"e{n}": data for n, data in enumerate(many.values())})
    (world.tree / "o.zip").write_bytes(zip_of(many))
    result = world.scan()
    summary = result.summary
    assert (result.code, summary["match"], summary["unread"]) == (11, 3, 1)
    read = summary["files_read"] + summary["members_read"]
    assert summary["inputs"] == read + summary["unread"]


@pytest.mark.slow
def test_a_container_that_is_nearly_all_hole_is_unread(tmp_path: Path) -> None:
    """No entry has the file's size; it begins like a tar, and reading it would take hours."""
    import os
    import tarfile

    world = Archives(tmp_path, sized=True)
    path = world.tree / "hole.tar"
    member = tarfile.TarInfo("x")
    member.size = 1 << 40
    path.write_bytes(member.tobuf())
    os.truncate(path, 1 << 40)
    result = world.scan()
    assert result.code == 3
    assert ["sparse" in line["reason"] for line in result.lines[:-1]] == [True]


@pytest.mark.slow
def test_containers_that_were_read_by_earlier_rules_are_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    world = Archives(tmp_path, sized=False)  # no member is ruled out by its size
    with monkeypatch.context() as earlier:
        earlier.setattr(inside, "READS", inside.READS - 1)
        world.scan()
        assert world.scan().summary["known_unchanged"] >= 10
    assert world.scan().summary["known_unchanged"] < 10
