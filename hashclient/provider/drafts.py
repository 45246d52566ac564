"""Loads and verifies drafts: changes that are published after enough people have signed them.

A draft is a directory. The draft may be sent over an insecure way, because each file in it, except
`draft.json`, is signed or is compared with a signed file.

    draft.json      the format, who made the draft and when; for people, not verified
    before/         root, targets and the roles that change, as published and signed
    roles/          the new versions of the roles that change, without signatures
    files/          the new files of a list, or a new notice
    signatures/     one file a signature; a person may send back this file only

`load_draft` makes these checks, which need only the files of the draft:

1. The metadata in `before/`, except the root, is signed correctly. The keys that targets name have
   signed lists and notices, and the keys that the root names have signed targets, snapshot and
   timestamp. A person who signs the draft compares the root with a root that the person knows.
2. Each role in `roles/` is the next version of the role in `before/`. The fields that TUF does not
   define are equal in both versions of the role.
3. A list keeps its published files, unless new files replace them. All new files are in the draft,
   their digests are in the role, and the code with which clients read the files accepts the files.
   The rules for lists also apply to notices.
4. Targets keep the delegations to lists and notices, and the keys of lists and notices, except for
   ended lists and for roles in the draft. A root keeps the keys of all roles, except for roles in
   the draft. Each key has the id that is computed from the key, because people recognise keys by
   their ids.
5. A snapshot names the same roles as the published snapshot, and names the roles of the draft by
   their new versions. A timestamp names the next snapshot.
6. Each signature is valid for the bytes of a role in the draft. The key that made the signature is
   one of the keys of this role, and has signed the role only once.

A person who may write to the directory can exchange files at any time. So each file is read once,
and `Draft.digest` identifies all bytes that were read and will be signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, Metadata, Root

from hashclient.core.errors import StateError, VerificationError
from hashclient.core.model import MAX_LISTS, is_name
from hashclient.provider.draftfiles import (
    ListChange,
    NoticeChange,
    read_file,
    refuse,
    unreadable,
    verify_list,
    verify_notices,
)
from hashclient.provider.draftroles import (
    Policy,
    delegated,
    ended_by,
    has_other_flags,
    is_of_its_kind,
    is_valid,
    lists_of,
    newest,
    policies_of,
    policy_of,
    signers_of,
    unknown_fields,
    verify_before,
    verify_delegations,
    verify_keys,
    verify_naming,
    with_other_root_keys,
)
from hashclient.provider.listfiles import Shown
from hashclient.system.files import MAX_TEXT_BYTES, translated
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt, printable
from hashclient.trust.metadatadir import MAX_METADATA_BYTES

FORMAT = "hashclient-draft/1"
MAX_SIGNATURES = 1000


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of `draft.json`: the format, the time, and the person who made the draft."""

    format: str
    made: datetime
    by: str | None


class SignatureFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file in `signatures/`: the signature `sig` of the role `role`, in hexadecimal."""

    role: str
    keyid: str
    sig: str


class Draft(msgspec.Struct, frozen=True):
    """A verified draft; `signatures` maps each role to its signatures by the id of the key."""

    directory: Path
    head: Head
    before: dict[str, Metadata[Any]]
    roles: dict[str, Metadata[Any]]
    lists: dict[str, ListChange]
    notices: NoticeChange | None
    #: The paths of the new files in the draft, by target name.
    files: dict[str, Path]
    signatures: dict[str, dict[str, Signature]]
    #: The SHA-256 of the root in `before/`, in the form that `hashclient provider status` shows.
    root_sha256: str

    @property
    def digest(self) -> str:
        """The SHA-256 that identifies the roles of the draft and their earlier versions.

        The digest is computed over lines in the format of `sha256sum`, sorted by name. Each file in
        `before/` and `roles/` has one line, with the SHA-256 of the signed bytes of the file. The
        digest covers the new files, because the roles contain their digests. The digest does not
        cover signatures, so all people who sign see the same digest.
        """
        lines = [
            f"{hashlib.sha256(role.signed_bytes).hexdigest()}  {folder}/{name}.json\n"
            for folder, roles in (("before", self.before), ("roles", self.roles))
            for name, role in sorted(roles.items())
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def signed_by(self, role: str) -> set[str]:
        """Return the ids of the keys that have signed `role`."""
        return set(self.signatures.get(role, {}))

    def with_other_keys(self) -> list[str]:
        """Return the roles to which the draft gives other keys, including new lists."""
        found = []
        if "targets" in self.roles:
            old, new = delegated(self.before["targets"]), delegated(self.roles["targets"])
            found = [name for name in sorted(new) if old.get(name) != new[name]]
        if "root" in self.roles:
            found += with_other_root_keys(self.before["root"], self.roles["root"])
        return found

    def ended(self) -> list[str]:
        """Return the lists that the draft ends."""
        if "targets" not in self.roles:
            return []
        return sorted(ended_by(self.roles["targets"]) - ended_by(self.before["targets"]))

    def signed(self) -> dict[str, Metadata[Any]]:
        """Return the roles with their signatures, in the form in which they are published."""
        return {
            name: Metadata(metadata.signed, dict(sorted(self.signatures[name].items())))
            for name, metadata in self.roles.items()
        }


def load_draft(directory: Path, to: Callable[[str], Sequence[Shown]] = lambda _name: ()) -> Draft:
    """Read and verify a draft; comments have the numbers of the checks in the module's docstring.

    `to` is called with the name of each list, and returns the objects that receive the contents of
    the list's new files.

    Raises:
        UsageError: the directory is not a draft, or cannot be read.
        VerificationError: a check fails.
        StateError: the draft was written by a newer version of hashclient.
    """
    head = _load_head(directory)
    before, before_bytes = _load_roles(directory / "before")
    roles, _ = _load_roles(directory / "roles")
    if not roles or "root" not in before or "targets" not in before:
        refuse("something is missing in it")
    verify_before(before)  # 1
    for name, role in roles.items():
        if not is_of_its_kind(name, role):
            refuse(f"role {printable(name)} is of another kind")
        if role.signatures:
            refuse(f"role {printable(name)} has signatures of its own")
        others = unknown_fields(name, before[name]) if name in before else {}
        if unknown_fields(name, role) != others:
            refuse(f"role {printable(name)} has unknown fields")
        version = before[name].signed.version if name in before else 0
        if role.signed.version != version + 1:  # 2
            refuse(f"role {printable(name)} is not the version after the one before")
    root = roles.get("root")
    if root is not None and not root.signed.consistent_snapshot:
        refuse("its root is without consistent_snapshot: no client accepts that")
    verify_keys(before, roles)  # 4
    verify_delegations(before, roles)  # 4
    verify_naming(before, roles)  # 5
    lists: dict[str, ListChange] = {}
    notices: NoticeChange | None = None
    files: dict[str, Path] = {}
    targets = newest("targets", before, roles)
    for name in sorted(set(roles) - TOP_LEVEL_ROLE_NAMES):  # 3
        if name not in lists_of(targets):
            notices = verify_notices(directory, before.get(name), roles[name], files)
        elif change := verify_list(directory, name, before.get(name), roles[name], files, to(name)):
            lists[name] = change
    policies = {name: policies_of(name, before, roles) for name in roles}
    signatures = _load_signatures(directory, roles, policies)  # 6
    digest = hashlib.sha256(before_bytes["root"]).hexdigest()
    return Draft(directory, head, before, roles, lists, notices, files, signatures, digest)


def verify_digest(draft: Draft, shown: str) -> None:
    """Check that a draft has the digest `shown`, which was shown to the person who signs.

    Raises:
        VerificationError: the draft has another digest.
    """
    if shown.lower() != draft.digest:
        raise VerificationError(
            f"this is not the draft that was shown: its digest is {draft.digest}",
            hint="look at the draft with `hashclient provider draft show`: somebody has exchanged "
            "it",
        )


def verify_root(draft: Draft, known: bytes) -> None:
    """Check that the root in `before/` is the root `known`, or a later root that follows it.

    Raises:
        VerificationError: the draft belongs to another repository.
    """
    if hashlib.sha256(known).hexdigest() == draft.root_sha256:
        return
    root = draft.before["root"]
    try:
        trusted = Metadata.from_bytes(known)
        if not isinstance(trusted.signed, Root):
            raise ValueError
    except (RepositoryError, ValueError, RecursionError) as error:
        raise VerificationError("the given file is not a root") from error
    policy = policy_of(trusted.signed, trusted.signed.roles["root"])
    if root.signed.version <= trusted.signed.version or policy.wanting(signers_of(root, policy)):
        raise VerificationError(
            "the draft follows another root than the one that is given",
            hint="the draft is for another repository, or all keys of the root were replaced "
            "since: get the newest root.json by a way that you trust",
        )


def _load_head(directory: Path) -> Head:
    data = read_file(directory / "draft.json", MAX_TEXT_BYTES)
    try:
        document = parse_json(data)
        version = document.get("format") if isinstance(document, dict) else None
        if isinstance(version, str) and version != FORMAT:
            raise StateError(
                f"format of the draft: {excerpt(version)}, this one reads {FORMAT}",
                hint="a newer hashclient has written the file; use that version",
            )
        return msgspec.convert(document, Head)
    except ValueError as error:
        raise VerificationError("the draft is not valid: draft.json") from error


def _load_roles(folder: Path) -> tuple[dict[str, Metadata[Any]], dict[str, bytes]]:
    """Return the roles in a folder by name, and the bytes of their files."""
    found, data = {}, {}
    with translated(folder, unreadable):
        paths = sorted(folder.iterdir())
    if len(paths) > MAX_LISTS + len(TOP_LEVEL_ROLE_NAMES) + 1:  # 1: the role of notices
        refuse(f"more than {MAX_LISTS} lists")
    for path in paths:
        name = path.name.removesuffix(".json")
        if path.suffix != ".json" or not is_name(name):
            refuse(f"a file that does not belong there: {printable(path)}")
        data[name] = read_file(path, MAX_METADATA_BYTES)
        try:
            found[name] = Metadata.from_bytes(data[name])
            _ = found[name].signed_bytes  # fails for a value that cannot be signed, such as 0.5
            if has_other_flags(found[name].signed.to_dict()):
                raise ValueError("a number is true or false")
        except (RepositoryError, ValueError, RecursionError) as error:
            raise VerificationError(f"the draft is not valid: {printable(path)}") from error
    return found, data


def _load_signatures(
    directory: Path, roles: Mapping[str, Metadata[Any]], policies: Mapping[str, list[Policy]]
) -> dict[str, dict[str, Signature]]:
    found: dict[str, dict[str, Signature]] = {name: {} for name in roles}
    folder = directory / "signatures"
    with translated(folder, unreadable):
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(paths) > MAX_SIGNATURES:
        refuse(f"more than {MAX_SIGNATURES:,} signatures")
    for path in paths:
        try:
            file = msgspec.convert(parse_json(read_file(path, MAX_TEXT_BYTES)), SignatureFile)
        except ValueError as error:
            raise VerificationError(f"not a signature: {printable(path)}") from error
        if file.role not in roles:
            refuse(f"a signature of a role that is not in it: {printable(path)}")
        keys = {k: v for policy in policies[file.role] for k, v in policy.keys.items()}
        if file.keyid not in keys:
            refuse(f"a signature of a key that does not count: {printable(path)}")
        if file.keyid in found[file.role]:
            refuse(f"a key has signed twice: {printable(path)}")
        signature = Signature(file.keyid, file.sig)
        if not is_valid(keys[file.keyid], signature, roles[file.role]):
            raise VerificationError(
                f"the signature is not of this draft: {printable(path)}",
                hint="the draft was changed after it was signed, or the signature is of another;"
                " make the draft again",
            )
        found[file.role][file.keyid] = signature
    return found
