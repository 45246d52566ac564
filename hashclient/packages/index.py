"""Verifies many packages at once, and finds the reports that concern the same entry.

All clients of a provider use the same names for its entries, so reports of different reporters can
be compared. This module shows no content of files. `extract` writes the decrypted evidence of a
package to a new folder, which appears only after the whole package was verified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.errors import (
    AuthorisationError,
    HashclientError,
    StateError,
    VerificationError,
)
from hashclient.packages.answer import Answer, requests_of
from hashclient.packages.contents import Opener
from hashclient.packages.document import Document, Entry, Provider, file_path
from hashclient.packages.verify import (
    Verified,
    VerifiedNote,
    is_note,
    verify_note_file,
    verify_package,
)
from hashclient.system.outputs import placed_directory
from hashclient.system.text import for_programs, path_fields, printable

#: The columns of a row that describes one entry of one match of a document.
DOCUMENT_COLUMNS = (
    *("report", "created", "organisation", "machine"),
    *("match", "path", "path_b64", "size", "state", "viewed", "evidence"),
    *("list", "entry", "category", "provider_root", "provider_url"),
)
#: The columns of a row that describes one of several packages.
COLUMNS = (
    *("package", "result", *DOCUMENT_COLUMNS, "also_in"),
    *("packaged", "custody_records", "log_id", "public_key", "public_key_compared", "reason"),
)


class Checked(msgspec.Struct, frozen=True):
    """A path and its verified content: a package, a note or an answer; or the error.

    `extracted`: the files that were extracted. `closed`: the files that no key decrypts. A file
    that belongs to the match `MATCH` itself is named `MATCH`.
    """

    path: Path
    found: Verified | VerifiedNote | Answer | None = None
    error: HashclientError | None = None
    extracted: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()

    @property
    def closed_matches(self) -> int:
        """The number of matches with a file that no key decrypts."""
        return len({name.partition(".")[0] for name in self.closed})


def check(path: Path, *, opener: Opener | None = None, public_key: str | None = None) -> Checked:
    """Verify a package, a note or an answer; an error is part of the result."""
    try:
        if is_note(path):
            return Checked(path, verify_note_file(path, public_key=public_key))
        return Checked(path, verify_package(path, opener=opener, public_key=public_key))
    except HashclientError as error:
        return Checked(path, error=error)


def extract(
    checked: Checked, directory: Path, opener: Opener, *, public_key: str | None = None
) -> Checked:
    """Write the decrypted evidence of a verified package to `directory/REPORT/MATCH.bin`.

    Facts about the source of a match are written to `MATCH.facts.json`, and files that belong to
    the match to `MATCH.1.bin` and so on. The package is verified a second time while its evidence
    is read. Evidence that no key decrypts is left out.
    """
    if not isinstance(checked.found, Verified):
        return checked
    done: list[str] = []
    closed: list[str] = []
    target = directory / checked.found.document.report

    try:
        with placed_directory(target) as folder:

            def take(name: str, sealed: Iterator[bytes]) -> None:
                stem = Path(name).stem
                path = folder / f"{stem}.{'json' if stem.endswith('.facts') else 'bin'}"
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    with os.fdopen(fd, "wb") as stream:
                        for chunk in opener(sealed):
                            stream.write(chunk)
                    done.append(stem)
                except AuthorisationError:
                    path.unlink()
                    closed.append(stem)

            found = verify_package(
                checked.path, opener=opener, public_key=public_key, on_evidence=take
            )
            if found != checked.found:
                raise VerificationError(
                    f"somebody has exchanged the package meanwhile: {printable(checked.path)}"
                )
    except FileExistsError:
        error: HashclientError = StateError(
            f"extracted already: {printable(target)}", hint="nothing is overwritten: move it away"
        )
        return msgspec.structs.replace(checked, error=error)
    except OSError as problem:
        error = StateError(f"cannot extract to {printable(target)}: {problem.strerror or problem}")
        return msgspec.structs.replace(checked, error=error)
    except HashclientError as problem:
        return msgspec.structs.replace(checked, error=problem)
    return Checked(checked.path, found, extracted=tuple(done), closed=tuple(closed))


class SameEntries:
    """Finds the reports that concern the same entry.

    Two entries are the same if they have the same id, the same list, and providers with the same
    root or address. All roots and addresses that appear together in reports belong to one provider.
    """

    def __init__(self, checked: Sequence[Checked]) -> None:
        """Collect the entries of all packages that are verified."""
        self._first: dict[str, str] = {}
        self._reports: dict[tuple[str, str, str], dict[str, None]] = {}
        documents = [c.found.document for c in checked if isinstance(c.found, Verified)]
        entries = [(d, e) for d in documents for m in d.matches for e in m.entries]
        for _, entry in entries:
            if (provider := entry.provider) is not None and provider.url is not None:
                self._first[self._one(provider.url)] = self._one(provider.root_sha256)
        for document, entry in entries:
            if (key := self._key(entry)) is not None:
                self._reports.setdefault(key, {})[document.report] = None

    def also_in(self, report: str, entry: Entry) -> list[str]:
        """Return the other reports that concern `entry`."""
        key = self._key(entry)
        return [] if key is None else [r for r in self._reports[key] if r != report]

    def _key(self, entry: Entry) -> tuple[str, str, str] | None:
        if entry.provider is None:
            return None
        return self._one(entry.provider.root_sha256), entry.list, entry.entry

    def _one(self, name: str) -> str:
        """Return one of the names of a provider, which stands for all its roots and addresses."""
        while (earlier := self._first.get(name, name)) != name:
            # Each step shortens the chain of names in `_first`, because the chain can be long:
            # reports can name one address together with any number of roots.
            self._first[name] = name = self._first.get(earlier, earlier)
        return name


def rows(
    checked: Sequence[Checked], *, public_key_compared: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield a row for each entry of each match of each package; the keys are in `COLUMNS`.

    A note of retraction or a refused path has one row; an answer has one row for each match.
    """
    same = SameEntries(checked)
    for one in checked:
        row: dict[str, Any] = {"package": os.fspath(one.path), "result": "refused"}
        if one.error is not None:
            yield row | {"reason": one.error.message}
        elif isinstance(one.found, VerifiedNote):
            record, key = one.found.record, one.found.public_key
            row |= {"report": one.found.report_id, "public_key": key}
            row |= {"created": for_programs(record.time), "reason": record.data.get("reason")}
            for match_id in one.found.matches:
                yield row | {"result": "destruction", "match": match_id}
            if not one.found.matches:
                yield row | {"result": "retraction"}
        elif isinstance(one.found, Answer):
            answer = one.found
            row |= {"result": "answer", "report": answer.report, "log_id": answer.log_id}
            row |= {"created": for_programs(answer.time), "public_key": answer.key}
            accepted, refused = frozenset(answer.accepted), frozenset(answer.refused)
            for match_id, requests in requests_of(answer).items():
                said = [
                    *(["accepted"] if match_id in accepted else []),
                    *(["refused"] if match_id in refused else []),
                    *requests,
                ]
                yield row | {"match": match_id, "reason": ", ".join(said)}
        elif one.found is not None:
            custody = one.found.custody
            row |= {
                "result": "verifies",
                "packaged": for_programs(custody.last.time),
                "custody_records": custody.records,
                "log_id": custody.identity.log_id,
                "public_key": one.found.public_key,
                "public_key_compared": public_key_compared,
            }
            for fields, entry in document_rows(one.found.document):
                for how, matches in (("extracted", one.extracted), ("closed", one.closed)):
                    if fields.get("match") in matches:
                        fields["evidence"] = how
                if entry is not None:
                    fields["also_in"] = " ".join(same.also_in(fields["report"], entry))
                yield row | fields


def document_rows(document: Document) -> Iterator[tuple[dict[str, Any], Entry | None]]:
    """Yield a row for each entry of each match of a document, but at least one row."""
    row = {
        "report": document.report,
        "created": for_programs(document.created),
        "organisation": document.reporter.organisation,
        "machine": document.reporter.machine,
    }
    if not document.matches:
        yield row, None
    for match in document.matches:
        about = row | {
            "match": match.id,
            **path_fields(file_path(match)),
            "size": match.size,
            "state": match.state,
            "viewed": match.viewed,
            "evidence": "none" if match.evidence is None else "sealed",
        }
        for entry in match.entries:
            yield about | _entry_fields(entry), entry
        if not match.entries:
            yield about, None


def _entry_fields(entry: Entry) -> dict[str, Any]:
    provider = entry.provider or Provider("", None)
    return {
        "list": entry.list,
        "entry": entry.entry,
        "category": entry.category,
        "provider_root": provider.root_sha256,
        "provider_url": provider.url,
    }
