"""Parses JSON strictly: only documents that mean the same to every parser.

The standard parser accepts more than JSON: of two values under one key it takes the last one, and
`NaN` is a number. Signed, compared or stored documents must not mean different things to different
parsers. The caller limits the length; Python limits numbers and depth.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

#: A lone surrogate: half of a character beyond the first 65,536.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON document in UTF-8.

    Raises:
        ValueError: the document is not JSON; or an object has the same key twice, a number is not
            finite or has too many digits, text has half a character, or nesting is too deep.
    """
    text = data.decode("utf-8")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite
        )
        if _SURROGATE.search(text) is not None:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("an object has the same key twice")
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number
