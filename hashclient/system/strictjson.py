"""Parses JSON strictly: only documents that mean the same to every parser.

The standard parser accepts more than JSON: if a key occurs twice, it uses the last value, and `NaN`
is a number. Signed, compared or stored documents must not mean different things to different
parsers. The caller limits the length; Python limits numbers and depth.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

#: A lone surrogate: half of a character beyond the first 65,536.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class DoubledKeyError(ValueError):
    """An object has the same key twice."""


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON document in UTF-8.

    Raises:
        ValueError: the document is not JSON; or an object has a key twice, a number is not finite
            or has too many digits, a text has half a character, or nesting is too deep.
    """
    text = data.decode("utf-8")
    try:
        value = json.loads(
            text, object_pairs_hook=object_of, parse_float=finite, parse_constant=finite
        )
        if _SURROGATE.search(text) is not None:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, for a decoder.

    Raises:
        DoubledKeyError: the object has the same key twice.
    """
    document = dict(pairs)
    if len(document) != len(pairs):
        raise DoubledKeyError("an object has the same key twice")
    return document


def finite(text: str) -> float:
    """Return a number, for a decoder.

    Raises:
        ValueError: the number is not finite.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number
