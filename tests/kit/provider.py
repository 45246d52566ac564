"""A provider without a network: its entries are given as contents, by their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from fixtures.simulator import Simulator
from hashclient.core.kinds import Algorithm

ALL_ALGORITHMS = tuple(Algorithm)


def digests_of(data: bytes, algorithms: Iterable[Algorithm] = ALL_ALGORITHMS) -> list[str]:
    """Return the digests of `data` in hexadecimal."""
    return [hashlib.new(a.label, data).hexdigest() for a in algorithms]


def csv_of(
    contents: Mapping[str, bytes],
    *,
    algorithms: Sequence[Algorithm] = ALL_ALGORITHMS,
    sized: bool = True,
) -> bytes:
    """Return a file to publish: one entry for each of `contents`, by its id."""
    names = ["entry_id", *(a.label for a in algorithms), *(["size"] if sized else []), "category"]
    rows = [",".join(names)]
    for entry_id, data in contents.items():
        size = [str(len(data))] if sized else []
        rows.append(",".join([entry_id, *digests_of(data, algorithms), *size, "synthetic"]))
    return "\n".join([*rows, ""]).encode()


class Provider(Simulator):
    """A simulated provider that publishes contents."""

    def add(
        self,
        contents: Mapping[str, bytes],
        name: str = "base",
        *,
        algorithms: Sequence[Algorithm] = ALL_ALGORITHMS,
        sized: bool = True,
    ) -> None:
        """Add entries to a list, which is made if it does not exist."""
        self.publish(csv_of(contents, algorithms=algorithms, sized=sized), name)
