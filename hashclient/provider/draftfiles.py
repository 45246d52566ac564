"""Reads and verifies the files of a draft: new files of lists, and new notices.

The functions raise the errors that `hashclient.provider.drafts.load_draft` describes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from tuf.api.metadata import Metadata, TargetFile

from hashclient.core.errors import UsageError, VerificationError
from hashclient.core.model import is_name
from hashclient.lists import history
from hashclient.lists.wire import (
    INDEX_NAME,
    MAX_SEGMENT_BYTES,
    AddBatch,
    parse_index,
    target_name,
)
from hashclient.notices.document import Notice, parse_notice
from hashclient.provider.entries import by_category
from hashclient.provider.listfiles import Shown, next_history, parse_segment, show
from hashclient.system.files import read_regular, translated
from hashclient.system.text import printable
from hashclient.trust.additions import MAX_NOTICES, NOTICES, notice_id_of
from hashclient.trust.provenance import FIELD, Provenance, provenance_of

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


class ListChange(msgspec.Struct, frozen=True):
    """The change of a list in a draft: numbers of entries, counted in the new files.

    `categories` has the number of added entries of each category. `replaced` is the number of
    earlier files that new files replace, as a consolidation does.
    """

    generation: int
    added: int
    withdrawn: int
    live: int
    categories: dict[str, int]
    replaced: int = 0
    #: The origins of the entries, and the terms of use.
    provenance: Provenance = Provenance()


class NoticeChange(msgspec.Struct, frozen=True):
    """The change of the notices in a draft: new notices, and the ids of removed notices."""

    added: tuple[Notice, ...]
    removed: tuple[str, ...]


def verify_list(
    directory: Path,
    name: str,
    before: Metadata[Any] | None,
    role: Metadata[Any],
    files: dict[str, Path],
    to: Sequence[Shown],
) -> ListChange | None:
    """Verify the new files of a list, and add them to `files`; return None if no file is new.

    Only one file at a time is in memory. The contents of the files are passed to each element of
    `to`.
    """
    old = {} if before is None else before.signed.targets
    if role.signed.delegations is not None:
        refuse(f"list {printable(name)} delegates to others")
    new: dict[str, Path] = {}
    index_name = target_name(name, INDEX_NAME)
    for path, target in role.signed.targets.items():
        if not _has_known_fields(target, is_index=path == index_name):
            refuse(f"list {printable(name)} has unknown fields for a file")
        folder, _, file_name = path.rpartition("/")
        if folder != f"lists/{name}" or not is_name(file_name):
            refuse(f"list {printable(name)} names a file that is not its own")
        if not _is_sha256(target.hashes):
            refuse(f"list {printable(name)} names a file by something else than a digest")
        if old.get(path) == target:
            continue
        if path in old and path != index_name:
            refuse(f"list {printable(name)} changes a file that is published")
        new[path] = directory / "files" / folder / f"{target.hashes['sha256']}.{file_name}"
    if index_name not in new:
        if new or old.keys() != role.signed.targets.keys() or before is None:
            refuse(f"list {printable(name)} has other files without a new index")
        return None
    files |= new
    index_path = new.pop(index_name)
    index = parse_index(_read_signed(index_path, role.signed.targets[index_name]), name)
    named = {target_name(name, segment.name): segment for segment in index.segments}
    if {*named, index_name} != set(role.signed.targets):
        refuse(f"list {printable(name)} names other files than its index")
    custom = role.signed.targets[index_name].custom
    if history.history_of(custom) != next_history(old.get(index_name), index, role.signed.targets):
        refuse(f"list {printable(name)} has a history that does not follow")
    counts, categories = {"add": 0, "withdraw": 0}, Counter[str]()
    for path, segment in named.items():
        if path not in new:
            continue
        counts[segment.kind] += segment.entries
        for batch in parse_segment(_read_signed(new[path], role.signed.targets[path]), segment):
            if isinstance(batch, AddBatch):
                categories.update(by_category(batch))
            for one in to:
                show(batch, segment, one)
    return ListChange(
        index.generation,
        counts["add"],
        counts["withdraw"],
        index.entries,
        dict(sorted(categories.items())),
        len(old.keys() - role.signed.targets.keys()),
        provenance_of(role.signed.targets[index_name]),
    )


def verify_notices(
    directory: Path, before: Metadata[Any] | None, role: Metadata[Any], files: dict[str, Path]
) -> NoticeChange | None:
    """Verify the new notices, and add their files to `files`; return None if nothing changes."""
    old = {} if before is None else before.signed.targets
    targets = role.signed.targets
    if role.signed.delegations is not None:
        refuse(f"role {NOTICES} delegates to others")
    if len(targets) > MAX_NOTICES:
        refuse(f"role {NOTICES} has more than {MAX_NOTICES:,} notices")
    added = []
    for path, target in targets.items():
        if (notice_id := notice_id_of(path)) is None:
            refuse(f"role {NOTICES} names a file that is no notice")
        if not _is_sha256(target.hashes):
            refuse(f"role {NOTICES} names a file by something else than a digest")
        if old.get(path) == target:
            continue
        if path in old:
            refuse("a notice that is published is changed")
        name = f"{target.hashes['sha256']}.{notice_id}.json"
        files[path] = directory / "files" / NOTICES / name
        added.append(parse_notice(_read_signed(files[path], target), notice_id))
    gone = old.keys() - targets.keys()
    if not added and not gone:
        return None
    added.sort(key=lambda notice: (notice.sent, notice.id))
    removed = (path.removeprefix(f"{NOTICES}/").removesuffix(".json") for path in gone)
    return NoticeChange(tuple(added), tuple(sorted(removed)))


def _has_known_fields(target: TargetFile, *, is_index: bool) -> bool:
    """Return whether a target has no other members than its TUF fields and those of an index."""
    said = target.unrecognized_fields
    if not is_index or [*said] != ["custom"] or not isinstance(said["custom"], dict):
        return not said
    return said["custom"].keys() <= {FIELD, history.FIELD}


def _is_sha256(hashes: Mapping[str, str]) -> bool:
    """Return whether the hashes of a target are a SHA-256 and nothing else."""
    return set(hashes) == {"sha256"} and _HEX_SHA256.fullmatch(hashes["sha256"]) is not None


def _read_signed(path: Path, target: TargetFile) -> bytes:
    """Return the bytes of a draft's file, verified by the hash that a role signs.

    Raises:
        UsageError: the file cannot be read.
        VerificationError: the file does not have the length and the SHA-256 that the role signs.
    """
    data = read_file(path, MAX_SEGMENT_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != target.length or digest != target.hashes["sha256"]:
        refuse(f"a file is not the one that is signed: {printable(path)}")
    return data


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a file of a draft.

    Raises:
        UsageError: the file cannot be read, or is too long.
    """
    with translated(path, unreadable):
        return read_regular(path, max_bytes)


def unreadable(path: Path, error: OSError) -> UsageError:
    """Return the UsageError for a draft that cannot be read because of `error` at `path`."""
    return UsageError(
        f"cannot read the draft: {printable(path)}: {error.strerror or error}",
        hint="a draft is a directory that --draft has made",
    )


def refuse(what: str) -> NoReturn:
    """Raise the VerificationError for a refused draft, with the reason `what`."""
    raise VerificationError(
        f"the draft is refused: {what}",
        hint="the draft was changed, or is not a draft; make it again",
    )
