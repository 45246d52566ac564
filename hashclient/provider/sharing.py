"""Republishes the entries of another provider's list, after verifying it as a client does.

A republished list LIST has these files in the directory REPO/sources/LIST/:

    root.json       the other provider's root, as the user gave it; never replaced
    metadata/       the other provider's metadata, so that an older state is refused (`trust`)
    source.json     the name of the list, the condition for its entries, ids that are left out

1. The bundle, or the copy of a public directory, is verified with the pinned root. The generation
   of the list must not be older than the last republished generation.
2. All segments are verified and parsed. The number and the checksum of the listed entries have to
   agree with the index of the list.
3. If people have withdrawn an entry from the list in this repository, the entry is left out, even
   if the other provider still lists it. If people add the entry again in this repository, the entry
   is no longer left out.
4. All other entries that `where` chooses replace the entries of the list (`replace`).

So an entry that the other provider withdraws is also withdrawn in this repository. The metadata of
the list contain the origin and the terms of the entries (`trust.provenance`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import numpy as np
from tuf.api.metadata import Root

from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.lists.importers.importfile import Reading
from hashclient.lists.importers.where import parse_where
from hashclient.lists.offline import BASE, Copy, MissingError
from hashclient.lists.wire import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    MAX_SEGMENT_BYTES,
    AddBatch,
    ListIndex,
    Segment,
    checksum_of,
    encode_segment,
    entry_hashes,
    parse_index,
)
from hashclient.provider.consolidate import left_of
from hashclient.provider.keys import Clock
from hashclient.provider.listfiles import ListFiles, parse_segment
from hashclient.provider.public import parse_metadata
from hashclient.provider.roles import Roles
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_private_dir,
    read_regular,
    state_errors,
    temporary_file_errors,
    write_atomic,
)
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt, first_of, printable
from hashclient.trust.provenance import MAX_ORIGINS, Origin, Provenance, provenance_of

if TYPE_CHECKING:
    import pyarrow as pa

    from hashclient.trust.tuf import Trust

FORMAT = "hashclient-source/1"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of `source.json`: a list of another provider, and the entries to republish.

    `where` is a condition in the syntax of the option `--where`; None chooses all entries.
    `left_out` has the ids that people withdrew in this repository, although the other provider
    still lists them.
    """

    list: str
    where: str | None = None
    left_out: tuple[str, ...] = ()
    format: str = FORMAT


class Share:
    """Republishes a list of another provider from a copy of the other provider's files."""

    def __init__(self, folder: Path, copy: Copy, clock: Clock, *, writes: bool = True) -> None:
        """Use the files in `copy`; `folder` is a directory in `sources/` that need not exist yet.

        If `writes` is false, nothing is stored in the folder, because the command is a dry run.
        """
        self._folder, self._copy, self._clock, self._writes = folder, copy, clock, writes
        self.source: Source | None = load_source(folder)
        self._root = _read(folder / "root.json") if self.source else None
        #: Set by `files`: the origins and terms of the other provider's list, and the number of
        #: entries that are left out.
        self._provenance = Provenance()
        self.left_out = 0

    def begin(self, root: bytes | None, list_name: str | None, where: str | None) -> None:
        """Choose the list to republish: the root of its provider, its name, and its entries.

        Raises:
            UsageError: the root is not known, another list is republished already, or `where` is
                malformed.
        """
        if self.source is None:
            if root is None:
                raise UsageError(
                    "--root is missing: the root.json of the provider whose list is to be "
                    "republished",
                    hint="get this file by a way that you trust; it is remembered",
                )
            self._root, self.source = root, Source(list_name or self._folder.name, where)
            self.reading()
            return
        same = root in (None, self._root) and list_name in (None, self.source.list)
        if not same:
            raise UsageError(
                f"list {self._folder.name} already republishes list {self.source.list} of another "
                "provider",
                hint="use another list here",
            )
        if where is not None:
            self.source = msgspec.structs.replace(self.source, where=where)
        self.reading()

    def reading(self) -> Reading:
        """Return the `Reading` that chooses the republished entries."""
        assert self.source is not None
        where = self.source.where
        return Reading(where=None if where is None else parse_where(where))

    def is_from(self) -> bool:
        """Return whether the copy contains the pinned root of the provider of the list."""
        if self._root is None:
            return False
        version = parse_metadata(self._root, Root, self._folder / "root.json").signed.version
        try:
            name = f"{BASE}/metadata/{version}.root.json"
            return self._copy.get(name, MAX_STATE_BYTES) == self._root
        except MissingError:
            return False

    def files(self, roles: Roles, files: ListFiles) -> Iterator[tuple[str, BinaryIO]]:
        """Yield the entries as a file of digests; the caller has locked the repository.

        Raises:
            VerificationError, StaleError, UnreachableError: a client would refuse the copy.
            StateError: a file cannot be read or written.
        """
        import pyarrow as pa

        assert self.source is not None
        if not self._writes:
            with temporary_file_errors(), tempfile.TemporaryDirectory() as name:
                table = self._verified(Path(name), files.provenance(roles, self._folder.name))
        else:
            where = make_private_dir(self._folder / "metadata")
            table = self._verified(where, files.provenance(roles, self._folder.name))
        ids = np.array(table.column("entry_id").to_pylist(), "S")
        out = withdrawn_here(self._folder, self.source, roles, files)
        stays_out = np.isin(entry_hashes(ids), entry_hashes(np.array(sorted(out), "S")))
        kept_out = tuple(sorted(i.decode() for i in ids[stays_out].tolist()))
        self.source = msgspec.structs.replace(self.source, left_out=kept_out)
        self.left_out = len(kept_out)
        with os.fdopen(os.memfd_create("hashclient"), "w+b") as stream:
            stream.write(encode_segment(table.filter(pa.array(~stays_out))))
            stream.seek(0)
            yield f"list {self.source.list}", stream

    def provenance(self, generation: int) -> Provenance:
        """Return the origin and terms for a new `generation` of the list.

        The caller must have called `files` before.
        """
        return msgspec.structs.replace(self._provenance, followed=generation)

    def keep(self) -> None:
        """Store which list is republished; the caller has locked the repository.

        Raises:
            StateError: the file cannot be written.
        """
        assert self.source is not None and self._root is not None
        if self._writes:
            make_private_dir(self._folder)
            write_atomic(self._folder / "root.json", self._root)
            write_atomic(self._folder / "source.json", msgspec.json.encode(self.source) + b"\n")

    def _verified(self, metadata: Path, before: Provenance) -> pa.Table:
        from hashclient.trust.tuf import Trust

        assert self.source is not None and self._root is not None
        name = self.source.list
        trust = Trust(  # 1
            metadata, BASE, self._copy, self._root, name=f"of list {name}", now=self._clock()
        )
        trust.refresh()
        offered = trust.lists()
        if name in trust.ended():
            raise VerificationError(
                f"list {name} has ended at its provider",
                hint="`hashclient provider list end` ends this list as well",
            )
        if name not in offered:
            raise VerificationError(
                f"its provider does not offer list {name}",
                hint=f"the provider offers: {first_of(offered) or 'none'}; `--from-list` names "
                "another one",
            )
        info = trust.target(name, INDEX_NAME)
        index = parse_index(trust.download(info, MAX_INDEX_BYTES), name)
        if before.origins and index.generation < before.origins[-1].generation:
            raise VerificationError(
                f"list {name}: generation {index.generation} is older than"
                f" {before.origins[-1].generation}, which was republished already"
            )
        theirs = provenance_of(info)
        if len(theirs.origins) >= MAX_ORIGINS:
            raise VerificationError(f"list {name} was republished {MAX_ORIGINS} times")
        origin = Origin(hashlib.sha256(self._root).hexdigest(), name, index.generation)
        self._provenance = Provenance((*theirs.origins, origin), theirs.terms)
        return _entries_of(trust, index)  # 2


def withdrawn_here(folder: Path, source: Source, roles: Roles, files: ListFiles) -> set[str]:
    """Return the ids that people withdrew from the list of `folder` and did not add again.

    Raises:
        StateError: published files cannot be read.
    """
    name = folder.name
    if name not in roles.lists:
        return set()
    current, followed = files.current(roles, name), files.provenance(roles, name).followed
    since = [s for s in current.segments if s.kind == "withdraw" and s.last > followed]
    ids = [np.array(source.left_out, "S")]
    ids += [b for _, b in files.batches(roles, name, since) if not isinstance(b, AddBatch)]
    all_ids = np.concatenate(ids)
    gone = ~np.isin(entry_hashes(all_ids), files.live_hashes(roles, current))
    return {entry_id.decode() for entry_id in all_ids[gone].tolist()}


def may_return(folder: Path, roles: Roles, files: ListFiles) -> set[str] | None:
    """Return the ids that a reversion may add again to a list, or None for all ids.

    If a list republishes another provider's list, an entry that the other provider has withdrawn
    may not be added again. If a list does not republish another provider's list, all ids may be
    added again.

    Raises:
        StateError: `source.json` or a published file cannot be read.
    """
    if not files.provenance(roles, folder.name).followed:
        return None
    source = load_source(folder) or Source(folder.name)
    return withdrawn_here(folder, source, roles, files)


def load_source(folder: Path) -> Source | None:
    """Return the contents of `source.json`; None if the list does not republish a list.

    Raises:
        StateError: the file cannot be read, is damaged, or was written by a newer version of
            hashclient.
    """
    path = folder / "source.json"
    if not path.exists():
        return None
    try:
        source = msgspec.convert(parse_json(_read(path)), Source)
    except ValueError as error:
        raise StateError(f"damaged: {printable(path)}", hint="put it back from a copy") from error
    if source.format != FORMAT:
        raise StateError(
            f"format of {printable(path)}: {excerpt(source.format)}, this one reads {FORMAT}",
            hint="a newer hashclient has written the file; use that version",
        )
    return source


def _read(path: Path) -> bytes:
    with state_errors("cannot read", path):
        return read_regular(path, MAX_STATE_BYTES)


def _entries_of(trust: Trust, index: ListIndex) -> pa.Table:
    """Return the live entries of a list as a table.

    Raises:
        VerificationError: the bytes of a file are not the signed bytes, or break a rule of the
            format.
    """

    def read(segment: Segment) -> bytes:
        data = trust.download(trust.target(index.list, segment.name), MAX_SEGMENT_BYTES)
        for _ in parse_segment(data, segment):
            pass
        return data

    table, unknown = left_of(index.segments, read)
    hashes = entry_hashes(np.array(table.column("entry_id").to_pylist(), "S"))
    found = table.num_rows, f"{checksum_of(hashes):016x}"
    if unknown or found != (index.entries, index.checksum):
        raise VerificationError(
            f"list {index.list}: its entries are not those that its index counts"
        )
    return table


def check_share(list_name: str, before: Provenance, share: Share | None, *, is_new: bool) -> None:
    """Check that a list has either entries of its own or entries of another provider.

    Raises:
        UsageError: the list would mix its own entries and republished entries.
    """
    if share is None and before.followed:
        raise UsageError(
            f"list {list_name} republishes another provider's list: entries of its own would be "
            "withdrawn again",
            hint="publish these entries in another list",
        )
    if share is not None and not (is_new or before.followed):
        raise UsageError(
            f"list {list_name} has entries of its own, which would be withdrawn",
            hint="use a new name for the republished list, with --new-list",
        )
