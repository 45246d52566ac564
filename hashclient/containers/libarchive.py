"""Expanders that use libarchive: for rar, rpm, iso images, zstd and other formats.

The system's C library libarchive is called through ctypes, in the sandboxed process. This module
tells libarchive the format of each file, because libarchive's own detection mistakes ordinary text
for an archive. Only the built-in filters of libarchive are used, and never external programs.
libarchive is loaded with this module, before the sandbox takes effect, because no file can be
opened in the sandbox. If libarchive is not installed, containers that need libarchive are reported
as unread, with this reason. The memory that libarchive uses is not managed by Python, but the
memory limit of the process includes it.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from ctypes import (
    CFUNCTYPE,
    POINTER,
    byref,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_ssize_t,
    c_void_p,
)
from functools import partial

from hashclient.containers.compressed import is_joined
from hashclient.containers.forward import in_pieces
from hashclient.containers.interface import (
    Data,
    Member,
    NotReadError,
    Stream,
    Unlisted,
    Why,
)

#: The file name of libarchive 3; its package is `libarchive13` or `libarchive13t64` in Debian, and
#: `libarchive` in Fedora.
LIBRARY = "libarchive.so.13"
MISSING = "no libarchive: install the package libarchive13, or libarchive"

_EOF, _OK, _WARN, _FAILED, _FATAL = 1, 0, -20, -25, -30
_REGULAR, _DIRECTORY, LINK = 0o100000, 0o040000, 0o120000
#: The longest path, in bytes. If the target of a symbolic link is longer, 7-Zip writes the target
#: as the content of a file.
_MAX_PATH_BYTES = 4095
_BLOCK_BYTES = 1 << 18
#: The most entries in a row that may fail although libarchive has read no byte in between; after
#: more failures, the rest of the archive is reported as unread.
_MOST_FAILURES = 1_000

_Read = CFUNCTYPE(c_ssize_t, c_void_p, c_void_p, POINTER(c_void_p))
_Skip = CFUNCTYPE(c_int64, c_void_p, c_void_p, c_int64)
_Seek = CFUNCTYPE(c_int64, c_void_p, c_void_p, c_int64, c_int)


def _load() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    for name, result, arguments in (
        ("archive_read_new", c_void_p, ()),
        ("archive_read_free", c_int, (c_void_p,)),
        ("archive_read_open1", c_int, (c_void_p,)),
        ("archive_read_set_callback_data", c_int, (c_void_p, c_void_p)),
        ("archive_read_set_read_callback", c_int, (c_void_p, _Read)),
        ("archive_read_set_skip_callback", c_int, (c_void_p, _Skip)),
        ("archive_read_set_seek_callback", c_int, (c_void_p, _Seek)),
        ("archive_read_next_header", c_int, (c_void_p, POINTER(c_void_p))),
        (
            "archive_read_data_block",
            c_int,
            (c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_int64)),
        ),
        ("archive_read_set_options", c_int, (c_void_p, c_char_p)),
        ("archive_read_add_passphrase", c_int, (c_void_p, c_char_p)),
        ("archive_read_has_encrypted_entries", c_int, (c_void_p,)),
        ("archive_error_string", c_char_p, (c_void_p,)),
        ("archive_entry_pathname", c_char_p, (c_void_p,)),
        ("archive_entry_pathname_utf8", c_char_p, (c_void_p,)),
        ("archive_entry_symlink", c_char_p, (c_void_p,)),
        ("archive_filter_bytes", c_int64, (c_void_p, c_int)),
        ("archive_entry_filetype", c_int, (c_void_p,)),
        ("archive_entry_size", c_int64, (c_void_p,)),
        ("archive_entry_size_is_set", c_int, (c_void_p,)),
        ("archive_entry_is_encrypted", c_int, (c_void_p,)),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


_LIBRARY = _load()


def is_here() -> bool:
    """Return whether libarchive is installed."""
    return _LIBRARY is not None


#: Character sets of names in lha archives for which the C library must load a converter from a
#: file. An archive may name any character set. `_CHARSETS` contains the sets of Japan, China and
#: Korea, and the sets of DOS and Windows in other countries.
_CHARSETS = (
    *("CP932", "CP936", "CP949", "CP950", "BIG5", "EUC-JP"),
    *("ISO-8859-1", "CP437", "CP850", "CP852", "CP866", "CP1250", "CP1251", "CP1252"),
)


def load_charsets() -> None:
    """Load the character set converters.

    The C library reads the converters from files, which is impossible in the sandbox.
    """
    iconv_open = ctypes.CDLL(None).iconv_open
    iconv_open.argtypes, iconv_open.restype = (c_char_p, c_char_p), c_void_p
    for name in _CHARSETS:
        for pair in ((b"UTF-8", name.encode()), (b"UTF-16BE", name.encode())):
            iconv_open(*pair)  # the converters are never closed, because closing would unload them


#: The archives that are being read, by the number that libarchive passes to the callbacks.
_OPEN: dict[int, _Input] = {}


class _Input:
    """The input of an archive; an error in a callback is kept until libarchive has returned."""

    def __init__(self, data: Data | Stream, *, seeks: bool) -> None:
        self._data = data
        self._whole: Data | None = data if seeks else None  # type: ignore[assignment]
        self._position = 0
        self._block = self._last = b""
        self.error: NotReadError | MemoryError | None = None

    def read(self, block: ctypes._Pointer[c_void_p]) -> int:
        try:
            if self._whole is not None:
                self._block = self._whole.read_at(self._position, _BLOCK_BYTES)
            else:
                self._block = self._data.read(_BLOCK_BYTES)
        except (NotReadError, MemoryError) as error:
            self.error = error
            return _FATAL
        self._position += len(self._block)
        self._last = self._block or self._last
        block[0] = ctypes.cast(c_char_p(self._block), c_void_p)
        return len(self._block)

    def rest(self, consumed: int) -> bytes:
        """Return the bytes of the last block that are after the first `consumed` bytes of input."""
        left = self._position - consumed
        return self._last[-left:] if 0 < left <= len(self._last) else b""

    def skip(self, count: int) -> int:
        if self._whole is None:
            return 0
        skipped = max(0, min(count, self._whole.size - self._position))
        self._position += skipped
        return skipped

    def seek(self, offset: int, whence: int) -> int:
        if self._whole is None:
            return _FATAL
        base = (0, self._position, self._whole.size)[whence]
        if not 0 <= base + offset <= self._whole.size:
            return _FATAL
        self._position = base + offset
        return self._position


def _on_read(_: int, key: int, block: ctypes._Pointer[c_void_p]) -> int:
    return _OPEN[key].read(block)


def _on_skip(_: int, key: int, count: int) -> int:
    return _OPEN[key].skip(count)


def _on_seek(_: int, key: int, offset: int, whence: int) -> int:
    return _OPEN[key].seek(offset, whence)


# The callbacks are created when the module is loaded, because ctypes may need executable memory,
# which the sandbox forbids.
_READ, _SKIP, _SEEK = _Read(_on_read), _Skip(_on_skip), _Seek(_on_seek)


class _Archive:
    """An archive that is being read by libarchive."""

    _keys = iter(range(1, 2**62))

    def __init__(
        self,
        data: Data | Stream,
        *,
        formats: tuple[str, ...],
        filters: tuple[str, ...],
        seeks: bool,
        passwords: tuple[bytes, ...],
        options: bytes = b"",
    ) -> None:
        if _LIBRARY is None:
            raise NotReadError(Why.MISSING, MISSING)
        self._library = _LIBRARY
        self._input = _Input(data, seeks=seeks)
        self._key = next(self._keys)
        self._archive = self._library.archive_read_new()
        if not self._archive:
            raise MemoryError
        _OPEN[self._key] = self._input
        library, archive = self._library, self._archive
        self._is_open = False
        try:
            for kind, names in (("format", formats), ("filter", filters)):
                for name in names:
                    function = getattr(library, f"archive_read_support_{kind}_{name}", None)
                    if function is None:
                        raise NotReadError(Why.MISSING, f"this libarchive does not read {name}")
                    function.argtypes = (c_void_p,)
                    # libarchive returns a warning if it needs an external program for the filter;
                    # this process must not start programs.
                    if function(archive) != _OK:
                        raise NotReadError(Why.MISSING, f"this libarchive does not read {name}")
            self._check(library.archive_read_set_options(archive, options))
            for password in passwords:
                library.archive_read_add_passphrase(archive, password)
            library.archive_read_set_callback_data(archive, self._key)
            library.archive_read_set_read_callback(archive, _READ)
            if seeks:
                library.archive_read_set_skip_callback(archive, _SKIP)
                library.archive_read_set_seek_callback(archive, _SEEK)
            self._check(library.archive_read_open1(archive))
            self._is_open = True
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._library.archive_read_free(self._archive)
        _OPEN.pop(self._key, None)

    def next(self) -> tuple[int, int | None] | None:
        """Return the next entry and its status; return None at the end of the archive."""
        entry = c_void_p()
        status = self._library.archive_read_next_header(self._archive, byref(entry))
        if status == _EOF:
            if self._input.error is not None:
                raise self._input.error
            return None
        # Every other status is an error, even the status that asks for a retry, because the
        # selected formats never need a retry.
        if status not in (_OK, _WARN) and (status != _FAILED or not entry.value):
            raise self.error()
        return entry.value or 0, status

    def chunks(self, size: int | None) -> Iterator[bytes]:
        # libarchive returns an offset with each block, because files may have holes. The offsets
        # are ignored for two reasons: files in the selected formats have no holes, and the offsets
        # of a member of a xar do not begin with zero.
        block, count, offset = c_void_p(), c_size_t(), c_int64()
        length = 0
        while True:
            status = self._library.archive_read_data_block(
                self._archive, byref(block), byref(count), byref(offset)
            )
            if status == _EOF:
                break
            if status != _OK:
                # A warning counts as an error, because the warning may be about a wrong checksum.
                raise self.error()
            if count.value:
                length += count.value
                yield ctypes.string_at(block, count.value)
        if self._input.error is not None:
            raise self._input.error
        if size is not None and length < size:
            raise NotReadError(Why.DAMAGED, f"ends after {length:,} of {size:,} bytes")

    @property
    def consumed(self) -> int:
        """How many bytes of the input libarchive has consumed."""
        return int(self._library.archive_filter_bytes(self._archive, -1))

    def rest(self) -> bytes:
        """Return the first bytes of the input that follow the compressed data.

        libarchive sometimes also consumes the first four bytes that follow the compressed data.
        """
        return self._input.rest(self.consumed - 4)

    def _check(self, status: int) -> None:
        if status != _OK:
            raise self.error()

    def error(self) -> NotReadError | MemoryError:
        """Return libarchive's last error as an exception with libarchive's text."""
        if self._input.error is not None:
            return self._input.error
        raw = self._library.archive_error_string(self._archive) or b"it cannot be read"
        text = raw.decode("utf-8", "replace").lower().strip().rstrip(".")
        # `archive_read_has_encrypted_entries` must not be called if the format was not recognised,
        # because libarchive would end the process.
        is_encrypted = self._is_open and (
            self._library.archive_read_has_encrypted_entries(self._archive) > 0
        )
        if is_encrypted or re.search("crypt|passphrase|password", text):
            return NotReadError(Why.ENCRYPTED, text)
        if re.search("memory|allocat", text):
            return MemoryError()
        if re.search("unsupported|not supported|unknown|not implemented", text):
            return NotReadError(Why.UNSUPPORTED, text)
        return NotReadError(Why.DAMAGED, text)


class Libarchive:
    """The expander of a format that libarchive reads."""

    def __init__(
        self,
        name: str,
        *,
        formats: tuple[str, ...] = (),
        seeks: bool = False,
        is_exact: bool = False,
        ignores_types: bool = False,
        passwords: tuple[bytes, ...] = (),
    ) -> None:
        """`formats` are libarchive's names of the formats.

        If `formats` is empty, `name` is the only format. With `ignores_types`, an entry with bytes
        is a file, even if libarchive takes the entry for a directory or a link.
        """
        self.name = name
        self.seeks = seeks
        self._formats = formats or (name,)
        self._is_exact = is_exact
        self._ignores_types = ignores_types
        self._passwords = passwords

    def _has_bytes(self, kind: int, size: int | None) -> bool:
        """Return whether an entry with another type than a regular file has content like a file."""
        if kind == 0:
            return size != 0
        return bool(size) and (self._ignores_types or kind not in (_DIRECTORY, LINK))

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`."""
        yield from self._members(data, only_encrypted=False)

    def encrypted(self, data: Data) -> Iterator[list[Member] | Unlisted]:
        """Yield only the encrypted members, and try the passwords on each of them."""
        yield from self._members(data, only_encrypted=True)

    def with_options(
        self, data: Data | Stream, options: bytes
    ) -> Iterator[list[Member] | Unlisted]:
        """Yield the members; `options` are format options for libarchive."""
        yield from self._members(data, only_encrypted=False, options=options)

    def _members(
        self, data: Data | Stream, *, only_encrypted: bool, options: bytes = b""
    ) -> Iterator[list[Member] | Unlisted]:
        archive = _Archive(
            data,
            formats=self._formats,
            filters=(),
            seeks=self.seeks,
            passwords=self._passwords,
            options=options,
        )
        library = _LIBRARY
        assert library is not None
        failures, failed_at = 0, -1
        try:
            while (found := archive.next()) is not None:
                entry, status = found
                raw = library.archive_entry_pathname(entry)
                name = (library.archive_entry_pathname_utf8(entry) or b"") if raw is None else raw
                if status == _FAILED:
                    error = archive.error()
                    # The number of failures is limited, because libarchive may return the same
                    # failure for ever without reading further.
                    failures = failures + 1 if archive.consumed == failed_at else 0
                    failed_at = archive.consumed
                    if isinstance(error, MemoryError) or failures > _MOST_FAILURES:
                        raise error
                    yield Unlisted(name, error.why, error.detail)
                    continue
                if status == _WARN:
                    passed = archive.error()
                    if isinstance(passed, NotReadError) and "skipped" in passed.detail:
                        yield Unlisted(b"", passed.why, passed.detail)
                kind = library.archive_entry_filetype(entry)
                target = library.archive_entry_symlink(entry) if kind == LINK else None
                if target is not None and len(target) > _MAX_PATH_BYTES:
                    yield [Member(name, len(target), True, partial(in_pieces, target))]  # noqa: FBT003
                size = None
                if library.archive_entry_size_is_set(entry):
                    size = library.archive_entry_size(entry)
                if kind != _REGULAR and not self._has_bytes(kind, size):
                    continue
                is_encrypted = library.archive_entry_is_encrypted(entry) > 0
                if only_encrypted and not is_encrypted:
                    continue
                if is_encrypted and not self._passwords:
                    yield Unlisted(name, Why.ENCRYPTED, "encrypted")
                    continue
                yield [
                    Member(
                        name,
                        size,
                        self._is_exact,
                        _reading(archive, size),
                    )
                ]
        finally:
            archive.close()


def _reading(archive: _Archive, size: int | None) -> Callable[[], Iterator[bytes]]:
    return lambda: archive.chunks(size)


class Filtered:
    """The expander of a compressed file whose compression libarchive decodes."""

    seeks = False

    def __init__(self, name: str) -> None:
        """`name` is libarchive's name of the compression."""
        self.name = name

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`."""
        archive = _Archive(
            data, formats=("raw", "empty"), filters=(self.name,), seeks=False, passwords=()
        )
        try:
            if archive.next() is not None:
                yield [Member(b"", None, False, _reading(archive, None))]  # noqa: FBT003 - a field
                rest = archive.rest()
                if is_joined(rest) or is_joined(rest[4:]):
                    text = f"another stream follows that of {self.name}"
                    yield Unlisted(b"", Why.UNSUPPORTED, text)
        finally:
            archive.close()
