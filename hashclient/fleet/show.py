"""Judges the status documents of many machines by seven rules.

1. A document is valid if its signature is right and it has the right file name. An invalid document
   is forged.
2. The key of a document must be pinned to a machine; a document of another key is unknown. A
   machine with a pinned key and without a document is missing.
3. Two documents with the same key are twins, because the state was copied to a second machine. Two
   different documents with the same number are twins as well.
4. If the number of a document is lower than the number of the last seen document, the document is
   replayed; if it was nevertheless made later, the machine was rolled back.
5. The checkpoint of a document must not be older than the last seen checkpoint of the machine, and
   must not contradict it; otherwise the machine was rolled back. A machine that was rolled back
   keeps this finding, whatever it publishes, until its key is pinned again.
6. The document must have been made within the interval that the machine promised, and not in the
   future.
7. The machine must say that it has no problem and that no match waits. The machine must not lack a
   generation of a list that another machine has and that was published longer ago than the
   machine's interval.

A machine without a finding is well. Only a document that fulfils rules 1 to 5 is stored as the last
document of a machine.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from hashclient.audit.record import parse_checkpoint
from hashclient.core.errors import ExitCode, HashclientError, VerificationError
from hashclient.fleet.document import Machine, StatusDocument, Verified, verify_status
from hashclient.fleet.known import Seen
from hashclient.fleet.places import Found
from hashclient.system.text import counted, for_people, natural, printable

#: The kinds of findings, the worst first, with their exit codes; the exit code of `failed` is
#: replaced by the code of the error, and that of `unwell` by the code of the machine.
FINDINGS: Mapping[str, ExitCode] = {
    "failed": ExitCode.STATE,
    "rolled-back": ExitCode.AUDIT,
    "twin": ExitCode.UNVERIFIED,
    "replayed": ExitCode.UNVERIFIED,
    "forged": ExitCode.UNVERIFIED,
    "unknown": ExitCode.UNVERIFIED,
    "missing": ExitCode.INCOMPLETE,
    "silent": ExitCode.INCOMPLETE,
    "ahead": ExitCode.INCOMPLETE,
    "match": ExitCode.MATCH,
    "unwell": ExitCode.STATE,
    "no-verdict": ExitCode.INCOMPLETE,
    "behind": ExitCode.STALE,
}
WELL = "well"
#: The possible states of a machine, the worst first.
STATES = (*FINDINGS, WELL)
#: The largest difference between two clocks that is accepted.
TOLERANCE = timedelta(minutes=5)
_VERDICTS = (ExitCode.OK, ExitCode.MATCH)
#: The exit codes with which `status` can end; a document with another exit code is wrong.
_CODES = {code.value: code for code in ExitCode if ExitCode.INCOMPLETE <= code < ExitCode.MATCH}


class Finding(NamedTuple):
    """A finding: a word in `FINDINGS`, a sentence, and the exit code."""

    word: str
    text: str
    code: ExitCode


class Row(NamedTuple):
    """A machine, or a file that belongs to no known machine, with its findings, the worst first.

    `document`: None if the machine has no document, or only documents that are not accepted.
    """

    name: str
    file: str
    key: str
    findings: tuple[Finding, ...]
    document: StatusDocument | None

    @property
    def state(self) -> str:
        """The word of the worst finding, or `WELL`."""
        return self.findings[0].word if self.findings else WELL

    @property
    def notes(self) -> str:
        """The sentences of all findings, joined."""
        return "; ".join(finding.text for finding in self.findings)


class _Given(NamedTuple):
    """A valid document, and the facts about it that are stored."""

    verified: Verified
    seen: Seen


#: For each provider and list, the generations that machines have, and when each was published.
_Generations = dict[tuple[str | None, str], dict[int, datetime]]


def judge(
    found: Iterable[Found], pins: Mapping[str, str], seen: dict[str, Seen], now: datetime
) -> list[Row]:
    """Return a row for each machine and for each unknown file, the worst first.

    `pins`: the names of machines, by their keys. `seen`: the last document of each key; this
    function updates it.
    """
    rows: list[Row] = []
    given: dict[str, _Given] = {}
    keys: Counter[str] = Counter()
    for one in found:
        try:
            good = _verified(one)
        except VerificationError as error:
            rows.append(_row(one.name, one.name, "", _finding("forged", error.message)))
            continue
        key, machine = good.verified.key, good.verified.document.machine
        keys[key] += 1
        # Anybody can make many documents with an unknown key, and a machine can make many with its
        # own key, so only a row is kept of each.
        if key not in pins:
            text = f"no machine has key {key}"
            rows.append(_row(machine.name, one.name, key, _finding("unknown", text)))
        elif keys[key] > 1:
            rows.append(_row(pins[key], one.name, key, _twin(machine)))
        else:
            given[key] = good
    accepted: list[tuple[str, StatusDocument]] = []
    for key, (verified, this) in given.items():
        document = verified.document
        wrong: Finding | None
        if keys[key] > 1:
            wrong = _twin(document.machine)
        else:
            wrong = _history(verified, this, seen.get(key))
        if wrong is None:
            seen[key] = this
            accepted.append((key, document))
            continue
        if wrong.word == "rolled-back":
            seen[key] = replace(seen[key], went_back=wrong.text)
        rows.append(_row(pins[key], document.machine.file_name, key, wrong))
    generations = _generations(document for _, document in accepted)
    for key, document in accepted:
        findings = (*_times(document, now), *_content(document, generations))
        file = document.machine.file_name
        rows.append(_row(pins[key], file, key, *findings, document=document))
    missing = _finding("missing", "this machine has no document")
    rows += [_row(name, "", key, missing) for key, name in pins.items() if key not in keys]
    return sorted(rows, key=lambda row: (STATES.index(row.state), natural(row.name), row.file))


def failed(where: str, error: HashclientError) -> Row:
    """Return the row for a place that could not be read, so no machine's state is known."""
    return _row(where, "", "", Finding("failed", error.message, error.exit_code))


def exit_code(rows: Iterable[Row]) -> ExitCode:
    """Return the worst exit code of all findings.

    A match together with another finding has its own code.
    """
    codes = [finding.code for row in rows for finding in row.findings]
    faults = [code for code in codes if code is not ExitCode.MATCH]
    if ExitCode.MATCH in codes:
        return ExitCode.MATCH_ATTENTION if faults else ExitCode.MATCH
    return max(faults, default=ExitCode.OK)


def _verified(found: Found) -> _Given:
    """Verify a document by rule 1.

    Raises:
        VerificationError: the document is invalid.
    """
    if found.problem is not None:
        raise VerificationError(found.problem)
    verified = verify_status(found.data)
    document = verified.document
    if document.machine.file_name != found.name:
        raise VerificationError("it lies under the name of another document")
    digest = hashlib.sha256(found.data).hexdigest()
    seen = Seen(document.counter, document.made, digest, document.checkpoint)
    return _Given(verified, seen)


def _history(verified: Verified, this: Seen, last: Seen | None) -> Finding | None:
    """Compare a document with the last seen document, by rules 3 to 5.

    Return the finding, if any.
    """
    if last is not None and last.went_back is not None:
        return _finding("rolled-back", last.went_back)
    if last is None or last.sha256 == this.sha256:
        return None
    if this.counter == last.counter:
        return _finding("twin", f"two documents have number {this.counter}")
    if this.counter < last.counter and this.made <= last.made:
        return _finding(
            "replayed", f"it is of {for_people(this.made)}, and a later document was seen"
        )
    if this.counter < last.counter:
        return _finding("rolled-back", f"its documents go back: {last.counter} to {this.counter}")
    before, now = parse_checkpoint(f"{last.checkpoint}\n".encode()), verified.checkpoint
    if now.identity != before.identity:
        return _finding("rolled-back", "its audit log is another log than before")
    if now.seq < before.seq:
        return _finding("rolled-back", f"its audit log goes back: {before.seq} to {now.seq}")
    if now.seq == before.seq and now.hash != before.hash:
        return _finding("rolled-back", f"record {now.seq} of its audit log was exchanged")
    return None


def _twin(machine: Machine) -> Finding:
    return _finding("twin", f"two machines have its key; this one is {printable(machine.name)}")


def _times(document: StatusDocument, now: datetime) -> Iterator[Finding]:
    """Yield a finding if a document is too old or from the future, by rule 6."""
    if now - document.made > timedelta(seconds=document.interval_s):
        hours = f"{document.interval_s / 3600:g}"
        made = for_people(document.made)
        yield _finding(
            "silent", f"no document since {made}; the machine promised one every {hours} hours"
        )
    elif document.made - now > TOLERANCE:
        yield _finding("ahead", f"its clock shows {for_people(document.made)}")


def _content(document: StatusDocument, generations: _Generations) -> Iterator[Finding]:
    """Yield the findings in what a machine says about itself, by rule 7."""
    if document.open_matches:
        yield _finding("match", f"{counted(document.open_matches, 'match')} open")
    if document.exit_code:
        code = _CODES.get(document.exit_code)
        meaning = "not one of its codes" if code is None else code.meaning
        text = f"its status ends with {document.exit_code}: {meaning}"
        yield Finding("unwell", text, code or ExitCode.INCOMPLETE)
    scan = document.runs.get("scan")
    if scan is not None and scan.exit_code not in _VERDICTS:
        yield _finding("no-verdict", f"its last scan ended with {scan.exit_code}")
    for one in document.lists:
        late = [
            generation
            for generation, since in generations.get((one.provider, one.name), {}).items()
            if generation > (one.generation or 0)
            and document.made - since > timedelta(seconds=document.interval_s)
        ]
        if late:
            text = f"list {one.name} is at generation {one.generation}, others at {max(late)}"
            yield _finding("behind", text)


def _generations(documents: Iterable[StatusDocument]) -> _Generations:
    """Return all generations of each list.

    A machine may lack an older generation for too long, even if the newest is recent.
    """
    found: _Generations = {}
    for document in documents:
        for one in document.lists:
            if one.generation is not None and one.published is not None:
                of_list = found.setdefault((one.provider, one.name), {})
                since = of_list.get(one.generation, one.published)
                of_list[one.generation] = min(since, one.published)
    return found


def _finding(word: str, text: str) -> Finding:
    return Finding(word, text, FINDINGS[word])


def _row(
    name: str, file: str, key: str, *findings: Finding, document: StatusDocument | None = None
) -> Row:
    ordered = sorted(findings, key=lambda finding: STATES.index(finding.word))
    return Row(printable(name), printable(file), key, tuple(ordered), document)
