"""A draft: a change that is written but not published, until enough people have signed it apart.

A draft is a directory, which may be passed on by any way: its parts are signed, or compared with
signed ones.

    draft.json      its format, who made it and when: for people, not verified
    before/         root, targets and the list as they are published, signed
    roles/          what is to be signed: the roles that change, without signatures
    files/          the new files of the list
    signatures/     one file a signature, which may also be sent back alone

Loading one verifies it, as far as that is possible from the draft alone:

1. The metadata in `before/` is signed correctly: targets by the root's keys, a list by those that
   targets name. People who sign compare the root with the one they know.
2. Each role is the next version of the one before, and has no other fields than that.
3. A list has the files that it had, but for those that are new, and these are here, whole: their
   digests are in the role, and they are read as a client reads them.
4. Targets name the lists that they named, with the same keys, but for those in the draft; and a
   root keeps the keys of all roles but its own.
5. Each signature is of a key that counts for its role, is valid for these very bytes, and is there
   once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.exceptions import VerificationError as BadSignatureError
from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Metadata, Root, Targets

from hashclient.core.model import is_name
from hashclient.errors import StateError, VerificationError
from hashclient.provider.draftlists import ListChange, read_file, refuse, unreadable, verify_list
from hashclient.system.files import MAX_STATE_BYTES, MAX_TEXT_BYTES
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt, printable

FORMAT = "hashclient-draft/1"
MAX_SIGNATURES = 1000


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`draft.json`."""

    format: str
    made: datetime
    by: str | None


class SignatureFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file in `signatures/`: a signature of the role `role`, hexadecimal."""

    role: str
    keyid: str
    sig: str


class Policy(msgspec.Struct, frozen=True):
    """Keys of which `threshold` have to sign."""

    keys: dict[str, Key]
    threshold: int

    def wanting(self, keyids: set[str]) -> int:
        """Return how many signatures are missing when `keyids` have signed."""
        return max(0, self.threshold - len(keyids & set(self.keys)))


class Draft(msgspec.Struct, frozen=True):
    """A draft that was verified; `signatures` are by role and id of the key."""

    directory: Path
    head: Head
    before: dict[str, Metadata[Any]]
    roles: dict[str, Metadata[Any]]
    lists: dict[str, ListChange]
    #: The new files, by target name.
    files: dict[str, Path]
    signatures: dict[str, dict[str, Signature]]
    #: sha256 of the root that is before, as `provider status` shows it.
    root_sha256: str

    def signed_by(self, role: str) -> set[str]:
        """Return the ids of the keys that have signed `role`."""
        return set(self.signatures.get(role, {}))

    def with_other_keys(self) -> list[str]:
        """Return the roles that have other keys than before, new lists among them."""
        found = [
            name
            for name in self.lists_named()
            if _keys_of(self.before, name) != _keys_of(self.roles, name)
        ]
        if "root" in self.roles:
            one, other = policies_of("root", self.before, self.roles)
            found += ["root"] if one != other else []
        return found

    def lists_named(self) -> list[str]:
        """Return the lists that targets name, if targets change."""
        return sorted(_delegations(self.roles["targets"])) if "targets" in self.roles else []

    def signed(self) -> dict[str, Metadata[Any]]:
        """Return the roles with their signatures, as they are published."""
        return {
            name: Metadata(metadata.signed, dict(sorted(self.signatures[name].items())))
            for name, metadata in self.roles.items()
        }


def load_draft(directory: Path) -> Draft:
    """Read and verify a draft; the numbers are those above.

    Raises:
        UsageError: there is none, or it cannot be read.
        VerificationError: a check fails.
        StateError: it is of a newer version.
    """
    head = _load_head(directory)
    before = {name: _load_role(path) for name, path in _files_of(directory / "before")}
    roles = {name: _load_role(path) for name, path in _files_of(directory / "roles")}
    if not roles or "root" not in before or "targets" not in before:
        refuse("something is missing in it")
    root_bytes = read_file(directory / "before" / "root.json", MAX_STATE_BYTES)
    _verify_before(before)  # 1
    for name, role in roles.items():
        if not isinstance(role.signed, Root if name == "root" else Targets):
            refuse(f"role {printable(name)} is of another kind")
        if role.signatures:
            refuse(f"role {printable(name)} has signatures of its own")
        others = before[name].signed.unrecognized_fields if name in before else {}
        if role.signed.unrecognized_fields != others:
            refuse(f"role {printable(name)} says something that is not known here")
        version = before[name].signed.version if name in before else 0
        if role.signed.version != version + 1:  # 2
            refuse(f"role {printable(name)} is not the version after the one before")
    _verify_delegations(before, roles)  # 4
    lists: dict[str, ListChange] = {}
    files: dict[str, Path] = {}
    for name in sorted(set(roles) - {"root", "targets"}):
        change = verify_list(directory, name, before.get(name), roles[name], files)  # 3
        if change is not None:
            lists[name] = change
    policies = {name: policies_of(name, before, roles) for name in roles}
    signatures = _load_signatures(directory, roles, policies)  # 5
    digest = hashlib.sha256(root_bytes).hexdigest()
    return Draft(directory, head, before, roles, lists, files, signatures, digest)


def verify_root(draft: Draft, known: bytes) -> None:
    """Check that a draft follows the root that somebody knows, or one that its keys have signed.

    Raises:
        VerificationError: the draft is of another repository.
    """
    if hashlib.sha256(known).hexdigest() == draft.root_sha256:
        return
    root = draft.before["root"]
    try:
        trusted = Metadata.from_bytes(known)
        if not isinstance(trusted.signed, Root):
            raise ValueError
    except (RepositoryError, ValueError, RecursionError) as error:
        raise VerificationError("the root that is given is none") from error
    policy = _policy_of(trusted.signed, trusted.signed.roles["root"])
    if root.signed.version <= trusted.signed.version or policy.wanting(_signers(root, policy)):
        raise VerificationError(
            "the draft follows another root than the one that is given",
            hint="it is of another repository, or all keys of the root were replaced since: get"
            " the newest root.json by a way that you trust",
        )


def policies_of(
    role: str, before: Mapping[str, Metadata[Any]], roles: Mapping[str, Metadata[Any]]
) -> list[Policy]:
    """Return whose keys have to sign `role` of a draft; a root has two such groups.

    `before` has the published roles, `roles` those of the draft.
    """
    if role == "root":
        return [
            _policy_of(root.signed, root.signed.roles["root"])
            for root in (before[role], roles[role])
        ]
    if role == "targets":
        root = before["root"].signed
        return [_policy_of(root, root.roles[role])]
    targets = roles["targets"] if "targets" in roles else before["targets"]
    return [_policy_of(targets.signed.delegations, _delegations(targets)[role])]


def _policy_of(delegator: Any, role: Any) -> Policy:
    keys = {keyid: delegator.keys[keyid] for keyid in role.keyids if keyid in delegator.keys}
    return Policy(keys, role.threshold)


def _load_head(directory: Path) -> Head:
    data = read_file(directory / "draft.json", MAX_TEXT_BYTES)
    try:
        document = parse_json(data)
        version = document.get("format") if isinstance(document, dict) else None
        if isinstance(version, str) and version != FORMAT:
            raise StateError(
                f"format of the draft: {excerpt(version)}, this one reads {FORMAT}",
                hint="a newer hashclient has written it; use that",
            )
        return msgspec.convert(document, Head)
    except ValueError as error:
        raise VerificationError("the draft is not valid: draft.json") from error


def _files_of(folder: Path) -> list[tuple[str, Path]]:
    """Return the roles in a folder, and their files."""
    found = []
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error
    for path in paths:
        name = path.name.removesuffix(".json")
        if path.suffix != ".json" or not is_name(name) or name in ("snapshot", "timestamp"):
            refuse(f"a file that does not belong there: {printable(path)}")
        found.append((name, path))
    return found


def _load_role(path: Path) -> Metadata[Any]:
    data = read_file(path, MAX_STATE_BYTES)
    try:
        metadata = Metadata.from_bytes(data)
        _ = metadata.signed_bytes  # a value that cannot be signed, such as a fraction
        return metadata
    except (RepositoryError, ValueError, RecursionError) as error:
        raise VerificationError(f"the draft is not valid: {printable(path)}") from error


def _verify_before(before: Mapping[str, Metadata[Any]]) -> None:
    root, targets = before["root"], before["targets"]
    if not isinstance(root.signed, Root) or not isinstance(targets.signed, Targets):
        refuse("what is before is of another kind")
    for name, role in before.items():
        if name in ("root", "targets"):
            policy = _policy_of(root.signed, root.signed.roles[name])
        elif name in _delegations(targets) and isinstance(role.signed, Targets):
            policy = _policy_of(targets.signed.delegations, _delegations(targets)[name])
        else:
            refuse(f"what is before names no list {printable(name)}")
        if policy.wanting(_signers(role, policy)):
            refuse(f"what is before is not signed as it has to be: role {printable(name)}")


def _signers(role: Metadata[Any], policy: Policy) -> set[str]:
    """Return the ids of the keys of a policy that have signed a role."""
    return {
        keyid
        for keyid, key in policy.keys.items()
        if keyid in role.signatures and _is_valid(key, role.signatures[keyid], role)
    }


def _verify_delegations(
    before: Mapping[str, Metadata[Any]], roles: Mapping[str, Metadata[Any]]
) -> None:
    old = _delegations(before["targets"])
    if "targets" in roles:
        new = _delegations(roles["targets"])
        if roles["targets"].signed.targets:
            refuse("targets name files of their own")
        for name in sorted(set(old) | set(new)):
            known = old.get(name) == new.get(name) and _keys_of(before, name) == _keys_of(
                roles, name
            )
            if not known and (name not in new or name not in roles):
                refuse(f"targets change list {printable(name)}, which is not in the draft")
            own = [f"lists/{name}/*"]
            if not known and (new[name].paths != own or not new[name].terminating):
                refuse(f"targets give list {printable(name)} files that are not its own")
        old = new
    for name in sorted(set(roles) - {"root", "targets"}):
        if name not in old:
            refuse(f"targets name no list {printable(name)}")
        if name not in before and name in _delegations(before["targets"]):
            refuse(f"what is before of list {printable(name)} is missing")
    if "root" in roles:
        kept = [before["root"].signed, roles["root"].signed]
        for name in ("targets", "snapshot", "timestamp"):
            one, other = (_policy_of(root, root.roles[name]) for root in kept)
            if one != other:
                refuse(f"the root has other keys for role {name}")


def _keys_of(roles: Mapping[str, Metadata[Any]], name: str) -> Policy | None:
    targets = roles["targets"]
    role = _delegations(targets).get(name)
    return None if role is None else _policy_of(targets.signed.delegations, role)


def _delegations(targets: Metadata[Any]) -> dict[str, DelegatedRole]:
    delegations = targets.signed.delegations
    if delegations is None or delegations.roles is None:
        refuse("targets name no lists")
    roles: dict[str, DelegatedRole] = delegations.roles
    return roles


def _load_signatures(
    directory: Path, roles: Mapping[str, Metadata[Any]], policies: Mapping[str, list[Policy]]
) -> dict[str, dict[str, Signature]]:
    found: dict[str, dict[str, Signature]] = {name: {} for name in roles}
    folder = directory / "signatures"
    try:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise unreadable(folder, error) from error
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
        if not _is_valid(keys[file.keyid], signature, roles[file.role]):
            raise VerificationError(
                f"the signature is not of this draft: {printable(path)}",
                hint="the draft was changed after it was signed, or the signature is of another;"
                " make the draft again",
            )
        found[file.role][file.keyid] = signature
    return found


def _is_valid(key: Key, signature: Signature, role: Metadata[Any]) -> bool:
    try:
        key.verify_signature(signature, role.signed_bytes)
    except (UnverifiedSignatureError, BadSignatureError, ValueError):
        return False
    return True
