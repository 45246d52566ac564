"""Exceptions for many machines: a machine exports its exceptions, signed, and others import them.

An export contains the exceptions of entries, with their reason and author. An export does not
contain exceptions of single files or exceptions below a path, so the exported file has no digest
and no path. An export also does not contain imported exceptions, or exceptions for entries that are
known to be good. The exporting machine signs the file with the key of its audit log. The importing
machine accepts files that are signed with a key in its option `trusted` in [decisions].

An import replaces all exceptions that were imported earlier from the same key by the exceptions of
the file. An import is refused unless all of conditions 1 to 4 are true:

1. the file has the export format, as `verify_document` checks, and no value in the file is out of
   bounds;
2. a trusted key has signed the file, and this key is not the key of the importing machine;
3. the file was not made in the future, by the clock of the importing machine;
4. the version of the file (how often the exporting machine had written its exceptions) is not lower
   than the version of the last import from this key; if the importing machine has lost the version
   of the last import, the file must have been made after this loss.

If a file has the same version as the last import, only exceptions are imported whose entries the
importing machine did not have at the last import. Therefore, an exception that was removed on the
importing machine is not imported again.

The importing machine computes the fingerprint of each entry from the entry on its own list, because
fingerprints depend on a key that each machine has for itself. The list must be of the same provider
on both machines, which means that both machines have known one common root of trust of the
provider.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from hashclient.audit.file import load_key, load_public_key
from hashclient.audit.log import Event
from hashclient.core.errors import UsageError, VerificationError
from hashclient.core.model import Time, is_entry_id, is_name
from hashclient.decisions.exceptions import Exceptions
from hashclient.decisions.keeping import LOCK_WAIT_S, check_number, exchange
from hashclient.decisions.rulings import (
    AHEAD,
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
#: The bytes that precede the document when it is signed.
_TAG = b"hashclient exceptions v1\n"
#: How the `origin` of an imported ruling begins; the public key follows.
_ORIGIN = "key "

_Name = Annotated[str, msgspec.Meta(max_length=1000)]


class Shared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exception of one entry, as it is exported."""

    id: Annotated[str, msgspec.Meta(pattern=r"^x-[a-z0-9]{10}\Z")]
    list: str
    entry: str
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON_CHARS)]
    by: _Name
    approved_by: _Name
    made_at: Time
    until: Time


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of an exported file.

    `roots`: by the name of each list, the SHA-256 of each known root of trust of the list's
    provider.
    """

    format: Literal["hashclient-exceptions-export/1"]
    version: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    made: Time
    roots: dict[str, tuple[Key, ...]]
    exceptions: Annotated[tuple[Shared, ...], msgspec.Meta(max_length=MOST)]


class Imported(msgspec.Struct, frozen=True):
    """The result of an import.

    `rulings` are the exceptions that are now imported from the exporter's key, and `left_out` says
    which exceptions were not imported, and why.
    """

    name: str
    version: int
    is_new: bool
    rulings: tuple[Ruling, ...]
    left_out: tuple[str, ...]


def make_export(session: Session, lists: OpenLists) -> tuple[Export, bytes, list[Ruling]]:
    """Log an export; return the export, its signed file, and the rulings that were left out.

    Raises:
        StateError, AuditError: the exceptions, lists or audit log cannot be read or written.
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
    """Log and import the exceptions of a file, if the conditions of the module docstring are met.

    Raises:
        VerificationError: the file is refused.
        UsageError: the exceptions would be too many.
        StateError, AuditError: the exceptions cannot be logged or written; nothing was changed.
    """
    export, key = _verified(data)
    name = _trusted_name(session, key)  # condition 2: a trusted key
    now, layout, sealer = session.now(), session.settings.layout, lists.sealer
    if export.made > now + AHEAD:  # condition 3: the time
        raise VerificationError(
            f"the exceptions of {name} are from the future: {for_people(export.made)}",
            hint="the clock of that machine or of this machine is wrong",
        )
    origin = f"{_ORIGIN}{key}"
    with session.writing(wait_s=LOCK_WAIT_S):
        book = load_book(layout, sealer)
        last = book.imports.versions.get(key, -1)
        since = book.imports.since
        if export.version < last:  # condition 4: the version
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
                # A ruling that was imported before keeps its fingerprint. Therefore the ruling does
                # not apply to the entry if the entry has changed since the first import.
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
    """Check condition 1 of the module docstring; return a file's content and signing key."""
    try:
        export, key = verify_document(data, _TAG, Export, MAX_EXPORT_BYTES)
        if len({shared.id for shared in export.exceptions}) != len(export.exceptions):
            raise ValueError("an exception twice")
        for one in export.exceptions:
            if not (is_name(one.list) and is_entry_id(one.entry) and one.list in export.roots):
                raise ValueError("not an entry")
            if not export.made < one.until <= export.made + LONGEST + AHEAD:
                raise ValueError("a time out of bounds")
    except VerificationError as error:
        raise VerificationError("the signature of the exceptions is wrong") from error
    except (ValueError, OverflowError) as error:  # `msgspec.ValidationError` is a `ValueError`
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
    """Return whether this machine has no such list, or a list of the exporter's provider."""
    here = _roots(session, lists, name)
    return not here or not here.isdisjoint(export.roots[name])


def _roots(session: Session, lists: OpenLists, name: str) -> set[str]:
    """Return the SHA-256 of each known root of trust of a list's provider.

    The set is empty if the list is not in use.
    """
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
