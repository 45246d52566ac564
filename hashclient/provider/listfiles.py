"""Reads and writes the files of the lists in a repository: the indexes and the segments.

`hashclient.provider.roles` signs the files and makes a change visible. Segments never change. A
segment that no index names any more is kept for `UNREFERENCED_S` seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tuf.api.metadata import Metadata, TargetFile, Targets

from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.lists.history import FIELD, History, continued, history_of, written
from hashclient.lists.wire import (
    FORMAT,
    INDEX_NAME,
    MAX_LIST_ENTRIES,
    MAX_SEGMENTS,
    AddBatch,
    ListIndex,
    Segment,
    Strings,
    Uint64,
    encode_index,
    entry_hashes,
    parse_add_segment,
    parse_index,
    parse_withdraw_segment,
    target_name,
)
from hashclient.provider.entries import NewSegment
from hashclient.provider.keys import Clock
from hashclient.provider.public import PUBLIC_MODE, make_folder_below, read_public
from hashclient.provider.roles import Roles
from hashclient.system.files import state_errors, write_atomic
from hashclient.trust.provenance import Provenance, noted, provenance_of

#: A file that no metadata name any more is kept for this number of seconds, so that running fetches
#: can finish.
UNREFERENCED_S = 86_400


class Shown(Protocol):
    """Receives the entries added to a list and the ids of withdrawn entries, in order."""

    def add(self, batch: AddBatch, segment: Segment, /) -> None:
        """Receive entries that were added."""

    def withdraw(self, ids: Strings, segment: Segment, /) -> None:
        """Receive ids of entries that were withdrawn."""


class ListFiles:
    """The files below `public/targets` of a repository, which the caller has locked."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Read and write files below `directory`."""
        self.directory = directory
        self._clock = clock

    def current(self, roles: Roles, list_name: str) -> ListIndex:
        """Return the published index of a list; generation 0 means a new list.

        Raises:
            StateError: the index is corrupt or cannot be read.
        """
        if list_name not in roles.lists:
            return ListIndex(FORMAT, list_name, 0, self._clock(), 0, "0" * 16, ())
        target = roles.lists[list_name].signed.targets[_index_name(list_name)]
        try:
            return parse_index(self.read(target), list_name)
        except VerificationError as error:
            raise StateError(f"corrupt repository: {error.message}") from error

    def read_segment(self, roles: Roles, list_name: str, segment: Segment) -> bytes:
        """Return the bytes of a published segment.

        Raises:
            StateError: the segment cannot be read.
        """
        targets = roles.lists[list_name].signed.targets
        return self.read(targets[target_name(list_name, segment.name)])

    def read(self, target: TargetFile) -> bytes:
        """Return the bytes of a published file.

        Raises:
            StateError: the file cannot be read.
        """
        return read_public(self._path(target))

    def live_hashes(self, roles: Roles, index: ListIndex, *to: Shown) -> Uint64:
        """Return the sorted hashes of the ids of the entries that are listed.

        The hashes are the 64-bit hashes that the checksum of a list uses. In one of 300,000 lists
        with 10 million ids, two ids have the same hash; the later id is refused, and the provider
        has to choose another id. All entries are also passed to each element of `to`.

        Raises:
            StateError: a segment is corrupt or cannot be read.
        """
        added, withdrawn = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        for segment, batch in self.batches(roles, index.list, index.segments):
            if isinstance(batch, AddBatch):
                added.append(entry_hashes(batch.ids))
            else:
                withdrawn.append(entry_hashes(batch))
            for one in to:
                show(batch, segment, one)
        values, counts = np.unique(np.concatenate(added), return_counts=True)
        gone, gone_counts = np.unique(np.concatenate(withdrawn), return_counts=True)
        known = np.isin(gone, values)  # a draft may withdraw an id that was never added
        counts[np.searchsorted(values, gone[known])] -= gone_counts[known]
        live: Uint64 = values[counts > 0]
        return live

    def show(self, roles: Roles, list_name: str, segments: Sequence[Segment], to: Shown) -> None:
        """Pass the contents of `segments` to `to`, in order.

        Raises:
            StateError: see `batches`.
        """
        for segment, batch in self.batches(roles, list_name, segments):
            show(batch, segment, to)

    def batches(
        self, roles: Roles, list_name: str, segments: Sequence[Segment]
    ) -> Iterator[tuple[Segment, AddBatch | Strings]]:
        """Yield the contents of `segments` in batches: added entries, or withdrawn ids.

        Raises:
            StateError: a segment is corrupt or cannot be read, also while iterating.
        """
        for segment in segments:
            data = self.read_segment(roles, list_name, segment)
            try:
                for batch in parse_segment(data, segment):
                    yield segment, batch
            except VerificationError as error:
                raise StateError(f"corrupt repository: {error.message}") from error

    def next_index(
        self, current: ListIndex, new: Sequence[NewSegment], entries: int, checksum: int
    ) -> ListIndex:
        """Return the next index; `entries` and `checksum` are added to the totals of `current`.

        Raises:
            UsageError: the list would be larger than the format allows.
        """
        segments = (*current.segments, *(n.segment for n in new))
        if len(segments) > MAX_SEGMENTS:
            raise UsageError(
                f"list {current.list} would have more than {MAX_SEGMENTS} segments",
                hint="`hashclient provider consolidate` joins small ones; run it once a day",
            )
        if sum(s.entries for s in segments if s.kind == "add") > MAX_LIST_ENTRIES:
            raise UsageError(
                f"list {current.list} would have more than {MAX_LIST_ENTRIES} entries, withdrawn"
                " ones included",
                hint="`hashclient provider consolidate` drops entries that were added and later"
                " withdrawn",
            )
        return ListIndex(
            FORMAT,
            current.list,
            current.generation + 1,
            self._clock().replace(microsecond=0),
            current.entries + entries,
            f"{(int(current.checksum, 16) + checksum) % 2**64:016x}",
            segments,
        )

    def provenance(self, roles: Roles, list_name: str) -> Provenance:
        """Return the origins of a list's entries, and the terms of use.

        Raises:
            StateError: the metadata are corrupt.
        """
        role = roles.lists.get(list_name)
        target = None if role is None else role.signed.targets.get(_index_name(list_name))
        try:
            return provenance_of(target)
        except VerificationError as error:
            raise StateError(f"corrupt repository: {error.message}") from error

    def write(
        self,
        roles: Roles,
        index: ListIndex,
        new: Sequence[NewSegment],
        provenance: Provenance | None = None,
    ) -> None:
        """Write the files of a generation, and add their names to the role of the list.

        If `provenance` is None, the earlier provenance is kept.

        Raises:
            StateError: a file cannot be written.
        """
        files = {n.segment.name: n.data for n in new} | {INDEX_NAME: encode_index(index)}
        kept = provenance or self.provenance(roles, index.list)
        targets = roles.lists[index.list].signed.targets
        before = targets.get(_index_name(index.list))
        for name, data in files.items():
            target = TargetFile.from_data(target_name(index.list, name), data, ["sha256"])
            targets[target.path] = target
            self.write_target(target, data)
        history = next_history(before, index, targets)
        custom = noted(kept) | {FIELD: written(history)}
        targets[_index_name(index.list)].unrecognized_fields["custom"] = custom

    def write_target(self, target: TargetFile, data: bytes) -> None:
        """Write a file under the name that contains the SHA-256 of `target`.

        Raises:
            StateError: the file cannot be written.
        """
        path = self._path(target)
        make_folder_below(self.directory.parent, path.parent)
        write_atomic(path, data, mode=PUBLIC_MODE)

    def remove_unreferenced(self, role: Metadata[Targets], folder: str) -> None:
        """Remove the old files in `folder` that `role` does not name.

        A file is old if it was written more than `UNREFERENCED_S` seconds ago.

        Raises:
            StateError: the files cannot be removed.
        """
        keep = {self._path(target) for target in role.signed.targets.values()}
        limit = self._clock().timestamp() - UNREFERENCED_S
        with state_errors("cannot tidy", self.directory):
            for path in (self.directory / folder).iterdir():
                if path not in keep and path.stat().st_mtime < limit:
                    path.unlink()

    def _path(self, target: TargetFile) -> Path:
        folder, _, name = target.path.rpartition("/")
        return self.directory / folder / f"{target.hashes['sha256']}.{name}"


def _index_name(list_name: str) -> str:
    return target_name(list_name, INDEX_NAME)


def next_history(
    before: TargetFile | None, index: ListIndex, targets: Mapping[str, TargetFile]
) -> History:
    """Return the history beside `index`, whose role signs `targets`.

    `before`: the target of the index that is published now; None for a new list.

    Raises:
        StateError: the published history is malformed.
    """
    try:
        earlier = history_of(before.custom if before is not None else None)
    except VerificationError as error:
        raise StateError(f"corrupt repository: {error.message}") from error
    names = {s.name: targets[target_name(index.list, s.name)] for s in index.segments}
    return continued(earlier, index, {name: info.hashes["sha256"] for name, info in names.items()})


def parse_segment(data: bytes, segment: Segment) -> Iterator[AddBatch | Strings]:
    """Yield the contents of a segment in batches: added entries, or withdrawn ids.

    Raises:
        VerificationError: the segment breaks a rule of the format, also while iterating.
    """
    parse = parse_add_segment if segment.kind == "add" else parse_withdraw_segment
    return parse(data, segment)


def show(batch: AddBatch | Strings, segment: Segment, to: Shown) -> None:
    """Pass a batch of a segment to `to`."""
    if isinstance(batch, AddBatch):
        to.add(batch, segment)
    else:
        to.withdraw(batch, segment)
