"""VICS: the meaning of its fields, and that batches mean the same as single media."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fixtures import exports
from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm
from hashclient.lists.importers import vicsbatch
from hashclient.lists.importers.importfile import OTHER_HASHES, Reading
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.importers.where import CategoryMap, parse_where
from hashclient.lists.wire import NO_SIZE

MD5, SHA1, SHA256 = "ab" * 16, "cd" * 20, "ef" * 32
MODEL = {"@odata.context": f"{exports.VICS_20}Media"}
GOOD = {"Category": 1, "MD5": MD5}


def read(content: bytes, reading: Reading | None = None) -> list[DigestBatch]:
    return list(read_digests(io.BytesIO(content), "it", reading))


def document(*media: Any, **more: Any) -> bytes:
    return json.dumps({**MODEL, "value": media, **more}).encode()


def raw(media: str, model: str = f'"@odata.context":"{exports.VICS_20}Media"') -> bytes:
    return f'{{{model},"value":[{media}]}}'.encode()


def rows(batches: list[DigestBatch]) -> list[tuple[Any, ...]]:
    """Return the line, digests, size, category and id of each row."""
    found: list[tuple[Any, ...]] = []
    for batch in batches:
        digests: list[dict[str, str]] = [{} for _ in range(batch.count)]
        for algorithm, (values, at) in batch.digests.items():
            for value, row in zip(values, at, strict=True):
                digests[row][algorithm.label] = value.tobytes().hex()
        sizes = [None if s == NO_SIZE else int(s) for s in batch.sizes]
        ids = batch.entry_ids or [None] * batch.count
        categories = batch.categories or [None] * batch.count
        found += zip(batch.lines.tolist(), digests, sizes, categories, ids, strict=True)
    return found


def one_by_one(content: bytes, reading: Callable[[], Reading]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vicsbatch.Many, "take", lambda _self: False)
        return outcome(content, reading())


def outcome(content: bytes, reading: Reading) -> Any:
    """Return the rows and remarks, or the refusal."""
    try:
        return rows(read(content, reading)), reading.remarks.skipped, reading.remarks.not_meant
    except UsageError as error:
        return error.message


# The fields


def test_the_fields_of_a_medium() -> None:
    hashes = [{"HashName": "SHA-256", "HashValue": SHA256.upper()}]
    reading = Reading()
    content = document(
        {"MediaID": 7, "Category": 2, "MD5": MD5.upper(), "SHA1": SHA1, "MediaSize": 12},
        {"Category": "1", "MD5": "", "SHA1": SHA1, "MediaSize": "13", "AlternativeHashes": hashes},
        {"Category": 3, "SHA256": SHA256, "MD5": None, "MediaSize": None, "Tags": ["x"]},
    )
    assert rows(read(content, reading)) == [
        (1, {"md5": MD5, "sha1": SHA1}, 12, "category-2", None),
        (2, {"sha1": SHA1, "sha256": SHA256}, 13, "category-1", None),
        (3, {"sha256": SHA256}, None, "category-3", None),
    ]
    assert reading.remarks.notes == []


def test_other_hashes_are_ignored_and_that_is_said_once() -> None:
    reading = Reading()
    hashes = [{"HashName": "PhotoDNA", "HashValue": "AAAA"}, {"HashName": "MD5", "HashValue": "00"}]
    medium = {**GOOD, "AlternativeHashes": hashes}
    assert len(rows(read(document(medium, medium, medium), reading))) == 3
    assert reading.remarks.notes == [OTHER_HASHES]


def test_ids_and_categories_come_from_other_fields_when_asked_for() -> None:
    columns = {"entry_id": "mediaid", "category": "Series"}
    media = [{**GOOD, "MediaID": n, "Series": "Serie  A"} for n in range(3)]
    found = rows(read(document(*media), Reading(columns=columns, all_rows=True)))
    assert [row[3:] for row in found] == [("serie-a", str(n)) for n in range(3)]
    with pytest.raises(UsageError, match="it: there is no column Nobody"):
        read(document(*media), Reading(columns={"entry_id": "Nobody"}, all_rows=True))


def test_rows_are_chosen_by_their_fields() -> None:
    media = [
        {"MD5": f"{n:032x}", "Category": n % 3, "IsDistributed": bool(n % 2), "Series": f"S{n}"}
        for n in range(12)
    ]
    chosen = {
        "Category = 1": [1, 4, 7, 10],
        "category >= 1 and isdistributed = true": [1, 5, 7, 11],
        "series = s3 or Series = 'S10'": [3, 10],
        "Category = 0 AND IsDistributed = False": [0, 6],
    }
    for text, numbers in chosen.items():
        reading = Reading(where=parse_where(text))
        found = rows(read(document(*media), reading))
        assert [int(row[1]["md5"], 16) for row in found] == numbers
        assert reading.remarks.not_meant == 12 - len(numbers)
    with pytest.raises(UsageError, match="it: there is no column baseline"):
        read(document(*media), Reading(where=parse_where("Baseline = true")))


@pytest.mark.parametrize("category", [0, "0", None, "", 0.0, "0 ", "00", " "], ids=repr)
@pytest.mark.parametrize("before", [0, 5])
def test_media_without_a_category_need_a_choice(category: Any, before: int) -> None:
    content = document(*[GOOD] * before, {"MD5": MD5, "Category": category}, GOOD)
    with pytest.raises(
        UsageError, match=f"record {before + 1} has category 0 or none.*rows should"
    ) as e:
        read(content)
    assert "--where" in (e.value.hint or "")
    assert len(rows(read(content, Reading(all_rows=True)))) == before + 2
    named = CategoryMap({"category-0": None, "category-1": "one"})
    if repr(category) in ("0", "'0'", "'0 '"):
        found = rows(read(content, Reading(categories=named)))
        assert [row[3] for row in found] == ["one"] * (before + 1)


def test_a_map_that_does_not_name_a_category_refuses_it() -> None:
    named = CategoryMap({"category-1": "one"})
    with pytest.raises(UsageError, match="it:2: a category that the map"):
        read(document(GOOD, {"MD5": MD5, "Category": 4}), Reading(categories=named))


def test_classes_of_caid_have_to_be_chosen() -> None:
    content = raw(json.dumps(GOOD), f'"odata.metadata":"{exports.CAID}Media"')
    with pytest.raises(UsageError, match=r"CAID list mixes classes .* which rows should be used"):
        read(content)
    assert len(rows(read(content, Reading(where=parse_where("Category = 1"))))) == 1
    assert len(rows(read(content, Reading(categories=CategoryMap({"category-1": "x"}))))) == 1


# Refusals


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"odata.metadata":5,"value":[]}', "not a data model"),
        (b'{"odata.metadata":"http://x/ProjectVic/DataModels/1.4.xml#Media"}', "not a data model"),
        (b'{"@odata.context":"http://x/ProjectVic/DataModels/1.3.xml#Media"}', "not a data model"),
        (b'{\n"value":[]}', "not a data model"),
        (b'{"@odata.context":"' + exports.VICS_20.encode() + b'Things"}', "not a data model"),
        (document()[:-1], "not JSON, or not all of it"),
        (document() + b"x", "there is text after the end"),
        (document() + document(), "there is text after the end"),
        (document(GOOD).replace(b'"value"', b'"values"'), "no array called value"),
        (raw(json.dumps(GOOD)).replace(b"}]}", b'}],"value":[]}'), "the same key twice"),
        (raw('{"MD5":"x","MD5":"y"}'), "the same key twice"),
        (raw('{"MD5":NaN}'), "not JSON"),
        (raw('{"MediaSize":1e999}'), "not JSON"),
        (raw('{"a":' + "[" * 100_000), "nested too deeply"),
        (raw('{"a":' + "9" * 10_000 + "}"), "not JSON"),
        (raw(f'{{"a":"{"x" * (3 << 20)}'), "more than 1048576 characters"),
        (raw('{"a":"\t"}'), "not JSON"),
        (raw(f"{json.dumps(GOOD)} {json.dumps(GOOD)}"), "not JSON"),
        (raw(f"{json.dumps(GOOD)},"), "not JSON"),
        (raw("")[:-2] + b" " * (3 << 20), "white space without end"),
    ],
)
def test_a_document_that_may_be_read_in_two_ways_is_refused(content: bytes, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        read(content)


@pytest.mark.parametrize(
    "medium",
    [5, "text", [], None, {**GOOD, "MD5": 5}, {**GOOD, "MD5": [MD5]}, {**GOOD, "MediaSize": -1},
     {**GOOD, "MediaSize": 10**18}, {**GOOD, "MediaSize": 1.5}, {**GOOD, "MediaSize": True},
     {**GOOD, "MD5": MD5[1:]}, {"Category": 1}, {**GOOD, "Category": {}},
     {**GOOD, "MD5": "\ud800"}],
)  # fmt: skip
@pytest.mark.parametrize("before", [0, 9])
def test_a_medium_that_is_not_understood_is_named_by_its_number(medium: Any, before: int) -> None:
    content = document(*[GOOD] * before, medium, GOOD)
    with pytest.raises(UsageError, match=f"^it:{before + 1}: ") as caught:
        read(content)
    assert MD5[:10] not in caught.value.message
    reading = Reading(max_bad=1)
    assert len(rows(read(content, reading))) == before + 1
    assert [place for place, _ in reading.remarks.skipped] == [f"it:{before + 1}"]


DOUBLED = [
    '{"Category":1,"MD5":"@","MD5":"#"}',
    '{"MD5":"@","Category":1,"MD\\u0035":"#"}',
    '{"MD5":"@","Category":1,"SHA1":"","MD5" :"#"}',
    '{"Category":1,"Category":2,"MD5":"@"}',
    '{"MD5":"@","Category":1,"AlternativeHashes":[{"HashName":"SHA256","HashName":"x",'
    '"HashValue":"' + SHA256 + '"}]}',
]


@pytest.mark.parametrize("doubled", DOUBLED)
@pytest.mark.parametrize("where", [0, 1, 500, 999])
def test_a_key_that_stands_twice_is_seen_wherever_it_stands(doubled: str, where: int) -> None:
    media = [
        json.dumps({"MD5": f"{n:032x}", "Category": 1}, separators=(",", ":")) for n in range(1000)
    ]
    media[where] = doubled.replace("@", MD5).replace("#", "00" * 16)
    # A repeated key is also found if another medium has blanks before a colon.
    media[700] = media[700].replace('"MD5":', '"MD5" :')
    with pytest.raises(UsageError, match="the same key twice"):
        read(raw(",".join(media)))


# Many at once


@pytest.mark.slow
def test_many_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow: list[int] = []
    add = vicsbatch.Media.add

    def noted(media: vicsbatch.Media, record: Any, number: int) -> None:
        slow.append(number)
        add(media, record, number)

    monkeypatch.setattr(vicsbatch.Media, "add", noted)
    for write in (exports.vics, exports.caid, exports.vics_case):
        out = io.BytesIO()
        write(out, exports.entries(5000, seed=3))
        slow.clear()
        assert len(rows(read(out.getvalue(), Reading(all_rows=True)))) == 5000
        # Only the first and the last medium of an array or block are decoded one by one, which is
        # slow.
        assert len(slow) < 100


ODD = [
    ', "Note": "},{\\"MediaID\\":1,\\"MD5\\":\\"00\\"}"',
    ', "Note": "\\"MD5\\":"',
    ', "Exif": {"MD5": "0", "a": [1, {"MediaID": 2}, {"MediaID": 3}]}',
    ', "MediaFiles": [{"MediaID": 1, "MD5": "00"}, {"MediaID": 2}]',
    ', "AlternativeHashes": [{"HashName": "sha256", "HashValue": "' + SHA256 + '"}]',
    ', "AlternativeHashes": null, "MediaFiles": null',
    ', "\\u0041": 1',
    ', "Path": "C:\\\\x\\\\y"',
    f' ,\n"SHA1"\t: "{SHA1}"',
    ', "Series": "\u00e9\U0001f600"',
    ', "SHA1": "short"',
    ', "MediaSize": "12"',
    ', "MediaSize": 3.5',
    ', "Tags": [[[[]]]]',
    ', "MD5": "00"',
    ', "SHA1": ""',
    ', "SHA1": null',
    ', "MediaSize": true',
    ', "MediaSize": -1',
    ', "MediaSize": 1000000000000000000',
    ', "MediaSize": 99999999999999999999',
    ', "Category": true',
    ', "Category": "Category 2"',
    ', "Category": -1',
]


@pytest.mark.sampled
@pytest.mark.parametrize("seed", range(40))
def test_many_at_once_mean_the_same_as_one_by_one(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(vicsbatch, "_PIECE_CHARS", chance.choice((300, 2000, 1 << 18)))
    monkeypatch.setattr(vicsbatch, "_ROWS", chance.choice((3, 100, 8192)))
    separators = chance.choice(((",", ":"), (", ", ": ")))
    odd = chance.sample(ODD, chance.randrange(3))
    media = []
    has_more, changes_at = chance.random() < 0.5, chance.choice((0, 50, 150))
    for n in range(chance.randrange(1, 300)):
        medium = {
            "MediaID": n,
            "MD5": chance.choice((str.lower, str.upper))(chance.randbytes(16).hex()),
            "Category": chance.randrange(1, 3),
        }
        if has_more == (n >= changes_at):  # consecutive media usually have the same fields
            medium |= {"SHA1": chance.randbytes(20).hex(), "MediaSize": chance.randrange(1 << 40)}
        text = json.dumps(medium, separators=separators)
        if odd and chance.random() < 0.05:
            text = text[:-1] + chance.choice(odd) + "}"
        media.append(text)
    content = raw(chance.choice((",", ", ", ",\n")).join(media))
    where = parse_where("Category = 1 AND MediaID >= 5")
    for chosen in (None, parse_where("all"), where):
        make = partial(Reading, max_bad=50, where=chosen)
        assert outcome(content, make()) == one_by_one(content, make)


#: The cases of `ODD` without a repeated key. A decoder of single media refuses repeated keys even
#: in fields that are not used.
READ_ODD = [odd for odd in ODD if "null, " not in odd and "Series" not in odd]


@pytest.mark.sampled
@pytest.mark.parametrize("odd", READ_ODD)
def test_an_odd_medium_among_usual_ones_means_the_same(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder expects the fields of earlier media, but one medium has other fields."""
    monkeypatch.setattr(vicsbatch, "_PIECE_CHARS", 20_000)
    out = io.BytesIO()
    exports.vics(out, exports.entries(300, seed=1))
    whole = out.getvalue()
    make = partial(Reading, max_bad=5, all_rows=True)
    ends = [at.end() for at in re.finditer(rb'"IsPrecategorized":"True"', whole)]
    for at in (ends[150], ends[298]):
        content = whole[:at] + odd.encode() + whole[at:]
        assert outcome(content, make()) == one_by_one(content, make)


def test_cases_have_media_of_their_own_and_together_one_numbering() -> None:
    cases = [
        {"CaseID": "a", "Media": [GOOD, GOOD], "Other": [{"Media": [1]}]},
        {"CaseID": "b"},
        {"Media": [], "CaseID": "c"},
        {"CaseID": "d", "Media": [GOOD]},
        {},
    ]
    model = f"{exports.VICS_13}Cases"
    content = json.dumps({"odata.metadata": model, "value": cases}).encode()
    batches = read(content)
    assert [row[0] for row in rows(batches)] == [1, 2, 3]
    assert set(batches[0].digests) == {Algorithm.MD5}
    doubled = content.replace(b'"Other"', b'"Media"')
    with pytest.raises(UsageError, match="the same key twice"):
        read(doubled)
