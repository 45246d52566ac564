"""Verifies the feedback of clients, stores it for each client, and adds it up for each entry.

A file of feedback replaces all earlier files of the same client. A file is accepted if a recorded
key of a client has signed the file for this repository, and if the file was made after the client's
last file. So no file is counted twice, and an older file never replaces a newer file. The feedback
of revoked clients is not added up, nor feedback about lists that the client may not fetch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.lists.feedback import EntryFeedback, verify_feedback
from hashclient.provider.asking import find
from hashclient.provider.clients import Clients
from hashclient.provider.find import Questions
from hashclient.provider.public import root_versions
from hashclient.provider.repository import Repository
from hashclient.system.files import read_regular, state_error, write_atomic
from hashclient.system.strictjson import parse_json
from hashclient.system.text import for_people, printable

_MAX_BYTES = 1 << 30
#: The clock of a client may be ahead of the clock of this machine by at most this time.
_AHEAD = timedelta(hours=1)


class Taken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last feedback of a client, and the SHA-256 of the file of this feedback."""

    made: datetime
    sha256: str
    entries: tuple[EntryFeedback, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["hashclient-provider-feedback/1"] = "hashclient-provider-feedback/1"
    clients: dict[str, Taken] = {}


class Tally(msgspec.Struct, frozen=True):
    """The numbers of reviewed matches of an entry, added up over all clients.

    `rejected_by` is the number of clients that rejected matches of the entry or set the entry
    aside. `proposed` says whether the entry is proposed for withdrawal.
    """

    list: str
    entry: str
    clients: int
    rejected_by: int
    confirmed: int
    rejected: int
    excepted: int
    held: int
    listed: bool
    proposed: bool


def take_feedback(repository: Repository, data: bytes) -> tuple[str, Taken]:
    """Verify and store a file of feedback; return its client's name and its counts.

    1. The signature of the file is valid, and a client that was not revoked has the key that made
       the signature.
    2. The file is for this repository: it names a root of this repository as the root that the
       client has pinned.
    3. The time in the file is not in the future. Otherwise, later files of the client would seem
       older than this file, and would be refused.
    4. The file is newer than the client's last file.

    Raises:
        VerificationError: the signature, the repository or the time is wrong (rules 1 to 3).
        UsageError: the file is not newer than the client's last file (rule 4), or the feedback of
            all clients would be too large to be read again.
        StateError, AuditError: the feedback cannot be recorded; nothing was changed.
    """
    feedback, key = verify_feedback(data)
    repository.require()
    with repository.changing():
        clients = Clients(repository.clients_file, repository.clock).all()
        names = [c.name for c in clients if c.feedback_key == key and c.revoked is None]  # 1
        if not names:
            raise VerificationError(
                f"no client has the key {key}",
                hint="`hashclient provider client key` notes it, once you know whose it is",
            )
        if feedback.provider_root not in _roots(repository):  # 2
            raise VerificationError("the feedback is for another provider")
        if feedback.made > repository.clock() + _AHEAD:  # 3
            raise VerificationError(
                f"the feedback is from the future: {for_people(feedback.made)}",
                hint="the clock of the client or of this machine is wrong",
            )
        (name,) = names
        known = _load(repository)
        before = known.clients.get(name)
        if before is not None and feedback.made <= before.made:  # 4
            raise UsageError(
                f"client {name}: feedback of {for_people(before.made)} is counted already",
                hint="a file counts once, and an older one does not replace it",
            )
        taken = Taken(feedback.made, hashlib.sha256(data).hexdigest(), feedback.entries)
        changed = msgspec.json.encode(_File(clients={**known.clients, name: taken})) + b"\n"
        if len(changed) > _MAX_BYTES:
            raise UsageError(
                f"client {name}: the feedback of all clients would have {len(changed):,} bytes,"
                f" more than {_MAX_BYTES:,}",
                hint="nothing was changed; ask which client sends very many entries, and why",
            )
        logged = {"client": name, "sha256": taken.sha256, "entries": len(taken.entries)}
        repository.log.announce("feedback-taken", lambda: logged)
        write_atomic(repository.feedback_file, changed)
        return name, taken


def tallies(repository: Repository, least: int) -> list[Tally]:
    """Return the counts of each entry over all clients; the most rejected entry comes first.

    An entry is proposed for withdrawal if at least `least` clients reject the entry, no client
    confirms the entry, and the entry is still listed.

    Raises:
        StateError: files of the repository cannot be read.
    """
    repository.require()
    clients = Clients(repository.clients_file, repository.clock).all()
    feedback = _load(repository).clients
    given: dict[tuple[str, str], list[EntryFeedback]] = {}
    for client in clients:
        taken = feedback.get(client.name) if client.revoked is None else None
        for one in () if taken is None else taken.entries:
            if client.lists is None or one.list in client.lists:
                given.setdefault((one.list, one.entry), []).append(one)
    listed = _listed(repository, given.keys())
    found = []
    for (name, entry), some in given.items():
        rejected_by = sum(bool(one.rejected or one.excepted) for one in some)
        confirmed = sum(one.confirmed for one in some)
        is_listed = (name, entry) in listed
        found.append(
            Tally(
                name,
                entry,
                len(some),
                rejected_by,
                confirmed,
                sum(one.rejected for one in some),
                sum(one.excepted for one in some),
                sum(one.held for one in some),
                is_listed,
                is_listed and rejected_by >= least and not confirmed,
            )
        )
    return sorted(found, key=lambda t: (-t.rejected_by, -t.rejected, t.list, t.entry))


def _listed(repository: Repository, wanted: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return which of the `wanted` entries are listed, by their ids."""
    ids = sorted({entry for _, entry in wanted})
    answers = find(repository, Questions(ids)) if ids else []
    return {(e.list_name, e.entry_id) for a in answers for e in a.entries if e.is_listed}


def _roots(repository: Repository) -> set[str]:
    """Return the SHA-256 of every root that was published.

    Raises:
        StateError: a root cannot be read.
    """
    directory = path = repository.public / "metadata"
    roots = set()
    try:
        for number in root_versions(directory):
            path = directory / f"{number}.root.json"
            roots.add(hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise state_error("cannot read", path, error) from error
    return roots


def _load(repository: Repository) -> _File:
    path = repository.feedback_file
    try:
        return msgspec.convert(parse_json(read_regular(path, _MAX_BYTES)), _File)
    except FileNotFoundError:
        return _File()
    except OSError as error:
        raise state_error("cannot read", path, error) from error
    except ValueError as error:
        raise StateError(
            f"damaged: {printable(path)}",
            hint="put it back from a copy, or remove it and take the clients' last files again",
        ) from error
