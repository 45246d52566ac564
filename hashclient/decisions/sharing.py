"""Exceptions for many machines: a machine exports its exceptions, signed, and others import them.

Exceptions of entries travel, with their reason and author. Exceptions of files, or below a path,
stay on this machine, so no digest and no path is in the file. Imported exceptions stay, too, and
exceptions for entries that are known to be good. The file is signed with the key of the audit log
of the exporting machine; `trusted` in [decisions] names the keys that may decide on this machine.

An import replaces the exceptions that came earlier from the same key by the exceptions of the file.
An import is refused unless

1. it is a file of the format, as `verify_document` says, and nothing in it is out of bounds;
2. a trusted key has signed it, which is not the key of this machine;
3. it was not made in the future, by the clock here;
4. its version, the number of changes there, is not lower than that of the last import from this
   key; and if these numbers were lost here, it was made later;

A file of the same version changes nothing, except for entries that were not on this machine at that
time: so an exception that was removed here does not come back.

The fingerprint of an entry is made here, of the entry as it is on the list here: other machines
have other keys. The list has to be of the same provider: both machines have known one root of trust
of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec

from hashclient.audit.file import load_key, load_public_key
from hashclient.audit.log import Event
from hashclient.core.errors import UsageError, VerificationError
from hashclient.core.model import is_entry_id, is_name
from hashclient.decisions.exceptions import Exceptions
from hashclient.decisions.keeping import LOCK_WAIT_S, check_number, exchange
from hashclient.decisions.rulings import (
    LONGEST,
    MAX_REASON_CHARS,
    MOST,
    Entry,
    Imports,
    Ruling,
    load_book,
)
from hashclient.index.open_lists import OpenLists
from hashclient.session import Session
from hashclient.system.files import MAX_STATE_BYTES, read_regular, state_errors
from hashclient.system.layout import AUDIT_KEY_NAME
from hashclient.system.signed import Key, sign_document, verify_document
from hashclient.system.text import for_people, printable

FORMAT: Literal["hashclient-exceptions-export/1"] = "hashclient-exceptions-export/1"
MAX_EXPORT_BYTES = 32 << 20
#: The beginning of the signed bytes.
_TAG = b"hashclient exceptions v1\n"
#: How far the clock of another machine may be ahead of the clock of this machine.
_AHEAD = timedelta(hours=1)
#: The origin of an imported ruling begins so; the key follows.
_ORIGIN = "key "

_Time = Annotated[datetime, msgspec.Meta(tz=True)]
_Name = Annotated[str, msgspec.Meta(max_length=1000)]


class Shared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exception of an entry."""

    id: Annotated[str, msgspec.Meta(pattern=r"^x-[a-z0-9]{10}\Z")]
    list: str
    entry: str
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON_CHARS)]
    by: _Name
    approved_by: _Name
    made_at: _Time
    until: _Time


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a file. `roots` has by list the SHA-256 of roots of its provider."""

    format: Literal["hashclient-exceptions-export/1"]
    version: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    made: _Time
    roots: dict[str, tuple[Key, ...]]
    exceptions: Annotated[tuple[Shared, ...], msgspec.Meta(max_length=MOST)]


class Imported(msgspec.Struct, frozen=True):
    """What an import did: the name of the key, its exceptions now, and those left out."""

    name: str
    version: int
    is_new: bool
    rulings: tuple[Ruling, ...]
    left_out: tuple[str, ...]


def make_export(session: Session, lists: OpenLists) -> tuple[Export, bytes, list[Ruling]]:
    """Return the export of this machine, the signed file, and what stays here; log it first.

    Raises:
        StateError, AuditError: exceptions, lists or log cannot be read or written.
    """
    book, now = load_book(session.settings.layout, lists.sealer), session.now()
    ruler = Exceptions.of(session, lists)
    own = [
        ruling
        for ruling in book.rulings
        if not ruling.origin and ruling.until > now and ruler.obstacle(ruling) is None
    ]
    stays = [ruling for ruling in own if ruling.content or ruling.below]
    shared = tuple(
        Shared(
            r.id,
            r.entries[0].list,
            r.entries[0].id,
            r.reason,
            r.by,
            r.approved_by,
            r.made_at,
            r.until,
        )
        for r in own
        if not (r.content or r.below)
    )
    roots = {name: tuple(sorted(_roots(session, lists, name))) for name in {s.list for s in shared}}
    export = Export(FORMAT, book.number, now, roots, shared)
    data = {"version": book.number, "exceptions": len(shared), "by": session.operator}
    session.audit.append([Event("exceptions-exported", data)], durable=True)
    key = load_key(session.settings.layout.audit / AUDIT_KEY_NAME)
    return export, sign_document(export, _TAG, key), stays


def import_exceptions(session: Session, lists: OpenLists, data: bytes) -> Imported:
    """Import the exceptions of a file by the module's numbered rules, and log each.

    Raises:
        VerificationError: the file is refused.
        UsageError: the exceptions would be too many.
        StateError, AuditError: the exceptions cannot be logged or written; nothing was changed.
    """
    export, key = _verified(data)
    name = _trusted_name(session, key)  # 2
    now, layout, sealer = session.now(), session.settings.layout, lists.sealer
    if export.made > now + _AHEAD:  # 3
        raise VerificationError(
            f"the exceptions of {name} are from the future: {for_people(export.made)}",
            hint="the clock of that machine or of this machine is wrong",
        )
    origin = f"{_ORIGIN}{key}"
    with session.writing(wait_s=LOCK_WAIT_S):
        book = load_book(layout, sealer)
        last = book.imports.versions.get(key, -1)
        since = book.imports.since
        if export.version < last:  # 4
            raise VerificationError(
                f"the exceptions of {name} are of version {export.version}, which is older than"
                f" version {last} that is here",
                hint="import the latest export",
            )
        if last < 0 and since is not None and export.made <= since:
            raise VerificationError(
                f"the exceptions of {name} were made before those here were lost, at"
                f" {for_people(since)}",
                hint="export them again",
            )
        is_new = export.version != last
        before = {ruling.id: ruling for ruling in book.rulings}
        codes = Exceptions.of(session, lists).codes_of(
            {(s.list, s.entry) for s in export.exceptions}
        )
        same = {name: _is_same_provider(session, lists, export, name) for name in export.roots}
        left_out: list[str] = []
        wanted: list[Ruling] = []
        for shared in export.exceptions:
            known = before.get(shared.id)
            if known is not None and known.origin != origin:
                left_out.append(f"{shared.id}: there is another exception with this id here")
            elif not same[shared.list]:
                left_out.append(f"{shared.id}: list {shared.list} is of another provider here")
            elif known is not None or is_new:
                made = _ruling(shared, origin, name) if known is None or is_new else known
                entry = made.entries[0]
                # If an entry has changed since the export, it is not the entry that was meant.
                if known is not None and known.entries[0].name == entry.name:
                    entry = known.entries[0]
                if not entry.fingerprint:
                    code = codes.get((entry.list, entry.id), "")
                    entry = Entry(entry.list, entry.id, code)
                wanted.append(msgspec.structs.replace(made, entries=(entry,)))
        check_number(len(wanted) + sum(r.origin != origin for r in book.rulings))
        versions = {**book.imports.versions, key: export.version}
        about = {"key": key, "name": name, "version": export.version, "by": session.operator}
        if is_new:
            session.audit.append([Event("exceptions-imported", about)], durable=True)
        imports = Imports(versions, since) if is_new else None
        exchange(session, sealer, book, wanted, lambda r: r.origin == origin, imports)
    return Imported(name, export.version, is_new, tuple(wanted), tuple(left_out))


def _verified(data: bytes) -> tuple[Export, str]:
    """Return the content of a file and its key (1)."""
    try:
        export, key = verify_document(data, _TAG, Export, MAX_EXPORT_BYTES)
        if len({shared.id for shared in export.exceptions}) != len(export.exceptions):
            raise ValueError("an exception twice")
        for one in export.exceptions:
            if not (is_name(one.list) and is_entry_id(one.entry) and one.list in export.roots):
                raise ValueError("not an entry")
            if not export.made < one.until <= export.made + LONGEST + _AHEAD:
                raise ValueError("a time out of bounds")
    except VerificationError as error:
        raise VerificationError("the signature of the exceptions is wrong") from error
    except (ValueError, OverflowError) as error:  # msgspec.ValidationError is a ValueError
        raise VerificationError(f"not exceptions of the format {FORMAT}") from error
    return export, key


def _trusted_name(session: Session, key: str) -> str:
    trusted = session.settings.config.decisions.trusted
    names = [name for name, pinned in trusted.items() if pinned == key]
    if not names:
        raise VerificationError(
            f"the exceptions are signed by a key that is not trusted here: {key}",
            hint="`trusted` in [decisions] names those that are; `hashclient audit verify` shows"
            " the key on the machine that exports",
        )
    own = load_public_key(session.settings.layout.audit)
    if own is not None and own.hex() == key:
        raise UsageError("the file has the exceptions of this machine itself")
    return printable(names[0])


def _ruling(shared: Shared, origin: str, name: str) -> Ruling:
    return Ruling(
        id=shared.id,
        entries=(Entry(shared.list, shared.entry, ""),),
        reason=shared.reason,
        by=shared.by,
        made_at=shared.made_at,
        until=shared.until,
        origin=origin,
        approved_by=shared.approved_by or f"key {name}",
    )


def _is_same_provider(session: Session, lists: OpenLists, export: Export, name: str) -> bool:
    """Return whether a list is of the same provider here as there, or not here at all."""
    here = _roots(session, lists, name)
    return not here or not here.isdisjoint(export.roots[name])


def _roots(session: Session, lists: OpenLists, name: str) -> set[str]:
    """Return the SHA-256 of the known roots of a list's provider; none if the list is not here."""
    found: set[str] = set()
    for index in lists.indexes:
        if index.manifest.list == name:
            provider = index.manifest.provider
            if (config := session.settings.config.providers.get(provider)) is not None:
                found.add(config.root_sha256)
            found.update(_history(session, provider))
    return found


def _history(session: Session, provider: str) -> Iterator[str]:
    directory = session.settings.layout.metadata(provider) / "root_history"
    with state_errors("cannot read", directory):
        for path in sorted(directory.glob("*.root.json")):
            yield hashlib.sha256(read_regular(path, MAX_STATE_BYTES)).hexdigest()
