"""Stores how often and when this machine has published its status, and failures since then.

This module also reads and writes other small files of the state directory. Each small file contains
one struct.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from hashclient.core.errors import StateError
from hashclient.system.files import MAX_STATE_BYTES, read_regular, state_error, write_atomic
from hashclient.system.layout import PUBLISHED_NAME, Layout
from hashclient.system.text import printable
from hashclient.system.versions import newer_or

T = TypeVar("T", bound=msgspec.Struct)


class Published(msgspec.Struct, frozen=True):
    """The number and the time of the last published document, and failures since then."""

    format: Literal["hashclient-published/1"] = "hashclient-published/1"
    counter: int = 0
    at: datetime | None = None
    failures: int = 0


def load_published(layout: Layout) -> Published:
    """Return what this machine has published, or the defaults if the file is missing.

    Raises:
        StateError: the file cannot be read.
    """
    return load_kept(layout.fleet / PUBLISHED_NAME, Published)


def load_kept(path: Path, kind: type[T]) -> T:
    """Return the struct in a file, or a struct with its defaults if the file is missing.

    Raises:
        StateError: the file cannot be read, is damaged, or a newer version wrote it.
    """
    try:
        data = read_regular(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise state_error("cannot read", path, error) from error
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        damaged = StateError(
            f"the file is damaged: {printable(path)}", hint="restore it from a backup"
        )
        raise newer_or(damaged, path, data, getattr(kind(), "format", "")) from error


def keep(path: Path, value: msgspec.Struct) -> None:
    """Replace the content of a file by a struct.

    Raises:
        StateError: the file cannot be written.
    """
    write_atomic(path, msgspec.json.encode(value) + b"\n")
