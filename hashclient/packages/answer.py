"""The answer of a body to a report: the received and accepted matches, and its requests.

An answer is one line of ASCII with one spelling, signed by the body's key, about one report of one
machine. `docs/reporting.md` specifies answers, `docs/answer.schema.json` is their schema.
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
from hashclient.packages.document import MatchId, ReportId
from hashclient.system.strictjson import parse_json
from hashclient.system.text import for_programs

FORMAT: Literal["hashclient-answer/1"] = "hashclient-answer/1"
#: An answer names up to 10,000 matches a few times.
MAX_ANSWER_BYTES = 1 << 20

#: The fixed first bytes of every answer.
BEGINNING = b'{"format":"hashclient-answer/'

_TAG = b"hashclient answer v1\n"

_Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
_Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,500}\Z")]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request of a body: to keep the sealed files until a time, to destroy them, or to retract.

    `text` names the order, for example its file number.
    """

    request: Literal["keep", "destroy", "retract"]
    matches: tuple[MatchId, ...]
    until: _Time | None
    text: _Text


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer. `log_id` and `public_key` belong to the audit log that signed the package.

    `id` is random, so that an answer counts once. `reference` is the body's name for the report.
    `key` is the public key that signs the answer.
    """

    format: Literal["hashclient-answer/1"]
    id: _Id
    time: _Time
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
        """All matches that the answer names."""
        asked = (match_id for request in self.requests for match_id in request.matches)
        return frozenset((*self.accepted, *self.refused, *asked))


def requests_of(answer: Answer) -> dict[str, list[str]]:
    """Return in words the requests of an answer, by match."""
    found: dict[str, list[str]] = {match_id: [] for match_id in sorted(answer.matches)}
    for one in answer.requests:
        end = "" if one.until is None else f" until {for_programs(one.until)}"
        for match_id in dict.fromkeys(one.matches):
            found[match_id].append(f"{one.request}{end}")
    return found


def encode_answer(answer: Answer, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the signed answer; `sign` signs bytes with the key `answer.key`."""
    head = _head(answer)
    return head + _ending(sign(_TAG + head).hex())


def parse_answer(text: bytes) -> Answer:
    """Verify an answer by the key that it names; the caller has to know whose key this is.

    1. The answer is spelled as `encode_answer` spells it, byte for byte.
    2. All values fit the schema, no match is both accepted and refused, and only a request to keep
       has an end.
    3. The signature of the answer is right.

    Raises:
        VerificationError: the text is not an answer, or was changed.
    """
    try:
        if len(text) > MAX_ANSWER_BYTES:
            raise ValueError("too long")
        values = parse_json(text)
        sig = values.pop("sig")
        signature = bytes.fromhex(sig)
        answer = msgspec.convert(values, Answer)  # 2
        head = _head(answer)
        if text != head + _ending(sig):  # 1
            raise ValueError("another spelling")
        if {*answer.accepted} & {*answer.refused}:
            raise ValueError("accepted and refused")
        if any((one.request == "keep") != (one.until is not None) for one in answer.requests):
            raise ValueError("an end of another request, or none")
    except (
        *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
        OverflowError,  # a time beyond the first or last year
    ) as error:
        raise VerificationError(f"not an answer of the format {FORMAT}") from error
    try:
        verify(bytes.fromhex(answer.key), signature, _TAG + head)  # 3
    except BadSignatureError as error:
        raise VerificationError("the answer has a bad signature") from error
    return answer


def _head(answer: Answer) -> bytes:
    text = json.dumps(_plain(answer), separators=(",", ":"))
    return text.removesuffix("}").encode("ascii")


def _ending(signature: str) -> bytes:
    return f',"sig":{json.dumps(signature)}}}\n'.encode("ascii")


def _plain(value: Any) -> Any:
    """Return a struct as JSON values."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return format_time(value) if isinstance(value, datetime) else value
