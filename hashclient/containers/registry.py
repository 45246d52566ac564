"""Creates the expanders of all kinds from the rows in `kinds`, in the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, cast

from hashclient.containers.behind import Begun, Behind
from hashclient.containers.fronts import FRONT_BYTES
from hashclient.containers.interface import Expander
from hashclient.containers.kind import Kind, Sure
from hashclient.containers.kinds import KINDS
from hashclient.containers.sniffing import (
    ReadAt,
    ends_as_other,
    has_end_of_zip,
    in_program,
    look,
)


class Registry:
    """All expanders.

    The expanders of encrypted archives get the passwords that the administrator has configured.
    """

    def __init__(self, passwords: tuple[bytes, ...] = (), kinds: Sequence[Kind] = KINDS) -> None:
        """`passwords` are tried on encrypted members."""
        self._made = {kind: _made(kind, passwords) for kind in kinds if kind.expander}
        self._ending = [cast(Any, one) for kind, one in self._made.items() if kind.in_tail]
        self._behind = Behind(
            [(kind, cast(Begun, self._made.get(kind))) for kind in kinds if kind.in_programs]
        )
        self._most = {kind.name: kind.most_members for kind in kinds}
        self._with_readings = {kind.name for kind in kinds if kind.has_readings}

    def named(self, name: str) -> list[Expander]:
        """Return the expander of a kind in a list.

        The list is empty if the kind has no expander.
        """
        return [expander for kind, expander in self._made.items() if kind.name == name]

    def most_members(self, name: str) -> int | None:
        """Return how many members one container of a kind may have; None means no limit."""
        return self._most.get(name)

    def has_readings(self, name: str) -> bool:
        """Return whether members of a kind are read in several ways."""
        return name in self._with_readings

    def pick(
        self, head: bytes, tail: bytes, size: int = 0, read_at: ReadAt | None = None
    ) -> list[Expander]:
        """Return the expanders for bytes with the beginning `head` and the end `tail`.

        If `read_at` is given, it reads the bytes at any offset, and `size` is their number.

        If the beginning fits several kinds, the expanders of all these kinds are returned. The end
        is also examined, unless the beginning shows a kind with `hides_end`.
        """
        fitting = look(head)
        found = [
            kind
            for kind, expander in self._made.items()
            if kind in fitting and (kind.sure is Sure.MARK or cast(Any, expander).sniff(head))
        ]
        if len(found) > 1:
            found = [kind for kind in found if kind.sure is not Sure.GUESS]
        expanders = [self._made[kind] for kind in found]
        if any(kind.hides_end for kind in found):
            return expanders
        if has_end_of_zip(tail):
            expanders += [one for one in self._ending if one.ends(tail)]
        if read_at is not None and (
            ends_as_other(tail) or in_program(head[:FRONT_BYTES], size, read_at)
        ):
            expanders.append(self._behind)
        return expanders


def _made(kind: Kind, passwords: tuple[bytes, ...]) -> Expander:
    """Return the expander that the row of a kind names."""
    module, _, name = kind.expander.partition(":")
    factory = getattr(import_module(f"hashclient.containers.{module}"), name)
    expander: Expander = factory() if isinstance(factory, type) else factory(kind.name, passwords)
    return expander
