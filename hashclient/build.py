"""Building one generation of a list: the delta on what is here, or all of it from its segments.

Segments are downloaded some ahead of the one that is being sealed. A build from the first segment
notes how far it has come each time its entries are in runs, and one that was killed goes on from
there. Nothing here switches readers over; `fetch` does, when the build has been found right.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api.metadata import TargetFile

from hashclient.errors import StateError, VerificationError
from hashclient.fsio import write_atomic
from hashclient.hashlist import (
    MAX_LIST_BYTES,
    MAX_SEGMENT_BYTES,
    ListIndex,
    Segment,
    parse_add_segment,
    parse_withdraw_segment,
)
from hashclient.index import (
    MANIFEST_FORMAT,
    Index,
    Manifest,
    RunRef,
    load_manifest,
    open_manifest,
)
from hashclient.indexwrite import InconsistentError, IndexWriter, sweep
from hashclient.knowngood import PoisonGuard
from hashclient.run import DamagedError
from hashclient.seal import Sealer
from hashclient.trust import Trust

STAGING_NAME = "staging.json"
#: Segments that are downloaded at a time, and the bytes they may have in memory together.
AT_ONCE = 3
AHEAD_BYTES = 256 << 20

#: Called with (list, bytes done, bytes to do) while segments are downloaded.
Progress = Callable[[str, int, int], None]


class _Staging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far an unfinished build has come: the first `segments` of the index are in `partial`."""

    segments: int
    partial: Manifest


@dataclass(frozen=True, slots=True)
class Build:
    """One generation of one list in the making.

    `index_hash` is the signed hash of its `index.json`, `expires` the earliest expiry of what
    vouches for it, `now` the time that the manifest will bear.
    """

    provider: str
    trust: Trust
    sealer: Sealer
    guard: PoisonGuard
    directory: Path
    index_hash: str
    expires: datetime
    now: datetime
    progress: Progress

    def on_base(self, base: Index, index: ListIndex, delta: list[Segment]) -> Manifest | None:
        """Apply `delta` to `base`; None if that does not give what was signed."""
        writer = IndexWriter(self.directory, self.sealer, base)
        try:
            for segment, data in self._download(index, delta):
                _apply(writer, self.guard, segment, data)
            if not _adds_up(writer, index):
                return None
            return self._manifest(index, writer, writer.finish())
        except (InconsistentError, DamagedError):
            return None

    def anew(self, index: ListIndex) -> Manifest:
        """Build the list from its first segment, or from where a killed build had come to.

        Raises:
            VerificationError: the segments do not give what was signed.
        """
        staging = self._load_staging()
        keep = {run.name for run in staging.partial.runs} if staging else set()
        if (current := _load_current(self.directory)) is not None:
            keep |= {run.name for run in current.runs}
        sweep(self.directory, frozenset(keep))
        base = open_manifest(self.directory, staging.partial) if staging else None
        writer = IndexWriter(self.directory, self.sealer, base)
        skip = staging.segments if staging else 0
        for number, (segment, data) in enumerate(self._download(index, index.segments, skip), skip):
            _apply(writer, self.guard, segment, data)
            if writer.is_flushed and number + 1 < len(index.segments):
                partial = self._manifest(index, writer, writer.run_refs())
                document = msgspec.json.encode(_Staging(number + 1, partial))
                write_atomic(self.directory / STAGING_NAME, document)
        if not _adds_up(writer, index):
            raise VerificationError(
                f"list {index.list}: its segments do not add up to the signed count and checksum",
                hint="nothing was changed; tell the provider",
            )
        return self._manifest(index, writer, writer.finish())

    def _download(
        self, index: ListIndex, segments: Sequence[Segment], skip: int = 0
    ) -> Iterator[tuple[Segment, bytes]]:
        """Yield segments after the first `skip` with their verified bytes, in their order.

        Some are downloaded ahead while one is sealed, as far as `AHEAD_BYTES` allows.
        """
        infos = [self.trust.target(index.list, segment.name) for segment in segments]
        total = sum(info.length for info in infos)
        if total > MAX_LIST_BYTES:
            raise VerificationError(f"list {index.list} has {total} bytes to download")
        done = sum(info.length for info in infos[:skip])
        waiting = deque(zip(segments[skip:], infos[skip:], strict=True))
        running: deque[tuple[Segment, TargetFile, _Download]] = deque()
        while waiting or running:
            ahead = sum(info.length for _, info, _ in running)
            while waiting and len(running) < AT_ONCE and (ahead < AHEAD_BYTES or not running):
                segment, info = waiting.popleft()
                running.append((segment, info, _Download(self.trust, info)))
                ahead += info.length
            self.progress(index.list, done, total)
            segment, info, download = running.popleft()
            yield segment, download.result()
            done += info.length
        self.progress(index.list, done, total)

    def _load_staging(self) -> _Staging | None:
        """Return how far a killed build of this same generation came, if it can be used."""
        staging = _read_staging(self.directory)
        if staging is None:
            return None
        partial = staging.partial
        try:
            open_manifest(self.directory, partial)
        except (OSError, StateError):
            return None
        if (partial.index_hash, partial.key_id) != (self.index_hash, self.sealer.key_id):
            return None
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
        )


class _Download:
    """A segment that is being downloaded in the background."""

    def __init__(self, trust: Trust, info: TargetFile) -> None:
        self._trust = trust
        self._info = info
        self._data = b""
        self._error: BaseException | None = None
        # Of its own and a daemon: Ctrl-C must not wait for a server.
        self._thread = threading.Thread(target=self._run, name=info.path, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._data = self._trust.download(self._info, MAX_SEGMENT_BYTES)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            self._error = error

    def result(self) -> bytes:
        """Wait for it, and return its bytes or raise what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._data


def _apply(writer: IndexWriter, guard: PoisonGuard, segment: Segment, data: bytes) -> None:
    if segment.kind == "add":
        for batch in parse_add_segment(data, segment):
            guard.check(batch)
            writer.add(batch)
    else:
        for ids in parse_withdraw_segment(data, segment):
            writer.withdraw(ids)


def _adds_up(writer: IndexWriter, index: ListIndex) -> bool:
    return writer.entries == index.entries and f"{writer.checksum:016x}" == index.checksum


def delta_of(generation: int, index: ListIndex) -> list[Segment] | None:
    """Return the segments that lead from `generation` to `index`, None if one straddles it."""
    if any(s.first <= generation < s.last for s in index.segments):
        return None
    return [s for s in index.segments if s.first > generation]


def _load_current(directory: Path) -> Manifest | None:
    try:
        return load_manifest(directory)
    except DamagedError:
        return None


def _read_staging(directory: Path) -> _Staging | None:
    try:
        return msgspec.json.decode((directory / STAGING_NAME).read_bytes(), type=_Staging)
    except (OSError, ValueError):
        return None


def tidy(directory: Path, *, keep_staging: bool = False) -> None:
    """Remove what neither the manifest nor, with `keep_staging`, an unfinished build names."""
    try:
        manifest = load_manifest(directory)
    except StateError:
        return  # a later fetch builds the list again, and then knows what is not needed
    keep = {run.name for run in manifest.runs} if manifest else set()
    staging = _read_staging(directory) if keep_staging else None
    if staging is not None:
        keep |= {run.name for run in staging.partial.runs}
    else:
        with contextlib.suppress(OSError):
            (directory / STAGING_NAME).unlink(missing_ok=True)
    sweep(directory, frozenset(keep))
