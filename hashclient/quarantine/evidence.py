"""Provides the sealed or plain bytes of a file, and proves that the file is the file that matched.

A source of bytes can be read more than once. A source is first read to its end and compared with
the tags (keyed digests) of the match, and is compared again while its bytes are sent. Because of
both comparisons, no other user can make this program send another file than the file that matched.
Plain bytes of a sealed file exist only in memory, and only if the caller passes a secret key. This
module writes no file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.agefile import Chunks
from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.core.kinds import Algorithm
from hashclient.core.match import Match
from hashclient.index.blinding import Sealer
from hashclient.quarantine.age import unseal
from hashclient.quarantine.isolators.everywhere import Everywhere
from hashclient.quarantine.item import Item, evidence_path, load_item
from hashclient.quarantine.safe_rename import reason_of
from hashclient.quarantine.sealing import Digester, is_what_matched
from hashclient.system.background import start_thread
from hashclient.system.files import open_regular, state_error, write_all
from hashclient.system.text import printable

CHUNK_BYTES = 1 << 18


def _changed(name: str) -> StateError:
    return StateError(
        f"not the file that matched any more: {name}",
        hint="scan the file again; if it is gone, `hashclient matches close` closes the match",
    )


def _damaged(name: str) -> StateError:
    return StateError(
        f"sealed copy is damaged: {name}",
        hint="`hashclient quarantine verify` checks all of them",
    )


class Source(msgspec.Struct, frozen=True):
    """A source of bytes: its name for messages, its length in bytes, and a function that reads it.

    `changed` returns the exception for a source whose bytes differ from the proven bytes.
    """

    name: str
    size: int
    read: Callable[[], Iterator[bytes]]
    changed: Callable[[str], StateError] = _changed


class Proven:
    """A source that was read to its end, and its digests."""

    def __init__(self, source: Source, digester: Digester) -> None:
        """Store `source`, and the digests of `digester`, which has read it to its end."""
        self.source = source
        self.digester = digester
        self.digests = digester.digests()

    @property
    def size(self) -> int:
        """The length of the source in bytes."""
        return self.source.size

    def chunks(self) -> Iterator[bytes]:
        """Read the source again and yield its bytes.

        Raises:
            StateError: the source has changed since it was first read; the last bytes are not
                yielded.
        """
        computed = hashlib.sha256()
        left = self.size
        held = b""
        for chunk in self.source.read():
            if held:
                yield held
            computed.update(chunk)
            left -= len(chunk)
            if left < 0:
                break
            held = chunk
        if left or computed.digest() != self.digests[Algorithm.SHA256]:
            raise self.source.changed(self.source.name)
        if held:
            yield held


def find_item(quarantine_dir: Path, match_id: str) -> Item | None:
    """Return the item of a match in quarantine, or None.

    Raises:
        StateError: the item cannot be read, or is damaged.
    """
    try:
        return load_item(quarantine_dir, match_id)
    except UsageError:
        return None


def sealed_source(path: Path, sha256: str, length: int) -> Proven:
    """Return the sealed copy at `path`, after a check of its SHA-256 (hexadecimal) and length.

    Raises:
        StateError: the sealed copy has another SHA-256 or length, or cannot be read.
    """
    source = Source(printable(path), length, lambda: file_chunks(path), _damaged)
    proven = prove(source)
    if proven.digests[Algorithm.SHA256].hex() != sha256:
        raise _damaged(source.name)
    return proven


@contextlib.contextmanager
def plain_source(
    match: Match, quarantine_dir: Path, identities: Sequence[Any], sealer: Sealer
) -> Iterator[Proven]:
    """Prove that a file is the file that matched, and yield it, from its path or from quarantine.

    Raises:
        StateError: the file is missing, or is not the file that matched.
        AuthorisationError: no secret key in `identities` can open the sealed copy.
    """
    item = find_item(quarantine_dir, match.id)
    if match.in_place and (item is None or not identities):
        with source_in_place(match, sealer) as proven:
            yield proven
        return
    if item is None:
        raise StateError(f"neither in place nor in quarantine: {printable(match.path)}")
    path = evidence_path(quarantine_dir, match.id)
    read = lambda: unsealed(file_chunks(path), identities)  # noqa: E731 - one expression
    opened = prove(Source(printable(path), item.size, read, _damaged))
    # Tags are checked only if they were made with the present seal key. If the seal key was
    # replaced after the sealing, the tags prove nothing, but they were already checked when the
    # file was sealed.
    if match.key_id == sealer.key_id:
        _check_tags(opened, match, sealer)
    yield opened


@contextlib.contextmanager
def source_in_place(match: Match, sealer: Sealer) -> Iterator[Proven]:
    """Prove that the file at the path of a match is the file that matched, and yield the file.

    Raises:
        StateError: the file is missing, cannot be proven, or is not the file that matched.
    """
    if match.is_stream:
        raise StateError(
            f"match {match.id} came as a stream: there is no file",
            hint="look for the content where the stream came from",
        )
    if match.key_id != sealer.key_id:
        raise StateError(
            f"match {match.id} was sealed with another key, so its file cannot be proven",
            hint="scan it again",
        )
    with _in_place(match) as source:
        proven = prove(source)
        _check_tags(proven, match, sealer)
        yield proven


def prove(source: Source) -> Proven:
    """Read a source to its end, and return the source with its digests.

    Raises:
        StateError: the source cannot be read, or its length is wrong.
    """
    digester = Digester(Algorithm)
    for chunk in source.read():
        digester.update(chunk)
        if digester.count > source.size:
            break
    if digester.count != source.size:
        raise source.changed(source.name)
    return Proven(source, digester)


def _check_tags(proven: Proven, match: Match, sealer: Sealer) -> None:
    if not match.tags:
        raise StateError(f"there is no digest to prove the file by: {proven.source.name}")
    if not is_what_matched(proven.digester, proven.size, match.tags, sealer):
        raise proven.source.changed(proven.source.name)


@contextlib.contextmanager
def _in_place(match: Match) -> Iterator[Source]:
    """Open the file or object version that the scan has read, at its original path or URI.

    The file is opened once, so the proven file is sent even if another file gets its path later.
    """
    shown = printable(match.path)
    try:
        with Everywhere({}).open(match.path, match.seen) as spot, spot.hold() as held:
            if not held.is_seen():
                raise _changed(shown)

            def read() -> Iterator[bytes]:
                held.rewind()
                try:
                    while chunk := held.read(CHUNK_BYTES):
                        yield chunk
                except OSError as error:
                    raise _unreadable(shown, error) from error

            yield Source(shown, held.size, read)
    except OSError as error:
        raise _unreadable(shown, error) from error


def _unreadable(shown: str, error: OSError) -> StateError:
    return StateError(
        f"cannot read {shown}: {reason_of(error)}",
        hint="scan the file again; if it is gone, `hashclient matches close` closes the match",
    )


def file_chunks(path: Path) -> Generator[bytes]:
    """Yield the content of the file `path` in chunks.

    Raises:
        StateError: the file cannot be read.
    """
    try:
        with open_regular(path) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise state_error("cannot read", path, error) from error


def opener_of(identities: Sequence[Any]) -> Callable[[Iterator[bytes]], Generator[bytes]]:
    """Return a function that calls `unsealed` with the secret keys `identities`."""
    return lambda sealed: unsealed(sealed, identities)


def unsealed(sealed: Iterator[bytes], identities: Sequence[Any]) -> Generator[bytes]:
    """Yield the plain bytes of the age file whose bytes `sealed` yields.

    Raises:
        AuthorisationError: no secret key in `identities` can decrypt the age file.
        StateError: the age file is damaged.
        HashclientError: the exception that `sealed` raised.
    """
    # pyrage runs in a thread, because it writes to a stream, and the caller reads from a generator.
    source, sink = os.pipe()
    failures: list[HashclientError | OSError] = []

    def work() -> None:
        try:
            unseal(Chunks(sealed).read, lambda data: write_all(sink, data), identities)
        except (HashclientError, OSError) as error:
            failures.append(error)
        finally:
            os.close(sink)

    try:
        thread = start_thread(work, "unseal")
    except StateError:
        os.close(source)
        os.close(sink)
        raise
    try:
        while chunk := os.read(source, CHUNK_BYTES):
            yield chunk
        thread.join()
        if failures:
            raise failures[0]
    finally:
        # After the pipe is closed, the next write of the thread fails, and the thread ends.
        os.close(source)
        thread.join()
