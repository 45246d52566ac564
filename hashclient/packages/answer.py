"""The answer of an organisation to a report: accepted and refused matches, and requests.

An answer is one line of ASCII in a canonical form, signed with the organisation's key, about one
report of one machine. `docs/reporting.md` specifies answers, and `docs/answer.schema.json` is their
schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from hashclient.audit.ed25519 import BadSignatureError, verify
from hashclient.audit.record import format_time
from hashclient.core.errors import VerificationError
from hashclient.core.model import Time
from hashclient.packages.document import MatchId, ReportId
from hashclient.system.strictjson import parse_json
from hashclient.system.text import for_programs

FORMAT: Literal["hashclient-answer/1"] = "hashclient-answer/1"
#: The largest answer in bytes, which is enough to name 10,000 matches several times.
MAX_ANSWER_BYTES = 1 << 20

#: The first bytes of every answer.
BEGINNING = b'{"format":"hashclient-answer/'

_TAG = b"hashclient answer v1\n"

_Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
_Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,500}\Z")]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request of an organisation: keep the sealed files until a time, destroy them, or retract.

    `text`: the name of the order, for example its file number.
    """

    request: Literal["keep", "destroy", "retract"]
    matches: tuple[MatchId, ...]
    until: Time | None
    text: _Text


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer to one report.

    `log_id` and `public_key` identify the audit log that signed the package.

    `id`: a random text, so that an answer is not counted twice. `reference`: the name that the
    organisation that answers has for the report. `key`: the public key that verifies the answer.
    """

    format: Literal["hashclient-answer/1"]
    id: _Id
    time: Time
    body: _Text
    report: ReportId
    log_id: _Id
    public_key: _Key
    reference: _Text | None
    accepted: tuple[MatchId, ...]
    refused: tuple[MatchId, ...]
    requests: tuple[Request, ...]
    key: _Key

    @property
    def matches(self) -> frozenset[str]:
        """The ids of all matches that the answer names."""
        asked = (match_id for request in self.requests for match_id in request.matches)
        return frozenset((*self.accepted, *self.refused, *asked))


def requests_of(answer: Answer) -> dict[str, list[str]]:
    """Return the requests of an answer as texts, by match."""
    found: dict[str, list[str]] = {match_id: [] for match_id in sorted(answer.matches)}
    for one in answer.requests:
        end = "" if one.until is None else f" until {for_programs(one.until)}"
        for match_id in dict.fromkeys(one.matches):
            found[match_id].append(f"{one.request}{end}")
    return found


def encode_answer(answer: Answer, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the signed answer; `sign` must sign with the key `answer.key`."""
    head = _head(answer)
    return head + _ending(sign(_TAG + head).hex())


def parse_answer(text: bytes) -> Answer:
    """Verify an answer with the key that it names; the caller must know whose key this is.

    1. The answer has, byte for byte, the form in which `encode_answer` writes it.
    2. All values fit the schema, no match is both accepted and refused, and a request has an end if
       and only if it is a request to keep.
    3. The signature of the answer is valid.

    Raises:
        VerificationError: the text is not an answer, or was changed.
    """
    try:
        if len(text) > MAX_ANSWER_BYTES:
            raise ValueError("too long")
        values = parse_json(text)
        sig = values.pop("sig")
        signature = bytes.fromhex(sig)
        answer = msgspec.convert(values, Answer)  # rule 2 of `parse_answer`
        head = _head(answer)
        if text != head + _ending(sig):  # rule 1 of `parse_answer`
            raise ValueError("another spelling")
        if {*answer.accepted} & {*answer.refused}:
            raise ValueError("accepted and refused")
        if any((one.request == "keep") != (one.until is not None) for one in answer.requests):
            raise ValueError("an end of another request, or none")
    except (
        *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
        OverflowError,  # the time is before the year 1 or after the year 9999
    ) as error:
        raise VerificationError(f"not an answer of the format {FORMAT}") from error
    try:
        verify(bytes.fromhex(answer.key), signature, _TAG + head)  # rule 3 of `parse_answer`
    except BadSignatureError as error:
        raise VerificationError("the answer has a bad signature") from error
    return answer


def _head(answer: Answer) -> bytes:
    text = json.dumps(_plain(answer), separators=(",", ":"))
    return text.removesuffix("}").encode("ascii")


def _ending(signature: str) -> bytes:
    return f',"sig":{json.dumps(signature)}}}\n'.encode("ascii")


def _plain(value: Any) -> Any:
    """Return a value with structs, tuples and times as JSON values."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return format_time(value) if isinstance(value, datetime) else value
