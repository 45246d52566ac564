"""The items in quarantine: each item is a folder with a sealed copy and a document about the file.

The folder `STATE/quarantine/<match id>/` contains `evidence.age`, the file encrypted in the age
format, and `item.json`, which describes the file, its path and its attributes. A person who has the
officer's secret key can open the sealed copy even if the rest of the state is lost. `restored.json`
names the items whose files were restored and whose folders must still be removed, so that one write
records the restoration of many items. `docs/quarantine.md` specifies `item.json` and
`restored.json`.
"""

from __future__ import annotations

import base64
import enum
import functools
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Algorithm
from hashclient.core.match import ID_LENGTH
from hashclient.core.model import Hit, Seen, Time, hit_fields
from hashclient.core.objecturi import is_object_uri, parse_uri
from hashclient.system import files
from hashclient.system.layout import EVIDENCE_NAME, ITEM_NAME, RESTORED_NAME, ROOM_LOCK_NAME
from hashclient.system.text import excerpt, path_of, printable
from hashclient.system.versions import newer_or

FORMAT = "hashclient-quarantine-item/1"
NOTES_FORMAT = "hashclient-quarantine-restored/1"
#: The highest size of `item.json` in bytes; extended attributes may use most of the bytes.
MAX_ITEM_BYTES = 1 << 25

_ID = re.compile(f"[a-z0-9]{{{ID_LENGTH}}}")

_Id = Annotated[str, msgspec.Meta(pattern=rf"\A{_ID.pattern}\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0)]
#: A user or group id. The next higher number is excluded, because chown(2) reads it as -1, which
#: leaves an owner unchanged.
_Owner = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 2)]
_Mode = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]


class Stage(enum.StrEnum):
    """The stage of an isolation: SEALED (the copy exists), REMOVED (the file was also removed)."""

    SEALED = "sealed"
    REMOVED = "removed"


def _text(text: str) -> str:
    return text.encode(errors="replace").decode()


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who performed an operation, why, and when."""

    by: str
    reason: str
    time: Time

    @classmethod
    def of(cls, by: str, reason: str, time: datetime) -> Mark:
        """Return a `Mark` with texts of valid Unicode; bytes that are not UTF-8 are replaced."""
        return cls(_text(by), _text(reason), time)


class Restoration(Mark, frozen=True, forbid_unknown_fields=True):
    """A restoration of a file: who, why, when, and the new path if it is not the original path."""

    in_place: bool = True
    path: str | None = None
    path_b64: str | None = None

    def __post_init__(self) -> None:
        """Refuse a `path_b64` that is not base64; msgspec reports this as a decoding error."""
        path_of(self.path or "", self.path_b64)


class Hold(Mark, frozen=True, forbid_unknown_fields=True):
    """A hold, which forbids destroying an item until its end or until a person releases it."""

    until: Time | None = None


class ItemHit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of a list that the file matched: the form of a `Hit` in `item.json`."""

    list: str
    entry: str
    category: str
    generation: int
    algorithms: tuple[str, ...]

    @classmethod
    def of(cls, hit: Hit) -> ItemHit:
        """Return the form of `hit` in `item.json`."""
        return msgspec.convert(hit_fields(hit), cls)

    def value(self) -> Hit:
        """Return the entry as a `Hit`."""
        algorithms = tuple(Algorithm.from_label(label) for label in self.algorithms)
        return Hit(self.list, self.entry, self.category, self.generation, algorithms, complete=True)


class Belonging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that was added to an item: its path, its sealed copy, and who added it."""

    path: str
    path_b64: str | None
    size: _Count
    evidence_sha256: str
    evidence_bytes: _Count
    recipients: tuple[str, ...]
    added: Mark

    @property
    def file(self) -> str:
        """The path of the file, decoded with surrogateescape."""
        return path_of(self.path, self.path_b64)


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The attributes of a file when it was sealed; `xattrs` are base64, times are ns since 1970.

    `device`, `inode` and `directory_inode` show, after an interrupted operation, whether the same
    file is still at the path. `links` is the number of names that the file had.
    """

    device: int
    inode: int
    directory_inode: int
    links: int
    mode: _Mode
    uid: _Owner
    gid: _Owner
    atime_ns: int
    mtime_ns: int
    xattrs: dict[str, str]

    @property
    def seen(self) -> Seen:
        """The inodes of file and directory, without device numbers, which may have changed."""
        return Seen(None, self.directory_inode, None, self.inode)


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `item.json`.

    `size` and `evidence_bytes` are lengths in bytes. `tags` are hexadecimal, and were made with the
    key `key_id`. `context` are the files that were added to the item, in the order of their
    numbers, from 1. `tombstone` is the text that is written in place of the file, if the
    configuration sets a text. `restored` is set if the file was restored and only the folder of the
    item must be removed. The value of `restored` is read from `restored.json`, or from `item.json`
    if an earlier version of hashclient has restored the file.
    """

    format: str = FORMAT
    id: str
    stage: Stage
    path: str
    path_b64: str | None = None
    size: _Count
    origin: Origin
    evidence_sha256: str
    evidence_bytes: _Count
    recipients: tuple[str, ...]
    taken: Mark
    hits: tuple[ItemHit, ...]
    tags: dict[str, str]
    key_id: str
    context: tuple[Belonging, ...] = ()
    tombstone: str | None = None
    hold: Hold | None = None
    restored: Restoration | None = None

    @property
    def file(self) -> str:
        """The path of the file, decoded with surrogateescape."""
        return path_of(self.path, self.path_b64)

    def held(self, now: datetime) -> Hold | None:
        """Return the hold that is in force at the time `now`, or None."""
        hold = self.hold
        return hold if hold is not None and (hold.until is None or now < hold.until) else None

    def tags_by_algorithm(self) -> dict[Algorithm, bytes]:
        """Return the tags as bytes, by algorithm."""
        return {Algorithm.from_label(a): bytes.fromhex(tag) for a, tag in self.tags.items()}


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of `restored.json`, which says that the file of an item was restored.

    `evidence_sha256` identifies the sealed copy. A note does not apply to a later item with the
    same id, because the later item has another sealed copy.
    """

    evidence_sha256: str
    restored: Restoration


class Notes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `restored.json`: a note for each restored item, by the id of the item."""

    format: str = NOTES_FORMAT
    items: dict[_Id, Note]


@functools.lru_cache(maxsize=1 << 10)  # an operation calls this function several times
def folder_path(directory: Path, match_id: str) -> Path:
    """Return the folder of an item in the quarantine `directory`.

    Raises:
        UsageError: `match_id` is not a well-formed id.
    """
    if not _ID.fullmatch(match_id):
        raise UsageError(
            f"not an id: {printable(match_id)}",
            hint="`hashclient quarantine list` shows them",
        )
    return directory / match_id


def evidence_path(directory: Path, match_id: str) -> Path:
    """Return the path of the sealed copy of an item in the quarantine `directory`.

    Raises:
        UsageError: `match_id` is not a well-formed id.
    """
    return folder_path(directory, match_id) / EVIDENCE_NAME


def context_path(folder: Path, number: int) -> Path:
    """Return the path of the sealed copy of an added file; numbers begin at 1."""
    return folder / f"evidence.{number}.age"


def item_ids(directory: Path) -> list[str]:
    """Return the ids of all items in the quarantine `directory`; none if it does not exist.

    Raises:
        StateError: the directory cannot be read.
    """
    try:
        return sorted(name for name in os.listdir(directory) if _ID.fullmatch(name))  # noqa: PTH208 - names
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.state_error("cannot read the quarantine", directory, error) from error


def require_quarantine(directory: Path) -> None:
    """Refuse a missing quarantine, whose sealed copies must not count as lost.

    Each isolation leaves the lock file. If it is missing, the file system is perhaps not mounted.

    Raises:
        StateError: the directory has no lock file.
    """
    if not files.is_there(directory / ROOM_LOCK_NAME):
        raise StateError(
            f"the quarantine is not there: {printable(directory)}",
            hint="mount its file system, or restore it from a backup; if it is lost for ever, make"
            f" an empty file {ROOM_LOCK_NAME} in this directory",
        )


def load_item(directory: Path, match_id: str, notes: Mapping[str, Note] | None = None) -> Item:
    """Return the item `match_id` in the quarantine `directory`, from its document and its note.

    `notes` is the result of `load_notes`, or None if this function must call `load_notes`.

    Raises:
        UsageError: no item has this id.
        StateError: the item cannot be read or is damaged.
    """
    folder = folder_path(directory, match_id)
    path = folder / ITEM_NAME
    try:
        with files.open_at_once(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            data = files.read_bounded(stream, size, MAX_ITEM_BYTES)
    except FileNotFoundError as error:
        if folder.is_dir():
            raise _damaged(path, "it is missing") from error
        raise UsageError(
            f"nothing in quarantine has the id {match_id}",
            hint="`hashclient quarantine list` shows what there is",
        ) from error
    except OSError as error:
        raise files.state_error("cannot read", path, error) from error
    item = parse_item(data, match_id, path)
    note = (load_notes(directory) if notes is None else notes).get(match_id)
    if note is None or note.evidence_sha256 != item.evidence_sha256:
        return item
    return msgspec.structs.replace(item, restored=note.restored)


def load_notes(directory: Path) -> dict[str, Note]:
    """Return the notes about restored items in the quarantine `directory`, by id.

    Raises:
        StateError: the document cannot be read or is damaged.
    """
    path = directory / RESTORED_NAME
    try:
        with files.open_at_once(path) as stream:
            data = stream.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise files.state_error("cannot read", path, error) from error
    try:
        notes = msgspec.json.decode(data, type=Notes)
    except (ValueError, RecursionError) as error:
        raise newer_or(_damaged(path, excerpt(error)), path, data, NOTES_FORMAT) from error
    if notes.format != NOTES_FORMAT:
        raise _unknown_format(path, notes.format)
    return notes.items


def save_notes(directory: Path, notes: dict[str, Note]) -> None:
    """Write `restored.json` durably; remove it if `notes` is empty.

    Raises:
        StateError: the notes cannot be written.
    """
    path = directory / RESTORED_NAME
    if notes:
        files.write_atomic(path, msgspec.json.encode(Notes(items=notes)))
        return
    try:
        path.unlink(missing_ok=True)
        files.fsync_dir(directory)
    except OSError as error:
        raise files.state_error("cannot remove", path, error) from error


def parse_item(data: bytes, match_id: str, path: Path) -> Item:
    """Decode and check the document of an item; `path` is for messages.

    Raises:
        StateError: the document is not well-formed, or belongs to another item.
    """
    if len(data) > MAX_ITEM_BYTES:
        raise _damaged(path, "too large")
    try:
        item = msgspec.json.decode(data, type=Item)
        item.tags_by_algorithm()
        for hit in item.hits:
            hit.value()
        is_path = all(map(_is_whole_path, (item.file, *(one.file for one in item.context))))
        for value in item.origin.xattrs.values():
            base64.b64decode(value, validate=True)
    except (ValueError, KeyError, RecursionError, UsageError) as error:
        raise newer_or(_damaged(path, excerpt(error)), path, data, FORMAT) from error
    if item.format != FORMAT:
        raise _unknown_format(path, item.format)
    if item.id != match_id:
        raise _damaged(path, "it is of another item")
    if not is_path or any("\0" in name for name in item.origin.xattrs):
        raise _damaged(path, "no file can have this name")
    return item


def _is_whole_path(path: str) -> bool:
    """Return whether a path is absolute and has no empty component, no `.` and no `..`.

    The URI of an object is accepted, too.
    """
    if is_object_uri(path):
        return parse_uri(path).text == path
    components = path.lstrip("/").split("/")
    return path.startswith("/") and "\0" not in path and not {"", ".", ".."} & {*components}


def encode_item(item: Item) -> bytes:
    """Return the document of an item as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(item), indent=2) + b"\n"


def _unknown_format(path: Path, found: str) -> StateError:
    return StateError(
        f"unknown format of {printable(path)}: {excerpt(found)}",
        hint="another version of hashclient wrote it",
    )


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"damaged: {printable(path)}: {why}",
        hint="docs/quarantine.md says how to open a sealed copy by hand",
    )
