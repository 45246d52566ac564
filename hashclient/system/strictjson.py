"""Parses JSON strictly, so that a document has the same meaning for every parser.

Python's parser accepts more than JSON: it uses the last value of a key that occurs twice, and reads
`NaN` as a number. Signed, compared or stored documents must not have different meanings for
different parsers. The caller limits the length of a document; Python limits the digits of a number
and the depth of nesting.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

#: An escaped surrogate. A character beyond U+FFFF consists of two surrogates, so a surrogate
#: without a second surrogate is no character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class DoubledKeyError(ValueError):
    """An object has the same key twice."""


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON document in UTF-8.

    Raises:
        ValueError: the document is not JSON, an object has the same key twice, a number is not
            finite or has too many digits, a text contains a lone surrogate, or nesting is too deep.
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
    """Return the object with these pairs of keys and values; `json` calls this function.

    Raises:
        DoubledKeyError: the object has the same key twice.
    """
    document = dict(pairs)
    if len(document) != len(pairs):
        raise DoubledKeyError("an object has the same key twice")
    return document


def finite(text: str) -> float:
    """Return the number in `text`; `json` calls this function.

    Raises:
        ValueError: the number is not finite.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number
