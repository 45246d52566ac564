"""The scan of one bucket: where it can continue, what waits for its end, and who lists it."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.objecturi import ObjectUri, parse_uri
from hashclient.index.matcher import Judge
from hashclient.objects.failures import StoreError, Trouble
from hashclient.objects.listing import ListingEndedError
from hashclient.objects.pages import page_of
from hashclient.scan.cache.records import RECORD
from hashclient.scan.check.kept import Spool
from hashclient.scan.objects import cache as object_cache
from hashclient.scan.objects import objects as module
from hashclient.scan.objects.objects import (
    CONTRADICTED,
    Objects,
    Request,
    Tools,
    make_token,
    read_token,
)
from hashclient.scan.objects.threads import Page, Work
from hashclient.scan.objects.wanted import BY_SIZE, Checked, Wanted
from hashclient.scan.values.work import Advance, Result
from tests.unit.test_matcher import judge as make_judge
from tests.unit.test_matcher import row
from tests.unit.test_sorting import MD5, etag

URI = parse_uri("s3://bkt/p/")
CLOSED = "closed"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return a judge of one entry, which has size 4 and an MD5."""
    return make_judge(tmp_path_factory.mktemp("judge"), one=[row("e-4", b"4444", MD5, size=4)])


class Script(Work):
    """A listing by other machines: each item of `events` is returned or raised by `next`.

    A number stands for the result of the object that was queued so many places ahead.
    """

    def __init__(self, *events: Any) -> None:
        super().__init__()
        self.events = deque(events)
        self.queued: list[Wanted] = []

    def __exit__(self, *_ended: object) -> None:
        self.events.append(CLOSED)

    def read(self, wanted: Wanted) -> None:
        self.backlog += 1
        self.queued.append(wanted)

    def next(self, seconds: float) -> Page | Checked | None:
        assert seconds == 0.2
        event = self.events.popleft()
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, dict):
            self.backlog -= 1
            how = {"at": 0, **event}
            one = self.queued.pop(how.pop("at"))
            return Checked(Result(files_read=1), one, **how)
        if isinstance(event, Page) and event.batch is None:
            self._is_listed = True
        return cast("Page | None", event)


class Elsewhere:
    """Other machines, which list a bucket by a script."""

    def __init__(self, *works: Work) -> None:
        self.works = list(works)
        self.asked: list[tuple[str, str | None, str]] = []
        self.closed = 0

    def bucket(self, uri: ObjectUri, after: str | None, namespace: str) -> Work:
        self.asked.append((uri.text, after, namespace))
        return self.works.pop(0)

    def close(self) -> None:
        self.closed += 1


def store_of(uri: ObjectUri) -> Any:
    return SimpleNamespace(
        scheme=uri.scheme,
        text=uri.bucket_text,
        namespace=f"of {uri.bucket}",
        sorts_by_bytes=uri.scheme != "az",
    )


def page(*keys: str, size: int = 3, etags: Any = None) -> Page:
    """Return a page of a listing; no entry has the size 3, so objects of size 3 are not read."""
    found = [(key, size, etags and etags(key), None, None) for key in keys]
    return Page(page_of(found))


def noting(given: list[Any], result: Any) -> Callable[..., Any]:
    """Return a function that notes its arguments, the named ones if there are any."""

    def note(*args: Any, **how: Any) -> Any:
        given.append(how or args)
        return result

    return note


END, READ = Page(None), dict[str, Any]()
WAITS, LIES = {"by_store": True}, {"contradicted": True}


class Scan:
    """A scan of a bucket that is listed by a script."""

    def __init__(self, directory: Path, judge: Judge, *events: Any, **how: Any) -> None:
        self.work = Script(*events)
        self.elsewhere = Elsewhere(self.work)
        self.uri = how.pop("uri", URI)
        self.judge, self.keep_clean = judge, how.pop("keep_clean", False)
        names = [name for name in Request.__struct_fields__ if name in how]
        request = Request((self.uri,), **{name: how.pop(name) for name in names})
        how = {"store": store_of, "chance": lambda: 1} | how
        self.objects = Objects(request, Tools(Spool(directory, 1 << 20), **how))
        self.objects.check_at(self.elsewhere)
        self.members: list[Any] = []

    def make_members(self) -> Any:
        self.members.append(SimpleNamespace(are_clean=lambda _: []))
        return None

    def check(self) -> Generator[Any]:
        return self.objects.check(self.judge, self.make_members, keep_clean=self.keep_clean)

    def outcomes(self) -> list[Outcome]:
        found: list[Outcome] = []
        for item in self.check():
            found += [item] if isinstance(item, Outcome) else []
            found += item.outcomes if isinstance(item, Result) else []
        return found


def test_objects_are_read_of_their_current_version_unless_somebody_asks_for_less() -> None:
    request = Request((URI,))
    assert (request.reads, request.all_versions, request.alone) == (True, False, False)
    assert (request.after, request.report) == (None, None)
    tools = Tools(cast("Any", None))
    assert (tools.memory, tools.elsewhere, tools.learns, tools.readers) == (None, None, False, 16)
    assert not tools.trusts("s3://bkt")
    assert 0 <= tools.chance() < 2**64 and tools.chance() != tools.chance()
    objects = Objects(Request((URI, parse_uri("gs://cup/k"))), tools)
    assert (objects.arguments, objects.token) == (["s3://bkt/p/", "gs://cup/k"], None)


@pytest.mark.parametrize(
    ("events", "after"),
    [
        ([], None),
        ([page("a", "b")], "b"),
        ([page("a"), None, page("b", "c")], "c"),
        ([page("a", "b", size=4)], None),
        ([page("a", "b", size=4), READ], None),
        ([page("a", "b", size=4), READ, READ], "b"),
        ([page("a"), page("b", size=4)], "a"),
        ([page("a", size=4), page("b")], None),
        ([page("a", size=4), page("b"), READ], "b"),
        # the object of the second page is read first
        ([page("a", size=4), page("b", size=4), {"at": 1}], None),
        ([page("a", size=4), page("b", size=4), {"at": 1}, READ], "b"),
        ([page("a", size=4), page("b", size=4), {"at": 0}], "a"),
    ],
)
@pytest.mark.parametrize("begin", [None, "0"])
def test_a_scan_continues_behind_the_last_page_that_is_done(
    tmp_path: Path, judge: Judge, events: list[Any], after: str | None, begin: str | None
) -> None:
    scan = Scan(tmp_path, judge, *events, KeyboardInterrupt(), after=begin)
    assert scan.objects.token is None
    with pytest.raises(KeyboardInterrupt):
        list(scan.check())
    wanted = after or begin
    assert scan.objects.token == (None if wanted is None else make_token(URI, wanted))
    assert scan.elsewhere.asked == [("s3://bkt/p/", begin, "of bkt")]
    assert scan.elsewhere.closed == 1
    assert scan.work.events == deque([CLOSED])


@pytest.mark.parametrize("is_settling", [False, True])
def test_a_scan_does_not_continue_behind_objects_that_wait_for_its_end(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, is_settling: bool
) -> None:
    """Objects that wait have no outcome yet, also while the outcomes of the first are yielded."""
    monkeypatch.setattr(module, "_TOGETHER", 1)
    events = [page("a"), page("b", "c", size=4), WAITS, WAITS]
    end = END if is_settling else KeyboardInterrupt()
    scan = Scan(tmp_path, judge, *events, end, keep_clean=True)
    items = scan.check()
    if is_settling:
        found = [next(items) for _ in range(6)]
        assert [one.path for one in found[-1].outcomes] == ["s3://bkt/b"]
        items.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            list(items)
    assert scan.objects.token is None


def test_a_scan_does_not_continue_behind_a_page_of_objects_that_wait(
    tmp_path: Path, judge: Judge
) -> None:
    trusted = page("a", "b", size=4, etags=lambda key: etag(key.encode()))
    how: dict[str, Any] = {"trusts": lambda _: True}
    scan = Scan(tmp_path, judge, trusted, READ, page("c"), KeyboardInterrupt(), **how)
    with pytest.raises(KeyboardInterrupt):
        list(scan.check())
    assert scan.objects.token is None


def test_objects_that_have_waited_do_not_stop_a_scan_from_continuing(
    tmp_path: Path, judge: Judge
) -> None:
    events = [page("a", size=4), WAITS, ListingEndedError("denied")]
    scan = Scan(tmp_path, judge, *events)
    items = scan.check()
    while not isinstance(next(items), Outcome):
        assert scan.objects.token is None
    items.close()
    assert scan.objects.token == make_token(URI, "a")


def test_a_scan_that_is_left_has_a_token_and_one_that_ends_has_none(
    tmp_path: Path, judge: Judge
) -> None:
    scan = Scan(tmp_path, judge, page("a"), None, END)
    items = scan.check()
    assert [type(next(items)) for _ in range(3)] == [Advance, Result, Advance]
    items.close()
    assert scan.objects.token == make_token(URI, "a")
    scan = Scan(tmp_path, judge, page("a"), END)
    list(scan.check())
    assert scan.objects.token is None


@pytest.mark.parametrize(
    ("keys", "after"), [("a", None), ("aa", None), ("ab", "a"), ("abb", "a"), ("abcc", "b")]
)
def test_the_versions_of_the_last_key_may_continue_on_the_next_page(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, keys: str, after: str | None
) -> None:
    """The client itself lists versions, also beside a cluster."""
    monkeypatch.setattr(module, "Threads", lambda pages, *_: pages)
    script = Script(page(*keys), KeyboardInterrupt())
    asked: list[Any] = []
    monkeypatch.setattr(module, "list_pages", noting(asked, script))
    scan = Scan(tmp_path, judge, all_versions=True)
    with pytest.raises(KeyboardInterrupt):
        list(scan.check())
    assert scan.objects.token == (None if after is None else make_token(URI, after))
    assert scan.elsewhere.asked == []
    assert asked == [{"after": None, "all_versions": True, "alone": False}]


@pytest.mark.parametrize("all_versions", [False, True])
def test_a_report_replaces_the_listing_and_has_no_token(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, all_versions: bool
) -> None:
    monkeypatch.setattr(module, "Threads", lambda pages, *_: pages)
    asked: list[Any] = []
    script = Script(page("a"), page("b"), KeyboardInterrupt())
    report = SimpleNamespace(pages=noting(asked, script))
    scan = Scan(tmp_path, judge, report=report, all_versions=all_versions)
    with pytest.raises(KeyboardInterrupt):
        list(scan.check())
    assert scan.objects.token is None
    assert (asked, scan.elsewhere.asked) == ([{"all_versions": all_versions}], [])


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("scheme", ["gs", "az", "s3"])
def test_the_client_lists_what_other_machines_cannot(
    tmp_path: Path,
    judge: Judge,
    monkeypatch: pytest.MonkeyPatch,
    scheme: Literal["s3", "gs", "az"],
    alone: bool,
) -> None:
    made: list[Any] = []
    script = Script(END)

    def threads(pages: Any, reader: Any, most: int) -> Work:
        made.append(most)
        one = reader(lambda: True)
        made.extend([one._learns, one._keep_clean, one._is_stopped(), one._opener])
        return cast("Work", pages)

    monkeypatch.setattr(module, "Threads", threads)
    asked: list[Any] = []
    monkeypatch.setattr(module, "list_pages", noting(asked, script))
    uri = ObjectUri(scheme, "bkt", "k", "v" if scheme == "s3" else None)
    how: dict[str, Any] = {"uri": uri, "after": "a", "readers": 3, "learns": alone}
    scan = Scan(tmp_path, judge, alone=alone, keep_clean=not alone, **how)
    assert scan.outcomes() == []
    assert scan.elsewhere.asked == []
    assert asked == [{"after": "a", "all_versions": False, "alone": alone}]
    assert made == [3, alone, not alone, True, None]


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_listing_that_ended_early_is_unread_after_what_was_listed(
    tmp_path: Path, judge: Judge, has_failed: bool
) -> None:
    events = [page("a"), page("b", size=4), ListingEndedError("denied"), None, READ]
    scan = Scan(tmp_path, judge, *(events if has_failed else [*events[:2], READ, END]))
    found = scan.outcomes()
    assert scan.work.is_over and not scan.work.queued
    reason = f"the listing ended early: denied; --resume {make_token(URI, 'b')} goes on"
    unread = Outcome(Kind.UNREAD, "s3://bkt/p/", reason=reason, is_object=True)
    assert found == [unread] * has_failed


@pytest.mark.parametrize(
    ("uri", "events", "after", "is_told"),
    [
        ("s3://bkt/p/", [], None, False),
        ("s3://bkt/p/", [], "0", True),
        ("s3://bkt/p/", [page("a", size=4)], None, False),
        ("s3://bkt/p?versionId=v", [], "0", False),
    ],
)
def test_a_token_is_told_if_the_rest_of_a_listing_can_be_listed(
    tmp_path: Path,
    judge: Judge,
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    events: list[Any],
    after: str | None,
    is_told: bool,
) -> None:
    script = Script(*events, ListingEndedError("denied"), *[StoreError(Trouble.OTHER, "gone")])
    if not events:
        script.events.pop()
    monkeypatch.setattr(module, "Threads", lambda pages, *_: pages)
    monkeypatch.setattr(module, "list_pages", lambda *_, **__: script)
    scan = Scan(tmp_path, judge, uri=parse_uri(uri), after=after)
    scan.elsewhere.works = [script]
    (outcome,) = scan.outcomes()
    told = "gone" if events else "denied"
    token = f"; --resume {make_token(parse_uri(uri), after)} goes on" if after and is_told else ""
    assert outcome.reason == f"the listing ended early: {told}{token}"
    assert outcome.path == uri


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_listing_that_is_not_in_the_order_of_keys_has_no_token(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Azure may list `a/b` before `a-b`, which sorts before it."""
    script, uri = Script(page("a/b"), ListingEndedError("denied")), parse_uri(f"{scheme}://cup/")
    monkeypatch.setattr(module, "Threads", lambda pages, *_: pages)
    monkeypatch.setattr(module, "list_pages", lambda *_, **__: script)
    (outcome,) = Scan(tmp_path, judge, uri=uri).outcomes()
    token = "" if scheme == "az" else f"; --resume {make_token(uri, 'a/b')} goes on"
    assert outcome.reason == f"the listing ended early: denied{token}"


def test_each_uri_begins_with_progress_and_a_store_that_fails_ends_itself_alone(
    tmp_path: Path, judge: Judge
) -> None:
    def store(uri: ObjectUri) -> Any:
        if uri.bucket == "bad":
            raise StoreError(Trouble.OTHER, "no")  # pragma: no cover
        return store_of(uri)

    uris = parse_uri("s3://one/"), parse_uri("s3://two/")
    first, second = Script(StoreError(Trouble.OTHER, "down")), Script(page("a"), END)
    objects = Objects(Request(uris), Tools(Spool(tmp_path, 1), store=store))
    elsewhere = Elsewhere(first, second)
    objects.check_at(elsewhere)
    pool = pa.default_memory_pool().backend_name
    pools = []
    items: list[Any] = []
    for item in objects.check(judge, lambda: None, keep_clean=False):
        pools.append(pa.default_memory_pool().backend_name)
        items.append(item)
    assert [type(item) for item in items] == [Advance, Outcome, Advance, Result, Result]
    assert (items[1].path, items[1].reason) == ("s3://one/", "the listing ended early: down")
    assert set(pools) == {"system"} and pa.default_memory_pool().backend_name == pool
    assert elsewhere.closed == 1


@pytest.mark.parametrize("keep_clean", [False, True])
@pytest.mark.parametrize("lies", [False, True])
def test_objects_that_are_clean_by_their_store_wait_for_the_end(
    tmp_path: Path, judge: Judge, keep_clean: bool, lies: bool
) -> None:
    """The first object is read as a sample; if its content has another MD5, the others are unread.

    Objects that are listed after the contradiction are read.
    """
    trusted = page("a", "b", "c", size=4, etags=lambda key: etag(key.encode()))
    later = page("d", size=4, etags=lambda _: etag(b"d"))
    events = [trusted, LIES if lies else READ, later, *([READ] if lies else []), END]
    asked: list[Any] = []
    how: dict[str, Any] = {"trusts": noting(asked, True)}
    scan = Scan(tmp_path, judge, *events, keep_clean=keep_clean, **how)
    items = list(scan.check())
    assert asked == [("s3://bkt",)]
    results = [item for item in items if isinstance(item, Result)]
    count = 0 if lies else 3
    total = sum(one.clean for one in results), sum(one.by_store_digest for one in results)
    assert total == (count, count)
    reason = CONTRADICTED.format("etag") if lies else None
    wait = ["b", "c"] if lies else ["b", "c", "d"]
    named = wait if keep_clean or lies else []
    assert [one.path for one in results[-1].outcomes] == [f"s3://bkt/{key}" for key in named]
    for one in results[-1].outcomes:
        kind, evidence = (Kind.UNREAD, None) if lies else (Kind.CLEAN, "etag")
        assert (one.kind, one.evidence, one.reason) == (kind, evidence, reason)
    assert len(results) == (5 if lies else 4)
    assert scan.objects.token is None


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_outcomes_of_waiting_objects_come_in_parts(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    assert module._TOGETHER == 1_000
    monkeypatch.setattr(module, "_TOGETHER", 2)
    keys = [f"k{number}" for number in range(count)]
    events = [page(*keys, size=4)] if keys else []
    scan = Scan(tmp_path, judge, *events, *[WAITS] * count, END, keep_clean=True)
    results = [item for item in scan.check() if isinstance(item, Result) and not item.files_read]
    parts = [[one.path for one in result.outcomes] for result in results if result.by_store_digest]
    assert [len(part) for part in parts] == [min(2, count - at) for at in range(0, count, 2)]
    assert [path for part in parts for path in part] == [f"s3://bkt/{key}" for key in keys]
    assert sum(result.clean for result in results) == count


@pytest.mark.parametrize("keep_clean", [False, True])
@pytest.mark.parametrize(("scheme", "trusted"), [("s3", True), ("gs", True), ("az", False)])
def test_without_reading_the_digest_of_a_store_that_is_trusted_decides_at_once(
    tmp_path: Path,
    judge: Judge,
    monkeypatch: pytest.MonkeyPatch,
    scheme: Literal["s3", "gs", "az"],
    trusted: bool,
    keep_clean: bool,
) -> None:
    script = Script(page("a", "b", size=4, etags=lambda key: etag(key.encode())), END)
    monkeypatch.setattr(module, "Threads", lambda pages, *_: pages)
    monkeypatch.setattr(module, "list_pages", lambda *_, **__: script)
    uri = ObjectUri(scheme, "bkt", "")
    how: dict[str, Any] = {"uri": uri, "reads": False, "trusts": lambda _: True}
    scan = Scan(tmp_path, judge, keep_clean=keep_clean, **how)
    scan.elsewhere.works = [script]
    results = [item for item in scan.check() if isinstance(item, Result)]
    assert sum(one.clean for one in results) == (2 if trusted else 0)
    assert sum(one.by_store_digest for one in results) == (2 if trusted else 0)
    outcomes = [one for result in results for one in result.outcomes]
    if trusted:
        found = [(one.path, one.evidence) for one in outcomes]
        evidence = {"s3": "etag", "gs": "md5Hash"}[scheme]
        wanted = [(f"{scheme}://bkt/{key}", evidence) for key in "ab"]
        assert found == (wanted if keep_clean else [])
    else:
        assert [one.kind for one in outcomes] == [Kind.UNREAD] * 2
    assert scan.members == []  # no container is opened if nothing is read


@pytest.mark.parametrize("processors", [1, 2, 5])
@pytest.mark.parametrize("opens", [False, True])
def test_containers_are_opened_by_as_many_processes_as_there_are_processors(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, processors: int, opens: bool
) -> None:
    """If containers are opened, each object with content is read, because it may be one."""
    made: list[Any] = []
    opened: list[Any] = []
    script = Script(page("a", size=3), *([READ] if opens else []), END)

    def threads(_pages: Any, reader: Any, _most: int) -> Work:
        opened.append(reader(lambda: False)._opener)
        return script

    monkeypatch.setattr(module, "usable_processors", lambda _: processors)
    monkeypatch.setattr(module, "Opener", lambda members, _spool: [*members])
    monkeypatch.setattr(module, "Threads", threads)
    monkeypatch.setattr(module, "list_pages", lambda *_, **__: None)
    scan = Scan(tmp_path, judge, uri=parse_uri("gs://bkt/"))

    def make() -> Any:
        if opens:
            made.append(SimpleNamespace(are_clean=lambda _: []))
        return made[-1] if opens else None

    items = list(scan.objects.check(judge, make, keep_clean=False))
    assert opened == ([made] if opens else [None])
    assert len(made) == (processors if opens else 0)
    read = sum(item.files_read for item in items if isinstance(item, Result))
    assert read == opens


def test_the_numbers_of_a_sample_are_those_of_the_chance_of_the_tools(
    tmp_path: Path, judge: Judge
) -> None:
    keys = [f"k{number}" for number in range(2_000)]
    trusted = page(*keys, size=4, etags=lambda key: etag(key.encode()))
    samples = []
    for seed in (7, 7, 8):
        scan = Scan(
            *(tmp_path, judge, trusted, KeyboardInterrupt()),
            chance=lambda seed=seed: seed,
            trusts=lambda _: True,
        )
        with pytest.raises(KeyboardInterrupt):
            list(scan.check())
        samples.append([one.key for one in scan.work.queued])
    assert samples[0] == samples[1] != samples[2]


def token_of(document: Any) -> str:
    raw = msgspec.json.encode(document)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


NO_TOKEN = "the value of --resume is no token"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (token_of((1, "s3://bkt/p/", b"k")), None),
        (token_of((0, "s3://bkt/p/", b"k")), "the token of --resume is of another version"),
        (token_of((2, "s3://bkt/p/", b"k")), "the token of --resume is of another version"),
        (token_of((2, "s3://cup/", b"k")), "the token of --resume is of another version"),
        (token_of((1, "s3://bkt/p", b"k")), "the token of --resume is not of s3://bkt/p/"),
        (token_of((1, "s3://bkt/p/")), NO_TOKEN),
        (token_of((1, "s3://bkt/p/", b"k", 1)), NO_TOKEN),
        (token_of((1, "s3://bkt/p/", "!")), NO_TOKEN),
        (token_of(("1", "s3://bkt/p/", b"k")), NO_TOKEN),
        (token_of((1, "s3://bkt/p/", b"k")).replace("W", "+", 1), NO_TOKEN),
        ("", NO_TOKEN),
        ("ü", NO_TOKEN),
    ],
)
def test_a_token_has_one_form(token: str, message: str | None) -> None:
    if message is None:
        assert read_token(token, URI) == "k"
        return
    with pytest.raises(UsageError, match=f"^{message}$") as refused:
        read_token(token, URI)
    assert refused.value.hint in (
        "give it exactly as the scan has shown it",
        "scan from the beginning",
        "give the URI of the scan that has shown it",
    )


@pytest.mark.parametrize("length", range(4))
def test_a_token_needs_no_padding_and_is_as_long_as_the_longest_key_makes_it(length: int) -> None:
    key = "k" * (1_024 - length)
    uri = ObjectUri("s3", "b" * 222, "\x01" * (1_024 - length))
    token = make_token(uri, key)
    assert "=" not in token and len(token) < module._MAX_CHARS == 16_384
    assert read_token(token, uri) == key


@pytest.mark.parametrize(("version", "day"), [(None, 500), ("v", 0)])
def test_the_record_of_an_object_keeps_its_form(
    monkeypatch: pytest.MonkeyPatch, version: str | None, day: int
) -> None:
    """A later version must know the records of an inventory again."""
    monkeypatch.setattr(object_cache, "today", lambda: 500)
    one, tags = Wanted("k\udcff", 7, '"e"', version), bytes(range(48))
    named = "0 " if version is None else "1 v"
    raw = f'2 k\udcff\0{named}\0003 "e"'.encode("utf-8", "surrogateescape")
    words = struct.unpack("<QQQ", hashlib.blake2b(raw, digest_size=24).digest())
    result = Result()
    object_cache.learn(result, 5, one, (3, tags, 9), b"inside")
    ((number, learned),), ((of_container, empty, inside),) = result.learned, result.containers
    (record,), (bare,) = np.frombuffer(learned, RECORD), np.frombuffer(empty, RECORD)
    assert (number, of_container, inside) == (5, 5, b"inside")
    for found, mask, begin, of_record in ((record, 3, 9, tags), (bare, 0, 0, bytes(48))):
        assert (found["ino"], found["mtime"], found["ctime"]) == words
        assert (found["size"], found["mask"], found["read_day"]) == (7, mask, day)
        assert (found["begin"], found["meaning"]) == (begin, 0)
        assert found["tags"].tobytes() == of_record
    digest = hashlib.sha256(b"bucket s3  b").digest()
    assert object_cache.number_of("s3  b") == int.from_bytes(digest[:8], "big") // 2


def test_an_error_of_the_client_ends_the_scan_and_leaves_nothing_open(
    tmp_path: Path, judge: Judge
) -> None:
    scan = Scan(tmp_path, judge, page("a", size=4), WAITS, StateError("damaged"))
    with pytest.raises(StateError, match="damaged"):
        list(scan.check())
    assert scan.elsewhere.closed == 1
    assert scan.work.events == deque([CLOSED])


def test_counts_of_results_come_as_they_are(tmp_path: Path, judge: Judge) -> None:
    assert hashlib.md5(b"4444").hexdigest() in etag(b"4444")
    scan = Scan(tmp_path, judge, page("a", size=4), READ, END, keep_clean=True)
    results = [item for item in scan.check() if isinstance(item, Result)]
    assert [one.objects for one in results] == [1, 0]
    assert [one.files_read for one in results] == [0, 1]
    assert results[0].outcomes == [] and BY_SIZE == "size"


@pytest.mark.parametrize("odd", ["\n", " ", "!", "+", "/", "\u00e9"])
def test_a_token_with_another_character_in_it_is_none(odd: str) -> None:
    """Nobody can say which character was lost, so the listing does not go on at a guess."""
    token = make_token(URI, "k")
    with pytest.raises(UsageError, match="is no token"):
        read_token(token[:9] + odd * 4 + token[9:], URI)
