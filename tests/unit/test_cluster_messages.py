"""Messages of a cluster: what is sent about files, and why the lists of a worker do not fit."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.version import __version__
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cluster import messages as module
from hashclient.scan.cluster.messages import (
    INODE,
    PROTOCOL,
    SIGN,
    Lost,
    Pin,
    Spec,
    answer_of,
    decode_answer,
    names_elsewhere,
    pack_read,
    paths_of,
    pins_of,
    problem_with_lists,
    some_of,
    unpack_read,
)
from hashclient.scan.executors.wire import Checked, Failed, encode, group_of, names_of
from hashclient.scan.objects.wanted import Checked as CheckedObject
from hashclient.scan.objects.wanted import Wanted
from hashclient.scan.values.work import WORKER_DIED, WORKER_FAILED, Group, Result
from tests.kit import csv_of
from tests.unit.test_checker import lists_of

FETCH = "run `hashclient fetch` on every worker and on the client"


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    content = csv_of({"e-1": b"listed"})
    return lists_of(tmp_path_factory.mktemp("lists"), b=content, a=csv_of({"e-2": b"other"}))


def spec_of(lists: OpenLists, *pins: Pin, key_id: str | None = None) -> Spec:
    return Spec(PROTOCOL, __version__, "run", key_id or lists.sealer.key_id, pins, b"/")


def test_the_forms_that_both_sides_must_have() -> None:
    """A change of these forms needs another number of the protocol."""
    is_little = array("H", [1]).tobytes() == b"\1\0"
    assert (8 if is_little else -8) == PROTOCOL
    assert (INODE, SIGN.itemsize) == (np.dtype(np.uint64), 24)
    assert Spec.__struct_fields__ == (
        *("protocol", "version", "run", "key_id", "lists", "base", "points", "exclude"),
        *("keep_clean", "sparse", "all_digests", "learn", "asks_inventory", "reread_days"),
        *("containers", "gets_known", "boot", "namespace", "objects", "also", "reads"),
    )
    assert module.PAGE_COLUMNS == ("key", "size", "etag", "note")


def test_the_lists_of_the_client_are_named_in_their_order(lists: OpenLists) -> None:
    one, two = pins_of(lists)
    assert (one.name, two.name) == ("a", "b")
    manifests = sorted((index.manifest for index in lists.indexes), key=lambda one: one.list)
    for pin, manifest in zip((one, two), manifests, strict=True):
        assert pin == Pin(
            manifest.list, manifest.provider, manifest.generation, manifest.index_hash
        )
    assert problem_with_lists(spec_of(lists, one, two), lists) is None
    assert problem_with_lists(spec_of(lists, two, one), lists) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "c"}, "list a: the client does not use it"),
        ({"name": "0"}, "list 0: it is not there, or cannot be used"),
        ({"generation": 9}, "list a: generation 1, not 9"),
        ({"provider": "x"}, "list a: it is another list of the same name and generation"),
        ({"index_hash": "x"}, "list a: it is another list of the same name and generation"),
        (None, "list a: the client does not use it"),
    ],
)
def test_the_first_list_that_differs_is_named(
    lists: OpenLists, change: dict[str, Any] | None, problem: str
) -> None:
    one, two = pins_of(lists)
    pins = () if change is None else (msgspec.structs.replace(one, **change), two)
    assert problem_with_lists(spec_of(lists, *pins), lists) == (problem, FETCH)


def test_another_key_is_named_before_any_list(lists: OpenLists) -> None:
    text = f"it has another seal key: key id {lists.sealer.key_id}, not other"
    hint = "give every worker the seal key of the client, as a credential or a file"
    assert problem_with_lists(spec_of(lists, key_id="other"), lists) == (text, hint)


def test_an_answer_that_cannot_be_read_is_a_lost_batch() -> None:
    assert answer_of(decode_answer, None) == Lost(WORKER_DIED)
    assert answer_of(decode_answer, encode(Failed("a", "b"))) == Failed("a", "b")
    for raw in (b"", b"x", encode(["other"]), encode(["checked", 1]), encode({"a": 1})):
        assert answer_of(decode_answer, raw) == Lost(WORKER_FAILED)


GROUP = Group(
    "/d", ["a", "b", "c"], follow=False, identity=(5, 6), inodes=array("Q", [7, 8, 2**64 - 1])
)


@pytest.mark.parametrize("number", [0, 9])
def test_a_group_goes_elsewhere_with_what_is_the_same_there(number: int) -> None:
    sent = names_elsewhere(GROUP, number)
    back = group_of(sent)
    assert (back.names, sent.count, sent.file_system) == (GROUP.names, 3, number)
    assert back.identity == ((None, 6) if number else None)
    assert back.inodes == (GROUP.inodes if number else array("Q"))
    unlisted = names_elsewhere(GROUP._replace(identity=None), number)
    assert unlisted.identity is None


@pytest.mark.parametrize("rows", [[0], [2], [0, 2], [2, 0], [0, 1, 2]])
@pytest.mark.parametrize("has_more", [False, True])
def test_some_files_of_a_group_keep_what_is_theirs(rows: list[int], has_more: bool) -> None:
    signs = np.array([(n, 10 * n, -n) for n in range(3)], SIGN)
    sent = names_of(GROUP if has_more else GROUP._replace(inodes=array("Q")))
    sent = msgspec.structs.replace(sent, signs=signs.tobytes() if has_more else b"")
    found = some_of(sent, rows)
    back = group_of(found)
    assert back.names == [GROUP.names[row] for row in rows]
    assert found.count == len(rows)
    assert [*back.inodes] == ([GROUP.inodes[row] for row in rows] if has_more else [])
    assert np.frombuffer(found.signs, SIGN).tolist() == (signs[rows].tolist() if has_more else [])
    assert (found.directory, found.identity, found.follow) == (b"/d", (5, 6), False)


@pytest.mark.parametrize(
    ("directory", "path"), [("/d", "/d/a"), ("", "a"), ("/", "/a"), ("d/", "d/a"), (".", "./a")]
)
def test_paths_are_those_that_the_user_sees(directory: str, path: str) -> None:
    groups = [names_of(Group(directory, ["a"], follow=True)), names_of(GROUP)]
    assert list(paths_of(groups)) == [path, "/d/a", "/d/b", "/d/c"]


def test_results_of_objects_come_back_with_their_flags_and_without_digests(tmp_path: Path) -> None:
    wanted = [Wanted(key, 1, None, None) for key in "ab"]
    outcome = Outcome(Kind.CLEAN, "s3://b/a", digests={1: b"d" * 16})  # type: ignore[dict-item]
    given = [
        CheckedObject(Result(clean=1, outcomes=[outcome]), wanted[0], True, False),
        CheckedObject(Result(files_read=1), wanted[1], False, True),
    ]
    packed = pack_read(given)
    assert b"d" * 16 not in encode(packed)
    back = unpack_read(packed, wanted)
    assert [(one.contradicted, one.by_store) for one in back] == [(True, False), (False, True)]
    assert [one.wanted for one in back] == wanted
    assert (back[0].result.clean, back[1].result.files_read) == (1, 1)
    assert back[0].result.outcomes == [msgspec.structs.replace(outcome, digests={})]
    with pytest.raises(ValueError, match="shorter"):
        unpack_read(packed, wanted[:1])
    assert isinstance(packed.results[0][0], Checked)
