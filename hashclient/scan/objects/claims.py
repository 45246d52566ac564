"""Digests that a store gives with its listing: ETags that may be MD5s.

S3 makes the ETag of an object that was uploaded whole from its MD5; Google does so, too. An ETag
with a dash (of parts), of another length, or of an encrypted object is something else, and the last
kind looks like an MD5. So an ETag counts only where the configuration says that the ETags of a
store are MD5s. Columns in, columns out.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Flags = npt.NDArray[np.bool_]
Uint8 = npt.NDArray[np.uint8]

_HEX_CHARS = 32
_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
for _value, _char in enumerate(b"0123456789abcdef"):
    _DIGITS[_char] = _value
for _value, _char in enumerate(b"ABCDEF", 10):
    _DIGITS[_char] = _value

#: How an outcome says that it rests on such a digest, by the scheme of its store.
EVIDENCE = {"s3": "etag", "gs": "md5Hash"}


def _all_alike(etags: Any) -> Uint8 | None:
    """Return (n, 32) characters if n ETags all have that many, all in quotes or all without."""
    count = len(etags)
    if not count or etags.null_count:
        return None
    offsets = np.frombuffer(etags.buffers()[1], np.int32, count + 1, 4 * etags.offset)
    width = int(offsets[1] - offsets[0])
    if width not in (_HEX_CHARS, _HEX_CHARS + 2) or (np.diff(offsets) != width).any():
        return None
    text = np.frombuffer(etags.buffers()[2], np.uint8, count * width, int(offsets[0]))
    text = text.reshape(count, width)
    if width == _HEX_CHARS:
        return text
    return text[:, 1:-1] if (text[:, [0, -1]] == ord('"')).all() else None


def _of_hex(text: Uint8) -> Uint8 | None:
    """Return n digests as (n, 16) bytes if (n, 32) characters are all hexadecimal."""
    # This is faster than a table. It skips blanks, which leaves fewer bytes.
    with contextlib.suppress(ValueError):
        raw = bytes.fromhex(text.tobytes().decode("latin-1"))
        if 2 * len(raw) == text.size:
            return np.frombuffer(raw, np.uint8).reshape(-1, _HEX_CHARS // 2)
    return None


def md5_claims(etags: Any) -> tuple[Flags, Uint8]:
    """Return which of n ETags may be an MD5, and those m ETags as (m, 16) bytes, in order."""
    alike = _all_alike(etags)
    if alike is not None and (digests := _of_hex(alike)) is not None:
        return np.ones(len(etags), np.bool_), digests
    bare = pc.utf8_trim(etags, '"')
    fits = pc.fill_null(pc.equal(pc.binary_length(bare), _HEX_CHARS), fill_value=False)
    chosen = bare.filter(fits).cast(pa.binary()).cast(pa.binary(_HEX_CHARS))
    flags: Flags = np.array(fits.to_numpy(zero_copy_only=False), np.bool_)
    count = len(chosen)
    if not count:
        return flags, np.zeros((0, 16), np.uint8)
    text = np.frombuffer(
        chosen.buffers()[1], np.uint8, count * _HEX_CHARS, chosen.offset * _HEX_CHARS
    ).reshape(count, _HEX_CHARS)
    if (digests := _of_hex(text)) is not None:
        return flags, digests
    digits = _DIGITS[text]
    is_hex = (digits != _NO_DIGIT).all(axis=1)
    flags[np.flatnonzero(flags)[~is_hex]] = False
    digits = digits[is_hex]
    return flags, (digits[:, ::2] << 4) | digits[:, 1::2]
