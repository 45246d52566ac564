"""Where a listing that ended early goes on: a text to be given back as it was told.

It says of which URI it is and behind which key it goes on. It holds no secret and proves nothing:
whoever makes one up only leaves out what comes before, as with another URI.
"""

from __future__ import annotations

import base64
import binascii
import json
import os

from hashclient.core.objecturi import ObjectUri
from hashclient.errors import UsageError

_VERSION = 1
#: A key has 1,024 bytes at most, and a URI three characters for each.
_MAX_CHARS = 16_384


def make_token(uri: ObjectUri, after: str) -> str:
    """Return the token of a listing of `uri` that goes on behind the key `after`."""
    key = base64.b64encode(os.fsencode(after)).decode()
    document = json.dumps([_VERSION, uri.text, key], separators=(",", ":"))
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def read_token(token: str, uri: ObjectUri) -> str:
    """Return the key that a token says, for a listing of `uri`.

    Raises:
        UsageError: it is none, or is of something else.
    """
    try:
        if len(token) > _MAX_CHARS:
            raise ValueError(token)
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        version, text, key = json.loads(raw)
        after = os.fsdecode(base64.b64decode(key, validate=True))
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        raise UsageError(
            "what --resume was given is no token", hint="give it as the scan has told it"
        ) from error
    if version != _VERSION:
        raise UsageError(
            "the token of --resume is of another version", hint="scan from the beginning"
        )
    if text != uri.text:
        raise UsageError(
            f"the token of --resume is not of {uri.text}",
            hint="give the URI that the scan had which has told it",
        )
    return after
