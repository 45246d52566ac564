"""Makes drafts, signs drafts, and accepts drafts that enough people have signed.

A draft contains the snapshot or the timestamp only if this machine lacks the keys of that role;
otherwise, this machine signs the role when the draft is published.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from securesystemslib.signer import Signature, Signer
from tuf.api.metadata import Metadata, MetaFile

from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.lists.wire import MAX_SEGMENT_BYTES, checksum_of
from hashclient.provider.draftfiles import refuse
from hashclient.provider.draftroles import (
    NAMING,
    Policy,
    name_changed,
    policies_of,
    snapshot_version,
    with_naming,
)
from hashclient.provider.drafts import (
    FORMAT,
    Draft,
    Head,
    SignatureFile,
    load_draft,
)
from hashclient.provider.keyfiles import Passphrases, load_private
from hashclient.provider.keys import Clock, Keys
from hashclient.provider.listfiles import ListFiles
from hashclient.provider.public import PUBLIC_MODE, make_folder_below, metadata_file
from hashclient.provider.roles import Roles
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_private_dir,
    read_regular,
    state_errors,
    write_atomic,
)
from hashclient.system.outputs import make_folder, placed_directory, write_new
from hashclient.system.text import counted, printable
from hashclient.trust.additions import NOTICES


class Change(Protocol):
    """A change of a list or of the notices, with its new files."""

    def write(self, files: ListFiles, roles: Roles) -> None:
        """Write the files, and add their names to the role that signs the files."""


def write_draft(
    directory: Path,
    roles: Roles,
    changed: Collection[str],
    change: Change | None,
    *,
    clock: Clock,
    operator: str | None,
) -> None:
    """Write a draft of the roles `changed`, signed with the keys that are on this machine.

    The draft includes the snapshot or the timestamp if its keys are not on this machine. `change`
    has the new files, if the draft changes a list or the notices. If the command fails, no draft is
    left.

    Raises:
        UsageError: `directory` exists, or cannot be made.
        StateError: a file cannot be written.
    """
    names = _roles_to_sign(roles, changed)
    before = {
        name: data
        for name in sorted({"root", "targets", *names})
        if (data := published_bytes(roles, name)) is not None
    }
    check_place(directory)
    temporary: Path | None = None
    try:
        with placed_directory(directory) as temporary:
            for folder in ("before", "roles", "signatures", "files"):
                make_private_dir(temporary / folder)
            if change is not None:
                change.write(ListFiles(temporary / "files", clock), roles)
            for name, data in before.items():
                write_atomic(temporary / "before" / f"{name}.json", data)
            new = _next_versions(roles, names)
            known = {name: Metadata.from_bytes(data) for name, data in before.items()}
            for name, metadata in new.items():
                write_atomic(temporary / "roles" / f"{name}.json", metadata.to_bytes())
                for signer in _signers_here(roles, name, policies_of(name, known, new)):
                    _write_signature(temporary, name, metadata, signer)
            head = Head(FORMAT, clock(), operator)
            write_atomic(temporary / "draft.json", msgspec.json.encode(head) + b"\n")
            load_draft(temporary)
            check_place(directory)
    except OSError as error:
        raise UsageError(
            f"cannot make {printable(directory)}: {error.strerror or error}",
            hint="choose another place for the draft",
        ) from error
    except StateError as error:
        if temporary is None or str(temporary) not in error.message:
            raise
        text = error.message.replace(str(temporary), printable(directory))
        raise StateError(text, hint=error.hint) from error


def published_bytes(roles: Roles, role: str) -> bytes | None:
    """Return the published metadata of `role`, or None if it was never published.

    Raises:
        StateError: the metadata cannot be read.
    """
    version = roles.metadata(role).signed.version
    path = roles.directory / metadata_file(role, version)
    with state_errors("cannot read published metadata", path):
        return read_regular(path, MAX_STATE_BYTES) if version else None


def _roles_to_sign(roles: Roles, changed: Collection[str]) -> list[str]:
    """Return `changed`, and the snapshot or timestamp if this machine cannot sign them."""
    following = with_naming(changed).difference(changed)
    return sorted({*changed, *(name for name in following if roles.wanting(name) is not None)})


def _next_versions(roles: Roles, names: Collection[str]) -> dict[str, Metadata[Any]]:
    """Return the next versions of the roles `names`, unsigned; nothing is written."""
    if "targets" in names:
        roles.delegate()
    found = {name: roles.metadata(name) for name in sorted(names)}
    for name, metadata in found.items():
        metadata.signed.version += 1
        metadata.signed.expires = roles.expiry.of(name)
        metadata.signatures.clear()
    if "snapshot" in found:
        name_changed(roles.snapshot.signed.meta, found)
    if "timestamp" in found and (version := snapshot_version(roles.timestamp, found)) is not None:
        roles.timestamp.signed.snapshot_meta = MetaFile(version)
    return found


def check_place(directory: Path | None) -> None:
    """Check that a draft may be written to `directory`; None means no draft.

    Raises:
        UsageError: `directory` exists already.
    """
    if directory is not None and (directory.exists() or directory.is_symlink()):
        raise UsageError(
            f"draft exists: {printable(directory)}", hint="give a directory that is not there yet"
        )


def require_ready(roles: Roles, draft: Path | None, signer: str) -> None:
    """Check that a change can be written as a `draft`, or signed here if `draft` is None.

    `signer` is the role that signs the change, in addition to snapshot and timestamp.

    Raises:
        UsageError: a file or a directory is at the path of the draft.
        StateError: a key is not on this machine, or not usable.
    """
    check_place(draft)
    if draft is None:
        roles.require_signers([signer, *NAMING])


def _signers_here(roles: Roles, name: str, policies: Sequence[Policy]) -> list[Signer]:
    """Return signers for the keys on this machine, except keys that cannot be decrypted."""
    found = []
    for keyid in {keyid: None for policy in policies for keyid in policy.keys}:
        with contextlib.suppress(StateError):
            found += roles.keys.present(name, [keyid])
    return found


def open_signer(draft: Draft, key_file: Path, passphrases: Passphrases) -> tuple[Signer, list[str]]:
    """Open a key for signing a draft; return its signer, and the roles that the key has to sign.

    Raises:
        UsageError: the key has signed the draft already.
        VerificationError: the key may not sign any role of the draft.
        StateError: the key cannot be read or opened.
    """
    signer, _ = load_private(key_file, passphrases)
    keyid = signer.public_key.keyid
    counts = [
        role
        for role in draft.roles
        if any(keyid in policy.keys for policy in policies_of(role, draft.before, draft.roles))
    ]
    if not counts:
        raise VerificationError(
            f"the key counts for no role of the draft: {printable(key_file)}",
            hint=f"roles that have to be signed: {', '.join(sorted(draft.roles))}",
        )
    unsigned = [role for role in counts if keyid not in draft.signed_by(role)]
    if not unsigned:
        raise UsageError("the key has signed the draft already")
    return signer, unsigned


def sign_draft(draft: Draft, signer: Signer, roles: Collection[str]) -> Draft:
    """Sign `roles` of a loaded draft, and return the draft with the new signatures.

    Raises:
        UsageError: a signature cannot be written.
    """
    signatures = {name: dict(known) for name, known in draft.signatures.items()}
    for role in roles:
        signature = _write_signature(draft.directory, role, draft.roles[role], signer)
        signatures[role][signature.keyid] = signature
    return msgspec.structs.replace(draft, signatures=signatures)


def _write_signature(
    directory: Path, role: str, metadata: Metadata[Any], signer: Signer
) -> Signature:
    signature: Signature = signer.sign(metadata.signed_bytes)
    file = SignatureFile(role, signature.keyid, signature.signature)
    # The folder may be missing, because a person who copied the draft left out empty folders.
    folder = directory / "signatures"
    make_folder(folder)
    path = folder / f"{role}-{signature.keyid[:16]}.json"
    write_new(path, msgspec.json.encode(file) + b"\n")
    return signature


class Taken(msgspec.Struct, frozen=True):
    """A verified draft that may be published.

    `changed` has the names of the roles that are not published yet. `signed` has the signed roles
    that are published unchanged from the draft.
    """

    draft: Draft
    changed: set[str]
    signed: dict[str, Metadata[Any]]

    def record(self) -> dict[str, Any]:
        """Return the data of the record `draft-published` in the log."""
        lists = {
            name: {"generation": c.generation, "added": c.added, "withdrawn": c.withdrawn}
            for name, c in self.draft.lists.items()
        }
        found: dict[str, Any] = {"lists": lists}
        if ended := self.draft.ended():
            found["ended"] = ended
        if self.draft.notices is not None:
            found["notices"] = [notice.id for notice in self.draft.notices.added]
        return {**found, "signers": {n: sorted(self.draft.signed_by(n)) for n in self.signed}}

    def published(self) -> Draft:
        """Return the draft with only the roles in `signed`, which are taken from the draft."""
        roles = {name: self.draft.roles[name] for name in self.signed}
        return msgspec.structs.replace(self.draft, roles=roles)


def take_draft(roles: Roles, files: ListFiles, directory: Path, clock: Clock) -> Taken:
    """Verify a draft against the published state, and copy its files to the published files.

    1. The draft passes the checks of `load_draft`.
    2. Snapshot and timestamp are taken from the draft if their keys are not on this machine.
    3. Each role of the draft is the next version of the published role. If an earlier publication
       of the draft was killed after all roles except the root, only the root is published.
    4. Enough of the keys that the published roles name have signed each role of the draft.
    5. No role of the draft has expired.
    6. Each new index of a list has the next generation, or the same generation and the same
       entries, and counts the entries that its segments contain. Clients refuse any other index.

    Raises:
        UsageError: the draft cannot be read.
        VerificationError: the draft is refused, or was made for an earlier published state.
        StateError: too few people have signed, the draft has expired, or a file cannot be written.
    """
    draft = load_draft(directory)  # 1
    now = {name: roles.metadata(name) for name in roles.names()}
    other_keys = draft.with_other_keys()
    left = _left_of(draft, now)
    taken = left - set(NAMING) | _left_to_draft(roles, left, other_keys)  # 2
    for name in sorted(taken):
        _require_next(draft, name, now)  # 3
    for name in sorted(taken):
        _require_signed(draft, name, now)  # 4
        if draft.roles[name].signed.expires <= clock():  # 5
            raise StateError(
                f"role {printable(name)} of the draft has expired", hint="make the draft again"
            )
    for name in set(draft.lists) & set(roles.lists):
        files.remove_unreferenced(roles.lists[name], f"lists/{name}")
    if draft.notices is not None and roles.notices is not None:
        files.remove_unreferenced(roles.notices, NOTICES)
    for target, path in draft.files.items():
        _copy(path, files.directory / target, files.directory.parent)
    for name in draft.lists:
        _verify_index(roles, files, name, draft.roles[name])  # 6
    signed = {name: role for name, role in draft.signed().items() if name in taken}
    return Taken(draft, left, signed)


def _left_to_draft(roles: Roles, draft: Collection[str], kept: Collection[str]) -> set[str]:
    """Return the roles, among snapshot and timestamp, that are published from the draft.

    If the keys of the snapshot or the timestamp are on this machine, this machine signs a new
    version of the role. The new versions of snapshot and timestamp name the published files by
    their hashes. They are signed only when the draft is published, so the draft stays valid if
    another change is published before the draft. The roles `kept` are always taken from the draft,
    because they get other keys.

    Raises:
        StateError: a role is not in the draft, and its keys are not on this machine.
    """
    found = set()
    for name in NAMING:
        if name not in with_naming(draft):
            continue
        if name in kept or (name in draft and not roles.can_sign(name)):
            found.add(name)
        else:
            roles.require_signers([name])
    return found


def _left_of(draft: Draft, now: Mapping[str, Metadata[Any]]) -> set[str]:
    """Return the roles of a draft that are not published yet: all roles, or only the root."""
    published = {
        name
        for name, role in draft.roles.items()
        if name in now and now[name].signed == role.signed
    }
    rest = set(draft.roles) - published
    return rest if published and rest == {"root"} else set(draft.roles)


def _require_next(draft: Draft, name: str, now: Mapping[str, Metadata[Any]]) -> None:
    published, before = now.get(name), draft.before.get(name)
    if published is None and before is None:
        return
    if published is None or before is None or published.signed != before.signed:
        version = 0 if published is None else published.signed.version
        raise VerificationError(
            f"the draft follows another version of role {printable(name)}: version"
            f" {version} is published, the draft has {draft.roles[name].signed.version}",
            hint="something was published since it was made; make the draft again",
        )


def _require_signed(draft: Draft, name: str, now: Mapping[str, Metadata[Any]]) -> None:
    policies = policies_of(name, now, draft.roles)
    signed = draft.signed_by(name)
    if foreign := signed - {key for policy in policies for key in policy.keys}:
        raise VerificationError(
            f"a key that does not count any more has signed the draft: {min(foreign)[:16]}",
            hint="make the draft again",
        )
    for policy in policies:
        if missing := policy.wanting(signed):
            raise StateError(
                f"role {printable(name)} of the draft needs"
                f" {counted(policy.threshold, 'signature')}, {missing} missing",
                hint="`hashclient provider draft show` says whose keys have not signed yet",
            )


def _verify_index(roles: Roles, files: ListFiles, name: str, role: Metadata[Any]) -> None:
    before = files.current(roles, name)
    roles.lists[name] = role
    index = files.current(roles, name)
    live = files.live_hashes(roles, index)
    counted_here = (len(live), f"{checksum_of(live):016x}")
    same = (before.generation, before.entries, before.checksum)
    if counted_here != (index.entries, index.checksum):
        refuse(f"list {printable(name)} does not have the entries that its index counts")
    if index.generation != before.generation + 1 and (index.generation, *counted_here) != same:
        refuse(f"list {printable(name)} does not have the next generation")


def _copy(path: Path, target: Path, public: Path) -> None:
    """Copy a new file of a draft; the file's name contains the verified digest of the file.

    Raises:
        VerificationError: the file has changed since it was verified.
        StateError: the file cannot be read or written.
    """
    with state_errors("cannot read", path):
        data = read_regular(path, MAX_SEGMENT_BYTES)
    if not path.name.startswith(f"{hashlib.sha256(data).hexdigest()}."):
        raise VerificationError(f"a file of the draft has changed: {printable(path)}")
    make_folder_below(public, target.parent)
    write_atomic(target.parent / path.name, data, mode=PUBLIC_MODE)


def check_public(keys: Keys, draft: Path | None, *, is_new: bool) -> None:
    """Check that public keys of people are given only for a new role, and with a draft.

    Raises:
        UsageError: the options contradict each other, or do not fit the state of the role.
    """
    if keys.public and not is_new:
        raise UsageError(
            "the role has its keys already",
            hint="`hashclient provider rotate` gives the role other keys",
        )
    if keys.public and draft is None:
        raise UsageError(
            "people who keep their own keys have to sign a draft",
            hint="give a new directory to --draft",
        )
