"""Splits text files of digests into lines, for all importers of text files.

Blank lines and comments are the only lines that are skipped. A line ends in LF, CRLF or CR. A line
with NUL or another character that some programs take for the end of a line (VT, FF, NEL, U+2028 and
others) is refused, because the rest of the line would become part of a file's name and the digest
in it would never be looked up. A line has at most `MAX_LINE_BYTES` bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from hashclient.lists.importers.importfile import BYTE_ORDER_MARK, MAX_LINE_BYTES, ImportFile

Numbered = Iterator[tuple[int, bytes]]

#: The byte-order marks with which files in UTF-16 and UTF-32 begin. UTF-16 without a byte-order
#: mark is refused because it contains NULs.
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
#: Characters that are refused inside a line: NUL, and all characters that some program takes for
#: the end of a line.
_CONTROLS = b"\0\x0b\x0c\x1c\x1d\x1e"
_SEPARATORS = re.compile(rb"[\0\x0b\x0c\x1c-\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9]|\x85")
#: The beginning of a row in which the digest comes first, or after a size.
_ROW_START = re.compile(
    rb"[ \t]*(?:\\?(?:[0-9A-Fa-f]{32}|(?:MD5|SHA[-0-9]+)[ ]?\()|[0-9]{1,18},[0-9A-Fa-f]{32}|%%%%)"
)


def chunks_of_lines(file: ImportFile) -> Numbered:
    """Yield chunks of whole lines, beginning with the first line that is not blank or a comment.

    Each line of a chunk ends in LF, and each chunk is yielded with the number of its first line.
    The caller has to pass all text from the first row on to `refuse_separators`.

    Raises:
        UsageError: a line is too long, the file is UTF-16 or UTF-32, or reading fails.
    """
    has_begun = False
    for line, chunk in _whole_lines(file):
        if line == 1:
            if chunk.startswith(_OTHER_ENCODINGS):
                raise file.bad(1, "not UTF-8 but UTF-16 or UTF-32")
            chunk = chunk.removeprefix(BYTE_ORDER_MARK)
        if has_begun:
            yield line, chunk
            continue
        content, first = _first_content(chunk, line)
        refuse_separators(chunk.removesuffix(content), line, file)
        if content:
            has_begun = True
            yield first, content


def _whole_lines(file: ImportFile) -> Numbered:
    line, tail, held = 1, b"", b""
    for read in file.blocks():
        block, held = held + read, b""
        if b"\r" in block:
            if block.endswith(b"\r"):
                block, held = block[:-1], b"\r"  # the LF of a CRLF may come with the next bytes
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = block.rfind(b"\n") + 1
        if end:
            chunk = b"".join([tail, memoryview(block)[:end]])
            yield line, chunk
            line += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == ord("\n")))
            tail = b""
        tail += block[end:]
        if len(tail) > MAX_LINE_BYTES:
            raise file.bad(line, f"a line of more than {MAX_LINE_BYTES} bytes")
    if tail:
        yield line, tail + b"\n"


def lines_of(first: int, chunk: bytes, file: ImportFile) -> Numbered:
    """Yield the lines of a chunk without their ends; blank lines and comments are left out.

    Raises:
        UsageError: a line is too long, or contains a character that may be meant to end the line.
    """
    refuse_separators(chunk, first, file)
    # The chunk ends in a newline, so the text after the last newline is empty and is skipped.
    for line, content in enumerate(chunk.split(b"\n"), first):
        if len(content) > MAX_LINE_BYTES:
            raise file.bad(line, f"a line of more than {MAX_LINE_BYTES} bytes")
        if content.strip() and not content.startswith(b"#"):
            yield line, content


def refuse_separators(chunk: bytes, first: int, file: ImportFile) -> None:
    """Refuse a chunk in which a line contains a character that may be meant to end a line.

    Raises:
        UsageError: `chunk` contains a character that may be meant to end a line.
    """
    if chunk.isascii() and len(chunk.translate(None, _CONTROLS)) == len(chunk):
        return
    for found in _SEPARATORS.finditer(chunk):
        if found[0] == b"\x85":
            # The byte 0x85 may be part of a UTF-8 letter, or the end of a line in ISO 8859-1; if it
            # ends a line, a row follows.
            start, end = chunk.rfind(b"\n", 0, found.start()) + 1, chunk.find(b"\n", found.end())
            if _is_utf8(chunk[start:end]) or not _ROW_START.match(chunk, found.end(), end):
                continue
        line = first + chunk.count(b"\n", 0, found.start())
        shown = found[0].decode("latin-1" if len(found[0]) == 1 else "utf-8")
        what = f"the character U+{ord(shown):04X} within a line, which may be meant to end it"
        raise file.bad(line, what)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_content(chunk: bytes, line: int) -> tuple[bytes, int]:
    """Drop blank lines and comments before the first row; return the rest and its line number."""
    start = 0
    while start < len(chunk):
        end = chunk.find(b"\n", start) + 1
        content = chunk[start:end].strip()
        if content and not content.startswith(b"#"):
            break
        start, line = end, line + 1
    return chunk[start:], line
