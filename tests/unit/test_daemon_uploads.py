"""Content that arrives once: which bytes are kept, the worst outcome, and what is recorded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Outcome
from hashclient.daemon import uploads
from hashclient.daemon.uploads import BY_WORST, Content, Upload, by_lists, judge, worst
from hashclient.daemon.users import Peer

LISTED = b"benign, and listed"


class Kept:
    """Replaces a stream's file in the spool."""

    failure: str | None = None
    not_opened: tuple[str, ...] = ()

    def __init__(self, found: object = None) -> None:
        self.found = found
        self.data = b""
        self.is_closed = False
        self.seen: Any = None

    def update(self, chunk: memoryview) -> None:
        self.data += chunk

    def finish(self, content: Any) -> object:
        self.seen = content
        return self.found

    def close(self) -> None:
        self.is_closed = True


class SameLists:
    """Lists that are hashable."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


def lists(size: int | None = len(LISTED)) -> Any:
    """Return lists with an entry of this size, or with an entry without a size."""
    plan = (Algorithm.SHA256,)
    digest = hashlib.sha256(LISTED).digest()
    return SimpleNamespace(
        judge=SimpleNamespace(plan=lambda of: plan if of in (None, size) or size is None else ()),
        may_be_listed=lambda algorithm, found: (algorithm, found) == (Algorithm.SHA256, digest),
        rule=lambda outcome: outcome,
    )


def content(kept: Kept | None = None, of: Any = None, **options: Any) -> Content:
    return Content(of or lists(), "serve:s", kept=kept, **options)  # type: ignore[arg-type]


def outcome(kind: Kind, path: str = "serve:s") -> Outcome:
    return Outcome(kind, path)


def test_bytes_are_digested_and_kept_as_they_come() -> None:
    kept = Kept()
    one = content(kept, kept_bytes=5)
    one.update(memoryview(b"abc"))
    assert bytes(one.digester.content or b"") == b"abc"
    one.update(memoryview(b"def"))
    assert one.digester.content is None  # the content is larger than the memory limit
    assert (kept.data, one.digester.length) == (b"abcdef", 6)
    assert one.digester.finish()[Algorithm.SHA256] == hashlib.sha256(b"abcdef").digest()
    assert (one.door, one.is_file, one.opens, one.own, one.outcome) == (
        *("serve:s", False, False, None, None),
    )


@pytest.mark.parametrize(
    ("found", "failure", "not_opened", "opens"),
    [
        *((None, None, (), False), (object(), None, (), True), (None, "no room", (), True)),
        (None, None, ("disk image",), True),
    ],
)
def test_a_stream_that_is_no_container_lets_its_bytes_go(
    found: object, failure: str | None, not_opened: tuple[str, ...], opens: bool
) -> None:
    kept = Kept(found)
    kept.failure, kept.not_opened = failure, not_opened
    one = content(kept, kept_bytes=99)
    one.update(memoryview(b"abc"))
    assert one.may_be_container() is opens
    assert kept.seen == b"abc"
    assert (one.kept is None, kept.is_closed) == (not opens, not opens)
    one.whole = memoryview(b"whole")
    assert one.may_be_container() is opens
    assert kept.seen == (b"whole" if opens else b"abc")


def test_a_stream_that_is_not_kept_is_not_opened() -> None:
    assert not content().may_be_container()


def test_a_file_is_closed_once(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    one = content(fd=fd)
    assert one.is_file
    one.let_go()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert (one.fd, one.is_file, one.whole) == (None, True, None)
    one.let_go()
    other = content(fd=fd)
    other.let_go()  # does not close the descriptor a second time


@pytest.mark.parametrize(
    ("data", "size", "is_clean"),
    [
        (LISTED, len(LISTED), False),
        (LISTED, None, False),
        (LISTED[::-1], len(LISTED), True),
        (LISTED[::-1], None, True),
        (b"another size", len(LISTED), True),
    ],
)
def test_content_is_surely_clean_by_its_size_or_its_digests(
    data: bytes, size: int | None, is_clean: bool
) -> None:
    one = content(of=lists(size))
    one.update(memoryview(data))
    assert one.is_surely_clean() is is_clean
    one.inside = [outcome(Kind.UNREAD)]
    assert not one.is_surely_clean()


def test_the_worst_outcome_answers() -> None:
    assert BY_WORST == (Kind.MATCH, Kind.CONFLICT, Kind.UNREAD, Kind.EXCEPTED)
    others = [outcome(kind) for kind in Kind if kind not in BY_WORST]
    assert worst([]) is None and worst(others) is None
    for place, kind in enumerate(BY_WORST):
        first, second = outcome(kind, "first"), outcome(kind, "second")
        better = [outcome(k) for k in BY_WORST[place + 1 :]]
        assert worst([*others, *better, first, second]) is first


@pytest.mark.parametrize(
    ("own", "inside", "recorded"),
    [
        (None, [], []),
        (Kind.CLEAN, [], []),
        (Kind.MATCH, [Kind.UNREAD], [Kind.MATCH]),
        (Kind.UNREAD, [Kind.UNREAD], [Kind.UNREAD]),
        (Kind.CLEAN, [Kind.UNREAD, Kind.MATCH, Kind.CLEAN], [Kind.MATCH]),
        (
            *(Kind.CONFLICT, [Kind.EXCEPTED, Kind.ACCEPTED, Kind.SKIPPED]),
            [Kind.CONFLICT, Kind.EXCEPTED],
        ),
    ],
)
def test_matches_and_what_answers_are_recorded(
    own: Kind | None, inside: list[Kind], recorded: list[Kind]
) -> None:
    one = content()
    one.own = None if own is None else outcome(own)
    one.inside = [outcome(kind, f"member {number}") for number, kind in enumerate(inside)]
    all_of_it = [*([] if one.own is None else [one.own]), *one.inside]
    one.outcome = worst(all_of_it)
    assert one.outcomes() == [o for o in all_of_it if o.kind in BY_WORST]
    assert [o.kind for o in one.recorded()] == recorded


def test_content_is_judged_by_the_lists_with_which_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, list[str]]] = []

    def judge_streams(by: Any, streams: list[tuple[str, Any]]) -> list[Outcome]:
        asked.append((by, [door for door, _ in streams]))
        return [outcome(Kind.UNREAD if d == "b" else Kind.CLEAN, d) for d, _ in streams]

    monkeypatch.setattr(uploads, "judge_streams", judge_streams)

    old, new = (cast(Any, SameLists(**vars(lists()))) for _ in range(2))
    new.rule = lambda one: outcome(Kind.EXCEPTED, one.path)
    some = [Content(of, door) for of, door in ((old, "a"), (new, "n"), (old, "b"))]
    some[0].inside = [outcome(Kind.MATCH, "member")]
    assert [[one.door for one in same] for same in by_lists(some)] == [["a", "b"], ["n"]]
    judge(some)
    assert asked == [(old.judge, ["a", "b"]), (new.judge, ["n"])]
    assert [one.own and one.own.kind for one in some] == [Kind.CLEAN, Kind.EXCEPTED, Kind.UNREAD]
    answers = [one.outcome and one.outcome.kind for one in some]
    assert answers == [Kind.MATCH, Kind.EXCEPTED, Kind.UNREAD]
    judge([])


def test_an_upload_belongs_to_the_door_of_its_client() -> None:
    client: Any = SimpleNamespace(peer=Peer("serve:s,uid=1", "uid=1", True))
    one = Upload(lists(), "name", client, (b"1: ", b"\0"), 2.5, kept_bytes=3)
    assert (one.door, one.name, one.form) == ("serve:s,uid=1", "name", (b"1: ", b"\0"))
    assert (one.began, one.kept_bytes, one.client) == (2.5, 3, client)
