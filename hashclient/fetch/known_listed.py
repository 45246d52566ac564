"""Finds entries of a list that are known to be good by files of `known_good`, and sets them aside.

If a file of `known_good` contains the SHA-256 of an entry, the entry is set aside: it becomes an
exception (`decisions`), and the rest of the list is used. If a file of `known_good` contains only
an MD5 or a SHA-1 of the entry, the entry stays in use, because anybody could make another file with
this digest. If more entries than the limit would be set aside, none is set aside. Each fetch and
`status` show the entries that are known to be good. The whole list is compared with the known good
digests in three cases: their files have changed, new entries are known to be good, or the list has
a new generation and had known good entries before. In all other cases, the list is not read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm
from hashclient.decisions.rulings import has_book
from hashclient.fetch.guard import NAMED, PoisonGuard, Stamp, entries_with, stamps_of
from hashclient.index.manifest import Manifest
from hashclient.index.reader import Index
from hashclient.lists.wire import Uint64
from hashclient.system.files import MAX_STATE_BYTES, read_regular, write_atomic
from hashclient.system.layout import LISTED_NAME, Layout
from hashclient.system.text import counted, first_of

#: The number of tags that are looked up at a time.
_BLOCK = 1 << 20


class KnownListed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The entries of one list that are known to be good.

    `set_aside`: the ids of the entries that become exceptions. `count`: the number of known good
    entries that stay in use. `ids`: the ids of the first known good entries that stay in use.
    `files`: the files of known good digests with which the list was compared.
    """

    generation: int
    files: tuple[Stamp, ...]
    count: int
    ids: tuple[str, ...]
    set_aside: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The known good entries as a sentence, or an empty text without known good entries."""
        parts = []
        if self.set_aside:
            what = counted(len(self.set_aside), "entry is", "entries are")
            parts.append(
                f"{what} known to be good, by known_good, and excepted:"
                f" {first_of(self.set_aside, NAMED)}"
            )
        if self.count:
            what = counted(self.count, "entry is", "entries are")
            parts.append(
                f"{what} known to be good, by known_good, but still in use:"
                f" {first_of(self.ids, self.count)}"
            )
        return "; ".join([*parts, "tell the provider"]) if parts else ""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    lists: dict[str, KnownListed] = {}
    format: Literal["hashclient-known-listed/1"] = "hashclient-known-listed/1"


def read_known_listed(state_dir: Path) -> Mapping[str, KnownListed]:
    """Return the recorded entries that are known to be good, by list.

    If the record cannot be read, the result is empty.
    """
    try:
        data = read_regular(Layout(state_dir).known_good / LISTED_NAME, MAX_STATE_BYTES)
        return msgspec.json.decode(data, type=_Document).lists
    except (OSError, ValueError):
        return {}


def note_known_listed(
    state_dir: Path,
    files: Sequence[str],
    manifest: Manifest,
    guard: Callable[[], PoisonGuard],
    index: Callable[[], Index],
    set_aside: Callable[[Sequence[str]], object],
    *,
    met: bool,
) -> KnownListed | None:
    """Compare a list with the `files` of known good digests, if it may have known good entries.

    `met` is True if new entries are known to be good. `guard` and `index` are called only if the
    list is compared. Return the known good entries of the list, or None if there are no files of
    known good digests. `set_aside` is called with the entries to set aside, if any are set aside
    now, or may have been before. The exceptions are changed before the result is stored. If the
    result were stored first, a kill between the two steps could leave exceptions that no later
    fetch ends. The caller must have the writers' lock.

    Raises:
        ConfigError: a file cannot be read.
        StateError: an index cannot be read, or the record of known good entries cannot be written.
    """
    before, name = read_known_listed(state_dir), manifest.list
    if not files and name not in before:
        # Without a record, exceptions may be left, for the two reasons below.
        if has_book(Layout(state_dir)):
            with contextlib.suppress(StateError):  # exceptions that cannot be read do not count
                set_aside(())
        return None
    stamps = stamps_of(files)
    known = before.get(name)
    if known is not None and known.files == stamps and not met:
        if known.generation == manifest.generation or not (known.count or known.set_aside):
            if known.set_aside:
                set_aside(known.set_aside)
            return known
    by_sha256, ids = _known_in(guard(), index()) if files else ([], [])
    aside = tuple(by_sha256) if by_sha256 and len(by_sha256) <= guard().most else ()
    left = [entry for entry in ids if entry not in aside]
    known = KnownListed(manifest.generation, stamps, len(left), tuple(left[:NAMED]), aside)
    # Without a record, an earlier fetch may have made exceptions and was killed before it stored
    # the record, or the record was lost.
    if aside or name not in before or before[name].set_aside:
        set_aside(aside)
    lists = {**before, name: known}
    if not files:
        del lists[name]
    path = Layout(state_dir).known_good / LISTED_NAME
    write_atomic(path, msgspec.json.encode(_Document(lists)))
    return known if files else None


def _known_in(guard: PoisonGuard, index: Index) -> tuple[list[str], list[str]]:
    """Return the live entries with a known good SHA-256, and those with any known good digest."""
    good: dict[Algorithm, Uint64] = {}
    for run in index.runs:
        for algorithm in Algorithm:
            high, low = (run.section(f"{algorithm.label}.{part}") for part in ("hi", "lo"))
            for start in range(0, 0 if high is None or low is None else len(high), _BLOCK):
                assert high is not None and low is not None
                block = slice(start, start + _BLOCK)
                tags = np.column_stack([high[block], low[block]]).astype(np.uint64)
                found = guard.known_good_among(algorithm, tags)
                if len(found):
                    seen = good.get(algorithm, found)
                    good[algorithm] = np.unique(np.concatenate([seen, found]), axis=0)
        run.forget()
    sha256: dict[Algorithm, Uint64] = {a: t for a, t in good.items() if a == Algorithm.SHA256}
    return entries_with(index, sha256), entries_with(index, good)
