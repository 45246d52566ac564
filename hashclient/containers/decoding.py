"""Decodes compressed bytes, in pieces of limited size.

The decoders of the standard library are used through the protocol `Decoder` by the function
`decoded`. Decoding needs memory for two pieces, and for the window size that the compressed data
states, up to `MAX_WINDOW_BYTES`.
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

#: The size of the first decoded piece, in bytes. The piece is large enough to recognise the kind of
#: a member, and is decoded within microseconds.
FIRST_PIECE_BYTES = 1 << 10
#: The largest permitted window, in bytes: a stream that declares a larger window is not read. `xz
#: -9` declares a window of 65 MiB.
MAX_WINDOW_BYTES = 192 << 20
MAX_WINDOW_LOG = 27


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


#: `isal` has the interface of zlib and is faster.
_zlib: Any = _optional("isal.isal_zlib") or zlib
_zstd: Any = _optional("compression.zstd")  # since Python 3.14
HAS_ZSTD = _zstd is not None
crc32: Callable[[bytes, int], int] = _zlib.crc32

#: The exceptions of all decoders; `not_read` converts them to `NotReadError`.
ERRORS: tuple[type[Exception], ...] = (
    zlib.error,
    lzma.LZMAError,
    OSError,  # raised by bz2
    MemoryError,
    EOFError,
    ValueError,
    getattr(_zlib, "error", zlib.error),
    *([_zstd.ZstdError] if HAS_ZSTD else ()),
)


class Decoder(Protocol):
    """A decoder of one stream, with the interface of `bz2`, `lzma` and `compression.zstd`."""

    @property
    def eof(self) -> bool:
        """Whether the decoder has reached the end of its stream."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether the decoder needs more input before it returns more bytes."""
        ...

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the stream."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Decode `data`, and return up to `max_length` decoded bytes."""
        ...


def inflater(wbits: int) -> Any:
    """Return a decompression object, as `zlib.decompressobj` does."""
    return _zlib.decompressobj(wbits)


def brief_inflater(wbits: int) -> Any:
    """Return a decompression object for few bytes.

    The object is zlib's, because `isal` is slower to start, although faster for many bytes.
    """
    return zlib.decompressobj(wbits)


class Inflater:
    """A `Decoder` of deflate data; `wbits` selects zlib's format, for example bare deflate."""

    def __init__(self, wbits: int = -15) -> None:
        """Create a decoder that has read nothing yet."""
        self._inflater = inflater(wbits)
        self._rest = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the decoder has reached the end of its stream."""
        return bool(self._inflater.eof)

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the stream."""
        return bytes(self._inflater.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Decode `data`, and return up to `max_length` decoded bytes."""
        inflater = self._inflater
        rest = self._rest
        out: bytes = inflater.decompress(rest + data if rest else data, max_length)
        self._rest = rest = inflater.unconsumed_tail
        # If `out` has `max_length` bytes, zlib may have decoded more bytes that it has not returned
        # yet.
        self.needs_input = not rest and len(out) < max_length
        return out


def deflate() -> Decoder:
    """Return a decoder of bare deflate."""
    return Inflater()


def bzip2() -> Decoder:
    """Return a decoder of one bzip2 stream."""
    return bz2.BZ2Decompressor()


def xz() -> Decoder:
    """Return a decoder of one xz stream; the decoder verifies the checksums."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW_BYTES)


def lzma_alone() -> Decoder:
    """Return a decoder of the legacy format `.lzma`."""
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_WINDOW_BYTES)


def zstd() -> Decoder:
    """Return a decoder of one zstd frame; the function may only be called if `HAS_ZSTD` is true."""
    options = {_zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    decoder: Decoder = _zstd.ZstdDecompressor(options=options)
    return decoder


def bare_lzma(properties: bytes) -> Decoder:
    """Return a decoder of LZMA data without a header.

    `properties` are the five bytes of properties.

    Raises:
        NotReadError: the properties are invalid, or require more memory than is permitted.
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
    chain = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": window}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[chain])


def decoded(
    decoder: Decoder, read: Callable[[], bytes], *, needs_end: bool = True
) -> Iterator[bytes]:
    """Yield the decoded bytes of all input that `read` returns, until the end of the stream.

    Without `needs_end`, the end of the input also ends the stream.

    Raises:
        NotReadError: the data is damaged, or requires more memory than is permitted.
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
    """Return the `NotReadError` for an exception of a decoder."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "memory" in text or "window" in text:
        return NotReadError(Why.LIMIT, f"compressed data: {text}")
    return NotReadError(Why.DAMAGED, f"compressed data: {text}")
