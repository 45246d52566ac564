"""Compares a draft with files of digests that somebody who signs has: are its new entries in them?

An entry is in the files if a row has one of its digests, and differs in none that both have. The
answer names entries by their ids, and rows by their numbers, never a digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from hashclient.provider.asking import Listing
from hashclient.provider.drafts import Draft, load_draft
from hashclient.provider.find import Questions
from hashclient.provider.listfiles import Shown


class Comparison(msgspec.Struct, frozen=True, rename={"list_name": "list"}):
    """A list of a draft beside files: ids of entries that the draft adds, each sorted.

    `missing` are in no row; `differing` are in a row that has another digest or size, too. All
    others of the `added` ones are in the files.
    """

    list_name: str
    added: int
    missing: tuple[str, ...]
    differing: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all added entries are in the files."""
        return not self.missing and not self.differing


def compare_draft(
    directory: Path, questions: Questions
) -> tuple[Draft, tuple[Comparison, ...], tuple[str, ...]]:
    """Verify a draft, and look for its new entries in the files that `questions` asks about.

    Return it, a comparison for each list, and the rows that are no new entry of the draft.

    Raises:
        UsageError, VerificationError, StateError: as `load_draft`.
    """
    listings: dict[str, Listing] = {}

    def watch(name: str) -> Sequence[Shown]:
        questions.begin(name)
        listings[name] = Listing(with_ids=True)
        return listings[name], questions

    draft = load_draft(directory, watch)
    answers = questions.answers()
    compared = []
    for name, change in draft.lists.items():
        found = listings[name].difference(name, change.generation - 1, change.generation)
        added = {*found.added, *found.renewed}
        hits = [entry for answer in answers for entry in answer.entries if entry.list_name == name]
        differing = {entry.entry_id for entry in hits if entry.differ}
        missing = added - {entry.entry_id for entry in hits}
        compared.append(
            Comparison(name, len(added), tuple(sorted(missing)), tuple(sorted(differing)))
        )
    rest = tuple(answer.asked for answer in answers if not answer.entries)
    return draft, tuple(compared), rest
