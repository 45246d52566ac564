"""Feedback on the wire: the numbers of matches of each entry, from a client to a provider.

A feedback file has two lines: a JSON object with the counts of each entry, and a JSON object with
the client's key and the key's signature of the first line. The counts include all matches that the
client has recorded, so a later feedback file of a client replaces earlier feedback files of the
client. A feedback file contains no path, no digest and no name of a person. `docs/feedback.md`
specifies the format of feedback.
"""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from hashclient.core.errors import VerificationError
from hashclient.core.model import Time, is_entry_id, is_name
from hashclient.system.signed import Key, sign_document, verify_document

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Literal["hashclient-feedback/1"] = "hashclient-feedback/1"
MAX_FEEDBACK_BYTES = 64 << 20
#: The signed bytes begin with this text, so that a signature made for another purpose is not valid
#: for feedback.
_TAG = b"hashclient feedback v1\n"
KEY_PATTERN = re.compile(r"[0-9a-f]{64}\Z")

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class EntryFeedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry with the numbers of its matches that were confirmed, rejected, excepted and held."""

    list: str
    entry: str
    confirmed: _Count
    rejected: _Count
    excepted: _Count
    held: _Count


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a feedback file.

    `provider_root` is the SHA-256 of the provider's root that the client has pinned.
    """

    format: Literal["hashclient-feedback/1"]
    provider_root: Key
    made: Time
    entries: tuple[EntryFeedback, ...]


def encode_feedback(feedback: Feedback, key: Ed25519PrivateKey) -> bytes:
    """Return the bytes of a feedback file, signed with `key`."""
    made = feedback.made.astimezone(UTC)
    return sign_document(msgspec.structs.replace(feedback, made=made), _TAG, key)


def verify_feedback(data: bytes) -> tuple[Feedback, str]:
    """Return the content of a feedback file, and the public key that has signed the file.

    1. The file has two lines, and each line is a JSON object of the schema.
    2. The key in the second line has signed the first line.
    3. Each list has a valid name, each entry has a valid id, and no entry occurs twice.

    Raises:
        VerificationError: one of the rules is broken.
    """
    try:
        # Rules 1 and 2 of `verify_feedback`.
        feedback, key = verify_document(data, _TAG, Feedback, MAX_FEEDBACK_BYTES)
        names = {(one.list, one.entry) for one in feedback.entries}
        if len(names) != len(feedback.entries):  # rule 3 of `verify_feedback`
            raise ValueError("an entry twice")
        if not all(is_name(name) and is_entry_id(entry) for name, entry in names):
            raise ValueError("not a name")
    except VerificationError as error:
        raise VerificationError("the signature of the feedback is wrong") from error
    except ValueError as error:  # `verify_document` raises a ValueError for data of another form
        raise VerificationError(f"not feedback of the format {FORMAT}") from error
    return feedback, key
