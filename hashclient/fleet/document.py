"""Status documents: the state of a machine, signed with the key of its audit log.

A file has two lines: a JSON object, and a key with its signature of the first line
(`system.signed`). The document contains counts, times, exit codes and names of lists. The document
contains no path, no digest, no id of an entry and no name of a person. `docs/fleet.md` specifies
the document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from hashclient.audit.record import Checkpoint, parse_checkpoint
from hashclient.core.errors import AuditError, VerificationError
from hashclient.core.kinds import MatchState
from hashclient.core.model import Time
from hashclient.system.signed import sign_document, verify_document

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Literal["hashclient-status/1"] = "hashclient-status/1"
MAX_STATUS_BYTES = 64 << 10
SUFFIX = ".jsonl"
#: The number of lists that always fit into a document, whatever their names; if a machine has more
#: lists, fresh lists are left out first.
MOST_LISTS = 150
_TAG = b"hashclient status v1\n"

_Count = Annotated[int, Meta(ge=0, le=1 << 53)]
_Code = Annotated[int, Meta(ge=0, le=255)]
_Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
#: The name of a kind of container that is not opened.
Word = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
Command = Literal["fetch", "scan", "lookup", "watch", "serve"]
Freshness = Literal["fresh", "grace", "stale", "unusable"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a document.

    Unknown keys are refused, so that a document can contain nothing else.
    """


class Machine(_Part, frozen=True):
    """A machine: the id of its audit log, and its host name.

    `copy`: a hash of the id, the name and the system's machine id, which differs if another machine
    has a copy of the state.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    copy: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]

    @property
    def file_name(self) -> str:
        """The name of the file with the status document of this machine."""
        return f"{self.id}-{self.copy}{SUFFIX}"


class ListState(_Part, frozen=True):
    """The state of a list that should be on the machine.

    `refused`: the exit code of the last fetch, if it failed.
    """

    name: _Name
    provider: _Name | None
    state: Freshness
    generation: _Count | None = None
    published: Time | None = None
    expires: Time | None = None
    checked: Time | None = None
    refused: _Code | None = None


class Runs(msgspec.Struct, forbid_unknown_fields=True):
    """The runs of a command: the last run, and counts for the last 24 hours."""

    last: Time
    exit_code: _Code | None = None
    runs: _Count = 0
    failed: _Count = 0
    inputs: _Count = 0
    match: _Count = 0
    unread: _Count = 0


class Brake(_Part, frozen=True):
    """The limits of actions per day (the brake), and the number of entries with held matches."""

    per_entry: _Count
    per_day: _Count
    entries_held: _Count


class Room(_Part, frozen=True):
    """The free space on the file system of the state directory."""

    free_bytes: _Count
    total_bytes: _Count


class StatusDocument(_Part, frozen=True, kw_only=True):
    """The first line of a document: the state of a machine.

    `counter`: a number that grows with each new document of a machine. `interval_s`: the machine
    promises the next document within this many seconds. `counted_since`: the time from which `runs`
    are counted. `matches`: the number of matches in each state; None if no record of matches
    exists, or if it cannot be read. `checkpoint`: a checkpoint of the audit log, as a line of text.
    """

    format: Literal["hashclient-status/1"]
    machine: Machine
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.+-]{1,64}\Z")]
    made: Time
    counter: _Count
    interval_s: Annotated[int, Meta(ge=1, le=1 << 31)]
    exit_code: _Code
    lists: Annotated[tuple[ListState, ...], Meta(max_length=MOST_LISTS)]
    lists_omitted: _Count
    providers_unknown: _Count
    counted_since: Time
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
        """The number of matches that wait for a person or an action: found or held."""
        counts = self.matches or {}
        return counts.get(MatchState.FOUND, 0) + counts.get(MatchState.HELD, 0)


class Verified(msgspec.Struct, frozen=True):
    """A document whose signature is valid, with its key and its checkpoint."""

    document: StatusDocument
    key: str
    checkpoint: Checkpoint


def encode_status(document: StatusDocument, key: Ed25519PrivateKey) -> bytes:
    """Return the bytes of a document, signed with `key`.

    The key that signs the document must also have signed the checkpoint.
    """
    data = sign_document(document, _TAG, key)
    assert len(data) <= MAX_STATUS_BYTES, "a document is bounded by its parts"
    return data


def verify_status(data: bytes) -> Verified:
    """Verify the bytes of a document, and return its content.

    1. The file has two lines, each a JSON object of the schema, and the key in the second line has
       signed the first line.
    2. The checkpoint is of the machine's log, and was signed with the key of the document.

    Raises:
        VerificationError: one of the rules is broken.
    """
    try:
        # Rule 1 of `verify_status`.
        document, key = verify_document(data, _TAG, StatusDocument, MAX_STATUS_BYTES)
        checkpoint = parse_checkpoint(f"{document.checkpoint}\n".encode())
    except AuditError as error:
        raise VerificationError(error.message) from error
    except ValueError as error:
        raise VerificationError(f"not of the format {FORMAT}") from error
    if (checkpoint.identity.log_id, checkpoint.identity.public_key) != (document.machine.id, key):
        raise VerificationError("its checkpoint is of another log")  # rule 2 of `verify_status`
    return Verified(document, key, checkpoint)
