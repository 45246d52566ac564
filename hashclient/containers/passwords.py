"""The expander of zip archives that is used if the administrator has configured passwords.

`zip` lists the archive and reads the members that are not encrypted; libarchive decrypts the
encrypted members. Encrypted members that libarchive does not support stay unread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import cast

from hashclient.containers import libarchive
from hashclient.containers.interface import Data, Expander, Member, Stream, Unlisted, Why
from hashclient.containers.zip import Zip


class ZipWithPasswords:
    """The expander of zip archives that tries passwords on encrypted members."""

    name = Zip.name
    seeks = Zip.seeks
    ends = staticmethod(Zip.ends)

    def __init__(self, passwords: tuple[bytes, ...]) -> None:
        """`passwords` are tried on each encrypted member."""
        self._zip = Zip()
        self._reader = libarchive.Libarchive(
            "zip", formats=("zip_seekable",), seeks=True, passwords=passwords
        )

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the plain members, and then the encrypted members."""
        closed: list[Unlisted] = []
        for found in self._zip.members(data):
            if isinstance(found, Unlisted) and found.why is Why.ENCRYPTED:
                closed.append(found)
            else:
                yield found
        if not closed or not libarchive.is_here():
            yield from closed
            return
        left = Counter(one.name for one in closed)
        for found in self._reader.encrypted(cast(Data, data)):
            name = found.name if isinstance(found, Unlisted) else found[0].name
            if left[name] > 0:
                left[name] -= 1
                yield found
        # Encrypted members that libarchive does not list are reported as unread.
        for one in closed:
            if left[one.name] > 0:
                left[one.name] -= 1
                yield one


def zip_with(_name: str, passwords: tuple[bytes, ...]) -> Expander:
    """Return the expander of zip archives, which tries `passwords` if there are any."""
    return ZipWithPasswords(passwords) if passwords else Zip()
