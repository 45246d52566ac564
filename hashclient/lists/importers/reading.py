"""How a file is to be read: what somebody has asked for, and what there is to say afterwards.

One `Reading` belongs to one command: its bounds hold for all files together. What cannot be used is
refused unless `max_bad` says otherwise; then it is counted in `remarks`, never passed over in
silence.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hashclient.errors import UsageError
from hashclient.lists.importers.categories import CategoryMap
from hashclient.lists.importers.where import Where

#: What `--column` may name: the columns that mean something here.
COLUMNS = ("entry_id", "md5", "sha1", "sha256", "size", "category", "added")

OTHER_HASHES = "hashes of other kinds than MD5, SHA-1 and SHA-256, such as PhotoDNA, are ignored"


class Remarks(msgspec.Struct):
    """What reading has to say besides rows.

    `notes` are sentences, each said once. `skipped` are rows that could not be used, as the place
    (`file:line`) and what is wrong there. `not_meant` counts rows that `where` or a map of
    categories has left out.
    """

    notes: list[str] = msgspec.field(default_factory=list)
    skipped: list[tuple[str, str]] = msgspec.field(default_factory=list)
    not_meant: int = 0

    def note(self, text: str) -> None:
        """Say something, once."""
        if text not in self.notes:
            self.notes.append(text)


class Reading(msgspec.Struct, frozen=True):
    """What somebody has asked for.

    `where` chooses rows by their columns. `columns` are names of ours with those that a file has
    for them. `categories` gives names to the categories of a file. At most `max_bad` rows that
    cannot be used are skipped. `all_rows` says that a file need not be asked which of its rows are
    meant: who looks digests up looks all of them up.
    """

    where: Where | None = None
    columns: Mapping[str, str] = msgspec.field(default_factory=dict)
    categories: CategoryMap | None = None
    max_bad: int = 0
    all_rows: bool = False
    remarks: Remarks = msgspec.field(default_factory=Remarks)

    def skip(self, place: str, what: str) -> None:
        """Count a row that cannot be used.

        Raises:
            UsageError: there are more than `max_bad`.
        """
        if len(self.remarks.skipped) >= self.max_bad:
            if not self.max_bad:
                raise UsageError(f"{place}: {what}")
            raise UsageError(
                f"{place}: {what}; more than {self.max_bad:,} rows cannot be used",
                hint="see to the file, or allow more with --max-bad",
            )
        self.remarks.skipped.append((place, what))


def parse_columns(given: tuple[str, ...]) -> dict[str, str]:
    """Parse `ours=theirs` as `--column` has it.

    Raises:
        UsageError: it is something else, or one is given twice.
    """
    columns: dict[str, str] = {}
    for text in given:
        ours, equals, theirs = (part.strip() for part in text.partition("="))
        ours = ours.lower()
        if not equals or not theirs or ours not in COLUMNS:
            raise UsageError(
                "--column is not of the form md5=NAME",
                hint=f"in front of the = stands one of: {', '.join(COLUMNS)}; behind it, what the"
                " file calls that column",
            )
        if ours in columns:
            raise UsageError(f"--column is given twice for {ours}")
        columns[ours] = theirs
    return columns
