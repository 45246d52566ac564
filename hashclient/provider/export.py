"""Writes a bundle: one file with all published files, for clients without a network.

A bundle contains the current metadata, every root, and files of the lists: all files, or only the
files that a client at a given generation lacks. A client makes the same checks for a bundle and for
the files of a web server, so the client has to import the bundle before the timestamp in the bundle
expires. `hashclient.lists.bundle` describes the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import (
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.lists.bundle import Mark, write_bundle
from hashclient.lists.wire import ListIndex, delta_of, parse_index, target_name
from hashclient.provider.public import (
    RESTORE_HINT,
    Kind,
    own_hints,
    parse_metadata,
    read_public,
    root_versions,
)
from hashclient.system.files import refuse_irregular, writer_lock
from hashclient.system.outputs import replaced_file
from hashclient.system.text import printable
from hashclient.trust.additions import ended_lists

#: The name of the role targets in a snapshot; all other names in a snapshot are of lists or of the
#: role of notices.
_TOP = "targets.json"


class ExportedList(msgspec.Struct, frozen=True):
    """A list in a bundle.

    `since` is the generation that a client must already have in order to use the bundle. `since` is
    None if the bundle has the whole list.
    """

    name: str
    generation: int
    since: int | None


class Exported(msgspec.Struct, frozen=True):
    """A written bundle: the number of its files, their size in bytes, and its lists.

    `until` is the earliest expiry of the metadata in the bundle; clients refuse the bundle after
    this time.
    """

    files: int
    bytes: int
    until: datetime
    lists: tuple[ExportedList, ...]


class _File(msgspec.Struct, frozen=True):
    """A file below `public/`, with its bytes, or with its signed length and digest."""

    name: str
    signed: MetaFile | TargetFile | None = None
    data: bytes | None = None


def export_bundle(directory: Path, to: Path, since: Mapping[str, int]) -> Exported:
    """Write the published files of a repository into the file `to`, readable by its owner.

    `since` maps lists to generations. The bundle leaves out the segments of a list that a client at
    this generation, or at a later generation, has already. If consolidation has joined these
    segments with later segments, the whole list is written, and `Exported.lists` says so. Two
    exports of an unchanged repository have equal bytes.

    Raises:
        UsageError: the list or the generation does not exist, or `to` is not a regular file, or is
            inside the repository.
        StateError: the repository does not exist, is being changed or is corrupt, or `to` cannot be
            written; an earlier file `to` is unchanged.
    """
    public = directory / "public"
    if not (public / "metadata" / "timestamp.json").exists():
        raise StateError(
            f"not a provider's repository: {printable(directory)}",
            hint="`hashclient provider init` makes one",
        )
    try:
        refuse_irregular(to)
    except OSError as error:
        raise UsageError(f"cannot write {printable(to)}: {error.strerror}") from error
    if to.parent.resolve().is_relative_to(directory.resolve()):
        raise UsageError(
            f"a bundle does not belong into the repository: {printable(to)}",
            hint="the bundle could replace a published file, or be published: write it elsewhere",
        )
    busy = f"another process is changing {printable(directory)}"
    # The repository is locked, so that a new root cannot be read together with an old timestamp.
    # Segments are read without the lock, because segments never change and are kept for a day after
    # their replacement.
    lock = writer_lock(directory / "lock", busy=busy, hint="wait until it has finished")
    with own_hints("cannot read", directory), lock:
        found = _Published(public, since)
    written = [0, 0]

    def members() -> Iterator[tuple[str, bytes]]:
        for file in found.files:
            data = _read(public, file) if file.data is None else file.data
            written[0] += 1
            written[1] += len(data)
            yield file.name, data

    marked = {entry.name: entry.since for entry in found.lists if entry.since is not None}
    try:
        with replaced_file(to) as stream:
            write_bundle(stream, Mark(since=marked), members())
    except ValueError as error:
        raise StateError(
            f"a name does not fit into a bundle: {printable(str(error))}",
            hint="copy the directory public/ instead; `hashclient fetch --from` reads it",
        ) from error
    except StateError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise StateError(
            error.message, hint="check the directory, its permissions and the free space"
        ) from error
    return Exported(written[0], written[1], found.until, tuple(found.lists))


class _Published:
    """The published files in the order of the bundle, their lists, and their earliest expiry."""

    def __init__(self, public: Path, since: Mapping[str, int]) -> None:
        self._public = public
        self._since = since
        self.files: list[_File] = []
        self.lists: list[ExportedList] = []
        self._expiries: list[datetime] = []
        roots = [
            self._metadata(Root, f"{number}.root.json")
            for number in root_versions(public / "metadata")
        ]
        if not roots:
            raise StateError("corrupt metadata: there is no root", hint=RESTORE_HINT)
        self._expiries.append(roots[-1].expires)
        described = self._counted(Timestamp, "timestamp.json").snapshot_meta
        snapshot = self._counted(Snapshot, f"{described.version}.snapshot.json", described)
        top = snapshot.meta[_TOP]
        signed = parse_metadata(
            read_public(public / "metadata" / f"{top.version}.{_TOP}"), Targets, public
        ).signed
        gone = {f"{name}.json" for name in ended_lists(signed)}
        for name, meta in snapshot.meta.items():
            if name in gone:
                continue  # a role of an ended list is left out, because no client fetches it
            targets = self._counted(Targets, f"{meta.version}.{name}", meta)
            if name != _TOP:
                self._add_targets(name.removesuffix(".json"), targets)
        if unknown := sorted(since.keys() - {entry.name for entry in self.lists}):
            names = ", ".join(entry.name for entry in self.lists)
            raise UsageError(
                f"no such list: {printable(unknown[0])}", hint=f"lists: {names or 'none yet'}"
            )

    @property
    def until(self) -> datetime:
        """The earliest expiry of the metadata in the bundle, except old roots."""
        return min(self._expiries)

    def _metadata(self, kind: type[Kind], name: str, signed: MetaFile | None = None) -> Kind:
        data = _read(self._public, _File(f"metadata/{name}", signed))
        # The bytes are kept in memory, because the file of a timestamp may be replaced by the next
        # timestamp, which has the same file name.
        self.files.append(_File(f"metadata/{name}", signed, data))
        return parse_metadata(data, kind, self._public / "metadata" / name).signed

    def _counted(self, kind: type[Kind], name: str, signed: MetaFile | None = None) -> Kind:
        """Add metadata whose expiry limits `until`; the expiry of old roots does not limit it."""
        found = self._metadata(kind, name, signed)
        self._expiries.append(found.expires)
        return found

    def _add_targets(self, role: str, signed: Targets) -> None:
        index_name = target_name(role, "index.json")
        left_out: set[str] = set()
        if index_name in signed.targets:
            file = _target(signed.targets[index_name])
            try:
                index = parse_index(_read(self._public, file), role)
            except VerificationError as error:
                raise StateError(f"corrupt repository: {error.message}") from error
            since, left_out = _left_out(index, self._since.get(role))
            self.lists.append(ExportedList(role, index.generation, since))
        for name in sorted(signed.targets.keys() - left_out):
            self.files.append(_target(signed.targets[name]))


def _left_out(index: ListIndex, since: int | None) -> tuple[int | None, set[str]]:
    """Return the generation that a client must have, and the targets that the bundle leaves out.

    If the bundle must have the whole list, return None and an empty set.
    """
    if since is None:
        return None, set()
    if not 0 <= since <= index.generation:
        raise UsageError(
            f"list {index.list} has no generation {since}",
            hint=f"the newest is {index.generation}",
        )
    delta = delta_of(since, index)
    if since == 0 or delta is None:
        return None, set()
    needed = {segment.name for segment in delta}
    return since, {
        target_name(index.list, segment.name)
        for segment in index.segments
        if segment.name not in needed
    }


def _target(target: TargetFile) -> _File:
    folder, _, base = target.path.rpartition("/")
    if "sha256" not in target.hashes:
        raise StateError(
            f"corrupt repository: {printable(target.path)} is signed without a SHA-256",
            hint=RESTORE_HINT,
        )
    return _File(f"targets/{folder}/{target.hashes['sha256']}.{base}", target)


def _read(public: Path, file: _File) -> bytes:
    """Return the bytes of a file, after comparing them with the signed length and digest.

    Raises:
        StateError: the bytes are not the signed bytes, or the file cannot be read.
    """
    data = read_public(public / file.name)
    if file.signed is not None:
        try:
            file.signed.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as error:
            raise StateError(
                f"corrupt repository: {file.name} is not the signed file",
                hint=RESTORE_HINT,
            ) from error
    return data
