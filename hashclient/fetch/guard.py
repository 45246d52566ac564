"""The poison guard refuses lists with the empty file or with many files that are known to be good.

A list decides which files are reported and removed, so a mistake or a forgery does real harm. A
generation is refused if it adds the digest of the empty file. It is also refused if it adds too
many entries whose digests are in the operator's files of known good digests; see `known_listed` for
the limit. An entry that a later segment withdraws does not count: so a provider can correct a
mistake. Known good digests are sealed into an index of their own. The index is built again when a
file changes, so that the cost of a check depends on the size of the change. Messages name entry
ids, never digests.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from hashclient.core.errors import ConfigError, UsageError, VerificationError
from hashclient.core.kinds import Algorithm
from hashclient.index.blinding import Sealer
from hashclient.index.manifest import RunRef, verify_runs
from hashclient.index.reader import RunSet, open_runs
from hashclient.index.run import DamagedError
from hashclient.index.writer import IndexWriter, sweep
from hashclient.lists.empty_file import EMPTY_DIGESTS, rows_of_the_empty_file
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.wire import NO_SIZE, AddBatch, Uint64, entry_hashes
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_private_dir,
    read_regular,
    user_path,
    write_atomic,
)
from hashclient.system.layout import SOURCES_NAME, Layout
from hashclient.system.text import first_of, printable

#: A message names at most this many ids of entries.
NAMED = 5


#: A file: path, size, and mtime and ctime in ns.
Stamp = tuple[str, int, int, int]


class _Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sources of an index of known good files, the key, and the runs."""

    files: tuple[Stamp, ...]
    key_id: str
    runs: tuple[RunRef, ...]
    format: Literal["hashclient-known-good/2"] = "hashclient-known-good/2"


class PoisonGuard:
    """Finds digests that would poison a list; all builds of a fetch share it.

    Up to `most` entries of a list may be known to be good: these entries are set aside.
    """

    def __init__(self, known_good: RunSet | None, sealer: Sealer, most: int = 0) -> None:
        """Guard with the index of known good digests, if it exists."""
        self.most = most
        self._known_good = known_good
        self._sealer = sealer
        #: The sealed digests of the empty file, by algorithm.
        self.empty = {
            a: sealer.tags(a, np.frombuffer(digest, np.uint8).reshape(1, -1))
            for a, digest in EMPTY_DIGESTS.items()
        }

    def known_good_in(self, batch: AddBatch) -> dict[Algorithm, Uint64]:
        """Return the tags of `batch` that are known to be good, by algorithm."""
        good: dict[Algorithm, Uint64] = {}
        if self._known_good is None:  # sealing all digests would be useless here
            return good
        for algorithm, (digests, _) in batch.digests.items():
            tags = self._sealer.tags(algorithm, digests)
            if len(found := self.known_good_among(algorithm, tags)):
                good[algorithm] = found
        return good

    def known_good_among(self, algorithm: Algorithm, tags: Uint64) -> Uint64:
        """Return which of the (n, 2) tags of one algorithm are known to be good."""
        if self._known_good is None:
            return tags[:0]
        return tags[np.unique(self._known_good.find(algorithm, tags).queries)]


class Inspection:
    """Inspects the entries that one build adds, and judges the entries that are left at its end."""

    def __init__(self, guard: PoisonGuard, set_aside: Sequence[str] = ()) -> None:
        """Begin without entries; `set_aside` are earlier entries that also count, if left."""
        self._guard = guard
        self._set_aside = set_aside
        #: Tags of known good digests that were added, each only once: so their number is limited.
        self._good: dict[Algorithm, Uint64] = {}
        self._empty = False
        #: Whether the finished list has entries that are known to be good, and was accepted.
        self.has_met = False

    @property
    def is_clean(self) -> bool:
        """Whether no added entry so far would poison the list."""
        return not (self._good or self._empty)

    def add(self, batch: AddBatch) -> None:
        """Inspect entries that are added."""
        self._empty = self._empty or len(rows_of_the_empty_file(batch.digests)) > 0
        for algorithm, tags in self._guard.known_good_in(batch).items():
            seen = self._good.get(algorithm, tags)
            self._good[algorithm] = np.unique(np.concatenate([seen, tags]), axis=0)

    def judge(self, index: RunSet) -> None:
        """Let the finished `index` pass or refuse it.

        Raises:
            VerificationError: this build has added the empty file, or too many files that are known
                to be good.
        """
        if self._empty and (ids := entries_with(index, self._guard.empty)):
            raise VerificationError(
                f"the list holds the empty file: {first_of(ids, NAMED)}",
                hint="nothing was changed; tell the provider",
            )
        ids = entries_with(index, self._good)
        if ids and len({*ids, *live_among(index, self._set_aside)}) > self._guard.most:
            raise VerificationError(
                f"the list holds files that are known to be good: {first_of(ids, NAMED)}",
                hint="nothing was changed; tell the provider, or correct your known_good list",
            )
        self.has_met = bool(ids)


def entries_with(index: RunSet, tags: Mapping[Algorithm, Uint64]) -> list[str]:
    """Return the ids of the live entries that have one of `tags`."""
    ids = set()
    for algorithm, wanted in tags.items():
        found = index.find(algorithm, wanted)
        for run, row in zip(found.runs, found.rows, strict=True):
            ids.add(bytes(index.runs[run].ids[row]).decode("ascii"))
    return sorted(ids)


def live_among(index: RunSet, ids: Sequence[str]) -> list[str]:
    """Return the ids in `ids` that are ids of live entries."""
    if not ids:
        return []
    names = np.array([entry.encode() for entry in ids])
    found = index.find_ids(names, entry_hashes(names)).queries
    return [ids[query] for query in found.tolist()]


def open_guard(
    state_dir: Path, files: Sequence[str], sealer: Sealer, most: int = 0, *, verify: bool = False
) -> PoisonGuard:
    """Return the guard for these files of known good digests; index the files if they changed.

    Up to `most` entries of a list may be known to be good.

    With `verify`, the index is compared with its digests, and is built again if it is damaged. The
    caller holds the writers' lock.

    Raises:
        ConfigError: a file cannot be read or is in no accepted format.
        StateError: the index cannot be written.
    """
    if not files:
        return PoisonGuard(None, sealer, most)
    stamps = stamps_of(files)
    directory = make_private_dir(Layout(state_dir).known_good)
    sources = _load_sources(directory)
    if sources is not None and (sources.files, sources.key_id) == (stamps, sealer.key_id):
        # A damaged or missing index is built again.
        with contextlib.suppress(DamagedError, FileNotFoundError):
            # Verified before it is opened: `verify` reads without a map, so that a bad block is an
            # error, not a signal.
            if verify:
                verify_runs(directory, sources.runs)
            return PoisonGuard(_open_runs(directory, sources), sealer, most)
    return PoisonGuard(_open_runs(directory, _build(directory, stamps, sealer)), sealer, most)


def stamps_of(files: Sequence[str]) -> tuple[Stamp, ...]:
    """Return the stamps of files of known good digests; a changed file has another stamp.

    Raises:
        ConfigError: a file does not exist, or its status cannot be read.
    """
    return tuple(_stamp(user_path(name)) for name in files)


def verify_guard(state_dir: Path) -> None:
    """Compare the index of known good digests with its digests, if it exists.

    Raises:
        DamagedError: the index is damaged.
        StateError: the index cannot be read.
    """
    directory = Layout(state_dir).known_good
    if (sources := _load_sources(directory)) is not None:
        verify_runs(directory, sources.runs)


def _open_runs(directory: Path, sources: _Sources) -> RunSet:
    return RunSet(open_runs(directory, sources.runs))


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait, with the lock
            raise OSError(errno.EINVAL, "not a regular file")
    except OSError as error:
        raise ConfigError(
            f"cannot read known_good file: {printable(path)}: {error.strerror}",
            hint="check the path, or remove it from the provider's configuration",
        ) from error
    return str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _load_sources(directory: Path) -> _Sources | None:
    try:
        document = read_regular(directory / SOURCES_NAME, MAX_STATE_BYTES)
        return msgspec.json.decode(document, type=_Sources)
    except (OSError, ValueError):
        return None


def _build(directory: Path, stamps: tuple[Stamp, ...], sealer: Sealer) -> _Sources:
    writer = IndexWriter(directory, sealer, None)
    number = 0
    for name, *_ in stamps:
        for batch in _read(Path(name)):
            writer.add(_entries(batch, number))
            number += batch.count
    sources = _Sources(stamps, sealer.key_id, writer.finish())
    write_atomic(directory / SOURCES_NAME, msgspec.json.encode(sources))
    sweep(directory, frozenset(run.name for run in sources.runs))
    return sources


def _entries(batch: DigestBatch, first: int) -> AddBatch:
    """Turn rows of known good digests into entries that are numbered from `first`."""
    masks = np.zeros(batch.count, np.uint8)
    for algorithm, (_, rows) in batch.digests.items():
        masks[rows] |= np.uint8(algorithm)
    ids = np.array([b"%d" % n for n in range(first, first + batch.count)], "S12")
    sizes = np.full(batch.count, NO_SIZE)
    codes = np.zeros(batch.count, np.uint8)
    return AddBatch(ids, masks, sizes, ("known-good",), codes, batch.digests)


def _read(path: Path) -> Iterator[DigestBatch]:
    try:
        with path.open("rb") as stream:
            yield from read_digests(stream, str(path))
    except OSError as error:
        raise ConfigError(
            f"cannot read known_good file: {printable(path)}: {error.strerror}"
        ) from error
    except UsageError as error:
        raise ConfigError(f"known_good file: {error.message}", hint=error.hint) from error
