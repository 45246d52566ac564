"""Files in gzip or zstd: what is in them, read as it comes, whatever it is.

The beginning says so, not the name. What is cut off or damaged is refused, and so is something that
is compressed twice: nobody makes that by accident.
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
    """Return the file that is in a compressed one; of any other, itself.

    Raises:
        UsageError: reading fails, or it is compressed twice.
    """
    codec = _codec(file)
    if codec is None:
        return file
    inner = ImportFile(cast(BinaryIO, _Expanded(file, codec)), file.name, file.reading)
    inner.name = file.name  # it is printable already
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
    """What is in a compressed file, as a stream."""

    def __init__(self, file: ImportFile, codec: str) -> None:
        import pyarrow as pa

        self._name, self._codec = file.name, codec
        packed = pa.PythonFile(_Packed(file), mode="r")
        self._stream: pa.NativeFile = pa.CompressedInputStream(packed, codec)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except OSError as error:  # its message is the library's
            raise UsageError(
                f"{self._name}: what is in this {self._codec} file cannot be unpacked",
                hint="it is damaged, or not all of it is here; get it again",
            ) from error
        return data
