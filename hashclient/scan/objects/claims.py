"""Digests that a store gives with its listing: MD5s, as far as an ETag may be one.

S3 makes the ETag of an object that was uploaded whole from its MD5; Google does so, too. An ETag
with a dash (of parts), of another length, or of an encrypted object is something else, and of these
the last look like an MD5. So an ETag only tells where the configuration says that those of a store
are MD5s. Columns in, columns out.
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


def md5_claims(etags: Any) -> tuple[Flags, Uint8]:
    """Return which of n ETags may be an MD5, and these as (m, 16) bytes, in their order."""
    bare = pc.utf8_trim(etags, '"')
    fits = pc.fill_null(pc.equal(pc.binary_length(bare), _HEX_CHARS), fill_value=False)
    chosen = bare.filter(fits).cast(pa.binary()).cast(pa.binary(_HEX_CHARS))
    flags: Flags = np.array(fits.to_numpy(zero_copy_only=False), np.bool_)
    count = len(chosen)
    if not count:
        return flags, np.zeros((0, 16), np.uint8)
    text = np.frombuffer(
        chosen.buffers()[1], np.uint8, count * _HEX_CHARS, chosen.offset * _HEX_CHARS
    )
    # Mostly all are hexadecimal, and this is faster. It skips blanks, which leaves fewer bytes.
    with contextlib.suppress(ValueError):
        raw = bytes.fromhex(text.tobytes().decode("latin-1"))
        if len(raw) == 16 * count:
            return flags, np.frombuffer(raw, np.uint8).reshape(count, 16)
    digits = _DIGITS[text].reshape(count, _HEX_CHARS)
    is_hex = (digits != _NO_DIGIT).all(axis=1)
    flags[np.flatnonzero(flags)[~is_hex]] = False
    digits = digits[is_hex]
    return flags, (digits[:, ::2] << 4) | digits[:, 1::2]
