"""NCMEC's hash sharing: its entries, and hostile XML."""

from __future__ import annotations

import io

import pytest

from fixtures import exports
from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Algorithm
from hashclient.lists.importers import ncmec
from hashclient.lists.importers.importfile import OTHER_HASHES, Reading
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.importers.where import parse_where

MD5, SHA1 = "ab" * 16, "cd" * 20
HEAD = f'<?xml version="1.0" encoding="UTF-8"?>\n<queryResult xmlns="{exports.NCMEC}">'


def read(content: bytes | str, reading: Reading | None = None) -> list[DigestBatch]:
    data = content.encode() if isinstance(content, str) else content
    return list(read_digests(io.BytesIO(data), "it", reading))


def image(inside: str = "", number: str = "1", prints: str = f"<md5>{MD5}</md5>") -> str:
    return (
        f'<image><member id="42">M</member><id>{number}</id>{inside}'
        f"<fingerprints>{prints}</fingerprints></image>"
    )


def answer(*images: str) -> str:
    return f"{HEAD}<images>{''.join(images)}</images></queryResult>"


def exported(count: int, **more: list[int]) -> bytes:
    out = io.BytesIO()
    exports.ncmec(out, exports.entries(count, seed=2), **more)
    return out.getvalue()


def test_the_fields_of_an_entry() -> None:
    more = "<timestamp>2026-01-07T09:00:00Z</timestamp><classification>A1</classification>"
    prints = f"<md5>{MD5.upper()}</md5> <sha1> {SHA1}\n</sha1><pdna>AA</pdna>"
    reading = Reading()
    content = answer(image(more, prints=prints), image("<classification/>", "2"))
    (batch,) = read(content, reading)
    assert batch.entry_ids == ["42:image:1", "42:image:2"]
    assert batch.categories == ["a1", None]
    assert batch.lines.tolist() == [1, 2]
    assert batch.added is not None
    assert str(batch.added[0]) == "2026-01-07T09:00:00.000"
    values, rows = batch.digests[Algorithm.SHA1]
    assert (values.tobytes().hex(), rows.tolist()) == (SHA1, [0])
    assert reading.remarks.notes == [OTHER_HASHES]


def test_entries_are_chosen_by_their_fields() -> None:
    content = exported(30)
    for text, count in (("type = video", 10), ("member = 42", 30), ("classification = a3", 0)):
        found = read(content, Reading(where=parse_where(text)))
        assert sum(b.count for b in found) == count
    with pytest.raises(UsageError, match="it: there is no column name"):
        read(content, Reading(where=parse_where("name = x")))
    reading = Reading(columns={"category": "type"})
    assert {c for b in read(content, reading) for c in b.categories or []} == {"image", "video"}


def test_an_id_that_a_list_may_not_have_is_left_to_the_list() -> None:
    (batch,) = read(answer(image(number=MD5), image(number="x y"), image(number="z" * 99)))
    assert batch.entry_ids == [None] * 3


def test_deleted_entries_are_no_rows_and_that_is_said() -> None:
    reading = Reading()
    content = exported(9, deleted=[100, 101])
    assert sum(b.count for b in read(content, reading)) == 9
    assert any("2 entries are marked as deleted" in note for note in reading.remarks.notes)
    with pytest.raises(UsageError, match="an entry is both present and marked as deleted"):
        read(exported(9, deleted=[0]))


def test_of_very_many_entries_one_that_is_present_and_deleted_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ids of all entries are compared in parts, and kept in a file meanwhile."""
    monkeypatch.setattr(ncmec, "_MAX_HASHES_BYTES", 64)
    monkeypatch.setattr(ncmec, "_COMPARED", 7)
    gone = list(range(100, 160))
    assert sum(b.count for b in read(exported(50, deleted=gone))) == 50
    for one in (0, 24, 49):
        with pytest.raises(UsageError, match="an entry is both present and marked as deleted"):
            read(exported(50, deleted=[*gone, one]))


def test_without_room_for_a_temporary_file_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncmec, "_MAX_HASHES_BYTES", 64)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(StateError, match="cannot write a temporary file: No such file"):
        read(exported(50))


def test_a_disk_that_is_full_for_the_last_hashes_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ncmec, "SpooledTemporaryFile", lambda _: open("/dev/full", "w+b"))  # noqa: PTH123, SIM115
    with pytest.raises(StateError, match="cannot write a temporary file: No space left"):
        read(exported(50))


def test_hashes_in_memory_need_no_place_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", list)
    assert sum(batch.count for batch in read(exported(50))) == 50


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (HEAD, "not whole"),
        (answer(image())[:-1], "not whole"),
        (answer(image()) + "<x/>", "not whole"),
        (answer(image()).replace("queryResult", "html"), "not an answer"),
        (answer(image()).replace("/v2", "/v1"), "not an answer"),
        (answer(image()).replace(f' xmlns="{exports.NCMEC}"', ""), "not an answer"),
        (f"{HEAD}<audios/></queryResult>", "other than images, videos"),
        (HEAD.replace("?>\n", "?><!DOCTYPE x>"), "a document type"),
        (HEAD.replace("?>\n", '?><!DOCTYPE x [<!ENTITY a "b">]>'), "a document type"),
        (HEAD.replace("?>\n", '?><!DOCTYPE x SYSTEM "file:///etc/passwd">'), "a document type"),
        (answer(image("&xxe;")), "not whole"),
        (HEAD + "<images>" + "<a>" * 20, "nested too deeply"),
        (answer(image(prints=f"<md5>{'a' * 100_000}</md5>")), "a text of more than 65536"),
        (HEAD + "<images " + "a" * (1 << 20), "a tag of more than"),
        (HEAD + "<images a='" + "a" * (1 << 20), "a tag of more than"),
        (HEAD + "<!-- " + "a" * (1 << 20), "a tag of more than"),
        (HEAD + "<images><image><id><![CDATA[" + "x" * (1 << 20), "more than"),
        (HEAD.replace("UTF-8", "x-unknown") + "</queryResult>", "not whole"),
        (answer(image("<\x01>")), "not whole"),
    ],
)
def test_xml_that_means_harm_is_refused(content: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        read(content)


def test_entities_that_grow_are_refused_at_once() -> None:
    lines = [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)]
    laughs = HEAD.replace("?>\n", f'?><!DOCTYPE q [<!ENTITY a0 "ha">{"".join(lines)}]>')
    with pytest.raises(UsageError, match="a document type or an entity"):
        read(laughs + "<images>&a9;</images></queryResult>")


@pytest.mark.parametrize(
    "entry",
    [
        image(prints=""),
        image(prints="<pdna>AAAA</pdna>"),
        image(prints="<md5>xyz</md5>"),
        image(prints=f"<md5>{MD5}</md5><md5>{MD5}</md5>"),
        image("<id>2</id>"),
        image().replace("<id>1</id>", ""),
        image().replace(' id="42"', ""),
        image().replace("image>", "audio>"),
        image("<timestamp>yesterday</timestamp>"),
        "<image/>",
    ],
)
def test_an_entry_that_is_not_understood_is_named_by_its_number(entry: str) -> None:
    content = answer(image(), entry, image(number="3"))
    with pytest.raises(UsageError, match=r"^it:2: ") as caught:
        read(content)
    assert MD5[:10] not in caught.value.message
    reading = Reading(max_bad=1)
    (batch,) = read(content, reading)
    assert batch.lines.tolist() == [1, 3]
    assert [place for place, _ in reading.remarks.skipped] == ["it:2"]
