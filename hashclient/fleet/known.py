"""What this machine knows of other machines: their keys, and the last document of each.

A person pins the key of a machine: in a roster, which is a TOML file that several collectors can
use, or with `fleet trust`, which stores the key in this state directory. A valid document does not
show which machine made it, but the pinned key of the document does.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hashclient.core.errors import UsageError
from hashclient.core.model import Time
from hashclient.status.published import keep, load_kept
from hashclient.system.files import MAX_STATE_BYTES, make_private_dir, read_regular, writer_lock
from hashclient.system.layout import KNOWN_LOCK_NAME, KNOWN_NAME, Layout
from hashclient.system.signed import Key
from hashclient.system.text import printable

_Machine = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_KEY = re.compile(r"[0-9a-f]{64}")
LOCK_WAIT_S = 10.0


class Seen(msgspec.Struct, frozen=True):
    """The newest document of a machine at a place: number, time, SHA-256 and checkpoint.

    `went_back`: how a later document contradicts this document; None if no document does.
    """

    counter: int
    made: Time
    sha256: str
    checkpoint: str
    went_back: str | None = None


class Known(msgspec.Struct):
    """The keys of machines by name, and the last document of each key, by place and key."""

    format: Literal["hashclient-fleet/1"] = "hashclient-fleet/1"
    machines: dict[_Machine, Key] = msgspec.field(default_factory=dict)
    seen: dict[str, dict[Key, Seen]] = msgspec.field(default_factory=dict)

    def forget(self, key: str) -> None:
        """Forget the last documents of a machine, so that its next document counts as its first."""
        for seen in self.seen.values():
            seen.pop(key, None)


class _Roster(msgspec.Struct, forbid_unknown_fields=True):
    machines: dict[_Machine, Key]


@contextlib.contextmanager
def changing(layout: Layout) -> Iterator[Known]:
    """Yield the known keys and documents, and store them if the block ends without an error.

    Raises:
        StateError: the file cannot be read or written.
    """
    path = make_private_dir(layout.fleet) / KNOWN_NAME
    # The file of known machines has its own lock, because reading a bucket may take long, and this
    # machine may publish meanwhile.
    with writer_lock(layout.fleet / KNOWN_LOCK_NAME, wait_s=LOCK_WAIT_S):
        known = load_kept(path, Known)
        before = msgspec.json.encode(known)
        yield known
        if msgspec.json.encode(known) != before:
            keep(path, known)


def load_roster(path: Path) -> dict[str, str]:
    """Return the keys in a roster, by the names of machines.

    Raises:
        UsageError: the file cannot be read, or is not a roster.
    """
    hint = 'write [machines], and below it one line NAME = "KEY" for each'
    try:
        text = read_regular(path, MAX_STATE_BYTES).decode()
        return msgspec.convert(tomllib.loads(text), _Roster).machines
    except OSError as error:
        raise UsageError(
            f"cannot read the roster {printable(path)}: {error.strerror}", hint="check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not a roster: {printable(path)}", hint=hint) from error


def pins_of(*rosters: dict[str, str]) -> dict[str, str]:
    """Return the names of machines by their keys.

    Raises:
        UsageError: two machines have the same key, or a machine has two keys.
    """
    names: dict[str, str] = {}
    keys: dict[str, str] = {}
    for name, key in (pair for roster in rosters for pair in roster.items()):
        if names.setdefault(key, name) != name or keys.setdefault(name, key) != key:
            raise UsageError(
                f"one key for two machines, or two keys for one: {printable(name)}",
                hint="each machine has one key, which `hashclient audit verify` shows there",
            )
    return names


def checked_key(text: str) -> str:
    """Return a public key in the form in which `audit verify` shows it.

    Raises:
        UsageError: the text is not a key.
    """
    if not _KEY.fullmatch(text):
        raise UsageError(
            "not a key: 64 hexadecimal digits are expected",
            hint="`hashclient audit verify` on that machine shows its public key",
        )
    return text
