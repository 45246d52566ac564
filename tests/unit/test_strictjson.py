"""JSON from outside: text with one meaning is read back unchanged, other text is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.system.strictjson import parse_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=True, indent=1).encode()) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a": 1, "a": 1}', "same key twice"),
        (b'[{"x": {"a": 1, "b": 2, "a": 3}}]', "same key twice"),
        (b'{"a": 1, "\\u0061": 2}', "same key twice"),
        (b"NaN", "not finite"),
        (b'{"a": -Infinity}', "not finite"),
        (b"[1e999]", "not finite"),
        (b"[-1e999]", "not finite"),
        (b"9" * 5000, "digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'"\\ud800"', "surrogates"),
        (b'{"\\uDEAD": 1}', "surrogates"),
        (b'"\\udc00\\ud800"', "surrogates"),
        (b"\xff\xfe{}", "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"{}{}", "Extra data"),
        (b"{} x", "Extra data"),
        (b"", "Expecting value"),
        (b"{'a': 1}", "Expecting property name"),
    ],
)
def test_text_that_parsers_could_read_differently_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)
