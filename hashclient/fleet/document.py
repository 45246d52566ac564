"""Status documents: the state of a machine, signed with the key of its audit log.

A file of two lines: a JSON object, and a key with its signature of that line (`system.signed`). The
document has counts, times, exit codes and names of lists. It has no path, no digest, no id of an
entry and no name of a person. `docs/fleet.md` specifies it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from hashclient.audit.record import Checkpoint, parse_checkpoint
from hashclient.core.errors import AuditError, VerificationError
from hashclient.core.kinds import MatchState
from hashclient.system.signed import sign_document, verify_document

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Literal["hashclient-status/1"] = "hashclient-status/1"
MAX_STATUS_BYTES = 64 << 10
SUFFIX = ".jsonl"
#: This many lists always fit into a document, with names of any length; fresh lists are left out
#: first.
MOST_LISTS = 150
_TAG = b"hashclient status v1\n"

_Count = Annotated[int, Meta(ge=0, le=1 << 53)]
_Code = Annotated[int, Meta(ge=0, le=255)]
_Time = Annotated[datetime, Meta(tz=True)]
_Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
#: A kind of container that is not opened.
Word = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
Command = Literal["fetch", "scan", "lookup", "watch", "serve"]
Freshness = Literal["fresh", "grace", "stale", "unusable"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a document: an unknown key is refused, so a document can have nothing else."""


class Machine(_Part, frozen=True):
    """A machine: the id of its audit log, and the machine's name.

    `copy` differs if another machine has a copy of the state: it is made of id, name and the
    machine id of the system.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    copy: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]

    @property
    def file_name(self) -> str:
        """The name of the file with the document of this machine."""
        return f"{self.id}-{self.copy}{SUFFIX}"


class ListState(_Part, frozen=True):
    """A list that should be there. `refused` is the exit code of a last fetch that failed."""

    name: _Name
    provider: _Name | None
    state: Freshness
    generation: _Count | None = None
    published: _Time | None = None
    expires: _Time | None = None
    checked: _Time | None = None
    refused: _Code | None = None


class Runs(msgspec.Struct, forbid_unknown_fields=True):
    """The runs of a command: the last run, and counts of the last 24 hours."""

    last: _Time
    exit_code: _Code | None = None
    runs: _Count = 0
    failed: _Count = 0
    inputs: _Count = 0
    match: _Count = 0
    unread: _Count = 0


class Brake(_Part, frozen=True):
    """The limits of the brake, and how many entries have matches that are held."""

    per_entry: _Count
    per_day: _Count
    entries_held: _Count


class Room(_Part, frozen=True):
    """The free space on the file system of the state."""

    free_bytes: _Count
    total_bytes: _Count


class StatusDocument(_Part, frozen=True, kw_only=True):
    """The first line of a document.

    `counter` is higher in each new document of a machine; the machine promises the next document
    within `interval_s`. The counts of `runs` begin at `counted_since`. `matches` is None if no
    record of matches exists; if the record cannot be read, `matches` has an exit code. `checkpoint`
    is a checkpoint of the audit log, as a line of text.
    """

    format: Literal["hashclient-status/1"]
    machine: Machine
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.+-]{1,64}\Z")]
    made: _Time
    counter: _Count
    interval_s: Annotated[int, Meta(ge=1, le=1 << 31)]
    exit_code: _Code
    lists: Annotated[tuple[ListState, ...], Meta(max_length=MOST_LISTS)]
    lists_omitted: _Count
    providers_unknown: _Count
    counted_since: _Time
    runs: dict[Command, Runs]
    matches: dict[MatchState, _Count] | None
    to_review: _Count
    brake: Brake
    not_opened: dict[Word, _Count]
    notices_open: _Count
    problems: _Count
    failed_publications: _Count
    room: Room
    checkpoint: Annotated[str, Meta(max_length=4096)]

    @property
    def open_matches(self) -> int:
        """How many matches wait for a person or an action: those found, and those held."""
        counts = self.matches or {}
        return counts.get(MatchState.FOUND, 0) + counts.get(MatchState.HELD, 0)


class Verified(msgspec.Struct, frozen=True):
    """A document whose signature is right, with its key and its checkpoint."""

    document: StatusDocument
    key: str
    checkpoint: Checkpoint


def encode_status(document: StatusDocument, key: Ed25519PrivateKey) -> bytes:
    """Return the file, signed with `key`, which has signed the checkpoint, too."""
    data = sign_document(document, _TAG, key)
    assert len(data) <= MAX_STATUS_BYTES, "a document is bounded by its parts"
    return data


def verify_status(data: bytes) -> Verified:
    """Return the content of a file.

    1. The file has two lines, each a JSON object of the schema, and the key has signed the first
       line.
    2. The checkpoint is of the machine's log, and by the same key.

    Raises:
        VerificationError: one of the rules is broken.
    """
    try:
        document, key = verify_document(data, _TAG, StatusDocument, MAX_STATUS_BYTES)  # 1
        checkpoint = parse_checkpoint(f"{document.checkpoint}\n".encode())
    except AuditError as error:
        raise VerificationError(error.message) from error
    except ValueError as error:
        raise VerificationError(f"not of the format {FORMAT}") from error
    if (checkpoint.identity.log_id, checkpoint.identity.public_key) != (document.machine.id, key):
        raise VerificationError("its checkpoint is of another log")  # 2
    return Verified(document, key, checkpoint)
