"""The expander of text files that begin with a file in uuencode, yEnc or BinHex.

Limit: encoded files that follow other text are only searched for in mail.
"""

from __future__ import annotations

from collections.abc import Iterator

from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import Data, Member, Stream, Unlisted
from hashclient.containers.mail import files_as_members
from hashclient.containers.mimebinary import FileFinder

#: If none of this number of first bytes is a line feed, carriage returns end the lines.
_LINES_BYTES = 4 << 10


class Encoded:
    """The expander of a text that begins with an encoded file."""

    name = "encoded"
    seeks = False

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the encoded files, after the whole text was read."""
        source = Forward(data)
        finder = FileFinder(is_old=b"\n" not in source.peek(_LINES_BYTES))
        for _ in finder.watch(iter(lambda: source.some(PIECE_BYTES), b"")):
            pass
        yield from files_as_members(finder.files)
