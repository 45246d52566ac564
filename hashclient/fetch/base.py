"""What is here of a list before a fetch changes it: what its manifest says, and whether that holds.

1 the manifest is verified; 2 the index is opened; 3 one of version 1 is compared with its runs; 4
the pieces of the runs that are due are compared with their digests. What is damaged counts as
nothing and is built again; but where 3 or 4 finds it out, which nobody has seen before, this fetch
ends with that, and the next one builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from hashclient.errors import ConfigError
from hashclient.index.blinding import Sealer
from hashclient.index.checks import verify_due
from hashclient.index.manifest import Manifest, load_manifest
from hashclient.index.reader import Index, open_index
from hashclient.index.run import DamagedError
from hashclient.index.upgrade import upgrade
from hashclient.lists.wire import ListIndex


class Base(msgspec.Struct):
    """What is here of a list: `here` is what its manifest says, `index` what can be built on.

    Without `here` there is nothing; without `index` alone, what may take its place is judged by
    `here` all the same. `pieces` has the digests of the pieces of runs that were read as a whole.
    """

    here: Manifest | None = None
    index: Index | None = None
    pieces: Mapping[str, bytes] = msgspec.field(default_factory=dict)

    @property
    def is_unconfirmed(self) -> bool:
        """Whether no code vouched for what `here` says; the index was compared with its runs."""
        return self.here is not None and self.here.is_old and self.index is not None

    def confirm(self, signed: ListIndex) -> None:
        """Compare the index with what is signed; drop it if it is not that, to the last entry."""
        assert self.index is not None
        manifest = self.index.manifest
        if (manifest.entries, manifest.checksum) != (signed.entries, signed.checksum):
            self.index = None
            return
        self.index.manifest = msgspec.structs.replace(
            manifest, generation=signed.generation, published_at=signed.published_at
        )


def open_base(
    directory: Path,
    provider: str,
    sealer: Sealer,
    now: datetime,
    *,
    rebuild: bool,
    limit_s: float,
) -> Base:
    """Open what is here of the list in `directory`, which `provider` has given us.

    To `rebuild`, the index is not opened: to touch a page that cannot be read would end the
    process. Comparing pieces takes `limit_s` at most.

    Raises:
        ConfigError: the list is here from another provider.
        OtherKeyError: another key sealed it.
        DamagedError: it has been found out just now that its index is damaged.
        StateError: something cannot be read or written.
    """
    # 1
    try:
        here = load_manifest(directory, sealer)
    except DamagedError:
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
    if here.is_old:
        return Base(here, *upgrade(directory, here, sealer))
    # 4
    for run in index.runs:
        run.forget()  # the kernel drops no page that is in use, and would compare that
    index.manifest = verify_due(directory, here, sealer, now, limit_s=limit_s)
    return Base(here, index)
