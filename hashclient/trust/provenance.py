"""The origin of a list's entries, and its terms of use: a signed note that belongs to `index.json`.

A provider may publish live entries of another provider's list again, with `provider publish
--from-bundle`. The note is `custom` of the target `index.json` in the metadata of the list's role,
so the keys of the list sign the note. Programs that do not know the JSON fields of the note ignore
these fields.
"""

from __future__ import annotations

import re

import msgspec
from tuf.api.metadata import TargetFile

from hashclient.core.errors import VerificationError
from hashclient.core.model import is_name
from hashclient.system.text import excerpt, printable

FIELD = "hashclient-provenance"
MAX_ORIGINS = 16
MAX_TERMS_CHARS = 2_000
_MAX_GENERATION = 2**53 - 1

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list of a provider: the SHA-256 of the provider's root, the list's name, a generation."""

    root_sha256: str
    list: str
    generation: int


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The origins of the entries of a list, the first origin first, and the terms of use.

    `followed`: the generation in which this list last took over the entries of the last origin.
    """

    origins: tuple[Origin, ...] = ()
    terms: str = ""
    followed: int = 0

    def facts(self) -> list[list[str]]:
        """Return lines for people, each of them a label and a text."""
        found = []
        for origin in self.origins:
            where = f"list {origin.list}, generation {origin.generation}"
            root = f"of the provider whose root.json has sha256 {origin.root_sha256}"
            found.append(["origin", f"{where}, {root}"])
        return [*found, *([["terms", printable(self.terms)]] if self.terms else [])]


def provenance_of(target: TargetFile | None) -> Provenance:
    """Return the note of an `index.json`, or an empty note if there is none.

    Raises:
        VerificationError: the note is malformed.
    """
    custom = target.custom if target is not None else None
    if custom is None:
        return Provenance()
    try:
        found = msgspec.convert(custom.get(FIELD, {}), Provenance)
    except (ValueError, AttributeError) as error:
        raise VerificationError(f"{FIELD} is not valid: {excerpt(error)}") from error
    is_valid = (
        len(found.origins) <= MAX_ORIGINS
        and all(map(_is_origin, found.origins))
        and is_terms(found.terms)
        and 0 <= found.followed <= _MAX_GENERATION
    )
    if not is_valid:
        raise VerificationError(f"{FIELD} is not valid")
    return found


def noted(provenance: Provenance) -> dict[str, object]:
    """Return the note as a part of `custom`; an empty note is left out."""
    return {FIELD: msgspec.to_builtins(provenance)} if provenance != Provenance() else {}


def is_terms(text: str) -> bool:
    """Return whether a text may be the terms of use of a list: printable, and not too long."""
    return len(text) <= MAX_TERMS_CHARS and all(c.isprintable() or c == "\n" for c in text)


def _is_origin(origin: Origin) -> bool:
    return (
        _SHA256.fullmatch(origin.root_sha256) is not None
        and is_name(origin.list)
        and 1 <= origin.generation <= _MAX_GENERATION
    )
