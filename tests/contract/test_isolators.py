"""Rules for every isolator: only sealed content is removed, and a kill loses nothing.

The tests run the quarantine unchanged on each kind of places: files, a store of named blobs, and a
bucket of S3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.blobs import Blobs, BlobStore
from fixtures.buckets import Site, error, reached_site
from fixtures.quarantine import CONTENT, Ward
from hashclient.core.errors import StateError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.index.blinding import Sealer
from hashclient.quarantine.isolators.files import Files
from hashclient.quarantine.isolators.interface import Isolator, hold_if_there
from hashclient.quarantine.isolators.objects import Objects
from hashclient.quarantine.store import Room
from hashclient.quarantine.vault import Stage, Taken
from tests.kit import fast_directory

OTHER = CONTENT[::-1]
#: An upper bound for the steps of one action: logging, saving, removing.
MOST = 30


class _Killed(BaseException):
    """A simulated kill: no handler catches it."""


class Side:
    """Places of one kind, with one matching object in them."""

    isolator: Isolator
    locator: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ward = Ward(directory)
        self.begin()

    def begin(self) -> None:
        """Create the places: a directory, a store or a bucket."""
        raise NotImplementedError

    def put(self, data: bytes) -> None:
        """Put other content in the object's place."""
        raise NotImplementedError

    def content(self) -> bytes | None:
        """Return the content in the object's place, or the content that was moved aside."""
        raise NotImplementedError

    def take_away(self) -> None:
        """Remove the content, like another program."""
        raise NotImplementedError

    def refuse(self, patch: pytest.MonkeyPatch) -> None:
        """Let each removal fail."""
        raise NotImplementedError

    def match(self) -> Match:
        """Put the content in its place, and record it as matched."""
        self.put(CONTENT)
        file = self.directory / "content"
        file.write_bytes(CONTENT)
        return self.ward.match(file, at=self.locator)

    def take(self, match: Match, **options: Any) -> Taken:
        """Isolate the matched content."""
        quarantine = self.ward.open(isolator=self.isolator, **options)
        with self.ward.record() as record:
            return quarantine.take(match, record, reason="test")

    def is_safe(self, match: Match) -> bool:
        """Return whether the object's content is in its place, or sealed completely."""
        sealed = match.id in self.ward.names() and self.ward.opened(match) == CONTENT
        return sealed or self.content() == CONTENT


class FileSide(Side):
    """A file in a directory."""

    def begin(self) -> None:
        share = self.directory / "share"
        share.mkdir()
        self.file = share / "file.bin"
        self.locator = str(self.file)
        self.isolator = Files()

    def put(self, data: bytes) -> None:
        new = self.file.with_name("new")
        new.write_bytes(data)
        new.rename(self.file)

    def content(self) -> bytes | None:
        found = [path.read_bytes() for path in self.file.parent.iterdir()]
        assert len(found) <= 1
        return found[0] if found else None

    def take_away(self) -> None:
        self.file.unlink()

    def refuse(self, patch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "permission denied")

        patch.setattr("hashclient.quarantine.isolators.files.remove_exactly", refuse)


class BlobSide(Side):
    """A blob in a store."""

    locator = "/bucket/a key"

    def begin(self) -> None:
        self.store = BlobStore(self.directory / "store")
        self.isolator = Blobs(self.store)

    def put(self, data: bytes) -> None:
        self.store.put(self.locator, data)

    def content(self) -> bytes | None:
        return self.store.get(self.locator)

    def take_away(self) -> None:
        found = self.store.find(self.locator)
        assert found is not None
        found.unlink()

    def refuse(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(self.store, "refuses", PermissionError(1, "permission denied"))


site = pytest.fixture(reached_site, scope="module")


class ObjectSide(Side):
    """An object in a bucket that keeps versions.

    obstore must not start its threads in the test process, which forks later, so the key is one
    that obstore cannot use.
    """

    site: Site
    KEY = "a//key"

    def begin(self) -> None:
        self.bucket = self.site.bucket()
        self.bucket.keep_versions()
        self.locator = f"{self.bucket.uri}/{self.KEY}"
        self.isolator = Objects({})

    def put(self, data: bytes) -> None:
        self.bucket.put(self.KEY, data)

    def content(self) -> bytes | None:
        if self.KEY not in self.bucket.keys:
            return None
        where = {"Bucket": self.bucket.name, "Key": self.KEY}
        found: bytes = self.site.client.get_object(**where)["Body"].read()
        return found

    def take_away(self) -> None:
        for version in self.bucket.versions(self.KEY):
            self.bucket.delete(self.KEY, VersionId=version)

    def refuse(self, patch: pytest.MonkeyPatch) -> None:
        denied = error("403 Forbidden", "AccessDenied")
        answer = lambda request: denied if request[0] == "DELETE" else None  # noqa: E731
        patch.setattr(self.site, "answer", answer)


@pytest.fixture(params=[FileSide, BlobSide, ObjectSide])
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    if request.param is ObjectSide:
        monkeypatch.setattr(ObjectSide, "site", request.getfixturevalue("site"), raising=False)
    with fast_directory() as directory:
        made: Side = request.param(directory)
        yield made


def at_event(side: Side, patch: pytest.MonkeyPatch, event: str, act: Callable[[], object]) -> None:
    """Call a function when an event has been logged."""
    original = side.ward.audit.append

    def append(events: Any, **options: Any) -> Any:
        result = original(events, **options)
        if any(e.event == event for e in events):
            act()
        return result

    patch.setattr(side.ward.audit, "append", append)


@pytest.mark.sampled
def test_a_held_file_is_read_again_and_distinguished(side: Side) -> None:
    side.put(CONTENT)
    with side.isolator.open(side.locator, None) as spot, hold_if_there(spot) as held:
        assert held is not None and held.size == len(CONTENT)
        for _ in range(2):
            held.rewind()
            assert b"".join(iter(lambda: held.read(1 << 16), b"")) == CONTENT
        assert held.is_unchanged()
        side.put(OTHER)
        held.rewind()
        # The open file is read, although another file has taken its name.
        assert held.read(len(CONTENT))[:100] == CONTENT[:100]
        assert not spot.remove(held, "bbbbbbbbbb").done
    assert side.content() == OTHER


def test_a_missing_file_is_not_held(side: Side) -> None:
    with side.isolator.open(side.locator, None) as spot, hold_if_there(spot) as held:
        assert held is None


def test_a_match_is_sealed_and_removed(side: Side) -> None:
    match = side.match()
    taken = side.take(match)
    assert (taken.taken, taken.sealed, taken.attention) == (True, True, False)
    assert side.content() is None and side.ward.opened(match) == CONTENT
    now = side.ward.get(match)
    assert (now.state, now.in_place) == (MatchState.QUARANTINED, False)
    assert side.ward.events()[-2:] == ["quarantine-sealed", "quarantined"]
    assert side.take(match).detail == "in quarantine already"
    assert {f.detail for f in side.ward.verify().values()} == {"whole"}


def test_an_isolated_match_is_restored_as_a_file(side: Side) -> None:
    match = side.match()
    side.take(match)
    side.ward.withdraw()
    restored = side.ward.restore(match, to=side.directory / "back")
    assert Path(restored.path).read_bytes() == CONTENT


@pytest.mark.sampled
@pytest.mark.parametrize("other", [OTHER, b"shorter"])
def test_another_content_stays(side: Side, other: bytes) -> None:
    match = side.match()
    side.put(other)
    taken = side.take(match)
    assert (taken.taken, taken.sealed) == (False, False) and "changed" in taken.detail
    assert side.content() == other and side.ward.names() == set()


def test_a_missing_file_is_not_sealed(side: Side) -> None:
    match = side.match()
    side.take_away()
    taken = side.take(match)
    assert (taken.taken, taken.sealed) == (False, False)
    assert taken.detail == "not quarantined: not there any more"


@pytest.mark.sampled
def test_content_exchanged_while_it_is_read_is_not_removed(side: Side) -> None:
    match = side.match()
    taken = side.take(match, on_bytes=lambda _count: side.put(OTHER))
    assert not taken.taken and side.content() == OTHER


def test_content_exchanged_after_sealing_stays(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    match = side.match()
    with monkeypatch.context() as patch:
        at_event(side, patch, "quarantine-sealed", lambda: side.put(OTHER))
        taken = side.take(match)
    assert (taken.taken, taken.sealed, taken.attention) == (False, True, True)
    assert side.content() == OTHER and side.ward.opened(match) == CONTENT
    assert side.ward.get(match).in_place
    # The next action finds that the object is gone, and that another person's content is in its
    # place.
    taken = side.take(match)
    assert taken.taken and "something else" in taken.detail and side.content() == OTHER


def test_content_removed_by_somebody_else_after_sealing_counts_as_gone(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = side.match()
    with monkeypatch.context() as patch:
        at_event(side, patch, "quarantine-sealed", side.take_away)
        taken = side.take(match)
    assert taken.taken and "somebody else had removed it" in taken.detail
    assert not side.ward.get(match).in_place


@pytest.mark.sampled
def test_a_failed_removal_is_tried_again(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    match = side.match()
    with monkeypatch.context() as patch:
        side.refuse(patch)
        taken = side.take(match)
    assert (taken.taken, taken.sealed) == (False, True)
    assert "still in place" in taken.detail and side.content() == CONTENT
    (found,) = side.ward.verify().values()
    assert found.attention and "removes it" in found.detail
    assert side.ward.open().unfinished() == {match.id}
    assert side.take(match).taken and side.content() is None
    assert not side.ward.open().unfinished()


def test_a_copy_that_the_seal_key_cannot_prove_any_more_is_made_again(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = side.match()
    with monkeypatch.context() as patch:
        side.refuse(patch)
        assert not side.take(match).taken
    side.ward.sealer = Sealer(bytes(32))
    found_again = side.match()
    assert found_again.id == match.id
    assert side.take(found_again).taken
    (found,) = side.ward.verify().values()
    assert not found.attention


class Steps:
    """Raises a simulated kill before or after one of the wrapped calls, chosen by `kill_at`."""

    def __init__(self, kill_at: int) -> None:
        self.left = kill_at

    def _pass(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise _Killed

    def wrap(self, patch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self._pass()
            result = original(*args, **options)
            self._pass()
            return result

        patch.setattr(owner, name, call)


@pytest.mark.sampled
def test_a_kill_between_any_two_steps_loses_nothing(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, MOST):
        match = side.match()
        steps, taken = Steps(number), None
        with monkeypatch.context() as patch:
            steps.wrap(patch, side.ward.audit, "append")
            steps.wrap(patch, Room, "admit")
            steps.wrap(patch, Room, "syncing")
            with side.isolator.open(side.locator, None) as spot:
                steps.wrap(patch, type(spot), "remove")
            with contextlib.suppress(_Killed):
                taken = side.take(match)
        assert side.is_safe(match)
        if taken is not None:
            assert number == 17  # the moments before and after each of eight steps, and the end
            break
        assert side.take(match).taken
        assert side.content() is None and side.ward.opened(match) == CONTENT
        assert side.ward.item(match).stage is Stage.REMOVED
        assert not side.ward.get(match).in_place
    else:
        raise AssertionError("it does not come to an end")


@pytest.mark.sampled
def test_a_copy_that_was_damaged_since_removes_nothing(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = side.match()
    with monkeypatch.context() as patch:
        side.refuse(patch)
        side.take(match)
    evidence = side.ward.evidence(match)
    evidence.write_bytes(evidence.read_bytes()[:-1])
    with pytest.raises(StateError, match="damaged"):
        side.take(match)
    assert side.content() == CONTENT
