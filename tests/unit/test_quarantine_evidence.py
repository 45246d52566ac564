"""A proven file is passed on exactly as it was proven, or an error ends the transfer."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.quarantine import CONTENT, Ward
from hashclient.core.errors import AuthorisationError, StateError
from hashclient.core.kinds import Algorithm
from hashclient.core.match import STREAM_PREFIXES, Match
from hashclient.index.blinding import Sealer
from hashclient.quarantine import age, evidence
from hashclient.quarantine.evidence import (
    Source,
    file_chunks,
    find_item,
    opener_of,
    plain_source,
    prove,
    sealed_source,
    source_in_place,
    unsealed,
)

PIECES = [b"ab", b"cd", b"ef"]


class Changing:
    """Bytes that have changed at their second reading."""

    def __init__(self, *again: bytes) -> None:
        self._times = iter([PIECES, again])
        self.given = 0

    def __call__(self) -> Iterator[bytes]:
        self.given = 0
        for piece in next(self._times):
            self.given += 1
            yield piece


def handed_on(bytes_: Changing) -> tuple[list[bytes], bool]:
    """Return the proven bytes that are passed on, and whether the transfer had no error."""
    source = Source("x", 6, bytes_)
    proven = prove(source)
    assert (proven.size, bytes_.given) == (6, 3)
    got: list[bytes] = []
    try:
        got.extend(proven.chunks())
    except StateError:
        return got, False
    return got, True


@pytest.mark.parametrize("again", [PIECES, [b"abcdef"], [b"a", b"bcde", b"f"]])
def test_the_same_bytes_come_in_any_pieces(again: list[bytes]) -> None:
    assert handed_on(Changing(*again)) == (again, True)


@pytest.mark.parametrize("again", [[], [b"ab"], [b"ab", b"cd"], [b"ab", b"cd", b"eX"]])
def test_of_other_bytes_the_last_are_kept_back(again: list[bytes]) -> None:
    assert handed_on(Changing(*again)) == (again[:-1], False)


def test_more_bytes_are_not_read_to_their_end() -> None:
    longer = Changing(*PIECES, *[b"gh"] * 50)
    assert handed_on(longer) == (PIECES, False)
    assert longer.given == 4


@pytest.mark.parametrize(
    ("size", "pieces", "is_it", "read"),
    [
        *((0, [], True, 0), (0, [b"a"], False, 1), (1, [], False, 0), (1, [b"a"], True, 1)),
        *((2, [b"a"], False, 1), (2, [b"a", b"b"], True, 2), (2, [b"abc", b"d"], False, 1)),
        (2, [b"a", b"b", b"c", b"d"], False, 3),
    ],
)
def test_a_source_has_the_length_that_it_says(
    size: int, pieces: list[bytes], is_it: bool, read: int
) -> None:
    given = []

    def chunks() -> Iterator[bytes]:
        for piece in pieces:
            given.append(piece)
            yield piece

    source = Source("name of it", size, chunks)
    if not is_it:
        with pytest.raises(StateError) as refused:
            prove(source)
        assert refused.value.message == "not the file that matched any more: name of it"
        assert "`hashclient matches close`" in (refused.value.hint or "")
    else:
        proven = prove(source)
        data = b"".join(pieces)
        assert proven.digests == {a: hashlib.new(a.label, data).digest() for a in Algorithm}
        assert (proven.size, b"".join(proven.chunks())) == (size, data)
        read *= 2
    assert len(given) == read


@pytest.mark.parametrize("size", [0, 1, evidence.CHUNK_BYTES, evidence.CHUNK_BYTES + 1])
def test_a_sealed_copy_is_proven_by_digest_and_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "evidence.age"
    data = bytes(size)
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert b"".join(sealed_source(path, sha256, size).chunks()) == data
    for digest, length in ((sha256, size + 1), (sha256, size - 1), ("0" * 64, size)):
        with pytest.raises(StateError) as refused:
            sealed_source(path, digest, length)
        assert refused.value.message == f"sealed copy is damaged: {path}"
        assert "`hashclient quarantine verify`" in (refused.value.hint or "")
    parts = list(file_chunks(path))
    assert [len(part) for part in parts] == [
        *([evidence.CHUNK_BYTES] * (size // evidence.CHUNK_BYTES)),
        *([size % evidence.CHUNK_BYTES] if size % evidence.CHUNK_BYTES else []),
    ]
    proven = sealed_source(path, sha256, size)
    path.write_bytes(data[1:] + b"!")
    with pytest.raises(StateError, match="sealed copy is damaged"):
        list(proven.chunks())


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir, os.mkfifo])
def test_a_copy_that_cannot_be_read_is_named(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "evidence.age"
    make(path)
    with pytest.raises(StateError, match=f"cannot read: {path}"):
        list(file_chunks(path))


# Sealed bytes, opened


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def sealed_by(ward: Ward, data: bytes) -> bytes:
    out = bytearray()
    age.seal(io.BytesIO(data).read, out.extend, age.parse_recipients([ward.public]))
    return bytes(out)


@pytest.mark.parametrize("size", [0, 1, 200_000])
@pytest.mark.parametrize("piece", [1_000, 1 << 20])
def test_sealed_bytes_are_opened_whatever_their_pieces(ward: Ward, size: int, piece: int) -> None:
    data = b"x" * size
    sealed = sealed_by(ward, data)
    opener = opener_of(age.load_identities(ward.key))
    pieces = (sealed[at : at + piece] for at in range(0, len(sealed), piece))
    assert b"".join(opener(pieces)) == data


def test_what_cannot_be_opened_is_no_content(ward: Ward, tmp_path: Path) -> None:
    sealed = sealed_by(ward, CONTENT)
    identities = age.load_identities(ward.key)
    age.write_identity(tmp_path / "other.key", ward.now)
    with pytest.raises(AuthorisationError, match="none of the identities"):
        list(unsealed(iter([sealed]), age.load_identities(tmp_path / "other.key")))
    for damaged in (b"", b"age", sealed[:-1], sealed[:-20], sealed[:-1] + b"!"):
        with pytest.raises(StateError, match="cannot decrypt"):
            list(unsealed(iter([damaged]), identities))

    def broken() -> Iterator[bytes]:
        yield sealed[:1_000]
        raise StateError("the disk is gone")

    with pytest.raises(StateError, match="the disk is gone"):
        list(unsealed(broken(), identities))


def test_a_reader_that_stops_early_leaves_no_thread_and_no_pipe(ward: Ward) -> None:
    opened = descriptors()
    threads = {*threading.enumerate()}
    chunks = unsealed(iter([sealed_by(ward, CONTENT * 10)]), age.load_identities(ward.key))
    assert next(chunks)
    chunks.close()
    assert descriptors() == opened
    assert {*threading.enumerate()} <= threads


def test_without_a_thread_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StateError("no thread can be started")

    monkeypatch.setattr(evidence, "start_thread", fail)
    opened = descriptors()
    with pytest.raises(StateError, match="no thread"):
        list(unsealed(iter([b"x"]), []))
    assert descriptors() == opened


# The file of a match in its place


def content_of(match: Match, ward: Ward, *, sealer: Sealer | None = None, key: bool = True) -> Any:
    directory = ward.settings.layout.quarantine
    identities = age.load_identities(ward.key) if key else []
    with plain_source(match, directory, identities, sealer or ward.sealer) as proven:
        return proven.source.name, b"".join(proven.chunks())


def test_a_file_comes_from_its_place_or_from_quarantine(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    directory = ward.settings.layout.quarantine
    assert find_item(directory, match.id) is None
    assert content_of(match, ward) == content_of(match, ward, key=False) == (str(file), CONTENT)
    ward.take(match)
    item = find_item(directory, match.id)
    assert item is not None and item.id == match.id
    evidence_path = str(ward.evidence(match))
    assert content_of(ward.get(match), ward) == (evidence_path, CONTENT)
    # The old record says that the file is in its place. The sealed copy is read nevertheless.
    assert content_of(match, ward) == (evidence_path, CONTENT)
    with pytest.raises(StateError, match=f"cannot read {file}: not there any more"):
        content_of(match, ward, key=False)
    with pytest.raises(AuthorisationError):
        content_of(ward.get(match), ward, key=False)


def test_a_match_without_file_and_item_has_no_content(ward: Ward, file: Path) -> None:
    match = msgspec.structs.replace(ward.match(file), in_place=False)
    with pytest.raises(StateError) as refused:
        content_of(match, ward)
    assert refused.value.message == f"neither in place nor in quarantine: {file}"


def test_a_copy_is_proven_by_the_tags_of_its_match(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    match = ward.get(match)
    wrong = msgspec.structs.replace(match, tags={Algorithm.SHA256: bytes(16)})
    with pytest.raises(StateError) as refused:
        content_of(wrong, ward)
    assert refused.value.message == f"sealed copy is damaged: {ward.evidence(match)}"
    with pytest.raises(StateError, match="there is no digest to prove the file by"):
        content_of(msgspec.structs.replace(match, tags={}), ward)
    # Tags under another seal key are not compared, because the copy was proven when it was sealed.
    assert content_of(wrong, ward, sealer=Sealer(bytes(32)))[1] == CONTENT
    assert content_of(msgspec.structs.replace(wrong, key_id="other"), ward)[1] == CONTENT


def test_a_file_in_place_is_proven_by_its_tags(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"path": f"{STREAM_PREFIXES[0]}x"}, f"match {match.id} came as a stream: there"),
        ({"key_id": "other"}, f"match {match.id} was sealed with another key, so its file"),
        ({"tags": {}}, f"there is no digest to prove the file by: {file}"),
        ({"tags": {Algorithm.MD5: bytes(16)}}, f"not the file that matched any more: {file}"),
        ({"seen": None}, f"not the file that matched any more: {file}"),
        ({"path": str(file.with_name("none"))}, f"cannot read {file.with_name('none')}: not there"),
    ]
    for change, said in changes:
        other = msgspec.structs.replace(match, **change)
        with pytest.raises(StateError) as refused, source_in_place(other, ward.sealer):
            pass
        assert refused.value.message.startswith(said)
        # Only a file without a tag has no advice, because a scan records tags.
        assert bool(refused.value.hint) is ("no digest" not in said)
    for data in (CONTENT[:-1], CONTENT + b"!", CONTENT[:-1] + b"!"):
        with source_in_place(match, ward.sealer) as proven:
            file.write_bytes(data)
            with pytest.raises(StateError, match="not the file that matched any more"):
                list(proven.chunks())
            file.write_bytes(CONTENT)
    with source_in_place(match, ward.sealer) as proven:
        file.rename(file.with_name("moved"))
        # The proven file is sent, although its name now belongs to another file.
        file.write_text("another")
        assert b"".join(proven.chunks()) == CONTENT


def test_a_file_that_fails_while_it_is_read_is_named(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hashclient.quarantine.isolators.files.HeldFile.read", fail)
    with pytest.raises(StateError) as refused, source_in_place(match, ward.sealer):
        pass
    assert refused.value.message == f"cannot read {file}: input/output error"
    assert "`hashclient matches close`" in (refused.value.hint or "")
