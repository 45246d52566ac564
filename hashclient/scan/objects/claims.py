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
import pyarrow.compute as pc

Flags = npt.NDArray[np.bool_]
Uint8 = npt.NDArray[np.uint8]

_HEX_CHARS = 32
_MD5 = '^"?[0-9A-Fa-f]{32}"?$'

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
    fits = pc.fill_null(pc.match_substring_regex(etags, _MD5), fill_value=False)
    text = "".join(etags.filter(fits).to_pylist()).replace('"', "")
    flags: Flags = np.array(fits.to_numpy(zero_copy_only=False), np.bool_)
    return flags, np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, _HEX_CHARS // 2)
