"""Several sources as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hashclient.core.model import Outcome
from hashclient.scan.sources.interface import Source
from hashclient.scan.values.work import Task


class Several:
    """Lists the inputs of its sources, one source after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    @property
    def arguments(self) -> list[str]:
        """The arguments of all sources."""
        return [argument for source in self._sources for argument in source.arguments]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield the batches of all sources."""
        for source in self._sources:
            yield from source.batches()

    def close(self) -> None:
        """Close all sources."""
        for source in self._sources:
            source.close()
