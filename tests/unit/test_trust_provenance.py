"""The note beside an index names the providers of the entries."""

from __future__ import annotations

import pytest
from tuf.api.metadata import TargetFile

from hashclient.core.errors import VerificationError
from hashclient.trust.provenance import (
    FIELD,
    Origin,
    Provenance,
    noted,
    provenance_of,
)

ORIGIN = Origin("0" * 64, "base", 3)


@pytest.mark.parametrize(
    "said", [Provenance(origins=(ORIGIN,)), Provenance(terms="terms"), Provenance(followed=7)]
)
def test_a_note_is_read_as_it_was_written_and_an_empty_one_is_none(said: Provenance) -> None:
    target = TargetFile.from_data("index.json", b"{}")
    assert noted(Provenance()) == {}
    assert provenance_of(target) == provenance_of(None) == Provenance()
    target.unrecognized_fields["custom"] = {"other": 1}
    assert provenance_of(target) == Provenance()
    target.unrecognized_fields["custom"] = noted(said)
    assert provenance_of(target) == said
    assert len(noted(said)[FIELD]) == 1  # type: ignore[arg-type]


def note(**changes: object) -> dict[str, object]:
    """Return a note with one origin in which the given fields are changed."""
    origin = {"root_sha256": "0" * 64, "list": "base", "generation": 3}
    return {"origins": [{**origin, **changes}]}


@pytest.mark.parametrize(
    ("written", "valid"),
    [
        *(({}, True), (note(), True), ({"origins": note()["origins"] * 16}, True)),  # type: ignore[operator]
        ({"origins": note()["origins"] * 17}, False),  # type: ignore[operator]
        *((note(root_sha256=text), False) for text in ("", "0" * 63, "0" * 65, "A" * 64, "g" * 64)),
        *((note(list=text), False) for text in ("", "A", "a/b")),
        *((note(generation=n), n in (1, 2**53 - 1)) for n in (0, 1, 2**53 - 1, 2**53)),
        *(({"followed": n}, 0 <= n < 2**53) for n in (-1, 0, 2**53 - 1, 2**53)),
        *(({"terms": "x" * n}, n <= 2_000) for n in (0, 2_000, 2_001)),
        *(
            ({"terms": text}, valid)
            for text, valid in (("a\nb", True), ("a\tb", False), ("\0", False))
        ),
        *(({"more": 1}, False), (note(more=1), False), ([], False), ("text", False)),
    ],
)
def test_a_note_that_breaks_a_rule_is_refused(written: object, valid: bool) -> None:
    target = TargetFile.from_data("index.json", b"{}")
    target.unrecognized_fields["custom"] = {FIELD: written}
    if valid:
        provenance_of(target)
    else:
        with pytest.raises(VerificationError, match=FIELD):
            provenance_of(target)


def test_a_note_in_something_else_than_an_object_is_refused() -> None:
    target = TargetFile.from_data("index.json", b"{}")
    target.unrecognized_fields["custom"] = [FIELD]
    with pytest.raises(VerificationError):
        provenance_of(target)


def test_the_facts_are_lines_for_people() -> None:
    assert Provenance().facts() == []
    facts = Provenance(origins=(ORIGIN, Origin("1" * 64, "more", 1)), terms="a\nb").facts()
    assert [label for label, _ in facts] == ["origin", "origin", "terms"]
    assert facts[0][1].startswith("list base, generation 3, of the provider")
    assert facts[1][1].endswith("1" * 64)
    assert "\n" not in facts[2][1]
