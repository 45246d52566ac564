"""Which expander reads which kind of container, in the order in which they are asked.

To add one: a module here with a class, and a row below. `sniffing` has to know its mark as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from hashclient.containers import libarchive, libformats
from hashclient.containers.behind import Behind
from hashclient.containers.compressed import Bzip2, Gzip, Lzma, Xz, Zstd
from hashclient.containers.fronts import (
    FRONT_BYTES,
    ReadAt,
    has_end_of_zip,
    has_other_behind,
)
from hashclient.containers.interface import HEAD_BYTES, Expander
from hashclient.containers.libarchive import DISK_IMAGE
from hashclient.containers.mail import Eml, Message
from hashclient.containers.mbox import Mbox
from hashclient.containers.passwords import ZipWithPasswords
from hashclient.containers.sniffing import has_mark
from hashclient.containers.tar import Tar
from hashclient.containers.tnef import Tnef
from hashclient.containers.zip import Zip


class Registry:
    """All expanders, with what the administrator has given them."""

    def __init__(self, passwords: tuple[bytes, ...] = ()) -> None:
        """`passwords` are tried where something is encrypted."""
        zstd: list[Expander] = [] if libarchive.is_here() else [Zstd()]
        others = libformats.expanders(passwords)
        self._behind = Behind(others)
        self._expanders: Sequence[Expander] = [
            ZipWithPasswords(passwords) if passwords else Zip(),
            Tar(),
            Gzip(),
            Bzip2(),
            Xz(),
            Tnef(),
            Mbox(),
            Eml(),
            Message(),
            *zstd,
            *others,
            Lzma(),  # it has no mark, and is recognized by decoding
        ]

    def named(self, kind: str) -> list[Expander]:
        """Return the expander of a kind, or none."""
        return [expander for expander in self._expanders if expander.name == kind]

    def pick(
        self, head: bytes, tail: bytes, size: int = 0, read_at: ReadAt | None = None
    ) -> list[Expander]:
        """Return the expanders of bytes that begin and end like this.

        Where their `size` is given, `read_at` returns any others of them.

        A beginning may fit several kinds: each is opened. The end counts only where the beginning
        has no mark: an archive whose last member is a zip ends like a zip, too. The end counts as
        well where the beginning is only a text with colons.
        """
        found: list[Expander] = []
        if has_mark(head):
            # The marks of these may lie further on, and more bytes tell more of the last.
            begin, late = head[:HEAD_BYTES], (DISK_IMAGE, Tar.name, Lzma.name)
            found = [
                expander
                for expander in self._expanders
                if expander.sniff(head if expander.name in late else begin, b"")
            ]
            if len(found) > 1 and found[-1].name == "lzma":
                found.pop()  # a guess, where something has a mark
            if any(expander.name != Eml.name for expander in found):
                return found
        if has_end_of_zip(tail):
            found += [expander for expander in self._expanders if expander.sniff(b"", tail)]
        if read_at is not None and has_other_behind(head[:FRONT_BYTES], tail, size, read_at):
            found.append(self._behind)
        return found
