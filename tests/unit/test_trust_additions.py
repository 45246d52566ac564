"""Additions to TUF metadata: each field at its edges, and the refused values."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import BadVersionNumberError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    SuccinctRoles,
    TargetFile,
    Targets,
)

from hashclient.trust import additions
from hashclient.trust.additions import (
    ENDED,
    FIELD,
    LONGEST,
    MAX_DAYS,
    MAX_ENDED,
    MAX_NOTICES,
    MAX_ROLE_BYTES,
    NOTICES,
    TOLERANCE,
    SignedNotices,
    delegate,
    delegator_of,
    end,
    ended_lists,
    longest_of,
    new_delegator,
    notice_id_of,
    verify_expiry,
    verify_role,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_the_limits_are_those_of_the_format() -> None:
    assert (MAX_NOTICES, MAX_ENDED, MAX_DAYS) == (1_000, 1_024, 3_660)
    assert (MAX_ROLE_BYTES, timedelta(days=1)) == (1 << 20, TOLERANCE)


@pytest.mark.parametrize(
    ("path", "notice_id"),
    [
        ("notices/a.json", "a"),
        ("notices/a-1.b.json", "a-1.b"),
        ("notices/a", None),
        ("notices/.json", None),
        ("notices/a/b.json", None),
        ("other/a.json", None),
        ("notices/A.json", None),
        (f"notices/{'a' * 64}.json", "a" * 64),
        (f"notices/{'a' * 65}.json", None),
        ("a.json", None),
        ("", None),
    ],
)
def test_the_path_of_a_notice_has_its_id(path: str, notice_id: str | None) -> None:
    assert notice_id_of(path) == notice_id


@pytest.mark.parametrize("threshold", [1, 2])
def test_a_delegation_to_notices_is_read_as_it_was_written(threshold: int) -> None:
    targets = Targets()
    assert delegator_of(targets) is None
    delegate(targets, new_delegator(threshold))
    found = delegator_of(targets)
    assert found is not None and found.delegations is not None
    roles = found.delegations.roles or {}
    assert [*roles] == ["notices"]
    assert (roles["notices"].threshold, roles["notices"].paths) == (threshold, ["notices/*"])


@pytest.mark.parametrize(
    ("version", "named", "valid"),
    [(True, True, False), (True, 1, False), (1, 1, True), (2, 2, True), (1, 2, False)],
)
def test_the_version_of_the_role_is_the_number_that_the_snapshot_names(
    version: int, named: int, valid: bool
) -> None:
    signer = CryptoSigner.generate_ed25519()
    delegator = new_delegator(1)
    delegator.add_key(signer.public_key, NOTICES)
    metadata = Metadata(Targets(version=version, expires=NOW))
    metadata.sign(signer)
    data = metadata.to_bytes()
    if valid:
        assert verify_role(delegator, MetaFile(named), data).version == version
    else:
        with pytest.raises(BadVersionNumberError):
            verify_role(delegator, MetaFile(named), data)


@pytest.mark.parametrize(
    "wrong", ["no role", "two roles", "name", "paths", "goes on", "list", "bins"]
)
def test_a_delegation_to_anything_else_is_refused(wrong: str) -> None:
    targets = Targets()
    delegate(targets, new_delegator(1))
    said: dict[str, Any] = targets.unrecognized_fields[FIELD]
    role = said["roles"][0]
    if wrong == "no role":
        said["roles"] = []
    if wrong == "two roles":
        said["roles"].append({**role, "name": "more"})
    if wrong == "name":
        role["name"] = "more"
    if wrong == "paths":
        role["paths"] = ["notices/*", "more/*"]
    if wrong == "goes on":
        role["terminating"] = False
    if wrong == "list":
        targets.delegations = new_delegator(1).delegations
    if wrong == "bins":
        bins = Delegations({}, None, SuccinctRoles(["0" * 64], 1, 1, "bin")).to_dict()
        targets.unrecognized_fields[FIELD] = bins
    with pytest.raises(RepositoryError):
        delegator_of(targets)


@pytest.mark.parametrize(
    ("names", "valid"),
    [
        *(([], True), (["a"], True), (["b", "a"], True), (["a", "a"], False)),
        *(("a", False), ({"a": 1}, False), ([1], False), (["A"], False), (["a", ""], False)),
        ([f"n{n}" for n in range(1_024)], True),
        ([f"n{n}" for n in range(1_025)], False),
        (["notices"], False),  # a delegated role is already named `notices`
    ],
)
def test_ended_lists_are_names_that_are_not_delegated(names: Any, valid: bool) -> None:
    targets = Targets(delegations=new_delegator(1).delegations)
    assert ended_lists(targets) == frozenset()
    targets.unrecognized_fields[ENDED] = names
    if valid:
        assert ended_lists(targets) == frozenset(names)
        end(targets, names)
        assert targets.unrecognized_fields[ENDED] == sorted(names)
        assert ended_lists(Targets(unrecognized_fields={ENDED: names})) == frozenset(names)
    else:
        with pytest.raises(RepositoryError):
            ended_lists(targets)


def test_beside_lists_and_hash_bins_a_role_of_notices_and_ended_lists_are_read() -> None:
    """`Trust.lists` refuses hash bins; here they only have no names of lists."""
    role = DelegatedRole("base", [], 1, terminating=True, paths=["lists/base/*"])
    for others in (
        Delegations({}, {"base": role}),
        Delegations({}, None, SuccinctRoles(["0" * 64], 1, 1, "bin")),
    ):
        targets = Targets(delegations=others)
        delegate(targets, new_delegator(1))
        end(targets, ["more"])
        assert delegator_of(targets) is not None and ended_lists(targets) == {"more"}


@pytest.mark.parametrize(
    ("days", "valid"),
    [
        *((1, True), (3_660, True), (0, False), (-1, False), (3_661, False)),
        *((True, False), ("7", False), (7.0, False)),
    ],
)
def test_the_longest_validity_is_a_number_of_days(days: Any, valid: bool) -> None:
    root = Root()
    assert longest_of(root) is None
    root.unrecognized_fields[LONGEST] = days
    if valid:
        assert longest_of(root) == timedelta(days=days)
    else:
        with pytest.raises(RepositoryError, match="from 1 to 3,660"):
            longest_of(root)


@pytest.mark.parametrize("late", [None, "snapshot", "timestamp", "targets"])
@pytest.mark.parametrize("limited", [False, True])
def test_no_signature_is_valid_for_longer_than_the_root_allows(
    late: str | None, limited: bool
) -> None:
    """One day more is tolerated because clocks may differ; other roles may be valid for longer."""
    root, last = Root(), NOW + timedelta(days=7) + additions.TOLERANCE
    if limited:
        root.unrecognized_fields[LONGEST] = 7
    roles = {
        name: SimpleNamespace(expires=last + timedelta(seconds=name == late))
        for name in ("snapshot", "timestamp", "targets")
    }
    if limited and late in ("snapshot", "timestamp"):
        with pytest.raises(RepositoryError, match=late):
            verify_expiry(root, cast(Any, roles), NOW)
    else:
        verify_expiry(root, cast(Any, roles), NOW)


# The role of notices

FILE, MORE = (TargetFile.from_data(f"notices/{name}.json", b"{}") for name in "ab")


class Role:
    """A role of notices with its delegation; `keys` of them sign, and two have to sign."""

    def __init__(self, keys: int = 2, **signed: Any) -> None:
        signers = [CryptoSigner.generate_ed25519() for _ in range(3)]
        self.delegator = new_delegator(2)
        for signer in signers:
            self.delegator.add_key(signer.public_key, NOTICES)
        targets = {"notices/a.json": FILE, "notices/b.json": MORE}
        values = {"version": 3, "expires": NOW, "targets": targets}
        self.metadata = Metadata(Targets(**{**values, **signed}))
        for signer in signers[:keys]:
            self.metadata.sign(signer, append=True)
        self.data = self.metadata.to_bytes()

    def meta(self, **changes: Any) -> MetaFile:
        hashes = {"sha256": hashlib.sha256(self.data).hexdigest()}
        return MetaFile(**{"version": 3, "length": len(self.data), "hashes": hashes, **changes})

    def verify(self, **changes: Any) -> SignedNotices:
        return verify_role(self.delegator, self.meta(**changes), self.data)


@pytest.mark.parametrize(
    "meta", [{}, {"length": None}, {"hashes": None}, {"length": None, "hashes": None}]
)
@pytest.mark.parametrize("keys", [2, 3])
def test_the_role_of_notices_has_the_content_that_was_signed(
    keys: int, meta: dict[str, Any]
) -> None:
    found = Role(keys).verify(**meta)
    assert (found.version, found.expires) == (3, NOW)
    assert found.targets == {"a": FILE, "b": MORE}
    assert Role(targets={}).verify().targets == {}


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"length": 1}, "notices.json is not the file that the snapshot names"),
        ({"hashes": {"sha256": "0" * 64}}, "notices.json is not the file that the snapshot names"),
        ({"version": 2}, "expected notices version 2, got version 3"),
        ({"version": 4}, "expected notices version 4, got version 3"),
    ],
)
def test_the_role_of_notices_is_the_one_that_the_snapshot_names(
    meta: dict[str, Any], said: str
) -> None:
    with pytest.raises(RepositoryError) as refused:
        Role().verify(**meta)
    assert str(refused.value) == said


@pytest.mark.parametrize("keys", [0, 1])
def test_enough_keys_have_to_sign_the_role_of_notices(keys: int) -> None:
    with pytest.raises(UnsignedMetadataError):
        Role(keys).verify()
    other = Role(3)
    with pytest.raises(UnsignedMetadataError):
        verify_role(Role().delegator, other.meta(), other.data)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("lists/base/index.json", "role notices signs 'lists/base/index.json', no notice"),
        ("notices/A.json", "role notices signs 'notices/A.json', no notice"),
        ("notices/" + "x" * 200, f"role notices signs 'notices/{'x' * 92}', no notice"),
    ],
)
def test_the_role_of_notices_signs_notices_alone(path: str, said: str) -> None:
    with pytest.raises(RepositoryError) as refused:
        Role(targets={"notices/a.json": FILE, path: FILE}).verify()
    assert str(refused.value) == said


def test_the_role_of_notices_delegates_to_nobody() -> None:
    with pytest.raises(RepositoryError, match="role notices delegates to others"):
        Role(delegations=new_delegator(1).delegations).verify()


def test_other_metadata_is_no_role_of_notices() -> None:
    role = Role()
    role.data = Metadata(Root(expires=NOW)).to_bytes()
    with pytest.raises(RepositoryError, match=r"notices\.json is no targets metadata"):
        role.verify()


def test_there_may_be_a_thousand_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "MAX_NOTICES", 2)
    assert len(Role().verify().targets) == 2
    with pytest.raises(RepositoryError, match="role notices has 3 notices, more than 2"):
        Role(targets={f"notices/{name}.json": FILE for name in "abc"}).verify()
