"""Compares pieces of an index with their digests in turn, and records when each piece was compared.

Opening an index does not read it, so a lookup notices bytes that changed on the disk only if it
happens to read them. So each fetch compares some pieces with their digests, beginning with the
pieces that were compared longest ago. A fetch compares a share of the pieces: the time since the
last comparison, divided by `ROUND`. Pieces that were last compared more than `ROUND` ago are due in
any case. So each piece is compared once in each `ROUND`, however often lists are fetched. A fetch
compares for at most `LIMIT_S` seconds; if this time is too short, `status` says so.

`checks.json`, in the folder of the manifest, has the digests of the pieces and the times of the
comparisons. If `checks.json` is lost, each run is read whole once: the roots in the manifest
authenticate the digests.

When a run differs from the written bytes, the manifest is changed first: it names the run as
damaged, and the list then counts as damaged.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.index.blinding import NO_MAC, Sealer, authenticate, verify_document
from hashclient.index.manifest import Manifest, RunName, RunRef, verify_runs, write_manifest
from hashclient.index.run import (
    DIGEST_BYTES,
    DamagedError,
    open_run,
    pieces_of,
    root_of,
    unreadable,
    verify_piece,
)
from hashclient.system.files import MAX_STATE_BYTES, read_regular, translated, write_atomic
from hashclient.system.layout import CHECKS_NAME
from hashclient.system.log import Log

_log = Log("lists")

CHECKS_FORMAT: Final = "hashclient-checks/1"
#: `ROUND`: the time within which each piece is compared once. `OVERDUE`: if the last comparison of
#: a piece is older, something prevents comparisons.
ROUND = timedelta(days=7)
OVERDUE = timedelta(days=14)
#: The shortest time between two fetches that both compare pieces.
LEAST = timedelta(minutes=30)
#: The largest time for which one fetch compares pieces, in seconds.
LIMIT_S = 2.0

Times = npt.NDArray[np.int64]


class _Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run: its root, the digests of its pieces, and when each was last compared (`Times`)."""

    name: RunName
    root: str
    digests: bytes
    times: bytes


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `checks.json`.

    `at`: the time of the last comparison, in seconds since 1970.
    """

    format: Literal["hashclient-checks/1"]
    key_id: str
    mac: str
    at: int
    runs: tuple[_Run, ...]


class _Pieces(msgspec.Struct, frozen=True):
    """The digests of the pieces of a run, and when each piece was last compared."""

    digests: bytes
    times: Times


def note_pieces(
    directory: Path,
    manifest: Manifest,
    base: Manifest | None,
    pieces: Mapping[str, bytes],
    sealer: Sealer,
    now: datetime,
) -> Manifest:
    """Store the digests of runs that were just written or read; return the manifest with times.

    `manifest` will replace `base`; some runs of `manifest` are also runs of `base`, and `pieces`
    has the digests of the new runs, by name. The caller makes the file `CHECKS_NAME` durable. The
    digests of the runs of `base` are kept, because `base` stays the manifest if this process ends
    now.

    Raises:
        StateError: the file of checks cannot be written.
    """
    at, known = _load(directory, sealer)
    for ref in manifest.runs:
        if ref.name in pieces:
            known[ref.name, ref.root] = _fresh(pieces[ref.name], now)
    kept = [ref for ref in manifest.runs if ref.name not in pieces]
    verified_at, oldest = now, now
    if kept and base is not None:
        verified_at, oldest = base.verified_at or base.fetched_at, min(base.verified_since, now)
    _write(directory, known, sealer, at if kept else _seconds(now), durable=False)
    return msgspec.structs.replace(manifest, verified_at=verified_at, oldest_verified=oldest)


def verify_due(
    directory: Path,
    manifest: Manifest,
    sealer: Sealer,
    now: datetime,
    *,
    limit_s: float = LIMIT_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> Manifest:
    """Compare the pieces that are due with their digests; return the manifest with new times.

    The comparison takes at most `limit_s` seconds, but at least one piece is always compared, and a
    run whose digests are not known is read whole. The caller must have the writers' lock, and must
    write the manifest.

    Raises:
        DamagedError: a run differs from the written bytes. The manifest on the disk now names the
            damaged run.
        StateError: a run cannot be read, or the checks or the manifest cannot be written.
    """
    if _since(manifest.verified_at, now) < LEAST:
        return manifest
    at, known = _load(directory, sealer)
    deadline = monotonic() + limit_s
    runs = {}
    for ref in manifest.runs:
        found = known.get((ref.name, ref.root))
        if found is None or not _fits(found, ref):
            with _naming(directory, manifest, ref, sealer):
                found = _fresh(verify_runs(directory, [ref])[ref.name], now)
        runs[ref.name, ref.root] = found
    counts = [len(found.times) for found in runs.values()]
    times = np.concatenate([np.zeros(0, np.int64), *(found.times for found in runs.values())])
    # A time in the future comes from a wrong clock, so the piece is treated as due.
    times[times > _seconds(now)] = _seconds(now - ROUND)
    elapsed = min(_since(datetime.fromtimestamp(at, UTC), now), ROUND)
    # The number of pieces that are due: the share for the time since the last comparison, or all
    # pieces older than `ROUND` if they are more.
    due = max(-(-len(times) * elapsed // ROUND), int((times <= _seconds(now - ROUND)).sum()))
    starts = np.cumsum([0, *counts])
    compared = 0
    with contextlib.ExitStack() as stack:
        opened: dict[int, int] = {}
        for place in np.argsort(times, kind="stable")[:due].tolist():
            number = int(starts.searchsorted(place, "right")) - 1
            ref = manifest.runs[number]
            path, piece = directory / ref.name, place - int(starts[number])
            digests = runs[ref.name, ref.root].digests
            digest = digests[piece * DIGEST_BYTES : (piece + 1) * DIGEST_BYTES]
            with _naming(directory, manifest, ref, sealer):
                if number not in opened:
                    opened[number] = _opened(path, stack)
                verify_piece(opened[number], path, piece, ref.length, digest)
            times[place] = _seconds(now)
            compared += 1
            if monotonic() >= deadline:
                break
    _log.debug("list %s: %d of %d pieces are compared", manifest.list, compared, len(times))
    split = np.split(times, starts[1:-1]) if runs else []
    runs = {
        key: _Pieces(found.digests, mine)
        for (key, found), mine in zip(runs.items(), split, strict=True)
    }
    _write(directory, runs, sealer, _seconds(now))
    oldest = datetime.fromtimestamp(int(times.min()), UTC) if len(times) else now
    return msgspec.structs.replace(manifest, verified_at=now, oldest_verified=oldest)


def _since(at: datetime | None, now: datetime) -> timedelta:
    """Return the time since the last comparison, or `ROUND` if its time is in the future."""
    if at is None or at > now:
        return ROUND
    return now - at


@contextlib.contextmanager
def _naming(directory: Path, manifest: Manifest, ref: RunRef, sealer: Sealer) -> Iterator[None]:
    """If the block raises `DamagedError`, record in the manifest that the run `ref` is damaged."""
    try:
        yield
    except DamagedError:
        write_manifest(directory, msgspec.structs.replace(manifest, rotten=ref.name), sealer)
        raise


def _fits(pieces: _Pieces, ref: RunRef) -> bool:
    return len(pieces.times) == pieces_of(ref.length) and root_of(pieces.digests) == ref.root


def _opened(path: Path, stack: contextlib.ExitStack) -> int:
    with translated(path, unreadable):
        fd = open_run(path)
    stack.callback(os.close, fd)
    return fd


def _load(directory: Path, sealer: Sealer) -> tuple[int, dict[tuple[str, str], _Pieces]]:
    """Return when pieces were last compared; and, for each run by its name and root, its pieces.

    The result has no runs if `checks.json` is missing or damaged.
    """
    try:
        data = read_regular(directory / CHECKS_NAME, MAX_STATE_BYTES)
        document = msgspec.json.decode(data, type=_Document)
        verify_document(data, document.mac, CHECKS_FORMAT, sealer)
    except (OSError, ValueError, RecursionError):
        return 0, {}
    return document.at, {
        (run.name, run.root): _Pieces(run.digests, np.frombuffer(run.times, "<i8"))
        for run in document.runs
    }


def _write(
    directory: Path,
    runs: Mapping[tuple[str, str], _Pieces],
    sealer: Sealer,
    at: int,
    *,
    durable: bool = True,
) -> None:
    noted = tuple(
        _Run(name, root, pieces.digests, pieces.times.astype("<i8").tobytes())
        for (name, root), pieces in runs.items()
    )
    document = _Document(CHECKS_FORMAT, sealer.key_id, NO_MAC, at, noted)
    data = authenticate(msgspec.json.encode(document), CHECKS_FORMAT, sealer)
    write_atomic(directory / CHECKS_NAME, data, durable=durable)


def _fresh(digests: bytes, now: datetime) -> _Pieces:
    count = len(digests) // DIGEST_BYTES
    return _Pieces(digests, np.full(count, _seconds(now), np.int64))


def _seconds(time_: datetime) -> int:
    return int(time_.timestamp())
