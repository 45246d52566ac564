"""Computes a change of a list: new segments, the index that names them, and the log record.

The whole change is computed before any file is written. `hashclient.provider.repository` signs and
publishes the change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES

from hashclient.core.errors import UsageError
from hashclient.core.model import MAX_ENTRY_ID_BYTES, is_entry_id, is_name
from hashclient.lists.wire import (
    AddBatch,
    ListIndex,
    Segment,
    Strings,
    Uint64,
    add_schema,
    checksum_of,
    entry_hashes,
    is_category,
    target_name,
    withdraw_schema,
)
from hashclient.provider.consolidate import join_ranges, ranges_to_join, table_of
from hashclient.provider.doubles import Doubles, Int64
from hashclient.provider.entries import (
    DEFAULT_CATEGORY,
    SEGMENT_ENTRIES,
    Entries,
    NewSegment,
    new_segment,
)
from hashclient.provider.listfiles import ListFiles
from hashclient.provider.replace import Listed
from hashclient.provider.results import Consolidated, Published, Some
from hashclient.provider.roles import Roles
from hashclient.provider.screen import Named
from hashclient.system.text import printable
from hashclient.trust.provenance import Provenance

#: The largest number of withdrawn ids that a record of the log names.
MAX_LOGGED_IDS = 100
#: The largest number of bytes that are read of a line. An id with white space around it is shorter,
#: so a line that is too long for an id is noticed.
_LINE_BYTES = 4 * MAX_ENTRY_ID_BYTES
_BOM = b"\xef\xbb\xbf"


class Change(msgspec.Struct, frozen=True):
    """The next state of a list: the index, the new segments, and the replaced segments.

    `event` and `data` are the record of the change in the log.
    """

    list_name: str
    index: ListIndex
    segments: list[NewSegment]
    event: str
    data: dict[str, Any]
    replaced: tuple[Segment, ...] = ()
    #: The origin and terms of the entries; None keeps the present origin and terms of the list.
    provenance: Provenance | None = None

    def write(self, files: ListFiles, roles: Roles) -> None:
        """Write the files, and add their names to the role of the list, which must exist already.

        Raises:
            StateError: a file cannot be written.
        """
        for segment in self.replaced:
            del roles.lists[self.list_name].signed.targets[
                target_name(self.list_name, segment.name)
            ]
        files.write(roles, self.index, self.segments, self.provenance)


def addition(
    files: ListFiles,
    roles: Roles,
    list_name: str,
    batches: Iterable[Named],
    *,
    category: str | None,
    replace: bool,
    again: bool = True,
    may_be_empty: bool = False,
) -> tuple[Published, Change | None]:
    """Compute the change that adds entries, or that makes them the whole list (`replace`).

    Return None for the change if `replace` would change nothing, or if `again` is false and all
    entries are on the list already. A replacement without entries is refused, unless `may_be_empty`
    is true.

    Raises:
        UsageError: an entry breaks a rule of the format, or the sources have no entries.
        StateError: published files cannot be read.
    """
    current = files.current(roles, list_name)
    entries = Entries(current.generation + 1, category or _category_of(list_name))
    withdrawn: Strings = np.zeros(0, "S1")
    if replace:
        listed = Listed()
        files.live_hashes(roles, current, listed)
        batches, withdrawn = listed.difference(
            list(batches), entries.category, may_be_empty=may_be_empty
        )
    for name, batch in batches:
        entries.add(batch, name)
    entries.finish()
    if replace and not entries.segments and not len(withdrawn):
        return Published(list_name, current.generation, 0, current.entries), None
    if not entries.segments and not len(withdrawn):
        raise UsageError("no entries to publish", hint="give files that hold at least one digest")
    doubles = Doubles(entries.digests, entries.rows)
    live = files.live_hashes(roles, current, doubles)
    doubles.withdraw(withdrawn)
    if not (again or replace) and len(doubles.listed()) == entries.rows:
        listed = Listed()
        files.live_hashes(roles, current, listed)
        if listed.has_all(entries.read(), current.generation + 1):
            return Published(list_name, current.generation, 0, current.entries), None
    gone = entry_hashes(withdrawn)
    hashes = entries.hashes()
    entries.check_unique(hashes, np.setdiff1d(live, gone, assume_unique=True))
    entries.check_categories(doubles.categories, list_name)
    # Withdrawals come before additions, because the same id may be withdrawn and added.
    segments = [*withdrawals(current.generation + 1, withdrawn), *entries.segments]
    change = entries.rows - len(withdrawn)
    checksum = checksum_of(hashes) - checksum_of(gone)
    index = files.next_index(current, segments, change, checksum)
    done = Published(
        list_name,
        index.generation,
        entries.rows,
        index.entries,
        withdrawn=len(withdrawn),
        listed=_some(entries, doubles.listed()),
        repeated=_some(entries, doubles.repeated()),
        categories=dict(sorted(entries.categories.items())),
    )
    data = {
        "list": list_name,
        "generation": index.generation,
        "added": entries.rows,
        "withdrawn": len(withdrawn),
        "live": index.entries,
    }
    return done, Change(list_name, index, segments, "list-published", data)


def withdrawal(
    files: ListFiles,
    roles: Roles,
    list_name: str,
    entry_ids: Sequence[str],
    generation: int | None = None,
) -> tuple[Published, Change]:
    """Compute the change that withdraws entries; the caller has called `check_entry_ids` before.

    If `generation` is given, the change withdraws the listed entries that this generation added.

    Raises:
        UsageError: an entry is not on the list, or the list has no entry of the generation any
            more.
        StateError: published files cannot be read.
    """
    current = files.current(roles, list_name)
    ids = np.array([i.encode() for i in entry_ids])
    if generation is not None:
        ids, _ = changes_of(files, roles, current, generation)
        if not len(ids):
            raise UsageError(
                f"no entry that generation {generation} of list {list_name} added is on the list",
                hint=f"`hashclient provider diff` shows what a generation added; the newest is"
                f" {current.generation}",
            )
    hashes = entry_hashes(ids)
    unknown = ~np.isin(hashes, files.live_hashes(roles, current))
    if unknown.any():
        raise UsageError(
            f"entry is not on list {list_name}: {ids[unknown][0].decode()}",
            hint="the entry may be withdrawn already; nothing was changed",
        )
    segments = withdrawals(current.generation + 1, ids)
    index = files.next_index(current, segments, -len(ids), -checksum_of(hashes))
    data = {
        "list": list_name,
        "generation": index.generation,
        "withdrawn": len(ids),
        "entries": [entry_id.decode() for entry_id in ids[:MAX_LOGGED_IDS].tolist()],
        "live": index.entries,
    }
    if generation is not None:
        data["of_generation"] = generation
    done = Published(list_name, index.generation, len(ids), index.entries)
    return done, Change(list_name, index, segments, "entries-withdrawn", data)


def reversion(
    files: ListFiles,
    roles: Roles,
    list_name: str,
    generation: int,
    may_return: Collection[str] | None = None,
) -> tuple[Published, Change]:
    """Compute the change that undoes a generation.

    An id that a later generation has added or withdrawn is left as it is. Entries that the
    generation withdrew are added again with the same ids and properties; if `may_return` is given,
    only the ids in `may_return` are added again.

    Raises:
        UsageError: the generation does not exist, was joined with other generations, or has no
            change left to undo; or an entry may not be added again.
        StateError: published files cannot be read.
    """
    current = files.current(roles, list_name)
    goes, returns = changes_of(files, roles, current, generation)
    if not len(goes) + len(returns):
        raise UsageError(
            f"nothing of generation {generation} of list {list_name} is left to undo",
            hint=f"`hashclient provider diff` shows what a generation changed; the newest is"
            f" {current.generation}",
        )
    if may_return is not None:
        allowed = entry_hashes(np.array(sorted(may_return), "S"))
        if not np.isin(entry_hashes(returns), allowed).all():
            raise UsageError(
                f"list {list_name} republishes another provider's list, and that provider has "
                f"withdrawn entries of generation {generation}: these cannot come back",
                hint="`hashclient provider withdraw --generation` withdraws the entries that a "
                "generation added",
            )
    number = current.generation + 1
    added = _earlier_rows(files, roles, current, generation, entry_hashes(returns))
    segments = withdrawals(number, goes) + _cut(number, "add", added)
    checksum = checksum_of(entry_hashes(returns)) - checksum_of(entry_hashes(goes))
    index = files.next_index(current, segments, len(returns) - len(goes), checksum)
    done = Published(
        list_name,
        index.generation,
        len(returns),
        index.entries,
        withdrawn=len(goes),
        categories=dict(sorted(Counter(added.column("category").to_pylist()).items())),
    )
    data = {
        "list": list_name,
        "generation": index.generation,
        "of_generation": generation,
        "added": len(returns),
        "withdrawn": len(goes),
        "entries": [entry_id.decode() for entry_id in goes[:MAX_LOGGED_IDS].tolist()],
        "live": index.entries,
    }
    return done, Change(list_name, index, segments, "generation-reverted", data)


def consolidation(
    files: ListFiles, roles: Roles, list_name: str, keep_newest: int
) -> tuple[Consolidated, Change | None]:
    """Compute the change that joins segments; the change is None if no join is useful.

    Raises:
        StateError: published files cannot be read.
    """
    current = files.current(roles, list_name)
    joined = ranges_to_join(current.segments, current.generation, keep_newest)
    replaced = tuple(segment for segments in joined for segment in segments)
    count = len(current.segments)
    if not replaced:
        return Consolidated(list_name, current.generation, count, count), None
    new = join_ranges(joined, lambda segment: files.read_segment(roles, list_name, segment))
    start = current.segments.index(replaced[0])
    segments = (
        *current.segments[:start],
        *(n.segment for n in new),
        *current.segments[start + len(replaced) :],
    )
    index = msgspec.structs.replace(current, segments=segments)
    data = {"list": list_name, "segments_before": count, "segments": len(segments)}
    done = Consolidated(list_name, current.generation, count, len(segments))
    return done, Change(list_name, index, new, "list-consolidated", data, replaced)


def read_ids(sources: Iterable[tuple[str, BinaryIO]]) -> Iterator[str]:
    """Yield the ids in files that have one id a line; empty lines are skipped.

    Raises:
        UsageError: a line is not an id, or a file cannot be read.
    """
    for name, stream in sources:
        number = 0
        try:
            while line := stream.readline(_LINE_BYTES):
                number += 1
                text = line.removeprefix(_BOM if number == 1 else b"").strip()
                entry_id = text.decode("ascii", "replace")
                if text and not is_entry_id(entry_id):
                    # The text may be a digest, so the message does not repeat it.
                    raise UsageError(
                        f"{printable(name)}:{number}: not an entry id",
                        hint="give one id a line and nothing else; `hashclient provider find` names"
                        " the entries that have digests",
                    )
                if text:
                    yield entry_id
        except OSError as error:
            raise UsageError(f"cannot read {printable(name)}: {error.strerror or error}") from error


def changes_of(
    files: ListFiles, roles: Roles, index: ListIndex, generation: int
) -> tuple[Strings, Strings]:
    """Return the ids that a generation added, and the ids that the generation withdrew.

    An id that a later generation has added or withdrawn is left out of both results.

    Raises:
        UsageError: the generation does not exist, or was joined with other generations.
        StateError: published files cannot be read.
    """
    segments_between(index, generation - 1, generation)
    none: Strings = np.zeros(0, "S1")
    later, added, withdrawn = [none], [none], [none]
    since = tuple(s for s in index.segments if s.first >= generation)
    for segment, batch in files.batches(roles, index.list, since):
        kind = added if segment.kind == "add" else withdrawn
        kind = later if segment.first > generation else kind
        kind.append(batch.ids if isinstance(batch, AddBatch) else batch)
    touched = entry_hashes(np.concatenate(later))
    came, went = np.concatenate(added), np.concatenate(withdrawn)
    is_left = [~np.isin(entry_hashes(ids), touched) for ids in (came, went)]
    return came[is_left[0]], went[is_left[1]]


def segments_between(index: ListIndex, first: int, last: int) -> tuple[Segment, ...]:
    """Return the segments with the changes of a list from generation `first` to `last`.

    Raises:
        UsageError: a generation does not exist, or was joined with other generations.
    """
    if not 0 <= first <= last <= index.generation:
        raise UsageError(
            f"no such generations of list {printable(index.list)}: {first} to {last}",
            hint=f"generations go from 0, before the first, to {index.generation}, the newest",
        )
    begin = 1
    for segment in (*index.segments, None):
        # Joined generations without additions and withdrawals have no segment.
        gap = begin, (segment.first if segment else index.generation + 1) - 1
        for start, stop in (gap, (segment.first, segment.last) if segment else gap):
            if wrong := [end for end in (first, last) if start <= end < stop]:
                raise UsageError(
                    f"generation {wrong[0]} was joined with others: {start} to {stop}",
                    hint=f"ask for {start - 1} or {stop}",
                )
        begin = segment.last + 1 if segment else begin
    return tuple(s for s in index.segments if first < s.first and s.last <= last)


def check_entry_ids(entry_ids: Sequence[str]) -> None:
    """Check ids of entries that somebody wants to withdraw.

    Raises:
        UsageError: `entry_ids` is empty, has a text that is not an id, or has an id twice.
    """
    if not entry_ids:
        raise UsageError("no entries to withdraw")
    if wrong := [i for i in entry_ids if not is_entry_id(i)]:
        position = list(entry_ids).index(wrong[0]) + 1
        raise UsageError(f"not an entry id: number {position} of those given")
    entry_id, times = Counter(entry_ids).most_common(1)[0]
    if times > 1:
        raise UsageError(f"entry id is given twice: {entry_id}")


def require_list(roles: Roles, name: str) -> None:
    """Check that a list of this name exists.

    Raises:
        UsageError: no list has this name.
    """
    if name not in roles.lists:
        hint = f"lists: {', '.join(roles.lists) or 'none yet'}"
        raise UsageError(f"no such list: {printable(name)}", hint=hint)


def check_list_name(name: str) -> None:
    """Check that the format allows this name for a list.

    Raises:
        UsageError: the name is not allowed.
    """
    if not is_name(name) or name in TOP_LEVEL_ROLE_NAMES:
        raise UsageError(
            f"not a name for a list: {printable(name)}",
            hint="lower-case letters, digits, `.`, `_` and `-`, at most 64; not the name of a"
            " role such as `targets`",
        )


def withdrawals(generation: int, ids: Strings) -> list[NewSegment]:
    """Return the segments that withdraw entries."""
    import pyarrow as pa

    texts = [text.decode() for text in ids.tolist()]
    table = pa.table([pa.array(texts, pa.string())], schema=withdraw_schema())
    return _cut(generation, "withdraw", table)


def _cut(generation: int, kind: Literal["add", "withdraw"], table: Any) -> list[NewSegment]:
    """Split a table into segments, and return the segments."""
    return [
        new_segment(generation, kind, number, table.slice(start, SEGMENT_ENTRIES))
        for number, start in enumerate(range(0, table.num_rows, SEGMENT_ENTRIES))
    ]


def _earlier_rows(
    files: ListFiles, roles: Roles, index: ListIndex, generation: int, wanted: Uint64
) -> Any:
    """Return entries by the hashes `wanted` of their ids, as last added before `generation`."""
    import pyarrow as pa

    found = [add_schema().empty_table()]
    for segment in reversed(index.segments):
        if segment.kind != "add" or segment.last >= generation or not len(wanted):
            continue
        table = table_of(files.read_segment(roles, index.list, segment))
        hashes = entry_hashes(np.array(table.column("entry_id").to_pylist(), "S"))
        found.append(table.filter(pa.array(np.isin(hashes, wanted))))
        wanted = wanted[~np.isin(wanted, hashes)]
    return pa.concat_tables(found)


def _some(entries: Entries, rows: Int64) -> Some | None:
    return Some(len(rows), entries.where(int(rows[0]))) if len(rows) else None


def _category_of(list_name: str) -> str:
    """Return the category for entries without a category: the list's name, or the default."""
    return list_name if is_category(list_name) else DEFAULT_CATEGORY
