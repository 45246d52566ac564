"""Turns a manifest of version 1, which has no authentication code, into one of today's version.

Its digests are compared with the runs, byte by byte, and the entries are counted again. `fetch`
compares the result with what the provider has signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.index.blinding import Sealer
from hashclient.index.checks import mark_rotten
from hashclient.index.manifest import MANIFEST_FORMAT, Manifest, verify_runs
from hashclient.index.pieces import root_of
from hashclient.index.reader import Index, open_manifest
from hashclient.index.run import DamagedError


def upgrade(directory: Path, old: Manifest, sealer: Sealer) -> tuple[Index, Mapping[str, bytes]]:
    """Open the index of a manifest of version 1; return it, and the digests of its pieces by run.

    The new manifest is in the index only, not yet on the disk.

    Raises:
        DamagedError: a run differs from what was written (the manifest on the disk then says so),
            or the runs hold another number of entries than the manifest says.
        StateError: a run cannot be read, or the manifest cannot be written.
    """
    pieces: dict[str, bytes] = {}
    for ref in old.runs:
        try:
            pieces |= verify_runs(directory, [ref], cold=True)
        except DamagedError:
            mark_rotten(directory, old, ref, sealer)
            raise
    runs = tuple(
        msgspec.structs.replace(ref, root=root_of(pieces[ref.name]), sha256="") for ref in old.runs
    )
    index = open_manifest(
        directory, msgspec.structs.replace(old, format=MANIFEST_FORMAT, runs=runs)
    )
    missed = {a: index.count_missed(a) for a in Algorithm}
    unsized = sum(
        run.count - len(run.sizes) - int((dead >= len(run.sizes)).sum())
        for run, dead in zip(index.runs, index.dead, strict=True)
    )
    index.manifest = msgspec.structs.replace(
        index.manifest,
        checksum=f"{index.live_checksum():016x}",
        with_digest={a.label: index.live_entries - sum(missed[a]) for a in Algorithm},
        with_size=index.live_entries - unsized,
    )
    return index, pieces
