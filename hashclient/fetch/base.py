"""The local state of a list before a fetch changes it: its manifest and its index, verified.

1 the manifest is verified; 2 the index is opened; 3 the pieces of the runs that are due are
compared with their digests. A damaged index is not used, and the list is built again. If step 3
finds the damage, this fetch ends with an error, so that somebody sees it, and the next fetch builds
the list.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from hashclient.errors import ConfigError
from hashclient.index.blinding import Sealer
from hashclient.index.checks import verify_due
from hashclient.index.manifest import Manifest, OtherKeyError, load_manifest
from hashclient.index.reader import Index, open_index
from hashclient.index.run import DamagedError


class Base(msgspec.Struct):
    """The local state of a list: `here` is its manifest, `index` the index that a build can use.

    `here` is None if there is no list yet. If only `index` is None, a new generation is still
    compared with `here`.
    """

    here: Manifest | None = None
    index: Index | None = None


def open_base(
    directory: Path,
    provider: str,
    sealer: Sealer,
    now: datetime,
    *,
    rebuild: bool,
    limit_s: float,
) -> Base:
    """Open the local state of the list in `directory`, which comes from `provider`.

    With `rebuild`, the index is not opened: reading a bad page of the map would end the process.
    Comparing pieces takes `limit_s` at most.

    Raises:
        ConfigError: the list is here from another provider.
        OtherKeyError: another key sealed it, and it is not built again.
        DamagedError: its index is damaged, and this was not known before.
        StateError: something cannot be read or written.
    """
    # 1
    try:
        here = load_manifest(directory, sealer)
    except DamagedError:
        return Base()
    except OtherKeyError:
        if not rebuild:
            raise
        return Base()
    if here is None or here.list != directory.name:
        return Base()
    if here.provider != provider:
        raise ConfigError(
            f"list {here.list} is here already, from provider {here.provider}",
            hint="name the lists to fetch with `lists = […]` in the provider's configuration",
        )
    # 2
    if rebuild:
        return Base(here)
    try:
        index = open_index(directory, sealer)
    except DamagedError:
        return Base(here)
    assert index is not None
    # 3
    for run in index.runs:
        run.forget()  # the kernel keeps pages that are mapped, so that the disk would not be read
    index.manifest = verify_due(directory, here, sealer, now, limit_s=limit_s)
    return Base(here, index)
