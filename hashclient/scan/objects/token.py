"""A token: a text that says where a listing that ended early goes on.

It has the URI and the key behind which the listing goes on. It holds no secret and proves nothing:
a made-up token only leaves out earlier keys, as another URI would.
"""

from __future__ import annotations

import base64
import os

import msgspec

from hashclient.core.errors import UsageError
from hashclient.core.objecturi import ObjectUri

_VERSION = 1
#: A key has 1,024 bytes at most, and a URI three characters for each.
_MAX_CHARS = 16_384


def make_token(uri: ObjectUri, after: str) -> str:
    """Return the token of a listing of `uri` that goes on behind the key `after`."""
    document = msgspec.json.encode((_VERSION, uri.text, os.fsencode(after)))
    return base64.urlsafe_b64encode(document).decode().rstrip("=")


def read_token(token: str, uri: ObjectUri) -> str:
    """Return the key in a token, for a listing of `uri`.

    Raises:
        UsageError: it is no token, or is for something else.
    """
    try:
        padded = token[:_MAX_CHARS] + "=" * (-len(token) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        version, text, key = msgspec.json.decode(raw, type=tuple[int, str, bytes])
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "the value of --resume is no token", hint="give it exactly as the scan has shown it"
        ) from error
    if version != _VERSION:
        raise UsageError(
            "the token of --resume is of another version", hint="scan from the beginning"
        )
    if text != uri.text:
        raise UsageError(
            f"the token of --resume is not of {uri.text}",
            hint="give the URI of the scan that has shown it",
        )
    return os.fsdecode(key)
