"""Reads JSON documents that are larger than memory, one value at a time.

The caller reads a document piece by piece: a bracket, a key or a value at each call. A value, or a
run of white space, may have at most `MAX_VALUE_CHARS` characters. A document must mean the same to
every parser, so these are refused: objects with the same key twice, numbers that are not finite,
text that is not UTF-8, and deeply nested values.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from hashclient.core.errors import UsageError
from hashclient.lists.importers.importfile import ImportFile
from hashclient.system.strictjson import DoubledKeyError, finite, object_of

MAX_VALUE_CHARS = 1 << 20

_BLANKS = re.compile(r"[ \t\n\r]*")


class Scanner:
    """Reads a JSON document from its beginning."""

    def __init__(self, file: ImportFile) -> None:
        """Keep `file`; the methods of the scanner read from `file` when they are called."""
        self.file = file
        #: The number of the record that is being read, for messages.
        self.number = 1
        #: The text that was read from the file; the part that is not parsed begins at `at`.
        self.text = ""
        self.at = 0
        #: The number of characters that were parsed and removed from the beginning of `text`.
        self.gone = 0
        self._blocks = file.blocks()
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._ended = False
        self._decode = json.JSONDecoder(
            object_pairs_hook=object_of, parse_float=finite, parse_constant=finite
        ).raw_decode

    def fill(self) -> bool:
        """Read more text from the file; return False at the end of the file.

        Raises:
            UsageError: reading fails, or the text is not UTF-8.
        """
        block = b"" if self._ended else next(self._blocks, b"")
        self._ended = not block
        try:
            more = self._decoder.decode(block, self._ended)
        except UnicodeDecodeError:
            raise self.bad("not UTF-8") from None
        self.gone += self.at
        self.text, self.at = self.text[self.at :] + more, 0
        return not self._ended

    def peek(self) -> str:
        """Return the next character that is not blank, or "" at the end of the document."""
        blanks = 0
        while True:
            found = _BLANKS.match(self.text, self.at)
            assert found is not None  # the pattern matches any text
            blanks += found.end() - self.at
            self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if blanks > MAX_VALUE_CHARS:
                raise self.bad("white space without end")
            if not self.fill():
                return ""

    def take(self, character: str) -> bool:
        """Step over `character` if it is the next character; return whether it was."""
        if self.peek() != character:
            return False
        self.at += 1
        return True

    def need(self, character: str) -> None:
        """Step over `character`, which must come next.

        Raises:
            UsageError: the next character is not `character`.
        """
        if not self.take(character):
            raise self.bad("not JSON, or not all of it")

    def value(self) -> Any:
        """Parse and return the next value of the document.

        Raises:
            UsageError: the value is too long, or parsers may read it differently.
        """
        self.peek()
        while True:
            try:
                value, end = self._decode(self.text, self.at)
            except DoubledKeyError:
                raise self.bad("an object that has the same key twice") from None
            except RecursionError:
                raise self.bad("values that are nested too deeply") from None
            except ValueError:
                pass
            else:
                # The digits of a number may continue in text that was not read yet.
                if end < len(self.text) or self._ended:
                    self.at = end
                    return value
                self.fill()
                continue
            if len(self.text) - self.at > MAX_VALUE_CHARS:
                raise self.bad(f"not JSON, or a value of more than {MAX_VALUE_CHARS} characters")
            if self._ended:
                raise self.bad("not JSON, or not all of it")
            self.fill()

    def key(self) -> str:
        """Return the next key of an object, and step over the colon behind it.

        Raises:
            UsageError: the next value is not a key.
        """
        if self.peek() != '"':
            raise self.bad("not JSON, or not all of it")
        key = self.value()
        self.need(":")
        return str(key)

    def items(self) -> Iterator[None]:
        """Step over the brackets and commas of the next array.

        The caller reads one value at each step.

        Raises:
            UsageError: the next value is not an array, or the array is cut off.
        """
        self.need("[")
        if self.take("]"):
            return
        while True:
            yield
            if not self.take(","):
                break
        self.need("]")

    def end(self) -> None:
        """Check that the document has no more text.

        Raises:
            UsageError: more text follows.
        """
        if self.peek():
            raise self.bad("there is text after the end of the document")

    def bad(self, what: str) -> UsageError:
        """Return the error for the record that is being read; `what` is the fault."""
        return self.file.bad(self.number, what)
