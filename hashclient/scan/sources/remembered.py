"""The file in which scans remember the file systems that they have seen (`mounts.json`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from hashclient.core.errors import StateError
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_private_dir,
    read_regular,
    state_error,
    write_atomic,
    writer_lock,
)
from hashclient.system.layout import Layout
from hashclient.system.text import path_of, printable
from hashclient.system.versions import newer_or

FORMAT: Final = "hashclient-mounts/1"
#: The most directories in the file. Beyond this number, directories that are no mount points are
#: removed first, and then the directories that were not seen for the longest time.
MAX_RECORDS = 4_096
#: A directory with a path of more than this many bytes is not remembered.
MAX_PATH_BYTES = 4_096
LOCK_WAIT_S = 10.0
_Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]


class DamagedMountsError(StateError):
    """The content of `mounts.json` has changed on the disk; the next scan writes a new file."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a directory was when it was last scanned.

    - `path`: absolute and without symbolic links.
    - `path_b64`: the bytes of the path if they are not UTF-8.
    - `point_bytes`: the length of the mount point, which is the beginning of the path.
    - `kind`: the type of the file system.
    - `names`: hashes that identify the file system.
    - `inner`: a hash that identifies the directory inside the file system.
    - `seen_day`: the day of the scan, counted from 1970.
    """

    path: str
    point_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_PATH_BYTES)]
    kind: str
    names: tuple[_Hash, ...]
    inner: _Hash
    seen_day: Annotated[int, msgspec.Meta(ge=0, le=2_900_000)]
    path_b64: str | None = None

    @property
    def is_point(self) -> bool:
        """Whether the directory was a mount point."""
        return self.point_bytes == len(os.fsencode(self.real_path))

    @property
    def real_path(self) -> str:
        """The path, decoded with surrogateescape."""
        return path_of(self.path, self.path_b64)

    @property
    def point(self) -> str:
        """The path of the mount point."""
        return os.fsdecode(os.fsencode(self.real_path)[: self.point_bytes])


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["hashclient-mounts/1"]
    mounts: list[Record]


def load(state_dir: Path) -> list[Record]:
    """Return the remembered directories, sorted by path.

    Raises:
        StateError: the file cannot be read.
    """
    records = by_path(state_dir)
    return [records[path] for path in sorted(records)]


def below(paths: Iterable[str], roots: Iterable[str]) -> list[str]:
    """Return the `paths` that are in `roots` or below a root, sorted; all must be absolute."""
    beginnings = tuple(root.rstrip("/") + "/" for root in roots)
    return sorted(path for path in paths if f"{path}/".startswith(beginnings))


def forget_all(state_dir: Path, paths: Iterable[str]) -> None:
    """Forget the directories `paths`.

    Raises:
        StateError: the file cannot be read or written.
    """
    gone = set(paths)
    with _locked(state_dir):
        records = by_path(state_dir)
        _store(state_dir, {path: r for path, r in records.items() if path not in gone})


def add(state_dir: Path, changed: Mapping[str, Record]) -> None:
    """Remember directories, by path; replace their earlier records.

    Raises:
        StateError: the file cannot be read or written.
    """
    with _locked(state_dir):
        # Another scan may have written the file since this scan has read it.
        records: dict[str, Record] = {}
        # a damaged file was reported already, and is replaced
        with contextlib.suppress(DamagedMountsError):
            records = by_path(state_dir)
        _store(state_dir, {**records, **changed})


def by_path(state_dir: Path) -> dict[str, Record]:
    """Return the remembered directories by path; see `load`."""
    path = Layout(state_dir).mounts
    try:
        data = read_regular(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise state_error("cannot read", path, error) from error
    try:
        document = msgspec.json.decode(data, type=_Document)
        records = {record.real_path: record for record in document.mounts}
        for record in document.mounts:
            if not record.point.startswith("/"):
                raise ValueError(record.path)
    except ValueError as error:
        damaged = DamagedMountsError(
            f"the record of mounted file systems is damaged: {printable(path)}",
            hint="this scan records them again, and does not notice a missing mount: mount all file"
            " systems, and scan again",
        )
        raise newer_or(damaged, path, data, FORMAT) from error
    return records


def _store(state_dir: Path, records: Mapping[str, Record]) -> None:
    kept: Sequence[Record] = list(records.values())
    if len(kept) > MAX_RECORDS:
        kept = sorted(kept, key=lambda r: (r.is_point, r.seen_day), reverse=True)[:MAX_RECORDS]
    document = _Document(FORMAT, sorted(kept, key=lambda record: record.path))
    write_atomic(
        Layout(state_dir).mounts, msgspec.json.format(msgspec.json.encode(document), indent=1)
    )


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    make_private_dir(state_dir)
    with writer_lock(Layout(state_dir).mounts_lock, wait_s=LOCK_WAIT_S):
        yield
