"""The note beside an index says where its entries come from."""

from __future__ import annotations

import pytest
from tuf.api.metadata import TargetFile

from hashclient.trust.provenance import (
    Origin,
    Provenance,
    has_note_alone,
    note,
    provenance_of,
)

ORIGIN = Origin("0" * 64, "base", 3)


@pytest.mark.parametrize(
    "said", [Provenance(origins=(ORIGIN,)), Provenance(terms="terms"), Provenance(followed=7)]
)
def test_a_note_is_read_as_it_was_written_and_an_empty_one_is_none(said: Provenance) -> None:
    target = TargetFile.from_data("index.json", b"{}")
    note(target, Provenance())
    assert not target.unrecognized_fields and not has_note_alone(target)
    assert provenance_of(target) == provenance_of(None) == Provenance()
    note(target, said)
    assert has_note_alone(target) and provenance_of(target) == said
    target.unrecognized_fields["more"] = 1
    assert not has_note_alone(target)
