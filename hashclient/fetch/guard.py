"""The guard refuses lists that contain the empty file, or many files that are known to be good.

Files on a list are reported and removed, so a mistake or a forgery in a list does real harm. A
generation is refused if it adds the digest of the empty file. A generation is also refused if it
adds too many entries whose digests are in the operator's files of known good digests;
`known_listed` explains the limit. An entry that a later segment of the generation withdraws is not
counted, so a provider can correct a mistake. The known good digests are sealed into an index of
their own. The index is built again only when a file of known good digests changes, so the cost of
inspecting a generation depends on the size of its change. Messages of this module name entry ids,
never digests.
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

#: The largest number of entry ids that a message names.
NAMED = 5


#: A file by its path, its size, and its mtime and ctime in nanoseconds.
Stamp = tuple[str, int, int, int]


class _Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sources of an index of known good digests: the files, the id of the key, and the runs."""

    files: tuple[Stamp, ...]
    key_id: str
    runs: tuple[RunRef, ...]
    format: Literal["hashclient-known-good/2"] = "hashclient-known-good/2"


class PoisonGuard:
    """Finds digests that a list must not contain; all builds of a fetch use the same guard.

    `most`: the number of entries of a list that may be known to be good. Up to `most` entries that
    are known to be good are set aside.
    """

    def __init__(self, known_good: RunSet | None, sealer: Sealer, most: int = 0) -> None:
        """Use the index of known good digests, if it exists."""
        self.most = most
        self._known_good = known_good
        self._sealer = sealer
        #: The sealed digests of the empty file, for each algorithm.
        self.empty = {
            a: sealer.tags(a, np.frombuffer(digest, np.uint8).reshape(1, -1))
            for a, digest in EMPTY_DIGESTS.items()
        }

    def known_good_in(self, batch: AddBatch) -> dict[Algorithm, Uint64]:
        """Return the tags of known good digests in `batch`, by algorithm."""
        good: dict[Algorithm, Uint64] = {}
        # without known good digests, sealing the digests would be useless
        if self._known_good is None:
            return good
        for algorithm, (digests, _) in batch.digests.items():
            tags = self._sealer.tags(algorithm, digests)
            if len(found := self.known_good_among(algorithm, tags)):
                good[algorithm] = found
        return good

    def known_good_among(self, algorithm: Algorithm, tags: Uint64) -> Uint64:
        """Return those of the (n, 2) tags of one algorithm that are known to be good."""
        if self._known_good is None:
            return tags[:0]
        return tags[np.unique(self._known_good.find(algorithm, tags).queries)]


class Inspection:
    """Inspects the entries that one build adds, and accepts or refuses the finished list."""

    def __init__(self, guard: PoisonGuard, set_aside: Sequence[str] = ()) -> None:
        """Begin without entries.

        Entries in `set_aside` were set aside before, and count if they are still live.
        """
        self._guard = guard
        self._set_aside = set_aside
        #: The tags of known good digests that were added, each once, so that their number is
        #: limited.
        self._good: dict[Algorithm, Uint64] = {}
        self._empty = False
        #: Whether the list was accepted although it has entries that are known to be good.
        self.has_met = False

    @property
    def is_clean(self) -> bool:
        """Whether all entries that were added so far are harmless."""
        return not (self._good or self._empty)

    def add(self, batch: AddBatch) -> None:
        """Inspect a batch of added entries."""
        self._empty = self._empty or len(rows_of_the_empty_file(batch.digests)) > 0
        for algorithm, tags in self._guard.known_good_in(batch).items():
            seen = self._good.get(algorithm, tags)
            self._good[algorithm] = np.unique(np.concatenate([seen, tags]), axis=0)

    def judge(self, index: RunSet) -> None:
        """Accept or refuse the list in the finished `index`.

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
    """Return those of `ids` that belong to live entries."""
    if not ids:
        return []
    names = np.array([entry.encode() for entry in ids])
    found = index.find_ids(names, entry_hashes(names)).queries
    return [ids[query] for query in found.tolist()]


def open_guard(
    state_dir: Path, files: Sequence[str], sealer: Sealer, most: int = 0, *, verify: bool = False
) -> PoisonGuard:
    """Return the guard for `files` of known good digests.

    If a file has changed, its index is built again.

    `most`: the number of entries of a list that may be known to be good.

    With `verify`, the index is compared with its digests, and is built again if it is damaged. The
    caller must have the writers' lock.

    Raises:
        ConfigError: a file cannot be read, or its format is not accepted.
        StateError: the index cannot be written.
    """
    if not files:
        return PoisonGuard(None, sealer, most)
    stamps = stamps_of(files)
    directory = make_private_dir(Layout(state_dir).known_good)
    sources = _load_sources(directory)
    if sources is not None and (sources.files, sources.key_id) == (stamps, sealer.key_id):
        # A damaged or missing index is built again below.
        with contextlib.suppress(DamagedError, FileNotFoundError):
            # The index is verified before it is opened, because `verify_runs` reads without a
            # memory map: a bad block causes an error for a read, but a signal for a memory map.
            if verify:
                verify_runs(directory, sources.runs)
            return PoisonGuard(_open_runs(directory, sources), sealer, most)
    return PoisonGuard(_open_runs(directory, _build(directory, stamps, sealer)), sealer, most)


def stamps_of(files: Sequence[str]) -> tuple[Stamp, ...]:
    """Return the stamps of files of known good digests; a file that changes gets another stamp.

    Raises:
        ConfigError: a file does not exist, or its status cannot be read.
    """
    return tuple(_stamp(user_path(name)) for name in files)


def verify_guard(state_dir: Path) -> None:
    """Verify the index of known good digests, if it exists.

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
        # opening a pipe would wait while this process has the writers' lock
        if not stat.S_ISREG(status.st_mode):
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
    """Convert rows of known good digests to entries with numbers from `first` as ids."""
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
