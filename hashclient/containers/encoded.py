"""Files that stand in a text of their own as uuencode, yEnc or BinHex, which begins the text.

Limit: where another text than a mail comes first, they are not looked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import Data, Member, Stream, Unlisted
from hashclient.containers.mail import files_as_members
from hashclient.containers.mimebinary import FileFinder


class Encoded:
    """A text that begins with such a file."""

    name = "encoded"
    seeks = False

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the files, when all of the text was read."""
        source, finder = Forward(data), FileFinder()
        for _ in finder.watch(iter(lambda: source.some(PIECE_BYTES), b"")):
            pass
        yield from files_as_members(finder.files)
