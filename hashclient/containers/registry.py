"""The expanders of all kinds, made from the rows in `kinds`, in the same order."""

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
    """All expanders, made with the passwords of the administrator."""

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
        """Return the expander of a kind, or none."""
        return [expander for kind, expander in self._made.items() if kind.name == name]

    def most_members(self, name: str) -> int | None:
        """Return how many members one container of a kind may have; None without a limit."""
        return self._most.get(name)

    def has_readings(self, name: str) -> bool:
        """Return whether members of a kind are read in several ways."""
        return name in self._with_readings

    def pick(
        self, head: bytes, tail: bytes, size: int = 0, read_at: ReadAt | None = None
    ) -> list[Expander]:
        """Return the expanders of bytes with this beginning and end.

        With `size`, `read_at` returns other bytes of the content.

        A beginning may fit several kinds: each is opened. Unless the beginning shows a kind that
        hides its end, the end counts, too.
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
    """Return the expander that a row names."""
    module, _, name = kind.expander.partition(":")
    factory = getattr(import_module(f"hashclient.containers.{module}"), name)
    expander: Expander = factory() if isinstance(factory, type) else factory(kind.name, passwords)
    return expander
