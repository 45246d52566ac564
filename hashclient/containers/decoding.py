"""Compressed bytes made plain, a bounded piece at a time.

Every method of the standard library behind one protocol, and one loop that drives it. The memory is
two pieces and the window that the method declares, up to `MAX_WINDOW_BYTES`.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from hashclient.containers.forward import PIECE_BYTES
from hashclient.containers.interface import NotReadError, Why

#: Bytes of the first piece: enough to recognise the kind of a member, in a few microseconds.
FIRST_PIECE_BYTES = 1 << 10
#: `xz -9` needs 65 MiB; a stream that declares more is not read.
MAX_WINDOW_BYTES = 192 << 20
MAX_WINDOW_LOG = 27


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


#: This library is faster than zlib, with the same interface.
_zlib: Any = _optional("isal.isal_zlib") or zlib
_zstd: Any = _optional("compression.zstd")  # Python 3.14
HAS_ZSTD = _zstd is not None
crc32: Callable[[bytes, int], int] = _zlib.crc32

#: The errors of decoders; `not_read` says what each means.
ERRORS: tuple[type[Exception], ...] = (
    zlib.error,
    lzma.LZMAError,
    OSError,  # errors of bz2
    MemoryError,
    EOFError,
    ValueError,
    getattr(_zlib, "error", zlib.error),
    *([_zstd.ZstdError] if HAS_ZSTD else ()),
)


class Decoder(Protocol):
    """The form of a compressed stream that `bz2`, `lzma` and `compression.zstd` share."""

    @property
    def eof(self) -> bool:
        """Whether the decoder has met the end of its stream."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether the decoder needs more input before it returns more bytes."""
        ...

    @property
    def unused_data(self) -> bytes:
        """The input that follows the end of the stream."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take `data`, and return up to `max_length` bytes."""
        ...


def inflater(wbits: int) -> Any:
    """Return an object as `zlib.decompressobj` does."""
    return _zlib.decompressobj(wbits)


def brief_inflater(wbits: int) -> Any:
    """Return an inflater for few bytes: `isal` is faster with many, but takes longer to begin."""
    return zlib.decompressobj(wbits)


class Inflater:
    """Deflate as a `Decoder`: bare, or in another form by `wbits` of zlib."""

    def __init__(self, wbits: int = -15) -> None:
        """Begin before the first byte."""
        self._inflater = inflater(wbits)
        self._rest = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the decoder has met the end of its stream."""
        return bool(self._inflater.eof)

    @property
    def unused_data(self) -> bytes:
        """The input that follows its end."""
        return bytes(self._inflater.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take `data`, and return up to `max_length` bytes."""
        inflater = self._inflater
        rest = self._rest
        out: bytes = inflater.decompress(rest + data if rest else data, max_length)
        self._rest = rest = inflater.unconsumed_tail
        # After a full piece, the window may still contain bytes.
        self.needs_input = not rest and len(out) < max_length
        return out


def deflate() -> Decoder:
    """Return a decoder of bare deflate."""
    return Inflater()


def bzip2() -> Decoder:
    """Return a decoder of one bzip2 stream."""
    return bz2.BZ2Decompressor()


def xz() -> Decoder:
    """Return a decoder of one xz stream, which checks its sums."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW_BYTES)


def lzma_alone() -> Decoder:
    """Return a decoder of the legacy `.lzma`."""
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_WINDOW_BYTES)


def zstd() -> Decoder:
    """Return a decoder of one zstd frame; only if `HAS_ZSTD`."""
    options = {_zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    decoder: Decoder = _zstd.ZstdDecompressor(options=options)
    return decoder


def bare_lzma(properties: bytes) -> Decoder:
    """Return a decoder of bare LZMA, whose five bytes of properties are given.

    Raises:
        NotReadError: the properties are invalid, or need more memory than is allowed.
    """
    number, window = properties[0], int.from_bytes(properties[1:5], "little")
    if number >= 9 * 5 * 5:
        raise NotReadError(Why.DAMAGED, "invalid properties of lzma")
    if window > MAX_WINDOW_BYTES:
        raise NotReadError(Why.LIMIT, f"window of lzma: {window} bytes")
    rest, lc = divmod(number, 9)
    pb, lp = divmod(rest, 5)
    if lc + lp > 4:
        raise NotReadError(Why.UNSUPPORTED, "properties of lzma that liblzma does not read")
    chain = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": max(window, 4096)}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[chain])


def decoded(
    decoder: Decoder, read: Callable[[], bytes], *, needs_end: bool = True
) -> Iterator[bytes]:
    """Yield the decoded bytes of all that `read` returns, until `decoder` meets its end.

    Without `needs_end`, the end of the input is an end, too.

    Raises:
        NotReadError: the data is damaged, or needs more memory than is allowed.
    """
    raw = read()
    most = FIRST_PIECE_BYTES
    while True:
        try:
            out = decoder.decompress(raw, most)
        except ERRORS as error:
            raise not_read(error) from error
        if out:
            yield out
        if decoder.eof:
            return
        most = PIECE_BYTES
        raw = b""
        if decoder.needs_input:
            raw = read()
            if not raw:
                if needs_end:
                    raise NotReadError(Why.DAMAGED, "compressed data: ends too early")
                return


def not_read(error: Exception) -> NotReadError:
    """Return what an error of a decoder means."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "memory" in text or "window" in text:
        return NotReadError(Why.LIMIT, f"compressed data: {text}")
    return NotReadError(Why.DAMAGED, f"compressed data: {text}")
