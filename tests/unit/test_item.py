"""The documents of the quarantine: allowed and refused values, field by field."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Algorithm
from hashclient.core.model import Hit, Seen
from hashclient.quarantine import item as module
from hashclient.quarantine.item import (
    MAX_ITEM_BYTES,
    Belonging,
    Hold,
    Item,
    ItemHit,
    Mark,
    Note,
    Origin,
    Restoration,
    Stage,
    context_path,
    encode_item,
    evidence_path,
    folder_path,
    item_ids,
    load_item,
    load_notes,
    parse_item,
    save_notes,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MARK = Mark("alice", "found", NOW)
ID = "bcdfgh2345"
PATH = Path("item.json")
ORIGIN = Origin(1, 2, 3, 1, 0o644, 0, 0, 0, 0, {})
HIT = ItemHit("l", "e", "c", 1, ("md5", "sha256"))
ITEM = Item(
    id=ID,
    stage=Stage.SEALED,
    path="/a/b",
    size=1,
    origin=ORIGIN,
    evidence_sha256="00",
    evidence_bytes=2,
    recipients=("age1",),
    taken=MARK,
    hits=(HIT,),
    tags={"md5": "00ff"},
    key_id="k",
)


def changed(**values: Any) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(ITEM), **values})


def origin(**values: Any) -> dict[str, Any]:
    return {"origin": {**msgspec.to_builtins(ORIGIN), **values}}


BELONGING = Belonging("/a/c", None, 1, "00", 2, ("age1",), MARK)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"size": 0, "evidence_bytes": 0},
        origin(mode=0),
        origin(mode=0o7777, uid=2**32 - 2, gid=2**32 - 2),
        origin(uid=0, gid=0, atime_ns=-1, mtime_ns=-(10**30)),
        origin(xattrs={"user.a": "AAE="}),
        {"path": "/a"},
        {"path": "//a"},
        {"path": "s3://bu/k"},
        {"path": "/a/ä", "path_b64": base64.b64encode(b"/a/\xff").decode()},
        {"context": [BELONGING]},
        {"hold": Hold("a", "r", NOW)},
        {"restored": Restoration("a", "r", NOW, in_place=False, path="/x")},
        {"tags": {}, "hits": []},
        {"stage": "removed", "tombstone": "gone"},
    ],
)
def test_a_document_is_read_as_it_was_written(values: dict[str, Any]) -> None:
    item = parse_item(changed(**values), ID, PATH)
    assert parse_item(encode_item(item), ID, PATH) == item
    assert encode_item(item).endswith(b"}\n")
    if "path_b64" in values:
        assert item.file == "/a/\udcff"


@pytest.mark.parametrize(
    "values",
    [
        {"format": "hashclient-quarantine-item/2"},
        {"id": "bcdfgh2346"},
        {"size": -1},
        {"evidence_bytes": -1},
        {"more": 1},
        {"stage": "lost"},
        origin(mode=-1),
        origin(mode=0o10000),
        origin(uid=-1),
        origin(uid=2**32 - 1),
        origin(gid=2**32 - 1),
        origin(xattrs={"user.a": "A"}),
        origin(xattrs={"user.a": "AA*="}),
        origin(xattrs={"user\0.a": ""}),
        *({"path": path} for path in ("a", "", "/", "/a/", "/a//b", "/a/../b", "/a/./b", "/a\0")),
        *({"path": path} for path in ("s3://bu/k?x", "s3://bu", "/..", "/.", "./a", "a/b")),
        *({name: None} for name in ("size", "origin", "taken", "hits", "tags", "stage", "context")),
        *({name: "1"} for name in ("size", "evidence_bytes", "recipients", "hold", "restored")),
        *(origin(**{name: -1.5}) for name in ("device", "inode", "directory_inode", "links")),
        *(origin(**{name: "1"}) for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns")),
        origin(xattrs={"user.a": 1}),
        {"context": [msgspec.structs.replace(BELONGING, evidence_bytes=-1)]},
        {"context": [msgspec.structs.replace(BELONGING, path_b64="A")]},
        {"context": [BELONGING, msgspec.structs.replace(BELONGING, path="/a/../c")]},
        {"hits": [HIT, msgspec.structs.replace(HIT, algorithms=("md4",))]},
        {"hold": Hold("a", "r", NOW.replace(tzinfo=None))},
        {"hold": Hold("a", "r", NOW, NOW.replace(tzinfo=None))},
        {"path_b64": "A"},
        {"path_b64": base64.b64encode(b"a").decode()},
        {"context": [msgspec.structs.replace(BELONGING, path="c")]},
        {"context": [msgspec.structs.replace(BELONGING, size=-1)]},
        {"taken": {"by": "a", "reason": "r", "time": "2026-03-01T00:00:00"}},
        {"tags": {"md4": "00"}},
        {"tags": {"md5": "0"}},
        {"hits": [msgspec.structs.replace(HIT, algorithms=("md4",))]},
        {"restored": {**msgspec.to_builtins(MARK), "path_b64": "A"}},
    ],
)
def test_a_document_that_cannot_be_meant_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(StateError) as refused:
        parse_item(changed(**values), ID, PATH)
    assert "item.json" in refused.value.message
    assert refused.value.hint


#: The parts of a document with all optional fields, each as the path of names and numbers to it.
WHOLE = msgspec.structs.replace(
    ITEM, context=(BELONGING,), hold=Hold("a", "r", NOW), restored=Restoration("a", "r", NOW)
)
PARTS: list[tuple[str | int, ...]] = [
    *((), ("origin",), ("taken",), ("hits", 0), ("hold",), ("restored",)),
    *(("context", 0), ("context", 0, "added")),
]
OPTIONAL = {"format", "context", "hold", "restored", "tombstone", "until", "in_place", "path_b64"}


def part_of(document: Any, way: tuple[str | int, ...]) -> dict[str, Any]:
    for step in way:
        document = document[step]
    found: dict[str, Any] = document
    return found


@pytest.mark.parametrize("way", PARTS, ids=str)
def test_each_part_has_its_fields_and_no_other(way: tuple[str | int, ...]) -> None:
    """A field that this version does not know could change the meaning of other fields."""
    document = msgspec.to_builtins(WHOLE)
    assert parse_item(msgspec.json.encode(document), ID, PATH) == WHOLE
    for name in part_of(document, way):
        changed = msgspec.json.decode(msgspec.json.encode(document))
        del part_of(changed, way)[name]
        is_optional = name in OPTIONAL and (way, name) != (("context", 0), "path_b64")
        if is_optional or (way, name) == (("restored",), "path"):
            parse_item(msgspec.json.encode(changed), ID, PATH)
            continue
        with pytest.raises(StateError, match=f"missing required field `{name}`"):
            parse_item(msgspec.json.encode(changed), ID, PATH)
    part_of(document, way)["more"] = None
    with pytest.raises(StateError, match="contains unknown field `more`"):
        parse_item(msgspec.json.encode(document), ID, PATH)


def test_fields_that_a_document_leaves_out_have_their_defaults() -> None:
    document = msgspec.to_builtins(ITEM)
    for name in OPTIONAL & document.keys():
        del document[name]
    assert parse_item(msgspec.json.encode(document), ID, PATH) == ITEM
    assert (ITEM.format, ITEM.path_b64, ITEM.context) == ("hashclient-quarantine-item/1", None, ())
    assert (ITEM.tombstone, ITEM.hold, ITEM.restored) == (None, None, None)
    assert list(Stage) == ["sealed", "removed"]
    assert b'"stage": "sealed"' in encode_item(ITEM)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": "other/2"}, "unknown format of item.json: other/2"),
        ({"id": "b" * 10}, "damaged: item.json: it is of another item"),
        ({"path": "/a/.."}, "damaged: item.json: no file can have this name"),
        (origin(xattrs={"a\0": ""}), "damaged: item.json: no file can have this name"),
        ({"format": "other/2", "id": "b" * 10}, "unknown format of item.json: other/2"),
    ],
)
def test_the_reason_of_a_refusal_is_said(values: dict[str, Any], said: str) -> None:
    with pytest.raises(StateError) as refused:
        parse_item(changed(**values), ID, PATH)
    assert refused.value.message == said
    hint = refused.value.hint or ""
    assert hint.startswith("another version" if "unknown" in said else "docs/quarantine.md")


def test_a_document_may_be_as_large_as_the_limit() -> None:
    whole = changed()
    filling = b" " * (MAX_ITEM_BYTES - len(whole))
    assert MAX_ITEM_BYTES == 32 << 20
    assert parse_item(whole + filling, ID, PATH).id == ID
    with pytest.raises(StateError, match="too large"):
        parse_item(whole + filling + b" ", ID, PATH)
    for data in (b"", b"[]", b"[" * 9_999):
        with pytest.raises(StateError, match="damaged"):
            parse_item(data, ID, PATH)


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        *((ID, True), (ID[:9], False), (ID + "b", False), ("0123456789", True)),
        *(("BCDFGH2345", False), ("../bcdfgh2", False), (f"{ID}\n", False), ("", False)),
    ],
)
def test_only_an_id_leads_to_a_folder(tmp_path: Path, name: str, is_id: bool) -> None:
    if is_id:
        assert folder_path(tmp_path, name) == tmp_path / name
        assert evidence_path(tmp_path, name) == tmp_path / name / "evidence.age"
        assert context_path(tmp_path / name, 1) == tmp_path / name / "evidence.1.age"
        (tmp_path / name).mkdir()
    else:
        with pytest.raises(UsageError, match="not an id") as refused:
            folder_path(tmp_path, name)
        assert refused.value.hint == "`hashclient quarantine list` shows them"
    (tmp_path / "restored.json").touch()
    assert item_ids(tmp_path) == ([name] if is_id else [])


def test_ids_are_in_order_and_no_directory_has_none(tmp_path: Path) -> None:
    assert item_ids(tmp_path / "none") == []
    for name in ("z" * 10, "b" * 10, "2" * 10):
        (tmp_path / name).mkdir()
    assert item_ids(tmp_path) == ["2" * 10, "b" * 10, "z" * 10]
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot read the quarantine"):
        item_ids(tmp_path / "file")


def test_a_note_is_of_one_sealed_copy(tmp_path: Path) -> None:
    """A note belongs to one sealed copy: if the file is isolated again, a new note is made."""
    folder = tmp_path / ID
    folder.mkdir()
    with pytest.raises(StateError, match="it is missing"):
        load_item(tmp_path, ID)
    with pytest.raises(UsageError, match="nothing in quarantine") as refused:
        load_item(tmp_path, "c" * 10)
    assert refused.value.hint == "`hashclient quarantine list` shows what there is"
    (folder / "item.json").write_bytes(encode_item(ITEM))
    assert load_item(tmp_path, ID) == ITEM
    restored = Restoration("bob", "back", NOW)
    for sha256, expected in (("00", restored), ("01", None)):
        notes = {ID: Note(sha256, restored)}
        save_notes(tmp_path, notes)
        assert load_notes(tmp_path) == notes
        assert load_item(tmp_path, ID).restored == expected
        assert load_item(tmp_path, ID, {}).restored is None
        assert load_item(tmp_path, ID, {"c" * 10: notes[ID]}).restored is None
        assert load_item(tmp_path, ID, notes).restored == expected
    save_notes(tmp_path, {})
    assert not (tmp_path / "restored.json").exists()
    save_notes(tmp_path, {})
    assert load_notes(tmp_path) == {}


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ID
    (folder / "item.json").mkdir(parents=True)
    with pytest.raises(StateError, match=f"cannot read.*{ID}/item.json"):
        load_item(tmp_path, ID)
    (folder / "item.json").rmdir()
    (folder / "item.json").write_bytes(changed(id="c" * 10))
    with pytest.raises(StateError, match=f"damaged: .*{ID}/item.json: it is of another item"):
        load_item(tmp_path, ID)
    (tmp_path / "restored.json").mkdir()
    with pytest.raises(StateError, match=r"cannot read.*restored\.json"):
        load_notes(tmp_path)
    with pytest.raises(StateError, match=r"cannot remove.*restored\.json"):
        save_notes(tmp_path, {})


@pytest.mark.parametrize("more", [0, 1])
def test_a_document_that_is_too_large_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    data = encode_item(ITEM)
    (tmp_path / ID).mkdir()
    (tmp_path / ID / "item.json").write_bytes(data)
    monkeypatch.setattr(module, "MAX_ITEM_BYTES", len(data) - more)
    if not more:
        assert load_item(tmp_path, ID) == ITEM
        return
    with pytest.raises(StateError, match="too large"):
        load_item(tmp_path, ID)


def test_notes_are_kept_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "restored.json"
    notes = {ID: Note("00", Restoration("bob", "back", NOW, in_place=False, path="/x"))}
    save_notes(tmp_path, notes)
    document = msgspec.json.decode(path.read_bytes())
    assert document["format"] == "hashclient-quarantine-restored/1"
    assert document["items"][ID]["evidence_sha256"] == "00"
    assert document["items"][ID]["restored"]["in_place"] is False
    for way in ((), ("items", ID), ("items", ID, "restored")):
        more = msgspec.json.decode(msgspec.json.encode(document))
        part_of(more, way)["more"] = 1
        path.write_bytes(msgspec.json.encode(more))
        with pytest.raises(StateError, match="contains unknown field `more`"):
            load_notes(tmp_path)
    path.write_bytes(msgspec.json.encode({**document, "format": "other/1"}))
    with pytest.raises(StateError, match=r"unknown format of .*restored\.json: other/1"):
        load_notes(tmp_path)


@pytest.mark.parametrize("name", ["short", "b" * 11, "B" * 10, ID + "\n", "\n" + ID])
def test_a_note_belongs_to_an_id(tmp_path: Path, name: str) -> None:
    restored = Restoration("bob", "back", NOW)
    save_notes(tmp_path, {name: Note("00", restored)})
    with pytest.raises(StateError, match="damaged"):
        load_notes(tmp_path)


@pytest.mark.parametrize(
    "text",
    ['{"format": "other/1", "items": {}}', "{", '{"items": {"short": {}}}', "[" * 9_999, "5"],
)
def test_notes_that_cannot_be_meant_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "restored.json").write_text(text)
    with pytest.raises(StateError) as refused:
        load_notes(tmp_path)
    assert ("unknown format" in refused.value.message) == ("other" in text)


@pytest.mark.parametrize(
    ("until", "is_held"),
    [(None, True), (timedelta(seconds=1), True), (timedelta(), False), (-timedelta(1), False)],
)
def test_a_hold_ends_at_its_time(until: timedelta | None, is_held: bool) -> None:
    hold = Hold("a", "r", NOW, None if until is None else NOW + until)
    item = msgspec.structs.replace(ITEM, hold=hold)
    assert item.held(NOW) == (hold if is_held else None)
    assert ITEM.held(NOW) is None


def test_an_item_has_its_values_in_the_form_of_a_match() -> None:
    assert ITEM.tags_by_algorithm() == {Algorithm.MD5: b"\0\xff"}
    hit = Hit("l", "e", "c", 1, (Algorithm.MD5, Algorithm.SHA256), complete=True)
    assert HIT.value() == hit
    assert ItemHit.of(hit) == HIT
    assert ORIGIN.seen == Seen(None, 3, None, 2)
    assert BELONGING.file == "/a/c"
    assert Mark.of("\udcff", "a\udcffb", NOW) == Mark("?", "a?b", NOW)
    restored = Restoration("a", "r", NOW)
    assert (restored.in_place, restored.path) == (True, None)
    assert module.FORMAT == "hashclient-quarantine-item/1"
