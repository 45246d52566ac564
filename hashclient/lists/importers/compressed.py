"""Files in gzip or zstd: unpacks them as a stream.

The first bytes of a file decide, not its name. A truncated or damaged file is refused, and so is a
file that is compressed twice, since nobody makes one by accident.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, cast

from hashclient.errors import UsageError
from hashclient.lists.importers.importfile import ImportFile

if TYPE_CHECKING:
    import pyarrow as pa

_MAGICS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MAGIC_BYTES = 4


def expanded(file: ImportFile) -> ImportFile:
    """Return the content of a compressed file; any other file is returned as it is.

    Raises:
        UsageError: reading fails, or it is compressed twice.
    """
    codec = _codec(file)
    if codec is None:
        return file
    inner = ImportFile(cast(BinaryIO, _Expanded(file, codec)), file.name, file.reading)
    inner.name = file.name  # the name is printable already
    if _codec(inner) is not None:
        raise UsageError(f"{file.name}: compressed twice", hint="unpack it first")
    return inner


def _codec(file: ImportFile) -> str | None:
    beginning = file.beginning(_MAGIC_BYTES)
    return next((c for magic, c in _MAGICS.items() if beginning.startswith(magic)), None)


class _Packed(io.RawIOBase):
    """The bytes of a file as a stream that can be read by the piece."""

    def __init__(self, file: ImportFile) -> None:
        self._blocks = file.blocks()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not self._rest:
            self._rest = next(self._blocks, b"")
        end = len(self._rest) if size < 0 else size
        given, self._rest = self._rest[:end], self._rest[end:]
        return given


class _Expanded(io.RawIOBase):
    """The content of a compressed file, as a stream."""

    def __init__(self, file: ImportFile, codec: str) -> None:
        import pyarrow as pa

        self._name, self._codec = file.name, codec
        packed = pa.PythonFile(_Packed(file), mode="r")
        self._stream: pa.NativeFile = pa.CompressedInputStream(packed, codec)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            # `read` of pyarrow 26 never frees the bytes that it was to fill, if it fails.
            data: bytes = self._stream.read_buffer(None if size < 0 else size).to_pybytes()
        except OSError as error:  # the message is the library's
            raise UsageError(
                f"{self._name}: this {self._codec} file cannot be unpacked",
                hint="it is damaged, or not all of it is here; get it again",
            ) from error
        return data
