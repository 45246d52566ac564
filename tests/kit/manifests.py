"""Manifests of lists that no provider published."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from hashclient.index.blinding import Sealer
from hashclient.index.manifest import MANIFEST_FORMAT, Manifest, RunRef
from hashclient.index.writer import IndexWriter

SEALER = Sealer(bytes(32))


def manifest_at(now: datetime, runs: Iterable[RunRef]) -> Manifest:
    """Return the manifest of a list without entries that was made and checked at a given time."""
    return Manifest(
        format=MANIFEST_FORMAT,
        list="x",
        provider="p",
        generation=1,
        published_at=now,
        fetched_at=now,
        checked_at=now,
        expires=now,
        entries=0,
        checksum="0" * 16,
        with_digest={},
        with_size=0,
        key_id=SEALER.key_id,
        index_hash="",
        runs=tuple(runs),
    )


def finished(writer: IndexWriter, now: datetime, generation: int = 1) -> Manifest:
    """Finish a generation, and return its manifest."""
    return msgspec.structs.replace(
        manifest_at(now, writer.finish()),
        generation=generation,
        entries=writer.entries,
        checksum=f"{writer.checksum:016x}",
        with_digest={a.label: n for a, n in writer.with_digest.items()},
        with_size=writer.with_size,
    )
