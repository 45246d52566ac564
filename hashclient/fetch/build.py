"""Builds one generation of a list, from the local index and a delta, or from all segments.

While a segment is sealed, the next segments are downloaded. A build stores its progress from time
to time; if the build is killed, the next build continues from the stored progress. `fetcher`
switches readers to the new generation after the generation is verified.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import msgspec
from tuf.api.metadata import TargetFile

from hashclient.core.errors import StateError, VerificationError
from hashclient.fetch.guard import Inspection, PoisonGuard
from hashclient.index.blinding import NO_MAC, Sealer, authenticate, verify_document
from hashclient.index.manifest import (
    MANIFEST_FORMAT,
    Manifest,
    RunRef,
    read_manifest,
    verify_runs,
)
from hashclient.index.reader import Index, open_manifest
from hashclient.index.run import DamagedError
from hashclient.index.writer import InconsistentError, IndexWriter, Room, sweep
from hashclient.lists.wire import (
    MAX_LIST_BYTES,
    MAX_SEGMENT_BYTES,
    ListIndex,
    Segment,
    parse_add_segment,
    parse_withdraw_segment,
)
from hashclient.system.background import Task
from hashclient.system.files import (
    MAX_STATE_BYTES,
    TEMP_PREFIX,
    fsync_dir,
    read_regular,
    state_errors,
    write_atomic,
)
from hashclient.system.layout import STAGING_NAME
from hashclient.system.log import Log
from hashclient.trust.tuf import Trust

_log = Log("fetch")

#: The number of segments that are downloaded at the same time.
AT_ONCE = 3

#: `DELTA_UNNOTED_S`: the seconds after which the progress of applying a delta is stored for the
#: first time. `NOTING_SHARE`: the pause between storing the progress twice is this many times the
#: time that storing takes, so storing takes at most a twentieth of the time.
DELTA_UNNOTED_S = 1.0
NOTING_SHARE = 20

#: The seconds between two reports of progress while a build waits for a segment.
PROGRESS_S = 0.1

_STAGING_FORMAT: Final = "hashclient-staging/2"

#: A function called with (list, bytes downloaded, bytes to download) while segments are downloaded.
Progress = Callable[[str, int, int], None]


class _Staging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The progress of an unfinished build: the first `segments` of the index are in `partial`.

    `fresh`: True if the build began without an older generation.
    """

    mac: str
    segments: int
    fresh: bool
    partial: Manifest
    format: Literal["hashclient-staging/2"] = _STAGING_FORMAT


class Build(msgspec.Struct, frozen=True):
    """The build of one generation of one list.

    `index_hash`: the signed hash of the list's `index.json`. `signed`: the signed hashes of all
    files of the list. `expires`: the earliest expiry of the metadata that signed these hashes.
    `epoch`: a name for the provider's snapshot keys, see `Trust.epoch`. `mark`: the mark of the
    generation in the list's history. `now`: the time at which the manifest says that the list was
    fetched. `received`: returns the number of bytes received so far.
    """

    provider: str
    trust: Trust
    sealer: Sealer
    guard: PoisonGuard
    directory: Path
    index_hash: str
    signed: Mapping[str, str]
    expires: datetime
    epoch: str
    mark: str
    now: datetime
    progress: Progress
    received: Callable[[], int]
    monotonic: Callable[[], float] = time.monotonic
    #: The digests of the pieces of runs that were written or read, by the name of the run.
    pieces: dict[str, bytes] = msgspec.field(default_factory=dict)
    #: This list has one element if some added entries are known to be good, otherwise none.
    met: list[bool] = msgspec.field(default_factory=list)
    #: The ids of entries that an earlier fetch set aside.
    set_aside: tuple[str, ...] = ()
    #: The sizes of the pieces that may be in memory at a time.
    room: Room = Room()

    def on_base(self, base: Index, index: ListIndex, delta: list[Segment]) -> Manifest | None:
        """Apply `delta` to `base`; return None if the result differs from the signed list.

        Raises:
            VerificationError: the list has the empty file, or too many files that are known to be
                good.
        """
        skip = len(index.segments) - len(delta)
        staging = self._load_staging()
        if staging is not None and staging.segments > skip:
            base, skip = open_manifest(self.directory, staging.partial), staging.segments
        fresh = staging is not None and staging.fresh
        writer = self._writer(base)
        try:
            manifest = self._build(writer, index, skip, fresh=fresh)
        except (InconsistentError, DamagedError):
            manifest = None
        if manifest is None:
            # The runs of the unfinished build are removed, so that no later build continues from
            # them.
            tidy(self.directory)
        return manifest

    def from_beginning(self, index: ListIndex, *, resume: bool = True) -> Manifest:
        """Build the list from its first segment or, with `resume`, continue a killed build.

        Raises:
            VerificationError: the result differs from the signed list, or the guard refuses its
                entries.
            DamagedError: the disk returns other bytes than were written to it.
        """
        staging = self._load_staging() if resume else None
        if staging is not None and not staging.fresh:
            staging = None
        keep = {run.name for run in staging.partial.runs} if staging else set()
        if (current := _load_current(self.directory)) is not None:
            keep |= {run.name for run in current.runs}
        sweep(self.directory, frozenset(keep))
        base = open_manifest(self.directory, staging.partial) if staging else None
        writer = self._writer(base)
        try:
            manifest = self._build(writer, index, staging.segments if staging else 0, fresh=True)
        except DamagedError:
            # The runs of the unfinished build are removed, because the next build would continue
            # from them and fail in the same way.
            tidy(self.directory)
            raise
        if manifest is None:
            raise VerificationError(
                f"list {index.list}: its segments do not add up to the signed count and checksum",
                hint="nothing was changed; tell the provider",
            )
        return manifest

    def _writer(self, base: Index | None) -> IndexWriter:
        # The runs need not be durable yet, because the manifest is written later, together with the
        # manifests of other lists.
        return IndexWriter(self.directory, self.sealer, base, self.pieces, self.room, durable=False)

    def _build(
        self, writer: IndexWriter, index: ListIndex, skip: int, *, fresh: bool
    ) -> Manifest | None:
        """Apply the segments after the first `skip` segments; return None if the checksum is wrong.

        The progress is stored from the first segment on if the list is built `fresh`, and after
        `DELTA_UNNOTED_S` if a delta is applied. Storing the progress takes a small part of the
        time.
        """
        inspection = Inspection(self.guard, self.set_aside)
        due = self.monotonic() + (0 if fresh else DELTA_UNNOTED_S)
        segments = self._download(index, index.segments[skip:])
        for number, (segment, data) in enumerate(segments, skip + 1):
            _apply(writer, inspection, segment, data, self.room.batch_rows)
            data = b""  # `data` would keep this segment in memory while the next segment is awaited
            _log.debug(
                "list %s: segment %d of %d is built", index.list, number, len(index.segments)
            )
            started = self.monotonic()
            worth_it = started >= due or (fresh and writer.is_flushed)
            # The progress is stored only if the guard has objected to no entry so far, because a
            # later build would not know the result of this build's inspection.
            if worth_it and inspection.is_clean and number < len(index.segments):
                writer.flush()
                partial = self._manifest(index, writer, writer.run_refs())
                document = msgspec.json.encode(_Staging(NO_MAC, number, fresh, partial))
                document = authenticate(document, _STAGING_FORMAT, self.sealer)
                write_atomic(self.directory / STAGING_NAME, document)
                ended = self.monotonic()
                due = ended + NOTING_SHARE * (ended - started)
        if (writer.entries, f"{writer.checksum:016x}") != (index.entries, index.checksum):
            return None
        manifest = self._manifest(index, writer, writer.finish())
        self.pieces.update(writer.pieces)
        inspection.judge(open_manifest(self.directory, manifest))
        self.met[:] = [True] * inspection.has_met
        return manifest

    def _download(
        self, index: ListIndex, segments: Sequence[Segment]
    ) -> Iterator[tuple[Segment, bytes]]:
        """Yield `segments` with their verified bytes, in the order of `segments`.

        While one segment is sealed, the next segments are downloaded, as far as the memory in
        `room` allows.
        """
        infos = [self.trust.target(index.list, segment.name) for segment in segments]
        total = sum(info.length for info in infos)
        if total > MAX_LIST_BYTES:
            raise VerificationError(f"list {index.list} has {total} bytes to download")
        done, before = 0, self.received()

        def report() -> None:
            self.progress(index.list, min(total, max(done, self.received() - before)), total)

        waiting = deque(zip(segments, infos, strict=True))
        running: deque[tuple[Segment, TargetFile, Task[bytes]]] = deque()
        while waiting or running:
            ahead = sum(info.length for _, info, _ in running)
            while (
                waiting
                and len(running) < AT_ONCE
                and (ahead < self.room.ahead_bytes or not running)
            ):
                segment, info = waiting.popleft()
                work = functools.partial(self.trust.download, info, MAX_SEGMENT_BYTES)
                running.append((segment, info, Task(work, info.path)))
                ahead += info.length
            report()
            segment, info, download = running.popleft()
            while not download.wait(PROGRESS_S):
                report()
            data = download.result()
            # `download` also has a reference to `data`, which must be dropped before the next
            # segment arrives
            del download
            yield segment, data
            del data
            done += info.length
        report()

    def _load_staging(self) -> _Staging | None:
        """Return the progress of a killed build of the same generation, if it can be used.

        The runs of the killed build are compared with their digests, because bytes on the disk may
        have changed since then. Without this comparison, the new manifest would authenticate bytes
        that were changed on the disk.
        """
        staging = _read_staging(self.directory, self.sealer)
        if staging is None:
            return None
        partial = staging.partial
        if (partial.index_hash, partial.key_id) != (self.index_hash, self.sealer.key_id):
            return None
        if changed_segments(partial, self.signed):
            return None
        try:
            # `verify_runs` reads the runs without a memory map first, because a bad block causes an
            # error for a read, but a signal for a map.
            pieces = verify_runs(self.directory, partial.runs)
            open_manifest(self.directory, partial)
        except (OSError, StateError):
            return None
        self.pieces.update(pieces)
        return staging

    def _manifest(
        self, index: ListIndex, writer: IndexWriter, runs: tuple[RunRef, ...]
    ) -> Manifest:
        return Manifest(
            format=MANIFEST_FORMAT,
            list=index.list,
            provider=self.provider,
            generation=index.generation,
            published_at=index.published_at,
            fetched_at=self.now,
            checked_at=self.now,
            expires=self.expires,
            entries=writer.entries,
            checksum=f"{writer.checksum:016x}",
            with_digest={a.label: n for a, n in writer.with_digest.items()},
            with_size=writer.with_size,
            key_id=self.sealer.key_id,
            index_hash=self.index_hash,
            runs=runs,
            epoch=self.epoch,
            mark=self.mark,
            segments={s.name: self.signed[s.name] for s in index.segments if s.name in self.signed},
        )


def _apply(
    writer: IndexWriter, inspection: Inspection, segment: Segment, data: bytes, batch_rows: int
) -> None:
    if segment.kind == "add":
        for batch in parse_add_segment(data, segment, batch_rows):
            inspection.add(batch)
            writer.add(batch)
    else:
        for ids in parse_withdraw_segment(data, segment):
            writer.withdraw(ids)


def changed_segments(manifest: Manifest, signed: Mapping[str, str]) -> frozenset[str]:
    """Return the names of the segments of `manifest` whose signed hash is a different one now.

    A provider may publish other digests under the same entry ids; such a change does not change
    count and checksum.
    """
    pairs = [(name, mine, signed.get(name, mine)) for name, mine in manifest.segments.items()]
    # Hashes of different algorithms differ in length, and cannot be compared.
    return frozenset(name for name, mine, now in pairs if mine != now and len(mine) == len(now))


def _load_current(directory: Path) -> Manifest | None:
    """Return the manifest that readers use; it is not verified, because readers verify it."""
    try:
        document = read_manifest(directory)
    except DamagedError:
        return None
    return None if document is None else document.manifest


def _read_staging(directory: Path, sealer: Sealer | None = None) -> _Staging | None:
    """Return the record of an unfinished build; with `sealer`, only if its code is right."""
    try:
        document = read_regular(directory / STAGING_NAME, MAX_STATE_BYTES)
        staging = msgspec.json.decode(document, type=_Staging)
        if sealer is not None:
            verify_document(document, staging.mac, _STAGING_FORMAT, sealer)
    except (OSError, ValueError):
        return None
    return staging


def remove_list(directory: Path) -> None:
    """Remove the folder of a list; readers see the removal as one step.

    Raises:
        StateError: the folder cannot be removed.
    """
    gone = directory.with_name(f"{TEMP_PREFIX}{directory.name}")
    with state_errors("cannot remove", directory):
        _remove(gone)
        directory.rename(gone)
        fsync_dir(directory.parent)
        _remove(gone)


def sweep_removed(lists_dir: Path) -> None:
    """Remove the folders that a killed `remove_list` has left."""
    for path in lists_dir.glob(f"{TEMP_PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tidy(directory: Path, *, keep_staging: bool = False) -> None:
    """Remove files of a list that the manifest does not use.

    With `keep_staging`, files of an unfinished build are kept.
    """
    try:
        document = read_manifest(directory)
    except StateError:
        return  # a later fetch builds the list again, and removes unused files
    keep = {run.name for run in document.manifest.runs} if document else set()
    staging = _read_staging(directory) if keep_staging else None
    if staging is not None:
        keep |= {run.name for run in staging.partial.runs}
    else:
        with contextlib.suppress(OSError):
            (directory / STAGING_NAME).unlink(missing_ok=True)
    sweep(directory, frozenset(keep))
