"""Rules beyond TUF at their edges: delegations, hashes, lengths, epochs, messages on age."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from hashclient.core.errors import (
    AuthorisationError,
    DeliveryError,
    HashclientError,
    StaleError,
    StateError,
    UnreachableError,
    VerificationError,
)
from hashclient.trust.additions import ENDED, NOTICES, delegate, new_delegator
from hashclient.trust.metadatadir import MAX_METADATA_BYTES
from hashclient.trust.tuf import Trust, TufFetcher

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
URL = "https://lists.example.org"
SIGNER = CryptoSigner.generate_ed25519()


class Source:
    """Returns bodies by address; `asked` has the requested addresses with their limits."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes | Exception] = {}
        self.asked: list[tuple[str, int, int | None]] = []

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        self.asked.append((url, max_bytes, expected_bytes))
        body = self.bodies[url.removeprefix(f"{URL}/")]
        if isinstance(body, Exception):
            raise body
        return body


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def trust(tmp_path: Path, source: Source) -> Any:
    """Return the trust with four roles as after a refresh; tests change the roles."""
    root = Root(expires=NOW + timedelta(days=4))
    root.add_key(SIGNER.public_key, "root")
    signed = Metadata(root)
    signed.sign(SIGNER)
    made: Any = Trust(
        *(tmp_path / "trust", f"{URL}/", source, signed.to_bytes()), name="main", now=NOW
    )
    made._verified = {
        "root": root,
        "timestamp": Timestamp(expires=NOW + timedelta(days=1)),
        "snapshot": Snapshot(expires=NOW + timedelta(days=2)),
        "targets": Targets(expires=NOW + timedelta(days=3)),
    }
    return made


def test_a_pinned_root_has_one_meaning(tmp_path: Path, source: Source) -> None:
    root = Root(expires=NOW + timedelta(days=4))
    root.add_key(SIGNER.public_key, "root")
    signed = Metadata(root)
    signed.sign(SIGNER)
    data = signed.to_bytes().replace(b'"signatures"', b'"signatures": [], "signatures"', 1)
    with pytest.raises(VerificationError, match="provider main: metadata is malformed"):
        Trust(tmp_path / "trust", URL, source, data, name="main", now=NOW)


def failed(error: HashclientError, status: int | None) -> HashclientError:
    if status is not None:
        error.status = status  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("kind", [UnreachableError, AuthorisationError])
@pytest.mark.parametrize("status", [403, 404, 401, 405, 500, None])
def test_only_a_file_that_is_not_there_ends_the_search_for_a_root(
    source: Source, kind: type[HashclientError], status: int | None
) -> None:
    error = source.bodies["2.root.json"] = failed(kind("no"), status)
    fetcher = TufFetcher(source)
    is_missing = status in (403, 404)
    with pytest.raises(DownloadHTTPError if is_missing else kind) as caught:
        fetcher.download_bytes(f"{URL}/2.root.json", 9)
    assert fetcher.last_name == "2.root.json"
    if is_missing:
        assert caught.value.__cause__ is error
        assert getattr(caught.value, "status_code", None) == status
    else:
        assert caught.value is error


def test_other_errors_are_not_taken_for_a_missing_file(source: Source) -> None:
    error = source.bodies["2.root.json"] = failed(StaleError("no"), 404)
    with pytest.raises(StaleError) as caught:
        TufFetcher(source).download_bytes(f"{URL}/2.root.json", 9)
    assert caught.value is error


def test_metadata_is_asked_for_up_to_a_limit_and_has_to_be_strict_json(source: Source) -> None:
    fetcher = TufFetcher(source)
    source.bodies |= {"a/b.json": b'{"a": 1}', "c.json": b'{"a": 1, "a": 2}', "d.json": b"{"}
    for asked, limit in ((9, 9), (MAX_METADATA_BYTES + 1, MAX_METADATA_BYTES)):
        assert fetcher.download_bytes(f"{URL}/a/b.json", asked) == b'{"a": 1}'
        assert source.asked[-1] == (f"{URL}/a/b.json", limit, None)
    assert (fetcher.last_name, fetcher.last_body) == ("b.json", b'{"a": 1}')
    for name in ("c.json", "d.json"):
        with pytest.raises(RepositoryError, match=f"{name}: malformed JSON: "):
            fetcher.download_bytes(f"{URL}/{name}", 9)
    with fetcher.download_file(f"{URL}/c.json", 20) as stream:
        assert stream.read() == b'{"a": 1, "a": 2}'
    assert source.asked[-1][1] == 20
    assert b"".join(fetcher.fetch(f"{URL}/d.json")) == b"{"
    assert source.asked[-1][1] == 64 * 1024 * 1024


ADVICE = "nothing was changed; tell the provider if it persists"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            DeserializationError("odd"),
            DeliveryError,
            "provider main: last.json is not metadata: odd",
        ),
        (RepositoryError("odd"), DeliveryError, "provider main: odd"),
        (DownloadError("odd"), DeliveryError, "provider main: odd"),
        (TypeError("odd"), DeliveryError, "provider main: metadata is malformed: odd"),
        (RuntimeError("odd"), DeliveryError, "provider main: metadata is malformed: odd"),
    ],
)
def test_an_error_of_the_metadata_has_advice(
    trust: Any, error: Exception, kind: type[HashclientError], said: str
) -> None:
    trust._fetcher.last_name = "last.json"
    with pytest.raises(kind) as refused, trust._translated():
        raise error
    assert (type(refused.value), refused.value.message) == (kind, said)
    assert refused.value.hint == ADVICE
    assert not isinstance(refused.value, StateError)


def test_a_disk_that_fails_is_an_error_of_the_state(trust: Any) -> None:
    with pytest.raises(StateError) as failed, trust._translated():
        raise OSError(28, "No space left on device")
    path = trust._directory.path
    assert failed.value.message == f"cannot keep metadata in: {path}: No space left on device"


def test_the_cause_of_metadata_that_cannot_be_read_is_said(trust: Any) -> None:
    said = r"root\.json is not metadata: the cause"
    with pytest.raises(DeliveryError, match=said), trust._translated():
        raise DeserializationError("odd") from ValueError("the cause")


# Rules for lists


def delegations(*roles: DelegatedRole) -> Delegations:
    return Delegations({}, {role.name: role for role in roles})


def role(name: str = "base", **changes: Any) -> DelegatedRole:
    values: dict[str, Any] = {"terminating": True, "paths": [f"lists/{name}/*"], **changes}
    return DelegatedRole(name, ["0" * 64], 1, **values)


def test_lists_are_delegated_in_any_order(trust: Any) -> None:
    assert trust.lists() == []
    targets = trust._verified["targets"]
    targets.delegations = Delegations({}, {})
    assert trust.lists() == []
    targets.delegations = delegations(role("more"), role("base"))
    assert trust.lists() == ["base", "more"]


@pytest.mark.parametrize(
    "wrong",
    [
        role("Base"),
        role("a/b"),
        role(paths=["lists/more/*"]),
        role(paths=["lists/base/*", "lists/base/*"]),
        role(paths=["lists/*"]),
        role(paths=[]),
        role(paths=None, path_hash_prefixes=["00"]),
        role(terminating=False),
        role(terminating=1),
    ],
    ids=lambda wrong: f"{wrong.name} {wrong.paths} {wrong.terminating}",
)
def test_a_delegation_to_other_files_is_refused(trust: Any, wrong: DelegatedRole) -> None:
    trust._verified["targets"].delegations = delegations(role("good"), wrong)
    with pytest.raises(VerificationError) as refused:
        trust.lists()
    assert refused.value.message == (
        f"provider main: delegation {wrong.name!r} is not for the files of the list of its name"
        " alone"
    )
    assert refused.value.hint == "nothing was changed; tell the provider if it persists"


def test_names_of_lists_and_of_keys_are_texts(trust: Any) -> None:
    named = role()
    named.name = 1  # type: ignore[assignment]
    trust._verified["targets"].delegations = delegations(named)
    trust._verified["root"].roles["snapshot"].keyids = [1]
    for read in (trust.lists, trust.epoch):
        with pytest.raises(VerificationError, match="provider main: metadata is malformed"):
            read()


@pytest.mark.parametrize("more", [0, 1])
def test_a_provider_may_offer_so_many_lists(trust: Any, more: int) -> None:
    count = 256 + more
    trust._verified["targets"].delegations = delegations(*(role(f"l{n}") for n in range(count)))
    if not more:
        assert len(trust.lists()) == count
        return
    with pytest.raises(VerificationError, match="it offers 257 lists, more than 256") as refused:
        trust.lists()
    assert refused.value.hint == ADVICE


def test_the_top_level_role_signs_no_file_and_has_no_hash_bins(trust: Any) -> None:
    targets = trust._verified["targets"]
    bins = SuccinctRoles(["0" * 64], 1, 1, "bin")
    targets.delegations = Delegations({}, None, bins)
    for said in ("hash bins are not supported", "the top-level role signs files"):
        with pytest.raises(VerificationError) as refused:
            trust.lists()
        assert (refused.value.message, refused.value.hint) == (f"provider main: {said}", ADVICE)
        targets.targets = {"a": TargetFile.from_data("a", b"")}


def test_ended_lists_are_named_and_a_malformed_member_is_refused(trust: Any) -> None:
    assert trust.ended() == frozenset()
    said = trust._verified["targets"].unrecognized_fields
    said[ENDED] = ["base"]
    assert trust.ended() == {"base"}
    said[ENDED] = "base"
    with pytest.raises(VerificationError, match="provider main: hashclient-ended is no array"):
        trust.ended()


@pytest.mark.parametrize("first", ["root", "timestamp", "snapshot", "targets", "base"])
def test_a_list_expires_with_the_first_of_its_roles(trust: Any, first: str) -> None:
    trust._verified["base"] = Targets(expires=NOW + timedelta(days=5))
    trust._verified["more"] = Targets(expires=NOW)
    assert trust.expires("base") == NOW + timedelta(days=1)
    trust._verified[first].expires = NOW + timedelta(hours=1)
    assert trust.expires("base") == NOW + timedelta(hours=1)


def test_the_epoch_is_that_of_the_snapshot_keys(trust: Any) -> None:
    snapshot = trust._verified["root"].roles["snapshot"]
    keys = ["b" * 64, "a" * 64]
    snapshot.keyids = keys
    epoch = trust.epoch()
    assert epoch == hashlib.sha256(("a" * 64 + "b" * 64).encode()).hexdigest()[:16]
    snapshot.keyids = keys[::-1]
    assert trust.epoch() == epoch
    trust._verified["root"].roles["timestamp"].keyids = ["c" * 64]
    assert trust.epoch() == epoch
    snapshot.keyids = keys[:1]
    assert trust.epoch() != epoch


# Rules for files


FILE = TargetFile.from_data("lists/base/index.json", b"{}", ["sha256"])


def with_hashes(**hashes: str) -> TargetFile:
    return TargetFile(2, hashes, "lists/base/index.json")


def test_a_file_is_one_that_the_keys_of_its_list_vouch_for(trust: Any) -> None:
    base = trust._verified["base"] = Targets()
    base.targets = {FILE.path: FILE}
    assert trust.target("base", "index.json") is FILE
    with pytest.raises(VerificationError) as refused:
        trust.target("base", "other.json")
    assert refused.value.message == "list base: its keys do not vouch for other.json"
    for names in (("Base", "index.json"), ("base", "../x"), ("base", "")):
        with pytest.raises(VerificationError, match=r"name is not allowed in a list: '.*/"):
            trust.target(*names)
    base.delegations = Delegations({}, {})
    with pytest.raises(VerificationError, match="list base: its role delegates to others"):
        trust.target("base", "index.json")


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (with_hashes(md5="0" * 32), "is signed without a SHA-256 or SHA-512"),
        (with_hashes(sha256="0" * 63), "has a malformed sha256"),
        (with_hashes(sha256="0" * 65), "has a malformed sha256"),
        (with_hashes(sha256="A" * 64), "has a malformed sha256"),
        (with_hashes(sha512="0" * 127), "has a malformed sha512"),
        (with_hashes(sha512="0" * 129), "has a malformed sha512"),
        (with_hashes(sha256="0" * 64, sha512="g" * 128), "has a malformed sha512"),
    ],
)
def test_a_file_is_signed_by_a_hash_that_can_be_in_an_address(
    trust: Any, info: TargetFile, said: str
) -> None:
    trust._verified["base"] = Targets(targets={info.path: info})
    with pytest.raises(VerificationError) as refused:
        trust.target("base", "index.json")
    assert refused.value.message == f"list base: index.json {said}"


def test_hashes_of_a_list_are_those_of_its_files_with_a_strong_one(trust: Any) -> None:
    files = {
        "a": with_hashes(sha256="0" * 64),
        "b": with_hashes(sha512="1" * 128),
        "c": with_hashes(md5="2" * 32),
        "d": with_hashes(sha512="3" * 128, sha256="4" * 64),
    }
    other = {"lists/more/e": files["a"], "index.json": files["a"]}
    mine = {f"lists/base/{n}": i for n, i in files.items()}
    trust._verified["base"] = Targets(targets=mine | other)
    assert trust.hashes("base") == {"a": "0" * 64, "b": f"sha512:{'1' * 128}", "d": "4" * 64}


def test_a_file_is_downloaded_up_to_a_limit_and_only_as_it_was_signed(
    trust: Any, source: Source
) -> None:
    address = f"targets/lists/base/{FILE.hashes['sha256']}.index.json"
    source.bodies[address] = b"{}"
    assert trust.download(FILE, 2) == b"{}"
    assert source.asked == [(f"{URL}/{address}", 2, 2)]
    with pytest.raises(VerificationError) as refused:
        trust.download(FILE, 1)
    assert refused.value.message == ("lists/base/index.json is signed with 2 bytes, more than 1")
    assert len(source.asked) == 1
    for body in (b"[]", b"{", b"{}\n"):
        source.bodies[address] = body
        with pytest.raises(VerificationError, match="provider main: "):
            trust.download(FILE, 2)


# Rules for notices


class Published:
    """A role of notices as a provider has published it."""

    def __init__(self, trust: Any, source: Source, **signed: Any) -> None:
        delegator = new_delegator(1)
        delegator.add_key(SIGNER.public_key, NOTICES)
        delegate(trust._verified["targets"], delegator)
        notice = TargetFile.from_data("notices/a.json", b"{}", ["sha256"])
        values = {
            "version": 3,
            "expires": NOW + timedelta(days=9),
            "targets": {notice.path: notice},
        }
        metadata = Metadata(Targets(**{**values, **signed}))
        metadata.sign(SIGNER)
        self.data = metadata.to_bytes()
        self.meta = trust._verified["snapshot"].meta
        self.meta["notices.json"] = MetaFile(3, len(self.data))
        source.bodies["metadata/3.notices.json"] = self.data


def test_notices_are_fetched_once_for_each_version(trust: Any, source: Source) -> None:
    assert trust.notices() is None
    published = Published(trust, source)
    for _ in range(2):
        found = trust.notices()
        assert (found.version, [*found.targets]) == (3, ["a"])
        # The notices expire as soon as one of their roles expires.
        assert found.expires == NOW + timedelta(days=1)
    assert source.asked == [(f"{URL}/metadata/3.notices.json", len(published.data), None)]
    assert (trust._directory.path / "notices.json").read_bytes() == published.data
    published.meta["notices.json"] = MetaFile(3)
    (trust._directory.path / "notices.json").unlink()
    trust.notices()
    assert source.asked[-1][1] == 1 << 20


def test_notices_are_asked_for_up_to_a_mebibyte(trust: Any, source: Source) -> None:
    published = Published(trust, source)
    published.meta["notices.json"] = MetaFile(3, (1 << 20) + 1)
    with pytest.raises(VerificationError, match=r"notices\.json is not the file"):
        trust.notices()
    assert [most for _, most, _ in source.asked] == [1 << 20]


@pytest.mark.parametrize("stored", ["older", b"", b"{}", b"[]", b'{"signed": {}}'])
def test_stored_notices_that_are_not_the_present_ones_are_fetched_again(
    trust: Any, source: Source, stored: bytes | str
) -> None:
    older = Published(trust, source, version=2).data
    published = Published(trust, source)
    path = trust._directory.path / "notices.json"
    path.write_bytes(older if isinstance(stored, str) else stored)
    assert trust.notices().version == 3
    assert path.read_bytes() == published.data and len(source.asked) == 1


@pytest.mark.parametrize(("later", "is_stale"), [(-1, True), (0, True), (1, False)])
def test_notices_expire_with_their_role(
    trust: Any, source: Source, later: int, is_stale: bool
) -> None:
    expires = NOW + timedelta(seconds=later)
    Published(trust, source, expires=expires)
    if not is_stale:
        assert trust.notices().expires == expires
        return
    with pytest.raises(StaleError) as refused:
        trust.notices()
    said = "provider main: role notices has expired, on 2026-05-01 "
    assert refused.value.message.startswith(said)
    assert (refused.value.hint or "").startswith("the provider has to sign again")


def test_a_role_of_notices_that_the_snapshot_does_not_name_is_refused(
    trust: Any, source: Source
) -> None:
    published = Published(trust, source)
    del published.meta["notices.json"]
    with pytest.raises(VerificationError, match=r"the snapshot does not name notices\.json"):
        trust.notices()


def test_a_notice_is_signed_by_a_strong_hash(trust: Any, source: Source) -> None:
    weak = TargetFile(2, {"md5": "0" * 32}, "notices/a.json")
    Published(trust, source, targets={weak.path: weak})
    with pytest.raises(VerificationError) as refused:
        trust.notices()
    assert refused.value.message == "notice a is signed without a SHA-256 or SHA-512"


# Messages about metadata that has expired


def expired(when: datetime) -> bytes:
    return json.dumps({"signed": {"expires": f"{when:%Y-%m-%dT%H:%M:%SZ}"}}).encode()


@pytest.mark.parametrize(
    ("body", "since"),
    [
        (expired(NOW), " since 2026-05-01 12:00 UTC (0 days)"),
        (expired(NOW - timedelta(days=1)), " since 2026-04-30 12:00 UTC (1 days)"),
        (expired(NOW - timedelta(days=2, seconds=-1)), " since 2026-04-29 12:00 UTC (1 days)"),
        (expired(NOW + timedelta(seconds=1)), ""),
        *((body, "") for body in (b"", b"{}", b"[]", b'{"signed": 1}', b'{"signed": {}}')),
        *((body, "") for body in (b'{"signed": {"expires": "x"}}', b'{"signed": {"expires": 1}}')),
        (None, ""),
    ],
)
@pytest.mark.parametrize("name", ["timestamp.json", "final root.json"])
def test_the_age_of_metadata_is_said_if_it_is_known(
    trust: Any, source: Source, name: str, body: bytes | None, since: str
) -> None:
    root = trust._directory.path / "root.json"
    if body is None:
        root.unlink()
    elif "root" in name:
        root.write_bytes(body)
    else:
        trust._fetcher.last_body = body
    with pytest.raises(StaleError) as refused, trust._translated():
        raise ExpiredMetadataError(f"{name} is expired")
    assert refused.value.message == f"provider main: {name} is expired{since}"
    assert "check this machine's clock" in (refused.value.hint or "")
