"""Decide about each object on a page of a listing, by whole columns where possible.

1. An object that the listing marks as unreadable is unread.
2. An object is clean if no entry has its size. An empty object is clean, too.
3. An object is clean by its ETag if the ETags of the store are trusted, every entry of the object's
   size has an MD5, and no entry has the ETag as its MD5. One in a thousand objects that are clean
   by their ETags is read nevertheless, and so is the first such object of a run.
4. The tags of an unchanged object that was read before are looked up.
5. Any other object is read. If the options turn off reading, the object is unread, and the reason
   says what is known of the object.

If containers are opened, the beginning and the end of an object that is clean by rule 2 or 3 are
read nevertheless. The beginning and the end are not read if the cache knows that the object is no
container, or that no member of the object is listed.

S3 and Google use the MD5 of an object as its ETag if the object was uploaded in one request. An
ETag is not an MD5 if it contains a dash, which shows an upload in parts, or if it has another
length. The ETag of an encrypted object looks like an MD5, but is not an MD5. So an ETag is used as
an MD5 only if the configuration says that the ETags of the store are MD5s.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Outcome
from hashclient.core.verdict import add_by_kind
from hashclient.index.matcher import Judge
from hashclient.lists.wire import Uint64
from hashclient.objects.interface import Store, quoted
from hashclient.scan.cache.inside import Inside, counts_of
from hashclient.scan.cache.records import PLAIN
from hashclient.scan.check.judging import listed_rows
from hashclient.scan.objects.cache import ObjectMemory
from hashclient.scan.objects.wanted import BY_SIZE, KNOWN, Wanted
from hashclient.scan.values.work import Result

Flags = npt.NDArray[np.bool_]
Uint8 = npt.NDArray[np.uint8]

_HEX_CHARS = 32
_MD5 = re.compile('"?([0-9A-Fa-f]{32})"?')

#: The text that names a store's digest as evidence for an outcome, by the scheme of the store.
EVIDENCE = {"s3": "etag", "gs": "md5Hash"}


def _all_alike(etags: Any) -> Uint8 | None:
    """Return n ETags as (n, 32) characters, if all are this long, and all or none have quotes."""
    count = len(etags)
    if not count or etags.null_count:
        return None
    offsets = np.frombuffer(etags.buffers()[1], np.int32, count + 1, 4 * etags.offset)
    width = int(offsets[1] - offsets[0])
    if width not in (_HEX_CHARS, _HEX_CHARS + 2) or (np.diff(offsets) != width).any():
        return None
    text = np.frombuffer(etags.buffers()[2], np.uint8, count * width, int(offsets[0]))
    text = text.reshape(count, width)
    if width == _HEX_CHARS:
        return text
    return text[:, 1:-1] if (text[:, [0, -1]] == ord('"')).all() else None


def _of_hex(text: Uint8) -> Uint8 | None:
    """Return n digests as (n, 16) bytes; None if a character of `text` is not hexadecimal."""
    # `bytes.fromhex` is faster than a table. `fromhex` skips blanks; skipped blanks make the result
    # too short.
    with contextlib.suppress(ValueError):
        raw = bytes.fromhex(text.tobytes().decode("latin-1"))
        if 2 * len(raw) == text.size:
            return np.frombuffer(raw, np.uint8).reshape(-1, _HEX_CHARS // 2)
    return None


def md5_claims(etags: Any) -> tuple[Flags, Uint8]:
    """Return which of n ETags may be MD5s, and the m MD5s as (m, 16) bytes, in the same order."""
    alike = _all_alike(etags)
    if alike is not None and (digests := _of_hex(alike)) is not None:
        return np.ones(len(etags), np.bool_), digests
    found = [_MD5.fullmatch(etag or "") for etag in etags.to_pylist()]
    text = "".join([claim[1] for claim in found if claim is not None])
    flags: Flags = np.array([claim is not None for claim in found], np.bool_)
    return flags, np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, _HEX_CHARS // 2)


#: On average, one of this many objects that are clean by the digests of their store is read.
SAMPLE = 1_000
#: If the chosen rows form few blocks of adjacent rows, they are copied as slices of the page: at
#: most this many rows begin or end a block.
MOST_EDGES = 64

UNREAD = "--no-read: nothing but its content could tell"
CANDIDATE = "--no-read: its {} is that of an entry, and only its content could tell"
UNTRUSTED = "--no-read: the digest that its store gives is not trusted (trust_etag)"
GAP = "--no-read: entries of its size have no md5"
NO_DIGEST = "--no-read: its store gives no digest of it"


class Sorted(msgspec.Struct):
    """A page of a listing after the decisions about its objects.

    - `result`: the counts and outcomes of objects that are finished.
    - `wanted`: the objects to be read.
    - `by_store`: the objects that are clean by the digests of their store, as a page; they wait for
      the end of the run.
    """

    result: Result
    wanted: list[Wanted] = msgspec.field(default_factory=list)
    by_store: Any | None = None


class Sorter:
    """Decides which objects of one bucket must be read."""

    def __init__(
        self,
        judge: Judge,
        store: Store,
        memory: ObjectMemory | None,
        chance: Random,
        are_clean: Callable[[Sequence[Inside]], list[bool]] | None = None,
        *,
        reads: bool = True,
        trusts: bool = False,
        looks: bool = False,
        keep_clean: bool = False,
    ) -> None:
        """Make a sorter for the bucket `store`.

        - `chance` chooses the objects that are read to check the digests of their store.
        - `are_clean` returns for the known members of each container whether no member is listed.
        - With `reads`, objects may be read.
        - With `trusts`, an ETag that may be an MD5 counts as an MD5.
        - With `looks`, members of containers are checked.
        - With `keep_clean`, clean objects have outcomes as well.
        """
        self._judge = judge
        self._store = store
        self._memory = memory
        self._chance = chance
        self._are_clean = are_clean
        self._reads = reads
        self.trusts = trusts
        self._looks = looks
        self._keep_clean = keep_clean
        #: How many more objects the digest of the store decides before an object is read as a
        #: sample.
        self._gap = 0

    def sort(self, page: Any) -> Sorted:
        """Decide about the objects of a page, which has the columns of `objects.pages.SCHEMA`."""
        count = page.num_rows
        result = Result(objects=count)
        sizes: Uint64 = page.column("size").to_numpy()
        is_open: Flags = np.ones(count, np.bool_)
        if page.column("note").null_count < count:
            is_open = ~np.array(page.column("note").is_valid().to_numpy(zero_copy_only=False))
            self._report_unreadable(page, ~is_open, result)
        possible, common = self._judge.of_sizes(sizes)
        possible &= sizes > 0
        possible &= is_open
        to_look: Flags = is_open & (sizes > 0) if self._looks else np.zeros(count, np.bool_)
        ruled_out = is_open & ~possible & ~to_look
        self._settle(page, ruled_out, BY_SIZE, result)
        result.ruled_out_by_size += int(np.count_nonzero(ruled_out))
        facts = _Facts(possible, *np.zeros((6, count), np.bool_))
        scheme = self._store.scheme
        if possible.any() and scheme in EVIDENCE and (self.trusts or not self._reads):
            self._look_up_claims(page, facts, common)
        if self.trusts:
            facts.by_store = facts.decides & ~facts.is_listed
        facts.sampled = self._sample(facts.by_store)
        facts.only_by_store = facts.by_store & ~facts.sampled & ~to_look
        rows = np.flatnonzero((possible | to_look) & ~facts.only_by_store)
        done = Sorted(result)
        if len(rows):
            self._go_through(page, rows, facts, done)
        if facts.only_by_store.any():
            done.by_store = _chosen(page, facts.only_by_store)
        return done

    def _look_up_claims(self, page: Any, facts: _Facts, common: Uint8) -> None:
        facts.is_md5, digests = md5_claims(page.column("etag"))
        chosen = np.flatnonzero(facts.is_md5)
        keep = facts.possible[chosen]
        chosen, digests = chosen[keep], digests[keep]
        facts.decides[chosen] = (common[chosen] & np.uint8(Algorithm.MD5)) != 0
        if len(chosen):
            tags = self._judge.sealer.tags(Algorithm.MD5, digests)
            facts.is_listed[chosen[list(self._judge.find(Algorithm.MD5, tags))]] = True

    def _sample(self, by_store: Flags) -> Flags:
        """Choose a sample of the objects that the digest of the store decides, to be read."""
        sampled: Flags = np.zeros(len(by_store), np.bool_)
        rows = np.flatnonzero(by_store)
        if self._reads:
            while self._gap < len(rows):
                sampled[rows[self._gap]] = True
                self._gap += 1 + self._next_gap()
            self._gap -= len(rows)
        return sampled

    def _next_gap(self) -> int:
        """Return how many objects to skip, so that each object is equally likely to be chosen."""
        # The formula draws from a geometric distribution. numpy's generators are not used, because
        # loading them takes 7 MB.
        return int(math.log(1 - self._chance.random()) / math.log(1 - 1 / SAMPLE))

    def _go_through(
        self, page: Any, rows: npt.NDArray[np.intp], facts: _Facts, done: Sorted
    ) -> None:
        """Count objects that were read before; let other objects be read, or report them unread."""
        store, result = self._store, done.result
        objects = list(objects_of(page, rows))
        known = self._known(objects, result)
        for number, (row, wanted) in enumerate(zip(rows.tolist(), objects, strict=True)):
            by_store = bool(facts.by_store[row])
            if facts.possible[row] and not by_store:
                wanted.plan = self._judge.plan(wanted.size)
            if facts.sampled[row]:
                wanted.is_claimed = True
            elif self._is_known(wanted, known.get(number)):
                self._settle_known(wanted, known[number], result, by_store=by_store)
                facts.only_by_store[row] = by_store
                continue
            if not self._reads:
                reason = self._why_unread(facts, row)
                result.outcomes.append(wanted.outcome(Kind.UNREAD, store.text, reason=reason))
                continue
            wanted.looks = self._looks
            wanted.settled = EVIDENCE[store.scheme] if by_store else BY_SIZE
            done.wanted.append(wanted)

    def _is_known(self, wanted: Wanted, known: _Known | None) -> bool:
        """Return whether all wanted digests of an object are known.

        `known` is None if the object was not read before, or if a list has one of its digests.
        """
        if known is None:
            return False
        is_known = known.mask & PLAIN or known.members or known.not_opened
        has_inside = not self._looks or bool(is_known)
        needed = mask_of(wanted.plan)
        return has_inside and known.mask & needed == needed

    def _settle_known(
        self, wanted: Wanted, known: _Known, result: Result, *, by_store: bool
    ) -> None:
        """Count an object that was read before, and the members of the object."""
        count = claimed = 0
        if self._looks:
            count, claimed = known.members, known.claimed
            add_by_kind(result.not_opened, known.not_opened)
        result.members += count
        result.ruled_out_by_claim += claimed
        if not by_store:
            count += 1
            self._report_clean(wanted, KNOWN, result)
        result.clean += count
        count -= claimed
        result.known_unchanged += count
        result.believed_unchanged += count if known.is_believed else 0

    def _known(self, objects: Sequence[Wanted], result: Result) -> dict[int, _Known]:
        """Return what is known of objects that were read before, by their index in `objects`.

        Objects that a list has, or whose members a list has, are left out.
        """
        memory = self._memory
        found = None if memory is None else memory.find(self._store.namespace, objects)
        if found is None:
            return {}
        records, insides, blocks = found
        result.seen += blocks
        tagged = records["mask"] & np.uint8(mask_of(Algorithm))
        listed = listed_rows(self._judge, records, tagged)
        if self._keep_clean or self._are_clean is None:
            insides = {}  # outcomes need names of members, and `insides` has none
        clean = [] if self._are_clean is None else self._are_clean(list(insides.values()))
        members = {
            number: counts_of(inside)
            for (number, inside), is_clean in zip(insides.items(), clean, strict=True)
            if is_clean
        }
        return {
            number: _Known(mask, not wanted.is_fixed, *members.get(number, (0, 0, {})))
            for number, (mask, wanted) in enumerate(
                zip(records["mask"].tolist(), objects, strict=True)
            )
            if number not in listed and (mask or number in members)
        }

    def _why_unread(self, facts: _Facts, row: int) -> str:
        """Return the reason why an object is not read, with what is known of the object."""
        name = EVIDENCE.get(self._store.scheme)
        if name is None or not facts.is_md5[row]:
            return NO_DIGEST
        if facts.is_listed[row]:
            return CANDIDATE.format(name)
        if not facts.decides[row]:
            return GAP
        return UNREAD if self.trusts else UNTRUSTED

    def _settle(self, page: Any, rows: Flags, evidence: str, result: Result) -> None:
        count = int(np.count_nonzero(rows))
        result.clean += count
        if count and self._keep_clean:
            for wanted in objects_of(page, np.flatnonzero(rows)):
                self._report_clean(wanted, evidence, result)

    def _report_clean(self, wanted: Wanted, evidence: str, result: Result) -> None:
        if self._keep_clean:
            outcome = wanted.outcome(Kind.CLEAN, self._store.text, evidence=evidence)
            result.outcomes.append(outcome)

    def _report_unreadable(self, page: Any, rows: Flags, result: Result) -> None:
        numbers = np.flatnonzero(rows)
        column = page.column("note")
        notes = [column[number].as_py() for number in numbers.tolist()]
        for wanted, note in zip(objects_of(page, numbers), notes, strict=True):
            path = wanted.uri(self._store.text)
            result.outcomes.append(Outcome(Kind.UNREAD, path, reason=note, is_object=True))


class _Known(msgspec.Struct, frozen=True):
    """An object that was read before: the mask of its record, and what is known of its members.

    `claimed` is the number of members that were not read, because of their claimed size.
    """

    mask: int
    is_believed: bool
    members: int
    claimed: int
    not_opened: dict[str, int]


class _Facts(msgspec.Struct):
    """Flags of the objects of a page: each field is an array with a flag for each object.

    - `possible`: some entry has the size of the object.
    - `is_md5`: the ETag may be an MD5.
    - `decides`: the ETag may be an MD5, and every entry of this size has an MD5.
    - `is_listed`: an entry has the ETag as its MD5.
    - `by_store`: the object is clean by its ETag.
    - `only_by_store`: the object is clean by its ETag, and no part of it is read.
    - `sampled`: the object is clean by its ETag, but is read as a sample.
    """

    possible: Flags
    is_md5: Flags
    decides: Flags
    is_listed: Flags
    by_store: Flags
    only_by_store: Flags
    sampled: Flags


# Arrow's own functions to choose rows are not used, because they load `pyarrow.compute`, which
# takes 42 ms and 9 MB. Arrow's conversion from numpy is not used, because it loads `numpy.ma`,
# which takes 50 ms.


def _chosen(page: Any, rows: Flags) -> Any:
    """Return the rows of a page whose flag is set; at least one flag must be set."""
    edges = np.flatnonzero(np.diff(rows, prepend=False, append=False)).tolist()
    if len(edges) <= MOST_EDGES:
        runs = zip(edges[::2], edges[1::2], strict=True)
        return pa.concat_batches([page.slice(start, end - start) for start, end in runs])
    bits = pa.py_buffer(np.packbits(rows, bitorder="little"))
    return page.filter(pa.Array.from_buffers(pa.bool_(), len(rows), [None, bits]))


def objects_of(page: Any, rows: npt.NDArray[np.intp]) -> Iterator[Wanted]:
    """Yield the objects in some rows of a page; `plan` and other work is not set yet."""
    wholes, numbers = map(page.column, ("key", "size", "etag", "version")), rows.tolist()
    if 4 * len(numbers) < page.num_rows:
        columns = [[whole[number].as_py() for number in numbers] for whole in wholes]
    else:
        lists = [whole.to_pylist() for whole in wholes]
        columns = [[values[number] for number in numbers] for values in lists]
    for key, size, etag, version in zip(*columns, strict=True):
        yield Wanted(os.fsdecode(key), size, quoted(etag), version)
