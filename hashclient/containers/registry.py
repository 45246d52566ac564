"""Which expander reads what: each kind of container that there is, in the order they are asked.

To add one: a module here with a class, and a row below.
"""

from __future__ import annotations

from collections.abc import Sequence

from hashclient.containers.interface import Expander
from hashclient.containers.libarchive import expanders


class Registry:
    """All expanders, with what the administrator has given them."""

    def __init__(self, passwords: tuple[bytes, ...] = ()) -> None:
        """`passwords` are tried where something is encrypted."""
        self._expanders: Sequence[Expander] = expanders(passwords)

    def named(self, kind: str) -> list[Expander]:
        """Return the expander of a kind, or none."""
        return [expander for expander in self._expanders if expander.name == kind]

    def pick(self, head: bytes, tail: bytes) -> list[Expander]:
        """Return the expanders of bytes that begin and end like this; the best comes first.

        There are several where one file is two kinds of container: each is opened.
        """
        return [expander for expander in self._expanders if expander.sniff(head, tail)]
